//! Election and planning at small scale, checked in every order of events.
//!
//! An abstract model, not the code itself, which holds clocks and unbounded counters. It follows the code step by step: the bid
//! with 1 + the highest term in plan and memory (`election`), the write that asks when it gets no answer (`write`), the term
//! planted in the plan, the listing, the rewritten assignments, plan and assignments as separate writes (`planner`), what a
//! worker obeys (`acceptance`). Left out: renewals (a lease stands until it expires, at any time), IDs, windows and cool-downs
//! (nothing waits for time), stale listings (the simulator has them). Everything may happen in any order: a process dies between
//! any two steps, a request or its reply is lost, a lost request lands later, a lease expires, a living worker is judged dead.

mod leader;
mod state;

use leader::Variant;
use state::{Action, State};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// How much may go wrong in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Faults {
    expiries: u8,
    crashes: u8,
    /// Requests or replies that get lost.
    losses: u8,
    /// Living workers judged dead.
    wrong_verdicts: u8,
}

struct Coordination {
    workers: usize,
    faults: Faults,
    variant: Variant,
}

impl Model for Coordination {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::cold(self.workers, self.faults), State::settled(self.workers, self.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.act(action, self.variant);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one leader writes under a term", |_, s: &State| !s.two_writers),
            Property::always("what a worker accepts never goes back", |_, s: &State| !s.went_back),
            Property::always("no partition is accepted twice under one plan", |_, s: &State| {
                let pairs = (0..s.workers.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
                pairs.filter(|(a, b)| s.workers[*a].alive && s.workers[*b].alive).all(|(a, b)| {
                    let (a, b) = (&s.workers[a], &s.workers[b]);
                    a.accepted != b.accepted || a.has & b.has == 0
                })
            }),
            Property::always("what has come to rest is settled", |_, s: &State| {
                let mut actions = Vec::new();
                s.actions(&mut actions);
                !actions.is_empty() || s.is_settled()
            }),
            Property::sometimes("a second leader leads", |_, s: &State| s.plan().term > 1),
        ]
    }
}

fn check(workers: usize, faults: Faults, variant: Variant) -> Vec<&'static str> {
    // What is broken on purpose is looked for until it shows.
    let until = match variant {
        Variant::AsBuilt => HasDiscoveries::All,
        _ => HasDiscoveries::AnyFailures,
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checker =
        Coordination { workers, faults, variant }.checker().threads(threads).finish_when(until).spawn_bfs().join();
    println!(
        "{workers} workers, {variant:?}, {faults:?}: {} states, depth {}",
        checker.unique_state_count(),
        checker.max_depth()
    );
    let mut broken = Vec::new();
    for (name, path) in checker.discoveries() {
        if !matches!(checker.model().property(name).expectation, stateright::Expectation::Sometimes) {
            println!("{name}:");
            path.into_actions().iter().for_each(|action| println!("  {action:?}"));
            broken.push(name);
        }
    }
    if variant == Variant::AsBuilt && faults.expiries > 0 {
        assert!(checker.discovery("a second leader leads").is_some(), "the model gets nowhere");
    }
    broken
}

const NONE: Faults = Faults { expiries: 0, crashes: 0, losses: 0, wrong_verdicts: 0 };

#[test]
fn in_every_order_of_events_one_leads_nothing_goes_back_and_everything_settles() {
    for faults in [
        Faults { expiries: 1, ..NONE },
        Faults { expiries: 1, crashes: 1, ..NONE },
        Faults { losses: 1, crashes: 1, ..NONE },
        Faults { wrong_verdicts: 1, crashes: 1, ..NONE },
    ] {
        assert_eq!(check(2, faults, Variant::AsBuilt), Vec::<&str>::new());
    }
}

/// Takes minutes and some gigabytes: only for `make soak`.
#[test]
fn the_same_with_a_lease_and_a_request_lost_in_one_history() {
    if crate::testing::soak_minutes().is_none() {
        return;
    }
    assert_eq!(check(2, Faults { expiries: 1, losses: 1, ..NONE }, Variant::AsBuilt), Vec::<&str>::new());
}

#[test]
fn the_model_notices_a_leader_that_does_not_plant_its_term_first() {
    let faults = Faults { expiries: 1, ..NONE };
    assert!(!check(2, faults, Variant::NothingPlanted).is_empty());
}

#[test]
fn the_model_notices_a_superseded_leader_that_writes_over_its_successor_s_assignments() {
    let faults = Faults { expiries: 1, ..NONE };
    assert!(!check(2, faults, Variant::ListsBlindly).is_empty());
}

#[test]
fn the_model_notices_a_plan_that_two_leaders_of_one_term_take_for_their_own() {
    let faults = Faults { expiries: 1, ..NONE };
    assert!(!check(2, faults, Variant::NamelessPlan).is_empty());
}
