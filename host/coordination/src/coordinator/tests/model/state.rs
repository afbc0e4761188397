//! What there is in the model, and what can happen next.

use super::Faults;
use super::leader::{Role, Step, Variant};

/// The most workers that there may be.
pub(super) const WORKERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Plan {
    pub(super) term: u8,
    /// Who leads by it.
    pub(super) leader: u8,
    pub(super) version: u8,
    pub(super) live: u8,
    pub(super) dead: u8,
    pub(super) changed: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Assignment {
    pub(super) term: u8,
    pub(super) version: u8,
    pub(super) has: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Lease { worker: u8, term: u8 },
    Plan(Plan),
    Assignment(Assignment),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Lease,
    Plan,
    Assignment(u8),
}

/// A value or a marker, with its revision; 0 = never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Entry {
    pub(super) revision: u8,
    pub(super) value: Option<Value>,
}

/// A compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) by: u8,
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) expect: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    pub(super) alive: bool,
    pub(super) role: Role,
    /// The highest term and version seen.
    pub(super) term: u8,
    pub(super) version: u8,
    /// What it was told last.
    told: u8,
    plan: Option<Plan>,
    assignment: Option<Assignment>,
    pub(super) accepted: (u8, u8),
    pub(super) has: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    faults: Faults,
    /// As bits: every worker, and every partition, of which there are as many.
    pub(super) all: u8,
    revision: u8,
    lease: Entry,
    plan: Entry,
    assignments: [Entry; WORKERS],
    pub(super) workers: Vec<Worker>,
    /// Lost requests that may still land.
    late: Vec<Write>,
    /// Who has written plans, by term.
    writers: Vec<Option<u8>>,
    pub(super) two_writers: bool,
    pub(super) went_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A leader or a bidder takes its next step.
    Go(u8),
    /// The same, of several the one for this worker.
    Assign(u8, u8),
    /// Its request lands and the reply comes.
    Land(u8),
    LandUnheard(u8),
    /// Its request is lost, to land later or never.
    Lose(u8),
    Ask(u8),
    LandLate(u8),
    Told(u8),
    StepDown(u8),
    Judge(u8, u8),
    Expire,
    Crash(u8),
}

impl State {
    pub(super) fn cold(workers: usize, faults: Faults) -> Self {
        let worker = Worker {
            alive: true,
            role: Role::Follower,
            term: 0,
            version: 0,
            told: 0,
            plan: None,
            assignment: None,
            accepted: (0, 0),
            has: 0,
        };
        Self {
            faults,
            all: (1 << workers) - 1,
            revision: 0,
            lease: Entry::default(),
            plan: Entry::default(),
            assignments: [Entry::default(); WORKERS],
            workers: vec![worker; workers],
            late: Vec::new(),
            writers: Vec::new(),
            two_writers: false,
            went_back: false,
        }
    }

    /// Worker 0 leads, and each worker has one partition.
    pub(super) fn settled(workers: usize, faults: Faults) -> Self {
        let mut state = Self::cold(workers, faults);
        let plan = Plan { term: 1, leader: 0, version: 1, live: state.all, dead: 0, changed: state.all };
        state.lease = Entry { revision: 1, value: Some(Value::Lease { worker: 0, term: 1 }) };
        state.plan = Entry { revision: 2, value: Some(Value::Plan(plan)) };
        state.writers = vec![None, Some(0)];
        for (at, worker) in state.workers.iter_mut().enumerate() {
            let assignment = Assignment { term: 1, version: 1, has: 1 << at };
            state.revision = 3 + at as u8;
            state.assignments[at] = Entry { revision: state.revision, value: Some(Value::Assignment(assignment)) };
            (worker.term, worker.version, worker.told) = (1, 1, state.revision);
            (worker.plan, worker.assignment) = (Some(plan), Some(assignment));
            (worker.accepted, worker.has) = ((1, 1), assignment.has);
        }
        state.workers[0].role = Role::Ready { term: 1, plan, revision: 2, known: state.assignments, live: state.all };
        state
    }

    pub(super) fn plan(&self) -> Plan {
        match self.plan.value {
            Some(Value::Plan(plan)) => plan,
            _ => Plan::default(),
        }
    }

