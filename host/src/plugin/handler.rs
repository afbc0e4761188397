//! Message handlers: one compiled version of a plugin, and its instances, one per partition.

use super::bindings::{Guest, MessageHandlerPre, wit};
use super::digest::Digest;
use super::engine::{EPOCH, PluginEngine};
use super::error::{CallError, LoadError};
use super::host::{Exceeded, Failure, HostState, PluginConfig, PluginStats, Publish, Shared};
use super::inspect::{Inspection, PluginKind, inspect};
use super::limits::Limits;
use parti_coordination::{CloseReason, Completed, OpenReason, Outcome, Partition, Sequence, Snapshot};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;
use wasmtime::component::{Component, ResourceAny};
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Bytes that a guest may hand to the host in one call or answer: a snapshot or a batch's output of 8 MiB, twice.
const MAX_HANDED_BYTES: usize = 16 << 20;

/// Component handles (resources) that one instance may hold. A handler holds one, language runtimes a few dozen.
const MAX_HANDLES: usize = 10_000;

/// Bytes kept of a text by which a guest says why: it travels in headers, records and logs.
const MAX_REASON_BYTES: usize = 4 << 10;

/// What an operator sets for a plugin.
#[derive(Debug, Clone, Default)]
pub struct PluginSettings {
    /// What the guest reads through `parti:plugin/config`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What the guest may use.
    pub limits: Limits,
}

/// A message for a handler, wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The subject it was published to.
    pub subject: &'a str,
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the stream stored it: nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// Its headers, in order; a name may come several times.
    pub headers: Vec<(Cow<'a, str>, &'a [u8])>,
    /// Its content.
    pub payload: &'a [u8],
}

/// What a handler made of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The completed prefix and the retry.
    pub outcome: Outcome,
    /// What to publish, in order. Also names causes outside the completed prefix; what they caused is not to be sent.
    pub publishes: Vec<Publish>,
}

/// One compiled version of a message handler.
pub struct HandlerPlugin {
    shared: Arc<Shared>,
    digest: Digest,
    inspection: Inspection,
    size: u64,
    compile_time: Duration,
    pre: MessageHandlerPre<HostState>,
}

impl HandlerPlugin {
    /// Check and compile a component. Takes the processor for 0.1 s (Rust) to 12 s (JavaScript, Python): call it where
    /// blocking is allowed, never on the data path.
    ///
    /// # Errors
    /// A component that is too large, not valid, of no known world, or in need of what this host does not offer.
    pub fn load(
        engine: &PluginEngine,
        name: &str,
        bytes: &[u8],
        settings: PluginSettings,
    ) -> Result<Arc<Self>, LoadError> {
        let plugin: Arc<str> = name.into();
        let (size, limit) = (bytes.len() as u64, settings.limits.component_bytes);
        if size > limit {
            return Err(LoadError::TooLarge { plugin, size, limit });
        }
        let inspection = inspect(name, bytes)?;
        let begun = Instant::now();
        let component = Component::from_binary(engine.wasmtime(), bytes)
            .map_err(|error| LoadError::Compile { plugin: plugin.clone(), detail: format!("{error:#}") })?;
        let pre = engine
            .linker()
            .instantiate_pre(&component)
            .and_then(MessageHandlerPre::new)
            .map_err(|error| LoadError::Mismatch { plugin: plugin.clone(), detail: format!("{error:#}") })?;
        Ok(Arc::new(Self {
            shared: Arc::new(Shared::new(plugin, settings.limits, PluginConfig::new(settings.config))),
            digest: Digest::of(bytes),
            inspection,
            size,
            compile_time: begun.elapsed(),
            pre,
        }))
    }

    /// The name it is configured under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.plugin
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> PluginKind {
        self.inspection.kind
    }

    /// The interfaces it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.inspection.imports
    }

    /// What identifies this version.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes of the component.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How long compiling took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// What its instances may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What its instances read as configuration: one JSON object.
    #[must_use]
    pub fn config(&self) -> &serde_json::Value {
        self.shared.config.value()
    }

    /// Figures over all its instances.
    #[must_use]
    pub fn stats(&self) -> PluginStats {
        self.shared.stats()
    }

    /// Open an instance for a partition.
    ///
    /// # Errors
    /// The guest's refusal, for example of a snapshot in a format it does not know, or a failed call.
    pub async fn open(
        &self,
        partition: &Partition,
        why: OpenReason,
        snapshot: Option<&Snapshot>,
    ) -> Result<HandlerInstance, CallError> {
        let mut cell = Cell::new(self, partition);
        let until = cell.begin()?;
        let keys: Vec<&str> = partition.keys().iter().map(String::as_str).collect();
        let opening = async {
            let guest = self.pre.instantiate_async(&mut cell.store).await?.parti_plugin_handler().clone();
            let partition = wit::Partition { id: partition.id().as_str(), keys: &keys, weight: partition.weight() };
            let snapshot =
                snapshot.map(|snapshot| wit::SnapshotParam { format: &snapshot.format, data: &snapshot.data });
            let opened = guest.partition_handler().call_open(&mut cell.store, partition, why.into(), snapshot).await?;
            Ok(opened.map(|handler| (guest, handler)))
        };
        let answer = timeout_at(until.into(), opening).await;
        let (opened, _) = cell.end(answer)?;
        let (guest, handler) = opened.map_err(|reason| cell.refused("open", reason))?;
        Ok(HandlerInstance { cell, guest, handler })
    }
}

