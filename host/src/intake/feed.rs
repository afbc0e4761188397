//! Gives each partition its messages: which reader serves which partitions, and when another one is opened.
//!
//! The main reader, without a filter, serves every partition that keeps up with it. A partition that is behind (just taken,
//! or with room again after it was parked) is served by a catch-up reader from where it stands, while the main reader goes
//! on for the others; once the catch-up reader has come as far as the main one, its partitions join that and it is dropped.
//! Readers are disposable: what ends is opened again at the lowest mark it served. What a partition has already is dropped
//! by the partition, so overlap is harmless.
//!
//! Whenever a reader is opened, the stream is looked at: made anew, set back, or with messages gone that were still to be
//! read, it is not what the positions mean, and that is told.

use super::budget::Budget;
use super::chunk::{Gathered, Held};
use super::manager::TaskEvent;
use super::reading::{BELIEVE_REWIND, Delivery, NoReader, Opened, Origin, Reading};
use crate::nats::{StreamError, StreamInfo, StreamMessage};
use crate::plugin::Publish;
use crate::telemetry::Metrics;
use parti_coordination::record::StreamIdentity;
use parti_coordination::{Input, Position, Sequence};
use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// What a partition's task is told.
pub(super) type PartitionInput = Input<Held, Publish>;

/// Wishes that come together are served by one new reader.
const COLLECT: Duration = Duration::from_millis(20);

/// A partition that could not keep up is not read for again sooner than this after the last time: it would cost a reader for
/// every few messages.
const AGAIN: Duration = Duration::from_millis(100);

/// Catch-up readers at once at most; further wishes wait for one to end.
const MAX_CATCH_UP: usize = 4;

/// A main reader that is further behind the stream than this waits for partitions that were just taken: the distance between
/// them would otherwise stay, and every message be read twice.
const AT_HEAD: u64 = 1000;

/// How often partitions are told how far their reader has come.
const PROGRESS: Duration = Duration::from_secs(1);

/// First and longest wait before the next try after a reader could not be opened.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the feed is told.
#[derive(Debug)]
pub(super) enum Wish {
    /// The partition with this subject wants everything after `mark`, through `inbox`.
    Want { subject: String, mark: Sequence, inbox: mpsc::UnboundedSender<PartitionInput> },
    /// It accepts no more from this reader: it holds as many bytes as it may.
    Parked { subject: String, reader: u64, bytes: usize },
    /// It wants no more.
    Leave { subject: String },
    /// Queue mode: its position is committed; what is at or below it is to be acknowledged.
    Committed { subject: String, position: Position },
    /// Queue mode: it wants no more and is about to be released, once it is told that no consumer of ours delivers it.
    Detach { subject: String, inbox: mpsc::UnboundedSender<PartitionInput> },
}

/// What the feed tells about itself.
#[derive(Debug, Default)]
pub(super) struct FeedState {
    /// Messages of the stream that the reader furthest behind has not delivered yet.
    pub(super) pending: AtomicU64,
}

/// A partition, as the feed sees it.
struct Slot {
    inbox: mpsc::UnboundedSender<PartitionInput>,
    /// Collected for it while a delivery is sorted.
    gathered: Gathered,
    /// Number of the reader that serves it.
    reader: Option<u64>,
    /// It waits for a reader that starts here or before, and not before this moment.
    wants: Option<(Sequence, Instant)>,
    /// When it last asked.
    asked: Option<Instant>,
    /// It had to ask more than once.
    again: bool,
    /// Bytes that it holds while it is parked.
    parked: usize,
}

/// A reader and what it has come to.
struct Group {
    number: u64,
    reading: Reading,
    /// Everything before this is delivered.
    next: Sequence,
    pending: u64,
    members: usize,
    /// It serves partitions that were just taken, not such that could not keep up.
    fresh: bool,
}

