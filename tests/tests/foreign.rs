//! What others put where the fleet reads: garbage in its buckets, odd messages in its stream, nonsense on its HTTP port.

use async_nats::HeaderMap;
use async_nats::jetstream::kv::Store;
use futures::TryStreamExt as _;
use parti_tests::{
    Answer, Fleet, NatsServer, Producer, Records, assert_relayed, create_stream, eventually, messages, partition,
    read_stream, subject,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PARTITIONS: usize = 12;

const GARBAGE: [&[u8]; 4] = [b"\xff\xfe\x00garbage", b"{\"v\": 99}", b"[]", b"{\"v\":1,\"term\":-1}"];

async fn put(store: &Store, key: &str, value: &'static [u8]) {
    store.put(key, value.into()).await.expect("a write");
}

#[tokio::test]
async fn garbage_in_the_control_buckets_neither_crashes_nor_stalls_the_fleet() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let statuses = fleet.start_settled(3).await;
    let (_, follower) = fleet.leader_and_follower().await;
    let victim = statuses[follower].id();
    let records = Records::open(&context).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 5000, |n| n.to_string());
    for garbage in GARBAGE {
        for key in ["worker-55", "worker-x", "nonsense"] {
            put(&records.stable_ids, key, garbage).await;
        }
        for key in ["heartbeat.worker-55", "heartbeat.", "heartbeat.worker-x", "nonsense"] {
            put(&records.heartbeats, key.trim_end_matches('.'), garbage).await;
        }
        put(&records.heartbeats, &format!("heartbeat.{victim}"), garbage).await;
        put(&records.assignments, "assignment.worker-55", garbage).await;
        put(&records.assignments, "nonsense", garbage).await;
        put(&records.election, "nonsense", garbage).await;
    }
    fleet.settled().await;

    // The control plane still works: a dead worker's partitions go to the others.
    producer.reach(2000).await;
    fleet.workers[follower].kill();
    fleet.settled().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn garbage_over_the_lease_the_plan_and_an_assignment_is_overcome() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let statuses = fleet.start_settled(3).await;
    let records = Records::open(&context).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 8000, |n| n.to_string());
    put(&records.election, "leader", GARBAGE[0]).await;
    fleet.settled().await;
    put(&records.assignments, &format!("assignment.{}", statuses[1].id()), GARBAGE[0]).await;
    put(&records.assignments, "plan", GARBAGE[0]).await;
    producer.reach(2000).await;

    let (_, follower) = fleet.leader_and_follower().await;
    fleet.workers[follower].kill();
    fleet.settled().await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(records.plan().await.len(), PARTITIONS);
}

#[tokio::test]
async fn a_partition_with_an_unreadable_record_waits_and_says_so_and_the_others_go_on() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    // The first worker creates the buckets.
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let records = {
        let mut scout = Fleet::new(&server, 1, "relay");
        scout.start();
        Records::open(&context).await
    };
    put(&records.ownership, &partition(3), GARBAGE[0]).await;
    fleet.start();
    fleet.workers[0].logs(&["cannot be used", &partition(3)]).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let others: Vec<_> = subjects.iter().filter(|name| **name != subject(3)).cloned().collect();
    Producer::start(&context, &subjects, 1000, 1200, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &others).await;
    let entry = records.ownership.get(partition(3)).await.expect("a read");
    assert_eq!(entry.as_deref(), Some(GARBAGE[0]), "what is not understood is left alone");

    // The way out: the operator deletes the record.
    records.ownership.purge(partition(3)).await.expect("a purge");
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
}

#[tokio::test]
async fn consumers_deleted_from_outside_are_made_anew() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 3000, |n| n.to_string());
    for count in [500, 1500] {
        producer.reach(count).await;
        let stream = context.get_stream("work").await.expect("the stream");
        // Those that were deleted before have been made anew.
        let names = eventually("a consumer of each worker", async || {
            let names: Vec<String> = stream.consumer_names().try_collect().await.expect("names");
            if names.len() >= 2 { Ok(names) } else { Err(format!("{names:?}")) }
        })
        .await;
        for name in names {
            // The worker may have given it up itself meanwhile.
            let _ = stream.delete_consumer(&name).await;
        }
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 3000, "nothing is handled again");
}

