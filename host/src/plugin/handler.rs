//! Message handlers: one compiled version of a plugin, and its instances.

use super::bindings::{handler, wit};
use super::cell::{Cell, kept_reason};
use super::error::CallError;
use super::host::{Ownership, Publish, Scope, trace_parent};
use super::instances::Tenancy;
use super::version::{Plugin, PluginVersion};
use parti_coordination::{CloseReason, Completed, OpenReason, Outcome, Partition, Sequence, Snapshot};
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::timeout_at;
use wasmtime::component::ResourceAny;

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

impl Message<'_> {
    /// Its W3C trace context, if it has a valid one.
    fn trace_parent(&self) -> Option<&str> {
        let header = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
        header.and_then(|(_, value)| trace_parent(value))
    }
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
pub type HandlerPlugin = Plugin<handler::GuestIndices>;

impl Plugin<handler::GuestIndices> {
    /// Open an instance for a partition alone.
    ///
    /// # Errors
    /// The guest's refusal, for example of a snapshot in a format it does not know, or a failed call.
    pub async fn open(
        &self,
        partition: &Partition,
        why: OpenReason,
        snapshot: Option<&Snapshot>,
        ownership: &Ownership,
    ) -> Result<HandlerInstance, CallError> {
        let mut house = House::new(self.version(), Scope::of(partition.id(), ownership));
        let handler = house.open(self, partition, why, snapshot).await?;
        Ok(HandlerInstance { place: Place::Own(Box::new(house), handler) })
    }
}

/// The handler of one partition: in a WebAssembly instance with a memory of its own, or in one that several partitions share.
///
/// After any [`CallError`] but a refusal, and after a call's future was dropped before its end, the instance is poisoned:
/// the guest's state may be half changed. Dropping it is cheap and runs no guest code.
pub struct HandlerInstance {
    pub(super) place: Place,
}

/// Where the handler of a partition lives.
pub(super) enum Place {
    Own(Box<House>, ResourceAny),
    Shared(Tenancy),
}

impl HandlerInstance {
    /// Let the guest handle messages, in order. They are copied once, into the guest's memory.
    ///
    /// # Errors
    /// A failed call; a wrong answer, with which nothing counts as handled.
    pub async fn handle(&mut self, batch: &[Message<'_>]) -> Result<Handled, CallError> {
        match &mut self.place {
            Place::Own(house, handler) => house.handle(*handler, batch).await,
            Place::Shared(tenancy) => {
                let (mut house, handler) = tenancy.enter().await?;
                house.handle(handler, batch).await
            }
        }
    }

    /// The state as of the last completed message; `None` = stateless.
    ///
    /// # Errors
    /// The guest's refusal, after which the instance goes on, or a failed call.
    pub async fn snapshot(&mut self) -> Result<Option<Snapshot>, CallError> {
        match &mut self.place {
            Place::Own(house, handler) => house.snapshot(*handler).await,
            Place::Shared(tenancy) => {
                let (mut house, handler) = tenancy.enter().await?;
                house.snapshot(handler).await
            }
        }
    }

    /// Tell the guest that it ends, and why.
    ///
    /// # Errors
    /// A failed call. The instance is gone all the same.
    pub async fn close(self, why: CloseReason) -> Result<(), CallError> {
        match self.place {
            Place::Own(mut house, handler) => house.close(handler, why).await,
            Place::Shared(tenancy) => {
                tenancy.end(async |house: &mut House, handler| house.close(handler, why).await).await
            }
        }
    }
}

impl std::fmt::Debug for HandlerInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let house = match &self.place {
            Place::Own(house, _) => Some(&house.cell),
            Place::Shared(_) => None,
        };
        f.debug_struct("HandlerInstance").field("cell", &house).finish_non_exhaustive()
    }
}

/// A WebAssembly instance, in which the handlers of one or several partitions live.
pub(super) struct House {
    cell: Cell,
    /// Not before the first of them has moved in.
    guest: Option<handler::Guest>,
}

impl House {
    pub(super) fn new(version: &PluginVersion, scope: Scope) -> Self {
        Self { cell: Cell::new(version, scope), guest: None }
    }

    /// Whether a call into it has failed: it may be half changed.
    pub(super) fn is_lost(&self) -> bool {
        self.cell.is_poisoned()
    }

    /// The next call is this partition's.
    pub(super) fn enter(&mut self, scope: &Scope) {
        self.cell.store.data_mut().enter(scope);
    }

