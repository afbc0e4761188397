//! From the configuration to what core, adapters and plugins take. The only place that knows both sides.

use crate::config::{
    BuiltIn, Config, Handler, Isolation, OnExhausted as ConfigOnExhausted, Quarantine, StartFrom, Storage, Stream,
    StreamMode,
};
use crate::error::{ErrorCode, OperatorError};
use crate::intake::{QuarantineRules, QueueOptions};
use crate::nats::{
    ClientCertificate, ConnectError, ConnectOptions, Login, Nats, NewStream, Retention, Storage as StreamStorage,
    StreamError, StreamInfo, Tls,
};
use crate::plugin::PluginVersion;
use crate::telemetry::Metrics;
use parti_coordination::strategy::{ConsistentHash, Request, RoundRobin, Strategy, WeightedConsistentHash};
use parti_coordination::{DegradedAlert, DegradedBehavior, Limits, OnExhausted, Settings};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Most bytes of messages in flight on a worker: enough to keep every partition fed, small against the memory that a
/// worker has (`handler.maxUncommitted` bounds one partition).
pub(super) const MEMORY: usize = 256 << 20;

/// Bytes of messages that every partition may hold, however many there are.
const MIN_QUEUE: usize = 16 << 10;

/// How much longer than one call the core waits for a strategy.
const ANSWER: Duration = Duration::from_millis(500);

/// How long a live owner may take to release a partition. Longer than a call may take, so that a handler in the middle of
/// a batch is waited for.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a record is read again while its owner is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// For how long a created stream recognises message IDs: the server's own default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Room that a record needs besides its snapshot, which is in base64.
const RECORD_OVERHEAD: usize = 8 << 10;

/// Bytes of the largest snapshot that is kept in its record: every taking, waiting and committing reads or writes the whole record.
const INLINE_SNAPSHOT: usize = 32 << 10;

pub(super) fn coordinator(config: &Config, plugins: &[Arc<PluginVersion>], metrics: Arc<Metrics>) -> Settings {
    let (behavior, alert) = (&config.degraded_behavior, &config.degraded_alert);
    Settings {
        group: config.group.clone(),
        worker_id_prefix: config.worker_id_prefix.clone(),
        worker_id_min: config.worker_id_min,
        worker_id_max: config.worker_id_max,
        preferred_number: config.worker_id,
        worker_id_ttl: config.worker_id_ttl,
        heartbeat_interval: config.heartbeat_interval,
        heartbeat_ttl: config.heartbeat_ttl,
        cold_start_window: config.cold_start_window,
        planned_scale_window: config.planned_scale_window,
        quiet_period: config.quiet_period,
        emergency_grace_period: config.emergency_grace_period,
        election_timeout: config.election_timeout,
        startup_timeout: config.startup_timeout,
        probe_interval: config.probe_interval,
        min_rebalance_threshold: config.assignment.min_rebalance_threshold,
        min_rebalance_interval: config.assignment.min_rebalance_interval,
        max_partitions: config.assignment.max_partitions.map(|most| most as usize),
        max_moves_per_plan: config.assignment.max_moves_per_plan.map(|most| most as usize),
        shutdown_hold: config.shutdown.hold,
        degraded_behavior: DegradedBehavior {
            enter_threshold: behavior.enter_threshold,
            exit_threshold: behavior.exit_threshold,
            kv_error_threshold: behavior.kv_error_threshold,
            kv_error_window: behavior.kv_error_window,
            recovery_grace_period: behavior.recovery_grace_period,
        },
        degraded_alert: DegradedAlert {
            info_threshold: alert.info_threshold,
            warn_threshold: alert.warn_threshold,
            error_threshold: alert.error_threshold,
            critical_threshold: alert.critical_threshold,
            alert_interval: alert.alert_interval,
        },
        allow_empty: allows_empty(config),
        refresh_interval: config.source.as_ref().and_then(|s| s.refresh_interval).unwrap_or_default(),
        assignment_ttl: config.kv_bucket.assignment_ttl,
        capacity: config.capacity,
        labels: config.labels.clone(),
        plugins: plugins.iter().map(|p| (p.name().to_owned(), p.id().to_owned())).collect(),
        uuid: Uuid::new_v4(),
        host: host_name(),
        pid: std::process::id(),
        strategy: Arc::new(Timed { strategy: built_in_strategy(config), metrics }),
        // The host ends a call of its own accord; the core waits a little longer, for the answer to come.
        strategy_patience: config.strategy.plugin.as_ref().map(|plugin| plugin.call_timeout + ANSWER),
    }
}

