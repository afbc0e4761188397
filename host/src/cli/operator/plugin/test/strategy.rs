//! A strategy, asked about fleets that are made up: whether its answers can be used, and how good they are.
//!
//! An answer must give each partition to one worker that exists, be the same for the same question, and leave everything where it is
//! where nothing has changed. How evenly it spreads the load and how much it moves is told and not judged: that is what
//! strategies differ in.

use super::figures::{micros, shown};
use super::{Bench, Verdict};
use crate::cli::operator::print::grouped;
use crate::cli::operator::table::{Align, Table};
use crate::error::OperatorError;
use crate::plugin::{PluginVersion, StrategyPlugin};
use crate::worker::load_alone;
use parti_coordination::record::Lifecycle;
use parti_coordination::strategy::{Candidate, Question};
use parti_coordination::{Partition, WorkerId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many workers share how many partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fleet {
    workers: usize,
    partitions: usize,
}

/// The fleets where none is asked for: the smallest, one with more workers than partitions, and some of usual sizes.
const USUAL: [Fleet; 6] = [
    Fleet { workers: 1, partitions: 1 },
    Fleet { workers: 5, partitions: 3 },
    Fleet { workers: 2, partitions: 16 },
    Fleet { workers: 3, partitions: 100 },
    Fleet { workers: 10, partitions: 1_000 },
    Fleet { workers: 50, partitions: 5_000 },
];

/// The zones of workers and partitions in turn, and what partitions weigh in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];
const WEIGHTS: [u64; 5] = [100, 50, 100, 400, 150];

/// The capacity of workers in turn.
const CAPACITIES: [u32; 4] = [1, 1, 2, 1];

impl FromStr for Fleet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(workers, partitions)| {
            Some(Self { workers: workers.parse().ok()?, partitions: partitions.parse().ok()? })
        });
        parsed
            .filter(|fleet| fleet.workers > 0 && fleet.partitions > 0)
            .ok_or_else(|| "write so many workers and partitions, each at least 1, such as 10x1000".to_owned())
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.workers, self.partitions)
    }
}

/// How it has answered.
#[derive(Serialize)]
pub(super) struct Found {
    fleets: Vec<Facts>,
}

/// What is to be known of the answers about one fleet.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    workers: usize,
    partitions: usize,
    /// Time of the slowest answer.
    micros: f64,
    /// What the most loaded worker carries of what the mean one does, by weight and capacity.
    max_over_mean: f64,
    /// Partitions that move when a worker joins, and how many it takes for an equal share.
    moved_on_join: usize,
    share_of_joined: usize,
    /// Partitions that move when a worker leaves, besides its own.
    moved_on_leave: usize,
    /// Whether the same fleet in another order gets the same answer.
    independent_of_order: bool,
}

pub(super) async fn test(
    bench: &Bench<'_>,
    fleets: &[Fleet],
) -> Result<(Arc<PluginVersion>, Verdict<Found>), OperatorError> {
    let file = &bench.file;
    let plugin = load_alone::<StrategyPlugin>(&bench.engine, file.directory, file.name, &file.config, &file.host)?;
    let (mut failures, mut found) = (Vec::new(), Vec::new());
    for fleet in if fleets.is_empty() { &USUAL } else { fleets } {
        match examine(&plugin, *fleet).await {
            Ok((facts, faults)) => {
                found.push(facts);
                failures.extend(faults.into_iter().map(|fault| format!("{fleet}: {fault}")));
            }
            Err(why) => failures.push(format!("{fleet}: {why}")),
        }
    }
    let mut notes = Vec::new();
    if found.iter().any(|facts| !facts.independent_of_order) {
        notes.push(
            "the answer depends on the order of workers and partitions; a worker always gives both by id".to_owned(),
        );
    }
    Ok((Arc::clone(plugin.version()), Verdict { failures, notes, found: Found { fleets: found } }))
}

/// What to know of the answers about a fleet, and what is wrong with them. An error is an answer that cannot be used at all.
async fn examine(plugin: &StrategyPlugin, fleet: Fleet) -> Result<(Facts, Vec<String>), String> {
    let mut asking = Asking { plugin, slowest: Duration::ZERO };
    let cold = fleet.question();
    let first = asking.ask("a cold start", &cold).await?;
    let mut faults = Vec::new();
    if asking.ask("the same question", &cold).await? != first {
        faults.push("the same question got another answer: with it, plans would change for no reason".to_owned());
    }
    let steady = Question { lifecycle: Lifecycle::Rebalance, ..cold.followed_by(&first) };
    let moved = moves(&steady, &asking.ask("a fleet in which nothing has changed", &steady).await?);
    if moved > 0 {
        let of = fleet.partitions;
        faults.push(format!(
            "{moved} of {of} partitions moved although nothing had changed: each plan would move them again"
        ));
    }
    let joined = Fleet { workers: fleet.workers + 1, ..fleet }.question();
    let join = Question { previous: steady.previous.clone(), lifecycle: Lifecycle::PlannedScale, ..joined };
    let moved_on_join = moves(&join, &asking.ask("a worker that has joined", &join).await?);
    let capacity = |question: &Question| question.workers.iter().map(|w| w.capacity as usize).sum::<usize>();
    let newcomer = capacity(&join) - capacity(&cold);
    let mut moved_on_leave = 0;
    if let Some(leave) = steady.without_first_worker() {
        moved_on_leave = moves(&leave, &asking.ask("a worker that has left", &leave).await?);
    }
    let other_order = asking.ask("the fleet in another order", &cold.reversed()).await?;
    let straight = other_order.iter().rev().map(|worker| cold.workers.len() - 1 - worker);
    let facts = Facts {
        workers: fleet.workers,
        partitions: fleet.partitions,
        max_over_mean: max_over_mean(&cold, &first),
        moved_on_join,
        share_of_joined: fleet.partitions * newcomer / capacity(&join),
        moved_on_leave,
        independent_of_order: straight.eq(first.iter().copied()),
        micros: micros(asking.slowest),
    };
    Ok((facts, faults))
}

