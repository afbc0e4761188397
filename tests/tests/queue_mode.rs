//! WorkQueue and Interest streams under faults. What is acknowledged leaves the stream, so what was published is known from
//! the producer: every message must be in the output, once, in the order of its partition, and the stream empty in the end.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::RetentionPolicy;
use futures::TryStreamExt as _;
use parti_tests::{
    Fleet, NatsCluster, NatsServer, Producer, Records, Worker, consumers, create_queue, create_replicated_queue,
    create_replicated_stream, create_stream, eventually, eventually_is, messages, partition, read_stream, short_leases,
    subject,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const PARTITIONS: usize = 30;

/// A server with a queue for the messages, a stream for the output and one for dead letters.
async fn server(retention: RetentionPolicy) -> (NatsServer, Context) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_queue(&context, "work", "work.>", retention).await;
    create_stream(&context, "out", "out.>").await;
    create_stream(&context, "dead", "dead.>").await;
    (server, context)
}

fn subjects(partitions: usize) -> Vec<String> {
    (0..partitions).map(subject).collect()
}

fn produce(context: &Context, partitions: usize, total: u64) -> Producer {
    Producer::start(context, &subjects(partitions), 1000, total, |n| n.to_string())
}

/// Waits until everything that the producers have published has arrived, and panics unless it did so once and in order; then
/// waits until everything is acknowledged. Each producer began with 0.
async fn all_arrive(context: &Context, producers: &[(usize, u64)]) {
    let total: u64 = producers.iter().map(|(_, total)| total).sum();
    eventually(&format!("{total} messages arrive"), async || match messages(context, "out").await {
        found if found >= total => Ok(()),
        found => Err(format!("{found} have arrived")),
    })
    .await;
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (partitions, total) in producers {
        for n in 0..*total {
            expected.entry(format!("out.{}", subject(n as usize % partitions))).or_default().push(n);
        }
    }
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in read_stream(context, "out").await {
        let number = std::str::from_utf8(&message.payload).expect("text").parse().expect("a number");
        found.entry(message.subject).or_default().push(number);
    }
    for (subject, expected) in &expected {
        let found = found.get(subject).map_or(&[][..], Vec::as_slice);
        if let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at)) {
            let (due, came) = (expected.get(at), found.get(at));
            panic!("{subject}: message {at} is {came:?}, {due:?} was due; {} of {}", found.len(), expected.len());
        }
    }
    assert_eq!(found.len(), expected.len());
    eventually_is("everything is acknowledged", 0, async || messages(context, "work").await).await;
}

async fn consumer_names(context: &Context) -> Vec<String> {
    let stream = context.get_stream("work").await.expect("a stream");
    stream.consumer_names().try_collect().await.expect("names")
}

/// Waits until the stream has one consumer for each worker and no other.
async fn one_consumer_each(context: &Context, workers: usize) {
    eventually("one consumer for each worker", async || match consumers(context, "work").await {
        found if found == workers => Ok(()),
        found => Err(format!("{found}: {:?}", consumer_names(context).await)),
    })
    .await;
}

async fn worked_off(retention: RetentionPolicy) {
    let (server, context) = server(retention).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    produce(&context, PARTITIONS, 5000).finish().await;
    all_arrive(&context, &[(PARTITIONS, 5000)]).await;
    one_consumer_each(&context, 3).await;
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="ack"}"#).await, 5000);
}

#[tokio::test]
async fn a_work_queue_is_worked_off_in_order_and_is_empty_in_the_end() {
    worked_off(RetentionPolicy::WorkQueue).await;
}

#[tokio::test]
async fn an_interest_stream_is_worked_off_in_order_and_is_empty_in_the_end() {
    worked_off(RetentionPolicy::Interest).await;
}

async fn killed(retention: RetentionPolicy) {
    let (server, context) = server(retention).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let (leader, follower) = fleet.leader_and_follower().await;
    let producer = produce(&context, PARTITIONS, 8000);
    producer.reach(2000).await;
    fleet.workers[follower].kill();
    producer.reach(5000).await;
    fleet.workers[leader].kill();
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 8000)]).await;
    one_consumer_each(&context, 1).await;
}

#[tokio::test]
async fn sigkilled_workers_lose_nothing_of_a_work_queue_and_their_consumers_are_deleted() {
    killed(RetentionPolicy::WorkQueue).await;
}

