//! Takes up what changes in the plugin directory, while the worker runs.
//!
//! Events of the file system say when to look, and a slow look from time to time makes up for those that are lost, as on network
//! file systems. What is found is taken only once it is the same twice: a file that is being written is left alone, and whatever is
//! wrong with it is said when it stays so. Then the plugin is loaded beside the data path and handed over to whoever runs it, on
//! trial; a version that fails is marked, and not tried again before the file or its settings change.

use super::plugins::{Plugins, Running};
use crate::config::{Config, Swap};
use crate::error::{ErrorCode, OperatorError};
use crate::hooks::Hooks;
use crate::intake::{Intake, SwapOutcome, SwapReport, SwapRequest, SwapRules};
use crate::plugin::{HandlerPlugin, PluginEngine};
use crate::telemetry::{Metrics, SwapResult};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parti_coordination::Event;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

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
        let mut marked: Option<String> = None;
        let mut known = self.traits();
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let Some(found) = self.settled(&known).await else { continue };
            known = found;
            let plugin = match self.load().await {
                Ok(plugin) => plugin,
                Err(error) => {
                    self.metrics.plugin_swaps.inc(SwapResult::Refused);
                    tracing::error!(code = %error.code, "{error}");
                    tracing::error!("The version that runs goes on; what is in the plugin directory now is not taken");
                    self.hooks.error(error.code, &error, None);
                    continue;
                }
            };
            let id = plugin.version().id().to_owned();
            if id == current {
                continue;
            }
            if marked.as_ref() == Some(&id) {
                tracing::warn!(
                    version = id,
                    "This version was taken back before, and is not tried again until it changes"
                );
                continue;
            }
            match self.swap(plugin).await {
                true => current = id,
                false => marked = Some(id),
            }
        }
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

    async fn load(&self) -> Result<Arc<HandlerPlugin>, OperatorError> {
        let (engine, config) = (Arc::clone(&self.engine), Arc::clone(&self.config));
        let loaded = tokio::task::spawn_blocking(move || Plugins::load_handler(&engine, &config)).await;
        let failed = |why: String| {
            ErrorCode::Internal.error("the plugin could not be compiled", why, "report this as a bug of parti")
        };
        match loaded {
            Ok(Some(result)) => result,
            Ok(None) => Err(failed("no handler is configured".into())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Hands a version over. Whether it is in force now.
    async fn swap(&self, plugin: Arc<HandlerPlugin>) -> bool {
        let (reply, ended) = oneshot::channel();
        let version = Arc::clone(plugin.version());
        tracing::info!(
            plugin = version.name(),
            version = version.id(),
            "Another version of the handler is taken up, on trial"
        );
        let rules = self.config.handler.as_ref().map(|handler| rules(&handler.swap));
        self.intake.swap(SwapRequest { to: plugin, rules, discard_state: false, reply });
        let Ok(SwapReport { outcome, partitions, handled, failed, pauses }) = ended.await else { return false };
        let pause = |q: usize| {
            pauses.get((pauses.len() * q / 100).min(pauses.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let (p50, p99) = (pause(50), pause(99));
        match outcome {
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
                self.running.replace(version);
                let _ = self.events.send(Event::Plugins(self.running.ids()));
                true
            }
            SwapOutcome::TakenBack(why) => {
                self.metrics.plugin_swaps.inc(SwapResult::TakenBack);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} was taken back", version.id(), version.name()),
                    why,
                    "the version before goes on, from its last commit; correct the plugin and copy it again",
                );
                tracing::error!(code = %error.code, partitions, handled, failed, "{error}");
                self.hooks.error(error.code, &error, None);
                false
            }
            SwapOutcome::Refused(why) => {
                self.metrics.plugin_swaps.inc(SwapResult::Refused);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} is not taken", version.id(), version.name()),
                    why,
                    "the version before goes on, untouched; correct the plugin and copy it again",
                );
                tracing::error!(code = %error.code, "{error}");
                self.hooks.error(error.code, &error, None);
                false
            }
        }
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
