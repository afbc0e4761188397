//! `parti partitions`: who owns what, how far it is, and what it waits for.

use super::fleet::{Connected, Plan, run as run_connected};
use super::print::{counted, grouped, print, print_json};
use super::records::{self, Found};
use super::table::{Align, Table};
use crate::cli::ConfigArgs;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{Backlog, Backlogs, PartitionFigures};
use clap::Args;
use parti_coordination::record::{OwnershipRecord, Phase};
use parti_coordination::{Epoch, Generation, Incarnation, PartitionId, Position, WorkerId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IsTerminal as _;
use std::time::Duration;

/// How long a worker may take to tell its figures. Without them the columns stay empty.
const FIGURES: Duration = Duration::from_secs(2);

/// Digits of a digest that are shown.
const DIGEST: usize = 12;

/// What `parti partitions` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti partitions --config parti.yaml
  parti partitions --worker worker-3
  parti partitions --lagging --json

OWNER is who holds the ownership record, or `a > b` while the plan moves the partition from a to b. LAG counts the messages that
the stream holds beyond the position; `5,000+` means at least that many (far behind, with too many others to count each), `?`
that the stream could not be read. QUEUE is known to the worker alone: `-` where it does not answer. PAUSED is `not yet` or
`still` until the worker has heard of a change. PINNED is where `parti pin` wants the partition; without it the strategy decides.")]
pub(in crate::cli) struct PartitionsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only those that this worker owns or is to own
    #[arg(long, value_name = "WORKER")]
    worker: Option<String>,
    /// Only those with messages beyond their position, and those of which that is not known
    #[arg(long)]
    lagging: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// One partition. What is not known is `null`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    partition: PartitionId,
    /// Who holds the ownership record.
    owner: Option<WorkerId>,
    /// Who is to own it by the plan.
    assigned: Option<WorkerId>,
    epoch: Option<Epoch>,
    generation: Option<Generation>,
    position: Option<Position>,
    /// Messages that the stream holds beyond the position.
    lag: Option<u64>,
    /// There may be more than `lag`.
    lag_is_at_least: bool,
    /// Messages that wait in the worker.
    queue: Option<u64>,
    /// Deliveries of the next message that have begun.
    attempts: u32,
    /// Digest of the handler that committed last.
    handler: Option<String>,
    /// What the operator has set.
    paused: bool,
    /// The worker that the operator has pinned it to.
    pinned: Option<WorkerId>,
    /// What the worker does, if it answers.
    is_paused: Option<bool>,
    /// `waiting`, `taking`, `opening`, `running`, `releasing` as its worker says, else `owned`, `released` or `new` by the record.
    phase: String,
    /// Why it does not go on, if it does not.
    problem: Option<String>,
}

pub(in crate::cli) fn run(args: &PartitionsArgs) -> Result<(), OperatorError> {
    run_connected(&args.config, async |connected| show(args, connected).await)
}

async fn show(args: &PartitionsArgs, connected: &Connected) -> Result<(), OperatorError> {
    let fleet = connected.fleet().await?;
    let plan = fleet.plan().await?;
    let stream = connected.config.stream.as_ref().map(|stream| stream.name.as_str());
    let records = records::all(&fleet, &connected.config.group, stream).await?;
    let workers = known_workers(&plan, &records);
    if let Some(worker) = &args.worker
        && !workers.iter().any(|(id, _)| id.as_str() == worker)
    {
        let ids: BTreeSet<_> = workers.iter().map(|(id, _)| id.as_str()).collect();
        let known = ids.into_iter().collect::<Vec<_>>().join(", ");
        return Err(ErrorCode::OperatorUsage.error(
            format!("there is no worker {worker:?}"),
            "neither the plan nor a record names it",
            if known.is_empty() { "no worker runs".to_owned() } else { format!("there are: {known}") },
        ));
    }
    let figures = ask(connected, workers).await;
    let lags = lags(connected, &plan, &records).await;
    let ids: BTreeSet<_> = plan.owners.keys().chain(records.keys()).collect();
    let rows = ids.into_iter().map(|id| row(id, &plan, records.get(id), &figures, &lags));
    let rows: Vec<_> = rows.filter(|row| is_wanted(args, row)).collect();
    if args.json {
        print_json(&rows);
        return Ok(());
    }
    print(table(&rows));
    if std::io::stdout().is_terminal() {
        let lag = rows.iter().filter_map(|row| row.lag).sum();
        let paused = rows.iter().filter(|row| row.paused).count() as u64;
        let rows = counted(rows.len() as u64, "partition");
        eprintln!("{rows}, {} behind, {} paused", counted(lag, "message"), grouped(paused));
    }
    Ok(())
}

