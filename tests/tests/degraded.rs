//! Stale but stable: without NATS a fleet keeps its partitions, raises alerts and recovers by itself. The user guide's
//! recovery scenarios, with its thresholds shortened; `--nocapture` shows their timelines. `PARTI_SOAK=1` adds an outage of
//! 30 s under the defaults.

use parti_tests::{
    Answer, Fleet, LogLine, Moment, NatsServer, Producer, Proxy, Records, assert_relayed, eventually, eventually_is,
    is_soak, subject,
};
use serde_json::{Value, json};
use std::time::Duration;

const PARTITIONS: usize = 30;
const EMERGENCIES: &str = r#"parti_plans_published_total{lifecycle="emergency"}"#;
const ALERT: &str = "Degraded alert";
const ENTERED: &str = "Degraded: going on with the assignment in force";
const LEFT: &str = "Degraded mode is over; reading everything anew";

/// Seconds, each well apart from the others.
const ENTER: f64 = 3.0;
const EXIT: f64 = 2.0;
const GRACE: f64 = 8.0;
const LEVELS: [(&str, f64); 4] = [("Info", 4.0), ("Warn", 5.0), ("Error", 6.0), ("Critical", 7.0)];

fn thresholds() -> Value {
    json!({
        "degradedBehavior": { "enterThreshold": "3s", "exitThreshold": "2s", "recoveryGracePeriod": "8s" },
        "degradedAlert": {
            "infoThreshold": "4s", "warnThreshold": "5s", "errorThreshold": "6s", "criticalThreshold": "7s",
            "alertInterval": "1s",
        },
    })
}

/// The lines of a worker's log that say this.
fn said(fleet: &Fleet, worker: usize, message: &str) -> Vec<LogLine> {
    fleet.workers[worker].log_lines().into_iter().filter(|line| line.message() == message).collect()
}

/// When a worker first said this.
fn first(fleet: &Fleet, worker: usize, message: &str) -> Moment {
    said(fleet, worker, message).first().unwrap_or_else(|| panic!("worker {worker} never said {message:?}")).at
}

/// Waits until this many alerts of a level were raised by each of these workers.
async fn alerted(fleet: &Fleet, workers: &[usize], level: &str, count: usize) {
    for &worker in workers {
        eventually(&format!("worker {worker} alerts {level}"), async || {
            match said(fleet, worker, ALERT).iter().filter(|line| line.text("alert") == level).count() {
                found if found >= count => Ok(()),
                found => Err(format!("{found} times")),
            }
        })
        .await;
    }
}

async fn said_by_all(fleet: &Fleet, workers: &[usize], message: &str) {
    for &worker in workers {
        fleet.workers[worker].logs(&[message]).await;
    }
}

/// Shows what happened since the outage began.
fn print_timeline(scenario: &str, fleet: &Fleet, outage: Moment) {
    println!("{scenario}");
    let shown = [ALERT, ENTERED, LEFT, "Worker is dead", "Plan published", "Leader elected", "State changed"];
    let mut lines: Vec<_> = (0..fleet.workers.len())
        .flat_map(|worker| fleet.workers[worker].log_lines().into_iter().map(move |line| (line.at.since(outage), line)))
        .filter(|(at, line)| *at > -0.1 && shown.contains(&line.message()))
        .collect();
    lines.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    for (at, line) in lines {
        let details: Vec<_> = ["alert", "why", "lifecycle", "evidence", "leader", "from", "to"]
            .into_iter()
            .filter_map(|field| Some(format!("{field}={}", line.fields[field].as_str()?)))
            .collect();
        println!("  [T+{at:4.1}s] {:9} {} {}", line.text("worker"), line.message(), details.join(" "));
    }
}

