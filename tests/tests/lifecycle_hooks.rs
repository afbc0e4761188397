//! Lifecycle hooks hear what happens to their worker, and are never in its way.

use parti_tests::{Fleet, NatsServer, Producer, create_stream, eventually, partition, subject};
use serde_json::{Value, json};

const PARTITIONS: usize = 4;

fn telltale(config: Value) -> Value {
    json!({ "hooks": { "plugin": "telltale", "config": config } })
}

/// What the hooks of this worker have logged, in order.
fn told(fleet: &Fleet, worker: usize) -> Vec<String> {
    let lines = fleet.workers[worker].log_lines();
    let told = lines.iter().filter(|line| line.text("plugin") == "telltale");
    told.filter_map(|line| Some(line.message().split_once(": ")?.1.to_owned())).collect()
}

async fn hears(fleet: &Fleet, worker: usize, what: &str) {
    eventually(&format!("the hooks of worker {worker} hear {what:?}"), async || {
        let told = told(fleet, worker);
        if told.iter().any(|line| line.contains(what)) { Ok(()) } else { Err(format!("{told:#?}")) }
    })
    .await;
}

#[tokio::test]
async fn hooks_hear_the_first_assignment_states_errors_and_alerts_in_order() {
    let mut server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "dead", "dead.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "trap").with(telltale(json!({}))).with(json!({
        "handler": { "deadLetter": { "subject": "dead.work" } },
        "degradedBehavior": { "enterThreshold": "2s", "exitThreshold": "1s" },
        "degradedAlert": {
            "infoThreshold": "2s", "warnThreshold": "3s", "errorThreshold": "4s", "criticalThreshold": "5s",
            "alertInterval": "1s",
        },
    }));
    fleet.start_settled(1).await;

    let all: Vec<_> = (0..PARTITIONS).map(partition).collect();
    let first = format!("assignment +[{}] -[]", all.join(","));
    hears(&fleet, 0, &first).await;
    let beginning = told(&fleet, 0);
    assert_eq!(beginning[0], "state Init to ClaimingID");
    let stable =
        beginning.iter().position(|line| line == "state WaitingAssignment to Stable").expect("it became stable");
    let assigned = beginning.iter().position(|line| *line == first).expect("an assignment");
    assert!(stable.abs_diff(assigned) == 1, "{beginning:#?}");

    context.publish(subject(1), "trap".into()).await.expect("a publish").await.expect("a confirmation");
    hears(&fleet, 0, &format!("error PARTI-1304 ErrPluginTrap partition {}: plugin trap trapped", partition(1))).await;

    server.kill();
    hears(&fleet, 0, "error PARTI-1103 ErrNATSConnectionLost partition none").await;
    for level in ["Info", "Warn", "Error", "Critical"] {
        hears(&fleet, 0, &format!("alert {level} after ")).await;
    }
    server.restart().await;
    hears(&fleet, 0, "state Degraded to Stable").await;

    // The second worker takes some of the partitions of the first.
    fleet.start_settled(2 - fleet.running().len()).await;
    hears(&fleet, 0, "assignment +[] -[p-").await;
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));
    assert!(told(&fleet, 0).contains(&"state Stable to Shutdown".to_owned()), "{:#?}", told(&fleet, 0));
    hears(&fleet, 1, "assignment +[p-").await;
}

/// A worker with hooks that go wrong with every change of state does its work, and what it tells them is counted.
async fn never_in_the_way(how: &str, result: &str) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "ledger").with(telltale(json!({ "on": "state", "how": how })));
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 500, |n| format!("plain {n}"));
    producer.finish().await;
    eventually("every message is handled", async || {
        let handled = fleet.workers[0].metric("parti_messages_total{verdict=\"ack\"}").await;
        if handled >= 500 { Ok(()) } else { Err(format!("{handled}")) }
    })
    .await;
    hears(&fleet, 0, "assignment +[p-").await;
    eventually("one call for each change of state is counted", async || {
        match fleet.workers[0].metric(&format!("parti_hook_calls_total{{result=\"{result}\"}}")).await {
            4.. => Ok(()),
            count => Err(format!("{count}")),
        }
    })
    .await;
    let status = fleet.workers[0].status().await.expect("a status");
    assert_eq!((status.state.as_str(), status.owned_partitions), ("Stable", PARTITIONS));
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0), "it leaves in order");
}

#[tokio::test]
async fn hooks_that_hang_are_never_in_the_way() {
    never_in_the_way("hang", "failed").await;
}

#[tokio::test]
async fn hooks_that_trap_are_never_in_the_way() {
    never_in_the_way("trap", "failed").await;
}

#[tokio::test]
async fn hooks_that_return_errors_are_never_in_the_way() {
    never_in_the_way("error", "error").await;
}

#[tokio::test]
async fn what_finds_the_queue_full_is_dropped_and_counted() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "ledger")
        .with(json!({ "hooks": { "plugin": "telltale", "config": { "on": "state", "how": "hang" }, "queue": 1 } }));
    fleet.start_settled(1).await;
    eventually("something is dropped", async || match fleet.workers[0].metric("parti_hooks_dropped_total").await {
        0 => Err("nothing yet".to_owned()),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn log_lines_that_hooks_and_sources_may_not_write_are_counted_like_those_of_handlers() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mute = json!({ "logLinesPerSecond": 0 });
    let registry = json!({ "name": "registry", "config": { "count": PARTITIONS }, "limits": mute });
    let mut fleet = Fleet::new(&server, PARTITIONS, "ledger").with(json!({
        "source": { "static": null, "plugin": registry },
        "hooks": { "plugin": "telltale", "limits": mute },
    }));
    fleet.start_settled(1).await;
    for plugin in ["registry", "telltale"] {
        let series = format!("parti_plugin_log_lines_dropped_total{{plugin=\"{plugin}\"}}");
        eventually(&format!("dropped lines of {plugin} are counted"), async || {
            match fleet.workers[0].metric(&series).await {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
    assert_eq!(told(&fleet, 0), Vec::<String>::new());
}
