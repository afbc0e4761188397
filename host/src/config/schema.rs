//! Every key of the configuration, declared once.
//!
//! A declaration gives the typed struct, the default, the environment variable and the row in `docs/configuration.md`.
//! Defaults are the guides'; what the guides do not have says where it comes from. What several keys must satisfy
//! together is in [`super::rules`].

use super::degraded::{DegradedAlert, DegradedBehavior};
use super::grants::Grants;
use super::handlers::{Handlers, Match};
use super::limits::{BatchlessLimits, Limits};
use super::section::{Key, Section, Shape, Shorthand, choice, section};
use super::strategies::Strategy;
use super::types::{PluginConfig, Secret, ServerUrls, StartFrom, SubjectTemplate};
use super::value::ByteSize;
use parti_coordination::Partition;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

section! {
    /// The configuration of one worker.
    pub struct Config {
        /// Name of the group: the workers that share one stream, one source and one set of buckets. Letters, digits,
        /// `-` and `_`.
        group: String = "default".to_owned();
        /// Labels of this worker, shown in status and given to strategies.
        labels: BTreeMap<String, String> = BTreeMap::new() => "none";
        /// Share of the work that this worker takes, relative to the others.
        capacity: u32 = 1;

        /// First part of every worker ID: `worker` gives `worker-0`, `worker-1`, …
        worker_id_prefix: String = "worker".to_owned();
        /// Lowest number of a worker ID.
        worker_id_min: u32 = 0;
        /// Highest number of a worker ID. Twice the number of workers leaves room for rolling updates.
        worker_id_max: u32 = 99;
        /// How long an ID stays claimed when its worker is gone. Whole seconds.
        worker_id_ttl: Duration = secs(30);
        /// Number to try first, such as the ordinal of a StatefulSet's pod.
        worker_id: Option<u32> = None => "lowest free";

        /// Time between two heartbeats.
        heartbeat_interval: Duration = secs(2);
        /// How long a worker without a new heartbeat counts as alive. Whole seconds.
        heartbeat_ttl: Duration = secs(6);
        /// Time between two probes of a worker by the leader. A process that is gone answers a probe at once with
        /// *no responders*.
        probe_interval: Duration = millis(250);

        /// Longest wait for workers to come up before the plan of a cold start settles.
        cold_start_window: Duration = secs(30);
        /// Longest wait for more changes before a planned change is planned.
        planned_scale_window: Duration = secs(10);
        /// How long the membership must be quiet for a window to close early.
        quiet_period: Option<Duration> = None => "a fifth of the window; 2s for a cold start";
        /// How long a suspect worker is given for a sign of life before it counts as dead.
        emergency_grace_period: Duration = millis(1500);

        /// Longest wait for one operation on NATS.
        operation_timeout: Duration = secs(10);
        /// Lease of the leader: how long it leads without renewing. Whole seconds.
        election_timeout: Duration = secs(5);
        /// Longest wait for a worker to be ready after its start.
        startup_timeout: Duration = secs(30);
        /// Longest time for a worker to finish and leave.
        shutdown_timeout: Duration = secs(10);
        /// How a worker leaves.
        shutdown: Shutdown = Shutdown::default();

        /// When partitions are spread anew.
        assignment: Assignment = Assignment::default();
        /// Names and settings of the KV buckets.
        kv_bucket: KvBucket = KvBucket::default();
        /// When a worker enters and leaves degraded mode.
        degraded_behavior: DegradedBehavior = DegradedBehavior::default();
        /// When a worker in degraded mode raises alerts. Thresholds count from the start of the outage; `0s` disables a
        /// level.
        degraded_alert: DegradedAlert = DegradedAlert::default();

        /// The connection to NATS. At most one way to log in: `credentials`, `nkey`, `user` with `password`, or
        /// `token`.
        nats: Nats = Nats::default();
        /// The stream whose messages are processed. Without `stream` and `handler` a worker is assignment-only: it
        /// takes part in the plan and consumes nothing.
        stream: Option<Stream> = None;
        /// Which partitions exist.
        source: Option<Source> = None;
        /// Which worker gets which partition.
        strategy: Strategy = Strategy::default();
        /// What processes the messages: one handler for every partition, or a list of them, of which the first that matches a partition
        /// handles it. What the environment or another file sets of `handler` holds for each of a list.
        handler: Option<Handlers> = None;
        /// The commits of this worker's partitions together.
        commit: Commit = Commit::default();
        /// What is told what happens to the worker.
        hooks: Option<Hooks> = None;
        /// Where plugins come from, and what they may use.
        plugins: Plugins = Plugins::default();
        /// The HTTP server for health, status and metrics.
        http: Http = Http::default();
        /// The log, on standard error.
        log: Log = Log::default();
    }
}

