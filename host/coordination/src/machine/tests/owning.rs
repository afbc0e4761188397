//! Taking, committing, releasing, and losing a partition.

use super::{Commands, Hand, batch, entry, record, reports, written};
use crate::Completed;
use crate::machine::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, StoredSnapshot, StoredState, encode};
use crate::testing::data_path::{HANDLER, Input, applied, limits, owner, snapshot};
use crate::testing::ms;
use crate::{Epoch, Expect, Generation, Incarnation, Outcome, StoredEntry, Version, WorkerId, WriteOutcome};

fn fleet(live: &[(u32, u64)], dead: &[(u32, u64)]) -> Fleet {
    let id = |n: &u32| WorkerId::new("worker", *n);
    Fleet {
        live: live.iter().map(|(n, claim)| (id(n), owner(*n, *claim).incarnation)).collect(),
        dead: dead.iter().map(|(n, claim)| (id(n), *claim)).collect(),
        ..Fleet::default()
    }
}

#[test]
fn who_may_take_a_partition_is_decided_by_its_record_and_the_plan() {
    use RecordPhase::{Owned, Released};
    use TakeDecision::{Create, Missing, Seize, Superseded, Take, Wait};
    let me = owner(1, 3);
    let all = fleet(&[(1, 3), (2, 5)], &[(4, 2)]);
    let table = [
        (None, Missing),
        (Some((owner(2, 5), Released)), Take),
        (Some((owner(4, 1), Released)), Take),
        (Some((me.clone(), Owned)), Take),
        (Some((owner(1, 2), Owned)), Seize),
        (Some((owner(1, 4), Owned)), Superseded),
        (Some((owner(1, 4), Released)), Superseded),
        (Some((owner(4, 2), Owned)), Seize),
        (Some((owner(4, 1), Owned)), Seize),
        (Some((owner(4, 3), Owned)), Wait),
        // A later run of the same ID lives: the earlier one does not.
        (Some((owner(2, 4), Owned)), Seize),
        (Some((owner(2, 5), Owned)), Wait),
        // Unknown to the plan: it may live.
        (Some((owner(9, 1), Owned)), Wait),
    ];
    for (found, expected) in table {
        let found = found.map(|(owner, phase)| record(owner, 7, phase, 5));
        assert_eq!(decide_take(found.as_ref(), true, (&me.worker, me.incarnation), &all), expected, "{found:?}");
    }
    assert_eq!(decide_take(None, false, (&me.worker, me.incarnation), &all), Create);
    let twin = Owner { incarnation: Incarnation { claim: 3, uuid: owner(8, 8).incarnation.uuid }, ..me.clone() };
    let found = record(twin, 7, Owned, 5);
    assert_eq!(decide_take(Some(&found), true, (&me.worker, me.incarnation), &all), Seize);
}

#[test]
fn taking_raises_the_epoch_and_goes_on_from_position_and_state() {
    let mut hand = Hand::new(limits());
    assert_eq!(hand.give(Input::Assigned(Arc::new(Fleet::default()))), [Command::Read]);
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    found.snapshot = Some(StoredSnapshot::store(&snapshot(&[1, 40])));
    let (taken, expect) = written(&hand.give(entry(&found, 9)));
    assert_eq!((taken.epoch, taken.position, expect), (Epoch(8), Position(40), Expect::Revision(9)));
    assert_eq!((taken.owner, taken.phase, taken.snapshot), (owner(1, 1), RecordPhase::Owned, found.snapshot));
    let commands = hand.give(Input::Written(WriteOutcome::Written(10)));
    assert_eq!(
        commands[1..],
        [Command::Open {
            handler: HANDLER.into(),
            why: OpenReason::Assigned,
            snapshot: Some(snapshot(&[1, 40])),
            epoch: Epoch(8)
        }]
    );
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::WantReader(Sequence(40))]);
}

