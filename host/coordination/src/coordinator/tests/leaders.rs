//! What a change of leader leaves as it is, and who must not lead.

use super::assert_moved_only_from;
use super::fleet::{Fleet, Status};
use crate::WorkerState;
use crate::coordinator::*;
use crate::record::Lifecycle;
use crate::testing::{ms, secs};

/// Which states a process has entered since the fleet was like this.
fn entered(fleet: &Fleet, at: usize, since: &[usize]) -> Vec<WorkerState> {
    fleet.processes[at].states[since[at]..].to_vec()
}

fn so_far(fleet: &Fleet) -> Vec<usize> {
    fleet.processes.iter().map(|p| p.states.len()).collect()
}

/// Another leads, although nobody has died.
fn change_leader(fleet: &mut Fleet) {
    let (old, term) = (fleet.leader(), fleet.term());
    fleet.disconnect(old);
    fleet.until(secs(10), "another leads", |f| f.term() > term);
    fleet.reconnect(old);
    fleet.settle(secs(10));
    fleet.run(secs(30));
    assert_ne!(fleet.leader(), old);
}

#[test]
fn a_change_of_leader_that_changes_nothing_leaves_every_worker_stable() {
    let mut fleet = Fleet::settled(70, 30, 4);
    fleet.run(secs(40));
    let since = so_far(&fleet);
    change_leader(&mut fleet);
    assert!(fleet.live().into_iter().all(|at| entered(&fleet, at, &since).is_empty()));
    // Whatever the plan in force was made for.
    let victim = fleet.follower();
    fleet.kill(victim);
    fleet.settle(secs(10));
    fleet.run(secs(30));
    assert_eq!(fleet.plans.last().unwrap().lifecycle, Lifecycle::Emergency);
    let since = so_far(&fleet);
    change_leader(&mut fleet);
    assert!(fleet.live().into_iter().all(|at| entered(&fleet, at, &since).is_empty()));
}

#[test]
fn what_a_new_leader_must_plan_every_worker_shows() {
    for seed in 0..40 {
        let mut fleet = Fleet::settled(seed, 30, 5);
        fleet.run(secs(40));
        let (leader, follower, since) = (fleet.leader(), fleet.follower(), so_far(&fleet));
        // The leader dies as well, on some seeds between its plan and the assignments.
        fleet.kill(follower);
        let time = ms(1750 + 10 * seed);
        fleet.run(time);
        fleet.kill(leader);
        fleet.settle(secs(20));
        for at in fleet.live() {
            let states = entered(&fleet, at, &since);
            assert!(states.contains(&WorkerState::Emergency), "seed {seed}: #{at} {states:?}");
            // Of a plan that has half landed, partitions may be in no assignment: they are placed first.
            let placed = fleet.plans.iter().any(|plan| plan.lifecycle == Lifecycle::Refresh);
            assert!(placed || !states.contains(&WorkerState::Scaling), "seed {seed}: #{at} {states:?}");
        }
    }
}

#[test]
fn a_leader_that_can_never_judge_leaves_the_lead_to_one_who_can() {
    let mut fleet = Fleet::settled(71, 30, 3);
    fleet.run(secs(40));
    let (before, old) = (fleet.owners(), fleet.leader());
    let (mut flaps, mut lead_again) = (0, 0);
    while fleet.term() == Term(1) {
        flaps += 1;
        assert!(flaps < 15, "it has kept the lead for {flaps} times 4 s without judging anybody");
        fleet.disconnect(old);
        fleet.run(ms(300));
        fleet.reconnect(old);
        fleet.run(secs(4));
    }
    assert!(flaps >= 8, "a few interruptions are no reason");
    for _ in 0..10 {
        fleet.disconnect(old);
        fleet.run(ms(300));
        fleet.reconnect(old);
        fleet.run(secs(4));
        lead_again += usize::from(fleet.leader() == old);
    }
    fleet.settle(secs(10));
    assert_eq!((lead_again, fleet.owners(), fleet.moved), (0, before, 0));
}

#[test]
fn a_degraded_worker_does_not_lead() {
    let mut fleet = Fleet::settled(72, 30, 3);
    fleet.run(secs(40));
    (0..3).for_each(|at| fleet.disconnect(at));
    fleet.run(secs(30));
    fleet.reconnect(1);
    // Nobody else is there, and NATS answers it; it must have done so for the exit threshold first.
    let state = |f: &Fleet| f.processes[1].coordinator.state();
    while state(&fleet) == WorkerState::Degraded {
        assert_eq!(fleet.stored(Bucket::Election, "leader"), None);
        fleet.run(ms(50));
    }
    fleet.until(secs(2), "it leads", |f| f.leader_or_none() == Some(1));
}

