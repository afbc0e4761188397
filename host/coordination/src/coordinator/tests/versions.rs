//! Workers of two versions of a handler, of which one cannot open what the other has written.

use super::fleet::Fleet;
use crate::PartitionId;
use crate::coordinator::*;
use crate::record::{ByWriter, Refusals};
use crate::testing::secs;
use std::collections::{BTreeMap, BTreeSet};

/// Starts a worker of this version.
fn start(fleet: &mut Fleet, digest: &'static str) -> usize {
    fleet.change = Box::new(move |settings| {
        settings.plugins = BTreeMap::from([("handler".to_owned(), digest.to_owned())]);
    });
    fleet.start()
}

fn of(writer: &str, ids: &BTreeSet<PartitionId>) -> ByWriter {
    BTreeMap::from([(writer.to_owned(), ids.iter().map(ToString::to_string).collect())])
}

/// The worker says that its handler cannot open these partitions' states, which this version has written.
fn refuses(fleet: &mut Fleet, at: usize, writer: &str, ids: &BTreeSet<PartitionId>) {
    fleet.give(at, Event::Refused(Refusals { cannot_open: of(writer, ids), ..Refusals::default() }));
}

/// The worker says that these partitions are in other states now than those that its handler has refused.
fn has_refused(fleet: &mut Fleet, at: usize, writer: &str, ids: &BTreeSet<PartitionId>) {
    fleet.give(at, Event::Refused(Refusals { could_not_open: of(writer, ids), ..Refusals::default() }));
}

fn some_of(fleet: &Fleet, at: usize, count: usize) -> BTreeSet<PartitionId> {
    fleet.has(at).into_iter().take(count).collect()
}

/// The fleet has settled, and these are the last words about partitions that nobody can open.
fn alerts(fleet: &Fleet) -> Vec<(usize, Vec<String>)> {
    let told = fleet.notices.iter().filter_map(|(_, notice)| match notice {
        Notice::Unopenable { partitions, handlers } => Some((*partitions, handlers.clone())),
        _ => None,
    });
    told.collect()
}

#[test]
fn what_a_version_cannot_open_goes_to_a_worker_that_has_the_one_which_wrote_it_and_stays_there() {
    // Whoever leads: it is a worker like any other.
    for leads in ["old", "new"] {
        let mut fleet = Fleet::new(5, 12);
        let first = start(&mut fleet, leads);
        fleet.run(secs(1));
        let (a, b) = (start(&mut fleet, "old"), start(&mut fleet, "new"));
        fleet.settle(secs(60));
        fleet.run(secs(40));
        let new = if leads == "new" { first } else { b };
        let refused = some_of(&fleet, new, 2);
        let before = fleet.moved;
        refuses(&mut fleet, new, "old", &refused);
        let goes = |fleet: &Fleet| fleet.has(new).is_disjoint(&refused);
        fleet.until(secs(5), "what it cannot open goes", goes);
        fleet.run(secs(5));
        fleet.settle(secs(10));
        assert_eq!(fleet.moved - before, 2, "and nothing else moves");
        let old: BTreeSet<_> =
            fleet.has(a).into_iter().chain(if leads == "old" { fleet.has(first) } else { BTreeSet::new() }).collect();
        assert!(refused.is_subset(&old), "to a worker of the version that wrote it");
        assert_eq!(alerts(&fleet), []);
        // Neither a joiner, nor one that leaves, nor peace brings it back.
        let c = start(&mut fleet, "new");
        fleet.settle(secs(60));
        fleet.leave(c);
        fleet.run(secs(10));
        fleet.settle(secs(60));
        let moved = fleet.moved;
        fleet.run(secs(60));
        assert_eq!(fleet.moved, moved);
        assert!(fleet.has(new).is_disjoint(&refused));
    }
}

