//! Tells the operator's lifecycle hooks what happens to this worker, and never waits for them.
//!
//! A bounded queue and one task with one instance of the plugin. What finds the queue full is dropped and counted; a call that
//! takes too long is stopped; a failed call costs the instance its memory and nothing else. `worker` and `intake` hold a
//! [`Hooks`] and tell it as things happen; without a plugin that costs nothing.

use crate::error::ErrorCode;
use crate::plugin::{CallError, Current, Happening, HooksInstance, HooksPlugin};
use crate::telemetry::{Counter, HookResult, Metrics};
use parti_coordination::{AlertLevel, Partition, PartitionId, WorkerState};
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// How long the hooks may take at the end of a worker to hear what waits for them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who tells the hooks. Cheap to clone; does nothing where there are none.
#[derive(Debug, Clone, Default)]
pub struct Hooks(Option<Queue>);

#[derive(Debug, Clone)]
struct Queue {
    sender: mpsc::Sender<Happening>,
    dropped: Counter,
}

/// The task behind the [`Hooks`] of a worker. Dropped, it ends in the middle of a call.
#[derive(Debug)]
pub struct HooksTask {
    task: AbortOnDropHandle<()>,
    end: oneshot::Sender<()>,
}

impl Hooks {
    /// Begins to tell this plugin, each time the version that is in force, on the runtime in whose context this is called. At most
    /// `queue` happenings wait.
    #[must_use]
    pub fn start(plugin: Current<HooksPlugin>, queue: usize, metrics: Arc<Metrics>) -> (Self, HooksTask) {
        let (sender, inbox) = mpsc::channel(queue.max(1));
        let (end, ending) = oneshot::channel();
        let dropped = metrics.hooks_dropped.clone();
        let teller = Teller { plugin, instance: None, metrics };
        let task = AbortOnDropHandle::new(tokio::spawn(teller.run(inbox, ending)));
        (Self(Some(Queue { sender, dropped })), HooksTask { task, end })
    }

    /// Another assignment is in force, instead of this one.
    pub fn assignment_changed(&self, before: &[Partition], now: &[Partition]) {
        if self.0.is_some() {
            let (added, removed) = (without(now, before), without(before, now));
            self.tell(Happening::AssignmentChanged { added, removed });
        }
    }

    /// The worker does something else.
    pub fn state_changed(&self, from: WorkerState, to: WorkerState) {
        self.tell(Happening::StateChanged { from, to });
    }

    /// Something went wrong that the worker goes on after.
    pub fn error(&self, code: ErrorCode, message: impl Display, partition: Option<&PartitionId>) {
        if self.0.is_some() {
            let (message, partition) = (message.to_string(), partition.cloned());
            self.tell(Happening::Error { code: code.code(), name: code.name(), message, partition });
        }
    }

    /// NATS has been away for so long.
    pub fn degraded_alert(&self, level: AlertLevel, lasted: Duration) {
        self.tell(Happening::DegradedAlert { level, lasted });
    }

    fn tell(&self, happening: Happening) {
        if let Some(queue) = &self.0
            && queue.sender.try_send(happening).is_err()
        {
            queue.dropped.inc();
        }
    }
}

impl HooksTask {
    /// Lets the hooks hear what waits for them, for a second at most. What is told from now on is dropped.
    pub async fn finish(self) {
        // A task that has ended needs no word.
        let _ = self.end.send(());
        if tokio::time::timeout(LAST_WORDS, self.task).await.is_err() {
            tracing::warn!("The hooks have not heard everything before the end of this worker");
        }
    }
}

/// Those of `all` that are not among `others`.
fn without(all: &[Partition], others: &[Partition]) -> Vec<Partition> {
    let others: HashSet<&PartitionId> = others.iter().map(Partition::id).collect();
    all.iter().filter(|partition| !others.contains(partition.id())).cloned().collect()
}

struct Teller {
    plugin: Current<HooksPlugin>,
    /// The instance that is there, and the version that it is of.
    instance: Option<(Arc<HooksPlugin>, HooksInstance)>,
    metrics: Arc<Metrics>,
}

impl Teller {
    async fn run(mut self, mut inbox: mpsc::Receiver<Happening>, mut ending: oneshot::Receiver<()>) {
        let mut ends = false;
        loop {
            let happening = tokio::select! {
                biased;
                happening = inbox.recv() => happening,
                _ = &mut ending, if !ends => {
                    ends = true;
                    inbox.close();
                    continue;
                }
            };
            let Some(happening) = happening else { return };
            let told = self.tell(&happening).await;
            self.metrics.hook_calls.inc(self.note(told));
        }
    }

    async fn tell(&mut self, happening: &Happening) -> Result<(), CallError> {
        let plugin = self.plugin.get();
        // Taken out, so that an instance that failed is gone, as is one of a version before.
        let mut instance = match self.instance.take() {
            Some((of, instance)) if Arc::ptr_eq(&of, &plugin) => instance,
            _ => plugin.open().await?,
        };
        let told = instance.tell(happening).await;
        if matches!(told, Ok(()) | Err(CallError::Refused { .. })) {
            self.instance = Some((plugin, instance));
        }
        told
    }

    fn note(&self, told: Result<(), CallError>) -> HookResult {
        let Err(error) = told else { return HookResult::Ok };
        let plugin = self.plugin.get();
        let plugin = plugin.version().name();
        match error {
            CallError::Refused { reason, .. } => {
                tracing::warn!(plugin, reason, "A hook returned an error");
                return HookResult::Error;
            }
            CallError::Timeout { .. } => self.metrics.plugin_timeouts.series([plugin]).inc(),
            _ => self.metrics.plugin_traps.series([plugin]).inc(),
        }
        tracing::warn!(plugin, %error, "A hook failed; it begins anew");
        HookResult::Failed
    }
}
