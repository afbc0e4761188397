//! What a reader promises, against real servers of both ends of the supported range.

use super::super::publisher::{OutgoingMessage, Publisher};
use super::super::stream::{NewStream, Retention, Storage, StreamInfo};
use super::super::testing::{Release, TestServer, in_time};
use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

async fn stream(nats: &Nats) {
    let new = NewStream {
        name: "work".to_owned(),
        subjects: vec!["work.>".to_owned()],
        retention: Retention::Limits,
        storage: Storage::File,
        replicas: 1,
        max_age: None,
        duplicate_window: Duration::from_secs(120),
    };
    StreamInfo::create(nats, &new).await.unwrap();
}

async fn fill(nats: &Nats, messages: std::ops::Range<usize>, bytes: usize) {
    let publisher = Publisher::new(nats, 500);
    let mut receipts = Vec::new();
    for n in messages {
        let message = OutgoingMessage {
            subject: format!("work.{}", n % 10),
            id: n.to_string(),
            headers: vec![("n".to_owned(), n.to_string()), ("n".to_owned(), "again".to_owned())],
            payload: vec![b'x'; bytes].into(),
        };
        let receipt = publisher.send(message).await;
        receipts.push(tokio::spawn(receipt.published()));
    }
    for receipt in receipts {
        assert!(matches!(receipt.await.unwrap(), super::super::publisher::Published::Confirmed { .. }));
    }
}

async fn open(nats: &Nats, start: u64) -> Reader {
    let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(start)), filters: None };
    Reader::open(nats, &options).await.unwrap()
}

/// Publishes a message without a payload, with headers that a client library would not send.
async fn publish_raw(server: &TestServer, subject_and_reply: &str, headers: &str) {
    let mut publisher = tokio::net::TcpStream::connect(server.url().trim_start_matches("nats://")).await.unwrap();
    let publish = format!("HPUB {subject_and_reply} {0} {0}\r\n{headers}\r\n", headers.len());
    let session = format!("CONNECT {{\"verbose\":false,\"headers\":true}}\r\n{publish}PING\r\n");
    publisher.write_all(session.as_bytes()).await.unwrap();
    let mut answer = [0; 4096];
    let mut said = String::new();
    while !said.contains("PONG") {
        let bytes = in_time(publisher.read(&mut answer)).await.unwrap();
        said.push_str(std::str::from_utf8(&answer[..bytes]).unwrap());
    }
}

/// One that asks for its messages.
async fn open_asking(nats: &Nats, start: u64) -> Reader {
    let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(start)), filters: None };
    Reader::open_shared(nats, &options).await.unwrap()
}

async fn read(reader: &mut Reader, messages: usize) -> Vec<StreamMessage> {
    let mut read = Vec::new();
    while read.len() < messages {
        in_time(reader.read(&mut read)).await.unwrap();
    }
    read
}

#[tokio::test]
async fn reading_from_a_sequence_brings_exactly_what_follows_in_order() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        fill(&nats, 0..5000, 10).await;

        let mut reader = open(&nats, 1001).await;
        assert_eq!(reader.pending(), 4000);
        let messages = read(&mut reader, 4000).await;
        assert_eq!(messages.len(), 4000);
        for (n, message) in (1000..).zip(&messages) {
            assert_eq!((message.sequence.0, message.headers.get("n").unwrap()), (n + 1, n.to_string().into()));
            assert_eq!(message.subject, format!("work.{}", n % 10).into());
            assert_eq!(message.headers.iter().filter(|(name, _)| name == "n").count(), 2);
        }
        assert_eq!(reader.pending(), 0);
        assert!(reader.has_read_all().await.unwrap());
        // A reader that has caught up goes on with what comes.
        fill(&nats, 5000..5003, 10).await;
        assert_eq!(read(&mut reader, 3).await.last().unwrap().sequence, Sequence(5003));
    }
}

#[tokio::test]
async fn filters_leave_out_what_does_not_match() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    stream(&nats).await;
    fill(&nats, 0..100, 10).await;
    let filters = Filters::new(vec!["work.3".to_owned(), "work.7".to_owned()]);
    let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(1)), filters };
    let mut reader = Reader::open(&nats, &options).await.unwrap();
    let messages = read(&mut reader, 20).await;
    assert_eq!(messages.iter().filter(|message| ["work.3", "work.7"].contains(&message.subject.as_str())).count(), 20);
    assert_eq!(Filters::new(Vec::new()), None);
}