#[test]
fn a_live_owner_is_waited_for_and_overruled_only_after_the_hand_over_timeout() {
    let mut hand = Hand::new(limits());
    let live = Arc::new(fleet(&[(1, 1), (2, 1)], &[]));
    hand.give(Input::Assigned(live.clone()));
    let found = record(owner(2, 1), 7, RecordPhase::Owned, 40);
    assert_eq!(hand.give(entry(&found, 9)), []);
    // It is read again every half second, and at a hint.
    for _ in 0..18 {
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
        assert_eq!(hand.give(entry(&found, 9)), []);
    }
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    // Meanwhile somebody else has taken it, who gets the full time again.
    let other = record(owner(3, 1), 8, RecordPhase::Owned, 40);
    assert_eq!(hand.give(entry(&other, 10)), []);
    for _ in 0..19 {
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
        assert_eq!(hand.give(entry(&other, 10)), []);
    }
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    let (taken, _) = written(&hand.give(entry(&other, 10)));
    assert_eq!(taken.epoch, Epoch(9));
    let taken = Report::Taken { epoch: Epoch(9), position: Position(40), seized: true };
    assert_eq!(reports(&hand.give(Input::Written(WriteOutcome::Written(11)))), [taken]);
}

#[test]
fn a_plan_that_declares_the_owner_dead_ends_the_wait_at_once() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(fleet(&[(1, 1), (2, 1)], &[]))));
    let found = record(owner(2, 1), 7, RecordPhase::Owned, 40);
    hand.give(entry(&found, 9));
    assert_eq!(hand.give(Input::Assigned(Arc::new(fleet(&[(1, 1)], &[(2, 1)])))), [Command::Read]);
    assert_eq!(written(&hand.give(entry(&found, 9))).0.epoch, Epoch(8));
}

#[test]
fn a_commit_whose_reply_was_lost_is_found_and_adopted() {
    let mut hand = Hand::running(limits());
    assert_eq!(batch(&hand.messages([3, 5])), (vec![3, 5], 1));
    hand.acked(2);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    let (commit, expect) = written(&hand.state(&[3, 5]));
    assert_eq!((commit.position, expect), (Position(5), Expect::Revision(1)));
    assert_eq!(hand.give(Input::Written(WriteOutcome::Unknown)), []);
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    // It has landed: adopted, and the next commit builds on it.
    let commands = hand.give(entry(&commit, 2));
    assert!(matches!(reports(&commands)[..], [Report::Committed { position: Position(5), .. }]), "{commands:?}");
    hand.messages([6]);
    hand.acked(1);
    hand.wait(ms(1000));
    assert_eq!(written(&hand.state(&[3, 5, 6])).1, Expect::Revision(2));
    // It has not landed: written again.
    hand.give(Input::Written(WriteOutcome::Unknown));
    hand.wait(ms(500));
    assert_eq!(written(&hand.give(entry(&commit, 2))).0.position, Position(6));
    // A lost compare may be our own earlier try.
    let again = record_at(&hand, 6, &[3, 5, 6]);
    assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
    let commands = hand.give(entry(&again, 3));
    assert!(matches!(reports(&commands)[..], [Report::Committed { position: Position(6), .. }]), "{commands:?}");
}

/// What the machine's own commit at this position looks like.
fn record_at(hand: &Hand, position: u64, state: &[u64]) -> OwnershipRecord {
    let epoch = hand.machine.view().epoch.unwrap();
    let mut record = record(owner(1, 1), epoch.0, RecordPhase::Owned, position);
    record.handler = Some("digest".into());
    record.snapshot = Some(StoredSnapshot::store(&snapshot(state)));
    record
}

#[test]
fn a_zombie_s_commit_is_refused_and_its_handler_closed_as_lost() {
    let mut hand = Hand::running(limits());
    hand.messages([3]);
    hand.acked(1);
    hand.wait(ms(1000));
    hand.state(&[3]);
    hand.messages([4]);
    assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
    let other = record(owner(2, 1), 2, RecordPhase::Owned, 0);
    let commands = hand.give(entry(&other, 7));
    assert_eq!(commands, [Command::Report(Report::FencedOff), Command::Close(CloseReason::Lost)]);
    // What the handler still answers counts for nothing.
    assert_eq!(hand.acked(1), []);
    assert_eq!(hand.give(Input::Closed), []);
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    assert_eq!(hand.give(entry(&other, 7)), []);
}

