//! A whole fleet in one thread: coordinators against a model of NATS and of processes, in virtual time.
//!
//! The model has what the protocol must survive: compare-and-set with revisions, expiry and deletion that leave markers,
//! replies that come late or never although the write landed, watches that lag and are told anew, processes that die, stop
//! or lose their connection. Everything random comes from one seed. A failing test prints its seed and the trace.

use super::super::*;
use crate::record::{PlanRecord, decode};
use crate::strategy::ConsistentHash;
use crate::{Partition, PartitionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> Duration {
        ms(least + self.below(most - least + 1))
    }
}

/// One KV bucket.
#[derive(Default)]
struct Store {
    last: u64,
    keys: BTreeMap<String, StoredEntry>,
}

impl Store {
    fn put(&mut self, key: &str, value: Option<Vec<u8>>, expect: Expect) -> WriteOutcome {
        let found = self.keys.get(key).map_or(0, |e| e.revision);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Nothing => found == 0,
            Expect::Revision(revision) => found == revision,
        };
        if !holds {
            return WriteOutcome::Lost;
        }
        self.last += 1;
        self.keys.insert(key.to_owned(), StoredEntry { value, revision: self.last });
        WriteOutcome::Written(self.last)
    }
}

struct Watch {
    id: u64,
    keys: Vec<String>,
    /// Nothing overtakes what was told before.
    told_at: Duration,
}

impl Watch {
    fn covers(&self, key: &str) -> bool {
        self.keys.iter().any(|k| k.strip_suffix('*').map_or(k == key, |prefix| key.starts_with(prefix)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Paused,
    Dead,
    /// Ended by itself.
    Ended,
}

pub(super) struct Process {
    pub(super) coordinator: Coordinator,
    pub(super) status: Status,
    pub(super) connected: bool,
    /// What the data path works on.
    pub(super) assigned: Option<Assigned>,
    pub(super) failure: Option<StartFailure>,
    pub(super) fenced: usize,
    preferred: Option<u32>,
    /// Which start of this process it is: what was meant for an earlier one is dropped.
    life: u64,
    watches: BTreeMap<Bucket, Watch>,
    answers: Option<Incarnation>,
    /// What a stopped process has not read yet, and what it had not sent yet.
    inbox: VecDeque<Event>,
    outbox: Vec<Action>,
}

enum Happening {
    /// A request reaches NATS; its reply may get lost on the way back.
    Serve {
        from: usize,
        life: u64,
        request: Action,
        reply_lost: bool,
    },
    /// Something reaches a process.
    Tell {
        to: usize,
        life: u64,
        watch: Option<(Bucket, u64)>,
        event: Event,
    },
    Expire {
        bucket: Bucket,
        key: String,
        revision: u64,
    },
    /// The data path has carried an assignment out.
    Settle {
        at: usize,
        life: u64,
        settled: (Term, Version),
    },
}

/// What may go wrong with a request, in percent.
#[derive(Default, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) lost_requests: u64,
    pub(super) lost_replies: u64,
    pub(super) late_requests: u64,
}

pub(super) struct Fleet {
    pub(super) now: Duration,
    pub(super) random: Random,
    pub(super) processes: Vec<Process>,
    pub(super) partitions: Vec<Partition>,
    pub(super) source_fails: bool,
    pub(super) trouble: Trouble,
    /// NATS answers nobody, although connections stand.
    pub(super) mute: bool,
    pub(super) refuse_heartbeats: bool,
    pub(super) lease: Duration,
    /// Every plan that ever was in the bucket, in that order.
    pub(super) plans: Vec<PlanRecord>,
    pub(super) notices: Vec<(usize, Notice)>,
    /// Partitions moved, by all published plans.
    pub(super) moved: usize,
    pub(super) writes: BTreeMap<Bucket, usize>,
    pub(super) change: fn(&mut Settings),
    stores: BTreeMap<Bucket, Store>,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    seed: u64,
    trace: VecDeque<String>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- seed {}; the last of the trace:", self.seed);
            for line in &self.trace {
                eprintln!("{line}");
            }
        }
    }
}

