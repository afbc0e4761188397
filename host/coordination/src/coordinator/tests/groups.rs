//! Two groups on the same buckets by mistake: one of them refuses to start and says why, the other does not notice.

use super::fleet::{Fleet, Status};
use crate::WorkerState;
use crate::coordinator::*;
use crate::testing::{ms, secs};
use std::collections::BTreeSet;

fn stranger(fleet: &mut Fleet, number: Option<u32>) -> usize {
    fleet.change = Box::new(|s| s.group = "other".into());
    let at = fleet.start_as(number);
    fleet.change = Box::new(|_| {});
    at
}

/// A value of ours as another group would have written it, or a build from before groups had names in records.
fn of_group(value: Option<Vec<u8>>, group: Option<&str>) -> Option<Vec<u8>> {
    let mut record: serde_json::Value = serde_json::from_slice(&value?).unwrap();
    match group {
        Some(group) => record["group"] = group.into(),
        None => drop(record.as_object_mut().unwrap().remove("group")),
    }
    Some(record.to_string().into_bytes())
}

fn another(bucket: Bucket, group: &str) -> Option<StartFailure> {
    Some(StartFailure::AnotherGroup { bucket, group: group.into() })
}

fn warned_of(fleet: &Fleet) -> Vec<(usize, Bucket)> {
    let notices = fleet.notices.iter();
    notices
        .filter_map(|(at, notice)| match notice {
            Notice::Stranger { bucket, group, .. } if group == "other" => Some((*at, *bucket)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_worker_of_another_group_refuses_to_start_before_it_has_written_anything() {
    let mut fleet = Fleet::settled(60, 30, 3);
    fleet.run(secs(40));
    let (before, plans, claims) = (fleet.owners(), fleet.plans.len(), fleet.writes[&Bucket::StableIds]);
    let at = stranger(&mut fleet, None);
    fleet.until(ms(100), "it fails", |f| f.processes[at].failure.is_some());
    assert_eq!(fleet.processes[at].failure, another(Bucket::Assignments, "group"));
    assert_eq!((fleet.processes[at].sent, fleet.writes[&Bucket::StableIds]), (3, claims), "it has only asked");
    fleet.run(secs(60));
    assert_eq!((fleet.owners(), fleet.plans.len(), fleet.unsettled()), (before, plans, None));
    // Nor when the fleet has just left: the plan is still its.
    (0..3).for_each(|at| fleet.leave(at));
    fleet.run(secs(60));
    fleet.restart(at);
    fleet.run(secs(1));
    fleet.restart(0);
    fleet.settle(secs(30));
}

#[test]
fn a_start_is_refused_whichever_bucket_is_another_groups() {
    for (bucket, key) in [
        (Bucket::StableIds, "worker-0"),
        (Bucket::Election, "leader"),
        (Bucket::Heartbeats, "heartbeat.worker-0"),
        (Bucket::Assignments, "plan"),
    ] {
        let theirs = Fleet::settled(61, 30, 1).stored(bucket, key);
        let mut fleet = Fleet::new(61, 30);
        fleet.put(bucket, key, of_group(theirs, Some("other")), Expect::Anything, Lifetime::Forever);
        let at = fleet.start();
        fleet.until(secs(1), "it fails", |f| f.processes[at].failure.is_some());
        assert_eq!(fleet.processes[at].failure, another(bucket, "other"));
        fleet.run(secs(1));
        for id in ["worker-0", "worker-1"] {
            assert!(bucket == Bucket::StableIds || fleet.stored(Bucket::StableIds, id).is_none(), "it leaves nothing");
        }
    }
}

#[test]
fn a_leader_that_finds_the_plan_of_another_group_leaves_it_and_gives_up() {
    let plan = Fleet::settled(65, 30, 1).stored(Bucket::Assignments, "plan");
    let plan = of_group(plan, Some("other"));
    for seed in 0..20 {
        let mut fleet = Fleet::new(seed, 30);
        let at = fleet.start();
        fleet.until(secs(5), "it leads", |f| f.processes[at].coordinator.leading().is_some());
        fleet.put(Bucket::Assignments, "plan", plan.clone(), Expect::Anything, Lifetime::Forever);
        fleet.until(secs(1), "it fails", |f| f.processes[at].failure.is_some());
        fleet.run(secs(1));
        assert_eq!(fleet.processes[at].failure, another(Bucket::Assignments, "other"));
        assert_eq!(fleet.stored(Bucket::Assignments, "plan"), plan, "seed {seed}");
    }
}

#[test]
fn two_groups_that_find_empty_buckets_at_once_end_as_one_that_works_and_one_that_says_why() {
    for seed in 0..40 {
        let mut fleet = Fleet::new(seed, 30);
        for number in 0..3 {
            // Different numbers: they do not meet before the election.
            fleet.start_as(Some(number));
            let time = fleet.random.between(0, 20);
            fleet.run(time);
            stranger(&mut fleet, Some(10 + number));
        }
        let one_group = |f: &Fleet| f.live().iter().map(|at| at % 2).collect::<BTreeSet<_>>().len() == 1;
        fleet.until(secs(3), "one group has given up", one_group);
        fleet.settle(secs(30));
        let stays = if fleet.live()[0].is_multiple_of(2) { "group" } else { "other" };
        for at in 0..6 {
            let process = &fleet.processes[at];
            assert!(process.status == Status::Running || !process.states.contains(&WorkerState::Stable), "seed {seed}");
            match &process.failure {
                None => assert_eq!(process.status, Status::Running),
                Some(StartFailure::AnotherGroup { .. }) => {}
                Some(other) => panic!("seed {seed}: {other:?}"),
            }
        }
        // Who starts again finds out whose the buckets are.
        for at in (0..6).filter(|at| fleet.processes[*at].status == Status::Dead).collect::<Vec<_>>() {
            let group = if at % 2 == 0 { "group" } else { "other" };
            fleet.change = Box::new(move |s| s.group = group.into());
            fleet.restart(at);
        }
        fleet.run(secs(1));
        assert_eq!((fleet.live().len(), one_group(&fleet)), (3, true), "seed {seed}");
        fleet.settle(secs(40));
        let refused = fleet.processes.iter().filter_map(|p| p.failure.clone());
        assert!(refused.eq([(); 3].map(|()| another(Bucket::Assignments, stays).unwrap())), "seed {seed}");
    }
}

#[test]
fn what_another_group_writes_into_the_buckets_of_a_fleet_is_ignored_with_one_warning() {
    let mut fleet = Fleet::settled(62, 30, 3);
    fleet.run(secs(40));
    let (before, leader) = (fleet.owners(), fleet.leader());
    let ours = |fleet: &Fleet, bucket, key| fleet.stored(bucket, key);
    let claim = of_group(ours(&fleet, Bucket::StableIds, "worker-1"), Some("other"));
    let beat = of_group(ours(&fleet, Bucket::Heartbeats, "heartbeat.worker-1"), Some("other"));
    let plan = of_group(ours(&fleet, Bucket::Assignments, "plan"), Some("other"));
    fleet.put(Bucket::StableIds, "worker-3", claim, Expect::Anything, Lifetime::Forever);
    for _ in 0..10 {
        for key in ["heartbeat.worker-3", "heartbeat.worker-1"] {
            fleet.put(Bucket::Heartbeats, key, beat.clone(), Expect::Anything, Lifetime::Heartbeat);
        }
        fleet.run(secs(2));
    }
    fleet.put(Bucket::Assignments, "plan", plan, Expect::Anything, Lifetime::Forever);
    fleet.run(secs(1));
    fleet.settle(secs(10));
    assert_eq!((fleet.owners(), fleet.leader(), fleet.moved), (before, leader, 0));
    assert!(fleet.notices.iter().skip(1).all(|(_, n)| !matches!(n, Notice::WorkerDead { .. })));
    let heard = warned_of(&fleet);
    assert_eq!(heard.iter().filter(|(at, bucket)| (*at, *bucket) == (leader, Bucket::Heartbeats)).count(), 1);
    assert!((0..3).all(|at| heard.contains(&(at, Bucket::Assignments))), "{heard:?}");
    // A worker of ours starts all the same, and leaves the other group's ID alone.
    let joiner = fleet.start();
    fleet.settle(secs(20));
    assert_eq!(fleet.id(joiner), "worker-4");
    assert!(heard.len() < warned_of(&fleet).len());
}

#[test]
fn a_lease_of_another_group_is_neither_followed_nor_bid_against() {
    let mut fleet = Fleet::settled(63, 30, 3);
    fleet.run(secs(40));
    let (before, lease) = (fleet.owners(), fleet.stored(Bucket::Election, "leader"));
    let lease = of_group(lease, Some("other"));
    for _ in 0..20 {
        fleet.put(Bucket::Election, "leader", lease.clone(), Expect::Anything, Lifetime::Election);
        fleet.run(secs(2));
        assert!((0..3).all(|at| fleet.processes[at].coordinator.leading().is_none()));
        assert!((0..3).all(|at| fleet.processes[at].coordinator.leader().is_none()));
        assert_eq!(fleet.stored(Bucket::Election, "leader"), lease);
    }
    // When it has gone, ours goes on.
    fleet.settle(secs(10));
    assert_eq!((fleet.owners(), fleet.moved), (before, 0));
}

#[test]
fn records_of_builds_that_name_no_group_are_our_own() {
    let mut fleet = Fleet::new(64, 30);
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settle(secs(30));
    fleet.run(secs(40));
    let at = fleet.follower();
    let (id, before) = (fleet.id(at), fleet.owners());
    let beat = format!("heartbeat.{id}");
    fleet.kill(at);
    for (bucket, key, lifetime) in [
        (Bucket::StableIds, id.as_str(), Lifetime::WorkerId),
        (Bucket::Election, "leader", Lifetime::Election),
        (Bucket::Heartbeats, &beat, Lifetime::Heartbeat),
        (Bucket::Assignments, "plan", Lifetime::Forever),
    ] {
        let old = of_group(fleet.stored(bucket, key), None);
        fleet.put(bucket, key, old, Expect::Anything, lifetime);
    }
    fleet.restart(at);
    fleet.settle(secs(30));
    assert_eq!((fleet.id(at), fleet.owners()), (id, before));
    assert!(!fleet.notices.iter().any(|(_, n)| matches!(n, Notice::Stranger { .. })));
}
