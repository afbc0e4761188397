//! Who gets which partition: the strategy's answer, within what moves are allowed and what a worker may hold.

use super::super::context::Context;
use super::super::roster::Member;
use super::assignment::Published;
use super::openable::Openable;
use crate::strategy::{Candidate, Request};
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

impl Placement {
    /// Places the partitions, sorted by id, on these workers; what `kept` workers have stays theirs. With `orphans_only` nothing
    /// moves that has an owner among the workers.
    pub(super) fn find(
        ctx: &Context,
        partitions: &[Partition],
        workers: &[(&WorkerId, &Member)],
        current: &Current,
        kept: &BTreeMap<&WorkerId, Incarnation>,
        openable: &Openable,
        orphans_only: bool,
    ) -> Self {
        let candidates: Vec<Candidate> = workers
            .iter()
            .map(|(worker, m)| Candidate { worker: (*worker).clone(), capacity: m.capacity.max(1) })
            .collect();
        let index: HashMap<&WorkerId, usize> = candidates.iter().enumerate().map(|(i, c)| (&c.worker, i)).collect();
        let owner: HashMap<&PartitionId, &WorkerId> =
            current.iter().flat_map(|(worker, a)| a.partitions().iter().map(move |p| (p.id(), worker))).collect();
        let mut target: BTreeMap<WorkerId, Vec<Partition>> =
            current.keys().chain(index.keys().copied()).map(|worker| (worker.clone(), Vec::new())).collect();
        let mut open = Vec::new();
        for partition in partitions {
            match owner.get(partition.id()).filter(|owner| kept.contains_key(*owner)) {
                Some(keeper) => target.entry((*keeper).clone()).or_default().push(partition.clone()),
                None => open.push(partition),
            }
        }
        let previous: Vec<Option<usize>> =
            open.iter().map(|p| owner.get(p.id()).and_then(|w| index.get(*w)).copied()).collect();
        let request = Request { workers: &candidates, partitions: &open, previous: &previous };
        let mut answer: Vec<Option<usize>> = ctx.settings.strategy.assign(request).into_iter().map(Some).collect();
        if orphans_only {
            for (slot, before) in answer.iter_mut().zip(&previous) {
                *slot = before.or(*slot);
            }
        }
        openable.correct(ctx.settings.max_partitions.unwrap_or(usize::MAX), &open, workers, &previous, &mut answer);
        if let Some(most) = ctx.settings.max_partitions {
            cap(&mut answer, &previous, candidates.len(), most);
        }

        let (mut moved, mut unowned) = (0, 0);
        for (partition, to) in open.into_iter().zip(&answer) {
            let Some(candidate) = to.and_then(|to| candidates.get(to)) else {
                unowned += 1;
                continue;
            };
            if owner.get(partition.id()).is_some_and(|from| **from != candidate.worker) {
                moved += 1;
            }
            target.entry(candidate.worker.clone()).or_default().push(partition.clone());
        }
        Self { target, moved, unowned }
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
