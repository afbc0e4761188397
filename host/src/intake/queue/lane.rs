//! One consumer and the partitions that it serves.
//!
//! Whatever changes (a partition comes, leaves or asks again, the reader ends), the consumer is made anew: `build` does that.
//! Changes that come together are served by one new consumer.

use super::acks::Acks;
use super::slot::{Slot, Verdict};
use super::{ACK_WAIT, Queue, build};
use crate::intake::feed::Wish;
use crate::nats::{QueueMessage, QueueReader, ReaderEnd, Retention};
use parti_coordination::record::StreamIdentity;
use parti_coordination::{Input, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// Changes that come within this time are one.
pub(super) const COLLECT: Duration = Duration::from_millis(20);

/// A consumer lives at least this long before somebody who only comes replaces it. Who leaves is not kept waiting.
const MIN_LIFE: Duration = Duration::from_millis(250);

/// First and longest wait before the next try after a consumer could not be made.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Of the ack wait, the part after which the server is told that a message is still in hand; and how often is looked.
const HALF: u32 = 2;
const LOOKS: u32 = 8;

/// A consumer that this lane has made, or may have made.
pub(super) struct Made {
    pub(super) name: String,
    pub(super) subjects: BTreeSet<String>,
}

/// A lane at work.
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    pub(super) number: u64,
    /// The stream that the positions belong to.
    pub(super) identity: StreamIdentity,
    pub(super) slots: BTreeMap<String, Slot>,
    /// The consumer that is read, by number.
    pub(super) reader: Option<(u64, QueueReader)>,
    /// Consumers of this lane that may be there.
    pub(super) made: Vec<Made>,
    /// Who has left and waits to hear that no consumer of ours has it any more.
    pub(super) leaving: Vec<Wish>,
    /// Consumers in the way, seen in a listing before the partitions were asked whose they are.
    pub(super) condemned: BTreeSet<String>,
    pub(super) acks: Acks,
    pub(super) build_at: Option<Instant>,
    /// Since when a stream on several servers seems set back.
    pub(super) rewound_since: Option<Instant>,
    /// A consumer of somebody else that is in the way was reported.
    pub(super) complained: bool,
    born: Instant,
    /// How long it took to make the consumer.
    took: Duration,
    failures: u32,
    pending: u64,
}

enum Step {
    Wish(Option<Wish>),
    Build,
    Tick,
    Read(Result<(), ReaderEnd>),
}

impl Lane {
    pub(super) fn new(queue: Arc<Queue>, number: u64, identity: StreamIdentity) -> Self {
        Self {
            acks: Acks::start(&queue.origin.nats, Arc::clone(&queue.metrics)),
            queue,
            number,
            identity,
            slots: BTreeMap::new(),
            reader: None,
            made: Vec::new(),
            leaving: Vec::new(),
            condemned: BTreeSet::new(),
            build_at: None,
            rewound_since: None,
            complained: false,
            born: Instant::now(),
            took: Duration::ZERO,
            failures: 0,
            pending: 0,
        }
    }

    /// Runs until every sender of wishes is gone.
    pub(super) async fn run(mut self, mut wishes: mpsc::UnboundedReceiver<Wish>) {
        let mut tick = interval(ACK_WAIT / LOOKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut chunk = Vec::new();
        loop {
            let (build_at, budget, reader) = (self.build_at, Arc::clone(&self.queue.budget), &mut self.reader);
            let step = tokio::select! {
                biased;
                wish = wishes.recv() => Step::Wish(wish),
                () = async {
                    match build_at {
                        Some(at) => sleep_until(at).await,
                        None => pending().await,
                    }
                } => Step::Build,
                _ = tick.tick() => Step::Tick,
                read = async {
                    match reader {
                        Some((_, reader)) => {
                            budget.room().await;
                            reader.read(&mut chunk).await
                        }
                        None => pending().await,
                    }
                } => Step::Read(read),
            };
            match step {
                Step::Wish(None) => return,
                Step::Wish(Some(wish)) => self.wish(wish),
                Step::Build => {
                    self.build_at = None;
                    let began = Instant::now();
                    match build::build(&mut self).await {
                        Ok(()) => self.failures = 0,
                        Err(error) => {
                            tracing::warn!(%error, "The stream's consumer cannot be made; trying again");
                            self.try_again();
                        }
                    }
                    self.born = Instant::now();
                    self.took = began.elapsed();
                }
                Step::Tick => {
                    for slot in self.slots.values_mut().filter(|slot| slot.reader.is_some()) {
                        for reply in slot.overdue(ACK_WAIT / HALF) {
                            self.acks.extend(reply);
                        }
                    }
                }
                Step::Read(end) => {
                    self.distribute(&mut chunk);
                    if let Err(end) = end {
                        self.ended(&end);
                    }
                }
            }
        }
    }

    /// A new consumer is made then, or earlier.
    pub(super) fn build_by(&mut self, at: Instant) {
        self.build_at = Some(self.build_at.map_or(at, |other| other.min(at)));
    }

    fn build_soon(&mut self) {
        // Those that leave one after the other must not have a consumer made for each.
        self.build_by(Instant::now() + COLLECT.max(self.took));
    }

    fn build_in_time(&mut self) {
        let earliest = self.born + MIN_LIFE.max(self.took.saturating_mul(4));
        self.build_by(earliest.max(Instant::now() + COLLECT));
    }

    fn try_again(&mut self) {
        let wait = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.build_by(Instant::now() + wait);
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Committed { subject, position } => {
                for reply in self.slots.entry(subject).or_default().committed(position) {
                    self.acks.acknowledge(reply);
                }
            }
            Wish::Want { subject, inbox, .. } => self.want(subject, inbox),
            Wish::Parked { subject, reader, bytes } => {
                let Some(slot) = self.slots.get_mut(&subject) else { return };
                // By now another consumer may serve it.
                if slot.reader == Some(reader) {
                    slot.reader = None;
                    slot.wanted = false;
                    slot.parked += bytes;
                    self.queue.budget.set_aside(bytes);
                    self.build_in_time();
                }
            }
            Wish::Detach { ref subject, ref inbox } => {
                self.forget(subject);
                if self.is_made_for(subject) {
                    self.leaving.push(wish);
                    self.build_soon();
                } else {
                    let _ = inbox.send(Input::Detached);
                }
            }
            Wish::Leave { subject } => {
                self.forget(&subject);
                if self.is_made_for(&subject) {
                    self.build_in_time();
                }
            }
        }
    }

