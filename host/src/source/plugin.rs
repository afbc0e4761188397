//! Partitions that a plugin lists.

use super::Source;
use crate::plugin::{CallError, Current, ListedPartition, SourcePlugin};
use crate::telemetry::Metrics;
use parti_coordination::{Partition, PartitionId, PartitionList};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Largest weight. The weights of a million partitions still add up within 64 bits.
const MAX_WEIGHT: u64 = 1_000_000_000;

/// Most faults of one list that are named.
const NAMED: usize = 5;

/// A plugin of the kind source, asked on the runtime of guests. Clones are the same one.
#[derive(Clone)]
pub struct PluginSource {
    current: Current<SourcePlugin>,
    guests: Handle,
    metrics: Arc<Metrics>,
}

impl PluginSource {
    /// Asks this plugin, on this runtime.
    #[must_use]
    pub fn new(plugin: Arc<SourcePlugin>, guests: Handle, metrics: Arc<Metrics>) -> Self {
        Self { current: Current::new(plugin), guests, metrics }
    }

    /// Another version is asked from the next listing on.
    pub fn replace(&self, version: Arc<SourcePlugin>) {
        self.current.replace(version);
    }

    /// Asks this version, whether it is in force or not.
    ///
    /// # Errors
    /// It fails, or its list cannot be used.
    pub async fn ask(&self, version: &Arc<SourcePlugin>) -> Result<PartitionList, String> {
        let (plugin, name) = (Arc::clone(version), version.version().name());
        match self.guests.spawn(async move { plugin.list().await }).await {
            Ok(Ok(listed)) => checked(listed).map_err(|faults| format!("plugin {name}: {faults}")),
            Ok(Err(error)) => {
                match &error {
                    CallError::Refused { .. } => {}
                    CallError::Timeout { .. } => self.metrics.plugin_timeouts.series([name]).inc(),
                    _ => self.metrics.plugin_traps.series([name]).inc(),
                }
                Err(error.to_string())
            }
            // The process ends, or a panic in a library was reported where it happened.
            Err(error) => Err(format!("the listing did not end: {error}")),
        }
    }
}

impl Source for PluginSource {
    fn list(&self) -> Pin<Box<dyn Future<Output = Result<PartitionList, String>> + Send + '_>> {
        Box::pin(async move { self.ask(&self.current.get()).await })
    }
}

/// The list, if every entry is a partition and none comes twice; or what is wrong with it.
pub(crate) fn checked(listed: Vec<ListedPartition>) -> Result<PartitionList, String> {
    let (mut partitions, mut faults) = (Vec::with_capacity(listed.len()), Vec::new());
    let mut ids: HashSet<PartitionId> = HashSet::with_capacity(listed.len());
    for (index, ListedPartition { keys, weight }) in listed.into_iter().enumerate() {
        if !(1..=MAX_WEIGHT).contains(&weight) {
            faults.push(format!(
                "entry {index} ({}) has the weight {weight}, and weights are from 1 to {MAX_WEIGHT}",
                shown(&keys)
            ));
            continue;
        }
        match Partition::new(keys.clone(), weight) {
            Ok(partition) if !ids.insert(partition.id().clone()) => {
                faults.push(format!("entry {index} is partition {} for the second time", partition.id()));
            }
            Ok(partition) => partitions.push(partition),
            Err(error) => faults.push(format!("entry {index} ({}) is no partition: {error}", shown(&keys))),
        }
    }
    if faults.is_empty() {
        return Ok(partitions);
    }
    let more = faults.len().saturating_sub(NAMED);
    faults.truncate(NAMED);
    let mut text = format!("its list is refused: {}", faults.join("; "));
    if more > 0 {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "; and {more} more");
    }
    Err(text)
}

/// Keys as a message shows them.
fn shown(keys: &[String]) -> String {
    let mut text = format!("{keys:?}");
    if text.len() > 200 {
        text.truncate(text.floor_char_boundary(200));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(keys: &[&str], weight: u64) -> ListedPartition {
        ListedPartition { keys: keys.iter().map(|key| (*key).to_owned()).collect(), weight }
    }

    #[test]
    fn a_list_is_taken_as_a_whole_or_refused_with_what_is_wrong_with_each_entry() {
        let good = vec![listed(&["a", "0"], 100), listed(&["a", "1"], 1)];
        assert_eq!(checked(good.clone()).unwrap().len(), 2);
        let bad = [
            (listed(&[], 1), "at least one key"),
            (listed(&["a", ""], 1), "key 1 of the partition is empty"),
            (listed(&["b"], 0), "has the weight 0"),
            (listed(&["b"], u64::MAX), "weights are from 1 to 1000000000"),
            (listed(&["a", "1"], 7), "entry 2 is partition a.1 for the second time"),
        ];
        for (entry, why) in bad {
            let refused = checked([good.clone(), vec![entry]].concat()).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let refused = checked(vec![listed(&["same"], 1); 1_000]).unwrap_err();
        assert!(refused.contains("and 994 more") && refused.len() < 500, "{refused}");
    }
}
