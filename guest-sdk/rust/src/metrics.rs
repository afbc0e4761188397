//! Numbers for the operator's dashboards: the worker shows them in its `/metrics`, as `plugin_<plugin>_<name>`.
//!
//! Declare a metric once, in `open`, and note values as they come. Instances of a plugin on the same worker share its metrics, so a
//! counter counts for all partitions together, and a gauge shows what was set last: give it a label if that is not what it means.
//! Every combination of label values is a series, and series are limited (`limits.metricSeries`): take label values from a small set,
//! and never from the content of messages.
//!
//! ```
//! use parti_guest::metrics::{Counter, Histogram};
//! use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};
//!
//! struct Orders {
//!     orders: Counter,
//!     cents: Histogram,
//! }
//!
//! impl Handler for Orders {
//!     fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
//!         Ok(Self {
//!             orders: Counter::declare("orders", "Orders by how they were paid.", &["payment"])?,
//!             cents: Histogram::declare("order_cents", "What an order costs.", &[], &[100.0, 1_000.0, 10_000.0])?,
//!         })
//!     }
//!
//!     fn handle(&mut self, message: &Message) -> Verdict {
//!         self.orders.inc(&["card"]);
//!         self.cents.observe(message.payload.len() as f64, &[]);
//!         Ok(())
//!     }
//! }
//! ```

use crate::host;

pub use crate::bindings::parti::plugin::metrics::{Declaration, Kind};

/// The host does not take a metric as it was declared.
#[derive(Debug, thiserror::Error)]
#[error("the metric `{name}` cannot be declared: {reason}")]
pub struct MetricError {
    /// Its name.
    pub name: String,
    /// What the host says about it.
    pub reason: String,
}

fn declare(name: &str, kind: Kind, help: &str, labels: &[&str], buckets: &[f64]) -> Result<u32, MetricError> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let declaration = Declaration { name: name.into(), kind, help: help.into(), labels, buckets: buckets.to_vec() };
    host::metric_declare(&declaration).map_err(|reason| MetricError { name: name.into(), reason })
}

/// Values that cannot be noted are an error of the plugin's own code: they are logged, and do not disturb the work.
fn note(metric: u32, value: f64, labels: &[&str]) {
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    if let Err(reason) = host::metric_note(metric, value, &labels) {
        crate::log::warn!("a metric takes no value: {reason}");
    }
}

/// A number that only grows, for each combination of label values.
#[derive(Debug, Clone, Copy)]
pub struct Counter(u32);

impl Counter {
    /// Declares it. The host shows it with `_total` behind its name.
    ///
    /// # Errors
    /// A name or labels that cannot be, or another metric of this name.
    pub fn declare(name: &str, help: &str, labels: &[&str]) -> Result<Self, MetricError> {
        declare(name, Kind::Counter, help, labels, &[]).map(Self)
    }

    /// One more. One value for each label.
    pub fn inc(&self, labels: &[&str]) {
        self.add(1.0, labels);
    }

    /// So much more; never less than nothing.
    pub fn add(&self, more: f64, labels: &[&str]) {
        note(self.0, more, labels);
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(u32);

impl Gauge {
    /// Declares it.
    ///
    /// # Errors
    /// A name or labels that cannot be, or another metric of this name.
    pub fn declare(name: &str, help: &str, labels: &[&str]) -> Result<Self, MetricError> {
        declare(name, Kind::Gauge, help, labels, &[]).map(Self)
    }

    /// From now on it is this.
    pub fn set(&self, value: f64, labels: &[&str]) {
        note(self.0, value, labels);
    }
}

/// How many values fell below which bounds.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(u32);

impl Histogram {
    /// Declares it. Without `buckets` (ascending upper bounds), they are the usual ones for seconds.
    ///
    /// # Errors
    /// A name, labels or buckets that cannot be, or another metric of this name.
    pub fn declare(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<Self, MetricError> {
        declare(name, Kind::Histogram, help, labels, buckets).map(Self)
    }

    /// Notes a value.
    pub fn observe(&self, value: f64, labels: &[&str]) {
        note(self.0, value, labels);
    }
}
