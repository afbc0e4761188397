//! What a partition machine asks for and what it is told.

use super::{SwapOrder, Trial};
use crate::record::{Phase as RecordPhase, Seen, StateIdentity, StreamIdentity};
use crate::{
    CloseReason, Epoch, Expect, Fleet, Generation, Incarnation, Now, OpenReason, Outcome, Position, Sequence, Snapshot,
    StoredEntry, WriteOutcome,
};
use std::sync::Arc;
use std::time::Duration;

/// Bounds and policies of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most messages in one call.
    pub batch_messages: usize,
    /// Most payload bytes in one call; a larger message comes alone.
    pub batch_bytes: usize,
    /// Most messages waiting or uncommitted; what exceeds it is read again later.
    pub queue_messages: usize,
    /// Most bytes waiting or uncommitted.
    pub queue_bytes: usize,
    /// Time from the first uncommitted message to the commit.
    pub commit_interval: Duration,
    /// Uncommitted messages that bring a commit forward.
    pub max_uncommitted: usize,
    /// Deliveries of a message before it counts as exhausted.
    pub max_attempts: u32,
    /// Traps of a message, alone in its call, before it counts as poison.
    pub max_traps: u32,
    /// First and longest wait before a retry.
    pub backoff: (Duration, Duration),
    /// What happens to a rejected, exhausted or poisonous message.
    pub on_exhausted: OnExhausted,
    /// How long a live owner may take to release a partition.
    pub handover_timeout: Duration,
    /// How long a record that is gone is waited for, so that its owner can write it back.
    pub recovery_grace: Duration,
    /// How often a record that is not free yet is read again.
    pub poll_interval: Duration,
    /// Bytes of the largest snapshot that is kept in the record. A larger one goes to the object store.
    pub inline_snapshot_bytes: usize,
    /// Bytes of the largest snapshot at all.
    pub max_snapshot_bytes: usize,
    /// Queue mode: messages are acknowledged, and the partition leaves its consumer before it is released.
    pub acknowledges: bool,
    /// The commits of this worker are bounded: each is asked for, except the last of an ownership.
    pub rationed: bool,
}

/// What happens to a message that cannot be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// It is published to the dead-letter subject, then passed over.
    DeadLetter,
    /// The partition waits and tries again.
    Block,
    /// It is passed over, with a report.
    Drop,
}

/// A message as the machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMessage<M> {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// What it costs in memory.
    pub bytes: usize,
    /// The message itself.
    pub body: M,
}

/// Messages for one call of the handler, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<M> {
    /// The messages.
    pub messages: Vec<QueuedMessage<M>>,
    /// Deliveries of the first message, this one included; all others are delivered for the first time.
    pub first_attempt: u32,
}

/// Something that a handler publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output<O> {
    /// The message that led to it.
    pub cause: Sequence,
    /// What is published.
    pub body: O,
}

/// Something on its way out, under an ID that is the same whenever it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing<M, O> {
    /// What a handler publishes.
    Publish {
        /// `Nats-Msg-Id`.
        id: String,
        /// What is published.
        body: O,
    },
    /// A message that cannot be handled.
    DeadLetter {
        /// `Nats-Msg-Id`.
        id: String,
        /// The message.
        message: QueuedMessage<M>,
        /// Why.
        reason: String,
        /// Deliveries so far.
        attempts: u32,
    },
}

/// What a call of the handler gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled<O> {
    /// What became of the batch.
    pub outcome: Outcome,
    /// What was published on the way.
    pub outputs: Vec<Output<O>>,
}

/// Why a call of the handler gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The guest trapped, ran out of time or memory, or answered nonsense: the instance is gone.
    Guest(String),
    /// The guest refused, in its own words; the instance is as it was.
    Refused(String),
    /// The host's doing: it says nothing about guest or message.
    Host(String),
}

impl Failure {
    /// What went wrong.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Failure::Guest(text) | Failure::Refused(text) | Failure::Host(text) => text,
        }
    }
}

