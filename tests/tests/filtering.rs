//! Workers that read the head of the stream with filters: nothing is lost when their readers, or they themselves, go.

use futures::TryStreamExt as _;
use parti_tests::{Fleet, NatsServer, Producer, assert_relayed, create_stream, eventually_is, subject};

const PARTITIONS: usize = 30;

#[tokio::test]
async fn workers_with_a_small_share_each_read_with_filters_and_lose_nothing_with_their_readers_or_a_worker() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 40_000, |n| n.to_string());

    all_are_filtered(&fleet).await;
    let stream = context.get_stream("work").await.expect("a stream");
    let names: Vec<String> = stream.consumer_names().try_collect().await.expect("names");
    for name in names {
        let filters = stream.consumer_info(&name).await.expect("a consumer").config.filter_subjects;
        assert_eq!(filters.len(), PARTITIONS / 3, "{name}: {filters:?}");
        stream.delete_consumer(&name).await.expect("a deletion");
    }
    eventually_is("their readers are gone", false, async || filtered(&fleet).await == PARTITIONS as u64).await;

    all_are_filtered(&fleet).await;
    let (_, follower) = fleet.leader_and_follower().await;
    fleet.workers[follower].kill();
    fleet.settled().await;
    all_are_filtered(&fleet).await;

    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

async fn filtered(fleet: &Fleet) -> u64 {
    fleet.sum("parti_filtered_partitions").await
}

async fn all_are_filtered(fleet: &Fleet) {
    eventually_is("partitions with a filter", PARTITIONS as u64, async || filtered(fleet).await).await;
}
