//! `parti plan`: what spreading the partitions anew would move, by the same steps as a leader's, with nothing written.

use super::fleet::{Connected, nearest, run as run_connected};
use super::print::{counted, grouped, print, print_json};
use super::table::{Align, Table};
use crate::cli::ConfigArgs;
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::PluginEngine;
use crate::worker::{built_in_strategy, engine_error, load_strategy};
use clap::Args;
use parti_coordination::record::{FORMAT, HeartbeatRecord, Refusals};
use parti_coordination::strategy::{Question, Request};
use parti_coordination::{Draft, Incarnation, Outlook, Partition, PartitionId, Term, Version, WorkerId, WorkerState};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Moves that a table lists.
const LISTED: usize = 50;

/// What `parti plan` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plan                                     what parti rebalance would move
  parti plan --add 2                             and with two workers more
  parti plan --remove worker-3 --json            and without this one
  parti plan --strategy consistentHash           and by another strategy

It plans for the partitions that have an owner, the workers whose heartbeats are there, drains and pins, by the strategy and the limits of
this configuration. A strategy that is a plugin is asked too: the component in plugins.directory. MEAN is the load of the most loaded
worker, by weight and capacity, as a multiple of the mean.")]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// With so many workers more, like one with this configuration
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    add: u32,
    /// Without this worker; repeat it for several
    #[arg(long, value_name = "WORKER")]
    remove: Vec<String>,
    /// By this strategy instead of the configured one
    #[arg(long, value_name = "STRATEGY")]
    strategy: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What would be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// Partitions that would change their owner.
    moves: Vec<Move>,
    /// Moves that would be left for later plans.
    left: usize,
    /// Partitions that would fit on no worker.
    unowned: usize,
    /// Load of the most loaded worker as a multiple of the mean, now and then; nothing without load.
    max_over_mean: Option<f64>,
    max_over_mean_then: Option<f64>,
    workers: Vec<Share>,
    /// Always `false`.
    changed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    partition: PartitionId,
    from: WorkerId,
    to: WorkerId,
    weight: u64,
}

/// One worker, now and then.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Share {
    worker: WorkerId,
    /// `added`, `removed`, `drained`, or nothing of it.
    change: Option<&'static str>,
    partitions: usize,
    partitions_then: usize,
    weight: u64,
    weight_then: u64,
}

pub(in crate::cli) fn run(args: &PlanArgs) -> Result<(), OperatorError> {
    let mut config = args.config.clone();
    config.set.extend(args.strategy.iter().map(|strategy| format!("strategy={strategy}")));
    run_connected(&config, async |connected| {
        let shown = look(args, connected).await?;
        if args.json {
            print_json(&shown);
            return Ok(());
        }
        print_tables(&shown);
        Ok(())
    })
}

async fn look(args: &PlanArgs, connected: &Connected) -> Result<Shown, OperatorError> {
    let config = &connected.config;
    let plan = connected.fleet().await?.plan().await?;
    let beats = connected.all_heartbeats().await?;
    let beats = beats.into_iter().map(|(worker, beat)| (WorkerId::parse(&worker), beat));
    let mut outlook = Outlook {
        workers: beats.filter(|(worker, _)| worker.is_well_formed()).collect(),
        assignments: plan.assignments,
        wants: plan.placement.record,
        max_partitions: config.assignment.max_partitions.map(|most| most as usize),
        max_moves_per_plan: config.assignment.max_moves_per_plan.map(|most| most as usize),
    };
    let before = outlook.clone();
    let removed = args.remove.iter().map(|worker| remove(&mut outlook, worker)).collect::<Result<BTreeSet<_>, _>>()?;
    let added = add(&mut outlook, config, args.add, &removed);
    let Some(question) = outlook.question() else {
        return Err(ErrorCode::OperatorRefused.error(
            "there is nothing to plan",
            "no worker is there that may have partitions",
            "start one, or see with --add how it would be",
        ));
    };
    let draft = outlook.draft(decide(config, &question).await?);
    Ok(shown(&before, &outlook, &draft, &added, &removed))
}

/// What the configured strategy answers.
async fn decide(config: &Config, question: &Question) -> Result<Vec<usize>, OperatorError> {
    if config.strategy.plugin.is_some() {
        let engine = PluginEngine::new().map_err(|error| engine_error(&error))?;
        if let Some(plugin) = load_strategy(&engine, config)? {
            let failed = |why: String| {
                ErrorCode::StrategyFailed.error(
                    "the strategy plugin has not decided",
                    why,
                    "correct it, or see with --strategy consistentHash what stands in for it",
                )
            };
            let answer = plugin.assign(question).await.map_err(|error| failed(error.to_string()))?;
            return match question.judge(&answer) {
                None => Ok(answer),
                Some(wrong) => Err(failed(wrong.to_string())),
            };
        }
    }
    let Question { workers, partitions, previous, .. } = question;
    let partitions: Vec<&Partition> = partitions.iter().collect();
    Ok(built_in_strategy(config).assign(Request { workers, partitions: &partitions, previous }))
}