/// The strategy of the core that the configuration chooses; it also stands in for a plugin that does not decide.
pub(crate) fn built_in_strategy(config: &Config) -> Arc<dyn Strategy> {
    match config.strategy.built_in() {
        BuiltIn::ConsistentHash(set) => {
            let (virtual_nodes, hash_seed, load_bound) = (set.virtual_nodes, set.hash_seed, set.load_bound);
            Arc::new(ConsistentHash { virtual_nodes, hash_seed, load_bound })
        }
        BuiltIn::WeightedConsistentHash(set) => Arc::new(WeightedConsistentHash {
            virtual_nodes: set.virtual_nodes,
            hash_seed: set.hash_seed,
            overload_threshold: set.overload_threshold,
            extreme_threshold: set.extreme_threshold,
            default_weight: set.default_weight,
        }),
        BuiltIn::RoundRobin => Arc::new(RoundRobin),
    }
}

/// Whether a source that suddenly lists nothing is believed.
pub(super) fn allows_empty(config: &Config) -> bool {
    config.source.as_ref().and_then(|source| source.plugin.as_ref()).is_some_and(|plugin| plugin.allow_empty)
}

/// Partitions of a group whose source tells only when it is asked.
const EXPECTED_PARTITIONS: usize = 1_000;

/// How many partitions there will be, as far as the configuration says.
pub(super) fn partitions(config: &Config) -> usize {
    match &config.source {
        Some(source) if source.r#static.is_none() => EXPECTED_PARTITIONS,
        Some(source) => source.fixed().len(),
        None => 0,
    }
}

/// Where versions of plugins are remembered, and what they compile to.
pub(crate) fn plugin_cache(config: &Config) -> PathBuf {
    config.plugins.cache.clone().unwrap_or_else(|| config.plugins.directory.join(".parti"))
}

/// The name of this machine; empty where it is not told.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// A strategy whose calculations are timed: the core has no clock.
struct Timed {
    strategy: Arc<dyn Strategy>,
    metrics: Arc<Metrics>,
}

impl Strategy for Timed {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        let begun = Instant::now();
        let answer = self.strategy.assign(request);
        self.metrics.assignment_calculation.observe(begun.elapsed().as_secs_f64());
        answer
    }
}

/// Bounds and policies of a partition. A record, with its snapshot, must fit into one message of the server.
pub(crate) fn limits(
    config: &Config,
    handler: &Handler,
    max_payload: usize,
    partitions: usize,
    acknowledges: bool,
) -> Limits {
    let uncommitted = &handler.max_uncommitted;
    let messages = usize::try_from(uncommitted.messages).unwrap_or(usize::MAX);
    Limits {
        batch_messages: usize::try_from(handler.batch_size).unwrap_or(usize::MAX),
        batch_bytes: usize::try_from(handler.limits.batch_bytes.0).unwrap_or(usize::MAX),
        queue_messages: messages,
        // However many partitions are stuck with full queues, half of the memory is left for the others.
        queue_bytes: usize::try_from(uncommitted.bytes.0)
            .unwrap_or(usize::MAX)
            .min((MEMORY / 2 / partitions.max(1)).max(MIN_QUEUE)),
        commit_interval: handler.commit_interval,
        max_uncommitted: messages,
        max_attempts: handler.max_attempts,
        max_traps: handler.max_traps,
        backoff: (handler.backoff.initial, handler.backoff.max),
        on_exhausted: match (&handler.dead_letter, handler.on_exhausted) {
            (Some(_), _) => OnExhausted::DeadLetter,
            (None, ConfigOnExhausted::Block) => OnExhausted::Block,
            (None, ConfigOnExhausted::Drop) => OnExhausted::Drop,
        },
        handover_timeout: HANDOVER_TIMEOUT.max(handler.call_timeout * 2),
        recovery_grace: config.degraded_behavior.recovery_grace_period,
        poll_interval: POLL_INTERVAL,
        inline_snapshot_bytes: INLINE_SNAPSHOT.min(max_payload.saturating_sub(RECORD_OVERHEAD) / 4 * 3),
        max_snapshot_bytes: usize::try_from(handler.max_snapshot_bytes.0).unwrap_or(usize::MAX),
        acknowledges,
        rationed: config.commit.max_per_second.is_some(),
    }
}

