//! The states of a worker and the transitions between them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a worker is doing. The numbers are those of the metric `parti_worker_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WorkerState {
    /// Before anything was tried.
    Init = 0,
    /// Claiming a stable worker ID.
    #[serde(rename = "ClaimingID")]
    ClaimingId = 1,
    /// Finding out who leads.
    Election = 2,
    /// Waiting for the first assignment.
    WaitingAssignment = 3,
    /// Working with a settled assignment.
    Stable = 4,
    /// The fleet has grown or shrunk; a new plan is due.
    Scaling = 5,
    /// Partitions are moving.
    Rebalancing = 6,
    /// Partitions of a dead worker are being taken over.
    Emergency = 7,
    /// NATS is out of reach; the assignment is frozen.
    Degraded = 8,
    /// Leaving.
    Shutdown = 9,
}

impl WorkerState {
    /// Every state, in the order of their numbers.
    pub const ALL: [WorkerState; 10] = [
        WorkerState::Init,
        WorkerState::ClaimingId,
        WorkerState::Election,
        WorkerState::WaitingAssignment,
        WorkerState::Stable,
        WorkerState::Scaling,
        WorkerState::Rebalancing,
        WorkerState::Emergency,
        WorkerState::Degraded,
        WorkerState::Shutdown,
    ];

    /// The name, as in logs, `/status` and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            WorkerState::Init => "Init",
            WorkerState::ClaimingId => "ClaimingID",
            WorkerState::Election => "Election",
            WorkerState::WaitingAssignment => "WaitingAssignment",
            WorkerState::Stable => "Stable",
            WorkerState::Scaling => "Scaling",
            WorkerState::Rebalancing => "Rebalancing",
            WorkerState::Emergency => "Emergency",
            WorkerState::Degraded => "Degraded",
            WorkerState::Shutdown => "Shutdown",
        }
    }

    /// Whether a worker in this state works on an assignment.
    #[must_use]
    pub const fn is_processing(self) -> bool {
        matches!(
            self,
            WorkerState::Stable
                | WorkerState::Scaling
                | WorkerState::Rebalancing
                | WorkerState::Emergency
                | WorkerState::Degraded
        )
    }

    /// Whether the protocol allows this transition.
    #[must_use]
    pub const fn may_become(self, to: WorkerState) -> bool {
        use WorkerState as S;
        match (self, to) {
            (S::Shutdown, _) => false,
            (_, S::Shutdown) => true,
            (S::Init, S::ClaimingId) | (S::ClaimingId, S::Election) | (S::Election, S::WaitingAssignment) => true,
            (S::WaitingAssignment, S::Stable) => true,
            (S::Stable, S::Scaling | S::Emergency) => true,
            (S::Scaling, S::Rebalancing | S::Emergency) => true,
            (S::Rebalancing | S::Emergency, S::Stable) => true,
            (S::Rebalancing, S::Emergency) => true,
            // Fenced: another process holds our ID, so that we claim afresh.
            (from, S::ClaimingId) => from.is_processing() || matches!(from, S::Election | S::WaitingAssignment),
            (S::Degraded, to) => to.is_processing() || matches!(to, S::Election | S::WaitingAssignment),
            (from, S::Degraded) => from.is_processing() || matches!(from, S::Election | S::WaitingAssignment),
            _ => false,
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
