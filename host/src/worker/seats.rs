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

/// A version for a seat.
pub(super) struct Candidate<P> {
    pub(super) version: Arc<P>,
    /// It begins without the states that the version before has written.
    pub(super) discard_state: bool,
    /// It has shown elsewhere that it does: it is in force as soon as it is open.
    pub(super) is_proven: bool,
}

/// Where a plugin of one kind is at work.
pub(super) trait Seat: Send + Sync + 'static {
    /// What sits there.
    type Plugin: Loadable;

    /// Whether there is something that a version can be tried on.
    fn has_work(&self) -> bool {
        true
    }

    /// Tries a version, and puts it into force if it does. Nothing if the worker ends meanwhile.
    fn take_up(&self, candidate: Candidate<Self::Plugin>) -> impl Future<Output = Option<SwapReport>> + Send;
}

/// The partitions' handler.
pub(super) struct HandlerSeat {
    intake: Intake,
    handler: String,
    rules: SwapRules,
}

impl HandlerSeat {
    /// Of the handler of this name.
    pub(super) fn new(intake: Intake, handler: String, set: &Swap) -> Self {
        let rules = SwapRules {
            canary: set.canary,
            messages: set.probation.messages.into(),
            time: set.probation.time,
            max_error_rate: set.max_error_rate,
            max_reject_rate: set.max_reject_rate,
        };
        Self { intake, handler, rules }
    }
}

impl Seat for HandlerSeat {
    type Plugin = HandlerPlugin;

    fn has_work(&self) -> bool {
        self.intake.has_work(&self.handler)
    }

    async fn take_up(&self, candidate: Candidate<HandlerPlugin>) -> Option<SwapReport> {
        let Candidate { version: to, discard_state, is_proven } = candidate;
        let (reply, ended) = oneshot::channel();
        let rules = (!is_proven).then_some(self.rules);
        self.intake.swap(SwapRequest { to, rules, discard_state, reply });
        ended.await.ok()
    }
}

/// The strategy that the leader asks.
pub(super) struct StrategySeat(pub(super) Consultant);

impl Seat for StrategySeat {
    type Plugin = StrategyPlugin;

    async fn take_up(&self, Candidate { version, .. }: Candidate<StrategyPlugin>) -> Option<SwapReport> {
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

    async fn take_up(&self, Candidate { version, .. }: Candidate<SourcePlugin>) -> Option<SwapReport> {
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
    async fn take_up(&self, Candidate { version, .. }: Candidate<HooksPlugin>) -> Option<SwapReport> {
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
