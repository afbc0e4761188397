//! What a bucket must be like: it is created so when it is missing, and checked when it is there, because opening a bucket with
//! other settings silently keeps the old ones.

use super::api::{ApiError, NoArguments};
use super::backoff::Backoff;
use super::connection::Nats;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use std::fmt;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

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

/// How often at most a bucket is looked for that seems to be gone.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);

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
    let config = config(spec, nats.server_version().expires_single_keys());
    let found = find_or_create(nats, &spec.name, &config).await?;
    check(spec, &found)
}

/// A bucket that was only looked at: nothing was created.
#[derive(Debug)]
pub struct BucketLook {
    /// The bucket.
    pub bucket: String,
    /// What is odd about it but can be lived with; `None` if it is missing. Or why it could not be opened.
    pub found: Result<Option<Vec<BucketMismatch>>, OpenBucketError>,
    /// The stream behind it.
    stream: String,
    /// One of its subjects, which nobody uses.
    subject: String,
}

impl BucketLook {
    /// Whether the user may write to the bucket, or create it if it is missing.
    pub async fn may_be_written(&self, nats: &Nats) -> bool {
        match &self.found {
            Ok(None) => nats.may_create(&self.stream).await,
            _ => nats.may_store(&self.subject).await,
        }
    }
}

/// Looks at the bucket behind which this stream is. `check` says what is odd about its settings.
pub(super) async fn look(
    nats: &Nats,
    bucket: &str,
    stream: String,
    subject: String,
    check: impl FnOnce(&Config) -> Result<Vec<BucketMismatch>, OpenBucketError>,
) -> BucketLook {
    let found = match nats.api::<_, Info>(&format!("STREAM.INFO.{stream}"), &NoArguments {}).await {
        Ok(info) => check(&info.config).map(Some),
        Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => Ok(None),
        Err(why) => Err(OpenBucketError::Failed { bucket: bucket.to_owned(), why }),
    };
    BucketLook { bucket: bucket.to_owned(), found, stream, subject }
}

/// The settings of the stream behind a bucket, which is created like this if it is missing. Many may do so at the same time.
pub(super) async fn find_or_create(nats: &Nats, bucket: &str, config: &Config) -> Result<Config, OpenBucketError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if bucket.is_empty() || !bucket.chars().all(valid) {
        return Err(OpenBucketError::BadName(bucket.to_owned()));
    }
    let mut last = ApiError::TimedOut;
    let opened = timeout(nats.operation_timeout(), async {
        for attempt in 1.. {
            sleep(RETRY.before(attempt)).await;
            match timeout(ATTEMPT, try_once(nats, config)).await.unwrap_or(Err(ApiError::TimedOut)) {
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
    let failed = |why| OpenBucketError::Failed { bucket: bucket.to_owned(), why };
    opened.map_err(|_| failed(last))?.map_err(failed)
}

async fn try_once(nats: &Nats, config: &Config) -> Result<Config, ApiError> {
    let stream = &config.name;
    match nats.api::<_, Info>(&format!("STREAM.INFO.{stream}"), &NoArguments {}).await {
        Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => {
            nats.api::<_, Info>(&format!("STREAM.CREATE.{stream}"), config).await.map(|info| info.config)
        }
        found => found.map(|info| info.config),
    }
}

/// Looks for a bucket that seems to be gone, and creates it anew if somebody has deleted it: nothing that is written to it would ever
/// succeed again.
#[derive(Default)]
pub(super) struct Seeker(Mutex<Option<Instant>>);

impl Seeker {
    /// Looks at most once a second, and only one at a time.
    pub(super) async fn seek(&self, bucket: &str, open: impl Future<Output = Result<(), OpenBucketError>>) {
        let Ok(mut sought) = self.0.try_lock() else { return };
        if sought.is_some_and(|sought| sought.elapsed() < SEEK_INTERVAL) {
            return;
        }
        *sought = Some(Instant::now());
        match open.await {
            Ok(()) => {
                tracing::warn!(bucket, "the bucket did not answer; it is there again, empty if it was deleted");
            }
            Err(error) => tracing::warn!(bucket, %error, "the bucket does not answer"),
        }
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

pub(super) fn check(spec: &BucketSpec, found: &Config) -> Result<Checked, OpenBucketError> {
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
    warnings.extend(odd_replicas(&spec.name, spec.replicas, found));
    if found.max_messages_per_subject != 1 {
        let advice =
            format!("Old revisions take space for nothing. Run: nats stream edit {stream} --max-msgs-per-subject=1");
        warnings.push(mismatch("history", found.max_messages_per_subject.to_string(), "1".to_owned(), advice));
    }
    warnings.extend(odd_storage(&spec.name, found));
    if errors.is_empty() {
        Ok(Checked { single_keys_expire: found.allow_message_ttl, warnings })
    } else {
        Err(OpenBucketError::Mismatch(errors))
    }
}

/// Checks an object store: what must last would vanish if its stream forgot by age.
pub(super) fn check_objects(
    bucket: &str,
    replicas: usize,
    found: &Config,
) -> Result<Vec<BucketMismatch>, OpenBucketError> {
    if !found.max_age.is_zero() {
        return Err(OpenBucketError::Mismatch(vec![BucketMismatch {
            bucket: bucket.to_owned(),
            setting: "max_age",
            found: format!("{:?}", found.max_age),
            wanted: "none".to_owned(),
            advice: format!("What must last would vanish. Run: nats stream edit {} --max-age=0", found.name),
        }]));
    }
    Ok(odd_replicas(bucket, replicas, found).into_iter().chain(odd_storage(bucket, found)).collect())
}

fn odd_replicas(bucket: &str, wanted: usize, found: &Config) -> Option<BucketMismatch> {
    (found.num_replicas != wanted).then(|| BucketMismatch {
        bucket: bucket.to_owned(),
        setting: "replicas",
        found: found.num_replicas.to_string(),
        wanted: wanted.to_string(),
        advice: format!("Run: nats stream edit {} --replicas={wanted}, or correct kvBucket.replicas", found.name),
    })
}

fn odd_storage(bucket: &str, found: &Config) -> Option<BucketMismatch> {
    (found.storage != StorageType::File).then(|| BucketMismatch {
        bucket: bucket.to_owned(),
        setting: "storage",
        found: "memory".to_owned(),
        wanted: "file".to_owned(),
        advice: "A restart of the server empties it. Delete it while no worker runs; it is created anew".to_owned(),
    })
}
