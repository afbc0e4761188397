//! What the coordinator asks for and what it is told: the whole surface between the core and the adapters.

use super::degraded::{AlertLevel, Outage};
use crate::record::{Lifecycle, PauseRecord, PlacementRecord, Refusals};
use crate::strategy::{Question, StrategyFailure};
use crate::{Incarnation, Partition, Term, Version, WorkerId, WorkerState};
use std::sync::Arc;
use std::time::Duration;

/// The KV buckets the coordinator uses. Their names come from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// Which incarnation holds which worker ID.
    StableIds,
    /// Who leads.
    Election,
    /// Signs of life.
    Heartbeats,
    /// The plan and its assignments.
    Assignments,
}

/// Names one request, so that its reply finds the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Anything,
    /// No revision at all, not even a marker.
    Nothing,
    /// This revision, be it a value or a marker.
    Revision(u64),
}

/// How long a value lives. The adapter knows the durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is overwritten.
    Forever,
    /// `workerIdTtl`.
    WorkerId,
    /// `heartbeatTtl`.
    Heartbeat,
    /// `shutdown.hold`, at least `heartbeatTtl`. Where single keys cannot expire (NATS 2.10), `heartbeatTtl`.
    Hold,
    /// `electionTimeout`.
    Election,
    /// `kvBucket.assignmentTtl`.
    Assignment,
}

/// A key's latest revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// The value; `None` for the marker that a deletion or an expiry leaves.
    pub value: Option<Vec<u8>>,
    /// The revision: the sequence in the bucket's stream.
    pub revision: u64,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It landed, with this revision.
    Written(u64),
    /// The expectation did not hold. A question, not a verdict: an earlier try of ours may have landed.
    Lost,
    /// No answer in time, or an error: it may or may not have landed.
    Unknown,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The process is there.
    Answered,
    /// NATS says that nobody listens.
    NoResponders,
    /// Nothing came back, which proves nothing.
    TimedOut,
}

/// The list of partitions as a source gave it.
pub type PartitionList = Vec<Partition>;

/// What comes back for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Of a write or a deletion.
    Write(WriteOutcome),
    /// Of a read from the stream leader; `None` if the key was never written. `Err` if NATS did not answer.
    Entry(Result<Option<StoredEntry>, ()>),
    /// Of a listing: every key with its latest revision, markers included. `Err` if NATS did not answer.
    Listing(Result<Vec<(String, StoredEntry)>, ()>),
    /// Of the partition source.
    Partitions(Result<PartitionList, String>),
    /// Of the strategy: one worker index per partition, unchecked, or why there is none.
    Strategy(Result<Vec<usize>, String>),
    /// Of a probe.
    Probe(ProbeAnswer),
}

/// What the coordinator is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The connection to NATS is up; begin, or go on.
    Connected,
    /// The connection to NATS is lost.
    Disconnected,
    /// The answer to a request.
    Reply {
        /// Which request.
        op: OpId,
        /// Its answer.
        reply: Reply,
    },
    /// A watched key has changed, or is told anew after a reconnect.
    Watched {
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// Its latest revision.
        entry: StoredEntry,
    },
    /// Everything a watched bucket held when the watch began has been told.
    WatchReady {
        /// Where.
        bucket: Bucket,
    },
    /// How the data path stands; sent on change.
    DataPath {
        /// Partitions owned.
        owned: usize,
        /// Messages behind, over all owned partitions.
        lag: u64,
        /// The assignment that what is owned equals, if it equals one.
        settled: Option<(Term, Version)>,
        /// The assignment of whose partitions each is known to have a record, if there is one.
        begun: Option<(Term, Version)>,
    },
    /// What this worker's handler has refused to open; sent on change.
    Refused(Refusals),
    /// The versions of the plugins that this worker runs from now on, by name.
    Plugins(std::collections::BTreeMap<String, String>),
    /// A record names a later run of our own ID: this process is a zombie.
    Superseded(Incarnation),
    /// The partitions are to be listed again.
    Refresh,
    /// A worker has probed us: it is there.
    Probed {
        /// Who asks.
        by: Incarnation,
    },
    /// Leave: hand everything over and stop.
    Shutdown,
    /// The data path owns nothing any more, after [`Action::Drain`].
    Drained,
}

