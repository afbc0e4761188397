//! What the worker talks to: the orders that it gives to the data path, and what it is told.

use super::budget::Budget;
use super::feed::{self, FeedState};
use super::manager::{Manager, Order, Views};
use super::origin::Origin;
use super::quarantine::QuarantineRules;
use super::queue::{self, Keeper, Membership, Queue, QueueOptions};
use super::ration::Ration;
use super::rollout::SwapRequest;
use super::shared::{Handling, Shared};
use crate::config::{KeyPatterns, SubjectTemplate};
use crate::hooks::Hooks;
use crate::nats::{Nats, NewStream, Objects, Peers, Publisher, Store};
use crate::plugin::HandlerPlugin;
use crate::telemetry::Metrics;
use parti_coordination::record::{Owner, PauseRecord, Refusals, StreamIdentity};
use parti_coordination::{
    Assigned, Incarnation, Limits, Partition, PartitionId, PartitionView, Position, Term, Version,
};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc, watch};

/// Requests about records under way at once: enough to take 5,000 partitions in seconds, few enough to leave NATS breath.
const REQUESTS: usize = 256;

/// Publishes under way at once.
const PUBLISHES: usize = 4096;

/// A handler, and how the partitions that it is for are worked on.
pub struct HandlerOptions {
    /// Which partitions it is for, if it is not for all that no handler before it is for.
    pub keys: Option<KeyPatterns>,
    /// The version that it begins with.
    pub plugin: Arc<HandlerPlugin>,
    /// Instances that its partitions share; without, each has one of its own.
    pub shared: Option<NonZeroUsize>,
    /// Where messages go that cannot be handled.
    pub dead_letter: Option<String>,
    /// Bounds and policies of a partition.
    pub limits: Limits,
    /// When it is fed no more.
    pub quarantine: QuarantineRules,
}

/// What the data path needs to know.
pub struct IntakeOptions {
    /// The connection for leases and records.
    pub control: Nats,
    /// The connection for messages, in and out.
    pub data: Nats,
    /// The ownership bucket.
    pub records: Store,
    /// The snapshots that are too large for it.
    pub objects: Objects,
    /// The group's name.
    pub group: String,
    /// The stream that is worked on.
    pub stream: StreamIdentity,
    /// How the stream's messages are acknowledged, in queue mode.
    pub queue: Option<QueueOptions>,
    /// How to make the stream anew if it is gone, where that is the host's to do.
    pub create: Option<NewStream>,
    /// Which subject carries which partition.
    pub template: SubjectTemplate,
    /// Where a partition begins that nobody has ever owned.
    pub start: Position,
    /// The handlers: the first that is for a partition handles it.
    pub handlers: Vec<HandlerOptions>,
    /// Most commits of this worker in a second, if they are bounded.
    pub commits_per_second: Option<u32>,
    /// Most bytes of messages in flight on this worker.
    pub memory: usize,
    /// Where the figures go.
    pub metrics: Arc<Metrics>,
    /// Who is told of errors.
    pub hooks: Hooks,
    /// The origin of the clock that the core is told.
    pub origin: Instant,
}

/// What the data path tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntakeEvent {
    /// How it stands.
    Figures {
        /// Partitions owned.
        owned: usize,
        /// Messages behind.
        lag: u64,
        /// The assignment that what is owned equals, if it equals one.
        settled: Option<(Term, Version)>,
        /// The assignment of whose partitions each is known to have a record, if there is one.
        begun: Option<(Term, Version)>,
    },
    /// What the handler has refused to open has changed.
    Refused(Refusals),
    /// A later run of our own ID owns a partition: this process is a zombie.
    Superseded(Incarnation),
    /// Nothing is owned any more, after [`Intake::drain`].
    Drained,
}

/// The data path of this worker. Clones speak to the same one.
#[derive(Clone)]
pub struct Intake {
    orders: mpsc::UnboundedSender<Order>,
    keeper: Option<Keeper>,
    template: SubjectTemplate,
    views: Views,
    handlers: Arc<[Arc<Handling>]>,
}

/// One partition at a glance.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// Which.
    pub id: PartitionId,
    /// Where it stands.
    pub view: PartitionView,
}

