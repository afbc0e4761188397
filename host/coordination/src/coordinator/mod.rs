//! One worker's part in the fleet: identity, election, planning, acceptance, worker states, as one sans-IO machine.
//!
//! The parts do not know each other; this file carries facts between them. Call [`Coordinator::handle`] with every event
//! and [`Coordinator::handle_timeout`] when [`Coordinator::poll_timeout`] has come, and drain [`Coordinator::poll_action`]
//! after each. Every request must be answered in the end, if only with *unknown*.

mod acceptance;
mod context;
mod degraded;
mod election;
mod identity;
mod io;
mod operator;
mod pause;
mod planner;
mod roster;
#[cfg(test)]
mod tests;
mod watchdog;
mod write;

use acceptance::{Acceptance, Seen};
use context::{Context, Part};
use degraded::{Health, Shift};
use election::{Change, Election};
use identity::Identity;
use operator::Operator;
use pause::Pause;
use planner::{Planner, Verdict};
use roster::{Roster, Sight};
use std::collections::BTreeSet;
use std::time::Duration;
use watchdog::Watchdog;

use crate::record::{FORMAT, HeartbeatRecord, LeaderRecord, Refusals};
use crate::{Incarnation, Now, Partition, Term, Version, WorkerId, WorkerState};

pub use context::Settings;
pub use degraded::{AlertLevel, DegradedAlert, DegradedBehavior, Outage};
pub use io::{
    Action, Assigned, Bucket, Event, Expect, Fleet, Lifetime, Notice, OpId, PartitionList, ProbeAnswer, Reply,
    StartFailure, StoredEntry, WriteOutcome,
};
pub use planner::{Draft, Outlook};

/// A start that fails gives back what it holds, and waits no longer than this for NATS to take it.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// The machine. See the module's description.
pub struct Coordinator {
    ctx: Context,
    identity: Identity,
    election: Election,
    watchdog: Watchdog,
    roster: Roster,
    planner: Planner,
    acceptance: Acceptance,
    pause: Pause,
    operator: Operator,
    health: Health,
    /// The state before degraded mode.
    resume: WorkerState,
    /// When the first event came, and later by as long as the process was stopped since: `startupTimeout` counts from there.
    began: Option<Now>,
    /// The start has succeeded or failed.
    is_started: bool,
    heartbeat_at: Now,
    /// A heartbeat is on its way: the next one waits, so that an older one cannot overwrite it.
    beating: bool,
    /// A heartbeat has told the others that we leave.
    has_said_goodbye: bool,
    /// What the last heartbeat said.
    last_beat: Option<WorkerState>,
    data_path: (usize, u64),
    /// Partitions whose state our handler cannot open, by the digest of the handler that wrote it.
    refusals: Refusals,
    settled: Option<(Term, Version)>,
    /// The assignment of whose partitions each is known to have a record.
    begun: Option<(Term, Version)>,
    leaving: Leaving,
    /// Why the start has failed, and until when to give back what is held.
    failure: Option<(StartFailure, Now)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The data path hands over; a leader plans without itself.
    Draining {
        drained: bool,
    },
    /// Lease, ID and heartbeat are being deleted.
    Releasing(BTreeSet<OpId>),
    Gone,
}

