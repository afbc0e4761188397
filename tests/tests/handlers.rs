//! Handlers that trap, hang, hoard memory, ask again or answer nonsense: the damage stays with the message or its partition.

use async_nats::jetstream::Context;
use parti_tests::{
    Fleet, NatsServer, Records, Stored, Worker, eventually, eventually_is, messages, partition, read_stream,
    short_leases, subject,
};
use serde_json::{Value, json};

const ACKED: &str = r#"parti_messages_total{verdict="ack"}"#;
const RETRIED: &str = r#"parti_messages_total{verdict="retry"}"#;

/// A server with a stream for the messages and one for dead letters.
async fn server() -> (NatsServer, Context) {
    NatsServer::with_streams(&["work", "dead"]).await
}

/// A fleet whose dead letters go to the stream `dead`.
fn with_dead_letters(server: &NatsServer, plugin: &str) -> Fleet {
    let handler = json!({ "deadLetter": { "subject": "dead.letters" }, "backoff": { "initial": "50ms", "max": "1s" } });
    Fleet::new(server, 4, plugin).with(json!({ "handler": handler }))
}

/// Publishes to partition `n`; the last message's sequence.
async fn publish(context: &Context, n: usize, payloads: &[&str]) -> u64 {
    let mut last = 0;
    for payload in payloads {
        let sent = context.publish(subject(n), (*payload).to_owned().into()).await.expect("a publish");
        last = sent.await.expect("a confirmation").sequence;
    }
    last
}

/// Waits until the stream `dead` has this many messages, and gives them.
async fn letters(context: &Context, count: u64) -> Vec<Stored> {
    eventually_is("dead letters", count, async || messages(context, "dead").await).await;
    read_stream(context, "dead").await
}

/// The state of a partition of the plugin `trap`, once everything up to `sequence` is committed: messages counted.
async fn counted(records: &Records, n: usize, sequence: u64) -> u64 {
    let record = records.committed(&partition(n), sequence).await;
    let snapshot = record.snapshot.expect("a snapshot").load().expect("base64");
    serde_json::from_slice(&snapshot.data).expect("a number")
}

#[tokio::test]
async fn a_message_that_traps_is_dead_lettered_and_those_around_it_count() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "trap");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;

    let before = publish(&context, 0, &["a", "b"]).await;
    let poison = publish(&context, 0, &["trap here"]).await;
    let last = publish(&context, 0, &["c", "d", "e"]).await;
    let other = publish(&context, 1, &["f", "g"]).await;
    assert_eq!(counted(&records, 0, last).await, 5);
    assert_eq!(counted(&records, 1, other).await, 2);

    let letters = letters(&context, 1).await;
    let letter = &letters[0];
    assert_eq!((letter.subject.as_str(), letter.payload.as_ref()), ("dead.letters", b"trap here".as_slice()));
    let headers =
        ["Parti-Stream", "Parti-Sequence", "Parti-Subject", "Parti-Partition"].map(|name| letter.header(name));
    assert_eq!(headers, ["work", &poison.to_string(), "work.p-00", "p-00"]);
    let reason = letter.header("Parti-Reason");
    assert!(reason.contains("trapped"), "{reason}");
    assert_eq!(poison, before + 1);
    assert_eq!(fleet.sum("parti_dead_letters_total").await, 1);
}

#[tokio::test]
async fn traps_amid_a_backlog_cost_only_the_messages_that_trap() {
    let (server, context) = server().await;
    let mut expected = 0;
    let mut last = 0;
    // Everything is there before the worker: it comes in whole batches.
    for n in 0..200 {
        let traps = n % 50 == 17;
        last = publish(&context, 0, &[if traps { "trap" } else { "good" }]).await;
        expected += u64::from(!traps);
    }
    let mut fleet = with_dead_letters(&server, "trap");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    assert_eq!(counted(&records, 0, last).await, expected);
    let sequences: Vec<_> = letters(&context, 4).await.iter().map(|l| l.header("Parti-Sequence").to_owned()).collect();
    assert_eq!(sequences, ["18", "68", "118", "168"]);
}

#[tokio::test]
async fn partitions_that_share_an_instance_with_one_that_traps_lose_nothing_and_are_not_blamed() {
    const EACH: u64 = 200;
    let (server, context) = server().await;
    let shared = json!({ "handler": { "isolation": "shared", "instances": 1 } });
    let mut fleet = with_dead_letters(&server, "trap").with(shared);
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let mut last = [0; 4];
    for n in 0..EACH {
        for (at, last) in last.iter_mut().enumerate() {
            let traps = at == 0 && n % 40 == 17;
            *last = publish(&context, at, &[if traps { "trap" } else { "good" }]).await;
        }
    }
    let letters = letters(&context, 5).await;
    assert!(letters.iter().all(|letter| letter.header("Parti-Partition") == "p-00"), "{letters:?}");
    for (n, last) in last.into_iter().enumerate() {
        assert_eq!(counted(&records, n, last).await, if n == 0 { EACH - 5 } else { EACH }, "partition {n}");
    }
    assert_eq!(fleet.sum("parti_dead_letters_total").await, 5);
}

