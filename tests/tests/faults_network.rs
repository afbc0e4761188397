//! The network between workers and their server fails for longer than every lease and threshold.

use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, Proxy, Records, Standing, create_streams, dead_letters,
    eventually, eventually_is, short_leases,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PARTITIONS: usize = 30;
const ENTERED: &str = "Degraded: going on with the assignment in force";
const LEFT: &str = "Degraded mode is over; reading everything anew";

/// As short as the leases, each longer than the one before.
fn thresholds() -> Value {
    json!({ "degradedBehavior": { "enterThreshold": "3s", "exitThreshold": "1s", "recoveryGracePeriod": "4s" } })
}

/// How a connection fails.
#[derive(Clone, Copy)]
enum Failure {
    /// Reset, and refused from then on.
    Cut,
    /// It stands and passes nothing.
    Stall,
}

impl Failure {
    fn happens(self, proxy: &Proxy) {
        match self {
            Self::Cut => proxy.cut(),
            Self::Stall => proxy.stall(),
        }
    }
}

/// How often each partition was taken since then.
fn taken(before: &Standing, after: &Standing) -> BTreeMap<String, u64> {
    let since = |(name, (_, epoch)): (&String, &(String, u64))| (name.clone(), epoch - before.epochs[name].1);
    after.epochs.iter().map(since).collect()
}

/// The leader or a follower of three loses its connection until nothing is left to it.
async fn one_is_away(leader: bool, failure: Failure, handling: Handling) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let proxy = Proxy::to(&server).await;
    let mut fleet =
        Fleet::new(&server, PARTITIONS, handling.plugin()).with(dead_letters()).with(short_leases()).with(thresholds());
    // Who is first leads.
    let away = if leader { 0 } else { 2 };
    for worker in 0..3 {
        if worker == away {
            fleet.start_behind(&proxy);
        } else {
            fleet.start();
        }
        fleet.settled().await;
    }
    let statuses = fleet.settled().await;
    assert_eq!(statuses[away].is_leader, leader);
    let name = statuses[away].id();
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 1000, 12_000);
    producer.reach(1000).await;
    failure.happens(&proxy);
    eventually_is("its ID has expired", false, async || records.is_claimed(name).await).await;
    eventually("others own what it had", async || {
        let standing = records.standing().await;
        let left = standing.epochs.values().filter(|(owner, _)| owner == name).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left to it")) }
    })
    .await;
    fleet.workers[away].logs(&[ENTERED]).await;
    proxy.heal();
    fleet.workers[away].logs(&[LEFT]).await;
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.settled().await;
    // Away and back: more would be two that seize from each other.
    for (partition, times) in taken(&before, &records.standing().await) {
        assert!(times <= 2, "{partition} was taken {times} times");
    }
}

#[tokio::test]
async fn a_follower_cut_off_beyond_every_threshold_leaves_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(one_is_away(false, Failure::Cut, Handling::ControlChart)).await;
}

#[tokio::test]
async fn a_leader_cut_off_beyond_every_threshold_loses_and_repeats_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(one_is_away(true, Failure::Cut, Handling::Ledger)).await;
}

#[tokio::test]
async fn a_leader_whose_connection_stalls_beyond_every_threshold_loses_and_repeats_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(one_is_away(true, Failure::Stall, Handling::Relay)).await;
}

/// All workers lose their connections, while the server runs and the leases in it expire.
async fn all_are_away(failure: Failure, handling: Handling) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let proxies = [Proxy::to(&server).await, Proxy::to(&server).await, Proxy::to(&server).await];
    let mut fleet =
        Fleet::new(&server, PARTITIONS, handling.plugin()).with(dead_letters()).with(short_leases()).with(thresholds());
    for proxy in &proxies {
        fleet.start_behind(proxy);
    }
    let statuses = fleet.settled().await;
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 1000, 10_000);
    producer.reach(1000).await;
    proxies.iter().for_each(|proxy| failure.happens(proxy));
    for (worker, status) in statuses.iter().enumerate() {
        fleet.workers[worker].logs(&[ENTERED]).await;
        eventually_is("its ID has expired", false, async || records.is_claimed(status.id()).await).await;
    }
    eventually_is("nobody leads", true, async || records.lease().await.is_none()).await;
    proxies.iter().for_each(Proxy::heal);
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.settled().await;
    let after = records.standing().await;
    assert_eq!(after.owners, before.owners, "nothing has moved");
    assert_eq!(after.epochs, before.epochs, "nothing was taken again");
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn all_workers_cut_off_beyond_every_threshold_move_nothing_and_leave_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(all_are_away(Failure::Cut, Handling::ControlChart)).await;
}

#[tokio::test]
async fn all_connections_stalled_beyond_every_threshold_move_nothing_and_lose_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(all_are_away(Failure::Stall, Handling::Ledger)).await;
}
