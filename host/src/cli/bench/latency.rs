//! How long a message takes under a steady load: from its publishing until what was made of it is heard.
//!
//! Both sides do the same: each message is published again, and whoever listens to that takes the time. One side is a worker
//! with the `relay` component, the other the bare client in this process, which confirms nothing and remembers nothing.

use super::worker::Bench;
use super::{BenchArgs, STREAM, connect, failed, output_stream};
use crate::cli::child::Leash;
use crate::error::OperatorError;
use crate::nats::{Nats, bare_listen, bare_pace, bare_relay};
use hdrhistogram::Histogram;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// How long each side is under load before it counts, and then.
const WARM: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);

/// The longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// How long the worker may take until everything is owned.
const READY: Duration = Duration::from_secs(60);

/// What outputs are published to, before the subject of their message.
const PREFIX: &str = "out";

pub(super) async fn measure(
    url: &str,
    leash: &Leash,
    bench: &Bench<'_>,
    args: &BenchArgs,
    rate: u64,
) -> Result<(), OperatorError> {
    let nats = connect(url).await?;
    output_stream(&nats, PREFIX).await?;
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        let mut workers = bench.start(leash, round)?;
        let ready = async {
            while workers.look().await.is_none_or(|(_, owned)| owned < u64::from(args.owned())) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(READY, ready).await.is_err() {
            let failure = workers.failure();
            workers.kill().await;
            return Err(failure);
        }
        let worker = under_load(&nats, args, rate).await?;
        workers.kill().await;

        let relaying = {
            let nats = connect(url).await?;
            AbortOnDropHandle::new(tokio::spawn(async move { bare_relay(&nats, STREAM, PREFIX).await }))
        };
        let bare = under_load(&nats, args, rate).await?;
        drop(relaying);

        let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let ratio = at(&worker, 0.99) as f64 / (at(&bare, 0.99) as f64).max(1.0);
        ratios.push(ratio);
        println!(
            "round {round}: worker p50 {:>6} µs, p99 {:>6} µs   bare p50 {:>6} µs, p99 {:>6} µs   ratio of p99 {ratio:.2}   \
             ({} and {} messages)",
            at(&worker, 0.5),
            at(&worker, 0.99),
            at(&bare, 0.5),
            at(&bare, 0.99),
            worker.len(),
            bare.len()
        );
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
    println!(
        "p99 of publish → handled → published, worker against the bare client: {median:.2} (median of {})",
        args.rounds
    );
    Ok(())
}

/// Publishes at this rate and takes the time until each output is heard.
async fn under_load(nats: &Nats, args: &BenchArgs, rate: u64) -> Result<Histogram<u64>, OperatorError> {
    let cannot = |why: String| failed("the load cannot be made", why, "lower --latency");
    let epoch = Instant::now();
    let mut heard = bare_listen(nats, &format!("{PREFIX}.>")).await.map_err(|error| cannot(error.to_string()))?;
    let load = {
        let (nats, size, partitions) = (nats.clone(), args.size as usize, u64::from(args.partitions));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let payload = || format!("{:<size$}", epoch.elapsed().as_nanos()).into();
            bare_pace(&nats, rate, partitions, payload, &AtomicU64::new(0)).await
        }))
    };
    // It does not grow for what lies beyond.
    let mut histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).map_err(|error| cannot(error.to_string()))?;
    while epoch.elapsed() < WARM + MEASURED {
        let Ok(Some(payload)) = tokio::time::timeout(Duration::from_secs(5), heard.next()).await else {
            return Err(cannot("nothing comes out".to_owned()));
        };
        let sent =
            std::str::from_utf8(&payload).ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_nanos);
        let now = epoch.elapsed();
        if let Some(sent) = sent.filter(|sent| *sent > WARM && *sent < now) {
            histogram.saturating_record(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
        }
    }
    drop(load);
    // What is still on its way belongs to nobody's figures.
    sleep(Duration::from_millis(500)).await;
    Ok(histogram)
}
