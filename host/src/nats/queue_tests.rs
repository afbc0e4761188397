//! What the design of queue mode relies on, against real servers of both ends of the supported range.

use super::api::ApiError;
use super::connection::Nats;
use super::publisher::{OutgoingMessage, Published, Publisher};
use super::queue::{Acknowledger, CreateConsumerError, QueueConsumers, QueueMessage, QueueReader};
use super::reader::{Filters, ReaderEnd};
use super::stream::{NewStream, Retention, Storage, StreamInfo};
use super::testing::{Release, TestServer, in_time};
use std::collections::HashMap;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

async fn stream(nats: &Nats, retention: Retention) -> QueueConsumers {
    let new = NewStream {
        name: "work".to_owned(),
        subjects: vec!["work.>".to_owned()],
        retention,
        storage: Storage::File,
        replicas: 1,
        max_age: None,
        duplicate_window: Duration::from_secs(120),
    };
    StreamInfo::create(nats, &new).await.unwrap();
    QueueConsumers::of(nats, "work")
}

async fn publish(nats: &Nats, subject: &str, ids: std::ops::Range<usize>) {
    let publisher = Publisher::new(nats, 100);
    for id in ids {
        let message = OutgoingMessage {
            subject: format!("work.{subject}"),
            id: id.to_string(),
            headers: Vec::new(),
            payload: id.to_string().into(),
        };
        assert!(matches!(publisher.send(message).await.published().await, Published::Confirmed { .. }));
    }
}

fn filters(subjects: &[&str]) -> Filters {
    Filters::new(subjects.iter().map(|subject| format!("work.{subject}")).collect()).unwrap()
}

fn labels() -> HashMap<String, String> {
    HashMap::from([("parti.group".to_owned(), "default".to_owned())])
}

async fn read(reader: &mut QueueReader, messages: usize) -> Vec<QueueMessage> {
    let mut read = Vec::new();
    while read.len() < messages {
        in_time(reader.read(&mut read)).await.unwrap();
    }
    read
}

fn sequences(messages: &[QueueMessage]) -> Vec<u64> {
    messages.iter().map(|message| message.message.sequence.0).collect()
}

async fn held(nats: &Nats) -> u64 {
    StreamInfo::of(nats, "work").await.unwrap().messages
}

#[tokio::test]
async fn a_new_consumer_delivers_in_order_what_nobody_has_acknowledged_and_old_replies_reach_nobody() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let consumers = stream(&nats, Retention::WorkQueue).await;
        let acks = Acknowledger::new(&nats);
        publish(&nats, "a", 0..3).await;
        publish(&nats, "b", 3..6).await;
        let mut first = consumers.open("first", &filters(&["a", "b"]), labels(), LONG).await.unwrap();
        let old = read(&mut first, 6).await;
        assert!(old.iter().all(|message| message.times == 1));
        for message in [&old[1], &old[3]] {
            acks.acknowledge(&message.reply).await.unwrap();
        }
        assert_eq!(held(&nats).await, 4, "an acknowledgement is confirmed when it has taken effect");

        let overlapping = consumers.open("second", &filters(&["b", "c"]), labels(), LONG).await;
        assert!(matches!(overlapping, Err(CreateConsumerError::Overlaps(_))));
        consumers.delete("first").await.unwrap();
        consumers.delete("first").await.unwrap();
        let mut rest = Vec::new();
        assert_eq!(in_time(first.read(&mut rest)).await, Err(ReaderEnd::Deleted));
        let mut second = consumers.open("second", &filters(&["a", "b"]), labels(), LONG).await.unwrap();
        let new = read(&mut second, 4).await;
        assert_eq!((sequences(&new), new[0].times), (vec![1, 3, 5, 6], 1));
        assert_eq!(acks.acknowledge(&old[0].reply).await, Err(ApiError::NoResponders));
        assert_eq!(held(&nats).await, 4);
        for message in &new {
            acks.acknowledge(&message.reply).await.unwrap();
        }
        assert_eq!(held(&nats).await, 0);
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_comes_again_unless_it_is_in_progress() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let consumers = stream(&nats, Retention::WorkQueue).await;
        let acks = Acknowledger::new(&nats);
        publish(&nats, "a", 0..2).await;
        let wait = Duration::from_secs(2);
        let mut reader = consumers.open("one", &filters(&["a"]), labels(), wait).await.unwrap();
        let first = read(&mut reader, 2).await;
        let progress = first[0].reply.clone();
        let keep = tokio::spawn({
            let acks = acks.clone();
            async move {
                loop {
                    acks.in_progress(&progress).await.unwrap();
                    tokio::time::sleep(wait / 4).await;
                }
            }
        });
        let again = read(&mut reader, 1).await;
        assert_eq!((again[0].message.sequence.0, again[0].times), (2, 2));
        keep.abort();
        acks.acknowledge(&first[0].reply).await.unwrap();
        // An acknowledgement of any of its deliveries counts.
        acks.acknowledge(&first[1].reply).await.unwrap();
        assert_eq!(held(&nats).await, 0);
    }
}

#[tokio::test]
async fn an_interest_stream_keeps_what_any_consumer_still_wants_and_nothing_else() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let consumers = stream(&nats, Retention::Interest).await;
        let acks = Acknowledger::new(&nats);
        publish(&nats, "a", 0..2).await;
        assert_eq!(held(&nats).await, 0, "nobody is interested");
        consumers.create("keeper", &filters(&["a", "b"]), labels(), LONG).await.unwrap();
        publish(&nats, "a", 2..5).await;
        let mut reader = consumers.open("owner", &filters(&["a"]), labels(), LONG).await.unwrap();
        let messages = read(&mut reader, 3).await;
        for message in &messages {
            acks.acknowledge(&message.reply).await.unwrap();
        }
        publish(&nats, "b", 5..6).await;
        assert_eq!(held(&nats).await, 4, "the keeper wants them");
        consumers.create("next", &filters(&["b"]), labels(), LONG).await.unwrap();
        consumers.delete("keeper").await.unwrap();
        let left = async {
            while held(&nats).await != 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time(left).await;

        let mut listed = consumers.list().await.unwrap();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> = listed.iter().map(|consumer| consumer.name.as_str()).collect();
        assert_eq!((names, &listed[1].subjects), (vec!["next", "owner"], &vec!["work.a".to_owned()]));
        assert!(listed.iter().all(|consumer| consumer.labels["parti.group"] == "default"));
    }
}

#[tokio::test]
async fn more_consumers_than_fit_one_answer_are_all_listed() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let consumers = stream(&nats, Retention::WorkQueue).await;
    for n in 0..600 {
        let subject = format!("n{n}");
        consumers.create(&subject, &filters(&[&subject]), labels(), LONG).await.unwrap();
    }
    assert_eq!(consumers.list().await.unwrap().len(), 600);
}
