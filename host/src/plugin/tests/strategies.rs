//! Assignment strategies through this host.

use super::*;
use parti_coordination::WorkerId;
use parti_coordination::record::Lifecycle;
use parti_coordination::strategy::{
    Candidate, ConsistentHash, Question, Request, RoundRobin, Strategy, WeightedConsistentHash,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// So many workers in turn of the zones a and b, and as many partitions of each zone, of which nobody has any.
fn question(workers: u32, partitions: usize) -> Question {
    let zone = |n: usize| if n.is_multiple_of(2) { "a" } else { "b" };
    let worker = |n: u32| Candidate {
        worker: WorkerId::new("worker", n),
        capacity: 1,
        labels: BTreeMap::from([("zone".to_owned(), zone(n as usize).to_owned())]),
    };
    let key = |n: usize| vec![format!("zone-{}", zone(n)), format!("tool-{n:06}")];
    Question {
        lifecycle: Lifecycle::ColdStart,
        orphans_only: false,
        workers: (0..workers).map(worker).collect(),
        partitions: (0..partitions).map(|n| Partition::new(key(n), 100).unwrap()).collect(),
        previous: vec![None; partitions],
    }
}

async fn ask(config: Value) -> Result<Vec<usize>, CallError> {
    let engine = PluginEngine::new().unwrap();
    // What is to be stopped for its time is stopped soon; everything else has time enough.
    let limits = match config["how"].as_str() {
        Some("hang") => Limits { call_timeout: Duration::from_millis(150), ..Limits::default() },
        _ => Limits::default(),
    };
    let settings = PluginSettings { section: "strategy.plugin".into(), ..settings(limits, object(config)) };
    let plugin = StrategyPlugin::load(&engine, "oracle", &component("oracle"), settings).unwrap();
    plugin.assign(&question(3, 6)).await
}

#[tokio::test]
async fn a_strategy_answers_or_says_why_not() {
    assert_eq!(ask(json!({})).await.unwrap(), [0, 1, 2, 0, 1, 2]);
    // What is wrong with an answer is for the core to find.
    assert_eq!(ask(json!({"how": "range"})).await.unwrap()[0], 3);
    assert_eq!(ask(json!({"how": "short"})).await.unwrap().len(), 5);
    let error = ask(json!({"how": "error"})).await.unwrap_err();
    assert!(error.to_string().contains("plugin oracle refused to assign the partitions: the stars"), "{error}");
}

#[tokio::test]
async fn a_strategy_that_traps_hangs_hoards_or_floods_ends_in_an_error_of_its_own() {
    let failed = async |how: &str| ask(json!({ "how": how })).await.unwrap_err();
    let error = failed("trap").await;
    assert!(matches!(error, CallError::Trap { .. }), "{error:?}");
    let error = failed("hang").await;
    assert!(error.to_string().contains("strategy.plugin.callTimeout, which is 150ms"), "{error}");
    let error = failed("bomb").await;
    assert!(error.to_string().contains("strategy.plugin.limits.memory allows 64 MiB"), "{error}");
    let error = failed("flood").await;
    assert!(error.to_string().contains("strategy.plugin.limits.hostCallBytes"), "{error}");
}

#[tokio::test]
async fn five_hundred_workers_and_a_hundred_thousand_partitions_fit_into_the_default_limits() {
    let engine = PluginEngine::new().unwrap();
    let settings = PluginSettings { section: "strategy.plugin".into(), ..settings(Limits::default(), Map::new()) };
    let plugin = StrategyPlugin::load(&engine, "zone-aware", &example("zone-aware"), settings).unwrap();
    let mut question = question(500, 100_000);
    let begun = Instant::now();
    let first = plugin.assign(&question).await.unwrap();
    println!("the first plan of 500 workers and 100,000 partitions: {:?}", begun.elapsed());
    for zone in 0..2 {
        let in_zone = first.iter().skip(zone).step_by(2);
        assert!(in_zone.clone().all(|worker| worker % 2 == zone), "zone {zone}");
    }
    let count = |answer: &[usize], worker: usize| answer.iter().filter(|owner| **owner == worker).count();
    assert!((0..500).all(|worker| count(&first, worker) == 200));
    // One dies: its partitions alone move.
    let dead = question.workers.pop().unwrap();
    assert_eq!(dead.worker, WorkerId::new("worker", 499));
    question.previous = first.iter().map(|owner| (*owner < 499).then_some(*owner)).collect();
    let begun = Instant::now();
    let second = plugin.assign(&question).await.unwrap();
    println!("the plan after a death: {:?}", begun.elapsed());
    assert_eq!(first.iter().zip(&second).filter(|(before, after)| before != after).count(), 200);
}

/// The built-in strategies, with the plugins of the same names and the options that both have.
fn built_in() -> [(&'static str, Value, Box<dyn Strategy>); 4] {
    let narrow = ConsistentHash { virtual_nodes: 50, hash_seed: 7, load_bound: 1.02 };
    [
        ("consistent-hash", json!({}), Box::new(ConsistentHash::default())),
        ("consistent-hash", json!({"virtualNodes": 50, "hashSeed": 7, "loadBound": 1.02}), Box::new(narrow)),
        ("weighted-consistent-hash", json!({}), Box::new(WeightedConsistentHash::default())),
        ("round-robin", json!({}), Box::new(RoundRobin)),
    ]
}

fn natively(strategy: &dyn Strategy, question: &Question) -> Vec<usize> {
    let partitions: Vec<&Partition> = question.partitions.iter().collect();
    strategy.assign(Request { workers: &question.workers, partitions: &partitions, previous: &question.previous })
}

fn load_strategy(engine: &PluginEngine, name: &str, config: Value) -> Arc<StrategyPlugin> {
    let settings = PluginSettings { section: "strategy.plugin".into(), ..settings(Limits::default(), object(config)) };
    StrategyPlugin::load(engine, name, &example(name), settings).unwrap()
}

#[tokio::test]
async fn a_built_in_strategy_answers_the_same_as_a_component() {
    let engine = PluginEngine::new().unwrap();
    for (name, config, strategy) in built_in() {
        let plugin = load_strategy(&engine, name, config);
        for (workers, partitions, weighs) in [(1, 1, 1), (3, 9, 1), (7, 100, 3), (5, 3, 1), (40, 2000, 400)] {
            let mut question = question(workers, partitions);
            for (n, partition) in question.partitions.iter_mut().enumerate() {
                let weight = if n % 20 == 7 { 100 * weighs } else { 100 + n as u64 % weighs };
                *partition = Partition::new(partition.keys().to_vec(), weight).unwrap();
            }
            question.workers[0].capacity = 2;
            for joins in [0, 2] {
                let first = question.workers.len() as u32;
                let joined = (first..first + joins)
                    .map(|n| Candidate { worker: WorkerId::new("worker", n), ..question.workers[0].clone() });
                let joined: Vec<_> = joined.collect();
                question.workers.extend(joined);
                let answer = plugin.assign(&question).await.unwrap();
                assert_eq!(answer, natively(&*strategy, &question), "{name}, {workers} x {partitions}, {joins} join");
                question.previous = answer.into_iter().map(Some).collect();
            }
        }
    }
}

/// `cargo test --release -p parti --lib through_webassembly -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement, for an idle machine"]
async fn what_built_in_strategies_cost_through_webassembly() {
    let engine = PluginEngine::new().unwrap();
    for (name, config, strategy) in built_in() {
        let plugin = load_strategy(&engine, name, config.clone());
        let question = question(128, 10_000);
        let (mut native, mut guest) = (Duration::MAX, Duration::MAX);
        // In turn, so that what else the machine does hits both; the fastest counts.
        for _ in 0..15 {
            let begun = Instant::now();
            std::hint::black_box(natively(&*strategy, &question));
            native = native.min(begun.elapsed());
            let begun = Instant::now();
            plugin.assign(&question).await.unwrap();
            guest = guest.min(begun.elapsed());
        }
        let ratio = guest.as_secs_f64() / native.as_secs_f64();
        println!("{name} {config}: 128 x 10,000 in {native:?}, as a component {guest:?}, {ratio:.1} times that");
    }
}