type Workers = BTreeSet<(WorkerId, Incarnation)>;

/// Every run of a worker that the plan or a record names.
fn known_workers(plan: &Plan, records: &BTreeMap<PartitionId, Found>) -> Workers {
    let planned = plan.workers.iter().map(|(worker, incarnation)| (worker.clone(), *incarnation));
    let owners = records.values().flatten().filter(|record| record.phase == Phase::Owned);
    let owners = owners.map(|record| (record.owner.worker.clone(), record.owner.incarnation));
    planned.chain(owners).collect()
}

/// What every worker that answers says of its partitions.
async fn ask(connected: &Connected, workers: Workers) -> HashMap<(Incarnation, String), PartitionFigures> {
    let peers = connected.peers();
    let asked = workers.into_iter().map(|(_, incarnation)| {
        let peers = peers.clone();
        async move { (incarnation, peers.figures(&incarnation, FIGURES).await.unwrap_or_default()) }
    });
    let answers = futures::future::join_all(asked).await.into_iter();
    let each = |(incarnation, figures): (Incarnation, Vec<PartitionFigures>)| {
        figures.into_iter().map(move |figures| ((incarnation, figures.id.clone()), figures))
    };
    answers.flat_map(each).collect()
}

/// The lag of every partition; nothing if it cannot be known.
async fn lags(
    connected: &Connected,
    plan: &Plan,
    records: &BTreeMap<PartitionId, Found>,
) -> Option<HashMap<PartitionId, Backlog>> {
    connected.config.stream.as_ref()?;
    let warn = |why: String| eprintln!("warning: the lag is not known\n{why}");
    let (set, stream) = connected.stream().await.map_err(|error| warn(error.to_string())).ok()?;
    let mut positions = HashMap::new();
    for id in plan.owners.keys().chain(records.keys()) {
        let position = match records.get(id) {
            // Of another stream under this name: its worker will begin at the start.
            Some(Ok(record)) if record.stream.created == stream.created => record.position,
            _ => Position(0),
        };
        positions.insert(set.subject_template.subject(id), position);
    }
    let counted = Backlogs::count(&connected.nats, &stream, &positions).await;
    let backlogs = counted.map_err(|error| warn(format!("  why: {error}"))).ok()?;
    let ids = plan.owners.keys().chain(records.keys());
    Some(ids.map(|id| (id.clone(), backlogs.of(&set.subject_template.subject(id)))).collect())
}

