//! The plugins that the configuration names, loaded. `parti check` loads them too, one after the other, to report them all.

use super::settings::from_sentence;
use crate::config::{Config, Limits as Set};
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{
    Catalog, CatalogError, HandlerPlugin, HooksPlugin, Limits, Load, PluginEngine, PluginKind, PluginVersion,
    SourcePlugin, Wanted,
};
use crate::telemetry::{Counter, Metrics};
use std::sync::Arc;
use std::time::Duration;

/// What a worker loads at its start.
#[derive(Debug, Default)]
pub struct Plugins {
    /// What processes the messages; nothing on an assignment-only worker.
    pub handler: Option<Arc<HandlerPlugin>>,
    /// What lists the partitions, if a plugin does.
    pub source: Option<Arc<SourcePlugin>>,
    /// What is told what happens.
    pub hooks: Option<Arc<HooksPlugin>>,
}

impl Plugins {
    /// Loads every plugin that the configuration names. Compiles: call it where blocking is allowed. What cannot be loaded is
    /// among the errors, and missing here.
    #[must_use]
    pub fn load(engine: &PluginEngine, config: &Config) -> (Self, Vec<OperatorError>) {
        let catalog =
            Catalog::new(&config.plugins.directory, limits(&config.plugins.defaults, Limits::default().call_timeout));
        let mut loading = Loading { engine, catalog, errors: Vec::new() };
        let handler = config.handler.as_ref().and_then(|set| {
            let (limits, config) = (limits(&set.limits, set.call_timeout), set.config.as_map().clone());
            let wanted = Wanted { name: &set.plugin, section: "handler", kind: PluginKind::Handler, config, limits };
            loading.load(wanted, HandlerPlugin::load)
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
        (Self { handler, source, hooks }, loading.errors)
    }

    /// What each of them is.
    #[must_use]
    pub fn versions(&self) -> Vec<Arc<PluginVersion>> {
        let handler = self.handler.iter().map(|plugin| plugin.version());
        let hooks = self.hooks.iter().map(|plugin| plugin.version());
        let source = self.source.iter().map(|plugin| plugin.version());
        handler.chain(source).chain(hooks).cloned().collect()
    }
}

/// The log lines that plugins drop, for the metric: the plugins count them without knowing of metrics.
pub(super) struct DroppedLines(Vec<(Arc<PluginVersion>, Counter)>);

impl DroppedLines {
    /// Of these plugins.
    pub(super) fn of(plugins: &[Arc<PluginVersion>], metrics: &Metrics) -> Self {
        let series = |plugin: &Arc<PluginVersion>| metrics.plugin_log_lines_dropped.series([plugin.name()]);
        Self(plugins.iter().map(|plugin| (Arc::clone(plugin), series(plugin))).collect())
    }

    /// Counts what was dropped since the last time.
    pub(super) fn count(&self) {
        for (plugin, counter) in &self.0 {
            counter.inc_by(plugin.stats().log_lines_dropped.saturating_sub(counter.get()));
        }
    }
}

struct Loading<'a> {
    engine: &'a PluginEngine,
    catalog: Catalog,
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
    }
}
