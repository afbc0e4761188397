//! Random fleets under random faults: no promise of `fleet::laws` is ever broken, and afterwards one leader, every partition in
//! exactly one place, and peace.
//!
//! Each seed draws its own settings, clocks and kinds of faults, so that some runs are calm enough for the promises about time
//! and others wild enough for those about safety. The same once more with the work itself: every partition that a worker is
//! assigned has its machine, over one bucket of records and one stream.

use super::fleet::{BUCKETS, Fleet, Status, Strategist, Trouble, partition};
use crate::coordinator::*;
use crate::testing::{Random, Run, data_path, ms, secs, seeds, soak_minutes, sweep, sweep_for};
use std::time::{Duration, SystemTime};

#[test]
fn whatever_happens_no_promise_is_broken_and_the_fleet_settles_afterwards() {
    sweep("coordinator::tests::simulation::whatever_happens", seeds(0..12_000), simulate);
}

#[test]
fn every_message_is_handled_once_in_order_by_one_owner_at_a_time_whatever_happens() {
    sweep("coordinator::tests::simulation::every_message", seeds(0..2000), simulate_work);
}

/// Runs for as long as `make soak` says, and not at all without it.
#[test]
fn soak() {
    let Some(minutes) = soak_minutes() else { return };
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
    let from = u64::from_le_bytes(nanos.to_le_bytes()[..8].try_into().expect("eight bytes")) % 1_000_000_000_000;
    println!("soak: {minutes} minutes from seed {from} on, half of them with the work itself");
    sweep_for("coordinator::tests::simulation::whatever_happens", from, secs(minutes * 30), simulate);
    sweep_for("coordinator::tests::simulation::every_message", from, secs(minutes * 30), simulate_work);
}

/// A message that is retried to the end takes some seconds, and so does one that traps; more where each commit waits for its ration.
const HANDLED: Duration = secs(120);

/// What can happen to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Leave,
    Disconnect,
    /// Nothing gets through, and nobody notices for a while.
    Cut,
    /// Connections stand, and nothing is answered.
    Mute,
    ServerRestart,
    /// The servers restart and have lost the last writes of a bucket.
    Rewind,
    LostBucket,
    /// The ownership bucket is deleted, or its servers restart and have lost its last writes.
    LostRecords,
    Source,
    SourceFails,
    Clock,
    /// The operator drains a worker, pins a partition, or asks for something.
    Place,
    /// The operator moves a partition.
    Seek,
    /// The operator pauses partitions, or lets them go on.
    Hold,
}

/// Of a fleet with nothing to work on: there is no position that an operator could move.
const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Leave,
    Fault::Disconnect,
    Fault::Cut,
    Fault::Mute,
    Fault::ServerRestart,
    Fault::Rewind,
    Fault::LostBucket,
    Fault::LostRecords,
    Fault::Source,
    Fault::SourceFails,
    Fault::Clock,
    Fault::Place,
];

pub(super) fn simulate(seed: u64, traced: bool) -> Run {
    Simulation::new(seed, traced, &[3, 8, 24]).run()
}

pub(super) fn simulate_work(seed: u64, traced: bool) -> Run {
    let mut world = Simulation::new(seed, traced, &[1, 3, 6]);
    world.work();
    world.run()
}

struct Simulation {
    fleet: Fleet,
    workers: usize,
    kinds: Vec<Fault>,
    /// Everything that the test has done to the fleet.
    deeds: usize,
    /// The longest that settling may take, on a true clock.
    bound: Duration,
    /// The most plans that one change of the fleet takes.
    plans: usize,
}

