//! One partition, the workers that own it in turn, and what surrounds them, in virtual time.
//!
//! Modelled are the record (compare-and-set; replies late, lost, or never although the write landed) and readers that start
//! over; handler, messages and output are those of `testing::data_path`, with the laws that are checked whenever something is
//! written. The plan is drawn at random. Everything random comes from one seed.

mod record;
mod stream;

use crate::machine::*;
use crate::record::{OwnershipRecord, decode};
use crate::testing::data_path::{
    Command, Fate, HANDLER, Input, Ledger, Objects, Task, Trouble, no_answer, owner, trace,
};
use crate::testing::{Random, ms};
use crate::{Expect, StoredEntry, WorkerId, WriteOutcome};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Paused,
    Dead,
}

pub(super) struct Worker {
    pub(super) status: Status,
    claim: u64,
    task: Option<Task>,
    /// What is meant for an earlier task is dropped.
    run: u64,
    /// Its consumer is about to be made anew without the partition.
    detaching: bool,
    inbox: VecDeque<Input>,
}

enum Happening {
    Tell {
        to: usize,
        run: u64,
        input: Input,
    },
    /// A call of the handler returns.
    Return {
        to: usize,
        run: u64,
        instance: u64,
        command: Command,
    },
    Land {
        from: usize,
        run: u64,
        value: String,
        expect: Expect,
        answer: bool,
    },
    /// A request reaches the object store.
    Store {
        from: usize,
        run: u64,
        command: Command,
        answer: bool,
    },
    /// The partition leaves its consumer.
    Detach {
        from: usize,
        run: u64,
    },
    Pump {
        to: usize,
        run: u64,
        reader: u64,
    },
    /// The leader finds out that a worker is gone.
    Condemn {
        worker: usize,
        claim: u64,
    },
    Fence {
        worker: usize,
        claim: u64,
    },
    /// A worker that a message has killed comes back.
    Revive {
        worker: usize,
        claim: u64,
    },
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) workers: Vec<Worker>,
    pub(super) trouble: Trouble,
    /// Reads and writes of the record that go wrong, in percent.
    pub(super) lossy: u64,
    pub(super) ledger: Ledger,
    pub(super) objects: Objects,
    pub(super) faults: u64,
    pub(super) moves: u64,
    pub(super) record: Option<StoredEntry>,
    /// What it was before, since it was last lost, and whether it ever was.
    earlier: Vec<StoredEntry>,
    lost: bool,
    /// The revisions of a bucket that was made anew begin above this one.
    begins_above: u64,
    limits: Limits,
    /// The stream's last sequence.
    head: u64,
    assigned: usize,
    fleet: Fleet,
    readers: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    pub(super) random: Random,
    seed: u64,
    trace: VecDeque<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- seed {}; the last of the trace:", self.seed);
            self.trace.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, workers: usize, limits: Limits) -> Self {
        let mut world = Self {
            now: ms(1000),
            workers: Vec::new(),
            trouble: Trouble::default(),
            lossy: 0,
            ledger: Ledger::default(),
            objects: Objects::default(),
            faults: 0,
            moves: 0,
            record: None,
            earlier: Vec::new(),
            lost: false,
            begins_above: 0,
            limits,
            head: 0,
            assigned: 0,
            fleet: Fleet::default(),
            readers: 0,
            queue: BTreeMap::new(),
            order: 0,
            random: Random(seed),
            seed,
            trace: VecDeque::new(),
        };
        for number in 0..workers {
            world.workers.push(Worker {
                status: Status::Running,
                claim: 1,
                task: None,
                detaching: false,
                run: 0,
                inbox: VecDeque::new(),
            });
            world.enlist(number);
        }
        world.assign(0);
        world
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:9.3} {line}", self.now.as_secs_f64()));
    }

    fn after(&mut self, time: Duration, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + time, self.order), happening);
    }

    // The plan.

    fn enlist(&mut self, worker: usize) {
        let owner = owner(u32::try_from(worker).expect("few"), self.workers[worker].claim);
        self.fleet.live.insert(owner.worker, owner.incarnation);
        self.fleet.version = self.fleet.version.next();
    }

    /// The plan gives the partition to this worker; both learn of it in their own time.
    pub(super) fn assign(&mut self, to: usize) {
        self.note(format!("plan: #{to}"));
        self.fleet.version = self.fleet.version.next();
        let from = std::mem::replace(&mut self.assigned, to);
        if from != to {
            self.moves += 1;
            let time = self.random.between(1, 200);
            self.tell(from, time, Input::Revoked(CloseReason::Revoked));
        }
        let time = self.random.between(1, 200);
        let fleet = Arc::new(self.fleet.clone());
        self.tell(to, time, Input::Assigned(fleet));
    }

    fn give_up_on(&mut self, worker: usize) {
        let others: Vec<_> =
            (0..self.workers.len()).filter(|w| *w != worker && self.workers[*w].status == Status::Running).collect();
        let to = if others.is_empty() { worker } else { others[self.random.below(others.len() as u64) as usize] };
        let to = if self.assigned == worker { to } else { self.assigned };
        self.assign(to);
    }

    // Processes.

    pub(super) fn kill(&mut self, at: usize) {
        self.note(format!("kill #{at}"));
        self.faults += 1;
        let worker = &mut self.workers[at];
        worker.status = Status::Dead;
        self.forget(at);
        let claim = self.workers[at].claim;
        let time = self.random.between(1500, 3000);
        self.after(time, Happening::Condemn { worker: at, claim });
    }

    fn owns(&self, at: usize) -> bool {
        let me = owner(u32::try_from(at).expect("few"), self.workers[at].claim);
        self.committed().is_some_and(|record| record.owner == me)
    }

    fn forget(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.run += 1;
        worker.task = None;
        worker.detaching = false;
        worker.inbox.clear();
    }

    pub(super) fn restart(&mut self, at: usize) {
        self.note(format!("restart #{at}"));
        self.workers[at].status = Status::Running;
        self.begin_again(at);
    }

    /// A new run of the worker's ID.
    fn begin_again(&mut self, at: usize) {
        self.forget(at);
        self.workers[at].claim += 1;
        self.enlist(at);
        if self.assigned == at {
            self.assign(at);
        }
    }

    pub(super) fn pause(&mut self, at: usize) {
        self.note(format!("pause #{at}"));
        self.faults += 1;
        self.workers[at].status = Status::Paused;
        let claim = self.workers[at].claim;
        let time = self.random.between(4000, 7500);
        self.after(time, Happening::Condemn { worker: at, claim });
    }

    pub(super) fn resume(&mut self, at: usize) {
        self.note(format!("resume #{at}"));
        self.workers[at].status = Status::Running;
        if self.random.chance(50) {
            self.tick(at);
        }
        for input in std::mem::take(&mut self.workers[at].inbox) {
            self.give(at, input);
        }
        let me = owner(u32::try_from(at).expect("few"), self.workers[at].claim);
        if self.fleet.is_dead(&me.worker, &me.incarnation) {
            // It reads the plan some time after it has gone on working.
            let (time, claim) = (self.random.between(1, 2000), self.workers[at].claim);
            self.after(time, Happening::Fence { worker: at, claim });
        }
    }

    /// The worker's host wants another version of the handler, or judges the one that is on trial.
    pub(super) fn swap(&mut self, at: usize) {
        let to = self.random.pick(&[HANDLER, "other"]);
        let on_trial = self.random.chance(70);
        self.order_version(at, to, on_trial);
    }

    /// Every worker goes on with the first version.
    pub(super) fn end_swaps(&mut self) {
        for at in 0..self.workers.len() {
            self.order_version(at, HANDLER, false);
        }
    }

    /// What a version on trial has handled is written by nobody.
    fn check_trial(&self, at: usize, value: &str) {
        let view = self.workers[at].task.as_ref().map(|task| task.machine.view());
        let committed = view.filter(|view| view.trial.is_some()).map(|view| view.position);
        let written = decode::<OwnershipRecord>(value.as_bytes()).ok().map(|record| record.position);
        assert!(committed.is_none() || committed == written, "#{at} commits what is on trial");
    }

    fn order_version(&mut self, at: usize, to: &str, on_trial: bool) {
        let order = SwapOrder { to: to.into(), on_trial, discard_state: false };
        let time = self.random.between(1, 30);
        self.tell(at, time, Input::Swap(order));
    }

    // Time.

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until everything is handled and committed.
    pub(super) fn finish(&mut self, limit: Duration) {
        let until = self.now + limit;
        let last = self.ledger.messages.keys().next_back().copied().unwrap_or(0);
        while self.committed().is_none_or(|record| record.position.0 < last) {
            assert!(self.step(until), "not everything is handled within {limit:?}: {:?}", self.view());
        }
    }

    pub(super) fn view(&self) -> Option<PartitionView> {
        self.workers[self.assigned].task.as_ref().map(|task| task.machine.view())
    }

    pub(super) fn committed(&self) -> Option<OwnershipRecord> {
        decode(self.record.as_ref()?.value.as_ref()?).ok()
    }

    fn step(&mut self, until: Duration) -> bool {
        let due = |worker: &Worker| worker.task.as_ref()?.machine.poll_timeout();
        let timer = (0..self.workers.len())
            .filter(|at| self.workers[*at].status == Status::Running)
            .filter_map(|at| Some((due(&self.workers[at])?.0.max(self.now), at)))
            .min();
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        if let Some((when, at)) = timer
            && queued.is_none_or(|q| when <= q)
        {
            if when > until {
                return false;
            }
            self.now = when;
            self.tick(at);
            let again = due(&self.workers[at]);
            assert!(again.is_none_or(|next| next.0 > self.now), "#{at} asks to be called at a time that has come");
            return true;
        }
        if queued.is_none_or(|q| q > until) {
            return false;
        }
        let Some(((when, _), happening)) = self.queue.pop_first() else { return false };
        self.now = when;
        match happening {
            Happening::Tell { to, run, input } => {
                let assigned = matches!(input, Input::Assigned(_));
                if assigned && self.workers[to].status != Status::Dead && self.workers[to].task.is_none() {
                    let me = owner(u32::try_from(to).expect("few"), self.workers[to].claim);
                    self.workers[to].task = Some(Task::new(super::machine(me, self.limits.clone())));
                }
                if self.workers[to].run == run {
                    self.give(to, input);
                }
            }
            Happening::Return { to, run, instance, command } => self.answer(to, run, instance, command),
            Happening::Land { from, run, value, expect, answer } => {
                let outcome = self.land(from, value, expect);
                if answer {
                    let time = self.random.between(1, 10);
                    self.after(time, Happening::Tell { to: from, run, input: Input::Written(outcome) });
                }
            }
            Happening::Store { from, run, command, answer } => {
                let told = self.store(&command);
                if let Some(input) = told.filter(|_| answer) {
                    let time = self.random.between(1, 10);
                    self.after(time, Happening::Tell { to: from, run, input });
                }
            }
            Happening::Pump { to, run, reader } => self.pump(to, run, reader),
            Happening::Detach { from, run } => {
                if self.workers[from].run == run {
                    // Unless it is wanted again since.
                    if std::mem::take(&mut self.workers[from].detaching)
                        && let Some(task) = &mut self.workers[from].task
                    {
                        task.stop_reading();
                    }
                    self.give(from, Input::Detached);
                }
            }
            Happening::Condemn { worker, claim } => {
                if self.workers[worker].claim == claim && self.workers[worker].status != Status::Running {
                    let id = WorkerId::new("worker", u32::try_from(worker).expect("few"));
                    self.fleet.live.remove(&id);
                    self.fleet.dead.insert(id, claim);
                    self.give_up_on(worker);
                }
            }
            Happening::Revive { worker, claim } => {
                if self.workers[worker].claim == claim && self.workers[worker].status == Status::Dead {
                    self.restart(worker);
                }
            }
            Happening::Fence { worker, claim } => {
                if self.workers[worker].claim == claim && self.workers[worker].status == Status::Running {
                    self.give(worker, Input::Fenced);
                    self.begin_again(worker);
                }
            }
        }
        true
    }

    fn tell(&mut self, to: usize, time: Duration, input: Input) {
        let run = self.workers[to].run;
        self.after(time, Happening::Tell { to, run, input });
    }

    fn tick(&mut self, at: usize) {
        let now = Now(self.now);
        if let Some(task) = &mut self.workers[at].task {
            task.machine.handle_timeout(now);
        }
        self.drain(at);
    }

    fn give(&mut self, at: usize, input: Input) {
        match self.workers[at].status {
            Status::Dead => return,
            Status::Paused => return self.workers[at].inbox.push_back(input),
            Status::Running => {}
        }
        if !matches!(input, Input::Passed { .. }) {
            self.note(format!("#{at} {}", trace::input(&input)));
        }
        let now = Now(self.now);
        if let Some(task) = &mut self.workers[at].task {
            task.hears(&input);
            task.machine.handle(now, input);
        }
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(command) = self.workers[at].task.as_mut().and_then(|task| task.machine.poll_command()) {
            self.note(format!("#{at} {}", trace::command(&command)));
            self.act(at, command);
        }
    }

    fn act(&mut self, at: usize, command: Command) {
        let (run, lossy) = (self.workers[at].run, self.lossy);
        assert_eq!(self.workers[at].task.as_mut().and_then(|task| task.asks(&command)), None);
        match command {
            Command::Read => {
                let answer = if self.random.chance(lossy) { Err(()) } else { Ok(self.record.clone()) };
                let time = self.random.between(2, 20);
                self.tell(at, time, Input::Record(answer));
            }
            Command::Write { value, expect } => {
                self.check_trial(at, &value);
                let time = self.random.between(1, 10);
                let wrong = self.random.chance(lossy).then(|| self.random.below(3));
                if wrong.is_some() {
                    self.tell(at, ms(1000), Input::Written(WriteOutcome::Unknown));
                }
                // Lost on the way, lost on the way back, or late.
                let time = if wrong == Some(2) { time + ms(1600) } else { time };
                if wrong != Some(0) {
                    self.after(time, Happening::Land { from: at, run, value, expect, answer: wrong.is_none() });
                }
            }
            Command::PutObject { .. } | Command::GetObject(_) | Command::DeleteObjects { .. } => {
                let time = self.random.between(1, 30);
                let wrong = self.random.chance(lossy).then(|| self.random.below(3));
                if let Some(input) = no_answer(&command).filter(|_| wrong.is_some()) {
                    self.tell(at, ms(1000), input);
                }
                // Lost on the way, lost on the way back, or late.
                let time = if wrong == Some(2) { time + ms(1600) } else { time };
                if wrong != Some(0) {
                    self.after(time, Happening::Store { from: at, run, command, answer: wrong.is_none() });
                }
            }
            Command::Open { .. } | Command::Handle(_) | Command::Snapshot | Command::Send(_) => {
                let instance = self.workers[at].task.as_ref().map_or(0, |task| task.instances);
                let time = self.random.between(1, 60);
                self.after(time, Happening::Return { to: at, run, instance, command });
            }
            Command::Close(_) => {
                if let Some(task) = &mut self.workers[at].task {
                    task.close();
                }
                let time = self.random.between(1, 20);
                self.tell(at, time, Input::Closed);
            }
            Command::WantReader(mark) => {
                self.workers[at].detaching = false;
                self.start_reader(at, mark);
            }
            Command::Detach => {
                self.workers[at].detaching = true;
                let time = self.random.between(1, 300);
                self.after(time, Happening::Detach { from: at, run });
            }
            Command::Released => {
                let (to, time) = (self.assigned, self.random.between(1, 30));
                self.tell(to, time, Input::Hint);
            }
            Command::Gone => {
                self.forget(at);
                if self.assigned == at {
                    // Fenced or given back: a new machine for what the plan says now.
                    let fleet = Arc::new(self.fleet.clone());
                    self.tell(at, ms(5), Input::Assigned(fleet));
                }
            }
            Command::Report(_) => {}
            Command::AskTurn => {
                let time = self.random.between(1, 30);
                self.tell(at, time, Input::Turn);
            }
            Command::EndTurn => {}
            Command::AskCommit { .. } => {
                let time = self.random.between(1, 3000);
                self.tell(at, time, Input::MayCommit);
            }
            Command::AskOwner => {
                for to in 0..self.workers.len() {
                    let time = self.random.between(1, 30);
                    self.tell(to, time, Input::Hint);
                }
            }
            Command::CheckStream => panic!("this world has one stream"),
        }
    }

    fn answer(&mut self, at: usize, run: u64, instance: u64, command: Command) {
        if self.workers[at].run != run {
            return;
        }
        let trouble = self.trouble;
        if let Command::Send(outgoing) = command {
            // What fails has got somewhere.
            let fails = self.random.chance(trouble.sends);
            let sent = if fails { self.random.below(outgoing.len() as u64 + 1) as usize } else { outgoing.len() };
            let wrong = outgoing.iter().take(sent).find_map(|one| self.ledger.receive(one));
            assert_eq!(wrong, None);
            return self.give(at, Input::Sent(if fails { Err("no answer".into()) } else { Ok(()) }));
        }
        if let Command::Handle(batch) = &command
            && batch.messages.iter().any(|message| message.body == Fate::Deadly)
        {
            let wrong = if self.owns(at) { self.ledger.kills(batch) } else { None };
            assert_eq!(wrong, None);
            let (claim, time) = (self.workers[at].claim, self.random.between(200, 4000));
            self.kill(at);
            return self.after(time, Happening::Revive { worker: at, claim });
        }
        // A close cuts off a call of the handler, not what has been handed to NATS.
        let Some(task) = self.workers[at].task.as_mut().filter(|task| task.instances == instance) else { return };
        match task.call(&command, &mut self.ledger, &mut self.random, trouble) {
            Ok(input) => self.give(at, input),
            Err(wrong) => panic!("{wrong}"),
        }
    }
}
