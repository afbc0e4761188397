//! Random faults, and then: every message handled, in order, once in the state, by one owner at a time.

use super::world::{Status, World};
use crate::machine::Limits;
use crate::testing::data_path::{Fate, HANDLER, Trouble, applied, limits};
use crate::testing::{Mutant, ms, seeds};

#[test]
fn poison_goes_to_the_dead_letters_and_the_messages_around_it_are_kept_in_order() {
    for seed in 0..40 {
        let mut world = World::new(seed, 1, limits());
        for n in 0..30 {
            let fate = match n {
                3 | 17 | 18 => Fate::Poison,
                7 => Fate::Reject,
                11 => Fate::Stubborn,
                _ => Fate::Fine,
            };
            world.publish(fate);
        }
        world.finish(ms(60_000));
        assert_eq!(world.ledger.letters(), 5);
        let snapshot = world.committed().unwrap().snapshot.unwrap().load().unwrap();
        assert_eq!(applied(Some(&snapshot)).len(), 25);
    }
}

#[test]
fn whatever_happens_every_message_is_handled_once_in_order_by_one_owner_at_a_time() {
    for seed in seeds(0..1000) {
        // States within the record, beside it, and sometimes the one and sometimes the other.
        let inline_snapshot_bytes = [50_000, 0, 60][seed as usize % 3];
        soak(seed, Limits { inline_snapshot_bytes, ..limits() }, false);
    }
}

#[test]
fn the_same_holds_in_queue_mode_and_nothing_is_released_that_is_still_in_its_consumer() {
    for seed in seeds(0..500) {
        soak(seed, Limits { acknowledges: true, ..limits() }, false);
    }
}

#[test]
fn commits_that_wait_for_their_ration_lose_nothing_and_hold_up_no_hand_over() {
    for seed in seeds(0..500) {
        soak(seed, Limits { rationed: true, acknowledges: seed.is_multiple_of(4), ..limits() }, false);
    }
}

#[test]
fn a_record_that_is_lost_or_set_back_costs_repetitions_and_nothing_else() {
    for seed in seeds(0..1000) {
        let inline_snapshot_bytes = [50_000, 0, 60][seed as usize % 3];
        soak(seed, Limits { inline_snapshot_bytes, ..limits() }, true);
    }
}

#[test]
fn a_message_that_kills_its_worker_is_found_and_no_other_is_blamed() {
    for seed in seeds(0..1000) {
        soak_with(seed, limits(), false, Mishaps { deadly: 6, swaps: 0 });
    }
    // Without anything else that goes wrong, and in the midst of others.
    for seed in 0..200 {
        let mut world = World::new(seed, 2, limits());
        for n in 0..25 {
            world.publish(if n == seed % 25 { Fate::Deadly } else { Fate::Fine });
        }
        world.finish(ms(120_000));
        assert_eq!(world.ledger.letters(), 1);
    }
}

fn is_noticed(mutant: Mutant, sign: &str, run: impl Fn(u64)) -> bool {
    (0..300).any(|seed| {
        let run = || mutant.breaks(|| run(seed));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // The panic has left it broken.
        mutant.breaks(|| {});
        ended.is_err_and(|why| why.downcast_ref::<String>().is_some_and(|why| why.contains(sign)))
    })
}

#[test]
fn seizes_that_nobody_counts_or_that_are_blamed_on_what_is_next_are_noticed() {
    let run = |seed| soak_with(seed, limits(), false, Mishaps { deadly: 6, swaps: 0 });
    assert!(is_noticed(Mutant::SeizesForgotten, "has killed", run));
    assert!(is_noticed(Mutant::SeizeBlamesTheNext, "is blamed", run));
}

#[test]
fn a_lost_record_that_is_written_back_with_the_state_that_it_named_is_noticed() {
    let run = |seed| soak(seed, Limits { inline_snapshot_bytes: 0, ..limits() }, true);
    assert!(is_noticed(Mutant::LostStateNamedAgain, "is named, and is not there", run));
}

