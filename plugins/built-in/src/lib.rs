//! What a component needs to answer with a strategy of the host's own: the question in the core's words, the answer in the contract's.

use parti_coordination::strategy::{self, Candidate, Strategy};
use parti_coordination::{Partition, WorkerId};
use parti_guest::{Error, Request, Worker};

/// The answer of a strategy of the core to what a plugin is asked.
///
/// # Errors
/// A question without workers, or with a partition that cannot be. The host asks neither.
pub fn answer(strategy: &impl Strategy, request: &Request) -> Result<Vec<u32>, Error> {
    if request.workers.is_empty() {
        return Err("there is nobody to give a partition to".into());
    }
    let candidate = |worker: &Worker| Candidate {
        worker: WorkerId::parse(&worker.id),
        capacity: worker.capacity,
        labels: worker.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect(),
    };
    let workers: Vec<Candidate> = request.workers.iter().map(candidate).collect();
    let partition = |partition: &parti_guest::Partition| Partition::new(partition.keys.clone(), partition.weight);
    let partitions: Vec<Partition> = request.partitions.iter().map(partition).collect::<Result<_, _>>()?;
    let previous: Vec<Option<usize>> =
        request.previous.iter().map(|owner| owner.and_then(|owner| usize::try_from(owner).ok())).collect();
    let refs: Vec<&Partition> = partitions.iter().collect();
    let answer = strategy.assign(strategy::Request { workers: &workers, partitions: &refs, previous: &previous });
    answer.into_iter().map(|worker| Ok(u32::try_from(worker)?)).collect()
}
