//! One task per partition of the assignment: spawned, told what changes, and counted.

use super::budget::Budget;
use super::feed::{self, FeedState, PartitionInput, Wish};
use super::origin::Origin;
use super::partition::PartitionTask;
use super::queue::{self, Keeper, Membership, Queue, QueueOptions};
use crate::config::SubjectTemplate;
use crate::error::ErrorCode;
use crate::hooks::Hooks;
use crate::nats::{Loss, Nats, NewStream, Objects, Peers, Publisher, Store};
use crate::plugin::HandlerPlugin;
use crate::telemetry::{Counter, Metrics};
use parti_coordination::record::{Owner, PauseRecord, StreamIdentity};
use parti_coordination::{
    Assigned, CloseReason, Fleet, Incarnation, Input, Limits, Now, Partition, PartitionId, PartitionView, Phase,
    Position, Term, Version,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};

/// Requests about records under way at once: enough to take 5,000 partitions in seconds, few enough to leave NATS breath.
const REQUESTS: usize = 256;

/// Publishes under way at once.
const PUBLISHES: usize = 4096;

/// How often the ownership bucket is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How often the figures of the data path are told although nothing has changed.
const TELL: Duration = Duration::from_secs(1);

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
    /// The handler.
    pub plugin: Arc<HandlerPlugin>,
    /// Where messages go that cannot be handled.
    pub dead_letter: Option<String>,
    /// Bounds and policies of a partition.
    pub limits: Limits,
    /// Most bytes of messages in flight on this worker.
    pub memory: usize,
    /// Where the figures go.
    pub metrics: Arc<Metrics>,
    /// Who is told of errors.
    pub hooks: Hooks,
    /// The origin of the clock that the core is told.
    pub origin: Instant,
}

/// What every partition's task shares.
pub(super) struct Shared {
    pub(super) records: Store,
    pub(super) objects: Objects,
    pub(super) requests: Semaphore,
    /// Held by the one partition that tries a message of which a worker may have died.
    pub(super) turn: Semaphore,
    pub(super) publisher: Publisher,
    pub(super) group: String,
    pub(super) control: Nats,
    pub(super) stream: String,
    pub(super) template: SubjectTemplate,
    pub(super) plugin: Arc<HandlerPlugin>,
    pub(super) dead_letter: Option<String>,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hooks: Hooks,
    pub(super) origin: Instant,
    pub(super) wishes: mpsc::UnboundedSender<Wish>,
    pub(super) events: mpsc::UnboundedSender<TaskEvent>,
    pub(super) traps: Counter,
    pub(super) timeouts: Counter,
    peers: Peers,
}

impl Shared {
    /// Tells the group that a partition is free. Only a hint: whoever waits for it also looks by itself.
    pub(super) async fn hint(&self, partition: &PartitionId) {
        self.peers.announce_release(partition).await;
    }
}

/// What a partition's task tells.
#[derive(Debug)]
pub(super) enum TaskEvent {
    /// Its phase has changed.
    Changed,
    /// The stream was made anew.
    Stream(StreamIdentity),
    /// Something went wrong with the stream.
    Error(ErrorCode, String),
    /// A later run of our own ID owns a partition.
    Superseded(Incarnation),
    /// It has ended.
    Gone(PartitionId),
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
    /// The partitions whose state the handler cannot open, as far as it has tried, by the digest of the handler that wrote it.
    CannotOpen(BTreeMap<String, BTreeSet<String>>),
    /// A later run of our own ID owns a partition: this process is a zombie.
    Superseded(Incarnation),
    /// Nothing is owned any more, after [`Intake::drain`].
    Drained,
}

enum Order {
    Identity(Owner),
    Assign(Assigned),
    Pause(PauseRecord),
    Fence,
    Drain,
}

/// The data path of this worker. Clones speak to the same one.
#[derive(Clone)]
pub struct Intake {
    orders: mpsc::UnboundedSender<Order>,
    keeper: Option<Keeper>,
    template: SubjectTemplate,
    views: Arc<Mutex<BTreeMap<PartitionId, Arc<Mutex<PartitionView>>>>>,
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
        let log_lines_dropped = options.metrics.plugin_log_lines_dropped.series([options.plugin.version().name()]);
        let manager = Manager {
            shared: Arc::new(Shared {
                records: options.records,
                objects: options.objects,
                requests: Semaphore::new(REQUESTS),
                turn: Semaphore::new(1),
                publisher: Publisher::new(&options.data, PUBLISHES),
                traps: options.metrics.plugin_traps.series([options.plugin.version().name()]),
                timeouts: options.metrics.plugin_timeouts.series([options.plugin.version().name()]),
                group: options.group,
                control: options.control,
                stream,
                template: options.template,
                plugin: options.plugin,
                dead_letter: options.dead_letter,
                limits: options.limits,
                metrics: options.metrics,
                hooks: options.hooks,
                origin: options.origin,
                wishes,
                events,
                peers,
            }),
            stream: options.stream,
            start: options.start,
            membership,
            budget,
            feed_state,
            views: Arc::clone(&views),
            tasks: HashMap::new(),
            me: None,
            assigned: BTreeMap::new(),
            fleet: Arc::new(Fleet::default()),
            rank: None,
            pause: None,
            leaving: None,
            told: None,
            refused: BTreeMap::new(),
            refused_told: BTreeMap::new(),
            log_lines_dropped,
            tell,
        };
        tokio::spawn(manager.run(order_inbox, event_inbox));
        (Self { orders, views, keeper, template }, told)
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

