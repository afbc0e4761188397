//! States that are too large for the record.

use super::{Hand, batch, entry, record, reports, written};
use crate::machine::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, StoredSnapshot, StoredState, object_parts};
use crate::testing::data_path::{Command, HANDLER, Input, applied, limits, owner, snapshot};
use crate::testing::ms;
use crate::{Epoch, Expect, Snapshot, WriteOutcome};

fn beside() -> Limits {
    Limits { inline_snapshot_bytes: 3, ..limits() }
}

/// The one object that the commands put.
fn put(commands: &[Command]) -> (String, Vec<u64>) {
    let [Command::PutObject { name, data }] = commands else { panic!("{commands:?}") };
    (name.clone(), applied(Some(&Snapshot { format: "list".into(), data: data.to_vec() })))
}

fn named(record: &OwnershipRecord) -> &str {
    record.snapshot.as_ref().and_then(StoredSnapshot::object).unwrap()
}

fn deletes(commands: &[Command]) -> Vec<(Vec<String>, Option<Epoch>)> {
    let one = |command: &Command| match command {
        Command::DeleteObjects { names, before } => Some((names.clone(), *before)),
        _ => None,
    };
    commands.iter().filter_map(one).collect()
}

/// One message more is handled, and its state is committed. Gives the object's name, and what the landing of the commit led to.
fn commits(hand: &mut Hand, sequence: u64) -> (String, Vec<Command>) {
    hand.messages([sequence]);
    hand.acked(1);
    hand.wait(ms(1000));
    let (name, _) = put(&hand.state(&[1000, sequence]));
    let (commit, _) = written(&hand.give(Input::ObjectPut(Ok(()))));
    assert_eq!((named(&commit), commit.position), (&*name, Position(sequence)));
    (name, hand.write_lands())
}

#[test]
fn a_large_state_is_put_before_the_commit_that_names_it_and_a_small_one_is_in_the_record() {
    let mut hand = Hand::running(beside());
    hand.messages([1]);
    hand.acked(1);
    hand.wait(ms(1000));
    let (small, _) = written(&hand.state(&[1]));
    assert_eq!(applied(small.snapshot.map(|s| s.load().unwrap()).as_ref()), [1]);
    assert_eq!(deletes(&hand.write_lands()), [], "it never had objects");

    hand.messages([1234]);
    hand.acked(1);
    hand.wait(ms(1000));
    let (name, state) = put(&hand.state(&[1, 1234]));
    assert_eq!(
        (object_parts(&name).map(|(key, epoch, _)| (key, epoch)), state),
        (Some(("p", Epoch(1))), vec![1, 1234])
    );
    // Meanwhile it goes on; the commit is of the instant of its state.
    assert_eq!(batch(&hand.messages([2000])).0, [2000]);
    hand.acked(1);
    let (commit, expect) = written(&hand.give(Input::ObjectPut(Ok(()))));
    assert_eq!((named(&commit), commit.position, expect), (&*name, Position(1234), Expect::Revision(2)));
    assert_eq!(deletes(&hand.write_lands()), [(vec![], Some(Epoch(1)))]);
}

#[test]
fn a_put_whose_fate_is_unknown_is_repeated_under_the_same_name_until_it_is_known() {
    let mut hand = Hand::running(beside());
    hand.messages([1234]);
    hand.acked(1);
    hand.wait(ms(1000));
    let first = hand.state(&[1, 1234]);
    put(&first);
    for wait in [100, 200, 400, 800, 1600, 2000] {
        let commands = hand.give(Input::ObjectPut(Err("no answer".into())));
        assert_eq!(reports(&commands), [Report::SnapshotNotStored("no answer".into())]);
        assert!(hand.machine.view().trouble.is_some());
        assert_eq!(hand.wait(ms(wait)), first);
    }
    assert_eq!(written(&hand.give(Input::ObjectPut(Ok(())))).0.position, Position(1234));
    assert_eq!(hand.machine.view().trouble, None);
}

#[test]
fn an_object_is_deleted_only_once_the_commit_that_stops_naming_it_is_confirmed() {
    let mut hand = Hand::running(beside());
    let (first, commands) = commits(&mut hand, 1);
    assert_eq!(deletes(&commands), [(vec![], Some(Epoch(1)))]);
    hand.give(Input::ObjectsDeleted(Ok(())));
    let (second, commands) = commits(&mut hand, 2);
    assert_eq!(deletes(&commands), [(vec![first.clone()], None)]);
    // Nobody knows what became of it: it goes with the next one.
    hand.give(Input::ObjectsDeleted(Err(())));
    let (third, commands) = commits(&mut hand, 3);
    assert_eq!(deletes(&commands), [(vec![first, second], None)]);
    hand.give(Input::ObjectsDeleted(Ok(())));
    // The same bytes once more have another name: a deletion that comes late meets nothing.
    hand.messages([4]);
    hand.acked(1);
    hand.wait(ms(1000));
    let (fourth, _) = put(&hand.state(&[1000, 3]));
    assert_ne!(fourth, third);
    // Not confirmed: nothing goes.
    let (commit, _) = written(&hand.give(Input::ObjectPut(Ok(()))));
    assert_eq!(deletes(&hand.give(Input::Written(WriteOutcome::Unknown))), []);
    hand.wait(ms(500));
    assert_eq!(deletes(&hand.give(entry(&commit, 9))), [(vec![third], None)]);
}

