//! Where partitions begin that nobody has ever owned.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;
use parti_tests::{Fleet, NatsServer, Records, create_stream, partition, read_stream, subject};
use serde_json::{Value, json};

const PARTITIONS: usize = 2;

/// A server with a stream of ten messages, which say their sequence.
async fn server() -> (NatsServer, Context) {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    for n in 1..=10 {
        let sent = context.publish(subject(n % PARTITIONS), n.to_string().into()).await.expect("a publish");
        assert_eq!(sent.await.expect("a confirmation").sequence, n as u64);
    }
    (server, context)
}

/// A durable consumer that has acknowledged the first messages of a stream, and one more that is not the next.
async fn consumer(context: &Context, stream: &str, name: &str, acknowledged: usize) {
    let config = pull::Config { durable_name: Some(name.to_owned()), ..Default::default() };
    let stream = context.get_stream(stream).await.expect("the stream");
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    for n in 0..acknowledged + 2 {
        let message = messages.next().await.expect("a message").expect("no error");
        if n != acknowledged {
            message.double_ack().await.expect("acknowledged");
        }
    }
}

/// What a worker that begins there relays, in the order of the stream.
async fn relayed(server: &NatsServer, context: &Context, from: &Value) -> Vec<u64> {
    let mut fleet = Fleet::new(server, PARTITIONS, "relay").with(json!({ "stream": { "startFrom": from } }));
    fleet.start_settled(1).await;
    let records = Records::open(context).await;
    for n in 0..PARTITIONS {
        records.committed(&partition(n), 9).await;
    }
    let number = |payload: &[u8]| String::from_utf8_lossy(payload).parse().expect("a number");
    let mut relayed: Vec<u64> = read_stream(context, "out").await.iter().map(|m| number(&m.payload)).collect();
    relayed.sort_unstable();
    relayed
}

#[tokio::test]
async fn a_migration_goes_on_behind_what_the_old_consumer_has_acknowledged_without_a_hole() {
    let (server, context) = server().await;
    consumer(&context, "work", "old", 6).await;
    let rest = Box::pin(relayed(&server, &context, &json!({ "consumer": "old" }))).await;
    assert_eq!(rest, [7, 8, 9, 10], "what was acknowledged behind a hole comes again");
}

#[tokio::test]
async fn a_start_at_a_time_is_the_first_message_stored_then_or_later() {
    let (server, context) = server().await;
    let fifth = &read_stream(&context, "work").await[4];
    let time = jiff::Timestamp::from_nanosecond(i128::try_from(fifth.at.as_nanos()).expect("a time")).expect("a time");
    assert_eq!(Box::pin(relayed(&server, &context, &json!(time.to_string()))).await, [5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_consumer_that_the_stream_does_not_have_is_refused_before_anything_is_started() {
    let (server, context) = server().await;
    create_stream(&context, "other", "other.>").await;
    let config = pull::Config { durable_name: Some("elsewhere".to_owned()), ..Default::default() };
    context.get_stream("other").await.expect("a stream").create_consumer(config).await.expect("a consumer");
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    for (name, said) in
        [("nobody", "stream \"work\" has no durable consumer \"nobody\""), ("elsewhere", "belongs to stream \"other\"")]
    {
        let worker = fleet.start_with(json!({ "stream": { "startFrom": { "consumer": name } } }));
        assert_eq!(worker.exit().await, Some(2), "{}", worker.log());
        assert!(worker.log().contains("PARTI-1116") && worker.log().contains(said), "{}", worker.log());
    }
}