    /// Every partition that this worker works on or waits for, by id.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionReport> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |view: &Mutex<PartitionView>| view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        views.iter().map(|(id, view)| PartitionReport { id: id.clone(), view: look(view) }).collect()
    }
}

struct Task {
    inbox: mpsc::UnboundedSender<PartitionInput>,
    view: Arc<Mutex<PartitionView>>,
    /// Fenced: it ends, whatever the plan says.
    ending: bool,
}

struct Manager {
    shared: Arc<Shared>,
    /// The stream as it was when it was last looked at.
    stream: StreamIdentity,
    /// Where a partition begins that nobody has ever owned.
    start: Position,
    /// What the lanes of queue mode are told.
    membership: watch::Sender<Membership>,
    budget: Arc<Budget>,
    feed_state: Arc<FeedState>,
    views: Arc<Mutex<BTreeMap<PartitionId, Arc<Mutex<PartitionView>>>>>,
    tasks: HashMap<PartitionId, Task>,
    me: Option<Owner>,
    assigned: BTreeMap<PartitionId, Partition>,
    fleet: Arc<Fleet>,
    rank: Option<(Term, Version)>,
    /// What the operator has paused. Everything, while that is not known yet.
    pause: Option<PauseRecord>,
    leaving: Option<CloseReason>,
    told: Option<IntakeEvent>,
    /// The partitions whose state the handler has refused, and who wrote it. Kept when they go to another worker, so that they do not
    /// come back.
    refused: BTreeMap<PartitionId, String>,
    refused_told: BTreeMap<String, BTreeSet<String>>,
    log_lines_dropped: Counter,
    tell: mpsc::UnboundedSender<IntakeEvent>,
}

