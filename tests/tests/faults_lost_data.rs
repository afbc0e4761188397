//! NATS loses data: streams and buckets are deleted, made anew, purged, or put back to what they were before.

use async_nats::jetstream::Context;
use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, Records, create_stream, create_streams, dead_letters, eventually,
    read_stream, subject,
};

const PARTITIONS: usize = 30;

const BUCKETS: [&str; 5] =
    ["parti-stable-ids", "parti-election", "parti-heartbeats", "parti-assignments", "parti-ownership"];

/// A settled fleet of three with the streams of its handler.
async fn fleet_of_three(handling: Handling) -> (NatsServer, Context, Fleet) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, handling.plugin()).with(dead_letters());
    fleet.start_settled(3).await;
    (server, context, fleet)
}

async fn publish(context: &Context, handling: Handling, messages: u64) {
    Producer::start_for(context, handling, PARTITIONS, 1000, messages).finish().await;
}

/// Publishes messages for the relay, numbered from here.
async fn publish_from(context: &Context, first: u64, messages: u64) {
    for n in first..first + messages {
        let sent = context.publish(subject(n as usize % PARTITIONS), Handling::Relay.payload(n).into());
        sent.await.expect("a publish").await.expect("a confirmation");
    }
}

async fn assert_handled(context: &Context, handling: Handling) {
    Expected::of(context, handling, PARTITIONS).await.assert_handled().await;
}

async fn purge(context: &Context, stream: &str) {
    context.get_stream(stream).await.expect("the stream").purge().await.expect("a purge");
}

#[tokio::test]
async fn a_stream_made_anew_under_a_running_fleet_is_handled_from_its_beginning() {
    let handling = Handling::Relay;
    let (_server, context, mut fleet) = fleet_of_three(handling).await;
    publish(&context, handling, 3000).await;
    assert_handled(&context, handling).await;

    context.delete_stream("work").await.expect("a deletion");
    create_stream(&context, "work", "work.>").await;
    purge(&context, "out").await;
    // Less than before: a fleet that waits for the next sequence it knows of would wait for ever.
    publish(&context, handling, 1500).await;
    assert_handled(&context, handling).await;
    fleet.settled().await;
}

#[tokio::test]
async fn a_server_restarted_without_its_data_is_worked_on_from_the_beginning() {
    let handling = Handling::Relay;
    let (mut server, context, mut fleet) = fleet_of_three(handling).await;
    publish(&context, handling, 3000).await;
    assert_handled(&context, handling).await;

    server.kill();
    server.wipe();
    server.restart().await;
    create_streams(&context, handling, 1).await;
    publish(&context, handling, 1500).await;
    assert_handled(&context, handling).await;
    fleet.settled().await;
}

#[tokio::test]
async fn a_purged_stream_goes_on_with_what_comes_next() {
    let handling = Handling::Relay;
    let (_server, context, mut fleet) = fleet_of_three(handling).await;
    publish(&context, handling, 2000).await;
    assert_handled(&context, handling).await;
    purge(&context, "work").await;
    purge(&context, "out").await;
    publish_from(&context, 2000, 1000).await;
    assert_handled(&context, handling).await;
    fleet.settled().await;
}

/// The server comes back with an older copy of a stream, as from a backup.
async fn rewound(stream: &str, handling: Handling) {
    let (mut server, context, mut fleet) = fleet_of_three(handling).await;
    let producer = Producer::start_for(&context, handling, PARTITIONS, 1000, 6000);
    producer.reach(1500).await;
    server.kill();
    server.save(stream);
    server.restart().await;
    producer.reach(4500).await;
    server.kill();
    server.rewind(stream);
    server.restart().await;
    producer.finish().await;
    assert_handled(&context, handling).await;
    fleet.settled().await;
}

#[tokio::test]
async fn a_rewound_ownership_bucket_leaves_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(rewound("KV_parti-ownership", Handling::ControlChart)).await;
}

#[tokio::test]
async fn a_rewound_assignment_bucket_loses_and_repeats_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(rewound("KV_parti-assignments", Handling::Ledger)).await;
}

/// The stream comes back as it was after 1,500 of 3,000 messages, and this many more are published before a worker looks: one that
/// has slept through it, or one that knows only what is in the records. What was published since comes out, also under sequences
/// that were handled before.
async fn rewound_stream(new: u64, anew: bool) {
    let handling = Handling::Relay;
    let (mut server, context, mut fleet) = fleet_of_three(handling).await;
    publish_from(&context, 0, 1500).await;
    server.kill();
    server.save("work");
    server.restart().await;
    publish_from(&context, 10_000, 1500).await;
    assert_handled(&context, handling).await;
    let before = fleet.running();
    for &worker in &before {
        if anew {
            fleet.workers[worker].terminate();
            assert_eq!(fleet.workers[worker].exit().await, Some(0));
        } else {
            fleet.workers[worker].freeze();
        }
    }
    server.kill();
    server.rewind("work");
    server.restart().await;
    purge(&context, "out").await;
    publish_from(&context, 20_000, new).await;
    if anew {
        fleet.start_settled(3).await;
    } else {
        before.iter().for_each(|&worker| fleet.workers[worker].thaw());
    }
    eventually("the new messages come out, and none of those that survive", async || {
        let out = read_stream(&context, "out").await;
        let numbers = out.iter().filter_map(|message| {
            let text = std::str::from_utf8(&message.payload).ok()?;
            text.strip_prefix("plain ")?.trim().parse::<u64>().ok()
        });
        let (came, again): (Vec<u64>, Vec<u64>) = numbers.partition(|number| *number >= 20_000);
        assert_eq!(again, [] as [u64; 0], "handled twice");
        if came.len() as u64 == new { Ok(()) } else { Err(format!("{} of {new} have", came.len())) }
    })
    .await;
    fleet.settled().await;
}

#[tokio::test]
async fn a_rewound_stream_goes_on_with_what_survives() {
    Box::pin(rewound_stream(600, false)).await;
}

#[tokio::test]
async fn a_rewound_stream_that_has_outgrown_what_was_read_goes_on_with_what_survives() {
    Box::pin(rewound_stream(2500, false)).await;
}

#[tokio::test]
async fn a_rewound_stream_is_recognized_by_workers_that_only_have_the_records() {
    Box::pin(rewound_stream(2500, true)).await;
}

/// Each bucket in turn is deleted under the flow; `restore` is done right afterwards.
async fn without_bucket(handling: Handling, anew: bool) {
    let (_server, context, mut fleet) = fleet_of_three(handling).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let producer = Producer::start_for(&context, handling, PARTITIONS, 500, 6000);
    for (number, bucket) in (1..).zip(BUCKETS) {
        producer.reach(1000 * number).await;
        let config = context.get_stream(format!("KV_{bucket}")).await.expect("the bucket").cached_info().config.clone();
        context.delete_key_value(bucket).await.expect("a deletion");
        if anew {
            context.create_stream(config).await.expect("a bucket");
        }
        fleet.settled().await;
    }
    producer.finish().await;
    assert_handled(&context, handling).await;
    fleet.settled().await;
    let records = Records::open(&context).await;
    assert_eq!(records.standing().await.owners, before.owners, "nothing has moved");
}

#[tokio::test]
async fn buckets_deleted_from_outside_are_made_anew_and_state_is_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(without_bucket(Handling::ControlChart, false)).await;
}

#[tokio::test]
async fn buckets_emptied_and_made_anew_from_outside_lose_and_repeat_nothing() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(without_bucket(Handling::Ledger, true)).await;
}
