//! What a fleet of coordinators promises, under the faults of `fleet`. Here: who comes, goes and dies.

mod faults;
mod fleet;
mod groups;
mod ids;
mod leaders;
mod model;
mod mutants;
mod outages;
mod pausing;
mod placing;
mod simulation;
mod strategies;
mod versions;

use super::*;
use crate::record::Lifecycle;
use crate::strategy::{Request, Strategy};
use crate::testing::{ms, secs};
use crate::{Partition, PartitionId};
use fleet::{Fleet, Status, partition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn numbers(fleet: &Fleet) -> BTreeSet<u32> {
    fleet.live().into_iter().filter_map(|at| fleet.processes[at].coordinator.worker()?.0.number("worker")).collect()
}

/// Who has what is as before, but for the partitions of these workers.
fn assert_moved_only_from(fleet: &Fleet, before: &BTreeMap<PartitionId, usize>, from: &[usize]) {
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
fn an_emergency_moves_only_orphans_whatever_the_strategy_would_like() {
    struct Restless(AtomicUsize);
    impl Strategy for Restless {
        fn assign(&self, request: Request<'_>) -> Vec<usize> {
            let turn = self.0.fetch_add(1, Ordering::Relaxed);
            (0..request.partitions.len()).map(|p| (p + turn) % request.workers.len()).collect()
        }
    }
    let mut fleet = Fleet::new(29, 30);
    fleet.change = Box::new(|s| s.strategy = Arc::new(Restless(AtomicUsize::new(0))));
    for _ in 0..4 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    let (before, victim) = (fleet.owners(), fleet.follower());
    fleet.kill(victim);
    fleet.settle(secs(3));
    assert_moved_only_from(&fleet, &before, &[victim]);
}

#[test]
fn a_killed_leader_is_succeeded_under_a_higher_term_and_only_its_partitions_move() {
    for seed in 0..20 {
        let mut fleet = Fleet::settled(seed, 30, 4);
        fleet.run(secs(30));
        let before = fleet.owners();
        let victim = fleet.leader();
        fleet.kill(victim);
        // Long before the lease expires: silence, suspicion, grace.
        let took = fleet.settle(ms(1500) + 5 * ms(250) + ms(400));
        assert!(took >= ms(1500), "{took:?} is less than the grace period");
        assert_moved_only_from(&fleet, &before, &[victim]);
        assert_eq!(fleet.term(), Term(2));
    }
}

#[test]
fn leaders_that_die_soon_after_one_another_are_succeeded_when_their_leases_expire() {
    let mut fleet = Fleet::settled(3, 30, 5);
    fleet.run(secs(30));
    for _ in 0..3 {
        let (before, victim) = (fleet.owners(), fleet.leader());
        fleet.kill(victim);
        fleet.settle(secs(5 + 6) + ms(1500) + secs(2));
        assert_moved_only_from(&fleet, &before, &[victim]);
    }
}

#[test]
fn a_leader_that_may_not_be_probed_is_not_superseded_before_its_time() {
    let mut fleet = Fleet::new(31, 30);
    fleet.deaf = Some(0);
    fleet.start();
    fleet.until(secs(5), "it leads", |f| f.processes[0].coordinator.leading().is_some());
    fleet.start();
    fleet.start();
    fleet.settle(secs(60));
    fleet.run(secs(120));
    assert_eq!((fleet.leader(), fleet.term(), fleet.unsettled()), (0, Term(1), None));
}

#[test]
fn partitions_of_a_worker_that_comes_back_wait_for_it_and_move_when_it_does_not() {
    for leads in [false, true] {
        let mut fleet = Fleet::new(32, 30);
        fleet.change = Box::new(|s| s.shutdown_hold = secs(6));
        for number in 0..3 {
            fleet.start_as(Some(number));
        }
        fleet.settle(secs(30));
        fleet.run(secs(30));
        let before = fleet.owners();
        let at = if leads { fleet.leader() } else { fleet.follower() };
        let id = fleet.id(at);
        fleet.leave(at);
        fleet.until(secs(3), "it is gone", |f| f.processes[at].status == Status::Ended);
        let plans = fleet.plans.len();
        fleet.run(secs(3));
        fleet.restart(at);
        fleet.settle(secs(10));
        fleet.run(secs(30));
        assert_eq!((fleet.id(at), fleet.owners(), fleet.moved, fleet.unsettled()), (id, before.clone(), 0, None));
        assert!(fleet.plans[plans..].iter().all(|p| p.lifecycle == fleet.plans[0].lifecycle), "nothing but a new term");
        let at = fleet.follower();
        fleet.leave(at);
        fleet.until(secs(3), "it is gone", |f| f.processes[at].status == Status::Ended);
        fleet.run(secs(5));
        assert_eq!(fleet.moved, 0);
        fleet.settle(secs(3));
        assert_moved_only_from(&fleet, &before, &[at]);
    }
}

#[test]
fn an_assignment_too_long_for_one_value_is_read_whole_or_not_at_all() {
    for seed in 0..10 {
        let mut fleet = Fleet::new(seed, 0);
        let key = |n| format!("{n:04}{}", "é".repeat(400));
        fleet.partitions = (0..1500).map(|n| partition(&key(n))).collect();
        fleet.start();
        fleet.settle(secs(30));
        let chunks = |f: &Fleet| {
            (0..9).filter(|k| f.stored(Bucket::Assignments, &format!("assignment.worker-0.{k}")).is_some()).count()
        };
        assert_eq!(chunks(&fleet), 3);
        // What the second takes leaves the first with less, and what is left over is cleared away.
        fleet.start();
        fleet.settle(secs(30));
        assert_eq!(chunks(&fleet), 2);
        fleet.run(secs(60));
        let (before, leader) = (fleet.owners(), fleet.leader());
        fleet.start();
        fleet.start();
        let plans = fleet.plans.len();
        fleet.until(secs(15), "a plan is written", |f| f.plans.len() > plans);
        // It dies between the plan, the chunks and the headers.
        fleet.run(ms(3 * seed));
        fleet.kill(leader);
        fleet.settle(secs(30));
        let stayed = fleet.owners().into_iter().filter(|(partition, owner)| before[partition] == *owner).count();
        assert!(stayed >= 1500 / 4, "{stayed}");
    }
}

#[test]
fn a_new_leader_whose_source_lists_nothing_takes_nothing_from_anybody() {
    let mut fleet = Fleet::settled(34, 30, 4);
    fleet.run(secs(30));
    let (before, listed) = (fleet.owners(), std::mem::take(&mut fleet.partitions));
    let victim = fleet.leader();
    fleet.kill(victim);
    fleet.run(secs(20));
    assert_moved_only_from(&fleet, &before, &[victim]);
    assert_eq!(fleet.owners().len(), 30, "the orphans are placed, and nobody else has lost any");
    fleet.partitions = listed;
}

#[test]
fn a_joiner_does_not_wait_for_a_worker_that_takes_long_to_leave() {
    let mut fleet = Fleet::settled(35, 30, 3);
    fleet.run(secs(60));
    let leaver = fleet.follower();
    fleet.drain_time = (60_000, 60_000);
    fleet.leave(leaver);
    fleet.run(secs(2));
    let joiner = fleet.start();
    fleet.until(secs(15), "the joiner has a share", |f| !f.has(joiner).is_empty());
    assert_ne!(fleet.processes[leaver].status, Status::Ended);
}

#[test]
fn a_fleet_that_gathers_is_not_told_that_its_partitions_have_no_owner() {
    let mut fleet = Fleet::new(34, 30);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    assert!(!fleet.notices.iter().any(|(_, n)| matches!(n, Notice::Unowned { .. })), "{:?}", fleet.notices);
}

#[test]
fn no_worker_gets_more_than_it_may_hold_and_what_is_left_over_is_placed_when_there_is_room() {
    let mut fleet = Fleet::new(33, 30);
    fleet.change = Box::new(|s| s.max_partitions = Some(9));
    for _ in 0..4 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    let (before, victim) = (fleet.owners(), fleet.follower());
    fleet.kill(victim);
    fleet.run(secs(30));
    let sizes: Vec<_> = fleet.live().into_iter().map(|at| fleet.has(at).len()).collect();
    assert_eq!(sizes, [9, 9, 9], "three have no room");
    assert_moved_only_from(&fleet, &before, &[victim]);
    assert!(fleet.notices.iter().any(|(_, n)| *n == Notice::Unowned { partitions: 3 }));
    let plans = fleet.plans.len();
    fleet.run(secs(60));
    assert_eq!(fleet.plans.len(), plans, "what cannot be placed is not planned for again and again");
    fleet.restart(victim);
    fleet.settle(secs(30));
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
    for seed in 0..20 {
        let leader_leaves = seed % 2 == 0;
        let mut fleet = Fleet::settled(seed, 30, 3);
        let before = fleet.owners();
        let leaver = if leader_leaves { fleet.leader() } else { fleet.follower() };
        fleet.drain_time = (1, 1);
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
    // What is asked for while an earlier question is open is asked again.
    let leader = fleet.leader();
    for n in 0..10 {
        fleet.give(leader, Event::Refresh);
        fleet.run(ms(2 * n));
        fleet.partitions.push(partition(&format!("late-{n}")));
        fleet.give(leader, Event::Refresh);
        fleet.run(ms(100));
        fleet.settle(secs(3));
    }
    // One that outweighs all others cannot be balanced, and no plan is made that would move nothing.
    fleet.partitions.push(Partition::new(vec!["heavy".into()], 1_000_000).unwrap());
    fleet.give(leader, Event::Refresh);
    fleet.run(secs(60));
    let plans = fleet.plans.len();
    fleet.partitions.remove(0);
    fleet.give(leader, Event::Refresh);
    fleet.run(secs(60));
    assert_eq!((fleet.plans.len(), fleet.unsettled()), (plans + 1, None));
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