impl Manager {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut events: mpsc::UnboundedReceiver<TaskEvent>) {
        let mut releases = self.shared.peers.releases();
        let mut losses = self.watch_records();
        let mut tick = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                event = events.recv() => {
                    if let Some(event) = event {
                        self.note(event);
                    }
                    while let Ok(event) = events.try_recv() {
                        self.note(event);
                    }
                }
                id = releases.next() => {
                    for (_, task) in self.tasks.iter().filter(|(known, _)| known.as_str() == id) {
                        let _ = task.inbox.send(Input::Hint);
                    }
                }
                Some(()) = losses.recv() => {
                    // What was lost is written back by its owner, before anybody misses it; what another hand has written is found.
                    for task in self.tasks.values() {
                        let _ = task.inbox.send(Input::Hint);
                    }
                }
                _ = tick.tick() => {}
            }
            self.figures();
        }
    }

    /// Tells whenever the ownership bucket has lost something, or hints may have been missed because the connection was lost:
    /// owners with nothing to commit would not notice for long. Ends with the manager.
    fn watch_records(&self) -> mpsc::Receiver<()> {
        let (found, losses) = mpsc::channel(1);
        let (records, link) = (self.shared.records.clone(), self.shared.control.link());
        tokio::spawn(async move {
            let mut loss = Loss::default();
            let mut reconnects = link.borrow().reconnects;
            while !found.is_closed() {
                tokio::time::sleep(LOOK).await;
                let is_lost = records.has_lost(&mut loss).await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "The ownership bucket cannot be looked at");
                    false
                });
                if is_lost {
                    tracing::warn!(
                        bucket = records.name(),
                        "The ownership bucket was made anew or set back; every owner looks at its records"
                    );
                }
                let before = std::mem::replace(&mut reconnects, link.borrow().reconnects);
                if is_lost || before != reconnects {
                    let _ = found.send(()).await;
                }
            }
        });
        losses
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Identity(me) => {
                self.membership.send_modify(|membership| membership.me = Some(me.clone()));
                self.me = Some(me);
            }
            Order::Assign(assigned) => {
                if self.leaving.is_some() {
                    return;
                }
                self.rank = Some((assigned.term, assigned.version));
                self.fleet = Arc::new(assigned.fleet);
                self.membership.send_modify(|membership| membership.fleet = Arc::clone(&self.fleet));
                self.assigned = assigned.partitions.into_iter().map(|p| (p.id().clone(), p)).collect();
                self.apply();
            }
            Order::Pause(pause) => {
                for (id, task) in &self.tasks {
                    let _ = task.inbox.send(Input::Paused(pause.covers(id)));
                }
                self.pause = Some(pause);
            }
            Order::Fence => {
                self.me = None;
                self.rank = None;
                self.assigned.clear();
                for task in self.tasks.values_mut() {
                    task.ending = true;
                    let _ = task.inbox.send(Input::Fenced);
                }
            }
            Order::Drain => {
                self.leaving = Some(CloseReason::Shutdown);
                self.assigned.clear();
                self.apply();
            }
        }
    }

    fn apply(&mut self) {
        let why = self.leaving.unwrap_or(CloseReason::Revoked);
        for (id, task) in self.tasks.iter().filter(|(_, task)| !task.ending) {
            let input = if self.assigned.contains_key(id) {
                Input::Assigned(Arc::clone(&self.fleet))
            } else {
                Input::Revoked(why)
            };
            let _ = task.inbox.send(input);
        }
        let missing: Vec<Partition> =
            self.assigned.values().filter(|p| !self.tasks.contains_key(p.id())).cloned().collect();
        self.budget.adapt(self.assigned.len().max(1).saturating_mul(self.shared.limits.queue_bytes));
        for partition in missing {
            self.begin(partition);
        }
    }

    fn begin(&mut self, partition: Partition) {
        let Some(me) = self.me.clone() else { return };
        let (inbox, receiver) = mpsc::unbounded_channel();
        let id = partition.id().clone();
        let _ = inbox.send(Input::Paused(self.pause.as_ref().is_none_or(|pause| pause.covers(&id))));
        let _ = inbox.send(Input::Assigned(Arc::clone(&self.fleet)));
        let view = PartitionTask::spawn(
            Arc::clone(&self.shared),
            (self.stream.clone(), self.start),
            partition,
            me,
            receiver,
            inbox.clone(),
        );
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::clone(&view));
        self.tasks.insert(id, Task { inbox, view, ending: false });
    }

    fn note(&mut self, event: TaskEvent) {
        match event {
            TaskEvent::Changed => {}
            TaskEvent::Stream(stream) => {
                for task in self.tasks.values() {
                    let _ = task.inbox.send(Input::Stream(stream.clone()));
                }
                if self.stream != stream {
                    self.stream = stream;
                    // Whatever was to be left out belongs to the stream before.
                    self.start = Position(0);
                }
            }
            TaskEvent::Error(code, what) => self.shared.hooks.error(code, what, None),
            TaskEvent::Superseded(by) => {
                let _ = self.tell.send(IntakeEvent::Superseded(by));
            }
            TaskEvent::Gone(id) => {
                self.tasks.remove(&id);
                self.views.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                // Given back after it had ended.
                if let Some(partition) = self.assigned.get(&id).cloned() {
                    self.begin(partition);
                }
            }
        }
    }

    fn figures(&mut self) {
        if self.told == Some(IntakeEvent::Drained) {
            return;
        }
        let (mut owned, mut queued, mut settled) = (0, 0, self.tasks.len() == self.assigned.len());
        let mut begun = settled;
        let (mut longest, mut oldest, mut paused) = (0, None, 0);
        for (id, task) in &self.tasks {
            let view = task.view.lock().unwrap_or_else(PoisonError::into_inner);
            let holds = matches!(view.phase, Phase::Opening | Phase::Running);
            owned += usize::from(holds || view.phase == Phase::Releasing);
            // What cannot be opened is carried out as far as it can be.
            begun &= view.begun;
            settled &= (holds || view.cannot_open.is_some()) && !task.ending;
            match &view.cannot_open {
                Some(writer) => drop(self.refused.insert(id.clone(), writer.clone())),
                None if view.phase == Phase::Running => drop(self.refused.remove(id)),
                None => {}
            }
            paused += u64::from(view.paused);
            queued += view.queued as u64;
            longest = longest.max(view.queued as u64);
            oldest = oldest.into_iter().chain(view.uncommitted_since).min();
        }
        self.shared.metrics.lag_max.set(longest);
        self.shared.metrics.commit_lag.set(oldest.map(|Now(since)| self.shared.origin + since));
        let dropped = self.shared.plugin.version().stats().log_lines_dropped;
        self.log_lines_dropped.inc_by(dropped.saturating_sub(self.log_lines_dropped.get()));
        let pending = if owned == 0 { 0 } else { self.feed_state.pending.load(Ordering::Relaxed) };
        self.shared.metrics.queue_depth.set(queued);
        self.shared.metrics.owned_partitions.set(owned as u64);
        self.shared.metrics.paused_partitions.set(paused);
        let (settled, begun) = (self.rank.filter(|_| settled), self.rank.filter(|_| begun));
        let figures = IntakeEvent::Figures { owned, lag: queued + pending, settled, begun };
        if self.told.as_ref() != Some(&figures) {
            self.told = Some(figures.clone());
            let _ = self.tell.send(figures);
        }
        let mut refused: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, writer) in &self.refused {
            refused.entry(writer.clone()).or_default().insert(id.to_string());
        }
        if self.refused_told != refused {
            self.refused_told.clone_from(&refused);
            let _ = self.tell.send(IntakeEvent::CannotOpen(refused));
        }
        if self.leaving.is_some() && self.tasks.is_empty() {
            self.told = Some(IntakeEvent::Drained);
            let _ = self.tell.send(IntakeEvent::Drained);
        }
    }
}
