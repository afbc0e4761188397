//! Workers and partitions in the order of their names, so that an answer cannot depend on the order of the question.

use super::{Candidate, Request};
use crate::Partition;

/// Lets `decide` see workers and partitions sorted by id, and gives its answer in the order of the question.
pub(super) fn in_order(request: Request<'_>, decide: impl FnOnce(Request<'_>) -> Vec<usize>) -> Vec<usize> {
    let Request { workers, partitions, previous } = request;
    // The planner asks in order: nothing is copied then.
    if workers.is_sorted_by_key(|c| &c.worker) && partitions.is_sorted() {
        return decide(request);
    }
    let mut by_name: Vec<(usize, &Candidate)> = workers.iter().enumerate().collect();
    by_name.sort_by(|a, b| a.1.worker.cmp(&b.1.worker));
    let mut rank = vec![0; workers.len()];
    for (place, (index, _)) in by_name.iter().enumerate() {
        if let Some(rank) = rank.get_mut(*index) {
            *rank = place;
        }
    }
    let mut by_id: Vec<(usize, &Partition)> = partitions.iter().copied().enumerate().collect();
    by_id.sort_by(|a, b| a.1.cmp(b.1));
    let before = |index: usize| previous.get(index).copied().flatten().and_then(|worker| rank.get(worker).copied());

    let sorted_workers: Vec<Candidate> = by_name.iter().map(|(_, candidate)| (*candidate).clone()).collect();
    let sorted_partitions: Vec<&Partition> = by_id.iter().map(|(_, partition)| *partition).collect();
    let sorted_previous: Vec<Option<usize>> = by_id.iter().map(|(index, _)| before(*index)).collect();
    let answer =
        decide(Request { workers: &sorted_workers, partitions: &sorted_partitions, previous: &sorted_previous });

    let mut restored = vec![0; partitions.len()];
    for ((index, _), place) in by_id.iter().zip(answer) {
        if let (Some(slot), Some((worker, _))) = (restored.get_mut(*index), by_name.get(place)) {
            *slot = *worker;
        }
    }
    restored
}
