//! What workers tell each other through NATS: the values of the control buckets and of the ownership bucket, as JSON.
//!
//! Every value carries `v`, the version of its format. A reader ignores fields that it does not know, so that a worker
//! of the next version runs beside one of this.

mod ownership;
mod placement;

pub use ownership::{
    Attempts, Owner, OwnershipRecord, Phase, Seen, StateIdentity, StoredSnapshot, StoredState, StreamIdentity,
    object_name, object_parts,
};
pub use placement::{PlacementAnswer, PlacementRecord};

use crate::{Incarnation, Partition, PartitionId, Term, Version, WorkerId, WorkerState};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};

/// The format version that this build writes and reads.
pub const FORMAT: u32 = 1;

/// Why a value in a bucket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a value of this protocol: {0}")]
pub struct Unreadable(pub String);

/// Writes a record as JSON.
///
/// # Errors
/// Only if the record holds what JSON cannot, which none of this module's does.
pub fn encode<T: Serialize>(record: &T) -> Result<String, Unreadable> {
    serde_json::to_string(record).map_err(|e| Unreadable(e.to_string()))
}

/// Reads a record.
///
/// # Errors
/// Anything that is not JSON of the expected shape, or of a format version that this build does not know.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let Versioned { v } = serde_json::from_slice(bytes).map_err(|e| Unreadable(e.to_string()))?;
    if v != FORMAT {
        return Err(Unreadable(format!("format version {v}, this build knows {FORMAT}")));
    }
    serde_json::from_slice(bytes).map_err(|e| Unreadable(e.to_string()))
}

/// A record of the control buckets. Groups have buckets of their own; two that were given the same ones by mistake must notice.
pub(crate) trait Grouped {
    /// The group that it names as its own.
    fn group(&self) -> Option<&str> {
        None
    }
}

/// Who holds a worker ID: key `<prefix>-<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// Format version.
    pub v: u32,
    /// Whose record it is. Those of older builds do not say, and count as ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The holder.
    #[serde(flatten)]
    pub incarnation: Incarnation,
    /// Host name, for people.
    pub host: String,
    /// Process number, for people.
    pub pid: u32,
}

/// Who leads: key `leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// Format version.
    pub v: u32,
    /// Whose record it is. Those of older builds do not say, and count as ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The leader's ID.
    pub worker: WorkerId,
    /// The leader's run.
    #[serde(flatten)]
    pub incarnation: Incarnation,
    /// Number of this leadership.
    pub term: Term,
}

/// Partitions by id, by the digest of the handler that wrote their state.
pub type ByWriter = BTreeMap<String, BTreeSet<String>>;

/// What a worker's handler has refused to open since the worker started, as far as it has not opened the partition since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Partitions that still are in the state that it has refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cannot_open: ByWriter,
    /// Partitions that are in another state now. It may open that one, though what one version has refused once it tends to refuse
    /// again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub could_not_open: ByWriter,
}

impl Refusals {
    /// Whether its handler refuses this partition's state as it is.
    #[must_use]
    pub fn stands_for(&self, partition: &str) -> bool {
        self.cannot_open.values().any(|ids| ids.contains(partition))
    }
}

/// A sign of life: key `heartbeat.<worker>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatRecord {
    /// Format version.
    pub v: u32,
    /// Whose record it is. Those of older builds do not say, and count as ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Which run.
    #[serde(flatten)]
    pub incarnation: Incarnation,
    /// What it is doing.
    pub state: WorkerState,
    /// It leaves and comes back: for how many milliseconds its partitions wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returning: Option<u64>,
    /// Relative capacity; 1 is the default.
    pub capacity: u32,
    /// The operator's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Digests of the loaded plugins by name.
    #[serde(default)]
    pub plugins: BTreeMap<String, String>,
    /// Partitions owned.
    pub owned: usize,
    /// Messages behind.
    pub lag: u64,
    /// What its handler has refused to open.
    #[serde(flatten)]
    pub refusals: Refusals,
    /// The plan of whose partitions, as far as they are this worker's, it knows that each has a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<(Term, Version)>,
    /// Highest term seen.
    pub term: Term,
    /// Highest plan version seen.
    pub version: Version,
}

