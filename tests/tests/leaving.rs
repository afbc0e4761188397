//! Workers that leave when they are asked to.

use parti_coordination::record::Phase;
use parti_tests::{Fleet, NatsServer, Producer, Records, assert_relayed, partition, read_stream, subject};
use std::collections::BTreeMap;

const PARTITIONS: usize = 30;
const MESSAGES: u64 = 6000;
const ACKED: &str = r#"parti_messages_total{verdict="ack"}"#;

/// Sends SIGTERM to the leader or a follower of three workers in the middle of the flow.
async fn leave_under_load(leader_leaves: bool) {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let statuses = fleet.start_settled(3).await;
    let (leader, follower) = fleet.leader_and_follower().await;
    let leaver = if leader_leaves { leader } else { follower };
    let name = statuses[leaver].id();
    let records = Records::open(&context).await;
    let notes = records.note_ownership().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, MESSAGES, |n| n.to_string());
    producer.reach(2000).await;
    let handled = fleet.workers[leaver].metric(ACKED).await;
    fleet.workers[leaver].terminate();
    assert_eq!(fleet.workers[leaver].exit().await, Some(0));
    assert!(!records.is_claimed(name).await, "{name} is free again");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let shares: Vec<_> = fleet.settled().await.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, [15, 15]);
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0, "nobody was declared dead");

    // Where the leaver says of each partition that it stopped, the others began.
    let mut released = BTreeMap::new();
    for (partition, record) in notes.so_far() {
        if record.owner.worker.as_str() == name && record.phase == Phase::Released {
            released.insert(format!("work.{partition}"), record.position.0);
        }
    }
    assert_eq!(released.len(), 10, "it has released all that it had: {released:?}");
    let messages = read_stream(&context, "work").await;
    let before =
        messages.iter().filter(|message| released.get(&message.subject) >= Some(&message.sequence)).count() as u64;
    let others = fleet.sum(ACKED).await;
    assert_eq!(others, MESSAGES - before, "what it has released is not handled again");
    assert!(
        handled > 0 && handled <= before,
        "{handled} were handled before it was told to leave, {before} are released"
    );
}

#[tokio::test]
async fn a_worker_that_leaves_gracefully_hands_over() {
    Box::pin(leave_under_load(false)).await;
}

#[tokio::test]
async fn a_leader_that_leaves_gracefully_hands_over() {
    Box::pin(leave_under_load(true)).await;
}

#[tokio::test]
async fn the_last_worker_leaves_everything_released_and_the_next_goes_on() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 4, "relay");
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..4).map(subject).collect();

    let producer = Producer::start(&context, &subjects, 1000, 3000, |n| n.to_string());
    producer.reach(1000).await;
    let handled = fleet.workers[0].metric(ACKED).await;
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));
    producer.finish().await;
    let records = Records::open(&context).await;
    let mut positions = BTreeMap::new();
    for n in 0..4 {
        let record = records.ownership(&partition(n)).await.expect("a record");
        assert_eq!(record.phase, Phase::Released);
        positions.insert(subject(n), record.position.0);
    }

    fleet.start_settled(1).await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let messages = read_stream(&context, "work").await;
    let rest = messages.iter().filter(|message| message.sequence > positions[&message.subject]).count() as u64;
    assert_eq!(fleet.sum(ACKED).await, rest, "what it has released is not handled again");
    assert!(
        handled > 0 && handled + rest <= 3000,
        "{handled} were handled before it was told to leave, {rest} after it had left"
    );
}