impl Simulation {
    fn new(seed: u64, traced: bool, partitions: &[u64]) -> Self {
        let mut fleet = Fleet::new(seed, 0);
        (fleet.collects, fleet.traced) = (true, traced);
        fleet.strategist = strategist(seed);
        let partitions = fleet.random.pick(partitions);
        fleet.partitions = (0..partitions).map(|n| partition(&format!("p{n:02}"))).collect();
        let random = &mut fleet.random;
        let hasty = random.chance(40);
        let hold = if random.chance(30) { random.between(1000, 6000) } else { Duration::ZERO };
        let most = random.chance(20).then(|| 1 + random.below(partitions) as usize);
        let moves = random.chance(20).then(|| 1 + random.below(4) as usize);
        let aggressive = random.chance(50);
        let assignment_lives = if random.chance(30) { random.pick(&[secs(12), secs(30)]) } else { Duration::ZERO };
        (fleet.lease, fleet.id_lives, fleet.heartbeat_lives) =
            if hasty { (secs(2), secs(4), secs(3)) } else { (secs(5), secs(30), secs(6)) };
        fleet.assignment_lives = assignment_lives;
        let heartbeat_interval = fleet.heartbeat_lives / 3;
        let change = move |s: &mut Settings| {
            s.worker_id_max = 9;
            s.startup_timeout = secs(600);
            s.heartbeat_interval = heartbeat_interval;
            s.shutdown_hold = hold;
            s.max_partitions = most;
            s.max_moves_per_plan = moves;
            if aggressive {
                s.degraded_behavior.enter_threshold = secs(5);
                s.degraded_behavior.exit_threshold = secs(3);
                s.degraded_behavior.kv_error_threshold = 3;
                s.degraded_behavior.recovery_grace_period = secs(10);
            }
        };
        let settings = {
            let mut settings = fleet.settings(None);
            change(&mut settings);
            settings
        };
        fleet.change = Box::new(change);
        let workers = 2 + fleet.random.below(5) as usize;
        let share = fleet.random.pick(&[15, 40, 80]);
        let kinds = FAULTS.into_iter().filter(|_| fleet.random.chance(share)).collect();
        // A change takes so many plans at most.
        let plans = moves.map_or(1, |moves| partitions.div_ceil(moves as u64) as usize);
        let bound = bound(&settings) + settings.min_rebalance_interval * (plans as u32 - 1) * 5 / 4;
        Self { fleet, workers, kinds, deeds: workers, bound, plans }
    }

    fn run(mut self) -> Run {
        self.begin();
        self.disturb();
        if self.fleet.violation.is_none() {
            self.heal();
            self.calm_down();
        }
        if self.fleet.violation.is_none() {
            self.finish();
        }
        Run { steps: self.fleet.steps, violation: self.fleet.violation.clone() }
    }

    /// There is work, and it goes wrong in its own ways too.
    fn work(&mut self) {
        let random = &mut self.fleet.random;
        let share = random.pick(&[0, 0, 30, 100]);
        let mut some = |most: u64| if random.chance(share) { 1 + random.below(most) } else { 0 };
        let trouble = data_path::Trouble {
            sends: some(15),
            traps: some(4),
            host: some(4),
            snapshots: some(10),
            opens: some(10),
            objects: some(15),
            readers: some(4),
            late_readers: some(20),
        };
        let pace = random.pick(&[(5, 200), (50, 1000), (500, 5000)]);
        let mixed = random.chance(50);
        let commands = [Fault::Seek, Fault::Hold].into_iter().filter(|_| random.chance(50));
        self.kinds.extend(commands);
        self.fleet.with_work(pace, mixed, trouble);
        let deadly = self.fleet.random.pick(&[0, 0, 2]);
        if let Some(work) = &mut self.fleet.work {
            work.deadly = deadly;
        }
    }

    fn begin(&mut self) {
        let fleet = &mut self.fleet;
        let (named, skewed) = (fleet.random.chance(30), fleet.random.chance(50));
        for number in 0..self.workers {
            let number = u32::try_from(number).expect("few");
            let at = if named { fleet.start_as(Some(number)) } else { fleet.start() };
            if skewed {
                let (ahead, rate) = (fleet.random.between(0, 1_000_000), 800 + fleet.random.below(500));
                fleet.restart_at(at, ahead, u32::try_from(rate).expect("a rate"));
            }
            let time = fleet.random.between(0, 3000);
            fleet.run(time);
        }
        let share = fleet.random.pick(&[0, 0, 30, 100]);
        let mut some = |most: u64| if fleet.random.chance(share) { 1 + fleet.random.below(most) } else { 0 };
        fleet.trouble = Trouble {
            lost_requests: some(4),
            lost_replies: some(4),
            late_requests: some(4),
            stale_reads: some(50),
            stale_watches: some(50),
            slow_watches: some(5),
            late_subscriptions: some(50),
            expires_under_renewal: some(5),
        };
    }

