//! One KV bucket: what the core's writes, reads and listings become.
//!
//! Writes are published by hand and not through the client library's KV: its update drops the lifetime of a key, which would
//! make a lease immortal at its first renewal.

use super::api::{ApiError, NoArguments};
use super::backoff::Backoff;
use super::buckets::{self, BucketLook, BucketMismatch, BucketSpec, OpenBucketError, Seeker};
use super::connection::Nats;
use super::reader::{Filters, OpenReaderError, Reader, ReaderEnd, ReaderOptions, Start, StreamMessage};
use super::watch::Watch;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::{PublishMessage, StreamMessage as RawMessage};
use async_nats::jetstream::stream::{Info, RawMessage as EncodedMessage};
use bytes::Bytes;
use parti_coordination::{Expect, StoredEntry, WriteOutcome};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const OPERATION: &str = "KV-Operation";
const MARKER_REASON: &str = "Nats-Marker-Reason";

/// Waits while a cluster is busy with another write of the same key.
const BUSY: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(250) };

/// Silence in a backlog after which the server is asked whether there is more.
const LULL: Duration = Duration::from_millis(200);

/// A key that nobody uses, to try whether it could be written.
const UNUSED: &str = "check";

/// A KV bucket. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    nats: Nats,
    spec: BucketSpec,
    stream: String,
    /// What every subject of the bucket begins with.
    prefix: String,
    single_keys_expire: bool,
    seeker: Seeker,
    /// The highest revision that was written or read.
    highest: AtomicU64,
}

/// What is remembered of a bucket, to tell whether it has lost something since.
#[derive(Debug, Default)]
pub struct Loss {
    created: Option<String>,
}

/// What is asked of a stream.
#[derive(Deserialize)]
struct Created {
    created: String,
    state: LastSequence,
}

#[derive(Deserialize)]
struct LastSequence {
    last_seq: u64,
}

#[derive(Deserialize)]
struct Found {
    message: EncodedMessage,
}

impl Store {
    /// Opens a bucket: creates it if it is missing (any number of workers may at once) and checks its settings. Tells what is odd
    /// about it but can be lived with.
    ///
    /// # Errors
    /// A setting with which a promise would be broken, or no answer within the operation timeout.
    pub async fn open(nats: &Nats, spec: BucketSpec) -> Result<(Self, Vec<BucketMismatch>), OpenBucketError> {
        let checked = buckets::open(nats, &spec).await?;
        let inner = Inner {
            nats: nats.clone(),
            stream: buckets::stream_name(&spec.name),
            prefix: format!("$KV.{}.", spec.name),
            single_keys_expire: checked.single_keys_expire,
            spec,
            seeker: Seeker::default(),
            highest: AtomicU64::new(0),
        };
        Ok((Self { inner: Arc::new(inner) }, checked.warnings))
    }

    /// Looks at a bucket as [`Self::open`] does, and creates nothing.
    pub async fn look(nats: &Nats, spec: &BucketSpec) -> BucketLook {
        let (stream, subject) = (buckets::stream_name(&spec.name), format!("$KV.{}.{UNUSED}", spec.name));
        let check = |found: &_| buckets::check(spec, found).map(|checked| checked.warnings);
        buckets::look(nats, &spec.name, stream, subject, check).await
    }

    /// A bucket that is there; it is neither created nor checked. `None` if it is not there.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn existing(nats: &Nats, spec: BucketSpec) -> Result<Option<Self>, ApiError> {
        let stream = buckets::stream_name(&spec.name);
        let info: Info = match nats.api(&format!("STREAM.INFO.{stream}"), &NoArguments {}).await {
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => return Ok(None),
            found => found?,
        };
        let inner = Inner {
            nats: nats.clone(),
            stream,
            prefix: format!("$KV.{}.", spec.name),
            single_keys_expire: info.config.allow_message_ttl,
            spec,
            seeker: Seeker::default(),
            highest: AtomicU64::new(0),
        };
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// Name of the bucket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// Writes a value, if the key's latest revision is as expected. With a `lifetime` (rounded up to whole seconds) the value
    /// expires unless it is written again in time; each write needs it anew. Where the server cannot expire single keys, the
    /// bucket's own lifetime holds.
    pub async fn write(&self, key: &str, value: Bytes, expect: Expect, lifetime: Option<Duration>) -> WriteOutcome {
        let mut message = PublishMessage::build().payload(value);
        if let Some(lifetime) = lifetime.filter(|_| self.inner.single_keys_expire) {
            message = message.ttl(Duration::from_secs(lifetime.as_secs_f64().ceil().max(1.0) as u64));
        }
        self.publish(key, message, expect).await
    }

