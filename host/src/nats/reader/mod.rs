//! Reads a stream in order, fast, from a given sequence, until something breaks, and says what broke.
//!
//! A reader is an ephemeral consumer without acknowledgements. One that reads much, or for as long as it lives, has a
//! connection of its own, over which the server pushes messages at the pace at which it hears that they were taken (flow
//! control); for the server that is less work than to serve requests. A short listing shares the client's connection and asks
//! by hand: two requests are always open, so that the server never waits for the next one. So does who reads through a durable
//! consumer.
//!
//! A reader never recovers by itself. The host owns the positions, so only the host knows from where to read on.
//!
//! * `options` says what to read, and with which consumer.
//! * `opening` makes the consumer, or takes one that is there.
//! * `delivery` is what comes; `source` is the connection over which it comes.

mod delivery;
mod opening;
mod options;
mod source;
#[cfg(test)]
mod tests;

pub(super) use delivery::Delivered;
pub use delivery::StreamMessage;
pub use opening::OpenReaderError;
pub(super) use opening::{Connection, Way};
pub use options::{Filters, ReaderOptions, Start};

use super::api::{ApiError, NoArguments, connection_lost};
use super::connection::{Link, Nats};
use super::greeting::ServerVersion;
use super::headers::Headers;
use super::stream::StreamInfo;
use async_nats::Subject;
use async_nats::jetstream::consumer;
use bytes::Bytes;
use delivery::Delivery;
use opening::BATCH;
use options::INACTIVE;
use parti_coordination::Sequence;
use source::{Arrival, Source};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// Silence after which the consumer counts as gone: three heartbeats and some slack.
const SILENCE: Duration = Duration::from_millis(3500);

/// Messages handed out at once at most.
const CHUNK: usize = 2048;

/// Codes by which the server says something: a heartbeat or a question of flow control; a request has run out of time, or of
/// bytes, or of its consumer; nobody listens.
const CONTROL: u16 = 100;
const TIMEOUT: u16 = 408;
const REQUEST_TERMINATED: u16 = 409;
const NO_RESPONDERS: u16 = 503;

/// Why a reader has ended. Whatever it had handed out stays valid; read on with a new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReaderEnd {
    /// Messages were lost between the server and us.
    #[error("a gap: delivery {expected} was due, {found} came")]
    Gap {
        /// Number of the delivery that was due.
        expected: u64,
        /// Number of the delivery that came.
        found: u64,
    },
    /// Neither messages nor heartbeats came for some seconds.
    #[error("the server fell silent")]
    Silent,
    /// Somebody, or the server, has deleted the consumer or its stream.
    #[error("the consumer was deleted")]
    Deleted,
    /// The connection was lost, or lost and found again.
    #[error("the connection to NATS was lost")]
    Disconnected,
    /// The server says something else.
    #[error("the server ended it: {0}")]
    Refused(String),
}

/// Reads a stream in order. See the module's words.
pub struct Reader {
    nats: Nats,
    stream: String,
    consumer: String,
    inbox: Subject,
    source: Source,
    link: watch::Receiver<Link>,
    reconnects: u64,
    /// How messages are asked for. The server pushes them if they are not.
    asks: Option<Asks>,
    /// Number of the last delivery.
    delivered: u64,
    pending: u64,
    /// Place of the last delivery, or before the first.
    sequence: u64,
    /// Version of the server that the consumer is on, if it is known.
    served_by: Option<ServerVersion>,
    /// How far the server has looked, as it said last, until somebody takes that.
    passed: Option<Sequence>,
    end: Option<ReaderEnd>,
    /// The consumer stays when the reader is dropped.
    keep: bool,
}

/// How a reader asks for messages.
struct Asks {
    subject: String,
    request: Bytes,
    /// Messages that open requests may still bring.
    open: u64,
}

impl Reader {
    /// Waits for messages and appends them, at least one and at most 2048. May be cancelled without loss.
    ///
    /// # Errors
    /// The reader has ended: every further call says the same.
    pub async fn read(&mut self, into: &mut Vec<StreamMessage>) -> Result<(), ReaderEnd> {
        self.read_as(into).await
    }

    /// The same, with of each delivery what the caller makes of it.
    pub(super) async fn read_as<T: From<Delivered>>(&mut self, into: &mut Vec<T>) -> Result<(), ReaderEnd> {
        let enough = into.len() + 1;
        while into.len() < enough {
            self.advance_as(into).await?;
        }
        Ok(())
    }

