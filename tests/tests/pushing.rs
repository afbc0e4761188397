//! Versions of the handler that are pushed to a whole fleet, while messages go on. Other kinds are in `kinds`.

use crate::operator::{json_of, operate};
use crate::swapping::{from, swaps};
use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, assert_relayed, copy_plugin, create_streams, dead_letters,
    eventually, partition, plugin_folder, replace, subject, variant,
};
use serde_json::{Value, json};
use std::path::Path;

/// Pushes these bytes; the arguments that do so.
pub(crate) fn push<'a>(folder: &Path, plugin: &'a str, bytes: &[u8], path: &'a mut String) -> [&'a str; 4] {
    let file = folder.join(format!("pushed-{}.bin", bytes.len()));
    std::fs::write(&file, bytes).expect("a file");
    *path = file.to_str().expect("UTF-8").to_owned();
    ["plugin", "push", plugin, path]
}

/// Waits until each of so many workers runs a version for which this holds.
async fn all_run(fleet: &Fleet, workers: usize, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(&format!("{workers} workers run {what}"), async || {
        let rows = json_of(fleet, &["plugin", "list"]).await;
        let running = rows.as_array().expect("rows");
        if running.len() == workers && running.iter().all(&holds) { Ok(()) } else { Err(format!("{rows:#}")) }
    })
    .await;
}

fn is_pushed(row: &Value) -> bool {
    row["pushed"] == "in force" && row["kind"] == "handler"
}

#[tokio::test]
async fn a_push_swaps_every_worker_under_load_and_who_starts_later_begins_with_it() {
    const PARTITIONS: usize = 30;
    let (handling, folder) = (Handling::ControlChart, tempfile::tempdir().expect("a folder"));
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let component = copy_plugin(handling.plugin());
    replace(folder.path(), "control-chart.wasm", &component);
    // Some of the messages are such that every version rejects them.
    let patient = json!({ "handler": { "swap": { "maxRejectRate": 1.0 } } });
    let mut fleet =
        Fleet::new(&server, PARTITIONS, handling.plugin()).with(from(folder.path())).with(dead_letters()).with(patient);
    fleet.start_settled(2).await;
    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 15_000);
    producer.reach(500).await;

    let (mut one, mut two) = (String::new(), String::new());
    let pushed = operate(&fleet, &push(folder.path(), "control-chart", &variant(&component, 1), &mut one)).await;
    pushed.assert(0, &["pushed control-chart", "worker-0  kept", "worker-1  kept", "partitions"]);
    fleet.start_settled(1).await;
    all_run(&fleet, 3, "what was pushed", is_pushed).await;
    operate(&fleet, &push(folder.path(), "control-chart", &variant(&component, 2), &mut two))
        .await
        .assert(0, &["kept"]);
    let back = operate(&fleet, &["plugin", "rollback", "control-chart"]).await;
    back.assert(0, &["back to", "worker-2  kept"]);
    let before_it = operate(&fleet, &["plugin", "rollback", "control-chart"]).await;
    before_it.assert(0, &["back to what lies in the plugin directories", "worker-2  kept"]);
    operate(&fleet, &["plugin", "rollback", "control-chart"]).await.assert(1, &["PARTI-1605", "nothing was pushed"]);

    // What is pushed goes before the file, and a file that is newer before that.
    operate(&fleet, &push(folder.path(), "control-chart", &variant(&component, 3), &mut one))
        .await
        .assert(0, &["kept"]);
    replace(folder.path(), "control-chart.wasm", &variant(&component, 4));
    all_run(&fleet, 3, "the newer file", |row| row["pushed"].as_str().is_some_and(|text| text.ends_with("is wanted")))
        .await;
    fleet.start_settled(1).await;
    fleet.workers[3].logs(&["is newer than what was pushed"]).await;
    operate(&fleet, &["plugin", "swap", "control-chart"]).await.assert(0, &["worker-3  kept"]);
    all_run(&fleet, 4, "what was pushed, after all", is_pushed).await;
    producer.finish().await;

    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    assert_eq!(fleet.sum("parti_commits_fenced_total").await, 0);
    let history = json_of(&fleet, &["plugin", "history", "control-chart", "--worker", "worker-0"]).await;
    let results: Vec<_> = history.as_array().expect("attempts").iter().map(|attempt| &attempt["result"]).collect();
    assert_eq!(results, [&json!("kept"); 7], "{history:#}");
}