    /// One fault after another.
    fn disturb(&mut self) {
        let faults = 5 + self.fleet.random.below(20);
        for _ in 0..faults {
            self.deeds += 1;
            let at = self.fleet.random.below(self.workers as u64) as usize;
            let (status, connected) = (self.fleet.processes[at].status, self.fleet.processes[at].connected);
            let fleet = &mut self.fleet;
            match status {
                Status::Dead | Status::Ended => fleet.restart(at),
                Status::Paused if fleet.random.chance(10) => fleet.kill(at),
                Status::Paused => fleet.resume(at),
                Status::Running if fleet.processes[at].cut => fleet.disconnect(at),
                Status::Running if !connected => fleet.reconnect(at),
                Status::Running if self.kinds.is_empty() => {}
                Status::Running => {
                    let fault = self.fleet.random.pick(&self.kinds);
                    self.inflict(fault, at);
                }
            }
            let most = if self.fleet.random.chance(30) { 8000 } else { 800 };
            let time = self.fleet.random.between(0, most);
            self.fleet.run(time);
            if self.fleet.violation.is_some() {
                return;
            }
        }
    }

    fn inflict(&mut self, fault: Fault, at: usize) {
        let fleet = &mut self.fleet;
        match fault {
            Fault::Kill => fleet.kill(at),
            Fault::Pause => fleet.pause(at),
            Fault::Leave => fleet.leave(at),
            Fault::Disconnect => fleet.disconnect(at),
            Fault::Cut => fleet.cut(at),
            Fault::Mute => {
                fleet.mute = true;
                let time = fleet.random.between(0, 9000);
                fleet.run(time);
                fleet.disturb_all(|| "NATS answers again".into());
                fleet.mute = false;
            }
            Fault::ServerRestart | Fault::Rewind => {
                fleet.stop_nats();
                let most = fleet.random.pick(&[300, 3000, 20_000]);
                let time = fleet.random.between(0, most);
                fleet.run(time);
                if fault == Fault::Rewind {
                    let (bucket, writes) = (fleet.random.pick(&BUCKETS), 1 + fleet.random.below(12) as usize);
                    fleet.rewind(bucket, writes);
                }
                let within = fleet.random.pick(&[100, 1000, 6000]);
                fleet.start_nats(within);
                self.deeds += self.workers;
            }
            Fault::LostBucket => {
                let bucket = fleet.random.pick(&BUCKETS);
                fleet.lose_bucket(bucket);
            }
            Fault::LostRecords => fleet.lose_records(),
            Fault::Source => {
                let name = format!("n{}", fleet.random.below(10));
                fleet.partitions.retain(|p| p.id().as_str() != name);
                if fleet.random.chance(60) {
                    fleet.partitions.push(partition(&name));
                }
                for at in fleet.live() {
                    fleet.give(at, Event::Refresh);
                }
            }
            Fault::SourceFails => fleet.source_fails = !fleet.source_fails,
            Fault::Place => fleet.want_something(self.workers),
            Fault::Seek => fleet.seek(),
            Fault::Hold => fleet.pause_some(),
            Fault::Clock => {
                let rate = fleet.random.pick(&[500, 800, 1000, 1250, 2000]);
                fleet.set_clock(at, None, rate);
            }
        }
    }

