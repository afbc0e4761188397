//! `cargo bench -p parti-coordination --bench scale`: a fleet of 500 workers and 100,000 partitions in one thread, in virtual time.
//!
//! Real coordinators against a NATS that never fails and answers after a millisecond. What is measured is what the core costs: how
//! long a plan takes to make, what each change writes, and the leader's processor time while nothing happens.

use parti_coordination::strategy::{ConsistentHash, Request, Strategy};
use parti_coordination::{
    Action, Bucket, Coordinator, DegradedAlert, DegradedBehavior, Event, Expect, Incarnation, Now, Partition,
    ProbeAnswer, Reply, Settings, StoredEntry, WorkerState, WriteOutcome,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

const WORKERS: usize = 500;
const PARTITIONS: usize = 100_000;
const DELAY: Duration = Duration::from_millis(1);

/// The default strategy, timed.
struct Timed(ConsistentHash, Arc<Mutex<Vec<Duration>>>);

impl Strategy for Timed {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        let begun = Instant::now();
        let answer = self.0.assign(request);
        if let Ok(mut times) = self.1.lock() {
            times.push(begun.elapsed());
        }
        answer
    }
}

struct Worker {
    coordinator: Coordinator,
    alive: bool,
    deadline: Option<Now>,
    watches: HashMap<Bucket, Vec<String>>,
    incarnation: Option<Incarnation>,
    assigned: usize,
    busy: Duration,
}

struct World {
    now: Duration,
    order: u64,
    queue: BTreeMap<(Duration, u64), (usize, Event)>,
    deadlines: BTreeSet<(Now, usize)>,
    stores: HashMap<Bucket, BTreeMap<String, StoredEntry>>,
    revision: u64,
    partitions: Arc<Vec<Partition>>,
    workers: Vec<Worker>,
    by_incarnation: HashMap<Incarnation, usize>,
    writes: u64,
    bytes: u64,
    plans: Arc<Mutex<Vec<Duration>>>,
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    fn new() -> Self {
        let partitions = (0..PARTITIONS)
            .filter_map(|n| Partition::new(vec![format!("tool-{:04}", n / 25), format!("c-{}", n % 25)], 100).ok());
        Self {
            now: secs(1),
            order: 0,
            queue: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            stores: HashMap::new(),
            revision: 0,
            partitions: Arc::new(partitions.collect()),
            workers: Vec::new(),
            by_incarnation: HashMap::new(),
            writes: 0,
            bytes: 0,
            plans: Arc::default(),
        }
    }

