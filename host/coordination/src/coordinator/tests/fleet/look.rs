//! What a test wants to know of a fleet.

use super::{Fleet, Status};
use crate::PartitionId;
use crate::coordinator::*;
use crate::record::{AssignmentRecord, PlanRecord, assemble, decode};
use std::collections::{BTreeMap, BTreeSet};

impl Fleet {
    pub(crate) fn live(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|at| self.processes[*at].status == Status::Running).collect()
    }

    pub(crate) fn id(&self, at: usize) -> String {
        self.processes[at].coordinator.worker().map_or_else(|| "-".into(), |(worker, _)| worker.to_string())
    }

    pub(crate) fn leader(&self) -> usize {
        self.leader_or_none().expect("a leader")
    }

    pub(crate) fn leader_or_none(&self) -> Option<usize> {
        self.live().into_iter().find(|at| self.processes[*at].coordinator.leading().is_some())
    }

    pub(crate) fn follower(&self) -> usize {
        self.live().into_iter().find(|at| self.processes[*at].coordinator.leading().is_none()).expect("a follower")
    }

    pub(crate) fn term(&self) -> Term {
        self.plans.last().map_or(Term(0), |p| p.term)
    }

    pub(crate) fn has(&self, at: usize) -> BTreeSet<PartitionId> {
        self.processes[at].assigned.iter().flat_map(|a| &a.partitions).map(|p| p.id().clone()).collect()
    }

    /// Who has what, over all live processes.
    pub(crate) fn owners(&self) -> BTreeMap<PartitionId, usize> {
        self.live().into_iter().flat_map(|at| self.has(at).into_iter().map(move |p| (p, at))).collect()
    }

    pub(crate) fn stored(&self, bucket: Bucket, key: &str) -> Option<Vec<u8>> {
        self.stores.get(&bucket)?.keys.get(key)?.value.clone()
    }

    /// A worker's assignment, whole; nothing if it is not to be read whole.
    pub(super) fn stored_assignment(&self, worker: &WorkerId) -> Option<AssignmentRecord> {
        let key = format!("assignment.{worker}");
        let header: AssignmentRecord = decode(&self.stored(Bucket::Assignments, &key)?).ok()?;
        let chunk = |k| decode(&self.stored(Bucket::Assignments, &format!("{key}.{k}"))?).ok();
        assemble(&header, &(0..header.chunks).filter_map(|k| Some((k, chunk(k)?))).collect())
    }

    /// Why the fleet is not settled, if it is not: one leader whom everybody knows, everyone stable and on the stored assignment,
    /// each partition in exactly one live worker's.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let live = self.live();
        let leaders: Vec<_> = live.iter().filter(|at| self.processes[**at].coordinator.leading().is_some()).collect();
        if leaders.len() != 1 {
            return Some(format!("{} leaders", leaders.len()));
        }
        let leader = self.id(*leaders[0]);
        for at in &live {
            let coordinator = &self.processes[*at].coordinator;
            if coordinator.leader().map(WorkerId::as_str) != Some(&leader) {
                return Some(format!("#{at} follows {:?}, not {leader}", coordinator.leader()));
            }
            if coordinator.leading().is_some() != self.processes[*at].leads {
                return Some(format!("#{at} was told otherwise than that it leads, or leads not"));
            }
            if coordinator.state() != WorkerState::Stable {
                return Some(format!("#{at} is {}", coordinator.state()));
            }
        }
        for at in &live {
            let worker = WorkerId::parse(&self.id(*at));
            let stored = self.laws.stored(&worker).map(|record| &record.partitions);
            if stored != self.processes[*at].assigned.as_ref().map(|a| &a.partitions) {
                return Some(format!("#{at} works on another assignment than the one that is stored"));
            }
        }
        let plan = self.stored(Bucket::Assignments, "plan").and_then(|value| decode::<PlanRecord>(&value).ok());
        let left = plan.as_ref().map_or(0, |plan| plan.left);
        if left > 0 {
            return Some(format!("{left} moves are left"));
        }
        let rank = plan.map(|plan| (plan.term, plan.version));
        if let Some(at) = live.iter().find(|at| self.processes[**at].coordinator.assignment() != rank) {
            return Some(format!("#{at} is not at plan {rank:?}"));
        }
        let ids: BTreeSet<_> = live.iter().map(|at| self.id(*at)).collect();
        if ids.len() != live.len() {
            return Some(format!("{} live workers have {} IDs", live.len(), ids.len()));
        }
        let given: usize = live.iter().map(|at| self.has(*at).len()).sum();
        let listed: BTreeSet<_> = self.partitions.iter().map(|p| p.id().clone()).collect();
        let room = self.max_partitions.map_or(usize::MAX, |most| most * live.len());
        let owners = self.owners();
        if given != owners.len() || given != listed.len().min(room) || !owners.keys().all(|p| listed.contains(p)) {
            return Some(format!("{given} partitions given, {} of {} covered", owners.len(), listed.len()));
        }
        self.unfulfilled()
    }
}