#[tokio::test]
async fn sigkilled_workers_lose_nothing_of_an_interest_stream_and_their_consumers_are_deleted() {
    killed(RetentionPolicy::Interest).await;
}

/// Replaces every worker by a new one while messages flow: partitions move in all directions at once.
async fn rolled(retention: RetentionPolicy) {
    let (server, context) = server(retention).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let producer = produce(&context, PARTITIONS, 12_000);
    producer.reach(1000).await;
    for leaver in 0..3 {
        fleet.start();
        fleet.workers[leaver].terminate();
        assert_eq!(fleet.workers[leaver].exit().await, Some(0));
        fleet.settled().await;
    }
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 12_000)]).await;
    one_consumer_each(&context, 3).await;
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn a_rolling_update_loses_nothing_of_a_work_queue() {
    rolled(RetentionPolicy::WorkQueue).await;
}

#[tokio::test]
async fn a_rolling_update_loses_nothing_of_an_interest_stream() {
    rolled(RetentionPolicy::Interest).await;
}

/// Freezes a worker for longer than every lease, and lets it run on: it finds its consumer gone and its partitions taken.
async fn frozen(retention: RetentionPolicy) {
    let (server, context) = server(retention).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(short_leases());
    fleet.start_settled(3).await;
    let (_, follower) = fleet.leader_and_follower().await;
    let id = fleet.workers[follower].status().await.expect("a status").id().to_owned();
    let records = Records::open(&context).await;
    let producer = produce(&context, PARTITIONS, 9000);
    producer.reach(1000).await;
    fleet.workers[follower].freeze();
    eventually_is("its ID has expired", false, async || records.is_claimed(&id).await).await;
    eventually_is("nothing is left to it", false, async || records.plan().await.values().any(|owner| *owner == id))
        .await;
    producer.reach(7000).await;
    fleet.workers[follower].thaw();
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 9000)]).await;
    fleet.settled().await;
    one_consumer_each(&context, 3).await;
}

#[tokio::test]
async fn a_worker_frozen_for_longer_than_every_lease_does_no_harm_to_a_work_queue() {
    Box::pin(frozen(RetentionPolicy::WorkQueue)).await;
}

#[tokio::test]
async fn a_worker_frozen_for_longer_than_every_lease_does_no_harm_to_an_interest_stream() {
    Box::pin(frozen(RetentionPolicy::Interest)).await;
}

#[tokio::test]
async fn a_killed_and_restarted_server_loses_nothing_of_a_work_queue() {
    let (mut server, context) = server(RetentionPolicy::WorkQueue).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(3).await;
    let producer = produce(&context, PARTITIONS, 6000);
    producer.reach(2000).await;
    server.kill();
    server.restart().await;
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 6000)]).await;
    one_consumer_each(&context, 3).await;
}

/// Stream, records and consumers on three servers each, and whichever leads the stream is killed, twice.
#[tokio::test]
async fn a_replicated_work_queue_that_loses_its_leader_is_worked_off_in_order() {
    const COPIES: usize = 3;
    let mut cluster = NatsCluster::start().await;
    let context = cluster.jetstream().await;
    create_replicated_queue(&context, "work", "work.>", RetentionPolicy::WorkQueue, COPIES).await;
    create_replicated_stream(&context, "out", "out.>", COPIES).await;
    let mut fleet = Fleet::at(&cluster.urls(), PARTITIONS, "relay").with(json!({ "kvBucket": { "replicas": COPIES } }));
    fleet.start_settled(3).await;
    let producer = Producer::start(&context, &subjects(PARTITIONS), 200, 4000, |n| n.to_string());
    for at in [500, 2000] {
        producer.reach(at).await;
        let leader = eventually("somebody leads the stream", async || {
            cluster.leader(&context, "work").await.ok_or_else(|| "nobody does".to_owned())
        })
        .await;
        cluster.kill(leader);
        producer.reach(at + 1000).await;
        cluster.restart(leader).await;
        cluster.healthy(leader).await;
    }
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 4000)]).await;
    fleet.settled().await;
    one_consumer_each(&context, 3).await;
}

