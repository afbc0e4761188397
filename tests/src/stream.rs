//! Streams as a test sees them from outside.

use crate::wait::eventually;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{Context, stream};
use bytes::Bytes;
use futures::StreamExt as _;
use std::collections::BTreeMap;

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
    let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
    let config = stream::Config { name, subjects, num_replicas: replicas, ..Default::default() };
    let created = async || context.create_stream(config.clone()).await.map_err(|error| error.to_string());
    // A cluster that has just come up may not have elected who places streams.
    eventually("the stream is created", created).await;
}

/// Creates a stream whose messages leave it when they are acknowledged.
pub async fn create_queue(context: &Context, name: &str, subject: &str, retention: stream::RetentionPolicy) {
    let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
    let config = stream::Config { name, subjects, retention, ..Default::default() };
    context.create_stream(config).await.expect("a stream");
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
        let message = message.message;
        found.push(Stored {
            subject: message.subject.to_string(),
            sequence,
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
        });
        if pending == 0 {
            // Tests count consumers.
            stream.delete_consumer(&consumer.cached_info().name).await.map_err(|error| error.to_string())?;
            return Ok(found);
        }
    }
    Err(format!("reading ended after {} of {expected} messages", found.len()))
}

/// Waits until stream `out` has a message for each one of stream `work` whose subject is among `subjects`, and panics
/// unless they are the same ones in the same order on each subject. What is in `out` was put there by the relay plugin.
pub async fn assert_relayed(context: &Context, work: &str, out: &str, subjects: &[String]) {
    let published = by_subject(read_stream(context, work).await, "");
    let published: BTreeMap<_, _> = published.into_iter().filter(|(subject, _)| subjects.contains(subject)).collect();
    let total: usize = published.values().map(Vec::len).sum();
    let arrived = format!("all {total} messages arrive in {out}");
    eventually(&arrived, async || match messages(context, out).await {
        found if found >= total as u64 => Ok(()),
        found => Err(format!("{found} have arrived")),
    })
    .await;
    let relayed = by_subject(read_stream(context, out).await, &format!("{out}."));
    for (subject, expected) in &published {
        let found = relayed.get(subject).map_or(&[][..], Vec::as_slice);
        if let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at)) {
            panic!(
                "{subject}: message {at} of {} is {:?} in {work} and {:?} in {out}, which has {} of them",
                expected.len(),
                expected.get(at),
                found.get(at),
                found.len()
            );
        }
    }
    let strangers: Vec<_> = relayed.keys().filter(|subject| !published.contains_key(*subject)).collect();
    assert!(strangers.is_empty(), "{out} has messages of {strangers:?}");
}

fn by_subject(messages: Vec<Stored>, prefix: &str) -> BTreeMap<String, Vec<Bytes>> {
    let mut found: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    for message in messages {
        let subject = message.subject.strip_prefix(prefix).unwrap_or(&message.subject);
        found.entry(subject.to_owned()).or_default().push(message.payload);
    }
    found
}
