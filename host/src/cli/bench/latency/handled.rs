//! From the storing of a message in the stream until its handler is done with it, as workers measure it themselves: nothing is
//! published, and nothing but the metrics is asked of them. The bare client takes the time at which it has the message.

use super::ages::Ages;
use super::{BenchArgs, MEASURED, PAUSE, WARM, cannot, load, median, start};
use crate::cli::bench::worker::{Bench, Workers};
use crate::cli::bench::{STREAM, connect, payload};
use crate::cli::child::Leash;
use crate::error::OperatorError;
use crate::nats::{Nats, bare_ages, bare_publish};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

pub(super) async fn against_the_bare_client(
    url: &str,
    leash: &Leash,
    bench: &Bench<'_>,
    args: &BenchArgs,
    rate: u64,
) -> Result<(), OperatorError> {
    let nats = connect(url).await?;
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        let mut workers = start(leash, bench, args, round).await?;
        let worker = under_load(&nats, &workers, args, rate).await;
        workers.kill().await;
        let worker = worker?;
        let bare = bare(&nats, &connect(url).await?, args, rate, worker.none()).await?;
        let ratio = worker.quantile(0.99) / bare.quantile(0.99);
        println!("round {round}: worker {}   bare {}   ratio of p99 {ratio:.2}", told(&worker), told(&bare));
        ratios.push(ratio);
    }
    println!(
        "p99 of stored → handled, worker against the bare client's stored → received: {:.2} (median of {})",
        median(ratios),
        args.rounds
    );
    Ok(())
}

/// The same worker with and without partitions that are stuck, as processes of their own, in changing order.
pub(super) async fn beside_stuck_ones(
    url: &str,
    leash: &Leash,
    bench: &Bench<'_>,
    args: &BenchArgs,
    rate: u64,
    stuck: &str,
) -> Result<(), OperatorError> {
    let nats = connect(url).await?;
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        let mut sides = [None, None];
        let mut what = String::new();
        for half in 0..2 {
            let is_stuck = (round + half) % 2 == 0;
            let mut workers = start(leash, bench, args, 2 * round + half).await?;
            if is_stuck {
                for partition in 0..args.stuck_partitions {
                    bare_publish(&nats, format!("work.p-{partition}"), stuck.to_owned().into())
                        .await
                        .map_err(cannot)?;
                }
            }
            let ages = under_load(&nats, &workers, args, rate).await;
            if is_stuck {
                what = workers.trouble().await.ok_or_else(|| workers.failure())?;
            }
            workers.kill().await;
            let ages = ages?;
            if let Some(side) = sides.get_mut(usize::from(is_stuck)) {
                *side = Some(ages);
            }
        }
        let [Some(without), Some(with)] = sides else { continue };
        let ratio = with.quantile(0.99) / without.quantile(0.99);
        println!(
            "round {round}: without {}   with {} stuck {}   ratio of p99 {ratio:.2}   ({what})",
            told(&without),
            args.stuck_partitions,
            told(&with)
        );
        ratios.push(ratio);
    }
    println!(
        "p99 of stored → handled beside {} stuck of {} partitions, against none: {:.2} (median of {})",
        args.stuck_partitions,
        args.owned(),
        median(ratios),
        args.rounds
    );
    Ok(())
}

/// The ages of what the workers complete while messages come at this rate.
async fn under_load(nats: &Nats, workers: &Workers, args: &BenchArgs, rate: u64) -> Result<Ages, OperatorError> {
    let payload = payload(args);
    let (load, _) = load(nats, args, rate, move || payload.clone());
    sleep(WARM).await;
    let before = ages(workers).await?;
    sleep(MEASURED).await;
    let after = ages(workers).await?;
    drop(load);
    sleep(PAUSE).await;
    Ok(after.since(&before))
}

async fn ages(workers: &Workers) -> Result<Ages, OperatorError> {
    let metrics = workers.metrics().await.ok_or_else(|| cannot("the worker does not tell its metrics"))?;
    Ages::told(&metrics).ok_or_else(|| cannot("the worker tells no ages of messages"))
}

/// The ages of what the bare client receives on a connection of its own.
async fn bare(nats: &Nats, reading: &Nats, args: &BenchArgs, rate: u64, none: Ages) -> Result<Ages, OperatorError> {
    let ages = Arc::new(Mutex::new(none));
    let reader = {
        let (nats, ages) = (reading.clone(), Arc::clone(&ages));
        let add = move |age: std::time::Duration| {
            ages.lock().unwrap_or_else(PoisonError::into_inner).add(age.as_secs_f64());
        };
        AbortOnDropHandle::new(tokio::spawn(async move { bare_ages(&nats, STREAM, add).await }))
    };
    let look = || ages.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let payload = payload(args);
    let (load, _) = load(nats, args, rate, move || payload.clone());
    sleep(WARM).await;
    let before = look();
    sleep(MEASURED).await;
    let after = look();
    drop((load, reader));
    sleep(PAUSE).await;
    Ok(after.since(&before))
}

fn told(ages: &Ages) -> String {
    let at = |part| ages.quantile(part);
    format!("p50 {:>5.0} µs, p99 {:>5.0} µs ({} batches)", at(0.5), at(0.99), ages.len())
}
