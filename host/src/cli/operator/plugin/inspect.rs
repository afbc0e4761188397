//! `parti plugin inspect`: what a component is, what it needs, and what is wrong with it.

use crate::cli::ConfigArgs;
use crate::cli::operator::print::{grouped, one_line, print, print_json};
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{
    Description, Digest, Limits, LoadError, PluginEngine, PluginKind, PluginSettings, describe, try_load,
};
use crate::worker::{engine_error, from_sentence, settings_of};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `parti plugin inspect` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plugin inspect target/wasm32-wasip2/release/billing.wasm
  parti plugin inspect billing --config parti.yaml     what plugins.directory has under this name

It is compiled, but nothing of it runs. If it cannot be used, the command says why and ends with 2.")]
pub(super) struct InspectArgs {
    /// A file, or the name of a plugin in plugins.directory
    #[arg(value_name = "FILE|NAME")]
    what: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    file: PathBuf,
    kind: Option<String>,
    /// The version of `parti:plugin` that it was built against.
    wit_version: Option<String>,
    digest: String,
    size: u64,
    exports: Vec<String>,
    imports: Vec<Import>,
    /// What of `plugins.grants` it needs.
    grants: Vec<Needed>,
    /// What it may use, by the given configuration.
    limits: Option<String>,
    problem: Option<OperatorError>,
}

#[derive(Serialize)]
struct Import {
    name: String,
    /// Whether the plugin gets it.
    given: bool,
}

#[derive(Serialize)]
struct Needed {
    key: &'static str,
    /// Whether the given configuration grants it.
    granted: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<(), OperatorError> {
    let is_file = args.what.contains(['/', '\\']) || args.what.ends_with(".wasm") || Path::new(&args.what).is_file();
    // A file needs no configuration; with one, its limits are those that would hold.
    let config = match args.config.load() {
        Ok(loaded) => match loaded.config {
            Some(config) => config,
            None if is_file => Config::default(),
            None => loaded.into_operable()?,
        },
        Err(_) if is_file => Config::default(),
        Err(error) => return Err(error),
    };
    let file = match is_file {
        true => PathBuf::from(&args.what),
        false => config.plugins.directory.join(format!("{}.wasm", args.what)),
    };
    let bytes = std::fs::read(&file).map_err(|error| {
        ErrorCode::OperatorUsage.error(
            format!("{} cannot be read", file.display()),
            error.to_string(),
            "name a file, or a plugin that lies in plugins.directory of the given configuration",
        )
    })?;
    let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let settings = settings_of(&config, &name);
    let description = describe(&name, &bytes, &settings.grants);
    let limits = settings.limits.clone();
    let problem = match (&description.problem, description.kind) {
        (Some(problem), _) => Some(problem.clone()),
        (None, Some(kind)) => compile(kind, &name, &bytes, settings)?,
        (None, None) => None,
    };
    let report = report(file, &bytes, description, &limits, problem.as_ref());
    match (args.json, &report.problem) {
        (true, _) => print_json(&report),
        (false, _) => print(text(&report)),
    }
    report.problem.map_or(Ok(()), Err)
}

/// What only a compiler finds.
fn compile(
    kind: PluginKind,
    name: &str,
    bytes: &[u8],
    settings: PluginSettings,
) -> Result<Option<LoadError>, OperatorError> {
    let engine = PluginEngine::new().map_err(|error| engine_error(&error))?;
    Ok(try_load(kind, &engine, name, bytes, settings).err())
}

fn report(
    file: PathBuf,
    bytes: &[u8],
    description: Description,
    limits: &Limits,
    problem: Option<&LoadError>,
) -> Report {
    let Description { kind, contract, exports, imports, grants, problem: _ } = description;
    Report {
        file,
        kind: kind.map(|kind| kind.to_string()),
        wit_version: contract,
        digest: Digest::of(bytes).to_string(),
        size: bytes.len() as u64,
        exports,
        imports: imports.into_iter().map(|(name, given)| Import { name, given }).collect(),
        grants: grants.into_iter().map(|(key, granted)| Needed { key, granted }).collect(),
        limits: kind.map(|_| {
            format!(
                "memory {} MiB, {:?} a call, {} table elements, component {} MiB",
                limits.memory >> 20,
                limits.call_timeout,
                grouped(limits.table_elements),
                limits.component_bytes >> 20
            )
        }),
        problem: problem.map(|problem| from_sentence(ErrorCode::PluginInvalid, &problem.to_string())),
    }
}

fn text(report: &Report) -> String {
    let mut lines = vec![
        format!("file     {}", report.file.display()),
        format!("kind     {}", report.kind.as_deref().unwrap_or("none that this host knows")),
        format!("wit      {}", report.wit_version.as_deref().map_or("-".to_owned(), |v| format!("parti:plugin@{v}"))),
        format!("digest   {}", report.digest),
        format!("size     {} bytes", grouped(report.size)),
    ];
    lines.extend(report.limits.iter().map(|limits| format!("limits   {limits}")));
    let listed = |title: &str, names: Vec<String>| {
        let titles = std::iter::once(title).chain(std::iter::repeat(""));
        titles.zip(names).map(|(title, name)| format!("{title:<8} {}", one_line(&name))).collect::<Vec<_>>()
    };
    lines.extend(listed("exports", report.exports.clone()));
    let import = |import: &Import| format!("{}{}", import.name, if import.given { "" } else { "   <- not given" });
    lines.extend(listed("imports", report.imports.iter().map(import).collect()));
    let needed = |need: &Needed| format!("{}{}", need.key, if need.granted { "" } else { " (not granted)" });
    let needed: Vec<String> = report.grants.iter().map(needed).collect();
    lines.push(format!("grants   {}", if needed.is_empty() { "none needed".to_owned() } else { needed.join(", ") }));
    if report.problem.is_none() {
        lines.push("This host can run it.".to_owned());
    }
    lines.join("\n")
}
