//! Messages: accepted once, handled in order, retried, given up, parked, published.

use super::{Commands, Hand, batch, entry, reports, written};
use crate::machine::*;
use crate::record::Phase as RecordPhase;
use crate::testing::data_path::{Fate, HANDLER, limits, snapshot};
use crate::testing::ms;
use crate::{Completed, Epoch, Outcome};
use std::time::Duration;

#[test]
fn a_message_comes_only_from_the_current_reader_and_only_once() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    hand.messages([2, 3, 1, 3]);
    assert_eq!(hand.machine.view().queued, 4 - 1);
    // One that starts too late is refused, and another one asked for.
    let refused = hand.give(Input::Reader { reader: 2, from: Sequence(5) });
    assert_eq!(refused, [Command::WantReader(Sequence(3))]);
    hand.messages([4]);
    assert_eq!(hand.machine.mark(), Sequence(3));
    hand.give(Input::Reader { reader: 3, from: Sequence(2) });
    hand.messages([4]);
    assert_eq!(hand.machine.mark(), Sequence(3));
    let messages = [2, 3, 4].map(|s| QueuedMessage { sequence: Sequence(s), bytes: 10, body: Fate::Fine });
    hand.give(Input::Messages { reader: 3, messages: messages.into() });
    assert_eq!(batch(&hand.acked(2)).0, [3, 4]);
}

#[test]
fn a_batch_is_cut_by_messages_and_by_bytes_and_a_large_message_comes_alone() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    let message = |s, bytes| QueuedMessage { sequence: Sequence(s), bytes, body: Fate::Fine };
    let messages = vec![message(2, 600), message(3, 600), message(4, 5000), message(5, 1), message(6, 1)];
    hand.give(Input::Messages { reader: 1, messages });
    assert_eq!(batch(&hand.acked(1)).0, [2]);
    assert_eq!(batch(&hand.acked(1)).0, [3]);
    assert_eq!(hand.acked(1), [Command::Snapshot]);
    assert_eq!(batch(&hand.state(&[1, 2, 3])[1..].to_vec()).0, [4]);
    assert_eq!(batch(&hand.acked(1)).0, [5, 6]);
}

#[test]
fn a_partition_that_cannot_keep_up_is_parked_and_loses_nothing() {
    let mut hand = Hand::running(limits());
    let commands = hand.messages(1..=12);
    assert_eq!(reports(&commands), [Report::Parked { reader: 1 }]);
    assert_eq!((hand.machine.view().queued, hand.machine.mark()), (8, Sequence(8)));
    hand.messages([13]);
    assert_eq!(hand.machine.mark(), Sequence(8), "what comes after the dropped ones would skip them");
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    hand.state(&[1, 2, 3, 4]);
    // Half of the room is free again.
    let commands = hand.write_lands();
    assert!(commands.contains(&Command::WantReader(Sequence(8))), "{commands:?}");
    hand.give(Input::Reader { reader: 2, from: Sequence(9) });
    let messages = (9..=12).map(|s| QueuedMessage { sequence: Sequence(s), bytes: 10, body: Fate::Fine }).collect();
    hand.give(Input::Messages { reader: 2, messages });
    assert_eq!(hand.machine.mark(), Sequence(12));
}

#[test]
fn an_idle_partition_s_position_follows_its_reader_and_is_written_at_release() {
    let mut hand = Hand::running(limits());
    hand.give(Input::Passed { reader: 1, sequence: Sequence(900), seen: None });
    hand.give(Input::Passed { reader: 7, sequence: Sequence(999), seen: None });
    assert_eq!(hand.machine.view().handled, Position(900));
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.position, released.phase), (Position(900), RecordPhase::Released));
}

#[test]
fn what_lands_in_a_commit_is_not_handled_again_although_it_was_let_go_of_meanwhile() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.messages(2..=6);
    assert_eq!(batch(&hand.acked(1)).0, [2, 3, 4, 5]);
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    let commands = hand.state(&[1, 2, 3, 4, 5]);
    assert_eq!(written(&commands[..1].to_vec()).0.position, Position(5));
    // The call with the next message fails while the commit is under way, and the operator pauses the partition.
    hand.give(Input::Paused(true));
    hand.traps();
    assert_eq!(hand.machine.view().queued, 0);
    hand.write_lands();
    hand.give(Input::Opened(Ok(())));
    assert_eq!(hand.give(Input::Paused(false)), [Command::WantReader(Sequence(5))]);
}