section! {
    /// How a worker leaves.
    pub struct Shutdown {
        /// How long the partitions of a worker that was told to stop wait for it to come back under the same ID, unserved,
        /// instead of moving. `0s`: they move at once.
        hold: Duration = secs(0);
    }
}

section! {
    /// When partitions are spread anew.
    pub struct Assignment {
        /// Imbalance, `max(max/mean − 1, 1 − min/mean)` by weight, under which a planned re-balance is not worth its
        /// moves.
        min_rebalance_threshold: f64 = 0.15;
        /// Shortest time between two planned re-balances.
        min_rebalance_interval: Duration = secs(10);
        /// Most partitions of one worker. What exceeds it on every worker is unowned, counted and alerted.
        max_partitions: Option<u32> = None => "no limit";
        /// Most partitions that one planned change takes from workers that could keep them; the others follow in further plans, each
        /// `minRebalanceInterval` after the one before. Partitions without an owner never wait for it, nor those that are pinned, or of
        /// workers that leave or are drained.
        max_moves_per_plan: Option<u32> = None => "no limit";
    }
}

section! {
    /// Names and settings of the KV buckets.
    pub struct KvBucket {
        /// Bucket of the claimed worker IDs.
        stable_id_bucket: Option<String> = None => "`parti-stable-ids`, with a group `parti-GROUP-stable-ids`";
        /// Bucket of the leader's lease.
        election_bucket: Option<String> = None => "`parti-election`, with a group `parti-GROUP-election`";
        /// Bucket of the heartbeats.
        heartbeat_bucket: Option<String> = None => "`parti-heartbeats`, with a group `parti-GROUP-heartbeats`";
        /// Bucket of the plan and the assignments.
        assignment_bucket: Option<String> = None => "`parti-assignments`, with a group `parti-GROUP-assignments`";
        /// Bucket of the ownership records: positions and snapshots.
        ownership_bucket: Option<String> = None => "`parti-ownership`, with a group `parti-GROUP-ownership`";
        /// Object store of the snapshots that are larger than 32 KiB.
        snapshot_bucket: Option<String> = None => "`parti-snapshots`, with a group `parti-GROUP-snapshots`";
        /// Object store of the components that are pushed to the fleet.
        plugin_bucket: Option<String> = None => "`parti-plugins`, with a group `parti-GROUP-plugins`";
        /// Bucket of what is wanted of plugins, and of their history.
        control_bucket: Option<String> = None => "`parti-control`, with a group `parti-GROUP-control`";
        /// How long assignments outlive their last write. Whole seconds; `0s` means for ever.
        assignment_ttl: Duration = secs(0);
        /// Copies of each bucket. Use 3 on a cluster.
        replicas: u32 = 1;
    }
}

section! {
    /// The connection to NATS.
    pub struct Nats {
        /// Address of the server; several with commas, or as a list.
        url: ServerUrls = ServerUrls::local();
        /// File with the user's credentials (`.creds`).
        credentials: Option<PathBuf> = None;
        /// Seed of the user's nkey.
        nkey: Option<Secret> = None;
        /// User name.
        user: Option<String> = None;
        /// Password.
        password: Option<Secret> = None;
        /// Token.
        token: Option<Secret> = None;
        /// Encryption. A `tls` section requires it.
        tls: Option<Tls> = None;
        /// Name of the connection in the server's monitoring.
        name: Option<String> = None => "the worker's ID";
    }
}

section! {
    /// Encryption of the connection to NATS.
    pub struct Tls {
        /// File with the certificates of the authorities to trust (PEM).
        ca: Option<PathBuf> = None => "the system's";
        /// File with the client's certificate (PEM).
        cert: Option<PathBuf> = None;
        /// File with the client's key (PEM).
        key: Option<PathBuf> = None;
    }
}

choice! {
    /// How messages are taken from the stream.
    pub enum StreamMode {
        /// As the stream's retention asks for: `log` for Limits, `queue` for WorkQueue and Interest.
        Auto = "auto",
        /// Read by position; nothing is acknowledged.
        Log = "log",
        /// Acknowledged, and thereby removed.
        Queue = "queue",
    }
}

