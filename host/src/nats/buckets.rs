//! What a bucket must be like: it is created so when it is missing, and checked when it is there, because opening a bucket with
//! other settings silently keeps the old ones.

use super::api::{ApiError, NoArguments};
use super::backoff::Backoff;
use super::connection::Nats;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use std::fmt;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the marker stays that an expired key leaves.
const MARKER_LIFETIME: Duration = Duration::from_secs(60);

/// Consumers that a bucket may have: some per worker. From server 2.15 on a stream without a figure of its own has 1000.
const MAX_CONSUMERS: i32 = 20_000;

/// For how long a bucket remembers message ids, which it never gets; the server wants a figure that is not above `max_age`.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Waits while a bucket cannot be created because a cluster elects or another worker creates it.
const RETRY: Backoff = Backoff { first: Duration::from_millis(50), cap: Duration::from_secs(1) };

/// How long one attempt may take: a cluster in which several workers create a bucket at once leaves some of them unanswered.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A bucket as the configuration wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: String,
    /// How long its keys live.
    pub lifetime: KeyLifetime,
    /// On how many servers it is kept.
    pub replicas: usize,
}

/// How long the keys of a bucket live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLifetime {
    /// Until they are deleted.
    Forever,
    /// Every key this long after its last write. Works with all servers, where they cannot expire single keys by the
    /// bucket's `max_age`.
    Every(Duration),
    /// Each as its write says. Servers before 2.11 cannot; there the keys live for ever, with a warning.
    Each,
}

/// A setting of an existing bucket that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketMismatch {
    /// The bucket.
    pub bucket: String,
    /// The setting.
    pub setting: &'static str,
    /// What it is.
    pub found: String,
    /// What it should be.
    pub wanted: String,
    /// What that means and what to do.
    pub advice: String,
}

impl fmt::Display for BucketMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, setting, found, wanted, advice } = self;
        write!(f, "bucket {bucket:?}: {setting} is {found}, wanted is {wanted}. {advice}")
    }
}

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenBucketError {
    /// The server would refuse the name.
    #[error("{0:?} is no bucket name: use letters, digits, - and _")]
    BadName(String),
    /// Settings with which promises would be broken.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Mismatch(Vec<BucketMismatch>),
    /// The server does not do it.
    #[error("bucket {bucket:?} could not be opened: {why}")]
    Failed {
        /// The bucket.
        bucket: String,
        /// What went wrong.
        why: ApiError,
    },
}

/// What was found out about a bucket when it was opened.
pub(super) struct Checked {
    /// Whether its keys can have lifetimes of their own.
    pub(super) single_keys_expire: bool,
    /// What is odd about it, but can be lived with.
    pub(super) warnings: Vec<BucketMismatch>,
}

/// Name of the stream behind a bucket.
pub(super) fn stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Creates the bucket if it is missing, and checks what is there. Many may do so at the same time.
pub(super) async fn open(nats: &Nats, spec: &BucketSpec) -> Result<Checked, OpenBucketError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if spec.name.is_empty() || !spec.name.chars().all(valid) {
        return Err(OpenBucketError::BadName(spec.name.clone()));
    }
    let single_keys_expire = nats.server_version().expires_single_keys();
    let mut last = ApiError::TimedOut;
    let opened = timeout(nats.operation_timeout(), async {
        for attempt in 1.. {
            sleep(RETRY.before(attempt)).await;
            let attempt = timeout(ATTEMPT, find_or_create(nats, spec, single_keys_expire));
            match attempt.await.unwrap_or(Err(ApiError::TimedOut)) {
                // Another worker of another version has just created it with other settings; or the cluster elects.
                Err(why @ ApiError::Refused { code, .. })
                    if [ErrorCode::STREAM_NAME_EXIST.0, ErrorCode::CLUSTER_NOT_AVAILABLE.0].contains(&code) =>
                {
                    last = why;
                }
                Err(why @ (ApiError::TimedOut | ApiError::Disconnected)) => last = why,
                result => return result,
            }
        }
        Err(ApiError::TimedOut)
    })
    .await;
    let failed = |why| OpenBucketError::Failed { bucket: spec.name.clone(), why };
    let found = opened.map_err(|_| failed(last))?.map_err(failed)?;
    check(spec, &found)
}

