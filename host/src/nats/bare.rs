//! The client library as it comes, without Parti: the baseline of `parti bench`.
//!
//! Each way reads the whole stream once with an ephemeral consumer that acknowledges nothing, as a careful user of the
//! library would write it, and looks at each message's sequence, subject and payload.

use super::api::ApiError;
use super::connection::Nats;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, OrderedPullConsumer, PullConsumer};
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Messages that a pull asks for. The library's default is 200; larger batches were faster on every machine tried.
const BATCH: usize = 1000;

/// Of so many messages one is confirmed when a stream is filled.
const CONFIRMED: u64 = 250;

/// The server drops what waits beyond 10,000 messages.
const UNCONFIRMED: usize = 16;

/// A way to read a stream with the bare client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareWay {
    /// `pull::Consumer::messages()` with the library's defaults.
    PullDefault,
    /// `pull::Consumer::stream()` with large batches.
    PullBatches,
    /// `OrderedPullConsumer::messages()`.
    OrderedPull,
    /// `push::Ordered::messages()`.
    OrderedPush,
}

impl BareWay {
    /// Every way.
    pub const ALL: [BareWay; 4] =
        [BareWay::PullDefault, BareWay::PullBatches, BareWay::OrderedPull, BareWay::OrderedPush];
}

impl fmt::Display for BareWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BareWay::PullDefault => "pull, defaults",
            BareWay::PullBatches => "pull, batches of 1000",
            BareWay::OrderedPull => "ordered pull",
            BareWay::OrderedPush => "ordered push",
        })
    }
}

/// Publishes `messages` messages without headers, the one with number n to `subject(n)`, as fast as the server takes them:
/// every [`CONFIRMED`]th is confirmed, and [`UNCONFIRMED`] confirmations at most are waited for at once.
///
/// # Errors
/// A message that was to be confirmed was not.
pub async fn bare_fill(
    nats: &Nats,
    messages: u64,
    subject: impl Fn(u64) -> String,
    payload: Bytes,
) -> Result<(), ApiError> {
    let mut unconfirmed = VecDeque::new();
    for number in 0..messages {
        if (number + 1) % CONFIRMED != 0 && number + 1 != messages {
            let sent = nats.inner.client.publish(subject(number), payload.clone()).await;
            sent.map_err(|error| ApiError::Failed(error.to_string()))?;
            continue;
        }
        unconfirmed.push_back(nats.inner.jetstream.publish(subject(number), payload.clone()).await?);
        if unconfirmed.len() >= UNCONFIRMED
            && let Some(oldest) = unconfirmed.pop_front()
        {
            oldest.await?;
        }
    }
    for confirmation in unconfirmed {
        confirmation.await?;
    }
    Ok(())
}

/// Publishes `rate` messages a second to the partitions in turn, without end, and counts them.
///
/// # Errors
/// The connection is gone.
pub async fn bare_pace(
    nats: &Nats,
    rate: u64,
    partitions: u64,
    payload: impl Fn() -> Bytes,
    published: &AtomicU64,
) -> Result<(), ApiError> {
    let begun = tokio::time::Instant::now();
    for number in 0u64.. {
        #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
        let due = begun + Duration::from_secs_f64(number as f64 / rate.max(1) as f64);
        if due > tokio::time::Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let subject = format!("work.p-{}", number % partitions.max(1));
        let sent = nats.inner.client.publish(subject, payload()).await;
        sent.map_err(|error| ApiError::Failed(error.to_string()))?;
        published.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Publishes every new message of a stream again, to `<prefix>.<its subject>`, until the connection is gone.
///
/// # Errors
/// The stream cannot be read.
pub async fn bare_relay(nats: &Nats, stream: &str, prefix: &str) -> Result<(), ApiError> {
    let failed = |error: &dyn fmt::Display| ApiError::Failed(error.to_string());
    let mut messages = new_messages(nats, stream).await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|e| failed(&e))?;
        let sent = nats.inner.client.publish(format!("{prefix}.{}", message.subject), message.payload.clone()).await;
        sent.map_err(|e| failed(&e))?;
    }
    Ok(())
}

async fn new_messages(nats: &Nats, stream: &str) -> Result<consumer::push::Ordered, ApiError> {
    let failed = |error: &dyn fmt::Display| ApiError::Failed(error.to_string());
    let stream = nats.inner.jetstream.get_stream(stream).await.map_err(|e| failed(&e))?;
    let config = consumer::push::OrderedConfig {
        deliver_subject: nats.inner.client.new_inbox(),
        deliver_policy: DeliverPolicy::New,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
    consumer.messages().await.map_err(|e| failed(&e))
}

/// Receives every new message of a stream, until the connection is gone, and tells how long ago the stream stored it.
///
/// # Errors
/// The stream cannot be read.
pub async fn bare_ages(nats: &Nats, stream: &str, mut tell: impl FnMut(Duration)) -> Result<(), ApiError> {
    let mut messages = new_messages(nats, stream).await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| ApiError::Failed(error.to_string()))?;
        let info = message.info().map_err(|error| ApiError::Failed(error.to_string()))?;
        let stored = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or_default();
        tell((UNIX_EPOCH + Duration::from_nanos(stored)).elapsed().unwrap_or_default());
    }
    Ok(())
}