/// Why a plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// There was no plan, or no live owner.
    ColdStart,
    /// Workers joined or leave.
    PlannedScale,
    /// A worker is dead.
    Emergency,
    /// Partitions were added or removed.
    Refresh,
    /// Weights or the strategy changed, or an operator asked.
    Rebalance,
}

impl Lifecycle {
    /// The name, as in records, `/status` and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Lifecycle::ColdStart => "cold_start",
            Lifecycle::PlannedScale => "planned_scale",
            Lifecycle::Emergency => "emergency",
            Lifecycle::Refresh => "refresh",
            Lifecycle::Rebalance => "rebalance",
        }
    }
}

/// The head of the plan: key `plan`. Its body is the assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Format version.
    pub v: u32,
    /// Whose record it is. Those of older builds do not say, and count as ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The leadership that wrote it.
    pub term: Term,
    /// Who that is. Without it two leaders that a restored bucket let into one term would write the same value, and each would
    /// take the other's for its own.
    #[serde(default)]
    pub leader: Option<Incarnation>,
    /// Grows by one with each plan.
    pub version: Version,
    /// Why it was made.
    pub lifecycle: Lifecycle,
    /// Who may own partitions.
    pub live: BTreeMap<WorkerId, Incarnation>,
    /// Who is leaving: still there, owns nothing by this plan.
    #[serde(default)]
    pub leaving: BTreeMap<WorkerId, Incarnation>,
    /// Of the live, those whom the operator has drained: they own nothing that another may have.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drained: BTreeSet<WorkerId>,
    /// Of each worker ID, the highest claim known to be dead; lower ones are dead too.
    #[serde(default)]
    pub dead: BTreeMap<WorkerId, u64>,
    /// Whose assignments it changes: theirs are written after it, everybody else's stay in force.
    #[serde(default)]
    pub changed: BTreeSet<WorkerId>,
    /// Number of partitions over all assignments.
    pub partitions: usize,
    /// [`checksum`] of who has what.
    pub checksum: u64,
    /// The strategy has not decided, and what had an owner stayed with it: whoever leads owes a plan of the strategy's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub provisional: bool,
    /// Moves that it leaves for later plans, so as not to make too many at once: whoever leads owes them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: usize,
}

impl PlanRecord {
    /// Whether this is `old` put under another number: a leader has only said again what was in force.
    #[must_use]
    pub fn restates(&self, old: &Self) -> bool {
        self.changed.iter().eq(self.live.keys())
            && (self.lifecycle, self.partitions, self.checksum) == (old.lifecycle, old.partitions, old.checksum)
            && (&self.live, &self.leaving, &self.dead) == (&old.live, &old.leaving, &old.dead)
    }
}

/// One worker's part of the plan: key `assignment.<worker>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// Format version.
    pub v: u32,
    /// The leadership that wrote it.
    pub term: Term,
    /// The plan that last changed it.
    pub version: Version,
    /// Why that plan was made.
    pub lifecycle: Lifecycle,
    /// The partitions, sorted by id. Empty if they are in chunks.
    pub partitions: Vec<Partition>,
    /// The places in the list of those of which nobody is known to have written a record yet. All others have one: if it is not
    /// there, it was lost. Older builds do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<BTreeSet<usize>>,
    /// A list that is too long for one value is in this many values under `assignment.<worker>.<k>`, k from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunks: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(is: &bool) -> bool {
    !is
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A part of a long assignment: key `assignment.<worker>.<k>`. It belongs to the assignment of the same term and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Format version.
    pub v: u32,
    /// The leadership that wrote it.
    pub term: Term,
    /// The plan that last changed it.
    pub version: Version,
    /// The partitions, sorted by id.
    pub partitions: Vec<Partition>,
    /// As in [`AssignmentRecord::fresh`], of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<BTreeSet<usize>>,
}

impl Grouped for ClaimRecord {
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }
}

impl Grouped for LeaderRecord {
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }
}

impl Grouped for HeartbeatRecord {
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }
}

