//! Partitions that a plugin lists: its list is in force, and a wrong one leaves the last one in force.

use crate::outside_world::grant;
use parti_tests::{
    Fleet, NatsServer, WebServer, copy_plugin, create_stream, eventually, messages, partition, replace, subject,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

const PARTITIONS: usize = 6;

fn list(count: usize) -> Value {
    (0..count).map(partition).collect()
}

/// An endpoint that lists all partitions, until it is told what to answer: this, or nothing ever.
struct Registry {
    server: WebServer,
    instead: Arc<OnceLock<Option<Value>>>,
    was_wrong: Arc<AtomicBool>,
}

impl Registry {
    async fn start() -> Self {
        let (instead, was_wrong) = (Arc::<OnceLock<Option<Value>>>::default(), Arc::<AtomicBool>::default());
        let (told, wrong) = (Arc::clone(&instead), Arc::clone(&was_wrong));
        let server = WebServer::start(move |_| {
            wrong.store(told.get().is_some(), Ordering::Relaxed);
            let answer = told.get().cloned().unwrap_or_else(|| Some(list(PARTITIONS)));
            answer.map(|list| (200, list.to_string()))
        })
        .await;
        Self { server, instead, was_wrong }
    }

    async fn answers(&self, instead: Option<Value>) {
        self.instead.set(instead).expect("told once");
        eventually("it has answered so", async || match self.was_wrong.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("nobody has asked".to_owned()),
        })
        .await;
    }

    /// A fleet that takes its partitions from here, with these keys of its source besides.
    fn fleet(&self, server: &NatsServer, folder: &Path, keys: Value) -> Fleet {
        for plugin in ["http-source", "ledger", "telltale"] {
            replace(folder, &format!("{plugin}.wasm"), &copy_plugin(plugin));
        }
        let config = json!({ "url": self.server.url() });
        let plugin = json!({ "name": "http-source", "config": config, "callTimeout": "500ms" });
        Fleet::new(server, PARTITIONS, "ledger")
            .with(json!({
                "source": { "static": null, "plugin": plugin, "refreshInterval": "1s" },
                "hooks": { "plugin": "telltale" },
                "plugins": { "directory": folder },
            }))
            .with(json!({ "source": { "plugin": keys } }))
            .with(grant("http-source", &self.server))
    }
}

/// A source that is right while the fleet gets its partitions, and then goes wrong: the fleet keeps them, says why, and handles what
/// comes.
async fn keeps_the_last_list(instead: Option<Value>, keys: Value, why: &str) {
    let (server, folder) = (NatsServer::start().await, tempfile::tempdir().expect("a folder"));
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let registry = Registry::start().await;
    let mut fleet = registry.fleet(&server, folder.path(), keys);
    let before = fleet.start_settled(1).await;
    assert_eq!(before[0].partition_count, PARTITIONS);

    registry.answers(instead).await;
    fleet.workers[0].logs(&["The partitions cannot be listed", why]).await;
    fleet.workers[0].logs(&["PARTI-1207 ErrPartitionListInvalid"]).await;
    context.publish(subject(PARTITIONS - 1), "plain".into()).await.expect("a publish").await.expect("a confirmation");
    eventually("the message is handled", async || match messages(&context, "out").await {
        1 => Ok(()),
        count => Err(format!("{count} outputs")),
    })
    .await;
    assert_eq!(fleet.settled().await[0].partition_count, PARTITIONS);

    // A leader that begins now has no list of its own to keep.
    fleet.start_settled(1).await;
    let (leader, _) = fleet.leader_and_follower().await;
    fleet.workers[leader].kill();
    let after = fleet.settled().await;
    assert_eq!(after[0].partition_count, PARTITIONS, "the next leader takes over what is in force");
}

#[tokio::test]
async fn a_list_with_a_partition_twice_is_refused_as_a_whole() {
    let twice = json!([partition(0), partition(1), partition(0)]);
    let why = format!("is partition {} for the second time", partition(0));
    keeps_the_last_list(Some(twice), json!({}), &why).await;
}

#[tokio::test]
async fn a_sudden_empty_list_leaves_the_last_one_in_force() {
    keeps_the_last_list(Some(list(0)), json!({}), "the source lists no partitions any more").await;
}

#[tokio::test]
async fn a_source_that_gets_no_answer_leaves_the_last_list_in_force() {
    keeps_the_last_list(None, json!({}), "there was no answer from").await;
}

#[tokio::test]
async fn a_source_that_fails_in_its_call_leaves_the_last_list_in_force() {
    let limits = json!({ "limits": { "memory": "2MiB" } });
    keeps_the_last_list(Some(json!(["x".repeat(4 << 20)])), limits, "source.plugin.limits.memory").await;
}

#[tokio::test]
async fn an_empty_list_is_believed_where_the_operator_says_so() {
    let (server, folder) = (NatsServer::start().await, tempfile::tempdir().expect("a folder"));
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    let registry = Registry::start().await;
    let mut fleet = registry.fleet(&server, folder.path(), json!({ "allowEmpty": true }));
    fleet.start_settled(1).await;
    registry.answers(Some(list(0))).await;
    eventually("nothing is assigned any more", async || match fleet.workers[0].status().await?.partition_count {
        0 => Ok(()),
        count => Err(format!("{count} partitions")),
    })
    .await;
}
