//! One partition on one worker: take it, accept messages, hand them to the handler in order, commit, hand it over.
//!
//! This is where loss and disorder would come from, so it is pure: inputs in, commands out, time handed in. The rules:
//!
//! * Taking ownership and committing are compare-and-set writes of one record; what loses the compare asks who is there.
//! * A message is accepted only from the current reader and only above the mark.
//! * A commit is of one instant: position, attempts and snapshot together, at a batch boundary with nothing unconfirmed.
//! * Messages are kept until they are committed, so that a lost instance can go back to its last commit.
//!
//! `taking`, `ownership`, `loss` and `objects` hold the record's side, `work` and `outcome` the handler's, `intake` what waits for it,
//! `ration` says when a commit may be made, and `swap` changes the handler's version.

mod intake;
mod io;
mod loss;
mod objects;
mod outcome;
mod ownership;
mod queue;
mod ration;
mod stream;
mod suspicion;
mod swap;
mod taking;
#[cfg(test)]
mod tests;
mod work;

pub use io::{
    Batch, Command, Failure, Handled, Input, Limits, OnExhausted, Outgoing, Output, PartitionView, Phase,
    QueuedMessage, Report,
};
pub use swap::{SwapOrder, Trial};
pub use taking::{TakeDecision, decide_take};

use crate::record::{Attempts, Owner, OwnershipRecord, Seen, StateIdentity, StreamIdentity};
use crate::{CloseReason, Epoch, Fleet, Now, OpenReason, PartitionId, Position, Sequence};
use loss::Loss;
use objects::Objects;
use outcome::Pending;
use ownership::Purpose;
use queue::Detach;
use ration::Ration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use suspicion::Suspicion;
use swap::Swap;
use taking::Predecessor;
use work::Call;

/// The machine of one partition. `M` is a message's body, `O` an output's.
pub struct PartitionMachine<M, O> {
    id: PartitionId,
    group: String,
    stream: StreamIdentity,
    me: Owner,
    /// Digest of the handler's version that is open, or is opened next.
    handler: Arc<str>,
    swap: Option<Swap>,
    /// The version to change to, at the end of the batch that is in hand.
    next_swap: Option<SwapOrder>,
    /// Whether the version on trial is kept, once it is judged.
    verdict: Option<bool>,
    /// Where a partition begins that nobody has ever owned.
    start: Position,
    limits: Limits,
    fleet: Arc<Fleet>,
    now: Now,
    deadline: Option<Now>,
    commands: VecDeque<Command<M, O>>,

    phase: Phase,
    /// Why it is to be given up, if it is.
    revoked: Option<CloseReason>,
    /// The stream is not what it was: what is in hand is committed, then the partition is taken anew.
    starts_over: bool,
    /// The stream that there is now, once everything of the one before is committed.
    next_stream: Option<StreamIdentity>,
    /// Where the stream ended when it was set back, and the ownership that this concerns.
    rewound: Option<(Sequence, Epoch)>,
    /// A stream that a record told of while the server is asked whether it is of today.
    checking: Option<StreamIdentity>,
    /// A stream that a record told of and that is not the one of today: the server said so afterwards.
    former_stream: Option<StreamIdentity>,
    trouble: Option<String>,

    /// The record as it last landed by our hand, with its revision.
    record: Option<(OwnershipRecord, u64)>,
    predecessor: Option<Predecessor>,
    writing: Option<(OwnershipRecord, String, Purpose)>,
    objects: Objects,
    loss: Loss,
    /// It was there: ours, or somebody else's.
    begun: bool,
    /// When its owner was last asked to write it back.
    asked_at: Option<Now>,
    reading: bool,
    /// The record is to be read as soon as what is being written has landed.
    looks_after_write: bool,
    /// When it was last seen to be as we know it, and after how long we look again.
    looked_at: Now,
    look_every: Duration,
    /// Something was written since the open read was asked for: its answer counts for nothing.
    outdated: bool,
    read_at: Option<Now>,
    /// Whose release has been waited for, by its epoch, and since when.
    waiting: Option<(Option<Epoch>, Now)>,

    /// Every message above the committed position that was accepted, handled ones first.
    queue: VecDeque<QueuedMessage<M>>,
    queue_bytes: usize,
    handled: usize,
    handled_since: Option<Now>,
    mark: Sequence,
    passed: Sequence,
    /// A message of the stream that the reader has delivered.
    seen: Option<Seen>,
    reader: Option<u64>,
    wanted: bool,
    /// The last reader that fed it.
    fed_by: u64,
    /// It stands still and has let go of what waited; it asks for that again once it goes on.
    let_go: bool,
    detach: Detach,
    /// Somebody else may own it; a look at the record, or a commit that lands, will tell.
    doubt: bool,

