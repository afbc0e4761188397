//! What the values must satisfy, alone and together. Each rule is declared once: severity, text, check.
//!
//! The text is the reason in a report and the row in the reference. A rule that needs keys is skipped while one of
//! them has a problem of its own, so that nothing is reported about a value that nobody wrote. Here are the rules about
//! single values; [`coordination`] and [`data`] hold those of their fields.

mod coordination;
mod data;

use super::limits::Limits;
use super::schema::Config;
use super::value::show_duration;
use std::time::Duration;

/// Whether breaking a rule stops a worker from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) severity: Severity,
    /// The keys without which it means nothing: those that it compares, those that are required. None for a rule about
    /// single values that every default satisfies.
    pub(crate) needs: &'static [&'static str],
    /// What it says: the reason in a report and the row in the reference.
    pub(crate) says: &'static str,
    /// How the configuration breaks it.
    pub(crate) broken: fn(&Config) -> Vec<Breach>,
}

/// A value that breaks a rule.
pub(crate) struct Breach {
    /// The key.
    pub(crate) path: String,
    /// Its value as a message shows it.
    pub(crate) value: String,
    /// What to do.
    pub(crate) todo: String,
}

/// Every rule, in the order of a report.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    SINGLE_VALUES.iter().chain(coordination::RULES).chain(data::RULES)
}

fn breach(path: &str, value: impl ToString, todo: impl Into<String>) -> Breach {
    Breach { path: path.to_owned(), value: value.to_string(), todo: todo.into() }
}

/// One breach if `broken`.
fn when(broken: bool, path: &str, value: impl ToString, todo: impl Into<String>) -> Vec<Breach> {
    if broken { vec![breach(path, value, todo)] } else { Vec::new() }
}

/// Whether a text may be part of bucket names and subjects.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The bucket names that the configuration sets, with their keys.
fn named_buckets(c: &Config) -> Vec<(&'static str, &String)> {
    let b = &c.kv_bucket;
    [
        ("kvBucket.stableIdBucket", &b.stable_id_bucket),
        ("kvBucket.electionBucket", &b.election_bucket),
        ("kvBucket.heartbeatBucket", &b.heartbeat_bucket),
        ("kvBucket.assignmentBucket", &b.assignment_bucket),
        ("kvBucket.ownershipBucket", &b.ownership_bucket),
        ("kvBucket.snapshotBucket", &b.snapshot_bucket),
        ("kvBucket.controlBucket", &b.control_bucket),
    ]
    .into_iter()
    .filter_map(|(path, name)| Some((path, name.as_ref()?)))
    .collect()
}

/// Durations that must be longer than nothing.
fn positive_durations(c: &Config) -> Vec<(String, Duration)> {
    let mut durations = vec![
        ("heartbeatInterval", c.heartbeat_interval),
        ("probeInterval", c.probe_interval),
        ("operationTimeout", c.operation_timeout),
        ("startupTimeout", c.startup_timeout),
        ("shutdownTimeout", c.shutdown_timeout),
        ("assignment.minRebalanceInterval", c.assignment.min_rebalance_interval),
        ("degradedBehavior.enterThreshold", c.degraded_behavior.enter_threshold),
        ("degradedBehavior.kvErrorWindow", c.degraded_behavior.kv_error_window),
        ("degradedAlert.alertInterval", c.degraded_alert.alert_interval),
    ];
    if let Some(hooks) = &c.hooks {
        durations.push(("hooks.callTimeout", hooks.call_timeout));
    }
    if let Some(strategy) = &c.strategy.plugin {
        durations.push(("strategy.plugin.callTimeout", strategy.call_timeout));
    }
    if let Some(source) = c.source.as_ref().and_then(|source| source.plugin.as_ref()) {
        durations.push(("source.plugin.callTimeout", source.call_timeout));
    }
    if let Some(interval) = c.source.as_ref().and_then(|source| source.refresh_interval) {
        durations.push(("source.refreshInterval", interval));
    }
    let mut durations = named(durations);
    for (key, handler) in c.handlers() {
        durations.extend([
            (format!("{key}.callTimeout"), handler.call_timeout),
            (format!("{key}.commitInterval"), handler.commit_interval),
            (format!("{key}.backoff.initial"), handler.backoff.initial),
            (format!("{key}.quarantine.probe.initial"), handler.quarantine.probe.initial),
        ]);
    }
    durations
}