#[tokio::test]
async fn a_reader_that_finds_nothing_says_how_far_it_has_come() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        fill(&nats, 0..100, 10).await;
        let filters = Filters::new(vec!["work.3".to_owned(), "work.none".to_owned()]);
        let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(51)), filters };
        let mut reader = Reader::open(&nats, &options).await.unwrap();
        assert_eq!(reader.pending(), 5);
        let mut messages = read(&mut reader, 5).await;
        let mut passes = async |end: u64| {
            while reader.passed() != Some(Sequence(end)) {
                in_time(reader.advance(&mut messages)).await.unwrap();
            }
            assert_eq!((messages.len(), reader.pending()), (5, 0));
        };
        passes(100).await;
        // Of what does not match it is not told otherwise.
        fill(&nats, 100..103, 10).await;
        passes(103).await;
        // Nor of what is gone.
        fill(&nats, 104..110, 10).await;
        let stored = super::super::stored::Stored::new(&nats, "work");
        assert_eq!(stored.delete(Sequence(109)).await, Ok(true));
        passes(109).await;
    }
}

#[tokio::test]
async fn a_reader_with_filters_that_are_said_to_be_exact_misses_nothing_when_another_subject_is_purged() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        let info = StreamInfo::of(&nats, "work").await.unwrap();
        let filters = Filters::new(vec!["work.3".to_owned(), "work.7".to_owned()]);
        let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(1)), filters };
        let mut reader = Reader::open(&nats, &options).await.unwrap();
        assert!(reader.filters_exactly(&StreamInfo { may_purge: false, ..info.clone() }));
        let is_exact = reader.filters_exactly(&info);
        assert_eq!(is_exact, matches!(release, Release::Newest));
        // More than the server sends ahead; the reader takes none of it yet.
        fill(&nats, 0..2000, 10_000).await;
        super::super::testing::ask(&nats, "STREAM.PURGE.work", json!({ "filter": "work.7" })).await;
        let mut messages = Vec::new();
        while is_exact
            && messages.iter().filter(|message: &&StreamMessage| message.subject.ends_with('3')).count() < 200
        {
            in_time(reader.read(&mut messages)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn messages_that_fill_requests_by_bytes_are_all_delivered() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        fill(&nats, 0..60, 900_000).await;
        assert_eq!(read(&mut open(&nats, 1).await, 60).await.len(), 60);
    }
}

#[tokio::test]
async fn a_reader_goes_on_after_its_requests_have_expired() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        let mut reader = open_asking(&nats, 1).await;
        reader.asks.as_mut().unwrap().request = Bytes::from_static(
            br#"{"batch":1000,"max_bytes":8388608,"expires":1000000000,"idle_heartbeat":400000000}"#,
        );
        tokio::spawn(async move {
            // Both first requests and some more expire meanwhile.
            sleep(Duration::from_millis(3500)).await;
            fill(&nats, 0..2500, 10).await;
        });
        assert_eq!(read(&mut reader, 2500).await.len(), 2500);
    }
}

#[tokio::test]
async fn a_reader_says_that_its_consumer_or_stream_was_deleted() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        for deletion in ["CONSUMER.DELETE.work.", "STREAM.DELETE.work"] {
            // Who is sent messages is not told, but misses the heartbeats.
            for end in [ReaderEnd::Deleted, ReaderEnd::Silent] {
                stream(&nats).await;
                let asks = end == ReaderEnd::Deleted;
                let mut reader = if asks { open_asking(&nats, 1).await } else { open(&nats, 1).await };
                let consumer = if deletion.ends_with('.') { reader.consumer.as_str() } else { "" };
                let deletion = format!("{deletion}{consumer}");
                let reading = tokio::spawn(async move { reader.read(&mut Vec::new()).await });
                nats.api::<_, serde_json::Value>(&deletion, &NoArguments {}).await.unwrap();
                assert_eq!(in_time(reading).await.unwrap(), Err(end), "{release:?} {deletion}");
            }
        }
        let options = ReaderOptions { stream: "work".to_owned(), start: Start::At(Sequence(1)), filters: None };
        assert!(matches!(Reader::open(&nats, &options).await, Err(OpenReaderError::NoStream(_))));
    }
}

