//! The first steps of a worker's coordinator: it reads who is there, and either claims an ID or says why it cannot start. Here it reads
//! and asks, and where it would write it has come far enough.

use super::super::PROBE_INTERVALS;
use super::super::buckets::ControlBuckets;
use super::super::settings;
use crate::config::Config;
use crate::nats::{Nats, Peers};
use crate::telemetry::Metrics;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parti_coordination::{Action, Bucket, Coordinator, Event, Now, Reply, StartFailure, WorkerId};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::sleep_until;

/// The ID that a worker which starts now would claim, or why it would not start.
pub(super) async fn first_steps(
    config: &Config,
    nats: &Nats,
    buckets: &ControlBuckets,
    metrics: &Arc<Metrics>,
) -> Result<WorkerId, StartFailure> {
    let origin = Instant::now();
    let now = || Now(origin.elapsed());
    let mut coordinator = Coordinator::new(settings::coordinator(config, &[], Arc::clone(metrics)));
    let (peers, patience) = (Peers::new(nats, &config.group), config.probe_interval * PROBE_INTERVALS);
    let mut open: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
    coordinator.handle(now(), Event::Connected);
    loop {
        while let Some(action) = coordinator.poll_action() {
            match action {
                Action::Write { bucket: Bucket::StableIds, key, .. } => return Ok(WorkerId::parse(&key)),
                Action::Failed(failure) => return Err(failure),
                Action::Read { op, bucket, key } => open.push(Box::pin(async move {
                    let reply = buckets.read(bucket, &key).await;
                    Event::Reply { op, reply }
                })),
                Action::List { op, bucket } => open.push(Box::pin(async move {
                    let reply = buckets.list(bucket).await;
                    Event::Reply { op, reply }
                })),
                Action::Probe { op, incarnation } => {
                    let peers = peers.clone();
                    open.push(Box::pin(async move {
                        let answer = peers.probe(&incarnation, None, patience).await;
                        Event::Reply { op, reply: Reply::Probe(answer) }
                    }));
                }
                _ => {}
            }
        }
        // There always is one: the end of `startupTimeout`.
        let deadline = coordinator.poll_timeout().map_or(config.startup_timeout, |Now(at)| at);
        tokio::select! {
            Some(event) = open.next() => coordinator.handle(now(), event),
            () = sleep_until((origin + deadline).into()) => coordinator.handle_timeout(now()),
        }
    }
}
