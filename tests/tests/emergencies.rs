//! Deaths at inconvenient moments are handled at once, and whoever cannot be probed is not taken for dead.

use parti_coordination::record::Lifecycle;
use parti_tests::{Fleet, NatsServer, Producer, Records, Worker, assert_relayed, create_stream, eventually, subject};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const PARTITIONS: usize = 30;

/// Waits until exactly these workers have partitions, by the assignments and in fact.
async fn only_these_own(records: &Records, workers: &BTreeSet<String>) {
    eventually(&format!("{workers:?} have everything"), async || {
        let plan = records.plan().await;
        let owners: BTreeSet<_> = plan.values().cloned().collect();
        if plan.len() != PARTITIONS || owners != *workers {
            return Err(format!("{owners:?} have {} partitions", plan.len()));
        }
        let standing = records.standing().await;
        let late = standing.owners.iter().find(|(name, owner)| standing.epochs[*name].0 != **owner);
        late.map_or(Ok(()), |(name, owner)| Err(format!("{owner} has not taken {name}")))
    })
    .await;
}

/// The cool-down after a planned change lasts longer than the test: what does not bypass it never happens.
#[tokio::test]
async fn deaths_in_the_cool_down_are_handled_at_once_and_a_replacement_waits_for_its_end() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let keys = json!({ "coldStartWindow": "2s", "assignment": { "minRebalanceInterval": "10m" } });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(keys);
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    // Who joins while the cold start lasts begins no cool-down.
    while records.head().await.lifecycle != Lifecycle::PlannedScale {
        fleet.start_settled(1).await;
    }
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 4000, |n| n.to_string());
    producer.reach(500).await;

    let (_, follower) = fleet.leader_and_follower().await;
    fleet.workers[follower].kill();
    let survivors: BTreeSet<_> = fleet.settled().await.iter().map(|status| status.id().to_owned()).collect();
    only_these_own(&records, &survivors).await;
    assert_eq!(records.head().await.lifecycle, Lifecycle::Emergency);

    let (_, follower) = fleet.leader_and_follower().await;
    let dead = fleet.workers[follower].status().await.expect("a status");
    fleet.workers[follower].kill();
    fleet.start_as(Some(50));
    let survivors: BTreeSet<_> = survivors.into_iter().filter(|id| id != dead.id()).collect();
    only_these_own(&records, &survivors).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(records.head().await.lifecycle, Lifecycle::Emergency);
    let replacement = fleet.workers.last().expect("the replacement").status().await.expect("a status");
    assert_eq!((replacement.id(), replacement.partition_count), ("worker-50", 0));
}

#[tokio::test]
async fn the_orphans_of_a_crash_go_to_the_others_first_and_then_its_replacement_gets_a_share() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    let (before, plans) = (records.plan().await, records.note_plans().await);
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    producer.reach(500).await;

    let (_, follower) = fleet.leader_and_follower().await;
    let dead = fleet.workers[follower].status().await.expect("a status");
    fleet.workers[follower].kill();
    fleet.start_as(Some(50));
    let shares: Vec<_> = fleet.settled().await.iter().map(|status| status.partition_count).collect();
    assert_eq!(shares, [10, 10, 10]);
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let lifecycles: Vec<_> = plans.so_far().iter().map(|(_, plan)| plan.lifecycle).collect();
    // On a busy machine the replacement may be there before the verdict.
    let planned = lifecycles.iter().filter(|lifecycle| **lifecycle == Lifecycle::PlannedScale).count();
    let emergencies = lifecycles.iter().filter(|lifecycle| **lifecycle == Lifecycle::Emergency).count();
    assert_eq!((emergencies, planned, lifecycles.len()), (1, 1, 2), "{lifecycles:?}");
    let after = records.plan().await;
    let stayed = |(name, owner): &(&String, &String)| **owner != dead.id() && after[*name] == **owner;
    // Two survivors keep all that the replacement does not take.
    let kept = before.iter().filter(stayed).count();
    assert!(kept >= 10, "{kept} of 20 stayed");
}

#[tokio::test]
async fn a_worker_that_joins_ten_gets_its_share_and_the_others_keep_the_rest() {
    const MANY: usize = 44;
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    // A fleet of this size takes its time to come up on a busy machine.
    let mut fleet = Fleet::new(&server, MANY, "relay").with(json!({ "coldStartWindow": "10s" }));
    fleet.start_settled(10).await;
    let records = Records::open(&context).await;
    let before = records.plan().await;
    let statuses = fleet.start_settled(1).await;
    let newcomer = statuses.last().expect("eleven workers").id();
    let after = records.plan().await;
    let shares = after.values().fold(BTreeMap::<_, usize>::new(), |mut shares, id| {
        *shares.entry(id.as_str()).or_default() += 1;
        shares
    });
    assert_eq!(shares.len(), 11, "{shares:?}");
    assert!(shares.values().all(|share| *share == 4), "{shares:?}");
    for (name, owner) in &before {
        assert!(after[name] == *owner || after[name] == newcomer, "{name} went from {owner} to {}", after[name]);
    }
    let subjects: Vec<_> = (0..MANY).map(subject).collect();
    Producer::start(&context, &subjects, 1000, 1000, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

/// Its NATS user may not subscribe to the subject of its probes, so that every probe says *no responders*.
#[tokio::test]
async fn a_worker_that_may_not_be_probed_is_judged_by_its_heartbeat_alone() {
    let server = NatsServer::with_config(
        r#"jetstream {}
           no_auth_user: fleet
           authorization { users: [
             { user: fleet, password: p }
             { user: mute, password: p, permissions: { subscribe: { deny: ["parti.default.*.ping"] } } }
           ] }"#,
    )
    .await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;
    fleet.start_with(json!({ "nats": { "user": "mute", "password": "p" } }));
    let mute = fleet.settled().await.remove(2);
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 7000, |n| n.to_string());
    // Others die and join while it is mute.
    for _ in 0..2 {
        let victim = fleet.running().into_iter().rfind(|worker| *worker != 2).expect("a worker");
        fleet.workers[victim].kill();
        fleet.settled().await;
        fleet.start_settled(1).await;
    }
    fleet.workers[2].logs(&["Probes cannot be answered"]).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let after = fleet.settled().await;
    let after = after.iter().find(|status| status.id() == mute.id()).expect("the mute worker");
    assert_eq!(after.incarnation, mute.incarnation, "it was never fenced");
    let verdicts = fleet.workers.iter().flat_map(Worker::log_lines).filter(|line| line.message() == "Worker is dead");
    let condemned: Vec<_> = verdicts.map(|line| line.text("workerId").to_owned()).collect();
    assert!(condemned.len() == 2 && condemned.iter().all(|id| id != mute.id()), "{condemned:?}");
}
