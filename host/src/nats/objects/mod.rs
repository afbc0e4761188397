//! The snapshots that are too large for a record, and the components that are pushed to a fleet, in an object store as ADR-20 of the NATS architecture has it: chunks under one
//! subject, and one message that describes them.
//!
//! Written by hand and not through the client library's object store, for three reasons. Its lookup may be answered by a server that
//! lags, and a new owner must see what its predecessor has put. What it deletes leaves a marker for ever, which at one snapshot a
//! second would be the larger part of the bucket. And it names chunks at random, so that what a crash leaves half put could never be
//! found. Here a chunk's subject names the partition, the ownership, the snapshot and the attempt:
//! `$O.<bucket>.C.<record key, base64>.<epoch>.<digest>.<attempt>`. A late chunk of an earlier attempt is in nobody's way, and what
//! belongs to one partition is listed, and purged, by subject. `leftovers` purges what a failed attempt has left, where nothing can
//! ever name it.

mod leftovers;
#[cfg(test)]
mod tests;

use super::api::ApiError;
use super::buckets::{self, BucketLook, BucketMismatch, OpenBucketError, Seeker};
use super::connection::Nats;
use super::subjects::each_subject;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RawMessage as EncodedMessage, StorageType};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use leftovers::Leftovers;
use parti_coordination::Epoch;
use parti_coordination::record::object_parts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes of a chunk: what NATS' own tools use.
const CHUNK: usize = 128 << 10;

/// Room that a chunk's message needs besides the chunk.
const CHUNK_OVERHEAD: usize = 1 << 10;

/// Objects on their way at once: together they are at most this many snapshots in memory.
const TRANSFERS: usize = 8;

/// So many operation timeouts a read waits for its turn: whoever gives up waiting only begins to wait again. A put waits for one: its
/// partition's hand-over may wait for it.
const READ_PATIENCE: u32 = 6;

/// A name that no chunk has, to try whether one could be put.
const UNUSED: &str = "check";

/// Why an object could not be put, read or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It is not there.
    #[error(
        "object {name:?} is not in bucket {bucket:?}. Restore the bucket, or begin without the state: parti seek --discard-state"
    )]
    Missing {
        /// The bucket.
        bucket: String,
        /// The object.
        name: String,
    },
    /// What is there is not what was put.
    #[error("object {name:?} in bucket {bucket:?} is damaged: {why}")]
    Damaged {
        /// The bucket.
        bucket: String,
        /// The object.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too many others are on their way. Nothing was sent.
    #[error(
        "bucket {bucket:?}: {} other snapshots are on their way, and there was no room for this one within {waited:?}. NATS is too slow \
         for so many large states: commit less often (handler.commitInterval), or add workers",
        TRANSFERS
    )]
    Crowded {
        /// The bucket.
        bucket: String,
        /// For how long a turn was waited for.
        waited: Duration,
    },
    /// The bucket does not answer, or it is gone.
    #[error("bucket {bucket:?}: {why}")]
    Failed {
        /// The bucket.
        bucket: String,
        /// What went wrong.
        why: ApiError,
    },
}

/// An object store of a group: that of its large snapshots, or that of pushed components. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    nats: Nats,
    bucket: String,
    stream: String,
    replicas: usize,
    chunk: usize,
    transfers: Semaphore,
    seeker: Seeker,
    leftovers: Leftovers,
}

/// What describes an object.
#[derive(Serialize, Deserialize)]
struct Meta {
    name: String,
    bucket: String,
    /// What the subject of its chunks ends with.
    nuid: String,
    size: usize,
    chunks: usize,
    /// RFC 3339.
    mtime: String,
    digest: String,
    options: Value,
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
struct Found {
    message: EncodedMessage,
}

impl Objects {
    /// Opens the object store: creates it if it is missing (any number of workers may at once). Tells what is odd about it but can be
    /// lived with.
    ///
    /// # Errors
    /// A setting with which a snapshot would vanish, or no answer within the operation timeout.
    pub async fn open(
        nats: &Nats,
        bucket: &str,
        replicas: usize,
    ) -> Result<(Self, Vec<BucketMismatch>), OpenBucketError> {
        let warnings = ensure(nats, bucket, replicas).await?;
        let inner = Inner {
            nats: nats.clone(),
            bucket: bucket.to_owned(),
            stream: stream_name(bucket),
            replicas,
            chunk: CHUNK.min(nats.max_payload().saturating_sub(CHUNK_OVERHEAD)).max(1),
            transfers: Semaphore::new(TRANSFERS),
            seeker: Seeker::default(),
            leftovers: Leftovers::start(nats, &stream_name(bucket)),
        };
        Ok((Self { inner: Arc::new(inner) }, warnings))
    }

