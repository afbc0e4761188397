//! What there is in the model, and what can happen next.

use super::Budget;
use super::owner::{Job, Part, Step, Variant};
use crate::machine::{Fleet, TakeDecision, decide_take};
use crate::record::{OwnershipRecord, Phase};
use crate::testing::data_path::owner;
use crate::{Epoch, Generation, Position};

/// Messages of each partition; the first has sequence 1.
pub(super) const MESSAGES: [u8; 2] = [2, 1];

/// A run of a worker: its number and claim.
pub(super) type Run = (u8, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) revision: u8,
    pub(super) epoch: u8,
    pub(super) owner: Run,
    pub(super) released: bool,
    pub(super) position: u8,
    /// The messages that the state holds, in the order in which they were applied: two bits each.
    pub(super) state: u8,
}

/// The state after one more message.
pub(super) const fn then(state: u8, message: u8) -> u8 {
    state << 2 | message
}

/// A compare-and-set; without an expectation it overwrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) partition: u8,
    pub(super) record: Record,
    pub(super) expect: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) version: u8,
    /// Whose each partition is.
    pub(super) assigned: Vec<u8>,
    /// By worker: the claim that lives, and the highest that is dead.
    live: Vec<u8>,
    dead: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    alive: bool,
    pub(super) claim: u8,
    /// The plan that it has heard of last.
    pub(super) seen: Plan,
    pub(super) jobs: Vec<Job>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) budget: Budget,
    plan: Plan,
    pub(super) records: Vec<Option<Record>>,
    pub(super) workers: Vec<Worker>,
    /// Lost requests that may still land.
    pub(super) late: Vec<Write>,
    /// Who owned a partition no more has written its record.
    pub(super) fenced_wrote: bool,
    pub(super) went_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A worker reads a record and writes itself into it; or does so although its owner lives.
    Take(u8, u8),
    Overrule(u8, u8),
    Handle(u8, u8),
    Trap(u8, u8),
    Commit(u8, u8),
    Release(u8, u8),
    /// Sees whether what it holds is still its own.
    LookAgain(u8, u8),
    /// Its write lands and the reply comes.
    Land(u8, u8),
    LandUnheard(u8, u8),
    /// It is lost, to land later or never.
    Lose(u8, u8),
    /// After a lost compare or no reply: reads the record.
    Ask(u8, u8),
    LandLate(u8),
    /// A worker hears of the plan in force.
    Hear(u8),
    Move(u8, u8),
    Crash(u8),
    Restart(u8),
    /// The plan declares a worker dead and gives what it has to another.
    Judge(u8),
}

impl State {
    /// Nobody has heard of the plan.
    pub(super) fn cold(workers: usize, partitions: usize, budget: Budget) -> Self {
        let at_first = Plan { version: 0, assigned: Vec::new(), live: Vec::new(), dead: Vec::new() };
        let worker = Worker { alive: true, claim: 1, seen: at_first, jobs: vec![Job::default(); partitions] };
        let plan = Plan {
            version: 1,
            assigned: (0..partitions).map(|p| (p % workers) as u8).collect(),
            live: vec![1; workers],
            dead: vec![0; workers],
        };
        Self {
            budget,
            plan,
            records: vec![None; partitions],
            workers: vec![worker; workers],
            late: Vec::new(),
            fenced_wrote: false,
            went_back: false,
        }
    }

    /// Everybody has what the plan gives him.
    pub(super) fn held(workers: usize, partitions: usize, budget: Budget) -> Self {
        let mut state = Self::cold(workers, partitions, budget);
        for (p, at) in (0u8..).zip(state.plan.assigned.clone()) {
            let record = Record { revision: 1, epoch: 1, owner: (at, 1), released: false, position: 0, state: 0 };
            state.records[usize::from(p)] = Some(record);
            state.job(at, p).part = Part::Holding { ours: record, handled: 0, applied: 0 };
        }
        for (at, worker) in (0u8..).zip(&mut state.workers) {
            worker.seen = state.plan.clone();
            for (job, has) in worker.jobs.iter_mut().zip(&state.plan.assigned) {
                job.revoked = *has != at;
            }
        }
        state
    }

