//! What a fleet of coordinators promises, under the faults of `fleet`.

mod fleet;

use super::*;
use crate::record::{AssignmentRecord, Lifecycle, decode};
use fleet::{Fleet, Status, Trouble, ms, partition, secs};
use std::collections::BTreeSet;

fn numbers(fleet: &Fleet) -> BTreeSet<u32> {
    fleet.live().into_iter().filter_map(|at| fleet.processes[at].coordinator.worker()?.0.number("worker")).collect()
}

/// Who has what is as before, but for the partitions of these workers.
fn assert_moved_only_from(
    fleet: &Fleet,
    before: &std::collections::BTreeMap<crate::PartitionId, usize>,
    from: &[usize],
) {
    for (partition, owner) in fleet.owners() {
        let was = before[&partition];
        assert!(owner == was || from.contains(&was), "{partition} moved from #{was} to #{owner}");
    }
}

#[test]
fn three_workers_that_start_together_share_everything_under_one_leader() {
    let fleet = Fleet::settled(1, 30, 3);
    assert_eq!(numbers(&fleet), BTreeSet::from([0, 1, 2]));
    for at in 0..3 {
        assert_eq!(fleet.has(at).len(), 10);
    }
    assert_eq!(fleet.term(), Term(1));
    assert_eq!(fleet.moved, 0);
}

#[test]
fn workers_that_start_at_once_all_get_ids_without_fighting_for_each() {
    for (n, tries) in [(20u32, 120), (64, 600)] {
        let mut fleet = Fleet::settled(7, 200, n as usize);
        assert_eq!(numbers(&fleet).len(), n as usize);
        let writes = fleet.writes[&Bucket::StableIds];
        assert!(writes <= tries, "{writes} writes for {n} IDs");
        fleet.run(secs(60));
        assert_eq!(fleet.unsettled(), None);
    }
}

#[test]
fn a_killed_follower_is_replaced_within_the_grace_period_and_nobody_else_moves() {
    let mut fleet = Fleet::settled(2, 30, 3);
    fleet.run(secs(40));
    let before = fleet.owners();
    let victim = fleet.follower();
    fleet.kill(victim);
    let took = fleet.settle(ms(1500) + 4 * ms(250));
    assert!(took >= ms(1500), "{took:?} is less than the grace period");
    assert_moved_only_from(&fleet, &before, &[victim]);
    assert_eq!(fleet.plans.last().unwrap().lifecycle, Lifecycle::Emergency);
    assert_eq!(fleet.term(), Term(1));
}

#[test]
fn a_killed_leader_is_succeeded_under_a_higher_term_and_only_its_partitions_move() {
    let mut fleet = Fleet::settled(3, 30, 3);
    let before = fleet.owners();
    let victim = fleet.leader();
    fleet.kill(victim);
    // The lease, then the time for a heartbeat that never comes.
    fleet.settle(secs(5 + 6) + ms(1500) + secs(2));
    assert_moved_only_from(&fleet, &before, &[victim]);
    assert_eq!(fleet.term(), Term(2));
}

#[test]
fn a_change_of_leader_alone_moves_nothing() {
    let mut fleet = Fleet::settled(4, 30, 3);
    let before = fleet.owners();
    let old = fleet.leader();
    fleet.disconnect(old);
    fleet.until(secs(10), "another leads", |f| f.term() > Term(1));
    fleet.reconnect(old);
    fleet.settle(secs(10));
    fleet.run(secs(30));
    assert_ne!(fleet.leader(), old);
    assert_eq!(fleet.owners(), before);
    assert_eq!(fleet.moved, 0);
}

#[test]
fn a_worker_that_leaves_hands_over_only_its_own_partitions_and_frees_everything() {
    for leader_leaves in [false, true] {
        let mut fleet = Fleet::settled(5, 30, 3);
        let before = fleet.owners();
        let leaver = if leader_leaves { fleet.leader() } else { fleet.follower() };
        let (id, began) = (fleet.id(leaver), fleet.now);
        fleet.leave(leaver);
        fleet.until(secs(3), "it is gone", |f| f.processes[leaver].status == Status::Ended);
        fleet.settle(secs(3));
        assert!(fleet.now - began < secs(3));
        assert_moved_only_from(&fleet, &before, &[leaver]);
        assert_eq!(fleet.stored(Bucket::StableIds, &id), None);
        assert_eq!(fleet.stored(Bucket::Heartbeats, &format!("heartbeat.{id}")), None);
        assert!(fleet.plans.iter().all(|p| p.lifecycle != Lifecycle::Emergency));
        fleet.run(secs(30));
        assert_eq!(fleet.unsettled(), None);
        assert!(!fleet.notices.iter().any(|(_, n)| matches!(n, Notice::WorkerDead { .. })), "nobody has died");
    }
}

