//! When a worker is ready.

use super::Status;
use std::borrow::Cow;

/// What `GET /health/ready` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The worker processes its assignment.
    Ready,
    /// It has not begun, or is leaving.
    NotReady,
    /// It would process, but no partition is assigned to it.
    NoAssignments,
    /// It would process, but for this.
    Unhealthy(String),
}

impl Readiness {
    /// The text of the answer.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Readiness::Ready => "OK".into(),
            Readiness::NotReady => "not ready".into(),
            Readiness::NoAssignments => "no assignments".into(),
            Readiness::Unhealthy(reason) => reason.into(),
        }
    }
}

/// Whether a worker is ready: it processes (also while partitions move and without NATS), its plugins work, nothing else
/// is wrong, and it has an assignment or `ready_when_empty` says that it needs none.
#[must_use]
pub fn readiness(status: &Status, ready_when_empty: bool) -> Readiness {
    if !status.state.is_processing() {
        return Readiness::NotReady;
    }
    if let Some(problem) = status.problems.first() {
        return Readiness::Unhealthy(problem.clone());
    }
    let broken = status.plugins.iter().find_map(|plugin| Some((plugin, plugin.problem.as_ref()?)));
    if let Some((plugin, problem)) = broken {
        return Readiness::Unhealthy(format!("plugin {}: {problem}", plugin.name));
    }
    if status.partition_count == 0 && !ready_when_empty {
        return Readiness::NoAssignments;
    }
    Readiness::Ready
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::PluginStatus;
    use super::*;
    use parti_coordination::{Term, Version, WorkerId, WorkerState};

    /// A healthy worker in the midst of its work.
    pub(crate) fn working() -> Status {
        Status {
            worker_id: Some(WorkerId::new("worker", 3)),
            incarnation: None,
            group: "demo".into(),
            state: WorkerState::Stable,
            is_leader: true,
            leader: Some(WorkerId::new("worker", 3)),
            term: Term(2),
            assignment_version: Version(7),
            partition_count: 75,
            owned_partitions: 74,
            paused_partitions: 0,
            drained: false,
            drained_workers: Vec::new(),
            pinned_partitions: 0,
            lifecycle: Some(parti_coordination::record::Lifecycle::PlannedScale),
            workers: vec![WorkerId::new("worker", 0), WorkerId::new("worker", 3)],
            lag: 12,
            stream: Some("work".into()),
            nats_connected: true,
            degraded: None,
            plugins: vec![PluginStatus {
                name: "relay".into(),
                kind: "handler".into(),
                digest: "sha256:00".into(),
                version: "sha256:00".into(),
                problem: None,
                last_swap: None,
            }],
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_worker_is_ready_in_exactly_the_states_in_which_it_processes() {
        for state in WorkerState::ALL {
            let expected = match state {
                WorkerState::Stable
                | WorkerState::Scaling
                | WorkerState::Rebalancing
                | WorkerState::Emergency
                | WorkerState::Degraded => Readiness::Ready,
                WorkerState::Init
                | WorkerState::ClaimingId
                | WorkerState::Election
                | WorkerState::WaitingAssignment
                | WorkerState::Shutdown => Readiness::NotReady,
            };
            assert_eq!(readiness(&Status { state, ..working() }, false), expected, "{state}");
        }
    }

    #[test]
    fn a_surplus_worker_is_ready_only_if_the_operator_says_so() {
        let empty = Status { partition_count: 0, ..working() };
        assert_eq!(readiness(&empty, false), Readiness::NoAssignments);
        assert_eq!(readiness(&empty, true), Readiness::Ready);
        assert_eq!(readiness(&Status { state: WorkerState::Election, ..empty }, true), Readiness::NotReady);
    }

    #[test]
    fn a_broken_plugin_or_another_problem_is_the_reason_given() {
        let mut status = working();
        status.plugins[0].problem = Some("traps on every message".into());
        assert_eq!(readiness(&status, true).text(), "plugin relay: traps on every message");
        status.problems.push("no answer to the worker's own probe".into());
        assert_eq!(readiness(&status, true).text(), "no answer to the worker's own probe");
        status.state = WorkerState::Init;
        assert_eq!(readiness(&status, true).text(), "not ready");
    }
}
