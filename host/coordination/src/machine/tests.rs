//! What one partition's machine promises: step by step, and under random faults in `world`.

mod world;

use super::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, StoredSnapshot, decode, encode};
use crate::{Completed, Epoch, Expect, Generation, Incarnation, Outcome, StoredEntry, WorkerId, WriteOutcome};
use std::time::Duration;
use world::{Fate, Machine, Status, Trouble, World, applied, limits, machine, ms, owner, snapshot};

/// A machine that is driven by hand.
struct Hand {
    machine: Machine,
    now: Duration,
    revision: u64,
}

type Commands = Vec<Command<Fate, String>>;

impl Hand {
    fn new(limits: Limits) -> Self {
        Self { machine: machine(owner(1, 1), limits), now: ms(1000), revision: 0 }
    }

    /// A machine that has taken a partition nobody has ever owned, and has a reader.
    fn running(limits: Limits) -> Self {
        let mut hand = Self::new(limits);
        hand.give(Input::Assigned(Arc::new(Fleet::default())));
        hand.give(Input::Record(Ok(None)));
        hand.opened_after_take();
        hand
    }

    fn opened_after_take(&mut self) {
        let commands = self.write_lands();
        assert!(matches!(commands.last(), Some(Command::Open { .. })), "{commands:?}");
        let commands = self.give(Input::Opened(Ok(())));
        let Some(Command::WantReader(mark)) = commands.last() else { panic!("{commands:?}") };
        self.give(Input::Reader { reader: 1, from: Sequence(mark.0 + 1) });
    }

    fn drain(&mut self) -> Commands {
        std::iter::from_fn(|| self.machine.poll_command()).collect()
    }

    fn give(&mut self, input: Input<Fate, String>) -> Commands {
        self.machine.handle(Now(self.now), input);
        self.drain()
    }

    /// Lets time pass, with every timer on its way.
    fn wait(&mut self, time: Duration) -> Commands {
        let until = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.machine.poll_timeout().filter(|at| at.0 <= until) {
            self.now = self.now.max(at.0);
            self.machine.handle_timeout(Now(self.now));
            all.extend(self.drain());
        }
        self.now = until;
        all
    }

    fn write_lands(&mut self) -> Commands {
        self.revision += 1;
        self.give(Input::Written(WriteOutcome::Written(self.revision)))
    }

    fn messages(&mut self, sequences: impl IntoIterator<Item = u64>) -> Commands {
        let messages = sequences
            .into_iter()
            .map(|s| QueuedMessage { sequence: Sequence(s), bytes: 10, body: Fate::Fine })
            .collect();
        self.give(Input::Messages { reader: 1, messages })
    }

    fn acked(&mut self, n: usize) -> Commands {
        self.done(vec![Completed::Ack; n], None)
    }

    fn done(&mut self, done: Vec<Completed>, retry: Option<Option<Duration>>) -> Commands {
        let outcome = Outcome { done, retry };
        self.give(Input::Handled(Ok(Handled { outcome, outputs: Vec::new() })))
    }

    fn traps(&mut self) -> Commands {
        self.give(Input::Handled(Err(Failure::Guest("trap".into()))))
    }

    fn state(&mut self, applied: &[u64]) -> Commands {
        self.give(Input::Snapshot(Ok(Some(snapshot(applied)))))
    }
}

fn record(owner: Owner, epoch: u64, phase: RecordPhase, position: u64) -> OwnershipRecord {
    OwnershipRecord {
        v: 1,
        group: "g".into(),
        stream: StreamIdentity { name: "work".into(), created: "2026-01-01".into() },
        epoch: Epoch(epoch),
        generation: Generation(1),
        owner,
        phase,
        position: Position(position),
        attempts: None,
        handler: None,
        snapshot: None,
    }
}

fn entry(record: &OwnershipRecord, revision: u64) -> Input<Fate, String> {
    let value = Some(encode(record).unwrap().into_bytes());
    Input::Record(Ok(Some(StoredEntry { value, revision })))
}

