//! `parti plugin`: what the fleet runs, what a file is, and another version of a plugin for every worker.
//!
//! * `list`, `inspect`, `history`: what is there. `test`: what a component does, without NATS.
//! * `push`, `swap`, `rollback`: orders for the fleet, in `order`; `wait` shows how each worker obeys them.

mod history;
mod inspect;
mod list;
mod order;
mod push;
mod test;
mod wait;

use super::fleet::time;
use crate::cli::ConfigArgs;
use crate::error::OperatorError;
use clap::{Args, Subcommand};
use std::time::Duration;

/// What `parti plugin` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plugin list                                what every worker runs
  parti plugin inspect target/wasm32-wasip2/release/billing.wasm
  parti plugin test billing.wasm --messages orders.jsonl --expect invoices.jsonl
  parti plugin push billing billing.wasm           another version for every worker, on trial
  parti plugin history billing                     how that went, and why
  parti plugin rollback billing                    back to what was pushed before")]
pub(in crate::cli) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// List the plugins that the workers run
    List(list::ListArgs),
    /// Say what a component is, what it needs, and what is wrong with it; without NATS
    Inspect(inspect::InspectArgs),
    /// Try a component of any kind, without NATS
    Test(test::TestArgs),
    /// Give every worker another version of a plugin, on trial
    Push(push::PushArgs),
    /// Try again what is wanted, also a version that has failed
    Swap(order::SwapArgs),
    /// Go back to the version that was pushed before
    Rollback(order::RollbackArgs),
    /// Show how the last swaps of each worker have ended
    History(history::HistoryArgs),
}

/// How an order is obeyed, and shown.
#[derive(Debug, Args)]
struct Watching {
    #[command(flatten)]
    config: ConfigArgs,
    /// How long to wait for the workers; the order holds in any case
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time)]
    timeout: Duration,
    /// Print how each worker has obeyed as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: &PluginArgs) -> Result<(), OperatorError> {
    match &args.command {
        PluginCommand::List(args) => list::run(args),
        PluginCommand::Inspect(args) => inspect::run(args),
        PluginCommand::Test(args) => test::run(args),
        PluginCommand::Push(args) => push::run(args),
        PluginCommand::Swap(args) => order::swap(args),
        PluginCommand::Rollback(args) => order::rollback(args),
        PluginCommand::History(args) => history::run(args),
    }
}

/// A version in a table: enough of its digest to tell it from others, and what tells its settings.
fn short(version: &str) -> String {
    const DIGITS: usize = 12;
    let (digest, settings) = version.split_once('+').map_or((version, None), |(digest, rest)| (digest, Some(rest)));
    let digest = digest.get(..DIGITS).unwrap_or(digest);
    settings.map_or_else(|| digest.to_owned(), |settings| format!("{digest}+{settings}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_shortened_and_times_are_read_as_people_write_them() {
        let digest = "ab".repeat(32);
        assert_eq!(short(&digest), "abababababab");
        assert_eq!(short(&format!("{digest}+12345678")), "abababababab+12345678");
        assert_eq!(short(""), "");
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("5m"), Ok(Duration::from_secs(300)));
        assert!(time("-1s").is_err() && time("soon").is_err());
    }
}
