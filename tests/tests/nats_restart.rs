//! The server goes away under load and comes back with its data.

use parti_tests::{Fleet, NatsServer, Producer, Records, assert_relayed, partition, short_leases, subject};
use std::time::Duration;

const PARTITIONS: usize = 30;

#[tokio::test]
async fn a_killed_and_restarted_server_loses_nothing_and_moves_nothing() {
    let (mut server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.plan().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    producer.reach(2000).await;
    server.kill();
    server.restart().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    assert_eq!(records.plan().await, before);
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn an_outage_longer_than_every_lease_moves_nothing() {
    let (mut server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(short_leases());
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.plan().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 4000, |n| n.to_string());
    producer.reach(2000).await;
    server.kill();
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.restart().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    assert_eq!(records.plan().await, before, "nothing has moved");
    for n in 0..PARTITIONS {
        let name = partition(n);
        let record = records.ownership(&name).await.expect("a record");
        assert_eq!(record.owner.worker.as_str(), before[&name], "the owner of {name}");
        assert_eq!(record.epoch.0, 1, "{name} was never taken again");
    }
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}