impl Coordinator {
    /// A worker that has not begun. `startupTimeout` counts from the first call: call [`Coordinator::handle_timeout`] before the
    /// connection is there.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            ctx: Context::new(settings),
            identity: Identity::default(),
            election: Election::default(),
            watchdog: Watchdog::default(),
            roster: Roster::default(),
            planner: Planner::default(),
            acceptance: Acceptance::default(),
            pause: Pause::default(),
            operator: Operator::default(),
            health: Health::default(),
            resume: WorkerState::Init,
            began: None,
            is_started: false,
            heartbeat_at: Now::default(),
            beating: false,
            has_said_goodbye: false,
            last_beat: None,
            data_path: (0, 0),
            refusals: Refusals::default(),
            settled: None,
            begun: None,
            leaving: Leaving::No,
            failure: None,
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.ctx.state
    }

    /// The ID and run, once claimed.
    #[must_use]
    pub fn worker(&self) -> Option<(WorkerId, Incarnation)> {
        self.identity.held().map(|(worker, incarnation)| (worker.clone(), incarnation))
    }

    /// The term under which this worker leads, if it does.
    #[must_use]
    pub fn leading(&self) -> Option<Term> {
        self.election.term()
    }

    /// Who leads, as far as this worker has seen.
    #[must_use]
    pub fn leader(&self) -> Option<&WorkerId> {
        self.election.leader()
    }

    /// `(term, version)` of the assignment in force.
    #[must_use]
    pub fn assignment(&self) -> Option<(Term, Version)> {
        self.acceptance.accepted()
    }

    /// Live workers, as the leader sees them; `None` on other workers.
    #[must_use]
    pub fn live_workers(&self) -> Option<usize> {
        self.leading().map(|_| self.roster.members().count())
    }

    /// The partitions that it plans with, sorted; `None` on workers that do not lead, and until the source has been asked.
    #[must_use]
    pub fn partitions(&self) -> Option<&[Partition]> {
        self.leading().and(self.planner.partitions())
    }

    /// When the outage of NATS began that lasts, if one does: the lost connection or the first failed operation.
    #[must_use]
    pub fn outage(&self) -> Option<Now> {
        self.health.outage()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.ctx.next_action()
    }

    /// When [`Coordinator::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.ctx.deadline()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.tell_time(now);
        self.advance();
    }

    fn tell_time(&mut self, now: Now) {
        let late = self.ctx.deadline().map_or(Duration::ZERO, |deadline| now.since(deadline));
        // Who was stopped has not had that time to start in.
        if late > self.ctx.settings.heartbeat_interval
            && let Some(began) = &mut self.began
        {
            *began = *began + late;
        }
        self.ctx.now = self.ctx.now.max(now);
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.tell_time(now);
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => self.health.disconnected(self.ctx.now),
            Event::Reply { op, reply } => self.reply(op, &reply),
            Event::Watched { bucket, key, entry } => self.watched(bucket, &key, &entry),
            Event::WatchReady { bucket } => match bucket {
                Bucket::Election => self.election.ready(&mut self.ctx),
                Bucket::Heartbeats => self.roster.ready(),
                Bucket::Assignments => {
                    self.planner.told(&self.ctx, None);
                    if self.worker().is_some() {
                        self.pause.ready(&mut self.ctx);
                        self.operator.ready(&mut self.ctx);
                    }
                }
                Bucket::StableIds => {}
            },
            Event::DataPath { owned, lag, settled, begun } => {
                self.data_path = (owned, lag);
                self.settled = settled;
                self.begun = begun;
            }
            Event::Refused(refusals) => {
                self.refusals = refusals;
                // The leader is to know at once.
                self.heartbeat_at = self.ctx.now;
            }
            Event::Plugins(plugins) => {
                self.ctx.settings.plugins = plugins;
                // Who is to take over a state must be known to have its version.
                self.heartbeat_at = self.ctx.now;
            }
            Event::Superseded(by) => {
                if let Some((worker, incarnation)) = self.worker()
                    && by.claim > incarnation.claim
                    && self.leaving == Leaving::No
                {
                    self.identity.fenced(&mut self.ctx, worker, Some(by));
                    self.fenced();
                }
            }
            Event::Refresh => self.planner.refresh(&self.ctx),
            Event::Probed { by } => {
                if self.watchdog.probed(&self.ctx, by) {
                    self.election.leave_in_office();
                }
            }
            Event::Shutdown => self.shutdown(),
            Event::Drained => {
                if let Leaving::Draining { drained } = &mut self.leaving {
                    *drained = true;
                }
            }
        }
        self.advance();
    }

    fn connected(&mut self) {
        self.health.connected();
        if self.ctx.state == WorkerState::Init {
            self.ctx.enter(WorkerState::ClaimingId);
            self.identity.begin(&mut self.ctx);
        } else {
            self.roster.reconnected(&mut self.ctx);
            self.watchdog.reconnected(&self.ctx);
        }
    }

    fn reply(&mut self, op: OpId, reply: &Reply) {
        match reply {
            Reply::Write(outcome) => self.health.operation(&self.ctx, *outcome != WriteOutcome::Unknown),
            Reply::Entry(entry) => self.health.operation(&self.ctx, entry.is_ok()),
            Reply::Listing(list) => self.health.operation(&self.ctx, list.is_ok()),
            Reply::Partitions(_) | Reply::Strategy(_) | Reply::Probe(_) => {}
        }
        if let Leaving::Releasing(open) = &mut self.leaving
            && open.remove(&op)
        {
            self.ctx.answered(op);
            return;
        }
        let Some(part) = self.ctx.answered(op) else { return };
        match part {
            Part::Identity => {
                let before = self.worker();
                self.identity.reply(&mut self.ctx, op, reply);
                match (before, self.worker()) {
                    (None, Some((worker, _))) => self.claimed(&worker),
                    (Some(_), None) => self.fenced(),
                    _ => {}
                }
            }
            Part::Heartbeat => {
                self.beating = false;
                self.has_said_goodbye |= self.last_beat == Some(WorkerState::Shutdown);
            }
            Part::Election => {
                let Some((worker, incarnation)) = self.worker() else { return };
                let change = self.election.reply(&mut self.ctx, op, reply, (&worker, incarnation));
                self.lead_changed(change);
                self.watch_lease(incarnation);
            }
            Part::Watchdog => self.watchdog.reply(&self.ctx, op, reply),
            Part::Roster => self.roster.reply(&self.ctx, op, reply),
            Part::Planner => {
                let had_plan = self.planner.plan().is_some();
                let verdict = self.planner.reply(&mut self.ctx, op, reply);
                if let Verdict::Superseded(term) = verdict {
                    self.election.saw(term);
                    self.abdicate();
                } else if verdict == Verdict::NotOurs {
                    self.step_aside();
                } else if !had_plan && self.planner.plan().is_some() {
                    // The term is planted: from here on we lead, and judge.
                    self.roster.begin(&self.ctx, self.planner.plan());
                    if let Some(finding) = self.watchdog.finding() {
                        self.roster.inherit(finding);
                    }
                    self.watch_heartbeats();
                }
            }
        }
    }

    fn watched(&mut self, bucket: Bucket, key: &str, entry: &StoredEntry) {
        let Some((worker, incarnation)) = self.worker() else { return };
        match bucket {
            Bucket::Election => {
                let change = self.election.watched(&mut self.ctx, entry, Some(incarnation));
                self.watch_lease(incarnation);
                self.lead_changed(change);
            }
            Bucket::Heartbeats => {
                if let Some((worker, beat)) =
                    self.roster.heartbeat(&mut self.ctx, key, entry, self.planner.published_dead())
                {
                    self.identity.saw(&worker, beat.incarnation.claim);
                    self.election.saw(beat.term);
                    // Who has seen a later plan than ours would refuse ours: lead above it or not at all.
                    let ours = self.leading().map(|term| (term, self.planner.highest_version));
                    self.planner.saw(beat.version);
                    if ours.is_some_and(|ours| ours < (beat.term, beat.version)) {
                        self.abdicate();
                    }
                }
            }
            Bucket::Assignments if key == pause::KEY => self.pause.watched(&mut self.ctx, entry),
            Bucket::Assignments if key == operator::KEY => self.operator.watched(&mut self.ctx, entry),
            Bucket::Assignments => {
                let seen = self.acceptance.watched(&mut self.ctx, key, entry, (&worker, incarnation));
                let (term, version) = self.acceptance.highest();
                if key == "plan" {
                    self.planner.told(&self.ctx, Some(entry.revision));
                }
                self.election.saw(term);
                self.planner.saw(version);
                if seen == Seen::DeclaredDead && self.leaving == Leaving::No {
                    self.identity.fenced(&mut self.ctx, worker, None);
                    self.fenced();
                }
            }
            Bucket::StableIds => {}
        }
    }

    /// A lease that is new to us, or renewed, is a sign of life of its holder.
    fn watch_lease(&mut self, me: Incarnation) {
        let Some((lease, revision)) = self.election.lease().filter(|(lease, _)| lease.incarnation != me) else {
            return;
        };
        if self.watchdog.lease(&self.ctx, lease, revision) {
            self.election.leave_in_office();
        }
    }

    fn claimed(&mut self, worker: &WorkerId) {
        self.ctx.enter(WorkerState::Election);
        self.heartbeat_at = self.ctx.now;
        self.watch(worker);
    }

    fn watch(&mut self, worker: &WorkerId) {
        self.ctx.emit(Action::Watch { bucket: Bucket::Election, keys: vec!["leader".into()] });
        let ours = format!("assignment.{worker}");
        let keys = vec!["plan".into(), pause::KEY.into(), operator::KEY.into(), format!("{ours}.*"), ours];
        self.ctx.emit(Action::Watch { bucket: Bucket::Assignments, keys });
    }

    fn watch_heartbeats(&mut self) {
        self.ctx.emit(Action::Watch { bucket: Bucket::Heartbeats, keys: vec!["heartbeat.*".into()] });
    }

    /// Our ID is another's, or we are declared dead: nothing we held counts any more.
    fn fenced(&mut self) {
        self.health.leave(&mut self.ctx);
        self.abdicate();
        self.acceptance.forget_assignment();
        self.settled = None;
        self.ctx.emit(Action::Unwatch { bucket: Bucket::Assignments });
        // Who leaves needs no new ID.
        if self.leaving == Leaving::No {
            self.ctx.enter(WorkerState::ClaimingId);
            self.identity.begin(&mut self.ctx);
        }
    }

    fn abdicate(&mut self) {
        self.election.resign(&mut self.ctx);
        // The watch tells anew who leads.
        self.ctx.emit(Action::Watch { bucket: Bucket::Election, keys: vec!["leader".into()] });
        self.lead_changed(Change::LostLead);
    }

    fn lead_changed(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Won(term) => {
                let me = self.worker().map(|(_, incarnation)| incarnation);
                self.planner.begin(&mut self.ctx, term, me);
            }
            Change::LostLead => {
                self.planner.stop();
                self.roster = Roster::default();
                self.ctx.emit(Action::Unwatch { bucket: Bucket::Heartbeats });
            }
        }
    }

    fn shutdown(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        self.health.leave(&mut self.ctx);
        self.ctx.enter(WorkerState::Shutdown);
        self.leaving = Leaving::Draining { drained: false };
        self.heartbeat_at = self.ctx.now;
        self.ctx.emit(Action::Drain);
    }

    fn advance(&mut self) {
        self.ctx.forget_deadline();
        self.judge_health();
        self.identity.tick(&mut self.ctx);
        if let Some((worker, incarnation)) = self.worker() {
            self.beat(&worker, incarnation);
            if !matches!(self.leaving, Leaving::Releasing(_) | Leaving::Gone) {
                // Who is degraded neither plans nor judges: it must not keep the lead from somebody who could.
                let may_lead = self.health.is_connected() && !self.health.is_degraded();
                let change = self.election.tick(&mut self.ctx, (&worker, incarnation), may_lead);
                self.lead_changed(change);
            }
            if self.health.is_connected() && !self.health.is_degraded() {
                self.watch_leader(&worker);
                if self.planner.plan().is_some() {
                    let leaving = self.leaving != Leaving::No;
                    self.roster.include(&self.ctx, &worker, incarnation, leaving, &self.refusals, self.begun);
                    if self.roster.tick(&mut self.ctx, &worker) == Sight::Blind {
                        self.step_aside();
                    }
                }
                self.planner.tick(&mut self.ctx, &self.roster, &self.operator);
            }
        }
        self.settle();
        self.judge_start();
        self.leave();
    }

    fn judge_health(&mut self) {
        let state = self.ctx.state;
        match self.health.tick(&mut self.ctx) {
            Shift::None => {}
            Shift::Entered => self.resume = state,
            Shift::Left => self.recover(),
        }
    }

    /// Degraded mode is over: watchers may have missed anything, so that everything is read anew.
    fn recover(&mut self) {
        self.ctx.enter(self.resume);
        self.ctx.give_time(self.ctx.settings.degraded_behavior.recovery_grace_period);
        self.identity.renew_now(self.ctx.now);
        self.heartbeat_at = self.ctx.now;
        if let Some((worker, _)) = self.worker() {
            self.watch(&worker);
            if self.planner.plan().is_some() {
                self.watch_heartbeats();
            }
            self.acceptance.judge(&mut self.ctx, &worker);
        }
    }

    /// A leader that could do nothing leaves the lead to others for a while.
    fn step_aside(&mut self) {
        self.abdicate();
        self.election.sit_out(&self.ctx);
    }

    /// The leader's process is gone before its lease: bid for the lead now.
    fn watch_leader(&mut self, me: &WorkerId) {
        if self.leaving == Leaving::No
            && self.leading().is_none()
            && self.watchdog.tick(&mut self.ctx, me, self.acceptance.plan())
            && let Some((LeaderRecord { worker, incarnation, .. }, _)) = self.election.lease()
            && let (worker, incarnation) = (worker.clone(), *incarnation)
            && self.election.supersede(&mut self.ctx)
        {
            self.ctx.notice(Notice::LeaderSilent { worker, incarnation });
        }
    }

    fn judge_start(&mut self) {
        let by = *self.began.get_or_insert(self.ctx.now) + self.ctx.settings.startup_timeout;
        if self.is_started {
            return;
        }
        let works = self.ctx.state.is_processing() && self.ctx.state != WorkerState::Degraded;
        if works || self.leaving != Leaving::No {
            self.is_started = true;
        } else if let Some((bucket, group)) = self.stranger() {
            self.fail(StartFailure::AnotherGroup { bucket, group });
        } else if self.ctx.due(by) {
            let (state, waiting_for) = (self.ctx.state, self.waits_for());
            self.fail(StartFailure::TimedOut { state, waiting_for });
        } else {
            // Often enough to find out that the process was stopped.
            self.ctx.wake_at(self.ctx.now + self.ctx.settings.heartbeat_interval);
        }
    }

    /// Another group that has won a bucket which both had found empty: there is one lease and one plan.
    fn stranger(&self) -> Option<(Bucket, String)> {
        let found = |bucket, group: Option<&str>| group.map(|group| (bucket, group.to_owned()));
        found(Bucket::Election, self.election.stranger())
            .or_else(|| found(Bucket::Assignments, self.acceptance.stranger()))
    }

    /// The start cannot succeed. An ID that was not given back would look taken to the next one.
    fn fail(&mut self, failure: StartFailure) {
        self.is_started = true;
        if self.worker().is_none() {
            return self.ctx.emit(Action::Failed(failure));
        }
        self.health.leave(&mut self.ctx);
        self.ctx.enter(WorkerState::Shutdown);
        self.failure = Some((failure, self.ctx.now + GIVE_BACK));
        // It has never had anything to hand over.
        self.leaving = Leaving::Draining { drained: true };
    }

    fn waits_for(&self) -> &'static str {
        match self.ctx.state {
            WorkerState::Init => "a connection to NATS",
            WorkerState::ClaimingId => "answers from NATS about worker IDs",
            WorkerState::Election => "a leader to be elected",
            _ => "the leader to publish an assignment",
        }
    }

    fn settle(&mut self) {
        if self.ctx.state == WorkerState::Degraded {
            return;
        }
        if self.ctx.state == WorkerState::Election && self.election.leader().is_some() {
            self.ctx.enter(WorkerState::WaitingAssignment);
        }
        if self.ctx.state == WorkerState::WaitingAssignment && self.acceptance.accepted().is_some() {
            self.ctx.enter(WorkerState::Stable);
        }
        if self.settled.is_some() && self.settled == self.acceptance.accepted() {
            self.ctx.enter(WorkerState::Stable);
        }
    }

    fn beat(&mut self, worker: &WorkerId, incarnation: Incarnation) {
        let is_last = self.leaving == Leaving::Draining { drained: true } && self.has_said_goodbye;
        if self.beating
            || is_last
            || self.failure.is_some()
            || matches!(self.leaving, Leaving::Releasing(_) | Leaving::Gone)
            || !self.ctx.due(self.heartbeat_at)
        {
            return;
        }
        self.heartbeat_at = self.ctx.now + self.ctx.settings.heartbeat_interval;
        self.ctx.wake_at(self.heartbeat_at);
        let (term, version) = self.acceptance.highest();
        let record = HeartbeatRecord {
            v: FORMAT,
            group: Some(self.ctx.settings.group.clone()),
            incarnation,
            state: self.ctx.state,
            returning: Some(self.ctx.settings.shutdown_hold)
                .filter(|hold| self.leaving != Leaving::No && !hold.is_zero())
                .map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
            capacity: self.ctx.settings.capacity,
            labels: self.ctx.settings.labels.clone(),
            plugins: self.ctx.settings.plugins.clone(),
            owned: self.data_path.0,
            lag: self.data_path.1,
            refusals: self.refusals.clone(),
            begun: self.begun,
            term: term.max(self.election.highest),
            version,
        };
        let value = Context::encode(&record);
        let key = format!("heartbeat.{worker}");
        self.beating = true;
        self.last_beat = Some(self.ctx.state);
        // Whoever leads in the meantime must know for as long as it is awaited.
        let lifetime = if record.returning.is_some() { Lifetime::Hold } else { Lifetime::Heartbeat };
        self.ctx.write(Part::Heartbeat, Bucket::Heartbeats, &key, &value, Expect::Anything, lifetime);
    }

    fn leave(&mut self) {
        let by = self.failure.as_ref().map(|(_, by)| *by);
        match &self.leaving {
            _ if by.is_some_and(|by| self.ctx.due(by)) => self.finish(),
            // What is on its way would land after its deletion and haunt the others until it expires, or move the revision under it.
            Leaving::Draining { drained: true }
                if !(self.beating || self.identity.is_writing() || self.election.is_writing()) =>
            {
                let worker = self.worker();
                let leads_others = self.leading().is_some() && self.roster.members().any(|(_, m)| m.is_candidate());
                let failed = self.failure.is_some();
                let moves = failed || self.ctx.settings.shutdown_hold.is_zero();
                if moves && !failed && leads_others && !worker.as_ref().is_none_or(|(w, _)| self.planner.is_at_rest(w))
                {
                    return;
                }
                let mut open = BTreeSet::new();
                open.extend(self.election.resign(&mut self.ctx));
                self.planner.stop();
                if let Some((worker, _)) = worker {
                    // The last word of who comes back must stay readable, for a leader to come too.
                    if moves {
                        let key = format!("heartbeat.{worker}");
                        open.insert(self.ctx.delete(Part::Heartbeat, Bucket::Heartbeats, &key, Expect::Anything));
                    }
                    open.extend(self.identity.release(&mut self.ctx));
                }
                self.leaving = Leaving::Releasing(open);
                self.leave();
            }
            Leaving::Releasing(open) if open.is_empty() => self.finish(),
            _ => {}
        }
    }

    fn finish(&mut self) {
        self.leaving = Leaving::Gone;
        let failure = self.failure.take().map(|(failure, _)| Action::Failed(failure));
        self.ctx.emit(failure.unwrap_or(Action::Finished));
    }
}
