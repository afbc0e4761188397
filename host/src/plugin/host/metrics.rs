//! `parti:plugin/metrics`: numbers that a plugin shows beside those of the worker.

use super::super::bindings::parti::plugin::metrics::{Declaration as Declared, Host, Kind};
use super::HostState;
use crate::telemetry::{Declaration, DeclaredKind, Recorded};
use std::sync::atomic::Ordering::Relaxed;

impl Host for HostState {
    fn declare(&mut self, metric: Declared) -> Result<u32, String> {
        let kind = match metric.kind {
            Kind::Counter => DeclaredKind::Counter,
            Kind::Gauge => DeclaredKind::Gauge,
            Kind::Histogram => DeclaredKind::Histogram,
        };
        let Declared { name, help, labels, buckets, .. } = metric;
        let declaration = Declaration { name, kind, help, labels, buckets };
        let declared =
            self.shared.metrics.declare(&self.shared.metrics_user, declaration, self.shared.limits.metric_series);
        declared.map_err(|error| error.to_string())
    }

    fn note(&mut self, metric: u32, value: f64, labels: Vec<String>) -> Result<(), String> {
        let limit = self.shared.limits.metric_series;
        match self.shared.metrics.record(metric, value, labels, limit) {
            Ok(Recorded::Noted) => Ok(()),
            Ok(Recorded::Dropped) => {
                if self.shared.account.metric_values_dropped.fetch_add(1, Relaxed) == 0 {
                    self.log.host_warns(&format!(
                        "The plugin has {limit} series of metrics, which is {}.limits.metricSeries; values for others are dropped",
                        self.shared.section
                    ));
                }
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