/// The one record that the commands write.
fn written(commands: &Commands) -> (OwnershipRecord, Expect) {
    let mut writes = commands.iter().filter_map(|c| match c {
        Command::Write { value, expect } => Some((decode(value.as_bytes()).unwrap(), *expect)),
        _ => None,
    });
    let write = writes.next().unwrap_or_else(|| panic!("no write in {commands:?}"));
    assert!(writes.next().is_none(), "two writes at once");
    write
}

fn batch(commands: &Commands) -> (Vec<u64>, u32) {
    let batches: Vec<_> = commands
        .iter()
        .filter_map(|c| match c {
            Command::Handle(b) => Some((b.messages.iter().map(|m| m.sequence.0).collect(), b.first_attempt)),
            _ => None,
        })
        .collect();
    assert_eq!(batches.len(), 1, "{commands:?}");
    batches[0].clone()
}

fn reports(commands: &Commands) -> Vec<Report> {
    commands.iter().filter_map(|c| if let Command::Report(r) = c { Some(r.clone()) } else { None }).collect()
}

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
    use TakeDecision::{Create, Seize, Superseded, Take, Wait};
    let me = owner(1, 3);
    let all = fleet(&[(1, 3), (2, 5)], &[(4, 2)]);
    let table = [
        (None, Create),
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
        assert_eq!(decide_take(found.as_ref(), (&me.worker, me.incarnation), &all), expected, "{found:?}");
    }
    let twin = Owner { incarnation: Incarnation { claim: 3, uuid: owner(8, 8).incarnation.uuid }, ..me.clone() };
    let found = record(twin, 7, Owned, 5);
    assert_eq!(decide_take(Some(&found), (&me.worker, me.incarnation), &all), Seize);
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
        [Command::Open { why: OpenReason::Assigned, snapshot: Some(snapshot(&[1, 40])), epoch: Epoch(8) }]
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
    assert_eq!(reports(&commands), [Report::Parked]);
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
    hand.give(Input::Passed { reader: 1, sequence: Sequence(900) });
    hand.give(Input::Passed { reader: 7, sequence: Sequence(999) });
    assert_eq!(hand.machine.view().handled, Position(900));
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.position, released.phase), (Position(900), RecordPhase::Released));
}

