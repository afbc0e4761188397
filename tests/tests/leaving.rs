//! Workers that leave when they are asked to.

use parti_coordination::record::Phase;
use parti_tests::{
    Fleet, NatsServer, Producer, Records, assert_relayed, create_stream, eventually_is, read_stream, subject,
};
use std::collections::BTreeMap;

const PARTITIONS: usize = 30;
const MESSAGES: u64 = 6000;

#[tokio::test]
async fn a_worker_that_leaves_gracefully_hands_over() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let statuses = fleet.start_settled(3).await;
    let (leader, leaver) = fleet.leader_and_follower().await;
    let name = statuses[leaver].id();
    let records = Records::open(&context).await;
    let notes = records.note_ownership().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, MESSAGES, |n| n.to_string());
    producer.reach(2000).await;
    fleet.workers[leaver].terminate();
    assert_eq!(fleet.workers[leaver].exit().await, Some(0));
    assert!(!records.is_claimed(name).await, "{name} is free again");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let shares: Vec<_> = fleet.settled().await.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, [15, 15]);

    // What the leaver handled is what its last words about each partition say; the others handled exactly the rest.
    let mut released = BTreeMap::new();
    for (partition, record) in notes.so_far() {
        if record.owner.worker.as_str() == name && record.phase == Phase::Released {
            released.insert(format!("work.{partition}"), record.position.0);
        }
    }
    assert_eq!(released.len(), 10, "it has released all that it had: {released:?}");
    let messages = read_stream(&context, "work").await;
    let handled = |subject: &String, sequence| released.get(subject).is_some_and(|position| sequence <= *position);
    let before = messages.iter().filter(|message| handled(&message.subject, message.sequence)).count() as u64;
    assert!(before > 0, "it has worked");
    let others = fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await;
    assert_eq!(others, MESSAGES - before, "nothing is handled again");
    assert_eq!(fleet.workers[leader].metric(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn the_leader_leaves_gracefully_too() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let (leader, _) = fleet.leader_and_follower().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, MESSAGES, |n| n.to_string());
    producer.reach(2000).await;
    fleet.workers[leader].terminate();
    assert_eq!(fleet.workers[leader].exit().await, Some(0));
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    eventually_is("nobody was declared dead", 0, async || {
        fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await
    })
    .await;
}

#[tokio::test]
async fn the_last_worker_leaves_everything_released_and_the_next_goes_on() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, 4, "relay");
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..4).map(subject).collect();

    let producer = Producer::start(&context, &subjects, 1000, 3000, |n| n.to_string());
    producer.reach(1000).await;
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));
    producer.finish().await;
    let records = Records::open(&context).await;
    let mut positions = BTreeMap::new();
    for n in 0..4 {
        let record = records.ownership(&parti_tests::partition(n)).await.expect("a record");
        assert_eq!(record.phase, Phase::Released);
        positions.insert(subject(n), record.position.0);
    }

    fleet.start_settled(1).await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let rest = read_stream(&context, "work")
        .await
        .iter()
        .filter(|message| message.sequence > positions[&message.subject])
        .count();
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, rest as u64, "nothing is handled again");
}