    is_open: bool,
    call: Option<Call>,
    needs_open: Option<OpenReason>,
    open_failures: u32,
    /// A state that this worker's handler refuses.
    refused: Option<StateIdentity>,
    refused_at: Option<Now>,
    pending: Option<Pending<M, O>>,
    /// An answer to [`Command::Send`] is outstanding, whatever became of what it was for.
    sending: bool,
    attempts: Option<Attempts>,
    traps: Option<(Sequence, u32)>,
    suspicion: Suspicion,
    /// After a lost instance, messages up to here are handed over one per call.
    one_by_one: Sequence,
    /// Nothing is handled before this.
    pause_until: Option<Now>,
    /// The operator has paused the partition: it stays owned, and nothing more is handled.
    paused: bool,
    commit_wanted: bool,
    ration: Ration,
    committed_at: Now,
    snapshot_retry_at: Option<Now>,
    /// The handler's state is larger than any that can be kept: nothing more is handled.
    outgrown: bool,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// A partition that the plan has just given to this worker. The first input is [`Input::Assigned`].
    #[must_use]
    pub fn new(
        id: PartitionId,
        group: String,
        stream: StreamIdentity,
        me: Owner,
        handler: String,
        start: Position,
        limits: Limits,
    ) -> Self {
        let look_every = loss::look_every(&id);
        Self {
            id,
            group,
            stream,
            me,
            handler: handler.into(),
            swap: None,
            next_swap: None,
            verdict: None,
            start,
            limits,
            fleet: Arc::new(Fleet::default()),
            now: Now::default(),
            deadline: None,
            commands: VecDeque::new(),
            phase: Phase::Waiting,
            revoked: None,
            starts_over: false,
            next_stream: None,
            rewound: None,
            checking: None,
            former_stream: None,
            trouble: None,
            record: None,
            predecessor: None,
            writing: None,
            objects: Objects::default(),
            loss: Loss::default(),
            begun: false,
            asked_at: None,
            reading: false,
            looks_after_write: false,
            looked_at: Now::default(),
            look_every,
            outdated: false,
            read_at: None,
            waiting: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            handled: 0,
            handled_since: None,
            mark: Sequence(0),
            passed: Sequence(0),
            seen: None,
            reader: None,
            wanted: false,
            fed_by: 0,
            let_go: false,
            detach: Detach::No,
            doubt: false,
            is_open: false,
            call: None,
            needs_open: None,
            open_failures: 0,
            refused: None,
            refused_at: None,
            pending: None,
            sending: false,
            attempts: None,
            traps: None,
            suspicion: Suspicion::default(),
            one_by_one: Sequence(0),
            pause_until: None,
            paused: false,
            commit_wanted: false,
            ration: Ration::Unasked,
            committed_at: Now::default(),
            snapshot_retry_at: None,
            outgrown: false,
        }
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command<M, O>> {
        self.commands.pop_front()
    }

    /// When [`PartitionMachine::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        self.deadline
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = self.now.max(now);
        self.advance();
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Now, input: Input<M, O>) {
        self.now = self.now.max(now);
        match input {
            Input::Assigned(fleet) => self.assigned(fleet),
            Input::Revoked(why) => self.revoked = Some(why),
            Input::Fenced => self.fenced_off(false),
            // Somebody who releases what we hold has seized it.
            Input::Hint => self.look_again(),
            Input::Stream(stream) => self.stream_is(stream),
            Input::Rewound(last) => self.stream_rewound(last),
            Input::StreamChecked(stream) => self.stream_checked(stream),
            Input::Paused(paused) => self.paused = paused,
            Input::Swap(order) => self.swap_ordered(order),
            Input::Record(entry) => self.record_read(entry),
            Input::Written(outcome) => self.written(outcome),
            Input::Opened(result) => self.opened(result),
            Input::Reader { reader, from } => self.reader_started(reader, from),
            Input::NoReader => self.no_reader(),
            Input::Messages { reader, messages } => self.accept(reader, messages),
            Input::Passed { reader, sequence, seen } => {
                if self.reader == Some(reader) {
                    self.seen = seen.or(self.seen);
                    self.passed = self.passed.max(sequence);
                    self.mark = self.mark.max(sequence);
                }
            }
            Input::Handled(result) => self.call_returned(result),
            Input::Sent(result) => self.sent(result),
            Input::Snapshot(result) => self.snapshot_given(result),
            Input::ObjectPut(result) => self.object_put(result),
            Input::Object(result) => self.object_read(result),
            Input::ObjectsDeleted(result) => self.objects_deleted(result),
            Input::Turn => self.turn_granted(),
            Input::MayCommit => self.commit_granted(),
            Input::Closed => self.closed(),
            Input::Detached => self.detached(),
            Input::Doubted => self.doubted(),
        }
        self.advance();
    }

