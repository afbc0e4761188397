//! The commands of an operator, on a fleet that works meanwhile.

use async_nats::jetstream::Context;
use parti_coordination::Position;
use parti_coordination::record::{OwnershipRecord, decode, encode};
use parti_tests::{
    Ended, Fleet, NatsServer, Producer, Proxy, Records, eventually_is, messages, parti, partition, read_stream, subject,
};
use serde_json::{Value, json};

const ACKED: &str = r#"parti_messages_total{verdict="ack"}"#;

/// A server with a stream for the messages, one for what the plugin `relay` makes of them, and one for dead letters.
async fn server() -> (NatsServer, Context) {
    let (server, context) = NatsServer::with_streams(&["work", "out", "dead"]).await;
    (server, context)
}

/// A fleet whose dead letters go to the stream `dead`.
fn fleet(server: &NatsServer, partitions: usize, plugin: &str) -> Fleet {
    let handler = json!({ "deadLetter": { "subject": "dead.letters" }, "backoff": { "initial": "50ms", "max": "1s" } });
    Fleet::new(server, partitions, plugin).with(json!({ "handler": handler }))
}

/// Runs `parti` with these arguments and the fleet's configuration.
pub(crate) async fn operate(fleet: &Fleet, arguments: &[&str]) -> Ended {
    let config = fleet.config_file();
    let config = config.to_str().expect("a path in UTF-8");
    parti(&[arguments, &["--config", config]].concat()).await
}

/// The same with `--json`: what it prints, from the first bracket on.
pub(crate) async fn json_of(fleet: &Fleet, arguments: &[&str]) -> Value {
    let ended = operate(fleet, &[arguments, &["--json"]].concat()).await;
    assert_eq!(ended.status, Some(0), "{}", ended.output);
    let begins = ended.output.find(['[', '{']).unwrap_or_else(|| panic!("no JSON: {}", ended.output));
    serde_json::from_str(&ended.output[begins..]).unwrap_or_else(|error| panic!("{error}: {}", ended.output))
}

/// Publishes `count` messages to partition `n`; the last one's sequence.
async fn publish(context: &Context, n: usize, count: u64) -> u64 {
    let mut last = 0;
    for payload in 0..count {
        let sent = context.publish(subject(n), payload.to_string().into()).await.expect("a publish");
        last = sent.await.expect("a confirmation").sequence;
    }
    last
}

/// The state of a partition of the plugin `trap`, once everything up to `sequence` is committed: messages counted.
async fn counted(records: &Records, n: usize, sequence: u64) -> u64 {
    let record = records.committed(&partition(n), sequence).await;
    let snapshot = record.snapshot.expect("a snapshot").load().expect("base64");
    serde_json::from_slice(&snapshot.data).expect("a number")
}

/// The row of partition `n`.
fn row(rows: &Value, n: usize) -> &Value {
    let all = rows.as_array().expect("a list");
    all.iter().find(|row| row["partition"] == json!(partition(n))).unwrap_or_else(|| panic!("{n} in {rows:#}"))
}

#[tokio::test]
async fn a_partition_that_is_sought_back_is_handled_again_from_there_by_its_owner_and_no_other_is_touched() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 4, "trap");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let last = publish(&context, 0, 10).await;
    let other = publish(&context, 1, 5).await;
    assert_eq!((counted(&records, 0, last).await, counted(&records, 1, other).await), (10, 5));
    let before = records.standing().await;

    // A dry run says what it would do, and does nothing.
    let dry = operate(&fleet, &["seek", "p-00", "--to", "4", "--discard-state"]).await;
    dry.assert(2, &["owned by worker-", "to         position 4", "6 messages are handled again", "--yes"]);
    operate(&fleet, &["seek", "p-00", "--to", "4", "--yes"]).await.assert(2, &["--keep-state", "--discard-state"]);
    assert_eq!(records.standing().await, before);

    let moved = json_of(&fleet, &["seek", "p-00", "--to", "4", "--discard-state", "--yes"]).await;
    assert_eq!((&moved["repeated"], &moved["skipped"], &moved["state"]), (&json!(6), &json!(0), &json!("discarded")));
    assert_eq!(moved["takenBy"], json!(before.epochs["p-00"].0), "the plan has not changed");
    // At once: its owner heard of it, and nothing has been published that would have told it.
    eventually_is("the handler begins anew and counts what it gets", 6, async || counted(&records, 0, last).await)
        .await;
    let record = records.committed("p-00", last).await;
    assert_eq!((record.generation.0, record.epoch.0), (2, before.epochs["p-00"].1 + 2));
    let after = records.standing().await;
    assert_eq!(after.epochs["p-01"], before.epochs["p-01"]);

    // And once more with its state: 6 that it had counted and 10 again.
    operate(&fleet, &["seek", "p-00", "--to", "first", "--keep-state", "--yes"])
        .await
        .assert(0, &["has taken it again"]);
    eventually_is("its state goes on", 16, async || counted(&records, 0, last).await).await;
    assert_eq!(fleet.sum("parti_commits_fenced_total").await, 0, "no other worker owned it");
}

