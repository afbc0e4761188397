//! Random faults, one every second or two, on five workers under the default configuration with 100 partitions and 1,000
//! messages a second; then everything that was published is held against everything that came out.
//!
//! One round of a minute is part of every run, always with the same faults; how long it took until all was handled is told, but
//! on a busy machine decides nothing. The others run with `make soak`, where `PARTI_SOAK_MINUTES` goes on for so long, round after
//! round, each with the next seed; rounds of five minutes outlast the duplicate window. `PARTI_SOAK_SEED` chooses other faults.
//!
//! The tests have threads of their own: the network of the workers goes through this process, and must not wait while it
//! compares.

use parti_tests::{
    Deck, Expected, Faults, Fleet, Handling, NatsCluster, NatsServer, Producer, Servers, Stall, Verdict,
    create_streams, dead_letters, soak_minutes, soak_seed, subject,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use std::io::Write as _;
use std::time::{Duration, Instant};

const PARTITIONS: usize = 100;
const RATE: u64 = 1000;

/// Three servers on one machine, each of which stores everything, take less.
const CLUSTER_RATE: u64 = 200;

/// Where it is about swaps.
const SWAPS_RATE: u64 = 10_000;
const BYTES: usize = 256;

/// A round of an ordinary run, and a long one.
const ROUND: Duration = Duration::from_secs(60);
const LONG_ROUND: Duration = Duration::from_secs(300);

/// How long it may take after the last fault until everything is handled, on a machine that has nothing else to do.
const RECOVERY: Duration = Duration::from_secs(60);

/// How long it is waited for: what comes late is not lost.
const PATIENCE: Duration = Duration::from_secs(300);

/// A message for a partition: a few have many, many have few.
fn message(seed: u64, n: u64, handling: Handling) -> (String, String) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n));
    let place: f64 = random.random::<f64>().powi(4);
    let partition = (place * PARTITIONS as f64) as usize;
    let text = handling.payload(seed.wrapping_mul(1_000_000_000).wrapping_add(n));
    (subject(partition), format!("{text:BYTES$}"))
}

/// A row of the summary. What `make test` prints, also where tests pass: directly, because the output of a test that passes is
/// kept back.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Round {
    handling: Handling,
    deck: Deck,
    clustered: bool,
    seed: u64,
    time: Duration,
    /// How long it may take after the last fault until everything is handled; waited for is as long as it takes.
    recovery: Duration,
}

impl Round {
    async fn run(&self) {
        let copies = if self.clustered { 3 } else { 1 };
        let servers = if self.clustered {
            Servers::Cluster(NatsCluster::start().await)
        } else {
            Servers::One(NatsServer::start().await)
        };
        let context = servers.jetstream().await;
        create_streams(&context, self.handling, copies).await;
        let fleet = Fleet::by_default_at(&servers.urls(), PARTITIONS, self.handling.plugin())
            .with(dead_letters())
            .with(json!({
                "kvBucket": { "replicas": copies },
                "log": { "level": "debug" },
                // Who is cut off while it starts goes on, as it would with somebody who starts it again.
                "startupTimeout": "300s",
                // Some messages are such that every version rejects them.
                "handler": {
                    "swap": { "maxRejectRate": 1.0 },
                    "isolation": if self.seed % 2 == 1 { "shared" } else { "partition" },
                },
            }));
        let mut faults = Faults::start(fleet, servers, self.handling.plugin(), self.deck, self.seed).await;
        let (seed, handling) = (self.seed, self.handling);
        let rate = match self.deck {
            Deck::Swaps => SWAPS_RATE,
            Deck::Full if self.clustered => CLUSTER_RATE,
            Deck::Full => RATE,
        };
        let total = rate * self.time.as_secs();
        let producer = Producer::start_with(&context, rate, total, move |n| message(seed, n, handling));
        faults.run(self.time).await;
        let over = Instant::now();
        producer.finish_within(PATIENCE).await;

        let expected = Expected::of(&context, handling, PARTITIONS).await;
        let handled_from = Instant::now();
        let (verdict, took) = Box::pin(expected.handled_within(PATIENCE)).await;
        let recovered = handled_from.duration_since(over) + took;
        self.tell(&faults, &verdict, recovered).await;
        assert!(verdict.is_clean(), "seed {seed}: {verdict}\n{}", faults.story().join("\n"));
        assert!(recovered <= self.recovery, "seed {seed}: all is handled, but only {recovered:?} after the last fault");
        faults.leavers_have_left().await;
        faults.fleet.settled().await;
        faults.end().await;
        let verdict = Box::pin(expected.judge()).await;
        assert!(verdict.is_clean(), "seed {seed}, after everybody has left: {verdict}\n{}", faults.story().join("\n"));
    }

