//! A handler that keeps failing is fed no more: its messages stay in the stream, the worker says so, and there is a way back.

use crate::operator::{json_of, operate};
use crate::pushing::push;
use crate::swapping::{configure, swaps};
use parti_tests::{Fleet, NatsServer, Producer, copy_plugin, create_stream, eventually, messages, replace, subject};
use serde_json::{Value, json};
use std::path::Path;

const PARTITIONS: usize = 12;

/// A folder with these components under these names.
fn folder_with(plugins: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, component) in plugins {
        replace(folder.path(), &format!("{name}.wasm"), &copy_plugin(component));
    }
    folder
}

/// A fleet that soon takes its handler for broken, and tries often whether it is still.
fn fleet_of(server: &NatsServer, plugin: &str, folder: &Path, handler: Value) -> Fleet {
    let quarantine = json!({ "messages": 8, "probe": { "initial": "500ms", "max": "1s" } });
    let swap = json!({ "probation": { "messages": 100, "time": "500ms" } });
    let dead = json!({ "subject": "dead.work" });
    Fleet::new(server, PARTITIONS, "relay")
        .with(json!({
            "plugins": { "directory": folder },
            "handler": { "plugin": plugin, "quarantine": quarantine, "swap": swap, "deadLetter": dead },
            "hooks": { "plugin": "telltale" },
        }))
        .with(json!({ "handler": handler }))
}

async fn is_held(fleet: &Fleet, is: u64) {
    eventually(&format!("the handler is held: {is}"), async || match fleet.sum("parti_plugin_quarantined").await {
        found if found == is => Ok(()),
        found => Err(format!("{found}")),
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_fails_on_every_message_gives_up_few_and_a_push_brings_it_back() {
    const MESSAGES: u64 = 600;
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    create_stream(&context, "dead", "dead.>").await;
    let folder = folder_with(&[("billing", "trap"), ("telltale", "telltale")]);
    let mut fleet = fleet_of(&server, "billing", folder.path(), json!({}));
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 600, MESSAGES, |n| format!("trap {n}"));
    is_held(&fleet, 1).await;
    producer.finish().await;

    let said = "different messages; the last: plugin billing trapped";
    fleet.workers[0].logs(&["ErrPluginQuarantined PARTI-1309", "plugin billing is fed no more", said]).await;
    fleet.workers[0].logs(&["told ", "error PARTI-1309 ErrPluginQuarantined"]).await;
    let ready = fleet.workers[0].get("/health/ready").await.expect("an answer");
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("plugin billing: fed no more") && ready.body.contains(said), "{}", ready.body);
    let rows = json_of(&fleet, &["partitions"]).await;
    for row in rows.as_array().expect("rows") {
        assert!(row["problem"].as_str().is_some_and(|problem| problem.contains("fed no more")), "{row:#}");
        assert_eq!((&row["paused"], &row["isPaused"]), (&json!(false), &json!(false)), "nobody has paused it: {row:#}");
    }
    // Probes fail, and each costs one message at most.
    fleet.workers[0].logs(&["The plugin fails still"]).await;
    assert!(messages(&context, "dead").await < MESSAGES / 4, "the messages wait");

    let mut path = String::new();
    operate(&fleet, &push(folder.path(), "billing", &copy_plugin("relay"), &mut path)).await.assert(0, &["kept"]);
    is_held(&fleet, 0).await;
    eventually("every message is relayed or a dead letter", async || {
        match messages(&context, "out").await + messages(&context, "dead").await {
            all if all == MESSAGES => Ok(()),
            all => Err(format!("{all}")),
        }
    })
    .await;
    assert_eq!(fleet.workers[0].get("/health/ready").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_message_that_always_fails_is_given_up_alone_and_a_probe_that_succeeds_brings_all_back() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    create_stream(&context, "dead", "dead.>").await;
    let folder = folder_with(&[("ledger", "ledger"), ("telltale", "telltale")]);
    // Nothing comes again before all have failed once.
    let handler = json!({ "batchSize": 1, "maxTraps": 3, "backoff": { "initial": "2s", "max": "2s" } });
    let mut fleet = fleet_of(&server, "ledger", folder.path(), handler);
    fleet.start_settled(1).await;
    let publish = async |subject: String, payload: &'static str| {
        context.publish(subject, payload.into()).await.expect("a publish").await.expect("a confirmation");
    };
    publish(subject(0), "trap").await;
    eventually("the message is a dead letter", async || match messages(&context, "dead").await {
        1 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    assert!(fleet.sum("parti_plugin_traps_total").await >= 3);
    assert_eq!(fleet.sum("parti_plugin_quarantined").await, 0, "one message says nothing of the handler");

    // Many fail at their first attempt, and none is answered between.
    for n in 0..PARTITIONS {
        publish(subject(n), "flaky").await;
    }
    is_held(&fleet, 1).await;
    fleet.workers[0].logs(&["One partition tries whether the plugin works again"]).await;
    is_held(&fleet, 0).await;
    fleet.workers[0].logs(&["The plugin works again, and is fed again"]).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 300, 300, |n| format!("plain {n}"));
    producer.finish().await;
    eventually("every other message is handled", async || match messages(&context, "out").await as usize {
        count if count == 300 + PARTITIONS => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    assert_eq!(messages(&context, "dead").await, 1);
}

#[tokio::test]
async fn a_handler_that_opens_for_no_partition_is_named_and_a_better_configuration_brings_it_back() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    create_stream(&context, "dead", "dead.>").await;
    let folder = folder_with(&[("control-chart", "control-chart"), ("telltale", "telltale")]);
    configure(folder.path(), "control-chart", &json!({ "lambda": "much" }));
    let mut fleet = fleet_of(&server, "control-chart", folder.path(), json!({}));
    fleet.start();
    is_held(&fleet, 1).await;
    let ready = fleet.workers[0].get("/health/ready").await.expect("an answer");
    assert!(ready.status == 503 && ready.body.contains("it opens for none of 12 partitions"), "{}", ready.body);
    configure(folder.path(), "control-chart", &json!({}));
    swaps(&fleet, "kept", 1).await;
    is_held(&fleet, 0).await;
    fleet.settled().await;
}
