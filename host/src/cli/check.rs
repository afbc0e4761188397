//! `parti check`: is the configuration right, and are the plugins?

use super::ConfigArgs;
use super::run::log_error;
use crate::config::Config;
use crate::config::check::CheckedPlugin;
use crate::error::OperatorError;
use crate::plugin::PluginEngine;
use crate::telemetry::check_log;
use crate::worker::{Plugins, connect_error, connect_options};
use clap::Args;
use std::process::ExitCode;
use tokio::runtime::Builder;

/// What `parti check` takes.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let loaded = match args.config.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return error.code.exit_status().into();
        }
    };
    let mut report = crate::config::check::report(&loaded);
    if let Some(config) = &loaded.config {
        let log = check_log(config.log.level.as_str()).map_err(|error| log_error(&error));
        [log.err(), check_connection(config).err()].into_iter().flatten().for_each(|error| report.add_error(error));
        match PluginEngine::new() {
            Ok(engine) => {
                let (plugins, errors) = Plugins::load(&engine, config);
                errors.into_iter().for_each(|error| report.add_error(error));
                report.plugins.extend(plugins.versions().iter().map(|plugin| CheckedPlugin {
                    name: plugin.name().to_owned(),
                    kind: plugin.kind().to_string(),
                    digest: plugin.digest().to_string(),
                    size: plugin.size(),
                }));
            }
            Err(error) => report.add_error(crate::worker::engine_error(&error)),
        }
    }
    if args.json {
        // A report of texts and numbers always encodes.
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        println!("{report}");
    }
    report.exit_status().into()
}

/// Whether the connection that is configured can work, as far as that can be told without a server.
fn check_connection(config: &Config) -> Result<(), OperatorError> {
    let options = connect_options(config, "check")?;
    let runtime = Builder::new_current_thread().build().map_err(crate::worker::no_threads)?;
    runtime.block_on(options.check()).map_err(|error| connect_error(&error))
}
