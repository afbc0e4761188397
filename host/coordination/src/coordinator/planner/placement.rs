//! Who gets which partition: what there is to decide, and the strategy's answer within what moves are allowed and what a worker
//! may hold.

use super::super::context::Context;
use super::super::roster::Member;
use super::assignment::Published;
use super::openable::Openable;
use crate::record::Lifecycle;
use crate::strategy::{Candidate, Question, Request};
use crate::{Incarnation, Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, HashMap};

pub(super) struct Placement {
    /// Every worker's partitions, sorted; of workers that are to have none, an empty list.
    pub(super) target: BTreeMap<WorkerId, Vec<Partition>>,
    /// Partitions that change from one owner to another.
    pub(super) moved: usize,
    /// Partitions that fit on no worker.
    pub(super) unowned: usize,
}

type Current = BTreeMap<WorkerId, Published>;

/// What there is to decide.
pub(super) struct Open<'a> {
    workers: &'a [(&'a WorkerId, &'a Member)],
    candidates: Vec<Candidate>,
    /// Every worker with what it keeps, whatever is decided.
    target: BTreeMap<WorkerId, Vec<Partition>>,
    owner: HashMap<&'a PartitionId, &'a WorkerId>,
    partitions: Vec<&'a Partition>,
    previous: Vec<Option<usize>>,
    /// Nothing moves that has an owner among the workers.
    orphans_only: bool,
}

impl<'a> Open<'a> {
    /// The partitions, sorted by id, are to be placed on these workers; what `kept` workers have stays theirs.
    pub(super) fn new(
        partitions: &'a [Partition],
        workers: &'a [(&'a WorkerId, &'a Member)],
        current: &'a Current,
        kept: &BTreeMap<&WorkerId, Incarnation>,
        orphans_only: bool,
    ) -> Self {
        let candidate = |(worker, m): &(&WorkerId, &Member)| Candidate {
            worker: (*worker).clone(),
            capacity: m.capacity.max(1),
            labels: m.labels.clone(),
        };
        let candidates: Vec<Candidate> = workers.iter().map(candidate).collect();
        let index: HashMap<&WorkerId, usize> = candidates.iter().enumerate().map(|(i, c)| (&c.worker, i)).collect();
        let owner: HashMap<&PartitionId, &WorkerId> =
            current.iter().flat_map(|(worker, a)| a.partitions().iter().map(move |p| (p.id(), worker))).collect();
        let mut target: BTreeMap<WorkerId, Vec<Partition>> =
            current.keys().chain(candidates.iter().map(|c| &c.worker)).map(|w| (w.clone(), Vec::new())).collect();
        let mut open = Vec::new();
        for partition in partitions {
            match owner.get(partition.id()).filter(|owner| kept.contains_key(*owner)) {
                Some(keeper) => target.entry((*keeper).clone()).or_default().push(partition.clone()),
                None => open.push(partition),
            }
        }
        let previous: Vec<Option<usize>> =
            open.iter().map(|p| owner.get(p.id()).and_then(|w| index.get(*w)).copied()).collect();
        Self { workers, candidates, target, owner, partitions: open, previous, orphans_only }
    }

    /// Whether a strategy has anything to say: some partition may go to more than one place.
    pub(super) fn is_question(&self) -> bool {
        let is_open = |before: &Option<usize>| !self.orphans_only || before.is_none();
        self.previous.iter().any(is_open)
    }

    /// What to ask a strategy outside the core.
    pub(super) fn question(&self, lifecycle: Lifecycle) -> Question {
        Question {
            lifecycle,
            orphans_only: self.orphans_only,
            workers: self.candidates.clone(),
            partitions: self.partitions.iter().copied().cloned().collect(),
            previous: self.previous.clone(),
        }
    }

    /// The answer of the built-in strategy.
    pub(super) fn ask_built_in(&self, ctx: &Context) -> Vec<usize> {
        let Self { candidates: workers, partitions, previous, .. } = self;
        ctx.settings.strategy.assign(Request { workers, partitions, previous })
    }

    /// Follows an answer. With `stays`, what has an owner among the workers stays there, as where only orphans are placed.
    pub(super) fn place(self, ctx: &Context, answer: Vec<usize>, stays: bool, openable: &Openable) -> Placement {
        let Self { workers, candidates, mut target, owner, partitions, previous, orphans_only } = self;
        let mut answer: Vec<Option<usize>> = answer.into_iter().map(Some).collect();
        answer.resize(partitions.len(), None);
        if orphans_only || stays {
            for (slot, before) in answer.iter_mut().zip(&previous) {
                *slot = before.or(*slot);
            }
        }
        openable.correct(
            ctx.settings.max_partitions.unwrap_or(usize::MAX),
            &partitions,
            workers,
            &previous,
            &mut answer,
        );
        if let Some(most) = ctx.settings.max_partitions {
            cap(&mut answer, &previous, candidates.len(), most);
        }

        let (mut moved, mut unowned) = (0, 0);
        for (partition, to) in partitions.into_iter().zip(&answer) {
            let Some(candidate) = to.and_then(|to| candidates.get(to)) else {
                unowned += 1;
                continue;
            };
            if owner.get(partition.id()).is_some_and(|from| **from != candidate.worker) {
                moved += 1;
            }
            target.entry(candidate.worker.clone()).or_default().push(partition.clone());
        }
        Placement { target, moved, unowned }
    }
}

/// Takes from every worker what it has beyond `most`, newcomers first, and gives it to the emptiest that has room.
fn cap(answer: &mut [Option<usize>], previous: &[Option<usize>], workers: usize, most: usize) {
    let mut held = vec![0usize; workers];
    let mut homeless = Vec::new();
    // Two rounds, so that what a worker has before is counted before what it would get.
    for stays in [true, false] {
        for (at, (slot, before)) in answer.iter_mut().zip(previous).enumerate() {
            if (slot == before) != stays {
                continue;
            }
            let Some(count) = slot.and_then(|worker| held.get_mut(worker)) else { continue };
            if *count < most {
                *count += 1;
            } else {
                *slot = None;
                homeless.push(at);
            }
        }
    }
    for at in homeless {
        let emptiest = held.iter_mut().enumerate().min_by_key(|(_, count)| **count);
        if let (Some(slot), Some((worker, count))) = (answer.get_mut(at), emptiest)
            && *count < most
        {
            *count += 1;
            *slot = Some(worker);
        }
    }
}