impl Intake {
    /// Starts the data path on the current runtime. It ends when every clone is dropped.
    #[must_use]
    pub fn start(options: IntakeOptions) -> (Self, mpsc::UnboundedReceiver<IntakeEvent>) {
        let (orders, order_inbox) = mpsc::unbounded_channel();
        let (wishes, wish_inbox) = mpsc::unbounded_channel();
        let (events, event_inbox) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let peers = Peers::new(&options.control, &options.group);
        let feed_state = Arc::new(FeedState::default());
        let budget = Budget::new(options.memory);
        let stream = options.stream.name.clone();
        let origin = Origin { nats: options.data.clone(), stream: stream.clone(), create: options.create };
        let (membership, members) = watch::channel(Membership::default());
        let acknowledges = options.queue.is_some();
        let keeper = options.queue.as_ref().map(|queue| Keeper::new(&options.control, &stream, &options.group, queue));
        if let (Some(queue), Some(keeper)) = (options.queue, &keeper) {
            let (budget, metrics, state) = (Arc::clone(&budget), Arc::clone(&options.metrics), Arc::clone(&feed_state));
            let lanes = Queue::new(origin, keeper.clone(), budget, metrics, state, events.clone(), members);
            tokio::spawn(queue::run(lanes, options.stream.clone(), queue, wish_inbox));
        } else {
            tokio::spawn(feed::run(
                origin,
                options.stream.clone(),
                Arc::clone(&budget),
                Arc::clone(&options.metrics),
                Arc::clone(&feed_state),
                events.clone(),
                wish_inbox,
            ));
        }
        let (views, template) = (Arc::default(), options.template.clone());
        let waiting = options.metrics.commits_waiting.clone();
        let handlers = options.handlers.into_iter().map(|handler| Arc::new(Handling::new(handler, &options.metrics)));
        let handlers: Vec<_> = handlers.collect();
        let shared = Shared {
            records: options.records,
            objects: options.objects,
            requests: Semaphore::new(REQUESTS),
            ration: options.commits_per_second.map(|most| Ration::start(most, waiting)),
            turn: Semaphore::new(1),
            publisher: Publisher::new(&options.data, PUBLISHES),
            group: options.group,
            control: options.control,
            stream,
            template: options.template,
            handlers: handlers.clone(),
            paused: RwLock::new(None),
            acknowledges,
            metrics: options.metrics,
            hooks: options.hooks,
            origin: options.origin,
            wishes,
            events,
            peers,
        };
        let from = (options.stream, options.start);
        let manager = Manager::new(Arc::new(shared), from, membership, budget, feed_state, Arc::clone(&views), tell);
        tokio::spawn(manager.run(order_inbox, event_inbox));
        (Self { orders, views, keeper, template, handlers: handlers.into() }, told)
    }

    /// From now on this worker owns in this name.
    pub fn identify(&self, me: Owner) {
        let _ = self.orders.send(Order::Identity(me));
    }

    /// Work on exactly these partitions.
    pub fn assign(&self, assigned: Assigned) {
        let _ = self.orders.send(Order::Assign(assigned));
    }

    /// Handle nothing of these partitions from now on, and go on with all others. Before the first word nothing is handled.
    pub fn pause(&self, pause: PauseRecord) {
        let _ = self.orders.send(Order::Pause(pause));
    }

    /// Take up another version of the handler of its name.
    pub fn swap(&self, request: SwapRequest) {
        let _ = self.orders.send(Order::Swap(request));
    }

    /// Stop at once; nothing that is held counts any more.
    pub fn fence(&self) {
        let _ = self.orders.send(Order::Fence);
    }

    /// Sees to it that the stream holds the messages of these partitions until somebody owns them.
    ///
    /// # Errors
    /// Why they cannot be kept.
    pub async fn keep(&self, partitions: &[Partition]) -> Result<(), String> {
        match &self.keeper {
            Some(keeper) => keeper.keep(partitions.iter().map(|p| self.template.subject(p.id())).collect()).await,
            None => Ok(()),
        }
    }

    /// Finish what is in hand, commit and release everything.
    pub fn drain(&self) {
        let _ = self.orders.send(Order::Drain);
    }

    /// The handlers that are fed no more because they keep failing, by name, and why.
    #[must_use]
    pub fn quarantined(&self) -> BTreeMap<String, String> {
        let held = |handling: &Arc<Handling>| {
            Some((handling.versions.current().version().name().to_owned(), handling.held()?))
        };
        self.handlers.iter().filter_map(held).collect()
    }

    /// Whether this worker has partitions that a version of this handler could be tried on.
    #[must_use]
    pub fn has_work(&self, handler: &str) -> bool {
        let is_it = |handling: &&Arc<Handling>| handling.versions.current().version().name() == handler;
        self.handlers.iter().find(is_it).is_some_and(|handling| handling.has_work.load(Ordering::Relaxed))
    }

    /// Every partition that this worker works on or waits for, by id.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionReport> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |view: &Mutex<PartitionView>| view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        views.iter().map(|(id, view)| PartitionReport { id: id.clone(), view: look(view) }).collect()
    }
}
