//! What a stream is: the facts on which positions, modes and checks rest.

use super::api::{ApiError, NoArguments};
use super::connection::Nats;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, Info, RetentionPolicy, StorageType};
use parti_coordination::Sequence;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// Names that an error lists at most.
const LISTED: usize = 10;

/// How alike two names must be (0 to 1, Jaro-Winkler) for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// When messages leave a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// When the stream's limits say so.
    Limits,
    /// When every consumer that is interested has acknowledged them.
    Interest,
    /// When the one consumer has acknowledged them.
    WorkQueue,
}

/// Where a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory, until the server stops.
    Memory,
}

/// A stream as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// When it was created, RFC 3339 in UTC, to the nanosecond. Another time under the same name is another stream.
    pub created: String,
    /// The subjects it captures, with wildcards.
    pub subjects: Vec<String>,
    /// When messages leave it.
    pub retention: Retention,
    /// Where it is kept.
    pub storage: Storage,
    /// On how many servers it is kept.
    pub replicas: usize,
    /// Sequence of the oldest message it holds; one more than `last` if it holds none.
    pub first: Sequence,
    /// Sequence of the youngest message it ever had; 0 if it never had one.
    pub last: Sequence,
    /// When that was stored, in nanoseconds since 1970.
    pub last_time: u64,
    /// Messages it holds.
    pub messages: u64,
    /// For how long it recognizes message ids.
    pub duplicate_window: Duration,
    /// How many consumers it may have, if it says so. (From server 2.15 on no figure means 1000.)
    pub max_consumers: Option<u32>,
    /// How many consumers it has.
    pub consumers: usize,
    /// Whether messages may be purged or rolled up. Once it is not, it never is again.
    pub may_purge: bool,
}

/// A stream to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStream {
    /// Its name.
    pub name: String,
    /// The subjects it captures.
    pub subjects: Vec<String>,
    /// When messages leave it.
    pub retention: Retention,
    /// Where it is kept.
    pub storage: Storage,
    /// On how many servers it is kept.
    pub replicas: usize,
    /// How long messages stay; `None` for ever.
    pub max_age: Option<Duration>,
    /// For how long it recognizes message ids.
    pub duplicate_window: Duration,
}

/// Why nothing is known of a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is none of this name.
    #[error("there is no stream {name:?}.{} {}", suggestion(.nearest.as_deref()), listing(.existing))]
    NotFound {
        /// The name.
        name: String,
        /// The streams there are, buckets and object stores left out.
        existing: Vec<String>,
        /// The one among them whose name is much like it.
        nearest: Option<String>,
    },
    /// The server does not do it.
    #[error("stream {name:?}: {why}")]
    Failed {
        /// The name, or the subject by which it was sought.
        name: String,
        /// What went wrong.
        why: ApiError,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" Did you mean {name:?}?")).unwrap_or_default()
}

fn listing(existing: &[String]) -> String {
    let listed: Vec<_> = existing.iter().take(LISTED).map(String::as_str).collect();
    match existing.len() {
        0 => "There are no streams; create it with `nats stream add`, or have it created (stream.create)".to_owned(),
        all if all > LISTED => format!("There are {all} streams, among them {}", listed.join(", ")),
        _ => format!("There are: {}", listed.join(", ")),
    }
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

impl StreamInfo {
    /// The names of the streams there are, buckets and object stores left out.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn all(nats: &Nats) -> Result<Vec<String>, ApiError> {
        let mut existing = names(nats, &json!({})).await?;
        existing.retain(|name| !name.starts_with("KV_") && !name.starts_with("OBJ_"));
        Ok(existing)
    }

    /// What the stream of this name is.
    ///
    /// # Errors
    /// There is none, or no answer within the operation timeout.
    pub async fn of(nats: &Nats, name: &str) -> Result<Self, StreamError> {
        match nats.api::<_, Info>(&format!("STREAM.INFO.{name}"), &NoArguments {}).await {
            Ok(info) => Ok(info.into()),
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => {
                // The list is a help, not the point.
                let existing = Self::all(nats).await.unwrap_or_default();
                let alike = existing.iter().map(|other| (strsim::jaro_winkler(name, other), other));
                let nearest = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
                let nearest = nearest.map(|(_, name)| name.clone());
                Err(StreamError::NotFound { name: name.to_owned(), existing, nearest })
            }
            Err(why) => Err(StreamError::Failed { name: name.to_owned(), why }),
        }
    }

    /// The stream that captures what is published to this subject, if any does.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn capturing(nats: &Nats, subject: &str) -> Result<Option<Self>, StreamError> {
        let found = names(nats, &json!({ "subject": subject })).await;
        match found.map_err(|why| StreamError::Failed { name: subject.to_owned(), why })?.first() {
            Some(name) => Self::of(nats, name).await.map(Some),
            None => Ok(None),
        }
    }

    /// Creates a stream, or finds it if it is there with exactly these settings.
    ///
    /// # Errors
    /// It is there with other settings, the settings are wrong, or no answer within the operation timeout.
    pub async fn create(nats: &Nats, new: &NewStream) -> Result<Self, StreamError> {
        let config = Config {
            name: new.name.clone(),
            subjects: new.subjects.clone(),
            retention: match new.retention {
                Retention::Limits => RetentionPolicy::Limits,
                Retention::Interest => RetentionPolicy::Interest,
                Retention::WorkQueue => RetentionPolicy::WorkQueue,
            },
            storage: match new.storage {
                Storage::File => StorageType::File,
                Storage::Memory => StorageType::Memory,
            },
            num_replicas: new.replicas,
            max_age: new.max_age.unwrap_or_default(),
            duplicate_window: new.duplicate_window,
            max_consumers: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_bytes: -1,
            max_message_size: -1,
            ..Default::default()
        };
        match nats.api::<_, Info>(&format!("STREAM.CREATE.{}", new.name), &config).await {
            Ok(info) => Ok(info.into()),
            Err(why) => Err(StreamError::Failed { name: new.name.clone(), why }),
        }
    }
}

