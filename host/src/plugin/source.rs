//! Partition sources: one compiled version of a plugin, asked with a new instance each time.

use super::bindings::source;
use super::cell::Cell;
use super::error::CallError;
use super::host::Scope;
use super::version::Plugin;
use tokio::time::timeout_at;

/// One compiled version of a partition source.
pub type SourcePlugin = Plugin<source::GuestIndices>;

/// A partition as a source lists it: nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPartition {
    /// What it is called.
    pub keys: Vec<String>,
    /// Its relative processing cost.
    pub weight: u64,
}

impl Plugin<source::GuestIndices> {
    /// Ask a new instance for the partitions. Beginning and answering together take no longer than one call may.
    ///
    /// # Errors
    /// The guest's own error, or a failed call.
    pub async fn list(&self) -> Result<Vec<ListedPartition>, CallError> {
        let mut cell = Cell::new(self.version(), Scope::default());
        let until = cell.begin()?;
        let listing = async {
            let instance = self.version().pre().instantiate_async(&mut cell.store).await?;
            self.exports().load(&mut cell.store, &instance)?.call_list_partitions(&mut cell.store).await
        };
        let answer = timeout_at(until.into(), listing).await;
        let (listed, _) = cell.end(answer)?;
        let listed = listed.map_err(|reason| cell.refused("list partitions", reason))?;
        Ok(listed
            .into_iter()
            .map(|partition| ListedPartition { keys: partition.keys, weight: partition.weight })
            .collect())
    }
}