fn reply_of(event: &Event) -> Option<Reply> {
    let Event::Reply { reply, .. } = event else { return None };
    Some(match reply {
        Reply::Write(_) => Reply::Write(WriteOutcome::Unknown),
        Reply::Entry(_) => Reply::Entry(Err(())),
        Reply::Listing(_) => Reply::Listing(Err(())),
        Reply::Probe(_) => Reply::Probe(ProbeAnswer::TimedOut),
        Reply::Partitions(answer) => Reply::Partitions(answer.clone()),
    })
}

fn no_answer(request: &Action) -> Option<(OpId, Reply)> {
    Some(match request {
        Action::Write { op, .. } | Action::Delete { op, .. } => (*op, Reply::Write(WriteOutcome::Unknown)),
        Action::Read { op, .. } => (*op, Reply::Entry(Err(()))),
        Action::List { op, .. } => (*op, Reply::Listing(Err(()))),
        Action::Probe { op, .. } => (*op, Reply::Probe(ProbeAnswer::TimedOut)),
        Action::ListPartitions { op } => (*op, Reply::Partitions(Err("no answer".into()))),
        _ => return None,
    })
}

impl Fleet {
    pub(super) fn new(seed: u64, partitions: usize) -> Self {
        Self {
            now: secs(1000),
            random: Random(seed),
            processes: Vec::new(),
            partitions: (0..partitions).map(|n| partition(&format!("p{n:02}"))).collect(),
            source_fails: false,
            trouble: Trouble::default(),
            mute: false,
            refuse_heartbeats: false,
            lease: secs(5),
            plans: Vec::new(),
            notices: Vec::new(),
            moved: 0,
            writes: BTreeMap::new(),
            change: |_| {},
            stores: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            seed,
            trace: VecDeque::new(),
        }
    }

    /// Workers that have started and settled.
    pub(super) fn settled(seed: u64, partitions: usize, workers: usize) -> Self {
        let mut fleet = Self::new(seed, partitions);
        for _ in 0..workers {
            fleet.start();
        }
        fleet.settle(secs(30));
        fleet
    }

    pub(super) fn settings(&mut self, preferred: Option<u32>) -> Settings {
        let mut settings = Settings {
            worker_id_prefix: "worker".into(),
            worker_id_min: 0,
            worker_id_max: 99,
            preferred_number: preferred,
            worker_id_ttl: secs(30),
            heartbeat_interval: secs(2),
            heartbeat_ttl: secs(6),
            cold_start_window: secs(30),
            planned_scale_window: secs(10),
            emergency_grace_period: ms(1500),
            election_timeout: self.lease,
            startup_timeout: secs(30),
            probe_interval: ms(250),
            min_rebalance_threshold: 0.15,
            min_rebalance_interval: secs(10),
            refresh_interval: Duration::ZERO,
            capacity: 1,
            labels: BTreeMap::new(),
            plugins: BTreeMap::new(),
            uuid: Uuid::from_u64_pair(self.random.below(u64::MAX), self.random.below(u64::MAX)),
            host: "host".into(),
            pid: 1,
            strategy: Arc::new(ConsistentHash::default()),
        };
        (self.change)(&mut settings);
        settings
    }

    // Processes.

    pub(super) fn start(&mut self) -> usize {
        self.start_as(None)
    }

    pub(super) fn start_as(&mut self, preferred: Option<u32>) -> usize {
        let settings = self.settings(preferred);
        self.processes.push(Process {
            coordinator: Coordinator::new(settings),
            status: Status::Running,
            connected: true,
            assigned: None,
            failure: None,
            fenced: 0,
            preferred,
            life: 0,
            watches: BTreeMap::new(),
            answers: None,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
        });
        let at = self.processes.len() - 1;
        self.note(format!("start #{at}"));
        self.give(at, Event::Connected);
        at
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, at: usize) {
        self.note(format!("kill #{at}"));
        let process = &mut self.processes[at];
        process.status = Status::Dead;
        process.life += 1;
        process.assigned = None;
        process.answers = None;
        process.watches.clear();
        process.inbox.clear();
        process.outbox.clear();
    }

    /// Starts a process again that has died or ended.
    pub(super) fn restart(&mut self, at: usize) {
        self.note(format!("restart #{at}"));
        let settings = self.settings(self.processes[at].preferred);
        let process = &mut self.processes[at];
        process.life += 1;
        process.coordinator = Coordinator::new(settings);
        process.status = Status::Running;
        process.connected = true;
        process.assigned = None;
        process.failure = None;
        process.answers = None;
        process.watches.clear();
        self.give(at, Event::Connected);
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self, at: usize) {
        self.note(format!("pause #{at}"));
        self.processes[at].status = Status::Paused;
    }