#[test]
fn a_new_owner_loads_the_object_before_it_opens_and_keeps_its_name_until_its_own_next_commit() {
    let mut hand = Hand::new(beside());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    let state = StoredState::Object("p/6/f00".into());
    found.snapshot = Some(StoredSnapshot { format: "list".into(), state });
    let (taken, _) = written(&hand.give(entry(&found, 9)));
    assert_eq!(taken.snapshot, found.snapshot);
    let commands = hand.give(Input::Written(WriteOutcome::Written(10)));
    assert_eq!(commands[1..], [Command::GetObject("p/6/f00".into())]);
    // It is never opened without its state.
    for wait in [100, 200, 400] {
        let commands = hand.give(Input::Object(Err("not found".into())));
        assert!(
            matches!(&reports(&commands)[..], [Report::StateUnavailable(why)] if why.contains("not found")),
            "{commands:?}"
        );
        assert!(hand.machine.view().trouble.is_some());
        assert_eq!(hand.wait(ms(wait)), [Command::GetObject("p/6/f00".into())]);
    }
    let commands = hand.give(Input::Object(Ok(snapshot(&[1, 40]).data)));
    let from = Some(snapshot(&[1, 40]));
    assert_eq!(
        commands,
        [Command::Open { handler: HANDLER.into(), why: OpenReason::Assigned, snapshot: from, epoch: Epoch(8) }]
    );
    hand.give(Input::Opened(Ok(())));
    // Handed over at once: the next record still names it, and nothing is deleted.
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.snapshot, released.phase), (found.snapshot, RecordPhase::Released));
    assert_eq!(deletes(&hand.give(Input::Written(WriteOutcome::Written(11)))), []);
}

#[test]
fn the_first_commit_that_does_not_name_an_earlier_owner_s_object_clears_away_all_of_them() {
    let mut hand = Hand::new(beside());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    let state = StoredState::Object("p/6/f00".into());
    found.snapshot = Some(StoredSnapshot { format: "list".into(), state });
    hand.give(entry(&found, 9));
    hand.give(Input::Written(WriteOutcome::Written(10)));
    hand.give(Input::Object(Ok(snapshot(&[1, 40]).data)));
    hand.give(Input::Opened(Ok(())));
    hand.give(Input::Reader { reader: 1, from: Sequence(41) });
    hand.messages([41]);
    hand.acked(1);
    hand.wait(ms(1000));
    // Small again: the record holds it.
    assert_eq!(written(&hand.state(&[1])).0.snapshot.unwrap().load(), Ok(snapshot(&[1])));
    let commands = hand.give(Input::Written(WriteOutcome::Written(11)));
    assert_eq!(deletes(&commands), [(vec![], Some(Epoch(8)))]);
}

#[test]
fn who_is_fenced_deletes_nothing_and_takes_no_late_answer_for_a_new_one() {
    let mut hand = Hand::running(beside());
    hand.messages([1234]);
    hand.acked(1);
    hand.wait(ms(1000));
    put(&hand.state(&[1, 1234]));
    hand.give(Input::Hint);
    let other = record(owner(2, 1), 2, RecordPhase::Released, 0);
    let commands = hand.give(entry(&other, 7));
    assert_eq!(commands, [Command::Report(Report::FencedOff), Command::Close(CloseReason::Lost)]);
    hand.give(Input::Closed);
    // The put of before is still out: nothing is taken until it has ended.
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    assert_eq!(hand.give(entry(&other, 7)), []);
    assert_eq!(hand.give(Input::ObjectPut(Ok(()))), []);
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    assert_eq!(written(&hand.give(entry(&other, 7))).0.epoch, Epoch(3));
}

#[test]
fn a_hand_over_does_not_wait_for_an_object_store_that_does_not_answer() {
    let mut hand = Hand::running(beside());
    hand.messages([1234]);
    hand.acked(1);
    hand.wait(ms(1000));
    put(&hand.state(&[1, 1234]));
    assert_eq!(hand.give(Input::Revoked(CloseReason::Revoked)), []);
    let commands = hand.give(Input::ObjectPut(Err("no answer".into())));
    let (released, _) = written(&commands);
    assert_eq!((released.phase, released.position, released.snapshot), (RecordPhase::Released, Position(0), None));
}

/// A machine whose record, at position 1, names the object that is given.
fn names_an_object() -> (Hand, String) {
    let mut hand = Hand::running(beside());
    let (name, _) = commits(&mut hand, 1);
    hand.give(Input::ObjectsDeleted(Ok(())));
    (hand, name)
}

