//! The plugins that the configuration names, loaded. `parti check` loads them too, one after the other, to report them all.

use super::settings::from_sentence;
use crate::config::{Config, Grants as Granted, Handler, Limits as Set};
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{
    Catalog, CatalogError, Component, Grants, HandlerPlugin, HooksPlugin, Limits, Load, PluginEngine, PluginKind,
    PluginSettings, PluginStats, PluginVersion, Prepared, Room, SourcePlugin, StrategyPlugin, VersionStore, Wanted,
};
use crate::telemetry::Metrics;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a worker loads at its start.
#[derive(Debug, Default)]
pub struct Plugins {
    /// What processes the messages; nothing on an assignment-only worker.
    pub handler: Option<Arc<HandlerPlugin>>,
    /// What decides which worker gets which partition, if a plugin does.
    pub strategy: Option<Arc<StrategyPlugin>>,
    /// What lists the partitions, if a plugin does.
    pub source: Option<Arc<SourcePlugin>>,
    /// What is told what happens.
    pub hooks: Option<Arc<HooksPlugin>>,
    /// What the handler is made of.
    pub(super) component: Option<Component>,
    /// Why the handler is another version than the one in the directory.
    pub(super) instead: Option<OperatorError>,
}

impl Plugins {
    /// Loads every plugin that the configuration names. Compiles: call it where blocking is allowed. What cannot be loaded is
    /// among the errors, and missing here. With a store, the last good version takes the place of a handler that has failed its trial.
    #[must_use]
    pub fn load(engine: &PluginEngine, config: &Config, store: Option<&VersionStore>) -> (Self, Vec<OperatorError>) {
        let (catalog, (_, errors)) = (catalog(config), grants(&config.plugins.grants));
        let mut loading = Loading { engine, catalog: &catalog, errors };
        let (mut component, mut instead) = (None, None);
        let handler = Handlers::of(config).and_then(|handlers| {
            let prepared = handlers.read().and_then(|component| handlers.prepare(component));
            let loaded = prepared.and_then(|mut prepared| {
                if let Some(store) = store {
                    (prepared, instead) = handlers.unless_marked(store, prepared);
                }
                component = Some(prepared.component().clone());
                handlers.compile(engine, prepared)
            });
            loaded.map_err(|error| loading.errors.push(error)).ok()
        });
        let strategy = config.strategy.plugin.as_ref().and_then(|set| {
            let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
            let kind = PluginKind::Strategy;
            let wanted = Wanted { name: &set.name, section: "strategy.plugin", kind, config, limits };
            loading.load(wanted, StrategyPlugin::load)
        });
        let source = config.source.as_ref().and_then(|source| source.plugin.as_ref()).and_then(|set| {
            let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
            let kind = PluginKind::Source;
            let wanted = Wanted { name: &set.name, section: "source.plugin", kind, config, limits };
            loading.load(wanted, SourcePlugin::load)
        });
        let hooks = config.hooks.as_ref().and_then(|set| {
            let (limits, config) = (limits(&set.limits.0, set.call_timeout), set.config.as_map().clone());
            let wanted = Wanted { name: &set.plugin, section: "hooks", kind: PluginKind::Hooks, config, limits };
            loading.load(wanted, HooksPlugin::load)
        });
        (Self { handler, strategy, source, hooks, component, instead }, loading.errors)
    }

    /// What is to be said of the room that a handler's instances take in this process, one for each of so many partitions.
    pub(super) fn room_warnings(&self, partitions: usize) -> Vec<String> {
        let room = self.handler.as_ref().and_then(|_| Room::read());
        room.map(|room| room.warnings(partitions as u64)).unwrap_or_default()
    }

    /// What each of them is.
    #[must_use]
    pub fn versions(&self) -> Vec<Arc<PluginVersion>> {
        let handler = self.handler.iter().map(|plugin| plugin.version());
        let hooks = self.hooks.iter().map(|plugin| plugin.version());
        let source = self.source.iter().map(|plugin| plugin.version());
        let strategy = self.strategy.iter().map(|plugin| plugin.version());
        handler.chain(strategy).chain(source).chain(hooks).cloned().collect()
    }
}

/// The plugins that this worker runs now. Clones show the same ones.
#[derive(Clone)]
pub(super) struct Running(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    version: Arc<PluginVersion>,
    /// What it has counted itself, as far as the worker's metrics have it.
    counted: PluginStats,
}