#[tokio::test]
async fn a_reader_ends_at_a_gap_and_hands_out_what_came_before_it() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        fill(&nats, 0..10, 10).await;
        let mut reader = open_asking(&nats, 1).await;
        // Somebody else takes the third to fifth message from the same consumer.
        let asks = reader.asks.as_mut().unwrap();
        asks.request = Bytes::from_static(br#"{"batch":2}"#);
        asks.open = BATCH - 1;
        let subject = asks.subject.clone();
        let mut messages = read(&mut reader, 2).await;
        let (thief, inbox) = (&nats.inner.client, nats.inner.client.new_inbox());
        let mut loot = thief.subscribe(inbox.clone()).await.unwrap();
        let request = thief.publish_with_reply(subject, inbox, "{\"batch\":3}".into());
        request.await.unwrap();
        in_time(futures::StreamExt::next(&mut loot)).await.unwrap();
        reader.asks.as_mut().unwrap().open = 0;

        let end = loop {
            if let Err(end) = in_time(reader.read(&mut messages)).await {
                break end;
            }
        };
        assert_eq!(end, ReaderEnd::Gap { expected: 3, found: 6 }, "{release:?}");
        assert_eq!(messages.iter().map(|message| message.sequence.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(reader.read(&mut messages).await, Err(end));
    }
}

/// What a server or a route has dropped after the last message that came.
#[tokio::test]
async fn a_heartbeat_that_knows_of_more_deliveries_than_came_is_a_gap() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    stream(&nats).await;
    fill(&nats, 0..2, 10).await;
    let mut reader = open(&nats, 1).await;
    let mut messages = read(&mut reader, 2).await;
    // As the server would say it.
    publish_raw(&server, &reader.inbox, "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 4\r\n\r\n").await;
    let end = in_time(reader.read(&mut messages)).await;
    assert_eq!((end, messages.len()), (Err(ReaderEnd::Gap { expected: 3, found: 5 }), 2));
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_sent_no_more_than_may_wait_and_misses_nothing() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        fill(&nats, 0..400, 200_000).await;
        let mut reader = open(&nats, 1).await;
        let mut messages = Vec::new();
        in_time(reader.read(&mut messages)).await.unwrap();
        // 80 MB are there, and the server stops in the middle of them.
        in_time(async {
            let mut before = 0;
            loop {
                let subject = format!("CONSUMER.INFO.work.{}", reader.consumer);
                let info: consumer::Info = nats.api(&subject, &NoArguments {}).await.unwrap();
                if info.delivered.consumer_sequence == before {
                    assert!(info.num_pending > 0, "{release:?}");
                    break;
                }
                before = info.delivered.consumer_sequence;
                sleep(Duration::from_millis(500)).await;
            }
        })
        .await;
        while messages.len() < 400 {
            in_time(reader.read(&mut messages)).await.unwrap();
        }
        assert!(messages.iter().map(|message| message.sequence.0).eq(1..=400), "{release:?}");
    }
}

#[tokio::test]
async fn a_reader_ends_with_its_connection_and_with_a_server_that_falls_silent() {
    let mut server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    stream(&nats).await;
    let mut reader = open(&nats, 1).await;
    let reading = tokio::spawn(async move { reader.read(&mut Vec::new()).await });
    server.kill();
    assert_eq!(in_time(reading).await.unwrap(), Err(ReaderEnd::Disconnected));

    server.run().await;
    let mut reader = open(&nats, 1).await;
    server.freeze(true).await;
    assert_eq!(in_time(reader.read(&mut Vec::new())).await, Err(ReaderEnd::Silent));
    server.freeze(false).await;
}

#[tokio::test]
async fn a_published_message_that_looks_like_a_word_of_the_server_is_only_a_message() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        stream(&nats).await;
        let headers = "NATS/1.0 409 Consumer Deleted\r\nNats-Pending-Messages: 7\r\n\r\n";
        publish_raw(&server, "work.1", headers).await;
        fill(&nats, 0..1, 10).await;
        let messages = read(&mut open(&nats, 1).await, 2).await;
        assert_eq!(messages.iter().map(|message| message.sequence.0).collect::<Vec<_>>(), [1, 2], "{release:?}");
    }
}

#[tokio::test]
async fn a_reader_that_is_dropped_leaves_no_consumer_behind() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    stream(&nats).await;
    let reader = open(&nats, 1).await;
    assert_eq!(StreamInfo::of(&nats, "work").await.unwrap().consumers, 1);
    drop(reader);
    in_time(async {
        while StreamInfo::of(&nats, "work").await.unwrap().consumers > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[test]
fn a_delivery_is_read_in_both_formats_and_nonsense_is_not_one() {
    let old = Delivery::parse("$JS.ACK.work.c.1.48.7.1700000000000000000.3").unwrap();
    let new = Delivery::parse("$JS.ACK.hub.acc.work.c.1.48.7.1700000000000000000.3.random.more").unwrap();
    for delivery in [old, new] {
        assert_eq!((delivery.sequence, delivery.number, delivery.pending), (48, 7, 3));
    }
    for nonsense in [
        "",
        "$JS.ACK.",
        "$JS.ACK.a.b.1.2.3",
        "$JS.ACK.a.b.1.x.7.5.3",
        "$JS.ACK.a.b.1.-4.7.5.3",
        "_INBOX.a.b.1.48.7.5.3",
    ] {
        assert!(Delivery::parse(nonsense).is_none(), "{nonsense:?}");
    }
}
