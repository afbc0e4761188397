//! Connections that break and come back at once: nothing is planned, nothing is written, nothing moves.

use parti_tests::{Fleet, NatsServer, Producer, Proxy, Records, assert_relayed, eventually_is, subject};
use std::time::Duration;

const PARTITIONS: usize = 30;

/// How long a cut lasts: the first attempt to connect again fails, a later one is let in.
const CUT: Duration = Duration::from_millis(400);

/// Breaks the connections of the leader or a follower of three, by resets and by short cuts.
async fn break_connections(leader: bool) {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let proxy = Proxy::to(&server).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    // Who is first leads.
    if leader {
        fleet.start_behind(&proxy);
        fleet.settled().await;
        fleet.start_settled(2).await;
    } else {
        fleet.start_settled(2).await;
        fleet.start_behind(&proxy);
    }
    let statuses = fleet.settled().await;
    let proxied = if leader { 0 } else { 2 };
    assert_eq!(statuses[proxied].is_leader, leader);
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let plans = records.note_plans().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 4000, |n| n.to_string());
    producer.reach(500).await;
    proxy.reset();
    producer.reach(1500).await;
    proxy.cut();
    tokio::time::sleep(CUT).await;
    proxy.heal();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.settled().await[proxied].is_leader, leader);
    eventually_is("the commits have caught up", 0, async || fleet.sum("parti_lag_messages").await).await;
    assert_eq!(records.standing().await, before);
    let written = plans.so_far();
    assert!(written.is_empty(), "{written:?}");
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn a_follower_whose_connection_breaks_for_a_moment_keeps_everything() {
    Box::pin(break_connections(false)).await;
}

#[tokio::test]
async fn a_leader_whose_connection_breaks_for_a_moment_keeps_everything_and_leads_on() {
    Box::pin(break_connections(true)).await;
}