async fn find_or_create(nats: &Nats, spec: &BucketSpec, single_keys_expire: bool) -> Result<Config, ApiError> {
    let stream = stream_name(&spec.name);
    match nats.api::<_, Info>(&format!("STREAM.INFO.{stream}"), &NoArguments {}).await {
        Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => {
            let create = format!("STREAM.CREATE.{stream}");
            nats.api::<_, Info>(&create, &config(spec, single_keys_expire)).await.map(|info| info.config)
        }
        found => found.map(|info| info.config),
    }
}

/// A bucket as ADR-8 of the NATS architecture has it, with one revision per key.
fn config(spec: &BucketSpec, single_keys_expire: bool) -> Config {
    let max_age = match spec.lifetime {
        KeyLifetime::Every(lifetime) if !single_keys_expire => lifetime,
        _ => Duration::ZERO,
    };
    let markers = single_keys_expire && spec.lifetime != KeyLifetime::Forever;
    Config {
        name: stream_name(&spec.name),
        subjects: vec![format!("$KV.{}.>", spec.name)],
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: -1,
        max_message_size: -1,
        max_consumers: MAX_CONSUMERS,
        max_age,
        duplicate_window: if max_age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(max_age) },
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: spec.replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: markers,
        subject_delete_marker_ttl: markers.then_some(MARKER_LIFETIME),
        ..Default::default()
    }
}

fn check(spec: &BucketSpec, found: &Config) -> Result<Checked, OpenBucketError> {
    let stream = stream_name(&spec.name);
    let mismatch = |setting, found: String, wanted: String, advice: String| BucketMismatch {
        bucket: spec.name.clone(),
        setting,
        found,
        wanted,
        advice,
    };
    let age = |age: Duration| if age.is_zero() { "none".to_owned() } else { format!("{age:?}") };
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());

    match spec.lifetime {
        KeyLifetime::Every(lifetime) if !found.allow_message_ttl && found.max_age != lifetime => {
            let advice = format!(
                "Its keys would not expire when their owners die. Run: nats stream edit {stream} --max-age={}s",
                lifetime.as_secs_f64()
            );
            errors.push(mismatch("max_age", age(found.max_age), age(lifetime), advice));
        }
        KeyLifetime::Every(lifetime)
            if found.allow_message_ttl && !found.max_age.is_zero() && found.max_age < lifetime =>
        {
            let advice = format!("Its keys would expire before their time. Run: nats stream edit {stream} --max-age=0");
            errors.push(mismatch("max_age", age(found.max_age), age(Duration::ZERO), advice));
        }
        KeyLifetime::Every(_) => {}
        KeyLifetime::Forever | KeyLifetime::Each if !found.max_age.is_zero() => {
            let advice = format!("What must last would vanish. Run: nats stream edit {stream} --max-age=0");
            errors.push(mismatch("max_age", age(found.max_age), age(Duration::ZERO), advice));
        }
        KeyLifetime::Each if !found.allow_message_ttl => {
            let advice = "Its keys live for ever. A server of version 2.11 or newer can expire them".to_owned();
            warnings.push(mismatch("allow_msg_ttl", "off".to_owned(), "on".to_owned(), advice));
        }
        KeyLifetime::Forever | KeyLifetime::Each => {}
    }
    if found.num_replicas != spec.replicas {
        let advice =
            format!("Run: nats stream edit {stream} --replicas={}, or correct kvBucket.replicas", spec.replicas);
        warnings.push(mismatch("replicas", found.num_replicas.to_string(), spec.replicas.to_string(), advice));
    }
    if found.max_messages_per_subject != 1 {
        let advice =
            format!("Old revisions take space for nothing. Run: nats stream edit {stream} --max-msgs-per-subject=1");
        warnings.push(mismatch("history", found.max_messages_per_subject.to_string(), "1".to_owned(), advice));
    }
    if found.storage != StorageType::File {
        let advice =
            "A restart of the server empties it. Delete it while no worker runs; it is created anew".to_owned();
        warnings.push(mismatch("storage", "memory".to_owned(), "file".to_owned(), advice));
    }
    if errors.is_empty() {
        Ok(Checked { single_keys_expire: found.allow_message_ttl, warnings })
    } else {
        Err(OpenBucketError::Mismatch(errors))
    }
}
