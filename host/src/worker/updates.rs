//! Takes up what changes in the plugin directory, while the worker runs.
//!
//! Events of the file system say when to look, and a slow look from time to time makes up for those that are lost, as on network
//! file systems. What is found is taken only once it is the same twice: a file that is being written is left alone, and whatever is
//! wrong with it is said when it stays so. Then the plugin is loaded beside the data path and handed over to whoever runs it, on
//! trial; a version that fails is marked, and not tried again before the file or its settings change.

use super::plugins::{Handlers, Running};
use crate::config::{Config, Swap};
use crate::error::{ErrorCode, OperatorError};
use crate::hooks::Hooks;
use crate::intake::{Intake, SwapOutcome, SwapReport, SwapRequest, SwapRules};
use crate::plugin::{Attempt, AttemptResult, HandlerPlugin, PluginEngine, VersionStore};
use crate::telemetry::{Metrics, SwapResult};
use jiff::Timestamp;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parti_coordination::Event;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Who asks for a version that lies in the plugin directory.
const FILE: &str = "file";

/// How long a file must stay the same before it is taken.
const SETTLE: Duration = Duration::from_millis(250);

/// How often the directory is looked at without an event.
const LOOK: Duration = Duration::from_secs(10);

/// What can be seen of a file without reading it.
type Traits = Option<(u64, SystemTime)>;

/// What is needed to take up a version.
pub(super) struct Updates {
    pub(super) engine: Arc<PluginEngine>,
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<VersionStore>,
    pub(super) intake: Intake,
    pub(super) running: Running,
    pub(super) hooks: Hooks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Updates {
    /// Watches until it is dropped. `current` is the version of the handler that runs.
    pub(super) async fn run(self, current: Arc<HandlerPlugin>) {
        let (sender, mut changes) = mpsc::channel(1);
        let directory = self.config.plugins.directory.clone();
        let watcher = watch(&directory, sender);
        if let Err(error) = &watcher {
            tracing::warn!(directory = %directory.display(), %error, "The plugin directory is not watched; it is looked at every {LOOK:?}");
        }
        let mut current = current.version().id().to_owned();
        let mut known = self.traits();
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let Some(found) = self.settled(&known).await else { continue };
            known = found;
            if let Some(attempt) = self.take_up(&current).await {
                if attempt.result == AttemptResult::Kept {
                    current.clone_from(&attempt.to);
                }
                self.store.record(self.name(), &attempt);
            }
        }
    }

    /// The handler's name.
    fn name(&self) -> &str {
        self.config.handler.as_ref().map_or("", |handler| &handler.plugin)
    }