#[test]
fn a_record_that_is_lost_comes_back_with_a_state_that_is_put_anew_since_the_one_before_may_be_deleted() {
    let (mut hand, name) = names_an_object();
    assert_eq!(batch(&hand.messages([2])).0, [2]);
    hand.give(Input::Hint);
    let commands = hand.give(Input::Record(Ok(None)));
    assert_eq!(commands, [Command::Report(Report::WrittenBack { epoch: Epoch(2), position: Position(1) })]);
    // The call that is open ends first.
    assert_eq!(hand.acked(1), [Command::Snapshot]);
    let (anew, _) = put(&hand.state(&[1000, 1, 2]));
    assert_eq!(object_parts(&anew).map(|(key, epoch, _)| (key, epoch)), Some(("p", Epoch(2))));
    let (back, expect) = written(&hand.give(Input::ObjectPut(Ok(()))));
    assert_eq!((named(&back), back.epoch, back.position, expect), (&*anew, Epoch(2), Position(2), Expect::Nothing));
    assert_ne!(anew, name);
    assert_eq!(deletes(&hand.give(Input::Written(WriteOutcome::Written(1)))), [(vec![], Some(Epoch(2)))]);
}

#[test]
fn a_record_that_is_lost_while_its_state_is_opened_comes_back_once_that_is_there() {
    let mut hand = Hand::new(beside());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    let state = StoredState::Object("p/6/f00".into());
    found.snapshot = Some(StoredSnapshot { format: "list".into(), state });
    hand.give(entry(&found, 9));
    hand.give(Input::Written(WriteOutcome::Written(10)));
    hand.give(Input::Hint);
    for _ in 0..3 {
        assert_eq!(hand.give(Input::Record(Ok(None))), [], "what cannot be read may be deleted");
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
    }
    hand.give(Input::Object(Ok(snapshot(&[1000]).data)));
    hand.give(Input::Opened(Ok(())));
    let back = Report::WrittenBack { epoch: Epoch(9), position: Position(40) };
    assert_eq!(hand.give(Input::Record(Ok(None))), [Command::Report(back), Command::Snapshot]);
}

#[test]
fn a_hand_over_whose_record_is_lost_copies_what_the_handler_cannot_give() {
    let (mut hand, name) = names_an_object();
    hand.give(Input::Revoked(CloseReason::Revoked));
    assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
    assert_eq!(hand.give(Input::Record(Ok(None))).last(), Some(&Command::Snapshot));
    let refused = Failure::Refused("no".into());
    let commands = hand.give(Input::Snapshot(Err(refused)));
    assert_eq!(commands.last(), Some(&Command::GetObject(name.clone())));
    // The store may answer again.
    hand.give(Input::Object(Err("no answer".into())));
    assert_eq!(hand.wait(ms(100)), [Command::GetObject(name)]);
    let (copy, state) = put(&hand.give(Input::Object(Ok(snapshot(&[1000, 1]).data))));
    assert_eq!(state, [1000, 1]);
    let (released, expect) = written(&hand.give(Input::ObjectPut(Ok(()))));
    assert_eq!((named(&released), released.phase, expect), (&*copy, RecordPhase::Released, Expect::Nothing));
    assert_eq!((released.epoch, released.position), (Epoch(2), Position(1)));
}

#[test]
fn a_hand_over_of_which_nothing_is_left_ends_without_a_word_when_others_begin_anew() {
    let (mut hand, _) = names_an_object();
    hand.give(Input::Revoked(CloseReason::Revoked));
    hand.give(Input::Written(WriteOutcome::Lost));
    hand.give(Input::Record(Ok(None)));
    let mut commands = hand.give(Input::Snapshot(Err(Failure::Refused("no".into()))));
    let began = hand.now;
    while matches!(commands.last(), Some(Command::GetObject(_))) {
        commands = hand.give(Input::Object(Err("not found".into())));
        if commands.is_empty() {
            commands = hand.wait(ms(2000));
        }
    }
    let [Command::Report(Report::SnapshotFailed(_)), Command::Close(CloseReason::Lost)] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(hand.now - began >= limits().recovery_grace);
    assert_eq!(hand.give(Input::Closed), [Command::Gone]);
}

#[test]
fn a_state_above_the_limit_stops_the_partition_until_it_is_smaller() {
    let mut hand = Hand::running(Limits { max_snapshot_bytes: 10, ..beside() });
    hand.messages([1]);
    hand.acked(1);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    let commands = hand.state(&[1, 2, 3, 4, 5, 6]);
    assert!(
        matches!(&reports(&commands)[..], [Report::SnapshotFailed(why)] if why.contains("11 bytes")),
        "{commands:?}"
    );
    assert!(hand.machine.view().trouble.is_some());
    assert_eq!(hand.messages([2]), [], "nothing more is handled");
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    let commands = hand.state(&[1, 2, 3]);
    put(&commands[..1]);
    assert_eq!(batch(&commands).0, [2]);
}
