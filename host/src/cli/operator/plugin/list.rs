//! `parti plugin list`: what every worker runs, by its heartbeat.

use super::short;
use crate::cli::ConfigArgs;
use crate::cli::operator::fleet::{Connected, api_error, run as run_connected};
use crate::cli::operator::print::{print, print_json};
use crate::cli::operator::table::{Align, Table};
use crate::error::OperatorError;
use crate::pushes::{Reported, Standing, failed};
use crate::worker::Slot;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `parti plugin list` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The kind is what the given configuration uses a plugin of this name for. PUSHED says how what runs stands to what was pushed.")]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    worker: String,
    plugin: String,
    kind: Option<String>,
    version: String,
    /// The digest that was pushed, if anything was.
    wanted: Option<String>,
    /// How what runs stands to what was pushed.
    pushed: String,
}

pub(super) fn run(args: &ListArgs) -> Result<(), OperatorError> {
    run_connected(&args.config, async |connected| show(args, connected).await)
}

async fn show(args: &ListArgs, connected: &Connected) -> Result<(), OperatorError> {
    let slots = Slot::all(&connected.config);
    let (heartbeats, pushes) = (connected.heartbeats().await?, connected.pushes().await?);
    let mut orders: BTreeMap<String, (Standing, BTreeMap<String, Vec<Reported>>)> = BTreeMap::new();
    for name in heartbeats.values().flat_map(|heartbeat| heartbeat.plugins.keys()) {
        if !orders.contains_key(name) {
            let standing =
                pushes.standing(name).await.map_err(|error| api_error("what is wanted of the plugins", &error))?;
            let history =
                pushes.history(name).await.map_err(|error| api_error("the history of the plugins", &error))?;
            orders.insert(name.clone(), (standing, history));
        }
    }
    let mut rows = Vec::new();
    for (worker, heartbeat) in heartbeats {
        for (plugin, version) in heartbeat.plugins {
            let order = orders.get(&plugin);
            let wanted = order.and_then(|(standing, _)| standing.order.as_ref()?.wanted.clone());
            let pushed = match (&wanted, order) {
                (Some(wanted), _) if version.starts_with(wanted.as_str()) => "in force".to_owned(),
                (Some(wanted), Some((_, history))) => not_in_force(wanted.as_str(), history),
                _ => String::new(),
            };
            let kind = slots.iter().find(|slot| slot.name == plugin).map(|slot| slot.kind.to_string());
            let wanted = wanted.map(|wanted| wanted.to_string());
            rows.push(Row { worker: worker.clone(), plugin, kind, version, wanted, pushed });
        }
    }
    if args.json {
        print_json(&rows);
        return Ok(());
    }
    let columns = ["WORKER", "PLUGIN", "KIND", "VERSION", "PUSHED"].map(|name| (name, Align::Left));
    let mut table = Table::new(&columns);
    for Row { worker, plugin, kind, version, pushed, .. } in rows {
        table.row([worker, plugin, kind.unwrap_or_default(), short(&version), pushed]);
    }
    print(table);
    Ok(())
}

fn not_in_force(wanted: &str, history: &BTreeMap<String, Vec<Reported>>) -> String {
    let versions = history.values().flatten().map(|reported| reported.attempt.to.as_str());
    let failure = versions.filter(|version| version.starts_with(wanted)).find_map(|version| failed(history, version));
    match failure {
        Some((worker, attempt)) => {
            let why = attempt.reason.as_deref().unwrap_or_default();
            format!("{} has failed on {worker}: {why}", short(wanted))
        }
        None => format!("{} is wanted", short(wanted)),
    }
}