#[tokio::test]
async fn ownership_records_deleted_from_outside_are_written_back() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 3000, |n| n.to_string());
    producer.reach(1000).await;
    for n in 0..PARTITIONS {
        records.ownership.purge(partition(n)).await.expect("a purge");
    }
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let messages = read_stream(&context, "work").await;
    for n in 0..PARTITIONS {
        let last = messages.iter().rev().find(|message| message.subject == subject(n)).expect("a message").sequence;
        records.committed(&partition(n), last).await;
    }
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 3000, "nothing is handled again");
}

#[tokio::test]
async fn a_stream_made_anew_while_no_worker_runs_is_read_from_its_beginning() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    for total in [1200, 600] {
        fleet.start_settled(1).await;
        Producer::start(&context, &subjects, 1000, total, |n| n.to_string()).finish().await;
        assert_relayed(&context, "work", "out", &subjects).await;
        let worker = fleet.workers.last_mut().expect("the worker");
        worker.terminate();
        assert_eq!(worker.exit().await, Some(0));
        context.delete_stream("work").await.expect("a deletion");
        create_stream(&context, "work", "work.>").await;
        context.get_stream("out").await.expect("the stream").purge().await.expect("a purge");
    }
}

#[tokio::test]
async fn odd_messages_are_relayed_as_they_are_and_strange_subjects_left_alone() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 2, "relay");
    fleet.start_settled(1).await;

    let mut headers = HeaderMap::new();
    headers.append("Twice", "first");
    headers.append("Twice", "second");
    headers.insert("Empty", "");
    headers.insert("Size", "42 €");
    let strange = ["work.p", "work.p-00.more", "work.größe", "work.p-99", "work.P-00"];
    for name in strange {
        context.publish(name, "stray".into()).await.expect("a publish").await.expect("a confirmation");
    }
    for payload in [Vec::new(), vec![0, 0xff, 0xfe], vec![b'x'; 900_000]] {
        let sent = context.publish_with_headers(subject(0), headers.clone(), payload.into()).await;
        sent.expect("a publish").await.expect("a confirmation");
    }
    assert_relayed(&context, "work", "out", &[subject(0), subject(1)]).await;
    let relayed = read_stream(&context, "out").await;
    for message in &relayed {
        let twice: Vec<_> = message.headers.get_all("Twice").map(|value| value.as_str()).collect();
        assert_eq!(twice, ["first", "second"]);
        assert_eq!((message.header("Empty"), message.header("Size")), ("", "42 €"));
    }
    assert_eq!((relayed.len() as u64, messages(&context, "work").await), (3, 8));
}

#[tokio::test]
async fn nonsense_on_the_http_port_is_refused_and_changes_nothing() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "noop");
    fleet.start_settled(1).await;
    let worker = &fleet.workers[0];
    let port = worker.port;

    // Callers that connect and never say anything, or never finish.
    let mut idle = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        if n % 2 == 0 {
            stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("a write");
        }
        idle.push(stream);
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let requests: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /status HTTP/9.9\r\n\r\n",
        b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx",
        long.as_bytes(),
    ];
    for request in requests {
        let answer = raw(port, request).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
        assert!(refused, "{:?} is answered with {answer}", String::from_utf8_lossy(&request[..request.len().min(60)]));
    }
    for path in ["/", "/nowhere", "/status/..%2f", "/api/v1/partitions/../../etc/passwd"] {
        assert_eq!(worker.get(path).await.map(|answer| answer.status), Ok(404), "{path}");
    }
    assert_eq!(worker.get("/health/live").await, Ok(Answer { status: 200, body: "OK".to_owned() }));
    worker.ready().await;
    drop(idle);
}

/// Sends bytes and reads what comes back until the other side closes, or says nothing more.
async fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    // The server may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
    let length = read.expect("an answer or an end").unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
