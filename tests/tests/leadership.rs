//! Leaders that change, hang or die at the worst moment: a change of leader moves nothing, and an old leader is not obeyed.
//! `PARTI_SOAK=1` makes more rounds of the test that kills leaders.

use futures::StreamExt as _;
use parti_coordination::record::{Lifecycle, PlanRecord, decode};
use parti_tests::{
    Fleet, NatsServer, Producer, Proxy, Records, assert_relayed, eventually, eventually_is, is_soak, partition,
    short_leases, subject,
};
use serde_json::json;

const PARTITIONS: usize = 30;
const EMERGENCIES: &str = r#"parti_plans_published_total{lifecycle="emergency"}"#;

#[tokio::test]
async fn a_lease_deleted_by_hand_changes_the_leader_and_moves_nothing() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 4000, |n| n.to_string());
    let changes = fleet.sum("parti_assignment_changes_total").await;
    for _ in 0..3 {
        let term = records.head().await.term;
        records.election.purge("leader").await.expect("a purge");
        eventually_is("a leader has a higher term", true, async || records.head().await.term > term).await;
        fleet.settled().await;
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(records.standing().await.under_any_leader(), before.under_any_leader());
    assert_eq!(fleet.sum("parti_assignment_changes_total").await, changes);
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 4000, "nothing is handled again");
}

/// The leader hears nothing and says nothing until another leads, and comes back before anyone gives it up.
#[tokio::test]
async fn a_leader_cut_off_for_longer_than_its_lease_is_succeeded_and_keeps_its_partitions() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let proxy = Proxy::to(&server).await;
    // The lease is over long before the heartbeat counts as missing.
    let keys = json!({ "electionTimeout": "2s", "heartbeatTtl": "20s", "emergencyGracePeriod": "5s" });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(keys);
    fleet.start_behind(&proxy);
    fleet.settled().await;
    fleet.start_settled(2).await;
    assert_eq!(fleet.leader_and_follower().await.0, 0, "the first worker leads");
    let records = Records::open(&context).await;
    let (before, plans) = (records.standing().await, records.note_plans().await);

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    producer.reach(1000).await;
    proxy.stall();
    eventually_is("another leads", true, async || records.head().await.term > before.head.term).await;
    eventually_is("it knows that it leads no more", 0, async || fleet.workers[0].metric("parti_is_leader").await).await;
    proxy.heal();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let statuses = fleet.settled().await;
    assert!(!statuses[0].is_leader);
    assert_eq!(records.standing().await.under_any_leader(), before.under_any_leader());
    assert_eq!(fleet.sum(EMERGENCIES).await, 0);
    assert_ranks_grow(&plans.so_far());
}

/// Each plan outranks the one before it.
fn assert_ranks_grow(plans: &[(String, PlanRecord)]) {
    let ranks: Vec<_> = plans.iter().map(|(_, plan)| (plan.term, plan.version)).collect();
    assert!(ranks.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1), "{ranks:?}");
}

/// A worker joins, and the leader's plan for it gets stuck in the network until another leads: it arrives too late.
#[tokio::test]
async fn a_plan_of_a_leader_that_was_succeeded_is_refused() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let proxy = Proxy::to(&server).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay")
        .with(short_leases())
        .with(json!({ "heartbeatTtl": "3s", "emergencyGracePeriod": "3s" }));
    fleet.start_behind(&proxy);
    fleet.settled().await;
    fleet.start_settled(2).await;
    assert_eq!(fleet.leader_and_follower().await.0, 0, "the first worker leads");
    let records = Records::open(&context).await;
    let (before, plans) = (records.head().await, records.note_plans().await);

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 8000, |n| n.to_string());
    fleet.start_as(Some(7));
    fleet.workers[0].logs(&["Worker joined", "worker-7"]).await;
    proxy.mute();
    eventually_is("another leads", true, async || records.head().await.term > before.term).await;
    proxy.heal();
    producer.finish().await;
    let statuses = fleet.settled().await;
    assert!(!statuses[0].is_leader);
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_ranks_grow(&plans.so_far());
    let standing = records.standing().await;
    assert_eq!(standing.owners.len(), PARTITIONS);
    for (name, owner) in &standing.owners {
        assert_eq!(&standing.epochs[name].0, owner, "the owner of {name}");
    }
}

/// Frozen until it is declared dead, then thawed: the plan goes on without it.
#[tokio::test]
async fn a_leader_frozen_for_longer_than_every_lease_says_that_it_is_fenced_and_joins_again() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(short_leases());
    fleet.start_settled(3).await;
    let (leader, _) = fleet.leader_and_follower().await;
    let frozen = fleet.workers[leader].status().await.expect("a status");
    let records = Records::open(&context).await;
    let (before, plans) = (records.standing().await, records.note_plans().await);

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 8000, |n| n.to_string());
    producer.reach(500).await;
    fleet.workers[leader].freeze();
    eventually_is("its partitions are others'", false, async || {
        records.plan().await.values().any(|id| id == frozen.id())
    })
    .await;
    fleet.workers[leader].thaw();
    fleet.workers[leader].logs(&["WARN", "claiming afresh"]).await;
    producer.finish().await;
    let statuses = fleet.settled().await;
    assert!(!statuses[leader].is_leader);
    let claims = [frozen.incarnation, statuses[leader].incarnation].map(|run| run.expect("an incarnation").claim);
    assert!(claims[0] < claims[1], "{claims:?}");
    assert_relayed(&context, "work", "out", &subjects).await;
    assert!(records.head().await.term > before.head.term);
    assert_ranks_grow(&plans.so_far());
    for (name, (_, epoch)) in records.standing().await.epochs {
        let taken = epoch - before.epochs[&name].1;
        assert!(taken <= 2, "{name} moved away and back at most, and was taken {taken} times");
    }
}

/// The plan and its assignments are separate writes. Whoever leads next completes what the dead leader began.
#[tokio::test]
async fn a_leader_killed_right_after_it_wrote_a_plan_leaves_no_orphan() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    fleet.start_settled(4).await;
    let records = Records::open(&context).await;
    let producer = Producer::start(&context, &subjects, 500, 5000, |n| n.to_string());
    let rounds = if is_soak() { 5 } else { 2 };
    for round in 0..rounds {
        let (leader, follower) = fleet.leader_and_follower().await;
        let mut plans = records.assignments.watch("plan").await.expect("a watch");
        fleet.workers[follower].kill();
        let lifecycle = eventually("an emergency is planned", async || {
            let entry = plans.next().await.ok_or("the watch has ended")?.map_err(|error| error.to_string())?;
            let plan: PlanRecord = decode(&entry.value).map_err(|error| error.to_string())?;
            Ok(plan.lifecycle)
        })
        .await;
        assert_eq!(lifecycle, Lifecycle::Emergency);
        fleet.workers[leader].kill();
        let statuses = fleet.settled().await;
        assert_eq!(statuses.len(), 2, "round {round}");
        assert_eq!(records.plan().await.len(), PARTITIONS);
        if round + 1 < rounds {
            fleet.start_settled(2).await;
        }
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    for n in 0..PARTITIONS {
        assert!(records.ownership(&partition(n)).await.is_some());
    }
}
