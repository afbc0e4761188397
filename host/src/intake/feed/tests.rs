//! The feed over real servers, with partitions that only listen.

use super::*;
use crate::nats::testing::{Release, TestServer, ask, in_time};
use crate::nats::{Nats, OutgoingMessage, Publisher, Stored, StreamInfo};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A feed of the stream `work`.
struct Fed {
    nats: Nats,
    wishes: UnboundedSender<Wish>,
    events: UnboundedReceiver<TaskEvent>,
    state: Arc<FeedState>,
    metrics: Arc<Metrics>,
    identity: StreamIdentity,
    _server: TestServer,
}

/// What a partition is told, without the messages' bodies.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Reader(u64, u64),
    Messages(Vec<u64>),
    Rewound(u64),
    Stream(StreamIdentity),
    NoReader,
    Passed(u64, Option<u64>),
}

struct Partition {
    subject: String,
    sender: UnboundedSender<PartitionInput>,
    inbox: UnboundedReceiver<PartitionInput>,
}

impl Partition {
    fn new(name: &str) -> Self {
        let (sender, inbox) = unbounded_channel();
        Self { subject: format!("work.{name}"), sender, inbox }
    }

    /// What it is told next, apart from how far its reader has come.
    async fn hears(&mut self) -> Told {
        in_time(async {
            loop {
                match self.hears_all().await {
                    Told::Passed(..) => {}
                    told => return told,
                }
            }
        })
        .await
    }

    /// Hears that its reader has come to this message and has delivered it.
    async fn passes(&mut self, sequence: u64) {
        in_time(async { while self.hears_all().await != Told::Passed(sequence, Some(sequence)) {} }).await;
    }

    async fn hears_all(&mut self) -> Told {
        match self.inbox.recv().await.unwrap() {
            Input::Reader { reader, from } => Told::Reader(reader, from.0),
            Input::Messages { messages, .. } => Told::Messages(messages.iter().map(|m| m.sequence.0).collect()),
            Input::Rewound(to) => Told::Rewound(to.0),
            Input::Stream(stream) => Told::Stream(stream),
            Input::NoReader => Told::NoReader,
            Input::Passed { sequence, seen, .. } => Told::Passed(sequence.0, seen.map(|seen| seen.sequence.0)),
            other => panic!("{other:?}"),
        }
    }

    /// Hears of messages up to this one.
    async fn gets(&mut self, last: u64) {
        while !matches!(self.hears().await, Told::Messages(sequences) if sequences.last() == Some(&last)) {}
    }
}

impl Fed {
    /// Of a stream with ten messages, every odd one for the partition `odd`.
    async fn start(release: Release) -> Self {
        Self::start_with(release, true).await
    }

    async fn start_with(release: Release, may_purge: bool) -> Self {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let identity = make_stream(&nats, may_purge).await;
        let (wishes, wish_inbox) = unbounded_channel();
        let (event_sender, events) = unbounded_channel();
        let (state, metrics) = (Arc::default(), Arc::new(Metrics::new(Default::default()).unwrap()));
        let origin = Origin { nats: nats.clone(), stream: "work".into(), create: None };
        let (id, budget) = (identity.clone(), Budget::new(1 << 26));
        tokio::spawn(run(origin, id, budget, Arc::clone(&metrics), Arc::clone(&state), event_sender, wish_inbox));
        let fed = Self { nats, wishes, events, state, metrics, identity, _server: server };
        fed.publish(10).await;
        fed
    }

    async fn publish(&self, messages: u64) {
        publish(&self.nats, messages).await;
    }

    fn wants(&self, partition: &Partition, mark: u64, seen: Option<Seen>) {
        self.wants_of(&self.identity, partition, mark, seen);
    }

    fn wants_of(&self, stream: &StreamIdentity, partition: &Partition, mark: u64, seen: Option<Seen>) {
        let (subject, inbox, stream) = (partition.subject.clone(), partition.sender.clone(), stream.clone());
        self.wishes.send(Wish::Want { subject, mark: Sequence(mark), seen, stream, inbox }).unwrap();
    }

    /// When the stream stored this message.
    async fn time(&self, sequence: u64) -> u64 {
        Stored::new(&self.nats, "work").message(Sequence(sequence)).await.unwrap().unwrap().timestamp_ns
    }
}

async fn make_stream(nats: &Nats, may_purge: bool) -> StreamIdentity {
    let config = json!({ "name": "work", "subjects": ["work.>"], "storage": "file", "deny_purge": !may_purge });
    ask(nats, "STREAM.CREATE.work", config).await;
    let StreamInfo { name, created, .. } = StreamInfo::of(nats, "work").await.unwrap();
    StreamIdentity { name, created }
}

async fn publish(nats: &Nats, messages: u64) {
    let publisher = Publisher::new(nats, 1);
    let first = StreamInfo::of(nats, "work").await.unwrap().last.0 + 1;
    for n in first..first + messages {
        let subject = if n % 2 == 1 { "work.odd" } else { "work.even" }.to_owned();
        let message = OutgoingMessage { subject, id: String::new(), headers: Vec::new(), payload: "x".into() };
        publisher.send(message).await.published().await;
    }
}