    /// Deletes a key, if its latest revision is as expected. A marker stays.
    pub async fn delete(&self, key: &str, expect: Expect) -> WriteOutcome {
        self.publish(key, PublishMessage::build().header(OPERATION, "DEL"), expect).await
    }

    async fn publish(&self, key: &str, message: PublishMessage, expect: Expect) -> WriteOutcome {
        if !is_key(key) {
            tracing::error!(bucket = self.name(), key, "not a key of a bucket; nothing is written");
            return WriteOutcome::Unknown;
        }
        let message = match expect {
            Expect::Anything => message,
            Expect::Nothing => message.expected_last_subject_sequence(0),
            Expect::Revision(revision) => message.expected_last_subject_sequence(revision),
        };
        let subject = format!("{}{key}", self.inner.prefix);
        let nats = &self.inner.nats;
        let outcome = timeout(nats.operation_timeout(), async {
            for attempt in 2.. {
                match nats.publish_and_confirm(&subject, message.clone()).await {
                    // A cluster that is still busy with another write of the key: no verdict on the expectation.
                    Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT.0 => {
                        sleep(BUSY.before(attempt)).await;
                    }
                    outcome => return outcome,
                }
            }
            Err(ApiError::TimedOut)
        });
        match outcome.await.unwrap_or(Err(ApiError::TimedOut)) {
            Ok(stored) => {
                self.inner.highest.fetch_max(stored.sequence, Ordering::Relaxed);
                WriteOutcome::Written(stored.sequence)
            }
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE.0 => {
                WriteOutcome::Lost
            }
            Err(error @ (ApiError::TimedOut | ApiError::Disconnected)) => {
                tracing::debug!(bucket = self.name(), key, %error, "a write has no known outcome");
                WriteOutcome::Unknown
            }
            Err(error) => {
                tracing::warn!(bucket = self.name(), key, %error, "a write has failed");
                if error == ApiError::NoResponders {
                    self.seek();
                }
                WriteOutcome::Unknown
            }
        }
    }

