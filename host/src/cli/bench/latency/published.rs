//! From the publishing of a message until what was made of it is heard.
//!
//! Both sides do the same: each message is published again, and whoever listens to that takes the time. One side is a worker
//! with the `relay` component, the other the bare client in this process, which confirms nothing and remembers nothing.

use super::{BenchArgs, MEASURED, PAUSE, WARM, cannot, load, median, start};
use crate::cli::bench::worker::Bench;
use crate::cli::bench::{STREAM, connect, output_stream};
use crate::cli::child::Leash;
use crate::error::OperatorError;
use crate::nats::{Nats, bare_listen, bare_relay};
use hdrhistogram::Histogram;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// The longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

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
        let mut workers = start(leash, bench, args, round).await?;
        let worker = under_load(&nats, args, rate).await;
        workers.kill().await;
        let worker = worker?;

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
    println!(
        "p99 of publish → handled → published, worker against the bare client: {:.2} (median of {})",
        median(ratios),
        args.rounds
    );
    Ok(())
}

/// Publishes at this rate and takes the time until each output is heard.
async fn under_load(nats: &Nats, args: &BenchArgs, rate: u64) -> Result<Histogram<u64>, OperatorError> {
    let epoch = Instant::now();
    let mut heard = bare_listen(nats, &format!("{PREFIX}.>")).await.map_err(cannot)?;
    let size = args.size as usize;
    let (load, _) = load(nats, args, rate, move || format!("{:<size$}", epoch.elapsed().as_nanos()).into());
    // It does not grow for what lies beyond.
    let mut histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).map_err(cannot)?;
    while epoch.elapsed() < WARM + MEASURED {
        let Ok(Some(payload)) = tokio::time::timeout(Duration::from_secs(5), heard.next()).await else {
            return Err(cannot("nothing comes out"));
        };
        let sent =
            std::str::from_utf8(&payload).ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_nanos);
        let now = epoch.elapsed();
        if let Some(sent) = sent.filter(|sent| *sent > WARM && *sent < now) {
            histogram.saturating_record(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
        }
    }
    drop(load);
    sleep(PAUSE).await;
    Ok(histogram)
}