    /// Looks at an object store as [`Self::open`] does, and creates nothing.
    pub async fn look(nats: &Nats, bucket: &str, replicas: usize) -> BucketLook {
        let (stream, subject) = (stream_name(bucket), format!("$O.{bucket}.C.{UNUSED}"));
        let check = |found: &_| buckets::check_objects(bucket, replicas, found);
        buckets::look(nats, bucket, stream, subject, check).await
    }

    /// Puts an object. Under one name the bytes must always be the same: it may be put again after an error.
    ///
    /// # Errors
    /// It is not known to be there, within the operation timeout, after it has waited no longer than that for its turn.
    pub async fn put(&self, name: &str, data: &[u8]) -> Result<(), ObjectError> {
        let place = self.place(name).map_err(|why| self.failed(why))?;
        let nuid = format!("{place}.{}", uuid::Uuid::new_v4().simple());
        let subject = self.chunks(&nuid);
        // What may be in the bucket: chunks that nothing names, until it is tried to write what names them.
        let (mut has_chunks, mut may_be_named) = (false, false);
        let put = self.transfer(1, async {
            let mut chunks = 0;
            for chunk in data.chunks(self.inner.chunk) {
                let message = PublishMessage::build().payload(Bytes::copy_from_slice(chunk));
                has_chunks = true;
                self.inner.nats.publish_and_confirm(&subject, message).await?;
                chunks += 1;
            }
            let meta = Meta {
                name: name.to_owned(),
                bucket: self.inner.bucket.clone(),
                nuid,
                size: data.len(),
                chunks,
                mtime: jiff::Timestamp::now().to_string(),
                digest: digest(data),
                options: json!({ "max_chunk_size": self.inner.chunk }),
                deleted: false,
            };
            let meta = serde_json::to_vec(&meta).map_err(|error| ApiError::Failed(error.to_string()))?;
            let message = PublishMessage::build().payload(meta.into()).header("Nats-Rollup", "sub");
            may_be_named = true;
            self.inner.nats.publish_and_confirm(&self.meta(name), message).await?;
            Ok(())
        });
        let put = put.await;
        if put.is_err() && has_chunks && !may_be_named {
            self.inner.leftovers.add(subject);
        }
        put
    }

    /// Reads an object, as the leader of the bucket's stream has it.
    ///
    /// # Errors
    /// It is not there, it is not what was put, or there was no answer within the operation timeout, after it has waited a few times
    /// as long for its turn.
    pub async fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        let (bucket, name_again) = (self.inner.bucket.clone(), name.to_owned());
        let missing = || ObjectError::Missing { bucket: bucket.clone(), name: name_again.clone() };
        let damaged = |why: String| ObjectError::Damaged { bucket: bucket.clone(), name: name_again.clone(), why };
        let read = self.transfer(READ_PATIENCE, async {
            let ask = json!({ "last_by_subj": self.meta(name) });
            let Some(found) = self.message(&ask).await? else { return Ok(Err(missing())) };
            let meta: Meta = match serde_json::from_slice(&found.1) {
                Ok(meta) => meta,
                Err(error) => return Ok(Err(damaged(error.to_string()))),
            };
            if meta.deleted {
                return Ok(Err(missing()));
            }
            let subject = self.chunks(&meta.nuid);
            let (mut data, mut next) = (Vec::new(), 1);
            for _ in 0..meta.chunks {
                let ask = json!({ "seq": next, "next_by_subj": subject });
                let Some((sequence, chunk)) = self.message(&ask).await? else {
                    return Ok(Err(damaged(format!("it has {} of {} bytes", data.len(), meta.size))));
                };
                data.extend_from_slice(&chunk);
                next = sequence + 1;
            }
            let is_whole = data.len() == meta.size && digest(&data) == meta.digest;
            Ok(if is_whole { Ok(data) } else { Err(damaged("its bytes are not those that were put".to_owned())) })
        });
        read.await?
    }

    /// Deletes these objects of a partition, and with `before` all of its ownerships before that one. What is not there is
    /// deleted.
    ///
    /// # Errors
    /// It is not known that all of them are gone, within the operation timeout.
    pub async fn delete(&self, record_key: &str, names: &[String], before: Option<Epoch>) -> Result<(), ObjectError> {
        let deleted = async {
            let mut doomed: BTreeSet<String> = names.iter().cloned().collect();
            if let Some(before) = before {
                let older = |name: &String| object_parts(name).is_some_and(|(_, epoch, _)| epoch < before);
                doomed.extend(self.of(record_key).await?.into_iter().filter(older));
            }
            for name in doomed {
                // What is left after a crash in between is found by its chunks.
                self.purge(&self.meta(&name)).await?;
                self.purge(&self.chunks(&format!("{}.>", self.place(&name)?))).await?;
            }
            Ok(())
        };
        let deleted = timeout(self.inner.nats.operation_timeout(), deleted).await;
        deleted.unwrap_or(Err(ApiError::TimedOut)).map_err(|why| self.failed(why))
    }

