//! Plans that a strategy outside the core decides, and what becomes of them where it does not.

use super::fleet::{Fleet, Strategist};
use crate::coordinator::*;
use crate::record::Lifecycle;
use crate::strategy::StrategyFailure;
use crate::testing::{ms, secs};

fn never() -> Strategist {
    Strategist { never: 100, ..Strategist::default() }
}

/// Three workers that have started and settled under a strategy that decides.
fn decided(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, 30);
    fleet.strategist = Some(Strategist::default());
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    fleet
}

fn failures(fleet: &Fleet) -> Vec<&StrategyFailure> {
    let failures = fleet.notices.iter().filter_map(|(_, notice)| match notice {
        Notice::StrategyFailed { why, .. } => Some(why),
        _ => None,
    });
    failures.collect()
}

#[test]
fn a_strategy_that_decides_is_asked_once_for_each_plan_and_followed() {
    let mut fleet = decided(70);
    assert!((0..3).all(|at| fleet.has(at).len() == 10));
    let asked = fleet.questions;
    let joiner = fleet.start();
    fleet.settle(secs(20));
    assert_eq!((fleet.questions - asked, fleet.has(joiner).len() > 5), (1, true));
    fleet.run(secs(120));
    assert_eq!(fleet.questions - asked, 1, "in peace nobody asks");
    assert!(failures(&fleet).is_empty());
}

#[test]
fn orphans_wait_a_second_for_a_strategy_that_does_not_answer_and_nobody_else_moves() {
    let mut fleet = decided(71);
    let (before, victim) = (fleet.owners(), fleet.follower());
    fleet.strategist = Some(never());
    fleet.kill(victim);
    let took = fleet.settle(ms(1500) + 4 * ms(250) + secs(1) + ms(500));
    assert!(took >= ms(2500), "{took:?} is less than grace and patience");
    super::assert_moved_only_from(&fleet, &before, &[victim]);
    assert_eq!(failures(&fleet), [&StrategyFailure::Late(secs(1))]);
    assert!(fleet.plans.last().unwrap().provisional);
}

#[test]
fn a_joiner_gets_in_with_nothing_where_the_strategy_fails_and_its_share_when_it_decides_again() {
    for wrong in [false, true] {
        let mut fleet = decided(72);
        let before = fleet.owners();
        let fails = if wrong { 0 } else { 100 };
        fleet.strategist = Some(Strategist { fails, wrong: 100 - fails, ..Strategist::default() });
        let joiner = fleet.start();
        fleet.settle(secs(20));
        fleet.run(secs(120));
        assert_eq!((fleet.owners(), fleet.has(joiner).len(), fleet.moved), (before, 0, 0));
        let told = failures(&fleet).len();
        assert!((5..=12).contains(&told), "asked again and again, ever less often: {told} times");
        fleet.strategist = Some(Strategist::default());
        fleet.until(secs(45), "it has its share", |f| !f.has(joiner).is_empty());
        assert_eq!(fleet.plans.last().unwrap().lifecycle, Lifecycle::Rebalance);
        assert!(fleet.notices.iter().any(|(_, notice)| *notice == Notice::StrategyRecovered));
    }
}

#[test]
fn a_plan_that_is_owed_is_made_by_the_next_leader() {
    let mut fleet = decided(73);
    fleet.strategist = Some(never());
    let joiner = fleet.start();
    fleet.settle(secs(30));
    let leader = fleet.leader();
    fleet.leave(leader);
    fleet.strategist = Some(Strategist::default());
    fleet.settle(secs(10));
    fleet.until(secs(30), "it has its share", |f| f.has(joiner).len() >= 9);
}

#[test]
fn a_fleet_starts_with_the_built_in_strategy_where_the_other_never_answers() {
    let mut fleet = Fleet::new(74, 30);
    fleet.strategist = Some(never());
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    fleet.run(secs(60));
    assert!((0..3).all(|at| !fleet.has(at).is_empty()));
}

#[test]
fn who_asks_says_the_labels_and_capacities_of_all() {
    let mut fleet = Fleet::new(75, 6);
    fleet.strategist = Some(Strategist::default());
    for zone in ["a", "b", "b"] {
        fleet.change = Box::new(move |s| {
            s.labels.insert("zone".into(), zone.into());
            s.capacity = if zone == "a" { 3 } else { 1 };
        });
        fleet.start();
    }
    fleet.settle(secs(60));
    let question = fleet.asked().expect("somebody has asked");
    let mut seen: Vec<_> = question.workers.iter().map(|c| (c.labels["zone"].as_str(), c.capacity)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("a", 3), ("b", 1), ("b", 1)]);
}