#[test]
fn a_record_that_is_lost_is_written_back_by_its_owner() {
    let mut hand = Hand::running(limits());
    hand.messages([3]);
    hand.acked(1);
    hand.wait(ms(1000));
    hand.state(&[3]);
    hand.give(Input::Written(WriteOutcome::Lost));
    let (back, expect) = written(&hand.give(Input::Record(Ok(None))));
    assert_eq!((back.epoch, back.position, expect), (Epoch(2), Position(3), Expect::Nothing));
}

#[test]
fn a_bucket_that_was_set_back_gets_the_latest_record_again_as_a_new_ownership() {
    // To an earlier commit of ours, to an earlier ownership of ours, and to the time before there was a record.
    let earlier = record(owner(1, 1), 1, RecordPhase::Owned, 0);
    let before = record(owner(1, 1), 0, RecordPhase::Released, 0);
    let found = [entry(&earlier, 1), entry(&before, 1), Input::Record(Ok(None))];
    for (found, expected) in found.iter().zip([Expect::Revision(1), Expect::Revision(1), Expect::Nothing]) {
        // At a commit,
        let mut hand = Hand::running(limits());
        hand.messages([3]);
        hand.acked(1);
        hand.wait(ms(1000));
        hand.state(&[3]);
        hand.revision = 6;
        hand.write_lands();
        hand.messages([5]);
        hand.acked(1);
        hand.wait(ms(1000));
        hand.state(&[3, 5]);
        assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
        let commands = hand.give(found.clone());
        let (back, expect) = written(&commands);
        assert_eq!((back.epoch, back.position, expect), (Epoch(2), Position(5), expected));
        assert_eq!(reports(&commands), [Report::WrittenBack { epoch: Epoch(2), position: Position(5) }]);
        hand.revision = 1;
        hand.write_lands();
        // and when there is nothing to commit.
        assert_eq!(hand.give(Input::Hint), [Command::Read]);
        let (back, expect) = written(&hand.give(found.clone()));
        assert_eq!((back.epoch, back.position, expect), (Epoch(3), Position(5), expected));
        assert_eq!(applied(back.snapshot.map(|s| s.load().unwrap()).as_ref()), [3, 5]);
        hand.write_lands();
        // The handler has noticed nothing of it.
        assert_eq!(batch(&hand.messages([9])).0, [9]);
    }
    // Another's is never overruled, however old it looks.
    let mut hand = Hand::running(limits());
    hand.give(Input::Hint);
    let commands = hand.give(entry(&record(owner(2, 1), 0, RecordPhase::Owned, 0), 1));
    assert_eq!(reports(&commands), [Report::FencedOff]);
}

#[test]
fn a_record_of_somebody_else_or_of_no_known_format_is_left_alone() {
    let mut foreign = record(owner(2, 1), 7, RecordPhase::Released, 40);
    foreign.group = "other".into();
    let mut elsewhere = record(owner(2, 1), 7, RecordPhase::Released, 40);
    elsewhere.stream.name = "other".into();
    let hostile = [b"".to_vec(), b"\xff".to_vec(), br#"{"v":2}"#.to_vec(), br#"{"v":1,"epoch":"x"}"#.to_vec()];
    let hostile = [foreign, elsewhere].into_iter().map(|r| encode(&r).unwrap().into_bytes()).chain(hostile);
    for value in hostile {
        let mut hand = Hand::new(limits());
        hand.give(Input::Assigned(Arc::new(Fleet::default())));
        let found = Some(StoredEntry { value: Some(value), revision: 9 });
        let commands = hand.give(Input::Record(Ok(found.clone())));
        assert!(matches!(commands[..], [Command::Report(Report::Unreadable(_))]), "{commands:?}");
        assert!(hand.machine.view().trouble.is_some());
        // It is looked at again, and reported once.
        assert_eq!(hand.wait(ms(10_000)), [Command::Read]);
        assert_eq!(hand.give(Input::Record(Ok(found))), []);
    }
}

#[test]
fn a_later_run_of_our_own_id_tells_us_that_we_are_the_zombie() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let commands = hand.give(entry(&record(owner(1, 2), 7, RecordPhase::Owned, 40), 9));
    assert_eq!(reports(&commands), [Report::Superseded(owner(1, 2).incarnation)]);
    assert_eq!(hand.give(Input::Fenced), [Command::Gone]);
}