impl Running {
    pub(super) fn of(plugins: Vec<Arc<PluginVersion>>) -> Self {
        Self(Arc::new(Mutex::new(
            plugins.into_iter().map(|version| Entry { version, counted: PluginStats::default() }).collect(),
        )))
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

    /// Another version runs in the place of the one of its kind.
    pub(super) fn replace(&self, version: Arc<PluginVersion>) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.version.kind() == version.kind()) {
            *entry = Entry { version, counted: PluginStats::default() };
        }
    }

    /// Brings the worker's metrics up to date with what plugins have counted since the last time: they do so without knowing of metrics.
    pub(super) fn count(&self, metrics: &Metrics) {
        for Entry { version, counted } in self.entries().iter_mut() {
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

fn catalog(config: &Config) -> Catalog {
    let defaults = limits(&config.plugins.defaults, Limits::default().call_timeout);
    Catalog::new(&config.plugins.directory, defaults, grants(&config.plugins.grants).0)
}

/// What the configuration sets for a plugin of this name: as its handler, or by default.
pub(crate) fn settings_of(config: &Config, plugin: &str) -> PluginSettings {
    let grants = grants(&config.plugins.grants).0.remove(plugin).unwrap_or_default();
    match config.handler.as_ref().filter(|set| set.plugin == plugin) {
        Some(set) => {
            let (limits, config) = (limits(&set.limits, set.call_timeout), set.config.as_map().clone());
            PluginSettings { section: "handler".into(), config, limits, grants }
        }
        None => {
            let limits = limits(&config.plugins.defaults, Limits::default().call_timeout);
            PluginSettings { section: "plugins.defaults".into(), config: serde_json::Map::new(), limits, grants }
        }
    }
}

/// Makes versions of the configured handler. Everything here reads files, and [`Handlers::compile`] compiles: call it where blocking is
/// allowed.
pub(super) struct Handlers<'a> {
    catalog: Catalog,
    set: &'a Handler,
}

impl<'a> Handlers<'a> {
    /// Nothing on an assignment-only worker.
    pub(super) fn of(config: &'a Config) -> Option<Self> {
        Some(Self { catalog: catalog(config), set: config.handler.as_ref()? })
    }

    fn wanted(&self) -> Wanted<'a> {
        let set = self.set;
        let (limits, config) = (limits(&set.limits, set.call_timeout), set.config.as_map().clone());
        Wanted { name: &set.plugin, section: "handler", kind: PluginKind::Handler, config, limits }
    }

    /// What the plugin directory has now.
    pub(super) fn read(&self) -> Result<Component, OperatorError> {
        self.catalog.read(&self.wanted()).map_err(|error| operator_error(&error))
    }

    /// When the component in the plugin directory was written, if that was after this time.
    pub(super) fn newer_than(&self, time: Timestamp) -> Option<Timestamp> {
        let modified = self.catalog.modified(&self.set.plugin)?;
        Timestamp::try_from(modified).ok().filter(|modified| *modified > time)
    }

    /// What a component from elsewhere becomes with the sidecar in the plugin directory and the configuration.
    pub(super) fn with(&self, bytes: Vec<u8>) -> Result<Prepared, OperatorError> {
        let sidecar = self.catalog.read_sidecar(&self.set.plugin).map_err(|error| operator_error(&error))?;
        self.prepare(Component { bytes, sidecar })
    }

    /// What a component becomes with the configuration.
    pub(super) fn prepare(&self, component: Component) -> Result<Prepared, OperatorError> {
        self.catalog.prepare(self.wanted(), component).map_err(|error| operator_error(&error))
    }

    pub(super) fn compile(
        &self,
        engine: &PluginEngine,
        prepared: Prepared,
    ) -> Result<Arc<HandlerPlugin>, OperatorError> {
        prepared.load(engine, HandlerPlugin::load).map_err(|error| operator_error(&error))
    }

    /// The version itself, or if it has failed its trial the last one that was in force, and why.
    fn unless_marked(&self, store: &VersionStore, prepared: Prepared) -> (Prepared, Option<OperatorError>) {
        let name = &self.set.plugin;
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
        let name = &self.set.plugin;
        store.kept(name).into_iter().find_map(|kept| {
            let component = Component { bytes: store.component(&kept.digest)?, sidecar: kept.sidecar };
            let prepared = self.prepare(component).ok()?;
            store.mark_of(name, &prepared.id()).is_none().then_some(prepared)
        })
    }
}

/// Reads and compiles versions of the handler away from everything else.
pub(super) async fn blocking<T: Send + 'static>(
    engine: &Arc<PluginEngine>,
    config: &Arc<Config>,
    work: impl FnOnce(&Handlers<'_>, &PluginEngine) -> Result<T, OperatorError> + Send + 'static,
) -> Result<T, OperatorError> {
    let (engine, config) = (Arc::clone(engine), Arc::clone(config));
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

struct Loading<'a> {
    engine: &'a PluginEngine,
    catalog: &'a Catalog,
    errors: Vec<OperatorError>,
}

impl Loading<'_> {
    fn load<P>(&mut self, wanted: Wanted<'_>, load: Load<P>) -> Option<Arc<P>> {
        let loaded = self.catalog.load(self.engine, wanted, load);
        loaded.map_err(|error| self.errors.push(operator_error(&error))).ok()
    }
}

fn operator_error(error: &CatalogError) -> OperatorError {
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