/// What the coordinator wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write a value.
    Write {
        /// Names the reply.
        op: OpId,
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// JSON.
        value: String,
        /// What must be there.
        expect: Expect,
        /// How long it lives.
        lifetime: Lifetime,
    },
    /// Delete a key, leaving a marker.
    Delete {
        /// Names the reply.
        op: OpId,
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// What must be there.
        expect: Expect,
    },
    /// Read one key from the stream leader.
    Read {
        /// Names the reply.
        op: OpId,
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
    },
    /// Read every key of a bucket.
    List {
        /// Names the reply.
        op: OpId,
        /// Where.
        bucket: Bucket,
    },
    /// Watch these keys (NATS wildcards allowed), from now until told otherwise; a second watch of a bucket replaces the first.
    Watch {
        /// Where.
        bucket: Bucket,
        /// Key patterns.
        keys: Vec<String>,
    },
    /// Watch a bucket no longer.
    Unwatch {
        /// Where.
        bucket: Bucket,
    },
    /// Ask whether this incarnation's process is there.
    Probe {
        /// Names the reply.
        op: OpId,
        /// Whom.
        incarnation: Incarnation,
    },
    /// Ask the source for the partitions.
    ListPartitions {
        /// Names the reply.
        op: OpId,
    },
    /// Ask the strategy outside the core. An earlier question that is still open needs no answer any more.
    AskStrategy {
        /// Names the reply.
        op: OpId,
        /// What to ask.
        question: Arc<Question>,
    },
    /// This worker has an ID. Answer probes from now on.
    Claimed {
        /// The ID.
        worker: WorkerId,
        /// This run of it.
        incarnation: Incarnation,
    },
    /// Another process holds our ID: stop intake at once and close handlers with `lost`. A new claim follows.
    Fenced {
        /// What we held.
        worker: WorkerId,
        /// Who holds it now, if that is known.
        by: Option<Incarnation>,
    },
    /// The state has changed.
    StateChanged {
        /// Before.
        from: WorkerState,
        /// After.
        to: WorkerState,
    },
    /// Somebody leads, or nobody does.
    LeaderChanged {
        /// Who, with the term.
        leader: Option<(WorkerId, Term)>,
        /// Whether that is us.
        is_us: bool,
    },
    /// Work on exactly these partitions.
    Assigned(Assigned),
    /// What the operator has paused: once before or soon after the first assignment, and then at every change.
    Paused(PauseRecord),
    /// Whom the operator has drained and what is pinned: once before the first plan of ours, and then at every change.
    Placement(PlacementRecord),
    /// Finish the messages in hand, commit and release everything, then tell [`Event::Drained`].
    Drain,
    /// This worker, as leader, has published a plan.
    PlanPublished {
        /// `(term, version)` of the plan.
        term: Term,
        /// Its number.
        version: Version,
        /// Why.
        lifecycle: Lifecycle,
        /// Partitions that changed owner.
        moved: usize,
        /// Partitions that nobody owns.
        unowned: usize,
        /// Live workers.
        workers: usize,
        /// Time from the trigger to the publication.
        took: Duration,
    },
    /// NATS is out of reach or refuses: the assignment is frozen, work goes on.
    DegradedEntered {
        /// Why.
        outage: Outage,
        /// Time since the outage began.
        lasted: Duration,
    },
    /// The outage has lasted for a threshold, or for another `alertInterval` since.
    DegradedAlert {
        /// The highest level whose threshold has passed.
        level: AlertLevel,
        /// Time since the outage began.
        lasted: Duration,
    },
    /// NATS is back; everything is being read anew.
    DegradedLeft {
        /// Time from the beginning of the outage until now.
        lasted: Duration,
    },
    /// The start cannot succeed. Everything is released, as far as NATS has answered in time; the process may end.
    Failed(StartFailure),
    /// Something that an operator should read.
    Notice(Notice),
    /// Everything is released; the process may end.
    Finished,
}

