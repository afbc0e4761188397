//! One partition, the workers that own it in turn, and what surrounds them, in virtual time.
//!
//! Modelled are the record (compare-and-set; replies late, lost, or never although the write landed), the stream and
//! readers that start over, a handler whose state is the list of sequences it has applied, the output stream and the
//! dead letters. Every write of the record is checked when it lands: one owner per epoch, positions only grow, and the
//! snapshot is exactly the partition's messages up to the position. Everything random comes from one seed.

mod handler;
mod record;
mod stream;

use crate::machine::*;
use crate::record::{OwnershipRecord, decode};
use crate::testing::{Random, ms};
use crate::{Expect, Incarnation, StoredEntry, WorkerId, WriteOutcome};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use uuid::Uuid;

pub(super) use handler::{Fate, applied, snapshot};

pub(super) type Machine = PartitionMachine<Fate, String>;

pub(super) fn limits() -> Limits {
    Limits {
        batch_messages: 4,
        batch_bytes: 1000,
        queue_messages: 8,
        queue_bytes: 10_000,
        commit_interval: ms(1000),
        max_uncommitted: 6,
        max_attempts: 3,
        max_traps: 2,
        backoff: (ms(100), ms(2000)),
        on_exhausted: OnExhausted::DeadLetter,
        handover_timeout: ms(10_000),
        poll_interval: ms(500),
        max_snapshot_bytes: 100_000,
    }
}

pub(super) fn owner(number: u32, claim: u64) -> Owner {
    let uuid = Uuid::from_u64_pair(u64::from(number), claim);
    Owner { worker: WorkerId::new("worker", number), incarnation: Incarnation { claim, uuid } }
}

pub(super) fn machine(me: Owner, limits: Limits) -> Machine {
    let stream = StreamIdentity { name: "work".into(), created: "2026-01-01".into() };
    let id = PartitionId::from_keys(&["p"]).expect("a key");
    PartitionMachine::new(id, "g".into(), stream, me, "digest".into(), Position(0), limits)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Paused,
    Dead,
}

pub(super) struct Worker {
    pub(super) status: Status,
    claim: u64,
    machine: Option<Machine>,
    /// What is meant for an earlier machine, or for a call that was cut off, is dropped.
    run: u64,
    call: u64,
    instance: Option<Vec<u64>>,
    reader: Option<(u64, u64)>,
    inbox: VecDeque<Input<Fate, String>>,
}

/// What may go wrong, in percent of the occasions.
#[derive(Default, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) sends: u64,
    pub(super) traps: u64,
    pub(super) host: u64,
    pub(super) snapshots: u64,
    pub(super) opens: u64,
    pub(super) readers: u64,
}

enum Happening {
    Tell {
        to: usize,
        run: u64,
        input: Input<Fate, String>,
    },
    /// A call of the handler returns.
    Return {
        to: usize,
        run: u64,
        call: u64,
        command: Command<Fate, String>,
    },
    Land {
        from: usize,
        run: u64,
        value: String,
        expect: Expect,
        answer: bool,
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
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) workers: Vec<Worker>,
    pub(super) trouble: Trouble,
    /// The partition's messages by sequence; `head` is the stream's last sequence.
    pub(super) messages: BTreeMap<u64, Fate>,
    pub(super) letters: BTreeMap<String, u64>,
    pub(super) faults: u64,
    pub(super) moves: u64,
    pub(super) record: Option<StoredEntry>,
    limits: Limits,
    head: u64,
    assigned: usize,
    fleet: Fleet,
    published: BTreeMap<String, String>,
    output: Vec<String>,
    tries: BTreeMap<u64, u32>,
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
            messages: BTreeMap::new(),
            letters: BTreeMap::new(),
            faults: 0,
            moves: 0,
            record: None,
            limits,
            head: 0,
            assigned: 0,
            fleet: Fleet::default(),
            published: BTreeMap::new(),
            output: Vec::new(),
            tries: BTreeMap::new(),
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
                machine: None,
                run: 0,
                call: 0,
                instance: None,
                reader: None,
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