#[test]
fn a_release_hands_over_the_final_state_in_the_same_write() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2]);
    assert_eq!(hand.give(Input::Revoked(CloseReason::Revoked)), [], "the batch in hand is finished");
    assert_eq!(hand.acked(2), [Command::Snapshot]);
    let (released, expect) = written(&hand.state(&[1, 2]));
    assert_eq!((released.phase, released.position, expect), (RecordPhase::Released, Position(2), Expect::Revision(1)));
    assert_eq!(applied(released.snapshot.map(|s| s.load().unwrap()).as_ref()), [1, 2]);
    assert_eq!(hand.write_lands(), [Command::Released, Command::Close(CloseReason::Revoked)]);
    assert_eq!(hand.give(Input::Closed), [Command::Gone]);
}

#[test]
fn a_release_without_a_snapshot_hands_over_as_last_committed() {
    for failure in [Failure::Refused("no".into()), Failure::Guest("trap".into())] {
        let mut hand = Hand::running(limits());
        hand.messages([1, 2]);
        hand.acked(2);
        hand.wait(ms(1000));
        hand.state(&[1, 2]);
        hand.write_lands();
        hand.messages([3]);
        hand.acked(1);
        assert_eq!(hand.give(Input::Revoked(CloseReason::Revoked)), [Command::Snapshot]);
        let (released, _) = written(&hand.give(Input::Snapshot(Err(failure))));
        assert_eq!((released.phase, released.position), (RecordPhase::Released, Position(2)));
        assert_eq!(applied(released.snapshot.map(|s| s.load().unwrap()).as_ref()), [1, 2]);
    }
}

#[test]
fn a_hand_over_does_not_wait_for_a_publish_that_cannot_be_confirmed() {
    let mut hand = Hand::running(limits());
    hand.messages([7]);
    let outputs = vec![Output { cause: Sequence(7), body: "a".to_owned() }];
    let outcome = Outcome { done: vec![Completed::Ack], retry: None };
    hand.give(Input::Handled(Ok(Handled { outcome, outputs })));
    assert_eq!(hand.give(Input::Revoked(CloseReason::Revoked)), [], "the answer is still out");
    let commands = hand.give(Input::Sent(Err("no answer".into())));
    let (released, _) = written(&commands);
    assert_eq!((released.phase, released.position, released.attempts), (RecordPhase::Released, Position(0), None));
}

#[test]
fn a_worker_that_is_fenced_while_it_opens_closes_what_has_opened_and_writes_nothing() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.give(Input::Record(Ok(None)));
    hand.write_lands();
    assert_eq!(hand.give(Input::Fenced), []);
    // The plan's next word is for the worker's next run.
    assert_eq!(hand.give(Input::Assigned(Arc::new(Fleet::default()))), []);
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::Close(CloseReason::Lost)]);
    assert_eq!(hand.give(Input::Closed), [Command::Gone]);
    assert!(hand.machine.is_gone());
    // And while it commits.
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.acked(1);
    hand.wait(ms(1000));
    hand.state(&[1]);
    assert_eq!(hand.give(Input::Fenced), [Command::Close(CloseReason::Lost)]);
    assert_eq!(hand.write_lands(), []);
    assert_eq!(hand.give(Input::Closed), [Command::Gone]);
    // And while it handles.
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    assert_eq!(hand.give(Input::Fenced), [Command::Close(CloseReason::Lost)]);
    assert_eq!(hand.acked(1), []);
    assert_eq!(hand.give(Input::Closed), [Command::Gone]);
}