impl std::fmt::Debug for HandlerPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerPlugin")
            .field("name", &self.name())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// The handler of one partition: one WebAssembly instance with a memory of its own.
///
/// After any [`CallError`] but a refusal, and after a call's future was dropped before its end, the instance is poisoned:
/// the guest's state may be half changed. Dropping it is cheap and runs no guest code.
pub struct HandlerInstance {
    cell: Cell,
    guest: Guest,
    handler: ResourceAny,
}

impl HandlerInstance {
    /// Let the guest handle messages, in order. They are copied once, into the guest's memory.
    ///
    /// # Errors
    /// A failed call; a wrong answer, with which nothing counts as handled.
    pub async fn handle(&mut self, batch: &[Message<'_>]) -> Result<Handled, CallError> {
        let until = self.cell.begin()?;
        self.cell.store.data_mut().begin_batch(batch.iter().map(|message| message.sequence));
        let headers: Vec<wit::HeaderParam<'_>> = batch
            .iter()
            .flat_map(|message| &message.headers)
            .map(|(name, value)| wit::HeaderParam { name, value })
            .collect();
        let mut rest = headers.as_slice();
        let messages: Vec<wit::Message<'_>> = batch
            .iter()
            .map(|message| {
                let (headers, others) = rest.split_at(message.headers.len());
                rest = others;
                wit::Message {
                    subject: message.subject,
                    sequence: message.sequence.0,
                    timestamp_ns: message.timestamp_ns,
                    attempt: message.attempt,
                    headers,
                    payload: message.payload,
                }
            })
            .collect();
        let guest = self.guest.partition_handler();
        let call = guest.call_handle(&mut self.cell.store, self.handler, &messages);
        let answer = timeout_at(until.into(), call).await;
        let (outcome, publishes) = self.cell.end(answer)?;
        let outcome = accept(outcome, batch.len()).map_err(|detail| self.cell.wrong(detail))?;
        Ok(Handled { outcome, publishes })
    }

    /// The state as of the last completed message; `None` = stateless.
    ///
    /// # Errors
    /// The guest's refusal, after which the instance goes on, or a failed call.
    pub async fn snapshot(&mut self) -> Result<Option<Snapshot>, CallError> {
        let until = self.cell.begin()?;
        let guest = self.guest.partition_handler();
        let call = guest.call_snapshot(&mut self.cell.store, self.handler);
        let answer = timeout_at(until.into(), call).await;
        match self.cell.end(answer)?.0 {
            Ok(snapshot) => Ok(snapshot.map(|snapshot| Snapshot { format: snapshot.format, data: snapshot.data })),
            Err(reason) => Err(self.cell.refused("snapshot", reason)),
        }
    }

    /// Tell the guest that it ends, and why.
    ///
    /// # Errors
    /// A failed call. The instance is gone all the same.
    pub async fn close(mut self, why: CloseReason) -> Result<(), CallError> {
        let until = self.cell.begin()?;
        let guest = self.guest.partition_handler();
        let call = guest.call_close(&mut self.cell.store, self.handler, why.into());
        let answer = timeout_at(until.into(), call).await;
        self.cell.end(answer).map(|_| ())
    }
}

impl std::fmt::Debug for HandlerInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerInstance")
            .field("plugin", &self.cell.shared.plugin)
            .field("poisoned", &self.cell.poisoned)
            .finish_non_exhaustive()
    }
}

/// The trap of a guest that computes beyond its deadline.
#[derive(Debug, thiserror::Error)]
#[error("out of time")]
struct OutOfTime;

/// A store that holds one instance, and the rules of every call into it.
struct Cell {
    store: Store<HostState>,
    shared: Arc<Shared>,
    /// Set before a call and cleared after a good answer, so that a call abandoned midway leaves it set.
    poisoned: bool,
}

