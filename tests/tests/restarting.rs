//! Processes that come back under their IDs within the grace period: nothing moves.

use parti_tests::{Fleet, NatsServer, Producer, Records, assert_relayed, eventually_is, partition, subject};
use serde_json::json;

const PARTITIONS: usize = 30;

#[tokio::test]
async fn a_rolling_restart_with_shutdown_hold_moves_nothing() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    // Long enough for a process to start on a busy machine.
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({ "shutdown": { "hold": "20s" } }));
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settled().await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 4000, |n| n.to_string());
    for number in 0..3_u32 {
        let old = &mut fleet.workers[number as usize];
        old.terminate();
        assert_eq!(old.exit().await, Some(0));
        eventually_is("the ID is free", false, async || records.is_claimed(&format!("worker-{number}")).await).await;
        let new = fleet.start_as(Some(number));
        new.ready().await;
        assert_eq!(new.status().await.expect("a status").id(), format!("worker-{number}"));
        fleet.settled().await;
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    let after = records.standing().await;
    assert_eq!(after.owners, before.owners);
    for n in 0..PARTITIONS {
        let name = partition(n);
        let ((owner, epoch), (owner_before, epoch_before)) = (&after.epochs[&name], &before.epochs[&name]);
        assert_eq!((owner, epoch - epoch_before), (owner_before, 1), "{name} was taken again by its worker, once");
    }
    assert_eq!(fleet.sum("parti_plans_published_total").await, 0, "nothing had to be planned");
    assert_eq!(after.head.lifecycle, before.head.lifecycle);
    assert_eq!(after.head.checksum, before.head.checksum);
}

#[tokio::test]
async fn a_leader_that_is_killed_and_back_within_the_grace_period_keeps_its_partitions() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({ "emergencyGracePeriod": "6s" }));
    for number in 0..3 {
        fleet.start_as(Some(number));
    }
    fleet.settled().await;
    let (leader, _) = fleet.leader_and_follower().await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 5000, |n| n.to_string());
    producer.reach(500).await;
    fleet.workers[leader].kill();
    fleet.start_as(u32::try_from(leader).ok()).ready().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    let after = records.standing().await;
    assert_eq!(after.owners, before.owners);
    let lost = format!("worker-{leader}");
    for (name, (owner, epoch)) in &after.epochs {
        let taken = epoch - before.epochs[name].1;
        assert_eq!(taken, u64::from(*owner == lost), "{name} of {owner} was taken {taken} times more");
    }
    assert_eq!(fleet.sum("parti_plans_published_total").await, 0, "nothing had to be planned");
}
