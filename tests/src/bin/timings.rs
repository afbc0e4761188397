//! Measures how long a fleet takes to notice and to go on: crashes, joins, leaves, restarts, a cold start. Separate processes,
//! the default configuration, a steady flow, and an observer that sees which partition was processed when.
//!
//! `cargo run --release -p parti-tests --bin timings -- [--runs N] [--only NAME]`, with the environment of the tests. Every
//! run has a NATS server and a fleet of its own. A partition counts as processed elsewhere with the first output that arrives
//! after another incarnation has taken it.

use async_nats::jetstream::Context;
use futures::StreamExt as _;
use parti_coordination::Incarnation;
use parti_coordination::record::{OwnershipRecord, Phase, decode};
use parti_tests::{Fleet, NatsServer, Records, create_stream, eventually, partition, subject};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const PARTITIONS: usize = 30;

/// Messages a second of each partition: what is measured is this fine at best.
const RATE: u32 = 10;

/// The default of `electionTimeout`, and a little more.
const QUIET: Duration = Duration::from_millis(5500);

/// What is measured, as a row of the table.
struct Row {
    what: &'static str,
    target: &'static str,
    peer: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Scenario {
    FollowerKilled,
    LeaderKilled,
    Replaced,
    Join,
    Leave,
    ColdStart,
    RestartKilled,
    RestartHeld,
}

impl Scenario {
    const ALL: [(&'static str, Scenario); 8] = [
        ("follower", Scenario::FollowerKilled),
        ("leader", Scenario::LeaderKilled),
        ("replacement", Scenario::Replaced),
        ("join", Scenario::Join),
        ("leave", Scenario::Leave),
        ("cold-start", Scenario::ColdStart),
        ("restart-killed", Scenario::RestartKilled),
        ("restart-held", Scenario::RestartHeld),
    ];

    /// What, target, the peer's figure, unit; one row for each value that a run gives.
    fn rows(self) -> Vec<Row> {
        let row = |what, target, peer, unit| Row { what, target, peer, unit, values: Vec::new() };
        match self {
            Scenario::FollowerKilled => vec![row(
                "SIGKILL of a follower → its partitions processed elsewhere",
                "≤ 2.5 s",
                "10.3 s (12.8 s in cool-down)",
                "s",
            )],
            Scenario::LeaderKilled => {
                vec![row("SIGKILL of the leader → its partitions processed elsewhere", "≤ 3 s", "4.7–15.4 s", "s")]
            }
            Scenario::Replaced => vec![row(
                "crash and replacement process → orphans processed elsewhere",
                "≤ 2.5 s",
                "12.3 s, new ID",
                "s",
            )],
            Scenario::Join => vec![
                row("join 3 → 4, from the start of the process → all partitions single-owner", "≤ 4 s", "10.3 s", "s"),
                row("the same: longest pause of a partition that stays", "none", "–", "s"),
            ],
            Scenario::Leave => {
                vec![row("graceful leave: SIGTERM → its partitions processed elsewhere", "≤ 0.5 s", "~3 s grace", "s")]
            }
            Scenario::ColdStart => vec![
                row("cold start of 3, from the start of the processes → first message processed", "≤ 2 s", "–", "s"),
                row("the same → every partition is where it stays", "≤ 8 s", "10.2 s (64 workers)", "s"),
            ],
            Scenario::RestartKilled => vec![
                row("SIGKILL and restart under the same ID → moves", "0", "–", ""),
                row("the same → its partitions processed again", "–", "–", "s"),
            ],
            Scenario::RestartHeld => vec![
                row("SIGTERM with shutdown.hold 5 s and restart under the same ID → moves", "0", "0", ""),
                row("the same → its partitions processed again", "–", "–", "s"),
            ],
        }
    }
}

/// A task that ends with its owner.
struct Background(JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was processed and taken when.
#[derive(Default)]
struct Seen {
    outputs: BTreeMap<String, Vec<Instant>>,
    taken: Vec<(Instant, String, Incarnation)>,
}

struct Observer {
    seen: Arc<Mutex<Seen>>,
    _tasks: [Background; 2],
}

impl Observer {
    async fn start(context: &Context, records: &Records) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let client = async_nats::connect(format!("127.0.0.1:{}", context.client().server_info().port));
        let client = client.await.expect("a connection");
        let mut outputs = client.subscribe("out.work.>").await.expect("a subscription");
        client.flush().await.expect("a round trip");
        let mut ownership = records.ownership.watch_all().await.expect("a watch");
        let (for_outputs, for_taken) = (Arc::clone(&seen), Arc::clone(&seen));
        let outputs = async move {
            let _client = client;
            while let Some(message) = outputs.next().await {
                let partition = message.subject.trim_start_matches("out.work.").to_owned();
                lock(&for_outputs).outputs.entry(partition).or_default().push(Instant::now());
            }
        };
        let taken = async move {
            while let Some(Ok(entry)) = ownership.next().await {
                if let Ok(record) = decode::<OwnershipRecord>(&entry.value)
                    && record.phase == Phase::Owned
                {
                    let mut seen = lock(&for_taken);
                    let by = record.owner.incarnation;
                    let before = seen.taken.iter().rev().find(|(_, name, _)| *name == entry.key);
                    if before.is_none_or(|(_, _, owner)| *owner != by) {
                        seen.taken.push((Instant::now(), entry.key, by));
                    }
                }
            }
        };
        Self { seen, _tasks: [Background(tokio::spawn(outputs)), Background(tokio::spawn(taken))] }
    }

    /// When each of these partitions was first processed by another incarnation than this one, waiting for the last.
    async fn processed_elsewhere(&self, partitions: &[String], than: Incarnation, from: Instant) -> Instant {
        eventually("every partition is processed elsewhere", async || {
            let seen = lock(&self.seen);
            let find = |name: &String| {
                let mut taken = seen.taken.iter();
                let (at, _, _) = taken.find(|(at, key, by)| *at >= from && key == name && *by != than)?;
                seen.outputs.get(name)?.iter().find(|output| *output >= at).copied()
            };
            let times: Option<Vec<Instant>> = partitions.iter().map(find).collect();
            times.and_then(|times| times.into_iter().max()).ok_or_else(|| "some are not".to_owned())
        })
        .await
    }

    /// The last time that a partition changed hands.
    fn last_taken(&self) -> Instant {
        lock(&self.seen).taken.last().expect("a taken partition").0
    }

    /// How long the longest gap in a partition's outputs between these times exceeds the time between two messages.
    fn longest_pause(&self, partitions: &[String], from: Instant, to: Instant) -> Duration {
        let seen = lock(&self.seen);
        let gaps = partitions.iter().filter_map(|name| seen.outputs.get(name)).flat_map(|outputs| {
            outputs.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to).map(|pair| pair[1] - pair[0])
        });
        gaps.max().unwrap_or_default().saturating_sub(Duration::from_secs(1) / RATE)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes to every partition in turn, evenly.
fn produce(context: &Context) -> Background {
    let context = context.clone();
    Background(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / (RATE * PARTITIONS as u32));
        for n in 0.. {
            ticks.tick().await;
            // Nobody waits for the confirmation: the flow is steady, and a message more or less is none the matter.
            let _ = context.publish(subject(n % PARTITIONS), n.to_string().into()).await;
        }
    }))
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

/// One run; a value for each row.
async fn run(scenario: Scenario) -> Vec<f64> {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::by_default(&server, PARTITIONS, "relay");
    if let Scenario::RestartHeld = scenario {
        fleet = fleet.with(json!({ "shutdown": { "hold": "5s" } }));
    }
    let _flow = produce(&context);
    let began = Instant::now();
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    let records = Records::open(&context).await;
    let observer = Observer::start(&context, &records).await;
    let statuses = fleet.settled().await;
    if let Scenario::ColdStart = scenario {
        let all: Vec<_> = (0..PARTITIONS).map(partition).collect();
        let nobody = Incarnation { claim: 0, uuid: Default::default() };
        observer.processed_elsewhere(&all, nobody, began).await;
        let first = lock(&observer.seen).outputs.values().flatten().min().copied().expect("an output");
        return vec![seconds(began, first), seconds(began, observer.last_taken())];
    }
    if let Scenario::Join = scenario {
        // A new leader knows no cold start: the joiner is planned for as one that comes later.
        let term = records.head().await.term;
        records.election.purge("leader").await.expect("a purge");
        eventually("a new leader has written its term", async || match records.head().await.term > term {
            true => Ok(()),
            false => Err("none has".to_owned()),
        })
        .await;
        fleet.settled().await;
    }
    // Nobody is superseded twice within an election timeout, and no reader is replaced within a second: what is measured is a
    // fleet in which nothing has happened for longer.
    tokio::time::sleep(QUIET).await;
    let (leader, follower) = fleet.leader_and_follower().await;
    let victim = if let Scenario::LeaderKilled = scenario { leader } else { follower };
    let incarnation = statuses[victim].incarnation.expect("an incarnation");
    let before = records.plan().await;
    let owned_by = |id: &str, is: bool| {
        before.iter().filter(|(_, owner)| (*owner == id) == is).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let lost = owned_by(statuses[victim].id(), true);
    let number = u32::try_from(victim).ok();

    let from = Instant::now();
    match scenario {
        Scenario::FollowerKilled | Scenario::LeaderKilled => fleet.workers[victim].kill(),
        Scenario::Replaced => {
            fleet.workers[victim].kill();
            fleet.start_as(Some(50));
        }
        Scenario::Leave => fleet.workers[victim].terminate(),
        Scenario::RestartKilled => {
            fleet.workers[victim].kill();
            fleet.start_as(number);
        }
        Scenario::RestartHeld => {
            fleet.workers[victim].terminate();
            fleet.workers[victim].exit().await;
            fleet.start_as(number);
        }
        Scenario::Join => {
            fleet.start();
        }
        Scenario::ColdStart => {}
    }
    if let Scenario::Join = scenario {
        let newcomer = fleet.settled().await.pop().expect("the newcomer");
        let after = records.plan().await;
        let stay: Vec<_> = after.iter().filter(|(_, owner)| *owner != newcomer.id()).map(|(n, _)| n.clone()).collect();
        let end = observer.last_taken();
        return vec![seconds(from, end), observer.longest_pause(&stay, from, end).as_secs_f64()];
    }
    let done = seconds(from, observer.processed_elsewhere(&lost, incarnation, from).await);
    if let Scenario::RestartKilled | Scenario::RestartHeld = scenario {
        fleet.settled().await;
        let after = records.plan().await;
        let moves = before.iter().filter(|(name, owner)| after.get(*name) != Some(*owner)).count();
        return vec![moves as f64, done];
    }
    vec![done]
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

fn print_table(rows: &mut [Row]) {
    println!("| what | median | worst | target | peer |\n| --- | --- | --- | --- | --- |");
    for Row { what, target, peer, unit, values } in rows {
        values.sort_by(f64::total_cmp);
        let show = |value: f64| if unit.is_empty() { format!("{value}") } else { format!("{value:.2} {unit}") };
        let worst = values.last().copied().unwrap_or_default();
        println!("| {what} | {} | {} | {target} | {peer} |", show(median(values)), show(worst));
    }
}

#[tokio::main]
async fn main() {
    let (mut runs, mut only) = (10_usize, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--runs", Some(count)) => runs = count.parse().expect("--runs takes a number"),
            ("--only", Some(name)) => only = Some(name),
            _ => panic!("usage: timings [--runs N] [--only NAME]"),
        }
    }
    let names = Scenario::ALL.map(|(name, _)| name).join(", ");
    let chosen: Vec<_> =
        Scenario::ALL.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)).collect();
    assert!(runs > 0 && !chosen.is_empty(), "--only takes one of {names}, --runs at least 1");
    let mut table = Vec::new();
    for (name, scenario) in chosen {
        let mut rows = scenario.rows();
        for number in 1..=runs {
            let values = Box::pin(run(scenario)).await;
            eprintln!("{name}, run {number} of {runs}: {values:.2?}");
            for (row, value) in rows.iter_mut().zip(values) {
                row.values.push(value);
            }
        }
        table.extend(rows);
    }
    print_table(&mut table);
}