section! {
    /// The stream whose messages are processed.
    pub struct Stream {
        /// Name of the stream.
        name: String = String::new(), required;
        /// Subject of a partition's messages, with `{{.PartitionID}}` in it.
        subject_template: SubjectTemplate = SubjectTemplate::default();
        /// How messages are taken: `auto` follows the stream's retention, `log` is for Limits streams, `queue` for
        /// WorkQueue and Interest streams. A mode that does not fit the stream is refused.
        mode: StreamMode = StreamMode::Auto;
        /// Where a partition that was never processed starts: with the oldest message, with new ones, at a time, or
        /// behind the ack floor of an existing durable consumer.
        start_from: StartFrom = StartFrom::All;
        /// Queue mode: first part of the names of the consumers that workers make on the stream. Consumers of a group are
        /// told apart by their labels, not by their names.
        consumer_prefix: Option<String> = None => "`parti`, with a group `parti-GROUP`";
        /// Creates the stream if it does not exist, for development: with retention WorkQueue if `mode` is `queue`, else
        /// Limits. An existing stream is never changed.
        create: Option<StreamCreate> = None => "`false`";
    }
}

choice! {
    /// Where a stream keeps its messages.
    pub enum Storage {
        /// On disk.
        File = "file",
        /// In the server's memory.
        Memory = "memory",
    }
}

section! {
    /// Settings of a stream that the worker creates. Its subject covers `stream.subjectTemplate`.
    pub struct StreamCreate {
        /// Where messages are kept.
        storage: Storage = Storage::File;
        /// Copies of the stream.
        replicas: u32 = 1;
        /// How long messages are kept; `0s` means for ever.
        max_age: Duration = secs(0);
        /// How many bytes are kept, the oldest messages go first.
        max_bytes: Option<ByteSize> = None => "no limit";
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Switch);
    }
}

section! {
    /// Which partitions exist.
    pub struct Source {
        /// A fixed list.
        r#static: Option<StaticSource> = None;
        /// A plugin of the kind source that the leader asks.
        plugin: Option<PluginSource> = None;
        /// Time between two listings. Without it, partitions are listed by each new leader when it begins.
        refresh_interval: Option<Duration> = None => "none";
    }
    with {
        const LATER: &'static [&'static str] = &["file", "kv", "sql"];
    }
}

impl Source {
    /// The partitions that the configuration itself lists; none if another is asked for them.
    #[must_use]
    pub fn fixed(&self) -> &[Partition] {
        self.r#static.as_ref().map_or(&[], |fixed| &fixed.partitions)
    }
}

section! {
    /// A plugin of the kind source. A listing that fails, or that has a partition twice or one that cannot be, leaves the last one
    /// in force. `plugin: NAME` is short for `plugin: {name: NAME}`.
    pub struct PluginSource {
        /// Name of the plugin: its file in `plugins.directory` without `.wasm`.
        name: String = String::new(), required;
        /// What the plugin gets as its configuration. Any map.
        config: PluginConfig = PluginConfig::default() => "empty";
        /// Longest time of one listing.
        call_timeout: Duration = secs(10);
        /// Whether an empty list is believed where there were partitions. If not, the last list stays in force.
        allow_empty: bool = false;
        /// What an instance may use. Keys that are not set here come from `plugins.defaults`.
        limits: BatchlessLimits = BatchlessLimits::default();
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Name("name"));
    }
}

section! {
    /// A fixed list of partitions.
    pub struct StaticSource {
        /// The partitions. `keys` name one, no two share their keys; `weight` (100) is its processing cost relative to
        /// the others, from 1 to 1000000000.
        partitions: Vec<Partition> = Vec::new(), required;
    }
}

choice! {
    /// What becomes of a message that exhausted its attempts where there is no dead-letter subject.
    pub enum OnExhausted {
        /// Its partition waits for an operator.
        Block = "block",
        /// It is dropped, counted and logged.
        Drop = "drop",
    }
}

choice! {
    /// Where the partitions of a handler live.
    pub enum Isolation {
        /// Each in a WebAssembly instance of its own, with a memory of its own: what one does wrong ends there.
        Partition = "partition",
        /// In a few instances together, for plugins whose instances are large: what one does wrong has all that share its instance
        /// begin again, each from its last commit, and one call at a time goes on in each instance.
        Shared = "shared",
    }
}