fn row(
    id: &PartitionId,
    plan: &Plan,
    found: Option<&Found>,
    figures: &HashMap<(Incarnation, String), PartitionFigures>,
    lags: &Option<HashMap<PartitionId, Backlog>>,
) -> Row {
    let record: Option<&OwnershipRecord> = found.and_then(|found| found.as_ref().ok());
    let owned = record.filter(|record| record.phase == Phase::Owned);
    let owner = owned.map(|record| &record.owner);
    let assigned = plan.owners.get(id);
    let of = |incarnation: &Incarnation| figures.get(&(*incarnation, id.to_string()));
    // Its owner knows it best; before there is one, whoever is to take it.
    let by_owner = owner.and_then(|owner| of(&owner.incarnation));
    let figures = by_owner.or_else(|| of(plan.workers.get(assigned?)?));
    let lag = lags.as_ref().and_then(|lags| lags.get(id));
    let by_record = match (found, record) {
        (Some(Err(_)), _) => "unreadable",
        (_, None) => "new",
        (_, Some(record)) if record.phase == Phase::Owned => "owned",
        _ => "released",
    };
    let problem = found.and_then(|found| found.as_ref().err().cloned());
    Row {
        partition: id.clone(),
        owner: owner.map(|owner| owner.worker.clone()),
        assigned: assigned.cloned(),
        epoch: record.map(|record| record.epoch),
        generation: record.map(|record| record.generation),
        position: record.map(|record| record.position),
        lag: lag.map(|lag| lag.messages),
        lag_is_at_least: lag.is_some_and(|lag| lag.at_least),
        queue: figures.map(|figures| figures.queue),
        attempts: figures.map_or_else(|| record.and_then(|r| r.attempts).map_or(0, |a| a.count), |f| f.attempts),
        handler: record.and_then(|record| record.handler.clone()),
        paused: plan.pause.record.covers(id),
        pinned: plan.placement.record.pins.get(id.as_str()).cloned(),
        is_paused: figures.map(|figures| figures.paused),
        phase: figures.map_or_else(|| by_record.to_owned(), |figures| figures.phase.clone()),
        problem: problem.or_else(|| figures.and_then(|figures| figures.problem.clone())),
    }
}

fn is_wanted(args: &PartitionsArgs, row: &Row) -> bool {
    let named = |worker: &Option<WorkerId>| worker.as_ref().map(WorkerId::as_str) == args.worker.as_deref();
    let is_workers = args.worker.is_none() || named(&row.owner) || named(&row.assigned);
    is_workers && (!args.lagging || row.lag != Some(0))
}

fn table(rows: &[Row]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("PARTITION", Left),
        ("OWNER", Left),
        ("EPOCH", Right),
        ("GEN", Right),
        ("POSITION", Right),
        ("LAG", Right),
        ("QUEUE", Right),
        ("ATTEMPTS", Right),
        ("HANDLER", Left),
        ("PAUSED", Left),
        ("PINNED", Left),
        ("PHASE", Left),
        ("PROBLEM", Left),
    ]);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    for row in rows {
        let owner = match (&row.owner, &row.assigned) {
            (Some(owner), Some(assigned)) if owner == assigned => owner.to_string(),
            (owner, assigned) => {
                let name =
                    |worker: &Option<WorkerId>| worker.as_ref().map_or_else(|| "-".to_owned(), WorkerId::to_string);
                format!("{} > {}", name(owner), name(assigned))
            }
        };
        let lag = match (row.lag, row.lag_is_at_least) {
            (None, _) => "?".to_owned(),
            (Some(lag), at_least) => format!("{}{}", grouped(lag), if at_least { "+" } else { "" }),
        };
        let handler = row.handler.as_deref().map(|digest| digest.rsplit(':').next().unwrap_or(digest));
        let paused = match (row.paused, row.is_paused) {
            (true, Some(false)) => "not yet",
            (true, _) => "yes",
            (false, Some(true)) => "still",
            (false, _) => "",
        };
        table.row([
            row.partition.to_string(),
            owner,
            known(row.epoch.map(|epoch| epoch.0)),
            known(row.generation.map(|generation| generation.0)),
            known(row.position.map(|position| position.0)),
            lag,
            known(row.queue),
            row.attempts.to_string(),
            handler.map_or_else(|| "-".to_owned(), |digest| digest.chars().take(DIGEST).collect()),
            paused.to_owned(),
            row.pinned.as_ref().map(WorkerId::to_string).unwrap_or_default(),
            row.phase.clone(),
            row.problem.clone().unwrap_or_default(),
        ]);
    }
    table
}