#[test]
fn an_early_bid_for_the_office_of_a_leader_ends_at_a_sign_of_life_of_that_leader() {
    for seed in 0..20 {
        let mut fleet = Fleet::settled(seed, 30, 2);
        fleet.run(secs(40));
        let (leader, follower) = (fleet.leader(), fleet.follower());
        let (_, by) = fleet.processes[leader].coordinator.worker().unwrap();
        fleet.kill(leader);
        let is_bidding = |f: &Fleet| f.notices.iter().any(|(_, n)| matches!(n, Notice::LeaderSilent { .. }));
        fleet.until(secs(3), "the follower prepares its bid", is_bidding);
        let writes = fleet.writes[&Bucket::Election];
        fleet.give(follower, Event::Probed { by });
        fleet.run(ms(500));
        assert_eq!(fleet.writes[&Bucket::Election], writes, "seed {seed}");
        // There was no more life in it.
        fleet.until(secs(5), "the follower leads", |f| f.leader_or_none() == Some(follower));
    }
}

#[test]
fn assignments_with_a_lifetime_are_written_again_before_they_expire_whoever_leads() {
    let mut fleet = Fleet::new(73, 30);
    fleet.assignment_lives = secs(30);
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settle(secs(30));
    fleet.run(secs(40));
    let (before, plans) = (fleet.owners(), fleet.plans.len());
    let assignments = |f: &Fleet| {
        let keys = ["assignment.worker-0", "assignment.worker-1", "assignment.worker-2"];
        keys.map(|key| f.stored(Bucket::Assignments, key).is_some())
    };
    for _ in 0..3 {
        for _ in 0..200 {
            fleet.run(secs(1));
            assert_eq!(assignments(&fleet), [true; 3]);
        }
        change_leader(&mut fleet);
        assert_eq!(assignments(&fleet), [true; 3]);
    }
    assert_eq!((fleet.owners(), fleet.moved, fleet.plans.len()), (before, 0, plans + 3));
}

#[test]
fn partitions_that_are_held_for_a_worker_that_comes_back_are_held_by_a_new_leader_too() {
    for hold in [4, 40] {
        let mut fleet = Fleet::new(74, 30);
        fleet.change = Box::new(move |s| s.shutdown_hold = secs(hold));
        for number in 0..4 {
            fleet.start_as(Some(number));
        }
        fleet.settle(secs(30));
        fleet.run(secs(40));
        let before = fleet.owners();
        let (leader, leaver) = (fleet.leader(), fleet.follower());
        let held = fleet.has(leaver);
        fleet.leave(leaver);
        fleet.until(secs(3), "it is gone", |f| f.processes[leaver].status == Status::Ended);
        // Longer than a heartbeat lives, if the hold is.
        fleet.run(secs(hold / 2));
        fleet.kill(leader);
        fleet.until(secs(8), "another leads", |f| f.term() > Term(1));
        fleet.run(secs(hold / 4));
        assert!(fleet.owners().keys().all(|partition| !held.contains(partition)), "{hold} s");
        fleet.restart(leaver);
        fleet.settle(secs(20));
        assert_eq!(fleet.has(leaver).intersection(&held).count(), held.len(), "{hold} s");
        assert_moved_only_from(&fleet, &before, &[leader]);
    }
}

#[test]
fn a_lead_that_is_given_back_in_a_bucket_that_servers_have_rewound_is_taken_at_once() {
    for seed in 0..10 {
        let mut fleet = Fleet::settled(seed, 30, 3);
        fleet.run(secs(60));
        let leader = fleet.leader();
        fleet.drain_time = (1, 1);
        fleet.stop_nats();
        fleet.rewind(Bucket::Election, 30);
        fleet.start_nats(100);
        fleet.run(secs(2));
        fleet.leave(leader);
        fleet.until(secs(3), "it has resigned", |f| f.stored(Bucket::Election, "leader").is_none());
        fleet.until(secs(1), "another leads", |f| f.leader_or_none().is_some_and(|now| now != leader));
    }
}
