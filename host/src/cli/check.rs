//! `parti check`: is the configuration right, and are the plugins?

use super::ConfigArgs;
use crate::config::check::CheckedPlugin;
use crate::plugin::PluginEngine;
use crate::worker::Plugins;
use clap::Args;
use std::process::ExitCode;

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