#[tokio::test]
async fn consumers_deleted_from_outside_under_load_cost_nothing() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;
    let producer = produce(&context, PARTITIONS, 5000);
    let stream = context.get_stream("work").await.expect("a stream");
    for at in [1000, 2500] {
        producer.reach(at).await;
        for name in consumer_names(&context).await {
            stream.delete_consumer(&name).await.expect("a deletion");
        }
    }
    producer.finish().await;
    all_arrive(&context, &[(PARTITIONS, 5000)]).await;
    one_consumer_each(&context, 2).await;
    let records = Records::open(&context).await;
    for n in 0..PARTITIONS {
        assert_eq!(records.ownership(&partition(n)).await.expect("a record").epoch.0, 1, "nothing was taken again");
    }
}

/// Messages that trap, and such that are asked for again: dead letters and order as on any stream, and nothing stays behind.
#[tokio::test]
async fn what_traps_is_dead_lettered_and_acknowledged_and_what_is_retried_holds_back_what_follows() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    let letters = json!({ "deadLetter": { "subject": "dead.letters" }, "backoff": { "initial": "50ms", "max": "1s" } });
    let mut fleet = Fleet::new(&server, 4, "trap").with(json!({ "handler": letters }));
    fleet.start_settled(1).await;
    for n in 0..100 {
        let payload = if n % 25 == 7 { "trap" } else { "good" };
        context.publish(subject(n % 4), payload.into()).await.expect("a publish").await.expect("an ack");
    }
    eventually_is("dead letters", 4, async || messages(&context, "dead").await).await;
    eventually_is("everything is acknowledged", 0, async || messages(&context, "work").await).await;
    fleet.workers[0].terminate();
    assert_eq!(fleet.workers[0].exit().await, Some(0));

    let mut fleet = Fleet::new(&server, 4, "retry").with(json!({ "handler": letters }));
    fleet.start_settled(1).await;
    for payload in ["a", "retry 2 after 1000", "b"] {
        context.publish(subject(0), payload.into()).await.expect("a publish").await.expect("an ack");
    }
    eventually_is("only what is retried and what follows is left", 2, async || messages(&context, "work").await).await;
    eventually_is("everything is acknowledged", 0, async || messages(&context, "work").await).await;
    assert_eq!(fleet.sum(r#"parti_messages_total{verdict="retry"}"#).await, 2);
    assert_eq!(messages(&context, "dead").await, 4);
}

/// The ack wait is 30 s: whoever waits longer for its turn says so, and is not delivered twice.
#[tokio::test]
async fn a_message_that_waits_longer_than_the_ack_wait_is_not_delivered_again() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    let mut fleet = Fleet::new(&server, 2, "retry");
    fleet.start_settled(1).await;
    for payload in ["retry 1 after 38000", "b"] {
        context.publish(subject(0), payload.into()).await.expect("a publish").await.expect("an ack");
    }
    eventually_is("the retry", 1, async || fleet.sum(r#"parti_messages_total{verdict="retry"}"#).await).await;
    let names = consumer_names(&context).await;
    eventually_is("everything is acknowledged", 0, async || messages(&context, "work").await).await;
    assert_eq!(consumer_names(&context).await, names, "it was not made anew");
    let mut consumer: async_nats::jetstream::consumer::Consumer<pull::Config> =
        context.get_consumer_from_stream(&names[0], "work").await.expect("a consumer");
    let info = consumer.info().await.expect("a consumer");
    assert_eq!(info.delivered.consumer_sequence, 2, "each was delivered once");
}

/// A partition that cannot keep up has its backlog read bit by bit, in order, and the others go on.
#[tokio::test]
async fn a_backlog_longer_than_the_queues_is_worked_off_in_order() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    produce(&context, 3, 6000).finish().await;
    let handler = json!({ "handler": { "maxUncommitted": { "messages": 200 }, "commitInterval": "100ms" } });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(handler);
    fleet.start_settled(2).await;
    all_arrive(&context, &[(3, 6000)]).await;
}

/// New partitions are kept from the moment they are listed, and a fleet that is away altogether misses nothing.
#[tokio::test]
async fn an_interest_stream_keeps_new_partitions_and_what_comes_while_no_worker_runs() {
    let (server, context) = server(RetentionPolicy::Interest).await;
    let mut before = Fleet::new(&server, 10, "relay");
    before.start_settled(2).await;
    produce(&context, 10, 1000).finish().await;

    let mut fleet = Fleet::new(&server, 20, "relay");
    fleet.start();
    fleet.start();
    for worker in &mut before.workers {
        worker.terminate();
        assert_eq!(worker.exit().await, Some(0));
    }
    let last = subject(19);
    let stream = context.get_stream("work").await.expect("a stream");
    eventually("somebody keeps the new partitions", async || {
        let infos: Vec<_> = stream.consumers().try_collect().await.map_err(|error| format!("{error}"))?;
        let kept = infos.iter().any(|info: &async_nats::jetstream::consumer::Info| {
            info.config.filter_subject == last || info.config.filter_subjects.contains(&last)
        });
        if kept { Ok(()) } else { Err(format!("{} consumers", infos.len())) }
    })
    .await;
    // Now, and not only when they are owned.
    for n in 10..20 {
        context.publish(subject(n), format!("{}", n - 10).into()).await.expect("a publish").await.expect("an ack");
    }
    fleet.settled().await;
    eventually_is("the first messages of the new partitions", 1010, async || messages(&context, "out").await).await;
    eventually_is("everything is acknowledged", 0, async || messages(&context, "work").await).await;

    for worker in &mut fleet.workers {
        worker.terminate();
        assert_eq!(worker.exit().await, Some(0));
    }
    produce_more(&context, 20, 400).await;
    assert_eq!(messages(&context, "work").await, 400, "it is all kept");
    let mut fleet = Fleet::new(&server, 20, "relay");
    fleet.start_settled(3).await;
    eventually_is("what came meanwhile", 1410, async || messages(&context, "out").await).await;
    eventually_is("everything is acknowledged", 0, async || messages(&context, "work").await).await;
    one_consumer_each(&context, 3).await;
}

async fn produce_more(context: &Context, partitions: usize, total: usize) {
    for n in 0..total {
        context.publish(subject(n % partitions), n.to_string().into()).await.expect("a publish").await.expect("an ack");
    }
}

#[tokio::test]
async fn a_foreign_consumer_in_the_way_is_named_and_when_it_is_gone_the_work_goes_on() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    let stream = context.get_stream("work").await.expect("a stream");
    let foreign =
        pull::Config { durable_name: Some("somebody".into()), filter_subject: "work.>".into(), ..Default::default() };
    stream.create_consumer(foreign).await.expect("a consumer");
    let mut fleet = Fleet::new(&server, 4, "relay");
    fleet.start_settled(1).await;
    fleet.workers[0].logs(&["somebody", "is not of this group"]).await;
    stream.delete_consumer("somebody").await.expect("a deletion");
    produce(&context, 4, 100).finish().await;
    all_arrive(&context, &[(4, 100)]).await;
}

