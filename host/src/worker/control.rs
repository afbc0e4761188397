//! Runs the coordinator against NATS: carries out its actions, brings back what became of them, keeps its clock.

use crate::error::ErrorCode;
use crate::hooks::Hooks;
use crate::http::Degraded;
use crate::intake::{Intake, IntakeEvent};
use crate::nats::{Filters, KvEvent, Nats, Peers};
use crate::source::Source;
use crate::telemetry::{KvOperation, KvResult, Metrics, WorkerLabel};
use jiff::Timestamp;
use parti_coordination::record::{Owner, PauseRecord, PlacementRecord};
use parti_coordination::{
    Action, AlertLevel, Bucket, Coordinator, Event, Lifetime, Notice, Now, OpId, Outage, PartitionList, Reply,
    StartFailure, WorkerId, WriteOutcome,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::task::AbortOnDropHandle;

use super::buckets::ControlBuckets;
use super::plugins::Running;
use super::status::{self, Board};
use super::strategy::Strategist;
use super::uncovered::UncoveredWatch;
use super::{notices, probes};

/// Time to live of each kind of value; zero = for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    pub(super) worker_id: Duration,
    pub(super) heartbeat: Duration,
    pub(super) hold: Duration,
    pub(super) election: Duration,
    pub(super) assignment: Duration,
}

impl Lifetimes {
    fn of(self, lifetime: Lifetime) -> Option<Duration> {
        let time = match lifetime {
            Lifetime::Forever => Duration::ZERO,
            Lifetime::WorkerId => self.worker_id,
            Lifetime::Heartbeat => self.heartbeat,
            Lifetime::Hold => self.hold,
            Lifetime::Election => self.election,
            Lifetime::Assignment => self.assignment,
        };
        (!time.is_zero()).then_some(time)
    }
}

/// How a worker's run ended.
#[derive(Debug)]
pub(super) enum End {
    /// Everything is released.
    Finished,
    /// It could not start.
    Failed(StartFailure),
}

pub(super) struct Control {
    pub(super) coordinator: Coordinator,
    pub(super) nats: Nats,
    pub(super) buckets: ControlBuckets,
    pub(super) lifetimes: Lifetimes,
    pub(super) probe_timeout: Duration,
    pub(super) source: Arc<dyn Source>,
    pub(super) strategist: Option<Strategist>,
    pub(super) intake: Option<Intake>,
    pub(super) hooks: Hooks,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) running: Running,
    /// Nothing on an assignment-only worker.
    pub(super) uncovered: Option<UncoveredWatch>,
    pub(super) label: WorkerLabel,
    pub(super) peers: Peers,
    pub(super) origin: Instant,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) watches: BTreeMap<Bucket, AbortHandle>,
    pub(super) probes: Option<AbortOnDropHandle<()>>,
    pub(super) figures: Option<AbortOnDropHandle<()>>,
    pub(super) heartbeats: std::collections::BTreeSet<OpId>,
    /// When the outage of NATS began that is shown.
    pub(super) outage: Option<Now>,
}

