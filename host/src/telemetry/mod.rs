//! What a worker tells about itself: logs on stderr and metrics for Prometheus.
//!
//! It is a folder of its own because both sides need the same two properties that nothing else in the host needs. They
//! never slow down what they watch: a log line goes to a queue, a counter is one atomic addition. And they are declared
//! once: the table in `catalogue` yields the handles, their registration and `docs/metrics.md`.
//!
//! Called by `main` (set-up), by everything that counts or times something, and by `http` (`GET /metrics`).

mod catalogue;
mod declared;
mod handles;
mod labels;
mod logs;
mod openmetrics;
mod reference;
#[cfg(test)]
mod strict;

pub use catalogue::{Format, Metrics};
pub use declared::{Declaration, DeclaredKind, DeclaredMetrics, MetricError, MetricsUser, PluginMetrics, Recorded};
pub use handles::{Age, Counter, CounterBy, CounterWith, Gauge, GaugeWith, Histogram, HistogramBy};
pub use labels::{HookResult, KvOperation, KvResult, LabelValue, StrategyFault, SwapResult, Verdict};
pub use logs::{LogError, LogFormat, LogGuard, check as check_log, init};
pub use reference::reference_page;

use std::sync::{Arc, PoisonError, RwLock};

/// Name of this worker in every log line and on every metric. It is empty until an ID is claimed and changes when the
/// worker is fenced and claims another, so both read it anew each time. Clones share one name.
#[derive(Debug, Clone, Default)]
pub struct WorkerLabel(Arc<RwLock<Arc<str>>>);

impl WorkerLabel {
    /// The name in use; empty while there is none.
    #[must_use]
    pub fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on the worker has this name.
    pub fn set(&self, name: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::from(name);
    }
}
