//! Partitions that a plugin lists: its list is in force, and a wrong one leaves the last one in force.

use parti_tests::{Fleet, NatsServer, create_stream, eventually, messages, partition, subject};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PARTITIONS: usize = 6;

/// A fleet whose source is the component `registry` with this configuration.
fn fleet(server: &NatsServer, plugin: Value) -> Fleet {
    let source = json!({ "static": null, "plugin": plugin, "refreshInterval": "1s" });
    let hooks = json!({ "plugin": "telltale" });
    Fleet::new(server, PARTITIONS, "ledger").with(json!({ "source": source, "hooks": hooks }))
}

/// A source that is right for some seconds, in which a fleet has its partitions, and then goes wrong: the fleet keeps them, says
/// why, and handles what comes.
async fn keeps_the_last_list(how: &str, why: &str) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let config = json!({ "count": PARTITIONS, "how": how, "until": now.as_secs() + 5 });
    let plugin = json!({ "name": "registry", "config": config, "callTimeout": "500ms" });
    let mut fleet = fleet(&server, plugin);
    let before = fleet.start_settled(1).await;
    assert_eq!(before[0].partition_count, PARTITIONS);

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
    keeps_the_last_list("twice", &format!("is partition {} for the second time", partition(0))).await;
}

#[tokio::test]
async fn a_sudden_empty_list_leaves_the_last_one_in_force() {
    keeps_the_last_list("none", "the source lists no partitions any more").await;
}

#[tokio::test]
async fn a_source_that_hangs_leaves_the_last_list_in_force() {
    keeps_the_last_list("hang", "source.plugin.callTimeout, which is 500ms").await;
}

#[tokio::test]
async fn a_source_that_traps_leaves_the_last_list_in_force() {
    keeps_the_last_list("trap", "plugin registry trapped").await;
}

#[tokio::test]
async fn an_empty_list_is_believed_where_the_operator_says_so() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970") + Duration::from_secs(5);
    let config = json!({ "count": PARTITIONS, "how": "none", "until": now.as_secs() });
    let mut fleet = fleet(&server, json!({ "name": "registry", "config": config, "allowEmpty": true }));
    fleet.start_settled(1).await;
    eventually("nothing is assigned any more", async || match fleet.workers[0].status().await?.partition_count {
        0 => Ok(()),
        count => Err(format!("{count} partitions")),
    })
    .await;
}
