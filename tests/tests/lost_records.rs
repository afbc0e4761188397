//! Ownership records that are lost: written back by owners who live, missed where nobody does, and never taken for those of partitions
//! that nobody has owned.

use async_nats::jetstream::Context;
use parti_coordination::Position;
use parti_tests::{
    Fleet, NatsServer, Records, create_stream, eventually, partition, read_stream, short_leases, subject,
};
use serde_json::json;

const PARTITIONS: usize = 2;

/// The bucket of the ownership records.
const BUCKET: &str = "parti-ownership";

/// Publishes these numbers, by turns to each partition.
async fn publish(context: &Context, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let sent = context.publish(subject(n % PARTITIONS), n.to_string().into()).await.expect("a publish");
        sent.await.expect("a confirmation");
    }
}

async fn relayed(context: &Context) -> Vec<usize> {
    let number = |payload: &[u8]| String::from_utf8_lossy(payload).parse().expect("a number");
    read_stream(context, "out").await.iter().map(|message| number(&message.payload)).collect()
}

/// A server, and a fleet whose partitions begin at the end of the stream.
async fn new_ones() -> (NatsServer, Context, Fleet) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let fleet = Fleet::new(&server, PARTITIONS, "relay").with(short_leases()).with(json!({
        "stream": { "startFrom": "new" },
        "degradedBehavior": { "recoveryGracePeriod": "5s" },
    }));
    (server, context, fleet)
}

#[tokio::test]
async fn messages_that_came_while_record_and_owner_were_gone_are_handled_although_partitions_begin_at_the_end() {
    let (_server, context, mut fleet) = new_ones().await;
    publish(&context, 0..4).await;
    fleet.start_settled(1).await;
    publish(&context, 4..8).await;
    let records = Records::open(&context).await;
    for n in 0..PARTITIONS {
        records.committed(&partition(n), 7).await;
    }
    let mut out = relayed(&context).await;
    out.sort_unstable();
    assert_eq!(out, [4, 5, 6, 7], "what was there before the first owner is not its");
    // The leader has heard of it.
    eventually("the assignment says that the partitions have records", async || {
        let known = records.assignment("worker-0").await.fresh;
        if known.as_ref().is_some_and(std::collections::BTreeSet::is_empty) {
            Ok(())
        } else {
            Err(format!("{known:?}"))
        }
    })
    .await;
    fleet.workers[0].kill();
    context.delete_key_value(BUCKET).await.expect("a deletion");
    publish(&context, 8..12).await;
    fleet.start_settled(1).await;
    eventually("everything since then comes out", async || {
        let mut out = relayed(&context).await;
        out.sort_unstable();
        out.dedup();
        if out.ends_with(&[8, 9, 10, 11]) { Ok(()) } else { Err(format!("{out:?}")) }
    })
    .await;
    assert!(fleet.workers[1].log().contains("PARTI-1117"), "{}", fleet.workers[1].log());
}

#[tokio::test]
async fn owners_with_nothing_to_do_write_their_records_back_by_themselves() {
    let (_server, context, mut fleet) = new_ones().await;
    fleet.start_settled(2).await;
    publish(&context, 0..8).await;
    let records = Records::open(&context).await;
    for n in 0..PARTITIONS {
        records.committed(&partition(n), 7).await;
    }
    let before = [records.ownership(&partition(0)).await.unwrap(), records.ownership(&partition(1)).await.unwrap()];
    let stream = format!("KV_{BUCKET}");
    let config = context.get_stream(&stream).await.expect("the bucket").cached_info().config.clone();
    context.delete_stream(&stream).await.expect("a deletion");
    context.create_stream(config).await.expect("a bucket");
    let records = Records::open(&context).await;
    for (n, before) in before.into_iter().enumerate() {
        let back = records.committed(&partition(n), before.position.0).await;
        assert_eq!((back.owner, back.epoch), (before.owner, before.epoch.next()));
        assert!(back.position > Position(0));
    }
    assert_eq!(relayed(&context).await.len(), 8, "nothing is handled again");
    for worker in &fleet.workers {
        assert!(!worker.log().contains("PARTI-1117"), "{}", worker.log());
    }
}