    fn want(&mut self, subject: String, inbox: mpsc::UnboundedSender<crate::intake::feed::PartitionInput>) {
        let slot = self.slots.entry(subject).or_default();
        slot.inbox = Some(inbox);
        slot.reader = None;
        slot.wanted = true;
        self.queue.budget.take_back(std::mem::take(&mut slot.parked));
        if std::mem::take(&mut slot.doubted) {
            slot.verified = true;
            if !self.slots.values().any(|slot| slot.doubted) {
                return self.build_soon();
            }
        }
        self.build_in_time();
    }

    fn forget(&mut self, subject: &str) {
        if let Some(slot) = self.slots.remove(subject) {
            self.queue.budget.take_back(slot.parked);
        }
    }

    /// Whether a consumer of ours may deliver this subject.
    fn is_made_for(&self, subject: &str) -> bool {
        self.made.iter().any(|made| made.subjects.contains(subject))
    }

    /// Sorts messages by partition.
    fn distribute(&mut self, chunk: &mut Vec<QueueMessage>) {
        let Some((number, reader)) = &self.reader else { return chunk.clear() };
        let (number, pending) = (*number, reader.pending());
        let mut touched = BTreeSet::new();
        let mut astray = false;
        for delivery in chunk.drain(..) {
            let Some(slot) = self.slots.get_mut(delivery.message.subject.as_str()) else { continue };
            if slot.reader != Some(number) {
                continue;
            }
            match slot.judge(&delivery) {
                Verdict::Done => {
                    self.queue.metrics.acks_unhandled.inc();
                    self.acks.acknowledge(delivery.reply);
                }
                Verdict::New => {
                    slot.gathered.push(&delivery.message);
                    touched.insert(delivery.message.subject.to_string());
                }
                Verdict::Known => {}
                Verdict::Astray => astray = true,
            }
        }
        for subject in touched {
            if let Some(slot) = self.slots.get_mut(&subject) {
                let messages = slot.gathered.take(&subject.into(), &self.queue.budget);
                slot.tell(Input::Messages { reader: number, messages });
            }
        }
        self.behind(pending);
        if astray {
            self.ended(&ReaderEnd::Refused("a message was delivered to somebody else before".to_owned()));
        }
    }

    /// Tells how far behind the stream this lane is.
    fn behind(&mut self, pending: u64) {
        let before = std::mem::replace(&mut self.pending, pending);
        self.queue.state.pending.fetch_add(pending.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Nothing is read until there is another consumer.
    pub(super) fn stop_reading(&mut self) {
        self.reader = None;
        self.behind(0);
        for slot in self.slots.values_mut() {
            slot.reader = None;
        }
    }

    fn ended(&mut self, end: &ReaderEnd) {
        tracing::info!(reason = %end, "The reader ended; making another consumer");
        self.stop_reading();
        if *end == ReaderEnd::Deleted && self.queue.keeper.retention == Retention::WorkQueue {
            // By whoever owns these partitions now, it may be.
            let all: Vec<String> = self.slots.keys().cloned().collect();
            self.doubt(&all);
        }
        self.build_by(Instant::now() + COLLECT);
    }

    /// Has partitions look whether they are still ours. Those that are ask again.
    pub(super) fn doubt(&mut self, subjects: &[String]) {
        for subject in subjects {
            if let Some(slot) = self.slots.get_mut(subject).filter(|slot| slot.wanted) {
                slot.wanted = false;
                slot.doubted = true;
                slot.verified = false;
                slot.reader = None;
                slot.tell(Input::Doubted);
            }
        }
    }

    /// The subjects that the next consumer is to deliver.
    pub(super) fn wanted(&self) -> Vec<String> {
        self.slots.iter().filter(|(_, slot)| slot.wanted).map(|(subject, _)| subject.clone()).collect()
    }

    /// The furthest committed position.
    pub(super) fn furthest(&self) -> Position {
        self.slots.values().map(Slot::position).max().unwrap_or_default()
    }

    /// Those that wait to have left have left.
    pub(super) fn have_left(&mut self) {
        for wish in self.leaving.drain(..) {
            if let Wish::Detach { inbox, .. } = wish {
                let _ = inbox.send(Input::Detached);
            }
        }
    }
}
