//! The plugins that the configuration names, loaded. `parti check` loads them too, one after the other, to report them all.

use super::maker::{Beginning, Maker};
use super::settings::from_sentence;
use crate::config::{Config, Grants as Granted, Handler, Hooks, Limits as Set, PluginSource, PluginStrategy};
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{
    Attempt, Catalog, CatalogError, Component, Grants, HandlerPlugin, HooksPlugin, Limits, Loadable, PluginEngine,
    PluginKind, PluginSettings, PluginStats, PluginVersion, Room, SourcePlugin, StrategyPlugin, VersionStore, Wanted,
};
use crate::pushes::{Pushes, Standing};
use crate::telemetry::Metrics;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A place in the configuration that names a plugin, and what it sets for it.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The plugin's name.
    pub(crate) name: String,
    /// What it must be.
    pub(crate) kind: PluginKind,
    /// The section, such as `handler`.
    section: Cow<'static, str>,
    config: Map<String, Value>,
    limits: Limits,
}

impl Slot {
    /// Every place that names a plugin.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let others = [Self::strategy(config), Self::source(config), Self::hooks(config)];
        Self::handlers(config).chain(others.into_iter().flatten()).collect()
    }

    fn handlers(config: &Config) -> impl Iterator<Item = Self> {
        config.handlers().map(|(section, set)| {
            let (limits, config) = (limits(&set.limits, set.call_timeout), set.config.as_map().clone());
            Self { name: set.plugin.clone(), kind: PluginKind::Handler, section: section.into(), config, limits }
        })
    }

    fn strategy(config: &Config) -> Option<Self> {
        let set = config.strategy.plugin.as_ref()?;
        let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
        Some(Self {
            name: set.name.clone(),
            kind: PluginKind::Strategy,
            section: "strategy.plugin".into(),
            config,
            limits,
        })
    }

    fn source(config: &Config) -> Option<Self> {
        let set = config.source.as_ref()?.plugin.as_ref()?;
        let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
        Some(Self { name: set.name.clone(), kind: PluginKind::Source, section: "source.plugin".into(), config, limits })
    }

    fn hooks(config: &Config) -> Option<Self> {
        let set = config.hooks.as_ref()?;
        let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
        Some(Self { name: set.plugin.clone(), kind: PluginKind::Hooks, section: "hooks".into(), config, limits })
    }

    /// What the catalog is asked for.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        let Self { name, kind, section, config, limits } = self;
        Wanted { name, section, kind: *kind, config: config.clone(), limits: limits.clone() }
    }
}

/// A plugin that is loaded, and what it takes to load another version of it.
pub(super) struct Loaded<P> {
    pub(super) maker: Arc<Maker<P>>,
    pub(super) plugin: Arc<P>,
    /// What it is made of.
    pub(super) component: Component,
    /// Why it is another version than the one that was to be.
    pub(super) instead: Option<OperatorError>,
    /// What is in the plugin directory is to be taken up on trial.
    pub(super) is_untried: bool,
    /// The order that was looked at.
    pub(super) standing: Standing,
}

impl<P: Loadable> Loaded<P> {
    /// Loads what is in the plugin directory. With a store, the last good version takes the place of one that has failed its trial.
    fn load(
        engine: &Arc<PluginEngine>,
        config: &Config,
        slot: Slot,
        store: Option<&VersionStore>,
    ) -> Result<Self, OperatorError> {
        let maker = Maker::new(engine, config, slot);
        let prepared = maker.prepare(maker.read()?)?;
        let Beginning { prepared, instead, is_untried } = match store {
            Some(store) => maker.begin_with(store, prepared),
            None => Beginning { prepared, instead: None, is_untried: false },
        };
        let component = prepared.component().clone();
        let plugin = maker.compile(prepared)?;
        Ok(Self { maker: Arc::new(maker), plugin, component, instead, is_untried, standing: Standing::default() })
    }
}

