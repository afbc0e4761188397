//! What a worker obeys: the plan, and its own assignment if that is of the plan's term. Regressions are refused.

use super::context::{Context, Found};
use super::io::{Action, Assigned, Bucket, Fleet, Notice, StoredEntry};
use crate::record::{AssignmentRecord, ChunkRecord, Lifecycle, PlanRecord, assemble, assignment_key};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Partition, Term, Version, WorkerId, WorkerState};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Acceptance {
    plan: Option<PlanRecord>,
    assignment: Option<AssignmentRecord>,
    /// What is stored but is older than that. It counts once the plan turns out to be of another history.
    refused: Option<AssignmentRecord>,
    /// Parts of a long assignment, by number.
    chunks: BTreeMap<usize, ChunkRecord>,
    /// What the data path was last told of.
    accepted: Option<Accepted>,
    /// The group whose plan is where ours belongs.
    stranger: Option<String>,
}

struct Accepted {
    plan: PlanRecord,
    /// Version of the assignment that was taken for the plan's.
    assignment: Version,
    partitions: Vec<Partition>,
}

/// What the coordinator must do after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    /// The plan says that we are dead, or names a later run of our ID.
    DeclaredDead,
}

impl Acceptance {
    pub(super) fn highest(&self) -> (Term, Version) {
        self.plan.as_ref().map_or_else(Default::default, |p| (p.term, p.version))
    }

    pub(super) fn accepted(&self) -> Option<(Term, Version)> {
        self.accepted.as_ref().map(|accepted| (accepted.plan.term, accepted.plan.version))
    }

    /// The other group whose plan is in our bucket.
    pub(super) fn stranger(&self) -> Option<&str> {
        self.stranger.as_deref()
    }

    /// A new claim: the assignment of the old one says nothing about us.
    pub(super) fn forget_assignment(&mut self) {
        self.assignment = None;
        self.refused = None;
        self.chunks.clear();
        self.accepted = None;
    }

    pub(super) fn watched(
        &mut self,
        ctx: &mut Context,
        key: &str,
        entry: &StoredEntry,
        me: (&WorkerId, Incarnation),
    ) -> Seen {
        let Some(value) = entry.value.as_deref() else { return Seen::Nothing };
        if key == "plan" {
            let found = ctx.find::<PlanRecord>(Bucket::Assignments, key, value);
            self.stranger = match &found {
                Found::Theirs(group) => Some(group.clone()),
                Found::Ours(_) | Found::Unreadable => None,
            };
            let Found::Ours(plan) = found else { return Seen::Nothing };
            if self.plan.as_ref().is_some_and(|old| (old.term, old.version) > (plan.term, plan.version)) {
                ctx.notice(Notice::Regression { key: key.to_owned() });
                return Seen::Nothing;
            }
            let dead = plan.dead.get(me.0).is_some_and(|claim| me.1.claim <= *claim);
            let superseded = [&plan.live, &plan.leaving]
                .into_iter()
                .any(|named| named.get(me.0).is_some_and(|named| named.claim > me.1.claim));
            // A term that two leaders have had was lost with what the first one wrote, and so was our assignment.
            if self.plan.as_ref().is_some_and(|old| old.term == plan.term && old.leader != plan.leader) {
                self.assignment = self.refused.take();
            }
            self.plan = Some(plan);
            if dead || superseded {
                return Seen::DeclaredDead;
            }
        } else if let Some((worker, Some(k))) = assignment_key(key) {
            // Whether it counts is decided by the header of its term and version.
            if worker == *me.0
                && let Some(chunk) = ctx.decode::<ChunkRecord>(Bucket::Assignments, key, value)
            {
                self.chunks.insert(k, chunk);
            }
        } else if assignment_key(key).is_some_and(|(worker, _)| worker == *me.0) {
            let Some(new) = ctx.decode::<AssignmentRecord>(Bucket::Assignments, key, value) else {
                return Seen::Nothing;
            };
            if self.assignment.as_ref().is_some_and(|old| (old.term, old.version) > (new.term, new.version)) {
                ctx.notice(Notice::Regression { key: key.to_owned() });
                self.refused = Some(new);
                return Seen::Nothing;
            }
            self.refused = None;
            self.assignment = Some(new);
        }
        self.judge(ctx, me.0);
        Seen::Nothing
    }

    /// The plan, as last seen.
    pub(super) fn plan(&self) -> Option<&PlanRecord> {
        self.plan.as_ref()
    }

    pub(super) fn judge(&mut self, ctx: &mut Context, me: &WorkerId) {
        // Frozen: what comes meanwhile counts once NATS can be relied on again.
        if ctx.state == WorkerState::Degraded {
            return;
        }
        let (Some(plan), Some(assignment)) = (&self.plan, &self.assignment) else { return };
        // An assignment of another term is a leader's that the plan does not know, or knows no more. And a plan without us is
        // not meant for this run.
        let listed = plan.live.contains_key(me) || plan.leaving.contains_key(me);
        // The plan arrives before the assignments that it changes.
        let awaited = plan.changed.contains(me) && assignment.version < plan.version;
        let is_of_the_plan = assignment.term == plan.term;
        #[cfg(test)]
        let is_of_the_plan = Mutant::OldTermAccepted.or(is_of_the_plan, true);
        if !is_of_the_plan || assignment.version > plan.version || awaited || !listed {
            return;
        }
        let rank = (plan.term, plan.version);
        // Who has missed a plan may hear of the next one before the assignment that the missed one has changed.
        let known = self.accepted.as_ref().is_some_and(|accepted| accepted.assignment == assignment.version);
        if ctx.state == WorkerState::Shutdown || (self.accepted() == Some(rank) && known) {
            return;
        }
        let Some(AssignmentRecord { partitions, fresh, .. }) = assemble(assignment, &self.chunks) else { return };
        let accepted = Accepted { plan: plan.clone(), assignment: assignment.version, partitions: partitions.clone() };
        let before = self.accepted.replace(accepted);
        // A new leader says under its term what is in force already.
        let fresh = fresh.map(|fresh| {
            let named = fresh.into_iter().filter_map(|place| partitions.get(place));
            named.map(|partition| partition.id().as_str().to_owned()).collect()
        });
        let changes_nothing =
            before.is_some_and(|before| plan.restates(&before.plan) && partitions == before.partitions);
        ctx.emit(Action::Assigned(Assigned {
            term: plan.term,
            version: plan.version,
            lifecycle: plan.lifecycle,
            partitions,
            fleet: Fleet { version: plan.version, live: plan.live.clone(), dead: plan.dead.clone(), fresh },
        }));
        if changes_nothing {
            return;
        }
        match plan.lifecycle {
            Lifecycle::Emergency => ctx.enter(WorkerState::Emergency),
            Lifecycle::PlannedScale | Lifecycle::Rebalance | Lifecycle::Refresh | Lifecycle::ColdStart => {
                ctx.enter(WorkerState::Scaling);
                ctx.enter(WorkerState::Rebalancing);
            }
        }
    }
}
