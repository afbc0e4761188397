//! Where partitions come from. The leader lists them; what they mean is decided in the core.

mod plugin;

pub use plugin::PluginSource;
pub(crate) use plugin::checked;

use parti_coordination::{Partition, PartitionList};
use std::future::Future;
use std::pin::Pin;

/// Lists the partitions that exist.
pub trait Source: Send + Sync {
    /// Every partition, in any order. An error keeps the last list in force; its text is for the operator.
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<PartitionList, String>> + Send + '_>>;
}

/// The partitions of the configuration, fixed at start.
#[derive(Debug, Clone)]
pub struct StaticSource {
    partitions: PartitionList,
}

impl StaticSource {
    /// Exactly these partitions.
    #[must_use]
    pub fn new(partitions: Vec<Partition>) -> Self {
        Self { partitions }
    }
}

impl Source for StaticSource {
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<PartitionList, String>> + Send + '_>> {
        let partitions = self.partitions.clone();
        Box::pin(async move { Ok(partitions) })
    }
}