#[test]
fn what_is_handled_is_committed_before_it_fills_the_queue() {
    let mut hand = Hand::running(Limits { queue_bytes: 120, max_uncommitted: 100, queue_messages: 100, ..limits() });
    hand.messages(1..=10);
    assert_eq!(batch(&hand.acked(4)).0, [5, 6, 7, 8], "most of it is still to be handled");
    assert_eq!(batch(&hand.acked(4)).0, [9, 10], "but not once for every few messages");
    hand.wait(limits().commit_interval / 8);
    assert_eq!(hand.acked(2), [Command::Snapshot]);
}

#[test]
fn what_a_crash_repeats_is_bounded() {
    let mut hand = Hand::running(Limits { queue_messages: 100, ..limits() });
    hand.messages(1..=20);
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    assert_eq!(batch(&hand.state(&[1, 2, 3, 4])[1..].to_vec()).0, [5, 6, 7, 8]);
    // The commit is still under way: eight are uncommitted, and no more are handled.
    assert_eq!(hand.acked(4), []);
    assert_eq!(hand.wait(ms(5000)), []);
}

fn rationed(limits: Limits) -> Hand {
    Hand::running(Limits { rationed: true, ..limits })
}

/// The one question for a commit, as it says whether nothing is handled before.
fn asks_for_a_commit(commands: &Commands) -> (Duration, bool) {
    let asked: Vec<_> = commands
        .iter()
        .filter_map(|c| match c {
            Command::AskCommit { since, stands } => Some((since.0, *stands)),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), 1, "{commands:?}");
    asked[0]
}

#[test]
fn a_commit_that_waits_for_its_ration_covers_what_is_handled_meanwhile() {
    let mut hand = rationed(limits());
    hand.messages([1]);
    let since = hand.now;
    hand.acked(1);
    assert_eq!(asks_for_a_commit(&hand.wait(ms(1000))), (since, false));
    // Handling goes on, and it is not asked for twice.
    assert_eq!(batch(&hand.messages([2, 3])).0, [2, 3]);
    assert_eq!(hand.acked(2), []);
    assert_eq!(hand.wait(ms(5000)), []);
    assert_eq!(hand.give(Input::MayCommit), [Command::Snapshot]);
    assert_eq!(written(&hand.state(&[1, 2, 3])).0.position, Position(3));
    hand.write_lands();
    // One ration, one commit.
    hand.messages([4]);
    hand.acked(1);
    assert!(!asks_for_a_commit(&hand.wait(ms(1000))).1);
}

#[test]
fn a_partition_that_stands_still_until_its_commit_says_so() {
    let mut hand = rationed(Limits { queue_messages: 100, ..limits() });
    hand.messages(1..=20);
    assert!(!asks_for_a_commit(&hand.acked(4)).1, "so many, and more may still be handled");
    assert!(asks_for_a_commit(&hand.acked(4)).1, "as many as may be uncommitted");
    assert_eq!(hand.give(Input::MayCommit), [Command::Snapshot]);
    hand.state(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(batch(&hand.write_lands()).0, [9, 10, 11, 12]);

    // A retry is written down before it begins, and so is waited for.
    let mut hand = rationed(limits());
    hand.messages([1]);
    assert!(asks_for_a_commit(&hand.done(Vec::new(), Some(None))).1);
    assert_eq!(hand.wait(ms(5000)), []);
}

#[test]
fn a_hand_over_waits_for_no_ration() {
    let mut hand = rationed(limits());
    hand.messages([1]);
    hand.acked(1);
    asks_for_a_commit(&hand.wait(ms(1000)));
    assert_eq!(hand.give(Input::Revoked(CloseReason::Revoked)), [Command::Snapshot]);
    let (released, _) = written(&hand.state(&[1]));
    assert_eq!((released.position, released.phase), (Position(1), RecordPhase::Released));
    // What was granted too late is for nobody.
    assert_eq!(hand.give(Input::MayCommit), []);
}

#[test]
fn every_retry_is_counted_and_written_before_the_next_try() {
    let mut hand = Hand::running(limits());
    assert_eq!(batch(&hand.messages([1, 2, 3])), (vec![1, 2, 3], 1));
    let commands = hand.done(vec![Completed::Ack], Some(Some(ms(3000))));
    assert_eq!(
        commands[..],
        [Command::Report(Report::Retrying { sequence: Sequence(2), attempts: 1 }), Command::Snapshot]
    );
    let (commit, _) = written(&hand.state(&[1]));
    assert_eq!(commit.position, Position(1));
    assert_eq!(commit.attempts, Some(Attempts { sequence: Sequence(2), count: 1 }));
    assert_eq!(hand.wait(ms(5000)), [], "not before it is written");
    assert_eq!(batch(&hand.write_lands()), (vec![2], 2), "the one after it was let go of for so long");
    // It survives a hand-over: a delayed retry holds nothing up.
    hand.done(vec![], Some(None));
    hand.state(&[1]);
    hand.write_lands();
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!(released.attempts, Some(Attempts { sequence: Sequence(2), count: 2 }));
    let mut next = Hand::new(limits());
    next.give(Input::Assigned(Arc::new(Fleet::default())));
    next.give(entry(&released, 9));
    next.opened_after_take();
    assert_eq!(batch(&next.messages([2, 3])), (vec![2, 3], 3));
    // The third is the last: it goes to the dead letters, and only when that is confirmed past them.
    let commands = next.done(vec![], Some(None));
    let [Command::Report(Report::Exhausted { .. }), Command::Send(letters)] = &commands[..] else {
        panic!("{commands:?}")
    };
    let [Outgoing::DeadLetter { id, message, attempts: 3, .. }] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((id.as_str(), message.sequence), ("g/work@2026-01-01/p/1:2:dead-letter", Sequence(2)));
    assert_eq!(batch(&next.give(Input::Sent(Ok(())))), (vec![3], 1));
}

#[test]
fn a_handler_that_gets_nowhere_is_not_called_for_ever() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    let commands = hand.done(vec![], None);
    assert_eq!(reports(&commands), [Report::Retrying { sequence: Sequence(1), attempts: 1 }]);
    assert!(!commands.iter().any(|c| matches!(c, Command::Handle(_))));
}