    /// The names of a partition's objects, whole or not.
    async fn of(&self, record_key: &str) -> Result<BTreeSet<String>, ApiError> {
        let prefix = self.chunks(&format!("{}.", URL_SAFE_NO_PAD.encode(record_key)));
        let name = |subject: &str| {
            let mut tokens = subject.strip_prefix(&prefix)?.split('.');
            Some(format!("{record_key}/{}/{}", tokens.next()?, tokens.next()?))
        };
        let mut names = BTreeSet::new();
        each_subject(&self.inner.nats, &self.inner.stream, &format!("{prefix}>"), |subject, _| {
            names.extend(name(subject));
        })
        .await?;
        Ok(names)
    }

    async fn purge(&self, filter: &str) -> Result<(), ApiError> {
        let ask = json!({ "filter": filter });
        self.inner.nats.api::<_, Value>(&format!("STREAM.PURGE.{}", self.inner.stream), &ask).await.map(drop)
    }

    /// One message of the bucket's stream, from its leader.
    async fn message(&self, ask: &Value) -> Result<Option<(u64, Vec<u8>)>, ApiError> {
        let subject = format!("STREAM.MSG.GET.{}", self.inner.stream);
        let EncodedMessage { sequence, payload, .. } = match self.inner.nats.api::<_, Found>(&subject, ask).await {
            Ok(found) => found.message,
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::NO_MESSAGE_FOUND.0 => return Ok(None),
            Err(error) => return Err(error),
        };
        let payload = STANDARD.decode(payload).map_err(|error| ApiError::Failed(error.to_string()))?;
        Ok(Some((sequence, payload)))
    }

    /// With few others at once, and bounded in time: so many operation timeouts for its turn, and one more once that has come.
    async fn transfer<T>(
        &self,
        patience: u32,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ObjectError> {
        let limit = self.inner.nats.operation_timeout();
        let waited = limit.saturating_mul(patience);
        let crowded = || ObjectError::Crowded { bucket: self.inner.bucket.clone(), waited };
        let _turn = timeout(waited, self.inner.transfers.acquire()).await.map_err(|_| crowded())?;
        timeout(limit, work).await.unwrap_or(Err(ApiError::TimedOut)).map_err(|why| self.failed(why))
    }

    /// The tokens of a chunk's subject that an object's name becomes.
    fn place(&self, name: &str) -> Result<String, ApiError> {
        let (key, epoch, digest) =
            object_parts(name).ok_or_else(|| ApiError::Failed(format!("{name:?} is no snapshot's name")))?;
        Ok(format!("{}.{epoch}.{digest}", URL_SAFE_NO_PAD.encode(key)))
    }

    fn chunks(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.inner.bucket)
    }

    fn meta(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.inner.bucket, URL_SAFE.encode(name))
    }

    fn failed(&self, why: ApiError) -> ObjectError {
        let is_gone = match &why {
            ApiError::NoResponders => true,
            ApiError::Refused { code, .. } => *code == ErrorCode::STREAM_NOT_FOUND.0,
            _ => false,
        };
        if is_gone {
            let objects = self.clone();
            tokio::spawn(async move {
                let Inner { nats, bucket, replicas, seeker, .. } = &*objects.inner;
                seeker.seek(bucket, async { ensure(nats, bucket, *replicas).await.map(drop) }).await;
            });
        }
        ObjectError::Failed { bucket: self.inner.bucket.clone(), why }
    }
}

/// Name of the stream behind an object store.
fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn digest(data: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(data)))
}

/// Creates the bucket if it is missing, and checks what is there.
async fn ensure(nats: &Nats, bucket: &str, replicas: usize) -> Result<Vec<BucketMismatch>, OpenBucketError> {
    let config = Config {
        name: stream_name(bucket),
        subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
        max_messages: -1,
        max_bytes: -1,
        max_message_size: -1,
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_rollup: true,
        allow_direct: true,
        ..Default::default()
    };
    let found = buckets::find_or_create(nats, bucket, &config).await?;
    buckets::check_objects(bucket, replicas, &found)
}
