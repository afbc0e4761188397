//! The command line: one file per subcommand. An error is three lines on stderr (what, why, what to do) and an exit status.

mod bench;
mod check;
mod child;
mod dev;
mod operator;
mod run;

use crate::error::OperatorError;
use clap::{Args, Parser, Subcommand};
use operator::{dlq, partitions, pause, placement, plan, plugin, seek, status};
use std::path::PathBuf;
use std::process::ExitCode;

/// A fleet of identical workers that share the partitions of a NATS JetStream stream.
///
/// Each partition is processed by exactly one worker at a time, in order, by handlers written as WebAssembly components.
/// Nothing is lost when workers die, move, pause, or lose NATS.
#[derive(Debug, Parser)]
#[command(
    name = "parti",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  parti dev                                  a whole fleet on this machine, to look at
  parti check --config parti.yaml            is the configuration right? are the plugins?
  parti check --config parti.yaml --online   and is all there that a worker needs?
  parti run --config parti.yaml              one worker; start as many as you like
  parti status --config parti.yaml           who is there, who leads, which plan is in force
  parti partitions --config parti.yaml       who owns what, and how far it is

Exit status: 0 done, 1 failed, 2 usage or configuration, 3 NATS cannot be reached, 4 worker IDs are exhausted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one worker until it is told to stop (SIGTERM or Ctrl-C; a second signal stops it at once)
    Run(run::RunArgs),
    /// Run a whole fleet on this machine: a NATS server, workers, a producer, a live view
    Dev(dev::DevArgs),
    /// Validate configuration and plugins without running; lists every problem
    Check(check::CheckArgs),
    /// Show the fleet: its workers, who leads, the plan in force, what the operator has set
    Status(status::StatusArgs),
    /// List partitions: owner, position, lag, queue, and what holds them up
    Partitions(partitions::PartitionsArgs),
    /// Show what spreading the partitions anew would move; changes nothing
    Plan(plan::PlanArgs),
    /// Spread the partitions anew now
    Rebalance(placement::RebalanceArgs),
    /// List the partitions again now
    Refresh(placement::RefreshArgs),
    /// Let a worker hand over its partitions and get none
    Drain(placement::DrainArgs),
    /// Let a drained worker have partitions again
    Undrain(placement::UndrainArgs),
    /// Keep a partition with one worker
    Pin(placement::PinArgs),
    /// Let the strategy decide again where a partition belongs
    Unpin(placement::UnpinArgs),
    /// Move a partition to another position
    Seek(seek::SeekArgs),
    /// Let partitions handle nothing until they are resumed
    Pause(pause::PauseArgs),
    /// Let paused partitions go on
    Resume(pause::ResumeArgs),
    /// Look at dead letters and publish them again
    Dlq(dlq::DlqArgs),
    /// Look at plugins, and give the fleet another version of its handler
    Plugin(plugin::PluginArgs),
    /// Measure one worker against the bare NATS client on this machine, as ratios
    Bench(bench::BenchArgs),
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// Configuration file (YAML); repeat it to merge several, later ones win
    #[arg(long = "config", short = 'c', value_name = "FILE", env = "CONFIG_PATH")]
    files: Vec<PathBuf>,
    /// Set one key, such as `--set heartbeatInterval=1s`; beats environment and files
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    fn load(&self) -> Result<crate::config::Loaded, OperatorError> {
        let mut overrides = Vec::new();
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(crate::error::ErrorCode::InvalidConfig.error(
                    format!("--set {pair:?} sets nothing"),
                    "it has no `=` between key and value",
                    "write it as --set KEY=VALUE, for example --set log.level=debug",
                ));
            };
            overrides.push((key.to_owned(), serde_json::Value::String(value.to_owned())));
        }
        let request = crate::config::LoadRequest {
            files: self.files.clone(),
            env: crate::config::process_environment(),
            overrides,
        };
        Ok(crate::config::Config::load(request))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no error.
            let status = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Dev(args) => dev::run(args),
        Command::Check(args) => return check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Partitions(args) => partitions::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Rebalance(args) => placement::rebalance(&args),
        Command::Refresh(args) => placement::refresh(&args),
        Command::Drain(args) => placement::drain(&args),
        Command::Undrain(args) => placement::undrain(&args),
        Command::Pin(args) => placement::pin(&args),
        Command::Unpin(args) => placement::unpin(&args),
        Command::Seek(args) => seek::run(&args),
        Command::Pause(args) => pause::pause(&args),
        Command::Resume(args) => pause::resume(&args),
        Command::Dlq(args) => dlq::run(&args),
        Command::Plugin(args) => plugin::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.code.exit_status().into()
        }
    }
}
