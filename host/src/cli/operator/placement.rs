//! `parti drain`, `undrain`, `pin`, `unpin`, `rebalance` and `refresh`: what the operator wants of the placement.
//!
//! All of it is one value beside the plan, which whoever leads obeys and answers. So a command is not lost with the leader that has
//! not heard of it yet: it writes, and waits for the answer.

use super::fleet::{
    Connected, Fleet, PLACEMENT_KEY, Plan, nearest, now, operator, partition_argument, run as run_connected, time,
    unknown_partition,
};
use super::print::{counted, print, print_json};
use crate::cli::ConfigArgs;
use crate::error::{ErrorCode, OperatorError};
use clap::Args;
use parti_coordination::record::{HeartbeatRecord, PlacementAnswer, PlacementRecord};
use parti_coordination::{PartitionId, WorkerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(150);

/// What `parti drain` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti drain worker-2                           before the machine of worker-2 is serviced
  parti drain worker-7 --force                   one that is to get nothing when it comes

Its partitions move at once, and only they; the command ends once it owns nothing. It stays drained when it is restarted under its ID,
until parti undrain. It keeps, and gets, only what no other worker may have (assignment.maxPartitions). To drain the last worker that
may have partitions is refused; where all are drained, drains have no effect. A drain goes before a pin.")]
pub(in crate::cli) struct DrainArgs {
    /// The worker, as `parti status` shows it
    #[arg(value_name = "WORKER")]
    worker: String,
    /// Also one that is not there, or the last one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `parti undrain` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti undrain worker-2

The partitions are spread anew at once, so that it gets its share.")]
pub(in crate::cli) struct UndrainArgs {
    /// The worker, as `parti status` shows it
    #[arg(value_name = "WORKER")]
    worker: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `parti pin` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti pin tool-07.chamber-2 worker-1
  parti pin tool-07.chamber-2 worker-9 --force   one that is not there yet

The partition moves at once, and nothing else does. It stays with that worker whatever the strategy says. While the worker is away or
drained, is full (assignment.maxPartitions), or its handler refuses the state, the strategy decides; once the worker is back, so is the
partition, with the plan that is made for the worker.")]
pub(in crate::cli) struct PinArgs {
    /// The partition's id, as `parti partitions` shows it
    #[arg(value_name = "PARTITION")]
    partition: String,
    /// The worker, as `parti status` shows it
    #[arg(value_name = "WORKER")]
    worker: String,
    /// Also a worker or a partition that is not there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `parti unpin` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti unpin tool-07.chamber-2

The partition stays where it is until a plan moves it for another reason (parti rebalance makes one).")]
pub(in crate::cli) struct UnpinArgs {
    /// The partition's id, as `parti partitions` shows it
    #[arg(value_name = "PARTITION")]
    partition: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `parti rebalance` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plan                                     what it would move
  parti rebalance

The leader asks the strategy now, whatever assignment.minRebalanceThreshold and minRebalanceInterval say.")]
pub(in crate::cli) struct RebalanceArgs {
    #[command(flatten)]
    waiting: Waiting,
}

/// What `parti refresh` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti refresh

The leader asks the source now. New partitions are placed at once, and those that are gone are given up; nothing else moves.")]
pub(in crate::cli) struct RefreshArgs {
    #[command(flatten)]
    waiting: Waiting,
}

/// How an answer is waited for, and shown.
#[derive(Debug, Args)]
struct Waiting {
    #[command(flatten)]
    config: ConfigArgs,
    /// How long to wait for the leader; what was asked stands in any case
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    timeout: Duration,
    /// Do not wait for the leader
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What there is to be known about a worker or a partition that a command names.
struct Known<'a> {
    plan: &'a Plan,
    heartbeats: &'a BTreeMap<String, HeartbeatRecord>,
}

/// A change of what is wanted.
struct Change<'a> {
    waiting: &'a Waiting,
    /// What to say of it once it is done.
    done: String,
    /// The worker that is to own nothing in the end.
    emptied: Option<WorkerId>,
}

/// What has become of a change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    /// Its number.
    asked: u64,
    /// What the leader says; nothing if it was not waited for.
    answer: Option<PlacementAnswer>,
    drained: BTreeSet<WorkerId>,
    pins: BTreeMap<String, WorkerId>,
}

pub(in crate::cli) fn drain(args: &DrainArgs) -> Result<(), OperatorError> {
    let worker = worker_argument(&args.worker)?;
    let done = format!("{worker} is drained");
    let change = Change { waiting: &args.waiting, done, emptied: Some(worker.clone()) };
    change.make(|known, wants| {
        if !args.force {
            known.worker(&worker, std::iter::empty())?;
            known.leaves_somebody(&worker, wants)?;
        }
        wants.drained.insert(worker.clone());
        Ok(())
    })
}

pub(in crate::cli) fn undrain(args: &UndrainArgs) -> Result<(), OperatorError> {
    let worker = worker_argument(&args.worker)?;
    let change = Change { waiting: &args.waiting, done: format!("{worker} is not drained"), emptied: None };
    change.make(|known, wants| {
        if wants.drained.remove(&worker) {
            wants.rebalance = wants.asked;
            return Ok(());
        }
        known.worker(&worker, wants.drained.iter())
    })
}

pub(in crate::cli) fn pin(args: &PinArgs) -> Result<(), OperatorError> {
    let (id, worker) = (partition_argument(&args.partition)?, worker_argument(&args.worker)?);
    let change = Change { waiting: &args.waiting, done: format!("{id} is pinned to {worker}"), emptied: None };
    change.make(|known, wants| {
        if !args.force {
            known.partition(&id)?;
            known.worker(&worker, std::iter::empty())?;
        }
        wants.pins.insert(id.as_str().to_owned(), worker.clone());
        Ok(())
    })
}

pub(in crate::cli) fn unpin(args: &UnpinArgs) -> Result<(), OperatorError> {
    let id = partition_argument(&args.partition)?;
    let change = Change { waiting: &args.waiting, done: format!("{id} is not pinned"), emptied: None };
    change.make(|known, wants| match wants.pins.remove(id.as_str()) {
        Some(_) => Ok(()),
        None => known.partition(&id),
    })
}

pub(in crate::cli) fn rebalance(args: &RebalanceArgs) -> Result<(), OperatorError> {
    let change = Change { waiting: &args.waiting, done: "the strategy was asked".to_owned(), emptied: None };
    change.make(|_, wants| {
        wants.rebalance = wants.asked;
        Ok(())
    })
}

pub(in crate::cli) fn refresh(args: &RefreshArgs) -> Result<(), OperatorError> {
    let change = Change { waiting: &args.waiting, done: "the source was asked".to_owned(), emptied: None };
    change.make(|_, wants| {
        wants.refresh = wants.asked;
        Ok(())
    })
}

impl Change<'_> {
    /// Connects, changes what is wanted, and waits until the leader has acted.
    fn make(
        self,
        change: impl Fn(&Known<'_>, &mut PlacementRecord) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        run_connected(&self.waiting.config, async |connected| {
            let fleet = connected.fleet().await?;
            let heartbeats = connected.heartbeats().await?;
            let changed = |plan: &Plan| {
                let mut wants = plan.placement.record.clone();
                wants.asked += 1;
                (wants.by, wants.at) = (operator(), now());
                change(&Known { plan, heartbeats: &heartbeats }, &mut wants)?;
                Ok(plan.placement.with(wants))
            };
            let wants = fleet.set((PLACEMENT_KEY, "what is wanted of the placement"), changed).await?;
            let (asked, waiting) = (wants.asked, self.waiting);
            if waiting.no_wait {
                return self.show(&wants, None);
            }
            if heartbeats.is_empty() {
                return Err(stands("nobody has acted", "no worker runs", "start one"));
            }
            let by = Instant::now() + waiting.timeout;
            let (wants, answer) = self.answer(&fleet, asked, by).await?;
            if let Some(worker) = self.emptied.as_ref().filter(|_| answer.kept == 0) {
                emptied(connected, worker, &answer, by).await?;
            }
            self.show(&wants, Some(&answer))?;
            match answer.problem {
                None => Ok(()),
                Some(why) => Err(ErrorCode::PartitionListInvalid.error(
                    "the partitions were not listed; the last list stays in force",
                    why,
                    "correct the source; the leader asks it again by itself",
                )),
            }
        })
    }

    /// What the leader says of the change.
    async fn answer(
        &self,
        fleet: &Fleet,
        asked: u64,
        by: Instant,
    ) -> Result<(PlacementRecord, PlacementAnswer), OperatorError> {
        loop {
            let wants = fleet.placement().await?;
            if let Some(answer) = wants.answer.clone().filter(|answer| answer.asked >= asked) {
                return Ok((wants, answer));
            }
            if wants.asked < asked {
                return Err(ErrorCode::OperatorRefused.error(
                    "what was asked is gone",
                    "the bucket of the assignments was lost or set back since",
                    "ask again",
                ));
            }
            if Instant::now() >= by {
                let waited = self.waiting.timeout;
                return Err(stands(
                    &format!("no leader has acted within {waited:?}"),
                    "there is none, it cannot reach NATS, waits for a strategy, or is of a version that does not know this",
                    "look at parti status",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn show(&self, wants: &PlacementRecord, answer: Option<&PlacementAnswer>) -> Result<(), OperatorError> {
        if self.waiting.json {
            let PlacementRecord { asked, drained, pins, .. } = wants.clone();
            print_json(&Done { asked, answer: answer.cloned(), drained, pins });
            return Ok(());
        }
        let Some(answer) = answer else {
            print(format!("asked, as number {}; whoever leads acts on it", wants.asked));
            return Ok(());
        };
        let did = match answer.moved {
            0 => format!("nothing had to move, plan {} stands", answer.version),
            moved => format!("{} moved, plan {}", counted(moved as u64, "partition"), answer.version),
        };
        print(format!("{}: {did}", self.done));
        for note in notes(answer) {
            print(note);
        }
        if let Some(worker) = self.emptied.as_ref().filter(|_| answer.kept == 0) {
            print(format!("{worker} owns nothing any more"));
        }
        Ok(())
    }
}

/// What else there is to know of an answer.
fn notes(answer: &PlacementAnswer) -> Vec<String> {
    let count = |partitions: usize| counted(partitions as u64, "partition");
    let mut notes = Vec::new();
    if answer.kept > 0 {
        notes.push(format!("{} with drained workers: no other may have more", count(answer.kept)));
    }
    if answer.left > 0 {
        let left = counted(answer.left as u64, "move");
        notes.push(format!("{left} left for later plans (assignment.maxMovesPerPlan)"));
    }
    if answer.unowned > 0 {
        notes.push(format!("{} without an owner: every worker is at assignment.maxPartitions", count(answer.unowned)));
    }
    if answer.undecided {
        notes
            .push("the strategy has not decided; what had an owner stayed there, and the leader asks again".to_owned());
    }
    notes
}

/// Waits until a worker that is to have nothing has handed everything over, or is gone.
async fn emptied(
    connected: &Connected,
    worker: &WorkerId,
    answer: &PlacementAnswer,
    by: Instant,
) -> Result<(), OperatorError> {
    loop {
        let heartbeats = connected.heartbeats().await?;
        let Some(beat) = heartbeats.get(worker.as_str()) else { return Ok(()) };
        if beat.owned == 0 && (beat.term, beat.version) >= (answer.term, answer.version) {
            return Ok(());
        }
        if Instant::now() >= by {
            return Err(stands(
                &format!("{worker} still owns {}", counted(beat.owned as u64, "partition")),
                "it finishes the messages in hand first, or cannot reach NATS",
                "look at parti partitions before you stop it",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was asked is written, and not done yet.
fn stands(what: &str, why: &str, todo: &str) -> OperatorError {
    ErrorCode::OperatorRefused.error(
        format!("{what}; what was asked stands"),
        why,
        format!("{todo}; whoever leads acts on it"),
    )
}

impl Known<'_> {
    fn workers(&self) -> BTreeSet<WorkerId> {
        let beating = self.heartbeats.keys().map(|worker| WorkerId::parse(worker));
        self.plan.workers.keys().cloned().chain(beating).collect()
    }

    /// Whether this is a worker of the fleet, or one of these.
    fn worker<'a>(&self, worker: &WorkerId, others: impl Iterator<Item = &'a WorkerId>) -> Result<(), OperatorError> {
        let known: BTreeSet<WorkerId> = self.workers().into_iter().chain(others.cloned()).collect();
        if known.contains(worker) {
            return Ok(());
        }
        let names = || known.iter().map(WorkerId::as_str);
        Err(ErrorCode::OperatorUsage.error(
            format!("there is no worker {:?}; nothing was changed", worker.as_str()),
            match names().collect::<Vec<_>>() {
                names if names.is_empty() => "no worker runs".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            },
            match nearest(worker.as_str(), names()) {
                Some(nearest) => format!("did you mean {nearest}? --force names one that is not there yet"),
                None => "parti status shows the workers; --force names one that is not there yet".to_owned(),
            },
        ))
    }

    fn partition(&self, id: &PartitionId) -> Result<(), OperatorError> {
        if self.plan.owners.contains_key(id) {
            return Ok(());
        }
        Err(unknown_partition(id.as_str(), self.plan.owners.keys()))
    }

    /// Whether a worker is left that may have partitions.
    fn leaves_somebody(&self, worker: &WorkerId, wants: &PlacementRecord) -> Result<(), OperatorError> {
        if self.workers().iter().any(|other| other != worker && !wants.drained.contains(other)) {
            return Ok(());
        }
        Err(ErrorCode::OperatorRefused.error(
            format!("{worker} is not drained"),
            "it is the last worker that may have partitions, and none is to be without an owner",
            "start another worker, or undrain one; --force drains it, without effect until another is there",
        ))
    }
}

/// The worker that an argument names.
fn worker_argument(text: &str) -> Result<WorkerId, OperatorError> {
    let worker = WorkerId::parse(text);
    if worker.is_well_formed() {
        return Ok(worker);
    }
    Err(ErrorCode::OperatorUsage.error(
        format!("{text:?} is no worker"),
        "a worker's ID is its workerIdPrefix and a number, such as worker-3",
        "write the ID as parti status shows it",
    ))
}