#[tokio::test]
async fn a_bad_push_is_taken_back_everywhere_and_no_worker_begins_with_it() {
    const PARTITIONS: usize = 10;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("relay"));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(2).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    // The new version traps on every one of them.
    let producer = Producer::start(&context, &subjects, 500, 10_000, |n| format!("trap {n}"));
    producer.reach(500).await;
    let (mut bad, mut again) = (String::new(), String::new());
    let pushed = operate(&fleet, &push(folder.path(), "relay", &copy_plugin("trap"), &mut bad)).await;
    pushed.assert(1, &["worker-0  taken-back", "worker-1  taken-back", "PARTI-1308", "trapped", "rollback relay"]);
    operate(&fleet, &["plugin", "history", "relay"])
        .await
        .assert(0, &["worker-0", "worker-1", "taken-back", "trapped"]);
    // Pushed once more it is not tried again; who wants that says so.
    let repeated = operate(&fleet, &push(folder.path(), "relay", &copy_plugin("trap"), &mut again)).await;
    repeated.assert(1, &["worker-0  refused", "it was taken back at"]);
    assert_eq!(fleet.sum("parti_plugin_swaps_total{result=\"taken-back\"").await, 2);
    operate(&fleet, &["plugin", "swap", "relay"]).await.assert(1, &["worker-0  taken-back", "worker-1  taken-back"]);

    // A worker of this machine, and one of a machine that remembers nothing.
    for _ in 0..2 {
        fleet.start_settled(1).await;
        let started = fleet.workers.last().expect("a worker");
        started
            .logs(&[
                "has pushed of plugin relay",
                "is not used",
                "it was taken back at",
                "the worker begins with version",
            ])
            .await;
        std::fs::remove_dir_all(fleet.cache()).expect("removed");
    }
    fleet.workers.last().expect("a worker").logs(&["has pushed of plugin relay", "is not used", "on worker-"]).await;
    operate(&fleet, &["plugin", "rollback", "relay"])
        .await
        .assert(0, &["back to what lies", "it was in force already"]);
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn what_no_worker_could_run_is_refused_before_anything_is_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, _) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let limit = json!({ "handler": { "limits": { "componentBytes": 100_000 } } });
    let mut fleet = Fleet::new(&server, 2, "relay").with(from(folder.path())).with(limit);
    fleet.start_settled(1).await;
    let before = json_of(&fleet, &["plugin", "list"]).await;
    let cut = relay.get(..relay.len() / 2).unwrap_or_default();
    for (bytes, said) in [
        (b"no component at all".to_vec(), "is not WebAssembly"),
        (cut.to_vec(), "is a damaged component"),
        (copy_plugin("registry"), "is of the kind source, and handler needs one of the kind handler"),
        (copy_plugin("missing-import"), "acme:gadgets/frobnicate"),
        (variant(&relay, 200_000), "handler.limits.componentBytes"),
    ] {
        let mut path = String::new();
        let refused = operate(&fleet, &push(folder.path(), "relay", &bytes, &mut path)).await;
        refused.assert(2, &["PARTI-1302", said]);
        let inspected = operate(&fleet, &["plugin", "inspect", &path]).await;
        let is_usable = inspected.status == Some(0);
        assert_eq!(is_usable, said.contains("kind") || said.contains("Bytes"), "{}", inspected.output);
    }
    let mut path = String::new();
    operate(&fleet, &push(folder.path(), "rely", &relay, &mut path))
        .await
        .assert(2, &["no worker has a plugin", "relay"]);
    operate(&fleet, &push(folder.path(), "../x", &relay, &mut path)).await.assert(2, &["is no name"]);
    operate(&fleet, &["plugin", "push", "relay", "/nowhere.wasm"]).await.assert(2, &["cannot be read"]);
    assert_eq!(json_of(&fleet, &["plugin", "list"]).await, before);
    assert_eq!(json_of(&fleet, &["plugin", "history", "relay"]).await, json!([]));
    let there = plugin_folder("relay").join("relay.wasm");
    let there = there.to_str().expect("UTF-8");
    operate(&fleet, &["plugin", "inspect", there]).await.assert(0, &["kind     handler", "none needed", "can run it"]);
}