async fn names(nats: &Nats, filter: &serde_json::Value) -> Result<Vec<String>, ApiError> {
    Ok(nats.api::<_, Names>("STREAM.NAMES", filter).await?.streams.unwrap_or_default())
}

impl From<Info> for StreamInfo {
    fn from(info: Info) -> Self {
        let Info { config, created, state, .. } = info;
        let created = jiff::Timestamp::from_nanosecond(created.unix_timestamp_nanos()).unwrap_or_default();
        Self {
            name: config.name,
            created: format!("{created:.9}"),
            subjects: config.subjects,
            retention: match config.retention {
                RetentionPolicy::Limits => Retention::Limits,
                RetentionPolicy::Interest => Retention::Interest,
                RetentionPolicy::WorkQueue => Retention::WorkQueue,
            },
            storage: match config.storage {
                StorageType::File => Storage::File,
                StorageType::Memory => Storage::Memory,
            },
            replicas: config.num_replicas,
            first: Sequence(state.first_sequence),
            last: Sequence(state.last_sequence),
            last_time: u64::try_from(state.last_timestamp.unix_timestamp_nanos()).unwrap_or(0),
            messages: state.messages,
            duplicate_window: config.duplicate_window,
            max_consumers: u32::try_from(config.max_consumers).ok().filter(|max| *max > 0),
            consumers: state.consumer_count,
            may_purge: !config.deny_purge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::publisher::{OutgoingMessage, Publisher};
    use super::super::testing::{Release, TestServer, in_time};
    use super::*;

    fn new(name: &str) -> NewStream {
        NewStream {
            name: name.to_owned(),
            subjects: vec![format!("{name}.>")],
            retention: Retention::WorkQueue,
            storage: Storage::File,
            replicas: 1,
            max_age: Some(Duration::from_secs(3600)),
            duplicate_window: Duration::from_secs(90),
        }
    }

    #[tokio::test]
    async fn a_stream_keeps_its_identity_over_restarts_and_loses_it_when_it_is_made_anew() {
        for release in Release::ALL {
            let mut server = TestServer::start(release).await;
            let nats = server.connect().await;
            let created = StreamInfo::create(&nats, &new("work")).await.unwrap();
            assert_eq!(created, StreamInfo::create(&nats, &new("work")).await.unwrap());
            assert_eq!((created.retention, created.duplicate_window), (Retention::WorkQueue, Duration::from_secs(90)));
            let message =
                OutgoingMessage { subject: "work.a".into(), id: "1".into(), headers: Vec::new(), payload: "x".into() };
            Publisher::new(&nats, 1).send(message).await.published().await;

            server.kill();
            server.run().await;
            in_time(nats.link().wait_for(|link| link.reconnects == 1 && link.connected)).await.unwrap();
            let restarted = StreamInfo::of(&nats, "work").await.unwrap();
            assert_eq!(restarted.created, created.created);
            assert_eq!((restarted.first, restarted.last, restarted.messages), (Sequence(1), Sequence(1), 1));

            let _: serde_json::Value = nats.api("STREAM.DELETE.work", &NoArguments {}).await.unwrap();
            assert_ne!(StreamInfo::create(&nats, &new("work")).await.unwrap().created, created.created);
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_there_is_answered_with_those_that_are() {
        let server = TestServer::start(Release::Newest).await;
        let nats = server.connect().await;
        let none = StreamInfo::of(&nats, "work").await.unwrap_err();
        assert!(none.to_string().contains("There are no streams"), "{none}");
        for name in ["work", "orders", "KV_bucket"] {
            StreamInfo::create(&nats, &new(name)).await.unwrap();
        }
        let wrong = StreamInfo::of(&nats, "wrok").await.unwrap_err().to_string();
        assert!(
            wrong.contains("Did you mean \"work\"?") && wrong.contains("orders") && !wrong.contains("KV_"),
            "{wrong}"
        );
        assert!(StreamInfo::of(&nats, "no such name").await.is_err());

        let captured = StreamInfo::capturing(&nats, "orders.eu.1").await.unwrap();
        assert_eq!(captured.unwrap().name, "orders");
        assert_eq!(StreamInfo::capturing(&nats, "elsewhere").await.unwrap(), None);
        let other = NewStream { retention: Retention::Limits, ..new("work") };
        assert!(matches!(StreamInfo::create(&nats, &other).await, Err(StreamError::Failed { .. })));
    }
}
