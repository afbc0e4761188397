//! `parti status`: the fleet at a glance.

use super::fleet::{Connected, run as run_connected};
use super::print::{counted, grouped, print, print_json};
use super::table::{Align, Table};
use crate::cli::ConfigArgs;
use crate::error::OperatorError;
use clap::Args;
use parti_coordination::record::{Lifecycle, PlacementRecord};
use parti_coordination::{Term, Version, WorkerId, WorkerState};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often it is shown anew.
const EVERY: Duration = Duration::from_secs(2);

/// What `parti status` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti status --config parti.yaml
  parti status --json
  parti status --watch

STATE, OWNED and LAG are from the worker's last heartbeat, up to heartbeatInterval ago; `away` is one that the plan or the operator names and
that has none. PARTITIONS is what the plan gives it.")]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Show it anew every two seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    group: String,
    leader: Option<WorkerId>,
    term: Term,
    version: Version,
    /// Why the plan in force was made; nothing before the first.
    lifecycle: Option<Lifecycle>,
    /// Partitions that the plan gives to somebody.
    partitions: usize,
    /// Moves that the plan has left for later ones.
    left: usize,
    /// The strategy has not decided the plan in force.
    provisional: bool,
    /// Everything is paused, and how many partitions are.
    paused_all: bool,
    paused: usize,
    drained: BTreeSet<WorkerId>,
    pins: BTreeMap<String, WorkerId>,
    /// What was asked of the placement waits for a leader.
    waits: bool,
    workers: Vec<Worker>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    worker: WorkerId,
    /// Nothing for one that is away.
    state: Option<WorkerState>,
    leads: bool,
    partitions: usize,
    owned: Option<usize>,
    lag: Option<u64>,
    drained: bool,
    /// Partitions pinned to it.
    pins: usize,
    capacity: Option<u32>,
    labels: BTreeMap<String, String>,
}

pub(in crate::cli) fn run(args: &StatusArgs) -> Result<(), OperatorError> {
    run_connected(&args.config, async |connected| {
        loop {
            let shown = look(connected).await?;
            if args.json {
                print_json(&shown);
                return Ok(());
            }
            if args.watch && std::io::stdout().is_terminal() {
                // To the upper left corner of an empty screen.
                print("\u{1b}[2J\u{1b}[H");
            }
            print_tables(&shown);
            if !args.watch {
                return Ok(());
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

async fn look(connected: &Connected) -> Result<Shown, OperatorError> {
    let plan = connected.fleet().await?.plan().await?;
    let beats = connected.all_heartbeats().await?;
    let PlacementRecord { drained, pins, .. } = &plan.placement.record;
    let leads = |worker: &WorkerId| {
        let leader = plan.head.as_ref().and_then(|head| head.leader);
        leader.is_some() && plan.workers.get(worker).copied() == leader
    };
    let beating = beats.keys().map(|worker| WorkerId::parse(worker));
    let names: BTreeSet<WorkerId> = plan.workers.keys().chain(drained).cloned().chain(beating).collect();
    let workers = names.into_iter().map(|worker| {
        let beat = beats.get(worker.as_str());
        Worker {
            state: beat.map(|beat| beat.state),
            leads: leads(&worker),
            partitions: plan.assignments.get(&worker).map_or(0, Vec::len),
            owned: beat.map(|beat| beat.owned),
            lag: beat.map(|beat| beat.lag),
            drained: drained.contains(&worker),
            pins: pins.values().filter(|pin| **pin == worker).count(),
            capacity: beat.map(|beat| beat.capacity),
            labels: beat.map(|beat| beat.labels.clone()).unwrap_or_default(),
            worker,
        }
    });
    let workers: Vec<Worker> = workers.collect();
    let head = plan.head.as_ref();
    Ok(Shown {
        group: connected.config.group.clone(),
        leader: workers.iter().find(|worker| worker.leads).map(|worker| worker.worker.clone()),
        term: head.map_or(Term(0), |head| head.term),
        version: head.map_or(Version(0), |head| head.version),
        lifecycle: head.map(|head| head.lifecycle),
        partitions: plan.owners.len(),
        left: head.map_or(0, |head| head.left),
        provisional: head.is_some_and(|head| head.provisional),
        paused_all: plan.pause.record.all,
        paused: plan.pause.record.partitions.len(),
        drained: drained.clone(),
        pins: pins.clone(),
        waits: plan.placement.record.is_open(),
        workers,
    })
}

fn print_tables(shown: &Shown) {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("WORKER", Left),
        ("STATE", Left),
        ("LEADS", Left),
        ("PARTITIONS", Right),
        ("OWNED", Right),
        ("LAG", Right),
        ("DRAINED", Left),
        ("PINS", Right),
    ]);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    let yes = |is: bool| if is { "yes".to_owned() } else { String::new() };
    for worker in &shown.workers {
        table.row([
            worker.worker.to_string(),
            worker.state.map_or_else(|| "away".to_owned(), |state| state.to_string()),
            yes(worker.leads),
            grouped(worker.partitions as u64),
            known(worker.owned.map(|owned| owned as u64)),
            known(worker.lag),
            yes(worker.drained),
            if worker.pins == 0 { String::new() } else { grouped(worker.pins as u64) },
        ]);
    }
    print(table);
    let plan = match shown.lifecycle {
        Some(lifecycle) => format!("plan {} of term {} ({})", shown.version, shown.term, lifecycle.as_str()),
        None => "no plan yet".to_owned(),
    };
    let mut notes = vec![plan, counted(shown.partitions as u64, "partition")];
    if shown.left > 0 {
        notes.push(format!("{} left for later plans", counted(shown.left as u64, "move")));
    }
    if shown.provisional {
        notes.push("the strategy has not decided yet".to_owned());
    }
    if shown.paused_all {
        notes.push("everything is paused".to_owned());
    } else if shown.paused > 0 {
        notes.push(format!("{} paused", grouped(shown.paused as u64)));
    }
    if shown.waits {
        notes.push("what was last asked of the placement waits for a leader".to_owned());
    }
    print(format!("\n{}", notes.join("; ")));
}
