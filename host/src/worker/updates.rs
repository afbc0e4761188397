//! Takes up other versions of plugins, while the worker runs: what changes in the plugin directory, and what is pushed to the fleet.
//!
//! Of the two, the newer one holds: a component in the directory that was written after the push goes before it. A version is loaded
//! beside everything else and handed to its seat, which tries it and puts it into force or not; one that fails is marked, and not tried
//! again before its component or its settings change, or an operator wants it to be. How each attempt has ended is remembered on the
//! machine, and told to the fleet.
//!
//! A worker that has nothing to try a version on waits, with the version before: until it has, or another worker has tried it. What the
//! fleet says of the version holds for it then.

use super::files::PluginFiles;
use super::maker::Maker;
use super::plugins::{Loaded, Running};
use super::seats::{Candidate, Seat};
use super::status::Board;
use crate::error::{ErrorCode, OperatorError};
use crate::hooks::Hooks;
use crate::intake::{SwapOutcome, SwapReport};
use crate::nats::{KvEvent, Watch};
use crate::plugin::{Attempt, AttemptResult, Loadable, PluginVersion, Prepared, VersionStore};
use crate::pushes::{self, Order, Pushes, Reported, Standing};
use crate::telemetry::{Metrics, SwapResult};
use jiff::Timestamp;
use parti_coordination::Event;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who asks for a version that lies in the plugin directory.
const FILE: &str = "file";

/// How often, and after which pauses, a worker looks whether it has an ID under which it can report.
const NAMELESS: (u32, Duration) = (50, Duration::from_millis(200));

/// How often a worker that cannot try a version looks whether it can, or another worker has.
const WAITING: Duration = Duration::from_secs(3);

/// What the fleet has found out about a version.
enum Verdict {
    /// This worker has shown that it does.
    Does(String),
    /// Why it does not.
    Fails(String),
}

/// What is needed to take up versions, whatever the plugin.
#[derive(Clone)]
pub(super) struct Kit {
    /// The plugin directory.
    pub(super) directory: PathBuf,
    /// Whether what changes there is taken up.
    pub(super) watch: bool,
    pub(super) store: Arc<VersionStore>,
    pub(super) pushes: Pushes,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) running: Running,
    pub(super) hooks: Hooks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Kit {
    /// Takes up versions of this plugin until the future is dropped.
    pub(super) async fn update<S: Seat>(self, loaded: Loaded<S::Plugin>, seat: S) {
        let Loaded { maker, plugin, standing, is_untried, .. } = loaded;
        Updates { kit: self, maker, seat }.run(plugin.version().id().to_owned(), standing, is_untried).await;
    }
}

/// Takes up versions of one plugin.
struct Updates<S: Seat> {
    kit: Kit,
    maker: Arc<Maker<S::Plugin>>,
    seat: S,
}

impl<S: Seat> Updates<S> {
    /// Watches until it is dropped. `current` is the version that runs, `standing` the order that it was chosen by, and `is_due` whether
    /// what is in the plugin directory is to be taken up at once.
    async fn run(self, mut current: String, mut standing: Standing, mut is_due: bool) {
        let mut files = PluginFiles::watch(&self.kit.directory, self.name());
        let mut orders = self.kit.pushes.watch(self.name());
        let (mut obeyed, mut is_first) = (standing.revision, is_due);
        // A version that nobody could try yet, and the order that it was waited for.
        let mut waits: Option<(String, u64)> = None;
        loop {
            tokio::select! {
                () = std::future::ready(()), if is_first => {}
                () = files.stirred() => {}
                entry = next(&mut orders) => if let KvEvent::Entry { entry, .. } = entry && entry.revision != standing.revision {
                    standing = self.kit.pushes.understand(self.name(), &entry);
                },
                () = tokio::time::sleep(WAITING), if waits.is_some() => {}
            }
            is_first = false;
            let is_ordered = standing.revision != obeyed;
            let has_changed = files.have_changed().await && self.kit.watch;
            is_due |= has_changed;
            if !is_ordered && !is_due {
                continue;
            }
            waits.take_if(|(_, order)| has_changed || *order != standing.revision);
            let order = standing.order.as_ref();
            if let Some((version, _)) = &waits
                && !self.seat.has_work()
            {
                let is_wanted_again = is_ordered && order.is_some_and(|order| order.retry);
                match self.verdict(version).await {
                    None => continue,
                    Some(Verdict::Fails(_)) if is_wanted_again => continue,
                    Some(_) => {}
                }
            }
            match self.take_up(&current, order, is_ordered).await {
                Ok(Some(attempt)) if attempt.result == AttemptResult::Waiting => {
                    let waiting = (attempt.to.clone(), standing.revision);
                    if waits.replace(waiting.clone()).as_ref() != Some(&waiting) {
                        self.tell(reported(attempt, order.filter(|_| is_ordered), standing.revision)).await;
                    }
                }
                Ok(attempt) => {
                    (obeyed, waits) = (standing.revision, None);
                    // Where an order was refused, a file that has changed meanwhile is still to be looked at.
                    let is_refused = attempt.as_ref().is_some_and(|attempt| attempt.result == AttemptResult::Refused);
                    is_due &= is_ordered && is_refused;
                    let Some(attempt) = attempt else { continue };
                    if attempt.result == AttemptResult::Kept {
                        current.clone_from(&attempt.to);
                    }
                    self.tell(reported(attempt, order.filter(|_| is_ordered), standing.revision)).await;
                }
                // To be tried again.
                Err(why) => tracing::warn!(plugin = self.name(), why, "A version that is wanted cannot be had yet"),
            }
        }
    }

