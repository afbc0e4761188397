//! Takes up other versions of the handler, while the worker runs: what changes in the plugin directory, and what is pushed to the fleet.
//!
//! Of the two, the newer one holds: a component in the directory that was written after the push goes before it. A version is loaded
//! beside the data path and handed over to whoever runs it, on trial; one that fails is marked, and not tried again before its component
//! or its settings change, or an operator wants it to be. How each attempt has ended is remembered on the machine, and told to the fleet.

use super::files::PluginFiles;
use super::plugins::{Handlers, Running};
use super::status::Board;
use crate::config::{Config, Swap};
use crate::error::{ErrorCode, OperatorError};
use crate::hooks::Hooks;
use crate::intake::{Intake, SwapOutcome, SwapReport, SwapRequest, SwapRules};
use crate::nats::{KvEvent, Watch};
use crate::plugin::{Attempt, AttemptResult, HandlerPlugin, PluginEngine, Prepared, VersionStore};
use crate::pushes::{Order, Pushes, Reported, Standing};
use crate::telemetry::{Metrics, SwapResult};
use jiff::Timestamp;
use parti_coordination::Event;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Who asks for a version that lies in the plugin directory.
const FILE: &str = "file";

/// How often, and after which pauses, a worker looks whether it has an ID under which it can report.
const NAMELESS: (u32, Duration) = (50, Duration::from_millis(200));