    /// Reads a key's latest revision from the leader of the bucket's stream. `None` if there is none, not even a marker.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn read(&self, key: &str) -> Result<Option<StoredEntry>, ApiError> {
        let ask = json!({ "last_by_subj": format!("{}{key}", self.inner.prefix) });
        match self.inner.nats.api::<_, Found>(&format!("STREAM.MSG.GET.{}", self.inner.stream), &ask).await {
            Ok(found) => {
                let message =
                    RawMessage::try_from(found.message).map_err(|error| ApiError::Failed(error.to_string()))?;
                self.inner.highest.fetch_max(message.sequence, Ordering::Relaxed);
                let header = |name: &str| message.headers.get(name).map(async_nats::HeaderValue::as_str);
                Ok(Some(entry(&message.payload, message.sequence, is_marker(header))))
            }
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::NO_MESSAGE_FOUND.0 => Ok(None),
            Err(error) => {
                if matches!(&error, ApiError::Refused { code, .. } if *code == ErrorCode::STREAM_NOT_FOUND.0) {
                    self.seek();
                }
                Err(error)
            }
        }
    }

    /// Reads the latest revision of every key, or of those that match, markers included, by key. May come from a replica that
    /// lags a little.
    ///
    /// # Errors
    /// Not complete within the operation timeout.
    pub async fn list(&self, keys: Option<&Filters>) -> Result<Vec<(String, StoredEntry)>, ApiError> {
        let listed = async {
            let mut entries = BTreeMap::new();
            self.each(keys, |key, entry| {
                entries.insert(key, entry);
            })
            .await?;
            Ok(entries.into_iter().collect())
        };
        timeout(self.inner.nats.operation_timeout(), listed).await.unwrap_or(Err(ApiError::TimedOut))
    }

    /// Gives the latest revision of every key, or of those that match, to `take`, one after the other: values that are large
    /// together need not be in memory together. A key that changes meanwhile may come twice.
    ///
    /// # Errors
    /// The server falls silent, or the connection is lost.
    pub async fn each(
        &self,
        keys: Option<&Filters>,
        mut take: impl FnMut(String, StoredEntry),
    ) -> Result<(), ApiError> {
        let mut reader = self.reader(keys).await?;
        let mut batch = Vec::new();
        while read_backlog(&mut reader, &mut batch).await? {
            for (key, entry) in batch.drain(..).filter_map(|message| self.entry(&message)) {
                take(key, entry);
            }
        }
        Ok(())
    }

    /// Tells the latest revision of every key, or of those that match, and from then on every change, for as long as it is kept.
    #[must_use]
    pub fn watch(&self, keys: Option<Filters>) -> Watch {
        Watch::start(self.clone(), keys)
    }

    /// The latest revision of any key. One that is below a revision known to have been written means that the server has lost
    /// writes.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn last_revision(&self) -> Result<u64, ApiError> {
        let info: Info = self.inner.nats.api(&format!("STREAM.INFO.{}", self.inner.stream), &NoArguments {}).await?;
        Ok(info.state.last_sequence)
    }

    /// Whether the bucket was made anew since the last call, or holds less than it did. A server that was cut off from its cluster may
    /// seem to hold less.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn has_lost(&self, loss: &mut Loss) -> Result<bool, ApiError> {
        let Inner { nats, stream, highest, .. } = &*self.inner;
        let known = highest.load(Ordering::Relaxed);
        let info: Created = nats.api(&format!("STREAM.INFO.{stream}"), &NoArguments {}).await?;
        let before = loss.created.replace(info.created.clone());
        let is_new = before.is_some_and(|before| before != info.created);
        let is_less = info.state.last_seq < known;
        if is_new || is_less {
            // Told once. What is written meanwhile may be higher again, and is no loss.
            let _ = highest.compare_exchange(known, info.state.last_seq, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(is_new || is_less)
    }

    pub(super) fn nats(&self) -> &Nats {
        &self.inner.nats
    }

    pub(super) async fn reader(&self, keys: Option<&Filters>) -> Result<Reader, ApiError> {
        let subjects = match keys {
            Some(keys) => keys.subjects().iter().map(|key| format!("{}{key}", self.inner.prefix)).collect(),
            None => vec![format!("{}>", self.inner.prefix)],
        };
        let options = ReaderOptions {
            stream: self.inner.stream.clone(),
            start: Start::LatestOfEachSubject,
            filters: Filters::new(subjects),
        };
        match Reader::open_shared(&self.inner.nats, &options).await {
            Ok(reader) => Ok(reader),
            Err(OpenReaderError::Failed { why, .. }) => Err(why),
            Err(error) => {
                if matches!(error, OpenReaderError::NoStream(_)) {
                    self.seek();
                }
                Err(ApiError::Failed(error.to_string()))
            }
        }
    }

    pub(super) fn entry(&self, message: &StreamMessage) -> Option<(String, StoredEntry)> {
        let key = message.subject.strip_prefix(&self.inner.prefix)?;
        let marker = is_marker(|name| message.headers.get(name));
        Some((key.to_owned(), entry(&message.payload, message.sequence.0, marker)))
    }

    /// Looks in the background whether the bucket is still there.
    fn seek(&self) {
        let store = self.clone();
        tokio::spawn(async move {
            let Inner { nats, spec, seeker, .. } = &*store.inner;
            seeker.seek(&spec.name, async { buckets::open(nats, spec).await.map(drop) }).await;
        });
    }
}

/// Reads more of what was there when the reader was opened. `false` once everything has been read.
pub(super) async fn read_backlog(reader: &mut Reader, into: &mut Vec<StreamMessage>) -> Result<bool, ApiError> {
    loop {
        // The figure that comes with a message may be wrong while keys are overwritten or expire; the server's own is not.
        if reader.pending() == 0 && reader.has_read_all().await? {
            return Ok(false);
        }
        match timeout(LULL, reader.read(into)).await {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(ReaderEnd::Disconnected)) => return Err(ApiError::Disconnected),
            Ok(Err(end)) => return Err(ApiError::Failed(end.to_string())),
            Err(_) if reader.has_read_all().await? => return Ok(false),
            Err(_) => {}
        }
    }
}

fn entry(payload: &[u8], revision: u64, marker: bool) -> StoredEntry {
    StoredEntry { value: (!marker).then(|| payload.to_vec()), revision }
}

/// Whether a revision says that there is no value: after a deletion, a purge, or an expiry.
fn is_marker<T: AsRef<str>>(header: impl Fn(&str) -> Option<T>) -> bool {
    header(OPERATION).is_some_and(|operation| matches!(operation.as_ref(), "DEL" | "PURGE"))
        || header(MARKER_REASON).is_some()
}

/// Whether this can be a key: ADR-8 of the NATS architecture.
fn is_key(key: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
    key.bytes().all(valid) && key.split('.').all(|token| !token.is_empty())
}