    pub(super) fn read(&self, key: Key) -> Entry {
        match key {
            Key::Lease => self.lease,
            Key::Plan => self.plan,
            Key::Assignment(of) => self.assignments[usize::from(of)],
        }
    }

    pub(super) fn list(&self) -> [Entry; WORKERS] {
        self.assignments
    }

    /// Applies a compare-and-set. Returns the revision if it holds.
    fn land(&mut self, write: Write) -> Option<u8> {
        if self.read(write.key).revision != write.expect {
            return None;
        }
        self.revision += 1;
        let entry = Entry { revision: self.revision, value: Some(write.value) };
        match write.key {
            Key::Lease => self.lease = entry,
            Key::Plan => self.plan = entry,
            Key::Assignment(of) => self.assignments[usize::from(of)] = entry,
        }
        let term = match write.value {
            Value::Lease { .. } => return Some(self.revision),
            Value::Plan(plan) => plan.term,
            Value::Assignment(assignment) => assignment.term,
        };
        let at = usize::from(term);
        if self.writers.len() <= at {
            self.writers.resize(at + 1, None);
        }
        self.two_writers |= *self.writers[at].get_or_insert(write.by) != write.by;
        Some(self.revision)
    }

    /// The next thing that a worker's watch tells: the oldest of what it has not been told.
    fn news(&self, at: usize) -> Option<Entry> {
        let keys = [self.plan, self.assignments[at]];
        keys.into_iter().filter(|e| e.revision > self.workers[at].told).min_by_key(|e| e.revision)
    }

    pub(super) fn is_settled(&self) -> bool {
        let alive = || self.workers.iter().filter(|w| w.alive);
        let leads = |w: &&Worker| matches!(w.role, Role::Ready { .. });
        let rank = (self.plan().term, self.plan().version);
        alive().next().is_none()
            || (alive().filter(leads).count() == 1
                && alive().all(|w| w.accepted == rank)
                && alive().fold(0, |all, w| all | w.has) == self.all)
    }

    pub(super) fn actions(&self, actions: &mut Vec<Action>) {
        for (at, worker) in (0u8..).zip(&self.workers).filter(|(_, w)| w.alive) {
            match &worker.role {
                Role::Follower if self.lease.value.is_none() => actions.push(Action::Go(at)),
                Role::Follower => {}
                role => match role.step() {
                    Some(Step::Sent(_)) => {
                        actions.push(Action::Land(at));
                        if self.faults.losses > 0 {
                            actions.extend([Action::LandUnheard(at), Action::Lose(at)]);
                        }
                    }
                    Some(Step::Unknown(_)) => actions.push(Action::Ask(at)),
                    None => self.leader_actions(at, role, actions),
                },
            }
            if worker.role.leads().is_some_and(|term| self.lease.value != Some(Value::Lease { worker: at, term })) {
                actions.push(Action::StepDown(at));
            }
            if self.news(usize::from(at)).is_some() {
                actions.push(Action::Told(at));
            }
            if self.faults.crashes > 0 {
                actions.push(Action::Crash(at));
            }
        }
        actions.extend((0u8..).zip(&self.late).map(|(at, _)| Action::LandLate(at)));
        let leader = match self.lease.value {
            Some(Value::Lease { worker, .. }) => Some(&self.workers[usize::from(worker)]),
            _ => None,
        };
        // The lease of the dead, or of one who has given up, expires in the end.
        let must = leader.is_some_and(|w| !w.alive || matches!(w.role, Role::Follower));
        if (must && actions.is_empty()) || (leader.is_some() && self.faults.expiries > 0) {
            actions.push(Action::Expire);
        }
    }

    fn leader_actions(&self, at: u8, role: &Role, actions: &mut Vec<Action>) {
        match role {
            Role::Writing { todo, .. } => {
                actions.extend((0u8..).zip(todo).filter(|(_, a)| a.is_some()).map(|(of, _)| Action::Assign(at, of)));
            }
            Role::Ready { live, known, .. } => {
                if role.must_plan(known, self.all) {
                    actions.push(Action::Go(at));
                }
                for (other, worker) in (0u8..).zip(&self.workers) {
                    let may = !worker.alive || self.faults.wrong_verdicts > 0;
                    if other != at && live & (1 << other) != 0 && may {
                        actions.push(Action::Judge(at, other));
                    }
                }
            }
            _ => actions.push(Action::Go(at)),
        }
    }