#[test]
fn what_a_crash_repeats_is_bounded() {
    let mut hand = Hand::running(limits());
    hand.messages(1..=8);
    assert_eq!(hand.acked(4), [Command::Snapshot]);
    assert_eq!(batch(&hand.state(&[1, 2, 3, 4])[1..].to_vec()).0, [5, 6, 7, 8]);
    // The commit is still under way: eight are uncommitted, and no more are handled.
    hand.acked(4);
    hand.messages([9]);
    assert_eq!(hand.wait(ms(5000)), []);
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
    assert_eq!(batch(&hand.write_lands()), (vec![2, 3], 2));
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
fn after_a_trap_the_batch_is_replayed_one_by_one_and_only_a_message_alone_is_blamed() {
    let mut hand = Hand::running(limits());
    hand.messages([1, 2, 3, 4, 5]);
    let commands = hand.traps();
    assert_eq!(reports(&commands), [Report::Trapped { sequence: Sequence(1), messages: 4, why: "trap".into() }]);
    let reopened = Command::Open { why: OpenReason::Recovered, snapshot: None, epoch: Epoch(1) };
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
        [Command::Open { why: OpenReason::Recovered, snapshot: Some(snapshot(&[1])), epoch: Epoch(1) }]
    );
    assert_eq!(hand.give(Input::Opened(Ok(()))), [Command::Snapshot]);
    let commands = hand.state(&[1]);
    assert_eq!(written(&commands).0.position, Position(2));
    assert_eq!(batch(&commands), (vec![3], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![4], 1));
    assert_eq!(batch(&hand.acked(1)), (vec![5], 1));
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
        assert_eq!(commands, [Command::Report(Report::Blocked { sequence: Sequence(2), reason: "bad".into() })]);
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
fn a_snapshot_that_fails_or_is_too_large_stops_the_partition_visibly_and_loses_nothing() {
    let mut hand = Hand::running(Limits { max_snapshot_bytes: 10, ..limits() });
    hand.messages(1..=8);
    hand.acked(4);
    let commands = hand.state(&[1, 2, 3, 4, 5, 6]);
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

#[test]
fn a_state_that_cannot_be_read_back_is_tried_again_and_kept() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 40);
    found.snapshot = Some(StoredSnapshot { format: "list".into(), inline: "not base64!".into() });
    hand.give(entry(&found, 9));
    let commands = hand.give(Input::Written(WriteOutcome::Written(10)));
    assert!(matches!(reports(&commands)[1], Report::OpenFailed(_)), "{commands:?}");
    let commands = hand.wait(ms(10_000));
    assert!(commands.len() > 3, "{commands:?}");
    let (released, _) = written(&hand.give(Input::Revoked(CloseReason::Revoked)));
    assert_eq!((released.snapshot, released.position), (found.snapshot, Position(40)));
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
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
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

#[test]
fn a_stream_that_was_made_anew_begins_at_its_start_under_another_generation() {
    let mut hand = Hand::new(limits());
    hand.give(Input::Assigned(Arc::new(Fleet::default())));
    let mut found = record(owner(2, 1), 7, RecordPhase::Released, 500);
    found.stream.created = "2025-01-01".into();
    found.attempts = Some(Attempts { sequence: Sequence(501), count: 2 });
    let (taken, _) = written(&hand.give(entry(&found, 9)));
    assert_eq!((taken.position, taken.generation, taken.attempts), (Position(0), Generation(2), None));
    assert_eq!(taken.stream.created, "2026-01-01");
}

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
        assert_eq!(world.letters.len(), 5);
        let snapshot = world.committed().unwrap().snapshot.unwrap().load().unwrap();
        assert_eq!(applied(Some(&snapshot)).len(), 25);
    }
}

#[test]
fn whatever_happens_every_message_is_handled_once_in_order_by_one_owner_at_a_time() {
    let seeds = std::env::var("SEEDS").map_or(0..1500, |text| {
        let (from, to) = text.split_once("..").unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    for seed in seeds {
        soak(seed);
    }
}

fn soak(seed: u64) {
    let mut world = World::new(seed, 3, limits());
    let traps = if world.chance(50) { 3 } else { 0 };
    if world.chance(70) {
        world.trouble =
            Trouble { writes: 10, reads: 10, sends: 15, traps, host: 3, snapshots: 10, opens: 10, readers: 3 };
    }
    for _ in 0..60 {
        for _ in 0..world.below(4) {
            let fate = match world.below(30) {
                0 => Fate::Poison,
                1 => Fate::Reject,
                2 => Fate::Stubborn,
                3 => Fate::Shy(1),
                4 => Fate::Shy(2),
                _ => Fate::Fine,
            };
            world.publish(fate);
        }
        let at = world.below(3) as usize;
        match (world.workers[at].status, world.below(12)) {
            (Status::Dead, 0..=5) => world.restart(at),
            (Status::Paused, 0..=3) => world.resume(at),
            (Status::Running, 0) => world.kill(at),
            (Status::Running, 1) => world.pause(at),
            (Status::Running, 2..=4) => world.assign(at),
            (Status::Running, 5) => world.restart_reader(at),
            _ => {}
        }
        let time = world.between(0, 1500);
        world.run(time);
    }
    let traps = world.trouble.traps;
    world.trouble = Trouble { traps, ..Trouble::default() };
    for at in 0..3 {
        match world.workers[at].status {
            Status::Dead => world.restart(at),
            Status::Paused => world.resume(at),
            Status::Running => {}
        }
    }
    world.publish(Fate::Fine);
    world.finish(ms(120_000));
    let epochs = world.committed().unwrap().epoch.0;
    assert!(epochs <= 2 * world.faults + world.moves + 1, "{epochs} epochs: workers seize from each other");
}