section! {
    /// What processes the messages of the partitions that it matches.
    pub struct Handler {
        /// Which partitions it is for.
        r#match: Option<Match> = None;
        /// Name of the plugin: its file in `plugins.directory` without `.wasm`.
        plugin: String = String::new(), required;
        /// What the plugin gets as its configuration. Any map.
        config: PluginConfig = PluginConfig::default() => "empty";
        /// Whether each partition has an instance of its own.
        isolation: Isolation = Isolation::Partition;
        /// With `isolation: shared`: instances of the plugin on this worker.
        instances: Option<u32> = None => "one per processor";
        /// Most messages in one call.
        batch_size: u32 = 64;
        /// Attempts until a message is dead-lettered.
        max_attempts: u32 = 5;
        /// Pause before a message is tried again: it doubles from `initial` up to `max`, with jitter.
        backoff: Backoff = Backoff::default();
        /// Longest time of one call.
        call_timeout: Duration = secs(5);
        /// Time between two commits of a partition.
        commit_interval: Duration = secs(1);
        /// How much of a partition may be handled and not yet committed: what a crash repeats at most.
        max_uncommitted: MaxUncommitted = MaxUncommitted::default();
        /// Largest snapshot of a partition. A handler that gives a larger one is in error: its partition stops before the next
        /// message, and says so.
        max_snapshot_bytes: ByteSize = ByteSize(8 << 20);
        /// Where messages go that cannot be handled.
        dead_letter: Option<DeadLetter> = None;
        /// Without a dead-letter subject: `block` stops the partition at a message that cannot be handled, `drop` goes
        /// on without it.
        on_exhausted: OnExhausted = OnExhausted::Block;
        /// Traps of one message, alone in its call, until it is dead-lettered.
        max_traps: u32 = 2;
        /// How another version of the plugin is judged, when its file or its settings change, before it is kept.
        swap: Swap = Swap::default();
        /// When it is fed no more because it keeps failing.
        quarantine: Quarantine = Quarantine::default();
        /// What one instance may use. Keys that are not set here come from `plugins.defaults`.
        limits: Limits = Limits::default();
    }
}

section! {
    /// A handler that fails on many different messages, or opens for no partition at all, is fed no more: its messages stay in the stream,
    /// and the worker is not ready. From time to time one partition tries; where that succeeds, and when another version is in force, it is
    /// fed again. A message that fails again and again counts once.
    pub struct Quarantine {
        /// Different messages on which calls must have failed. `0`: it is always fed.
        messages: u32 = 20;
        /// The share of failed calls among all since the first of these messages, from 0 to 1, that must be exceeded.
        max_error_rate: f64 = 0.9;
        /// Pause before a partition tries: it doubles from `initial` up to `max`.
        probe: Probe = Probe::default();
    }
}

section! {
    /// Pause before a partition tries whether its handler works again.
    pub struct Probe {
        /// Pause before the first try.
        initial: Duration = secs(1);
        /// Longest pause.
        max: Duration = secs(60);
    }
}

section! {
    /// The commits of this worker's partitions together. `handler.commitInterval` says how often one partition commits.
    pub struct Commit {
        /// Most commits in a second. What exceeds it waits, the oldest first, and covers what is handled meanwhile; the last commit at a
        /// hand-over never waits. Without a limit each busy partition writes once per `handler.commitInterval`; a server takes tens
        /// of thousands of such writes a second, so that a limit is for one that has other work, or slow disks.
        max_per_second: Option<u32> = None => "no limit";
    }
}

section! {
    /// Another version of a handler: some of the worker's partitions change to it, then all. Until it has stood its trial nothing of it is
    /// committed, and where it fails all of them go back to the version before, and to the last commit of that.
    pub struct Swap {
        /// Share of the partitions that change first, from 0 to 1.
        canary: f64 = 0.1;
        /// How long each of the two stages of the trial lasts.
        probation: Probation = Probation::default();
        /// The share of failed calls above which the version is taken back, from 0 to 1: of traps, timeouts and wrong answers.
        max_error_rate: f64 = 0.01;
        /// The share of messages that it would give up above which it is taken back, from 0 to 1. Each partition waits at the
        /// first such message for the verdict, and one partition alone decides nothing: it may have come to a message that every version rejects.
        max_reject_rate: f64 = 0.1;
    }
}

section! {
    /// How long a stage of a trial lasts: it ends with the first of the two.
    pub struct Probation {
        /// Messages that the version has handled on this worker.
        messages: u32 = 1_000;
        /// Time. Ten times as long where the version has had no message by then.
        time: Duration = secs(2);
    }
}

