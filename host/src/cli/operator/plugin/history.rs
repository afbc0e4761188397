//! `parti plugin history`: how the last swaps of each worker have ended, and why.

use super::short;
use crate::cli::ConfigArgs;
use crate::cli::operator::fleet::{api_error, run as run_connected};
use crate::cli::operator::print::{grouped, print, print_json};
use crate::cli::operator::table::{Align, Table};
use crate::error::OperatorError;
use crate::plugin::{Attempt, VersionStore};
use crate::worker::plugin_cache;
use clap::Args;
use jiff::Unit;
use serde::Serialize;

/// What `parti plugin history` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plugin history billing
  parti plugin history billing --worker worker-3 --json
  parti plugin history billing --local             what this machine remembers in plugins.cache; without NATS")]
pub(super) struct HistoryArgs {
    /// The plugin
    #[arg(value_name = "NAME")]
    plugin: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Only of this worker
    #[arg(long, conflicts_with = "local")]
    worker: Option<String>,
    /// What this machine remembers, whichever of its workers it was
    #[arg(long)]
    local: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(flatten)]
    attempt: Attempt,
}

pub(super) fn run(args: &HistoryArgs) -> Result<(), OperatorError> {
    if args.local {
        let config = args.config.load()?.into_operable()?;
        let attempts = VersionStore::open(&plugin_cache(&config)).attempts(&args.plugin);
        show(args, attempts.into_iter().map(|attempt| Row { worker: None, attempt }).collect());
        return Ok(());
    }
    run_connected(&args.config, async |connected| {
        let pushes = connected.pushes().await?;
        let history = pushes.history(&args.plugin).await;
        let history = history.map_err(|error| api_error("the history of the plugin", &error))?;
        let is_wanted = |worker: &String| args.worker.as_ref().is_none_or(|wanted| wanted == worker);
        let of = |(worker, attempts): (String, Vec<crate::pushes::Reported>)| {
            attempts.into_iter().map(move |reported| Row { worker: Some(worker.clone()), attempt: reported.attempt })
        };
        show(args, history.into_iter().filter(|(worker, _)| is_wanted(worker)).flat_map(of).collect());
        Ok(())
    })
}

fn show(args: &HistoryArgs, mut rows: Vec<Row>) {
    rows.sort_by_key(|row| std::cmp::Reverse(row.attempt.at));
    if args.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("WORKER", Align::Left),
        ("BY", Align::Left),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("RESULT", Align::Left),
        ("PARTITIONS", Align::Right),
        ("HANDLED", Align::Right),
        ("FAILED", Align::Right),
        ("PAUSE P50", Align::Right),
        ("P99", Align::Right),
        ("REASON", Align::Left),
    ]);
    for Row { worker, attempt } in rows {
        table.row([
            attempt.at.round(Unit::Second).unwrap_or(attempt.at).to_string(),
            worker.unwrap_or_default(),
            attempt.by.clone(),
            short(&attempt.from),
            short(&attempt.to),
            attempt.result.as_str().to_owned(),
            attempt.partitions.to_string(),
            grouped(attempt.handled),
            grouped(attempt.failed),
            milliseconds(attempt.pause_p50_us),
            milliseconds(attempt.pause_p99_us),
            attempt.reason.unwrap_or_default(),
        ]);
    }
    print(table);
}

/// A pause for people.
pub(super) fn milliseconds(microseconds: u64) -> String {
    match microseconds {
        0 => "-".to_owned(),
        _ => format!("{:.1} ms", microseconds as f64 / 1000.0),
    }
}
