//! One worker, put together: configuration in, adapters and core connected, tasks owned, and an orderly end.
//!
//! Two runtimes: the control plane (leases, heartbeats, probes, HTTP) runs on its own, so that guest code, which runs on
//! the other, can burn every core without costing a lease.

mod buckets;
mod control;
mod files;
mod maker;
mod member;
mod notices;
mod orders;
mod plugins;
mod probes;
mod rehearsal;
mod seats;
mod settings;
mod start;
mod status;
mod strategy;
mod uncovered;
mod updates;

use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::hooks::Hooks;
use crate::http::{self, Backend};
use crate::intake::{HandlerOptions, Intake, IntakeEvent, IntakeOptions};
use crate::nats::{ConnectError, Nats, Peers};
use crate::plugin::{Accounts, Current, EngineError, Home, PluginEngine, VersionStore};
use crate::pushes::Pushes;
use crate::source::{PluginSource, Source, StaticSource};
use crate::telemetry::{Metrics, WorkerLabel};
use crate::trust::Trust;
use buckets::ControlBuckets;
use control::{Control, End, Lifetimes};
use parti_coordination::record::StreamIdentity;
use parti_coordination::{Bucket, Coordinator, Event, StartFailure};
use plugins::{Plugins, Running};
use seats::{HandlerSeat, HooksSeat, SourceSeat, StrategySeat};
use status::{Board, WorkerStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strategy::{Consultant, Strategist};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use uncovered::UncoveredWatch;
use updates::Kit;

pub(crate) use buckets::{assignments_bucket, bucket_error, control_bucket, heartbeats_bucket, ownership_bucket};
pub(crate) use member::{Glance, Member};
pub(crate) use plugins::{Slot, load_alone, load_strategy, settings_of};
pub(crate) use rehearsal::{Rehearsal, Survey, rehearse};
pub(crate) use settings::limits as partition_limits;
pub(crate) use settings::{
    built_in_strategy, connect_error, connect_options, from_sentence, host_name, plugin_cache, stream_error,
};

/// Threads of the control runtime: one may be busy with a burst of messages while the other renews leases.
const CONTROL_THREADS: usize = 2;

/// After so many turns of tasks the work runtime looks at its sockets and timers. A turn of a guest that computes lasts for an epoch:
/// with the 61 turns that are usual, busy guests would keep everything that comes from NATS waiting for half a second.
const EVENTS: u32 = 1;

/// A worker waits this long between attempts to reach a NATS server that is not there yet.
const CONNECT_RETRY: Duration = Duration::from_millis(500);

/// A probe that has found nobody in this many intervals has found nothing out.
const PROBE_INTERVALS: u32 = 4;

/// Runs one worker until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or from stopping in time.
pub fn run(config: Config, label: WorkerLabel) -> Result<(), OperatorError> {
    let control =
        Builder::new_multi_thread().worker_threads(CONTROL_THREADS).thread_name("parti-control").enable_all().build();
    let control = control.map_err(no_threads)?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let work = Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("parti-work")
        .enable_all()
        .event_interval(EVENTS)
        .build();
    let work = work.map_err(no_threads)?;
    let result = control.block_on(Box::pin(start(config, label, &work)));
    // What still runs there is abandoned: a guest in an endless loop must not keep the process.
    work.shutdown_background();
    control.shutdown_background();
    result
}

fn single_threaded() -> Result<Runtime, OperatorError> {
    Builder::new_current_thread().enable_all().build().map_err(no_threads)
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn no_threads(error: std::io::Error) -> OperatorError {
    ErrorCode::Internal.error("the worker has no threads", error.to_string(), "raise the limit of threads (ulimit -u)")
}

fn metrics_error(error: impl std::fmt::Display) -> OperatorError {
    ErrorCode::Internal.error("the metrics cannot be set up", error.to_string(), "report this as a bug of parti")
}

/// What a failed engine means for an operator.
pub(crate) fn engine_error(error: &EngineError) -> OperatorError {
    ErrorCode::PluginInvalid.error(
        "the WebAssembly engine does not start",
        error.to_string(),
        "run parti on a 64-bit machine with enough address space (ulimit -v)",
    )
}

async fn start(config: Config, label: WorkerLabel, work: &Runtime) -> Result<(), OperatorError> {
    let origin = Instant::now();
    let by = origin + config.startup_timeout;
    tracing::info!(group = config.group, version = env!("CARGO_PKG_VERSION"), "Manager starting");
    let stop = watch_signals(config.shutdown_timeout)?;
    let metrics = Arc::new(Metrics::new(label.clone()).map_err(metrics_error)?);
    let listener = http::bind(&config.http.listen.to_string()).await.map_err(|error| {
        let text = error.to_string();
        let mut lines = text.lines().map(str::to_owned);
        let mut line = || lines.next().unwrap_or_default();
        ErrorCode::HttpListen.error(line(), line(), line())
    })?;

    let home = Home {
        worker: label.clone(),
        group: config.group.clone(),
        stream: config.stream.as_ref().map(|stream| stream.name.clone()),
        metrics: metrics.declared.clone(),
        accounts: Accounts::default(),
        trust: Trust::default(),
    };
    let cache = settings::plugin_cache(&config);
    let engine = PluginEngine::with_code_cache(&cache.join("code")).map_err(|error| engine_error(&error))?;
    let (engine, store) = (Arc::new(engine.at(home)), Arc::new(VersionStore::open(&cache)));
    let mut plugins = load_plugins(Arc::clone(&engine), &config, Arc::clone(&store)).await?;
    let partitions = settings::partitions(&config);
    for warning in plugins.room_warnings(settings::instances(&config, partitions)) {
        tracing::warn!("{warning}");
    }

    let nats = connect(&config, "control", by, stop.clone()).await?;
    let Some(nats) = nats else { return Ok(()) };
    let (control_buckets, records, wanted) = buckets::open(&nats, &config).await?;
    let pushes =
        Pushes::new(&config.group, wanted, buckets::open_objects(&nats, &config, &config.buckets().plugins).await?);
    plugins.choose(&store, &pushes).await;
    let hooks_in_force = plugins.hooks.as_ref().map(|loaded| Current::new(Arc::clone(&loaded.plugin)));
    let (hooks, hooks_task) = match (&hooks_in_force, &config.hooks) {
        (Some(plugin), Some(set)) => {
            let _guests = work.enter();
            let queue = usize::try_from(set.queue).unwrap_or(usize::MAX);
            let (hooks, task) = Hooks::start(plugin.clone(), queue, Arc::clone(&metrics));
            (hooks, Some(task))
        }
        _ => (Hooks::default(), None),
    };
    for error in plugins.instead() {
        tracing::error!(code = %error.code, "{error}");
        hooks.error(error.code, error, None);
    }
    let running = Running::of(plugins.versions());
    for plugin in running.versions() {
        tracing::info!(plugin = plugin.name(), kind = %plugin.kind(), version = plugin.id(), "Plugin loaded");
        updates::show(&metrics, &plugin, true);
    }
    let mut intake = None;
    let mut told = None;
    if let (Some(_), Some(stream)) = (&config.handler, &config.stream) {
        let info = settings::open_stream(&nats, stream).await?;
        let queue = settings::queue(&config, stream, &info, partitions)?;
        let (start, options) = (start::start_position(&nats, &stream.start_from, &info).await?, &config);
        for subject in config.dead_letter_subjects() {
            let keeps = settings::dead_letter_stream(&nats, subject).await?;
            if let Some(warning) = settings::dead_letter_warning(&keeps) {
                tracing::warn!("{warning}");
            }
        }
        let handlers = plugins.handlers.iter().zip(config.handlers()).map(|(loaded, (_, handler))| HandlerOptions {
            keys: handler.r#match.as_ref().map(|only| only.keys.clone()),
            plugin: Arc::clone(&loaded.plugin),
            shared: settings::shared_instances(handler),
            dead_letter: handler.dead_letter.as_ref().map(|letter| letter.subject.clone()),
            limits: settings::limits(&config, handler, nats.max_payload(), partitions, queue.is_some()),
            quarantine: settings::quarantine(&handler.quarantine),
        });
        let handlers = handlers.collect();
        let Some(data) = connect_on(work, &config, by, stop.clone()).await? else { return Ok(()) };
        let options = IntakeOptions {
            control: nats.clone(),
            objects: buckets::open_objects(&data, &config, &config.buckets().snapshots).await?,
            data,
            records: records.clone(),
            group: options.group.clone(),
            stream: StreamIdentity { name: info.name.clone(), created: info.created.clone() },
            commits_per_second: options.commit.max_per_second,
            queue,
            create: settings::new_stream(stream),
            template: stream.subject_template.clone(),
            start,
            handlers,
            memory: settings::MEMORY,
            metrics: Arc::clone(&metrics),
            hooks: hooks.clone(),
            origin,
        };
        let entered = work.enter();
        let (started, events) = Intake::start(options);
        drop(entered);
        intake = Some(started);
        told = Some(events);
    }

    let board = Arc::new(Mutex::new(Board::new()));
    let (http_stop, http_stopped) = watch::channel(false);
    let backend = Backend {
        worker: Arc::new(WorkerStatus {
            board: Arc::clone(&board),
            group: config.group.clone(),
            stream: config.stream.as_ref().map(|s| s.name.clone()),
            nats: nats.clone(),
            running: running.clone(),
            intake: intake.clone(),
        }),
        metrics: Arc::clone(&metrics),
        ready_when_empty: config.http.ready_when_empty,
    };
    tracing::info!(listen = %config.http.listen, "HTTP listens");
    let server = tokio::spawn(http::serve(listener, backend, ended(http_stopped)));

    let listed = plugin_source(&plugins, work.handle(), &metrics);
    let source = listed.clone().map_or_else(|| fixed(&config), |source| Arc::new(source) as Arc<dyn Source>);
    let strategy = plugins.strategy.as_ref().map(|loaded| &loaded.plugin);
    let consultant = strategy.map(|plugin| Consultant::new(Arc::clone(plugin), Arc::clone(&metrics), &config));
    let strategist = consultant.clone().map(|consultant| Strategist::new(consultant, work.handle().clone()));
    let told = told.unwrap_or_else(silent);
    let kit_metrics = Arc::clone(&metrics);
    let label = Identification { metrics, label, board, origin };
    let equipment = Equipment { source, strategist, intake: intake.clone(), hooks: hooks.clone() };
    let (control, inbox) = coordinate(&config, nats.clone(), control_buckets, running.clone(), equipment, label);
    let (events, board) = (control.events.clone(), Arc::clone(&control.board));
    let (directory, watch) = (config.plugins.directory.clone(), config.plugins.watch);
    let metrics = kit_metrics;
    let kit = Kit { directory, watch, store, pushes, board, running, hooks, metrics, events: events.clone() };
    let Plugins { handlers, strategy, source, hooks } = plugins;
    // Nothing on an assignment-only worker.
    let intakes = iter::repeat_n(intake, handlers.len()).flatten();
    // Beside the messages and away from the leases: they compile.
    let mut updates = Vec::new();
    for ((loaded, (_, set)), intake) in handlers.into_iter().zip(config.handlers()).zip(intakes) {
        let seat = HandlerSeat::new(intake, loaded.plugin.version().name().to_owned(), &set.swap);
        updates.push(AbortOnDropHandle::new(work.spawn(kit.clone().update(loaded, seat))));
    }
    if let Some((loaded, consultant)) = strategy.zip(consultant) {
        updates.push(AbortOnDropHandle::new(work.spawn(kit.clone().update(loaded, StrategySeat(consultant)))));
    }
    if let Some((loaded, source)) = source.zip(listed) {
        let seat = SourceSeat { source, allow_empty: settings::allows_empty(&config), events };
        updates.push(AbortOnDropHandle::new(work.spawn(kit.clone().update(loaded, seat))));
    }
    if let Some((loaded, plugin)) = hooks.zip(hooks_in_force) {
        updates.push(AbortOnDropHandle::new(work.spawn(kit.update(loaded, HooksSeat(plugin)))));
    }
    let end = control.run(inbox, told, stop).await;
    drop(updates);
    if let Some(task) = hooks_task {
        task.finish().await;
    }
    let _ = http_stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    nats.close().await;
    match end {
        End::Finished => {
            tracing::info!("Stopped; everything is released");
            Ok(())
        }
        End::Failed(failure) => Err(start_failure(&config, failure)),
    }
}

/// Every plugin, or what is wrong with the first that cannot be loaded.
async fn load_plugins(
    engine: Arc<PluginEngine>,
    config: &Config,
    store: Arc<VersionStore>,
) -> Result<Plugins, OperatorError> {
    let config = config.clone();
    let loaded = tokio::task::spawn_blocking(move || Plugins::load(&engine, &config, Some(&store))).await;
    let (plugins, errors) = loaded.map_err(|error| {
        ErrorCode::Internal.error(
            "the plugins could not be compiled",
            error.to_string(),
            "report this as a bug of parti",
        )
    })?;
    match errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(plugins),
    }
}

/// How a worker is known to the world.
struct Identification {
    metrics: Arc<Metrics>,
    label: WorkerLabel,
    board: Arc<Mutex<Board>>,
    origin: Instant,
}

/// What the control side of a worker works with besides NATS.
struct Equipment {
    source: Arc<dyn Source>,
    strategist: Option<Strategist>,
    intake: Option<Intake>,
    hooks: Hooks,
}

/// The plugin that lists the partitions, if one does. It is asked on this runtime.
fn plugin_source(plugins: &Plugins, guests: &Handle, metrics: &Arc<Metrics>) -> Option<PluginSource> {
    let plugin = Arc::clone(&plugins.source.as_ref()?.plugin);
    Some(PluginSource::new(plugin, guests.clone(), Arc::clone(metrics)))
}

/// The partitions that the configuration lists.
fn fixed(config: &Config) -> Arc<dyn Source> {
    Arc::new(StaticSource::new(config.source.as_ref().map(|source| source.fixed().to_vec()).unwrap_or_default()))
}

/// The control side of a worker, and where it gets its events.
fn coordinate(
    config: &Config,
    nats: Nats,
    buckets: ControlBuckets,
    running: Running,
    Equipment { source, strategist, intake, hooks }: Equipment,
    Identification { metrics, label, board, origin }: Identification,
) -> (Control, mpsc::UnboundedReceiver<Event>) {
    let (events, inbox) = mpsc::unbounded_channel();
    let uncovered = config.stream.as_ref().map(|stream| {
        UncoveredWatch::new(nats.clone(), stream.name.clone(), stream.subject_template.clone(), Arc::clone(&metrics))
    });
    let control = Control {
        coordinator: Coordinator::new(settings::coordinator(config, &running.versions(), Arc::clone(&metrics))),
        peers: Peers::new(&nats, &config.group),
        nats,
        buckets,
        lifetimes: Lifetimes {
            worker_id: config.worker_id_ttl,
            heartbeat: config.heartbeat_ttl,
            hold: config.heartbeat_ttl.max(Duration::from_secs(config.shutdown.hold.as_secs_f64().ceil() as u64)),
            election: config.election_timeout,
            assignment: config.kv_bucket.assignment_ttl,
        },
        probe_timeout: config.probe_interval * PROBE_INTERVALS,
        source,
        strategist,
        intake,
        hooks,
        board,
        running,
        uncovered,
        metrics,
        label,
        origin,
        events,
        watches: BTreeMap::new(),
        probes: None,
        figures: None,
        heartbeats: BTreeSet::new(),
        outage: None,
    };
    (control, inbox)
}

/// Where a worker without a data path hears of it.
fn silent() -> mpsc::UnboundedReceiver<IntakeEvent> {
    mpsc::unbounded_channel().1
}

async fn ended(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn start_failure(config: &Config, failure: StartFailure) -> OperatorError {
    match failure {
        StartFailure::IdsExhausted { holders } => {
            let range = format!("{0}-{1} to {0}-{2}", config.worker_id_prefix, config.worker_id_min, config.worker_id_max);
            let shown: Vec<String> = holders.iter().take(5).map(|(id, by)| format!("{id} by {by}")).collect();
            let more = holders.len().saturating_sub(shown.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            ErrorCode::StableIdExhausted.error(
                format!("all stable IDs in range are claimed: {range}"),
                format!("held: {}{more}", shown.join(", ")),
                "raise workerIdMax, or stop a worker",
            )
        }
        StartFailure::AnotherGroup { bucket, group } => ErrorCode::AnotherGroup.error(
            format!("bucket {:?} belongs to group {group:?}, and this worker is of group {:?}", bucket_name(config, bucket), config.group),
            "two groups on the same buckets would take each other's workers for their own",
            "name other buckets (kvBucket), or stop the other group and delete its buckets",
        ),
        StartFailure::TimedOut { state, waiting_for } => ErrorCode::StartupTimeout.error(
            format!("the worker was not ready within startupTimeout ({:?})", config.startup_timeout),
            format!("it is in state {state} and waits for {waiting_for}"),
            "check that NATS answers and that another worker is not stuck as leader (parti status); raise startupTimeout if NATS is slow",
        ),
    }
}

fn bucket_name(config: &Config, bucket: Bucket) -> String {
    let names = config.buckets();
    match bucket {
        Bucket::StableIds => names.stable_ids,
        Bucket::Election => names.election,
        Bucket::Heartbeats => names.heartbeats,
        Bucket::Assignments => names.assignments,
    }
}

/// Sends `true` at the first signal; ends the process at the second, or when the shutdown takes too long.
fn watch_signals(shutdown_timeout: Duration) -> Result<watch::Receiver<bool>, OperatorError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            ErrorCode::Internal.error("signals cannot be watched", error.to_string(), "report this as a bug of parti")
        })
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Shutting down: finishing the messages in hand, then handing over");
        let _ = stop.send(true);
        let second = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            () = tokio::time::sleep(shutdown_timeout) => false,
        };
        let error = if second {
            ErrorCode::ShutdownTimeout.error(
                "stopped at once",
                "a second signal came while the worker was shutting down",
                "what was not committed is handled again by the next owners",
            )
        } else {
            ErrorCode::ShutdownTimeout.error(
                format!("the worker did not finish within shutdownTimeout ({shutdown_timeout:?})"),
                "NATS did not answer, or a handler did not return",
                "what was not committed is handled again by the next owners; raise shutdownTimeout if calls take that long",
            )
        };
        eprintln!("{error}");
        std::process::exit(error.code.exit_status().number().into());
    });
    Ok(stopped)
}

/// Connects, and waits for a server that is not there yet as long as the start may take. `None` if the worker is told to
/// stop meanwhile.
async fn connect(
    config: &Config,
    purpose: &str,
    by: Instant,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Nats>, OperatorError> {
    loop {
        let error = match Nats::connect(settings::connect_options(config, purpose)?).await {
            Ok(nats) => return Ok(Some(nats)),
            Err(error) => error,
        };
        let waits = matches!(error, ConnectError::Unreachable(_)) && Instant::now() + CONNECT_RETRY < by;
        if !waits {
            return Err(settings::connect_error(&error));
        }
        tracing::warn!(%error, "NATS cannot be reached yet; trying again");
        tokio::select! {
            () = tokio::time::sleep(CONNECT_RETRY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

/// The connection for messages lives on the work runtime: its traffic must not delay a lease.
async fn connect_on(
    work: &Runtime,
    config: &Config,
    by: Instant,
    stop: watch::Receiver<bool>,
) -> Result<Option<Nats>, OperatorError> {
    let config = config.clone();
    let task = work.spawn(async move { connect(&config, "data", by, stop).await });
    task.await.map_err(|error| {
        ErrorCode::Internal.error("the second connection failed", error.to_string(), "report this as a bug of parti")
    })?
}
