//! Message handlers: one compiled version of a plugin, and its instances, one per partition.

use super::bindings::{handler, wit};
use super::cell::{Cell, shortened};
use super::error::CallError;
use super::host::{Ownership, Publish, Scope, trace_parent};
use super::version::Plugin;
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
    /// Open an instance for a partition.
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
        let mut cell = Cell::new(self.version(), Scope::of(partition.id(), ownership));
        let until = cell.begin()?;
        let keys: Vec<&str> = partition.keys().iter().map(String::as_str).collect();
        let opening = async {
            let instance = self.version().pre().instantiate_async(&mut cell.store).await?;
            let guest = self.exports().load(&mut cell.store, &instance)?;
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

/// The handler of one partition: one WebAssembly instance with a memory of its own.
///
/// After any [`CallError`] but a refusal, and after a call's future was dropped before its end, the instance is poisoned:
/// the guest's state may be half changed. Dropping it is cheap and runs no guest code.
pub struct HandlerInstance {
    cell: Cell,
    guest: handler::Guest,
    handler: ResourceAny,
}

impl HandlerInstance {
    /// Let the guest handle messages, in order. They are copied once, into the guest's memory.
    ///
    /// # Errors
    /// A failed call; a wrong answer, with which nothing counts as handled.
    pub async fn handle(&mut self, batch: &[Message<'_>]) -> Result<Handled, CallError> {
        let until = self.cell.begin()?;
        let traces = batch.iter().filter_map(|message| Some((message.sequence, message.trace_parent()?.to_owned())));
        self.cell.store.data_mut().begin_batch(batch.iter().map(|message| message.sequence), traces.collect());
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
        f.debug_struct("HandlerInstance").field("cell", &self.cell).finish_non_exhaustive()
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