#[test]
fn the_last_worker_can_leave() {
    let mut fleet = Fleet::settled(6, 10, 1);
    fleet.leave(0);
    fleet.until(secs(3), "it is gone", |f| f.processes[0].status == Status::Ended);
    assert_eq!(fleet.stored(Bucket::Election, "leader"), None);
    fleet.restart(0);
    fleet.settle(secs(30));
}

#[test]
fn a_worker_that_joins_gets_a_share_and_only_it_gets_partitions() {
    let mut fleet = Fleet::settled(8, 30, 3);
    fleet.run(secs(60));
    let before = fleet.owners();
    let joiner = fleet.start();
    let took = fleet.settle(secs(10));
    assert!(took < secs(4), "{took:?}");
    assert!((6..=8).contains(&fleet.has(joiner).len()));
    for (partition, owner) in fleet.owners() {
        assert!(owner == joiner || owner == before[&partition]);
    }
}

#[test]
fn a_process_that_restarts_within_the_grace_period_gets_its_id_and_its_partitions_back() {
    for leads in [false, true] {
        let mut fleet = Fleet::new(9, 30);
        for number in 0..3 {
            fleet.start_as(Some(number));
        }
        fleet.settle(secs(30));
        fleet.run(secs(30));
        let (before, plans) = (fleet.owners(), fleet.plans.len());
        let at = if leads { fleet.leader() } else { fleet.follower() };
        let id = fleet.id(at);
        fleet.kill(at);
        fleet.run(ms(200));
        fleet.restart(at);
        fleet.run(secs(1));
        fleet.settle(secs(20));
        fleet.run(secs(30));
        assert_eq!(fleet.id(at), id);
        assert_eq!(fleet.owners(), before);
        assert_eq!(fleet.moved, 0);
        // A new leader writes its term; nothing else is published.
        assert_eq!(fleet.plans.len(), plans + usize::from(leads));
    }
}

#[test]
fn a_stopped_worker_is_declared_dead_and_claims_afresh_when_it_goes_on() {
    let mut fleet = Fleet::settled(10, 30, 3);
    fleet.run(secs(10));
    let (victim, before) = (fleet.follower(), fleet.owners());
    let old = fleet.processes[victim].coordinator.worker().unwrap();
    fleet.pause(victim);
    fleet.settle(secs(6 + 2) + ms(1500));
    assert_moved_only_from(&fleet, &before, &[victim]);
    fleet.resume(victim);
    fleet.until(secs(1), "fenced", |f| f.processes[victim].fenced == 1);
    assert!(fleet.has(victim).is_empty());
    fleet.settle(secs(25));
    let new = fleet.processes[victim].coordinator.worker().unwrap();
    assert_eq!(new.0, old.0);
    assert!(new.1.claim > old.1.claim);
    assert!(!fleet.has(victim).is_empty());
    fleet.run(secs(60));
    assert_eq!((fleet.processes[victim].fenced, fleet.unsettled()), (1, None));
}

#[test]
fn a_zombie_whose_id_was_taken_gives_way_to_the_new_holder() {
    let mut fleet = Fleet::new(11, 12);
    fleet.change = |s| s.worker_id_max = 2;
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    let victim = fleet.follower();
    let id = fleet.id(victim);
    fleet.pause(victim);
    fleet.run(secs(40));
    let successor = fleet.start();
    fleet.run(secs(30));
    assert_eq!(fleet.id(successor), id);
    fleet.resume(victim);
    fleet.until(secs(5), "no ID is left for it", |f| f.processes[victim].failure.is_some());
    fleet.settle(secs(10));
    assert_eq!(fleet.id(successor), id);
    assert_eq!(fleet.processes[successor].fenced, 0);
}

