//! Gives each partition its messages: which reader serves which partitions, and when another one is opened.
//!
//! The main reader, without a filter, serves every partition that keeps up with it. A partition that is behind (just taken,
//! or with room again after it was parked) is served by a catch-up reader from where it stands, while the main reader goes
//! on for the others; once the catch-up reader has come as far as the main one, its partitions join that and it is dropped.
//! At the head of the stream, a worker whose partitions have but a small share of it goes over to readers with filters.
//! Readers are disposable: what ends is opened again at the lowest mark it served. What a partition has already is dropped
//! by the partition, so overlap is harmless.
//!
//! Here is the loop; `opening` holds how readers come to be, `serving` what becomes of what they bring, `filtering` when they
//! have filters, and `history` whether the stream still is what the positions mean: made anew, set back, or with messages gone
//! that were still to be read, it is not, and that is told.

mod filtering;
mod history;
mod opening;
mod serving;
#[cfg(test)]
mod tests;

use super::budget::Budget;
use super::chunk::{Gathered, Held};
use super::origin::{Look, NoReader, Opened, Origin};
use super::reading::{Delivery, Reading};
use super::shared::TaskEvent;
use crate::nats::{StreamError, StreamInfo};
use crate::plugin::Publish;
use crate::telemetry::Metrics;
use filtering::{Narrowing, Share};
use opening::Opening;
use parti_coordination::record::{Seen, StreamIdentity};
use parti_coordination::{Input, Position, Sequence};
use serving::count_member;
use std::collections::{HashMap, HashSet};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// What a partition's task is told.
pub(super) type PartitionInput = Input<Held, Publish>;

/// How often partitions are told how far their reader has come.
const PROGRESS: Duration = Duration::from_secs(1);

/// What the feed is told.
#[derive(Debug)]
pub(super) enum Wish {
    /// The partition with this subject wants everything after `mark`, through `inbox`.
    Want {
        subject: String,
        mark: Sequence,
        /// A message that was read before, by this partition's owners.
        seen: Option<Seen>,
        /// The stream that the mark is of.
        stream: StreamIdentity,
        inbox: mpsc::UnboundedSender<PartitionInput>,
    },
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
    /// What it presumes of the stream.
    claim: Claim,
    /// When it last asked.
    asked: Option<Instant>,
    /// It had to ask more than once.
    again: bool,
    /// Bytes that it holds while it is parked.
    parked: usize,
}

/// What a partition that asks for messages presumes of the stream.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// Number of the want. A look at the stream says nothing about those that came after it.
    number: u64,
    /// Everything before this was there.
    from: Sequence,
    /// A message that was there.
    seen: Option<Seen>,
    /// It is of another stream than the feed's: one of the two is not of today.
    foreign: bool,
}

/// A reader and what it has come to.
struct Group {
    number: u64,
    reading: Reading,
    /// Where it began.
    begun: Sequence,
    /// It brings only what has one of these subjects.
    filter: Option<Arc<HashSet<Arc<str>>>>,
    /// Everything before this is delivered, as far as it passes the filter.
    next: Sequence,
    /// The last message that it has delivered.
    seen: Option<Seen>,
    pending: u64,
    members: usize,
    /// It serves partitions that were just taken, not such that could not keep up.
    fresh: bool,
    /// What has come since the last tick.
    since: Since,
    /// Ticks without any word of it. One that is well says something every two seconds.
    silent: u32,
    /// It was at the stream's head in the time up to the last tick.
    at_head: bool,
}

/// What has come of a reader since a moment.
#[derive(Debug, Clone, Copy)]
struct Since {
    /// Where it stood.
    next: Sequence,
    /// Messages for partitions that it serves.
    ours: u64,
    /// The fewest messages that were left to deliver.
    least_pending: u64,
}

/// A look at the stream that is under way.
struct Looking {
    /// Number of the last want that it is about.
    until: u64,
    /// The stream that was known when it began.
    created: String,
    task: JoinHandle<Result<Look, StreamError>>,
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
    /// Number of the last want.
    wants: u64,
    opening: Option<Opening>,
    open_at: Option<Instant>,
    failures: u32,
    /// The first sequence not yet known to be lost.
    expired: Sequence,
    /// A hole in what was delivered, until a look at the stream tells whether it was lost.
    hole: Option<(Sequence, Sequence)>,
    looking: Option<Looking>,
    /// Number of the last want whose claim a look has borne out.
    proved: u64,
    /// Since when the stream seems to be set back, and when it last did.
    rewound: Option<(Instant, Instant)>,
    /// Where it was set back to, and the time after which messages are of the new history.
    turned: Option<(Sequence, u64)>,
    /// How much of the stream is for this worker.
    share: Share,
    /// The main reader serves partitions that a filter names.
    main_is_named: bool,
    /// Readers with filters that are being opened.
    narrowing: Option<Narrowing>,
    /// Readers get new filters no sooner than this.
    filter_at: Instant,
    /// A message of the stream that vouches for readers with filters that have passed it.
    vouches: Option<Seen>,
    /// The next such message is asked for.
    witness: Option<JoinHandle<Result<StreamInfo, StreamError>>>,
    /// Which reader is asked first, so that none starves.
    turn: usize,
}

enum Step {
    Wish(Option<Wish>),
    Opened(Box<Result<Opened, NoReader>>),
    Narrowed(Box<Result<Opened, NoReader>>),
    Witness(Box<Result<StreamInfo, StreamError>>),
    Looked(Result<Look, StreamError>),
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
        wants: 0,
        opening: None,
        open_at: None,
        failures: 0,
        expired: Sequence(0),
        hole: None,
        looking: None,
        proved: 0,
        rewound: None,
        turned: None,
        share: Share::default(),
        main_is_named: false,
        narrowing: None,
        filter_at: Instant::now(),
        vouches: None,
        witness: None,
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
            opened = ended(feed.opening.as_mut().map(|opening| &mut opening.task)) => Step::Opened(Box::new(opened)),
            narrowed = ended(feed.narrowing.as_mut().map(Narrowing::task)) => Step::Narrowed(Box::new(narrowed)),
            witness = ended(feed.witness.as_mut()) => Step::Witness(Box::new(witness)),
            looked = ended(feed.looking.as_mut().map(|looking| &mut looking.task)) => Step::Looked(looked),
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
            Step::Opened(opened) => feed.opened(*opened),
            Step::Narrowed(opened) => feed.narrowed(*opened),
            Step::Witness(stream) => feed.witnessed(*stream),
            Step::Looked(look) => feed.looked(look),
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
            Wish::Want { subject, mark, seen, stream, inbox } => {
                self.wants += 1;
                let foreign = stream != self.identity;
                self.want(subject.into(), Claim { number: self.wants, from: mark.next(), seen, foreign }, inbox);
            }
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

    fn main(&self) -> Option<&Group> {
        self.groups.iter().find(|group| Some(group.number) == self.main)
    }

    fn tick(&mut self) {
        self.progress();
        self.look_if_needed();
        self.filter();
    }
}
