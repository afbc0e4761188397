//! Streams as a test sees them from outside.

use crate::wait::eventually;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{Context, stream};
use bytes::Bytes;
use futures::StreamExt as _;
use std::time::Duration;

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
    /// When the stream stored it: time since 1970 by the server's clock.
    pub at: Duration,
}

impl Stored {
    /// The first value of a header; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }
}

/// Creates a file stream with the usual duplicate window of two minutes.
pub async fn create_stream(context: &Context, name: &str, subject: &str) {
    create_replicated_stream(context, name, subject, 1).await;
}

/// The same with copies on this many servers.
pub async fn create_replicated_stream(context: &Context, name: &str, subject: &str, replicas: usize) {
    create(context, name, subject, stream::RetentionPolicy::Limits, replicas).await;
}

/// Creates a stream whose messages leave it when they are acknowledged.
pub async fn create_queue(context: &Context, name: &str, subject: &str, retention: stream::RetentionPolicy) {
    create(context, name, subject, retention, 1).await;
}

/// The same with copies on this many servers.
pub async fn create_replicated_queue(
    context: &Context,
    name: &str,
    subject: &str,
    retention: stream::RetentionPolicy,
    replicas: usize,
) {
    create(context, name, subject, retention, replicas).await;
}

async fn create(context: &Context, name: &str, subject: &str, retention: stream::RetentionPolicy, num_replicas: usize) {
    let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
    let config = stream::Config { name, subjects, retention, num_replicas, ..Default::default() };
    let created = async || context.create_stream(config.clone()).await.map_err(|error| error.to_string());
    // A cluster that has just come up may not have elected who places streams.
    eventually("the stream is created", created).await;
}

/// Changes the settings of a stream.
pub async fn change_stream(context: &Context, name: &str, change: impl Fn(&mut stream::Config)) {
    let changed = async || {
        let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
        let mut config = stream.cached_info().config.clone();
        change(&mut config);
        context.update_stream(config).await.map_err(|error| error.to_string())
    };
    eventually("the stream is changed", changed).await;
}

async fn state(context: &Context, name: &str) -> Result<stream::State, String> {
    let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
    Ok(stream.cached_info().state.clone())
}

/// How many messages a stream holds.
pub async fn messages(context: &Context, name: &str) -> u64 {
    eventually("the stream tells its state", async || state(context, name).await).await.messages
}

/// How many consumers a stream has.
pub async fn consumers(context: &Context, name: &str) -> usize {
    eventually("the stream tells its state", async || state(context, name).await).await.consumer_count
}

/// How long a stream remembers the ids of messages.
pub(crate) async fn duplicate_window(context: &Context, name: &str) -> Duration {
    let config = async || context.get_stream(name).await.map(|stream| stream.cached_info().config.clone());
    eventually("the stream tells its configuration", async || config().await.map_err(|error| error.to_string()))
        .await
        .duplicate_window
}

/// Everything that a stream holds, in its order.
pub async fn read_stream(context: &Context, name: &str) -> Vec<Stored> {
    eventually("the stream can be read", async || read(context, name).await).await
}

async fn read(context: &Context, name: &str) -> Result<Vec<Stored>, String> {
    let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
    let expected = stream.cached_info().state.messages;
    let mut found = Vec::new();
    if expected == 0 {
        return Ok(found);
    }
    let config = pull::Config { ack_policy: AckPolicy::None, memory_storage: true, ..Default::default() };
    let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
    let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let at = Duration::from_nanos(u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or_default());
        let message = message.message;
        found.push(Stored {
            subject: message.subject.to_string(),
            sequence,
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
            at,
        });
        if pending == 0 {
            // Tests count consumers.
            stream.delete_consumer(&consumer.cached_info().name).await.map_err(|error| error.to_string())?;
            return Ok(found);
        }
    }
    Err(format!("reading ended after {} of {expected} messages", found.len()))
}