/// Instances that the partitions of a handler share, if they do.
pub(super) fn shared_instances(handler: &Handler) -> Option<NonZeroUsize> {
    let each = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let set = handler.instances.and_then(|set| NonZeroUsize::new(usize::try_from(set).unwrap_or(usize::MAX)));
    (handler.isolation == Isolation::Shared).then(|| set.unwrap_or_else(each))
}

/// Instances of handlers that so many partitions may need.
pub(super) fn instances(config: &Config, partitions: usize) -> usize {
    let shared: Vec<_> = config.handlers().map(|(_, handler)| shared_instances(handler)).collect();
    let own = if shared.contains(&None) { partitions } else { 0 };
    shared.into_iter().flatten().fold(own, |sum, instances| sum.saturating_add(instances.get()))
}

/// When a handler is fed no more.
pub(super) fn quarantine(set: &Quarantine) -> QuarantineRules {
    QuarantineRules {
        messages: usize::try_from(set.messages).unwrap_or(usize::MAX),
        max_error_rate: set.max_error_rate,
        probe: (set.probe.initial, set.probe.max),
    }
}

pub(crate) fn connect_options(config: &Config, purpose: &str) -> Result<ConnectOptions, OperatorError> {
    let set = &config.nats;
    let login = if let Some(path) = &set.credentials {
        Login::Credentials(path.clone())
    } else if let Some(seed) = &set.nkey {
        Login::NkeySeed(seed.reveal().to_owned())
    } else if let Some(token) = &set.token {
        Login::Token(token.reveal().to_owned())
    } else if let (Some(user), Some(password)) = (&set.user, &set.password) {
        Login::Password { user: user.clone(), password: password.reveal().to_owned() }
    } else {
        Login::Anonymous
    };
    let tls = set.tls.as_ref().map(|tls| Tls {
        ca: tls.ca.clone(),
        client: tls.cert.clone().zip(tls.key.clone()).map(|(certificate, key)| ClientCertificate { certificate, key }),
    });
    let name = set.name.clone().unwrap_or_else(|| format!("parti {}", config.group));
    Ok(ConnectOptions {
        servers: set.url.reveal().to_vec(),
        login,
        tls,
        name: format!("{name} ({purpose})"),
        operation_timeout: config.operation_timeout,
    })
}

pub(crate) fn connect_error(error: &ConnectError) -> OperatorError {
    let code = match error {
        ConnectError::NoServers => ErrorCode::NatsConnectionRequired,
        ConnectError::BadUrl { .. } | ConnectError::BadCredentials(_) | ConnectError::BadCertificates(_) => {
            ErrorCode::InvalidConfig
        }
        ConnectError::Unreachable(_) => ErrorCode::NatsUnreachable,
        ConnectError::Refused(_) | ConnectError::Tls(_) => ErrorCode::NatsUnauthorized,
        ConnectError::TooOld { .. } => ErrorCode::NatsTooOld,
        ConnectError::JetStreamOff(_) => ErrorCode::JetStreamDisabled,
        ConnectError::JetStreamSilent { .. } => ErrorCode::NatsPermission,
    };
    from_sentence(code, &error.to_string())
}

/// The adapters say what and why in a sentence or two and what to do in the last.
pub(crate) fn from_sentence(code: ErrorCode, text: &str) -> OperatorError {
    let (said, todo) = text.rsplit_once(". ").unwrap_or((text, code.help()));
    let split = [". ", ": ", "; "].iter().find_map(|mark| said.split_once(mark));
    let (what, why) = split.unwrap_or((said, code.help()));
    let mut todo = todo.to_owned();
    if let Some(first) = todo.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    code.error(what, why, todo)
}

pub(crate) fn stream_error(error: &StreamError) -> OperatorError {
    from_sentence(ErrorCode::StreamNotFound, &error.to_string())
}

/// A stream that was looked for.
pub(super) enum FoundStream {
    There(StreamInfo),
    /// It is missing, and the worker's to create.
    ToCreate(NewStream),
}

/// Looks for the stream, and checks that this host can work on it. Creates nothing.
pub(super) async fn find_stream(nats: &Nats, stream: &Stream) -> Result<FoundStream, OperatorError> {
    match (StreamInfo::of(nats, &stream.name).await, new_stream(stream)) {
        (Err(StreamError::NotFound { .. }), Some(new)) => Ok(FoundStream::ToCreate(new)),
        (found, _) => {
            let info = found.map_err(|error| stream_error(&error))?;
            check_mode(stream.mode, &info)?;
            Ok(FoundStream::There(info))
        }
    }
}

