//! Queue mode: WorkQueue and Interest streams, whose messages are acknowledged.
//!
//! It takes the place of the feed and obeys the same wishes. The ownership record holds the position here too: effects, then
//! commit, then acknowledgement. So a consumer is as disposable as a reader: it is never updated, but deleted and made anew,
//! and the new one delivers in order what is not acknowledged. What a partition has already it drops, what it has committed is
//! acknowledged unhandled.
//!
//! * A `lane` is one consumer and the partitions it serves. The router below gives each partition its lane.
//! * On a WorkQueue stream a subject is in one consumer at a time: a partition leaves its consumer before its record is
//!   released, and whoever takes it from the dead deletes their consumer first, after a look at the record.
//! * On an Interest stream a subject is in one consumer at least at any time: the new one comes first, and `keeper` deletes the
//!   old ones later.

mod acks;
mod build;
mod consumers;
mod keeper;
mod lane;
mod slot;

pub(super) use keeper::Keeper;

use super::budget::Budget;
use super::feed::{FeedState, PartitionInput, Wish};
use super::origin::Origin;
use super::shared::TaskEvent;
use crate::nats::{Nats, QueueConsumers, Retention};
use crate::telemetry::Metrics;
use keeper::MOST_SUBJECTS;
use lane::Lane;
use parti_coordination::record::{Owner, StreamIdentity};
use parti_coordination::{Fleet, Position};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// How long the server waits for an acknowledgement before it delivers a message again: its own default.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// How a queue is worked on.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The stream's retention.
    pub retention: Retention,
    /// First part of every consumer's name.
    pub consumer_prefix: String,
    /// Partitions of the group.
    pub partitions: usize,
}

/// Who this worker is, and who else there is.
#[derive(Debug, Clone, Default)]
pub(super) struct Membership {
    pub(super) me: Option<Owner>,
    pub(super) fleet: Arc<Fleet>,
}

/// What the lanes of a worker share.
pub(super) struct Queue {
    pub(super) origin: Origin,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state: Arc<FeedState>,
    pub(super) events: mpsc::UnboundedSender<TaskEvent>,
    pub(super) membership: watch::Receiver<Membership>,
    keeper: Keeper,
    /// Number of the last consumer.
    number: AtomicU64,
    /// Some consumer may have become superfluous.
    swept: Arc<Notify>,
}

impl Keeper {
    /// For the consumers of this group on this stream.
    pub(super) fn new(nats: &Nats, stream: &str, group: &str, options: &QueueOptions) -> Self {
        Self {
            consumers: QueueConsumers::of(nats, stream),
            retention: options.retention,
            group: group.to_owned(),
            prefix: options.consumer_prefix.clone(),
        }
    }
}

impl Queue {
    pub(super) fn new(
        origin: Origin,
        keeper: Keeper,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
        state: Arc<FeedState>,
        events: mpsc::UnboundedSender<TaskEvent>,
        membership: watch::Receiver<Membership>,
    ) -> Self {
        let (number, swept) = (AtomicU64::new(0), Arc::default());
        Self { origin, budget, metrics, state, events, membership, keeper, number, swept }
    }
}

/// Runs until every sender of wishes is gone.
pub(super) async fn run(
    queue: Queue,
    identity: StreamIdentity,
    options: QueueOptions,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let queue = Arc::new(queue);
    tokio::spawn(queue.keeper.clone().sweep(queue.membership.clone(), Arc::clone(&queue.swept)));
    // One for every thousand partitions, and one for those that do not keep up with the others.
    let shared = options.partitions.div_ceil(MOST_SUBJECTS).max(1);
    let start = |lane| {
        let (sender, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Lane::new(Arc::clone(&queue), lane, identity.clone()).run(inbox));
        sender
    };
    let (moved, mut moves) = mpsc::unbounded_channel();
    let mut router = Router {
        shared: (0..shared as u64).map(start).collect(),
        slow: start(shared as u64),
        positions: HashMap::new(),
        slackers: HashSet::new(),
        moving: HashMap::new(),
        moved,
    };
    loop {
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(wish) => router.route(wish),
                None => return,
            },
            Some(subject) = moves.recv() => router.has_left(subject),
        }
    }
}

/// Sends wishes to lanes. A partition that was parked moves to the lane of the slow, for as long as it is ours: there its ups and
/// downs do not cost those that keep up a new consumer each time.
struct Router {
    shared: Vec<mpsc::UnboundedSender<Wish>>,
    slow: mpsc::UnboundedSender<Wish>,
    /// Committed, by subject.
    positions: HashMap<String, Position>,
    /// Partitions that were parked.
    slackers: HashSet<String>,
    /// Partitions on their way to the lane of the slow: they want to be served there. `None` once they are there.
    moving: HashMap<String, Option<Wish>>,
    moved: mpsc::UnboundedSender<String>,
}

impl Router {
    fn route(&mut self, wish: Wish) {
        match &wish {
            Wish::Committed { subject, position } => {
                self.positions.insert(subject.clone(), *position);
            }
            Wish::Parked { subject, .. } => {
                self.slackers.insert(subject.clone());
            }
            Wish::Want { subject, .. } if self.slackers.contains(subject) => {
                let subject = subject.clone();
                return self.want_slow(subject, wish);
            }
            Wish::Want { .. } => {}
            Wish::Detach { subject, .. } | Wish::Leave { subject } => {
                let lane = self.lane(subject).clone();
                self.positions.remove(subject);
                self.slackers.remove(subject);
                self.moving.remove(subject);
                let _ = lane.send(wish);
                return;
            }
        }
        let (Wish::Committed { subject, .. } | Wish::Parked { subject, .. } | Wish::Want { subject, .. }) = &wish
        else {
            return;
        };
        let _ = self.lane(subject).send(wish);
    }

    /// A slow partition wants to be served: by the slow lane, once it has left its own.
    fn want_slow(&mut self, subject: String, wish: Wish) {
        match self.moving.get_mut(&subject) {
            Some(None) => {
                let _ = self.slow.send(wish);
            }
            Some(waits) => *waits = Some(wish),
            None => {
                let (inbox, mut answer) = mpsc::unbounded_channel::<PartitionInput>();
                let _ = self.lane(&subject).send(Wish::Detach { subject: subject.clone(), inbox });
                self.moving.insert(subject.clone(), Some(wish));
                let moved = self.moved.clone();
                tokio::spawn(async move {
                    answer.recv().await;
                    let _ = moved.send(subject);
                });
            }
        }
    }

    fn has_left(&mut self, subject: String) {
        let Some(waits) = self.moving.get_mut(&subject) else { return };
        if let Some(wish) = waits.take() {
            if let Some(position) = self.positions.get(&subject).copied() {
                let _ = self.slow.send(Wish::Committed { subject, position });
            }
            let _ = self.slow.send(wish);
        }
    }

    fn lane(&self, subject: &str) -> &mpsc::UnboundedSender<Wish> {
        if let Some(None) = self.moving.get(subject) {
            return &self.slow;
        }
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let lane = hasher.finish() % self.shared.len().max(1) as u64;
        self.shared.get(lane as usize).unwrap_or(&self.slow)
    }
}
