//! A whole fleet in one thread: coordinators against a model of NATS and of processes, in virtual time.
//!
//! The model has what the protocol must survive: compare-and-set with revisions, expiry and deletion that leave markers,
//! replies that come late or never although the write landed, watches that lag and are told anew, processes that die, stop
//! or lose their connection. Everything random comes from one seed. A failing test prints its seed and the trace.

mod look;
mod nats;

use crate::Partition;
use crate::coordinator::*;
use crate::record::PlanRecord;
use crate::strategy::ConsistentHash;
use crate::testing::{Random, ms, secs};
use nats::{Store, Watch, failed};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

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
    /// What it has said of degraded mode.
    pub(super) degraded: Vec<Action>,
    /// Whether it was last told that it leads.
    pub(super) leads: bool,
    /// Requests sent.
    pub(super) sent: usize,
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
    /// A process that may not listen to probes.
    pub(super) deaf: Option<usize>,
    pub(super) lease: Duration,
    /// Least and most milliseconds that a data path takes to hand everything over.
    pub(super) drain_time: (u64, u64),
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
    /// The last of what happened, for a test that fails.
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
            deaf: None,
            lease: secs(5),
            drain_time: (1, 300),
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
            quiet_period: None,
            emergency_grace_period: ms(1500),
            election_timeout: self.lease,
            startup_timeout: secs(30),
            probe_interval: ms(250),
            min_rebalance_threshold: 0.15,
            min_rebalance_interval: secs(10),
            max_partitions: None,
            shutdown_hold: Duration::ZERO,
            degraded_behavior: DegradedBehavior {
                enter_threshold: secs(10),
                exit_threshold: secs(5),
                kv_error_threshold: 5,
                kv_error_window: secs(30),
                recovery_grace_period: secs(30),
            },
            degraded_alert: DegradedAlert {
                info_threshold: secs(60),
                warn_threshold: secs(5 * 60),
                error_threshold: secs(15 * 60),
                critical_threshold: secs(30 * 60),
                alert_interval: secs(30),
            },
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
            degraded: Vec::new(),
            leads: false,
            sent: 0,
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
        process.leads = false;
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
                let event = match event {
                    Event::Reply { op, reply } if !process.connected => Event::Reply { op, reply: failed(reply) },
                    event => event,
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
            Action::Claimed { incarnation, .. } => {
                self.processes[at].answers = Some(incarnation).filter(|_| self.deaf != Some(at));
            }
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
                let time = self.random.between(self.drain_time.0, self.drain_time.1);
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
            Action::StateChanged { from, to } => {
                assert!(from.may_become(to), "#{at}: {from} to {to}")
            }
            Action::LeaderChanged { is_us, .. } => self.processes[at].leads = is_us,
            Action::DegradedEntered { .. } | Action::DegradedAlert { .. } | Action::DegradedLeft { .. } => {
                self.processes[at].degraded.push(action);
            }
            request => self.send(at, request),
        }
    }
}

pub(super) fn partition(name: &str) -> Partition {
    Partition::new(vec![name.to_owned()], crate::DEFAULT_WEIGHT).expect("a name")
}