/// Finds the stream, or creates it where the configuration says so, and checks that this host can work on it.
pub(super) async fn open_stream(nats: &Nats, stream: &Stream) -> Result<StreamInfo, OperatorError> {
    let new = match find_stream(nats, stream).await? {
        FoundStream::There(info) => return Ok(info),
        FoundStream::ToCreate(new) => new,
    };
    let info = StreamInfo::create(nats, &new).await.map_err(|error| stream_error(&error))?;
    check_mode(stream.mode, &info)?;
    Ok(info)
}

/// Whether the stream can be worked on in this mode.
fn check_mode(mode: StreamMode, info: &StreamInfo) -> Result<(), OperatorError> {
    let (wrong, needs, right) = match (mode, info.retention) {
        (StreamMode::Queue, Retention::Limits) => ("queue", "WorkQueue or Interest", "log"),
        (StreamMode::Log, Retention::WorkQueue | Retention::Interest) => ("log", "Limits", "queue"),
        _ => return Ok(()),
    };
    Err(ErrorCode::StreamMode.error(
        format!("stream {:?} cannot be worked on in mode {wrong}", info.name),
        format!("its retention is {:?}, and mode {wrong} is for streams with retention {needs}", info.retention),
        format!("set stream.mode to auto or {right}, or use a stream with retention {needs}"),
    ))
}

/// How the stream's messages are acknowledged; `None` in log mode.
pub(super) fn queue(
    config: &Config,
    stream: &Stream,
    info: &StreamInfo,
    partitions: usize,
) -> Result<Option<QueueOptions>, OperatorError> {
    let retention = info.retention;
    if retention == Retention::Limits {
        return Ok(None);
    }
    if stream.start_from != StartFrom::All {
        return Err(ErrorCode::StreamMode.error(
            format!("stream.startFrom cannot be chosen for stream {:?}", info.name),
            format!("its retention is {retention:?}: what is left in it is what nobody has acknowledged, and all of it is due"),
            "remove stream.startFrom, or use a stream with retention Limits",
        ));
    }
    let consumer_prefix = stream.consumer_prefix.clone().unwrap_or_else(|| match config.group.as_str() {
        "default" => "parti".to_owned(),
        group => format!("parti-{group}"),
    });
    Ok(Some(QueueOptions { retention, consumer_prefix, partitions }))
}

/// The stream as the host makes it, if the configuration says that it does.
pub(super) fn new_stream(stream: &Stream) -> Option<NewStream> {
    let create = stream.create.as_ref()?;
    Some(NewStream {
        name: stream.name.clone(),
        subjects: vec![stream.subject_template.wildcard()],
        retention: if stream.mode == StreamMode::Queue { Retention::WorkQueue } else { Retention::Limits },
        storage: match create.storage {
            Storage::File => StreamStorage::File,
            Storage::Memory => StreamStorage::Memory,
        },
        replicas: usize::try_from(create.replicas).unwrap_or(1),
        max_age: (!create.max_age.is_zero()).then_some(create.max_age),
        duplicate_window: DUPLICATE_WINDOW,
    })
}

/// The stream that keeps the dead letters. A subject that none captures would lose what it is there to keep.
pub(super) async fn dead_letter_stream(nats: &Nats, subject: &str) -> Result<StreamInfo, OperatorError> {
    match StreamInfo::capturing(nats, subject).await {
        Ok(Some(info)) => Ok(info),
        Ok(None) => Err(ErrorCode::DeadLetterUncaptured.error(
            format!("no stream captures the dead-letter subject {subject:?}"),
            "what cannot be handled would be lost",
            "create a stream with this subject, or correct handler.deadLetter.subject",
        )),
        Err(error) => Err(stream_error(&error)),
    }
}

/// What is odd about the stream of the dead letters, if something is.
pub(super) fn dead_letter_warning(info: &StreamInfo) -> Option<String> {
    (info.duplicate_window < DUPLICATE_WINDOW).then(|| {
        format!(
            "stream {:?} keeps the dead letters and recognises message IDs for {:?}: after a longer outage one may be there twice. Set its \
             duplicate_window to {DUPLICATE_WINDOW:?} or more",
            info.name, info.duplicate_window
        )
    })
}