struct Asking<'a> {
    plugin: &'a StrategyPlugin,
    slowest: Duration,
}

impl Asking<'_> {
    /// An answer that a plan can be made of.
    async fn ask(&mut self, about: &str, question: &Question) -> Result<Vec<usize>, String> {
        let begun = Instant::now();
        let answer = self.plugin.assign(question).await.map_err(|error| format!("asked about {about}, {error}"))?;
        self.slowest = self.slowest.max(begun.elapsed());
        match question.judge(&answer) {
            Some(wrong) => Err(format!("asked about {about}, {wrong}")),
            None => Ok(answer),
        }
    }
}

impl Fleet {
    /// What is asked about it at its cold start. Everything in it is by id, as a worker gives it.
    fn question(self) -> Question {
        fn turn<T: Copy + Default>(of: &[T], n: usize) -> T {
            of.get(n % of.len()).copied().unwrap_or_default()
        }
        let worker = |n: usize| Candidate {
            worker: WorkerId::parse(&format!("worker-{n:05}")),
            capacity: turn(&CAPACITIES, n).max(1),
            labels: BTreeMap::from([("zone".to_owned(), turn(&ZONES, n).to_owned())]),
        };
        let partition = |n: usize| {
            let keys = vec![format!("zone-{}", turn(&ZONES, n)), format!("tool-{n:07}")];
            Partition::new(keys, turn(&WEIGHTS, n)).ok()
        };
        let mut partitions: Vec<Partition> = (0..self.partitions).filter_map(partition).collect();
        partitions.sort_by(|a, b| a.id().cmp(b.id()));
        Question {
            lifecycle: Lifecycle::ColdStart,
            orphans_only: false,
            workers: (0..self.workers).map(worker).collect(),
            previous: vec![None; partitions.len()],
            partitions,
        }
    }
}

/// Variations of a question.
trait Varied {
    fn followed_by(&self, answer: &[usize]) -> Question;
    fn without_first_worker(&self) -> Option<Question>;
    fn reversed(&self) -> Question;
}

impl Varied for Question {
    /// The same fleet, once this answer is in force.
    fn followed_by(&self, answer: &[usize]) -> Question {
        Question { previous: answer.iter().copied().map(Some).collect(), ..self.clone() }
    }

    /// The same fleet after the death of a worker; nothing if it was the only one.
    fn without_first_worker(&self) -> Option<Question> {
        let workers = self.workers.get(1..).filter(|workers| !workers.is_empty())?.to_vec();
        let previous = self.previous.iter().map(|before| before.and_then(|worker| worker.checked_sub(1))).collect();
        Some(Question { lifecycle: Lifecycle::Emergency, workers, previous, ..self.clone() })
    }

    /// The same fleet, with the last ones first.
    fn reversed(&self) -> Question {
        let mut question = self.clone();
        question.workers.reverse();
        question.partitions.reverse();
        question
    }
}

/// Partitions that have an owner and get another.
fn moves(question: &Question, answer: &[usize]) -> usize {
    question.previous.iter().zip(answer).filter(|(before, now)| before.is_some_and(|before| before != **now)).count()
}

/// What the most loaded worker carries of what the mean one does.
fn max_over_mean(question: &Question, answer: &[usize]) -> f64 {
    let mut loads = vec![0.0; question.workers.len()];
    for (partition, worker) in question.partitions.iter().zip(answer) {
        if let (Some(load), Some(worker)) = (loads.get_mut(*worker), question.workers.get(*worker)) {
            *load += partition.weight() as f64 / f64::from(worker.capacity);
        }
    }
    let capacity: f64 = question.workers.iter().map(|worker| f64::from(worker.capacity)).sum();
    let mean = question.partitions.iter().map(|partition| partition.weight() as f64).sum::<f64>() / capacity;
    loads.into_iter().fold(0.0, f64::max) / mean
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            ("WORKERS", Align::Right),
            ("PARTITIONS", Align::Right),
            ("SLOWEST", Align::Right),
            ("MAX/MEAN", Align::Right),
            ("MOVED ON JOIN", Align::Right),
            ("ITS SHARE", Align::Right),
            ("MOVED ON LEAVE", Align::Right),
        ]);
        for facts in &self.fleets {
            table.row([
                grouped(facts.workers as u64),
                grouped(facts.partitions as u64),
                shown(facts.micros),
                format!("{:.2}", facts.max_over_mean),
                grouped(facts.moved_on_join as u64),
                grouped(facts.share_of_joined as u64),
                grouped(facts.moved_on_leave as u64),
            ]);
        }
        if self.fleets.is_empty() { Ok(()) } else { writeln!(f, "{table}") }
    }
}