impl Grouped for PlanRecord {
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }
}

// These are beside a plan, which names the group.
impl Grouped for AssignmentRecord {}
impl Grouped for ChunkRecord {}
impl Grouped for PauseRecord {}

/// Puts a long assignment together, chunk by number, as if it were in one value. `None` if a chunk is missing or of another plan.
#[must_use]
pub fn assemble(header: &AssignmentRecord, chunks: &BTreeMap<usize, ChunkRecord>) -> Option<AssignmentRecord> {
    let mut whole = AssignmentRecord { chunks: 0, ..header.clone() };
    for k in 0..header.chunks {
        let chunk = chunks.get(&k).filter(|c| (c.term, c.version) == (header.term, header.version))?;
        let before = whole.partitions.len();
        whole.partitions.extend(chunk.partitions.iter().cloned());
        let more = chunk.fresh.as_ref().map(|fresh| fresh.iter().map(|place| before + place));
        whole.fresh = whole.fresh.zip(more).map(|(all, more)| all.into_iter().chain(more).collect());
    }
    Some(whole)
}

/// The key of a worker's assignment, or of one of its chunks: the worker and the chunk's number.
#[must_use]
pub fn assignment_key(key: &str) -> Option<(WorkerId, Option<usize>)> {
    let rest = key.strip_prefix("assignment.")?;
    let chunk = rest.rsplit_once('.').and_then(|(worker, k)| Some((worker, k.parse().ok()?)));
    let (worker, chunk) = match chunk {
        Some((worker, k)) => (WorkerId::parse(worker), Some(k)),
        None => (WorkerId::parse(rest), None),
    };
    // What is no worker's could not even be written back.
    worker.is_well_formed().then_some((worker, chunk))
}

/// A fingerprint of who has what, independent of order: the wrapping sum over all pairs of XXH3-64 of
/// `<worker>\0<partition id>`.
#[must_use]
pub fn checksum<'a>(pairs: impl Iterator<Item = (&'a WorkerId, &'a Partition)>) -> u64 {
    pairs.fold(0, |sum, (worker, partition)| {
        let pair = format!("{worker}\0{}", partition.id());
        sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(pair.as_bytes()))
    })
}

/// What the operator has paused: key `pause` beside the plan. Every worker obeys it; no leader changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRecord {
    /// Format version.
    pub v: u32,
    /// Every partition, also one that is added later.
    #[serde(default)]
    pub all: bool,
    /// The ids of these partitions.
    #[serde(default)]
    pub partitions: BTreeSet<String>,
    /// Who wrote it, for people.
    #[serde(default)]
    pub by: String,
    /// When: RFC 3339, for people.
    #[serde(default)]
    pub at: String,
}

impl PauseRecord {
    /// Nothing is paused.
    #[must_use]
    pub fn nothing() -> Self {
        Self { v: FORMAT, all: false, partitions: BTreeSet::new(), by: String::new(), at: String::new() }
    }

    /// Whether nothing is paused.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.all && self.partitions.is_empty()
    }

    /// Whether this partition is paused.
    #[must_use]
    pub fn covers(&self, partition: &PartitionId) -> bool {
        self.all || self.partitions.contains(partition.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_format_or_shape_is_named_not_guessed() {
        let newer = br#"{"v": 2, "claim": 1}"#;
        assert_eq!(decode::<ClaimRecord>(newer), Err(Unreadable("format version 2, this build knows 1".into())));
        assert!(decode::<ClaimRecord>(b"").is_err());
        assert!(decode::<ClaimRecord>(b"\xff\xfe").is_err());
        assert!(decode::<ClaimRecord>(br#"{"v":1,"claim":-1}"#).is_err());
    }

    #[test]
    fn unknown_fields_of_a_newer_writer_are_ignored() {
        let record =
            br#"{"v":1,"term":3,"version":4,"lifecycle":"refresh","partitions":[{"keys":["a"]}],"later":true}"#;
        let record: AssignmentRecord = decode(record).unwrap();
        assert_eq!(record.partitions.first().unwrap().weight(), crate::DEFAULT_WEIGHT);
    }
}
