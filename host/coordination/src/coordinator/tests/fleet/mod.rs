//! A whole fleet in one thread: coordinators against a model of NATS and of processes, in virtual time.
//!
//! The model has what the protocol must survive: compare-and-set with revisions, expiry and deletion that leave markers,
//! replies that come late or never although the write landed, watches that lag and are told anew, listings of a moment ago,
//! servers that restart and lose their last writes, processes that die, stop, lose their connection or have a wrong clock.
//! After every step the promises in `laws` are checked. Everything random comes from one seed.

mod clock;
mod disasters;
mod laws;
mod look;
mod nats;
mod operator;
mod requests;
mod settings;
mod steps;
mod store;
mod strategist;
mod work;
mod work_laws;

use crate::Partition;
use crate::PartitionId;
use crate::coordinator::*;
use crate::record::{Owner, PlanRecord};
use crate::testing::data_path::Command;
use crate::testing::{Random, ms, secs};
use clock::Clock;
use laws::Laws;
use nats::Watch;
use requests::{News, Request};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use store::Store;
use strategist::Advised;
use work::{DataPath, Work};

pub(super) use disasters::BUCKETS;
pub(super) use strategist::Strategist;

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
    /// What the process believes of its connection.
    pub(super) connected: bool,
    /// Nothing gets through, and nobody has noticed yet.
    pub(super) cut: bool,
    /// What the data path works on.
    pub(super) assigned: Option<Assigned>,
    /// What it was told to have paused.
    pub(super) paused: Option<crate::record::PauseRecord>,
    /// What it was told that the operator wants of the placement.
    pub(super) wants: Option<crate::record::PlacementRecord>,
    pub(super) failure: Option<StartFailure>,
    pub(super) fenced: usize,
    /// The states that it has entered.
    pub(super) states: Vec<WorkerState>,
    /// What it has said of degraded mode.
    pub(super) degraded: Vec<Action>,
    /// Whether it was last told that it leads.
    pub(super) leads: bool,
    /// Requests sent.
    pub(super) sent: usize,
    /// The question that it last asked the strategy outside the core, the last answer that it waited for, and the one that was the
    /// last when it wrote a plan.
    asked: Option<(OpId, std::sync::Arc<crate::strategy::Question>)>,
    advised: Option<Advised>,
    follows: Option<Advised>,
    preferred: Option<u32>,
    incarnation: Option<Incarnation>,
    /// The highest claims that it was told of since it began to watch heartbeats.
    heard: BTreeMap<WorkerId, u64>,
    /// The highest `(term, version)` that this incarnation was assigned.
    accepted: Option<(Term, Version)>,
    /// Which start of this process it is: what was meant for an earlier one is dropped.
    life: u64,
    clock: Clock,
    /// The lowest rate at which its clock has run.
    slowest: u32,
    watches: BTreeMap<Bucket, Watch>,
    answers: Option<Incarnation>,
    /// When probes reach it again after it has reconnected.
    subscribes_at: Duration,
    /// What a stopped process has not read yet, and what it had not sent yet.
    inbox: VecDeque<News>,
    outbox: Vec<(Request, bool)>,
    data: DataPath,
}

enum Happening {
    /// A request reaches NATS; its reply may get lost on the way back.
    Serve {
        from: usize,
        life: u64,
        request: Request,
        reply_lost: bool,
    },
    /// Something reaches a process.
    Tell {
        to: usize,
        life: u64,
        watch: Option<(Bucket, u64)>,
        news: News,
    },
    Expire {
        bucket: Bucket,
        key: String,
        revision: u64,
    },
    Reconnect {
        at: usize,
        life: u64,
    },
    /// Whether the plan knows by now who was judged dead.
    Verdict {
        at: usize,
        life: u64,
        worker: WorkerId,
        claim: u64,
        said_at: Duration,
        /// The term under which it was said.
        term: Option<Term>,
    },
    /// The data path has carried an assignment out, where it is only pretended.
    Settle {
        at: usize,
        life: u64,
        settled: (Term, Version),
    },
    /// A call of a handler returns.
    Return {
        at: usize,
        life: u64,
        id: PartitionId,
        run: u64,
        instance: u64,
        command: Command,
    },
    /// A partition gets a reader.
    Attach {
        at: usize,
        life: u64,
        id: PartitionId,
        run: u64,
        from: u64,
    },
    /// A reader delivers.
    Pump {
        at: usize,
        life: u64,
        id: PartitionId,
        run: u64,
        reader: u64,
    },
    /// A message is published.
    Produce,
    /// A process finds out that records were lost.
    Remind {
        at: usize,
        life: u64,
    },
}