    /// Waits for messages, which it appends, or for word of how far the server has looked. May be cancelled without loss.
    ///
    /// # Errors
    /// The reader has ended: every further call says the same.
    pub async fn advance(&mut self, into: &mut Vec<StreamMessage>) -> Result<(), ReaderEnd> {
        self.advance_as(into).await
    }

    async fn advance_as<T: From<Delivered>>(&mut self, into: &mut Vec<T>) -> Result<(), ReaderEnd> {
        let enough = into.len() + 1;
        loop {
            if let Some(end) = &self.end {
                return Err(end.clone());
            }
            self.request_more().await;
            // What is there already needs no timer.
            poll_fn(|cx| Poll::Ready(self.drain(cx, into))).await;
            if into.len() < enough && self.passed.is_none() && self.end.is_none() {
                self.wait(into).await;
            }
            if into.len() >= enough || self.passed.is_some() {
                return Ok(());
            }
        }
    }

    /// Up to where the server has looked for messages, if it has said so since this was last asked: what matches up to there
    /// has been handed out. It says so within about two seconds whenever it has nothing to deliver, and nothing else tells how
    /// far a reader has come that finds no message, be it for its filters or because there are none any more.
    pub fn passed(&mut self) -> Option<Sequence> {
        self.passed.take()
    }

    /// Messages that match and were not yet delivered when the last one handed out was sent; before the first one, when the
    /// reader was opened. Without filters: how far behind the stream this reader is.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Whether the server is known to deliver all that matches, on this stream, also with several filters. Servers before 2.15.1 leave
    /// messages out when others are purged by subject or rolled up. In a cluster those before 2.11 do not say which they are.
    #[must_use]
    pub fn filters_exactly(&self, stream: &StreamInfo) -> bool {
        self.served_by.is_some_and(|version| version.filters_exactly(stream.may_purge))
    }