#[test]
fn a_start_without_a_free_id_fails_and_names_the_holders() {
    let mut fleet = Fleet::new(12, 12);
    fleet.change = |s| s.worker_id_max = 2;
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    let late = fleet.start();
    fleet.until(secs(3), "it fails", |f| f.processes[late].failure.is_some());
    let Some(StartFailure::IdsExhausted { holders }) = &fleet.processes[late].failure else { panic!() };
    assert_eq!(holders.len(), 3);
    for (at, (worker, holder)) in holders.iter().enumerate() {
        assert_eq!(worker, &WorkerId::new("worker", u32::try_from(at).unwrap()));
        assert!(holder.starts_with("host pid 1 ("), "{holder}");
    }
    // One dies: three IDs suffice for three workers.
    let victim = fleet.follower();
    fleet.kill(victim);
    fleet.restart(late);
    fleet.settle(secs(30));
    assert_eq!(numbers(&fleet).len(), 3);
}

#[test]
fn a_start_that_gets_no_answer_fails_and_says_what_it_waited_for() {
    let mut fleet = Fleet::new(13, 12);
    fleet.mute = true;
    let at = fleet.start();
    fleet.until(secs(31), "it fails", |f| f.processes[at].failure.is_some());
    let failure =
        StartFailure::TimedOut { state: WorkerState::ClaimingId, waiting_for: "answers from NATS about worker IDs" };
    assert_eq!(fleet.processes[at].failure, Some(failure));
}

#[test]
fn a_start_without_a_connection_fails_too() {
    let mut fleet = Fleet::new(14, 1);
    let settings = fleet.settings(None);
    let mut coordinator = Coordinator::new(settings);
    coordinator.handle_timeout(Now(secs(5)));
    assert_eq!(coordinator.poll_timeout(), Some(Now(secs(35))));
    coordinator.handle_timeout(Now(secs(35)));
    let failure = StartFailure::TimedOut { state: WorkerState::Init, waiting_for: "a connection to NATS" };
    assert_eq!(coordinator.poll_action(), Some(Action::Failed(failure)));
}

#[test]
fn an_outage_in_which_every_key_expires_fences_and_moves_nobody() {
    let mut fleet = Fleet::settled(15, 30, 3);
    fleet.run(secs(30));
    let (before, ids) = (fleet.owners(), numbers(&fleet));
    for at in 0..3 {
        fleet.disconnect(at);
    }
    fleet.run(secs(90));
    assert_eq!(fleet.stored(Bucket::StableIds, "worker-0"), None);
    for at in 0..3 {
        fleet.reconnect(at);
        fleet.run(ms(300));
    }
    fleet.settle(secs(10));
    fleet.run(secs(60));
    assert_eq!(fleet.unsettled(), None);
    assert_eq!((fleet.owners(), numbers(&fleet)), (before, ids));
    assert!(fleet.processes.iter().all(|p| p.fenced == 0));
    assert!(fleet.stored(Bucket::StableIds, "worker-0").is_some());
}

#[test]
fn a_leader_that_was_stopped_through_its_lease_cannot_write_another_plan() {
    for seed in 0..40 {
        let mut fleet = Fleet::settled(seed, 30, 3);
        fleet.run(secs(40));
        let (leader, follower) = (fleet.leader(), fleet.follower());
        // It stops in the midst of publishing: what it had not sent goes out when it is back.
        fleet.kill(follower);
        let time = fleet.random.between(1500, 2100);
        fleet.run(time);
        fleet.pause(leader);
        fleet.until(secs(10), "another leads", |f| f.plans.last().unwrap().term > Term(1));
        let time = fleet.random.between(0, 4000);
        fleet.run(time);
        fleet.resume(leader);
        // `Fleet` checks that the plans in the bucket only grow.
        fleet.settle(secs(60));
        assert!(fleet.plans.iter().rev().take_while(|p| p.term > Term(1)).count() >= 1);
    }
}

