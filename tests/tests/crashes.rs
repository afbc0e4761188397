//! Processes that die under load: nothing is lost, doubled or reordered, and state is right.

use control_chart_math::{Chart, Settings};
use parti_tests::{
    Fleet, NatsServer, Producer, Records, Status, assert_relayed, eventually_is, partition, read_stream, short_leases,
    subject,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PARTITIONS: usize = 30;

/// Kills some of three workers in the middle of the flow: the leader, a follower, or both.
async fn kill_under_load(kill_leader: bool, kill_follower: bool) {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let (leader, follower) = fleet.leader_and_follower().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    producer.reach(2000).await;
    for (dies, worker) in [(kill_leader, leader), (kill_follower, follower)] {
        if dies {
            fleet.workers[worker].kill();
        }
    }
    producer.finish().await;

    assert_relayed(&context, "work", "out", &subjects).await;
    let shares: Vec<_> = fleet.settled().await.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, vec![PARTITIONS / shares.len(); shares.len()]);
}

#[tokio::test]
async fn a_sigkilled_follower_loses_nothing() {
    kill_under_load(false, true).await;
}

#[tokio::test]
async fn a_sigkilled_leader_loses_nothing() {
    kill_under_load(true, false).await;
}

#[tokio::test]
async fn leader_and_follower_killed_at_once_lose_nothing() {
    kill_under_load(true, true).await;
}

/// Freezes a follower for longer than every lease, and lets it run on, with or without a new process in its place.
async fn freeze_under_load(replace: bool) {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(short_leases());
    fleet.start_settled(3).await;
    let (_, follower) = fleet.leader_and_follower().await;
    let frozen = fleet.workers[follower].status().await.expect("a status");
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 8000, |n| n.to_string());
    producer.reach(1000).await;
    fleet.workers[follower].freeze();
    eventually_is("its ID has expired", false, async || records.is_claimed(frozen.id()).await).await;
    eventually_is("nothing is left to it", false, async || records.plan().await.values().any(|id| id == frozen.id()))
        .await;
    if replace {
        let number = frozen.id().rsplit('-').next().and_then(|number| number.parse().ok());
        fleet.start_as(number);
        eventually_is("its ID is another's", true, async || records.is_claimed(frozen.id()).await).await;
    }
    fleet.workers[follower].thaw();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;

    let statuses = fleet.settled().await;
    let ids: BTreeSet<_> = statuses.iter().map(Status::id).collect();
    assert_eq!(ids.len(), if replace { 4 } else { 3 }, "every process has an ID of its own");
    assert_eq!(statuses[follower].id() == frozen.id(), !replace, "it is {}", statuses[follower].id());
    let after = records.standing().await;
    // Away from the frozen one, then to each process that joins: more would be two that seize from each other.
    let moves = if replace { 3 } else { 2 };
    for (name, worker) in after.owners {
        let (owner, epoch) = &after.epochs[&name];
        assert_eq!(*owner, worker, "the owner of {name}");
        let taken = epoch - before.epochs[&name].1;
        assert!(taken <= moves, "{name} was taken {taken} times");
    }
}

#[tokio::test]
async fn a_worker_frozen_for_longer_than_every_lease_does_no_harm_and_joins_again() {
    Box::pin(freeze_under_load(false)).await;
}

#[tokio::test]
async fn a_frozen_worker_whose_id_was_taken_does_no_harm_and_gets_another() {
    Box::pin(freeze_under_load(true)).await;
}

#[tokio::test]
async fn state_is_exactly_once_when_every_worker_is_killed_in_turn() {
    let (server, context) = NatsServer::with_streams(&["work", "alarms"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "control-chart");
    fleet.start_settled(3).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    // Every partition has an outlier now and then, so that there are alarms to compare.
    let payload = |n: u64| {
        json!({ "value": if n.is_multiple_of(97) { 900.0 } else { ((n * 7919) % 101) as f64 / 8.0 } }).to_string()
    };
    let producer = Producer::start(&context, &subjects, 1000, 9000, payload);
    for (victim, at) in [(0, 1500), (1, 4500)] {
        producer.reach(at).await;
        fleet.workers[victim].kill();
        fleet.start();
        fleet.settled().await;
    }
    producer.finish().await;

    let mut charts: BTreeMap<String, Chart> = BTreeMap::new();
    let mut alarms = Vec::new();
    for message in read_stream(&context, "work").await {
        let reading: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let chart = charts.entry(message.subject.clone()).or_default();
        let value = reading["value"].as_f64().expect("a number");
        if chart.add(&Settings::default(), message.sequence, value).expect("a finite reading").is_some() {
            alarms.push(message.sequence);
        }
    }
    let records = Records::open(&context).await;
    for n in 0..PARTITIONS {
        let expected = charts[&subject(n)];
        let record = records.committed(&partition(n), expected.last_sequence).await;
        let snapshot = record.snapshot.expect("a snapshot").load().expect("base64");
        let found: Chart = serde_json::from_slice(&snapshot.data).expect("a chart");
        assert_eq!(found, expected, "the state of {}", partition(n));
    }
    let published = read_stream(&context, "alarms").await;
    let mut published: Vec<_> = published
        .iter()
        .map(|alarm| {
            serde_json::from_slice::<Value>(&alarm.payload).expect("JSON")["sequence"].as_u64().expect("a number")
        })
        .collect();
    published.sort_unstable();
    assert!(!alarms.is_empty(), "the readings have outliers");
    assert_eq!(published, alarms, "every alarm once");
}

#[tokio::test]
async fn a_worker_that_is_back_within_the_grace_period_keeps_its_partitions() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    // Long enough for a process to start on a busy machine.
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({ "emergencyGracePeriod": "6s" }));
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settled().await;
    let (_, follower) = fleet.leader_and_follower().await;
    let records = Records::open(&context).await;
    let before = records.plan().await;
    let version = fleet.workers[follower].status().await.expect("a status").assignment_version;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 5000, |n| n.to_string());
    producer.reach(1000).await;
    fleet.workers[follower].kill();
    let number = u32::try_from(follower).expect("a small number");
    fleet.start_as(Some(number)).ready().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;

    let statuses = fleet.settled().await;
    let back = statuses.last().expect("three workers");
    assert_eq!((back.id(), back.partition_count), (format!("worker-{follower}").as_str(), 10));
    assert_eq!(back.assignment_version, version, "no plan was made");
    assert_eq!(records.plan().await, before);
    for n in 0..PARTITIONS {
        let name = partition(n);
        let epoch = records.ownership(&name).await.expect("a record").epoch.0;
        let taken = if before[&name] == back.id() { 2 } else { 1 };
        assert_eq!(epoch, taken, "{name} was taken {epoch} times");
    }
}
