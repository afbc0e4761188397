//! Another version of the handler: it begins at a commit, is on trial, and leaves nothing behind if it fails.

use super::{Commands, Hand, batch, entry, reports, written};
use crate::machine::*;
use crate::record::Phase as RecordPhase;
use crate::testing::data_path::{HANDLER, Input, limits, snapshot};
use crate::testing::ms;
use crate::{Completed, Outcome, Position, Snapshot, WriteOutcome};

const OTHER: &str = "other";

fn order(on_trial: bool) -> Input {
    Input::Swap(SwapOrder { to: OTHER.into(), on_trial, discard_state: false })
}

fn back() -> Input {
    Input::Swap(SwapOrder { to: HANDLER.into(), on_trial: false, discard_state: false })
}

fn opens(commands: &Commands) -> (&str, OpenReason, Option<Snapshot>) {
    let Some(Command::Open { handler, why, snapshot, .. }) = commands.last() else { panic!("{commands:?}") };
    (handler, *why, snapshot.clone())
}

/// With messages 1 to 3 committed by the first version, 4 and 5 waiting, and the other version on trial.
fn on_trial() -> (Hand, Commands) {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2, 3, 4, 5]);
    hand.give(order(true));
    assert_eq!(hand.acked(1), [Command::Snapshot], "nothing is handed over before the change");
    hand.state(&[1]);
    assert_eq!(opens(&hand.write_lands()), (OTHER, OpenReason::Swapped, Some(snapshot(&[1]))));
    let commands = hand.give(Input::Opened(Ok(())));
    assert_eq!(batch(&commands).0, [2, 3, 4, 5]);
    (hand, commands)
}

#[test]
fn a_version_begins_at_the_commit_of_the_one_before() {
    let (hand, commands) = on_trial();
    assert_eq!(reports(&commands), [Report::Swapped { to: OTHER.into(), pause: ms(0) }]);
    assert_eq!(&*hand.machine.view().handler, OTHER);
    assert_eq!(hand.machine.view().trial, Some(Trial::default()));
}

#[test]
fn nothing_is_committed_on_trial_and_all_of_it_after() {
    let (mut hand, _) = on_trial();
    let commands = hand.acked(4);
    assert_eq!(commands, [], "{commands:?}");
    assert_eq!(hand.wait(ms(10_000)), []);
    assert_eq!(hand.machine.view().trial, Some(Trial { handled: 4, completed: 1, ..Trial::default() }));
    assert_eq!(hand.give(order(false)), [Command::Snapshot]);
    let (record, _) = written(&hand.state(&[1, 2, 3, 4, 5]));
    assert_eq!((record.position, record.handler.as_deref()), (Position(5), Some(OTHER)));
}

#[test]
fn a_verdict_against_a_version_leads_back_to_the_commit() {
    let (mut hand, _) = on_trial();
    hand.acked(4);
    let commands = hand.give(back());
    assert_eq!(reports(&commands), [Report::SwappedBack { from: OTHER.into() }]);
    assert_eq!(opens(&commands), (HANDLER, OpenReason::Swapped, Some(snapshot(&[1]))));
    let commands = hand.give(Input::Opened(Ok(())));
    assert_eq!(batch(&commands).0, [2, 3, 4, 5]);
    let commands = hand.acked(4);
    assert_eq!(commands, [Command::Snapshot]);
    assert_eq!(written(&hand.state(&[1, 2, 3, 4, 5])).0.handler.as_deref(), Some(HANDLER));
}

#[test]
fn what_a_call_gives_after_the_verdict_against_its_version_counts_for_nothing() {
    let (mut hand, _) = on_trial();
    assert_eq!(hand.give(back()), []);
    assert_eq!(opens(&hand.acked(4)), (HANDLER, OpenReason::Swapped, Some(snapshot(&[1]))));
    let (mut hand, _) = on_trial();
    hand.give(back());
    assert_eq!(opens(&hand.traps()), (HANDLER, OpenReason::Swapped, Some(snapshot(&[1]))));
}

