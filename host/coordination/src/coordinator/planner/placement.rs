//! Who gets which partition: what there is to decide, and the strategy's answer within what moves are allowed and what a worker
//! may hold.

use super::super::roster::Member;
use super::assignment::Published;
use super::budget::{Bounds, put_off};
use super::openable::Openable;
use crate::record::{Lifecycle, PlacementRecord, PlanRecord};
use crate::strategy::{Candidate, Question, Request, Strategy};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, HashMap};

pub(super) struct Placement {
    /// Every worker's partitions, sorted; of workers that are to have none, an empty list.
    pub(super) target: BTreeMap<WorkerId, Vec<Partition>>,
    /// Partitions that change from one owner to another.
    pub(super) moved: usize,
    /// Partitions that fit on no worker.
    pub(super) unowned: usize,
    /// Moves that are left for later plans.
    pub(super) left: usize,
}

type Current = BTreeMap<WorkerId, Published>;

/// What a plan may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What has no owner among the workers.
    Orphans,
    /// The same, and what the operator has pinned to another.
    Pins,
    /// Everything.
    Everything,
}

/// Who is there to have partitions.
pub(super) struct Team<'a> {
    /// Those who may get some.
    pub(super) workers: Vec<(&'a WorkerId, &'a Member)>,
    /// Those who keep what they have and get nothing: they come back.
    pub(super) kept: BTreeMap<&'a WorkerId, Incarnation>,
    /// Those whom the operator has drained: they keep only what fits nowhere else.
    pub(super) drained: BTreeMap<&'a WorkerId, Incarnation>,
}

impl<'a> Team<'a> {
    /// Of these members, by the plan in force and what the operator wants. While not everything is placed, joiners wait for the plan
    /// that is made for them, unless nobody else is there. Likewise nobody is drained where everybody is: a partition is better with a
    /// worker that should have none than with none.
    pub(super) fn of(
        members: Vec<(&'a WorkerId, &'a Member)>,
        plan: Option<&PlanRecord>,
        wants: Option<&PlacementRecord>,
        scope: Scope,
    ) -> Self {
        let is_drained = |(worker, _): &(&WorkerId, &Member)| wants.is_some_and(|w| w.drained.contains(*worker));
        #[cfg(test)]
        let is_drained = |member: &(&WorkerId, &Member)| is_drained(member) && !Mutant::DrainsForgotten.is_on();
        let is_known = |(worker, _): &(&WorkerId, &Member)| plan.is_some_and(|p| p.live.contains_key(*worker));
        let (leaving, there): (Vec<_>, Vec<_>) = members.into_iter().partition(|(_, m)| m.leaving);
        let (mut drained, mut workers): (Vec<_>, Vec<_>) = there.into_iter().partition(is_drained);
        if workers.is_empty() {
            std::mem::swap(&mut drained, &mut workers);
        }
        if scope != Scope::Everything {
            drained.retain(is_known);
            if workers.iter().any(is_known) {
                workers.retain(is_known);
            }
        }
        let incarnation = |(worker, m): (&'a WorkerId, &'a Member)| (worker, m.incarnation);
        let kept = leaving.into_iter().filter(|(_, m)| !m.is_vacating()).map(incarnation).collect();
        Self { workers, kept, drained: drained.into_iter().map(incarnation).collect() }
    }
}

/// What there is to decide.
pub(super) struct Open<'a> {
    team: &'a Team<'a>,
    candidates: Vec<Candidate>,
    /// Every worker with what it keeps, whatever is decided.
    target: BTreeMap<WorkerId, Vec<Partition>>,
    owner: HashMap<&'a PartitionId, &'a WorkerId>,
    partitions: Vec<&'a Partition>,
    previous: Vec<Option<usize>>,
    /// Where the operator wants it.
    pinned: Vec<Option<usize>>,
    scope: Scope,
}