impl Control {
    /// Runs until the worker has left or cannot start.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        mut data_path: mpsc::UnboundedReceiver<IntakeEvent>,
        mut shutdown: watch::Receiver<bool>,
    ) -> End {
        let mut link = self.nats.link();
        let mut connected = None;
        let mut leaving = false;
        loop {
            let up = *link.borrow_and_update();
            if connected != Some(up) {
                let was_up = connected.is_some_and(|was: crate::nats::Link| was.connected);
                // A short interruption may be over before it is seen: it happened all the same.
                if was_up || !up.connected {
                    self.handle(Event::Disconnected);
                }
                if was_up {
                    self.hooks.error(ErrorCode::NatsConnectionLost, "the connection to NATS is lost", None);
                }
                if up.connected {
                    self.handle(Event::Connected);
                }
                connected = Some(up);
            }
            if !leaving && *shutdown.borrow_and_update() {
                leaving = true;
                self.handle(Event::Shutdown);
            }
            if let Some(end) = self.carry_out().await {
                // Who was told to stop has not failed to start.
                return if leaving { End::Finished } else { end };
            }
            self.show_age();
            self.running.count(&self.metrics);
            let deadline =
                self.coordinator.poll_timeout().map(|Now(at)| tokio::time::Instant::from_std(self.origin + at));
            let wake = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = inbox.recv() => self.handle(event),
                Some(event) = data_path.recv() => self.data_path(event),
                _ = link.changed() => {}
                _ = shutdown.changed(), if !leaving => {}
                () = wake => {
                    let now = self.now();
                    self.coordinator.handle_timeout(now);
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now(self.origin.elapsed())
    }

    fn handle(&mut self, event: Event) {
        if let Event::Reply { op, reply: Reply::Write(outcome) } = &event
            && self.heartbeats.remove(op)
        {
            match outcome {
                WriteOutcome::Written(_) => self.metrics.heartbeats_sent.inc(),
                WriteOutcome::Lost | WriteOutcome::Unknown => self.metrics.heartbeats_failed.inc(),
            }
        }
        let is_list = matches!(&event, Event::Reply { reply: Reply::Partitions(_), .. });
        let now = self.now();
        self.coordinator.handle(now, event);
        if is_list {
            self.compare_subjects();
        }
    }

    /// The leader's list of partitions may be another one than before.
    fn compare_subjects(&mut self) {
        if let Some(uncovered) = &mut self.uncovered {
            uncovered.compare_with(self.coordinator.partitions());
        }
    }

    fn data_path(&mut self, event: IntakeEvent) {
        let event = match event {
            IntakeEvent::Figures { owned, lag, settled, begun } => {
                let mut board = self.board();
                board.owned = owned;
                board.lag = lag;
                drop(board);
                self.metrics.lag.set(lag);
                Event::DataPath { owned, lag, settled, begun }
            }
            IntakeEvent::Refused(refusals) => Event::Refused(refusals),
            IntakeEvent::Superseded(by) => Event::Superseded(by),
            IntakeEvent::Drained => Event::Drained,
        };
        self.handle(event);
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out(&mut self) -> Option<End> {
        while let Some(action) = self.coordinator.poll_action() {
            match action {
                Action::Write { op, bucket, key, value, expect, lifetime } => {
                    if bucket == Bucket::Heartbeats {
                        self.heartbeats.insert(op);
                    }
                    let kv = self.buckets.of(bucket).clone();
                    let ttl = self.lifetimes.of(lifetime);
                    self.ask(op, KvOperation::Write, async move {
                        Reply::Write(kv.write(&key, value.into(), expect, ttl).await)
                    });
                }
                Action::Delete { op, bucket, key, expect } => {
                    let kv = self.buckets.of(bucket).clone();
                    self.ask(op, KvOperation::Delete, async move { Reply::Write(kv.delete(&key, expect).await) });
                }
                Action::Read { op, bucket, key } => {
                    let buckets = self.buckets.clone();
                    self.ask(op, KvOperation::Read, async move { buckets.read(bucket, &key).await });
                }
                Action::List { op, bucket } => {
                    let buckets = self.buckets.clone();
                    self.ask(op, KvOperation::List, async move { buckets.list(bucket).await });
                }
                Action::Watch { bucket, keys } => self.watch(bucket, keys),
                Action::Unwatch { bucket } => {
                    if let Some(watch) = self.watches.remove(&bucket) {
                        watch.abort();
                    }
                }
                Action::Probe { op, incarnation } => {
                    let (peers, wait) = (self.peers.clone(), self.probe_timeout);
                    let me = self.coordinator.worker().map(|(_, me)| me);
                    let events = self.events.clone();
                    tokio::spawn(async move {
                        let answer = peers.probe(&incarnation, me.as_ref(), wait).await;
                        let _ = events.send(Event::Reply { op, reply: Reply::Probe(answer) });
                    });
                }
                Action::ListPartitions { op } => self.list_partitions(op),
                Action::AskStrategy { op, question } => {
                    if let Some(strategist) = &mut self.strategist {
                        strategist.ask(op, question, self.events.clone());
                    }
                }
                Action::Claimed { worker, incarnation } => {
                    self.label.set(worker.as_str());
                    let owner = Owner { worker: worker.clone(), incarnation };
                    self.board().me = Some(owner.clone());
                    tracing::info!(workerId = %worker, claim = incarnation.claim, "Worker ID claimed");
                    let board = Arc::clone(&self.board);
                    self.probes = Some(probes::answer(self.peers.clone(), incarnation, self.events.clone(), board));
                    if let Some(intake) = &self.intake {
                        let told = intake.clone();
                        self.figures = Some(self.peers.tell_figures(&incarnation, move || status::figures(&told)));
                        intake.identify(owner);
                    }
                }
                Action::Fenced { worker, by } => {
                    let by = by.map(|by| by.to_string());
                    self.hooks.error(ErrorCode::StableIdLost, format!("another process holds {worker} now"), None);
                    tracing::warn!(workerId = %worker, by, "Another process holds this worker's ID, or it was declared dead; claiming afresh");
                    (self.probes, self.figures) = (None, None);
                    let mut board = self.board();
                    board.me = None;
                    let held = board.assigned.take();
                    drop(board);
                    if let Some(held) = held {
                        self.hooks.assignment_changed(&held.partitions, &[]);
                    }
                    self.metrics.assigned_partitions.set(0);
                    self.metrics.assignment_version.set(0);
                    if let Some(intake) = &self.intake {
                        intake.fence();
                    }
                }
                Action::DegradedEntered { outage, lasted } => self.degraded(outage, lasted),
                Action::DegradedAlert { level, lasted } => self.alert(level, lasted),
                Action::DegradedLeft { lasted } => self.recovered(lasted),
                Action::StateChanged { from, to } => {
                    tracing::info!(%from, %to, "State changed");
                    self.hooks.state_changed(from, to);
                    self.metrics.worker_state.set(to as u64);
                    self.metrics.state_transitions.inc((from, to));
                    self.board().state = to;
                }
                Action::LeaderChanged { leader, is_us } => {
                    let (worker, term) = leader.clone().unzip();
                    if let (Some(worker), Some(term)) = (&worker, term) {
                        tracing::info!(leader = %worker, %term, isLeader = is_us, "Leader elected");
                    } else {
                        tracing::info!("The group has no leader");
                    }
                    self.metrics.is_leader.set(u64::from(is_us));
                    if !is_us {
                        self.metrics.unowned_partitions.set(0);
                        self.metrics.unopenable_partitions.set(0);
                    }
                    self.metrics.leadership_changes.inc();
                    self.compare_subjects();
                    let mut board = self.board();
                    board.leader = worker;
                    board.is_leader = is_us;
                    if !is_us {
                        board.undecided = None;
                    }
                }
                Action::Assigned(assigned) => self.assigned(assigned),
                Action::Paused(pause) => self.paused(pause),
                Action::Placement(wants) => self.placement(wants),
                Action::Drain => match &self.intake {
                    Some(intake) => intake.drain(),
                    None => self.handle(Event::Drained),
                },
                Action::PlanPublished { term, version, lifecycle, moved, unowned, workers, took } => {
                    tracing::info!(
                        %term, %version, lifecycle = lifecycle.as_str(), moved, unowned, workers,
                        milliseconds = took.as_millis() as u64, "Plan published"
                    );
                    self.metrics.plans_published.inc(lifecycle);
                }
                Action::Failed(failure) => return Some(End::Failed(failure)),
                Action::Finished => return Some(End::Finished),
                Action::Notice(notice) => {
                    match &notice {
                        Notice::StrategyFailed { why, .. } => {
                            self.metrics.strategy_failures.inc(why.into());
                            self.board().undecided = Some(format!("the strategy has not decided: {why}"));
                        }
                        Notice::StrategyRecovered => self.board().undecided = None,
                        Notice::Unowned { partitions } => self.metrics.unowned_partitions.set(*partitions as u64),
                        Notice::Unopenable { partitions, .. } => {
                            self.metrics.unopenable_partitions.set(*partitions as u64);
                        }
                        _ => {}
                    }
                    notices::say(&notice);
                    notices::tell(&self.hooks, &notice);
                }
            }
        }
        None
    }

    fn degraded(&mut self, outage: Outage, lasted: Duration) {
        let why = match outage {
            Outage::Disconnected => "the connection to NATS is lost".to_owned(),
            Outage::Errors(errors) => format!("{errors} operations on the control buckets failed in a row"),
        };
        tracing::warn!(why, lastedSeconds = lasted.as_secs(), "Degraded: going on with the assignment in force");
        if let Outage::Errors(_) = outage {
            self.hooks.error(ErrorCode::BucketUnavailable, why, None);
        }
        self.metrics.degraded_mode.set(1);
        let since = SystemTime::now().checked_sub(lasted).and_then(|since| Timestamp::try_from(since).ok());
        self.board().degraded = Some(Degraded { since: since.unwrap_or_default(), level: None });
    }

    fn alert(&mut self, level: AlertLevel, lasted: Duration) {
        let (alert, took, lasted) = (level.as_str(), lasted, lasted.as_secs());
        match level {
            AlertLevel::Info => tracing::info!(alert, lastedSeconds = lasted, "Degraded alert"),
            AlertLevel::Warn => tracing::warn!(alert, lastedSeconds = lasted, "Degraded alert"),
            AlertLevel::Error | AlertLevel::Critical => {
                tracing::error!(alert, lastedSeconds = lasted, "Degraded alert");
            }
        }
        self.hooks.degraded_alert(level, took);
        self.metrics.degraded_alerts.inc(level);
        self.metrics.alert_level.set(level as u64 + 1);
        if let Some(degraded) = &mut self.board().degraded {
            degraded.level = Some(level);
        }
    }

    fn recovered(&mut self, lasted: Duration) {
        tracing::info!(lastedSeconds = lasted.as_secs(), "Degraded mode is over; reading everything anew");
        self.metrics.degraded_mode.set(0);
        self.metrics.alert_level.set(0);
        self.metrics.degraded_duration.observe(lasted.as_secs_f64());
        self.board().degraded = None;
    }

    /// Shows how old the assignment is that an outage leaves in force.
    fn show_age(&mut self) {
        let outage = self.coordinator.outage();
        if outage != self.outage {
            self.outage = outage;
            self.metrics.cache_age.set(outage.map(|Now(at)| self.origin + at));
        }
    }

    fn assigned(&mut self, assigned: parti_coordination::Assigned) {
        tracing::info!(
            version = %assigned.version, term = %assigned.term, partitions = assigned.partitions.len(),
            lifecycle = assigned.lifecycle.as_str(), "Assignment received"
        );
        self.metrics.assigned_partitions.set(assigned.partitions.len() as u64);
        self.metrics.assignment_version.set(assigned.version.0);
        self.metrics.active_workers.set(assigned.fleet.live.len() as u64);
        let mut board = self.board();
        let before = board.assigned.replace(assigned.clone()).map(|before| before.partitions);
        drop(board);
        if before.as_ref() != Some(&assigned.partitions) {
            self.metrics.assignment_changes.inc();
            self.hooks.assignment_changed(&before.unwrap_or_default(), &assigned.partitions);
        }
        match &self.intake {
            Some(intake) => intake.assign(assigned),
            None => {
                let settled = Some((assigned.term, assigned.version));
                self.handle(Event::DataPath { owned: 0, lag: 0, settled, begun: settled });
            }
        }
    }

    fn paused(&mut self, pause: PauseRecord) {
        let before = std::mem::replace(&mut self.board().pause, pause.clone());
        if !(before.is_nothing() && pause.is_nothing()) {
            let (all, partitions, by, at) = (pause.all, pause.partitions.len(), &pause.by, &pause.at);
            tracing::warn!(all, partitions, by, at, "The operator has changed what is paused");
        }
        if let Some(intake) = &self.intake {
            intake.pause(pause);
        }
    }

    fn placement(&self, wants: PlacementRecord) {
        let was_set = self.board().placement.asked > 0;
        if was_set || wants.asked > 0 {
            let drained: Vec<&str> = wants.drained.iter().map(WorkerId::as_str).collect();
            let (drained, pins, by, at) = (drained.join(", "), wants.pins.len(), &wants.by, &wants.at);
            tracing::info!(drained, pins, by, at, "What the operator wants of the placement");
        }
        self.board().placement = wants;
    }

    fn ask(&self, op: OpId, operation: KvOperation, work: impl Future<Output = Reply> + Send + 'static) {
        let (events, metrics) = (self.events.clone(), Arc::clone(&self.metrics));
        tokio::spawn(async move {
            let begun = Instant::now();
            let reply = work.await;
            let result = match &reply {
                Reply::Write(WriteOutcome::Lost) => KvResult::Lost,
                Reply::Write(WriteOutcome::Unknown) | Reply::Entry(Err(())) | Reply::Listing(Err(())) => {
                    KvResult::Unknown
                }
                _ => KvResult::Ok,
            };
            metrics.kv_operations.observe((operation, result), begun.elapsed().as_secs_f64());
            let _ = events.send(Event::Reply { op, reply });
        });
    }

    fn watch(&mut self, bucket: Bucket, keys: Vec<String>) {
        let (kv, events) = (self.buckets.of(bucket).clone(), self.events.clone());
        let task = tokio::spawn(async move {
            let mut watch = kv.watch(Filters::new(keys));
            loop {
                let event = match watch.next().await {
                    KvEvent::Entry { key, entry } => Event::Watched { bucket, key, entry },
                    KvEvent::Ready => Event::WatchReady { bucket },
                };
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        if let Some(before) = self.watches.insert(bucket, task.abort_handle()) {
            before.abort();
        }
    }

    fn list_partitions(&self, op: OpId) {
        let (source, events, intake) = (Arc::clone(&self.source), self.events.clone(), self.intake.clone());
        tokio::spawn(async move {
            let mut listed: Result<PartitionList, String> = source.list().await;
            // What is planned is kept from now on, whether somebody owns it yet or not.
            if let (Some(intake), Ok(partitions)) = (intake, &listed)
                && let Err(why) = intake.keep(partitions).await
            {
                listed = Err(why);
            }
            let _ = events.send(Event::Reply { op, reply: Reply::Partitions(listed) });
        });
    }
}