    /// The partition at a glance.
    #[must_use]
    pub fn view(&self) -> PartitionView {
        let record = self.record.as_ref().map(|(record, _)| record);
        PartitionView {
            phase: self.phase,
            epoch: record.map(|r| r.epoch),
            generation: record.map(|r| r.generation),
            position: self.committed(),
            handled: self.position(),
            queued: self.queue.len() - self.handled,
            attempts: self.attempts.map_or(0, |a| a.count),
            record: record.map(|r| r.phase),
            uncommitted_since: self.handled_since,
            begun: self.begun,
            paused: self.paused,
            cannot_open: self.refused.clone(),
            trouble: self.trouble.clone(),
            handler: Arc::clone(&self.handler),
            trial: self.trial(),
        }
    }

    /// Highest sequence that was accepted or passed over; a reader that feeds this partition starts at most one above.
    #[must_use]
    pub fn mark(&self) -> Sequence {
        self.mark
    }

    /// A message of the stream that this partition's reader, or that of an owner before, has delivered; of the latest that
    /// it was told of.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// The stream that its position belongs to.
    #[must_use]
    pub fn stream(&self) -> &StreamIdentity {
        &self.stream
    }

    /// The version of the handler that it works with.
    #[must_use]
    pub fn handler(&self) -> &Arc<str> {
        &self.handler
    }

    /// Bytes of the messages that wait or are not committed.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// The machine has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    fn command(&mut self, command: Command<M, O>) {
        self.commands.push_back(command);
    }

    fn report(&mut self, report: Report) {
        self.command(Command::Report(report));
    }

    /// Whether `at` has come; if not, asks to be called then.
    fn due(&mut self, at: Now) -> bool {
        if self.now >= at {
            return true;
        }
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        false
    }

    /// Committed position.
    fn committed(&self) -> Position {
        self.record.as_ref().map_or(Position(0), |(record, _)| record.position)
    }

    /// Up to here every message has taken effect, committed or not. Follows what the reader has passed while nothing waits.
    fn position(&self) -> Position {
        let handled = self.handled.checked_sub(1).and_then(|last| self.queue.get(last)).map(|m| m.sequence);
        let done = handled.map(Position::from).unwrap_or_default().max(self.committed());
        if self.handled == self.queue.len() {
            return done.max(self.passed.into());
        }
        done
    }

    fn assigned(&mut self, fleet: Arc<Fleet>) {
        let missed = fleet.version > self.fleet.version.next();
        self.fleet = fleet;
        if self.revoked == Some(CloseReason::Lost) {
            // Fenced: whatever the plan gives this worker is for its next run.
            return;
        }
        // Who has waited for us under a plan that we have missed, or heard of late, may have overruled us.
        let regained = self.revoked.take().is_some();
        // A new plan may have declared the owner dead.
        if self.phase == Phase::Waiting || missed || regained {
            self.look_again();
        }
    }

    /// Reads the record at once, to judge it again or to see whether it is still ours. While it is being written, afterwards: it may
    /// have been moved between the write and its answer.
    fn look_again(&mut self) {
        if self.writing.is_some() {
            self.looks_after_write = true;
        } else if matches!(self.phase, Phase::Waiting | Phase::Opening | Phase::Running) {
            self.read_at = Some(self.now);
        }
    }

    fn advance(&mut self) {
        self.deadline = None;
        self.look_now_and_then();
        if let Some(at) = self.read_at
            && !self.reading
            && self.due(at)
        {
            self.read_at = None;
            self.reading = true;
            self.command(Command::Read);
        }
        match self.phase {
            Phase::Waiting => {
                if self.revoked.is_some() && self.writing.is_none() {
                    self.end();
                } else if self.writing.is_none() && !self.reading && self.read_at.is_none() && self.checking.is_none() {
                    self.read_at = Some(self.now);
                    self.advance();
                }
            }
            Phase::Opening | Phase::Running => {
                self.put_again();
                self.work();
                self.let_go();
                if self.phase == Phase::Running && !self.gives_up() {
                    self.want_reader();
                }
            }
            Phase::Releasing => self.release(),
            Phase::Taking | Phase::Gone => {}
        }
    }

    /// Nothing new is begun: the partition is handed over, or taken anew.
    fn gives_up(&self) -> bool {
        self.revoked.is_some() || self.starts_over
    }

    fn end(&mut self) {
        if self.phase != Phase::Gone {
            self.phase = Phase::Gone;
            self.command(Command::Gone);
        }
    }

    /// Drops everything in memory; what is not committed belongs to the next owner.
    fn forget_work(&mut self) {
        self.forget_suspicion();
        self.forget_swap();
        self.queue.clear();
        self.queue_bytes = 0;
        self.handled = 0;
        self.handled_since = None;
        self.pending = None;
        self.attempts = None;
        self.reader = None;
        self.wanted = false;
        self.let_go = false;
        self.detach = Detach::No;
        self.doubt = false;
        self.needs_open = None;
        self.pause_until = None;
        self.commit_wanted = false;
        self.ration = Ration::Unasked;
        self.end_renewal();
        self.snapshot_retry_at = None;
        self.outgrown = false;
    }
}
