//! Where versions of plugins are at work: how another one is tried there, and how it takes effect.
//!
//! A handler is tried on the messages of its partitions, with a way back; the data path does that. The other kinds are tried with one
//! call beside what runs, and replaced between two calls.

use super::strategy::Consultant;
use crate::config::Swap;
use crate::intake::{Intake, SwapOutcome, SwapReport, SwapRequest, SwapRules};
use crate::plugin::{Current, HandlerPlugin, HooksPlugin, Loadable, SourcePlugin, StrategyPlugin};
use crate::source::PluginSource;
use parti_coordination::Event;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Where a plugin of one kind is at work.
pub(super) trait Seat: Send + Sync + 'static {
    /// What sits there.
    type Plugin: Loadable;

    /// Tries a version, and puts it into force if it does. Nothing if the worker ends meanwhile.
    fn take_up(
        &self,
        version: Arc<Self::Plugin>,
        discard_state: bool,
    ) -> impl Future<Output = Option<SwapReport>> + Send;
}

/// The partitions' handler.
pub(super) struct HandlerSeat {
    intake: Intake,
    rules: SwapRules,
}

impl HandlerSeat {
    pub(super) fn new(intake: Intake, set: &Swap) -> Self {
        let rules = SwapRules {
            canary: set.canary,
            messages: set.probation.messages.into(),
            time: set.probation.time,
            max_error_rate: set.max_error_rate,
            max_reject_rate: set.max_reject_rate,
        };
        Self { intake, rules }
    }
}

impl Seat for HandlerSeat {
    type Plugin = HandlerPlugin;

    async fn take_up(&self, to: Arc<HandlerPlugin>, discard_state: bool) -> Option<SwapReport> {
        let (reply, ended) = oneshot::channel();
        self.intake.swap(SwapRequest { to, rules: Some(self.rules), discard_state, reply });
        ended.await.ok()
    }
}

/// The strategy that the leader asks.
pub(super) struct StrategySeat(pub(super) Consultant);

impl Seat for StrategySeat {
    type Plugin = StrategyPlugin;

    async fn take_up(&self, version: Arc<StrategyPlugin>, _: bool) -> Option<SwapReport> {
        let tried = self.0.try_out(&version).await;
        Some(judged(tried, || self.0.replace(version)))
    }
}

/// The source that the leader asks.
pub(super) struct SourceSeat {
    pub(super) source: PluginSource,
    /// An empty list is no sign that something is wrong.
    pub(super) allow_empty: bool,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl SourceSeat {
    async fn try_out(&self, version: &Arc<SourcePlugin>) -> Result<String, String> {
        let listed = self.source.ask(version).await?.len();
        match listed {
            0 if !self.allow_empty => Err("it lists no partitions, and source.plugin.allowEmpty is not set".to_owned()),
            1 => Ok("it lists 1 partition".to_owned()),
            _ => Ok(format!("it lists {listed} partitions")),
        }
    }
}

impl Seat for SourceSeat {
    type Plugin = SourcePlugin;

    async fn take_up(&self, version: Arc<SourcePlugin>, _: bool) -> Option<SwapReport> {
        let tried = self.try_out(&version).await;
        Some(judged(tried, || {
            self.source.replace(version);
            // What it lists is to be in force at once. Only a leader lists.
            let _ = self.events.send(Event::Refresh);
        }))
    }
}

/// The hooks of this worker.
pub(super) struct HooksSeat(pub(super) Current<HooksPlugin>);

impl Seat for HooksSeat {
    type Plugin = HooksPlugin;

    /// Whatever they were told for a trial might wake somebody up: they are only opened.
    async fn take_up(&self, version: Arc<HooksPlugin>, _: bool) -> Option<SwapReport> {
        let tried = version.open().await.map(|_| "it opens".to_owned()).map_err(|error| error.to_string());
        Some(judged(tried, || self.0.replace(version)))
    }
}

/// What a trial of one call says: what speaks for the version, or against it.
fn judged(tried: Result<String, String>, replace: impl FnOnce()) -> SwapReport {
    match tried {
        Ok(evidence) => {
            replace();
            SwapReport { evidence: Some(evidence), ..SwapReport::untried(SwapOutcome::Kept) }
        }
        Err(why) => SwapReport::untried(SwapOutcome::Refused(why)),
    }
}