    /// SIGCONT: what was on its way out goes out now; timers and what came in meanwhile are worked off in either order.
    pub(super) fn resume(&mut self, at: usize) {
        self.note(format!("resume #{at}"));
        self.processes[at].status = Status::Running;
        let life = self.processes[at].life;
        for request in std::mem::take(&mut self.processes[at].outbox) {
            self.after(ms(1), Happening::Serve { from: at, life, request, reply_lost: false });
        }
        let timers_first = self.random.chance(50);
        if timers_first {
            self.tick(at);
        }
        for event in std::mem::take(&mut self.processes[at].inbox) {
            self.give(at, event);
        }
    }

    pub(super) fn disconnect(&mut self, at: usize) {
        self.note(format!("disconnect #{at}"));
        self.processes[at].connected = false;
        self.give(at, Event::Disconnected);
    }

    pub(super) fn reconnect(&mut self, at: usize) {
        self.note(format!("reconnect #{at}"));
        self.processes[at].connected = true;
        self.give(at, Event::Connected);
        let watches: Vec<_> = self.processes[at].watches.iter().map(|(b, w)| (*b, w.keys.clone())).collect();
        for (bucket, keys) in watches {
            self.watch(at, bucket, keys);
        }
    }

    /// SIGTERM.
    pub(super) fn leave(&mut self, at: usize) {
        self.note(format!("leave #{at}"));
        self.give(at, Event::Shutdown);
    }

    // Looking.