fn named<T>(of: Vec<(&str, T)>) -> Vec<(String, T)> {
    of.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Durations that become TTLs of NATS, with the least that each may be.
fn nats_ttls(c: &Config) -> [(&'static str, Duration, u64); 4] {
    [
        ("workerIdTtl", c.worker_id_ttl, 1),
        ("heartbeatTtl", c.heartbeat_ttl, 1),
        ("electionTimeout", c.election_timeout, 1),
        ("kvBucket.assignmentTtl", c.kv_bucket.assignment_ttl, 0),
    ]
}

/// The limits of a section without which no plugin can do anything.
fn positive_limits(section: &str, limits: &Limits) -> [(String, u64); 4] {
    [
        (format!("{section}.memory"), limits.memory.0),
        (format!("{section}.componentBytes"), limits.component_bytes.0),
        (format!("{section}.hostCallBytes"), limits.host_call_bytes.0),
        (format!("{section}.httpRequests"), u64::from(limits.http_requests)),
    ]
}

/// Counts that must be at least 1.
fn positive_counts(c: &Config) -> Vec<(String, u64)> {
    let mut counts = vec![
        ("capacity", c.capacity.into()),
        ("assignment.maxPartitions", c.assignment.max_partitions.unwrap_or(1).into()),
        ("assignment.maxMovesPerPlan", c.assignment.max_moves_per_plan.unwrap_or(1).into()),
        ("degradedBehavior.kvErrorThreshold", c.degraded_behavior.kv_error_threshold.into()),
        ("commit.maxPerSecond", c.commit.max_per_second.unwrap_or(1).into()),
    ];
    if let Some(hooks) = &c.hooks {
        counts.push(("hooks.queue", hooks.queue.into()));
    }
    counts.extend(c.strategy.rings().map(|ring| (ring.path, ring.virtual_nodes.into())));
    if let Some(weighted) = &c.strategy.weighted_consistent_hash {
        counts.push(("strategy.weightedConsistentHash.defaultWeight", weighted.default_weight));
    }
    let mut counts = named(counts);
    // A limit that a plugin inherits is reported where it is set.
    let defaults = &c.plugins.defaults;
    counts.extend(positive_limits("plugins.defaults", defaults));
    counts.push(("plugins.defaults.batchBytes".to_owned(), defaults.batch_bytes.0));
    let source = c.source.as_ref().and_then(|source| source.plugin.as_ref());
    let inheriting = [
        ("source.plugin.limits", source.map(|source| &source.limits.0)),
        ("hooks.limits", c.hooks.as_ref().map(|hooks| &hooks.limits.0)),
        ("strategy.plugin.limits", c.strategy.plugin.as_ref().map(|strategy| &strategy.limits.0)),
    ];
    for (section, limits) in inheriting {
        counts.extend(
            limits.filter(|limits| *limits != defaults).into_iter().flat_map(|set| positive_limits(section, set)),
        );
    }
    for (key, handler) in c.handlers() {
        counts.extend([
            (format!("{key}.instances"), handler.instances.unwrap_or(1).into()),
            (format!("{key}.batchSize"), handler.batch_size.into()),
            (format!("{key}.maxAttempts"), handler.max_attempts.into()),
            (format!("{key}.maxTraps"), handler.max_traps.into()),
            (format!("{key}.maxUncommitted.messages"), handler.max_uncommitted.messages.into()),
            (format!("{key}.maxUncommitted.bytes"), handler.max_uncommitted.bytes.0),
            (format!("{key}.maxSnapshotBytes"), handler.max_snapshot_bytes.0),
        ]);
        let limits = &handler.limits;
        if limits != defaults {
            counts.extend(positive_limits(&format!("{key}.limits"), limits));
            counts.push((format!("{key}.limits.batchBytes"), limits.batch_bytes.0));
        }
    }
    counts
}

/// Copies of streams and buckets.
fn replicas(c: &Config) -> Vec<(&'static str, u32)> {
    let mut replicas = vec![("kvBucket.replicas", c.kv_bucket.replicas)];
    if let Some(create) = c.stream.as_ref().and_then(|stream| stream.create.as_ref()) {
        replicas.push(("stream.create.replicas", create.replicas));
    }
    replicas
}

const SINGLE_VALUES: &[Rule] = &[
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "group, workerIdPrefix and bucket names have 1 to 64 letters, digits, - and _: they are parts of NATS names",
        broken: |c| {
            let names = [("group", &c.group), ("workerIdPrefix", &c.worker_id_prefix)];
            let bad = names.into_iter().chain(named_buckets(c)).filter(|(_, name)| !is_name(name));
            bad.map(|(path, name)| breach(path, format!("{name:?}"), "use letters, digits, - and _ only")).collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "intervals, time-outs and degradedBehavior.enterThreshold must be longer than 0s",
        broken: |c| {
            let zero = positive_durations(c).into_iter().filter(|(_, duration)| duration.is_zero());
            zero.map(|(path, duration)| {
                breach(&path, show_duration(duration), "choose a longer time, or leave the key out for the default")
            })
            .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "TTLs that reach NATS are whole seconds, at least 1s (assignmentTtl may be 0s): NATS ignores fractions",
        broken: |c| {
            let bad =
                nats_ttls(c).into_iter().filter(|(_, ttl, least)| ttl.subsec_nanos() != 0 || ttl.as_secs() < *least);
            bad.map(|(path, ttl, least)| {
                breach(path, show_duration(ttl), format!("set {}s", (ttl.as_secs() + 1).max(least)))
            })
            .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "assignment.minRebalanceThreshold is a ratio from 0 to 1",
        broken: |c| {
            let threshold = c.assignment.min_rebalance_threshold;
            when(!(0.0..=1.0).contains(&threshold), "assignment.minRebalanceThreshold", threshold, "write 15 % as 0.15")
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "handler.swap.canary, maxErrorRate and maxRejectRate, and handler.quarantine.maxErrorRate, are ratios from 0 to 1",
        broken: |c| {
            let ratios = c.handlers().flat_map(|(key, handler)| {
                let swap = &handler.swap;
                [
                    (format!("{key}.swap.canary"), swap.canary),
                    (format!("{key}.swap.maxErrorRate"), swap.max_error_rate),
                    (format!("{key}.swap.maxRejectRate"), swap.max_reject_rate),
                    (format!("{key}.quarantine.maxErrorRate"), handler.quarantine.max_error_rate),
                ]
            });
            let wrong = ratios.filter(|(_, ratio)| !(0.0..=1.0).contains(ratio));
            wrong.map(|(path, ratio)| breach(&path, ratio, "write 15 % as 0.15")).collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "counts and sizes without which nothing could run must be at least 1",
        broken: |c| {
            let zero = positive_counts(c).into_iter().filter(|(_, count)| *count == 0);
            zero.map(|(path, count)| breach(&path, count, "choose 1 or more, or leave the key out for the default"))
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "replicas are 1 to 5: JetStream keeps no more copies",
        broken: |c| {
            let bad = replicas(c).into_iter().filter(|(_, count)| !(1..=5).contains(count));
            bad.map(|(path, count)| breach(path, count, "use 1 on a single server, 3 on a cluster")).collect()
        },
    },
];