/// Publishes one message, confirmed.
///
/// # Errors
/// No stream has stored it.
pub async fn bare_publish(nats: &Nats, subject: String, payload: Bytes) -> Result<(), ApiError> {
    nats.inner.jetstream.publish(subject, payload).await?.await?;
    Ok(())
}

/// What is published to a subject from now on.
pub struct BareListener(async_nats::Subscriber);

impl BareListener {
    /// The payload of the next message; `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await.map(|message| message.payload)
    }
}

/// Listens to a subject.
///
/// # Errors
/// The connection is gone.
pub async fn bare_listen(nats: &Nats, subject: &str) -> Result<BareListener, ApiError> {
    let failed = |error: &dyn fmt::Display| ApiError::Failed(error.to_string());
    let listener = nats.inner.client.subscribe(subject.to_owned()).await.map_err(|e| failed(&e))?;
    nats.inner.client.flush().await.map_err(|e| failed(&e))?;
    Ok(BareListener(listener))
}

/// Reads `messages` messages from the start of a stream and returns the rate, in messages per second, between the first and
/// the last twentieth: start-up and the last, partly filled requests do not count.
///
/// # Errors
/// The stream cannot be read, or ends early.
pub async fn bare_rate(nats: &Nats, stream: &str, messages: u64, way: BareWay) -> Result<f64, ApiError> {
    let failed = |error: &dyn fmt::Display| ApiError::Failed(error.to_string());
    let jetstream = &nats.inner.jetstream;
    let stream = jetstream.get_stream(stream).await.map_err(|e| failed(&e))?;
    let pull = consumer::pull::Config {
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::All,
        memory_storage: true,
        ..Default::default()
    };
    let mut gauge = Gauge::new(messages);
    macro_rules! read {
        ($source:expr) => {{
            let mut source = $source.map_err(|e| failed(&e))?;
            while !gauge.is_done() {
                let message =
                    source.next().await.ok_or_else(|| failed(&"the stream ended"))?.map_err(|e| failed(&e))?;
                let info = message.info().map_err(|e| failed(&e))?;
                gauge.saw(info.stream_sequence, message.subject.len() + message.payload.len());
            }
        }};
    }
    match way {
        BareWay::PullDefault => {
            let consumer: PullConsumer = stream.create_consumer(pull).await.map_err(|e| failed(&e))?;
            read!(consumer.messages().await);
        }
        BareWay::PullBatches => {
            let consumer: PullConsumer = stream.create_consumer(pull).await.map_err(|e| failed(&e))?;
            read!(consumer.stream().max_messages_per_batch(BATCH).messages().await);
        }
        BareWay::OrderedPull => {
            let config = consumer::pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
            let consumer: OrderedPullConsumer = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
            read!(consumer.messages().await);
        }
        BareWay::OrderedPush => {
            let config = consumer::push::OrderedConfig {
                deliver_subject: nats.inner.client.new_inbox(),
                deliver_policy: DeliverPolicy::All,
                ..Default::default()
            };
            let consumer = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
            read!(consumer.messages().await);
        }
    }
    Ok(gauge.rate())
}

/// Times the middle nine tenths of a run.
struct Gauge {
    from: u64,
    until: u64,
    seen: u64,
    bytes: usize,
    begun: Option<Instant>,
    ended: Option<Instant>,
}

impl Gauge {
    fn new(messages: u64) -> Self {
        Self { from: messages / 20, until: messages - messages / 20, seen: 0, bytes: 0, begun: None, ended: None }
    }

    fn saw(&mut self, sequence: u64, bytes: usize) {
        self.seen = self.seen.max(sequence);
        self.bytes = std::hint::black_box(self.bytes.wrapping_add(bytes));
        if self.begun.is_none() && self.seen >= self.from {
            self.begun = Some(Instant::now());
        }
        if self.ended.is_none() && self.seen >= self.until {
            self.ended = Some(Instant::now());
        }
    }

    fn is_done(&self) -> bool {
        self.ended.is_some()
    }

    #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
    fn rate(&self) -> f64 {
        let (Some(begun), Some(ended)) = (self.begun, self.ended) else { return 0.0 };
        (self.until - self.from) as f64 / ended.duration_since(begun).as_secs_f64().max(1e-9)
    }
}
