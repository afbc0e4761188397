//! Guests of every hostile kind, at one partition of a fleet: the other partitions and plugins go on, the worker keeps its leases, nothing
//! is lost, memory comes back, and the log names the culprit.
//!
//! What else a guest can do wrong has its test where the promise is that it concerns: messages that trap or are asked for again, and answers
//! that are longer than the batch in `handlers`; wrong plans in `strategies`, wrong lists in `sources`; other servers in `outside_world`;
//! files that are no plugin in `bad_components`.

use async_nats::jetstream::Context;
use parti_tests::{
    Fleet, NatsServer, Records, Status, eventually, eventually_is, messages, partition, read_stream, subject,
};
use serde_json::{Value, json};

const PARTITIONS: usize = 4;

/// What a worker may have in use more after a guest has gone wrong than before: less than any of these guests had.
const SPARE: u64 = 64 << 20;

async fn server() -> (NatsServer, Context) {
    NatsServer::with_streams(&["work", "dead", "out"]).await
}

/// A fleet whose handler goes wrong at partition 0 in the configured way, with hooks that log what they are told.
fn fleet(server: &NatsServer, mut how: Value) -> Fleet {
    how["at"] = json!(partition(0));
    let handler = json!({
        "config": how,
        "callTimeout": "60s",
        "maxTraps": 1,
        "deadLetter": { "subject": "dead.letters" },
        "limits": { "memory": "256MiB" },
    });
    Fleet::new(server, PARTITIONS, "zoo").with(json!({ "handler": handler, "hooks": { "plugin": "telltale" } }))
}

/// Publishes to partition `n`; the message's sequence.
async fn publish(context: &Context, n: usize, payload: &str) -> u64 {
    let sent = context.publish(subject(n), payload.to_owned().into()).await.expect("a publish");
    sent.await.expect("a confirmation").sequence
}

/// Publishes to every partition but 0, and waits until all of it is committed.
async fn others_go_on(context: &Context, records: &Records) {
    for n in 1..PARTITIONS {
        let last = publish(context, n, "good").await;
        records.committed(&partition(n), last).await;
    }
}

/// What the handler of partition 0 has counted, once everything up to `sequence` is committed.
async fn counted(records: &Records, sequence: u64) -> u64 {
    let record = records.committed(&partition(0), sequence).await;
    let state = record.snapshot.expect("a snapshot").load().expect("base64");
    serde_json::from_slice(&state.data).expect("a number")
}

/// The worker is what it was, has kept its leases, and nothing in it has panicked.
async fn kept_its_leases(fleet: &Fleet, before: &Status) {
    let status = fleet.workers[0].status().await.expect("a status");
    assert_eq!((status.id(), &status.state, status.is_leader), (before.id(), &before.state, before.is_leader));
    assert_eq!(status.assignment_version, before.assignment_version);
    assert_eq!(fleet.sum("parti_heartbeats_failed_total").await, 0);
    assert!(!fleet.workers[0].log().contains("thread '"), "the host has panicked: {}", fleet.workers[0].log());
}

/// The limit of whoever comes to no end.
const TIME: &str = "handler.callTimeout";

/// A message that makes the guest go wrong is dead-lettered with a reason that says this, and those around it count.
async fn only_the_message_is_lost_to_the_handler(word: &str, why: &str) {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({}));
    if why == TIME {
        // Whoever ends at another limit has time to get there, however busy the machine is.
        fleet = fleet.with(json!({ "handler": { "callTimeout": "3s" } }));
    }
    let before = fleet.start_settled(1).await.remove(0);
    let records = Records::open(&context).await;
    let first = publish(&context, 0, "good").await;
    records.committed(&partition(0), first).await;
    let resident = fleet.workers[0].resident();
    publish(&context, 0, word).await;
    let last = publish(&context, 0, "good").await;
    others_go_on(&context, &records).await;
    assert_eq!(counted(&records, last).await, 2, "the good messages count once each");
    eventually_is("dead letters", 1, async || messages(&context, "dead").await).await;
    let letter = &read_stream(&context, "dead").await[0];
    let reason = letter.header("Parti-Reason");
    assert!(reason.contains(why) && reason.contains("plugin zoo"), "{reason}");
    assert_eq!((letter.payload.as_ref(), letter.header("Parti-Partition")), (word.as_bytes(), partition(0).as_str()));
    assert_eq!(messages(&context, "out").await, 0, "what a failed call has published is not sent");
    let worker = &fleet.workers[0];
    worker.logs(&["The handler failed; back to the last commit", &partition(0), "plugin zoo", why]).await;
    worker.logs(&["\"plugin\":\"telltale\"", &format!("partition {}", partition(0)), "plugin zoo", why]).await;
    eventually("its memory comes back", async || {
        let more = worker.resident().saturating_sub(resident);
        if more < SPARE { Ok(()) } else { Err(format!("{} MiB more than before", more >> 20)) }
    })
    .await;
    kept_its_leases(&fleet, &before).await;
}

#[tokio::test]
async fn a_loop_without_end_is_stopped_by_the_clock() {
    Box::pin(only_the_message_is_lost_to_the_handler("spin", TIME)).await;
}

#[tokio::test]
async fn a_call_of_the_host_that_never_returns_is_stopped_by_the_clock() {
    Box::pin(only_the_message_is_lost_to_the_handler("sleep", TIME)).await;
}

#[tokio::test]
async fn publishes_without_end_are_stopped_by_the_clock() {
    Box::pin(only_the_message_is_lost_to_the_handler("publish", TIME)).await;
}

#[tokio::test]
async fn memory_without_end_ends_at_the_limit() {
    Box::pin(only_the_message_is_lost_to_the_handler("bomb", "handler.limits.memory")).await;
}