#[tokio::test]
async fn a_partition_reads_on_from_its_mark_and_is_told_what_its_reader_has_seen() {
    for release in Release::ALL {
        let fed = Fed::start(release).await;
        let mut odd = Partition::new("odd");
        fed.wants(&odd, 4, None);
        assert_eq!(odd.hears().await, Told::Reader(1, 5));
        odd.gets(9).await;
        odd.passes(10).await;
        fed.publish(1).await;
        odd.gets(11).await;
    }
}

#[tokio::test]
async fn a_catch_up_reader_whose_messages_are_gone_joins_the_main_one() {
    for release in Release::ALL {
        let fed = Fed::start(release).await;
        let (mut odd, mut even, mut last) = (Partition::new("odd"), Partition::new("even"), Partition::new("last"));
        fed.wants(&odd, 10, None);
        assert_eq!(odd.hears().await, Told::Reader(1, 11));
        // Everything that it would read is deleted, one by one.
        let stored = Stored::new(&fed.nats, "work");
        for n in 5..=10 {
            assert_eq!(stored.delete(Sequence(n)).await, Ok(true));
        }
        fed.wants(&even, 4, None);
        assert_eq!(even.hears().await, Told::Reader(2, 5));
        assert_eq!(even.hears().await, Told::Reader(1, 11));
        // And all of it is purged.
        ask(&fed.nats, "STREAM.PURGE.work", json!({})).await;
        fed.wants(&last, 2, None);
        assert_eq!(last.hears().await, Told::Reader(3, 3));
        assert_eq!(last.hears().await, Told::Reader(1, 11));
        assert!(fed.metrics.messages_expired.get() > 0);
        fed.publish(2).await;
        odd.gets(11).await;
        even.gets(12).await;
        assert_eq!(fed.state.pending.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_partition_that_missed_that_the_stream_was_set_back_goes_on_with_what_survives() {
    for release in Release::ALL {
        let fed = Fed::start(release).await;
        let (mut odd, mut even) = (Partition::new("odd"), Partition::new("even"));
        fed.wants(&odd, 10, None);
        assert_eq!(odd.hears().await, Told::Reader(1, 11));
        // It has read up to 500, and a message there that was stored just before the eighth of those that there are.
        let before = Seen { sequence: Sequence(500), time: fed.time(8).await - 1 };
        fed.wants(&even, 500, Some(before));
        assert_eq!(even.hears().await, Told::Reader(1, 11));
        assert_eq!([even.hears().await, even.hears().await], [Told::Rewound(7), Told::NoReader]);
        fed.wants(&even, 7, None);
        assert_eq!(even.hears().await, Told::Reader(2, 8));
        even.gets(10).await;

        // Another one that has missed it is found out by the time alone, also below the end of the stream.
        let mut late = Partition::new("late");
        fed.wants(&late, 9, Some(Seen { sequence: Sequence(9), time: before.time - 1 }));
        assert_eq!([late.hears().await, late.hears().await], [Told::Rewound(7), Told::NoReader]);
        // One that stands in what is left only learns that what its reader had seen is gone.
        let mut behind = Partition::new("behind");
        fed.wants(&behind, 6, Some(before));
        assert_eq!(behind.hears().await, Told::Rewound(7));
        assert!(matches!(behind.hears().await, Told::Reader(_, 7)));
        // And one that has gone on since is left alone.
        let mut young = Partition::new("young");
        fed.wants(&young, 10, Some(Seen { sequence: Sequence(10), time: fed.time(10).await }));
        assert!(matches!(young.hears().await, Told::Reader(_, 11)));
        fed.publish(2).await;
        odd.gets(11).await;
        young.passes(12).await;
        assert_eq!(fed.metrics.streams_replaced.get(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_has_outgrown_what_was_read_of_it_is_known_by_the_message_that_was_read() {
    for release in Release::ALL {
        let fed = Fed::start(release).await;
        let mut odd = Partition::new("odd");
        let other = Seen { sequence: Sequence(8), time: fed.time(6).await };
        fed.wants(&odd, 8, Some(other));
        // The sixth has that very time: rather twice than never.
        assert_eq!([odd.hears().await, odd.hears().await], [Told::Rewound(5), Told::NoReader]);
        let same = Seen { sequence: Sequence(8), time: fed.time(8).await };
        fed.wants(&odd, 8, Some(same));
        assert_eq!(odd.hears().await, Told::Reader(1, 9));
    }
}

#[tokio::test]
async fn a_partition_that_knows_of_another_stream_is_served_by_none_before_it_is_known_which_there_is() {
    for release in Release::ALL {
        let mut fed = Fed::start(release).await;
        let (mut odd, mut even) = (Partition::new("odd"), Partition::new("even"));
        fed.wants(&odd, 10, None);
        assert_eq!(odd.hears().await, Told::Reader(1, 11));
        // It has not heard of this one.
        let former = StreamIdentity { created: "2020-01-01T00:00:00.000000000Z".into(), ..fed.identity.clone() };
        fed.wants_of(&former, &even, 3, None);
        assert_eq!([even.hears().await, even.hears().await], [Told::Stream(fed.identity.clone()), Told::NoReader]);
        // It hears of the next one before the feed does.
        ask(&fed.nats, "STREAM.DELETE.work", json!({})).await;
        let next = make_stream(&fed.nats, true).await;
        fed.publish(2).await;
        fed.wants_of(&next, &even, 0, None);
        assert!(matches!(in_time(fed.events.recv()).await, Some(TaskEvent::Stream(stream)) if stream == next));
        for partition in [&mut odd, &mut even] {
            assert_eq!(
                [partition.hears().await, partition.hears().await],
                [Told::Stream(next.clone()), Told::NoReader]
            );
        }
        fed.wants_of(&next, &even, 0, None);
        assert!(matches!(even.hears().await, Told::Reader(_, 1)));
        even.gets(2).await;
    }
}

impl Fed {
    /// What the consumers on the stream leave in, each with its subjects in order.
    async fn filters(&self) -> Vec<Vec<String>> {
        let list = ask(&self.nats, "CONSUMER.LIST.work", json!({})).await;
        let subjects = |consumer: &serde_json::Value| {
            let config = &consumer["config"];
            let mut all: Vec<String> = serde_json::from_value(config["filter_subjects"].clone()).unwrap_or_default();
            all.extend(config["filter_subject"].as_str().map(str::to_owned));
            all.sort();
            all
        };
        list["consumers"].as_array().unwrap().iter().map(subjects).collect()
    }

    /// Publishes to ten partitions in turn until the consumers are these. The last sequence.
    async fn publish_until_filters_are(&self, expected: &[&[&str]]) -> u64 {
        let publisher = Publisher::new(&self.nats, 100);
        in_time(Box::pin(async {
            // About as fast as a reader that is being opened can follow.
            let mut pace = interval(Duration::from_millis(20));
            while self.filters().await != expected {
                pace.tick().await;
                let mut receipts = Vec::new();
                for n in 0..100 {
                    let (subject, payload) = (format!("work.{}", n % 10), "x".into());
                    let message = OutgoingMessage { subject, id: String::new(), headers: Vec::new(), payload };
                    receipts.push(publisher.send(message).await.published());
                }
                futures::future::join_all(receipts).await;
            }
        }))
        .await;
        StreamInfo::of(&self.nats, "work").await.unwrap().last.0
    }
}

impl Partition {
    /// Takes what comes until it has passed this message, and asks for more if it is to. All sequences.
    async fn takes(&mut self, fed: &Fed, until: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        in_time(async {
            loop {
                match self.hears_all().await {
                    Told::Messages(sequences) => taken.extend(sequences),
                    Told::Passed(sequence, _) if sequence >= until => return,
                    Told::NoReader => fed.wants(self, taken.last().copied().unwrap_or(0), None),
                    _ => {}
                }
            }
        })
        .await;
        taken.retain(|sequence| *sequence <= until);
        // Readers may overlap; the partition knows what it has.
        taken.sort_unstable();
        taken.dedup();
        taken
    }
}

#[tokio::test]
async fn a_worker_with_a_small_share_of_the_stream_reads_its_head_with_filters_and_misses_nothing() {
    // An older server filters exactly only where nobody can purge.
    for (release, may_purge) in [(Release::Newest, true), (Release::Oldest, false)] {
        let fed = Fed::start_with(release, may_purge).await;
        let (mut three, mut seven) = (Partition::new("3"), Partition::new("7"));
        fed.wants(&three, 10, None);
        assert_eq!(three.hears().await, Told::Reader(1, 11));
        let last = Box::pin(fed.publish_until_filters_are(&[&["work.3"]])).await;
        let of = |digit: u64, last: u64| (11..=last).filter(|n| (n - 11) % 10 == digit).collect::<Vec<_>>();
        assert_eq!(three.takes(&fed, last).await, of(3, last));

        // Another one catches up, and is taken into the filter; nobody misses anything.
        fed.wants(&seven, 10, None);
        let last = Box::pin(fed.publish_until_filters_are(&[&["work.3", "work.7"]])).await;
        assert_eq!(seven.takes(&fed, last).await, of(7, last));
        let of_three = three.takes(&fed, last).await;
        let begun = of_three[0];
        assert_eq!(of_three, of(3, last).into_iter().filter(|n| *n >= begun).collect::<Vec<_>>());

        // Who has nearly all of the stream reads everything.
        let from = last + 1;
        for n in [0, 1, 2, 4, 5, 6, 8, 9] {
            let mut other = Partition::new(&n.to_string());
            fed.wants(&other, 10, None);
            tokio::spawn(async move { while other.inbox.recv().await.is_some() {} });
        }
        let last = Box::pin(fed.publish_until_filters_are(&[&[]])).await;
        let (threes, sevens) = tokio::join!(three.takes(&fed, last), seven.takes(&fed, last));
        let after = |digit| of(digit, last).into_iter().filter(|n| *n >= from).collect::<Vec<_>>();
        assert_eq!((threes, sevens), (after(3), after(7)));
    }
}