/// What the machine is told.
#[derive(Debug, Clone)]
pub enum Input<M, O> {
    /// The plan gives us this partition, or gives it again with a newer view of the fleet.
    Assigned(Arc<Fleet>),
    /// The plan gives it to somebody else, or the worker stops.
    Revoked(CloseReason),
    /// This process is fenced: nothing it holds counts any more.
    Fenced,
    /// The record is to be looked at: its owner has released it, an operator has moved it, or somebody finds it gone.
    Hint,
    /// The stream was made anew: this is the one that there is now.
    Stream(StreamIdentity),
    /// The stream was set back: what it holds up to here is as it was read, and everything above is other messages.
    Rewound(Sequence),
    /// Answer to [`Command::CheckStream`]: the stream that there is, asked for after the command.
    StreamChecked(Result<StreamIdentity, ()>),
    /// The operator wants the partition paused, or no longer.
    Paused(bool),
    /// Another version of the handler is to go on, at the end of the batch that is in hand. For a version on trial this is the verdict:
    /// ordered without a trial it is kept, and with anything else it is given up.
    Swap(SwapOrder),
    /// Answer to [`Command::Read`].
    Record(Result<Option<StoredEntry>, ()>),
    /// Answer to [`Command::Write`].
    Written(WriteOutcome),
    /// Answer to [`Command::Open`].
    Opened(Result<(), Failure>),
    /// A reader that starts at `from` feeds this partition from now on.
    Reader {
        /// Number of the reader.
        reader: u64,
        /// First sequence it delivers.
        from: Sequence,
    },
    /// No reader feeds it any more; it may ask for one.
    NoReader,
    /// Messages from a reader, in order.
    Messages {
        /// Number of the reader.
        reader: u64,
        /// The messages.
        messages: Vec<QueuedMessage<M>>,
    },
    /// A reader has delivered everything of this partition up to here.
    Passed {
        /// Number of the reader.
        reader: u64,
        /// Up to where.
        sequence: Sequence,
        /// The last message that it has delivered, of any partition.
        seen: Option<Seen>,
    },
    /// Answer to [`Command::Handle`].
    Handled(Result<Handled<O>, Failure>),
    /// Answer to [`Command::Send`]: everything is confirmed, or why not.
    Sent(Result<(), String>),
    /// Answer to [`Command::Snapshot`].
    Snapshot(Result<Option<Snapshot>, Failure>),
    /// Answer to [`Command::PutObject`]: it is there, or why that is not known.
    ObjectPut(Result<(), String>),
    /// Answer to [`Command::GetObject`]: its bytes, or why there are none.
    Object(Result<Vec<u8>, String>),
    /// Answer to [`Command::DeleteObjects`]: they are gone, or that is not known.
    ObjectsDeleted(Result<(), ()>),
    /// Answer to [`Command::AskTurn`].
    Turn,
    /// Answer to [`Command::AskCommit`].
    MayCommit,
    /// Answer to [`Command::Close`].
    Closed,
    /// Answer to [`Command::Detach`].
    Detached,
    /// A consumer was found that only another owner of this partition could have made, or ours is gone: nothing more comes, and
    /// the partition is asked for again once its record says that it is ours.
    Doubted,
}

/// What the machine wants done. Of the calls into the handler at most one is open at a time, and of the requests to NATS at
/// most one of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<M, O> {
    /// Read the record from the stream leader.
    Read,
    /// Ask the server which stream there is: the record tells of another than we know, and only one of the two is of today.
    CheckStream,
    /// Write the record.
    Write {
        /// JSON.
        value: String,
        /// What must be there.
        expect: Expect,
    },
    /// Instantiate the handler. An instance of another version, if there is one, is closed once the new one is open, and stays where that
    /// fails.
    Open {
        /// Digest of the version.
        handler: Arc<str>,
        /// Why.
        why: OpenReason,
        /// From what.
        snapshot: Option<Snapshot>,
        /// Number of this ownership.
        epoch: Epoch,
    },
    /// Let this partition try a message of which a worker may have died: one partition of this worker at a time.
    AskTurn,
    /// It does not any more, or no longer wants to.
    EndTurn,
    /// A commit is due, and commits are rationed. What is asked for again counts instead of what was asked for before.
    AskCommit {
        /// When the first message that it covers was handled.
        since: Now,
        /// Nothing is handled before it.
        stands: bool,
    },
    /// Call the handler.
    Handle(Batch<M>),
    /// Publish, and confirm all of it.
    Send(Vec<Outgoing<M, O>>),
    /// Ask the handler for its state.
    Snapshot,
    /// Put a state into the object store. The same name always comes with the same bytes.
    PutObject {
        /// Its name.
        name: String,
        /// The state.
        data: Arc<[u8]>,
    },
    /// Read a state from the object store.
    GetObject(String),
    /// Delete states that no record will name again.
    DeleteObjects {
        /// These.
        names: Vec<String>,
        /// And every one of this partition from an ownership before this one.
        before: Option<Epoch>,
    },
    /// Close the handler and drop its instance.
    Close(CloseReason),
    /// Feed this partition with everything after this sequence.
    WantReader(Sequence),
    /// Queue mode: acknowledge what is committed, and take the partition out of its consumer.
    Detach,
    /// The record is released: tell the next owner.
    Released,
    /// The record is gone: ask everybody whether it is theirs, with a hint.
    AskOwner,
    /// The machine has ended; it may be dropped.
    Gone,
    /// Something that an operator should read or a metric should count.
    Report(Report),
}

