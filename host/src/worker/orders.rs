//! Which version of the handler a worker begins with, where one was pushed to the fleet.

use super::plugins::Handlers;
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::ApiError;
use crate::plugin::{Attempt, Component, Digest, HandlerPlugin, PluginEngine, Prepared, VersionStore};
use crate::pushes::{self, Order, Pushes, Reported, Standing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a worker begins with.
pub(super) struct Beginning {
    pub(super) handler: Arc<HandlerPlugin>,
    pub(super) component: Component,
    /// The order that was looked at.
    pub(super) standing: Standing,
    /// Why the handler is another version than the one that was pushed.
    pub(super) instead: Option<OperatorError>,
}

/// What is at hand when a worker begins.
pub(super) struct Beginner {
    pub(super) engine: Arc<PluginEngine>,
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<VersionStore>,
    pub(super) pushes: Pushes,
}

/// Histories of the workers.
type Histories = BTreeMap<String, Vec<Reported>>;

/// Why a pushed version is not begun with.
enum PassedOver {
    /// It cannot be used, or it has failed.
    Unfit(String),
    /// It cannot be fetched now. It is looked for again while the worker runs.
    Absent(String),
    /// No worker has kept it yet: it is taken up on trial once the worker runs.
    Untried,
}

/// What can be begun with; `None` stands for what is loaded already.
type Chosen = Option<(Arc<HandlerPlugin>, Component)>;

impl Beginner {
    /// Chooses between what is loaded and what was pushed. What was pushed and has failed, here or in the fleet, or was not tried yet, is
    /// passed over for the last good version that this machine has, or else for one that was pushed before. Nothing in here keeps a
    /// worker from starting.
    pub(super) async fn choose(&self, handler: Arc<HandlerPlugin>, component: Component) -> Beginning {
        let name = handler.version().name().to_owned();
        let mut standing = self.pushes.standing(&name).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "Whether a version was pushed is not known yet");
            Standing::default()
        });
        let loaded = (handler, component);
        let (chosen, passed_over) = match &standing.order {
            Some(order) => self.by_order(&name, order, loaded.0.version().id()).await,
            None => (None, None),
        };
        let (handler, component) = chosen.unwrap_or(loaded);
        let (why, is_settled) = match passed_over {
            Some(PassedOver::Unfit(why)) => (Some(why), true),
            Some(PassedOver::Absent(why)) => (Some(why), false),
            Some(PassedOver::Untried) => (None, false),
            None => (None, true),
        };
        let instead = standing.order.as_ref().zip(why).map(|(order, why)| {
            ErrorCode::PluginSwap.error(
                format!("what {} has pushed of plugin {name} at {} is not used", order.by, order.at),
                why,
                format!(
                    "the worker begins with version {}; push a corrected one, or try again: parti plugin swap {name}",
                    handler.version().id()
                ),
            )
        });
        if !is_settled {
            standing = Standing::default();
        }
        Beginning { handler, component, standing, instead }
    }

    async fn by_order(&self, name: &str, order: &Order, loaded: &str) -> (Chosen, Option<PassedOver>) {
        let Some(wanted) = &order.wanted else { return (None, None) };
        let at = order.at;
        if let Some(modified) = self.blocking(move |handlers, _| Ok(handlers.newer_than(at))).await.ok().flatten() {
            tracing::info!(%modified, by = order.by, %at, "The component in the plugin directory is newer than what was pushed, and goes before it");
            return (None, None);
        }
        let history = self.pushes.history(name).await.unwrap_or_else(|error: ApiError| {
            tracing::warn!(%error, "How other workers have fared with what was pushed is not known");
            Histories::new()
        });
        let passed_over = match self.candidate(name, wanted, &history, loaded).await {
            Ok(chosen) if self.was_kept(name, wanted, &history) => return (chosen, None),
            Ok(_) => PassedOver::Untried,
            Err(passed_over) => passed_over,
        };
        let store = Arc::clone(&self.store);
        let last_good = self.blocking(move |handlers, _| Ok(handlers.last_good(&store))).await.ok().flatten();
        let mut chosen = match last_good {
            Some(prepared) => self.compile(prepared, loaded).await.ok(),
            None => None,
        };
        for digest in &order.before {
            if chosen.is_none() {
                chosen = self.candidate(name, digest, &history, loaded).await.ok();
            }
        }
        (chosen.flatten(), Some(passed_over))
    }

    /// Whether a worker has kept a version with this component, whatever its settings.
    fn was_kept(&self, name: &str, digest: &Digest, history: &Histories) -> bool {
        let kept = |attempt: &Attempt| attempt.proves() && attempt.to.starts_with(digest.as_str());
        let in_the_fleet = history.values().flatten().any(|reported| kept(&reported.attempt));
        in_the_fleet || self.store.kept(name).iter().any(|kept| kept.digest == *digest)
    }

    /// A pushed version, or why it cannot be begun with.
    async fn candidate(
        &self,
        name: &str,
        digest: &Digest,
        history: &Histories,
        loaded: &str,
    ) -> Result<Chosen, PassedOver> {
        let bytes = match self.store.component(digest) {
            Some(bytes) => bytes,
            None => {
                let fetched = self.pushes.fetch(name, digest).await;
                fetched.map_err(PassedOver::Absent)?
            }
        };
        let prepared = self.blocking(move |handlers, _| handlers.with(bytes)).await;
        let prepared = prepared.map_err(|error| PassedOver::Unfit(error.why))?;
        let version = prepared.id();
        if let Some((worker, attempt)) = pushes::failed(history, &version)
            && self.store.mark_of(name, &version).is_none()
        {
            let why = attempt.reason.as_deref().unwrap_or_default();
            self.store.mark(name, &version, &format!("on {worker}: {why}"));
        }
        if let Some(mark) = self.store.mark_of(name, &version) {
            return Err(PassedOver::Unfit(format!("it was taken back at {}: {}", mark.at, mark.why)));
        }
        self.compile(prepared, loaded).await
    }

    async fn compile(&self, prepared: Prepared, loaded: &str) -> Result<Chosen, PassedOver> {
        if prepared.id() == loaded {
            return Ok(None);
        }
        let component = prepared.component().clone();
        let compiled = self.blocking(move |handlers, engine| handlers.compile(engine, prepared)).await;
        compiled.map(|handler| Some((handler, component))).map_err(|error| PassedOver::Unfit(error.why))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handlers<'_>, &PluginEngine) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, OperatorError> {
        super::plugins::blocking(&self.engine, &self.config, work).await
    }
}
