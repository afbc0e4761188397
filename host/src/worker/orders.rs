//! Which version of a plugin a worker begins with, where one was pushed to the fleet.

use super::maker::Maker;
use super::plugins::Loaded;
use crate::error::ErrorCode;
use crate::nats::ApiError;
use crate::plugin::{Attempt, Component, Digest, Loadable, Prepared, VersionStore};
use crate::pushes::{self, Order, Pushes, Reported, Standing};
use std::collections::BTreeMap;
use std::sync::Arc;

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
type Chosen<P> = Option<(Arc<P>, Component)>;

impl<P: Loadable> Loaded<P> {
    /// Chooses between what is loaded and what was pushed. What was pushed and has failed, here or in the fleet, or was not tried yet, is
    /// passed over for the last good version that this machine has, or else for one that was pushed before. Nothing in here keeps a
    /// worker from starting.
    pub(super) async fn choose(&mut self, store: &Arc<VersionStore>, pushes: &Pushes) {
        let name = self.maker.name().to_owned();
        let standing = pushes.standing(&name).await.unwrap_or_else(|error| {
            tracing::warn!(plugin = name, %error, "Whether a version was pushed is not known yet");
            Standing::default()
        });
        let beginner = Beginner { maker: &self.maker, store, pushes };
        let (chosen, passed_over) = match &standing.order {
            Some(order) => beginner.by_order(&name, order, self.plugin.version().id()).await,
            None => (None, None),
        };
        if let Some((plugin, component)) = chosen {
            (self.plugin, self.component) = (plugin, component);
        }
        let version = self.plugin.version();
        store.keep(&name, version.id(), &self.component);
        let (why, is_settled) = match passed_over {
            Some(PassedOver::Unfit(why)) => (Some(why), true),
            Some(PassedOver::Absent(why)) => (Some(why), false),
            Some(PassedOver::Untried) => (None, false),
            None => (None, true),
        };
        if let Some((order, why)) = standing.order.as_ref().zip(why) {
            self.instead = Some(ErrorCode::PluginSwap.error(
                format!("what {} has pushed of plugin {name} at {} is not used", order.by, order.at),
                why,
                format!(
                    "the worker begins with version {}; push a corrected one, or try again: parti plugin swap {name}",
                    version.id()
                ),
            ));
        }
        if is_settled {
            self.standing = standing;
        }
    }
}

/// What is at hand when a worker begins.
struct Beginner<'a, P> {
    maker: &'a Arc<Maker<P>>,
    store: &'a Arc<VersionStore>,
    pushes: &'a Pushes,
}

impl<P: Loadable> Beginner<'_, P> {
    async fn by_order(&self, name: &str, order: &Order, loaded: &str) -> (Chosen<P>, Option<PassedOver>) {
        let Some(wanted) = &order.wanted else { return (None, None) };
        let at = order.at;
        if let Some(modified) = self.maker.aside(move |maker| Ok(maker.newer_than(at))).await.ok().flatten() {
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
        let store = Arc::clone(self.store);
        let last_good = self.maker.aside(move |maker| Ok(maker.last_good(&store))).await.ok().flatten();
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
        let kept = |attempt: &Attempt| attempt.is_tried() && attempt.to.starts_with(digest.as_str());
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
    ) -> Result<Chosen<P>, PassedOver> {
        let bytes = match self.store.component(digest) {
            Some(bytes) => bytes,
            None => {
                let fetched = self.pushes.fetch(name, digest).await;
                fetched.map_err(PassedOver::Absent)?
            }
        };
        let prepared = self.maker.aside(move |maker| maker.with(bytes)).await;
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

    async fn compile(&self, prepared: Prepared, loaded: &str) -> Result<Chosen<P>, PassedOver> {
        if prepared.id() == loaded {
            return Ok(None);
        }
        let component = prepared.component().clone();
        let compiled = self.maker.aside(move |maker| maker.compile(prepared)).await;
        compiled.map(|plugin| Some((plugin, component))).map_err(|error| PassedOver::Unfit(error.why))
    }
}