    /// Takes up what is in the directory now, unless it is what runs.
    async fn take_up(&self, current: &str) -> Option<Attempt> {
        let refused = |to: &str, why: String| Some(attempt(current, to, AttemptResult::Refused, Some(why)));
        let prepared = match self.blocking(|handlers, _| handlers.prepare(handlers.read()?)).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.not_loaded(&error);
                return refused("", error.to_string());
            }
        };
        let to = prepared.id();
        if to == current {
            return None;
        }
        if let Some(mark) = self.store.mark_of(self.name(), &to) {
            tracing::warn!(version = to, "This version was taken back before, and is not tried again until it changes");
            return refused(&to, format!("it was taken back at {}: {}", mark.at, mark.why));
        }
        let component = prepared.component().clone();
        let plugin = match self.blocking(move |handlers, engine| handlers.compile(engine, prepared)).await {
            Ok(plugin) => plugin,
            Err(error) => {
                self.not_loaded(&error);
                return refused(&to, error.to_string());
            }
        };
        let attempt = self.swap(plugin, current).await?;
        match (attempt.result, &attempt.reason) {
            (AttemptResult::Kept, _) => self.store.keep(self.name(), &to, &component),
            (_, why) => self.store.mark(self.name(), &to, why.as_deref().unwrap_or_default()),
        }
        Some(attempt)
    }

    /// Reads and compiles away from everything else.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handlers<'_>, &PluginEngine) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, OperatorError> {
        let (engine, config) = (Arc::clone(&self.engine), Arc::clone(&self.config));
        let failed = |why: String| {
            ErrorCode::Internal.error("the plugin could not be compiled", why, "report this as a bug of parti")
        };
        let done = tokio::task::spawn_blocking(move || Handlers::of(&config).map(|handlers| work(&handlers, &engine)));
        match done.await {
            Ok(Some(result)) => result,
            Ok(None) => Err(failed("no handler is configured".into())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn not_loaded(&self, error: &OperatorError) {
        self.metrics.plugin_swaps.inc(SwapResult::Refused);
        tracing::error!(code = %error.code, "{error}");
        tracing::error!("The version that runs goes on; what is in the plugin directory now is not taken");
        self.hooks.error(error.code, error, None);
    }

    fn traits(&self) -> BTreeMap<PathBuf, Traits> {
        let Some(handler) = &self.config.handler else { return BTreeMap::new() };
        let directory = &self.config.plugins.directory;
        let files = [format!("{}.wasm", handler.plugin), format!("{}.yaml", handler.plugin)];
        let look = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        files
            .map(|file| directory.join(file))
            .into_iter()
            .map(|path| {
                let traits = look(&path);
                (path, traits)
            })
            .collect()
    }

    /// The files as they are, once nobody writes to them any more; nothing if they are as known.
    async fn settled(&self, known: &BTreeMap<PathBuf, Traits>) -> Option<BTreeMap<PathBuf, Traits>> {
        let mut before = self.traits();
        loop {
            if before == *known {
                return None;
            }
            tokio::time::sleep(SETTLE).await;
            let now = self.traits();
            if now == before {
                return Some(now);
            }
            before = now;
        }
    }

    /// Hands a version over, and tells how that has ended.
    async fn swap(&self, plugin: Arc<HandlerPlugin>, from: &str) -> Option<Attempt> {
        let (reply, ended) = oneshot::channel();
        let version = Arc::clone(plugin.version());
        tracing::info!(
            plugin = version.name(),
            version = version.id(),
            "Another version of the handler is taken up, on trial"
        );
        let rules = self.config.handler.as_ref().map(|handler| rules(&handler.swap));
        self.intake.swap(SwapRequest { to: plugin, rules, discard_state: false, reply });
        // Nobody answers any more where the worker stops.
        let SwapReport { outcome, partitions, handled, failed, pauses } = ended.await.ok()?;
        let pause = |q: usize| {
            pauses.get((pauses.len() * q / 100).min(pauses.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let (p50, p99) = (pause(50), pause(99));
        let (result, reason) = match outcome {
            SwapOutcome::Kept => {
                self.metrics.plugin_swaps.inc(SwapResult::Kept);
                tracing::info!(
                    plugin = version.name(),
                    version = version.id(),
                    partitions,
                    handled,
                    failed,
                    ?p50,
                    ?p99,
                    "The version is in force"
                );
                self.running.replace(Arc::clone(&version));
                let _ = self.events.send(Event::Plugins(self.running.ids()));
                (AttemptResult::Kept, None)
            }
            SwapOutcome::TakenBack(why) => {
                self.metrics.plugin_swaps.inc(SwapResult::TakenBack);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} was taken back", version.id(), version.name()),
                    why.clone(),
                    "the version before goes on, from its last commit; correct the plugin and copy it again",
                );
                tracing::error!(code = %error.code, partitions, handled, failed, "{error}");
                self.hooks.error(error.code, &error, None);
                (AttemptResult::TakenBack, Some(why))
            }
            SwapOutcome::Refused(why) => {
                self.metrics.plugin_swaps.inc(SwapResult::Refused);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} is not taken", version.id(), version.name()),
                    why.clone(),
                    "the version before goes on, untouched; correct the plugin and copy it again",
                );
                tracing::error!(code = %error.code, "{error}");
                self.hooks.error(error.code, &error, None);
                (AttemptResult::Refused, Some(why))
            }
        };
        let microseconds = |pause: Duration| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        Some(Attempt {
            partitions,
            handled,
            failed,
            pause_p50_us: microseconds(p50),
            pause_p99_us: microseconds(p99),
            ..attempt(from, version.id(), result, reason)
        })
    }
}

/// An attempt of which nothing is to be told but how it ended.
fn attempt(from: &str, to: &str, result: AttemptResult, reason: Option<String>) -> Attempt {
    Attempt {
        at: Timestamp::now(),
        by: FILE.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        result,
        reason,
        partitions: 0,
        handled: 0,
        failed: 0,
        pause_p50_us: 0,
        pause_p99_us: 0,
    }
}

fn rules(set: &Swap) -> SwapRules {
    SwapRules {
        canary: set.canary,
        messages: set.probation.messages.into(),
        time: set.probation.time,
        max_error_rate: set.max_error_rate,
    }
}

/// Tells of everything that happens in the directory, until the watcher is dropped.
fn watch(directory: &std::path::Path, changes: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| {
        // One that waits to be heard says it all.
        let _ = changes.try_send(());
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
