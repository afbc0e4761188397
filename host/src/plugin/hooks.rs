//! Lifecycle hooks: one compiled version of a plugin, and the instance that is told what happens to this worker.

use super::bindings::{hooks, wit};
use super::cell::Cell;
use super::error::CallError;
use super::host::Scope;
use super::version::Plugin;
use parti_coordination::{AlertLevel, Partition, PartitionId, WorkerState};
use std::time::Duration;
use tokio::time::timeout_at;

/// One compiled version of lifecycle hooks.
pub type HooksPlugin = Plugin<hooks::GuestIndices>;

/// Something that happens to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Another assignment is in force.
    AssignmentChanged {
        /// Partitions that it has and the one before had not.
        added: Vec<Partition>,
        /// Partitions that the one before had.
        removed: Vec<Partition>,
    },
    /// The worker does something else.
    StateChanged {
        /// Before.
        from: WorkerState,
        /// After.
        to: WorkerState,
    },
    /// Something went wrong that the worker goes on after.
    Error {
        /// The stable code, such as `PARTI-1103`.
        code: String,
        /// The stable name, such as `ErrNATSConnectionLost`.
        name: &'static str,
        /// What happened.
        message: String,
        /// To which partition, if to one.
        partition: Option<PartitionId>,
    },
    /// NATS has been away for so long.
    DegradedAlert {
        /// How bad that is.
        level: AlertLevel,
        /// Time since the outage began.
        lasted: Duration,
    },
}

impl Plugin<hooks::GuestIndices> {
    /// A new instance. It has no memory of what others were told.
    ///
    /// # Errors
    /// A component that fails while it begins.
    pub async fn open(&self) -> Result<HooksInstance, CallError> {
        let mut cell = Cell::new(self.version(), Scope::default());
        let until = cell.begin()?;
        let opening = async {
            let instance = self.version().pre().instantiate_async(&mut cell.store).await?;
            self.exports().load(&mut cell.store, &instance)
        };
        let answer = timeout_at(until.into(), opening).await;
        let (guest, _) = cell.end(answer)?;
        Ok(HooksInstance { cell, guest })
    }
}

/// One WebAssembly instance of lifecycle hooks, with a memory of its own.
///
/// After any [`CallError`] but a refusal, and after a call's future was dropped before its end, it is poisoned.
pub struct HooksInstance {
    cell: Cell,
    guest: hooks::Guest,
}

impl HooksInstance {
    /// Tell the guest of one happening.
    ///
    /// # Errors
    /// The guest's own error, after which the instance goes on, or a failed call.
    pub async fn tell(&mut self, happening: &Happening) -> Result<(), CallError> {
        let until = self.cell.begin()?;
        let (guest, store) = (&self.guest, &mut self.cell.store);
        let (call, answer) = match happening {
            Happening::AssignmentChanged { added, removed } => {
                let (added_keys, removed_keys) = (keys(added), keys(removed));
                let (added, removed) = (partitions(added, &added_keys), partitions(removed, &removed_keys));
                let call = guest.call_on_assignment_changed(store, &added, &removed);
                ("accept on-assignment-changed", timeout_at(until.into(), call).await)
            }
            Happening::StateChanged { from, to } => {
                let call = guest.call_on_state_changed(store, (*from).into(), (*to).into());
                ("accept on-state-changed", timeout_at(until.into(), call).await)
            }
            Happening::Error { code, name, message, partition } => {
                let partition = partition.as_ref().map(PartitionId::as_str);
                let failure = hooks::Failure { code, name, message, partition };
                ("accept on-error", timeout_at(until.into(), guest.call_on_error(store, failure)).await)
            }
            Happening::DegradedAlert { level, lasted } => {
                let lasted = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
                let call = guest.call_on_degraded_alert(store, (*level).into(), lasted);
                ("accept on-degraded-alert", timeout_at(until.into(), call).await)
            }
        };
        self.cell.end(answer)?.0.map_err(|reason| self.cell.refused(call, reason))
    }
}

impl std::fmt::Debug for HooksInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HooksInstance").field("cell", &self.cell).finish_non_exhaustive()
    }
}

fn keys(partitions: &[Partition]) -> Vec<Vec<&str>> {
    partitions.iter().map(|partition| partition.keys().iter().map(String::as_str).collect()).collect()
}

fn partitions<'a>(partitions: &'a [Partition], keys: &'a [Vec<&'a str>]) -> Vec<wit::Partition<'a>> {
    let both = partitions.iter().zip(keys);
    both.map(|(partition, keys)| wit::Partition { id: partition.id().as_str(), keys, weight: partition.weight() })
        .collect()
}

impl From<WorkerState> for hooks::WorkerState<'_> {
    fn from(state: WorkerState) -> Self {
        match state {
            WorkerState::Init => Self::Init,
            WorkerState::ClaimingId => Self::ClaimingId,
            WorkerState::Election => Self::Election,
            WorkerState::WaitingAssignment => Self::WaitingAssignment,
            WorkerState::Stable => Self::Stable,
            WorkerState::Scaling => Self::Scaling,
            WorkerState::Rebalancing => Self::Rebalancing,
            WorkerState::Emergency => Self::Emergency,
            WorkerState::Degraded => Self::Degraded,
            WorkerState::Shutdown => Self::Shutdown,
        }
    }
}

impl From<AlertLevel> for hooks::AlertLevel<'_> {
    fn from(level: AlertLevel) -> Self {
        match level {
            AlertLevel::Info => Self::Info,
            AlertLevel::Warn => Self::Warn,
            AlertLevel::Error => Self::Error,
            AlertLevel::Critical => Self::Critical,
        }
    }
}
