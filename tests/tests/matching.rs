//! Several handlers: each partition has the first that matches its keys, and what becomes of one touches no other.

use crate::operator::{json_of, operate};
use crate::pushing::push;
use crate::swapping::{configure, from, swaps};
use parti_tests::{
    Fleet, NatsServer, Producer, assert_relayed, copy_plugin, eventually, partition, replace, subject, variant,
};
use serde_json::{Value, json};

/// A folder with these plugins.
fn folder_with(plugins: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in plugins {
        replace(folder.path(), &format!("{name}.wasm"), &copy_plugin(name));
    }
    folder
}

#[tokio::test]
async fn each_partition_has_the_first_handler_that_matches_it_and_a_swap_of_one_touches_no_other() {
    const EACH: usize = 4;
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let folder = folder_with(&["relay", "ledger"]);
    let names = |first: &'static str| (0..EACH).map(move |n| [first.to_owned() + "-" + &n.to_string(), "x".to_owned()]);
    let all: Vec<_> = names("tool").chain(names("press")).collect();
    let keys: Vec<_> = all.iter().map(|keys| json!({ "keys": keys })).collect();
    let swap = json!({ "probation": { "messages": 100, "time": "500ms" } });
    let handlers = json!([
        { "match": { "keys": ["tool-*"] }, "plugin": "relay", "swap": swap },
        { "plugin": "ledger", "swap": swap },
    ]);
    let mut fleet = Fleet::new(&server, 2 * EACH, "relay")
        .with(from(folder.path()))
        .with(json!({ "source": { "static": { "partitions": keys } }, "handler": null }))
        .with(json!({ "handler": handlers }));
    fleet.start_settled(1).await;
    let subjects: Vec<_> = all.iter().map(|keys| format!("work.{}.{}", keys[0], keys[1])).collect();
    let producer = Producer::start(&context, &subjects, 300, 6000, |n| format!("plain {n}"));
    producer.reach(300).await;
    let changed = async || fleet.sum("parti_plugin_swap_pause_seconds_count").await as usize;

    configure(folder.path(), "relay", &json!({ "say": "nothing else" }));
    swaps(&fleet, "kept", 1).await;
    assert_eq!(changed().await, EACH, "the partitions of the other handler have not changed");
    // This one gives no outputs: a component of the other handler.
    replace(folder.path(), "relay.wasm", &copy_plugin("oracle"));
    swaps(&fleet, "refused", 1).await;
    let mut path = String::new();
    let pushed = operate(&fleet, &push(folder.path(), "ledger", &variant(&copy_plugin("ledger"), 1), &mut path)).await;
    pushed.assert(0, &["worker-0  kept", "4 partitions"]);
    assert_eq!(changed().await, 2 * EACH);
    let rows = json_of(&fleet, &["plugin", "list"]).await;
    let of = |plugin: &str| rows.as_array().expect("rows").iter().find(|row| row["plugin"] == plugin).expect("a row");
    assert_eq!((&of("ledger")["pushed"], &of("relay")["pushed"]), (&json!("in force"), &json!("")), "{rows:#}");
    assert!(["ledger", "relay"].iter().all(|name| of(name)["kind"] == "handler"), "{rows:#}");
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_partition_that_no_handler_matches_waits_with_a_reason_and_loses_nothing() {
    const PARTITIONS: usize = 3;
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let folder = folder_with(&["relay", "ledger", "registry", "telltale"]);
    let source = json!({ "static": null, "plugin": { "name": "registry", "config": { "count": PARTITIONS } } });
    let only = json!({ "match": { "keys": [partition(0)] }, "plugin": "relay" });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay")
        .with(from(folder.path()))
        .with(json!({ "source": source, "hooks": { "plugin": "telltale" }, "handler": null }))
        .with(json!({ "handler": [only] }));
    fleet.start();
    eventually("two partitions wait", async || match fleet.sum("parti_unmatched_partitions").await {
        2 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    fleet.workers[0].logs(&["ErrPartitionUnmatched PARTI-1405", &partition(1), "no entry of handler matches"]).await;
    let rows = json_of(&fleet, &["partitions"]).await;
    let problems = |rows: &Value| -> Vec<Value> {
        rows.as_array().expect("rows").iter().map(|row| row["problem"].clone()).collect()
    };
    let unmatched = json!("no entry of handler matches its keys");
    assert_eq!(problems(&rows), [Value::Null, unmatched.clone(), unmatched], "{rows:#}");
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 300, |n| format!("plain {n}"));
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects[..1]).await;

    // With another entry the rest is handled, from its beginning.
    let mut fleet = fleet.with(json!({ "handler": [only, { "plugin": "ledger" }] }));
    fleet.start();
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    fleet.settled().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum("parti_unmatched_partitions").await, 0);
}