    fn start(&mut self) {
        let number = self.workers.len() as u128;
        let settings = Settings {
            group: "group".into(),
            worker_id_prefix: "worker".into(),
            worker_id_min: 0,
            worker_id_max: 1999,
            // Who claims which number is not what is measured.
            preferred_number: u32::try_from(number).ok(),
            worker_id_ttl: secs(30),
            heartbeat_interval: secs(2),
            heartbeat_ttl: secs(6),
            cold_start_window: secs(30),
            planned_scale_window: secs(10),
            quiet_period: None,
            emergency_grace_period: Duration::from_millis(1500),
            election_timeout: secs(5),
            startup_timeout: secs(120),
            probe_interval: Duration::from_millis(250),
            min_rebalance_threshold: 0.15,
            min_rebalance_interval: secs(10),
            max_partitions: None,
            max_moves_per_plan: None,
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
                warn_threshold: secs(300),
                error_threshold: secs(900),
                critical_threshold: secs(1800),
                alert_interval: secs(30),
            },
            allow_empty: false,
            refresh_interval: Duration::ZERO,
            assignment_ttl: Duration::ZERO,
            capacity: 1,
            labels: BTreeMap::new(),
            plugins: BTreeMap::new(),
            uuid: Uuid::from_u128(number + 1),
            host: "bench".into(),
            pid: 1,
            strategy: Arc::new(Timed(ConsistentHash::default(), Arc::clone(&self.plans))),
            strategy_patience: None,
        };
        self.workers.push(Worker {
            coordinator: Coordinator::new(settings),
            alive: true,
            deadline: None,
            watches: HashMap::new(),
            incarnation: None,
            assigned: 0,
            busy: Duration::ZERO,
        });
        self.give(self.workers.len() - 1, Some(Event::Connected));
    }

    /// Hands an event, or the time, to a worker and carries out what it wants.
    fn give(&mut self, at: usize, event: Option<Event>) {
        let now = Now(self.now);
        let Some(worker) = self.workers.get_mut(at).filter(|w| w.alive) else { return };
        let begun = Instant::now();
        match event {
            Some(event) => worker.coordinator.handle(now, event),
            None => worker.coordinator.handle_timeout(now),
        }
        let mut actions = Vec::new();
        while let Some(action) = worker.coordinator.poll_action() {
            actions.push(action);
        }
        worker.busy += begun.elapsed();
        let next = worker.coordinator.poll_timeout();
        if next != worker.deadline {
            worker.deadline.map(|before| self.deadlines.remove(&(before, at)));
            next.map(|next| self.deadlines.insert((next, at)));
            worker.deadline = next;
        }
        for action in actions {
            self.act(at, action);
        }
    }

    fn after(&mut self, to: usize, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + DELAY, self.order), (to, event));
    }

    fn put(&mut self, bucket: Bucket, key: &str, value: Option<Vec<u8>>, expect: Expect) -> WriteOutcome {
        let keys = self.stores.entry(bucket).or_default();
        let found = keys.get(key).map_or(0, |e| e.revision);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Nothing => found == 0,
            Expect::Revision(revision) => found == revision,
        };
        if !holds {
            return WriteOutcome::Lost;
        }
        self.revision += 1;
        self.writes += 1;
        self.bytes += value.as_ref().map_or(0, Vec::len) as u64;
        let entry = StoredEntry { value, revision: self.revision };
        keys.insert(key.to_owned(), entry.clone());
        for at in 0..self.workers.len() {
            let covers = |k: &String| k.strip_suffix('*').map_or(k == key, |prefix| key.starts_with(prefix));
            if self.workers.get(at).and_then(|w| w.watches.get(&bucket)).is_some_and(|keys| keys.iter().any(covers)) {
                self.after(at, Event::Watched { bucket, key: key.to_owned(), entry: entry.clone() });
            }
        }
        WriteOutcome::Written(self.revision)
    }

    fn act(&mut self, at: usize, action: Action) {
        let (op, reply) = match action {
            Action::Write { op, bucket, key, value, expect, .. } => {
                (op, Reply::Write(self.put(bucket, &key, Some(value.into_bytes()), expect)))
            }
            Action::Delete { op, bucket, key, expect } => (op, Reply::Write(self.put(bucket, &key, None, expect))),
            Action::Read { op, bucket, key } => {
                (op, Reply::Entry(Ok(self.stores.get(&bucket).and_then(|keys| keys.get(&key)).cloned())))
            }
            Action::List { op, bucket } => {
                let all = self.stores.get(&bucket).into_iter().flatten();
                (op, Reply::Listing(Ok(all.map(|(k, e)| (k.clone(), e.clone())).collect())))
            }
            Action::Probe { op, incarnation } => {
                let alive =
                    self.by_incarnation.get(&incarnation).and_then(|at| self.workers.get(*at)).is_some_and(|w| w.alive);
                let answer = if alive { ProbeAnswer::Answered } else { ProbeAnswer::NoResponders };
                if let (true, Some(to), Some(by)) = (
                    alive,
                    self.by_incarnation.get(&incarnation).copied(),
                    self.workers.get(at).and_then(|w| w.incarnation),
                ) {
                    self.after(to, Event::Probed { by });
                }
                (op, Reply::Probe(answer))
            }
            Action::ListPartitions { op } => (op, Reply::Partitions(Ok(self.partitions.to_vec()))),
            Action::Watch { bucket, keys } => {
                let covers =
                    |key: &String| keys.iter().any(|k| k.strip_suffix('*').map_or(k == key, |p| key.starts_with(p)));
                let told: Vec<_> = self.stores.get(&bucket).into_iter().flatten().filter(|(k, _)| covers(k)).collect();
                let told: Vec<_> = told.into_iter().map(|(k, e)| (k.clone(), e.clone())).collect();
                for (key, entry) in told {
                    self.after(at, Event::Watched { bucket, key, entry });
                }
                self.after(at, Event::WatchReady { bucket });
                self.workers.get_mut(at).map(|w| w.watches.insert(bucket, keys));
                return;
            }
            Action::Unwatch { bucket } => {
                self.workers.get_mut(at).map(|w| w.watches.remove(&bucket));
                return;
            }
            Action::Claimed { incarnation, .. } => {
                self.by_incarnation.insert(incarnation, at);
                if let Some(worker) = self.workers.get_mut(at) {
                    worker.incarnation = Some(incarnation);
                }
                return;
            }
            Action::Assigned(assigned) => {
                let owned = assigned.partitions.len();
                if let Some(worker) = self.workers.get_mut(at) {
                    worker.assigned = owned;
                }
                let settled = Some((assigned.term, assigned.version));
                self.after(at, Event::DataPath { owned, lag: 0, settled, begun: settled });
                return;
            }
            Action::Drain => return self.after(at, Event::Drained),
            Action::Finished => {
                if let Some(worker) = self.workers.get_mut(at) {
                    (worker.alive, worker.assigned) = (false, 0);
                }
                return;
            }
            _ => return,
        };
        self.after(at, Event::Reply { op, reply });
    }

    fn step(&mut self) {
        let (timer, queued) = (self.deadlines.first().copied(), self.queue.keys().next().copied());
        match (timer, queued) {
            (Some((Now(when), at)), q) if q.is_none_or(|(q, _)| when <= q) => {
                self.now = self.now.max(when);
                self.deadlines.remove(&(Now(when), at));
                if let Some(worker) = self.workers.get_mut(at) {
                    worker.deadline = None;
                }
                self.give(at, None);
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                if let Some((at, event)) = self.queue.remove(&key) {
                    self.give(at, Some(event));
                }
            }
            _ => {}
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// Every live worker is stable, and together they have every partition.
    fn settled(&self) -> bool {
        let live = || self.workers.iter().filter(|w| w.alive);
        live().map(|w| w.assigned).sum::<usize>() == PARTITIONS
            && live().all(|w| w.coordinator.state() == WorkerState::Stable)
            && live().filter(|w| w.coordinator.leading().is_some()).count() == 1
    }

    fn leader(&self) -> usize {
        self.workers.iter().position(|w| w.alive && w.coordinator.leading().is_some()).unwrap_or(0)
    }

    /// Runs until the fleet has settled on other plans than now, and says what that took.
    fn change(&mut self, what: &str, change: impl FnOnce(&mut Self)) {
        let (writes, bytes, begun) = (self.writes, self.bytes, self.now);
        let plans = self.plans.lock().map_or(0, |p| p.len());
        change(self);
        let began = Instant::now();
        let limit = self.now + secs(120);
        let checks = AtomicU64::new(0);
        loop {
            for _ in 0..500 {
                self.step();
            }
            checks.fetch_add(1, Ordering::Relaxed);
            let planned = self.plans.lock().map_or(0, |p| p.len()) > plans;
            if planned && self.settled() {
                break;
            }
            assert!(self.now < limit, "{what} has not settled within 120 s of virtual time");
        }
        let plan = self
            .plans
            .lock()
            .ok()
            .and_then(|p| p.get(plans..).and_then(|new| new.iter().max().copied()))
            .unwrap_or_default();
        println!(
            "{what:<34}{:>9.2} s{:>10}{:>14}{:>11.1} ms{:>12.1} s",
            (self.now - begun).as_secs_f64(),
            self.writes - writes,
            self.bytes - bytes,
            plan.as_secs_f64() * 1000.0,
            began.elapsed().as_secs_f64(),
        );
    }
}

fn main() {
    let mut world = World::new();
    println!("{WORKERS} workers, {PARTITIONS} partitions, default configuration; virtual time, answers after 1 ms\n");
    println!("{:<34}{:>11}{:>10}{:>14}{:>14}{:>14}", "", "settled in", "writes", "bytes", "slowest plan", "real time");
    world.change("cold start", |world| (0..WORKERS).for_each(|_| world.start()));
    world.run(secs(40));
    world.change("one joins", World::start);
    world.run(secs(20));
    world.change("a follower is killed", |world| {
        let victim = (world.leader() + 1) % WORKERS;
        if let Some(worker) = world.workers.get_mut(victim) {
            (worker.alive, worker.assigned) = (false, 0);
        }
    });
    world.run(secs(20));
    world.change("the leader is killed", |world| {
        let victim = world.leader();
        if let Some(worker) = world.workers.get_mut(victim) {
            (worker.alive, worker.assigned) = (false, 0);
        }
    });
    world.run(secs(20));
    world.change("a follower leaves", |world| {
        let leaver = (world.leader() + 7) % WORKERS;
        world.give(leaver, Some(Event::Shutdown));
    });
    world.run(secs(20));
    let (leader, writes) = (world.leader(), world.writes);
    let before = world.workers.get(leader).map_or(Duration::ZERO, |w| w.busy);
    world.run(secs(30));
    let busy = world.workers.get(leader).map_or(Duration::ZERO, |w| w.busy) - before;
    println!(
        "\nidle: the leader's core needs {:.2} % of a processor core; {:.0} writes a second in the whole fleet",
        busy.as_secs_f64() / 30.0 * 100.0,
        (world.writes - writes) as f64 / 30.0
    );
}