async fn refused(worker: &mut Worker, texts: &[&str]) {
    assert_eq!(worker.exit().await, Some(1));
    let log = worker.log();
    assert!(texts.iter().all(|text| log.contains(text)), "{log}");
}

#[tokio::test]
async fn a_mode_that_does_not_fit_the_stream_is_refused_with_what_to_do() {
    let (server, _context) = server(RetentionPolicy::WorkQueue).await;
    let mut fleet = Fleet::new(&server, 4, "relay");
    let worker = fleet.start_with(json!({ "stream": { "mode": "log" } }));
    refused(worker, &["PARTI-1108", "WorkQueue", "auto or queue"]).await;
    let worker = fleet.start_with(json!({ "stream": { "startFrom": "new" } }));
    refused(worker, &["PARTI-1108", "stream.startFrom", "nobody has acknowledged"]).await;
    let worker = fleet.start_with(json!({ "stream": { "name": "out", "mode": "queue" } }));
    refused(worker, &["PARTI-1108", "Limits", "auto or log"]).await;
}

#[tokio::test]
async fn a_partition_whose_handler_stands_still_does_not_hold_up_the_others() {
    let (server, context) = server(RetentionPolicy::WorkQueue).await;
    let handler = json!({ "handler": { "maxUncommitted": { "messages": 50 } } });
    let mut fleet = Fleet::new(&server, 2, "trap").with(handler);
    fleet.start_settled(1).await;
    context.publish(subject(0), "trap".into()).await.expect("a publish").await.expect("an ack");
    fleet.workers[0].logs(&["blocks its partition", "p-00"]).await;
    for n in 0..1000 {
        let subject = subject(n % 2);
        context.publish(subject, "good".into()).await.expect("a publish").await.expect("an ack");
    }
    eventually_is("only the blocked partition is left", 501, async || messages(&context, "work").await).await;
    tokio::time::timeout(Duration::from_secs(10), fleet.workers[0].status()).await.expect("in time").expect("a status");
}
