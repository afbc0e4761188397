//! A start without its effects, for `parti check`: what would refuse a worker is asked of the very functions that refuse it, one after
//! the other, so that all of it is known at once. Nothing is created, claimed or written.

mod online;
mod steps;
mod survey;

pub(crate) use survey::Survey;

use super::plugins::Plugins;
use super::settings::{connect_error, connect_options, instances, partitions};
use super::{engine_error, no_threads};
use crate::config::Config;
use crate::error::OperatorError;
use crate::plugin::{PluginEngine, PluginVersion};
use std::sync::Arc;
use tokio::runtime::Builder;

/// What a start would meet.
#[derive(Debug, Default)]
pub(crate) struct Rehearsal {
    /// The plugins that it would load.
    pub(crate) plugins: Vec<Arc<PluginVersion>>,
    /// What it would end with, everything of it.
    pub(crate) errors: Vec<OperatorError>,
    /// What it would go on with, and is probably not meant.
    pub(crate) warnings: Vec<String>,
    /// What is there on the server.
    pub(crate) survey: Option<Survey>,
}

impl Rehearsal {
    /// Notes an error, if there is one.
    fn check<T>(&mut self, result: Result<T, OperatorError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}

/// Rehearses the start of a worker: what can be told without a server, and with `online` everything.
///
/// # Errors
/// The machine has no threads.
pub(crate) fn rehearse(config: &Config, online: bool) -> Result<Rehearsal, OperatorError> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(no_threads)?;
    let rehearsal = runtime.block_on(Box::pin(async {
        let mut rehearsal = Rehearsal::default();
        let plugins = match PluginEngine::new() {
            Ok(engine) => {
                let (plugins, errors) = Plugins::load(&Arc::new(engine), config, None);
                rehearsal.errors.extend(errors);
                plugins
            }
            Err(error) => {
                rehearsal.errors.push(engine_error(&error));
                Plugins::default()
            }
        };
        rehearsal.plugins = plugins.versions();
        rehearsal.warnings.extend(plugins.room_warnings(instances(config, partitions(config))));
        let options = rehearsal.check(connect_options(config, "check"));
        if let Some(options) = options {
            let can_work = options.check().await.map_err(|error| connect_error(&error));
            if rehearsal.check(can_work).is_some() && online {
                online::survey(config, options, &plugins, &mut rehearsal).await;
            }
        }
        rehearsal
    }));
    // A source that does not return is abandoned.
    runtime.shutdown_background();
    Ok(rehearsal)
}
