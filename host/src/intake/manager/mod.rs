//! One task per partition of the assignment: spawned, told what changes, and counted. `swaps` takes up other
//! versions of the handlers, and `quarantines` feeds those no more that keep failing.

mod quarantines;
mod swaps;

use super::budget::Budget;
use super::feed::{FeedState, PartitionInput};
use super::front::IntakeEvent;
use super::partition::PartitionTask;
use super::quarantine::Quarantine;
use super::queue::Membership;
use super::refused::{self, Refused};
use super::rollout::{Rollout, SwapRequest};
use super::shared::{HandlerIndex, Shared, TaskEvent};
use crate::error::ErrorCode;
use crate::nats::Loss;
use parti_coordination::record::{Owner, PauseRecord, Refusals, StreamIdentity};
use parti_coordination::{
    Assigned, CloseReason, Fleet, Input, Now, Partition, PartitionId, PartitionView, Phase, Position, Term, Version,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How often the ownership bucket is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How often the figures of the data path are told although nothing has changed.
const TELL: Duration = Duration::from_secs(1);

/// How often a version on trial is looked at.
const TRIAL: Duration = Duration::from_millis(20);

/// How every partition stands that this worker works on or waits for.
pub(super) type Views = Arc<Mutex<BTreeMap<PartitionId, Arc<Mutex<PartitionView>>>>>;

/// What the worker wants done.
pub(super) enum Order {
    Identity(Owner),
    Assign(Assigned),
    Pause(PauseRecord),
    Swap(SwapRequest),
    Fence,
    Drain,
}

/// A partition's task, as seen from here.
struct Task {
    inbox: mpsc::UnboundedSender<PartitionInput>,
    view: Arc<Mutex<PartitionView>>,
    /// Which handler it has.
    of: HandlerIndex,
    /// Fenced: it ends, whatever the plan says.
    ending: bool,
}

impl Task {
    fn view(&self) -> PartitionView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it stands, and whether it cannot be opened because of another version's state.
    fn phase_and_refusal(&self) -> (Phase, bool) {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        (view.phase, view.cannot_open.is_some())
    }
}

pub(super) struct Manager {
    shared: Arc<Shared>,
    /// The stream as it was when it was last looked at.
    stream: StreamIdentity,
    /// Where a partition begins that nobody has ever owned.
    start: Position,
    /// What the lanes of queue mode are told.
    membership: watch::Sender<Membership>,
    budget: Arc<Budget>,
    feed_state: Arc<FeedState>,
    views: Views,
    tasks: HashMap<PartitionId, Task>,
    /// What no handler is for: it waits, untouched, until another configuration or another worker has one.
    unmatched: BTreeSet<PartitionId>,
    me: Option<Owner>,
    assigned: BTreeMap<PartitionId, Partition>,
    fleet: Arc<Fleet>,
    rank: Option<(Term, Version)>,
    leaving: Option<CloseReason>,
    told: Option<IntakeEvent>,
    /// What the handler has refused. Kept when the partitions go to another worker, so that they do not come back.
    refused: Refused,
    refusals_told: Refusals,
    /// For each handler another version, while it is taken up.
    rollouts: Vec<Option<Rollout>>,
    /// For each handler whether it is fed.
    quarantines: Vec<Quarantine>,
    tell: mpsc::UnboundedSender<IntakeEvent>,
}

impl Manager {
    pub(super) fn new(
        shared: Arc<Shared>,
        (stream, start): (StreamIdentity, Position),
        membership: watch::Sender<Membership>,
        budget: Arc<Budget>,
        feed_state: Arc<FeedState>,
        views: Views,
        tell: mpsc::UnboundedSender<IntakeEvent>,
    ) -> Self {
        let rollouts = shared.handlers.iter().map(|_| None).collect();
        let quarantines = shared.handlers.iter().map(|handling| Quarantine::new(handling.quarantine)).collect();
        Self {
            shared,
            stream,
            start,
            membership,
            budget,
            feed_state,
            views,
            tasks: HashMap::new(),
            unmatched: BTreeSet::new(),
            me: None,
            assigned: BTreeMap::new(),
            fleet: Arc::new(Fleet::default()),
            rank: None,
            leaving: None,
            told: None,
            refused: Refused::default(),
            refusals_told: Refusals::default(),
            rollouts,
            quarantines,
            tell,
        }
    }

    pub(super) async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut events: mpsc::UnboundedReceiver<TaskEvent>,
    ) {
        let mut releases = self.shared.peers.releases();
        let mut losses = self.watch_records();
        let mut tick = tokio::time::interval(TELL);
        let mut trial = tokio::time::interval(TRIAL);
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
                    self.look(self.refused.waits_for(&id));
                }
                Some(()) = losses.recv() => {
                    // What was lost is written back by its owner, before anybody misses it; what another hand has written is found.
                    for task in self.tasks.values() {
                        let _ = task.inbox.send(Input::Hint);
                    }
                }
                _ = tick.tick() => {
                    let due = self.refused.due(Instant::now());
                    self.look(due);
                    self.bring_into_line();
                    self.tell_work();
                }
                _ = trial.tick(), if self.rollouts.iter().any(Option::is_some) => {}
            }
            self.roll_out();
            self.look_at_quarantines();
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

    /// Finds out whether partitions whose state was refused are in that state still.
    fn look(&self, partitions: Vec<PartitionId>) {
        if !partitions.is_empty() {
            tokio::spawn(refused::look(Arc::clone(&self.shared), partitions));
        }
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
                self.shared.pause(pause);
                for of in (0..self.shared.handlers.len()).map(HandlerIndex) {
                    self.pause_tasks(of);
                }
            }
            Order::Swap(request) => self.swap(request),
            Order::Fence => {
                self.stop_rollouts();
                self.me = None;
                self.rank = None;
                self.assigned.clear();
                self.give_up_unmatched();
                for task in self.tasks.values_mut() {
                    task.ending = true;
                    let _ = task.inbox.send(Input::Fenced);
                }
            }
            Order::Drain => {
                self.stop_rollouts();
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
        self.give_up_unmatched();
        let is_missing = |p: &&Partition| !self.tasks.contains_key(p.id()) && !self.unmatched.contains(p.id());
        let missing: Vec<Partition> = self.assigned.values().filter(is_missing).cloned().collect();
        let handlers = self.assigned.values().filter_map(|partition| self.shared.handler_of(partition));
        let queues = handlers.fold(0, |sum: usize, (_, handling)| sum.saturating_add(handling.limits.queue_bytes));
        if queues > 0 {
            self.budget.adapt(queues);
        }
        for partition in missing {
            self.begin(partition);
        }
    }

    fn begin(&mut self, partition: Partition) {
        let Some(me) = self.me.clone() else { return };
        let (inbox, receiver) = mpsc::unbounded_channel();
        let id = partition.id().clone();
        let Some((of, handling)) = self.shared.handler_of(&partition) else { return self.leave_unmatched(id) };
        let handling = (of, Arc::clone(handling));
        let _ = inbox.send(Input::Paused(self.is_to_pause(&id, of)));
        let _ = inbox.send(Input::Assigned(Arc::clone(&self.fleet)));
        let view = PartitionTask::spawn(
            Arc::clone(&self.shared),
            handling,
            (self.stream.clone(), self.start),
            partition,
            me,
            receiver,
            inbox.clone(),
        );
        self.show(id.clone(), Arc::clone(&view));
        self.tasks.insert(id, Task { inbox, view, of, ending: false });
    }

    fn show(&self, id: PartitionId, view: Arc<Mutex<PartitionView>>) {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(id, view);
    }

    /// No handler is for this partition: its record and its messages are left as they are.
    fn leave_unmatched(&mut self, id: PartitionId) {
        let error = ErrorCode::PartitionUnmatched.error(
            format!("partition {id} waits"),
            "no entry of handler matches its keys",
            "add an entry that does, or one without match at the end of the list, and start the workers anew",
        );
        tracing::error!(code = %error.code, partition = %id, "{error}");
        self.shared.hooks.error(error.code, &error, Some(&id));
        let view = PartitionView { trouble: Some(error.why), ..PartitionView::untouched() };
        self.show(id.clone(), Arc::new(Mutex::new(view)));
        self.unmatched.insert(id);
    }

    /// What has no handler and is not ours any more is another worker's to wait for.
    fn give_up_unmatched(&mut self) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        for id in self.unmatched.extract_if(.., |id| !self.assigned.contains_key(id)) {
            views.remove(&id);
        }
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
            TaskEvent::Swapped { of, to, pause } => {
                if let Some(rollout) = self.rollout(of) {
                    rollout.swapped(&to, pause);
                }
            }
            TaskEvent::SwapFailed { of, partition, to, why } => {
                if let Some(rollout) = self.rollout(of) {
                    rollout.swap_failed(&partition, &to, &why);
                }
            }
            TaskEvent::Failed { of, partition, message, why } => {
                if let Some(message) = message {
                    self.call_failed(of, &partition, message, &why);
                }
                if let Some(rollout) = self.rollout(of) {
                    rollout.call_failed(why);
                }
            }
            TaskEvent::NotOpened { of, partition, why } => self.not_opened(of, &partition, why),
            TaskEvent::Rehearsed { of, to, result } => self.rehearsed(of, &to, result),
            TaskEvent::State(id, state) => self.refused.found(&id, state.as_ref()),
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
        let (mut owned, mut queued) = (0, 0);
        let mut settled = self.tasks.len() + self.unmatched.len() == self.assigned.len();
        // What no handler is for has no record yet.
        let mut begun = settled && self.unmatched.is_empty();
        let (mut longest, mut oldest, mut paused) = (0, None, 0);
        for (id, task) in &self.tasks {
            let view = task.view.lock().unwrap_or_else(PoisonError::into_inner);
            let holds = matches!(view.phase, Phase::Opening | Phase::Running);
            owned += usize::from(holds || view.phase == Phase::Releasing);
            // What cannot be opened is carried out as far as it can be.
            begun &= view.begun;
            settled &= (holds || view.cannot_open.is_some()) && !task.ending;
            self.refused.note(id, &view);
            paused += u64::from(view.paused);
            queued += view.queued as u64;
            longest = longest.max(view.queued as u64);
            oldest = oldest.into_iter().chain(view.uncommitted_since).min();
        }
        self.shared.metrics.lag_max.set(longest);
        self.shared.metrics.commit_lag.set(oldest.map(|Now(since)| self.shared.origin + since));
        let pending = if owned == 0 { 0 } else { self.feed_state.pending.load(Ordering::Relaxed) };
        self.shared.metrics.queue_depth.set(queued);
        self.shared.metrics.owned_partitions.set(owned as u64);
        self.shared.metrics.paused_partitions.set(paused);
        self.shared.metrics.unmatched_partitions.set(self.unmatched.len() as u64);
        let (settled, begun) = (self.rank.filter(|_| settled), self.rank.filter(|_| begun));
        let figures = IntakeEvent::Figures { owned, lag: queued + pending, settled, begun };
        if self.told.as_ref() != Some(&figures) {
            self.told = Some(figures.clone());
            let _ = self.tell.send(figures);
        }
        let refusals = self.refused.told();
        if self.refusals_told != refusals {
            self.refusals_told.clone_from(&refusals);
            let _ = self.tell.send(IntakeEvent::Refused(refusals));
        }
        if self.leaving.is_some() && self.tasks.is_empty() {
            self.told = Some(IntakeEvent::Drained);
            let _ = self.tell.send(IntakeEvent::Drained);
        }
    }
}
