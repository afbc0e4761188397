//! Makes versions of a plugin: from the plugin directory, from what the machine remembers, or from bytes that come from elsewhere.

use super::plugins::{Slot, catalog, operator_error};
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{AttemptResult, Catalog, Component, Loadable, PluginEngine, Prepared, VersionStore};
use jiff::Timestamp;
use std::marker::PhantomData;
use std::sync::Arc;

/// What a worker begins with.
pub(super) struct Beginning {
    pub(super) prepared: Prepared,
    /// Why it is another version than the one in the plugin directory.
    pub(super) instead: Option<OperatorError>,
    /// What is in the plugin directory is to be taken up on trial.
    pub(super) is_untried: bool,
}

/// Makes versions of the plugin in a slot. Everything here reads files, and [`Maker::compile`] compiles: call it where blocking is
/// allowed, or through [`Maker::aside`].
pub(super) struct Maker<P> {
    engine: Arc<PluginEngine>,
    catalog: Catalog,
    slot: Slot,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Loadable> Maker<P> {
    pub(super) fn new(engine: &Arc<PluginEngine>, config: &Config, slot: Slot) -> Self {
        Self { engine: Arc::clone(engine), catalog: catalog(config), slot, plugin: PhantomData }
    }

    /// The plugin's name.
    pub(super) fn name(&self) -> &str {
        &self.slot.name
    }

    /// What the plugin directory has now.
    pub(super) fn read(&self) -> Result<Component, OperatorError> {
        self.catalog.read(&self.slot.wanted()).map_err(|error| operator_error(&error))
    }

    /// When the component in the plugin directory was written, if that was after this time.
    pub(super) fn newer_than(&self, time: Timestamp) -> Option<Timestamp> {
        let modified = self.catalog.modified(self.name())?;
        Timestamp::try_from(modified).ok().filter(|modified| *modified > time)
    }

    /// What a component from elsewhere becomes with the sidecar in the plugin directory and the configuration.
    pub(super) fn with(&self, bytes: Vec<u8>) -> Result<Prepared, OperatorError> {
        let sidecar = self.catalog.read_sidecar(self.name()).map_err(|error| operator_error(&error))?;
        self.prepare(Component { bytes, sidecar })
    }

    /// What a component becomes with the configuration.
    pub(super) fn prepare(&self, component: Component) -> Result<Prepared, OperatorError> {
        self.catalog.prepare(self.slot.wanted(), component).map_err(|error| operator_error(&error))
    }

    pub(super) fn compile(&self, prepared: Prepared) -> Result<Arc<P>, OperatorError> {
        prepared.load(&self.engine, P::load).map_err(|error| operator_error(&error))
    }

    /// What to begin with: the version itself, or if it has failed its trial, or is on trial, the last one that was in force.
    pub(super) fn begin_with(&self, store: &VersionStore, prepared: Prepared) -> Beginning {
        let (name, version) = (self.name(), prepared.id());
        let open = store.open_trials(name, &version);
        if store.mark_of(name, &version).is_some() {
            let (prepared, instead) = self.unless_marked(store, prepared);
            return Beginning { prepared, instead, is_untried: false };
        }
        // It was waited for somebody who could try it.
        let last = store.attempts(name).into_iter().find(|attempt| attempt.to == version);
        let is_untried = open.any() || last.is_some_and(|last| last.result == AttemptResult::Waiting);
        match self.last_good(store).filter(|good| is_untried && good.id() != version) {
            Some(good) => {
                tracing::warn!(
                    plugin = name,
                    version,
                    begins_with = good.id(),
                    "The version in the plugin directory is on trial on this machine or waits for one, or a worker has died during its \
                     trial: this one begins with the version that was in force before, and takes it up on trial too"
                );
                Beginning { prepared: good, instead: None, is_untried: true }
            }
            None => Beginning { prepared, instead: None, is_untried: false },
        }
    }

    /// The version itself, or if it has failed its trial the last one that was in force, and why.
    fn unless_marked(&self, store: &VersionStore, prepared: Prepared) -> (Prepared, Option<OperatorError>) {
        let name = self.name();
        let Some(mark) = store.mark_of(name, &prepared.id()) else { return (prepared, None) };
        let what = format!("version {} of plugin {name} is not used", mark.version);
        let why = format!("it was taken back at {}: {}", mark.at, mark.why);
        match self.last_good(store) {
            Some(good) => {
                let todo = format!(
                    "the worker begins with version {}, which was in force before; correct the plugin and copy it again",
                    good.id()
                );
                (good, Some(ErrorCode::PluginSwap.error(what, why, todo)))
            }
            None => {
                let what = format!("version {} of plugin {name} is used although it has failed", mark.version);
                let todo = "no version that was in force before is left in plugins.cache; correct the plugin and copy it again";
                (prepared, Some(ErrorCode::PluginSwap.error(what, why, todo)))
            }
        }
    }

    /// The last version that was in force, is still there, and has not failed.
    pub(super) fn last_good(&self, store: &VersionStore) -> Option<Prepared> {
        let name = self.name();
        store.kept(name).into_iter().find_map(|kept| {
            let component = Component { bytes: store.component(&kept.digest)?, sidecar: kept.sidecar };
            let prepared = self.prepare(component).ok()?;
            store.mark_of(name, &prepared.id()).is_none().then_some(prepared)
        })
    }

    /// Reads and compiles away from everything else.
    pub(super) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, OperatorError> {
        let maker = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&maker)).await.unwrap_or_else(|error| {
            let (what, todo) = ("the plugin could not be compiled", "report this as a bug of parti");
            Err(ErrorCode::Internal.error(what, error.to_string(), todo))
        })
    }
}
