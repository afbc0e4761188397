//! Durable consumers of WorkQueue and Interest streams: listed, created, read, acknowledged, deleted.
//!
//! Apart from `reader` because here the server remembers: a consumer stays until somebody deletes it, and a message until it
//! is acknowledged. Consumers are never updated: a changed filter does not move a consumer's position.

use super::api::{ApiError, NoArguments};
use super::connection::Nats;
use super::reader::{Connection, Delivered, Filters, Reader, ReaderEnd, StreamMessage, Way};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;

/// How long an acknowledgement waits for its confirmation.
const CONFIRM: Duration = Duration::from_secs(5);

/// The durable consumers of one stream.
#[derive(Clone)]
pub struct QueueConsumers {
    nats: Nats,
    stream: String,
}

/// A durable consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConsumer {
    /// Its name.
    pub name: String,
    /// The subjects that it delivers; none means all.
    pub subjects: Vec<String>,
    /// What its creator has noted on it.
    pub labels: HashMap<String, String>,
}

/// A message of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    /// The message.
    pub message: StreamMessage,
    /// Where it is acknowledged.
    pub reply: String,
    /// How many times the consumer has delivered it, this time included.
    pub times: u64,
}

/// Why a consumer could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateConsumerError {
    /// Another consumer of the WorkQueue stream delivers one of these subjects.
    #[error("another consumer of stream {0:?} delivers one of these subjects")]
    Overlaps(String),
    /// The stream has as many consumers as it may have.
    #[error("stream {0:?} has as many consumers as it may have. Raise its max_consumers, or run fewer workers")]
    TooMany(String),
    /// Anything else.
    #[error("a consumer of stream {stream:?} could not be created: {why}")]
    Failed {
        /// The stream.
        stream: String,
        /// What went wrong.
        why: ApiError,
    },
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    config: ListedConfig,
}

#[derive(Deserialize)]
struct ListedConfig {
    #[serde(default)]
    filter_subject: String,
    #[serde(default)]
    filter_subjects: Vec<String>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

impl QueueConsumers {
    /// Those of the stream with this name.
    #[must_use]
    pub fn of(nats: &Nats, stream: &str) -> Self {
        Self { nats: nats.clone(), stream: stream.to_owned() }
    }

    /// Every consumer of the stream, whoever made it.
    ///
    /// # Errors
    /// The stream is not there, or no answer in time.
    pub async fn list(&self) -> Result<Vec<QueueConsumer>, ApiError> {
        let subject = format!("CONSUMER.LIST.{}", self.stream);
        let mut found = Vec::new();
        loop {
            let page: Page = self.nats.api(&subject, &json!({ "offset": found.len() })).await?;
            let consumers = page.consumers.unwrap_or_default();
            let ended = consumers.is_empty();
            found.extend(consumers.into_iter().map(|listed| {
                let ListedConfig { filter_subject, filter_subjects: mut subjects, metadata: labels } = listed.config;
                if !filter_subject.is_empty() {
                    subjects.push(filter_subject);
                }
                QueueConsumer { name: listed.name, subjects, labels }
            }));
            if ended || found.len() >= page.total {
                return Ok(found);
            }
        }
    }

    /// Creates a consumer under a name that nobody has used before.
    ///
    /// # Errors
    /// See [`CreateConsumerError`]. After a time-out it may be there.
    pub async fn create(
        &self,
        name: &str,
        subjects: &Filters,
        labels: HashMap<String, String>,
        ack_wait: Duration,
    ) -> Result<(), CreateConsumerError> {
        self.make(name, subjects, labels, ack_wait).await.map(drop)
    }

    /// Creates a consumer like [`QueueConsumers::create`] and reads through it.
    ///
    /// # Errors
    /// See [`CreateConsumerError`]. After a time-out it may be there.
    pub async fn open(
        &self,
        name: &str,
        subjects: &Filters,
        labels: HashMap<String, String>,
        ack_wait: Duration,
    ) -> Result<QueueReader, CreateConsumerError> {
        let pending = self.make(name, subjects, labels, ack_wait).await?;
        let reader =
            Reader::attach(&self.nats, &self.stream, name.to_owned(), Way::AskedOver(Connection::Own), pending).await;
        let failed = |why| CreateConsumerError::Failed { stream: self.stream.clone(), why };
        Ok(QueueReader { reader: reader.map_err(failed)? })
    }