    pub(super) fn act(&mut self, action: Action, variant: Variant) {
        match action {
            Action::Go(at) => self.go(at, variant),
            Action::Assign(at, of) => self.assign(at, of),
            Action::Land(at) => {
                if let Some(Step::Sent(write)) = self.workers[usize::from(at)].role.step() {
                    match self.land(write) {
                        Some(revision) => self.landed(at, revision),
                        None => self.workers[usize::from(at)].role.ask(),
                    }
                }
            }
            Action::LandUnheard(at) => {
                self.faults.losses -= 1;
                if let Some(Step::Sent(write)) = self.workers[usize::from(at)].role.step() {
                    self.land(write);
                }
                self.workers[usize::from(at)].role.ask();
            }
            Action::Lose(at) => {
                self.faults.losses -= 1;
                if let Some(Step::Sent(write)) = self.workers[usize::from(at)].role.step() {
                    self.late.push(write);
                }
                self.workers[usize::from(at)].role.ask();
            }
            Action::Ask(at) => self.ask(at, variant),
            Action::LandLate(at) => {
                let write = self.late.remove(usize::from(at));
                self.land(write);
            }
            Action::Told(at) => self.told(usize::from(at)),
            Action::StepDown(at) => self.workers[usize::from(at)].role = Role::Follower,
            Action::Judge(at, other) => {
                if self.workers[usize::from(other)].alive {
                    self.faults.wrong_verdicts -= 1;
                }
                if let Role::Ready { live, .. } = &mut self.workers[usize::from(at)].role {
                    *live &= !(1 << other);
                }
            }
            Action::Expire => {
                self.faults.expiries = self.faults.expiries.saturating_sub(1);
                self.revision += 1;
                self.lease = Entry { revision: self.revision, value: None };
            }
            Action::Crash(at) => {
                self.faults.crashes -= 1;
                let worker = &mut self.workers[usize::from(at)];
                // What it had sent may still land.
                if let Some(Step::Sent(write)) = worker.role.step() {
                    self.late.push(write);
                }
                self.dies(usize::from(at));
            }
        }
    }

    /// A worker is no more: crashed, or fenced and started afresh under another incarnation, which the model leaves out.
    fn dies(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        (worker.alive, worker.role, worker.has) = (false, Role::Follower, 0);
        (worker.plan, worker.assignment, worker.told) = (None, None, 0);
    }

    /// A watch tells something; the worker obeys the plan, and its own assignment if that is of the plan's term.
    fn told(&mut self, at: usize) {
        let Some(entry) = self.news(at) else { return };
        let worker = &mut self.workers[at];
        worker.told = entry.revision;
        match entry.value {
            Some(Value::Plan(plan)) => {
                worker.term = worker.term.max(plan.term);
                worker.version = worker.version.max(plan.version);
                if worker.plan.is_some_and(|old| (old.term, old.version) > (plan.term, plan.version)) {
                    return;
                }
                worker.plan = Some(plan);
                if plan.dead & (1 << at) != 0 {
                    return self.dies(at);
                }
            }
            Some(Value::Assignment(new)) => {
                if worker.assignment.is_some_and(|old| (old.term, old.version) > (new.term, new.version)) {
                    return;
                }
                worker.assignment = Some(new);
            }
            _ => return,
        }
        let (Some(plan), Some(assignment)) = (worker.plan, worker.assignment) else { return };
        let awaited = plan.changed & (1 << at) != 0 && assignment.version < plan.version;
        let listed = plan.live & (1 << at) != 0;
        if assignment.term != plan.term || assignment.version > plan.version || awaited || !listed {
            return;
        }
        let rank = (plan.term, plan.version);
        self.went_back |= rank < worker.accepted;
        (worker.accepted, worker.has) = (rank, assignment.has);
    }
}
