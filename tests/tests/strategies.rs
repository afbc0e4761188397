//! Plans that a plugin decides: its answer is followed, and a wrong one moves nothing that has an owner.

use parti_tests::{Fleet, NatsServer, Status, create_stream, eventually, messages, partition, subject};
use serde_json::{Value, json};

const PARTITIONS: usize = 12;

async fn streams(server: &NatsServer) {
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
}

/// A fleet whose strategy is the component `oracle` with this configuration.
fn fleet(server: &NatsServer, config: Value) -> Fleet {
    let strategy = json!({ "plugin": { "name": "oracle", "config": config, "callTimeout": "2s" } });
    Fleet::new(server, PARTITIONS, "ledger").with(json!({ "strategy": strategy, "hooks": { "plugin": "telltale" } }))
}

/// Who has which partition, by worker ID.
fn owners(statuses: &[Status]) -> Vec<(String, usize)> {
    statuses.iter().map(|status| (status.worker_id.clone().unwrap_or_default(), status.partition_count)).collect()
}

#[tokio::test]
async fn partitions_go_to_the_workers_of_their_zone_and_a_dead_worker_s_are_placed_at_once() {
    let server = NatsServer::start().await;
    streams(&server).await;
    let zones = ["a", "b"];
    let keys = (0..PARTITIONS).map(|n| json!({ "keys": [format!("zone-{}", zones[n % 2]), partition(n)] }));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({
        "strategy": { "plugin": "zone-aware" },
        "source": { "static": { "partitions": keys.collect::<Vec<_>>() } },
    }));
    for n in 0..4 {
        fleet.start_with(json!({ "labels": { "zone": zones[n % 2] } }));
    }
    fleet.settled().await;
    let in_their_zones = async |fleet: &Fleet| {
        for worker in fleet.running() {
            let zone = format!("zone-{}.", zones[worker % 2]);
            let body = fleet.workers[worker].get("/api/v1/partitions").await?.body;
            let listed: Vec<Value> = serde_json::from_str(&body).map_err(|error| format!("{error} in {body}"))?;
            let strange = listed.iter().find(|listed| listed["id"].as_str().is_none_or(|id| !id.starts_with(&zone)));
            if let Some(strange) = strange {
                return Err(format!("worker {worker} of {zone} has {strange}"));
            }
        }
        Ok(())
    };
    eventually("every partition is in its zone", async || in_their_zones(&fleet).await).await;
    let counts: Vec<_> = fleet.settled().await.iter().map(|status| status.partition_count).collect();
    assert_eq!(counts, [3; 4]);

    // A follower of zone a dies: the other one of its zone gets up to a third of all, and nobody waits for long.
    let (leader, _) = fleet.leader_and_follower().await;
    let victim = fleet.running().into_iter().find(|worker| *worker != leader).expect("a follower");
    fleet.workers[victim].kill();
    let after = fleet.settled().await;
    assert!(after.iter().all(|status| status.partition_count == 4), "{:?}", owners(&after));
}

/// A strategy that is right for two workers and goes wrong when a third joins: the joiner gets in, nothing moves, the leader says
/// why, a dead worker's partitions are placed all the same, and work goes on.
async fn moves_nothing(how: &str, why: &str) {
    let server = NatsServer::start().await;
    streams(&server).await;
    let mut fleet = fleet(&server, json!({ "how": how, "from": 3 }));
    let before = owners(&fleet.start_settled(2).await);
    assert!(before.iter().all(|(_, count)| *count == PARTITIONS / 2), "{before:?}");

    let after = owners(&fleet.start_settled(1).await);
    assert_eq!(after[..2], before, "what has an owner stays there");
    assert_eq!(after[2].1, 0);
    let (leader, _) = fleet.leader_and_follower().await;
    fleet.workers[leader].logs(&["The strategy has not decided", why]).await;
    fleet.workers[leader].logs(&["PARTI-1208 ErrStrategyFailed"]).await;
    let problems = fleet.workers[leader].status().await.expect("a status").problems;
    assert!(problems.iter().any(|problem| problem.contains("the strategy has not decided")), "{problems:?}");

    let victim = fleet.running().into_iter().find(|worker| *worker != leader && *worker < 2).unwrap_or(1);
    fleet.workers[victim].kill();
    fleet.settled().await;
    let context = server.jetstream().await;
    for n in 0..PARTITIONS {
        context.publish(subject(n), "plain".into()).await.expect("a publish").await.expect("a confirmation");
    }
    eventually("every partition is worked on", async || match messages(&context, "out").await as usize {
        PARTITIONS => Ok(()),
        count => Err(format!("{count} outputs")),
    })
    .await;
}

#[tokio::test]
async fn a_strategy_with_a_wrong_number_of_answers_moves_nothing() {
    moves_nothing("short", "it answered for 11 partitions and was asked for 12").await;
}

#[tokio::test]
async fn a_strategy_that_names_a_worker_that_does_not_exist_moves_nothing() {
    moves_nothing("range", "the workers are 0 to 2").await;
}

#[tokio::test]
async fn a_strategy_that_traps_moves_nothing() {
    moves_nothing("trap", "plugin oracle trapped").await;
}

#[tokio::test]
async fn a_strategy_that_never_returns_moves_nothing() {
    moves_nothing("hang", "strategy.plugin.callTimeout, which is 2s").await;
}

#[tokio::test]
async fn a_strategy_that_returns_an_error_moves_nothing() {
    moves_nothing("error", "the stars are not right").await;
}

#[tokio::test]
async fn a_fleet_whose_strategy_never_decides_starts_with_the_built_in_one() {
    let server = NatsServer::start().await;
    streams(&server).await;
    let mut fleet = fleet(&server, json!({ "how": "hang" }));
    let after = fleet.start_settled(2).await;
    assert!(after.iter().all(|status| status.partition_count > 0), "{:?}", owners(&after));
}
