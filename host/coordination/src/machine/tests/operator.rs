//! What an operator does to a partition while it is owned: moves it, and pauses it.

use super::{Hand, batch, entry, record, reports, written};
use crate::machine::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, StoredSnapshot};
use crate::testing::data_path::{Fate, Input, limits, owner, snapshot};
use crate::testing::ms;
use crate::{Completed, Epoch, Expect, Generation, StoredEntry, WriteOutcome};

/// The record of a [`Hand::running`] machine as an operator has moved it.
fn moved(position: u64) -> OwnershipRecord {
    record(owner(1, 1), 1, RecordPhase::Owned, 0).moved(Position(position), None, false)
}

/// The machine has dropped everything: it takes the partition again at `position`, and gives the commands that follow.
fn takes_again(hand: &mut Hand, moved: &OwnershipRecord, revision: u64) {
    assert_eq!(hand.give(Input::Closed), []);
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    let (taken, expect) = written(&hand.give(entry(moved, revision)));
    assert_eq!((taken.epoch, taken.generation), (moved.epoch.next(), moved.generation));
    assert_eq!((taken.position, taken.phase, expect), (moved.position, RecordPhase::Owned, Expect::Revision(revision)));
    hand.revision = revision;
    hand.opened_after_take();
    assert_eq!(hand.machine.mark(), Sequence(moved.position.0));
}

fn moved_report(position: u64) -> Command<Fate, String> {
    Command::Report(Report::Moved { position: Position(position), generation: Generation(2) })
}

#[test]
fn a_record_is_moved_with_its_state_or_without_and_never_with_its_attempts_or_what_was_seen_before() {
    let mut before = record(owner(2, 1), 7, RecordPhase::Owned, 40);
    let seen = |time| Some(Seen { sequence: Sequence(48), time });
    before.seen = seen(1);
    before.attempts = Some(Attempts { sequence: Sequence(41), count: 2 });
    before.snapshot = Some(StoredSnapshot::store(&snapshot(&[1, 40])));
    before.handler = Some("digest".into());
    let after = before.moved(Position(3), seen(2), true);
    assert_eq!(after.seen, seen(2));
    assert_eq!((after.epoch, after.generation, after.position), (Epoch(8), Generation(2), Position(3)));
    assert_eq!((after.phase, after.attempts, &after.owner), (RecordPhase::Released, None, &before.owner));
    assert_eq!((&after.snapshot, &after.handler), (&before.snapshot, &before.handler));
    let after = before.moved(Position(3), None, false);
    assert_eq!((after.snapshot, after.handler, after.seen), (None, None, None));
}

#[test]
fn an_owner_learns_at_a_hint_that_its_partition_was_moved_and_begins_again_from_there() {
    let mut hand = Hand::running(limits());
    assert_eq!(batch(&hand.messages([3, 5])), (vec![3, 5], 1));
    hand.acked(1);
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    assert_eq!(hand.give(entry(&moved(1), 2)), [moved_report(1), Command::Close(CloseReason::Lost)]);
    // What the closed handler had in hand counts for nothing.
    assert_eq!(hand.acked(1), []);
    takes_again(&mut hand, &moved(1), 2);
    assert_eq!(batch(&hand.messages([3])), (vec![3], 1));
}

#[test]
fn an_owner_that_missed_the_hint_is_stopped_by_its_next_compare() {
    let mut hand = Hand::running(limits());
    hand.messages([3]);
    hand.acked(1);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    written(&hand.state(&[3]));
    assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
    assert_eq!(hand.give(entry(&moved(9), 2)), [moved_report(9), Command::Close(CloseReason::Lost)]);
    takes_again(&mut hand, &moved(9), 2);
    // What lies before the new position is passed over.
    assert_eq!(batch(&hand.messages([4, 9, 10])), (vec![10], 1));
}

#[test]
fn an_idle_owner_that_missed_the_hint_looks_for_itself_within_half_a_minute_again_and_again() {
    let mut hand = Hand::running(limits());
    for _ in 0..3 {
        assert_eq!(hand.wait(ms(19_000)), []);
        assert_eq!(hand.wait(ms(11_000)), [Command::Read]);
        assert_eq!(hand.give(entry(&record(owner(1, 1), 1, RecordPhase::Owned, 0), 1)), []);
    }
    hand.wait(ms(30_000));
    assert_eq!(hand.give(entry(&moved(1), 2)), [moved_report(1), Command::Close(CloseReason::Lost)]);
    takes_again(&mut hand, &moved(1), 2);
    assert_eq!(batch(&hand.messages([3])), (vec![3], 1));
}