    pub(super) fn job(&mut self, at: u8, partition: u8) -> &mut Job {
        &mut self.workers[usize::from(at)].jobs[usize::from(partition)]
    }

    pub(super) fn record(&self, partition: u8) -> Option<Record> {
        self.records[usize::from(partition)]
    }

    /// What the code says about a partition that a worker waits for, by the plan that it has heard of.
    pub(super) fn decide(&self, at: u8, partition: u8) -> TakeDecision {
        let worker = &self.workers[usize::from(at)];
        let run = |(number, claim): Run| owner(u32::from(number), u64::from(claim));
        let found = self.record(partition).map(|record| OwnershipRecord {
            v: 1,
            group: String::new(),
            stream: crate::record::StreamIdentity { name: String::new(), created: String::new() },
            epoch: Epoch(u64::from(record.epoch)),
            generation: Generation(1),
            owner: run(record.owner),
            phase: if record.released { Phase::Released } else { Phase::Owned },
            position: Position(u64::from(record.position)),
            seen: None,
            attempts: None,
            seizes: 0,
            alone: None,
            handler: None,
            snapshot: None,
        });
        let mut fleet = Fleet::default();
        for (number, (live, dead)) in (0u8..).zip(worker.seen.live.iter().zip(&worker.seen.dead)) {
            let id = run((number, *live));
            if *dead > 0 {
                fleet.dead.insert(id.worker.clone(), u64::from(*dead));
            }
            if *live > 0 {
                fleet.live.insert(id.worker, id.incarnation);
            }
        }
        let me = run((at, worker.claim));
        decide_take(found.as_ref(), false, (&me.worker, me.incarnation), &fleet)
    }

    /// Applies a compare-and-set. Returns the record as it is there, if it holds.
    fn land(&mut self, write: Write, variant: Variant) -> Option<Record> {
        let found = self.record(write.partition);
        let revision = found.map_or(0, |record| record.revision);
        if write.expect.is_some_and(|expected| expected != revision) {
            return None;
        }
        let new = Record { revision: revision + 1, ..write.record };
        if let Some(old) = found {
            self.went_back |= new.position < old.position;
            let is_take = new.epoch == old.epoch + 1;
            self.fenced_wrote |= !is_take && ((new.epoch, new.owner) != (old.epoch, old.owner) || old.released);
        }
        self.records[usize::from(write.partition)] = Some(new);
        if new.released {
            // Whoever holds it hears that somebody else has released it.
            for worker in self.workers.iter_mut().filter(|worker| worker.alive) {
                worker.jobs[usize::from(write.partition)].doubt(new, variant);
            }
        }
        Some(new)
    }

    /// The record names a run that lives and does not hold the partition: its take has landed after it had given up.
    fn is_abandoned(&self, partition: u8) -> bool {
        self.record(partition).is_some_and(|record| {
            let (number, claim) = record.owner;
            let owner = &self.workers[usize::from(number)];
            let job = owner.jobs[usize::from(partition)];
            let holds = matches!(job.part, Part::Holding { ours, .. } if ours.epoch == record.epoch);
            !record.released && owner.alive && owner.claim == claim && !holds && job.step.is_none()
        })
    }

    pub(super) fn is_settled(&self) -> bool {
        self.records.iter().zip(&self.plan.assigned).zip(MESSAGES).all(|((record, owner), messages)| {
            let claim = self.workers[usize::from(*owner)].claim;
            record.is_some_and(|r| !r.released && r.position == messages && r.owner == (*owner, claim))
        })
    }

    fn places(&self) -> impl Iterator<Item = (u8, u8, &Worker, &Job)> {
        let alive = (0u8..).zip(&self.workers).filter(|(_, worker)| worker.alive);
        alive.flat_map(|(at, worker)| (0u8..).zip(&worker.jobs).map(move |(p, job)| (at, p, worker, job)))
    }