#[test]
fn what_no_version_can_open_stays_where_it_is_and_is_told_until_somebody_comes_who_can() {
    let mut fleet = Fleet::new(6, 12);
    for _ in 0..2 {
        start(&mut fleet, "new");
    }
    fleet.settle(secs(60));
    fleet.run(secs(40));
    let (moved, planned) = (fleet.moved, fleet.planned);
    let refused = some_of(&fleet, 1, 2);
    refuses(&mut fleet, 1, "old", &refused);
    fleet.run(secs(60));
    assert_eq!((fleet.moved, fleet.planned), (moved, planned), "another of the same version would do no better");
    assert_eq!(alerts(&fleet), [(2, vec!["old".to_owned()])]);
    assert!(refused.is_subset(&fleet.has(1)));
    // A version that nobody knows of yet may try; it is the first that may.
    let third = start(&mut fleet, "third");
    fleet.settle(secs(60));
    assert!(refused.is_subset(&fleet.has(third)));
    assert_eq!(alerts(&fleet).last(), Some(&(0, Vec::new())));
    refuses(&mut fleet, third, "old", &refused);
    fleet.run(secs(60));
    assert_eq!(alerts(&fleet).last(), Some(&(2, vec!["old".to_owned()])));
    let planned = fleet.planned;
    fleet.run(secs(60));
    assert_eq!(fleet.planned, planned, "it does not go from hand to hand");
    // The version that wrote it comes back.
    let old = start(&mut fleet, "old");
    fleet.settle(secs(60));
    fleet.until(secs(10), "it has what only it can open", |fleet| refused.is_subset(&fleet.has(old)));
    assert_eq!(alerts(&fleet).last(), Some(&(0, Vec::new())));
}

#[test]
fn a_partition_in_another_state_than_the_refused_one_may_go_to_anybody_but_stays_where_it_is_understood() {
    let mut fleet = Fleet::new(7, 12);
    let old = start(&mut fleet, "old");
    fleet.run(secs(1));
    let new = start(&mut fleet, "new");
    fleet.settle(secs(60));
    fleet.run(secs(40));
    let refused = some_of(&fleet, new, 2);
    refuses(&mut fleet, new, "old", &refused);
    fleet.until(secs(5), "what it cannot open goes", |fleet| refused.is_subset(&fleet.has(old)));
    fleet.settle(secs(10));
    // The old version goes on with them. Others of the new one come and go; nothing of theirs would be gained by trying again.
    has_refused(&mut fleet, new, "old", &refused);
    let third = start(&mut fleet, "new");
    fleet.settle(secs(60));
    fleet.run(secs(40));
    assert!(refused.is_subset(&fleet.has(old)));
    // With nobody left of the version that wrote it, it is theirs, and nothing is said of states that nobody can open.
    fleet.leave(old);
    fleet.run(secs(10));
    fleet.settle(secs(60));
    let theirs: BTreeSet<_> = fleet.has(new).into_iter().chain(fleet.has(third)).collect();
    assert!(refused.is_subset(&theirs));
    assert_eq!(alerts(&fleet), []);
}

#[test]
fn who_holds_a_partition_and_does_not_refuse_it_keeps_it_whatever_others_of_its_version_have_said() {
    let mut fleet = Fleet::new(8, 12);
    for _ in 0..2 {
        start(&mut fleet, "new");
    }
    fleet.settle(secs(60));
    fleet.run(secs(40));
    // One of them has refused what the other has opened since: of another state.
    let (told, held) = (1, some_of(&fleet, 0, 2));
    refuses(&mut fleet, told, "old", &held);
    start(&mut fleet, "third");
    fleet.settle(secs(60));
    fleet.run(secs(10));
    assert!(held.is_subset(&fleet.has(0)), "nobody takes it away because of an earlier refusal");
    assert_eq!(alerts(&fleet), []);
}

#[test]
fn refusals_of_several_versions_of_the_handler_are_told_apart() {
    let mut fleet = Fleet::new(9, 12);
    let (first, second) = (start(&mut fleet, "one"), start(&mut fleet, "two"));
    fleet.settle(secs(60));
    fleet.run(secs(40));
    // The second has refused a state that the first wrote; the first refuses the one that a third has made of it since.
    let held = some_of(&fleet, first, 2);
    has_refused(&mut fleet, second, "one", &held);
    fleet.run(secs(5));
    refuses(&mut fleet, first, "three", &held);
    // To have written an earlier state is no reason to get it; to have refused one is none against.
    fleet.until(secs(10), "it goes to who has not refused what there is", |fleet| held.is_subset(&fleet.has(second)));
    refuses(&mut fleet, second, "three", &held);
    fleet.run(secs(30));
    assert_eq!(alerts(&fleet).last(), Some(&(2, vec!["three".to_owned()])));
    assert!(held.is_subset(&fleet.has(second)), "it does not go from hand to hand");
}
