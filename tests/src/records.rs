//! What a fleet leaves in its buckets, read as another program would read it.

use crate::wait::eventually;
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Operation, Store, Watch};
use async_nats::jetstream::object_store::ObjectStore;
use futures::{StreamExt as _, TryStreamExt as _};
use parti_coordination::record::{
    AssignmentRecord, HeartbeatRecord, LeaderRecord, OwnershipRecord, PlanRecord, decode,
};
use parti_coordination::{Term, Version};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt as _;
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
    /// Where the snapshots are that are too large for a record.
    context: Context,
}

async fn open(context: &Context, bucket: &str) -> Store {
    let what = format!("bucket {bucket} exists");
    eventually(&what, async || context.get_key_value(bucket).await.map_err(|error| error.to_string())).await
}

async fn open_objects(context: &Context, bucket: &str) -> ObjectStore {
    let what = format!("object store {bucket} exists");
    eventually(&what, async || context.get_object_store(bucket).await.map_err(|error| error.to_string())).await
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
            context: context.clone(),
        }
    }

    /// Which worker the plan gives each partition to. Panics if it goes on giving one to two: a plan is written assignment by
    /// assignment, and may be read in between.
    pub async fn plan(&self) -> BTreeMap<String, String> {
        eventually("the assignments agree", async || self.read_plan().await).await
    }

    async fn read_plan(&self) -> Result<BTreeMap<String, String>, String> {
        let keys = self.assignments.keys().await.map_err(|error| error.to_string())?;
        let keys: Vec<String> = keys.try_collect().await.map_err(|error| error.to_string())?;
        // Tests may have put others' keys there, even such as cannot be read back.
        let is_workers = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let mut plan = BTreeMap::new();
        for worker in keys.iter().filter_map(|key| key.strip_prefix("assignment.")).filter(is_workers) {
            let Some(value) = value(&self.assignments, &format!("assignment.{worker}")).await else { continue };
            let assignment: AssignmentRecord = decode(&value).expect("an assignment");
            for partition in assignment.partitions {
                if let Some(other) = plan.insert(partition.id().to_string(), worker.to_owned()) {
                    return Err(format!("{} is assigned to {other} and to {worker}", partition.id()));
                }
            }
        }
        Ok(plan)
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

    /// The names of the objects in the object store of large snapshots, sorted.
    pub async fn objects(&self) -> Vec<String> {
        let snapshots = open_objects(&self.context, "parti-snapshots").await;
        let infos: Vec<_> = snapshots.list().await.expect("a list").try_collect().await.expect("objects");
        let mut names: Vec<String> = infos.into_iter().map(|info| info.name).collect();
        names.sort();
        names
    }

    /// The bytes of an object.
    pub async fn object(&self, name: &str) -> Vec<u8> {
        let snapshots = open_objects(&self.context, "parti-snapshots").await;
        let mut object = snapshots.get(name).await.unwrap_or_else(|error| panic!("object {name}: {error}"));
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.unwrap_or_else(|error| panic!("object {name}: {error}"));
        bytes
    }

    /// The head of a worker's assignment.
    pub async fn assignment(&self, worker: &str) -> AssignmentRecord {
        let value = value(&self.assignments, &format!("assignment.{worker}")).await.expect("an assignment");
        decode(&value).unwrap_or_else(|error| panic!("the assignment: {error}"))
    }

    /// A worker's last sign of life.
    pub async fn heartbeat(&self, worker: &str) -> HeartbeatRecord {
        let value = value(&self.heartbeats, &format!("heartbeat.{worker}")).await.expect("a heartbeat");
        decode(&value).unwrap_or_else(|error| panic!("the heartbeat: {error}"))
    }

    /// The plan's head.
    pub async fn head(&self) -> PlanRecord {
        let value = value(&self.assignments, "plan").await.expect("a plan");
        decode(&value).unwrap_or_else(|error| panic!("the plan: {error}"))
    }

    /// The leader's lease, unless it has expired.
    pub async fn lease(&self) -> Option<LeaderRecord> {
        let value = value(&self.election, "leader").await?;
        Some(decode(&value).unwrap_or_else(|error| panic!("the lease: {error}")))
    }

    /// Who owns what by the plan and in fact.
    pub async fn standing(&self) -> Standing {
        let (head, owners) = (self.head().await, self.plan().await);
        let epochs = self.epochs(owners.keys()).await;
        Standing { head, owners, epochs }
    }

    /// The worker of each of these partitions and the number of its ownership, by the records.
    pub async fn epochs(&self, partitions: impl Iterator<Item = &String>) -> BTreeMap<String, (String, u64)> {
        let mut epochs = BTreeMap::new();
        for partition in partitions {
            let record = self.ownership(partition).await.unwrap_or_else(|| panic!("{partition} has no record"));
            epochs.insert(partition.clone(), (record.owner.worker.to_string(), record.epoch.0));
        }
        epochs
    }

    /// The worker of this partition and the number of its ownership, by the record.
    pub async fn standing_of(&self, partition: &str) -> (String, u64) {
        let mut epochs = self.epochs(std::iter::once(&partition.to_owned())).await;
        epochs.remove(partition).expect("the partition asked for")
    }

    /// Notes every ownership record that is written from now on.
    pub async fn note_ownership(&self) -> Notes<OwnershipRecord> {
        Notes::of(self.ownership.watch_all().await.expect("a watch"))
    }

    /// Notes every plan that is written from now on.
    pub async fn note_plans(&self) -> Notes<PlanRecord> {
        Notes::of(self.assignments.watch("plan").await.expect("a watch"))
    }
}

/// Who owns what at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The plan's head.
    pub head: PlanRecord,
    /// Each partition's worker, by the assignments.
    pub owners: BTreeMap<String, String>,
    /// Each partition's worker and the number of its ownership, by the records.
    pub epochs: BTreeMap<String, (String, u64)>,
}

impl Standing {
    /// The same without what every new leader writes: who it is, its term, the next version, and which assignments it rewrites.
    #[must_use]
    pub fn under_any_leader(mut self) -> Self {
        (self.head.term, self.head.leader, self.head.version) = (Term(0), None, Version(0));
        self.head.changed.clear();
        self
    }
}

/// Records in the order in which they were written.
pub struct Notes<T> {
    notes: Arc<Mutex<Vec<(String, T)>>>,
    task: JoinHandle<()>,
}

impl<T: Clone + DeserializeOwned + Send + 'static> Notes<T> {
    fn of(mut watch: Watch) -> Self {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&notes);
        let task = tokio::spawn(async move {
            while let Some(Ok(entry)) = watch.next().await {
                if let Ok(record) = decode(&entry.value) {
                    written.lock().unwrap_or_else(PoisonError::into_inner).push((entry.key, record));
                }
            }
        });
        Self { notes, task }
    }

    /// What was written so far: key and record.
    #[must_use]
    pub fn so_far(&self) -> Vec<(String, T)> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T> Drop for Notes<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