impl Cell {
    fn new(plugin: &HandlerPlugin, partition: &Partition) -> Self {
        let shared = plugin.shared.clone();
        let mut store = Store::new(plugin.pre.engine(), HostState::new(shared.clone(), partition.id()));
        store.limiter(|state| &mut state.quota);
        store.set_hostcall_fuel(MAX_HANDED_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        store.epoch_deadline_callback(|context| {
            if Instant::now() >= context.data().deadline {
                return Err(OutOfTime.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        Self { store, shared, poisoned: false }
    }

    /// Begin a call. Returns when to abandon it: a little after the guest's own deadline, so that a guest that computes is
    /// stopped by its epoch, which tells where it was, and only one that waits in a host call is abandoned.
    fn begin(&mut self) -> Result<Instant, CallError> {
        if self.poisoned {
            return Err(CallError::Poisoned { plugin: self.shared.plugin.clone() });
        }
        self.poisoned = true;
        let deadline = Instant::now() + self.shared.limits.call_timeout;
        self.store.data_mut().begin(deadline);
        self.store.set_epoch_deadline(1);
        Ok(deadline + 3 * EPOCH)
    }

    /// End a call: the guest's answer and what it published, or why there is none.
    fn end<T>(&mut self, answer: Result<wasmtime::Result<T>, Elapsed>) -> Result<(T, Vec<Publish>), CallError> {
        let (publishes, said) = self.store.data_mut().end();
        match answer {
            Ok(Ok(answer)) => {
                self.poisoned = false;
                Ok((answer, publishes))
            }
            Ok(Err(error)) => Err(self.failed(&error, &said)),
            Err(Elapsed { .. }) => Err(self.timed_out(String::new())),
        }
    }

    fn failed(&self, error: &wasmtime::Error, said: &str) -> CallError {
        let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
        if error.downcast_ref::<OutOfTime>().is_some() {
            return self.timed_out(backtrace);
        }
        let plugin = self.shared.plugin.clone();
        let limits = &self.shared.limits;
        match self.store.data().quota.exceeded() {
            Some(exceeded) => {
                self.shared.count(Failure::OverLimit);
                match exceeded {
                    Exceeded::Memory(wanted) => CallError::Memory { plugin, limit: limits.memory, wanted },
                    Exceeded::Tables(wanted) => CallError::Tables { plugin, limit: limits.table_elements, wanted },
                }
            }
            None => {
                self.shared.count(Failure::Trap);
                CallError::Trap { plugin, message: describe(error, said), backtrace }
            }
        }
    }

    fn timed_out(&self, backtrace: String) -> CallError {
        self.shared.count(Failure::Timeout);
        CallError::Timeout { plugin: self.shared.plugin.clone(), limit: self.shared.limits.call_timeout, backtrace }
    }

    fn wrong(&mut self, detail: String) -> CallError {
        self.poisoned = true;
        self.shared.count(Failure::WrongAnswer);
        CallError::WrongAnswer { plugin: self.shared.plugin.clone(), detail }
    }

    fn refused(&self, call: &'static str, reason: String) -> CallError {
        CallError::Refused { plugin: self.shared.plugin.clone(), call, reason: shortened(reason) }
    }
}

/// What a trap was, with what the guest said last.
fn describe(error: &wasmtime::Error, said: &str) -> String {
    let trap = if let Some(exit) = error.downcast_ref::<I32Exit>() {
        format!("it called exit({})", exit.0)
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        trap.to_string()
    } else {
        error.root_cause().to_string()
    };
    if said.is_empty() { trap } else { format!("{trap}; it wrote: {said}") }
}

/// The outcome in the core's terms, if it fits a batch of `length` messages.
fn accept(outcome: wit::Outcome, length: usize) -> Result<Outcome, String> {
    let done = outcome.done.len();
    if done > length {
        return Err(format!("{done} messages done in a batch of {length}"));
    }
    if outcome.retry.is_some() && done == length {
        return Err(format!("a retry, but all {length} messages of the batch are done"));
    }
    Ok(Outcome {
        done: outcome.done.into_iter().map(Into::into).collect(),
        retry: outcome.retry.map(|delay| delay.map(Duration::from_millis)),
    })
}

fn shortened(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

impl From<wit::Completed> for Completed {
    fn from(completed: wit::Completed) -> Self {
        match completed {
            wit::Completed::Ack => Self::Ack,
            wit::Completed::Reject(reason) => Self::Reject(shortened(reason)),
        }
    }
}

impl From<OpenReason> for wit::OpenReason {
    fn from(why: OpenReason) -> Self {
        match why {
            OpenReason::Assigned => Self::Assigned,
            OpenReason::Recovered => Self::Recovered,
            OpenReason::Swapped => Self::Swapped,
        }
    }
}

impl From<CloseReason> for wit::CloseReason {
    fn from(why: CloseReason) -> Self {
        match why {
            CloseReason::Revoked => Self::Revoked,
            CloseReason::Swapped => Self::Swapped,
            CloseReason::Lost => Self::Lost,
            CloseReason::Shutdown => Self::Shutdown,
        }
    }
}
