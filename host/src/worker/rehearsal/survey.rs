//! What `parti check --online` found on the server, for people and as JSON.

use super::super::uncovered::Uncovered;
use crate::nats::{AccountUsage, NewStream, StreamInfo, Usage};
use parti_coordination::WorkerId;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What there is on the server. What could not be told is missing.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Survey {
    pub(super) server: Server,
    pub(super) buckets: Vec<BucketState>,
    pub(super) ids: Option<Ids>,
    /// How many partitions the source lists.
    pub(super) partitions: Option<usize>,
    pub(super) stream: Option<StreamState>,
    pub(super) dead_letters: Vec<DeadLetters>,
    pub(super) uncovered: Option<Uncovered>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) round_trip_seconds: Option<f64>,
    /// Bytes of the largest message.
    pub(super) max_payload: usize,
    pub(super) account: Option<AccountUsage>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BucketState {
    pub(super) bucket: String,
    /// Whether it is there, if that could be told.
    pub(super) is_there: Option<bool>,
}

/// The worker IDs of the group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ids {
    pub(super) held: Vec<Holder>,
    /// How many there may be.
    pub(super) most: u32,
    /// The one that a worker which starts now would claim.
    pub(super) next: Option<WorkerId>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Holder {
    pub(super) worker: WorkerId,
    pub(super) host: String,
    pub(super) pid: u32,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamState {
    name: String,
    is_there: bool,
    retention: String,
    storage: String,
    replicas: usize,
    subjects: Vec<String>,
    messages: u64,
    first_sequence: u64,
    last_sequence: u64,
    duplicate_window_seconds: f64,
}

impl From<&StreamInfo> for StreamState {
    fn from(info: &StreamInfo) -> Self {
        Self {
            name: info.name.clone(),
            is_there: true,
            retention: format!("{:?}", info.retention),
            storage: format!("{:?}", info.storage),
            replicas: info.replicas,
            subjects: info.subjects.clone(),
            messages: info.messages,
            first_sequence: info.first.0,
            last_sequence: info.last.0,
            duplicate_window_seconds: info.duplicate_window.as_secs_f64(),
        }
    }
}

impl From<&NewStream> for StreamState {
    fn from(new: &NewStream) -> Self {
        Self {
            name: new.name.clone(),
            is_there: false,
            retention: format!("{:?}", new.retention),
            storage: format!("{:?}", new.storage),
            replicas: new.replicas,
            subjects: new.subjects.clone(),
            messages: 0,
            first_sequence: 0,
            last_sequence: 0,
            duplicate_window_seconds: new.duplicate_window.as_secs_f64(),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct DeadLetters {
    pub(super) subject: String,
    pub(super) stream: String,
}

impl Survey {
    /// Of this server, with nothing else known.
    pub(super) fn of(server: Server) -> Self {
        Self {
            server,
            buckets: Vec::new(),
            ids: None,
            partitions: None,
            stream: None,
            dead_letters: Vec::new(),
            uncovered: None,
        }
    }
}

/// `3 of 10`, or `3` where there is no limit.
fn used(usage: &Usage) -> String {
    match usage.limit {
        Some(limit) => format!("{} of {limit}", usage.used),
        None => usage.used.to_string(),
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, buckets, ids, partitions, stream, dead_letters, uncovered } = self;
        write!(f, "NATS {}: messages of up to {} bytes", server.version, server.max_payload)?;
        if let Some(seconds) = server.round_trip_seconds {
            write!(f, ", {:?} there and back", Duration::from_secs_f64(seconds))?;
        }
        writeln!(f)?;
        if let Some(AccountUsage { memory, storage, streams, consumers }) = &server.account {
            let (memory, storage) = (used(memory), used(storage));
            let (streams, consumers) = (used(streams), used(consumers));
            writeln!(
                f,
                "JetStream account: streams {streams}, consumers {consumers}, bytes on disk {storage}, in memory {memory}"
            )?;
        }
        for BucketState { bucket, is_there } in buckets {
            match is_there {
                Some(true) => writeln!(f, "bucket {bucket}: there")?,
                Some(false) => writeln!(f, "bucket {bucket}: missing; the first worker creates it")?,
                None => {}
            }
        }
        if let Some(Ids { held, most, next }) = ids {
            write!(f, "worker IDs: {} of {most} claimed", held.len())?;
            if let Some(next) = next {
                write!(f, "; a worker that starts now gets {next}")?;
            }
            writeln!(f)?;
            for Holder { worker, host, pid } in held {
                writeln!(f, "  {worker}: process {pid} on {host}")?;
            }
        }
        if let Some(StreamState { name, is_there, retention, storage, replicas, subjects, messages, .. }) = stream {
            let subjects = subjects.join(", ");
            write!(f, "stream {name}: ")?;
            if *is_there {
                writeln!(
                    f,
                    "{messages} messages, retention {retention}, storage {storage}, {replicas} replicas, subjects {subjects}"
                )?;
            } else {
                writeln!(f, "missing; the first worker creates it for {subjects}")?;
            }
        }
        if let Some(partitions) = partitions {
            writeln!(f, "partitions: {partitions}")?;
        }
        for DeadLetters { subject, stream } in dead_letters {
            writeln!(f, "dead letters: {subject}, in stream {stream}")?;
        }
        if let Some(Uncovered { subjects, messages, at_least, most }) = uncovered {
            let at_least = if *at_least { "at least " } else { "" };
            writeln!(f, "subjects of no partition: {at_least}{subjects}, with {messages} messages")?;
            for subject in most {
                writeln!(f, "  {}: {}", subject.subject, subject.messages)?;
            }
        }
        Ok(())
    }
}
