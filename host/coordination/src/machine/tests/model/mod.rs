//! Taking, committing and handing over at small scale, checked in every order of events.
//!
//! An abstract model of the machine's side of the record; whether a record may be taken is decided by the code itself
//! (`decide_take`). Left out: opening, retries, outputs and readers (the simulator has them); a handler applies one message
//! after the other, and may trap. Everything may happen in any order: a worker hears of a plan late or misses one, dies between
//! any two steps and comes back under the next claim, is judged dead while it lives, is overruled because it takes too long; a
//! request or its reply is lost, and a lost request lands later.

mod owner;
mod state;

use owner::Variant;
use state::{Action, MESSAGES, State, then};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

/// How much may happen in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Budget {
    /// Partitions given to another worker.
    moves: u8,
    crashes: u8,
    /// Requests or replies that get lost.
    losses: u8,
    /// Living workers judged dead.
    wrong_verdicts: u8,
    /// Live owners who take too long.
    overruled: u8,
    traps: u8,
}

struct Ownership {
    workers: usize,
    partitions: usize,
    budget: Budget,
    variant: Variant,
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Two partitions that are also taken for the first time are more than can be looked through.
        let begin = if self.partitions == 1 { State::cold } else { State::held };
        vec![begin(self.workers, self.partitions, self.budget)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.duties(actions);
        state.mishaps(actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.act(action, self.variant);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FENCED, |_, s: &State| !s.fenced_wrote),
            Property::always("positions never go back", |_, s: &State| !s.went_back),
            Property::always(EXACT, |_, s: &State| {
                s.records.iter().flatten().all(|record| record.state == (1..=record.position).fold(0, then))
            }),
            Property::always(CALM, |m: &Self, s: &State| {
                let b = m.budget;
                let reasons = 1 + b.moves + b.crashes * 2 + b.wrong_verdicts * 2 + b.overruled + b.losses;
                s.records.iter().flatten().all(|record| record.epoch <= reasons)
            }),
            Property::always(SETTLED, |_, s: &State| {
                let mut duties = Vec::new();
                s.duties(&mut duties);
                !duties.is_empty() || s.is_settled()
            }),
            Property::sometimes("a second owner finishes", |_, s: &State| {
                s.records[0].is_some_and(|record| record.epoch > 1 && record.position == MESSAGES[0])
            }),
        ]
    }
}

/// What is broken within a scope; of a variant that is broken on purpose, the promise that it must break.
fn check(
    workers: usize,
    partitions: usize,
    budget: Budget,
    variant: Variant,
    sign: Option<&'static str>,
) -> Vec<&'static str> {
    let until = sign.map_or(HasDiscoveries::All, |sign| HasDiscoveries::AnyOf(BTreeSet::from([sign])));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model = Ownership { workers, partitions, budget, variant };
    let checker = model.checker().threads(threads).finish_when(until).spawn_bfs().join();
    println!(
        "{workers} workers, {partitions} partitions, {variant:?}, {budget:?}: {} states, depth {}",
        checker.unique_state_count(),
        checker.max_depth()
    );
    let mut broken = Vec::new();
    for (name, path) in checker.discoveries() {
        if !matches!(checker.model().property(name).expectation, Expectation::Sometimes) {
            println!("{name}:");
            path.into_actions().iter().for_each(|action| println!("  {action:?}"));
            broken.push(name);
        }
    }
    if sign.is_none() {
        assert!(checker.discovery("a second owner finishes").is_some(), "the model gets nowhere");
    }
    broken
}

fn holds(workers: usize, partitions: usize, budget: Budget) {
    assert_eq!(check(workers, partitions, budget, Variant::AsBuilt, None), Vec::<&str>::new());
}

fn notices(workers: usize, budget: Budget, variant: Variant, sign: &'static str) {
    assert!(check(workers, 1, budget, variant, Some(sign)).contains(&sign), "{variant:?} is not noticed");
}

const ONE_MOVE: Budget = Budget { moves: 1, crashes: 0, losses: 0, wrong_verdicts: 0, overruled: 0, traps: 0 };

const FENCED: &str = "who is fenced commits nothing";
const EXACT: &str = "the state is exactly what comes up to the position";
const SETTLED: &str = "what has come to rest is handled, by whom the plan names";
const CALM: &str = "nobody duels";

#[test]
fn in_every_order_of_events_a_hand_over_loses_nothing_and_has_one_committer() {
    for budget in [
        Budget { crashes: 1, ..ONE_MOVE },
        Budget { losses: 1, ..ONE_MOVE },
        Budget { wrong_verdicts: 1, ..ONE_MOVE },
        Budget { overruled: 1, ..ONE_MOVE },
        Budget { moves: 2, ..ONE_MOVE },
    ] {
        holds(3, 2, budget);
    }
}

#[test]
fn the_same_for_one_partition_with_two_mishaps() {
    for budget in [
        Budget { crashes: 1, losses: 1, ..ONE_MOVE },
        Budget { crashes: 1, traps: 1, ..ONE_MOVE },
        Budget { losses: 1, overruled: 1, ..ONE_MOVE },
        Budget { losses: 2, ..ONE_MOVE },
    ] {
        holds(3, 1, budget);
    }
}

/// Takes minutes and some gigabytes: only for `make soak`.
#[test]
fn the_same_for_one_partition_with_several_mishaps_in_one_history() {
    if crate::testing::soak_minutes().is_none() {
        return;
    }
    for budget in [
        Budget { crashes: 1, losses: 1, traps: 1, ..ONE_MOVE },
        Budget { crashes: 1, overruled: 1, losses: 1, ..ONE_MOVE },
        Budget { moves: 2, wrong_verdicts: 1, overruled: 1, ..ONE_MOVE },
    ] {
        holds(3, 1, budget);
    }
}

#[test]
fn the_model_notices_a_commit_without_a_compare() {
    notices(2, Budget { overruled: 1, ..ONE_MOVE }, Variant::CommitsBlindly, FENCED);
}

#[test]
fn the_model_notices_a_state_that_is_written_after_its_position() {
    notices(2, Budget { crashes: 1, ..ONE_MOVE }, Variant::StateAfterPosition, EXACT);
}

#[test]
fn the_model_notices_a_fresh_instance_that_does_not_go_back_to_the_commit() {
    notices(2, Budget { traps: 1, ..ONE_MOVE }, Variant::NoWayBack, EXACT);
}

#[test]
fn the_model_notices_an_owner_who_never_hears_that_it_was_overruled() {
    notices(2, Budget { moves: 2, overruled: 1, ..ONE_MOVE }, Variant::NeverLooksAgain, SETTLED);
}

#[test]
fn the_model_notices_a_live_owner_who_is_not_waited_for() {
    notices(3, Budget { wrong_verdicts: 1, ..ONE_MOVE }, Variant::WaitsForNobody, CALM);
}

#[test]
fn the_model_notices_a_write_that_is_sent_again_whoever_is_there() {
    notices(2, Budget { losses: 1, overruled: 1, ..ONE_MOVE }, Variant::SentAgainBlindly, FENCED);
}

#[test]
fn the_model_notices_a_new_owner_that_begins_with_the_position_alone() {
    notices(2, ONE_MOVE, Variant::PositionAlone, EXACT);
}