    /// The plugin's name.
    fn name(&self) -> &str {
        self.maker.name()
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
        let store = &self.kit.store;
        let verdict = if self.seat.has_work() { None } else { self.verdict(&to).await };
        let is_wanted_again = order.is_some_and(|order| is_ordered && order.retry);
        if let Some(Verdict::Fails(why)) = verdict.as_ref().filter(|_| !is_wanted_again) {
            store.mark(self.name(), &to, why);
        }
        if let Some(mark) = store.mark_of(self.name(), &to)
            && !is_wanted_again
        {
            tracing::warn!(
                plugin = self.name(),
                version = to,
                "This version was taken back before, and is not tried again until it changes, or `parti plugin swap` wants it to be"
            );
            return refused(&to, format!("it was taken back at {}: {}", mark.at, mark.why));
        }
        let component = prepared.component().clone();
        let plugin = match self.maker.aside(move |maker| maker.compile(prepared)).await {
            Ok(plugin) => plugin,
            Err(error) => {
                self.not_loaded(&error);
                return refused(&to, sentence(&error));
            }
        };
        let discard_state = order.is_some_and(|order| is_ordered && order.discard_state);
        let is_proven = matches!(verdict, Some(Verdict::Does(_)));
        let trial = store.begin_trial(self.name(), &to);
        // The worker stops, or it has lost its ID and begins again with another: what is wanted is wanted still.
        let Some(mut attempt) = self.swap(Candidate { version: plugin, discard_state, is_proven }, current).await
        else {
            return Err("the trial was broken off: the worker gave up its partitions".into());
        };
        drop(trial);
        if let (Some(Verdict::Does(worker)), AttemptResult::Kept) = (verdict, attempt.result) {
            attempt.reason = Some(format!("{worker} has shown that it does"));
            attempt.adopted = true;
        }
        match attempt.result {
            AttemptResult::Waiting => return Ok(Some(attempt)),
            AttemptResult::Kept if attempt.is_tried() || attempt.adopted => {
                store.unmark(self.name(), &to);
                store.keep(self.name(), &to, &component);
            }
            // What is not known to be good or bad is not remembered as such.
            AttemptResult::Kept => {}
            AttemptResult::TakenBack | AttemptResult::Refused => {
                store.mark(self.name(), &to, attempt.reason.as_deref().unwrap_or_default());
            }
        }
        store.forget_trials(self.name(), &to);
        Ok(Some(attempt))
    }

    /// What the fleet says of a version, as far as it can be known now.
    async fn verdict(&self, version: &str) -> Option<Verdict> {
        let history = self.kit.pushes.history(self.name()).await.ok()?;
        if let Some((worker, attempt)) = pushes::failed(&history, version) {
            let why = attempt.reason.as_deref().unwrap_or_default();
            return Some(Verdict::Fails(format!("on {worker}: {why}")));
        }
        pushes::proven(&history, version).map(|worker| Verdict::Does(worker.to_owned()))
    }

