//! What a worker answers over HTTP: probes, its status, its partitions and its metrics. Everything here reads.
//!
//! It is a folder of its own because its clients are strangers: orchestrators, scrapers, people with a browser, and
//! whoever else reaches the port. Hence nothing in it waits for anything but its client, and the number of connections,
//! their duration and what they may send are bounded. It runs on the control runtime, so that a probe without an answer
//! means that the control plane hangs.
//!
//! Called by `worker`, which hands in itself as a [`StatusSource`].

mod readiness;
mod routes;
mod server;
mod status;
#[cfg(test)]
mod tests;

pub use readiness::{Readiness, readiness};
pub use server::{BindError, bind, serve};
pub use status::{Degraded, PartitionStatus, PluginStatus, Status, StatusSource, SwapStatus};

use crate::telemetry::Metrics;
use std::sync::Arc;

/// What the answers are made from.
#[derive(Clone)]
pub struct Backend {
    /// The worker.
    pub worker: Arc<dyn StatusSource>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// `http.readyWhenEmpty`: whether a worker without partitions is ready.
    pub ready_when_empty: bool,
}