    /// Asks the server whether everything has been handed out. The figure that comes with the messages does not tell when the
    /// last ones vanish before they are delivered.
    ///
    /// # Errors
    /// No answer in time, or the consumer is gone.
    pub async fn has_read_all(&self) -> Result<bool, ApiError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer);
        let info: consumer::Info = self.nats.api(&subject, &NoArguments {}).await?;
        Ok(info.num_pending == 0 && info.delivered.consumer_sequence == self.delivered)
    }

    /// Keeps two requests open, where the server is asked.
    async fn request_more(&mut self) {
        while let Some(asks) = self.asks.as_mut().filter(|asks| asks.open <= BATCH && self.end.is_none()) {
            asks.open += BATCH;
            if let Source::Own(wire, ..) = &self.source {
                wire.publish(&asks.subject, &self.inbox, &asks.request);
                continue;
            }
            let client = &self.nats.inner.client;
            let sent = client.publish_with_reply(asks.subject.clone(), self.inbox.clone(), asks.request.clone());
            // Before the connection is back nothing is sent, and afterwards this consumer is not asked any more.
            self.end = tokio::select! {
                sent = sent => sent.err().map(|error| ReaderEnd::Refused(error.to_string())),
                () = connection_lost(&mut self.link, self.reconnects) => Some(ReaderEnd::Disconnected),
            };
        }
    }

    /// Waits until messages come, or the reader ends, or requests must be renewed.
    async fn wait<T: From<Delivered>>(&mut self, into: &mut Vec<T>) {
        let mut link = self.link.clone();
        let reconnects = self.reconnects;
        let shares = matches!(self.source, Source::Shared(_));
        let heard = self.source.heard();
        let end = tokio::select! {
            biased;
            () = poll_fn(|cx| if self.drain(cx, into) { Poll::Ready(()) } else { Poll::Pending }) => return,
            () = connection_lost(&mut link, reconnects), if shares => ReaderEnd::Disconnected,
            () = silence(heard) => ReaderEnd::Silent,
        };
        self.end = Some(end);
    }

    /// Takes what has arrived. Whether anything has.
    fn drain<T: From<Delivered>>(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>) -> bool {
        let mut some = false;
        let mut taken = 0;
        while taken < CHUNK && self.end.is_none() {
            match self.source.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(end)) => self.end = Some(end),
                Poll::Ready(Ok(Arrival { subject, reply: Some(reply), headers, payload, status: None })) => {
                    taken += 1;
                    if let Some(delivery) = self.accept(&reply) {
                        into.push(T::from(Delivered { subject, reply, headers, payload, delivery }));
                    }
                }
                Poll::Ready(Ok(Arrival { reply, headers, status, .. })) => self.heed(reply, status, &headers),
            }
            some = true;
        }
        some
    }

    fn accept(&mut self, reply: &str) -> Option<Delivery> {
        let Some(delivery) = Delivery::parse(reply) else {
            self.end = Some(ReaderEnd::Refused("a delivery does not say which it is".to_owned()));
            return None;
        };
        let expected = self.delivered + 1;
        if delivery.number != expected {
            self.end = Some(ReaderEnd::Gap { expected, found: delivery.number });
            return None;
        }
        // Messages that are to be acknowledged come again.
        if self.asks.is_none() && delivery.sequence <= self.sequence {
            self.end = Some(ReaderEnd::Refused("it has gone back in the stream".to_owned()));
            return None;
        }
        self.delivered = expected;
        self.sequence = delivery.sequence;
        self.pending = delivery.pending;
        if let Some(asks) = &mut self.asks {
            asks.open = asks.open.saturating_sub(1);
        }
        Some(delivery)
    }

    /// What the server says between messages (ADR-9, ADR-37 of the NATS architecture).
    fn heed(&mut self, reply: Option<Subject>, status: Option<(u16, String)>, headers: &Headers) {
        let (code, description) = status.unwrap_or_default();
        let figure = |name: &str| headers.get(name)?.parse::<u64>().ok();
        let end = match code {
            CONTROL => {
                // It waits to hear that what came before this was taken.
                let stalled = headers.get("Nats-Consumer-Stalled").filter(|subject| is_flow_control(subject));
                let stalled = stalled.map(|subject| Subject::from(&*subject));
                let is_stalled = stalled.is_some();
                if let (Source::Own(wire, ..), Some(subject)) = (&self.source, reply.or(stalled)) {
                    wire.publish(&subject, "", b"");
                }
                match figure("Nats-Last-Consumer").filter(|_| self.asks.is_none()) {
                    Some(last) if last != self.delivered => {
                        ReaderEnd::Gap { expected: self.delivered + 1, found: last + 1 }
                    }
                    Some(_) if !is_stalled => {
                        let looked = figure("Nats-Last-Stream").unwrap_or(0);
                        if looked > self.sequence {
                            self.passed = Some(Sequence(looked));
                            self.pending = 0;
                        }
                        return;
                    }
                    _ => return,
                }
            }
            NO_RESPONDERS => ReaderEnd::Deleted,
            REQUEST_TERMINATED if matches!(description.as_str(), "Consumer Deleted" | "Stream Deleted") => {
                ReaderEnd::Deleted
            }
            // A request has expired, or is full by bytes; it says how many messages it did not bring.
            TIMEOUT | REQUEST_TERMINATED
                if let (Some(unserved), Some(asks)) = (figure("Nats-Pending-Messages"), &mut self.asks) =>
            {
                asks.open = asks.open.saturating_sub(unserved);
                return;
            }
            code => ReaderEnd::Refused(format!("{code} {description}")),
        };
        self.end = Some(end);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The server would keep it for a while, and the number of consumers is limited.
        if self.keep || self.end == Some(ReaderEnd::Deleted) || !self.link.borrow().connected {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let nats = self.nats.clone();
        let subject = format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer);
        runtime.spawn(async move {
            if let Ok(Err(error)) = timeout(INACTIVE, nats.api::<_, serde_json::Value>(&subject, &NoArguments {})).await
            {
                tracing::debug!(%error, "a reader's consumer was not deleted; the server will do it");
            }
        });
    }
}

/// Waits until nothing was heard for too long. A large message may be on its way for longer.
async fn silence(heard: impl Fn() -> Option<Instant>) {
    let mut since = Instant::now();
    loop {
        sleep_until(since + SILENCE).await;
        match heard().filter(|heard| *heard > since) {
            Some(heard) => since = heard,
            None => return,
        }
    }
}

/// Whether this is where the server wants to hear that messages were taken.
fn is_flow_control(subject: &str) -> bool {
    subject.starts_with("$JS.FC.") && !subject.contains(|c: char| c.is_whitespace())
}
