//! `cargo bench -p parti-coordination --bench assignment`: what the built-in strategies cost, how evenly they spread and how much
//! they move, with the peer's figures (the Go library parti, measured on another machine of two cores) beside ours.
//!
//! With `-- --plot` it draws `docs/images/strategies.svg` instead.

#[path = "assignment_plot.rs"]
mod plot;

use parti_coordination::strategy::{Candidate, ConsistentHash, Request, RoundRobin, Strategy, WeightedConsistentHash};
use parti_coordination::{Partition, WorkerId};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Runs of which the fastest counts.
const RUNS: usize = 21;

/// Workers in the order in which a leader asks about them.
fn workers(n: usize) -> Vec<Candidate> {
    let candidate = |n: usize| Candidate {
        worker: WorkerId::parse(&format!("worker-{n:04}")),
        capacity: 1,
        labels: BTreeMap::new(),
    };
    (0..n).map(candidate).collect()
}

fn partitions(n: usize, weight: impl Fn(usize) -> u64) -> Vec<Partition> {
    (0..n).filter_map(|n| Partition::new(vec![format!("tool-{n:06}")], weight(n)).ok()).collect()
}

/// A weight between these, as good as chance and always the same.
fn between(n: usize, least: u64, most: u64) -> u64 {
    least + (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % (most - least + 1)
}

fn heavy_tail(n: usize) -> u64 {
    if n % 20 == 7 { between(n, 10_000, 50_000) } else { 100 }
}

fn assign(strategy: &dyn Strategy, workers: usize, list: &[Partition], previous: &[Option<usize>]) -> Vec<usize> {
    let refs: Vec<&Partition> = list.iter().collect();
    strategy.assign(Request { workers: &self::workers(workers), partitions: &refs, previous })
}

/// What workers 0 to `workers` have of an answer.
fn kept(answer: &[usize], workers: usize) -> Vec<Option<usize>> {
    answer.iter().map(|worker| (*worker < workers).then_some(*worker)).collect()
}

/// Milliseconds of one answer: the fastest run, because what else the machine does only adds to it.
fn time(strategy: &dyn Strategy, workers: usize, list: &[Partition], previous: &[Option<usize>]) -> f64 {
    let refs: Vec<&Partition> = list.iter().collect();
    let fleet = self::workers(workers);
    let once = || {
        let begun = Instant::now();
        std::hint::black_box(strategy.assign(Request { workers: &fleet, partitions: &refs, previous }));
        begun.elapsed().as_secs_f64() * 1000.0
    };
    (0..RUNS).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// MiB by which the process grows at most during one answer, where the system tells.
fn memory(strategy: &dyn Strategy, workers: usize, list: &[Partition]) -> Option<f64> {
    let kib = |field: &str| -> Option<f64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        status.lines().find_map(|l| l.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
    };
    let refs: Vec<&Partition> = list.iter().collect();
    let (fleet, previous) = (self::workers(workers), vec![None; list.len()]);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = kib("VmRSS:")?;
    std::hint::black_box(strategy.assign(Request { workers: &fleet, partitions: &refs, previous: &previous }));
    Some((kib("VmHWM:")? - before).max(0.0) / 1024.0)
}

/// Ten times the partitions should cost at most twelve times the time.
fn growth() {
    println!("\ngrowth: time of one answer of 128 workers, and how many times that of a tenth of the partitions\n");
    for (name, strategy) in strategies() {
        let mut last: Option<f64> = None;
        for p in [1_000, 10_000, 100_000, 1_000_000] {
            let own = time(&*strategy, 128, &partitions(p, |_| 100), &vec![None; p]);
            let times = last.map_or(String::new(), |last| format!("{:.1} x", own / last));
            println!("{name:<24}{:>14}{own:>9.2} ms{times:>10}", format!("128x{p}"));
            last = Some(own);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn imbalance(answer: &[usize], list: &[Partition], workers: usize) -> (f64, f64, f64) {
    let mut loads = vec![0.0_f64; workers];
    for (owner, partition) in answer.iter().zip(list) {
        if let Some(load) = loads.get_mut(*owner) {
            *load += partition.weight() as f64;
        }
    }
    let mean = loads.iter().sum::<f64>() / workers as f64;
    let heaviest = list.iter().map(Partition::weight).max().unwrap_or(1) as f64 / mean;
    let most = loads.iter().copied().fold(0.0, f64::max);
    (most / mean, loads.iter().copied().fold(f64::INFINITY, f64::min) / mean, heaviest)
}

/// Percent of partitions that move, and that move between workers of both fleets.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn moved(before: &[usize], after: &[usize], from: usize, to: usize) -> (f64, f64) {
    let percent = |n: usize| n as f64 * 100.0 / before.len() as f64;
    let pairs = || before.iter().zip(after).filter(|(b, a)| b != a);
    (percent(pairs().count()), percent(pairs().filter(|(b, a)| **b < to && **a < from).count()))
}

fn strategies() -> [(&'static str, Box<dyn Strategy>); 3] {
    [
        ("consistentHash", Box::new(ConsistentHash::default())),
        ("weightedConsistentHash", Box::new(WeightedConsistentHash::default())),
        ("roundRobin", Box::new(RoundRobin)),
    ]
}

fn times() {
    println!(
        "time of one answer, fastest of {RUNS}, and memory; peer at 128 x 10,000: 9.5 ms, weighted 3.1 to 10.1 ms\n"
    );
    println!("{:<24}{:>14}{:>10}{:>12}{:>12}{:>12}", "", "fleet", "weights", "anew", "one joins", "memory");
    for (name, strategy) in strategies() {
        for (w, p) in [(128, 10_000), (500, 10_000), (500, 100_000)] {
            for (weights, list) in [("equal", partitions(p, |_| 100)), ("tail", partitions(p, heavy_tail))] {
                let strategy = &*strategy;
                let memory = memory(strategy, w, &list).map_or("?".into(), |mib| format!("{mib:.1} MiB"));
                let anew = time(strategy, w, &list, &vec![None; p]);
                let before = kept(&assign(strategy, w, &list, &vec![None; p]), w);
                let join = time(strategy, w + 1, &list, &before);
                println!("{name:<24}{:>14}{weights:>10}{anew:>9.2} ms{join:>9.2} ms{memory:>12}", format!("{w}x{p}"));
            }
        }
    }
}

fn balances() {
    println!("\nbalance: largest load over the mean (smallest; the heaviest partition alone)\n");
    let rare = |n: usize| if n % 20 == 7 { 10_000 } else { 100 };
    let fleets: [(&str, usize, Vec<Partition>, &str); 5] = [
        ("equal", 30, partitions(2400, |_| 100), "1.34"),
        ("equal", 64, partitions(5000, |_| 100), "1.41"),
        ("equal", 100, partitions(1500, |_| 100), "1.87"),
        ("5 % x 100", 64, partitions(5000, rare), "1.30 to 1.48"),
        ("150 of 3,000", 100, partitions(3000, heavy_tail), "1.30 to 1.48"),
    ];
    for (name, strategy) in strategies() {
        for (weights, w, list, peer) in &fleets {
            let (most, least, heaviest) = imbalance(&assign(&*strategy, *w, list, &vec![None; list.len()]), list, *w);
            let fleet = format!("{w}x{}", list.len());
            println!("{name:<24}{fleet:>12}{weights:>14}{most:>8.3} ({least:.3}; {heaviest:.3})   peer {peer}");
        }
    }
}

fn moves() {
    println!("\nmoves: of all partitions, between workers that stay, ideal; balance after\n");
    let fleets: [(&str, usize, usize, Vec<Partition>, &str); 5] = [
        ("equal", 30, 29, partitions(2400, |_| 100), "3.4 %"),
        ("equal", 30, 31, partitions(2400, |_| 100), ""),
        ("equal", 100, 110, partitions(3000, |_| 100), ""),
        ("150 of 3,000", 100, 110, partitions(3000, heavy_tail), "30.8 %"),
        ("50 to 149", 30, 31, partitions(2400, |n| between(n, 50, 149)), ""),
    ];
    for (name, strategy) in strategies() {
        for (weights, from, to, list, peer) in &fleets {
            let before = assign(&*strategy, *from, list, &vec![None; list.len()]);
            let after = change(name, &*strategy, weights, list, &before, *from, *to, peer);
            if *from == 100 {
                change(name, &*strategy, weights, list, &after, *to, *from, "");
            }
        }
    }
}

/// Prints what a change of the fleet does, and returns who has what after it.
#[expect(clippy::too_many_arguments, reason = "one line of a table")]
fn change(
    name: &str,
    strategy: &dyn Strategy,
    weights: &str,
    list: &[Partition],
    before: &[usize],
    from: usize,
    to: usize,
    peer: &str,
) -> Vec<usize> {
    let after = assign(strategy, to, list, &kept(before, to));
    let (all, stayers) = moved(before, &after, from, to);
    let (most, least, heaviest) = imbalance(&after, list, to);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let ideal = from.abs_diff(to) as f64 * 100.0 / from.max(to) as f64;
    let peer = if peer.is_empty() { String::new() } else { format!("   peer {peer}") };
    let fleet = format!("{from} to {to}");
    println!(
        "{name:<24}{fleet:>12}{weights:>14}{all:>7.2} %{stayers:>7.2} %{ideal:>7.2} %   {most:.3} ({least:.3}; {heaviest:.3}){peer}"
    );
    after
}

/// What the options of `consistentHash` change.
fn options() {
    println!("\noptions of consistentHash\n");
    let equal = partitions(5000, |_| 100);
    for virtual_nodes in [1, 10, 50, 150, 300, 1000] {
        let strategy = ConsistentHash { virtual_nodes, ..ConsistentHash::default() };
        let none = vec![None; 5000];
        let (a, b) = (assign(&strategy, 64, &equal, &none), assign(&strategy, 65, &equal, &none));
        let (differs, _) = moved(&a, &b, 64, 65);
        let cost = time(&strategy, 64, &equal, &none);
        println!(
            "virtualNodes {virtual_nodes:<6} 64 and 65 workers without previous owners differ in {differs:.1} %, {cost:.2} ms"
        );
    }
    let (before, after) = (|n| between(n, 50, 149), |n| between(n + 9999, 50, 179));
    for load_bound in [1.0, 1.02, 1.05, 1.1, 1.25, 1.5] {
        let strategy = ConsistentHash { load_bound, ..ConsistentHash::default() };
        let first = assign(&strategy, 64, &partitions(5000, before), &vec![None; 5000]);
        let list = partitions(5000, after);
        let second = assign(&strategy, 64, &list, &kept(&first, 64));
        let (all, _) = moved(&first, &second, 64, 64);
        let (most, least, _) = imbalance(&second, &list, 64);
        println!("loadBound {load_bound:<9} weights change: {all:.2} % move, balance {most:.3} ({least:.3})");
    }
}

fn main() -> std::io::Result<()> {
    if std::env::args().any(|arg| arg == "--plot") {
        return plot::draw(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/strategies.svg"));
    }
    times();
    growth();
    balances();
    moves();
    options();
    Ok(())
}
