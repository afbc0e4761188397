//! A cluster of three NATS servers, rolled server by server under load.

use parti_tests::{
    Fleet, NatsCluster, Producer, Records, assert_relayed, create_replicated_stream, eventually_is, subject,
};
use serde_json::json;

const PARTITIONS: usize = 12;
const COPIES: usize = 3;

#[tokio::test]
async fn a_cluster_rolled_server_by_server_causes_no_emergency_and_loses_nothing() {
    let mut cluster = NatsCluster::start().await;
    let context = cluster.jetstream().await;
    create_replicated_stream(&context, "work", "work.>", COPIES).await;
    create_replicated_stream(&context, "out", "out.>", COPIES).await;
    let mut fleet = Fleet::at(&cluster.urls(), PARTITIONS, "relay").with(json!({ "kvBucket": { "replicas": COPIES } }));
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 200, 4000, |n| n.to_string());
    for server in 0..cluster.size() {
        cluster.roll(server).await;
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    eventually_is("all that was assigned is where it was", before.under_any_leader(), async || {
        // Some replica may lag behind.
        records.standing().await.under_any_leader()
    })
    .await;
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}