    /// What is bound to happen.
    pub(super) fn duties(&self, actions: &mut Vec<Action>) {
        for (at, p, _, job) in self.places() {
            match (job.step, job.part) {
                (Some(Step::Sent(_)), _) => actions.push(Action::Land(at, p)),
                (Some(Step::Unknown(_)), _) => actions.push(Action::Ask(at, p)),
                (None, Part::Waiting) => match self.decide(at, p) {
                    // After `handoverTimeout`.
                    TakeDecision::Wait if self.is_abandoned(p) => actions.push(Action::Take(at, p)),
                    TakeDecision::Wait => {}
                    _ => actions.push(Action::Take(at, p)),
                },
                (None, Part::Holding { .. }) if job.revoked => actions.push(Action::Release(at, p)),
                (None, Part::Holding { ours, handled, .. }) if handled > ours.position => {
                    actions.push(Action::Commit(at, p));
                }
                _ => {}
            }
            if let Part::Holding { handled, .. } = job.part {
                if handled < MESSAGES[usize::from(p)] && !job.revoked {
                    actions.push(Action::Handle(at, p));
                }
                // Who has nothing to commit hears with his next message that a late take of somebody else has landed.
                let overruled = handled == MESSAGES[usize::from(p)] && self.is_abandoned(p);
                if (job.doubts || overruled) && job.step.is_none() {
                    actions.push(Action::LookAgain(at, p));
                }
            }
        }
        for (at, worker) in (0u8..).zip(&self.workers) {
            let number = usize::from(at);
            if !worker.alive {
                actions.push(Action::Restart(at));
                if self.plan.live[number] == worker.claim {
                    actions.push(Action::Judge(at));
                }
            } else if worker.seen != self.plan {
                actions.push(Action::Hear(at));
            }
        }
    }

    /// What need not happen.
    pub(super) fn mishaps(&self, actions: &mut Vec<Action>) {
        let budget = self.budget;
        actions.extend((0u8..).zip(&self.late).map(|(at, _)| Action::LandLate(at)));
        for (at, p, _, job) in self.places() {
            match (job.step, job.part) {
                (Some(Step::Sent(_)), _) if budget.losses > 0 => {
                    actions.extend([Action::LandUnheard(at, p), Action::Lose(at, p)]);
                }
                (None, Part::Waiting) if budget.overruled > 0 && self.decide(at, p) == TakeDecision::Wait => {
                    actions.push(Action::Overrule(at, p));
                }
                _ => {}
            }
            if let Part::Holding { .. } = job.part
                && budget.traps > 0
            {
                actions.push(Action::Trap(at, p));
            }
        }
        for (at, worker) in (0u8..).zip(&self.workers).filter(|(_, worker)| worker.alive) {
            if budget.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            if budget.wrong_verdicts > 0 && self.plan.live[usize::from(at)] == worker.claim {
                actions.push(Action::Judge(at));
            }
            if budget.moves > 0 {
                let others = (0u8..).zip(&self.plan.assigned).filter(|(_, has)| **has != at);
                actions.extend(others.map(|(partition, _)| Action::Move(partition, at)));
            }
        }
    }

