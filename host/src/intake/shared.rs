//! What the tasks of all partitions share, and what they tell the manager.

use super::feed::Wish;
use super::ration::Ration;
use super::versions::Versions;
use crate::config::SubjectTemplate;
use crate::error::ErrorCode;
use crate::hooks::Hooks;
use crate::nats::{Nats, Objects, Peers, Publisher, Store};
use crate::telemetry::{Counter, Metrics};
use parti_coordination::record::{StateIdentity, StreamIdentity};
use parti_coordination::{Incarnation, Limits, PartitionId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// What every partition's task shares.
pub(super) struct Shared {
    pub(super) records: Store,
    pub(super) objects: Objects,
    pub(super) requests: Semaphore,
    /// Where commits are asked for, if they are bounded.
    pub(super) ration: Option<Ration>,
    /// Held by the one partition that tries a message of which a worker may have died.
    pub(super) turn: Semaphore,
    pub(super) publisher: Publisher,
    pub(super) group: String,
    pub(super) control: Nats,
    pub(super) stream: String,
    pub(super) template: SubjectTemplate,
    pub(super) versions: Versions,
    pub(super) dead_letter: Option<String>,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hooks: Hooks,
    pub(super) origin: Instant,
    pub(super) wishes: mpsc::UnboundedSender<Wish>,
    pub(super) events: mpsc::UnboundedSender<TaskEvent>,
    pub(super) traps: Counter,
    pub(super) timeouts: Counter,
    pub(super) peers: Peers,
}

impl Shared {
    /// Tells the group that a partition is free. Only a hint: whoever waits for it also looks by itself.
    pub(super) async fn hint(&self, partition: &PartitionId) {
        self.peers.announce_release(partition).await;
    }
}

/// What a partition's task tells.
#[derive(Debug)]
pub(super) enum TaskEvent {
    /// Its phase has changed.
    Changed,
    /// The stream was made anew.
    Stream(StreamIdentity),
    /// Something went wrong with the stream.
    Error(ErrorCode, String),
    /// A later run of our own ID owns a partition.
    Superseded(Incarnation),
    /// It has changed the version of the handler.
    Swapped { to: Arc<str>, pause: Duration },
    /// It could not change the version of the handler.
    SwapFailed { partition: PartitionId, to: Arc<str>, why: String },
    /// A version that is to be taken up has been tried beside the data path.
    Rehearsed(Result<usize, String>),
    /// A call of the handler has failed.
    Failed(String),
    /// The record of a partition whose state was refused holds this state now.
    State(PartitionId, Option<StateIdentity>),
    /// It has ended.
    Gone(PartitionId),
}