    async fn tell(&self, faults: &Faults, verdict: &Verdict, recovered: Duration) {
        let Verdict { messages, lost, repeated, repeated_late, disordered, strange, states, stalls, .. } = verdict;
        let counts: Vec<_> = faults.counts().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let stall = |stall: &Stall| {
            let (lasted, since) = (stall.lasted.as_secs_f64(), faults.after(stall.since));
            format!("{lasted:.1} s ({} from T+{since:.1} s)", stall.partition)
        };
        let longest: Vec<_> = stalls.iter().take(3).map(stall).collect();
        let median = stalls.get(stalls.len() / 2).map_or(0.0, |stall| stall.lasted.as_secs_f64());
        let mut swaps = Vec::new();
        for result in ["kept", "taken-back", "refused"] {
            swaps.push(format!(
                "{result} {}",
                faults.sum(&format!("parti_plugin_swaps_total{{result=\"{result}\"")).await
            ));
        }
        let cluster = if self.clustered { " on a cluster" } else { "" };
        tell(&format!(
            "soak of {}{cluster}, seed {}, {} s: {messages} messages, lost {lost}, duplicated {repeated} within and \
             {repeated_late} beyond the window, out of order {disordered}, strange {strange}, state mismatches {states}, \
             longest stalls {}, median of the partitions' longest {median:.1} s, all handled {:.1} s after the last fault; faults: {}; swaps of the workers that are left: {}, \
             pauses of their partitions {}",
            self.handling.plugin(),
            self.seed,
            self.time.as_secs(),
            longest.join(", "),
            recovered.as_secs_f64(),
            counts.join(", "),
            swaps.join(", "),
            pauses(faults).await
        ));
    }
}

/// Within which time half of the partitions that changed their version went on, and 99 of 100, as far as the buckets of the metric tell.
async fn pauses(faults: &Faults) -> String {
    const NAME: &str = "parti_plugin_swap_pause_seconds";
    let count = faults.sum(&format!("{NAME}_count")).await;
    let within = async |share: u64| {
        for le in ["0.0005", "0.001", "0.002", "0.003", "0.005", "0.0075", "0.01", "0.03", "0.1", "0.3", "1", "5"] {
            if faults.sum(&format!("{NAME}_bucket{{le=\"{le}\"")).await * 100 >= count * share {
                return format!("{le} s");
            }
        }
        "more than 5 s".to_owned()
    };
    format!("{count}: p50 within {}, p99 within {}", within(50).await, within(99).await)
}

/// One short round, or as many as fit into the minutes that were asked for.
async fn soak(handling: Handling, deck: Deck, clustered: bool, seed: u64) {
    let (begun, minutes) = (Instant::now(), soak_minutes());
    for number in 0.. {
        let time = if number % 2 == 1 { LONG_ROUND } else { ROUND };
        let seed = soak_seed(seed) + number;
        Box::pin(Round { handling, deck, clustered, seed, time, recovery: RECOVERY }.run()).await;
        if minutes.is_none_or(|minutes| begun.elapsed() > minutes) {
            return;
        }
    }
}

/// The state of `control-chart` holds every message, in order and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_random_faults_loses_repeats_and_reorders_nothing() {
    let (handling, seed) = (Handling::ControlChart, soak_seed(60));
    Box::pin(Round { handling, deck: Deck::Full, clustered: false, seed, time: ROUND, recovery: PATIENCE }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_repeat_and_reorder_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    soak(Handling::Relay, Deck::Full, false, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_leave_every_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    soak(Handling::ControlChart, Deck::Full, false, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_and_messages_that_trap_lose_repeat_and_reorder_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    soak(Handling::Ledger, Deck::Full, false, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_deaths_of_workers_and_stream_leaders_lose_repeat_and_reorder_nothing() {
    if parti_tests::is_soak() {
        soak(Handling::Ledger, Deck::Full, true, 4).await;
    }
}

/// Twenty swaps and more in a minute, at ten thousand messages a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_among_deaths_and_moves_lose_repeat_and_reorder_nothing() {
    if parti_tests::is_soak() {
        soak(Handling::ControlChart, Deck::Swaps, false, 5).await;
    }
}