    pub(super) fn act(&mut self, action: Action, variant: Variant) {
        match action {
            Action::Take(at, p) => self.take(at, p),
            Action::Overrule(at, p) => {
                self.budget.overruled -= 1;
                self.take(at, p);
            }
            Action::Handle(at, p) => self.job(at, p).handle(),
            Action::Trap(at, p) => {
                self.budget.traps -= 1;
                self.job(at, p).trap(variant);
            }
            Action::Commit(at, p) => self.job(at, p).write(p, false, variant),
            Action::Release(at, p) => self.job(at, p).write(p, true, variant),
            Action::LookAgain(at, p) => {
                let found = self.record(p);
                self.job(at, p).confirm(found);
                self.obey(at, p);
            }
            Action::Land(at, p) => {
                if let Some(Step::Sent(write)) = self.job(at, p).step {
                    match self.land(write, variant) {
                        Some(record) => self.job(at, p).landed(record, variant),
                        None => self.job(at, p).step = Some(Step::Unknown(write)),
                    }
                }
                self.obey(at, p);
            }
            Action::LandUnheard(at, p) | Action::Lose(at, p) => {
                self.budget.losses -= 1;
                if let Some(Step::Sent(write)) = self.job(at, p).step {
                    if matches!(action, Action::Lose(..)) {
                        self.late.push(write);
                    } else {
                        self.land(write, variant);
                    }
                    self.job(at, p).step = Some(Step::Unknown(write));
                }
            }
            Action::Ask(at, p) => {
                let found = self.record(p);
                self.job(at, p).resolve(found, variant);
                self.obey(at, p);
            }
            Action::LandLate(at) => {
                let write = self.late.remove(usize::from(at));
                self.land(write, variant);
            }
            Action::Hear(at) => self.hear(at, variant),
            Action::Move(p, to) => {
                self.budget.moves -= 1;
                self.plan.version += 1;
                self.plan.assigned[usize::from(p)] = to;
            }
            Action::Crash(at) => {
                self.budget.crashes -= 1;
                self.workers[usize::from(at)].alive = false;
                self.lose_all(at);
            }
            Action::Restart(at) => {
                self.workers[usize::from(at)].alive = true;
                self.claim_afresh(at);
            }
            Action::Judge(at) => {
                let number = usize::from(at);
                if self.workers[number].alive {
                    self.budget.wrong_verdicts -= 1;
                }
                self.plan.version += 1;
                self.plan.dead[number] = self.workers[number].claim;
                self.plan.live[number] = 0;
                let others = (0u8..).zip(&self.plan.live).filter(|(other, live)| *other != at && **live > 0);
                if let Some((heir, _)) = others.max_by_key(|(other, _)| *other) {
                    self.plan.assigned.iter_mut().filter(|has| **has == at).for_each(|has| *has = heir);
                }
            }
        }
        if variant == Variant::WaitsForNobody {
            self.budget.overruled = 1;
        }
    }

    fn take(&mut self, at: u8, p: u8) {
        let me = (at, self.workers[usize::from(at)].claim);
        let found = self.record(p);
        self.job(at, p).take(p, me, found);
    }

    /// A run is over. What it has sent may still land.
    fn lose_all(&mut self, at: u8) {
        for job in &mut self.workers[usize::from(at)].jobs {
            if let Some(Step::Sent(write)) = std::mem::take(job).step {
                self.late.push(write);
            }
        }
    }

    /// A new run of a worker's ID: the plan lists it as soon as it is there.
    fn claim_afresh(&mut self, at: u8) {
        let number = usize::from(at);
        let worker = &mut self.workers[number];
        worker.claim += 1;
        worker.seen.version = 0;
        self.plan.version += 1;
        self.plan.live[number] = worker.claim;
    }

    fn hear(&mut self, at: u8, variant: Variant) {
        let number = usize::from(at);
        let plan = self.plan.clone();
        if plan.dead[number] >= self.workers[number].claim {
            self.lose_all(at);
            return self.claim_afresh(at);
        }
        let worker = &mut self.workers[number];
        let missed = plan.version > worker.seen.version + 1;
        worker.seen = plan;
        for (job, has) in worker.jobs.iter_mut().zip(&worker.seen.assigned) {
            let regained = job.revoked && *has == at;
            job.revoked = *has != at;
            job.doubts |= (missed || regained) && !job.revoked && variant != Variant::NeverLooksAgain;
        }
        for p in (0u8..).take(self.records.len()) {
            self.obey(at, p);
        }
    }

    /// Begins to wait for what the plan gives, and ends for what it does not.
    fn obey(&mut self, at: u8, p: u8) {
        let worker = &mut self.workers[usize::from(at)];
        let is_given = worker.seen.version > 0 && worker.seen.assigned[usize::from(p)] == at;
        let job = &mut worker.jobs[usize::from(p)];
        match job.part {
            Part::Idle if is_given => *job = Job { part: Part::Waiting, ..Job::default() },
            Part::Waiting if !is_given && job.step.is_none() => *job = Job::default(),
            _ => {}
        }
    }
}