/// What a worker loads at its start.
#[derive(Default)]
pub(super) struct Plugins {
    /// What processes the messages, in the order of the configuration; nothing on an assignment-only worker.
    pub(super) handlers: Vec<Loaded<HandlerPlugin>>,
    /// What decides which worker gets which partition, if a plugin does.
    pub(super) strategy: Option<Loaded<StrategyPlugin>>,
    /// What lists the partitions, if a plugin does.
    pub(super) source: Option<Loaded<SourcePlugin>>,
    /// What is told what happens.
    pub(super) hooks: Option<Loaded<HooksPlugin>>,
}

impl Plugins {
    /// Loads every plugin that the configuration names. Compiles: call it where blocking is allowed. What cannot be loaded is
    /// among the errors, and missing here. With a store, the last good version takes the place of one that has failed its trial.
    #[must_use]
    pub(super) fn load(
        engine: &Arc<PluginEngine>,
        config: &Config,
        store: Option<&VersionStore>,
    ) -> (Self, Vec<OperatorError>) {
        fn loaded<P: Loadable>(
            (engine, config, store): (&Arc<PluginEngine>, &Config, Option<&VersionStore>),
            slots: impl IntoIterator<Item = Slot>,
            errors: &mut Vec<OperatorError>,
        ) -> Vec<Loaded<P>> {
            let load = |slot| Loaded::load(engine, config, slot, store).map_err(|error| errors.push(error)).ok();
            slots.into_iter().filter_map(load).collect()
        }
        let (with, mut errors) = ((engine, config, store), grants(&config.plugins.grants).1);
        let plugins = Self {
            handlers: loaded(with, Slot::handlers(config), &mut errors),
            strategy: loaded(with, Slot::strategy(config), &mut errors).pop(),
            source: loaded(with, Slot::source(config), &mut errors).pop(),
            hooks: loaded(with, Slot::hooks(config), &mut errors).pop(),
        };
        (plugins, errors)
    }

    /// Chooses between what is loaded and what was pushed to the fleet.
    pub(super) async fn choose(&mut self, store: &Arc<VersionStore>, pushes: &Pushes) {
        let Self { handlers, strategy, source, hooks } = self;
        for loaded in handlers {
            loaded.choose(store, pushes).await;
        }
        if let Some(loaded) = strategy {
            loaded.choose(store, pushes).await;
        }
        if let Some(loaded) = source {
            loaded.choose(store, pushes).await;
        }
        if let Some(loaded) = hooks {
            loaded.choose(store, pushes).await;
        }
    }

    /// Why versions are others than those that were to be.
    pub(super) fn instead(&self) -> impl Iterator<Item = &OperatorError> {
        let Self { handlers, strategy, source, hooks } = self;
        let handlers = handlers.iter().filter_map(|loaded| loaded.instead.as_ref());
        let strategy = strategy.iter().filter_map(|loaded| loaded.instead.as_ref());
        let source = source.iter().filter_map(|loaded| loaded.instead.as_ref());
        let hooks = hooks.iter().filter_map(|loaded| loaded.instead.as_ref());
        handlers.chain(strategy).chain(source).chain(hooks)
    }

    /// What is to be said of the room that so many instances of handlers take in this process.
    pub(super) fn room_warnings(&self, instances: usize) -> Vec<String> {
        let room = self.handlers.first().and_then(|_| Room::read());
        let with_files = self.handlers.iter().any(|loaded| loaded.plugin.version().reads_files());
        room.map(|room| room.warnings(instances as u64, with_files)).unwrap_or_default()
    }

    /// What each of them is.
    #[must_use]
    pub(super) fn versions(&self) -> Vec<Arc<PluginVersion>> {
        let handlers = self.handlers.iter().map(|loaded| loaded.plugin.version());
        let strategy = self.strategy.iter().map(|loaded| loaded.plugin.version());
        let source = self.source.iter().map(|loaded| loaded.plugin.version());
        let hooks = self.hooks.iter().map(|loaded| loaded.plugin.version());
        handlers.chain(strategy).chain(source).chain(hooks).cloned().collect()
    }
}

