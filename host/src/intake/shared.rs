//! What the tasks of all partitions share, and what they tell the manager.

use super::feed::Wish;
use super::front::HandlerOptions;
use super::quarantine::QuarantineRules;
use super::ration::Ration;
use super::rollout::Rehearsed;
use super::versions::Versions;
use crate::config::{KeyPatterns, SubjectTemplate};
use crate::error::ErrorCode;
use crate::hooks::Hooks;
use crate::nats::{Nats, Objects, Peers, Publisher, Store};
use crate::telemetry::{Counter, Gauge, Metrics};
use parti_coordination::record::{PauseRecord, StateIdentity, StreamIdentity};
use parti_coordination::{Incarnation, Limits, Partition, PartitionId, Sequence};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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
    /// When it is fed no more.
    pub(super) quarantine: QuarantineRules,
    /// Calls that it has answered.
    pub(super) answered: AtomicU64,
    /// Whether it is fed no more, as a figure.
    pub(super) quarantined: Gauge,
    /// Whether this worker has partitions that a version of it could be tried on.
    pub(super) has_work: AtomicBool,
    /// Why it is fed no more, if so. The flag spares those who are fed the lock.
    held: (AtomicBool, Mutex<Option<String>>),
}

impl Handling {
    pub(super) fn new(options: HandlerOptions, metrics: &Metrics) -> Self {
        let HandlerOptions { keys, plugin, shared, dead_letter, limits, quarantine } = options;
        let name = plugin.version().name().to_owned();
        Self {
            keys,
            versions: Versions::new(plugin, shared),
            dead_letter,
            limits,
            traps: metrics.plugin_traps.series([&name]),
            timeouts: metrics.plugin_timeouts.series([&name]),
            quarantine,
            answered: AtomicU64::new(0),
            quarantined: metrics.plugin_quarantined.series([&name]),
            has_work: AtomicBool::new(false),
            held: (AtomicBool::new(false), Mutex::new(None)),
        }
    }

    /// It is fed no more, because of this, or again.
    pub(super) fn hold(&self, why: Option<String>) {
        let (is_held, reason) = &self.held;
        is_held.store(why.is_some(), Ordering::Release);
        *reason.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why it is fed no more, if so.
    pub(super) fn held(&self) -> Option<String> {
        let (is_held, why) = &self.held;
        is_held.load(Ordering::Acquire).then(|| why.lock().unwrap_or_else(PoisonError::into_inner).clone())?
    }
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
    /// What the operator has paused. Everything, while that is not known yet.
    pub(super) paused: RwLock<Option<PauseRecord>>,
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

    /// The operator has paused exactly this.
    pub(super) fn pause(&self, pause: PauseRecord) {
        *self.paused.write().unwrap_or_else(PoisonError::into_inner) = Some(pause);
    }

    /// Whether the operator has paused a partition, or may have.
    pub(super) fn is_paused(&self, partition: &PartitionId) -> bool {
        let paused = self.paused.read().unwrap_or_else(PoisonError::into_inner);
        paused.as_ref().is_none_or(|pause| pause.covers(partition))
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
    Rehearsed { of: HandlerIndex, to: Arc<str>, result: Rehearsed },
    /// A call of the handler has failed; one that began with this message, if it was to handle some.
    Failed { of: HandlerIndex, partition: PartitionId, message: Option<Sequence>, why: String },
    /// The handler did not open.
    NotOpened { of: HandlerIndex, partition: PartitionId, why: String },
    /// The record of a partition whose state was refused holds this state now.
    State(PartitionId, Option<StateIdentity>),
    /// It has ended.
    Gone(PartitionId),
}
