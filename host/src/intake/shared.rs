//! What the tasks of all partitions share, and what they tell the manager.

use super::feed::Wish;
use super::ration::Ration;
use super::versions::Versions;
use crate::config::{KeyPatterns, SubjectTemplate};
use crate::error::ErrorCode;
use crate::hooks::Hooks;
use crate::nats::{Nats, Objects, Peers, Publisher, Store};
use crate::telemetry::{Counter, Metrics};
use parti_coordination::record::{StateIdentity, StreamIdentity};
use parti_coordination::{Incarnation, Limits, Partition, PartitionId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// A handler, and how the partitions that it is for are worked on.
pub(super) struct Handling {
    /// Which partitions it is for, if it is not for all that no other is for.
    pub(super) keys: Option<KeyPatterns>,
    pub(super) versions: Versions,
    pub(super) dead_letter: Option<String>,
    pub(super) limits: Limits,
    pub(super) traps: Counter,
    pub(super) timeouts: Counter,
}

/// Which of the handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HandlerIndex(pub(super) usize);

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
    /// The first that is for a partition handles it.
    pub(super) handlers: Vec<Arc<Handling>>,
    /// Whether what is committed is to be acknowledged.
    pub(super) acknowledges: bool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hooks: Hooks,
    pub(super) origin: Instant,
    pub(super) wishes: mpsc::UnboundedSender<Wish>,
    pub(super) events: mpsc::UnboundedSender<TaskEvent>,
    pub(super) peers: Peers,
}

impl Shared {
    /// The handler of a partition, if one is for it.
    pub(super) fn handler_of(&self, partition: &Partition) -> Option<(HandlerIndex, &Arc<Handling>)> {
        let is_for = |handling: &Handling| handling.keys.as_ref().is_none_or(|keys| keys.matches(partition.keys()));
        let mut handlers = self.handlers.iter().enumerate();
        handlers.find(|(_, handling)| is_for(handling)).map(|(index, handling)| (HandlerIndex(index), handling))
    }

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
    Swapped { of: HandlerIndex, to: Arc<str>, pause: Duration },
    /// It could not change the version of the handler.
    SwapFailed { of: HandlerIndex, partition: PartitionId, to: Arc<str>, why: String },
    /// A version that is to be taken up has been tried beside the data path.
    Rehearsed(HandlerIndex, Result<usize, String>),
    /// A call of the handler has failed.
    Failed(HandlerIndex, String),
    /// The record of a partition whose state was refused holds this state now.
    State(PartitionId, Option<StateIdentity>),
    /// It has ended.
    Gone(PartitionId),
}