struct Feed {
    origin: Origin,
    /// The stream that the positions belong to.
    identity: StreamIdentity,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Arc<FeedState>,
    events: mpsc::UnboundedSender<TaskEvent>,
    slots: HashMap<Arc<str>, Slot>,
    groups: Vec<Group>,
    main: Option<u64>,
    /// Number of the last reader.
    number: u64,
    opening: Option<(Sequence, JoinHandle<Result<Opened, NoReader>>)>,
    open_at: Option<Instant>,
    failures: u32,
    /// Since when the stream seems to be set back.
    rewound_since: Option<Instant>,
    /// The first sequence not yet known to be lost.
    expired: Sequence,
    /// A hole in what was delivered, and the look at the stream that tells whether it was lost.
    hole: Option<(Sequence, Sequence)>,
    looking: Option<JoinHandle<Result<StreamInfo, StreamError>>>,
    /// Which reader is asked first, so that none starves.
    turn: usize,
}

enum Step {
    Wish(Option<Wish>),
    Opened(Result<Opened, NoReader>),
    Looked(Option<StreamInfo>),
    Delivery(u64, Option<Delivery>),
    Open,
    Tick,
}

/// Runs until every sender of wishes is gone.
pub(super) async fn run(
    origin: Origin,
    identity: StreamIdentity,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Arc<FeedState>,
    events: mpsc::UnboundedSender<TaskEvent>,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let mut feed = Feed {
        origin,
        identity,
        budget,
        metrics,
        state,
        events,
        slots: HashMap::new(),
        groups: Vec::new(),
        main: None,
        number: 0,
        opening: None,
        open_at: None,
        failures: 0,
        rewound_since: None,
        expired: Sequence(0),
        hole: None,
        looking: None,
        turn: 0,
    };
    let mut tick = interval(PROGRESS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let held = feed.held();
        let open_at = feed.open_at.filter(|_| feed.may_open());
        feed.turn = feed.turn.wrapping_add(1);
        let step = tokio::select! {
            biased;
            wish = wishes.recv() => Step::Wish(wish),
            opened = ended(feed.opening.as_mut().map(|(_, task)| task)) => Step::Opened(opened),
            looked = ended(feed.looking.as_mut()) => Step::Looked(looked.ok()),
            () = until(open_at) => Step::Open,
            _ = tick.tick() => Step::Tick,
            (number, delivery) = delivery(&mut feed.groups, held, feed.turn) => Step::Delivery(number, delivery),
        };
        match step {
            Step::Wish(None) => return,
            Step::Wish(Some(wish)) => {
                feed.wish(wish);
                while let Ok(wish) = wishes.try_recv() {
                    feed.wish(wish);
                }
                feed.drop_idle();
            }
            Step::Opened(opened) => feed.opened(opened),
            Step::Looked(info) => feed.looked(info),
            Step::Open => feed.open(),
            Step::Tick => feed.tick(),
            Step::Delivery(number, delivery) => feed.delivered(number, delivery),
        }
    }
}