    async fn make(
        &self,
        name: &str,
        subjects: &Filters,
        labels: HashMap<String, String>,
        ack_wait: Duration,
    ) -> Result<u64, CreateConsumerError> {
        let stream = &self.stream;
        let config = config(name, subjects, labels, ack_wait);
        let create = json!({ "stream_name": stream, "config": config, "action": "create" });
        let created = self.nats.api(&format!("CONSUMER.CREATE.{stream}.{name}"), &create).await;
        let created: consumer::Info = created.map_err(|why| match why {
            ApiError::Refused { code, .. }
                if code == ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE.0
                    || code == ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED.0 =>
            {
                CreateConsumerError::Overlaps(stream.clone())
            }
            ApiError::Refused { code, .. } if code == ErrorCode::MAXIMUM_CONSUMERS_LIMIT.0 => {
                CreateConsumerError::TooMany(stream.clone())
            }
            why => CreateConsumerError::Failed { stream: stream.clone(), why },
        })?;
        Ok(created.num_pending)
    }

    /// Deletes a consumer. One that is not there, or whose stream is not, counts as deleted.
    ///
    /// # Errors
    /// No answer in time, or the server does not do it.
    pub async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let subject = format!("CONSUMER.DELETE.{}.{name}", self.stream);
        match self.nats.api::<_, serde_json::Value>(&subject, &NoArguments {}).await {
            Ok(_) => Ok(()),
            Err(ApiError::Refused { code, .. })
                if code == ErrorCode::CONSUMER_NOT_FOUND.0 || code == ErrorCode::STREAM_NOT_FOUND.0 =>
            {
                Ok(())
            }
            Err(why) => Err(why),
        }
    }
}

fn config(name: &str, subjects: &Filters, labels: HashMap<String, String>, ack_wait: Duration) -> consumer::Config {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: subjects.subjects().to_vec(),
        // What a partition that stands still has not acknowledged must not hold up the others.
        max_ack_pending: -1,
        metadata: labels,
        ..Default::default()
    };
    consumer::IntoConsumerConfig::into_consumer_config(config)
}

/// Reads through a durable consumer, in order, until something breaks. The consumer stays.
pub struct QueueReader {
    reader: Reader,
}

impl QueueReader {
    /// Waits for messages and appends them, at least one. May be cancelled without loss. First deliveries come in the order of
    /// the stream, repeated ones in between.
    ///
    /// # Errors
    /// The reader has ended: every further call says the same.
    pub async fn read(&mut self, into: &mut Vec<QueueMessage>) -> Result<(), ReaderEnd> {
        self.reader.read_as(into).await
    }

    /// Messages that were not delivered yet when the last one was.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.reader.pending()
    }
}

impl From<Delivered> for QueueMessage {
    fn from(delivered: Delivered) -> Self {
        Self { reply: delivered.reply.to_string(), times: delivered.delivery.times, message: delivered.into() }
    }
}

/// Acknowledges messages.
#[derive(Clone)]
pub struct Acknowledger {
    nats: Nats,
}

impl Acknowledger {
    /// Over this connection.
    #[must_use]
    pub fn new(nats: &Nats) -> Self {
        Self { nats: nats.clone() }
    }

    /// Acknowledges a message and waits until the server has noted it.
    ///
    /// # Errors
    /// [`ApiError::NoResponders`]: the consumer is gone. Anything else: the server may have noted it.
    pub async fn acknowledge(&self, reply: &str) -> Result<(), ApiError> {
        self.nats.request(reply, Bytes::from_static(b"+ACK"), CONFIRM).await.map(drop)
    }

    /// Asks the server to wait for the acknowledgement for another ack wait.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn in_progress(&self, reply: &str) -> Result<(), ApiError> {
        let sent = async {
            let sent = self.nats.inner.client.publish(reply.to_owned(), Bytes::from_static(b"+WPI")).await;
            sent.map_err(|error| ApiError::Failed(error.to_string()))
        };
        self.nats.while_connected(CONFIRM, sent).await
    }
}
