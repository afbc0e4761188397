//! `parti bench --latency`: how long a message takes under a steady load.
//!
//! Until it is handled, as the worker's own metrics tell it, against the bare client that receives the same; with
//! `--published`, until what the handler made of it is heard; with `--stuck`, with some partitions that never get done
//! against without them.

mod ages;
mod handled;
mod published;

use super::worker::{Bench, Workers};
use super::{BenchArgs, failed};
use crate::cli::child::Leash;
use crate::error::OperatorError;
use crate::nats::{Nats, bare_pace};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// How long each side is under load before it counts, and then.
const WARM: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);

/// How long the worker may take until everything is owned.
const READY: Duration = Duration::from_secs(60);

/// What is still on its way belongs to nobody's figures.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn measure(
    url: &str,
    leash: &Leash,
    bench: &Bench<'_>,
    args: &BenchArgs,
    rate: u64,
) -> Result<(), OperatorError> {
    match &args.stuck {
        Some(stuck) => handled::beside_stuck_ones(url, leash, bench, args, rate, stuck).await,
        None if args.published => published::measure(url, leash, bench, args, rate).await,
        None => handled::against_the_bare_client(url, leash, bench, args, rate).await,
    }
}

/// Starts the workers of a round and waits until they own everything.
async fn start(leash: &Leash, bench: &Bench<'_>, args: &BenchArgs, number: u32) -> Result<Workers, OperatorError> {
    let mut workers = bench.start(leash, number)?;
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
    Ok(workers)
}

/// Publishes at this rate to the partitions in turn, until it is dropped. Counts what it has published.
fn load(
    nats: &Nats,
    args: &BenchArgs,
    rate: u64,
    payload: impl Fn() -> Bytes + Send + Sync + 'static,
) -> (AbortOnDropHandle<()>, Arc<AtomicU64>) {
    let (nats, partitions, count) = (nats.clone(), u64::from(args.partitions), Arc::new(AtomicU64::new(0)));
    let published = Arc::clone(&count);
    let task = tokio::spawn(async move {
        if let Err(error) = bare_pace(&nats, rate, partitions, payload, &published).await {
            tracing::warn!(%error, "The load has ended");
        }
    });
    (AbortOnDropHandle::new(task), count)
}

fn cannot(why: impl ToString) -> OperatorError {
    failed("the load cannot be made", why.to_string(), "lower --latency")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