#[test]
fn a_roll_back_that_another_message_causes_forgets_no_try() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.traps();
    hand.wait(ms(100));
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::Snapshot], "the try is written down first");
    hand.state(&[]);
    assert_eq!(batch(&hand.write_lands()), (vec![1], 2));
    hand.acked(1);
    assert_eq!(batch(&hand.messages([2, 3])), (vec![2, 3], 1));
    hand.traps();
    // The first was handled at its second try, and is still not committed.
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 2));
}

#[test]
fn after_a_trap_the_batch_is_replayed_one_by_one_and_only_a_message_alone_is_blamed() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2, 3, 4, 5]);
    let commands = hand.traps();
    assert_eq!(reports(&commands), [Report::Trapped { sequence: Sequence(1), messages: 4, why: "trap".into() }]);
    let reopened =
        Command::Open { handler: HANDLER.into(), why: OpenReason::Recovered, snapshot: None, epoch: Epoch(1) };
    assert_eq!(commands[1], reopened);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![2], 1));
    // The second alone: back to the start, and the first is committed before it is tried again.
    let commands = hand.traps();
    assert_eq!(commands.len(), 1, "a pause comes first: {commands:?}");
    assert_eq!(hand.wait(ms(100)), [reopened]);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 1));
    assert_eq!(hand.acked(1), [Command::Snapshot]);
    let (commit, _) = written(&hand.state(&[1]));
    assert_eq!((commit.position, commit.attempts), (Position(1), Some(Attempts { sequence: Sequence(2), count: 1 })));
    assert_eq!(batch(&hand.write_lands()), (vec![2], 2));
    // The second time is the last: dead letter, then a fresh instance, and the rest in order.
    let commands = hand.traps();
    let Some(Command::Send(letters)) = commands.last() else { panic!("{commands:?}") };
    assert!(
        matches!(&letters[..], [Outgoing::DeadLetter { message, attempts: 2, .. }] if message.sequence == Sequence(2))
    );
    let commands = hand.give(Input::Sent(Ok(())));
    assert_eq!(
        commands,
        [Command::Open {
            handler: HANDLER.into(),
            why: OpenReason::Recovered,
            snapshot: Some(snapshot(&[1])),
            epoch: Epoch(1)
        }]
    );
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::Snapshot]);
    let commands = hand.state(&[1]);
    assert_eq!(written(&commands).0.position, Position(2));
    assert_eq!(batch(&commands), (vec![3], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![4], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![5], 1));
}

#[test]
fn what_came_before_a_poisonous_message_is_kept_even_if_one_trap_is_enough() {
    let mut hand = Hand::running(Limits { max_traps: 1, ..limits() });
    hand.messages([1]);
    hand.acked(1);
    hand.messages([2]);
    // The instance took the first message's effects with it: they come again before the second is given up.
    hand.traps();
    hand.wait(ms(100));
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 1));
    assert_eq!(hand.acked(1), [Command::Snapshot]);
    hand.state(&[1]);
    assert_eq!(batch(&hand.write_lands()).0, [2]);
    assert!(matches!(hand.traps()[..], [.., Command::Send(_)]));
}

#[test]
fn what_the_host_did_never_counts_against_a_message() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    for _ in 0..20 {
        let commands = hand.give(Input::Handled(Err(Failure::Host("blocked".into()))));
        assert_eq!(commands, []);
        let commands = hand.wait(ms(100));
        assert!(matches!(commands[..], [Command::Open { .. }]), "{commands:?}");
        assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 1));
    }
}

