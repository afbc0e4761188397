//! `parti dev`: a whole fleet on this machine, to look at, to try a plugin with, or to prove what Parti promises.
//!
//! It starts a nats-server and workers as child processes, publishes, shows one line per second, stops everything in order,
//! and compares what the fleet has committed with what was published. `make demo` is this with a script that kills a
//! worker and replaces the handler.
//! It is apart from the worker because it uses a fleet as anyone does: through the command line, HTTP and NATS.
//!
//! * `fleet`: the worker processes. `setup`: their configuration.
//! * `workload`, `input`, `producer`, `ledger`: what is published, and the account of it.
//! * `broker`: what the fleet leaves. `verify`: whether that is right. `view`: how it looks.
//! * `session`: one run from beginning to end.

mod broker;
mod changeover;
mod fleet;
mod input;
mod ledger;
mod producer;
mod session;
mod setup;
mod takeover;
mod verify;
mod view;
mod workload;

use super::child::failed;
use crate::error::{ErrorCode, OperatorError};
use bytes::Bytes;
use clap::Args;
use input::Fields;
use session::{Plan, Script};
use setup::{CONTROL_CHART, Plugin};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Builder;
use workload::{Factory, Workload};

/// The shortest script: a cold start, a kill, a take-over and a check need this long.
const SHORTEST_SCRIPT: u64 = 12;

/// The field with the reading in messages that do not say otherwise.
const DEFAULT_FIELD: &str = "value";

/// What `parti dev` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti dev                                      until Ctrl-C; then it checks that nothing was lost
  parti dev --demo                               half a minute, in which a worker is killed and the handler replaced
  parti dev --input readings.jsonl --key device.id --value celsius
  parti dev ./target/my-handler.wasm             your own handler

A nats-server is taken from NATS_SERVER, or from the PATH. Messages go to work.<partition>; what a handler publishes to
alarms.> or out.> is kept in a stream.")]
pub(super) struct DevArgs {
    /// The handler: its name in the plugin directory, or the path of its .wasm file
    #[arg(value_name = "PLUGIN", default_value = CONTROL_CHART)]
    plugin: String,
    /// Directory with the plugins' .wasm files
    #[arg(long, value_name = "DIR", env = "PARTI_PLUGINS", default_value = "./plugins")]
    plugin_dir: PathBuf,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    workers: u32,
    /// Messages to publish per second, over all partitions
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seed of the made-up readings; the same seed gives the same readings
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "input")]
    seed: u64,
    /// Follow the script of `make demo`: kill a worker and replace the handler on the way, end with a summary
    #[arg(long, conflicts_with = "input")]
    demo: bool,
    /// How long --demo takes
    #[arg(long, value_name = "SECONDS", env = "DEMO_SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Publish the lines of this file, each a JSON object, instead of made-up readings; end when all are handled
    #[arg(long, value_name = "FILE", requires = "key")]
    input: Option<PathBuf>,
    /// Field of the input whose value names a line's partition; a path such as `device.id` goes into nested objects
    #[arg(long, value_name = "FIELD", requires = "input")]
    key: Option<String>,
    /// Field of the input with the reading that the control chart watches [default: value]
    #[arg(long, value_name = "FIELD", requires = "input")]
    value: Option<String>,
    /// Keep logs and data also when everything went well
    #[arg(long)]
    keep: bool,
}

/// Runs a fleet until it is told to stop, or its script or its input is at an end.
///
/// # Errors
/// Something does not start, fails on the way, or the results are not what they must be.
pub(super) fn run(args: DevArgs) -> Result<(), OperatorError> {
    let plan = plan(args)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
        failed(
            "the fleet cannot be started",
            error.to_string(),
            "close programs that hold many files or threads, then try again",
        )
    })?;
    runtime.block_on(Box::pin(session::run(plan)))
}

/// What the arguments ask for. Whatever is wrong with them shows before anything starts.
fn plan(args: DevArgs) -> Result<Plan, OperatorError> {
    let plugin = Plugin::find(&args.plugin, &args.plugin_dir)?;
    let charts = plugin.name == CONTROL_CHART;
    if args.demo && args.workers < 2 {
        return Err(usage(
            "--demo cannot run with one worker",
            "it kills a worker, and another must take over",
            "use --workers 2 or more",
        ));
    }
    if args.value.is_some() && !charts {
        return Err(usage(
            format!("--value says nothing to {}", plugin.name),
            format!("it names the field that {CONTROL_CHART} watches"),
            "leave it out",
        ));
    }
    let field = charts.then(|| args.value.unwrap_or_else(|| DEFAULT_FIELD.to_owned()));
    let workload = match (&args.input, &args.key) {
        (Some(file), Some(key)) => Workload::of_file(read_input(file, Fields { key, value: field.as_deref() })?),
        _ => Workload::Factory(Factory::new(args.seed).map(Box::new).map_err(|error| {
            failed("the readings cannot be made", error.to_string(), "report this as a bug of parti")
        })?),
    };
    let script = args.demo.then(|| Script::lasting(Duration::from_secs(args.seconds.max(SHORTEST_SCRIPT))));
    Ok(Plan { workers: args.workers, rate: args.rate, keep: args.keep, plugin, workload, field, script })
}

fn read_input(file: &Path, fields: Fields<'_>) -> Result<input::Input, OperatorError> {
    let content = fs::read(file).map_err(|error| {
        usage(
            format!("{} cannot be read", file.display()),
            error.to_string(),
            "name a file with one JSON object per line",
        )
    })?;
    input::parse(&Bytes::from(content), fields).map_err(|problem| {
        usage(
            format!("{} cannot be used", file.display()),
            problem.to_string(),
            "correct it; every line is a JSON object with the field of --key, and for the control chart a number in that of --value",
        )
    })
}

fn usage(what: impl Into<String>, why: impl Into<String>, todo: impl Into<String>) -> OperatorError {
    ErrorCode::DevUsage.error(what, why, todo)
}