section! {
    /// Pause before a message is tried again.
    pub struct Backoff {
        /// Pause before the second attempt.
        initial: Duration = millis(100);
        /// Longest pause.
        max: Duration = secs(30);
    }
}

section! {
    /// How much of a partition may be handled and not yet committed. At the bound, its intake pauses.
    pub struct MaxUncommitted {
        /// Messages.
        messages: u32 = 10_000;
        /// Bytes of their payloads.
        bytes: ByteSize = ByteSize(16 << 20);
    }
}

section! {
    /// Where messages go that cannot be handled.
    pub struct DeadLetter {
        /// Subject. Some stream must capture it.
        subject: String = String::new(), required;
    }
}

section! {
    /// What is told what happens to the worker: a plugin of the kind hooks. Never in the way: what it is slow to take waits in a
    /// queue, and what finds the queue full is dropped and counted.
    pub struct Hooks {
        /// Name of the plugin: its file in `plugins.directory` without `.wasm`.
        plugin: String = String::new(), required;
        /// What the plugin gets as its configuration. Any map.
        config: PluginConfig = PluginConfig::default() => "empty";
        /// Longest time of one call. A call that takes longer is stopped, and the plugin begins anew without its memory.
        call_timeout: Duration = secs(1);
        /// Most happenings that wait for the plugin.
        queue: u32 = 1_000;
        /// What the instance may use. Keys that are not set here come from `plugins.defaults`.
        limits: BatchlessLimits = BatchlessLimits::default();
    }
}

section! {
    /// Where plugins come from, and what they may use.
    pub struct Plugins {
        /// Directory with the plugins' `.wasm` files.
        directory: PathBuf = PathBuf::from("./plugins");
        /// Whether a plugin whose file or sidecar changes is replaced while the worker runs. If not, at the next start.
        watch: bool = true;
        /// Directory in which the worker remembers versions of plugins: the one in force and the one before, and which have failed;
        /// and what plugins compile to. Workers of one machine may share it.
        cache: Option<PathBuf> = None => "`.parti` in `plugins.directory`";
        /// Limits of a plugin that names none of its own. To exceed a limit is an error that names it.
        defaults: Limits = Limits::default();
        /// What each plugin may reach beyond its host, by the plugin's name: a map. What is not granted does not exist for it.
        grants: Grants = Grants::new();
    }
}

section! {
    /// The HTTP server for health, status and metrics.
    pub struct Http {
        /// Address and port. `0.0.0.0:8080` listens on every interface.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        /// Whether a worker that has no partitions is ready.
        ready_when_empty: bool = false;
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

choice! {
    /// Which events are logged.
    pub enum LogLevel {
        /// Failures.
        Error = "error",
        /// Also what was recovered from.
        Warn = "warn",
        /// Also major events.
        Info = "info",
        /// Also details of decisions.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

section! {
    /// The log, on standard error.
    pub struct Log {
        /// `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
        format: LogFormat = LogFormat::Auto;
        /// The least severe level that is logged.
        level: LogLevel = LogLevel::Info;
    }
}

/// How a path shows a name of the user's choice: `plugins.grants.<PLUGIN>.http`.
pub(crate) const PLACEHOLDER: char = '<';

/// Calls `visit` with the path and the environment variable of every declared key, parents first.
pub(crate) fn visit_keys(visit: &mut dyn FnMut(&str, &str, &Key)) {
    fn walk(keys: &[Key], path: &str, env: &str, visit: &mut dyn FnMut(&str, &str, &Key)) {
        for key in keys {
            let path = super::section::join(path, &key.name);
            let env = format!("{env}_{}", key.env);
            visit(&path, &env, key);
            match &key.shape {
                Shape::Section { keys, .. } => walk(keys, &path, &env, visit),
                Shape::Named { placeholder, keys } => {
                    walk(keys, &format!("{path}.{PLACEHOLDER}{placeholder}>"), &env, visit);
                }
                Shape::Value { .. } | Shape::FreeMap { .. } => {}
            }
        }
    }
    walk(&Config::keys(), "", "PARTI", visit);
}

/// The path of the first key with this name, wherever it is.
pub(crate) fn path_of(name: &str) -> Option<String> {
    let mut found = None;
    visit_keys(&mut |path, _, key| {
        if found.is_none() && key.name == name {
            found = Some(path.to_owned());
        }
    });
    found
}
