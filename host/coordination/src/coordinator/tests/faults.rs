//! Outages, zombies, leaders that die half-way, garbage and lost buckets.

use super::fleet::Fleet;
use super::numbers;
use crate::coordinator::*;
use crate::testing::{ms, secs};

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
fn a_leader_that_is_cut_off_stops_leading_when_its_lease_runs_out_and_leaves_nats_alone() {
    let mut fleet = Fleet::settled(28, 30, 3);
    let leader = fleet.leader();
    fleet.disconnect(leader);
    fleet.until(secs(6), "it has stopped", |f| f.processes[leader].coordinator.leading().is_none());
    assert!(!fleet.processes[leader].leads, "and says so");
    let sent = fleet.processes[leader].sent;
    fleet.run(secs(60));
    assert!(fleet.processes[leader].sent - sent < 300, "{} requests", fleet.processes[leader].sent - sent);
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
    assert_eq!((fleet.owners(), fleet.moved), (before, 0));
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
    assert!(fleet.plans.iter().skip(1).all(|p| p.live.len() == 3), "the plan is written back as it was");
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
fn a_bucket_that_is_lost_is_filled_again_without_a_move() {
    for bucket in [Bucket::StableIds, Bucket::Election, Bucket::Heartbeats, Bucket::Assignments] {
        let mut fleet = Fleet::new(19, 30);
        for number in 0..3 {
            fleet.start_as(Some(number));
        }
        fleet.settle(secs(30));
        fleet.run(secs(40));
        let before = fleet.owners();
        fleet.lose_bucket(bucket);
        fleet.run(secs(60));
        assert_eq!(fleet.unsettled(), None, "{bucket:?}");
        assert_eq!(fleet.owners(), before, "{bucket:?}");
        // Whoever starts, or starts again, finds what it needs.
        let follower = fleet.follower();
        fleet.kill(follower);
        fleet.restart(follower);
        fleet.settle(secs(5));
        fleet.start();
        fleet.settle(secs(20));
    }
}

#[test]
fn a_bucket_that_is_lost_in_the_midst_of_a_publication_leaves_nobody_on_an_old_assignment() {
    for seed in 0..40 {
        let mut fleet = Fleet::settled(seed, 30, 3);
        let plans = fleet.plans.len();
        fleet.start();
        fleet.until(secs(10), "the plan is written", |f| f.plans.len() > plans);
        let time = fleet.random.between(0, 80);
        fleet.run(time);
        fleet.lose_bucket(Bucket::Assignments);
        fleet.settle(secs(20));
    }
}

#[test]
fn a_plan_or_assignment_older_than_the_one_in_force_is_refused_and_replaced() {
    for key in ["plan", "assignment.worker-0", "assignment.worker-1", "assignment.worker-2"] {
        let mut fleet = Fleet::settled(32, 30, 3);
        let old = fleet.stored(Bucket::Assignments, key);
        fleet.start();
        fleet.run(secs(20));
        let before = fleet.owners();
        fleet.lose_bucket(Bucket::Assignments);
        fleet.put(Bucket::Assignments, key, old, Expect::Anything, Lifetime::Forever);
        fleet.settle(secs(10));
        assert!(fleet.notices.iter().any(|(_, n)| matches!(n, Notice::Regression { .. })), "{key}");
        assert_eq!(fleet.owners(), before);
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
    // Everything is lost, the leader too, and one who knows nothing wins the election.
    let leader = fleet.leader();
    fleet.kill(leader);
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
fn many_who_are_away_at_once_are_a_server_being_rolled_and_not_many_deaths() {
    let mut fleet = Fleet::settled(30, 30, 6);
    fleet.run(secs(40));
    let (leader, before) = (fleet.leader(), fleet.owners());
    let away: Vec<_> = fleet.live().into_iter().filter(|at| *at != leader).take(3).collect();
    away.iter().for_each(|at| fleet.disconnect(*at));
    fleet.run(secs(4));
    away.iter().for_each(|at| fleet.reconnect(*at));
    fleet.run(secs(30));
    assert_eq!((fleet.moved, fleet.owners()), (0, before));
}

#[test]
fn a_worker_whose_probes_are_denied_lives_by_its_heartbeat() {
    let mut fleet = Fleet::new(31, 30);
    fleet.deaf = Some(0);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    assert!(!fleet.has(0).is_empty());
    assert!(fleet.notices.iter().all(|(_, n)| !matches!(n, Notice::WorkerDead { .. })));
}

#[test]
fn a_leader_that_is_back_first_after_an_interruption_condemns_nobody_who_is_still_away() {
    let mut fleet = Fleet::settled(26, 30, 2);
    fleet.run(secs(40));
    let (leader, follower, before) = (fleet.leader(), fleet.follower(), fleet.owners());
    for (leader_away, follower_away) in [(300, 4000), (1500, 5000), (2500, 6000)] {
        fleet.disconnect(leader);
        fleet.disconnect(follower);
        fleet.run(ms(leader_away));
        fleet.reconnect(leader);
        fleet.run(ms(follower_away - leader_away));
        fleet.reconnect(follower);
        fleet.run(secs(30));
    }
    assert_eq!((fleet.moved, fleet.owners()), (0, before));
    assert!(fleet.notices.iter().all(|(_, n)| !matches!(n, Notice::WorkerDead { .. })));
}

#[test]
fn assignments_that_servers_have_lost_while_the_plan_stayed_are_written_again() {
    for lost in 1..5 {
        let mut fleet = Fleet::settled(34, 30, 3);
        fleet.run(secs(40));
        fleet.start();
        fleet.settle(secs(20));
        let before = fleet.owners();
        fleet.stop_nats();
        fleet.run(secs(1));
        fleet.rewind(Bucket::Assignments, lost);
        fleet.start_nats(100);
        fleet.run(secs(30));
        assert_eq!((fleet.unsettled(), fleet.owners()), (None, before));
    }
}

#[test]
fn a_worker_whose_claim_servers_have_lost_keeps_its_id() {
    let mut fleet = Fleet::new(35, 30);
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settle(secs(30));
    let at = fleet.follower();
    fleet.kill(at);
    fleet.restart(at);
    fleet.run(ms(900));
    let mine = fleet.processes[at].coordinator.worker();
    fleet.stop_nats();
    fleet.rewind(Bucket::StableIds, 1);
    fleet.start_nats(100);
    fleet.run(secs(60));
    assert_eq!((fleet.processes[at].fenced, fleet.processes[at].coordinator.worker()), (0, mine));
    assert_eq!(fleet.unsettled(), None);
}

#[test]
fn an_id_that_has_expired_is_claimed_above_a_claim_that_nobody_else_remembers() {
    let mut fleet = Fleet::new(36, 30);
    fleet.change = Box::new(|s| s.startup_timeout = secs(600));
    fleet.start();
    fleet.run(ms(200));
    fleet.disconnect(0);
    fleet.run(secs(40));
    fleet.start();
    fleet.run(ms(200));
    let [old, new] = [0, 1].map(|at| fleet.processes[at].coordinator.worker().unwrap());
    assert_eq!(old.0, new.0);
    assert!(new.1.claim > old.1.claim, "{} and {}", old.1, new.1);
}
