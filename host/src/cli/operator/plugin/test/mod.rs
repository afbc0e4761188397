//! `parti plugin test`: what a component does, tried without NATS by the code that runs it in a worker.
//!
//! * `handler` with `messages`, `driven` and `expected`: a handler on the messages of a file, undisturbed and disturbed.
//! * `strategy`, `source`, `hooks`: the other kinds.
//! * `told`: what the guest logs. `figures`: how times are shown.

mod driven;
mod expected;
mod figures;
mod handler;
mod hooks;
mod messages;
mod source;
mod strategy;
mod told;

use crate::cli::ConfigArgs;
use crate::cli::operator::print::{print, print_json};
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{Grants, PluginEngine, PluginKind, PluginVersion, describe};
use crate::worker::{engine_error, from_sentence};
use clap::{Args, ValueEnum};
use figures::millis;
use handler::HandlerArgs;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strategy::Fleet;
use told::{Line, Told};

/// What `parti plugin test` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Of a handler, each line of --messages is one message, as a JSON object:
  {\"subject\": \"work.7\", \"payload\": {\"value\": 20.5}}
  {\"subject\": \"work.7\", \"partition\": \"tool-7\", \"headers\": {\"trace\": \"00-1\"}, \"payload\": \"text\"}
  {\"subject\": \"work.7\", \"payloadBase64\": \"AP8=\"}
A payload that is no text is sent as JSON. Messages without a partition belong to the partition `test`.

Each line of --expect says what becomes of one message, and what it publishes:
  {\"outcome\": \"ack\", \"outputs\": [{\"subject\": \"alarms.tool-7\", \"payload\": {\"value\": 20.5}}]}
  {\"outcome\": \"reject\", \"reason\": \"not the expected JSON\"}
An outcome is ack, reject, exhausted (it was retried too often) or trap. --record writes such a file.

Examples:
  parti plugin test billing.wasm --messages orders.jsonl
  parti plugin test billing.wasm --messages orders.jsonl --trap-at 50 --reload-at 80 --expect invoices.jsonl
  parti plugin test zone-aware.wasm --fleet 500x100000
  parti plugin test http-source.wasm --config registry.yaml --grants parti.yaml --json

Exit status: 0 passed, 1 failed, 2 the component, the files or the arguments cannot be used.")]
pub(super) struct TestArgs {
    /// The component. Its sidecar, the .yaml file of the same name beside it, counts as in plugins.directory
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Configuration of the plugin (YAML), over that of its sidecar, key by key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Grant what plugins.grants of this configuration of a worker grants, such as parti.yaml
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    #[command(flatten)]
    handler: HandlerArgs,
    /// Ask a strategy about so many workers and partitions, such as 500x100000; repeat it for several
    #[arg(long = "fleet", value_name = "WORKERSxPARTITIONS")]
    fleets: Vec<Fleet>,
    /// Show what the plugin logs from this level on
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LogLevel,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// What was tested, and how it went.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<T> {
    plugin: String,
    kind: String,
    digest: String,
    compile_millis: f64,
    passed: bool,
    /// What makes the test a failed one, as sentences.
    failures: Vec<String>,
    /// What else is worth knowing.
    notes: Vec<String>,
    /// What the plugin has logged outside of what is listed with its log.
    log: Vec<Line>,
    #[serde(flatten)]
    found: T,
}

/// What a test of one kind has found.
struct Verdict<T> {
    failures: Vec<String>,
    notes: Vec<String>,
    found: T,
}

/// What every test works with.
struct Bench<'a> {
    engine: PluginEngine,
    file: Component<'a>,
    told: Told,
}

/// Where the component is, and what it is configured with.
struct Component<'a> {
    directory: &'a Path,
    name: &'a str,
    config: Map<String, Value>,
    /// The configuration of the worker, of which only the grants count.
    host: Config,
}

pub(super) fn run(args: &TestArgs) -> Result<(), OperatorError> {
    let name = args.file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wasm"));
    let name = name.ok_or_else(|| {
        usage(
            format!("{} is not the file of a plugin", args.file.display()),
            "its name does not end with .wasm",
            "name a component, such as target/wasm32-wasip2/release/billing.wasm",
        )
    })?;
    let bytes = std::fs::read(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let description = describe(name, &bytes, &Grants::default());
    let Some(kind) = description.kind else {
        let problem = description.problem.map_or_else(String::new, |problem| problem.to_string());
        return Err(from_sentence(ErrorCode::PluginInvalid, &problem));
    };
    args.check(kind)?;
    let directory = args.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let config = args.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let host = args
        .grants
        .as_ref()
        .map(|file| ConfigArgs { files: vec![file.clone()], set: Vec::new() }.load()?.into_operable());
    let host = host.transpose()?.unwrap_or_default();
    let (told, subscriber) = Told::from(args.log);
    let _guard = tracing::subscriber::set_default(subscriber);
    let engine = PluginEngine::new().map_err(|error| engine_error(&error))?;
    let bench = Bench { engine, file: Component { directory, name, config, host }, told };
    // Guests yield on the runtime's timers; one thread keeps what they log where it is listened to.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        ErrorCode::Internal.error(
            "the test has no runtime",
            error.to_string(),
            "raise the limit of threads (ulimit -u)",
        )
    })?;
    let is_passed = runtime.block_on(Box::pin(async {
        match kind {
            PluginKind::Handler => {
                let (version, verdict) = handler::test(&bench, &args.handler).await?;
                Ok(finish(args, &version, &bench, verdict))
            }
            PluginKind::Strategy => {
                let (version, verdict) = strategy::test(&bench, &args.fleets).await?;
                Ok(finish(args, &version, &bench, verdict))
            }
            PluginKind::Source => {
                let (version, verdict) = source::test(&bench).await?;
                Ok(finish(args, &version, &bench, verdict))
            }
            PluginKind::Hooks => {
                let (version, verdict) = hooks::test(&bench).await?;
                Ok(finish(args, &version, &bench, verdict))
            }
        }
    }))?;
    if is_passed {
        return Ok(());
    }
    Err(ErrorCode::PluginTestFailed.error(
        format!("the test of {name} has failed"),
        "what failed is listed above",
        "correct the plugin, or what is expected of it",
    ))
}

impl TestArgs {
    /// Whether what is asked for is there for this kind.
    fn check(&self, kind: PluginKind) -> Result<(), OperatorError> {
        let other = match kind {
            PluginKind::Handler => (!self.fleets.is_empty()).then_some("--fleet is for strategies"),
            PluginKind::Strategy => self.handler.is_given().then_some("messages are for handlers"),
            PluginKind::Source | PluginKind::Hooks => {
                let is_given = self.handler.is_given() || !self.fleets.is_empty();
                is_given.then_some("messages are for handlers, and --fleet is for strategies")
            }
        };
        let Some(why) = other else { return Ok(()) };
        let what = format!("{} cannot be tested like that", self.file.display());
        Err(usage(what, &format!("it is of the kind {kind}, and {why}"), "leave the options of other kinds out"))
    }
}

/// Prints what was found. Whether the test is passed.
fn finish<T: Serialize + fmt::Display>(
    args: &TestArgs,
    version: &Arc<PluginVersion>,
    bench: &Bench<'_>,
    Verdict { failures, mut notes, found }: Verdict<T>,
) -> bool {
    let dropped = version.stats().log_lines_dropped;
    if dropped > 0 {
        notes.push(format!(
            "{dropped} lines of its log were dropped: a plugin may write {} a second",
            version.limits().log_lines_per_second
        ));
    }
    let report = Report {
        plugin: version.name().to_owned(),
        kind: version.kind().to_string(),
        digest: version.digest().to_string(),
        compile_millis: millis(version.compile_time()),
        passed: failures.is_empty(),
        failures,
        notes,
        log: bench.told.take(),
        found,
    };
    if args.json {
        print_json(&report);
    } else {
        print(&report);
    }
    report.passed
}

impl<T: fmt::Display> fmt::Display for Report<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = super::short(&self.digest);
        writeln!(f, "{} ({}, {digest}), compiled in {:.0} ms", self.plugin, self.kind, self.compile_millis)?;
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        write!(f, "{}", self.found)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        f.write_str(if self.passed { "passed" } else { "failed" })
    }
}

/// An argument, or a file that one names, cannot be used.
fn usage(what: impl Into<String>, why: &str, todo: &str) -> OperatorError {
    ErrorCode::OperatorUsage.error(what, why, todo)
}

fn unreadable(path: &Path, error: &std::io::Error) -> OperatorError {
    usage(format!("{} cannot be read", path.display()), &error.to_string(), "name a file that is there")
}

fn read_config(path: &Path) -> Result<Map<String, Value>, OperatorError> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    serde_saphyr::from_str(&text).map_err(|error| {
        let what = format!("{} is no configuration of a plugin", path.display());
        usage(what, &error.without_snippet().to_string(), "write a YAML map, as it would stand under handler.config")
    })
}