#[test]
fn a_release_that_does_not_wait_for_the_consumer_is_noticed() {
    let run = |seed| soak(seed, Limits { acknowledges: true, ..limits() }, false);
    assert!(is_noticed(Mutant::ReleasedInConsumer, "still has it", run));
}

#[test]
fn versions_that_come_and_go_lose_nothing_and_commit_nothing_on_trial() {
    for seed in seeds(0..1000) {
        soak_swapping(seed);
    }
    assert!(is_noticed(Mutant::CommitsOnTrial, "commits what is on trial", soak_swapping));
    assert!(is_noticed(Mutant::TrialAlwaysKept, "not everything is handled", soak_swapping));
}

fn soak_swapping(seed: u64) {
    let inline_snapshot_bytes = [50_000, 0, 60][(seed / 3) as usize % 3];
    let limits = Limits {
        rationed: seed.is_multiple_of(5),
        acknowledges: seed.is_multiple_of(4),
        inline_snapshot_bytes,
        ..limits()
    };
    soak_with(seed, limits, seed.is_multiple_of(3), Mishaps { deadly: 0, swaps: 40 });
}

fn soak(seed: u64, limits: Limits, loses_records: bool) {
    soak_with(seed, limits, loses_records, Mishaps::default());
}

/// What else happens.
#[derive(Default, Clone, Copy)]
struct Mishaps {
    /// Of a hundred messages so many are deadly.
    deadly: u64,
    /// In a hundred steps the version of the handler is changed so often.
    swaps: u64,
}

fn soak_with(seed: u64, limits: Limits, loses_records: bool, Mishaps { deadly, swaps }: Mishaps) {
    let mut world = World::new(seed, 3, limits);
    let traps = if world.random.chance(50) { 3 } else { 0 };
    if world.random.chance(70) {
        world.lossy = 10;
        world.trouble =
            Trouble { sends: 15, traps, host: 3, snapshots: 10, opens: 10, readers: 3, ..Trouble::default() };
    }
    for _ in 0..60 {
        for _ in 0..world.random.below(4) {
            let is_deadly = deadly > 0 && world.random.chance(deadly);
            let fate = if is_deadly { Fate::Deadly } else { Fate::draw(&mut world.random) };
            world.publish(fate);
        }
        let at = world.random.below(3) as usize;
        match (world.workers[at].status, world.random.below(12)) {
            (Status::Dead, 0..=5) => world.restart(at),
            (Status::Paused, 0..=3) => world.resume(at),
            (Status::Running, 0) => world.kill(at),
            (Status::Running, 1) => world.pause(at),
            (Status::Running, 2..=4) => world.assign(at),
            (Status::Running, 5) => world.restart_reader(at),
            (_, 6) if loses_records => world.lose_record(),
            _ => {}
        }
        if swaps > 0 && world.random.chance(swaps) {
            let at = world.random.below(3) as usize;
            world.swap(at);
        }
        let time = world.random.between(0, 1500);
        world.run(time);
    }
    let traps = world.trouble.traps;
    world.lossy = 0;
    world.trouble = Trouble { traps, ..Trouble::default() };
    for at in 0..3 {
        match world.workers[at].status {
            Status::Dead => world.restart(at),
            Status::Paused => world.resume(at),
            Status::Running => {}
        }
    }
    if swaps > 0 {
        world.end_swaps();
        world.run(ms(1000));
    }
    world.publish(Fate::Fine);
    world.finish(ms(120_000));
    if swaps > 0 {
        let version = world.view().map(|view| view.handler);
        assert_eq!(version.as_deref(), Some(HANDLER), "that is not the version in force");
    }
    // A put that comes late may stay until the next ownership; nothing else does.
    let (objects, most) = (world.stored_objects() as u64, world.faults + world.moves + 2);
    assert!(objects <= most, "{objects} objects of one partition after {most} occasions to leave one behind");
    let (epochs, per_fault) = (world.committed().unwrap().epoch.0, if loses_records { 3 } else { 2 });
    assert!(epochs <= per_fault * world.faults + world.moves + 1, "{epochs} epochs: workers seize from each other");
}
