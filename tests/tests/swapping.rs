//! Another version of the handler while messages go on: taken up without loss, or taken back as if it had never been there.

use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, assert_relayed, copy_plugin, create_streams, dead_letters,
    eventually, partition, replace, subject, variant,
};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// The keys for a plugin that lies in a folder of its own, with a trial that is short.
pub(crate) fn from(folder: &Path) -> Value {
    json!({
        "plugins": { "directory": folder },
        // Some of the messages are such that every version rejects them.
        "handler": { "swap": { "probation": { "messages": 200, "time": "500ms" }, "maxRejectRate": 1.0 } },
    })
}

pub(crate) fn configure(folder: &Path, plugin: &str, config: &Value) {
    replace(folder, &format!("{plugin}.yaml"), json!({ "config": config }).to_string().as_bytes());
}

pub(crate) async fn swaps(fleet: &Fleet, result: &str, count: u64) {
    eventually(&format!("{count} swaps are {result}"), async || {
        for worker in fleet.running() {
            let series = format!("parti_plugin_swaps_total{{result=\"{result}\"");
            let found = fleet.workers[worker].metric(&series).await;
            if found < count {
                return Err(format!("worker {worker} has {found}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn versions_that_are_swapped_under_load_lose_repeat_and_reorder_nothing() {
    const PARTITIONS: usize = 30;
    let (handling, folder) = (Handling::ControlChart, tempfile::tempdir().expect("a folder"));
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    replace(folder.path(), "control-chart.wasm", &copy_plugin(handling.plugin()));
    let mut fleet = Fleet::new(&server, PARTITIONS, handling.plugin()).with(from(folder.path())).with(dead_letters());
    fleet.start_settled(3).await;
    let before = fleet.sum("parti_assignment_changes_total").await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 1000, 15_000);
    producer.reach(1000).await;
    // The same in other words: another version that must come to the same states.
    configure(folder.path(), "control-chart", &json!({ "lambda": 0.2 }));
    swaps(&fleet, "kept", 1).await;
    replace(folder.path(), "control-chart.wasm", b"no component at all");
    swaps(&fleet, "refused", 1).await;
    let component = copy_plugin(handling.plugin());
    replace(folder.path(), "control-chart.wasm", component.get(..component.len() / 2).unwrap_or_default());
    swaps(&fleet, "refused", 2).await;
    // It knows no state of another's.
    replace(folder.path(), "control-chart.wasm", &copy_plugin("ledger"));
    swaps(&fleet, "refused", 3).await;
    configure(folder.path(), "control-chart", &json!({ "sigma": 3 }));
    replace(folder.path(), "control-chart.wasm", &component);
    swaps(&fleet, "kept", 2).await;
    producer.finish().await;

    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    assert_eq!(fleet.sum("parti_assignment_changes_total").await, before, "no plan has changed");
    assert_eq!(fleet.sum("parti_commits_fenced_total").await, 0);
}

#[tokio::test]
async fn a_version_that_fails_on_trial_is_taken_back_as_if_it_had_never_been_there() {
    const PARTITIONS: usize = 10;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("relay"));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(2).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    // The new version traps on every one of them.
    let producer = Producer::start(&context, &subjects, 500, 4000, |n| format!("trap {n}"));
    producer.reach(500).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("trap"));
    swaps(&fleet, "taken-back", 1).await;
    fleet.workers[0].logs(&["was taken back", "the last failure", "trapped"]).await;
    // The same file once more is not tried again.
    replace(folder.path(), "relay.wasm", &copy_plugin("trap"));
    fleet.workers[0].logs(&["is not tried again until it changes"]).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum("parti_plugin_swaps_total{result=\"taken-back\"").await, 2, "one on each worker");
}

#[tokio::test]
async fn a_worker_that_restarts_with_a_file_that_has_failed_begins_with_the_last_good_version() {
    const PARTITIONS: usize = 6;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("relay"));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 3000, |n| format!("trap {n}"));
    producer.reach(300).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("trap"));
    swaps(&fleet, "taken-back", 1).await;
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;

    // What the machine remembers is damaged a little: that is no reason to stop.
    let attempts = fleet.cache().join("plugins/relay/attempts");
    let files: Vec<_> = std::fs::read_dir(&attempts).expect("attempts").map(|file| file.expect("a file")).collect();
    assert_eq!(files.len(), 1);
    std::fs::write(files[0].path(), "{").expect("written");
    fleet.start_settled(1).await;
    fleet.workers[1]
        .logs(&["PARTI-1308", "is not used", "it was taken back at", "the worker begins with version"])
        .await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum("parti_plugin_swaps_total").await, 0, "nothing was tried again");
}