/// Panics unless a worker kept to the thresholds: it entered the mode, raised each of these levels in order and left.
fn assert_kept_to_thresholds(fleet: &Fleet, worker: usize, outage: Moment, restored: Moment, levels: &[(&str, f64)]) {
    let (entered, left) = (first(fleet, worker, ENTERED), first(fleet, worker, LEFT));
    assert!(entered.since(outage) >= ENTER, "worker {worker} entered {} s after the outage", entered.since(outage));
    assert!(left.since(restored) >= EXIT, "worker {worker} left {} s after the end", left.since(restored));
    let alerts = said(fleet, worker, ALERT);
    let mut raised: Vec<_> = alerts.iter().map(|line| line.text("alert")).collect();
    raised.dedup();
    assert_eq!(raised, levels.iter().map(|(level, _)| *level).collect::<Vec<_>>(), "worker {worker}");
    for (level, threshold) in levels {
        let alert = alerts.iter().find(|line| line.text("alert") == *level).expect("an alert");
        assert!(alert.at.since(outage) >= *threshold, "{level} after {} s", alert.at.since(outage));
        let lasted = alert.fields["lastedSeconds"].as_f64().expect("a number");
        assert!(lasted >= *threshold, "{level} says that the outage has lasted {lasted} s");
    }
    let states: Vec<_> = said(fleet, worker, "State changed")
        .into_iter()
        .filter(|line| line.at.since(outage) > 0.0)
        .map(|line| line.text("to").to_owned())
        .collect();
    assert_eq!(states.first().map(String::as_str), Some("Degraded"), "worker {worker}: {states:?}");
    assert_eq!(states.get(1).map(String::as_str), Some("Stable"), "worker {worker}: {states:?}");
}

/// What a worker shows while it does without NATS.
async fn assert_shows_degraded(fleet: &Fleet, worker: usize, levels: &[(&str, f64)]) {
    let (name, threshold) = levels[levels.len() - 1];
    let worker = &fleet.workers[worker];
    let status = worker.status().await.expect("a status");
    assert_eq!(status.state, "Degraded");
    assert_eq!(status.degraded.and_then(|outage| outage.level).as_deref(), Some(name));
    assert_eq!(status.owned_partitions, PARTITIONS / 3, "it keeps what it has");
    assert_eq!(worker.get("/health/ready").await, Ok(Answer { status: 200, body: "OK".to_owned() }));
    assert_eq!(worker.metric("parti_degraded_mode").await, 1);
    assert_eq!(worker.metric("parti_worker_state").await, 8);
    assert_eq!(worker.metric("parti_alert_level").await, levels.len() as u64);
    assert!(worker.metric("parti_cache_age_seconds").await as f64 >= threshold);
    assert_eq!(worker.metric("parti_degraded_duration_seconds_count").await, 0);
}

/// What is left of an outage once it is over.
async fn assert_shows_recovered(fleet: &Fleet, worker: usize, lasted: f64) {
    let alerts = said(fleet, worker, ALERT);
    let worker = &fleet.workers[worker];
    assert_eq!(worker.status().await.expect("a status").degraded, None);
    for series in ["parti_degraded_mode", "parti_alert_level", "parti_cache_age_seconds"] {
        assert_eq!(worker.metric(series).await, 0, "{series}");
    }
    assert_eq!(worker.metric("parti_degraded_duration_seconds_count").await, 1);
    assert!(worker.metric("parti_degraded_duration_seconds_sum").await as f64 >= lasted.floor());
    for (level, _) in LEVELS {
        let logged = alerts.iter().filter(|line| line.text("alert") == level).count() as u64;
        let counted = worker.metric(&format!("parti_degraded_alerts_total{{level=\"{level}\"}}")).await;
        assert_eq!(counted, logged, "alerts of level {level}");
    }
}

/// The server is away until every worker has raised the last of these alerts `count` times.
async fn outage(scenario: &str, keys: Value, levels: &[(&str, f64)], count: usize) {
    let (mut server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(thresholds()).with(keys);
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 3000, |n| n.to_string());
    producer.reach(1000).await;

    let all = [0, 1, 2];
    let began = Moment::now();
    server.kill();
    let (last, lasted) = levels[levels.len() - 1];
    alerted(&fleet, &all, last, count).await;
    for worker in all {
        assert_shows_degraded(&fleet, worker, levels).await;
    }
    let restored = Moment::now();
    server.restart().await;
    said_by_all(&fleet, &all, LEFT).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    print_timeline(scenario, &fleet, began);
    for worker in all {
        assert_kept_to_thresholds(&fleet, worker, began, restored, levels);
        assert_shows_recovered(&fleet, worker, lasted).await;
    }
    assert_eq!(records.standing().await.under_any_leader(), before.under_any_leader());
    assert_eq!(fleet.sum(EMERGENCIES).await, 0);
}

