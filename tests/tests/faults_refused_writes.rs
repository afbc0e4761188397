//! NATS answers, but takes no more: a bucket or a stream is full, or the disk is.

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::DiscardPolicy;
use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, Records, change_stream, create_stream, create_streams,
    dead_letters, eventually, messages,
};

const PARTITIONS: usize = 30;

async fn fleet_of_two(server: &NatsServer, context: &Context, handling: Handling) -> Fleet {
    create_streams(context, handling, 1).await;
    let mut fleet = Fleet::new(server, PARTITIONS, handling.plugin()).with(dead_letters());
    fleet.start_settled(2).await;
    fleet
}

/// Commits wait; what is handled meanwhile is committed as soon as there is room again.
#[tokio::test]
async fn an_ownership_bucket_that_takes_nothing_delays_commits_and_leaves_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    let handling = Handling::ControlChart;
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    let mut fleet = fleet_of_two(&server, &context, handling).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 5000);
    producer.reach(1000).await;
    // A bucket keeps one value of each key: only this limit is also one for what replaces a value.
    change_stream(&context, "KV_parti-ownership", |config| config.max_message_size = 1).await;
    eventually("commits lag", async || match fleet.sum("parti_commit_lag_seconds").await {
        0..5 => Err("they do not".to_owned()),
        _ => Ok(()),
    })
    .await;
    change_stream(&context, "KV_parti-ownership", |config| config.max_message_size = -1).await;
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.settled().await;
    assert_eq!(records.standing().await.owners, before.owners, "nothing has moved");
}

/// Output that is not taken is repeated until it is, and nothing passes it.
#[tokio::test]
async fn an_output_stream_that_is_full_holds_everything_back_in_order() {
    let handling = Handling::Ledger;
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    let mut fleet = fleet_of_two(&server, &context, handling).await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 4000);
    producer.reach(1000).await;
    change_stream(&context, "out", |config| (config.max_messages, config.discard) = (1200, DiscardPolicy::New)).await;
    producer.reach(3000).await;
    for worker in 0..2 {
        fleet.workers[worker].logs(&["Output is not confirmed; it is repeated", "maximum messages"]).await;
    }
    assert!(messages(&context, "out").await <= 1200);
    change_stream(&context, "out", |config| config.max_messages = -1).await;
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.settled().await;
}

/// As a full disk does: whatever is written anywhere is refused, until somebody makes room.
#[tokio::test]
async fn a_server_without_room_loses_nothing_and_goes_on_when_there_is_room() {
    if !parti_tests::is_soak() {
        return;
    }
    const ROOM: usize = 24 << 20;
    let handling = Handling::Ledger;
    let server = NatsServer::with_config(&format!("jetstream {{ max_file: {ROOM} }}")).await;
    let context = server.jetstream().await;
    let mut fleet = fleet_of_two(&server, &context, handling).await;
    create_stream(&context, "filler", "filler.>").await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 4000);
    producer.reach(1000).await;
    let large = vec![b'x'; 512 << 10];
    let mut taken = 0;
    while let Ok(sent) = context.publish("filler.x", large.clone().into()).await
        && sent.await.is_ok()
    {
        taken += large.len();
        assert!(taken <= ROOM, "the server has no limit");
    }
    let small = vec![b'x'; 100];
    while let Ok(sent) = context.publish("filler.x", small.clone().into()).await
        && sent.await.is_ok()
    {}
    eventually("a worker notices", async || {
        let noticed =
            fleet.workers.iter().any(|worker| worker.log().contains("Output is not confirmed; it is repeated"));
        if noticed { Ok(()) } else { Err("nobody does".to_owned()) }
    })
    .await;
    context.delete_stream("filler").await.expect("a deletion");
    producer.finish().await;
    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    fleet.settled().await;
}
