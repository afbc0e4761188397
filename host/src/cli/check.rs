//! `parti check`: would a worker start with this configuration?

use super::ConfigArgs;
use super::operator::print::one_line;
use super::run::log_error;
use crate::config::check::{Report, report};
use crate::error::{ExitStatus, OperatorError};
use crate::telemetry::check_log;
use crate::worker::{Rehearsal, Survey, rehearse};
use clap::Args;
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

/// What `parti check` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Everything that keeps a worker from starting is listed, not only the first of it. Nothing is created, claimed or written, also with
--online: then the server is asked for the stream, the buckets and their settings, what this NATS user may do, who holds worker IDs, and
for messages whose subjects belong to no partition. A plugin source is asked for its partitions once.

Examples:
  parti check --config parti.yaml
  parti check --config parti.yaml --online --json

Exit status: 0 if a worker would start; 2 if the configuration or a plugin is wrong; else that of the first error: 3 NATS cannot be
reached, 4 worker IDs are exhausted, 1 for everything else.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the NATS server too
    #[arg(long)]
    online: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    config: Report,
    /// What else a worker would end with.
    errors: Vec<OperatorError>,
    /// What it would go on with, and is probably not meant.
    advice: Vec<String>,
    /// The plugins that it would load.
    plugins: Vec<CheckedPlugin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<Survey>,
}

/// A plugin that would be loaded.
#[derive(Debug, Serialize)]
struct CheckedPlugin {
    name: String,
    kind: String,
    digest: String,
    /// Bytes of the component.
    size: u64,
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    match check(args) {
        Ok(checked) => {
            if args.json {
                // A report of texts and numbers always encodes.
                println!("{}", serde_json::to_string_pretty(&checked).unwrap_or_default());
            } else {
                println!("{checked}");
            }
            checked.exit_status().into()
        }
        Err(error) => {
            eprintln!("{error}");
            error.code.exit_status().into()
        }
    }
}

fn check(args: &CheckArgs) -> Result<Checked, OperatorError> {
    let loaded = args.config.load()?;
    let mut report = report(&loaded);
    let mut rehearsal = Rehearsal::default();
    if let Some(config) = &loaded.config {
        let log = check_log(config.log.level.as_str()).map_err(|error| log_error(&error));
        rehearsal = rehearse(config, args.online)?;
        rehearsal.errors.splice(..0, log.err());
    }
    let Rehearsal { plugins, errors, warnings, survey } = rehearsal;
    report.ok &= errors.is_empty();
    let plugins = plugins.iter().map(|plugin| CheckedPlugin {
        name: plugin.name().to_owned(),
        kind: plugin.kind().to_string(),
        digest: plugin.digest().to_string(),
        size: plugin.size(),
    });
    Ok(Checked { config: report, errors, advice: warnings, plugins: plugins.collect(), online: survey })
}

impl Checked {
    fn exit_status(&self) -> ExitStatus {
        match self.errors.first() {
            Some(first) if self.config.errors() == 0 => first.code.exit_status(),
            _ => self.config.exit_status(),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, errors, advice, plugins, online } = self;
        for plugin in plugins {
            writeln!(f, "plugin {} ({}): {}, {} bytes", plugin.name, plugin.kind, plugin.digest, plugin.size)?;
        }
        // Others have chosen the names of subjects and hosts.
        for line in online.iter().flat_map(|online| online.to_string().lines().map(one_line).collect::<Vec<_>>()) {
            writeln!(f, "{line}")?;
        }
        write!(f, "{config}")?;
        for error in errors {
            writeln!(f, "error: {error}")?;
        }
        for warning in advice {
            writeln!(f, "warning: {}", one_line(warning))?;
        }
        let subject = if online.is_some() { "a worker would start" } else { "the configuration is valid" };
        match (config.errors() + errors.len(), config.warnings.len() + advice.len()) {
            (0, 0) => f.write_str(subject),
            (0, warnings) => write!(f, "{subject}, with {}", count(warnings, "warning")),
            (errors, 0) => f.write_str(&count(errors, "error")),
            (errors, warnings) => write!(f, "{} and {}", count(errors, "error"), count(warnings, "warning")),
        }
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