#[test]
fn a_rejected_message_blocks_the_partition_if_the_operator_says_so() {
    let mut hand = Hand::running(Limits { on_exhausted: OnExhausted::Block, ..limits() });
    hand.messages([1, 2, 3]);
    hand.acked(1);
    // The handler has gone past a message that must not be passed: back to come to it alone.
    let commands = hand.done(vec![Completed::Reject("bad".into()), Completed::Ack], None);
    assert!(matches!(commands[..], [Command::Open { .. }]), "{commands:?}");
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))), (vec![1], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![2], 1));
    for _ in 0..5 {
        let outputs = vec![Output { cause: Sequence(2), body: "x".to_owned() }];
        let outcome = Outcome { done: vec![Completed::Reject("bad".into())], retry: None };
        let commands = hand.give(Input::Handled(Ok(Handled { outcome, outputs })));
        let blocked = Command::Report(Report::Blocked { sequence: Sequence(2), reason: "bad".into() });
        assert_eq!(commands.first(), Some(&blocked), "{commands:?}");
        assert!(hand.machine.view().trouble.is_some());
        // What came before it is committed all the same.
        if hand.machine.view().position == Position(0) {
            assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
            hand.state(&[1]);
            hand.write_lands();
        }
        assert_eq!(batch(&hand.wait(ms(2000))).0, [2]);
    }
    assert_eq!(hand.machine.view().position, Position(1));
}

#[test]
fn an_unconfirmed_publish_is_repeated_under_the_same_id_and_nothing_is_committed_before() {
    let mut hand = Hand::running(limits());
    hand.messages([7, 8]);
    let output = |cause, body: &str| Output { cause: Sequence(cause), body: body.to_owned() };
    let outputs = vec![output(7, "a"), output(7, "b"), output(8, "of a message that is not done")];
    let outcome = Outcome { done: vec![Completed::Ack], retry: None };
    let commands = hand.give(Input::Handled(Ok(Handled { outcome, outputs })));
    let publish =
        |n: u32, body: &str| Outgoing::Publish { id: format!("g/work@2026-01-01/p/1:7:{n}"), body: body.to_owned() };
    let send = Command::Send(vec![publish(0, "a"), publish(1, "b")]);
    assert_eq!(commands, std::slice::from_ref(&send));
    for wait in [100, 200, 400, 800, 1600, 2000, 2000] {
        let commands = hand.give(Input::Sent(Err("no answer".into())));
        assert_eq!(commands, [Command::Report(Report::Unconfirmed("no answer".into()))]);
        assert_eq!(hand.wait(ms(wait)), std::slice::from_ref(&send));
    }
    // Confirmed at last: on it goes, without another call for what is done.
    assert_eq!(batch(&hand.give(Input::Sent(Ok(())))).0, [8]);
    assert_eq!(hand.machine.view().handled, Position(7));
}

#[test]
fn a_snapshot_that_fails_stops_the_partition_visibly_and_loses_nothing() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=8);
    hand.acked(4);
    let commands = hand.give(Input::Snapshot(Err(Failure::Refused("not now".into()))));
    assert!(matches!(&reports(&commands)[..], [Report::SnapshotFailed(_)]), "{commands:?}");
    assert!(hand.machine.view().trouble.is_some());
    // It goes on up to what a crash may repeat, then it waits for a snapshot.
    assert_eq!(batch(&commands).0, [5, 6, 7, 8]);
    assert_eq!(hand.acked(4), []);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    assert_eq!(written(&hand.state(&[8])).0.position, Position(8));
}

#[test]
fn a_handler_that_does_not_open_is_tried_again_and_nothing_is_skipped() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(Input::Record(Ok(None)));
    hand.write_lands();
    for wait in [100, 200, 400, 800, 1600, 2000, 2000] {
        let commands = hand.give(Input::Opened(Err(Failure::Guest("no".into()))));
        assert_eq!(commands, [Command::Report(Report::OpenFailed("no".into()))]);
        assert_eq!(hand.machine.view().trouble.as_deref(), Some("no"));
        let commands = hand.wait(ms(wait));
        assert!(matches!(commands[..], [Command::Open { .. }]), "{commands:?}");
    }
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::WantReader(Sequence(0))]);
    assert_eq!(hand.machine.view().trouble, None);
    // Given up meanwhile: released unchanged.
    hand.give(Input::Reader { reader: 1, from: Sequence(1) });
    hand.messages([1]);
    hand.traps();
    hand.give(Input::Opened(Err(Failure::Guest("no".into()))));
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.phase, released.position), (RecordPhase::Released, Position(0)));
}