#[tokio::test]
async fn calls_without_end_end_with_the_guests_own_stack() {
    // Rust's stack is in the guest's memory, below everything else.
    Box::pin(only_the_message_is_lost_to_the_handler("recurse", "wasm trap: out of bounds memory access")).await;
}

#[tokio::test]
async fn a_log_line_of_100_mb_is_stopped_at_the_limit() {
    Box::pin(only_the_message_is_lost_to_the_handler("log", "handler.limits.hostCallBytes")).await;
}

#[tokio::test]
async fn an_answer_of_100_mb_is_stopped_at_the_limit() {
    Box::pin(only_the_message_is_lost_to_the_handler("answer", "handler.limits.hostCallBytes")).await;
}

#[tokio::test]
async fn series_without_end_are_dropped_and_counted() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({}));
    let before = fleet.start_settled(1).await.remove(0);
    let records = Records::open(&context).await;
    let last = publish(&context, 0, "series").await;
    others_go_on(&context, &records).await;
    records.committed(&partition(0), last).await;
    let dropped = r#"parti_plugin_metric_values_dropped_total{plugin="zoo"}"#;
    eventually_is(dropped, 1_000_000 - 500, async || fleet.sum(dropped).await).await;
    fleet.workers[0].logs(&["handler.limits.metricSeries", "zoo", &partition(0)]).await;
    kept_its_leases(&fleet, &before).await;
}

#[tokio::test]
async fn an_instance_that_traps_every_few_messages_loses_at_most_those() {
    const MESSAGES: u64 = 30;
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({ "nth": "7" }));
    let before = fleet.start_settled(1).await.remove(0);
    let records = Records::open(&context).await;
    let mut last = 0;
    for _ in 0..MESSAGES {
        last = publish(&context, 0, "good").await;
    }
    others_go_on(&context, &records).await;
    let counted = counted(&records, last).await;
    let letters = messages(&context, "dead").await;
    assert_eq!(counted + letters, MESSAGES, "{counted} are counted and {letters} dead letters");
    assert!(letters <= MESSAGES / 7, "{letters} dead letters");
    fleet.workers[0].logs(&["\"plugin\":\"zoo\"", &partition(0), "as configured: message 7"]).await;
    fleet.workers[0].logs(&["The handler failed; back to the last commit", &partition(0), "plugin zoo"]).await;
    kept_its_leases(&fleet, &before).await;
}

/// A guest that goes wrong in this call leaves its partition's messages in the stream, and says so; nothing else stops.
async fn its_partition_waits(how: Value) {
    const SAYS: &str = "The handler did not open; the partition waits";
    let (server, context) = server().await;
    let mut fleet = fleet(&server, how);
    fleet.start().logs(&[SAYS, "plugin zoo"]).await;
    let records = Records::open(&context).await;
    others_go_on(&context, &records).await;
    publish(&context, 0, "good").await;
    let before = fleet.workers[0].status().await.expect("a status");
    // Some more rounds of trying again.
    eventually("it is tried again", async || {
        let tries = fleet.workers[0].log_lines().iter().filter(|line| line.message().contains(SAYS)).count();
        if tries >= 3 { Ok(()) } else { Err(format!("{tries} times")) }
    })
    .await;
    others_go_on(&context, &records).await;
    assert_eq!(messages(&context, "dead").await, 0);
    kept_its_leases(&fleet, &before).await;
}

#[tokio::test]
async fn a_handler_that_traps_in_open_waits_alone() {
    Box::pin(its_partition_waits(json!({ "open": "trap" }))).await;
}

#[tokio::test]
async fn a_handler_that_refuses_to_open_waits_alone() {
    Box::pin(its_partition_waits(json!({ "open": "refuse" }))).await;
}

#[tokio::test]
async fn a_handler_that_traps_in_snapshot_commits_nothing_and_disturbs_nobody() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({ "snapshot": "trap" }));
    let before = fleet.start_settled(1).await.remove(0);
    let records = Records::open(&context).await;
    let sequence = publish(&context, 0, "good").await;
    fleet.workers[0].logs(&["The handler gave no snapshot", "plugin zoo trapped", &partition(0)]).await;
    others_go_on(&context, &records).await;
    let record = records.ownership(&partition(0)).await.expect("a record");
    assert!(record.position.0 < sequence && record.snapshot.is_none(), "{record:?}");
    kept_its_leases(&fleet, &before).await;
}

#[tokio::test]
async fn a_state_that_never_loads_keeps_its_partition_waiting_and_no_other() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({ "snapshot": "unreadable" }));
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let committed = publish(&context, 0, "good").await;
    records.committed(&partition(0), committed).await;
    fleet.workers[0].kill();
    fleet.start();
    let next = publish(&context, 0, "good").await;
    fleet.workers[1].logs(&["The handler did not open; the partition waits", "zoo/unreadable", &partition(0)]).await;
    others_go_on(&context, &records).await;
    let record = records.ownership(&partition(0)).await.expect("a record");
    assert_eq!(record.position.0, committed, "message {next} waits in the stream");
    assert_eq!((messages(&context, "dead").await, fleet.sum("parti_heartbeats_failed_total").await), (0, 0));
}

#[tokio::test]
async fn a_handler_that_traps_in_close_is_gone_all_the_same() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, json!({ "close": "trap" }));
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let last = publish(&context, 0, "good").await;
    records.committed(&partition(0), last).await;
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));
    fleet.workers[0].logs(&["The handler failed while it was closed", "plugin zoo trapped", &partition(0)]).await;
    // Everything is released: the next one need not wait for a lease to end.
    fleet.start_settled(1).await;
    let last = publish(&context, 0, "good").await;
    records.committed(&partition(0), last).await;
}