/// What a task has come to; never, if there is none. A task that was lost to a panic leaves nothing to go on with.
async fn ended<T>(task: Option<&mut JoinHandle<T>>) -> T {
    match task {
        Some(task) => match task.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn delivery(groups: &mut [Group], held: Option<u64>, turn: usize) -> (u64, Option<Delivery>) {
    poll_fn(|cx| {
        let (before, after) = groups.split_at_mut(turn % groups.len().max(1));
        for group in after.iter_mut().chain(before).filter(|group| Some(group.number) != held) {
            if let Poll::Ready(delivery) = group.reading.poll_delivery(cx) {
                return Poll::Ready((group.number, delivery));
            }
        }
        Poll::Pending
    })
    .await
}

impl Feed {
    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Want { subject, mark, inbox } => self.want(subject.into(), mark.next(), inbox),
            Wish::Parked { subject, reader, bytes } => {
                let Some(slot) = self.slots.get_mut(subject.as_str()) else { return };
                self.budget.take_back(std::mem::replace(&mut slot.parked, bytes));
                self.budget.set_aside(bytes);
                // By now another reader may serve it.
                if slot.reader == Some(reader) {
                    slot.reader = None;
                    count_member(&mut self.groups, Some(reader), -1);
                }
            }
            Wish::Leave { subject } => {
                if let Some(slot) = self.slots.remove(subject.as_str()) {
                    self.budget.take_back(slot.parked);
                    count_member(&mut self.groups, slot.reader, -1);
                }
            }
            // Nothing is acknowledged, and readers may overlap.
            Wish::Committed { .. } => {}
            Wish::Detach { inbox, .. } => {
                let _ = inbox.send(Input::Detached);
            }
        }
    }

    fn want(&mut self, subject: Arc<str>, from: Sequence, inbox: mpsc::UnboundedSender<PartitionInput>) {
        let now = Instant::now();
        let slot = self.slots.entry(subject).or_insert_with(|| Slot {
            inbox: inbox.clone(),
            gathered: Gathered::default(),
            reader: None,
            wants: None,
            asked: None,
            again: false,
            parked: 0,
        });
        slot.inbox = inbox;
        slot.again = slot.asked.is_some();
        self.budget.take_back(std::mem::take(&mut slot.parked));
        count_member(&mut self.groups, slot.reader.take(), -1);
        // The main reader if it has not passed that yet, else the one that has come furthest of those.
        let serves = |group: &&Group| group.next <= from;
        let main = self.groups.iter().filter(|group| Some(group.number) == self.main).find(serves);
        let group = main.or_else(|| self.groups.iter().filter(serves).max_by_key(|group| group.next));
        if let Some((number, next)) = group.map(|group| (group.number, group.next)) {
            serve(slot, &mut self.groups, number, next);
        } else {
            let at = slot.asked.map_or(now, |asked| (asked + AGAIN).max(now)) + COLLECT;
            slot.wants = Some((from, at));
            self.open_at = Some(self.open_at.map_or(at, |other| other.min(at)));
        }
        slot.asked = Some(now);
    }

    fn may_open(&self) -> bool {
        let catching_up = self.groups.iter().filter(|group| Some(group.number) != self.main).count();
        self.opening.is_none() && (self.main.is_none() || catching_up < MAX_CATCH_UP)
    }

    /// Readers without partitions are dropped.
    fn drop_idle(&mut self) {
        self.groups.retain(|group| group.members > 0);
        self.choose_main();
    }

    /// If the main reader is gone, the one that has come furthest takes its place.
    fn choose_main(&mut self) {
        if !self.groups.iter().any(|group| Some(group.number) == self.main) {
            self.main = self.groups.iter().max_by_key(|group| group.next).map(|group| group.number);
        }
    }

    /// Begins to open a reader for the wishes whose time has come.
    fn open(&mut self) {
        let now = Instant::now();
        let due = self.slots.values().filter_map(|slot| slot.wants).filter(|(_, at)| *at <= now);
        let Some(from) = due.map(|(from, _)| from).min() else {
            self.rewound_since = None;
            return self.plan_opening();
        };
        self.open_at = None;
        let origin = self.origin.clone();
        self.opening = Some((from, tokio::spawn(async move { origin.open(from).await })));
    }

    /// When the next reader is to be opened.
    fn plan_opening(&mut self) {
        self.open_at = self.slots.values().filter_map(|slot| slot.wants).map(|(_, at)| at).min();
    }

    fn opened(&mut self, opened: Result<Opened, NoReader>) {
        let Some((from, _)) = self.opening.take() else { return };
        let Opened { reader, stream } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "The stream cannot be read; trying again");
                return self.try_again();
            }
        };
        self.failures = 0;
        if stream.created != self.identity.created {
            return self.made_anew(&stream);
        }
        // Only what was wanted before the look says something: what came since may be of messages that came since.
        if stream.last.next() < from {
            return self.set_back(&stream);
        }
        self.rewound_since = None;
        // Who begins at the first message of all has missed nothing.
        let wanted = self.slots.values().filter_map(|slot| slot.wants).map(|(from, _)| from);
        if let Some(from) = wanted.filter(|from| from.0 > 1).min() {
            self.lost(from, stream.first);
        }
        let number = self.number + 1;
        self.number = number;
        if number > 1 {
            self.metrics.reader_restarts.inc();
        }
        let pending = reader.pending();
        let reading = Reading::start(reader, Arc::clone(&self.budget));
        self.groups.push(Group { number, reading, next: from, pending, members: 0, fresh: false });
        let main = self.groups.iter().find(|group| Some(group.number) == self.main);
        if main.is_none_or(|main| main.next <= from) {
            self.main = Some(number);
        }
        let mut fresh = false;
        for slot in self.slots.values_mut().filter(|slot| slot.wants.is_some_and(|(wanted, _)| wanted >= from)) {
            fresh |= !slot.again;
            serve(slot, &mut self.groups, number, from);
        }
        if let Some(group) = self.groups.last_mut() {
            group.fresh = fresh;
        }
        // Those who wished have left meanwhile.
        self.drop_idle();
        self.plan_opening();
    }

    fn try_again(&mut self) {
        let wait = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.open_at = Some(Instant::now() + wait);
    }

    /// The stream was deleted and made again: nothing that was asked for exists any more.
    fn made_anew(&mut self, stream: &StreamInfo) {
        tracing::error!(
            stream = stream.name,
            was = self.identity.created,
            is = stream.created,
            readUpTo = self.furthest().0.saturating_sub(1),
            "The stream was deleted and made again; every partition begins at its start. What the stream before still held is lost"
        );
        self.metrics.streams_replaced.inc();
        self.identity.created.clone_from(&stream.created);
        self.expired = Sequence(0);
        let _ = self.events.send(TaskEvent::Stream(self.identity.clone()));
        self.forget_readers(&Input::Stream(self.identity.clone()));
    }

    /// The stream ends before what was already read of it.
    fn set_back(&mut self, stream: &StreamInfo) {
        let since = *self.rewound_since.get_or_insert_with(Instant::now);
        if stream.replicas > 1 && since.elapsed() < BELIEVE_REWIND {
            return self.try_again();
        }
        tracing::error!(
            stream = stream.name,
            last = %stream.last,
            "The stream was set back; partitions that had come further go on from where it ends now"
        );
        self.metrics.streams_replaced.inc();
        self.rewound_since = None;
        // Whom a reader serves is told once that has ended: what it delivers meanwhile is of the new history.
        for slot in self.slots.values_mut().filter(|slot| slot.wants.is_some_and(|(from, _)| stream.last.next() < from))
        {
            slot.wants = None;
            let _ = slot.inbox.send(Input::Rewound(stream.last));
            let _ = slot.inbox.send(Input::NoReader);
        }
        self.plan_opening();
    }

    /// Tells every partition what has happened. Whoever still wants to be served asks again, from where it then stands.
    fn forget_readers(&mut self, news: &PartitionInput) {
        self.groups.clear();
        self.main = None;
        self.open_at = None;
        for slot in self.slots.values_mut() {
            slot.reader = None;
            slot.wants = None;
            slot.asked = None;
            let _ = slot.inbox.send(news.clone());
            let _ = slot.inbox.send(Input::NoReader);
        }
    }

    fn furthest(&self) -> Sequence {
        self.groups.iter().map(|group| group.next).max().unwrap_or_default()
    }

    /// Notes messages that were to be read and that the stream no longer holds.
    fn lost(&mut self, from: Sequence, first: Sequence) {
        let from = from.max(self.expired);
        if first <= from {
            return;
        }
        let most = first.0 - from.0;
        self.expired = first;
        self.metrics.messages_expired.inc_by(most);
        tracing::error!(
            from = from.0,
            to = first.0 - 1,
            atMost = most,
            "Messages were removed from the stream before they were read. Let the stream keep more, or add workers"
        );
    }

    fn looked(&mut self, info: Option<StreamInfo>) {
        self.looking = None;
        let (Some(info), Some((from, to))) = (info, self.hole.take()) else { return };
        if info.created == self.identity.created {
            self.lost(from, info.first.min(to));
        }
    }

    fn delivered(&mut self, number: u64, delivery: Option<Delivery>) {
        let Some(at) = self.groups.iter().position(|group| group.number == number) else { return };
        let Some(Delivery { messages, pending, end }) = delivery else { return self.ended(number) };
        self.distribute(at, messages);
        if let Some(group) = self.groups.get_mut(at) {
            group.pending = pending;
        }
        self.state.pending.store(self.groups.iter().map(|group| group.pending).max().unwrap_or(0), Ordering::Relaxed);
        if let Some(end) = end {
            tracing::info!(reason = %end, "The reader ended; starting another");
            return self.ended(number);
        }
        self.join_main();
    }

    /// What a reader served is served by another one, from where it ended.
    fn ended(&mut self, number: u64) {
        let Some(at) = self.groups.iter().position(|group| group.number == number) else { return };
        self.progress();
        let group = self.groups.remove(at);
        self.choose_main();
        let now = Instant::now();
        for slot in self.slots.values_mut().filter(|slot| slot.reader == Some(number)) {
            slot.reader = None;
            slot.wants = Some((group.next, now));
        }
        self.open_at = Some(now);
    }

    /// The main reader waits while it is far behind the stream anyway and others are about to come to where it is.
    fn held(&self) -> Option<u64> {
        let main = self.groups.iter().find(|group| Some(group.number) == self.main)?;
        let near = |group: &Group| group.next < main.next && main.next.0 - group.next.0 <= main.pending;
        let waits = main.pending > AT_HEAD && self.groups.iter().any(|group| group.fresh && near(group));
        waits.then_some(main.number)
    }

    /// Catch-up readers that have come as far as the main one hand their partitions to it.
    fn join_main(&mut self) {
        let Some((main, next)) =
            self.groups.iter().find(|group| Some(group.number) == self.main).map(|group| (group.number, group.next))
        else {
            return;
        };
        let arrived: Vec<(u64, Sequence)> = self
            .groups
            .iter()
            .filter(|group| group.number != main && group.next >= next)
            .map(|group| (group.number, group.next))
            .collect();
        if arrived.is_empty() {
            return;
        }
        for (number, passed) in arrived {
            for slot in self.slots.values_mut().filter(|slot| slot.reader == Some(number)) {
                tell_progress(slot, number, passed);
                count_member(&mut self.groups, slot.reader.take(), -1);
                serve(slot, &mut self.groups, main, next);
            }
        }
        self.drop_idle();
    }

    /// Sorts messages by partition. What belongs to nobody that this reader serves is dropped.
    fn distribute(&mut self, at: usize, messages: Vec<StreamMessage>) {
        let Some(group) = self.groups.get_mut(at) else { return };
        let number = group.number;
        let mut touched = Vec::new();
        for message in messages {
            let sequence = message.sequence;
            if sequence > group.next && sequence > self.expired {
                let (from, to) = self.hole.unwrap_or((group.next, sequence));
                self.hole = Some((from.min(group.next), to.max(sequence)));
            }
            group.next = sequence.next();
            let Some(slot) = self.slots.get_mut(message.subject.as_str()) else { continue };
            if slot.reader != Some(number) {
                continue;
            }
            if slot.gathered.is_empty() {
                touched.push(message.subject.clone());
            }
            slot.gathered.push(&message);
        }
        for subject in touched {
            if let Some((subject, _)) = self.slots.get_key_value(subject.as_str()) {
                let subject = Arc::clone(subject);
                if let Some(slot) = self.slots.get_mut(&subject) {
                    let messages = slot.gathered.take(&subject, &self.budget);
                    let _ = slot.inbox.send(Input::Messages { reader: number, messages });
                }
            }
        }
    }

    fn tick(&mut self) {
        self.progress();
        if self.hole.is_some() && self.looking.is_none() {
            let origin = self.origin.clone();
            self.looking = Some(tokio::spawn(async move { origin.look().await }));
        }
    }

    /// Tells every partition how far its reader has come, so that an idle one does not drag the next reader back.
    fn progress(&self) {
        for group in &self.groups {
            for slot in self.slots.values().filter(|slot| slot.reader == Some(group.number)) {
                tell_progress(slot, group.number, group.next);
            }
        }
    }
}

fn tell_progress(slot: &Slot, reader: u64, next: Sequence) {
    let _ = slot.inbox.send(Input::Passed { reader, sequence: Sequence(next.0.saturating_sub(1)) });
}

/// Has a partition served by this reader from now on.
fn serve(slot: &mut Slot, groups: &mut [Group], number: u64, from: Sequence) {
    slot.wants = None;
    slot.reader = Some(number);
    count_member(groups, Some(number), 1);
    let _ = slot.inbox.send(Input::Reader { reader: number, from });
}

fn count_member(groups: &mut [Group], reader: Option<u64>, change: isize) {
    if let Some(group) = groups.iter_mut().find(|group| Some(group.number) == reader) {
        group.members = group.members.saturating_add_signed(change);
    }
}