    pub(super) fn live(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|at| self.processes[*at].status == Status::Running).collect()
    }

    pub(super) fn id(&self, at: usize) -> String {
        self.processes[at].coordinator.worker().map_or_else(|| "-".into(), |(worker, _)| worker.to_string())
    }

    pub(super) fn leader(&self) -> usize {
        self.live().into_iter().find(|at| self.processes[*at].coordinator.leading().is_some()).expect("a leader")
    }

    pub(super) fn follower(&self) -> usize {
        self.live().into_iter().find(|at| self.processes[*at].coordinator.leading().is_none()).expect("a follower")
    }

    pub(super) fn term(&self) -> Term {
        self.plans.last().map_or(Term(0), |p| p.term)
    }

    pub(super) fn has(&self, at: usize) -> BTreeSet<PartitionId> {
        self.processes[at].assigned.iter().flat_map(|a| &a.partitions).map(|p| p.id().clone()).collect()
    }

    /// Who has what, over all live processes.
    pub(super) fn owners(&self) -> BTreeMap<PartitionId, usize> {
        self.live().into_iter().flat_map(|at| self.has(at).into_iter().map(move |p| (p, at))).collect()
    }

    pub(super) fn stored(&self, bucket: Bucket, key: &str) -> Option<Vec<u8>> {
        self.stores.get(&bucket)?.keys.get(key)?.value.clone()
    }

    /// Why the fleet is not settled, if it is not: one leader whom everybody knows, everyone stable, each partition in exactly
    /// one live worker's assignment.
    pub(super) fn unsettled(&self) -> Option<String> {
        let live = self.live();
        let leaders: Vec<_> = live.iter().filter(|at| self.processes[**at].coordinator.leading().is_some()).collect();
        if leaders.len() != 1 {
            return Some(format!("{} leaders", leaders.len()));
        }
        let leader = self.id(*leaders[0]);
        for at in &live {
            let coordinator = &self.processes[*at].coordinator;
            if coordinator.leader().map(WorkerId::as_str) != Some(&leader) {
                return Some(format!("#{at} follows {:?}, not {leader}", coordinator.leader()));
            }
            if coordinator.state() != WorkerState::Stable {
                return Some(format!("#{at} is {}", coordinator.state()));
            }
        }
        let ids: BTreeSet<_> = live.iter().map(|at| self.id(*at)).collect();
        if ids.len() != live.len() {
            return Some(format!("{} live workers have {} IDs", live.len(), ids.len()));
        }
        let given: usize = live.iter().map(|at| self.has(*at).len()).sum();
        let listed: BTreeSet<_> = self.partitions.iter().map(|p| p.id().clone()).collect();
        let owners = self.owners();
        if given != listed.len() || !owners.keys().eq(listed.iter()) {
            return Some(format!("{given} partitions given, {} of {} covered", owners.len(), listed.len()));
        }
        None
    }

    // Time.

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until `what` holds; fails after `limit`. Returns how long it took.
    pub(super) fn until(&mut self, limit: Duration, name: &str, mut what: impl FnMut(&Self) -> bool) -> Duration {
        let began = self.now;
        while !what(self) {
            assert!(self.step(began + limit), "not within {limit:?}: {name}; {:?}", self.unsettled());
        }
        self.now - began
    }

    pub(super) fn settle(&mut self, limit: Duration) -> Duration {
        self.until(limit, "settled", |fleet| fleet.unsettled().is_none())
    }

    fn step(&mut self, until: Duration) -> bool {
        let timer = (0..self.processes.len())
            .filter(|at| self.processes[*at].status == Status::Running)
            .filter_map(|at| Some((self.processes[at].coordinator.poll_timeout()?.0.max(self.now), at)))
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
            let again = self.processes[at].coordinator.poll_timeout();
            assert!(again.is_none_or(|next| next.0 > self.now), "#{at} asks to be called at a time that has come");
            return true;
        }
        if queued.is_none_or(|q| q > until) {
            return false;
        }
        let Some(((when, _), happening)) = self.queue.pop_first() else { return false };
        self.now = when;
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Serve { from, life, request, reply_lost } => self.serve(from, life, request, reply_lost),
            Happening::Tell { to, life, watch, event } => {
                let process = &self.processes[to];
                let dropped = watch.is_some_and(|(bucket, id)| {
                    !process.connected || process.watches.get(&bucket).is_none_or(|w| w.id != id)
                });
                if process.life != life || dropped {
                    return;
                }
                let event = match (event, process.connected) {
                    (Event::Reply { op, reply }, false) => {
                        let event = Event::Reply { op, reply };
                        reply_of(&event).map_or(event, |reply| Event::Reply { op, reply })
                    }
                    (event, _) => event,
                };
                self.give(to, event);
            }
            Happening::Expire { bucket, key, revision } => {
                let store = self.stores.entry(bucket).or_default();
                if store.put(&key, None, Expect::Revision(revision)) != WriteOutcome::Lost {
                    self.note(format!("{bucket:?} {key} expires"));
                    self.changed(bucket, &key);
                }
            }
            Happening::Settle { at, life, settled } => {
                let process = &self.processes[at];
                let assigned = process.assigned.as_ref();
                if process.life == life && assigned.is_some_and(|a| (a.term, a.version) == settled) {
                    let owned = assigned.map_or(0, |a| a.partitions.len());
                    self.give(at, Event::DataPath { owned, lag: 0, settled: Some(settled) });
                }
            }
        }
    }

    fn after(&mut self, time: Duration, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + time, self.order), happening);
    }

    pub(super) fn note(&mut self, line: String) {
        if self.trace.len() == 600 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:10.3} {line}", self.now.as_secs_f64() - 1000.0));
    }

    // The process's side.

    fn tick(&mut self, at: usize) {
        let now = Now(self.now);
        self.processes[at].coordinator.handle_timeout(now);
        self.drain(at);
    }

    pub(super) fn give(&mut self, at: usize, event: Event) {
        match self.processes[at].status {
            Status::Running => {}
            Status::Paused => return self.processes[at].inbox.push_back(event),
            Status::Dead | Status::Ended => return,
        }
        let now = Now(self.now);
        self.processes[at].coordinator.handle(now, event);
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(action) = self.processes[at].coordinator.poll_action() {
            self.act(at, action);
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        if !matches!(action, Action::Probe { .. } | Action::Read { .. } | Action::List { .. }) {
            let text = match &action {
                Action::Write { bucket, key, value, expect, .. } => {
                    format!("writes {bucket:?} {key} {expect:?} {value}")
                }
                Action::Assigned(a) => {
                    format!("is assigned {}/{} {} partitions", a.term, a.version, a.partitions.len())
                }
                other => format!("{other:?}"),
            };
            self.note(format!("#{at} {} {text}", self.id(at)));
        }
        let life = self.processes[at].life;
        match action {
            Action::Watch { bucket, keys } => self.watch(at, bucket, keys),
            Action::Unwatch { bucket } => {
                self.processes[at].watches.remove(&bucket);
            }
            Action::Claimed { incarnation, .. } => self.processes[at].answers = Some(incarnation),
            Action::Fenced { .. } => {
                let process = &mut self.processes[at];
                process.assigned = None;
                process.answers = None;
                process.fenced += 1;
            }
            Action::Assigned(assigned) => {
                let settled = (assigned.term, assigned.version);
                self.processes[at].assigned = Some(assigned);
                let time = self.random.between(20, 300);
                self.after(time, Happening::Settle { at, life, settled });
            }
            Action::Drain => {
                let time = self.random.between(20, 300);
                self.after(time, Happening::Tell { to: at, life, watch: None, event: Event::Drained });
            }
            Action::PlanPublished { moved, .. } => self.moved += moved,
            Action::Failed(failure) => {
                self.processes[at].failure = Some(failure);
                self.kill(at);
            }
            Action::Finished => {
                self.kill(at);
                self.processes[at].status = Status::Ended;
            }
            Action::Notice(notice) => self.notices.push((at, notice)),
            Action::StateChanged { from, to } => assert!(from.may_become(to), "#{at}: {from} to {to}"),
            Action::LeaderChanged { .. } => {}
            request => self.send(at, request),
        }
    }

    fn send(&mut self, from: usize, request: Action) {
        let life = self.processes[from].life;
        let Some((op, failed)) = no_answer(&request) else { return };
        let time = self.random.between(1, 15);
        let trouble = self.trouble;
        let lost = self.mute || self.random.chance(trouble.lost_requests);
        let late = !lost && self.random.chance(trouble.late_requests);
        let reply_lost = late || self.random.chance(trouble.lost_replies);
        let connected = self.processes[from].connected;
        if !connected || lost || reply_lost {
            let wait = if connected { secs(2) } else { ms(50) };
            let event = Event::Reply { op, reply: failed };
            self.after(wait, Happening::Tell { to: from, life, watch: None, event });
        }
        if connected && !lost {
            let time = if late { secs(2) + time } else { time };
            self.after(time, Happening::Serve { from, life, request, reply_lost });
        }
    }

    // The side of NATS.

    fn serve(&mut self, from: usize, life: u64, request: Action, reply_lost: bool) {
        if self.processes[from].life == life && self.processes[from].status == Status::Paused && self.random.chance(50)
        {
            return self.processes[from].outbox.push(request);
        }
        let Some((op, _)) = no_answer(&request) else { return };
        let reply = match request {
            Action::Write { bucket: Bucket::Heartbeats, .. } if self.refuse_heartbeats => {
                Reply::Write(WriteOutcome::Unknown)
            }
            Action::Write { bucket, key, value, expect, lifetime, .. } => {
                Reply::Write(self.put(bucket, &key, Some(value.into_bytes()), expect, lifetime))
            }
            Action::Delete { bucket, key, expect, .. } => {
                Reply::Write(self.put(bucket, &key, None, expect, Lifetime::Forever))
            }
            Action::Read { bucket, key, .. } => {
                Reply::Entry(Ok(self.stores.get(&bucket).and_then(|s| s.keys.get(&key)).cloned()))
            }
            Action::List { bucket, .. } => Reply::Listing(Ok(self
                .stores
                .get(&bucket)
                .map(|s| s.keys.iter().map(|(k, e)| (k.clone(), e.clone())).collect())
                .unwrap_or_default())),
            Action::Probe { incarnation, .. } => Reply::Probe(self.probe(incarnation)),
            Action::ListPartitions { .. } if self.source_fails => Reply::Partitions(Err("no database".into())),
            Action::ListPartitions { .. } => Reply::Partitions(Ok(self.partitions.clone())),
            _ => return,
        };
        let time = match reply {
            Reply::Probe(ProbeAnswer::TimedOut) => ms(500),
            _ => self.random.between(1, 15),
        };
        if !reply_lost {
            self.after(time, Happening::Tell { to: from, life, watch: None, event: Event::Reply { op, reply } });
        }
    }

    fn probe(&self, incarnation: Incarnation) -> ProbeAnswer {
        match self.processes.iter().find(|p| p.answers == Some(incarnation)) {
            Some(p) if !p.connected => ProbeAnswer::NoResponders,
            Some(p) if p.status == Status::Paused => ProbeAnswer::TimedOut,
            Some(_) => ProbeAnswer::Answered,
            None => ProbeAnswer::NoResponders,
        }
    }

    pub(super) fn put(
        &mut self,
        bucket: Bucket,
        key: &str,
        value: Option<Vec<u8>>,
        expect: Expect,
        lifetime: Lifetime,
    ) -> WriteOutcome {
        *self.writes.entry(bucket).or_default() += 1;
        let outcome = self.stores.entry(bucket).or_default().put(key, value, expect);
        let WriteOutcome::Written(revision) = outcome else { return outcome };
        let lives = match lifetime {
            Lifetime::Forever | Lifetime::Assignment => None,
            Lifetime::WorkerId => Some(secs(30)),
            Lifetime::Heartbeat => Some(secs(6)),
            Lifetime::Election => Some(self.lease),
        };
        if let Some(lives) = lives {
            let time = lives + self.random.between(0, 250);
            self.after(time, Happening::Expire { bucket, key: key.to_owned(), revision });
        }
        if bucket == Bucket::Assignments && key == "plan" {
            self.check_plan();
        }
        self.changed(bucket, key);
        outcome
    }

    /// What must hold of any two plans that ever were in force.
    fn check_plan(&mut self) {
        let Some(value) = self.stored(Bucket::Assignments, "plan") else { return };
        let Ok(plan) = decode::<PlanRecord>(&value) else { return };
        if let Some(last) = self.plans.last() {
            assert!(
                (plan.term, plan.version) > (last.term, last.version) && plan.version > last.version,
                "plan {}/{} follows {}/{}",
                plan.term,
                plan.version,
                last.term,
                last.version
            );
        }
        self.plans.push(plan);
    }

    /// Loses a bucket with everything in it; it is made anew, its revisions begin again.
    pub(super) fn lose_bucket(&mut self, bucket: Bucket) {
        self.note(format!("{bucket:?} is lost"));
        self.stores.insert(bucket, Store::default());
        if bucket == Bucket::Assignments {
            self.plans.clear();
        }
        for at in 0..self.processes.len() {
            if let Some(watch) = self.processes[at].watches.get(&bucket) {
                let keys = watch.keys.clone();
                self.watch(at, bucket, keys);
            }
        }
    }

    fn changed(&mut self, bucket: Bucket, key: &str) {
        for at in 0..self.processes.len() {
            self.tell(at, bucket, Some(key));
        }
    }

    fn watch(&mut self, at: usize, bucket: Bucket, keys: Vec<String>) {
        self.order += 1;
        let watch = Watch { id: self.order, keys, told_at: self.now };
        self.processes[at].watches.insert(bucket, watch);
        if !self.processes[at].connected {
            return;
        }
        let mut all: Vec<_> =
            self.stores.entry(bucket).or_default().keys.iter().map(|(k, e)| (e.revision, k.clone())).collect();
        all.sort();
        for (_, key) in all {
            self.tell(at, bucket, Some(&key));
        }
        self.tell(at, bucket, None);
    }

    /// Sends a key's latest revision to a watcher, or that everything has been told.
    fn tell(&mut self, at: usize, bucket: Bucket, key: Option<&str>) {
        let delay = self.random.between(1, 40);
        let now = self.now;
        let process = &mut self.processes[at];
        let Some(watch) = process.watches.get_mut(&bucket) else { return };
        let event = match key {
            None => Event::WatchReady { bucket },
            Some(key) if !watch.covers(key) => return,
            Some(key) => {
                let Some(entry) = self.stores.get(&bucket).and_then(|s| s.keys.get(key)) else { return };
                Event::Watched { bucket, key: key.to_owned(), entry: entry.clone() }
            }
        };
        watch.told_at = watch.told_at.max(now + delay);
        let (time, watch, life) = (watch.told_at - now, Some((bucket, watch.id)), process.life);
        self.after(time, Happening::Tell { to: at, life, watch, event });
    }
}

pub(super) fn partition(name: &str) -> Partition {
    Partition::new(vec![name.to_owned()], crate::DEFAULT_WEIGHT).expect("a name")
}