/// Where a strategy wants everything, for as long as it would be asked the same: plans that move only some of it go there, and not to
/// where each next one would.
pub(super) struct Goal {
    workers: Vec<Candidate>,
    partitions: Vec<Partition>,
    pinned: Vec<Option<usize>>,
    pub(super) answer: Vec<usize>,
}

impl Goal {
    /// Whether it was given for the same workers, partitions and pins.
    pub(super) fn is_of(&self, open: &Open) -> bool {
        self.workers == open.candidates
            && self.pinned == open.pinned
            && self.partitions.iter().eq(open.partitions.iter().copied())
    }
}

impl<'a> Open<'a> {
    /// The partitions, sorted by id, are to be placed on this team, and those that are pinned where they are pinned to, if that worker
    /// may have them.
    pub(super) fn new(
        partitions: &'a [Partition],
        team: &'a Team<'a>,
        current: &'a Current,
        pins: &BTreeMap<String, WorkerId>,
        openable: &Openable,
        scope: Scope,
    ) -> Self {
        let workers = &team.workers;
        let candidate = |(worker, m): &(&WorkerId, &Member)| Candidate {
            worker: (*worker).clone(),
            capacity: m.capacity.max(1),
            labels: m.labels.clone(),
        };
        let candidates: Vec<Candidate> = workers.iter().map(candidate).collect();
        let index: HashMap<&WorkerId, usize> =
            workers.iter().enumerate().map(|(i, (worker, _))| (*worker, i)).collect();
        let owner: HashMap<&PartitionId, &WorkerId> =
            current.iter().flat_map(|(worker, a)| a.partitions().iter().map(move |p| (p.id(), worker))).collect();
        let named = current.keys().chain(workers.iter().map(|(worker, _)| *worker)).chain(team.drained.keys().copied());
        let mut target: BTreeMap<WorkerId, Vec<Partition>> = named.map(|w| (w.clone(), Vec::new())).collect();
        let mut open = Vec::new();
        for partition in partitions {
            match owner.get(partition.id()).filter(|owner| team.kept.contains_key(*owner)) {
                Some(keeper) => target.entry((*keeper).clone()).or_default().push(partition.clone()),
                None => open.push(partition),
            }
        }
        let previous: Vec<Option<usize>> =
            open.iter().map(|p| owner.get(p.id()).and_then(|w| index.get(*w)).copied()).collect();
        let pin = |(partition, before): (&&Partition, &Option<usize>)| {
            let id = partition.id().as_str();
            let at = *index.get(pins.get(id)?)?;
            let may_move = before.is_none() || scope != Scope::Orphans;
            let (_, member) = workers.get(at)?;
            (may_move && openable.may_have(id, member, *before == Some(at))).then_some(at)
        };
        let pinned = open.iter().zip(&previous).map(pin).collect();
        Self { team, candidates, target, owner, partitions: open, previous, pinned, scope }
    }

    /// Whether a strategy has anything to say: some partition may go to more than one place.
    pub(super) fn is_question(&self) -> bool {
        let is_open = |(before, pin): (&Option<usize>, &Option<usize>)| {
            pin.is_none() && (self.scope == Scope::Everything || before.is_none())
        };
        self.previous.iter().zip(&self.pinned).any(is_open)
    }

    /// What to ask a strategy. What is pinned it is told to be with its worker already, so that it counts it there.
    pub(super) fn question(&self, lifecycle: Lifecycle) -> Question {
        Question {
            lifecycle,
            orphans_only: self.scope != Scope::Everything,
            workers: self.candidates.clone(),
            partitions: self.partitions.iter().copied().cloned().collect(),
            previous: self.counted(),
        }
    }

    /// What this answer is to lead to.
    pub(super) fn goal(&self, answer: &[usize]) -> Goal {
        Goal {
            workers: self.candidates.clone(),
            partitions: self.partitions.iter().copied().cloned().collect(),
            pinned: self.pinned.clone(),
            answer: answer.to_vec(),
        }
    }