/// What is needed to take up a version.
pub(super) struct Updates {
    pub(super) engine: Arc<PluginEngine>,
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<VersionStore>,
    pub(super) pushes: Pushes,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) intake: Intake,
    pub(super) running: Running,
    pub(super) hooks: Hooks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Updates {
    /// Watches until it is dropped. `current` is the version of the handler that runs, and `standing` the order that it was chosen by.
    pub(super) async fn run(self, current: Arc<HandlerPlugin>, mut standing: Standing) {
        let mut files = PluginFiles::watch(&self.config.plugins.directory, self.name());
        let mut orders = self.pushes.watch(self.name());
        let mut current = current.version().id().to_owned();
        let (mut obeyed, mut is_due) = (standing.revision, false);
        loop {
            tokio::select! {
                () = files.stirred() => {}
                entry = next(&mut orders) => if let KvEvent::Entry { entry, .. } = entry && entry.revision != standing.revision {
                    standing = self.pushes.understand(self.name(), &entry);
                },
            }
            let is_ordered = standing.revision != obeyed;
            is_due |= files.have_changed().await && self.config.plugins.watch;
            if !is_ordered && !is_due {
                continue;
            }
            let order = standing.order.as_ref();
            match self.take_up(&current, order, is_ordered).await {
                Ok(attempt) => {
                    obeyed = standing.revision;
                    // Where an order was refused, a file that has changed meanwhile is still to be looked at.
                    let is_refused = attempt.as_ref().is_some_and(|attempt| attempt.result == AttemptResult::Refused);
                    is_due &= is_ordered && is_refused;
                    let Some(mut attempt) = attempt else { continue };
                    if let Some(order) = order.filter(|_| is_ordered) {
                        attempt.by.clone_from(&order.by);
                    }
                    if attempt.result == AttemptResult::Kept {
                        current.clone_from(&attempt.to);
                    }
                    self.tell(Reported { order: if is_ordered { standing.revision } else { 0 }, attempt }).await;
                }
                // To be tried again.
                Err(why) => tracing::warn!(why, "A version that is wanted cannot be had yet"),
            }
        }
    }

    /// The handler's name.
    fn name(&self) -> &str {
        self.config.handler.as_ref().map_or("", |handler| &handler.plugin)
    }

    /// Takes up what is wanted now, unless it is what runs and nobody has ordered it. An error is one that may pass.
    async fn take_up(&self, current: &str, order: Option<&Order>, is_ordered: bool) -> Result<Option<Attempt>, String> {
        let refused = |to: &str, why: String| Ok(Some(attempt(current, to, AttemptResult::Refused, Some(why))));
        let prepared = match self.wanted(order, is_ordered).await? {
            Ok(prepared) => prepared,
            Err(error) => {
                self.not_loaded(&error);
                return refused("", sentence(&error));
            }
        };
        let to = prepared.id();
        if to == current {
            let runs = "it was in force already".to_owned();
            return Ok(is_ordered.then(|| attempt(current, &to, AttemptResult::Kept, Some(runs))));
        }
        if let Some(mark) = self.store.mark_of(self.name(), &to)
            && !order.is_some_and(|order| is_ordered && order.retry)
        {
            tracing::warn!(
                version = to,
                "This version was taken back before, and is not tried again until it changes, or `parti plugin swap` wants it to be"
            );
            return refused(&to, format!("it was taken back at {}: {}", mark.at, mark.why));
        }
        let component = prepared.component().clone();
        let plugin = match self.blocking(move |handlers, engine| handlers.compile(engine, prepared)).await {
            Ok(plugin) => plugin,
            Err(error) => {
                self.not_loaded(&error);
                return refused(&to, sentence(&error));
            }
        };
        let discard_state = order.is_some_and(|order| is_ordered && order.discard_state);
        let Some(attempt) = self.swap(plugin, current, discard_state).await else { return Ok(None) };
        match (attempt.result, &attempt.reason) {
            (AttemptResult::Kept, _) => {
                self.store.unmark(self.name(), &to);
                self.store.keep(self.name(), &to, &component);
            }
            (_, why) => self.store.mark(self.name(), &to, why.as_deref().unwrap_or_default()),
        }
        Ok(Some(attempt))
    }

    /// What is wanted now: what was pushed, or what is in the directory if that is newer, or nothing was pushed. What is wrong with it is
    /// the inner error; the outer one may pass.
    async fn wanted(&self, order: Option<&Order>, is_ordered: bool) -> Result<Result<Prepared, OperatorError>, String> {
        let Some((order, digest)) = order.and_then(|order| Some((order, order.wanted.clone()?))) else {
            return Ok(self.blocking(|handlers, _| handlers.prepare(handlers.read()?)).await);
        };
        let at = order.at;
        let newer = self.blocking(move |handlers, _| Ok(handlers.newer_than(at))).await;
        match newer {
            Ok(Some(modified)) if is_ordered => {
                return Ok(Err(ErrorCode::PluginSwap.error(
                    format!("what {} has ordered at {at} is not taken up", order.by),
                    format!("the component in the plugin directory of this worker is newer, of {modified}"),
                    "compare the clocks; then order it again, or remove the file",
                )));
            }
            Ok(Some(_)) => return Ok(self.blocking(|handlers, _| handlers.prepare(handlers.read()?)).await),
            Ok(None) if !is_ordered => tracing::info!(
                by = order.by, %at,
                "The component in the plugin directory is older than what was pushed, which goes on"
            ),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        let bytes = match self.store.component(&digest) {
            Some(bytes) => bytes,
            None => self.pushes.fetch(self.name(), &digest).await?,
        };
        Ok(self.blocking(move |handlers, _| handlers.with(bytes)).await)
    }

    /// Tells machine and fleet how an attempt has ended.
    async fn tell(&self, reported: Reported) {
        self.store.record(self.name(), &reported.attempt);
        let me = || self.board.lock().unwrap_or_else(PoisonError::into_inner).me.as_ref().map(|me| me.worker.clone());
        let (tries, pause) = NAMELESS;
        for _ in 0..tries {
            let Some(worker) = me() else {
                tokio::time::sleep(pause).await;
                continue;
            };
            if !Pushes::can_name(self.name()) {
                return;
            }
            if let Err(why) = self.pushes.report(self.name(), worker.as_str(), reported).await {
                tracing::warn!(why, "How the swap has ended is not in `parti plugin history`");
            }
            return;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handlers<'_>, &PluginEngine) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, OperatorError> {
        super::plugins::blocking(&self.engine, &self.config, work).await
    }

    fn not_loaded(&self, error: &OperatorError) {
        self.metrics.plugin_swaps.inc(SwapResult::Refused);
        tracing::error!(code = %error.code, "{error}");
        tracing::error!("The version that runs goes on; the other one is not taken");
        self.hooks.error(error.code, error, None);
    }

    /// Hands a version over, and tells how that has ended.
    async fn swap(&self, plugin: Arc<HandlerPlugin>, from: &str, discard_state: bool) -> Option<Attempt> {
        let (reply, ended) = oneshot::channel();
        let version = Arc::clone(plugin.version());
        tracing::info!(
            plugin = version.name(),
            version = version.id(),
            "Another version of the handler is taken up, on trial"
        );
        let rules = self.config.handler.as_ref().map(|handler| rules(&handler.swap));
        self.intake.swap(SwapRequest { to: plugin, rules, discard_state, reply });
        // Nobody answers any more where the worker stops.
        let SwapReport { outcome, partitions, handled, failed, rejected, pauses } = ended.await.ok()?;
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
                    rejected,
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
                    "the version before goes on, from its last commit; correct the plugin, and copy or push it again",
                );
                tracing::error!(code = %error.code, partitions, handled, failed, rejected, "{error}");
                self.hooks.error(error.code, &error, None);
                (AttemptResult::TakenBack, Some(why))
            }
            SwapOutcome::Refused(why) => {
                self.metrics.plugin_swaps.inc(SwapResult::Refused);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} is not taken", version.id(), version.name()),
                    why.clone(),
                    "the version before goes on, untouched; correct the plugin, and copy or push it again",
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
            failed: failed + rejected,
            pause_p50_us: microseconds(p50),
            pause_p99_us: microseconds(p99),
            ..attempt(from, version.id(), result, reason)
        })
    }
}

/// An error in one line.
fn sentence(error: &OperatorError) -> String {
    format!("{}: {}", error.what, error.why)
}

/// What comes next of the orders, if there can be any.
async fn next(orders: &mut Option<Watch>) -> KvEvent {
    match orders {
        Some(orders) => orders.next().await,
        None => std::future::pending().await,
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
        max_reject_rate: set.max_reject_rate,
    }
}
