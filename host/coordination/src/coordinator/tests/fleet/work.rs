//! The data path: the machines of the partitions that a process is assigned, driven as the host's intake drives them, over one
//! bucket of records and one stream.

use super::requests::{News, Request};
use super::store::Store;
use super::{Fleet, Happening, Status};
use crate::coordinator::*;
use crate::machine::{Batch, Limits, Phase, Report};
use crate::record::{Owner, OwnershipRecord, Phase as RecordPhase};
use crate::testing::data_path::{self, Command, Fate, Input, Ledger, Objects, Task, limits, trace};
use crate::testing::ms;
use crate::{CloseReason, Now, PartitionId, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What all data paths share.
pub(crate) struct Work {
    /// The ownership bucket.
    pub(super) records: Store,
    pub(super) ledgers: BTreeMap<PartitionId, Ledger>,
    pub(super) objects: Objects,
    pub(super) trouble: data_path::Trouble,
    pub(super) limits: Limits,
    /// The bucket has lost something: from then on revisions come a second time, and a late write may meet one that it expects.
    pub(super) lost: bool,
    /// The stream's last sequence.
    pub(super) head: u64,
    /// Least and most milliseconds between two messages, as long as some are published.
    pace: Option<(u64, u64)>,
    /// Messages of each kind, or only fine ones.
    mixed: bool,
    /// Messages that kill whoever handles them, in percent, and how often one has.
    pub(crate) deadly: u64,
    pub(crate) killed: usize,
    /// Tasks and readers so far.
    count: u64,
    /// How often each partition was assigned to somebody who had it not.
    pub(super) moves: BTreeMap<PartitionId, u64>,
    /// When each partition's epoch has begun.
    pub(super) taken_at: BTreeMap<PartitionId, Duration>,
}

pub(super) struct Job {
    pub(super) task: Task,
    /// What is meant for an earlier task of the partition is dropped.
    pub(super) run: u64,
    pub(super) began: Duration,
    /// Fenced: it ends, whatever the plan says.
    ending: bool,
}

/// One process's.
#[derive(Default)]
pub(super) struct DataPath {
    pub(super) me: Option<Owner>,
    pub(super) jobs: BTreeMap<PartitionId, Job>,
    assigned: BTreeSet<PartitionId>,
    fleet: Arc<crate::Fleet>,
    rank: Option<(Term, Version)>,
    leaving: bool,
    told: Option<Event>,
    /// Who may try a message of which a worker may have died, and who waits for that.
    turns: VecDeque<(PartitionId, u64)>,
    /// When the first of its machines wants to be called.
    pub(super) due: Option<Now>,
}

impl Fleet {
    /// From now on processes do the work that they are assigned, and messages are published, so many milliseconds apart: of each
    /// kind, or only fine ones.
    pub(crate) fn with_work(&mut self, pace: (u64, u64), mixed: bool, trouble: data_path::Trouble) {
        // States within the record, beside it, and sometimes the one and sometimes the other.
        let inline_snapshot_bytes = self.random.pick(&[50_000, 0, 60]);
        self.work = Some(Work {
            records: Store::default(),
            ledgers: BTreeMap::new(),
            objects: Objects::default(),
            trouble,
            limits: Limits { inline_snapshot_bytes, rationed: self.seed.is_multiple_of(3), ..limits() },
            lost: false,
            head: 0,
            pace: Some(pace),
            mixed,
            deadly: 0,
            killed: 0,
            count: 0,
            moves: BTreeMap::new(),
            taken_at: BTreeMap::new(),
        });
        self.after(ms(pace.1), Happening::Produce);
    }

    /// Nothing more is published, and nothing more goes wrong on the way.
    pub(crate) fn work_calmly(&mut self) {
        if let Some(work) = &mut self.work {
            (work.pace, work.trouble) = (None, data_path::Trouble::default());
        }
    }

    // The plan.

    pub(super) fn assign_work(&mut self, at: usize, assigned: &Assigned) {
        let data = &mut self.processes[at].data;
        if data.leaving {
            return;
        }
        data.rank = Some((assigned.term, assigned.version));
        data.fleet = Arc::new(assigned.fleet.clone());
        data.assigned = assigned.partitions.iter().map(|p| p.id().clone()).collect();
        self.apply(at);
    }

    pub(super) fn fence_work(&mut self, at: usize) {
        let data = &mut self.processes[at].data;
        data.me = None;
        data.rank = None;
        data.assigned.clear();
        data.jobs.values_mut().for_each(|job| job.ending = true);
        for (id, run) in self.running(at) {
            self.give_data(at, &id, run, Input::Fenced);
        }
        self.figures(at);
    }

    pub(super) fn drain_work(&mut self, at: usize) {
        let data = &mut self.processes[at].data;
        data.leaving = true;
        data.assigned.clear();
        self.apply(at);
    }

    pub(super) fn running(&self, at: usize) -> Vec<(PartitionId, u64)> {
        self.processes[at].data.jobs.iter().map(|(id, job)| (id.clone(), job.run)).collect()
    }

    fn apply(&mut self, at: usize) {
        let data = &self.processes[at].data;
        let why = if data.leaving { CloseReason::Shutdown } else { CloseReason::Revoked };
        let missing: Vec<_> = data.assigned.iter().filter(|id| !data.jobs.contains_key(*id)).cloned().collect();
        for (id, run) in self.running(at) {
            let data = &self.processes[at].data;
            if data.jobs.get(&id).is_none_or(|job| job.ending) {
                continue;
            }
            let is_ours = data.assigned.contains(&id);
            let input = if is_ours { Input::Assigned(Arc::clone(&data.fleet)) } else { Input::Revoked(why) };
            self.give_data(at, &id, run, input);
        }
        for id in missing {
            self.begin_job(at, &id);
            self.drain_data(at, &id);
        }
        self.figures(at);
    }

    fn begin_job(&mut self, at: usize, id: &PartitionId) {
        let paused = self.is_paused(at, id);
        let (Some(work), process) = (&mut self.work, &mut self.processes[at]) else { return };
        let Some(me) = process.data.me.clone() else { return };
        work.count += 1;
        // Whoever is the first to own it begins at the stream's end.
        let start = Position(work.head);
        let mut task = Task::new(data_path::machine(id.clone(), me, start, work.limits.clone()));
        let fleet = Arc::clone(&process.data.fleet);
        let now = process.clock.read(self.now);
        task.machine.handle(now, Input::Paused(paused));
        task.machine.handle(now, Input::Assigned(fleet));
        let job = Job { task, run: work.count, began: self.now, ending: false };
        process.data.jobs.insert(id.clone(), job);
    }

    /// Tells the coordinator how the data path stands.
    fn figures(&mut self, at: usize) {
        let data = &self.processes[at].data;
        let phase = |job: &Job| job.task.machine.view().phase;
        let holds = |job: &Job| matches!(phase(job), Phase::Opening | Phase::Running);
        let owned = data.jobs.values().filter(|job| holds(job) || phase(job) == Phase::Releasing).count();
        let settled = data.jobs.len() == data.assigned.len() && data.jobs.values().all(|job| holds(job) && !job.ending);
        let event = if data.leaving && data.jobs.is_empty() {
            Event::Drained
        } else {
            let begun =
                data.jobs.len() == data.assigned.len() && data.jobs.values().all(|job| job.task.machine.view().begun);
            let (settled, begun) = (data.rank.filter(|_| settled), data.rank.filter(|_| begun));
            Event::DataPath { owned, lag: 0, settled, begun }
        };
        if data.told.as_ref() != Some(&event) && data.told != Some(Event::Drained) {
            self.processes[at].data.told = Some(event.clone());
            self.soon(at, News::Core(event));
        }
    }

    /// Tells a process something within it.
    fn soon(&mut self, at: usize, news: News) {
        let life = self.processes[at].life;
        self.after(ms(1), Happening::Tell { to: at, life, watch: None, news });
    }

    // The machines.

    pub(super) fn give_data(&mut self, at: usize, id: &PartitionId, run: u64, input: Input) {
        let process = &mut self.processes[at];
        let now = process.clock.read(self.now);
        let Some(job) = process.data.jobs.get_mut(id).filter(|job| job.run == run) else { return };
        let told = (self.traced && !matches!(input, Input::Passed { .. })).then(|| trace::input(&input));
        job.task.hears(&input);
        job.task.machine.handle(now, input);
        if let Some(told) = told {
            self.note(|_| format!("#{at} {id} {told}"));
        }
        self.drain_data(at, id);
        self.figures(at);
    }

    pub(super) fn tick_data(&mut self, at: usize) {
        for (id, _) in self.running(at) {
            let process = &mut self.processes[at];
            let now = process.clock.read(self.now);
            let Some(job) = process.data.jobs.get_mut(&id) else { continue };
            if job.task.machine.poll_timeout().is_none_or(|due| due > now) {
                continue;
            }
            job.task.machine.handle_timeout(now);
            let again = job.task.machine.poll_timeout();
            self.drain_data(at, &id);
            if again.is_some_and(|next| next <= now) {
                self.violated(format!("#{at} {id} asks to be called at a time that has come"));
            }
        }
        self.figures(at);
    }

    fn drain_data(&mut self, at: usize, id: &PartitionId) {
        while let Some((run, command)) = self.processes[at].data.next_command(id) {
            self.note(|_| format!("#{at} {id} {}", trace::command(&command)));
            self.carry_out(at, id, run, command);
        }
        let data = &mut self.processes[at].data;
        data.due = data.jobs.values().filter_map(|job| job.task.machine.poll_timeout()).min();
    }

    fn carry_out(&mut self, at: usize, id: &PartitionId, run: u64, command: Command) {
        let life = self.processes[at].life;
        let Some(job) = self.processes[at].data.jobs.get_mut(id) else { return };
        if let Some(wrong) = job.task.asks(&command) {
            return self.violated(format!("#{at} {id}: {wrong}"));
        }
        self.check_paused(at, id, &command);
        let Some(job) = self.processes[at].data.jobs.get_mut(id) else { return };
        match command {
            Command::Read
            | Command::Write { .. }
            | Command::Send(_)
            | Command::PutObject { .. }
            | Command::GetObject(_)
            | Command::DeleteObjects { .. } => {
                self.send(at, Request::Data(id.clone(), run, command));
            }
            Command::Open { .. } | Command::Handle(_) | Command::Snapshot => {
                let (instance, id) = (job.task.instances, id.clone());
                let time = self.random.between(1, 60);
                self.after(time, Happening::Return { at, life, id, run, instance, command });
            }
            Command::AskTurn => {
                let data = &mut self.processes[at].data;
                data.turns.push_back((id.clone(), run));
                self.give_turn(at, 1);
            }
            Command::EndTurn => {
                let data = &mut self.processes[at].data;
                let had = data.turns.front() == Some(&(id.clone(), run));
                data.turns.retain(|turn| *turn != (id.clone(), run));
                if had {
                    self.give_turn(at, usize::MAX);
                }
            }
            Command::AskCommit { .. } => {
                let (id, time) = (id.clone(), self.random.between(1, 3000));
                let news = News::Data(id, run, Input::MayCommit);
                self.after(time, Happening::Tell { to: at, life, watch: None, news });
            }
            Command::Close(_) => {
                job.task.close();
                self.soon(at, News::Data(id.clone(), run, Input::Closed));
            }
            Command::WantReader(mark) => {
                let time = self.random.between(1, 30);
                self.after(time, Happening::Attach { at, life, id: id.clone(), run, from: mark.0 + 1 });
            }
            Command::Released | Command::AskOwner => self.hint(at, id),
            Command::Gone => {
                self.processes[at].data.jobs.remove(id);
                if self.processes[at].data.assigned.contains(id) {
                    // Given back after it had ended.
                    self.begin_job(at, id);
                }
            }
            Command::Report(Report::Superseded(by)) => self.soon(at, News::Core(Event::Superseded(by))),
            Command::Report(Report::FencedOff) => self.check_fenced_off(at, id),
            Command::Report(_) => {}
            Command::Detach => self.violated(format!("#{at} {id}: leaves a consumer that there is not")),
            Command::CheckStream => self.violated(format!("#{at} {id}: asks for a stream that there is not")),
        }
    }

    /// The first who waits for it has the turn, if at most so many wait.
    fn give_turn(&mut self, at: usize, most: usize) {
        let turns = &self.processes[at].data.turns;
        if turns.len() <= most
            && let Some((id, run)) = turns.front().cloned()
        {
            self.soon(at, News::Data(id, run, Input::Turn));
        }
    }

    /// The process finds that the bucket is another than it was, or has gone back.
    pub(super) fn remind(&mut self, at: usize) {
        for (id, run) in self.running(at) {
            self.deliver(at, News::Data(id, run, Input::Hint));
        }
    }

    /// Whoever waits for the partition hears that it is free, if he can be reached.
    fn hint(&mut self, from: usize, id: &PartitionId) {
        if !self.processes[from].connected || self.processes[from].cut || !self.nats_runs {
            return;
        }
        self.announce(id);
    }

    /// Everybody who works on a partition or waits for it is told to look at its record.
    pub(super) fn announce(&mut self, id: &PartitionId) {
        for to in 0..self.processes.len() {
            let Some(run) = self.processes[to].data.jobs.get(id).map(|job| job.run) else { continue };
            let (time, life) = (self.random.between(1, 30), self.processes[to].life);
            let news = News::Data(id.clone(), run, Input::Hint);
            self.after(time, Happening::Tell { to, life, watch: None, news });
        }
    }

    /// A call of the handler returns.
    pub(super) fn returned(&mut self, at: usize, id: &PartitionId, run: u64, instance: u64, command: &Command) {
        let (Some(work), process) = (&mut self.work, &mut self.processes[at]) else { return };
        let job = process.data.jobs.get_mut(id).filter(|job| job.run == run && job.task.instances == instance);
        let Some(job) = job else { return };
        if let Command::Handle(batch) = command
            && work.pace.is_some()
            && batch.messages.iter().any(|message| message.body == Fate::Deadly)
        {
            return self.dies_of(at, id, batch);
        }
        let ledger = work.ledgers.entry(id.clone()).or_default();
        match job.task.call(command, ledger, &mut self.random, work.trouble) {
            Ok(input) => self.deliver(at, News::Data(id.clone(), run, input)),
            Err(wrong) => self.violated(format!("#{at} {id}: {wrong}")),
        }
    }

    /// The process dies of a message.
    fn dies_of(&mut self, at: usize, id: &PartitionId, batch: &Batch<Fate>) {
        // A death while the operator has moved the partition away already leaves no trace.
        let is_owner = |record: OwnershipRecord| {
            record.phase == RecordPhase::Owned && Some(&record.owner) == self.processes[at].data.me.as_ref()
        };
        let owns = self.record(id).is_some_and(is_owner);
        if let Some(work) = self.work.as_mut().filter(|_| owns) {
            work.killed += 1;
            if let Some(wrong) = work.ledgers.entry(id.clone()).or_default().kills(batch) {
                self.violated(format!("{id}: {wrong}"));
            }
        }
        self.kill(at);
    }

    // The stream and its readers.

    /// A message of a partition comes into the stream.
    fn publish(&mut self, id: &PartitionId, fate: Fate) {
        let Some(work) = &mut self.work else { return };
        work.head += 1 + self.random.below(3);
        let head = work.head;
        work.ledgers.entry(id.clone()).or_default().messages.insert(head, fate);
        self.note(|_| format!("message {head} of {id} is {fate:?}"));
        // Sometimes a reader tells of what belongs to others.
        let everybody = self.random.chance(10);
        for at in 0..self.processes.len() {
            for (of, run) in self.running(at) {
                let reader = self.processes[at].data.jobs.get(&of).and_then(|job| job.task.reader());
                if let Some(reader) = reader.filter(|_| everybody || of == *id) {
                    self.pump_soon(at, of, run, reader);
                }
            }
        }
    }

    /// One message, and soon the next.
    pub(super) fn produce(&mut self) {
        let Some((Some((least, most)), mixed)) = self.work.as_ref().map(|work| (work.pace, work.mixed)) else { return };
        let partitions: Vec<_> = self.partitions.iter().map(|p| p.id().clone()).collect();
        if let Some(id) = partitions.get(self.random.below(partitions.len() as u64) as usize) {
            let is_deadly = self.work.as_ref().is_some_and(|work| self.random.chance(work.deadly));
            let fate = if mixed { Fate::draw(&mut self.random) } else { Fate::Fine };
            let fate = if is_deadly { Fate::Deadly } else { fate };
            self.publish(id, fate);
        }
        let time = self.random.between(least, most);
        self.after(time, Happening::Produce);
    }

    fn pump_soon(&mut self, at: usize, id: PartitionId, run: u64, reader: u64) {
        let (time, life) = (self.random.between(1, 60), self.processes[at].life);
        self.after(time, Happening::Pump { at, life, id, run, reader });
    }

    fn is_served(&self, at: usize) -> bool {
        let process = &self.processes[at];
        process.status == Status::Running && process.connected && !process.cut && self.nats_runs && !self.mute
    }

    /// A reader begins, as soon as NATS can be reached.
    pub(super) fn attach(&mut self, at: usize, life: u64, id: PartitionId, run: u64, from: u64) {
        let is_there = self.processes[at].data.jobs.get(&id).is_some_and(|job| job.run == run);
        if self.processes[at].life != life || !is_there {
            return;
        }
        if !self.is_served(at) {
            let time = self.random.between(200, 1000);
            return self.after(time, Happening::Attach { at, life, id, run, from });
        }
        let Some(work) = &mut self.work else { return };
        work.count += 1;
        let number = work.count;
        let from = if self.random.chance(work.trouble.late_readers) {
            from + 1 + self.random.below(4)
        } else {
            from.saturating_sub(self.random.below(4)).max(1)
        };
        let Some(job) = self.processes[at].data.jobs.get_mut(&id) else { return };
        let started = job.task.read_from(number, from);
        self.give_data(at, &id, run, started);
        self.pump_soon(at, id, run, number);
    }

    /// A reader delivers something, or finds that NATS cannot be reached, and starts over.
    pub(super) fn pump(&mut self, at: usize, life: u64, id: PartitionId, run: u64, reader: u64) {
        let is_served = self.is_served(at);
        let (Some(work), process) = (&self.work, &mut self.processes[at]) else { return };
        let Some(job) = process.data.jobs.get_mut(&id).filter(|job| process.life == life && job.run == run) else {
            return;
        };
        let Some(from) = job.task.reads(reader) else { return };
        if !is_served || self.random.chance(work.trouble.readers) {
            return self.attach(at, life, id, run, from);
        }
        let told = job.task.read(work.ledgers.get(&id).unwrap_or(&Ledger::default()), work.head, &mut self.random);
        let more = job.task.reads(reader).is_some_and(|next| next <= work.head);
        for input in told {
            self.give_data(at, &id, run, input);
        }
        if more {
            self.pump_soon(at, id, run, reader);
        }
    }
}

impl DataPath {
    pub(super) fn identify(&mut self, me: Owner) {
        self.me = Some(me);
    }

    /// Whether the plan says that somebody has owned this partition.
    pub(super) fn has_begun(&self, id: &PartitionId) -> bool {
        self.fleet.has_begun(id)
    }

    fn next_command(&mut self, id: &PartitionId) -> Option<(u64, Command)> {
        let job = self.jobs.get_mut(id)?;
        Some((job.run, job.task.machine.poll_command()?))
    }
}