/// An assignment in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// Leadership that made it.
    pub term: Term,
    /// Version of the assignment.
    pub version: Version,
    /// Why it was made.
    pub lifecycle: Lifecycle,
    /// The partitions.
    pub partitions: PartitionList,
    /// Who lives and who is dead, by the plan in force.
    pub fleet: Fleet,
}

/// Who is there, by the plan in force. Decides what a record's owner means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// Plan this was read from.
    pub version: Version,
    /// Live workers.
    pub live: std::collections::BTreeMap<WorkerId, Incarnation>,
    /// Of each worker ID, the highest claim known to be dead; lower ones are dead too.
    pub dead: std::collections::BTreeMap<WorkerId, u64>,
    /// Of the partitions that are this worker's, the ids of those that no owner is known to have begun. `None` if the leader does not
    /// say.
    pub fresh: Option<std::collections::BTreeSet<String>>,
}

impl Fleet {
    /// Whether somebody has owned this partition, which is ours by the plan, under an earlier one: it had a record then.
    #[must_use]
    pub fn has_begun(&self, partition: &crate::PartitionId) -> bool {
        self.fresh.as_ref().is_some_and(|fresh| !fresh.contains(partition.as_str()))
    }

    /// Whether the plan says that this incarnation is dead: by name, or because a higher claim of its ID lives.
    #[must_use]
    pub fn is_dead(&self, worker: &WorkerId, incarnation: &Incarnation) -> bool {
        self.dead.get(worker).is_some_and(|claim| incarnation.claim <= *claim)
            || self.live.get(worker).is_some_and(|live| live.claim > incarnation.claim)
    }
}

/// Why a start cannot succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// Every ID in the range is held by a live process.
    IdsExhausted {
        /// The range and who holds it.
        holders: Vec<(WorkerId, String)>,
    },
    /// A bucket is another group's: two groups were given the same buckets.
    AnotherGroup {
        /// Which bucket.
        bucket: Bucket,
        /// The group whose it is.
        group: String,
    },
    /// `startupTimeout` passed.
    TimedOut {
        /// The state it was stuck in.
        state: WorkerState,
        /// What it waited for.
        waiting_for: &'static str,
    },
}

/// Something that an operator should read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A value in a bucket that is not what the protocol puts there. It is left alone and ignored.
    Unreadable {
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Another group writes to a bucket of ours: two groups were given the same buckets. What it writes is ignored.
    Stranger {
        /// Where.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// The other group.
        group: String,
    },
    /// The source did not list the partitions; the last list stays in force.
    SourceFailed(String),
    /// The strategy has not decided: what has an owner stays there, the built-in strategy places what has none, and the plan is
    /// made anew later.
    StrategyFailed {
        /// Which plan was to be made.
        lifecycle: Lifecycle,
        /// What is wrong.
        why: StrategyFailure,
    },
    /// The strategy has decided again after it had failed.
    StrategyRecovered,
    /// A worker is judged dead.
    WorkerDead {
        /// Who.
        worker: WorkerId,
        /// Which run of it.
        incarnation: Incarnation,
        /// How that is known.
        evidence: &'static str,
    },
    /// A worker has not been heard for more than one heartbeat interval.
    HeartbeatMissed {
        /// Who.
        worker: WorkerId,
    },
    /// A worker has joined.
    WorkerJoined {
        /// Who.
        worker: WorkerId,
    },
    /// A worker says that it leaves.
    WorkerLeaving {
        /// Who.
        worker: WorkerId,
    },
    /// The leader's process does not answer; we bid for the lead before its lease expires.
    LeaderSilent {
        /// Who.
        worker: WorkerId,
        /// Which run of it.
        incarnation: Incarnation,
    },
    /// How many partitions fit on no worker, because all of them hold `maxPartitions`, has changed.
    Unowned {
        /// How many.
        partitions: usize,
    },
    /// How many partitions have a state that the handler of no live worker opens has changed.
    Unopenable {
        /// How many.
        partitions: usize,
        /// Digests of the handlers that wrote them.
        handlers: Vec<String>,
    },
    /// An assignment or plan older than what is in force was seen and refused.
    Regression {
        /// Which key.
        key: String,
    },
}
