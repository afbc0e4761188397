//! Reads a stream in order, fast, from a given sequence, until something breaks, and says what broke.
//!
//! A reader is an ephemeral consumer without acknowledgements. One that reads much, or for as long as it lives, has a
//! connection of its own, over which the server pushes messages at the pace at which it hears that they were taken (flow
//! control); for the server that is less work than to serve requests. A short listing shares the client's connection and asks
//! by hand: two requests are always open, so that the server never waits for the next one. So does who reads through a durable
//! consumer.
//!
//! A reader never recovers by itself. The host owns the positions, so only the host knows from where to read on.

mod delivery;
mod source;
#[cfg(test)]
mod tests;

use super::api::{ApiError, NoArguments, connection_lost};
use super::connection::{Link, Nats};
use super::greeting::ServerVersion;
use super::headers::Headers;
use super::stream::StreamInfo;
use super::wire::{Batch, Wire};
use async_nats::Subject;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy, pull, push};
use bytes::Bytes;
use delivery::Delivery;
use parti_coordination::Sequence;
use serde::Serialize;
use serde_json::json;
use source::{Arrival, Source};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// Messages per request. Between 500 and 5000 no difference was measured, in throughput or in the CPU time of either side.
const BATCH: u64 = 1000;

/// Bytes per request, so that two of them bound the memory of a reader. Never below what one message may have.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How long an unanswered request stays open.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server says that it has nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence after which the consumer counts as gone: three heartbeats and some slack.
const SILENCE: Duration = Duration::from_millis(3500);

/// How long the server keeps the consumer of a reader that has vanished.
const INACTIVE: Duration = Duration::from_secs(30);

/// Messages handed out at once at most.
const CHUNK: usize = 2048;

/// Codes by which the server says something: a heartbeat or a question of flow control; a request has run out of time, or of
/// bytes, or of its consumer; nobody listens.
const CONTROL: u16 = 100;
const TIMEOUT: u16 = 408;
const REQUEST_TERMINATED: u16 = 409;
const NO_RESPONDERS: u16 = 503;

/// Where a server says, of a consumer that it has just made, which version it is itself (from 2.11 on, ADR-44).
const SERVER_VERSION: &str = "_nats.ver";

/// What to read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Name of the stream.
    pub stream: String,
    /// Where to begin.
    pub start: Start,
    /// Only these subjects; `None` for all. A filtered reader that is far behind costs the server about 1 ms per message on a
    /// file stream, an unfiltered one 3–5 µs.
    pub filters: Option<Filters>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first message at or above this sequence. Beyond the stream's last sequence the server says nothing until the
    /// stream gets there.
    At(Sequence),
    /// With the latest message of each subject, then with what comes.
    LatestOfEachSubject,
}

/// Subjects to read, wildcards allowed. Never none: to the server an empty list means everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters(Vec<String>);

impl Filters {
    /// These subjects; `None` if there are none.
    #[must_use]
    pub fn new(subjects: Vec<String>) -> Option<Self> {
        (!subjects.is_empty()).then_some(Self(subjects))
    }

    /// The subjects.
    #[must_use]
    pub fn subjects(&self) -> &[String] {
        &self.0
    }
}

/// A message as the stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMessage {
    /// Its subject. Empty if what the server says is no text.
    pub subject: Subject,
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the stream stored it, in nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub payload: Bytes,
}

/// Why a reader could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenReaderError {
    /// There is no such stream.
    #[error("there is no stream {0:?}. Create it, or correct its name")]
    NoStream(String),
    /// The stream has as many consumers as it may have.
    #[error("stream {0:?} has as many consumers as it may have. Raise its max_consumers, or run fewer readers of it")]
    TooManyConsumers(String),
    /// Anything else.
    #[error("a reader of stream {stream:?} could not be opened: {why}")]
    Failed {
        /// The stream.
        stream: String,
        /// What went wrong.
        why: ApiError,
    },
}

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

/// How the messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The server sends them by itself, over a connection of the reader's own.
    Pushed,
    /// The reader asks for them.
    AskedOver(Connection),
}

/// Over which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// The one that everything else uses.
    Shared,
    /// One of the reader's own.
    Own,
}

/// How a reader asks for messages.
struct Asks {
    subject: String,
    request: Bytes,
    /// Messages that open requests may still bring.
    open: u64,
}

/// A message as the server delivered it.
pub(super) struct Delivered {
    subject: Subject,
    pub(super) reply: Subject,
    headers: Headers,
    payload: Bytes,
    pub(super) delivery: Delivery,
}

/// The body of a request for messages. Durations are in nanoseconds.
#[derive(Serialize)]
struct NextRequest {
    batch: u64,
    max_bytes: usize,
    expires: u128,
    idle_heartbeat: u128,
}