#[test]
fn a_leader_that_dies_between_plan_and_assignments_leaves_nothing_undone() {
    for seed in 0..60 {
        let mut fleet = Fleet::settled(seed, 30, 4);
        fleet.run(secs(40));
        let (leader, follower, plans) = (fleet.leader(), fleet.follower(), fleet.plans.len());
        fleet.kill(follower);
        fleet.until(secs(5), "the plan is written", |f| f.plans.len() > plans);
        fleet.run(ms(seed));
        fleet.kill(leader);
        fleet.settle(secs(30));
        // The same while a worker joins.
        let (leader, plans, joiner) = (fleet.leader(), fleet.plans.len(), fleet.start());
        fleet.until(secs(15), "the plan is written", |f| f.plans.len() > plans);
        fleet.run(ms(seed));
        fleet.kill(leader);
        fleet.settle(secs(30));
        assert!(!fleet.has(joiner).is_empty());
    }
}

#[test]
fn a_leader_that_was_stopped_for_less_than_its_lease_condemns_nobody() {
    let mut fleet = Fleet::new(22, 30);
    fleet.lease = secs(60);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    let leader = fleet.leader();
    for _ in 0..8 {
        fleet.pause(leader);
        fleet.run(secs(12));
        fleet.resume(leader);
        fleet.run(secs(10));
    }
    assert_eq!((fleet.moved, fleet.unsettled()), (0, None));
}

#[test]
fn workers_that_answer_probes_are_not_dead_while_their_heartbeats_do_not_get_through() {
    let mut fleet = Fleet::settled(23, 30, 3);
    let before = fleet.owners();
    fleet.refuse_heartbeats = true;
    fleet.run(secs(60));
    assert_eq!((fleet.owners(), fleet.unsettled()), (before, None));
}

#[test]
fn garbage_in_a_bucket_is_reported_and_changes_nothing() {
    let mut fleet = Fleet::settled(16, 30, 3);
    fleet.run(secs(40));
    let before = fleet.owners();
    let follower = fleet.follower();
    let assignment = format!("assignment.{}", fleet.id(follower));
    let garbage: [&[u8]; 4] = [b"", b"\xff\xfe", b"{\"v\":1}", b"{\"v\":2,\"claim\":3}"];
    for value in garbage {
        for (bucket, key) in [
            (Bucket::StableIds, "worker-77"),
            (Bucket::StableIds, "nonsense"),
            (Bucket::Heartbeats, "heartbeat.worker-77"),
            (Bucket::Heartbeats, "heartbeat.worker-0"),
            (Bucket::Assignments, assignment.as_str()),
            (Bucket::Assignments, "plan"),
        ] {
            fleet.put(bucket, key, Some(value.to_vec()), Expect::Anything, Lifetime::Forever);
            fleet.run(ms(500));
        }
    }
    fleet.run(secs(30));
    assert_eq!(fleet.unsettled(), None);
    assert_eq!(fleet.owners(), before);
    for bucket in [Bucket::Heartbeats, Bucket::Assignments] {
        assert!(fleet.notices.iter().any(|(_, n)| matches!(n, Notice::Unreadable { bucket: b, .. } if *b == bucket)));
    }
    // Planning goes on over it, and so does a start.
    fleet.put(Bucket::Assignments, "plan", Some(b"{".to_vec()), Expect::Anything, Lifetime::Forever);
    fleet.kill(follower);
    let joiner = fleet.start();
    fleet.settle(secs(40));
    assert!(!fleet.has(joiner).is_empty());
    // And so does an election.
    fleet.put(Bucket::Election, "leader", Some(b"{".to_vec()), Expect::Anything, Lifetime::Election);
    fleet.until(secs(15), "another term", |f| f.term() > Term(1));
    fleet.settle(secs(30));
}

#[test]
fn workers_that_partitions_do_not_suffice_for_are_stable_with_nothing() {
    let mut fleet = Fleet::settled(17, 2, 4);
    let surplus: Vec<_> = fleet.live().into_iter().filter(|at| fleet.has(*at).is_empty()).collect();
    assert_eq!(surplus.len(), 2);
    assert!(surplus.iter().all(|at| fleet.processes[*at].assigned.is_some()));
    // They are there when they are needed.
    let victim = fleet.live().into_iter().find(|at| !fleet.has(*at).is_empty()).unwrap();
    fleet.kill(victim);
    fleet.settle(secs(20));
    assert_eq!(fleet.owners().len(), 2);
}

