//! When a plan is due, and what it says.

use super::super::context::Context;
use super::super::io::Expect;
use super::super::roster::Roster;
use super::Planner;
use super::publication::{Publication, Summary};
use crate::record::{AssignmentRecord, FORMAT, Lifecycle, PlanRecord, checksum};
use crate::strategy::{Candidate, Request};
use crate::{Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// A first plan waits until nobody has joined for this long.
const COLD_QUIET: Duration = Duration::from_secs(1);
/// Within the cold-start window, later joiners are planned for after this much quiet.
const COLD_JOIN_QUIET: Duration = Duration::from_secs(2);
/// A planned window closes early after a fifth of it without a change.
const QUIET_SHARE: u32 = 5;

impl Planner {
    /// Why a plan is due now, if one is. The order is that of urgency.
    pub(super) fn trigger(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Lifecycle> {
        let partitions = self.partitions.as_ref()?;
        let candidates = roster.members().filter(|(_, m)| m.is_candidate()).count();
        if candidates == 0 || !roster.is_ready() {
            return None;
        }
        let plan_live = self.plan().map(|p| p.live.clone()).unwrap_or_default();
        let owned_by = |live: &dyn Fn(&WorkerId) -> bool| {
            self.current.iter().any(|(worker, (a, _))| !a.partitions.is_empty() && live(worker))
        };
        // A leader that died in between may have listed a worker and not written its assignment.
        let is_served = |worker| plan_live.contains_key(worker) && self.current.contains_key(worker);
        let joined = roster.members().any(|(worker, m)| m.is_candidate() && !is_served(worker));
        let cold = !owned_by(&|worker| roster.is_live(worker));
        if cold {
            let quiet = ctx.due(roster.changed_at.max(self.led_since) + COLD_QUIET);
            let waited = ctx.due(self.led_since + ctx.settings.cold_start_window);
            let anything = !partitions.is_empty() || joined;
            return (anything && (quiet || waited)).then_some(Lifecycle::ColdStart);
        }
        if owned_by(&|worker| !roster.is_live(worker)) {
            return Some(Lifecycle::Emergency);
        }
        if roster
            .members()
            .any(|(worker, m)| m.leaving && self.current.get(worker).is_some_and(|(a, _)| !a.partitions.is_empty()))
        {
            return Some(Lifecycle::PlannedScale);
        }
        let assigned: usize = self.current.values().map(|(a, _)| a.partitions.len()).sum();
        let listed: BTreeSet<&PartitionId> = partitions.iter().map(Partition::id).collect();
        if assigned != partitions.len()
            || self.current.values().flat_map(|(a, _)| &a.partitions).any(|p| !listed.contains(p.id()))
        {
            return Some(Lifecycle::Refresh);
        }
        if !joined {
            self.joined_since = None;
        } else if self.cold_until.is_some_and(|until| ctx.now < until) {
            let quiet = ctx.due(roster.changed_at + COLD_JOIN_QUIET);
            let closes = self.cold_until.is_some_and(|until| ctx.due(until));
            return (quiet || closes).then_some(Lifecycle::ColdStart);
        } else {
            let window = ctx.settings.planned_scale_window;
            let since = *self.joined_since.get_or_insert(ctx.now);
            let closed = ctx.due(since + window) | ctx.due(roster.changed_at + window / QUIET_SHARE);
            return (self.is_cool(ctx) && closed).then_some(Lifecycle::PlannedScale);
        }
        if self.list_changed && self.imbalance(roster) > ctx.settings.min_rebalance_threshold {
            return self.is_cool(ctx).then_some(Lifecycle::Rebalance);
        }
        None
    }

    fn is_cool(&self, ctx: &mut Context) -> bool {
        self.planned_at.is_none_or(|at| ctx.due(at + ctx.settings.min_rebalance_interval))
    }

    /// `max(max/mean - 1, 1 - min/mean)` by weight per capacity over the workers that may own partitions.
    fn imbalance(&self, roster: &Roster) -> f64 {
        let loads: Vec<f64> = roster
            .members()
            .filter(|(_, m)| m.is_candidate())
            .map(|(worker, m)| {
                let weight: u128 = self
                    .current
                    .get(worker)
                    .map_or(0, |(a, _)| a.partitions.iter().map(|p| u128::from(p.weight().max(1))).sum());
                #[expect(clippy::cast_precision_loss, reason = "a ratio of sums needs no more digits")]
                let load = weight as f64 / f64::from(m.capacity.max(1));
                load
            })
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a number of workers")]
        let mean = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
        if mean == 0.0 {
            return 0.0;
        }
        let most = loads.iter().copied().fold(0.0, f64::max);
        let least = loads.iter().copied().fold(f64::INFINITY, f64::min);
        (most / mean - 1.0).max(1.0 - least / mean)
    }

    pub(super) fn publish(&mut self, ctx: &mut Context, roster: &Roster, lifecycle: Lifecycle) {
        let Some(partitions) = &self.partitions else { return };
        let old_live = self.plan().map(|p| p.live.clone()).unwrap_or_default();
        // Whoever must move moves now; everything wider waits for a planned change.
        let leaves = roster.members().any(|(_, m)| m.leaving);
        let orphans_only = matches!(lifecycle, Lifecycle::Emergency | Lifecycle::Refresh)
            || (lifecycle == Lifecycle::PlannedScale && leaves);
        let eligible = |worker: &WorkerId| !orphans_only || old_live.contains_key(worker);
        let mut workers: Vec<_> = roster.members().filter(|(w, m)| !m.leaving && eligible(w)).collect();
        if workers.is_empty() {
            workers = roster.members().filter(|(_, m)| !m.leaving).collect();
        }
        if workers.is_empty() {
            return;
        }
        let candidates: Vec<Candidate> = workers
            .iter()
            .map(|(worker, m)| Candidate { worker: (*worker).clone(), capacity: m.capacity.max(1) })
            .collect();
        let index: HashMap<&WorkerId, usize> = candidates.iter().enumerate().map(|(i, c)| (&c.worker, i)).collect();
        let owner: HashMap<&PartitionId, &WorkerId> = self
            .current
            .iter()
            .flat_map(|(worker, (a, _))| a.partitions.iter().map(move |p| (p.id(), worker)))
            .collect();
        let previous: Vec<Option<usize>> =
            partitions.iter().map(|p| owner.get(p.id()).and_then(|w| index.get(*w)).copied()).collect();
        let refs: Vec<&Partition> = partitions.iter().collect();
        let request = Request { workers: &candidates, partitions: &refs, previous: &previous };
        let mut answer = ctx.settings.strategy.assign(request);
        if orphans_only {
            for (slot, before) in answer.iter_mut().zip(&previous) {
                *slot = before.unwrap_or(*slot);
            }
        }

        let mut target: BTreeMap<WorkerId, Vec<Partition>> =
            candidates.iter().map(|c| (c.worker.clone(), Vec::new())).collect();
        let mut moved = 0;
        for (partition, to) in partitions.iter().zip(&answer) {
            let Some(candidate) = candidates.get(*to) else { continue };
            if owner.get(partition.id()).is_some_and(|from| **from != candidate.worker) {
                moved += 1;
            }
            target.entry(candidate.worker.clone()).or_default().push(partition.clone());
        }
        for worker in self.current.keys() {
            target.entry(worker.clone()).or_default();
        }

        let version = self.highest_version.next();
        let mut waiting = BTreeMap::new();
        for (worker, list) in &target {
            let same = self.current.get(worker).is_some_and(|(a, _)| a.partitions == *list);
            if !same {
                let record =
                    AssignmentRecord { v: FORMAT, term: self.term, version, lifecycle, partitions: list.clone() };
                waiting.insert(worker.clone(), record);
            }
        }
        let live: BTreeMap<_, _> = workers.iter().map(|(worker, m)| ((*worker).clone(), m.incarnation)).collect();
        let leaving: BTreeMap<_, _> =
            roster.members().filter(|(_, m)| m.leaving).map(|(worker, m)| (worker.clone(), m.incarnation)).collect();
        match lifecycle {
            Lifecycle::ColdStart => {
                self.cold_until.get_or_insert(ctx.now + ctx.settings.cold_start_window);
                self.list_changed = false;
            }
            Lifecycle::PlannedScale | Lifecycle::Rebalance if !orphans_only => {
                self.planned_at = Some(ctx.now);
                self.list_changed = false;
            }
            _ => {}
        }
        self.joined_since = None;
        if waiting.is_empty() && live == old_live {
            return;
        }
        self.highest_version = version;
        let plan = PlanRecord {
            v: FORMAT,
            term: self.term,
            version,
            lifecycle,
            live,
            leaving,
            dead: roster.dead.clone(),
            changed: waiting.keys().cloned().collect(),
            partitions: partitions.len(),
            checksum: checksum(target.iter().flat_map(|(w, list)| list.iter().map(move |p| (w, p)))),
        };
        let expect = self.plan.as_ref().map_or(Expect::Nothing, |(_, revision)| Expect::Revision(*revision));
        let write = Self::write_plan(ctx, &plan, expect);
        let summary = Summary { moved, unowned: 0, workers: candidates.len(), since: ctx.now };
        self.publication =
            Some(Publication { plan: Some((write, plan)), waiting, writes: BTreeMap::new(), summary: Some(summary) });
    }
}