/// What a machine reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The partition is ours.
    Taken {
        /// Number of this ownership.
        epoch: Epoch,
        /// From here.
        position: Position,
        /// Whether a live or dead owner was overruled.
        seized: bool,
    },
    /// A commit landed.
    Committed {
        /// Up to here.
        position: Position,
        /// Time since the first message that it covers was handled.
        lag: Duration,
    },
    /// Another owner exists: everything uncommitted is dropped.
    FencedOff,
    /// An operator has moved the partition while we owned it: everything uncommitted is dropped, and it is taken again.
    Moved {
        /// From here.
        position: Position,
        /// Number of the new history.
        generation: Generation,
    },
    /// The bucket has lost our record, or was set back to an older one: it is written back from memory, as a new ownership.
    WrittenBack {
        /// Number of the new ownership.
        epoch: Epoch,
        /// What is in force.
        position: Position,
    },
    /// The record is lost, nobody has written it back, and with it position and state: the partition begins at the start of the stream.
    RecordLost,
    /// A later run of this worker's ID owns the partition: this process is the zombie.
    Superseded(Incarnation),
    /// A record that this build cannot read, or of another group. It is left alone.
    Unreadable(String),
    /// Another version of the handler is open.
    Swapped {
        /// Its digest.
        to: Arc<str>,
        /// For how long no message was handed over.
        pause: Duration,
    },
    /// The other version does not open; the one before goes on.
    SwapFailed {
        /// Digest of the one that does not.
        to: Arc<str>,
        /// Why.
        why: String,
    },
    /// The version on trial is given up: the one before goes on, from its last commit.
    SwappedBack {
        /// Digest of the one that is given up.
        from: Arc<str>,
    },
    /// The handler did not open.
    OpenFailed(String),
    /// The committed state cannot be had to open the handler with; it is tried again.
    StateUnavailable(String),
    /// The handler refuses a state that another version of it has written: the partition is released as it was, for a worker that has
    /// that version.
    CannotOpen {
        /// Digest of the handler that wrote the state.
        handler: String,
        /// What this one says.
        why: String,
    },
    /// The handler trapped.
    Trapped {
        /// First message of the call.
        sequence: Sequence,
        /// Messages in the call.
        messages: usize,
        /// What it said.
        why: String,
    },
    /// The handler gave no snapshot, or one that is too large.
    SnapshotFailed(String),
    /// A snapshot could not be put into the object store; it is tried again.
    SnapshotNotStored(String),
    /// The partition's owners have died so many times in a row: one of the next messages may be the cause, and they are handed over one
    /// by one.
    Suspicious {
        /// How many times.
        seizes: u32,
    },
    /// A message waits for another try.
    Retrying {
        /// Which.
        sequence: Sequence,
        /// Deliveries so far.
        attempts: u32,
    },
    /// A message is passed over or dead-lettered.
    Exhausted {
        /// Which.
        sequence: Sequence,
        /// Why.
        reason: String,
    },
    /// A message blocks the partition.
    Blocked {
        /// Which.
        sequence: Sequence,
        /// Why.
        reason: String,
    },
    /// What was published is not confirmed yet; it is repeated.
    Unconfirmed(String),
    /// More messages came than may wait; they are read again later, and nothing more is accepted from this reader.
    Parked {
        /// Number of the reader.
        reader: u64,
    },
    /// The stream was made anew or set back: the partition begins a new history here.
    StartedOver {
        /// Number of the new history.
        generation: Generation,
        /// Up to here it had come.
        before: Position,
        /// From here it goes on.
        position: Position,
    },
}

/// Where a partition stands on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the record, or waiting for its owner.
    Waiting,
    /// Writing ourselves into the record.
    Taking,
    /// Instantiating the handler.
    Opening,
    /// Working.
    Running,
    /// Handing over.
    Releasing,
    /// Ended.
    Gone,
}

impl Phase {
    /// The name, as shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Taking => "taking",
            Phase::Opening => "opening",
            Phase::Running => "running",
            Phase::Releasing => "releasing",
            Phase::Gone => "gone",
        }
    }
}

/// What can be said of a partition at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// Where it stands.
    pub phase: Phase,
    /// Number of the ownership, once taken.
    pub epoch: Option<Epoch>,
    /// Number of the history.
    pub generation: Option<Generation>,
    /// Committed.
    pub position: Position,
    /// Handled, committed or not.
    pub handled: Position,
    /// Messages waiting.
    pub queued: usize,
    /// Deliveries of the next message so far.
    pub attempts: u32,
    /// Phase of the record as last known.
    pub record: Option<RecordPhase>,
    /// Since when there is handled work that is not committed.
    pub uncommitted_since: Option<Now>,
    /// Whether the record has ever been there, as far as this worker knows.
    pub begun: bool,
    /// Whether the operator has paused it.
    pub paused: bool,
    /// A state of another version of the handler that this worker's cannot open.
    pub cannot_open: Option<StateIdentity>,
    /// Why it does not go on, if it does not.
    pub trouble: Option<String>,
    /// Digest of the handler's version that handles it.
    pub handler: Arc<str>,
    /// How that version does, while it is on trial.
    pub trial: Option<Trial>,
}

impl PartitionView {
    /// A partition of which nothing is known, and with which nothing is done.
    #[must_use]
    pub fn untouched() -> Self {
        Self {
            phase: Phase::Waiting,
            epoch: None,
            generation: None,
            position: Position(0),
            handled: Position(0),
            queued: 0,
            attempts: 0,
            record: None,
            uncommitted_since: None,
            begun: false,
            paused: false,
            cannot_open: None,
            trouble: None,
            handler: Arc::default(),
            trial: None,
        }
    }
}
