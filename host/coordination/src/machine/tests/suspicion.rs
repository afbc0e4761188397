//! Workers that die one after the other, and the message that they may have died of.

use super::{Hand, batch, entry, record, reports, written};
use crate::machine::*;
use crate::record::Phase as RecordPhase;
use crate::testing::data_path::{limits, owner};
use crate::testing::ms;

/// The record of an owner that is dead, after this many seizes in a row, with what it says of a message handled alone.
fn seized_before(seizes: u32, alone: Option<(u64, u32)>) -> (Arc<Fleet>, OwnershipRecord) {
    let fleet = Fleet { dead: [(owner(2, 1).worker, 1)].into(), ..Fleet::default() };
    let alone = alone.map(|(sequence, count)| Attempts { sequence: Sequence(sequence), count });
    (Arc::new(fleet), OwnershipRecord { seizes, alone, ..record(owner(2, 1), 7, RecordPhase::Owned, 40) })
}

fn seize(limits: Limits, seizes: u32, alone: Option<(u64, u32)>) -> Hand {
    let mut hand = Hand::new(limits);
    let (fleet, found) = seized_before(seizes, alone);
    hand.give(Input::Assigned(fleet));
    assert_eq!(written(&hand.give(entry(&found, 9))).0.seizes, seizes + 1);
    hand.revision = 9;
    hand.opened_after_take();
    hand
}

#[test]
fn after_one_seize_each_call_is_committed_before_the_next() {
    let mut hand = seize(limits(), 0, None);
    assert_eq!(batch(&hand.messages([41, 42, 43, 44, 45])), (vec![41, 42, 43, 44], 1));
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    let (commit, _) = written(&hand.state(&[41, 42, 43, 44]));
    assert_eq!((commit.position, commit.seizes, commit.alone), (Position(44), 1, None));
    assert_eq!(batch(&hand.write_lands()).0, [45]);
    // Until as many are handled as could have been uncommitted.
    let mut next = 45;
    while hand.machine.view().position < Position(50) {
        hand.acked(1);
        hand.state(&[]);
        hand.write_lands();
        next += 1;
        hand.messages([next]);
    }
    assert_eq!(hand.acked(1), [], "as ever");
    hand.wait(ms(1000));
    assert_eq!(written(&hand.state(&[])).0.seizes, 0);
}

#[test]
fn after_two_seizes_each_message_is_written_down_and_then_handed_over_alone() {
    let mut hand = seize(limits(), 1, None);
    assert_eq!(hand.messages([41, 42]), [Command::Snapshot]);
    let (said, _) = written(&hand.state(&[]));
    let alone = |sequence, count| Some(Attempts { sequence: Sequence(sequence), count });
    assert_eq!((said.position, said.seizes, said.alone), (Position(40), 2, alone(41, 1)));
    assert_eq!(batch(&hand.write_lands()), (vec![41], 1));
    hand.acked(1);
    let (said, _) = written(&hand.state(&[41]));
    assert_eq!((said.position, said.alone), (Position(41), alone(42, 1)));
    assert_eq!(batch(&hand.write_lands()).0, [42]);
    // Whoever hands over has not died of it.
    hand.give(Input::Revoked(CloseReason::Revoked));
    hand.acked(1);
    let (released, _) = written(&hand.state(&[41, 42]));
    assert_eq!((released.phase, released.seizes, released.alone), (RecordPhase::Released, 2, None));
}

#[test]
fn a_message_that_was_alone_when_a_worker_died_waits_for_its_turn_and_is_given_up_after_the_second_time() {
    let mut hand = seize(limits(), 2, Some((41, 1)));
    assert_eq!(hand.messages([41, 42]), [Command::AskTurn]);
    assert_eq!(hand.give(Input::Turn), [Command::Snapshot]);
    let (said, _) = written(&hand.state(&[]));
    assert_eq!(said.alone, Some(Attempts { sequence: Sequence(41), count: 2 }));
    assert_eq!(batch(&hand.write_lands()), (vec![41], 2));
    // It was not the cause.
    assert_eq!(hand.acked(1), [Command::Snapshot]);
    hand.state(&[41]);
    let commands = hand.write_lands();
    assert!(commands.contains(&Command::EndTurn), "{commands:?}");
    assert_eq!(batch(&commands).0, [42]);

    let died = "2 workers died while they handled this message alone".to_owned();
    let mut hand = seize(limits(), 3, Some((41, 2)));
    let commands = hand.messages([41, 42]);
    assert_eq!(reports(&commands), [Report::Exhausted { sequence: Sequence(41), reason: died.clone() }]);
    assert!(matches!(commands.last(), Some(Command::Send(_))), "{commands:?}");
    hand.give(Input::Sent(Ok(())));
    assert_eq!(written(&hand.state(&[])).0.position, Position(41));

    // Where messages block, it is never tried again.
    let mut hand = seize(Limits { on_exhausted: OnExhausted::Block, ..limits() }, 3, Some((41, 2)));
    let blocked = Report::Blocked { sequence: Sequence(41), reason: died };
    assert_eq!(reports(&hand.messages([41, 42]))[0], blocked);
    assert!(reports(&hand.wait(ms(4000))).contains(&blocked));
}
