//! What the operator wants of the placement holds, whoever leads, and is answered.

use super::*;
use crate::record::{PlacementAnswer, PlacementRecord};

fn worker(fleet: &Fleet, at: usize) -> WorkerId {
    WorkerId::parse(&fleet.id(at))
}

/// Wants something, and waits for the answer.
fn ask(fleet: &mut Fleet, change: impl FnOnce(&mut PlacementRecord)) -> PlacementAnswer {
    let asked = fleet.want(change);
    let answered = |f: &Fleet| f.wants().is_some_and(|wants| wants.answered() >= asked);
    fleet.until(secs(12), "it is answered", answered);
    fleet.wants().and_then(|wants| wants.answer).expect("an answer")
}

fn drain(fleet: &mut Fleet, at: usize) -> PlacementAnswer {
    let worker = worker(fleet, at);
    ask(fleet, |wants| _ = wants.drained.insert(worker))
}

fn pin(fleet: &mut Fleet, id: &str, at: usize) -> PlacementAnswer {
    let worker = worker(fleet, at);
    ask(fleet, |wants| _ = wants.pins.insert(id.into(), worker))
}

fn rebalance(wants: &mut PlacementRecord) {
    wants.rebalance = wants.asked;
}

/// A fleet after its cold start, in peace.
fn settled(seed: u64, partitions: usize, workers: usize) -> Fleet {
    let mut fleet = Fleet::new(seed, partitions);
    for number in (0..).take(workers) {
        fleet.start_as(Some(number));
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    fleet
}

#[test]
fn a_drained_worker_hands_over_at_once_and_gets_nothing_whoever_leads_and_whoever_dies() {
    for seed in 0..10 {
        let mut fleet = settled(seed, 30, 4);
        let (before, drained) = (fleet.owners(), fleet.follower());
        let answer = drain(&mut fleet, drained);
        let mine = before.values().filter(|owner| **owner == drained).count();
        assert_eq!((answer.moved, answer.kept, answer.version), (mine, 0, fleet.plans.last().unwrap().version));
        fleet.settle(secs(5));
        super::assert_moved_only_from(&fleet, &before, &[drained]);
        assert!(fleet.has(drained).is_empty());

        let leader = fleet.leader();
        fleet.kill(leader);
        fleet.settle(secs(5));
        assert!(fleet.has(drained).is_empty());
        // It comes back under the same ID, and is drained as before.
        fleet.kill(drained);
        fleet.settle(secs(5));
        fleet.restart(drained);
        fleet.settle(secs(40));
        fleet.run(secs(60));
        assert!(fleet.has(drained).is_empty());
        assert_eq!(fleet.live().len(), 3);
    }
}

#[test]
fn one_that_is_drained_no_more_gets_its_share_without_waiting_for_the_cool_down() {
    let mut fleet = settled(1, 30, 3);
    let drained = fleet.follower();
    let id = worker(&fleet, drained);
    drain(&mut fleet, drained);
    fleet.settle(secs(2));
    let answer = ask(&mut fleet, |wants| {
        wants.drained.remove(&id);
        rebalance(wants);
    });
    assert!(fleet.settle(secs(2)) < secs(2));
    assert_eq!((fleet.has(drained).len(), answer.moved), (10, 10));
}

#[test]
fn nobody_is_drained_where_everybody_is_and_one_who_joins_takes_over() {
    let mut fleet = settled(2, 12, 2);
    let before = fleet.owners();
    let all: BTreeSet<_> = fleet.live().into_iter().map(|at| worker(&fleet, at)).collect();
    let answer = ask(&mut fleet, |wants| wants.drained = all);
    fleet.settle(secs(5));
    assert_eq!((fleet.owners(), answer.moved), (before, 0));
    let joiner = fleet.start();
    fleet.settle(secs(20));
    assert_eq!(fleet.has(joiner).len(), 12);
    fleet.kill(joiner);
    fleet.settle(secs(10));
    assert_eq!(fleet.owners().len(), 12);
}

#[test]
fn a_drained_worker_keeps_what_no_other_may_hold() {
    let mut fleet = Fleet::new(3, 30);
    fleet.change = Box::new(|s| s.max_partitions = Some(12));
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    let drained = fleet.follower();
    let answer = drain(&mut fleet, drained);
    assert_eq!((answer.kept, answer.unowned, answer.moved), (6, 0, 4));
    fleet.start();
    fleet.settle(secs(30));
    fleet.until(secs(20), "there is room now", |f| f.has(drained).is_empty());
}

#[test]
fn a_drained_worker_serves_what_would_have_no_owner_otherwise() {
    let mut fleet = Fleet::new(9, 20);
    fleet.change = Box::new(|s| s.max_partitions = Some(10));
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    let drained = fleet.follower();
    drain(&mut fleet, drained);
    fleet.settle(secs(5));
    assert!(fleet.has(drained).is_empty());
    let victim = fleet.live().into_iter().find(|at| *at != drained && *at != fleet.leader()).expect("a third");
    fleet.kill(victim);
    fleet.settle(secs(10));
    assert_eq!((fleet.owners().len(), fleet.has(drained).len()), (20, 10));
    fleet.start();
    fleet.until(secs(30), "there is room elsewhere", |f| f.has(drained).is_empty() && f.owners().len() == 20);
}

#[test]
fn a_pinned_partition_alone_moves_stays_where_it_is_pinned_and_waits_for_a_worker_that_is_away() {
    for seed in 0..10 {
        let mut fleet = settled(seed, 30, 3);
        let (before, to) = (fleet.owners(), fleet.follower());
        let (id, from) = before.iter().find(|(_, owner)| **owner != to).expect("another's");
        let answer = pin(&mut fleet, id.as_str(), to);
        fleet.settle(secs(5));
        let mut expected = before.clone();
        expected.insert(id.clone(), to);
        assert_eq!((fleet.owners(), answer.moved), (expected, 1), "from #{from}");
        assert!(ask(&mut fleet, rebalance).moved <= 1, "what is pinned counts where it is");
        fleet.settle(secs(5));
        assert_eq!(fleet.owners()[id], to);
        // Without its worker it is placed as any other.
        fleet.kill(to);
        fleet.settle(secs(10));
        assert_eq!(fleet.owners().len(), 30);
        let leader = fleet.leader();
        fleet.kill(leader);
        fleet.settle(secs(10));
        fleet.restart(to);
        fleet.restart(leader);
        fleet.settle(secs(60));
        let is_back =
            |f: &Fleet| f.owners().get(id).is_some_and(|at| f.id(*at) == f.wants().unwrap().pins[id.as_str()].as_str());
        fleet.until(secs(30), "it is back", is_back);
    }
}

#[test]
fn a_drain_goes_before_a_pin_and_what_is_unknown_does_no_harm() {
    let mut fleet = settled(4, 12, 3);
    let to = fleet.follower();
    let id = fleet.has(to).into_iter().next_back().expect("one").to_string();
    pin(&mut fleet, &id, to);
    drain(&mut fleet, to);
    fleet.settle(secs(5));
    assert!(fleet.has(to).is_empty());
    let before = fleet.owners();
    let answer = ask(&mut fleet, |wants| {
        wants.pins.insert("gone".into(), WorkerId::new("worker", 1));
        wants.pins.insert("p00".into(), WorkerId::new("worker", 77));
        wants.drained.insert(WorkerId::new("worker", 78));
    });
    fleet.run(secs(30));
    assert_eq!((fleet.owners(), answer.moved), (before, 0));
    ask(&mut fleet, |wants| wants.drained.clear());
    fleet.settle(secs(5));
    assert!(fleet.has(to).iter().any(|p| p.as_str() == id), "now the pin holds");
}

#[test]
fn what_is_asked_of_a_leader_that_dies_is_done_and_answered_by_the_next() {
    for seed in 0..20 {
        let mut fleet = settled(seed, 30, 3);
        let joiner = fleet.start();
        fleet.until(secs(5), "it is there", |f| f.processes[joiner].coordinator.worker().is_some());
        let leader = fleet.leader();
        let asked = fleet.want(rebalance);
        let time = ms(seed * 3);
        fleet.run(time);
        fleet.kill(leader);
        fleet.until(secs(10), "it is answered", |f| f.wants().is_some_and(|wants| wants.answered() == asked));
        fleet.settle(secs(10));
        assert!(fleet.has(joiner).len() >= 9);
    }
}

#[test]
fn a_refresh_is_answered_once_the_list_is_there_or_with_what_is_wrong_with_it() {
    let mut fleet = settled(5, 10, 2);
    fleet.partitions.push(partition("new"));
    let answer = ask(&mut fleet, |wants| wants.refresh = wants.asked);
    fleet.settle(secs(2));
    assert_eq!((fleet.owners().len(), answer.problem), (11, None));
    fleet.source_fails = true;
    let answer = ask(&mut fleet, |wants| wants.refresh = wants.asked);
    assert!(answer.problem.is_some());
    assert_eq!(fleet.owners().len(), 11);
    assert_eq!(ask(&mut fleet, rebalance).problem, None, "it was not asked for");
}

#[test]
fn a_value_that_is_none_and_a_lost_bucket_change_nothing_of_what_is_wanted() {
    let mut fleet = settled(6, 12, 3);
    let drained = fleet.follower();
    drain(&mut fleet, drained);
    for garbage in [&b""[..], b"{", b"\xff", br#"{"v":1,"asked":"1"}"#, br#"{"v":9,"asked":7}"#] {
        fleet.put(Bucket::Assignments, "placement", Some(garbage.to_vec()), Expect::Anything, Lifetime::Forever);
        fleet.run(secs(1));
    }
    fleet.lose_bucket(Bucket::Assignments);
    fleet.run(secs(120));
    assert!(fleet.has(drained).is_empty());
    // Numbers begin again, and are seen to all the same.
    let id = worker(&fleet, drained);
    let answer = ask(&mut fleet, |wants| {
        wants.pins.insert("p00".into(), id.clone());
        rebalance(wants);
    });
    fleet.settle(secs(5));
    assert_eq!(answer.asked, 1);
    assert!(fleet.has(drained).len() > 1);
}

#[test]
fn a_budget_of_moves_spreads_a_change_over_plans_that_end_where_one_would_and_delays_no_orphan() {
    let ends = |moves: Option<usize>| {
        let mut fleet = Fleet::new(7, 30);
        fleet.change = Box::new(move |s| s.max_moves_per_plan = moves);
        for _ in 0..3 {
            fleet.start();
        }
        fleet.settle(secs(30));
        fleet.run(secs(60));
        let plans = fleet.planned;
        fleet.start();
        fleet.until(secs(20), "it gets something", |f| !f.has(3).is_empty());
        let first = fleet.has(3).len();
        fleet.settle(secs(60));
        (fleet, first, plans)
    };
    let (free, all, _) = ends(None);
    let (mut fleet, first, plans) = ends(Some(2));
    assert_eq!((all, first), (7, 2));
    assert_eq!(fleet.owners(), free.owners());
    assert_eq!(fleet.planned - plans, 4, "7 partitions in twos");
    let victim = fleet.follower();
    fleet.kill(victim);
    fleet.until(secs(4), "all orphans at once", |f| f.owners().len() == 30);
}

#[test]
fn a_new_leader_goes_on_with_the_moves_that_are_left() {
    let mut fleet = Fleet::new(8, 30);
    fleet.change = Box::new(|s| s.max_moves_per_plan = Some(1));
    for _ in 0..4 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    let joiner = fleet.start();
    fleet.until(secs(20), "it gets something", |f| !f.has(joiner).is_empty());
    assert!(fleet.plans.last().unwrap().left > 0);
    let leader = fleet.leader();
    fleet.kill(leader);
    fleet.settle(secs(120));
    assert!(fleet.has(joiner).len() >= 6);
}