    /// Opens a partition.
    pub(super) async fn open(
        &mut self,
        plugin: &HandlerPlugin,
        partition: &Partition,
        why: OpenReason,
        snapshot: Option<&Snapshot>,
    ) -> Result<ResourceAny, CallError> {
        let until = self.cell.begin()?;
        let keys: Vec<&str> = partition.keys().iter().map(String::as_str).collect();
        let (store, known) = (&mut self.cell.store, self.guest.take());
        let opening = async {
            let guest = match known {
                Some(guest) => guest,
                None => {
                    let instance = plugin.version().pre().instantiate_async(&mut *store).await?;
                    plugin.exports().load(&mut *store, &instance)?
                }
            };
            let partition = wit::Partition { id: partition.id().as_str(), keys: &keys, weight: partition.weight() };
            let snapshot =
                snapshot.map(|snapshot| wit::SnapshotParam { format: &snapshot.format, data: &snapshot.data });
            let opened = guest.partition_handler().call_open(&mut *store, partition, why.into(), snapshot).await?;
            Ok((guest, opened))
        };
        let answer = timeout_at(until.into(), opening).await;
        let ((guest, opened), _) = self.cell.end(answer)?;
        self.guest = Some(guest);
        opened.map_err(|reason| self.cell.refused("open", reason))
    }

    /// The instance, if a partition has moved in; otherwise nothing could be there to be called.
    fn parts(&mut self) -> Result<(&mut Cell, &handler::Guest), CallError> {
        let Self { cell, guest } = self;
        match guest {
            Some(guest) => Ok((cell, guest)),
            None => Err(cell.gone()),
        }
    }

    async fn handle(&mut self, handler: ResourceAny, batch: &[Message<'_>]) -> Result<Handled, CallError> {
        let (cell, guest) = self.parts()?;
        let until = cell.begin()?;
        let traces = batch.iter().filter_map(|message| Some((message.sequence, message.trace_parent()?.to_owned())));
        cell.store.data_mut().begin_batch(batch.iter().map(|message| message.sequence), traces.collect());
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
        let guest = guest.partition_handler();
        let call = guest.call_handle(&mut cell.store, handler, &messages);
        let answer = timeout_at(until.into(), call).await;
        let (outcome, publishes) = cell.end(answer)?;
        let outcome = accept(outcome, batch.len()).map_err(|detail| cell.wrong(detail))?;
        Ok(Handled { outcome, publishes })
    }

    async fn snapshot(&mut self, handler: ResourceAny) -> Result<Option<Snapshot>, CallError> {
        let (cell, guest) = self.parts()?;
        let until = cell.begin()?;
        let guest = guest.partition_handler();
        let call = guest.call_snapshot(&mut cell.store, handler);
        let answer = timeout_at(until.into(), call).await;
        match cell.end(answer)?.0 {
            Ok(snapshot) => Ok(snapshot.map(|snapshot| Snapshot { format: snapshot.format, data: snapshot.data })),
            Err(reason) => Err(cell.refused("snapshot", reason)),
        }
    }

    async fn close(&mut self, handler: ResourceAny, why: CloseReason) -> Result<(), CallError> {
        let (cell, guest) = self.parts()?;
        let until = cell.begin()?;
        let guest = guest.partition_handler();
        let call = guest.call_close(&mut cell.store, handler, why.into());
        let answer = timeout_at(until.into(), call).await;
        cell.end(answer).map(|_| ())
    }

    /// Has the guest give up what it holds for a partition. Where the partition is the only one, dropping the house is cheaper.
    pub(super) async fn forget(&mut self, handler: ResourceAny) -> Result<(), CallError> {
        let until = self.cell.begin()?;
        let answer = timeout_at(until.into(), handler.resource_drop_async(&mut self.cell.store)).await;
        self.cell.end(answer).map(|_| ())
    }
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

impl From<wit::Completed> for Completed {
    fn from(completed: wit::Completed) -> Self {
        match completed {
            wit::Completed::Ack => Self::Ack,
            wit::Completed::Reject(reason) => Self::Reject(kept_reason(reason)),
        }
    }
}

impl From<OpenReason> for wit::OpenReason<'_> {
    fn from(why: OpenReason) -> Self {
        match why {
            OpenReason::Assigned => Self::Assigned,
            OpenReason::Recovered => Self::Recovered,
            OpenReason::Swapped => Self::Swapped,
        }
    }
}

impl From<CloseReason> for wit::CloseReason<'_> {
    fn from(why: CloseReason) -> Self {
        match why {
            CloseReason::Revoked => Self::Revoked,
            CloseReason::Swapped => Self::Swapped,
            CloseReason::Lost => Self::Lost,
            CloseReason::Shutdown => Self::Shutdown,
        }
    }
}