#[tokio::test]
async fn scenario_1_a_transient_outage_enters_and_leaves_degraded_mode_by_the_thresholds() {
    let later =
        json!({ "degradedAlert": { "warnThreshold": "5m", "errorThreshold": "15m", "criticalThreshold": "30m" } });
    Box::pin(outage("Scenario 1: transient NATS outage", later, &LEVELS[..1], 1)).await;
}

#[tokio::test]
async fn scenario_2_a_prolonged_outage_raises_every_alert_repeats_the_last_and_moves_nothing() {
    Box::pin(outage("Scenario 2: prolonged NATS outage", json!({}), &LEVELS, 3)).await;
}

/// The leader is back first: it judges nobody until its recovery grace period is over, and then it does.
#[tokio::test]
async fn scenario_3_a_leader_that_recovers_first_condemns_nobody_who_recovers_later() {
    let (mut server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let proxies = [Proxy::to(&server).await, Proxy::to(&server).await];
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(thresholds());
    fleet.start_settled(1).await;
    for proxy in &proxies {
        fleet.start_behind(proxy);
    }
    assert!(fleet.settled().await[0].is_leader);
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 3000, |n| n.to_string());
    producer.reach(500).await;

    let began = Moment::now();
    server.kill();
    proxies.iter().for_each(Proxy::cut);
    said_by_all(&fleet, &[0, 1, 2], ENTERED).await;
    server.restart().await;
    fleet.workers[0].logs(&[LEFT]).await;
    for worker in [1, 2] {
        assert!(said(&fleet, worker, LEFT).is_empty(), "worker {worker} is still cut off");
    }
    proxies.iter().for_each(Proxy::heal);
    said_by_all(&fleet, &[1, 2], LEFT).await;
    fleet.settled().await;
    assert_eq!(records.standing().await.under_any_leader(), before.under_any_leader());
    assert_eq!(fleet.sum(EMERGENCIES).await, 0);

    // The judge is who leads now; it may have been back late itself.
    let (leader, follower) = fleet.leader_and_follower().await;
    fleet.workers[follower].kill();
    fleet.workers[leader].logs(&["Worker is dead"]).await;
    let waited = first(&fleet, leader, "Worker is dead").since(first(&fleet, leader, LEFT));
    assert!(waited >= GRACE, "it judged {waited} s after its recovery");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    print_timeline("Scenario 3: split-brain recovery", &fleet, began);
}

/// A connection that stands and passes nothing is an outage too: operations time out, and then the connection is given up.
#[tokio::test]
async fn a_follower_whose_connection_stalls_is_degraded_and_gets_its_partitions_back_or_keeps_them() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let proxy = Proxy::to(&server).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(thresholds());
    fleet.start_settled(2).await;
    fleet.start_behind(&proxy);
    fleet.settled().await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 6000, |n| n.to_string());
    producer.reach(500).await;
    proxy.stall();
    fleet.workers[2].logs(&[ENTERED]).await;
    eventually_is("it shows that it is degraded", 1, async || fleet.workers[2].metric("parti_degraded_mode").await)
        .await;
    proxy.heal();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    for status in fleet.settled().await {
        assert_eq!(status.partition_count, PARTITIONS / 3);
    }
    for (name, (_, epoch)) in records.standing().await.epochs {
        let taken = epoch - before.epochs[&name].1;
        assert!(taken <= 2, "{name} moved away and back at most, and was taken {taken} times");
    }
}

#[tokio::test]
async fn an_outage_of_30_s_under_the_defaults_enters_and_leaves_the_mode_and_moves_nothing() {
    if !is_soak() {
        return;
    }
    let (mut server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let began = Moment::now();
    server.kill();
    tokio::time::sleep(Duration::from_secs(30)).await;
    for worker in &fleet.workers {
        assert_eq!(worker.metric("parti_degraded_mode").await, 1);
    }
    server.restart().await;
    said_by_all(&fleet, &[0, 1, 2], LEFT).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    Producer::start(&context, &subjects, 1000, 3000, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    print_timeline("NATS away for 30 s, default thresholds", &fleet, began);
    for worker in 0..3 {
        assert!(first(&fleet, worker, ENTERED).since(began) >= 10.0);
        assert!(first(&fleet, worker, LEFT).since(began) >= 35.0);
    }
    assert_eq!(records.standing().await.under_any_leader(), before.under_any_leader());
    assert_eq!(fleet.sum(EMERGENCIES).await, 0);
}