#[tokio::test]
async fn an_idle_owner_finds_out_by_itself_that_its_record_was_moved_or_deleted() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 2, "trap");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let (last, other) = (publish(&context, 0, 5).await, publish(&context, 1, 5).await);
    assert_eq!((counted(&records, 0, last).await, counted(&records, 1, other).await), (5, 5));
    // As parti seek would that ends before it has told anybody.
    let bucket = context.get_key_value("parti-ownership").await.expect("the bucket");
    let found = bucket.entry("p-00").await.expect("an answer").expect("a record");
    let record: OwnershipRecord = decode(&found.value).expect("a record");
    let moved = encode(&record.moved(Position(2), record.seen, false)).expect("a record");
    bucket.update("p-00", moved.into(), found.revision).await.expect("a write");
    bucket.delete("p-01").await.expect("a deletion");
    eventually_is("what comes after the new position is handled", 3, async || counted(&records, 0, last).await).await;
    let back = records.committed("p-01", other).await;
    assert_eq!((counted(&records, 1, other).await, back.epoch.0), (5, 2));
}

#[tokio::test]
async fn a_partition_that_is_sought_while_it_works_loses_nothing_behind_the_new_position_and_stays_in_order() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 4, "trap");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let subjects: Vec<_> = (0..4).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 6000, |n| n.to_string());
    for to in [0, 100, 7] {
        producer.reach(1000).await;
        let to = to.to_string();
        operate(&fleet, &["seek", "p-02", "--to", &to, "--discard-state", "--yes"])
            .await
            .assert(0, &["p-02 is at position"]);
    }
    producer.finish().await;
    let stored = read_stream(&context, "work").await;
    let of = |n: usize, above: u64| {
        stored.iter().filter(|message| message.subject == subject(n) && message.sequence > above).count() as u64
    };
    let last = stored.last().expect("messages").sequence;
    for n in 0..4 {
        let last =
            stored.iter().rfind(|message| message.subject == subject(n)).map_or(last, |message| message.sequence);
        let expected = if n == 2 { of(2, 7) } else { of(n, 0) };
        assert_eq!(counted(&records, n, last).await, expected, "partition {n}");
    }
    assert_eq!(records.ownership("p-02").await.expect("a record").generation.0, 4);
}

#[tokio::test]
async fn seeking_to_the_end_passes_over_what_is_there_and_a_time_finds_its_place() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 2, "trap");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    operate(&fleet, &["pause", "p-00"]).await.assert(0, &["1 partition is paused"]);
    let before = publish(&context, 0, 3).await;
    operate(&fleet, &["seek", "p-00", "--to", "last", "--yes"])
        .await
        .assert(0, &["3 messages are never handled", "p-00 is at position 3"]);
    operate(&fleet, &["resume", "p-00"]).await.assert(0, &["nothing is paused"]);
    let last = publish(&context, 0, 2).await;
    assert_eq!((before, counted(&records, 0, last).await), (3, 2));
    // Everything is younger than an hour.
    operate(&fleet, &["seek", "p-00", "--to", "1h", "--discard-state", "--yes"])
        .await
        .assert(0, &["5 messages are handled again"]);
    eventually_is("all of them", 5, async || counted(&records, 0, last).await).await;
}

