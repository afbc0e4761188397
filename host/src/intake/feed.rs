//! Reads the stream and gives each partition its messages.
//!
//! One reader without a filter serves every partition of the worker. A reader is disposable: when it ends, or when a
//! partition wants messages that it has passed, a new one starts at the lowest mark that is wanted. What a partition
//! has already is dropped by the partition, so overlap is harmless.

use super::budget::{Budget, Held};
use crate::nats::{Nats, Reader, ReaderOptions, Start, StreamMessage};
use crate::plugin::{Message, Publish};
use crate::telemetry::Metrics;
use parti_coordination::{Input, QueuedMessage, Sequence};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// What a partition's task is told.
pub(super) type PartitionInput = Input<Arc<Held>, Publish>;

/// Bytes that a message costs beyond its payload: the subject, the bookkeeping, the allocations.
const OVERHEAD: usize = 256;

/// Wishes that come together are served by one new reader.
const COLLECT: Duration = Duration::from_millis(20);

/// A reader lives at least this long before partitions that want older messages replace it.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// How often partitions are told how far the reader has come.
const PROGRESS: Duration = Duration::from_secs(1);

/// First and longest wait before the next reader after one could not be opened.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the feed is told.
#[derive(Debug)]
pub(super) enum Wish {
    /// The partition with this subject wants everything after `mark`, through `inbox`.
    Want { subject: String, mark: Sequence, inbox: mpsc::UnboundedSender<PartitionInput> },
    /// It wants no more.
    Leave { subject: String },
}

/// What the feed tells about itself.
#[derive(Debug, Default)]
pub(super) struct FeedState {
    /// Messages of the stream that the reader has not delivered yet.
    pub(super) pending: AtomicU64,
}

struct Slot {
    inbox: mpsc::UnboundedSender<PartitionInput>,
    /// Collected for it while a chunk is sorted.
    chunk: Vec<QueuedMessage<Arc<Held>>>,
}

struct Feed {
    nats: Nats,
    stream: String,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Arc<FeedState>,
    slots: Vec<Slot>,
    by_subject: HashMap<String, usize>,
    /// Number of the current reader; 0 before the first.
    number: u64,
    /// Whether that reader delivers.
    alive: bool,
    /// The next sequence that the current reader has not passed.
    next: Sequence,
    /// The furthest that any reader has come.
    furthest: Sequence,
    /// The lowest sequence that somebody wants and the current reader has passed.
    wanted: Option<Sequence>,
    restart_at: Option<Instant>,
}

/// Runs until every sender of wishes is gone.
pub(super) async fn run(
    nats: Nats,
    stream: String,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    state: Arc<FeedState>,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let mut feed = Feed {
        nats,
        stream,
        budget,
        metrics,
        state,
        slots: Vec::new(),
        by_subject: HashMap::new(),
        number: 0,
        alive: false,
        next: Sequence(0),
        furthest: Sequence(0),
        wanted: None,
        restart_at: None,
    };
    loop {
        // Without partitions there is no reader at all.
        while feed.slots.is_empty() || feed.wanted.is_none() {
            match wishes.recv().await {
                Some(wish) => feed.wish(wish),
                None => return,
            }
        }
        feed.collect(&mut wishes).await;
        let Some(reader) = feed.open(&mut wishes).await else { continue };
        feed.alive = true;
        let read = feed.read(reader, &mut wishes).await;
        feed.alive = false;
        if read.is_none() {
            return;
        }
    }
}