fn remove(outlook: &mut Outlook, worker: &str) -> Result<WorkerId, OperatorError> {
    let id = WorkerId::parse(worker);
    if outlook.workers.remove(&id).is_some() {
        return Ok(id);
    }
    let names = || outlook.workers.keys().map(WorkerId::as_str);
    Err(ErrorCode::OperatorUsage.error(
        format!("there is no worker {worker:?} to plan without"),
        format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
        match nearest(worker, names()) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "parti status shows the workers".to_owned(),
        },
    ))
}

/// Adds workers under the lowest free IDs.
fn add(outlook: &mut Outlook, config: &Config, count: u32, removed: &BTreeSet<WorkerId>) -> BTreeSet<WorkerId> {
    let mut added = BTreeSet::new();
    let ids = (config.worker_id_min..).map(|number| WorkerId::new(&config.worker_id_prefix, number));
    let taken: BTreeSet<WorkerId> = outlook.workers.keys().chain(removed).cloned().collect();
    for id in ids.filter(|id| !taken.contains(id)).take(count as usize) {
        let beat = HeartbeatRecord {
            v: FORMAT,
            group: None,
            incarnation: Incarnation { claim: 0, uuid: uuid::Uuid::nil() },
            state: WorkerState::Stable,
            returning: None,
            capacity: config.capacity,
            labels: config.labels.clone(),
            plugins: BTreeMap::new(),
            owned: 0,
            lag: 0,
            refusals: Refusals::default(),
            begun: None,
            term: Term(0),
            version: Version(0),
        };
        outlook.workers.insert(id.clone(), beat);
        added.insert(id);
    }
    added
}

type Lists = BTreeMap<WorkerId, Vec<Partition>>;

fn shown(
    before: &Outlook,
    after: &Outlook,
    draft: &Draft,
    added: &BTreeSet<WorkerId>,
    removed: &BTreeSet<WorkerId>,
) -> Shown {
    let now: HashMap<&PartitionId, &WorkerId> =
        before.assignments.iter().flat_map(|(worker, list)| list.iter().map(move |p| (p.id(), worker))).collect();
    let mut moves = Vec::new();
    for (to, list) in &draft.target {
        for partition in list {
            let (id, weight) = (partition.id(), partition.weight());
            if let Some(from) = now.get(id).filter(|from| **from != to) {
                moves.push(Move { partition: id.clone(), from: (*from).clone(), to: to.clone(), weight });
            }
        }
    }
    moves.sort_by(|a, b| a.partition.cmp(&b.partition));
    let names: BTreeSet<&WorkerId> =
        before.workers.keys().chain(after.workers.keys()).chain(draft.target.keys()).collect();
    let share = |worker: &WorkerId| {
        let (partitions, weight) = held(&before.assignments, worker);
        let (partitions_then, weight_then) = held(&draft.target, worker);
        let change = match () {
            () if added.contains(worker) => Some("added"),
            () if removed.contains(worker) => Some("removed"),
            () if after.wants.drained.contains(worker) => Some("drained"),
            () => None,
        };
        Share { worker: worker.clone(), change, partitions, partitions_then, weight, weight_then }
    };
    Shown {
        left: draft.left,
        unowned: draft.unowned,
        max_over_mean: balance(before, &before.assignments),
        max_over_mean_then: balance(after, &draft.target),
        workers: names.into_iter().map(share).collect(),
        moves,
        changed: false,
    }
}

/// How many partitions a worker has, and what they weigh.
fn held(lists: &Lists, worker: &WorkerId) -> (usize, u64) {
    let list = lists.get(worker).map(Vec::as_slice).unwrap_or_default();
    (list.len(), list.iter().fold(0, |sum, partition| sum.saturating_add(partition.weight())))
}

/// Load of the most loaded worker as a multiple of the mean, over those that may have partitions.
fn balance(outlook: &Outlook, lists: &Lists) -> Option<f64> {
    let may = outlook.workers.iter().filter(|(worker, _)| !outlook.wants.drained.contains(*worker));
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
    let load =
        |(worker, beat): (&WorkerId, &HeartbeatRecord)| held(lists, worker).1 as f64 / f64::from(beat.capacity.max(1));
    let loads: Vec<f64> = may.map(load).collect();
    #[expect(clippy::cast_precision_loss, reason = "a number of workers")]
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    (mean > 0.0).then(|| loads.iter().copied().fold(0.0, f64::max) / mean)
}

