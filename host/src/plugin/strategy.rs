//! Assignment strategies: one compiled version of a plugin, asked with a new instance each time.

use super::bindings::{strategy, wit};
use super::cell::Cell;
use super::error::CallError;
use super::host::Scope;
use super::version::Plugin;
use parti_coordination::record::Lifecycle;
use parti_coordination::strategy::Question;
use tokio::time::timeout_at;

/// One compiled version of an assignment strategy.
pub type StrategyPlugin = Plugin<strategy::GuestIndices>;

impl Plugin<strategy::GuestIndices> {
    /// Ask a new instance. Beginning and answering together take no longer than one call may. The answer is not checked: the core
    /// does that.
    ///
    /// # Errors
    /// The guest's own error, or a failed call.
    pub async fn assign(&self, question: &Question) -> Result<Vec<usize>, CallError> {
        let mut cell = Cell::new(self.version(), Scope::default());
        let until = cell.begin()?;
        let asking = async {
            let instance = self.version().pre().instantiate_async(&mut cell.store).await?;
            let guest = self.exports().load(&mut cell.store, &instance)?;
            let Lent { labels, keys, previous } = Lent::of(question);
            let workers: Vec<_> = (question.workers.iter().zip(&labels))
                .map(|(worker, labels)| strategy::Worker {
                    id: worker.worker.as_str(),
                    capacity: worker.capacity,
                    labels,
                })
                .collect();
            let partitions: Vec<_> = (question.partitions.iter().zip(&keys))
                .map(|(p, keys)| wit::Partition { id: p.id().as_str(), keys, weight: p.weight() })
                .collect();
            let request = strategy::Request {
                reason: question.lifecycle.into(),
                orphans_only: question.orphans_only,
                workers: &workers,
                partitions: &partitions,
                previous: &previous,
            };
            guest.call_assign(&mut cell.store, request).await
        };
        let answer = timeout_at(until.into(), asking).await;
        let (indices, _) = cell.end(answer)?;
        let indices = indices.map_err(|reason| cell.refused("assign the partitions", reason))?;
        // An index that does not fit here is one that no worker has.
        Ok(indices.into_iter().map(|index| usize::try_from(index).unwrap_or(usize::MAX)).collect())
    }
}

/// What a question looks like to the guest, as far as it must be made for it.
struct Lent<'a> {
    labels: Vec<Vec<strategy::Label<'a>>>,
    keys: Vec<Vec<&'a str>>,
    previous: Vec<Option<u32>>,
}

impl<'a> Lent<'a> {
    fn of(question: &'a Question) -> Self {
        let label = |(name, value): (&'a String, &'a String)| strategy::Label { name, value };
        Self {
            labels: question.workers.iter().map(|worker| worker.labels.iter().map(label).collect()).collect(),
            keys: question.partitions.iter().map(|p| p.keys().iter().map(String::as_str).collect()).collect(),
            previous: question.previous.iter().map(|before| before.and_then(|at| u32::try_from(at).ok())).collect(),
        }
    }
}

impl From<Lifecycle> for strategy::Reason<'_> {
    fn from(lifecycle: Lifecycle) -> Self {
        match lifecycle {
            Lifecycle::ColdStart => Self::ColdStart,
            Lifecycle::PlannedScale => Self::PlannedScale,
            Lifecycle::Emergency => Self::Emergency,
            Lifecycle::Refresh => Self::Refresh,
            Lifecycle::Rebalance => Self::Rebalance,
        }
    }
}