/// The plugins that this worker runs now. Clones show the same ones.
#[derive(Clone)]
pub(super) struct Running(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    version: Arc<PluginVersion>,
    /// How the last attempt to replace it has ended.
    last: Option<Attempt>,
    /// What it has counted itself, as far as the worker's metrics have it.
    counted: PluginStats,
}

impl Running {
    pub(super) fn of(plugins: Vec<Arc<PluginVersion>>) -> Self {
        let entry = |version| Entry { version, last: None, counted: PluginStats::default() };
        Self(Arc::new(Mutex::new(plugins.into_iter().map(entry).collect())))
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each of them is.
    pub(super) fn versions(&self) -> Vec<Arc<PluginVersion>> {
        self.entries().iter().map(|entry| Arc::clone(&entry.version)).collect()
    }

    /// Their versions by name, as the group is told.
    pub(super) fn ids(&self) -> BTreeMap<String, String> {
        self.entries().iter().map(|entry| (entry.version.name().to_owned(), entry.version.id().to_owned())).collect()
    }

    /// How each of them stands: what it is, and how the last attempt to replace it has ended.
    pub(super) fn standings(&self) -> Vec<(Arc<PluginVersion>, Option<Attempt>)> {
        self.entries().iter().map(|entry| (Arc::clone(&entry.version), entry.last.clone())).collect()
    }

    /// Another version runs in the place of the one of its name; that one.
    pub(super) fn replace(&self, version: &Arc<PluginVersion>) -> Option<Arc<PluginVersion>> {
        let mut entries = self.entries();
        let entry = entries.iter_mut().find(|entry| entry.version.name() == version.name())?;
        Some(std::mem::replace(&mut entry.version, Arc::clone(version)))
    }

    /// An attempt to replace the plugin of this name has ended.
    pub(super) fn attempted(&self, plugin: &str, attempt: &Attempt) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.version.name() == plugin) {
            entry.last = Some(attempt.clone());
        }
    }

    /// Brings the worker's metrics up to date with what plugins have counted since the last time: they do so without knowing of metrics.
    pub(super) fn count(&self, metrics: &Metrics) {
        for Entry { version, counted, .. } in self.entries().iter_mut() {
            let (name, now) = (version.name(), version.stats());
            let counters = [
                (&metrics.plugin_log_lines_dropped, now.log_lines_dropped - counted.log_lines_dropped),
                (&metrics.plugin_metric_values_dropped, now.metric_values_dropped - counted.metric_values_dropped),
            ];
            for (counter, more) in counters.into_iter().filter(|(_, more)| *more > 0) {
                counter.series([name]).inc_by(more);
            }
            let requests = [
                ("sent", now.http_requests - counted.http_requests),
                ("denied", now.http_denied - counted.http_denied),
            ];
            for (result, more) in requests.into_iter().filter(|(_, more)| *more > 0) {
                metrics.plugin_http_requests.series([name, result]).inc_by(more);
            }
            *counted = now;
        }
    }
}

pub(super) fn catalog(config: &Config) -> Catalog {
    let defaults = limits(&config.plugins.defaults, Limits::default().call_timeout);
    Catalog::new(&config.plugins.directory, defaults, grants(&config.plugins.grants).0)
}

/// What the configuration sets for a plugin of this name: where it names it, or by default.
pub(crate) fn settings_of(config: &Config, plugin: &str) -> PluginSettings {
    let grants = grants(&config.plugins.grants).0.remove(plugin).unwrap_or_default();
    match Slot::all(config).into_iter().find(|slot| slot.name == plugin) {
        Some(Slot { section, config, limits, .. }) => {
            PluginSettings { section: section.into(), config, limits, grants }
        }
        None => {
            let limits = limits(&config.plugins.defaults, Limits::default().call_timeout);
            PluginSettings { section: "plugins.defaults".into(), config: Map::new(), limits, grants }
        }
    }
}