#[test]
fn a_partition_lost_and_regained_before_its_release_is_kept() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    hand.give(Input::Revoked(CloseReason::Revoked));
    assert_eq!(hand.give(Input::Assigned(Arc::new(Fleet::default()))), [Command::Read]);
    hand.give(entry(&record(owner(1, 1), 1, RecordPhase::Owned, 0), 1));
    assert_eq!(hand.acked(1), []);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    // Regained only after the release was written: released, then taken again.
    hand.give(Input::Revoked(CloseReason::Revoked));
    let (released, _) = written(&hand.state(&[1]));
    let commands = hand.write_lands();
    let released = if released.phase == RecordPhase::Owned { written(&commands).0 } else { released };
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    hand.write_lands();
    hand.give(Input::Closed);
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    assert_eq!(written(&hand.give(entry(&released, 3))).0.epoch, Epoch(2));
}

/// The plan of this version, as it gives the partition to us again.
fn plan(version: u64) -> Input {
    Input::Assigned(Arc::new(Fleet { version: Version(version), ..Fleet::default() }))
}

#[test]
fn a_worker_that_was_overruled_while_it_was_out_of_reach_finds_out_as_soon_as_it_hears_of_a_plan() {
    let overruled = record(owner(2, 1), 2, RecordPhase::Released, 0);
    let ways: [&[Input]; 3] =
        [&[plan(2), plan(4)], &[plan(2), Input::Revoked(CloseReason::Revoked), plan(3)], &[plan(2), Input::Hint]];
    for told in ways {
        let mut hand = Hand::new(limits());
        hand.give(plan(1));
        hand.give(Input::Record(Ok(None)));
        hand.opened_after_take();
        hand.messages([1]);
        let asked: Commands = told.iter().flat_map(|input| hand.give(input.clone())).collect();
        assert_eq!(asked, [Command::Read], "after {told:?}");
        let commands = hand.give(entry(&overruled, 3));
        assert_eq!(commands, [Command::Report(Report::FencedOff), Command::Close(CloseReason::Lost)]);
        hand.give(Input::Closed);
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
        assert_eq!(written(&hand.give(entry(&overruled, 3))).0.epoch, Epoch(3));
    }
}

#[test]
fn an_owner_who_looks_again_and_finds_itself_goes_on() {
    let mut hand = Hand::running(limits());
    hand.messages([1]);
    assert_eq!(hand.give(plan(7)), [Command::Read]);
    // What is committed meanwhile tells more than the answer, whichever comes first.
    assert_eq!(hand.acked(1), []);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    assert_eq!(written(&hand.state(&[1])).0.position, Position(1));
    assert_eq!(hand.give(entry(&record(owner(1, 1), 1, RecordPhase::Owned, 0), 1)), []);
    assert!(matches!(reports(&hand.write_lands())[..], [Report::Committed { position: Position(1), .. }]));
    assert_eq!(hand.give(Input::Hint), [Command::Read]);
    assert_eq!(hand.give(entry(&record_at(&hand, 1, &[1]), 2)), []);
}

#[test]
fn a_record_that_was_read_before_the_take_decides_nothing_after_it() {
    let mut hand = Hand::new(limits());
    assert_eq!(hand.give(plan(1)), [Command::Read]);
    let found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    // Two more reasons to look come while the record is being read.
    assert_eq!(hand.give(plan(2)), []);
    assert_eq!(hand.give(Input::Hint), []);
    assert_eq!(written(&hand.give(entry(&found, 9))).0.epoch, Epoch(8));
    assert_eq!(hand.wait(ms(2000)), [], "one write is open, and its answer is waited for");
}