#[test]
fn partitions_that_appear_and_vanish_at_the_source_are_planned_without_moving_others() {
    let mut fleet = Fleet::settled(18, 30, 3);
    fleet.run(secs(60));
    let before = fleet.owners();
    fleet.partitions.drain(..3);
    fleet.partitions.extend(["x", "y", "z"].map(partition));
    for at in fleet.live() {
        fleet.give(at, Event::Refresh);
    }
    fleet.run(ms(100));
    fleet.settle(secs(3));
    let after = fleet.owners();
    for (partition, owner) in &before {
        assert!(after.get(partition).is_none_or(|now| now == owner));
    }
    // A source that fails, or lists nothing or one partition twice, changes nothing.
    let plans = fleet.plans.len();
    let (good, leader) = (fleet.partitions.clone(), fleet.leader());
    fleet.partitions.push(partition("x"));
    fleet.give(leader, Event::Refresh);
    fleet.run(secs(1));
    fleet.partitions.clear();
    fleet.give(leader, Event::Refresh);
    fleet.run(secs(1));
    fleet.partitions = good;
    fleet.source_fails = true;
    fleet.give(leader, Event::Refresh);
    fleet.run(secs(1));
    assert_eq!(fleet.plans.len(), plans);
    assert_eq!(fleet.unsettled(), None);
    assert_eq!(fleet.notices.iter().filter(|(_, n)| matches!(n, Notice::SourceFailed(_))).count(), 3);
}

#[test]
fn a_bucket_that_is_lost_is_filled_again_without_a_move() {
    for bucket in [Bucket::StableIds, Bucket::Election, Bucket::Heartbeats, Bucket::Assignments] {
        let mut fleet = Fleet::settled(19, 30, 3);
        fleet.run(secs(40));
        let before = fleet.owners();
        fleet.lose_bucket(bucket);
        fleet.run(secs(60));
        assert_eq!(fleet.unsettled(), None, "{bucket:?}");
        assert_eq!(fleet.owners(), before, "{bucket:?}");
        // Whoever starts finds what it needs.
        fleet.start();
        fleet.settle(secs(20));
    }
}

#[test]
fn a_leader_below_what_its_workers_have_seen_climbs_above_it() {
    let mut fleet = Fleet::settled(20, 30, 3);
    for _ in 0..3 {
        let leader = fleet.leader();
        fleet.kill(leader);
        fleet.settle(secs(20));
        fleet.start();
        fleet.settle(secs(40));
    }
    let seen = fleet.term();
    // Everything is lost, and one who knows nothing wins the election.
    for at in fleet.live() {
        fleet.disconnect(at);
    }
    for bucket in [Bucket::StableIds, Bucket::Election, Bucket::Heartbeats, Bucket::Assignments] {
        fleet.lose_bucket(bucket);
    }
    let newcomer = fleet.start_as(Some(50));
    fleet.until(secs(10), "it leads", |f| f.processes[newcomer].coordinator.leading().is_some());
    for at in fleet.live() {
        if at != newcomer {
            fleet.reconnect(at);
        }
    }
    fleet.settle(secs(60));
    assert!(fleet.term() > seen);
}

#[test]
fn a_connection_that_is_reset_and_back_at_once_moves_nothing() {
    let mut fleet = Fleet::settled(21, 30, 5);
    fleet.run(secs(40));
    let (before, plans) = (fleet.owners(), fleet.plans.len());
    for at in fleet.live() {
        fleet.disconnect(at);
        let time = fleet.random.between(100, 900);
        fleet.run(time);
        fleet.reconnect(at);
        fleet.run(secs(2));
    }
    fleet.run(secs(30));
    assert_eq!((fleet.owners(), fleet.plans.len()), (before, plans));
}

#[test]
fn whatever_happens_the_fleet_settles_afterwards_with_every_partition_in_one_place() {
    let seeds = std::env::var("SEEDS").map_or(0..250, |text| {
        let (from, to) = text.split_once("..").unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    for seed in seeds {
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
    for at in fleet.live() {
        let key = format!("assignment.{}", fleet.id(at));
        let stored: AssignmentRecord = decode(&fleet.stored(Bucket::Assignments, &key).unwrap()).unwrap();
        assert_eq!(stored.partitions.len(), fleet.has(at).len());
    }
}