#[test]
fn a_hand_over_on_trial_hands_over_the_commit_of_the_version_before() {
    let (mut hand, _) = on_trial();
    hand.acked(4);
    let commands = hand.give(Input::Revoked(CloseReason::Revoked));
    let (record, _) = written(&commands);
    assert_eq!((record.position, record.phase), (Position(1), RecordPhase::Released));
    assert_eq!(record.handler.as_deref(), Some(HANDLER));
    assert!(hand.write_lands().contains(&Command::Close(CloseReason::Revoked)));
}

#[test]
fn a_version_that_does_not_open_changes_nothing() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    hand.give(order(true));
    hand.acked(1);
    hand.state(&[1]);
    hand.write_lands();
    let commands = hand.give(Input::Opened(Err(Failure::Refused("not this".into()))));
    assert_eq!(reports(&commands), [Report::SwapFailed { to: OTHER.into(), why: "not this".into() }]);
    assert_eq!(batch(&commands).0, [2], "the instance of the old version is still there");
    assert_eq!(&*hand.machine.view().handler, HANDLER);
}

#[test]
fn nothing_is_given_up_on_trial() {
    let (mut hand, _) = on_trial();
    let commands = hand.done(vec![Completed::Ack, Completed::Reject("no".into())], None);
    // Back, and then alone to the message that would be given up.
    assert_eq!(opens(&commands).0, OTHER);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [2]);
    assert_eq!(batch(&hand.acked(1)).0, [3]);
    assert_eq!(hand.done(vec![Completed::Reject("no".into())], None), []);
    assert_eq!(
        hand.machine.view().trial,
        Some(Trial { handled: 1, completed: 1, failed: 0, rejected: 1, waits: true })
    );
    assert_eq!(hand.wait(ms(20_000)), []);
    // The version before does what it wants with it.
    hand.give(back());
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [2, 3, 4, 5]);
}

#[test]
fn a_message_that_traps_on_trial_is_not_poison() {
    let (mut hand, _) = on_trial();
    assert_eq!(opens(&hand.traps()).0, OTHER);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [2]);
    hand.traps();
    hand.wait(ms(10_000));
    // What it does to this message cannot be written down before the verdict.
    assert_eq!(hand.give(Input::Opened(Ok(()))), []);
    assert_eq!(hand.wait(ms(10_000)), []);
    assert_eq!(hand.machine.view().trial, Some(Trial { failed: 2, waits: true, ..Trial::default() }));
    hand.give(back());
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [2, 3, 4, 5], "nothing is held against it");
}

#[test]
fn a_version_on_trial_that_does_not_open_again_has_failed_and_keeps_nobody_from_the_state() {
    let (mut hand, _) = on_trial();
    hand.traps();
    let commands = hand.give(Input::Opened(Err(Failure::Refused("not again".into()))));
    assert_eq!(reports(&commands), [Report::OpenFailed("not again".into())]);
    let view = hand.machine.view();
    assert_eq!((view.cannot_open, view.trial.map(|trial| trial.failed)), (None, Some(2)));
    assert_eq!(opens(&hand.give(back())).0, HANDLER);
}

#[test]
fn a_version_replaces_one_that_has_lost_its_instance() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.traps();
    hand.give(Input::Opened(Err(Failure::Guest("broken".into()))));
    let commands = hand.give(order(false));
    assert_eq!(opens(&commands), (OTHER, OpenReason::Swapped, None));
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [1]);
}

#[test]
fn a_state_that_the_old_version_does_not_give_is_left_behind() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    hand.give(order(false));
    hand.acked(1);
    hand.give(Input::Snapshot(Err(Failure::Refused("never".into()))));
    assert_eq!(opens(&hand.wait(ms(20_000))), (OTHER, OpenReason::Swapped, None));
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [1, 2]);
}

