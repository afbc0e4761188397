//! Nobody works for a while, and messages go on coming. `PARTI_SOAK=1` adds the full measure: 30 s at 4,000 messages a second
//! over 5,000 partitions.

use parti_tests::{Expected, Fleet, Handling, NatsServer, Producer, create_streams, dead_letters};
use std::time::{Duration, Instant};

/// All workers are killed, and started again after so many messages; nearly as many follow.
async fn downtime(handling: Handling, workers: usize, partitions: usize, rate: u64, missed: u64) {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let mut fleet = Fleet::new(&server, partitions, handling.plugin()).with(dead_letters());
    fleet.start_settled(workers).await;
    let before = rate;
    let producer = Producer::start_for(&context, handling, partitions, rate, before + 2 * missed);
    producer.reach(before).await;
    for worker in &mut fleet.workers {
        worker.kill();
    }
    producer.reach(before + missed).await;
    let back = Instant::now();
    for _ in 0..workers {
        fleet.start();
    }
    producer.finish().await;
    let expected = Expected::of(&context, handling, partitions).await;
    let (verdict, _) = Box::pin(expected.handled_within(Duration::from_secs(60))).await;
    println!("caught up {:.1} s after the first worker was back: {verdict}", back.elapsed().as_secs_f64());
    assert!(verdict.is_clean(), "{verdict}");
    fleet.settled().await;
}

#[tokio::test]
async fn a_fleet_that_was_down_catches_up_while_messages_go_on() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(downtime(Handling::Ledger, 3, 300, 2000, 12_000)).await;
}

#[tokio::test]
async fn a_fleet_that_was_down_catches_up_with_state_exactly_once() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(downtime(Handling::ControlChart, 3, 100, 2000, 12_000)).await;
}

#[tokio::test]
async fn thirty_seconds_of_downtime_over_5000_partitions_are_caught_up() {
    if !parti_tests::is_soak() {
        return;
    }
    Box::pin(downtime(Handling::Relay, 10, 5000, 4000, 120_000)).await;
}