impl Reader {
    /// Creates the consumer on the server, to be read over a connection of its own: for who reads much, or for long.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub async fn open(nats: &Nats, options: &ReaderOptions) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::Pushed, false).await
    }

    /// The same, over the connection that everything else uses.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub(super) async fn open_shared(nats: &Nats, options: &ReaderOptions) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::AskedOver(Connection::Shared), false).await
    }

    /// The same, for messages without payloads. Their size is in the header `Nats-Msg-Size`.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub(super) async fn open_without_payloads(nats: &Nats, options: &ReaderOptions) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::AskedOver(Connection::Shared), true).await
    }

    async fn open_as(
        nats: &Nats,
        options: &ReaderOptions,
        way: Way,
        headers_only: bool,
    ) -> Result<Self, OpenReaderError> {
        let stream = options.stream.clone();
        let failed = |why| OpenReaderError::Failed { stream: stream.clone(), why };
        let name = format!("parti-{}", uuid::Uuid::new_v4().simple());
        // A consumer that sends waits until somebody listens.
        let mut reader = Self::attach(nats, &stream, name.clone(), way, 0).await.map_err(failed)?;
        let config = match way {
            Way::Pushed => pushed(&name, options, &reader.inbox),
            Way::AskedOver(_) => asked(&name, options, headers_only),
        };
        let create = json!({ "stream_name": stream, "config": config, "action": "create" });
        let created = nats.api::<_, consumer::Info>(&format!("CONSUMER.CREATE.{stream}.{name}"), &create).await;
        let created = created.map_err(|error| match error {
            ApiError::Refused { code, .. } if code == ErrorCode::STREAM_NOT_FOUND.0 => {
                OpenReaderError::NoStream(stream.clone())
            }
            ApiError::Refused { code, .. } if code == ErrorCode::MAXIMUM_CONSUMERS_LIMIT.0 => {
                OpenReaderError::TooManyConsumers(stream.clone())
            }
            why => failed(why),
        })?;
        reader.pending = created.num_pending;
        reader.served_by = match created.config.metadata.get(SERVER_VERSION) {
            Some(version) => ServerVersion::parse(version),
            // Before 2.11 none says so; where there is no cluster, it is the one that we are connected to.
            None => Some(nats.server_version()).filter(|_| created.cluster.is_none()),
        };
        reader.keep = false;
        Ok(reader)
    }

    /// Reads through a consumer that is there, or will be, and that nobody else reads through. It stays when the reader is
    /// dropped.
    pub(super) async fn attach(
        nats: &Nats,
        stream: &str,
        consumer: String,
        way: Way,
        pending: u64,
    ) -> Result<Self, ApiError> {
        let inbox = Subject::from(nats.inner.client.new_inbox());
        let failed = |error: &dyn std::fmt::Display| ApiError::Failed(error.to_string());
        let subscribed = async {
            if way == Way::AskedOver(Connection::Shared) {
                let subscription = nats.inner.client.subscribe(inbox.clone()).await;
                return subscription.map(Source::Shared).map_err(|error| failed(&error));
            }
            let wire = Wire::open(&nats.endpoint(), &inbox).await;
            wire.map(|wire| Source::Own(wire, Batch::default(), 0)).map_err(|error| failed(&error))
        };
        let source = nats.while_connected(nats.operation_timeout(), subscribed).await?;
        let request = NextRequest {
            batch: BATCH,
            max_bytes: BATCH_BYTES.max(2 * nats.max_payload()),
            expires: EXPIRES.as_nanos(),
            idle_heartbeat: HEARTBEAT.as_nanos(),
        };
        let request = serde_json::to_vec(&request).map_err(|error| failed(&error))?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        // Nothing is under way yet that a reconnect before this moment could have lost.
        let link = nats.link();
        let reconnects = link.borrow().reconnects;
        Ok(Self {
            nats: nats.clone(),
            stream: stream.to_owned(),
            consumer,
            inbox,
            source,
            link,
            reconnects,
            asks: (way != Way::Pushed).then(|| Asks { subject, request: request.into(), open: 0 }),
            delivered: 0,
            pending,
            sequence: 0,
            served_by: None,
            passed: None,
            end: None,
            keep: true,
        })
    }

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

/// A consumer that sends by itself.
fn pushed(name: &str, options: &ReaderOptions, inbox: &Subject) -> consumer::Config {
    consumer::IntoConsumerConfig::into_consumer_config(push::Config {
        name: Some(name.to_owned()),
        deliver_subject: inbox.to_string(),
        deliver_policy: policy(options),
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: options.filters.as_ref().map(|filters| filters.0.clone()).unwrap_or_default(),
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        inactive_threshold: INACTIVE,
        // One replica in memory: nothing of a reader is worth keeping.
        num_replicas: 1,
        memory_storage: true,
        ..Default::default()
    })
}

/// A consumer that is asked.
fn asked(name: &str, options: &ReaderOptions, headers_only: bool) -> consumer::Config {
    consumer::IntoConsumerConfig::into_consumer_config(pull::Config {
        name: Some(name.to_owned()),
        deliver_policy: policy(options),
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: options.filters.as_ref().map(|filters| filters.0.clone()).unwrap_or_default(),
        inactive_threshold: INACTIVE,
        headers_only,
        num_replicas: 1,
        memory_storage: true,
        ..Default::default()
    })
}

fn policy(options: &ReaderOptions) -> DeliverPolicy {
    match options.start {
        Start::At(Sequence(sequence)) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
        Start::LatestOfEachSubject => DeliverPolicy::LastPerSubject,
    }
}

impl From<Delivered> for StreamMessage {
    fn from(Delivered { subject, headers, payload, delivery, .. }: Delivered) -> Self {
        let (sequence, timestamp_ns) = (Sequence(delivery.sequence), delivery.timestamp_ns);
        Self { subject, sequence, timestamp_ns, headers, payload }
    }
}
