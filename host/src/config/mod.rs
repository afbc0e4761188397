//! The configuration: its keys, where they come from, what they must satisfy, and how problems are reported.
//!
//! ```
//! let loaded = parti::config::Config::parse_str("heartbeatIntervall: 1s");
//! assert!(loaded.problems[0].todo.contains("heartbeatInterval"));
//! ```
//!
//! A configuration is read in steps, one module each. Files, environment and flags become trees (`tree`,
//! `environment`); the trees are laid over each other (`merge`); the result is read into the typed [`Config`] by the
//! declarations of `schema`, and checked against the `rules`. Every step collects what is wrong, so that all of it is
//! reported at once. [`mod@reference`] writes the same declarations down as `docs/configuration.md`.
//!
//! The command line loads the configuration and hands it to the worker as plain data; no other module reads files or
//! environment variables for settings.

pub mod check;
mod degraded;
mod environment;
mod grants;
mod handlers;
mod limits;
mod load;
mod merge;
mod problem;
pub mod reference;
mod rules;
mod schema;
mod section;
mod strategies;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

pub use degraded::{DegradedAlert, DegradedBehavior, Preset};
pub use grants::{Environment, Grant, Grants, HttpOrigin, Variable};
pub use handlers::{Handlers, KeyPatterns, Match};
pub use limits::{BatchlessLimits, Limits};
pub use load::{LoadRequest, Loaded, Missing, process_environment};
pub use problem::Problem;
pub use schema::{
    Assignment, Backoff, Commit, Config, DeadLetter, Handler, Hooks, Http, Isolation, KvBucket, Log, LogFormat,
    LogLevel, MaxUncommitted, Nats, OnExhausted, PluginSource, Plugins, Probation, Probe, Quarantine, Source,
    StaticSource, Storage, Stream, StreamCreate, StreamMode, Swap, Tls,
};
pub use strategies::{BuiltIn, ConsistentHash, PluginStrategy, RoundRobin, Strategy, WeightedConsistentHash};
pub use types::{PluginConfig, Secret, ServerUrls, StartFrom, SubjectTemplate};
pub use value::ByteSize;

use parti_coordination::PartitionId;
use std::collections::BTreeSet;

/// The group of a configuration that names none. Its bucket names do not contain it.
pub const DEFAULT_GROUP: &str = "default";

/// The names of the KV buckets of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// Claimed worker IDs.
    pub stable_ids: String,
    /// The leader's lease.
    pub election: String,
    /// Heartbeats.
    pub heartbeats: String,
    /// The plan and the assignments.
    pub assignments: String,
    /// Ownership records.
    pub ownership: String,
    /// Snapshots too large for a record: an object store.
    pub snapshots: String,
    /// Pushed components.
    pub plugins: String,
    /// Pins, drains, the history of plugins.
    pub control: String,
}

impl Buckets {
    /// Every name with the key that sets it.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &str); 8] {
        [
            ("kvBucket.stableIdBucket", &self.stable_ids),
            ("kvBucket.electionBucket", &self.election),
            ("kvBucket.heartbeatBucket", &self.heartbeats),
            ("kvBucket.assignmentBucket", &self.assignments),
            ("kvBucket.ownershipBucket", &self.ownership),
            ("kvBucket.snapshotBucket", &self.snapshots),
            ("kvBucket.pluginBucket", &self.plugins),
            ("kvBucket.controlBucket", &self.control),
        ]
    }
}

impl Config {
    /// The names of the KV buckets: as set, or after the group.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        let name = |set: &Option<String>, what: &str| match set {
            Some(name) => name.clone(),
            None if self.group == DEFAULT_GROUP => format!("parti-{what}"),
            None => format!("parti-{}-{what}", self.group),
        };
        let set = &self.kv_bucket;
        Buckets {
            stable_ids: name(&set.stable_id_bucket, "stable-ids"),
            election: name(&set.election_bucket, "election"),
            heartbeats: name(&set.heartbeat_bucket, "heartbeats"),
            assignments: name(&set.assignment_bucket, "assignments"),
            ownership: name(&set.ownership_bucket, "ownership"),
            snapshots: name(&set.snapshot_bucket, "snapshots"),
            plugins: name(&set.plugin_bucket, "plugins"),
            control: name(&set.control_bucket, "control"),
        }
    }

    /// The subject of a partition's messages; `None` for an assignment-only worker, which has no stream.
    #[must_use]
    pub fn subject(&self, partition: &PartitionId) -> Option<String> {
        self.stream.as_ref().map(|stream| stream.subject_template.subject(partition))
    }

    /// The handlers, each with the key that it has in the configuration: `handler`, or `handler[0]` and so on.
    pub fn handlers(&self) -> impl Iterator<Item = (String, &Handler)> {
        self.handler.iter().flat_map(Handlers::entries)
    }

    /// The subjects that dead letters go to, each once.
    #[must_use]
    pub fn dead_letter_subjects(&self) -> BTreeSet<&str> {
        self.handlers().filter_map(|(_, handler)| Some(handler.dead_letter.as_ref()?.subject.as_str())).collect()
    }

    /// Whether the worker takes part in the plan and consumes nothing.
    #[must_use]
    pub fn is_assignment_only(&self) -> bool {
        self.stream.is_none() && self.handler.is_none()
    }
}
