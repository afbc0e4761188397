//! What a fleet leaves in its buckets, read as another program would read it.

use crate::wait::eventually;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store};
use futures::{StreamExt as _, TryStreamExt as _};
use parti_coordination::record::{AssignmentRecord, OwnershipRecord, decode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// The buckets of the group `default`.
pub struct Records {
    /// Bucket of the claimed worker IDs.
    pub stable_ids: Store,
    /// Bucket of the leader's lease.
    pub election: Store,
    /// Bucket of the heartbeats.
    pub heartbeats: Store,
    /// Bucket of the plan and the assignments.
    pub assignments: Store,
    /// Bucket of the ownership records.
    pub ownership: Store,
}

async fn open(context: &Context, bucket: &str) -> Store {
    let what = format!("bucket {bucket} exists");
    eventually(&what, async || context.get_key_value(bucket).await.map_err(|error| error.to_string())).await
}

/// The value of a key; nothing if it was deleted or has expired.
async fn value(store: &Store, key: &str) -> Option<Vec<u8>> {
    let what = format!("{key} can be read");
    let entry = eventually(&what, async || store.entry(key).await.map_err(|error| error.to_string())).await?;
    (entry.operation == Operation::Put && !entry.value.is_empty()).then(|| entry.value.into())
}

impl Records {
    /// Waits until the fleet has created them.
    pub async fn open(context: &Context) -> Self {
        Self {
            stable_ids: open(context, "parti-stable-ids").await,
            election: open(context, "parti-election").await,
            heartbeats: open(context, "parti-heartbeats").await,
            assignments: open(context, "parti-assignments").await,
            ownership: open(context, "parti-ownership").await,
        }
    }

    /// Which worker the plan gives each partition to. Panics if it gives one to two.
    pub async fn plan(&self) -> BTreeMap<String, String> {
        let keys: Vec<String> = eventually("the assignments can be listed", async || {
            let keys = self.assignments.keys().await.map_err(|error| error.to_string())?;
            keys.try_collect().await.map_err(|error: async_nats::error::Error<_>| error.to_string())
        })
        .await;
        let mut plan = BTreeMap::new();
        for worker in keys.iter().filter_map(|key| key.strip_prefix("assignment.")) {
            let Some(value) = value(&self.assignments, &format!("assignment.{worker}")).await else { continue };
            let assignment: AssignmentRecord = decode(&value).expect("an assignment");
            for partition in assignment.partitions {
                let before = plan.insert(partition.id().to_string(), worker.to_owned());
                assert_eq!(before, None, "{} is assigned twice", partition.id());
            }
        }
        plan
    }

    /// Whether a worker ID is held.
    pub async fn is_claimed(&self, worker: &str) -> bool {
        value(&self.stable_ids, worker).await.is_some()
    }

    /// The ownership record of a partition, if there is one.
    pub async fn ownership(&self, partition: &str) -> Option<OwnershipRecord> {
        let value = value(&self.ownership, partition).await?;
        Some(decode(&value).unwrap_or_else(|error| panic!("the record of {partition}: {error}")))
    }

    /// Waits until everything of the partition up to `sequence` is committed, and gives the record.
    pub async fn committed(&self, partition: &str, sequence: u64) -> OwnershipRecord {
        eventually(&format!("{partition} is committed up to {sequence}"), async || {
            match self.ownership(partition).await {
                Some(record) if record.position.0 >= sequence => Ok(record),
                Some(record) => Err(format!("it is at {}", record.position)),
                None => Err("it has no record".to_owned()),
            }
        })
        .await
    }

    /// Notes every ownership record that is written from now on.
    pub async fn note_ownership(&self) -> OwnershipNotes {
        let mut watch = self.ownership.watch_all().await.expect("a watch");
        let notes = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&notes);
        let task = tokio::spawn(async move {
            while let Some(Ok(entry)) = watch.next().await {
                if let Ok(record) = decode(&entry.value) {
                    written.lock().unwrap_or_else(PoisonError::into_inner).push((entry.key, record));
                }
            }
        });
        OwnershipNotes { notes, task }
    }
}

/// Ownership records in the order in which they were written.
pub struct OwnershipNotes {
    notes: Arc<Mutex<Vec<(String, OwnershipRecord)>>>,
    task: JoinHandle<()>,
}

impl OwnershipNotes {
    /// What was written so far: partition and record.
    #[must_use]
    pub fn so_far(&self) -> Vec<(String, OwnershipRecord)> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OwnershipNotes {
    fn drop(&mut self) {
        self.task.abort();
    }
}
