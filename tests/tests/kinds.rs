//! Other versions of strategies, sources and hooks while everything runs: one that does not do never replaces what runs.

use crate::operator::{json_of, operate};
use crate::pushing::push;
use crate::swapping::{configure, swaps};
use parti_tests::{Fleet, NatsServer, copy_plugin, create_stream, eventually, replace, variant};
use serde_json::{Value, json};
use std::path::Path;

/// A folder with a handler and one other plugin.
fn folder_with(plugin: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ledger", plugin] {
        replace(folder.path(), &format!("{name}.wasm"), &copy_plugin(name));
    }
    folder
}

async fn fleet_of(server: &NatsServer, partitions: usize, folder: &Path, keys: Value) -> Fleet {
    create_stream(&server.jetstream().await, "work", "work.>").await;
    Fleet::new(server, partitions, "ledger").with(json!({ "plugins": { "directory": folder } })).with(keys)
}

/// Waits until so many partitions are assigned in all.
async fn assigned(fleet: &Fleet, partitions: usize) {
    eventually(&format!("{partitions} partitions are assigned"), async || {
        match fleet.sum("parti_assigned_partitions").await as usize {
            sum if sum == partitions => Ok(()),
            sum => Err(format!("{sum}")),
        }
    })
    .await;
}

/// Waits until `/status` of this worker says that the last swap of this plugin has ended so, for a reason with these texts.
async fn last_swap(fleet: &Fleet, worker: usize, plugin: &str, result: &str, reason: &[&str]) {
    eventually(&format!("the last swap of {plugin} on worker {worker} is {result}"), async || {
        let body = fleet.workers[worker].get("/status").await?.body;
        let status: Value = serde_json::from_str(&body).map_err(|error| format!("{error} in {body}"))?;
        let plugins = status["plugins"].as_array().expect("plugins");
        let found = plugins.iter().find(|found| found["name"] == plugin).expect("the plugin");
        assert_eq!(found["problem"], Value::Null, "what runs goes on");
        let last = &found["lastSwap"];
        let is_said = |text: &&str| last["reason"].as_str().is_some_and(|reason| reason.contains(*text));
        if last["result"] == result && reason.iter().all(is_said) { Ok(()) } else { Err(last.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_strategy_is_replaced_between_two_plans_and_one_that_answers_wrongly_never_is() {
    const PARTITIONS: usize = 12;
    let (server, folder) = (NatsServer::start().await, folder_with("oracle"));
    let zones = ["a", "b"];
    let keys = (0..PARTITIONS).map(|n| json!({ "keys": [format!("zone-{}", zones[n % 2]), format!("p-{n:02}")] }));
    let mut fleet = fleet_of(
        &server,
        PARTITIONS,
        folder.path(),
        json!({
            "strategy": { "plugin": { "name": "oracle", "callTimeout": "2s" } },
            "source": { "static": { "partitions": keys.collect::<Vec<_>>() } },
        }),
    )
    .await;
    for zone in zones {
        fleet.start_with(json!({ "labels": { "zone": zone } }));
    }
    fleet.settled().await;

    // Leader and follower ask for nothing but to see; one has a question that was put, the other makes one up.
    configure(folder.path(), "oracle", &json!({ "how": "range" }));
    swaps(&fleet, "refused", 1).await;
    configure(folder.path(), "oracle", &json!({ "how": "hang" }));
    swaps(&fleet, "refused", 2).await;
    let (leader, follower) = fleet.leader_and_follower().await;
    for (worker, question) in [(leader, "what was asked last"), (follower, "a made-up question")] {
        fleet.workers[worker].logs(&["PARTI-1308", question, "the workers are 0 to 1"]).await;
        last_swap(&fleet, worker, "oracle", "refused", &[question, "strategy.plugin.callTimeout"]).await;
    }
    assert_eq!(fleet.sum("parti_plugin_timeouts_total{plugin=\"oracle\"}").await, 2);
    assert_eq!(fleet.sum("parti_strategy_failures_total").await, 0, "nobody has planned with it");

    // Another strategy altogether; the next plan is its.
    std::fs::remove_file(folder.path().join("oracle.yaml")).expect("removed");
    replace(folder.path(), "oracle.wasm", &copy_plugin("zone-aware"));
    swaps(&fleet, "kept", 1).await;
    last_swap(&fleet, leader, "oracle", "kept", &["asked what was asked last, it placed 12 partitions"]).await;
    for zone in zones {
        fleet.start_with(json!({ "labels": { "zone": zone } }));
    }
    fleet.settled().await;
    eventually("every partition is in its zone", async || {
        for (worker, zone) in [(0, "a"), (1, "b"), (2, "a"), (3, "b")] {
            let body = fleet.workers[worker].get("/api/v1/partitions").await?.body;
            let listed: Vec<Value> = serde_json::from_str(&body).map_err(|error| format!("{error} in {body}"))?;
            let prefix = format!("zone-{zone}.");
            if !listed.iter().all(|listed| listed["id"].as_str().is_some_and(|id| id.starts_with(&prefix))) {
                return Err(format!("worker {worker} of zone {zone} has {body}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_source_is_replaced_and_asked_at_once_and_one_whose_list_is_wrong_never_is() {
    let (server, folder) = (NatsServer::start().await, folder_with("registry"));
    let plugin = json!({ "name": "registry", "callTimeout": "2s" });
    configure(folder.path(), "registry", &json!({ "count": 6 }));
    let source = json!({ "source": { "static": null, "plugin": plugin, "refreshInterval": "1h" } });
    let mut fleet = fleet_of(&server, 6, folder.path(), source).await;
    fleet.start_settled(2).await;

    configure(folder.path(), "registry", &json!({ "count": 9 }));
    swaps(&fleet, "kept", 1).await;
    assigned(&fleet, 9).await;
    for (how, why) in [("twice", "for the second time"), ("trap", "trapped"), ("none", "it lists no partitions")] {
        configure(folder.path(), "registry", &json!({ "count": 3, "how": how }));
        for worker in fleet.running() {
            last_swap(&fleet, worker, "registry", "refused", &[why]).await;
        }
    }
    assert_eq!(fleet.sum("parti_assigned_partitions").await, 9);

    // The file on disk is the one that has failed.
    fleet.start();
    let started = fleet.workers.last().expect("a worker");
    started.logs(&["PARTI-1308", "it lists no partitions", "the worker begins with version"]).await;
    assigned(&fleet, 9).await;
}

#[tokio::test]
async fn a_source_is_pushed_to_a_fleet_and_rolled_back_and_who_starts_later_begins_with_it() {
    let (server, folder) = (NatsServer::start().await, folder_with("registry"));
    let plugin = json!({ "name": "registry", "config": { "count": 4 } });
    let source = json!({ "source": { "static": null, "plugin": plugin, "refreshInterval": "1h" } });
    let mut fleet = fleet_of(&server, 4, folder.path(), source).await;
    fleet.start_settled(2).await;

    let mut path = String::new();
    let component = copy_plugin("registry");
    let pushed = operate(&fleet, &push(folder.path(), "registry", &variant(&component, 1), &mut path)).await;
    pushed.assert(0, &["pushed registry", "worker-0  kept", "worker-1  kept", "it lists 4 partitions"]);
    let of_another_kind = operate(&fleet, &push(folder.path(), "registry", &copy_plugin("oracle"), &mut path)).await;
    of_another_kind.assert(2, &["is of the kind strategy, and source.plugin needs one of the kind source"]);
    fleet.start_settled(1).await;
    let rows = json_of(&fleet, &["plugin", "list"]).await;
    let rows: Vec<_> = rows.as_array().expect("rows").iter().filter(|row| row["plugin"] == "registry").collect();
    assert!(
        rows.len() == 3 && rows.iter().all(|row| row["pushed"] == "in force" && row["kind"] == "source"),
        "{rows:#?}"
    );
    let back = operate(&fleet, &["plugin", "rollback", "registry"]).await;
    back.assert(0, &["back to what lies in the plugin directories", "worker-2  kept"]);
    let history = json_of(&fleet, &["plugin", "history", "registry", "--worker", "worker-0"]).await;
    let results: Vec<_> = history.as_array().expect("attempts").iter().map(|attempt| &attempt["result"]).collect();
    assert_eq!(results, [&json!("kept"); 2], "{history:#}");
}

#[tokio::test]
async fn hooks_are_replaced_between_two_happenings_and_hear_why_another_version_was_not_taken() {
    let (server, folder) = (NatsServer::start().await, folder_with("telltale"));
    let mut fleet = fleet_of(&server, 4, folder.path(), json!({ "hooks": { "plugin": "telltale" } })).await;
    fleet.start_settled(1).await;
    let component = copy_plugin("telltale");
    replace(folder.path(), "telltale.wasm", component.get(..component.len() / 2).unwrap_or_default());
    swaps(&fleet, "refused", 1).await;
    fleet.workers[0].logs(&["told ", "error PARTI-1302 ErrPluginInvalid", "damaged"]).await;
    replace(folder.path(), "telltale.wasm", &component);
    configure(folder.path(), "telltale", &json!({ "on": "assignment", "how": "error" }));
    swaps(&fleet, "kept", 1).await;
    last_swap(&fleet, 0, "telltale", "kept", &["it opens"]).await;
    fleet.start_settled(1).await;
    fleet.workers[0].logs(&["A hook returned an error", "no wish to hear of assignment +[] -[p-"]).await;
}