#[test]
fn a_stream_that_was_made_anew_begins_at_its_start_under_another_generation() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 500);
    found.stream.created = "2025-01-01".into();
    found.attempts = Some(Attempts { sequence: Sequence(501), count: 2 });
    hand.give(entry(&found, 9));
    let today = StreamIdentity { name: "work".into(), created: "2026-01-01".into() };
    hand.give(Input::StreamChecked(Ok(today.clone())));
    let (taken, _) = written(&hand.give(entry(&found, 9)));
    assert_eq!((taken.position, taken.generation, taken.attempts), (Position(0), Generation(2), None));
    assert_eq!(taken.stream, today);
}

#[test]
fn a_state_that_cannot_be_read_back_is_tried_again_and_kept() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    found.snapshot = Some(StoredSnapshot { format: "list".into(), state: StoredState::Inline("not base64!".into()) });
    hand.give(entry(&found, 9));
    let commands = hand.give(Input::Written(WriteOutcome::Written(10)));
    assert!(matches!(reports(&commands)[1], Report::StateUnavailable(_)), "{commands:?}");
    let commands = hand.wait(ms(10_000));
    assert!(commands.len() > 3, "{commands:?}");
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.snapshot, released.position), (found.snapshot, Position(40)));
}

/// A plan which says of our partition that somebody has owned it.
fn plan_of_begun() -> Input {
    Input::Assigned(Arc::new(Fleet { fresh: Some([].into()), ..Fleet::default() }))
}

/// A partition that nobody has ever owned begins here.
const START: Position = Position(30);

fn started_at_30() -> Hand {
    let mut hand = Hand::new(limits());
    hand.machine.start = START;
    hand
}

#[test]
fn a_partition_begins_at_start_from_only_if_nobody_has_ever_owned_it() {
    let fresh = Fleet { fresh: Some(["p".to_owned()].into()), ..Fleet::default() };
    for fleet in [fresh, Fleet::default()] {
        let mut hand = started_at_30();
        hand.give(Input::Assigned(Arc::new(fleet)));
        let (created, expect) = written(&hand.give(Input::Record(Ok(None))));
        assert_eq!((created.epoch, created.position, expect), (Epoch(1), START, Expect::Nothing));
    }
    // A plan may tell of it, or the worker may have seen the record itself.
    let found = record(owner(2, 1), 7, RecordPhase::Owned, 40);
    let ways: [&[Input]; 2] = [&[plan_of_begun()], &[plan(1), entry(&found, 9)]];
    for told in ways {
        let mut hand = started_at_30();
        told.iter().for_each(|input| drop(hand.give(input.clone())));
        hand.wait(ms(500));
        assert_eq!(hand.give(Input::Record(Ok(None))), [Command::AskOwner]);
        assert!(hand.machine.view().trouble.is_some());
        // Who lives writes it back, and then it is as it was.
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
        let back = record(owner(2, 1), 8, RecordPhase::Released, 41);
        let (taken, _) = written(&hand.give(entry(&back, 1)));
        assert_eq!((taken.epoch, taken.position), (Epoch(9), Position(41)));
    }
}

#[test]
fn a_record_that_nobody_writes_back_is_waited_for_and_then_the_stream_is_read_from_its_start() {
    let mut hand = started_at_30();
    hand.give(plan_of_begun());
    let mut asked = 0;
    let gone = Input::Record(Ok(Some(StoredEntry { value: None, revision: 4 })));
    let commands = loop {
        let mut commands = hand.give(gone.clone());
        asked += commands.iter().filter(|c| **c == Command::AskOwner).count();
        commands.retain(|c| *c != Command::AskOwner);
        if !commands.is_empty() {
            break commands;
        }
        assert_eq!(hand.wait(ms(500)), [Command::Read]);
    };
    assert_eq!((hand.now, asked), (ms(11_000), 5), "as long as recovery may take");
    assert_eq!(reports(&commands), [Report::RecordLost]);
    let (taken, expect) = written(&commands);
    assert_eq!((taken.epoch, taken.position, expect), (Epoch(1), Position(0), Expect::Revision(4)));
}