#[test]
fn an_idle_owner_whose_record_somebody_has_deleted_writes_it_again() {
    let mut hand = Hand::running(limits());
    assert_eq!(hand.wait(ms(30_000)), [Command::Read]);
    let marker = Input::Record(Ok(Some(StoredEntry { value: None, revision: 2 })));
    let (again, expect) = written(&hand.give(marker));
    assert_eq!((again.epoch, again.position, expect), (Epoch(2), Position(0), Expect::Revision(2)));
}

#[test]
fn who_commits_finds_out_by_that_and_does_not_look() {
    let mut hand = Hand::running(limits());
    for sequence in 1..40 {
        hand.messages([sequence]);
        hand.acked(1);
        assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
        written(&hand.state(&[]));
        assert!(!hand.write_lands().contains(&Command::Read));
    }
}

#[test]
fn owners_that_begin_together_do_not_all_look_at_once() {
    let mut times: Vec<_> = (0..100)
        .map(|n| {
            let id = PartitionId::from_keys(&[format!("tool-{n}")]).unwrap();
            loss::look_every(&id).as_millis() / 1000
        })
        .collect();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times, (20..30).collect::<Vec<_>>());
}

#[test]
fn a_partition_that_is_moved_while_it_opens_or_is_taken_is_taken_again() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(Input::Record(Ok(None)));
    // The take has landed, its answer is on the way, and the move has come between.
    assert_eq!(hand.give(Input::Hint), []);
    let commands = hand.write_lands();
    assert!(matches!(commands[..], [Command::Report(_), Command::Read, Command::Open { .. }]), "{commands:?}");
    assert_eq!(hand.give(entry(&moved(7), 2)), [moved_report(7)]);
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::Close(CloseReason::Lost)]);
    takes_again(&mut hand, &moved(7), 2);
}

#[test]
fn a_hint_without_a_reason_and_a_read_that_was_overtaken_change_nothing() {
    let mut hand = Hand::running(limits());
    let ours = record(owner(1, 1), 1, RecordPhase::Owned, 0);
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    assert_eq!(hand.give(entry(&ours, 1)), []);
    let unreadable = StoredEntry { value: Some(b"{".to_vec()), revision: 9 };
    hand.give(Input::Hint);
    let commands = hand.give(Input::Record(Ok(Some(unreadable))));
    assert!(matches!(reports(&commands)[..], [Report::Unreadable(_)]), "{commands:?}");
    // The read is answered with what was there before a commit that is under way.
    hand.messages([3]);
    hand.acked(1);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    written(&hand.state(&[3]));
    assert_eq!(hand.give(entry(&ours, 1)), []);
    let commands = hand.write_lands();
    assert!(matches!(reports(&commands)[..], [Report::Committed { position: Position(3), .. }]), "{commands:?}");
    assert_eq!(hand.wait(ms(500)), [], "a commit that lands says whose the partition is");
    assert_eq!(hand.machine.view().phase, Phase::Running);
}

#[test]
fn a_message_that_had_trapped_begins_anew_after_a_move() {
    let mut hand = Hand::running(limits());
    hand.messages([3]);
    hand.traps();
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    hand.give(entry(&moved(1), 2));
    // The instance was gone already: there is nothing to close.
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    written(&hand.give(entry(&moved(1), 2)));
    hand.revision = 2;
    hand.opened_after_take();
    assert_eq!(batch(&hand.messages([3])), (vec![3], 1));
    let commands = hand.traps();
    assert!(!reports(&commands).iter().any(|report| matches!(report, Report::Exhausted { .. })), "{commands:?}");
}

#[test]
fn a_paused_partition_commits_what_is_in_hand_handles_nothing_and_goes_on_where_it_was() {
    let mut hand = Hand::running(limits());
    assert_eq!(batch(&hand.messages([3, 5])), (vec![3, 5], 1));
    hand.messages([6, 7]);
    assert_eq!(hand.give(Input::Paused(true)), []);
    assert_eq!(hand.acked(2), [Command::Snapshot], "at once, not after the interval");
    let commands = hand.state(&[3, 5]);
    assert_eq!(written(&commands).0.position, Position(5));
    assert_eq!(reports(&commands), [Report::Parked { reader: 1 }]);
    hand.write_lands();
    assert_eq!(hand.wait(ms(15_000)), []);
    let view = hand.machine.view();
    assert_eq!((view.phase, view.paused, view.queued), (Phase::Running, true, 0));
    assert_eq!(hand.give(Input::Paused(false)), [Command::WantReader(Sequence(5))]);
    hand.give(Input::Reader { reader: 1, from: Sequence(6) });
    assert_eq!(batch(&hand.messages([6, 7])), (vec![6, 7], 1));
}