#[tokio::test]
async fn a_seek_that_cannot_be_is_refused_with_the_reason_and_changes_nothing() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 2, "trap");
    operate(&fleet, &["seek", "p-00", "--to", "0"]).await.assert(1, &["ErrFleetNotFound", "start a worker"]);
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let last = publish(&context, 0, 3).await;
    records.committed("p-00", last).await;
    let before = records.standing().await;
    let refused = async |arguments: &[&str], status, said: &[&str]| {
        operate(&fleet, &[&["seek", "--yes", "--discard-state"], arguments].concat()).await.assert(status, said);
    };
    refused(&["p-0", "--to", "0"], 2, &["there is no partition \"p-0\"", "did you mean p-0"]).await;
    refused(&["work.p-00", "--to", "0"], 2, &["there is no partition"]).await;
    for hostile in ["", "a..b", "*", "p-00>", "p 00", "p-00\n", "%zz", "../p-00", "größe"] {
        refused(&[hostile, "--to", "0"], 2, &["ErrPartitionUnknown"]).await;
    }
    refused(&["p-00", "--to", "4"], 2, &["beyond the end", "its last sequence is 3"]).await;
    for hostile in ["", "-1", "18446744073709551616", "tomorrow", "2999-01-01T00:00:00Z", "1h junk"] {
        refused(&["p-00", &format!("--to={hostile}")], 2, &["ErrOperatorUsage"]).await;
    }
    let both = operate(&fleet, &["seek", "p-00", "--to", "0", "--keep-state", "--discard-state"]).await;
    both.assert(2, &["cannot be used with"]);

    // Records that are not this group's, of another stream, or of nobody.
    let mine = records.ownership("p-01").await.expect("a record");
    let mut of_others = mine.clone();
    of_others.group = "others".into();
    let mut of_another = mine.clone();
    of_another.stream.name = "another".into();
    let mut of_before = mine.clone();
    of_before.stream.created = "2001-01-01T00:00:00.000000000Z".into();
    let value = |record| serde_json::to_vec(record).expect("JSON");
    for (value, said) in [
        (value(&of_others), "belongs to group \"others\""),
        (value(&of_another), "stream \"another\""),
        (value(&of_before), "created anew"),
        (b"{".to_vec(), "not a value of this protocol"),
    ] {
        records.ownership.put("p-01", value.clone().into()).await.expect("a put");
        refused(&["p-01", "--to", "0"], 1, &["is not moved", said]).await;
        assert_eq!(records.ownership.get("p-01").await.expect("a get").expect("a value"), value);
    }
    assert_eq!(records.standing_of("p-00").await, before.epochs["p-00"]);
}

#[tokio::test]
async fn without_nats_every_command_ends_with_3() {
    let (mut server, _) = server().await;
    let fleet = fleet(&server, 2, "noop");
    server.kill();
    for command in [&["partitions"][..], &["seek", "p-00", "--to", "0"], &["pause", "--all"], &["dlq", "list"]] {
        operate(&fleet, command).await.assert(3, &["ErrNATSUnreachable"]);
    }
}

#[tokio::test]
async fn partitions_are_listed_with_owner_position_and_lag_as_they_are() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 6, "trap");
    let statuses = fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let owners = records.plan().await;
    let last = publish(&context, 0, 4).await;
    records.committed("p-00", last).await;
    operate(&fleet, &["pause", "p-01"]).await.assert(0, &[]);
    eventually_is("the gauge", 1, async || fleet.sum("parti_paused_partitions").await).await;
    publish(&context, 1, 3).await;

    let rows = json_of(&fleet, &["partitions"]).await;
    assert_eq!((&row(&rows, 1)["queue"], &row(&rows, 1)["isPaused"]), (&json!(0), &json!(true)), "it holds nothing");
    for n in 0..6 {
        assert_eq!(row(&rows, n)["owner"], json!(owners[&partition(n)]));
        assert_eq!((&row(&rows, n)["assigned"], &row(&rows, n)["phase"]), (&row(&rows, n)["owner"], &json!("running")));
    }
    assert_eq!((&row(&rows, 0)["position"], &row(&rows, 0)["lag"]), (&json!(last), &json!(0)));
    assert!(row(&rows, 0)["handler"].as_str().is_some_and(|digest| digest.len() > 12));
    assert_eq!((&row(&rows, 1)["lag"], &row(&rows, 1)["paused"]), (&json!(3), &json!(true)));

    let lagging = json_of(&fleet, &["partitions", "--lagging"]).await;
    assert_eq!(lagging.as_array().expect("a list").len(), 1, "{lagging:#}");
    let mine = json_of(&fleet, &["partitions", "--worker", statuses[0].id()]).await;
    assert_eq!(mine.as_array().expect("a list").len(), statuses[0].partition_count);
    operate(&fleet, &["partitions", "--worker", "worker-77"])
        .await
        .assert(2, &["no worker \"worker-77\"", statuses[0].id()]);
    let table = operate(&fleet, &["partitions"]).await;
    table.assert(0, &["PARTITION", "OWNER", "LAG", "PAUSED", "p-05"]);
    assert_eq!(table.output.lines().count(), 7, "a head, six partitions, and nothing else in a pipe: {}", table.output);

    // A worker that does not answer leaves its columns empty; what is in NATS is still shown.
    fleet.workers[0].freeze();
    let frozen = row(&json_of(&fleet, &["partitions"]).await, owned_by(&owners, statuses[0].id())).clone();
    assert_eq!((&frozen["queue"], &frozen["phase"], &frozen["epoch"]), (&Value::Null, &json!("owned"), &json!(1)));
    fleet.workers[0].thaw();
}

