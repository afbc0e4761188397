//! Random faults, and then: one leader, and every partition in exactly one place.

use super::fleet::{Fleet, Status, Trouble, partition};
use crate::coordinator::*;
use crate::testing::{secs, seeds};

#[test]
fn whatever_happens_the_fleet_settles_afterwards_with_every_partition_in_one_place() {
    for seed in seeds(0..150) {
        soak(seed);
    }
}

fn soak(seed: u64) {
    let mut fleet = Fleet::new(seed, 24);
    let workers = 2 + fleet.random.below(5) as usize;
    fleet.change = |s| {
        s.worker_id_max = 9;
        s.startup_timeout = secs(600);
    };
    for _ in 0..workers {
        fleet.start();
        let time = fleet.random.between(0, 3000);
        fleet.run(time);
    }
    let gentle = Trouble { lost_requests: 2, lost_replies: 2, late_requests: 2 };
    fleet.trouble = if fleet.random.chance(50) { gentle } else { Trouble::default() };
    let faults = 5 + fleet.random.below(20);
    for _ in 0..faults {
        let at = fleet.random.below(workers as u64) as usize;
        let (status, connected) = (fleet.processes[at].status, fleet.processes[at].connected);
        match (status, fleet.random.below(8)) {
            (_, 6) => {
                fleet.mute = true;
                let time = fleet.random.between(0, 9000);
                fleet.run(time);
                fleet.mute = false;
            }
            (_, 7) if fleet.random.chance(20) => {
                let buckets = [Bucket::StableIds, Bucket::Election, Bucket::Heartbeats, Bucket::Assignments];
                let bucket = buckets[fleet.random.below(4) as usize];
                fleet.lose_bucket(bucket);
            }
            (Status::Dead | Status::Ended, _) => fleet.restart(at),
            (Status::Paused, 0) => fleet.kill(at),
            (Status::Paused, _) => fleet.resume(at),
            (Status::Running, 0) => fleet.kill(at),
            (Status::Running, 1) => fleet.pause(at),
            (Status::Running, 2) => fleet.leave(at),
            (Status::Running, 3 | 4) if connected => fleet.disconnect(at),
            (Status::Running, 3 | 4) => fleet.reconnect(at),
            (Status::Running, _) => {
                let name = format!("n{}", fleet.random.below(10));
                fleet.partitions.retain(|p| p.id().as_str() != name);
                if fleet.random.chance(60) {
                    fleet.partitions.push(partition(&name));
                }
            }
        }
        let most = if fleet.random.chance(30) { 8000 } else { 800 };
        let time = fleet.random.between(0, most);
        fleet.run(time);
    }
    fleet.trouble = Trouble::default();
    for at in 0..workers {
        if fleet.processes[at].status == Status::Paused {
            fleet.resume(at);
        }
        if !fleet.processes[at].connected && fleet.processes[at].status == Status::Running {
            fleet.reconnect(at);
        }
    }
    if fleet.live().is_empty() {
        fleet.restart(0);
    }
    for at in fleet.live() {
        fleet.give(at, Event::Refresh);
    }
    // Those that are leaving finish.
    fleet.run(secs(5));
    if fleet.live().is_empty() {
        fleet.restart(0);
    }
    let live = fleet.live();
    fleet.settle(secs(60));
    assert_eq!(fleet.live(), live, "a healthy worker has given up: {:?}", fleet.processes[live[0]].failure);
    // And it stays so.
    fleet.run(secs(40));
    let plans = fleet.plans.len();
    fleet.run(secs(40));
    assert_eq!(fleet.unsettled(), None);
    assert_eq!(fleet.plans.len(), plans, "plans are made for nothing");
}