    fn counted(&self) -> Vec<Option<usize>> {
        self.previous.iter().zip(&self.pinned).map(|(before, pin)| pin.or(*before)).collect()
    }

    /// The answer of the built-in strategy.
    pub(super) fn ask_built_in(&self, strategy: &dyn Strategy) -> Vec<usize> {
        let Self { candidates: workers, partitions, .. } = self;
        strategy.assign(Request { workers, partitions, previous: &self.counted() })
    }

    /// Follows an answer within the bounds. With `stays`, what has an owner among the workers stays there, as where only orphans are
    /// placed.
    pub(super) fn place(self, bounds: Bounds, answer: Vec<usize>, stays: bool, openable: &Openable) -> Placement {
        let Self { team, candidates, mut target, owner, partitions, previous, pinned, scope } = self;
        let mut answer: Vec<Option<usize>> = answer.into_iter().map(Some).collect();
        answer.resize(partitions.len(), None);
        for ((slot, before), pin) in answer.iter_mut().zip(&previous).zip(&pinned) {
            if scope != Scope::Everything || stays {
                *slot = before.or(*slot);
            }
            *slot = pin.or(*slot);
        }
        let due: Vec<bool> = pinned.iter().map(Option::is_some).collect();
        let capacities: Vec<u32> = candidates.iter().map(|candidate| candidate.capacity).collect();
        let left = put_off(bounds, &capacities, &partitions, &previous, &due, &mut answer);
        openable.correct(bounds.held, &partitions, &team.workers, &previous, &mut answer);
        cap(&mut answer, &previous, &pinned, candidates.len(), bounds.held);

        let (mut moved, mut unowned) = (0, 0);
        for (partition, to) in partitions.into_iter().zip(&answer) {
            let from = owner.get(partition.id());
            let worker = to.and_then(|to| candidates.get(to)).map(|candidate| &candidate.worker);
            // What fits nowhere is better with a drained worker than with none.
            let has_room = |worker: &&WorkerId| target.get(*worker).is_none_or(|list| list.len() < bounds.held);
            let keeper = from.copied().filter(|from| team.drained.contains_key(from)).filter(has_room);
            let last = || keeper.or_else(|| team.drained.keys().copied().find(has_room));
            let Some(worker) = worker.or_else(last) else {
                unowned += 1;
                continue;
            };
            if from.is_some_and(|from| *from != worker) {
                moved += 1;
            }
            target.entry(worker.clone()).or_default().push(partition.clone());
        }
        Placement { target, moved, unowned, left }
    }
}

/// Takes from every worker what it has beyond `most`, newcomers first and of them the pinned last, and gives it to the emptiest that
/// has room.
fn cap(
    answer: &mut [Option<usize>],
    previous: &[Option<usize>],
    pinned: &[Option<usize>],
    workers: usize,
    most: usize,
) {
    let mut held = vec![0usize; workers];
    let mut homeless = Vec::new();
    // In rounds, so that what a worker has before is counted before what it would get.
    for round in 0..3 {
        for (at, (slot, (before, pin))) in answer.iter_mut().zip(previous.iter().zip(pinned)).enumerate() {
            let turn = match (slot == before, pin) {
                (true, _) => 0,
                (false, Some(_)) => 1,
                (false, None) => 2,
            };
            if turn != round {
                continue;
            }
            let Some(count) = slot.and_then(|worker| held.get_mut(worker)) else { continue };
            if *count < most {
                *count += 1;
            } else {
                homeless.push(at);
            }
        }
    }
    for at in homeless {
        let emptiest = held.iter_mut().enumerate().min_by_key(|(_, count)| **count);
        let Some(slot) = answer.get_mut(at) else { continue };
        *slot = None;
        if let Some((worker, count)) = emptiest
            && *count < most
        {
            *count += 1;
            *slot = Some(worker);
        }
    }
}