/// A partition of this worker.
fn owned_by(owners: &std::collections::BTreeMap<String, String>, worker: &str) -> usize {
    (0..6).find(|n| owners[&partition(*n)] == worker).expect("a partition of the worker")
}

#[tokio::test]
async fn a_paused_partition_keeps_its_owner_handles_nothing_and_holds_nothing_up_over_restarts_and_leaders() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 4, "trap");
    fleet.start_settled(3).await;
    let records = Records::open(&context).await;
    operate(&fleet, &["pause", "p-00", "p-00"]).await.assert(0, &["1 partition is paused"]);
    eventually_is("the gauge", 1, async || fleet.sum("parti_paused_partitions").await).await;
    // Far more than a queue holds is no trouble for the others.
    for _ in 0..3 {
        publish(&context, 0, 100).await;
        let last = publish(&context, 1, 20).await;
        records.committed("p-01", last).await;
    }
    let epoch = records.standing_of("p-00").await;
    assert_eq!((fleet.sum(ACKED).await, records.ownership("p-00").await.expect("a record").snapshot), (60, None));

    // Its owner, the leader and everybody else in turn: the setting outlasts them all.
    for worker in 0..3 {
        fleet.workers[worker].kill();
        fleet.start();
        fleet.settled().await;
    }
    assert_ne!(records.standing_of("p-00").await, epoch, "it has moved like any other");
    eventually_is("the gauge", 1, async || fleet.sum("parti_paused_partitions").await).await;
    let last = publish(&context, 1, 20).await;
    records.committed("p-01", last).await;
    assert_eq!(fleet.sum(ACKED).await, 20, "and nothing of the paused one");

    operate(&fleet, &["pause", "--all"]).await.assert(0, &["every partition is paused"]);
    operate(&fleet, &["resume", "p-00"]).await.assert(1, &["parti resume --all"]);
    eventually_is("all of them", 4, async || fleet.sum("parti_paused_partitions").await).await;
    operate(&fleet, &["resume", "--all"]).await.assert(0, &["nothing is paused"]);
    eventually_is("it goes on where it was", 320, async || fleet.sum(ACKED).await).await;
    operate(&fleet, &["pause", "nowhere"]).await.assert(2, &["no partition \"nowhere\""]);
    operate(&fleet, &["pause"]).await.assert(2, &["PARTITION"]);
    operate(&fleet, &["pause", "--all", "p-00"]).await.assert(2, &["cannot be used with"]);
}