    /// The last fault is over: everything works from here on.
    fn heal(&mut self) {
        let fleet = &mut self.fleet;
        fleet.disturb_all(|| "everything works from here on".into());
        fleet.trouble = Trouble::default();
        fleet.source_fails = false;
        fleet.strategist = fleet.strategist.map(Strategist::settled);
        fleet.work_calmly();
        fleet.resume_all();
        for at in 0..self.workers {
            if fleet.processes[at].status == Status::Paused {
                fleet.resume(at);
            }
            if fleet.processes[at].cut {
                fleet.disconnect(at);
            }
            if !fleet.processes[at].connected && fleet.processes[at].status == Status::Running {
                fleet.reconnect(at);
            }
            let rate = fleet.clock_rate(at).clamp(800, 1250);
            fleet.set_clock(at, None, rate);
        }
        for at in fleet.live() {
            fleet.give(at, Event::Refresh);
        }
        // Those that are leaving finish.
        fleet.run(secs(8));
        if fleet.live().is_empty() {
            fleet.restart(0);
        }
    }

    /// The fleet settles in time, nobody has given up, and then nothing is planned any more.
    fn calm_down(&mut self) {
        self.deeds += self.fleet.work.as_ref().map_or(0, |work| work.killed);
        let (fleet, bound) = (&mut self.fleet, self.bound);
        let (began, live) = (fleet.now, fleet.live());
        while let Some(why) = fleet.unsettled() {
            if fleet.violation.is_some() {
                return;
            }
            if fleet.now - began > bound {
                return fleet.violated(format!("not settled within {bound:?} of the last fault: {why}"));
            }
            fleet.run(ms(200));
        }
        // What a strategy owes it decides in this time, and what that moves may take several plans.
        fleet.run(secs(40) + secs(13) * (self.plans as u32 - 1));
        let plans = fleet.planned;
        fleet.run(secs(30));
        if let Some(why) = fleet.unsettled() {
            fleet.violated(format!("settled, and then no more: {why}"));
        }
        if fleet.live() != live {
            fleet.violated("a healthy worker has given up".into());
        }
        if fleet.planned > plans {
            fleet.violated(format!("{} plans in peace", fleet.planned - plans));
        }
        let most = (8 + 3 * self.deeds) * self.plans;
        if fleet.planned > most {
            fleet.violated(format!("{} plans after {} faults", fleet.planned, self.deeds));
        }
    }

    /// Everything that was published is handled, by whom the plan names, and nobody has taken a partition without a reason.
    fn finish(&mut self) {
        let (began, fleet) = (self.fleet.now, &mut self.fleet);
        while let Some(why) = fleet.unfinished() {
            if fleet.violation.is_some() {
                return;
            }
            if fleet.now - began > HANDLED {
                return fleet.violated(format!("not all is handled {HANDLED:?} after the fleet has settled: {why}"));
            }
            fleet.run(ms(200));
        }
        if let Some((id, epoch, moves)) = fleet.duelled(self.deeds as u64) {
            fleet.violated(format!("{id} is in epoch {epoch} after {} faults and {moves} moves", self.deeds));
        }
    }
}

/// In two of five fleets a strategy outside the core decides.
fn strategist(seed: u64) -> Option<Strategist> {
    let mut random = Random(!seed);
    if !random.chance(40) {
        return None;
    }
    let share = random.pick(&[0, 50, 100]);
    let mut some = || if random.chance(share) { random.below(26) } else { 0 };
    let strategist = Strategist { fails: some(), wrong: some(), late: some(), never: some(), restless: false };
    Some(Strategist { restless: random.chance(30), ..strategist })
}

/// The longest that a fleet takes to settle after the last fault, on a true clock: NATS is found well again, the lead is won, who
/// is gone is found out, and one plan follows the other.
fn bound(s: &Settings) -> Duration {
    let well = s.degraded_behavior.exit_threshold + s.degraded_behavior.recovery_grace_period;
    let led = s.election_timeout * 2 + secs(2);
    let judged = s.heartbeat_ttl * 2 + s.emergency_grace_period + s.shutdown_hold;
    let planned = s.planned_scale_window + s.min_rebalance_interval + s.strategy_patience.unwrap_or_default() * 2;
    // A clock may be slow by a fifth.
    (well + led + judged + planned) * 5 / 4
}