#[tokio::test]
async fn without_dead_letters_a_poisonous_message_blocks_its_partition_and_no_other() {
    let (server, context) = server().await;
    let mut fleet = Fleet::new(&server, 4, "trap");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;

    let before = publish(&context, 0, &["a", "b"]).await;
    let poison = publish(&context, 0, &["trap", "c"]).await - 1;
    fleet.workers[0].logs(&["blocks its partition", "p-00", &poison.to_string()]).await;
    let mut last = 0;
    for n in 0..50 {
        last = publish(&context, 1 + n % 3, &["good"]).await;
    }
    assert_eq!(counted(&records, 1 + 49 % 3, last).await, 17);
    let record = records.committed(&partition(0), before).await;
    assert_eq!(record.position.0, before, "nothing is passed over");
    eventually("the partition's status says why it waits", async || {
        let answer = fleet.workers[0].get("/api/v1/partitions").await?;
        if answer.body.contains("blocks") { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

#[tokio::test]
async fn without_dead_letters_a_poisonous_message_is_dropped_where_the_operator_says_so() {
    let (server, context) = server().await;
    let mut fleet = Fleet::new(&server, 4, "trap").with(json!({ "handler": { "onExhausted": "drop" } }));
    fleet.start_settled(1).await;
    let last = publish(&context, 0, &["a", "trap", "b", "c"]).await;
    let records = Records::open(&context).await;
    assert_eq!(counted(&records, 0, last).await, 3);
    fleet.workers[0].logs(&["cannot be handled", "p-00"]).await;
}

#[tokio::test]
async fn a_handler_that_never_returns_is_stopped_and_the_other_partitions_go_on_meanwhile() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "spin")
        .with(json!({ "handler": { "callTimeout": "8s", "maxTraps": 1, "batchSize": 1 } }));
    fleet.start_settled(1).await;

    let records = Records::open(&context).await;
    let before = publish(&context, 0, &["a"]).await;
    records.committed(&partition(0), before).await;
    let after = publish(&context, 0, &["spin", "b"]).await;
    for n in 0..300 {
        publish(&context, 1 + n % 3, &["good"]).await;
    }
    eventually_is("the others go on", 301, async || fleet.sum(ACKED).await).await;
    assert_eq!(fleet.sum("parti_plugin_timeouts_total").await, 0, "the guest still spins");

    let letters = letters(&context, 1).await;
    assert!(letters[0].header("Parti-Reason").contains("handler.callTimeout"), "{:?}", letters[0]);
    records.committed(&partition(0), after).await;
    assert_eq!(fleet.sum("parti_plugin_timeouts_total").await, 1);
    let status = fleet.workers[0].status().await.expect("a status");
    assert!(status.is_leader && status.state == "Stable", "it has kept its leases: {status:?}");
}

/// Guests that compute give way to each other: nobody waits for a call of another partition to end, not even where more of them
/// compute than there are threads.
#[tokio::test]
async fn twice_as_many_busy_guests_as_threads_keep_no_other_partition_from_its_turn() {
    let (server, context) = server().await;
    let busy = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let mut fleet = Fleet::new(&server, busy + 3, "spin").with(json!({ "handler": { "callTimeout": "10m" } }));
    fleet.start_settled(1).await;
    for n in 0..busy {
        publish(&context, n, &["spin"]).await;
    }
    for round in 1..=5 {
        for n in 0..3 {
            publish(&context, busy + n, &["good"]).await;
        }
        eventually_is("the others go on", 3 * round, async || fleet.sum(ACKED).await).await;
    }
    assert_eq!(fleet.sum("parti_plugin_timeouts_total").await, 0, "all of the busy ones still compute");
}

#[tokio::test]
async fn a_handler_that_wants_all_memory_is_refused_it() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "bomb").with(json!({ "handler": { "limits": { "memory": "16MiB" } } }));
    fleet.start_settled(1).await;
    let after = publish(&context, 0, &["a", "bomb", "b"]).await;
    let other = publish(&context, 1, &["c"]).await;
    let records = Records::open(&context).await;
    records.committed(&partition(0), after).await;
    records.committed(&partition(1), other).await;
    let letters = letters(&context, 1).await;
    assert!(letters[0].header("Parti-Reason").contains("handler.limits.memory"), "{:?}", letters[0]);
}