    /// What is wanted now: what was pushed, or what is in the directory if that is newer, or nothing was pushed. What is wrong with it is
    /// the inner error; the outer one may pass.
    async fn wanted(&self, order: Option<&Order>, is_ordered: bool) -> Result<Result<Prepared, OperatorError>, String> {
        let Some((order, digest)) = order.and_then(|order| Some((order, order.wanted.clone()?))) else {
            return Ok(self.maker.aside(|maker| maker.prepare(maker.read()?)).await);
        };
        let at = order.at;
        let newer = self.maker.aside(move |maker| Ok(maker.newer_than(at))).await;
        match newer {
            Ok(Some(modified)) if is_ordered => {
                return Ok(Err(ErrorCode::PluginSwap.error(
                    format!("what {} has ordered at {at} is not taken up", order.by),
                    format!("the component in the plugin directory of this worker is newer, of {modified}"),
                    "compare the clocks; then order it again, or remove the file",
                )));
            }
            Ok(Some(_)) => return Ok(self.maker.aside(|maker| maker.prepare(maker.read()?)).await),
            Ok(None) if !is_ordered => tracing::info!(
                plugin = self.name(), by = order.by, %at,
                "The component in the plugin directory is older than what was pushed, which goes on"
            ),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        let bytes = match self.kit.store.component(&digest) {
            Some(bytes) => bytes,
            None => self.kit.pushes.fetch(self.name(), &digest).await?,
        };
        Ok(self.maker.aside(move |maker| maker.with(bytes)).await)
    }

    /// Tells machine and fleet how an attempt has ended.
    async fn tell(&self, reported: Reported) {
        let kit = &self.kit;
        kit.running.attempted(self.name(), &reported.attempt);
        kit.store.record(self.name(), &reported.attempt);
        let me = || kit.board.lock().unwrap_or_else(PoisonError::into_inner).me.as_ref().map(|me| me.worker.clone());
        let (tries, pause) = NAMELESS;
        for _ in 0..tries {
            let Some(worker) = me() else {
                tokio::time::sleep(pause).await;
                continue;
            };
            if !Pushes::can_name(self.name()) {
                return;
            }
            if let Err(why) = kit.pushes.report(self.name(), worker.as_str(), reported).await {
                tracing::warn!(plugin = self.name(), why, "How the swap has ended is not in `parti plugin history`");
            }
            return;
        }
    }

    fn not_loaded(&self, error: &OperatorError) {
        self.kit.metrics.plugin_swaps.inc(SwapResult::Refused);
        tracing::error!(code = %error.code, plugin = self.name(), "{error}");
        tracing::error!(plugin = self.name(), "The version that runs goes on; the other one is not taken");
        self.kit.hooks.error(error.code, error, None);
    }

    /// Hands a version over, and tells how that has ended.
    async fn swap(&self, candidate: Candidate<S::Plugin>, from: &str) -> Option<Attempt> {
        let version = Arc::clone(candidate.version.version());
        let kind = version.kind();
        let how = if candidate.is_proven { "as it has proved itself elsewhere" } else { "on trial" };
        tracing::info!(
            plugin = version.name(), %kind, version = version.id(),
            "Another version of the plugin is taken up, {how}"
        );
        let report = self.seat.take_up(candidate).await?;
        let (p50, p99) = (report.pause(50), report.pause(99));
        let SwapReport { outcome, evidence, partitions, handled, failed, rejected, .. } = report;
        let (result, reason) = match outcome {
            SwapOutcome::Kept => {
                self.kit.metrics.plugin_swaps.inc(SwapResult::Kept);
                tracing::info!(
                    plugin = version.name(), %kind, version = version.id(),
                    partitions, handled, failed, rejected, ?p50, ?p99, evidence,
                    "The version is in force"
                );
                self.runs(&version);
                (AttemptResult::Kept, evidence)
            }
            SwapOutcome::TakenBack(why) => {
                self.kit.metrics.plugin_swaps.inc(SwapResult::TakenBack);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} was taken back", version.id(), version.name()),
                    why.clone(),
                    "the version before goes on, from its last commit; correct the plugin, and copy or push it again",
                );
                tracing::error!(code = %error.code, partitions, handled, failed, rejected, "{error}");
                self.kit.hooks.error(error.code, &error, None);
                (AttemptResult::TakenBack, Some(why))
            }
            SwapOutcome::Refused(why) => {
                self.kit.metrics.plugin_swaps.inc(SwapResult::Refused);
                let error = ErrorCode::PluginSwap.error(
                    format!("version {} of plugin {} is not taken", version.id(), version.name()),
                    why.clone(),
                    "the version before goes on, untouched; correct the plugin, and copy or push it again",
                );
                tracing::error!(code = %error.code, "{error}");
                self.kit.hooks.error(error.code, &error, None);
                (AttemptResult::Refused, Some(why))
            }
            SwapOutcome::Waiting(why) => {
                tracing::info!(
                    plugin = version.name(), %kind, version = version.id(), why,
                    "The version cannot be tried yet: it waits until it can, or another worker has tried it"
                );
                (AttemptResult::Waiting, Some(why))
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

    /// From now on this version runs: everybody is to know.
    fn runs(&self, version: &Arc<PluginVersion>) {
        let Kit { running, metrics, events, .. } = &self.kit;
        if let Some(before) = running.replace(version) {
            show(metrics, &before, false);
        }
        show(metrics, version, true);
        let _ = events.send(Event::Plugins(running.ids()));
    }
}

/// Shows that a version runs, or does no more.
pub(super) fn show(metrics: &Metrics, version: &PluginVersion, runs: bool) {
    let kind = version.kind().to_string();
    let labels = [version.name(), version.digest().as_str(), &kind];
    match runs {
        true => metrics.plugin_info.series(labels).set(1),
        false => metrics.plugin_info.remove(labels),
    }
}

/// An error in one line.
fn sentence(error: &OperatorError) -> String {
    format!("{}: {}", error.what, error.why)
}

/// How an attempt has ended, with the order that it obeyed, if it did.
fn reported(mut attempt: Attempt, order: Option<&Order>, revision: u64) -> Reported {
    if let Some(order) = order {
        attempt.by.clone_from(&order.by);
    }
    Reported { order: order.map_or(0, |_| revision), attempt }
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
        adopted: false,
    }
}