#[test]
fn the_operator_may_have_a_version_begin_without_the_state() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.give(Input::Swap(SwapOrder { to: OTHER.into(), on_trial: false, discard_state: true }));
    hand.acked(1);
    hand.state(&[1]);
    assert_eq!(opens(&hand.write_lands()), (OTHER, OpenReason::Swapped, None));
    let commands = hand.give(Input::Opened(Ok(())));
    assert_eq!(commands.last(), Some(&Command::Snapshot), "what was discarded is not to come back");
}

#[test]
fn a_paused_or_blocked_partition_gets_its_new_version_too() {
    let mut hand = Hand::running(limits());
    hand.give(Input::Paused(true));
    assert_eq!(opens(&hand.give(order(false))).0, OTHER);
}

#[test]
fn who_is_fenced_on_trial_begins_with_the_version_before_if_the_partition_comes_back() {
    let (mut hand, _) = on_trial();
    hand.acked(4);
    hand.give(Input::Hint);
    let mut theirs = super::record(crate::testing::data_path::owner(2, 2), 9, RecordPhase::Released, 5);
    theirs.generation = crate::Generation(1);
    hand.give(entry(&theirs, 99));
    hand.give(Input::Closed);
    assert_eq!((&*hand.machine.view().handler, hand.machine.view().trial), (HANDLER, None));
}

#[test]
fn a_verdict_that_comes_while_the_version_opens_leads_back_too() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    hand.give(order(true));
    hand.acked(1);
    hand.state(&[1]);
    hand.write_lands();
    assert_eq!(hand.give(back()), []);
    let commands = hand.give(Input::Opened(Ok(())));
    assert!(reports(&commands).contains(&Report::SwappedBack { from: OTHER.into() }), "{commands:?}");
    assert_eq!(opens(&commands), (HANDLER, OpenReason::Swapped, Some(snapshot(&[1]))));
    // What has opened meanwhile knows more than is committed, and does not come back.
    hand.give(Input::Opened(Err(Failure::Guest("no".into()))));
    assert_eq!(opens(&hand.wait(ms(10_000))).0, HANDLER);
    assert_eq!(batch(&hand.give(Input::Opened(Ok(())))).0, [2]);
}

#[test]
fn what_is_ordered_while_the_partition_is_given_up_holds_when_it_comes_back() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.give(order(true));
    let theirs = super::record(crate::testing::data_path::owner(2, 2), 9, RecordPhase::Released, 1);
    hand.give(Input::Hint);
    hand.give(entry(&theirs, 99));
    hand.give(order(false));
    hand.give(Input::Closed);
    hand.wait(ms(1000));
    hand.give(entry(&theirs, 99));
    assert_eq!(opens(&hand.write_lands()).0, OTHER);
    hand.give(Input::Opened(Ok(())));
    assert_eq!(hand.machine.view().trial, None, "nobody is left to judge it");
}

#[test]
fn an_order_that_is_being_carried_out_when_the_partition_is_given_up_holds_when_it_comes_back() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.give(order(false));
    assert!(hand.acked(1).contains(&Command::Snapshot));
    hand.state(&[1]);
    let theirs = super::record(crate::testing::data_path::owner(2, 2), 9, RecordPhase::Released, 1);
    hand.give(Input::Written(WriteOutcome::Lost));
    hand.give(entry(&theirs, 99));
    hand.give(Input::Closed);
    hand.wait(ms(1000));
    hand.give(entry(&theirs, 99));
    assert_eq!(opens(&hand.write_lands()).0, OTHER);
}

#[test]
fn a_version_that_cannot_publish_is_replaced_all_the_same() {
    let (mut hand, _) = on_trial();
    let output = Output { cause: Sequence(2), body: "2:0".to_owned() };
    let outcome = Outcome { done: vec![Completed::Ack], retry: None };
    hand.give(Input::Handled(Ok(Handled { outcome, outputs: vec![output] })));
    hand.give(Input::Sent(Err("no stream".into())));
    assert_eq!(hand.machine.view().trial.map(|trial| trial.failed), Some(1));
    assert_eq!(opens(&hand.give(back())), (HANDLER, OpenReason::Swapped, Some(snapshot(&[1]))));
}