#[tokio::test]
async fn a_worker_that_was_cut_off_learns_what_is_paused_when_it_is_back() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 2, "trap");
    let proxy = Proxy::to(&server).await;
    fleet.start_behind(&proxy);
    fleet.settled().await;
    proxy.cut();
    operate(&fleet, &["pause", "--all"]).await.assert(0, &["every partition is paused"]);
    publish(&context, 0, 5).await;
    proxy.heal();
    eventually_is("the gauge", 2, async || fleet.sum("parti_paused_partitions").await).await;
    operate(&fleet, &["resume", "--all"]).await.assert(0, &[]);
    eventually_is("and goes on", 5, async || fleet.sum(ACKED).await).await;
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed_once() {
    let (server, context) = server().await;
    let mut fleet = fleet(&server, 4, "trap");
    fleet.start_settled(1).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.append("trace", "one");
    headers.append("trace", "two");
    headers.insert("Parti-Subject", "work.forged");
    for (n, payload) in [(0, &b"trap \x1b[31m"[..]), (1, b"trap one"), (0, b"trap two")] {
        let sent = context.publish_with_headers(subject(n), headers.clone(), payload.into()).await.expect("a publish");
        sent.await.expect("a confirmation");
    }
    eventually_is("dead letters", 3, async || messages(&context, "dead").await).await;
    let letters = json_of(&fleet, &["dlq", "list"]).await;
    let of = |n: usize| {
        let all = letters.as_array().expect("a list").iter();
        all.filter(|letter| letter["partition"] == json!(partition(n)))
            .map(|l| l["id"].as_u64().expect("an ID"))
            .collect::<Vec<_>>()
    };
    assert_eq!((of(0).len(), of(1).len()), (2, 1), "{letters:#}");
    let list = async |arguments: &[&str]| {
        json_of(&fleet, &[&["dlq", "list"], arguments].concat()).await.as_array().expect("a list").len()
    };
    assert_eq!(
        [list(&["--partition", "p-01"]).await, list(&["--limit", "2"]).await, list(&["--since", "1h"]).await],
        [1, 2, 3]
    );
    assert_eq!(list(&["--since", "0s"]).await, 0);
    operate(&fleet, &["dlq", "list", "--since", "soon"]).await.assert(2, &["--since", "2h"]);
    operate(&fleet, &["dlq", "list", "--subject", "nowhere.x"]).await.assert(1, &["no stream captures"]);
    operate(&fleet, &["dlq", "list", "--subject", "a b"]).await.assert(2, &["is no subject"]);
    operate(&fleet, &["dlq", "list"]).await.assert(0, &["PARTITION", "trapped"]);

    let wild = of(0)[0].to_string();
    let shown = operate(&fleet, &["dlq", "show", &wild]).await;
    shown.assert(0, &["Parti-Reason", "trace", "74 72 61 70 20 1b 5b", "|trap .[31m|"]);
    assert!(!shown.output.contains('\u{1b}'), "{:?}", shown.output);
    assert_eq!(json_of(&fleet, &["dlq", "show", &of(1)[0].to_string()]).await["payload"], json!("trap one"));
    operate(&fleet, &["dlq", "show", "99"]).await.assert(2, &["no dead letter 99"]);
    operate(&fleet, &["dlq", "show", "x"]).await.assert(2, &["invalid value"]);

    // What trapped then would trap again: a handler that knows better takes over.
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    operate(&fleet, &["dlq", "replay", &wild]).await.assert(2, &["1 dead letter", "--yes"]);
    let before = messages(&context, "work").await;
    let replayed = operate(&fleet, &["dlq", "replay", "--all", "--partition", "p-00", "--yes"]).await;
    replayed.assert(0, &["replayed to work.p-00: sequence 4 of work", "sequence 5 of work"]);
    let again = operate(&fleet, &["dlq", "replay", &wild, "--yes", "--delete"]).await;
    again.assert(0, &["already replayed to work.p-00: sequence 4 of work", "deleted"]);
    assert_eq!((messages(&context, "work").await, messages(&context, "dead").await), (before + 2, 2));
    let original = &read_stream(&context, "work").await[3];
    assert_eq!((original.subject.as_str(), original.payload.as_ref()), ("work.p-00", &b"trap \x1b[31m"[..]));
    let values: Vec<_> = original.headers.get_all("trace").map(|value| value.as_str().to_owned()).collect();
    assert_eq!(
        (values.len(), original.header("Parti-Subject"), original.header("Parti-Reason")),
        (2, "work.forged", "")
    );

    // What no worker has put there, and what is not there, is said and not published.
    let stranger = context.publish("dead.letters", "x".into()).await.expect("a publish").await.expect("a confirmation");
    let mixed =
        operate(&fleet, &["dlq", "replay", "--yes", &stranger.sequence.to_string(), "98", &of(1)[0].to_string()]).await;
    mixed.assert(1, &["no worker has put it there", "no such message", "replayed to work.p-01", "ErrReplayIncomplete"]);
}

#[tokio::test]
async fn five_thousand_partitions_are_listed_each_with_its_exact_lag() {
    const PARTITIONS: usize = 5000;
    let (server, context) = server().await;
    let mut fleet = fleet(&server, PARTITIONS, "noop").with(json!({ "handler": { "commitInterval": "20s" } }));
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    Producer::start(&context, &subjects, 20_000, 20_000, |n| n.to_string()).finish().await;
    fleet.start_settled(1).await;
    let ended = operate(&fleet, &["partitions", "--json"]).await;
    let rows: Value = serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {}", ended.output));
    assert_eq!(rows.as_array().map(Vec::len), Some(PARTITIONS));
    println!("{PARTITIONS} partitions in {:?}", ended.took);
    let exact =
        rows.as_array().expect("a list").iter().all(|row| row["lagIsAtLeast"] == json!(false) && row["queue"].is_u64());
    assert!(exact, "{:#}", rows[0]);
}