    fn forget(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.run += 1;
        worker.machine = None;
        worker.instance = None;
        worker.reader = None;
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

    // Time.

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until everything is handled and committed.
    pub(super) fn finish(&mut self, limit: Duration) {
        let until = self.now + limit;
        let last = self.messages.keys().next_back().copied().unwrap_or(0);
        while self.committed().is_none_or(|record| record.position.0 < last) {
            assert!(self.step(until), "not everything is handled within {limit:?}: {:?}", self.view());
        }
        self.check_outputs();
    }

    pub(super) fn view(&self) -> Option<PartitionView> {
        self.workers[self.assigned].machine.as_ref().map(PartitionMachine::view)
    }

    pub(super) fn committed(&self) -> Option<OwnershipRecord> {
        decode(self.record.as_ref()?.value.as_ref()?).ok()
    }

    fn step(&mut self, until: Duration) -> bool {
        let due = |worker: &Worker| worker.machine.as_ref()?.poll_timeout();
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
                if assigned && self.workers[to].status != Status::Dead && self.workers[to].machine.is_none() {
                    let me = owner(u32::try_from(to).expect("few"), self.workers[to].claim);
                    self.workers[to].machine = Some(machine(me, self.limits.clone()));
                }
                if self.workers[to].run == run {
                    self.give(to, input);
                }
            }
            Happening::Return { to, run, call, command } => {
                // A close cuts off a call of the handler, not what has been handed to NATS.
                let is_send = matches!(command, Command::Send(_));
                if self.workers[to].run == run && (is_send || self.workers[to].call == call) {
                    self.answer(to, command);
                }
            }
            Happening::Land { from, run, value, expect, answer } => {
                let outcome = self.land(from, value, expect);
                if answer {
                    let time = self.random.between(1, 10);
                    self.after(time, Happening::Tell { to: from, run, input: Input::Written(outcome) });
                }
            }
            Happening::Pump { to, run, reader } => self.pump(to, run, reader),
            Happening::Condemn { worker, claim } => {
                if self.workers[worker].claim == claim && self.workers[worker].status != Status::Running {
                    let id = WorkerId::new("worker", u32::try_from(worker).expect("few"));
                    self.fleet.live.remove(&id);
                    self.fleet.dead.insert(id, claim);
                    self.give_up_on(worker);
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

    fn tell(&mut self, to: usize, time: Duration, input: Input<Fate, String>) {
        let run = self.workers[to].run;
        self.after(time, Happening::Tell { to, run, input });
    }

    fn tick(&mut self, at: usize) {
        let now = Now(self.now);
        if let Some(machine) = &mut self.workers[at].machine {
            machine.handle_timeout(now);
        }
        self.drain(at);
    }

    fn give(&mut self, at: usize, input: Input<Fate, String>) {
        match self.workers[at].status {
            Status::Dead => return,
            Status::Paused => return self.workers[at].inbox.push_back(input),
            Status::Running => {}
        }
        if !matches!(input, Input::Passed { .. }) {
            let text = format!("#{at} < {input:?}");
            self.note(text.chars().take(300).collect());
        }
        let now = Now(self.now);
        if let Some(machine) = &mut self.workers[at].machine {
            machine.handle(now, input);
        }
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(command) = self.workers[at].machine.as_mut().and_then(PartitionMachine::poll_command) {
            let text = format!("#{at} > {command:?}");
            self.note(text.chars().take(400).collect());
            self.act(at, command);
        }
    }

    fn act(&mut self, at: usize, command: Command<Fate, String>) {
        let (run, trouble) = (self.workers[at].run, self.trouble);
        match command {
            Command::Read => {
                let answer = if self.random.chance(trouble.reads) { Err(()) } else { Ok(self.record.clone()) };
                let time = self.random.between(2, 20);
                self.tell(at, time, Input::Record(answer));
            }
            Command::Write { value, expect } => {
                let time = self.random.between(1, 10);
                let wrong = self.random.chance(trouble.writes).then(|| self.random.below(3));
                if wrong.is_some() {
                    self.tell(at, ms(1000), Input::Written(WriteOutcome::Unknown));
                }
                // Lost on the way, lost on the way back, or late.
                let time = if wrong == Some(2) { time + ms(1600) } else { time };
                if wrong != Some(0) {
                    self.after(time, Happening::Land { from: at, run, value, expect, answer: wrong.is_none() });
                }
            }
            Command::Open { .. } | Command::Handle(_) | Command::Snapshot | Command::Send(_) => {
                let (time, call) = (self.random.between(1, 60), self.workers[at].call);
                self.after(time, Happening::Return { to: at, run, call, command });
            }
            Command::Close(_) => {
                self.workers[at].instance = None;
                self.workers[at].call += 1;
                let time = self.random.between(1, 20);
                self.tell(at, time, Input::Closed);
            }
            Command::WantReader(mark) => self.start_reader(at, mark),
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
            Command::CheckStream => panic!("this world has one stream"),
        }
    }
}
