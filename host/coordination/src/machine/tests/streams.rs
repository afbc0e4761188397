//! What becomes of a partition when its stream is not what it was.

use super::{Hand, entry, record, reports, written};
use crate::machine::*;
use crate::record::{Phase as RecordPhase, StoredSnapshot};
use crate::testing::data_path::{Input, limits, owner, snapshot};
use crate::{Epoch, Generation, WriteOutcome};

fn stream(created: &str) -> StreamIdentity {
    StreamIdentity { name: "work".into(), created: created.into() }
}

#[test]
fn a_stream_made_anew_is_read_from_its_beginning_after_what_was_handled_is_committed() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=3);
    hand.acked(1);
    assert_eq!(hand.give(Input::Stream(stream("2026-02-02"))), []);
    let commands = hand.acked(2);
    assert_eq!(commands, [Command::Snapshot], "what has taken effect must not be forgotten");
    let (last, _) = written(&hand.state(&[1, 2, 3]));
    assert_eq!((last.stream, last.position, last.phase), (stream("2026-01-01"), Position(3), RecordPhase::Released));
    hand.write_lands();
    let commands = hand.give(Input::Closed);
    assert_eq!(commands, []);
    assert_eq!(hand.wait(limits().poll_interval), [Command::Read]);

    let mut found = record(owner(1, 1), 1, RecordPhase::Released, 3);
    found.snapshot = Some(StoredSnapshot::store(&snapshot(&[1, 2, 3])));
    let commands = hand.give(entry(&found, 2));
    assert_eq!(commands, [Command::CheckStream]);
    let commands = hand.give(Input::StreamChecked(Ok(stream("2026-02-02"))));
    assert_eq!(commands, [Command::Read]);
    let commands = hand.give(entry(&found, 2));
    let (taken, _) = written(&commands);
    assert_eq!((taken.stream, taken.position, taken.generation), (stream("2026-02-02"), Position(0), Generation(2)));
    assert_eq!((taken.epoch, taken.snapshot), (Epoch(2), found.snapshot));
    let over = Report::StartedOver { generation: Generation(2), before: Position(3), position: Position(0) };
    assert_eq!(reports(&commands), [over]);
}

#[test]
fn a_worker_that_has_missed_that_the_stream_was_made_anew_does_not_set_a_position_back() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    found.stream = stream("2026-02-02");
    found.generation = Generation(2);
    assert_eq!(hand.give(entry(&found, 9)), [Command::CheckStream]);
    assert_eq!(hand.wait(limits().poll_interval * 10), [], "without an answer nothing is taken");
    assert_eq!(hand.give(Input::StreamChecked(Err(()))), []);
    assert_eq!(hand.wait(limits().poll_interval), [Command::Read]);
    assert_eq!(hand.give(entry(&found, 9)), [Command::CheckStream]);
    assert_eq!(hand.give(Input::StreamChecked(Ok(stream("2026-02-02")))), [Command::Read]);
    let (taken, _) = written(&hand.give(entry(&found, 9)));
    assert_eq!((taken.stream, taken.position, taken.generation), (stream("2026-02-02"), Position(40), Generation(2)));
}

#[test]
fn a_stream_that_was_set_back_is_read_from_where_it_ends_under_new_message_ids() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=4);
    assert_eq!(hand.give(Input::Rewound(Sequence(9))), [], "nothing that was read is gone");
    hand.acked(1);
    hand.give(Input::Rewound(Sequence(2)));
    assert_eq!(hand.acked(3), [Command::Snapshot]);
    let (last, _) = written(&hand.state(&[1, 2, 3, 4]));
    assert_eq!((last.position, last.phase), (Position(4), RecordPhase::Released));
    hand.write_lands();
    hand.give(Input::Closed);
    assert_eq!(hand.wait(limits().poll_interval), [Command::Read]);
    let (taken, _) = written(&hand.give(entry(&last, 2)));
    assert_eq!((taken.position, taken.generation, taken.epoch), (Position(2), Generation(2), Epoch(2)));
}

#[test]
fn a_position_is_not_set_back_that_another_owner_has_moved_since() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=4);
    hand.acked(1);
    hand.give(Input::Rewound(Sequence(2)));
    hand.acked(3);
    hand.state(&[1, 2, 3, 4]);
    hand.write_lands();
    hand.give(Input::Closed);
    assert_eq!(hand.wait(limits().poll_interval), [Command::Read]);
    let found = record(owner(2, 1), 3, RecordPhase::Released, 50);
    let (taken, _) = written(&hand.give(entry(&found, 7)));
    assert_eq!((taken.position, taken.generation), (Position(50), Generation(1)));
}

#[test]
fn a_take_that_did_not_land_does_not_forget_that_the_stream_was_set_back() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=4);
    hand.acked(1);
    hand.give(Input::Rewound(Sequence(2)));
    hand.acked(3);
    let (last, _) = written(&hand.state(&[1, 2, 3, 4]));
    hand.write_lands();
    hand.give(Input::Closed);
    hand.wait(limits().poll_interval);
    written(&hand.give(entry(&last, 2)));
    assert_eq!(hand.give(Input::Written(WriteOutcome::Lost)), [Command::Read]);
    let (taken, _) = written(&hand.give(entry(&last, 2)));
    assert_eq!((taken.position, taken.generation), (Position(2), Generation(2)));
}

#[test]
fn a_record_tells_which_message_its_owner_s_reader_had_seen_and_a_new_history_forgets_it() {
    let mut hand = Hand::running(limits());
    let seen = Some(Seen { sequence: Sequence(9), time: 1_700_000_000_000_000_000 });
    hand.give(Input::Passed { reader: 1, sequence: Sequence(9), seen });
    hand.give(Input::Passed { reader: 7, sequence: Sequence(12), seen: None });
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.position, released.seen), (Position(9), seen));

    let mut next = Hand::new(limits());
    next.give(Input::Assigned(Arc::new(Fleet::default())));
    let (taken, _) = written(&next.give(entry(&released, 3)));
    assert_eq!((taken.seen, next.machine.seen()), (seen, None));
    next.revision = 3;
    next.opened_after_take();
    assert_eq!(next.machine.seen(), seen);
    assert_eq!(next.give(Input::Rewound(Sequence(9))), []);
    assert_eq!(next.machine.seen(), seen);
    let commands = next.give(Input::Rewound(Sequence(4)));
    let last = written(&commands).0;
    assert_eq!((last.position, last.seen), (Position(9), seen));
    next.write_lands();
    next.give(Input::Closed);
    next.wait(limits().poll_interval);
    let (taken, _) = written(&next.give(entry(&last, 5)));
    assert_eq!((taken.position, taken.generation, taken.seen), (Position(4), Generation(2), None));
    next.write_lands();
    assert_eq!(next.machine.seen(), None);
}

#[test]
fn a_partition_that_stands_in_what_is_left_forgets_a_message_that_is_gone() {
    let mut hand = Hand::running(limits());
    hand.messages([3]);
    hand.acked(1);
    let seen = Some(Seen { sequence: Sequence(9), time: 7 });
    hand.messages([4]);
    hand.give(Input::Passed { reader: 1, sequence: Sequence(4), seen });
    assert_eq!(hand.give(Input::Rewound(Sequence(5))), []);
    assert_eq!(hand.machine.seen(), None);
}
