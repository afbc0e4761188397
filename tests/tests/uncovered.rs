//! Messages whose subject belongs to no partition: nobody handles them, and somebody says so.

use crate::outside_world::grant;
use parti_tests::{Fleet, NatsServer, WebServer, Worker, eventually_is, partition, subject};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const GAUGE: &str = "parti_uncovered_subjects";

async fn shows(worker: &Worker, count: u64) {
    eventually_is(&format!("{GAUGE} of worker at {}", worker.port), count, async || worker.metric(GAUGE).await).await;
}

#[tokio::test]
async fn the_leader_counts_the_subjects_that_no_partition_covers_and_its_successor_goes_on() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    for subject in
        ["work.p-00", "work.stray", "work.p-00.x", "work.stray"].map(str::to_owned).into_iter().chain([subject(1)])
    {
        context.publish(subject, "x".into()).await.expect("a publish").await.expect("a confirmation");
    }
    let mut fleet = Fleet::new(&server, 2, "noop");
    fleet.start_settled(2).await;
    let (leader, follower) = fleet.leader_and_follower().await;
    shows(&fleet.workers[leader], 2).await;
    fleet.workers[leader].logs(&["belong to no partition", "2 (work.stray, work.p-00.x)", "\"messages\":3"]).await;
    assert_eq!(fleet.workers[follower].metric(GAUGE).await, 0, "one of a fleet is enough");

    fleet.workers[leader].kill();
    shows(&fleet.workers[follower], 2).await;
}

#[tokio::test]
async fn subjects_whose_partitions_are_gone_from_the_list_are_counted_from_then_on() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    for n in 0..3 {
        context.publish(subject(n), "x".into()).await.expect("a publish").await.expect("a confirmation");
    }
    let listed = Arc::new(AtomicUsize::new(3));
    let known = Arc::clone(&listed);
    let registry = WebServer::start(move |_| {
        let all: Vec<_> = (0..known.load(Ordering::Relaxed)).map(|n| json!([partition(n)])).collect();
        Some((200, json!(all).to_string()))
    })
    .await;
    let plugin = json!({ "name": "http-source", "config": { "url": registry.url() } });
    let mut fleet = Fleet::new(&server, 3, "relay")
        .with(json!({ "source": { "static": null, "plugin": plugin, "refreshInterval": "1s" } }))
        .with(grant("http-source", &registry));
    fleet.start_settled(1).await;
    listed.store(1, Ordering::Relaxed);
    shows(&fleet.workers[0], 2).await;
}