#[test]
fn a_doubt_stays_while_a_commit_is_to_find_out_that_the_record_is_lost() {
    let mut hand = Hand::running(Limits { acknowledges: true, ..limits() });
    hand.messages([3]);
    hand.acked(1);
    assert_eq!(hand.wait(ms(1000)), [Command::Snapshot]);
    assert_eq!(hand.give(Input::Doubted), [Command::Read]);
    assert_eq!(hand.give(Input::Record(Ok(None))), [], "nothing is read for what may be another's");
    // The handler gives no state, so that nothing is written; it is looked at again.
    hand.give(Input::Snapshot(Err(Failure::Refused("not now".into()))));
    assert_eq!(hand.wait(ms(500)), [Command::Read]);
    assert_eq!(written(&hand.give(Input::Record(Ok(None)))).0.epoch, Epoch(2));
    assert!(hand.write_lands().contains(&Command::WantReader(Sequence(3))));
}

#[test]
fn a_bucket_that_was_set_back_to_before_the_take_gets_what_the_new_owner_has_written() {
    let taken_from = record(owner(2, 1), 7, RecordPhase::Released, 40);
    let taken = || {
        let mut hand = Hand::new(limits());
        hand.give(plan(1));
        hand.give(entry(&taken_from, 9));
        hand.revision = 9;
        hand.opened_after_take();
        hand.messages([41]);
        hand.acked(1);
        hand.wait(ms(1000));
        hand.state(&[41]);
        hand.write_lands();
        hand.give(Input::Hint);
        hand
    };
    let mut hand = taken();
    let (back, expect) = written(&hand.give(entry(&taken_from, 9)));
    assert_eq!((back.epoch, back.position, expect), (Epoch(9), Position(41), Expect::Revision(9)));
    assert_eq!(back.owner, owner(1, 1));
    // What its owner has written since then is his, unless it lies behind.
    let mut hand = taken();
    let his = |position| record(owner(2, 1), 7, RecordPhase::Owned, position);
    assert_eq!(reports(&hand.give(entry(&his(41), 10))), [Report::FencedOff]);
    assert_eq!(written(&taken().give(entry(&his(40), 10))).1, Expect::Revision(10));
}

#[test]
fn an_owner_takes_back_what_lies_behind_its_own_record_and_nothing_else() {
    let at_5 = || {
        let mut hand = Hand::running(limits());
        hand.messages([5]);
        hand.acked(1);
        hand.wait(ms(1000));
        hand.state(&[5]);
        hand.write_lands();
        hand.give(Input::Hint);
        hand
    };
    // Written back by an owner of before who did not know that he was none, or begun anew by one who found nothing.
    for (epoch, position) in [(2, 4), (9, 0)] {
        let theirs = record(owner(2, 1), epoch, RecordPhase::Owned, position);
        let (back, expect) = written(&at_5().give(entry(&theirs, 7)));
        assert_eq!((back.epoch, back.position, expect), (Epoch(epoch + 1), Position(5), Expect::Revision(7)));
        assert_eq!(applied(back.snapshot.map(|s| s.load().unwrap()).as_ref()), [5]);
    }
    // Whoever is as far or further goes on.
    for position in [5, 6] {
        let theirs = record(owner(2, 1), 2, RecordPhase::Owned, position);
        assert_eq!(reports(&at_5().give(entry(&theirs, 7))), [Report::FencedOff]);
    }
    // An operator has moved it, of what was left after a loss: the epoch tells nothing.
    let moved = record(owner(1, 1), 0, RecordPhase::Owned, 3).moved(Position(1), None, false);
    assert!(matches!(reports(&at_5().give(entry(&moved, 7)))[..], [Report::Moved { position: Position(1), .. }]));
}