impl Feed {
    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Want { subject, mark, inbox } => {
                let from = mark.next();
                if self.alive && self.next <= from {
                    // The current reader has not passed it yet.
                    let _ = inbox.send(Input::Reader { reader: self.number, from: self.next });
                } else {
                    self.wanted = Some(self.wanted.map_or(from, |w| w.min(from)));
                    self.restart_at.get_or_insert(Instant::now() + COLLECT);
                }
                match self.by_subject.get(&subject).and_then(|index| self.slots.get_mut(*index)) {
                    Some(slot) => slot.inbox = inbox,
                    None => {
                        self.by_subject.insert(subject, self.slots.len());
                        self.slots.push(Slot { inbox, chunk: Vec::new() });
                    }
                }
            }
            Wish::Leave { subject } => {
                if let Some(index) = self.by_subject.remove(&subject) {
                    self.slots.swap_remove(index);
                    // The last slot has moved into the gap.
                    let moved = self.slots.len();
                    if let Some(place) = self.by_subject.values_mut().find(|place| **place == moved) {
                        *place = index;
                    }
                }
            }
        }
    }

    /// Waits a moment for wishes that come together.
    async fn collect(&mut self, wishes: &mut mpsc::UnboundedReceiver<Wish>) {
        let until = self.restart_at.take().unwrap_or_else(|| Instant::now() + COLLECT);
        while let Ok(Some(wish)) = tokio::time::timeout_at(until, wishes.recv()).await {
            self.wish(wish);
        }
        self.restart_at = None;
    }

    /// Opens a reader at the lowest wanted sequence, and tells everybody. `None` if nobody wants one any more.
    async fn open(&mut self, wishes: &mut mpsc::UnboundedReceiver<Wish>) -> Option<Reader> {
        let mut wait = RETRY.0;
        loop {
            if self.slots.is_empty() {
                self.wanted = None;
                return None;
            }
            let from = self.wanted?;
            let options = ReaderOptions { stream: self.stream.clone(), start: Start::At(from), filters: None };
            match Reader::open(&self.nats, &options).await {
                Ok(reader) => {
                    self.progress();
                    self.number += 1;
                    self.next = from;
                    self.wanted = None;
                    self.restart_at = None;
                    for slot in &self.slots {
                        let _ = slot.inbox.send(Input::Reader { reader: self.number, from });
                    }
                    if self.number > 1 {
                        self.metrics.reader_restarts.inc();
                    }
                    return Some(reader);
                }
                Err(error) => {
                    tracing::warn!(%error, "The stream cannot be read; trying again");
                    let until = Instant::now() + wait;
                    while let Ok(Some(wish)) = tokio::time::timeout_at(until, wishes.recv()).await {
                        self.wish(wish);
                    }
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Reads until the reader ends or a new one is wanted. `None` when there are no senders of wishes any more.
    async fn read(&mut self, mut reader: Reader, wishes: &mut mpsc::UnboundedReceiver<Wish>) -> Option<()> {
        let born = Instant::now();
        let mut chunk = Vec::new();
        let mut tick = interval(PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A reader that was sent back first comes as far as the one before: otherwise a partition that cannot keep up would
            // hold all others back for ever.
            let caught_up = self.next >= self.furthest || reader.pending() == 0;
            let restart_at = self.restart_at.filter(|_| caught_up).map(|at| at.max(born + MIN_LIFE));
            let restart = async {
                match restart_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let budget = Arc::clone(&self.budget);
            let next = async {
                budget.room().await;
                reader.read(&mut chunk).await
            };
            tokio::select! {
                biased;
                wish = wishes.recv() => {
                    self.wish(wish?);
                    while let Ok(wish) = wishes.try_recv() {
                        self.wish(wish);
                    }
                    if self.slots.is_empty() {
                        self.wanted = None;
                        self.restart_at = None;
                        return Some(());
                    }
                }
                () = restart => return Some(()),
                _ = tick.tick() => self.progress(),
                end = next => {
                    self.distribute(&mut chunk);
                    self.state.pending.store(reader.pending(), Ordering::Relaxed);
                    if let Err(end) = end {
                        tracing::info!(reason = %end, "The reader ended; starting another");
                        let from = self.next;
                        self.wanted = Some(self.wanted.map_or(from, |w| w.min(from)));
                        return Some(());
                    }
                }
            }
        }
    }

    /// Sorts messages by partition. What belongs to nobody here is dropped.
    fn distribute(&mut self, chunk: &mut Vec<StreamMessage>) {
        let mut touched = Vec::new();
        for message in chunk.drain(..) {
            self.next = message.sequence.next();
            let Some(index) = self.by_subject.get(&message.subject) else { continue };
            let Some(slot) = self.slots.get_mut(*index) else { continue };
            if slot.chunk.is_empty() {
                touched.push(*index);
            }
            let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            let bytes = message.payload.len() + message.subject.len() + headers + OVERHEAD;
            let sequence = message.sequence;
            let message = Message {
                subject: message.subject,
                sequence,
                timestamp_ns: message.timestamp_ns,
                attempt: 1,
                headers: message.headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
                payload: message.payload,
            };
            let body = Arc::new(self.budget.hold(message, bytes));
            slot.chunk.push(QueuedMessage { sequence, bytes, body });
        }
        self.furthest = self.furthest.max(self.next);
        for index in touched {
            if let Some(slot) = self.slots.get_mut(index) {
                let messages = std::mem::take(&mut slot.chunk);
                let _ = slot.inbox.send(Input::Messages { reader: self.number, messages });
            }
        }
    }

    /// Tells every partition how far the reader has come, so that an idle one does not drag the next reader back.
    fn progress(&self) {
        let passed = Sequence(self.next.0.saturating_sub(1));
        for slot in &self.slots {
            let _ = slot.inbox.send(Input::Passed { reader: self.number, sequence: passed });
        }
    }
}