#[tokio::test]
async fn of_two_pushes_at_once_one_holds_on_every_worker() {
    const PARTITIONS: usize = 10;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(2).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 3000, |n| n.to_string());
    producer.reach(300).await;
    let (mut one, mut two) = (String::new(), String::new());
    let (first, second) = (variant(&relay, 1), variant(&relay, 2));
    let (first, second) =
        (push(folder.path(), "relay", &first, &mut one), push(folder.path(), "relay", &second, &mut two));
    let ended = tokio::join!(operate(&fleet, &first), operate(&fleet, &second));
    let statuses = [&ended.0, &ended.1].map(|ended| ended.status);
    assert!(statuses.contains(&Some(0)), "{}\n{}", ended.0.output, ended.1.output);
    // The other one was too late to be seen everywhere, or was in force before, and says which.
    for late in [&ended.0, &ended.1].into_iter().filter(|ended| ended.status != Some(0)) {
        late.assert(1, &["another order for plugin relay came"]);
    }
    all_run(&fleet, 2, "the last that was pushed", is_pushed).await;
    swaps(&fleet, "kept", 1).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn what_is_pushed_while_no_worker_runs_is_tried_by_the_first_that_starts() {
    const PARTITIONS: usize = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(1).await;
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    let (mut bad, mut good) = (String::new(), String::new());
    let pushed = operate(&fleet, &push(folder.path(), "relay", &copy_plugin("trap"), &mut bad)).await;
    pushed.assert(0, &["no worker runs plugin relay now"]);
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 200, 3000, |n| format!("trap {n}"));
    fleet.start_settled(1).await;
    swaps(&fleet, "taken-back", 1).await;
    operate(&fleet, &push(folder.path(), "relay", &variant(&relay, 1), &mut good)).await.assert(0, &["kept"]);
    fleet.start_settled(1).await;
    all_run(&fleet, 2, "what was pushed", is_pushed).await;
    assert_eq!(fleet.workers[2].metric("parti_plugin_swaps_total").await, 0, "it has begun with it");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_worker_without_partitions_takes_up_only_what_another_has_tried() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let mut fleet = Fleet::new(&server, 1, "relay").with(from(folder.path()));
    let statuses = fleet.start_settled(2).await;
    let busy = statuses.iter().position(|status| status.partition_count == 1).expect("who has the partition");
    let producer = Producer::start(&context, &[subject(0)], 200, 4000, |n| format!("trap {n}"));
    producer.reach(200).await;
    let (mut bad, mut good) = (String::new(), String::new());
    let id = |worker: usize| statuses[worker].worker_id.clone().expect("an ID");
    let (busy_one, idle_one) = (id(busy), id(1 - busy));
    let pushed = operate(&fleet, &push(folder.path(), "relay", &copy_plugin("trap"), &mut bad)).await;
    pushed.assert(1, &[&format!("{busy_one}  taken-back"), &format!("{idle_one}  refused"), "it was taken back at"]);
    let pushed = operate(&fleet, &push(folder.path(), "relay", &variant(&relay, 1), &mut good)).await;
    pushed.assert(0, &[&format!("{idle_one}  kept"), &format!("{busy_one} has shown that it does")]);
    // What it has now it has from somebody who tried it.
    fleet.workers[busy].kill();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &[subject(0)]).await;
    let history = json_of(&fleet, &["plugin", "history", "relay", "--worker", &idle_one]).await;
    let results: Vec<_> = history.as_array().expect("attempts").iter().map(|attempt| &attempt["result"]).collect();
    assert!(results.iter().all(|result| *result != "taken-back"), "it has tried nothing itself: {history:#}");
}

#[tokio::test]
async fn what_nobody_can_try_waits_for_the_first_who_has_a_partition() {
    const PARTITIONS: usize = 4;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let all = json!({ "partitions": (0..PARTITIONS).map(|n| json!({ "keys": [partition(n)] })).collect::<Vec<_>>() });
    let listed = |fleet: Fleet, all: &Value| fleet.with(json!({ "source": { "static": all } }));
    let nobody = json!({ "partitions": [] });
    let mut fleet = listed(Fleet::new(&server, 0, "relay").with(from(folder.path())), &nobody)
        .with(json!({ "http": { "readyWhenEmpty": true } }));
    fleet.start();
    fleet.workers[0].ready().await;
    let mut good = String::new();
    let pushed = operate(&fleet, &push(folder.path(), "relay", &variant(&relay, 1), &mut good)).await;
    pushed.assert(0, &["worker-0  waiting", "no partition of this worker has the handler", "who waits tries it"]);
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 200, 2000, |n| format!("plain {n}"));
    let mut fleet = listed(fleet, &all);
    fleet.start();
    all_run(&fleet, 1, "what was pushed", is_pushed).await;
    assert_eq!(fleet.sum("parti_plugin_swaps_total{result=\"kept\"").await, 1, "it was tried");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_pushed_version_during_whose_trials_workers_die_is_tried_no_more() {
    const PARTITIONS: usize = 6;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let relay = copy_plugin("relay");
    replace(folder.path(), "relay.wasm", &relay);
    let lasting = json!({ "handler": { "swap": { "probation": { "messages": 1_000_000, "time": "60s" } } } });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path())).with(lasting);
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 6000, |n| format!("plain {n}"));
    producer.reach(300).await;
    let mut path = String::new();
    let pushed = push(folder.path(), "relay", &variant(&relay, 1), &mut path);
    let pushed = [pushed.as_slice(), &["--timeout", "1s"]].concat();
    operate(&fleet, &pushed).await.assert(1, &["have not said within"]);
    for worker in 0..3 {
        fleet.workers[worker].logs(&["is taken up, on trial"]).await;
        fleet.workers[worker].kill();
        fleet.start();
    }
    fleet.workers[3].logs(&["PARTI-1308", "is not used", "3 workers of this machine have died"]).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum("parti_plugin_swaps_total").await, 0, "nobody tries it again");
}