/// Loads the strategy that the configuration names, as its plugin directory has it; nothing if it names none.
pub(crate) fn load_strategy(
    engine: &PluginEngine,
    config: &Config,
) -> Result<Option<Arc<StrategyPlugin>>, OperatorError> {
    let slot = Slot::all(config).into_iter().find(|slot| slot.kind == PluginKind::Strategy);
    let load = |slot: Slot| catalog(config).load(engine, slot.wanted(), StrategyPlugin::load);
    slot.map(load).transpose().map_err(|error| operator_error(&error))
}

/// Loads a component of a folder, with the sidecar beside it, as a worker does in whose configuration nothing is set for it but this
/// and what `host` grants.
pub(crate) fn load_alone<P: Loadable>(
    engine: &PluginEngine,
    directory: &Path,
    name: &str,
    config: &Map<String, Value>,
    host: &Config,
) -> Result<Arc<P>, OperatorError> {
    let (grants, errors) = grants(&host.plugins.grants);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let (section, call_timeout) = match P::KIND {
        PluginKind::Handler => ("handler", Handler::default().call_timeout),
        PluginKind::Strategy => ("strategy.plugin", PluginStrategy::default().call_timeout),
        PluginKind::Source => ("source.plugin", PluginSource::default().call_timeout),
        PluginKind::Hooks => ("hooks", Hooks::default().call_timeout),
    };
    let limits = limits(&Set::default(), call_timeout);
    let wanted = Wanted { name, section, kind: P::KIND, config: config.clone(), limits: limits.clone() };
    let loaded = Catalog::new(directory, limits, grants).load(engine, wanted, P::load);
    loaded.map_err(|error| operator_error(&error))
}

pub(super) fn operator_error(error: &CatalogError) -> OperatorError {
    let missing = matches!(error, CatalogError::Missing { .. } | CatalogError::Directory { .. });
    let code = if missing { ErrorCode::PluginNotFound } else { ErrorCode::PluginInvalid };
    from_sentence(code, &error.to_string())
}

/// What each plugin is granted, and what of it cannot be given: a worker does not start with less than it says.
fn grants(granted: &Granted) -> (BTreeMap<String, Grants>, Vec<OperatorError>) {
    let (mut grants, mut errors) = (BTreeMap::new(), Vec::new());
    for (plugin, grant) in granted {
        let env = grant.env.resolve().unwrap_or_else(|(name, source)| {
            errors.push(ErrorCode::InvalidConfig.error(
                format!("plugins.grants.{plugin}.env.{name} has no value"),
                format!("it comes from the variable {source} of the worker, which is not set or is no UTF-8"),
                format!("set {source}, or give the value itself"),
            ));
            Vec::new()
        });
        if let Some(directory) = grant.directory.as_ref().filter(|directory| !directory.is_dir()) {
            errors.push(ErrorCode::InvalidConfig.error(
                format!("plugins.grants.{plugin}.directory cannot be given to the plugin"),
                format!("{} is no directory that this process sees", directory.display()),
                "create it, or correct the path",
            ));
        }
        let grant = Grants { http: grant.http.clone(), env, directory: grant.directory.clone() };
        grants.insert(plugin.clone(), grant);
    }
    (grants, errors)
}

fn limits(set: &Set, call_timeout: Duration) -> Limits {
    Limits {
        memory: set.memory.0,
        call_timeout,
        table_elements: set.table_elements.into(),
        core_instances: set.core_instances.into(),
        component_bytes: set.component_bytes.0,
        log_lines_per_second: set.log_lines_per_second.into(),
        log_line_bytes: set.log_line_bytes.0,
        publish_messages: set.publish_messages.into(),
        publish_bytes: set.publish_bytes.0,
        publish_message_bytes: set.publish_message_bytes.0,
        metric_series: set.metric_series.into(),
        host_call_bytes: set.host_call_bytes.0,
        http_requests: set.http_requests.into(),
        http_response_bytes: set.http_response_bytes.0,
    }
}