#[tokio::test]
async fn a_worker_that_dies_or_is_joined_during_a_trial_costs_nothing() {
    const PARTITIONS: usize = 20;
    let (handling, folder) = (Handling::ControlChart, tempfile::tempdir().expect("a folder"));
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    replace(folder.path(), "control-chart.wasm", &copy_plugin(handling.plugin()));
    // A trial that lasts.
    let trial =
        json!({ "handler": { "swap": { "canary": 1.0, "probation": { "messages": 1_000_000, "time": "4s" } } } });
    let mut fleet =
        Fleet::new(&server, PARTITIONS, handling.plugin()).with(from(folder.path())).with(dead_letters()).with(trial);
    fleet.start_settled(3).await;
    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 8_000);
    producer.reach(1000).await;
    configure(folder.path(), "control-chart", &json!({ "lambda": 0.2 }));
    fleet.workers[0].logs(&["is taken up, on trial"]).await;
    eventually("partitions have changed", async || {
        match fleet.workers[0].metric("parti_plugin_swap_pause_seconds_count").await {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    fleet.workers[0].kill();
    fleet.start();
    fleet.workers[1].terminate();
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.workers[1].exit().await;
    let status = fleet.settled().await;
    assert_eq!(status.iter().map(|status| status.partition_count).sum::<usize>(), PARTITIONS);
}

#[tokio::test]
async fn a_version_that_has_had_no_message_yet_is_not_taken_for_a_good_one() {
    const PARTITIONS: usize = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("relay"));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({ "plugins": { "directory": folder.path() } }));
    fleet.start_settled(1).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("too-many"));
    fleet.workers[0].logs(&["is taken up, on trial"]).await;
    // Both stages would be over by now, had the version had messages.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 1000, |n| format!("plain {n}"));
    swaps(&fleet, "taken-back", 1).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_worker_that_restarts_with_a_file_that_nobody_could_try_begins_with_the_version_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let component = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &component);
    let nobody = json!({ "source": { "static": { "partitions": [] } }, "http": { "readyWhenEmpty": true } });
    let mut fleet = Fleet::new(&server, 2, "relay").with(from(folder.path())).with(nobody);
    fleet.start();
    fleet.workers[0].ready().await;
    replace(folder.path(), "relay.wasm", &copy_plugin("trap"));
    fleet.workers[0].logs(&["it waits until it can"]).await;
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    let all: Vec<_> = (0..2).map(|n| json!({ "keys": [partition(n)] })).collect();
    let mut fleet = fleet.with(json!({ "source": { "static": { "partitions": all } } }));
    let subjects: Vec<_> = (0..2).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 200, 2000, |n| format!("trap {n}"));
    fleet.start_settled(1).await;
    fleet.workers[1].logs(&["waits for one", "begins with the version"]).await;
    swaps(&fleet, "taken-back", 1).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_version_during_whose_trials_workers_die_is_begun_with_by_nobody() {
    const PARTITIONS: usize = 6;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let component = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &component);
    let lasting = json!({ "handler": { "swap": { "probation": { "messages": 1_000_000, "time": "60s" } } } });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path())).with(lasting);
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 3000, |n| format!("plain {n}"));
    producer.reach(300).await;
    replace(folder.path(), "relay.wasm", &variant(&component, 1));
    for worker in 0..3 {
        fleet.workers[worker].logs(&["is taken up, on trial"]).await;
        fleet.workers[worker].kill();
        fleet.start();
    }
    for begun in 1..3 {
        fleet.workers[begun].logs(&["a worker has died during its trial", "begins with the version"]).await;
    }
    fleet.workers[3].logs(&["PARTI-1308", "is not used", "3 workers of this machine have died"]).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum("parti_plugin_swaps_total").await, 0, "nobody tries it again");
}
