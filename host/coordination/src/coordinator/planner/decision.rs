//! When a plan is due, and what it says.

use super::super::context::Context;
use super::super::io::{Expect, Notice};
use super::super::roster::{Member, Roster};
use super::assignment::Published;
use super::consultation::Advice;
use super::openable::Openable;
use super::placement::{Open, Placement};
use super::publication::{Publication, Summary};
use super::{Coverage, Planner};
use crate::record::{AssignmentRecord, FORMAT, Lifecycle, PlanRecord, checksum};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// A first plan waits until nobody has joined for this long.
const COLD_QUIET: Duration = Duration::from_secs(1);
/// Without a `quietPeriod` later joiners are planned for after this much quiet, as long as the cold-start window is open.
const COLD_JOIN_QUIET: Duration = Duration::from_secs(2);
/// Without a `quietPeriod` a planned window closes early after a fifth of it without a change.
const QUIET_SHARE: u32 = 5;

impl Planner {
    /// Why a plan is due now, if one is. Looks only when something has changed or a window closes: a leader of many workers gets
    /// thousands of events a second.
    pub(super) fn look(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Lifecycle> {
        if let Some((revision, again)) = self.looked
            && revision == roster.revision()
            && again.is_none_or(|at| !ctx.due(at))
        {
            return None;
        }
        let (lifecycle, again) = ctx.noting_wakes(|ctx| self.trigger(ctx, roster));
        if lifecycle.is_none() && self.partitions.is_some() {
            // A fleet that has just begun to gather lacks nothing yet.
            let gathers = self.current.is_empty() && self.cold_until.is_none_or(|until| ctx.now < until);
            let unowned = if gathers { 0 } else { self.coverage().missing };
            if std::mem::replace(&mut self.unowned, unowned) != unowned {
                ctx.notice(Notice::Unowned { partitions: unowned });
            }
            let unopenable = self.hopeless(roster);
            if std::mem::replace(&mut self.unopenable, unopenable.0) != unopenable.0 {
                ctx.notice(Notice::Unopenable { partitions: unopenable.0, handlers: unopenable.1 });
            }
        }
        self.looked = lifecycle.is_none().then_some((roster.revision(), again));
        lifecycle
    }

    /// The order is that of urgency.
    fn trigger(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Lifecycle> {
        let listed = self.partitions.as_ref()?.len();
        let candidates = roster.members().filter(|(_, m)| m.is_candidate()).count();
        if candidates == 0 || !roster.is_ready() {
            return None;
        }
        let owned_by = |live: &dyn Fn(&WorkerId) -> bool| {
            self.current.iter().any(|(worker, a)| !a.partitions().is_empty() && live(worker))
        };
        // A leader that died in between may have listed a worker and not written its assignment.
        let is_served =
            |worker| self.plan().is_some_and(|p| p.live.contains_key(worker)) && self.current.contains_key(worker);
        let joined = roster.members().any(|(worker, m)| m.is_candidate() && !is_served(worker));
        let cold = !owned_by(&|worker| roster.is_live(worker));
        if cold {
            let quiet = ctx.due(roster.changed_at.max(self.led_since) + COLD_QUIET);
            let waited = ctx.due(self.led_since + ctx.settings.cold_start_window);
            let anything = listed > 0 || joined;
            return (anything && (quiet || waited)).then_some(Lifecycle::ColdStart);
        }
        if owned_by(&|worker| !roster.is_live(worker)) {
            #[cfg(test)]
            if Mutant::EmergencyCoolsDown.is_on() && !self.is_cool(ctx) {
                return None;
            }
            return Some(Lifecycle::Emergency);
        }
        // One that died with nothing assigned may still own what it was handing over: the new owners must know.
        if self.hides_a_death(roster) {
            return Some(Lifecycle::Emergency);
        }
        if self.somebody_vacates(roster) {
            return Some(Lifecycle::PlannedScale);
        }
        if self.list_differs(ctx.settings.max_partitions, roster) || self.somebody_cannot_open(ctx, roster) {
            return Some(Lifecycle::Refresh);
        }
        if !joined {
            self.joined_since = None;
        } else if self.cold_until.is_some_and(|until| ctx.now < until) {
            let quiet = ctx.due(roster.changed_at + ctx.settings.quiet_period.unwrap_or(COLD_JOIN_QUIET));
            let closes = self.cold_until.is_some_and(|until| ctx.due(until));
            return (quiet || closes).then_some(Lifecycle::ColdStart);
        } else {
            let window = ctx.settings.planned_scale_window;
            let quiet = ctx.settings.quiet_period.unwrap_or(window / QUIET_SHARE);
            let since = *self.joined_since.get_or_insert(ctx.now);
            let closed = ctx.due(since + window) | ctx.due(roster.changed_at + quiet);
            return (self.is_cool(ctx) && closed).then_some(Lifecycle::PlannedScale);
        }
        let is_uneven = self.list_changed && self.imbalance(roster) > ctx.settings.min_rebalance_threshold;
        let is_owed = self.consultation.owed_at().is_some_and(|at| ctx.due(at));
        if is_uneven || is_owed {
            return self.is_cool(ctx).then_some(Lifecycle::Rebalance);
        }
        None
    }

    /// Somebody is leaving for good and has partitions.
    fn somebody_vacates(&self, roster: &Roster) -> bool {
        let has_some = |worker| self.current.get(worker).is_some_and(|a| !a.partitions().is_empty());
        roster.members().any(|(worker, m)| m.is_vacating() && has_some(worker))
    }

    /// A worker has a partition whose state its handler refuses, and there is one for whom that is not known.
    fn somebody_cannot_open(&self, ctx: &Context, roster: &Roster) -> bool {
        let openable = Openable::of(roster.members());
        if openable.is_empty() {
            return false;
        }
        let held = |worker: &WorkerId| self.current.get(worker).map_or(&[][..], Published::partitions);
        let workers = self.eligible(roster, true);
        let most = ctx.settings.max_partitions.unwrap_or(usize::MAX);
        let with_room: Vec<_> = workers.iter().copied().filter(|(worker, _)| held(worker).len() < most).collect();
        workers.iter().any(|(worker, member)| {
            held(worker).iter().any(|partition| openable.is_misplaced(partition.id(), member, &with_room))
        })
    }

    /// How many partitions nobody can open, and the digests of the handlers that wrote their states.
    fn hopeless(&self, roster: &Roster) -> (usize, Vec<String>) {
        let openable = Openable::of(roster.members());
        if openable.is_empty() {
            return (0, Vec::new());
        }
        let listed: HashSet<&str> = self.partitions.iter().flatten().map(|p| p.id().as_str()).collect();
        let workers = self.eligible(roster, false);
        let mut holders: HashMap<&str, &WorkerId> = HashMap::new();
        for (worker, assignment) in &self.current {
            holders.extend(assignment.partitions().iter().map(|p| (p.id().as_str(), worker)));
        }
        openable.hopeless(&workers, |id| listed.contains(id), &holders)
    }

    /// The plan names somebody as live or leaving who is dead.
    fn hides_a_death(&self, roster: &Roster) -> bool {
        let Some(plan) = self.plan() else { return false };
        roster.dead.iter().any(|(worker, claim)| {
            let named = plan.live.get(worker).or_else(|| plan.leaving.get(worker));
            named.is_some_and(|i| i.claim <= *claim) && plan.dead.get(worker).is_none_or(|published| published < claim)
        })
    }

    /// Whether the assignments lack a listed partition that somebody has room for, or hold one that is listed no more.
    fn list_differs(&mut self, most: Option<usize>, roster: &Roster) -> bool {
        let coverage = self.coverage();
        let holds = |worker| self.current.get(worker).map_or(0, |a| a.partitions().len());
        let has_room = |worker| most.is_none_or(|most| holds(worker) < most);
        coverage.stale
            || coverage.missing > 0 && self.eligible(roster, true).into_iter().any(|(worker, _)| has_room(worker))
    }

    fn coverage(&mut self) -> Coverage {
        if let Some(coverage) = self.coverage {
            return coverage;
        }
        let listed: HashSet<&PartitionId> = self.partitions.iter().flatten().map(Partition::id).collect();
        let assigned = || self.current.values().flat_map(Published::partitions);
        let coverage = Coverage {
            missing: listed.len().saturating_sub(assigned().count()),
            stale: assigned().any(|p| !listed.contains(p.id())),
        };
        self.coverage = Some(coverage);
        coverage
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
                    .map_or(0, |a| a.partitions().iter().map(|p| u128::from(p.weight().max(1))).sum());
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

    /// Plans for who is there and begins to write it, if it changes anything.
    pub(super) fn publish(&mut self, ctx: &mut Context, roster: &Roster, lifecycle: Lifecycle) {
        let Some(partitions) = &self.partitions else { return };
        // Whoever must move moves now; everything wider waits for a planned change.
        let orphans_only = match lifecycle {
            Lifecycle::Emergency | Lifecycle::Refresh => true,
            Lifecycle::PlannedScale => self.somebody_vacates(roster),
            Lifecycle::ColdStart | Lifecycle::Rebalance => false,
        };
        let workers = self.eligible(roster, orphans_only);
        if workers.is_empty() {
            return;
        }
        // Who comes back keeps what it has.
        let kept =
            roster.members().filter(|(_, m)| m.leaving && !m.is_vacating()).map(|(worker, m)| (worker, m.incarnation));
        let kept: BTreeMap<&WorkerId, _> = kept.collect();
        let open = Open::new(partitions, &workers, &self.current, &kept, orphans_only);
        let advice = match ctx.settings.strategy_patience {
            // What is owed is owed by whatever strategy there is.
            None => {
                self.consultation.owe(self.consultation.owed_at().filter(|_| orphans_only));
                Advice::Follow(open.ask_built_in(ctx))
            }
            Some(_) if !open.is_question() => Advice::None,
            Some(patience) => {
                let seen = (roster.revision(), self.revision);
                self.consultation.consult(ctx, open.question(lifecycle), patience, seen)
            }
        };
        let since = match &advice {
            _ if ctx.settings.strategy_patience.is_none() || !open.is_question() => ctx.now,
            _ => self.consultation.due_since(),
        };
        let Placement { target, moved, unowned } = match advice {
            Advice::Wait => return,
            #[cfg(test)]
            Advice::None if !orphans_only && Mutant::JoinersWaitForStrategy.is_on() => return,
            Advice::Follow(answer) => open.place(ctx, answer, false, &Openable::of(roster.members())),
            Advice::None => {
                let answer = open.ask_built_in(ctx);
                open.place(ctx, answer, true, &Openable::of(roster.members()))
            }
        };

        let version = self.highest_version.next();
        let mut waiting = BTreeMap::new();
        for (worker, list) in &target {
            let same = self.current.get(worker).is_some_and(|a| a.partitions() == *list);
            if !same {
                let record = AssignmentRecord {
                    v: FORMAT,
                    term: self.term,
                    version,
                    lifecycle,
                    partitions: list.clone(),
                    fresh: Some(self.fresh(list)),
                    chunks: 0,
                };
                waiting.insert(worker.clone(), record);
            }
        }
        let mut live: BTreeMap<_, _> = workers.iter().map(|(worker, m)| ((*worker).clone(), m.incarnation)).collect();
        live.extend(kept.into_iter().map(|(worker, incarnation)| (worker.clone(), incarnation)));
        let leaving = roster.members().filter(|(_, m)| m.is_vacating());
        let leaving: BTreeMap<_, _> = leaving.map(|(worker, m)| (worker.clone(), m.incarnation)).collect();
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
        if waiting.is_empty() && !self.hides_a_death(roster) && self.plan().is_some_and(|plan| plan.live == live) {
            return;
        }
        self.highest_version = version;
        let plan = PlanRecord {
            v: FORMAT,
            group: Some(ctx.settings.group.clone()),
            term: self.term,
            leader: self.me,
            version,
            lifecycle,
            live,
            leaving,
            dead: roster.dead.clone(),
            changed: waiting.keys().cloned().collect(),
            partitions: target.values().map(Vec::len).sum(),
            checksum: checksum(target.iter().flat_map(|(w, list)| list.iter().map(move |p| (w, p)))),
            provisional: self.consultation.owed_at().is_some(),
        };
        let expect = self.plan.as_ref().map_or(Expect::Nothing, |(_, revision)| Expect::Revision(*revision));
        let write = Self::write_plan(ctx, &plan, expect);
        let summary = Summary { moved, unowned, workers: workers.len(), since };
        self.publication =
            Some(Publication { plan: Some((write, plan)), waiting, writes: BTreeMap::new(), summary: Some(summary) });
    }

    /// Who may get partitions. While only orphans are placed, joiners wait for the plan that is made for them, unless nobody
    /// else is there.
    fn eligible<'a>(&self, roster: &'a Roster, orphans_only: bool) -> Vec<(&'a WorkerId, &'a Member)> {
        let stays = |(_, m): &(&WorkerId, &Member)| !m.leaving;
        if orphans_only && let Some(plan) = self.plan() {
            let known: Vec<_> = roster.members().filter(stays).filter(|(w, _)| plan.live.contains_key(*w)).collect();
            if !known.is_empty() {
                return known;
            }
        }
        roster.members().filter(stays).collect()
    }
}
