//! What a worker says about itself.

use jiff::Timestamp;
use parti_coordination::AlertLevel;
use parti_coordination::record::Lifecycle;
use parti_coordination::{Epoch, Incarnation, PartitionId, Position, Term, Version, WorkerId, WorkerState};
use serde::Serialize;

/// Where the answers come from. Both methods are called on the control runtime for each request: they return at once,
/// with a copy of what is known, and never wait for NATS or a handler.
pub trait StatusSource: Send + Sync + 'static {
    /// The worker as a whole.
    fn status(&self) -> Status;

    /// The partitions that the worker owns.
    fn partitions(&self) -> Vec<PartitionStatus>;
}

/// A worker at one moment. `GET /status` answers with it, and adds `timestamp`, `uptimeSeconds` and the binary's `version`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The claimed ID, if there is one.
    #[serde(rename = "workerID")]
    pub worker_id: Option<WorkerId>,
    /// This run of the worker, once it has an ID.
    pub incarnation: Option<Incarnation>,
    /// The worker's group.
    pub group: String,
    /// What the worker is doing.
    pub state: WorkerState,
    /// Whether it leads the group.
    pub is_leader: bool,
    /// Who leads, as far as this worker knows.
    pub leader: Option<WorkerId>,
    /// The leadership whose plan is in force.
    pub term: Term,
    /// Version of the assignment in force; 0 before the first.
    pub assignment_version: Version,
    /// Partitions that the assignment gives to this worker.
    pub partition_count: usize,
    /// Partitions whose ownership record the worker holds.
    pub owned_partitions: usize,
    /// Assigned partitions that the operator has paused.
    pub paused_partitions: usize,
    /// Whether the operator has drained this worker: it gets no partitions that another may have.
    pub drained: bool,
    /// Every worker that the operator has drained, whether it is there or not.
    pub drained_workers: Vec<WorkerId>,
    /// Partitions that the operator has pinned to this worker.
    pub pinned_partitions: usize,
    /// Why the assignment in force was made; nothing before the first.
    pub lifecycle: Option<Lifecycle>,
    /// The group's live workers by the plan in force.
    pub workers: Vec<WorkerId>,
    /// Messages of the owned partitions that the stream holds beyond their positions.
    pub lag: u64,
    /// The stream whose messages are handled; nothing for an assignment-only worker.
    pub stream: Option<String>,
    /// Whether the connection to NATS is up.
    pub nats_connected: bool,
    /// Since when and how badly the worker does without NATS.
    pub degraded: Option<Degraded>,
    /// The loaded plugins.
    pub plugins: Vec<PluginStatus>,
    /// Everything else that keeps the worker from doing its work, one sentence each; the first is the answer of
    /// `GET /health/ready`.
    pub problems: Vec<String>,
}

/// An outage.
#[derive(Debug, Clone, Serialize)]
pub struct Degraded {
    /// When it began: the lost connection, or the first failed operation.
    pub since: Timestamp,
    /// The last alert; nothing before the first threshold.
    pub level: Option<AlertLevel>,
}

/// A loaded plugin.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginStatus {
    /// Its name in the plugin directory.
    pub name: String,
    /// `handler`, `strategy`, `source` or `hooks`.
    pub kind: String,
    /// Of the component in use.
    pub digest: String,
    /// The version in use: the digest, and what tells its configuration and limits from the default ones.
    pub version: String,
    /// Why it does not do its work, if it does not.
    pub problem: Option<String>,
    /// How the last attempt to replace it has ended, since the worker runs.
    pub last_swap: Option<SwapStatus>,
}

/// An attempt to replace a plugin by another version.
#[derive(Debug, Clone, Serialize)]
pub struct SwapStatus {
    /// When it had ended.
    pub at: Timestamp,
    /// The version that was to run; empty if it is not even known.
    pub to: String,
    /// `kept`, `taken-back` or `refused`.
    pub result: &'static str,
    /// Why it ended so.
    pub reason: Option<String>,
}

/// An owned partition at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Its name.
    pub id: PartitionId,
    /// Number of this ownership.
    pub epoch: Epoch,
    /// Everything up to here has taken effect.
    pub position: Position,
    /// Messages that the stream holds for it beyond the position.
    pub lag: u64,
    /// Messages that wait in the worker.
    pub queue: usize,
    /// Deliveries that have begun of the message after the position.
    pub attempts: u32,
    /// Where it stands: `waiting`, `taking`, `opening`, `running`, `releasing`, `gone`.
    pub phase: &'static str,
    /// Whether the operator has paused it.
    pub paused: bool,
    /// Why it does not go on, if it does not.
    pub problem: Option<String>,
}
