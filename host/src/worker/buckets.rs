//! The buckets of a group: how the configuration wants them, opened for a worker, or only looked at.

use super::settings::from_sentence;
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{
    ApiError, BucketLook, BucketMismatch, BucketSpec, KeyLifetime, Nats, Objects, OpenBucketError, Store,
};
use parti_coordination::{Bucket, Reply};
use std::time::Duration;

/// The buckets of the control plane.
#[derive(Clone)]
pub(super) struct ControlBuckets {
    stable_ids: Store,
    election: Store,
    heartbeats: Store,
    assignments: Store,
}

impl ControlBuckets {
    pub(super) fn of(&self, bucket: Bucket) -> &Store {
        match bucket {
            Bucket::StableIds => &self.stable_ids,
            Bucket::Election => &self.election,
            Bucket::Heartbeats => &self.heartbeats,
            Bucket::Assignments => &self.assignments,
        }
    }

    /// What is under a key, as the coordinator wants to be told.
    pub(super) async fn read(&self, bucket: Bucket, key: &str) -> Reply {
        Reply::Entry(self.of(bucket).read(key).await.map_err(|_| ()))
    }

    /// Everything in a bucket, as the coordinator wants to be told.
    pub(super) async fn list(&self, bucket: Bucket) -> Reply {
        Reply::Listing(self.of(bucket).list(None).await.map_err(|_| ()))
    }

    /// Those that are there, if all are. Nothing is created.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub(super) async fn existing(nats: &Nats, config: &Config) -> Result<Option<Self>, ApiError> {
        let existing = async |spec| Store::existing(nats, spec).await;
        let stable_ids = existing(stable_ids_bucket(config)).await?;
        let election = existing(election_bucket(config)).await?;
        let heartbeats = existing(heartbeats_bucket(config)).await?;
        let assignments = existing(assignments_bucket(config)).await?;
        Ok(match (stable_ids, election, heartbeats, assignments) {
            (Some(stable_ids), Some(election), Some(heartbeats), Some(assignments)) => {
                Some(Self { stable_ids, election, heartbeats, assignments })
            }
            _ => None,
        })
    }
}

/// Opens every KV bucket, and creates what is missing: those of the control plane, that of the ownership records, and that of what is
/// wanted of plugins.
pub(super) async fn open(nats: &Nats, config: &Config) -> Result<(ControlBuckets, Store, Store), OperatorError> {
    let open = async |spec| {
        let (store, warnings) = Store::open(nats, spec).await.map_err(|error| bucket_error(&error))?;
        warn(&warnings);
        Ok::<Store, OperatorError>(store)
    };
    let control = ControlBuckets {
        stable_ids: open(stable_ids_bucket(config)).await?,
        election: open(election_bucket(config)).await?,
        heartbeats: open(heartbeats_bucket(config)).await?,
        assignments: open(assignments_bucket(config)).await?,
    };
    let wanted = open(control_bucket(config)).await?;
    Ok((control, open(ownership_bucket(config)).await?, wanted))
}

/// Opens an object store. Large snapshots travel beside the messages: they must not delay a lease.
pub(super) async fn open_objects(nats: &Nats, config: &Config, bucket: &str) -> Result<Objects, OperatorError> {
    let opened = Objects::open(nats, bucket, replicas(config)).await;
    let (objects, warnings) = opened.map_err(|error| bucket_error(&error))?;
    warn(&warnings);
    Ok(objects)
}

fn warn(warnings: &[BucketMismatch]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Looks at every bucket that a start would open.
pub(super) async fn look(nats: &Nats, config: &Config) -> Vec<BucketLook> {
    let specs = [
        stable_ids_bucket(config),
        election_bucket(config),
        heartbeats_bucket(config),
        assignments_bucket(config),
        control_bucket(config),
        ownership_bucket(config),
    ];
    let mut looks = Vec::new();
    for spec in &specs {
        looks.push(Store::look(nats, spec).await);
    }
    looks.push(Objects::look(nats, &config.buckets().plugins, replicas(config)).await);
    if config.stream.is_some() {
        looks.push(Objects::look(nats, &config.buckets().snapshots, replicas(config)).await);
    }
    looks
}

/// What a bucket that cannot be opened means for an operator.
pub(crate) fn bucket_error(error: &OpenBucketError) -> OperatorError {
    let (bucket, why) = match error {
        OpenBucketError::Mismatch(_) => return from_sentence(ErrorCode::BucketSettings, &error.to_string()),
        OpenBucketError::BadName(_) => return from_sentence(ErrorCode::InvalidConfig, &error.to_string()),
        OpenBucketError::Failed { bucket, why } => (bucket, why),
    };
    // Nothing is known of the bucket's settings.
    let (code, todo) = match why {
        ApiError::TimedOut | ApiError::Disconnected => (
            ErrorCode::NatsUnreachable,
            "check that JetStream is healthy and has a leader (nats server report jetstream)",
        ),
        ApiError::NoResponders => {
            (ErrorCode::JetStreamDisabled, "enable JetStream for this account, or wait until the cluster has a leader")
        }
        ApiError::Refused { .. } | ApiError::Failed(_) => (
            ErrorCode::BucketUnavailable,
            "check the limits of the account (nats account info) and that the NATS user may create and read the bucket",
        ),
    };
    code.error(format!("bucket {bucket:?} could not be opened"), why.to_string(), todo)
}

fn stable_ids_bucket(config: &Config) -> BucketSpec {
    spec(config, config.buckets().stable_ids, KeyLifetime::Every(config.worker_id_ttl))
}

fn election_bucket(config: &Config) -> BucketSpec {
    spec(config, config.buckets().election, KeyLifetime::Every(config.election_timeout))
}

/// The bucket of the heartbeats.
pub(crate) fn heartbeats_bucket(config: &Config) -> BucketSpec {
    spec(config, config.buckets().heartbeats, KeyLifetime::Every(config.heartbeat_ttl))
}

/// The bucket of the plan and the assignments.
pub(crate) fn assignments_bucket(config: &Config) -> BucketSpec {
    let lifetime = match config.kv_bucket.assignment_ttl {
        Duration::ZERO => KeyLifetime::Forever,
        _ => KeyLifetime::Each,
    };
    spec(config, config.buckets().assignments, lifetime)
}

/// The bucket of what is wanted of plugins, and of their history.
pub(crate) fn control_bucket(config: &Config) -> BucketSpec {
    spec(config, config.buckets().control, KeyLifetime::Forever)
}

/// The bucket of the ownership records.
pub(crate) fn ownership_bucket(config: &Config) -> BucketSpec {
    spec(config, config.buckets().ownership, KeyLifetime::Forever)
}

fn spec(config: &Config, name: String, lifetime: KeyLifetime) -> BucketSpec {
    BucketSpec { name, lifetime, replicas: replicas(config) }
}

fn replicas(config: &Config) -> usize {
    usize::try_from(config.kv_bucket.replicas).unwrap_or(1)
}