#[test]
fn a_paused_partition_holds_nothing_that_waits_and_loses_nothing() {
    let mut hand = Hand::running(limits());
    hand.give(Input::Paused(true));
    assert_eq!(hand.messages(1..=20), [Command::Report(Report::Parked { reader: 1 })]);
    assert_eq!((hand.machine.queued_bytes(), hand.machine.mark()), (0, Sequence(0)));
    assert_eq!(hand.wait(ms(15_000)), [], "it must not be read for again and again");
    assert_eq!(hand.give(Input::Paused(false)), [Command::WantReader(Sequence(0))]);
    hand.give(Input::Reader { reader: 2, from: Sequence(1) });
    hand.give(Input::Messages { reader: 2, messages: hand_over(1..=4) });
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    assert_eq!(written(&hand.state(&[1, 2, 3, 4])).0.position, Position(4));
}

fn hand_over(sequences: std::ops::RangeInclusive<u64>) -> Vec<QueuedMessage<Fate>> {
    sequences.map(|s| QueuedMessage { sequence: Sequence(s), bytes: 10, body: Fate::Fine }).collect()
}

/// The partition holds the message that it tries, and asks for more once that is handled, not at each try.
fn assert_stands_still_with(hand: &mut Hand, sequence: u64) {
    assert_eq!(hand.machine.view().queued, 1);
    assert_eq!((hand.machine.queued_bytes(), hand.machine.mark()), (10, Sequence(sequence)));
    assert_eq!(hand.messages([sequence + 3]), [], "the reader that brought it is not held");
}

#[test]
fn a_blocked_partition_holds_only_the_message_that_blocks_it_and_loses_nothing() {
    let mut hand = Hand::running(Limits { on_exhausted: OnExhausted::Block, ..limits() });
    assert_eq!(batch(&hand.messages([1, 2, 3])), (vec![1, 2, 3], 1));
    hand.messages([4, 5]);
    let commands = hand.done(vec![Completed::Reject("no".into())], None);
    assert_eq!(reports(&commands).last(), Some(&Report::Parked { reader: 1 }), "{commands:?}");
    assert_stands_still_with(&mut hand, 1);
    assert_eq!(batch(&hand.wait(limits().backoff.1)).0, [1]);
    hand.done(vec![Completed::Reject("no".into())], None);
    assert_stands_still_with(&mut hand, 1);
    hand.wait(limits().backoff.1);
    assert_eq!(hand.acked(1), [Command::WantReader(Sequence(1))]);
}

#[test]
fn a_partition_whose_handler_does_not_open_holds_one_message_and_loses_nothing() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    hand.messages([3, 4]);
    assert!(matches!(hand.traps().last(), Some(Command::Open { .. })));
    let mut parked = 0;
    for _ in 0..8 {
        let told = reports(&hand.give(Input::Opened(Err(Failure::Guest("no".into())))));
        parked += told.iter().filter(|report| matches!(report, Report::Parked { .. })).count();
        assert!(matches!(hand.wait(limits().backoff.1)[..], [Command::Open { .. }]));
    }
    assert_eq!(parked, 1, "the first tries follow each other quickly; then it lets go");
    hand.give(Input::Opened(Err(Failure::Guest("no".into()))));
    assert_stands_still_with(&mut hand, 1);
    hand.wait(limits().backoff.1);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [1]);
    assert_eq!(hand.acked(1), [Command::WantReader(Sequence(1))]);
}

#[test]
fn in_queue_mode_a_paused_partition_keeps_what_its_queue_holds_and_loses_nothing() {
    let mut hand = Hand::running(Limits { acknowledges: true, ..limits() });
    hand.give(Input::Paused(true));
    assert_eq!(hand.messages(1..=20), [Command::Report(Report::Parked { reader: 1 })]);
    assert_eq!(hand.machine.view().queued, limits().queue_messages);
    assert_eq!(hand.wait(ms(15_000)), []);
    assert_eq!(batch(&hand.give(Input::Paused(false))).0, [1, 2, 3, 4]);
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    written(&hand.state(&[1, 2, 3, 4]));
    // There is room again: what did not fit is asked for.
    assert!(hand.write_lands().contains(&Command::WantReader(Sequence(8))));
}

#[test]
fn a_paused_partition_is_taken_and_handed_over_like_any_other() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Paused(true));
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(Input::Record(Ok(None)));
    hand.opened_after_take();
    assert_eq!(hand.messages([3, 4]), [Command::Report(Report::Parked { reader: 1 })]);
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.phase, released.position), (RecordPhase::Released, Position(0)));
    assert_eq!(hand.write_lands(), [Command::Released, Command::Close(CloseReason::Revoked)]);
}
