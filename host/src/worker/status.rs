//! What the worker shows: a board that the control task writes and HTTP reads, and what it tells operators over NATS.

use super::plugins::Running;
use crate::http::{Degraded, PartitionStatus, PluginStatus, Status, StatusSource, SwapStatus};
use crate::intake::{Intake, PartitionReport};
use crate::nats::{Nats, PartitionFigures};
use crate::plugin::Attempt;
use parti_coordination::record::{Owner, PauseRecord, PlacementRecord};
use parti_coordination::{Assigned, Epoch, Term, Version, WorkerId, WorkerState};
use std::sync::{Arc, Mutex, PoisonError};

/// The facts as the control task last wrote them.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) state: WorkerState,
    pub(super) me: Option<Owner>,
    pub(super) leader: Option<WorkerId>,
    pub(super) is_leader: bool,
    pub(super) assigned: Option<Assigned>,
    pub(super) owned: usize,
    pub(super) lag: u64,
    pub(super) degraded: Option<Degraded>,
    /// What the operator has paused.
    pub(super) pause: PauseRecord,
    /// What the operator wants of the placement.
    pub(super) placement: PlacementRecord,
    /// Why nobody can probe this worker.
    pub(super) unreachable: Option<String>,
    /// Why the strategy has not decided when it was last asked, as far as this worker knows as leader.
    pub(super) undecided: Option<String>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            state: WorkerState::Init,
            me: None,
            leader: None,
            is_leader: false,
            assigned: None,
            owned: 0,
            lag: 0,
            degraded: None,
            pause: PauseRecord::nothing(),
            placement: PlacementRecord::nothing(),
            unreachable: None,
            undecided: None,
        }
    }
}

/// Answers for `/status` and the probes.
pub(super) struct WorkerStatus {
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) group: String,
    pub(super) stream: Option<String>,
    pub(super) nats: Nats,
    pub(super) running: Running,
    pub(super) intake: Option<Intake>,
}

impl StatusSource for WorkerStatus {
    fn status(&self) -> Status {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let assigned = board.assigned.as_ref();
        let mut quarantined = self.intake.as_ref().map(Intake::quarantined).unwrap_or_default();
        let paused = assigned.map_or(0, |a| a.partitions.iter().filter(|p| board.pause.covers(p.id())).count());
        Status {
            worker_id: board.me.as_ref().map(|me| me.worker.clone()),
            incarnation: board.me.as_ref().map(|me| me.incarnation),
            group: self.group.clone(),
            state: board.state,
            is_leader: board.is_leader,
            leader: board.leader.clone(),
            term: assigned.map_or(Term(0), |a| a.term),
            assignment_version: assigned.map_or(Version(0), |a| a.version),
            partition_count: assigned.map_or(0, |a| a.partitions.len()),
            owned_partitions: board.owned,
            paused_partitions: paused,
            drained: board.me.as_ref().is_some_and(|me| board.placement.drained.contains(&me.worker)),
            drained_workers: board.placement.drained.iter().cloned().collect(),
            pinned_partitions: board
                .me
                .as_ref()
                .map_or(0, |me| board.placement.pins.values().filter(|worker| **worker == me.worker).count()),
            lifecycle: assigned.map(|a| a.lifecycle),
            workers: assigned.map(|a| a.fleet.live.keys().cloned().collect()).unwrap_or_default(),
            lag: board.lag,
            stream: self.stream.clone(),
            nats_connected: self.nats.link().borrow().connected,
            degraded: board.degraded.clone(),
            plugins: self
                .running
                .standings()
                .into_iter()
                .map(|(plugin, last)| PluginStatus {
                    name: plugin.name().to_owned(),
                    kind: plugin.kind().to_string(),
                    digest: plugin.digest().to_string(),
                    version: plugin.id().to_owned(),
                    problem: quarantined.remove(plugin.name()).map(|why| format!("fed no more: {why}")),
                    last_swap: last.map(|Attempt { at, to, result, reason, .. }| SwapStatus {
                        at,
                        to,
                        result: result.as_str(),
                        reason,
                    }),
                })
                .collect(),
            problems: board.unreachable.iter().chain(&board.undecided).cloned().collect(),
        }
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let reports = self.intake.as_ref().map(Intake::partitions).unwrap_or_default();
        reports
            .into_iter()
            .map(|report| PartitionStatus {
                id: report.id,
                epoch: report.view.epoch.unwrap_or(Epoch(0)),
                position: report.view.position,
                lag: report.view.queued as u64,
                queue: report.view.queued,
                attempts: report.view.attempts,
                phase: report.view.phase.as_str(),
                paused: report.view.paused,
                problem: report.view.trouble,
            })
            .collect()
    }
}

/// What this worker tells operators of its partitions.
pub(super) fn figures(intake: &Intake) -> Vec<PartitionFigures> {
    let reports = intake.partitions().into_iter();
    let figures = reports.map(|PartitionReport { id, view }| PartitionFigures {
        id: id.to_string(),
        phase: view.phase.as_str().to_owned(),
        queue: view.queued as u64,
        attempts: view.attempts,
        paused: view.paused,
        problem: view.trouble,
    });
    figures.collect()
}