fn print_tables(shown: &Shown) {
    use Align::{Left, Right};
    if !shown.moves.is_empty() {
        let mut moves = Table::new(&[("PARTITION", Left), ("FROM", Left), ("TO", Left), ("WEIGHT", Right)]);
        for Move { partition, from, to, weight } in shown.moves.iter().take(LISTED) {
            moves.row([partition.to_string(), from.to_string(), to.to_string(), grouped(*weight)]);
        }
        print(moves);
        if shown.moves.len() > LISTED {
            print(format!("… and {} more; --json has all", counted((shown.moves.len() - LISTED) as u64, "move")));
        }
        print("");
    }
    let mut workers = Table::new(&[
        ("WORKER", Left),
        ("PARTITIONS", Right),
        ("THEN", Right),
        ("WEIGHT", Right),
        ("THEN", Right),
        ("", Left),
    ]);
    for share in &shown.workers {
        workers.row([
            share.worker.to_string(),
            grouped(share.partitions as u64),
            grouped(share.partitions_then as u64),
            grouped(share.weight),
            grouped(share.weight_then),
            share.change.unwrap_or_default().to_owned(),
        ]);
    }
    print(workers);
    let times = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let moves = counted(shown.moves.len() as u64, "move");
    let (now, then) = (times(shown.max_over_mean), times(shown.max_over_mean_then));
    print(format!("\n{moves}; the most loaded worker has {now} of the mean now, {then} then"));
    if shown.left > 0 {
        print(format!("{} left for later plans (assignment.maxMovesPerPlan)", counted(shown.left as u64, "move")));
    }
    if shown.unowned > 0 {
        let unowned = counted(shown.unowned as u64, "partition");
        print(format!("{unowned} without an owner then: every worker is at assignment.maxPartitions"));
    }
    print("nothing was changed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use parti_coordination::record::PlacementRecord;

    fn outlook(workers: u32, partitions: usize) -> Outlook {
        let mut outlook = Outlook {
            workers: BTreeMap::new(),
            assignments: BTreeMap::new(),
            wants: PlacementRecord::nothing(),
            max_partitions: None,
            max_moves_per_plan: None,
        };
        add(&mut outlook, &Config::default(), workers, &BTreeSet::new());
        let all = (0..partitions).map(|n| Partition::new(vec![format!("p-{n:02}")], 100).unwrap()).collect();
        outlook.assignments.insert(WorkerId::new("worker", 0), all);
        outlook
    }

    async fn drafted(outlook: &Outlook) -> Draft {
        let question = outlook.question().unwrap();
        outlook.draft(decide(&Config::default(), &question).await.unwrap())
    }

    #[tokio::test]
    async fn the_workers_that_are_added_get_their_share_and_those_removed_lose_theirs() {
        let before = outlook(2, 20);
        let mut after = before.clone();
        let removed = BTreeSet::from([remove(&mut after, "worker-0").unwrap()]);
        let added = add(&mut after, &Config::default(), 1, &removed);
        assert_eq!(added, BTreeSet::from([WorkerId::new("worker", 2)]), "a removed ID is not given again");
        let shown = shown(&before, &after, &drafted(&after).await, &added, &removed);
        assert_eq!((shown.moves.len(), shown.unowned, shown.left), (20, 0, 0));
        assert_eq!((shown.max_over_mean, shown.max_over_mean_then), (Some(2.0), Some(1.0)));
        let then: Vec<_> = shown.workers.iter().map(|share| (share.change, share.partitions_then)).collect();
        assert_eq!(then, [(Some("removed"), 0), (None, 10), (Some("added"), 10)]);
        assert!(remove(&mut after, "worker-22").unwrap_err().todo.contains("did you mean worker-2?"));
    }

    #[tokio::test]
    async fn drains_pins_and_limits_count_as_for_a_leader() {
        let mut outlook = outlook(3, 9);
        outlook.max_moves_per_plan = Some(2);
        outlook.wants.pins.insert("p-00".into(), WorkerId::new("worker", 1));
        let draft = drafted(&outlook).await;
        assert_eq!((draft.moved, draft.left), (3, 3), "what is pinned is not of the two");
        outlook.wants.drained.insert(WorkerId::new("worker", 0));
        let draft = drafted(&outlook).await;
        assert_eq!((draft.moved, draft.left, draft.target[&WorkerId::new("worker", 0)].len()), (9, 0, 0));
        outlook.max_partitions = Some(3);
        let draft = drafted(&outlook).await;
        assert_eq!((draft.moved, draft.unowned, draft.target[&WorkerId::new("worker", 0)].len()), (6, 0, 3));
    }
}