#[tokio::test]
async fn a_retried_message_holds_back_what_follows_and_then_succeeds() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "retry");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;

    let first = publish(&context, 0, &["a"]).await;
    let last = publish(&context, 0, &["retry 2 after 2000", "b"]).await;
    let other = publish(&context, 1, &["c"]).await;
    eventually_is("the first retry", 1, async || fleet.sum(RETRIED).await).await;
    records.committed(&partition(1), other).await;
    assert_eq!(records.committed(&partition(0), first).await.position.0, first, "what follows waits");
    records.committed(&partition(0), last).await;
    assert_eq!((fleet.sum(ACKED).await, fleet.sum(RETRIED).await), (4, 2));
    assert_eq!(messages(&context, "dead").await, 0);
}

#[tokio::test]
async fn a_message_that_never_succeeds_is_dead_lettered_after_its_attempts() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "retry").with(json!({ "handler": { "maxAttempts": 3 } }));
    fleet.start_settled(1).await;
    let last = publish(&context, 0, &["a", "retry", "b"]).await;
    Records::open(&context).await.committed(&partition(0), last).await;
    let letters = letters(&context, 1).await;
    assert_eq!((letters[0].header("Parti-Attempts"), letters[0].payload.as_ref()), ("3", b"retry".as_slice()));
    assert_eq!((fleet.sum(ACKED).await, fleet.sum(RETRIED).await), (2, 3));
}

#[tokio::test]
async fn attempts_survive_a_crash() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "retry").with(json!({ "handler": { "maxAttempts": 4 } }));
    fleet.start_settled(1).await;
    let last = publish(&context, 0, &["retry 9 after 1500", "b"]).await;
    eventually_is("two attempts", 2, async || fleet.sum(RETRIED).await).await;
    fleet.workers[0].kill();
    fleet.start_settled(1).await;
    Records::open(&context).await.committed(&partition(0), last).await;
    assert_eq!(letters(&context, 1).await[0].header("Parti-Attempts"), "4");
    let retried = fleet.sum(RETRIED).await;
    assert!(retried <= 3, "{retried} attempts after the crash");
}

#[tokio::test]
async fn an_answer_with_too_many_verdicts_counts_for_nothing() {
    let (server, context) = server().await;
    let mut fleet = with_dead_letters(&server, "too-many");
    fleet.start_settled(1).await;
    let last = publish(&context, 0, &["a", "b"]).await;
    Records::open(&context).await.committed(&partition(0), last).await;
    let letters = letters(&context, 2).await;
    for (letter, payload) in letters.iter().zip(["a", "b"]) {
        assert_eq!(letter.payload.as_ref(), payload.as_bytes());
        assert!(letter.header("Parti-Reason").contains("wrong answer"), "{letter:?}");
    }
    assert_eq!(fleet.sum(ACKED).await, 0);
}

/// How partition `n` stands, as its worker tells.
async fn stands(worker: &Worker, n: usize) -> Result<Value, String> {
    let answer = worker.get("/api/v1/partitions").await?;
    let answer: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    let rows = answer.as_array().ok_or("no list of partitions")?;
    rows.iter().find(|row| row["id"] == partition(n)).cloned().ok_or_else(|| format!("{answer}"))
}

#[tokio::test]
async fn a_message_that_kills_four_workers_is_dead_lettered_and_no_other() {
    let (server, context) = server().await;
    let mut fleet =
        with_dead_letters(&server, "spin").with(short_leases()).with(json!({ "handler": { "callTimeout": "60s" } }));
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let before = publish(&context, 0, &["1", "2", "3"]).await;
    records.committed(&partition(0), before).await;
    // No guest can kill its worker. This one stays in the call, and the test kills the worker for it.
    let last = publish(&context, 0, &["4", "spin", "5", "6"]).await;
    let mut neighbour = 0;
    for _ in 0..4 {
        let worker = fleet.workers.last().expect("a worker");
        eventually("the message is being handled", async || {
            let row = stands(worker, 0).await?;
            // What is before it in the batch takes no time.
            let record = records.ownership(&partition(0)).await.ok_or("no record")?;
            let alone = record.alone.is_none_or(|alone| alone.sequence.0 == before + 2);
            let is_it = row["phase"] == "running" && row["attempts"] != 0 && row["queue"] != 0 && alone;
            if is_it { Ok(()) } else { Err(format!("{row} {record:?}")) }
        })
        .await;
        neighbour = publish(&context, 1, &["x", "y"]).await;
        records.committed(&partition(1), neighbour).await;
        fleet.workers.last_mut().expect("a worker").kill();
        fleet.start_settled(1).await;
    }
    let letters = letters(&context, 1).await;
    assert_eq!(&letters[0].payload[..], b"spin");
    let reason = letters[0].header("Parti-Reason");
    assert_eq!(reason, "2 workers died while they handled this message alone");
    let record = records.committed(&partition(0), last).await;
    records.committed(&partition(1), neighbour).await;
    assert_eq!(record.seizes, 4, "until as many more are handled");
    fleet.settled().await;
}
