//! Who gets what: workers share the partitions, join, and stay idle when there is nothing for them.

use parti_tests::{Answer, Fleet, NatsServer, Producer, Records, assert_relayed, consumers, partition, subject};
use serde_json::json;

#[tokio::test]
async fn three_workers_share_thirty_partitions() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 30, "relay");

    let statuses = fleet.start_settled(3).await;
    let shares: Vec<_> = statuses.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, [10, 10, 10]);
    let mut ids: Vec<_> = statuses.iter().map(|status| status.id()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["worker-0", "worker-1", "worker-2"]);
    for worker in &fleet.workers {
        worker.ready().await;
        assert_eq!(worker.get("/health/live").await, Ok(Answer { status: 200, body: "OK".to_owned() }));
    }

    let subjects: Vec<_> = (0..30).map(subject).collect();
    Producer::start(&context, &subjects, 1000, 3000, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 3000, "every message is handled once");
    for worker in &fleet.workers {
        assert_eq!(worker.metric("parti_assigned_partitions").await, 10);
        assert_eq!(worker.metric(r#"parti_messages_total{verdict="ack"}"#).await, 1000, "a share of the messages");
    }
    assert_eq!(fleet.sum("parti_is_leader").await, 1);
    assert_eq!(fleet.sum("parti_unowned_partitions").await, 0);
}

#[tokio::test]
async fn a_worker_with_no_partitions_consumes_nothing() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 2, "relay");

    let statuses = fleet.start_settled(3).await;
    let (surplus, _) =
        statuses.iter().enumerate().find(|(_, status)| status.partition_count == 0).expect("a surplus worker");
    let subjects = [subject(0), subject(1)];
    Producer::start(&context, &subjects, 1000, 500, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;

    assert_eq!(consumers(&context, "work").await, 2, "one for each worker that has a partition");
    let surplus = &fleet.workers[surplus];
    assert_eq!(surplus.status().await.map(|status| status.state), Ok("Stable".to_owned()));
    assert_eq!(surplus.metric("parti_messages_total").await, 0);
    assert_eq!(surplus.get("/health/ready").await, Ok(Answer { status: 503, body: "no assignments".to_owned() }));
}

#[tokio::test]
async fn a_surplus_worker_is_ready_where_the_operator_says_so() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 1, "noop").with(json!({ "http": { "readyWhenEmpty": true } }));

    let statuses = fleet.start_settled(2).await;
    assert!(statuses.iter().any(|status| status.partition_count == 0), "{statuses:?}");
    for worker in &fleet.workers {
        worker.ready().await;
    }
}

#[tokio::test]
async fn a_joining_worker_gets_its_share_and_the_others_keep_theirs() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 30, "relay");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let before = records.plan().await;
    let mut epochs = Vec::new();
    for n in 0..30 {
        epochs.push(records.ownership(&partition(n)).await.expect("a record").epoch);
    }

    let subjects: Vec<_> = (0..30).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    producer.reach(1000).await;
    let statuses = fleet.start_settled(1).await;
    let newcomer = statuses.last().expect("three workers").id();
    let shares: Vec<_> = statuses.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, [10, 10, 10]);

    let after = records.plan().await;
    for (n, epoch) in epochs.into_iter().enumerate() {
        let name = partition(n);
        let moved = before[&name] != after[&name];
        assert!(!moved || after[&name] == newcomer, "{name} went from {} to {}", before[&name], after[&name]);
        let now = records.ownership(&name).await.expect("a record");
        assert_eq!(now.epoch.0 - epoch.0, u64::from(moved), "{name} is taken once if it moves, and never if it stays");
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 6000, "nothing is handled again");
}
