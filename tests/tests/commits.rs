//! `commit.maxPerSecond`: no more commits than that, for nobody too few, and never at the cost of a message or a hand-over.

use parti_coordination::record::Phase;
use parti_tests::{Fleet, NatsServer, Producer, Records, assert_relayed, partition, subject};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

const PARTITIONS: usize = 40;
const MOST: u64 = 20;

#[tokio::test]
async fn bounded_commits_are_shared_fairly_and_hold_up_neither_messages_nor_a_hand_over() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let keys = json!({ "commit": { "maxPerSecond": MOST }, "handler": { "commitInterval": "100ms" } });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(keys);
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let notes = records.note_ownership().await;
    let begun = Instant::now();

    // Every partition has something to commit all the time: without a bound that would be 400 commits a second.
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 8000, |n| n.to_string());
    producer.reach(8000).await;
    let (noted, took) = (notes.so_far(), begun.elapsed());
    let mut commits: BTreeMap<String, u64> = BTreeMap::new();
    for (id, _) in &noted {
        *commits.entry(id.clone()).or_default() += 1;
    }
    let most = (took.as_secs_f64() * MOST as f64).ceil() as u64 + 1;
    assert!(noted.len() as u64 <= most, "{} commits in {took:?}: {commits:?}", noted.len());
    assert!(noted.len() as u64 >= MOST, "{commits:?}");
    // In turn, whoever happens to have the first message.
    let (fewest, most) = (commits.values().min(), commits.values().max());
    assert_eq!(commits.len(), PARTITIONS, "{commits:?}");
    assert!(most.zip(fewest).is_some_and(|(most, fewest)| most - fewest <= 2), "{commits:?}");

    // Who leaves commits everything, long before it would be everybody's turn.
    fleet.start().ready().await;
    let before = notes.so_far().len();
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));
    producer.finish().await;
    let released = notes.so_far().into_iter().skip(before).filter(|(_, record)| record.phase == Phase::Released);
    assert!(released.count() > 0);
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
    assert_eq!(fleet.sum("parti_commits_fenced_total").await, 0);
    for n in 0..PARTITIONS {
        records.ownership(&partition(n)).await.unwrap_or_else(|| panic!("{} has no record", partition(n)));
    }
}
