//! States that another version of the handler has written.

use super::{Hand, entry, record, reports, written};
use crate::machine::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, StoredSnapshot};
use crate::testing::data_path::{Command, Input, limits, owner, snapshot};
use crate::testing::ms;
use crate::{Epoch, WriteOutcome};

fn of_handler(digest: &str) -> OwnershipRecord {
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    found.snapshot = Some(StoredSnapshot::store(&snapshot(&[1, 40])));
    found.handler = Some(digest.to_owned());
    found
}

/// A machine that has taken a partition and whose handler refuses to open.
fn refused(found: &OwnershipRecord) -> (Hand, Vec<Command>) {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(entry(found, 9));
    hand.give(Input::Written(WriteOutcome::Written(10)));
    let commands = hand.give(Input::Opened(Err(Failure::Refused("unknown format".into()))));
    (hand, commands)
}

#[test]
fn a_state_of_another_version_that_is_refused_is_released_as_it_was_and_not_taken_again() {
    let found = of_handler("other");
    let (mut hand, commands) = refused(&found);
    let why = Report::CannotOpen { handler: "other".into(), why: "unknown format".into() };
    assert_eq!(reports(&commands), [why]);
    let (released, _) = written(&commands);
    let as_it_was = OwnershipRecord { epoch: Epoch(8), owner: owner(1, 1), ..found };
    assert_eq!(released, as_it_was);
    let commands = hand.give(Input::Written(WriteOutcome::Written(11)));
    assert!(commands.contains(&Command::Released), "{commands:?}");
    // The plan still gives it to us: it is looked at now and then, and at every hint, and left alone.
    hand.wait(ms(500));
    for revision in 11..15 {
        assert_eq!(hand.give(entry(&released, revision)), []);
        let view = hand.machine.view();
        assert_eq!(view.cannot_open, released.state());
        assert!(view.trouble.is_some_and(|why| why.contains("other")));
        assert_eq!(hand.give(Input::Hint), [Command::Read]);
    }
    // Nor does it become another state by having another owner, or several.
    let elsewhere = OwnershipRecord { epoch: Epoch(30), owner: owner(3, 1), ..released };
    assert_eq!(hand.give(entry(&elsewhere, 15)), []);
    assert_eq!(hand.machine.view().cannot_open, elsewhere.state());
}

#[test]
fn another_state_than_the_refused_one_is_tried_at_once() {
    let found = of_handler("other");
    let later = OwnershipRecord { position: Position(41), ..found.clone() };
    let rewritten = OwnershipRecord { handler: Some("third".into()), ..found.clone() };
    for other in [later, rewritten, found.moved(Position(40), None, true), found.moved(Position(40), None, false)] {
        let (mut hand, commands) = refused(&found);
        let (released, _) = written(&commands);
        hand.give(Input::Written(WriteOutcome::Written(11)));
        assert_eq!(hand.give(entry(&released, 11)), []);
        let other = OwnershipRecord { epoch: released.epoch.next(), ..other };
        assert_eq!(hand.give(Input::Hint), [Command::Read]);
        assert_eq!(written(&hand.give(entry(&other, 12))).0.epoch, other.epoch.next());
        assert_eq!(hand.machine.view().cannot_open, None);
        hand.give(Input::Written(WriteOutcome::Written(13)));
        // It is judged anew: what is refused now is this state and no other.
        hand.give(Input::Opened(Err(Failure::Refused("unknown format".into()))));
        assert_eq!(hand.machine.view().cannot_open, other.state());
    }
}

#[test]
fn any_other_open_that_fails_is_held_and_tried_again() {
    // Our own version's state, or none at all: no other worker would do better.
    for found in [of_handler("digest"), OwnershipRecord { snapshot: None, ..of_handler("other") }] {
        let (mut hand, commands) = refused(&found);
        assert_eq!(reports(&commands), [Report::OpenFailed("unknown format".into())]);
        assert!(matches!(hand.wait(ms(100))[..], [Command::Open { .. }]));
    }
    // A trap says nothing about the format.
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(entry(&of_handler("other"), 9));
    hand.give(Input::Written(WriteOutcome::Written(10)));
    let commands = hand.give(Input::Opened(Err(Failure::Guest("trap".into()))));
    assert_eq!(reports(&commands), [Report::OpenFailed("trap".into())]);
}