/// What may go wrong on the way, in percent of the occasions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) lost_requests: u64,
    pub(super) lost_replies: u64,
    pub(super) late_requests: u64,
    pub(super) stale_reads: u64,
    pub(super) stale_watches: u64,
    pub(super) slow_watches: u64,
    pub(super) late_subscriptions: u64,
    /// A key expires between the decision to renew it and the renewal.
    pub(super) expires_under_renewal: u64,
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
    nats_runs: bool,
    pub(super) refuse_heartbeats: bool,
    /// A process that may not listen to probes.
    pub(super) deaf: Option<usize>,
    /// The strategy outside the core, if there is one, and how often it was asked.
    pub(super) strategist: Option<Strategist>,
    pub(super) questions: usize,
    /// The `max_partitions`, the `max_moves_per_plan` and the `shutdown_hold` of the latest settings.
    max_partitions: Option<usize>,
    max_moves: Option<usize>,
    hold: Duration,
    pub(super) lease: Duration,
    pub(super) id_lives: Duration,
    pub(super) heartbeat_lives: Duration,
    /// Zero = for ever.
    pub(super) assignment_lives: Duration,
    /// Least and most milliseconds that a data path takes to hand everything over.
    pub(super) drain_time: (u64, u64),
    /// Every plan that ever was in the bucket since it was last lost, in that order.
    pub(super) plans: Vec<PlanRecord>,
    /// Plans that ever were in the bucket.
    pub(super) planned: usize,
    pub(super) notices: Vec<(usize, Notice)>,
    /// Partitions moved, by all published plans.
    pub(super) moved: usize,
    pub(super) writes: BTreeMap<Bucket, usize>,
    pub(super) change: Box<dyn Fn(&mut Settings)>,
    /// Steps made.
    pub(super) steps: u64,
    /// The first broken promise, if they are collected instead of ending the test at once.
    pub(super) violation: Option<String>,
    pub(super) collects: bool,
    pub(super) traced: bool,
    /// What there is to do, unless nothing is done with assignments.
    pub(super) work: Option<Work>,
    laws: Laws,
    stores: BTreeMap<Bucket, Store>,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    seed: u64,
    /// The last of what happened, for a test that fails.
    trace: VecDeque<String>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.traced && (std::thread::panicking() || self.violation.is_some()) {
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
            nats_runs: true,
            refuse_heartbeats: false,
            deaf: None,
            strategist: None,
            questions: 0,
            max_partitions: None,
            max_moves: None,
            hold: Duration::ZERO,
            lease: secs(5),
            id_lives: secs(30),
            heartbeat_lives: secs(6),
            assignment_lives: Duration::ZERO,
            drain_time: (1, 300),
            plans: Vec::new(),
            planned: 0,
            notices: Vec::new(),
            moved: 0,
            writes: BTreeMap::new(),
            change: Box::new(|_| {}),
            steps: 0,
            violation: None,
            collects: false,
            traced: true,
            work: None,
            laws: Laws::default(),
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

    // Processes.

    pub(super) fn start(&mut self) -> usize {
        self.start_as(None)
    }

    pub(super) fn start_as(&mut self, preferred: Option<u32>) -> usize {
        let settings = self.settings(preferred);
        self.processes.push(Process {
            coordinator: Coordinator::new(settings),
            status: Status::Running,
            connected: self.nats_runs,
            cut: false,
            assigned: None,
            paused: None,
            wants: None,
            failure: None,
            fenced: 0,
            states: Vec::new(),
            degraded: Vec::new(),
            leads: false,
            sent: 0,
            asked: None,
            advised: None,
            follows: None,
            preferred,
            life: 0,
            incarnation: None,
            heard: BTreeMap::new(),
            accepted: None,
            clock: Clock::TRUE,
            slowest: clock::TRUE_RATE,
            watches: BTreeMap::new(),
            answers: None,
            subscribes_at: Duration::ZERO,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            data: DataPath::default(),
        });
        let at = self.processes.len() - 1;
        self.note(|_| format!("start #{at}"));
        self.begin(at);
        at
    }

    fn begin(&mut self, at: usize) {
        if self.nats_runs {
            self.give(at, Event::Connected);
        } else {
            self.tick(at);
        }
    }

    /// Sets a process's clock to another time, or makes it run at another rate: so many thousandths of a second each second.
    /// Only the rate may change while the process lives.
    pub(super) fn set_clock(&mut self, at: usize, shows: Option<Duration>, rate: u32) {
        let (now, process) = (self.now, &mut self.processes[at]);
        match shows {
            Some(shows) => process.clock = Clock::new(now, shows, rate),
            None => process.clock.run_at(now, rate),
        }
        process.slowest = if shows.is_some() { rate } else { process.slowest.min(rate) };
    }

    /// Starts a process again with another clock.
    pub(super) fn restart_at(&mut self, at: usize, shows: Duration, rate: u32) {
        self.kill(at);
        self.set_clock(at, Some(shows), rate);
        self.restart(at);
    }

    pub(super) fn clock_rate(&self, at: usize) -> u32 {
        self.processes[at].clock.rate()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, at: usize) {
        self.disturb(|| format!("kill #{at}"));
        let process = &mut self.processes[at];
        process.status = Status::Dead;
        process.life += 1;
        process.assigned = None;
        process.answers = None;
        process.watches.clear();
        process.inbox.clear();
        process.outbox.clear();
        process.data = DataPath::default();
    }

    /// Starts a process again that has died or ended.
    pub(super) fn restart(&mut self, at: usize) {
        self.disturb(|| format!("restart #{at}"));
        let (settings, nats_runs) = (self.settings(self.processes[at].preferred), self.nats_runs);
        let process = &mut self.processes[at];
        process.life += 1;
        process.coordinator = Coordinator::new(settings);
        process.status = Status::Running;
        process.connected = nats_runs;
        process.cut = false;
        process.heard.clear();
        process.assigned = None;
        process.paused = None;
        process.wants = None;
        process.failure = None;
        process.leads = false;
        (process.asked, process.advised, process.follows) = (None, None, None);
        process.answers = None;
        process.watches.clear();
        self.begin(at);
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self, at: usize) {
        self.disturb(|| format!("pause #{at}"));
        self.processes[at].status = Status::Paused;
    }

    /// SIGCONT: what was on its way out goes out now; timers and what came in meanwhile are worked off in either order.
    pub(super) fn resume(&mut self, at: usize) {
        self.disturb(|| format!("resume #{at}"));
        self.processes[at].status = Status::Running;
        let life = self.processes[at].life;
        for (request, reply_lost) in std::mem::take(&mut self.processes[at].outbox) {
            self.after(ms(1), Happening::Serve { from: at, life, request, reply_lost });
        }
        let timers_first = self.random.chance(50);
        if timers_first {
            self.tick(at);
            self.tick_data(at);
        }
        for news in std::mem::take(&mut self.processes[at].inbox) {
            self.deliver(at, news);
        }
    }

    /// SIGTERM.
    pub(super) fn leave(&mut self, at: usize) {
        self.disturb(|| format!("leave #{at}"));
        self.give(at, Event::Shutdown);
    }

    /// The test interferes with a process.
    pub(super) fn disturb(&mut self, what: impl FnOnce() -> String) {
        self.laws.calm_since = self.laws.calm_since.max(self.now);
        self.note(|_| what());
    }

    /// The test interferes with NATS: requests wait for their answers for a while.
    pub(super) fn disturb_all(&mut self, what: impl FnOnce() -> String) {
        self.laws.calm_since = self.now + secs(3);
        self.note(|_| what());
    }

    // The process's side.

    fn tick(&mut self, at: usize) {
        let now = self.processes[at].clock.read(self.now);
        self.processes[at].coordinator.handle_timeout(now);
        self.drain(at);
    }

    pub(super) fn give(&mut self, at: usize, event: Event) {
        self.deliver(at, News::Core(event));
    }

    fn deliver(&mut self, at: usize, news: News) {
        match self.processes[at].status {
            Status::Running => {}
            Status::Paused => return self.processes[at].inbox.push_back(news),
            Status::Dead | Status::Ended => return,
        }
        let event = match news {
            News::Core(event) => event,
            News::Data(id, run, input) => return self.give_data(at, &id, run, input),
        };
        self.hears(at, &event);
        self.advise(at, &event);
        let now = self.processes[at].clock.read(self.now);
        self.processes[at].coordinator.handle(now, event);
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(action) = self.processes[at].coordinator.poll_action() {
            self.act(at, action);
        }
        self.check_process(at);
    }

    fn act(&mut self, at: usize, action: Action) {
        if !matches!(action, Action::Probe { .. } | Action::Read { .. } | Action::List { .. }) {
            self.note(|fleet| format!("#{at} {} {}", fleet.id(at), told(&action)));
        }
        self.check_action(at, &action);
        let life = self.processes[at].life;
        if matches!(&action, Action::Write { bucket: Bucket::Assignments, key, .. } if key == "plan") {
            self.processes[at].follows = self.processes[at].advised.clone();
        }
        match action {
            Action::AskStrategy { op, question } => self.ask_strategist(at, op, question),
            Action::Watch { bucket, keys } => self.watch(at, bucket, keys),
            Action::Unwatch { bucket } => {
                self.processes[at].watches.remove(&bucket);
            }
            Action::Claimed { worker, incarnation } => {
                let process = &mut self.processes[at];
                process.answers = Some(incarnation).filter(|_| self.deaf != Some(at));
                process.data.identify(Owner { worker, incarnation });
            }
            Action::Fenced { .. } => {
                let process = &mut self.processes[at];
                process.assigned = None;
                process.answers = None;
                process.fenced += 1;
                self.fence_work(at);
            }
            Action::Assigned(assigned) if self.work.is_some() => {
                self.assign_work(at, &assigned);
                self.processes[at].assigned = Some(assigned);
            }
            Action::Assigned(assigned) => {
                let settled = (assigned.term, assigned.version);
                self.processes[at].assigned = Some(assigned);
                let time = self.random.between(20, 300);
                self.after(time, Happening::Settle { at, life, settled });
            }
            Action::Drain if self.work.is_some() => self.drain_work(at),
            Action::Drain => {
                let time = self.random.between(self.drain_time.0, self.drain_time.1);
                let news = News::Core(Event::Drained);
                self.after(time, Happening::Tell { to: at, life, watch: None, news });
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
            Action::StateChanged { to, .. } => self.processes[at].states.push(to),
            Action::Paused(paused) => self.pause_work(at, paused),
            Action::Placement(wants) => self.processes[at].wants = Some(wants),
            Action::LeaderChanged { is_us, .. } => self.processes[at].leads = is_us,
            Action::DegradedEntered { .. } | Action::DegradedAlert { .. } | Action::DegradedLeft { .. } => {
                self.processes[at].degraded.push(action);
            }
            request => self.send(at, Request::Core(request)),
        }
    }
}

pub(super) fn partition(name: &str) -> Partition {
    Partition::new(vec![name.to_owned()], crate::DEFAULT_WEIGHT).expect("a name")
}

/// An action as the trace shows it.
fn told(action: &Action) -> String {
    match action {
        Action::Write { bucket, key, value, expect, .. } => format!("writes {bucket:?} {key} {expect:?} {value}"),
        Action::Assigned(a) => format!("is assigned {}/{} {} partitions", a.term, a.version, a.partitions.len()),
        Action::AskStrategy { op, question } => {
            let (workers, partitions) = (question.workers.len(), question.partitions.len());
            format!("asks {op:?} for {:?}: {workers} workers, {partitions} partitions", question.lifecycle)
        }
        other => format!("{other:?}"),
    }
}
