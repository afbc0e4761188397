//! When a plan is due, and what it says.

use super::super::context::Context;
use super::super::io::{Expect, Notice};
use super::super::roster::Roster;
use super::assignment::Published;
use super::budget::Bounds;
use super::consultation::Advice;
use super::openable::Openable;
use super::placement::{Open, Placement, Scope};
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

/// A plan that is due: why, and what it may move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    lifecycle: Lifecycle,
    scope: Scope,
}

impl Due {
    const fn of(lifecycle: Lifecycle, scope: Scope) -> Self {
        Self { lifecycle, scope }
    }
}

impl Planner {
    /// Why a plan is due now, if one is. Looks only when something has changed or a window closes: a leader of many workers gets
    /// thousands of events a second.
    pub(super) fn look(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Due> {
        if let Some((revision, again)) = self.looked
            && revision == roster.revision()
            && again.is_none_or(|at| !ctx.due(at))
        {
            return None;
        }
        let (due, again) = ctx.noting_wakes(|ctx| self.trigger(ctx, roster));
        if due.is_none() && self.partitions.is_some() {
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
        self.looked = due.is_none().then_some((roster.revision(), again));
        due
    }

    /// The order is that of urgency.
    fn trigger(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Due> {
        let listed = self.partitions.as_ref()?.len();
        let candidates = roster.members().filter(|(_, m)| m.is_candidate()).count();
        if candidates == 0 || !roster.is_ready() {
            return None;
        }
        // A leader that died in between may have listed a worker and not written its assignment.
        let is_served =
            |worker| self.plan().is_some_and(|p| p.live.contains_key(worker)) && self.current.contains_key(worker);
        let joined = roster.members().any(|(worker, m)| m.is_candidate() && !is_served(worker));
        if self.is_cold(roster) {
            let quiet = ctx.due(roster.changed_at.max(self.led_since) + COLD_QUIET);
            let waited = ctx.due(self.led_since + ctx.settings.cold_start_window);
            let anything = listed > 0 || joined;
            return (anything && (quiet || waited)).then_some(Due::of(Lifecycle::ColdStart, Scope::Everything));
        }
        let is_orphaned = |(worker, a): (&WorkerId, &Published)| !a.partitions().is_empty() && !roster.is_live(worker);
        if self.current.iter().any(is_orphaned) {
            #[cfg(test)]
            if Mutant::EmergencyCoolsDown.is_on() && !self.is_cool(ctx) {
                return None;
            }
            return Some(Due::of(Lifecycle::Emergency, Scope::Orphans));
        }
        // One that died with nothing assigned may still own what it was handing over: the new owners must know.
        if self.hides_a_death(roster) {
            return Some(Due::of(Lifecycle::Emergency, Scope::Orphans));
        }
        if self.somebody_vacates(ctx, roster) {
            return Some(Due::of(Lifecycle::PlannedScale, Scope::Orphans));
        }
        if self.list_differs(ctx.settings.max_partitions, roster) || self.somebody_cannot_open(ctx, roster) {
            return Some(Due::of(Lifecycle::Refresh, Scope::Orphans));
        }
        if self.somebody_is_pinned_elsewhere(ctx, roster) {
            return Some(Due::of(Lifecycle::Rebalance, Scope::Pins));
        }
        if self.wishes.is_rebalance_open() {
            return Some(Due::of(Lifecycle::Rebalance, Scope::Everything));
        }
        if !joined {
            self.joined_since = None;
        } else if self.cold_until.is_some_and(|until| ctx.now < until) {
            let quiet = ctx.due(roster.changed_at + ctx.settings.quiet_period.unwrap_or(COLD_JOIN_QUIET));
            let closes = self.cold_until.is_some_and(|until| ctx.due(until));
            return (quiet || closes).then_some(Due::of(Lifecycle::ColdStart, Scope::Everything));
        } else {
            let window = ctx.settings.planned_scale_window;
            let quiet = ctx.settings.quiet_period.unwrap_or(window / QUIET_SHARE);
            let since = *self.joined_since.get_or_insert(ctx.now);
            let closed = ctx.due(since + window) | ctx.due(roster.changed_at + quiet);
            let due = Due::of(Lifecycle::PlannedScale, Scope::Everything);
            return (self.is_cool(ctx) && closed).then_some(due);
        }
        let is_uneven = self.list_changed && self.imbalance(roster) > ctx.settings.min_rebalance_threshold;
        let is_owed = self.consultation.owed_at().is_some_and(|at| ctx.due(at));
        let is_unfinished = self.plan().is_some_and(|plan| plan.left > 0);
        if is_uneven || is_owed || is_unfinished {
            return self.is_cool(ctx).then_some(Due::of(Lifecycle::Rebalance, Scope::Everything));
        }
        None
    }

    /// Somebody has partitions who is leaving for good, or is drained while another has room.
    fn somebody_vacates(&self, ctx: &Context, roster: &Roster) -> bool {
        if roster.members().any(|(worker, m)| m.is_vacating() && self.held(worker) > 0) {
            return true;
        }
        let team = self.team(roster, Scope::Orphans);
        let most = ctx.settings.max_partitions.unwrap_or(usize::MAX);
        team.drained.keys().any(|worker| self.held(worker) > 0)
            && team.workers.iter().any(|(worker, _)| self.held(worker) < most)
    }

    /// A worker has a partition whose state its handler refuses, and there is one for whom that is not known.
    fn somebody_cannot_open(&self, ctx: &Context, roster: &Roster) -> bool {
        let openable = Openable::of(roster.members());
        if openable.is_empty() {
            return false;
        }
        let held = |worker: &WorkerId| self.current.get(worker).map_or(&[][..], Published::partitions);
        let workers = self.team(roster, Scope::Orphans).workers;
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
        let workers = self.team(roster, Scope::Everything).workers;
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
        let team = self.team(roster, Scope::Orphans);
        let mut workers = team.workers.iter().map(|(worker, _)| *worker).chain(team.drained.keys().copied());
        let has_room = |worker: &WorkerId| most.is_none_or(|most| self.held(worker) < most);
        coverage.stale || coverage.missing > 0 && workers.any(has_room)
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
        let loads: Vec<f64> = self
            .team(roster, Scope::Everything)
            .workers
            .into_iter()
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
    pub(super) fn publish(&mut self, ctx: &mut Context, roster: &Roster, due: Due) {
        // Whoever must move moves now; everything wider waits for a planned change.
        let Due { lifecycle, scope } = due;
        let Some(partitions) = &self.partitions else { return };
        let team = self.team(roster, scope);
        if team.workers.is_empty() {
            return;
        }
        let openable = Openable::of(roster.members());
        let none = BTreeMap::new();
        let pins = self.wishes.record.as_ref().map_or(&none, |wants| &wants.pins);
        let open = Open::new(partitions, &team, &self.current, pins, &openable, scope);
        // A fleet that starts has nothing that it would rather keep.
        let is_bounded = scope == Scope::Everything && lifecycle != Lifecycle::ColdStart;
        let bounds = Bounds {
            moves: ctx.settings.max_moves_per_plan.filter(|_| is_bounded),
            held: ctx.settings.max_partitions.unwrap_or(usize::MAX),
        };
        let is_way = is_bounded && !self.wishes.is_rebalance_open() && self.consultation.owed_at().is_none();
        let known = self.goal.as_ref().filter(|goal| is_way && goal.is_of(&open)).map(|goal| goal.answer.clone());
        let asks = ctx.settings.strategy_patience.is_some() && open.is_question() && known.is_none();
        let advice = match (known, ctx.settings.strategy_patience) {
            (Some(answer), _) => Advice::Follow(answer),
            // What is owed is owed by whatever strategy there is.
            (None, None) => {
                self.consultation.owe(self.consultation.owed_at().filter(|_| scope != Scope::Everything));
                Advice::Follow(open.ask_built_in(&*ctx.settings.strategy))
            }
            (None, Some(_)) if !asks => Advice::None,
            (None, Some(patience)) => {
                let seen = (roster.revision(), self.revision);
                self.consultation.consult(ctx, open.question(lifecycle), patience, seen)
            }
        };
        let since = if asks { self.consultation.due_since() } else { ctx.now };
        let (answer, stays) = match advice {
            Advice::Wait => return,
            #[cfg(test)]
            Advice::None if scope == Scope::Everything && Mutant::JoinersWaitForStrategy.is_on() => return,
            Advice::Follow(answer) => (answer, false),
            Advice::None => (open.ask_built_in(&*ctx.settings.strategy), true),
        };
        let goal = bounds.moves.filter(|_| !stays).map(|_| open.goal(&answer));
        let Placement { target, moved, unowned, left } = open.place(bounds, answer, stays, &openable);
        // What only must move now leaves as much to be done as there was.
        let left = if scope == Scope::Everything { left } else { self.plan().map_or(0, |plan| plan.left) };
        if scope == Scope::Everything {
            self.goal = goal.filter(|_| left > 0);
            self.wishes.rebalances();
        }
        self.wishes.moves(moved);

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
        let mut live: BTreeMap<_, _> = team.workers.iter().map(|(w, m)| ((*w).clone(), m.incarnation)).collect();
        live.extend(team.kept.iter().chain(&team.drained).map(|(worker, i)| ((*worker).clone(), *i)));
        let leaving = roster.members().filter(|(_, m)| m.is_vacating());
        let leaving: BTreeMap<_, _> = leaving.map(|(worker, m)| (worker.clone(), m.incarnation)).collect();
        match lifecycle {
            Lifecycle::ColdStart => {
                self.cold_until.get_or_insert(ctx.now + ctx.settings.cold_start_window);
                self.list_changed = false;
            }
            Lifecycle::PlannedScale | Lifecycle::Rebalance if scope == Scope::Everything => {
                self.planned_at = Some(ctx.now);
                self.list_changed = false;
            }
            _ => {}
        }
        self.joined_since = None;
        let says_nothing = self.plan().is_some_and(|plan| plan.live == live && plan.left == left);
        if waiting.is_empty() && !self.hides_a_death(roster) && says_nothing {
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
            drained: team.drained.keys().map(|worker| (*worker).clone()).collect(),
            dead: roster.dead.clone(),
            changed: waiting.keys().cloned().collect(),
            partitions: target.values().map(Vec::len).sum(),
            checksum: checksum(target.iter().flat_map(|(w, list)| list.iter().map(move |p| (w, p)))),
            provisional: self.consultation.owed_at().is_some(),
            left,
        };
        let expect = self.plan.as_ref().map_or(Expect::Nothing, |(_, revision)| Expect::Revision(*revision));
        let write = Self::write_plan(ctx, &plan, expect);
        let summary = Summary { moved, unowned, workers: team.workers.len(), since };
        self.publication =
            Some(Publication { plan: Some((write, plan)), waiting, writes: BTreeMap::new(), summary: Some(summary) });
    }
}
