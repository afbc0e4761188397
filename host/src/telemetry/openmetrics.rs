//! Writes metrics in the OpenMetrics text format 1.0.0, which the `prometheus` crate does not know.
//!
//! It differs from the Prometheus text format in this: a counter's family lacks the `_total` of its samples, a family
//! whose name ends in a unit says so, a gauge named `…_info` is of type `info`, numbers in `le` have a decimal point, and
//! the text ends with `# EOF`. See <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Units that our names end in.
const UNITS: [&str; 3] = ["seconds", "bytes", "messages"];

/// All families, with the closing line.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a `String` cannot fail.
        let _ = write_family(&mut text, family);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(out: &mut String, family: &MetricFamily) -> fmt::Result {
    let (name, kind, suffix) = describe(family);
    writeln!(out, "# TYPE {name} {kind}")?;
    if let Some(unit) = UNITS.iter().find(|unit| name.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_'))) {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {}", escape(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => write_sample(out, name, suffix, labels, None, metric.get_counter().get_value())?,
            MetricType::HISTOGRAM => write_histogram(out, name, metric)?,
            _ => write_sample(out, name, suffix, labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

/// The family's name, its type, and what its samples are called beyond its name.
fn describe(family: &MetricFamily) -> (&str, &'static str, &'static str) {
    let name = family.name();
    match family.get_field_type() {
        MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter", "_total"),
        MetricType::HISTOGRAM => (name, "histogram", ""),
        _ => match name.strip_suffix("_info") {
            Some(family) => (family, "info", "_info"),
            None => (name, "gauge", ""),
        },
    }
}

fn write_histogram(out: &mut String, name: &str, metric: &Metric) -> fmt::Result {
    let (histogram, labels) = (metric.get_histogram(), metric.get_label());
    let count = histogram.get_sample_count() as f64;
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        // `{:?}` writes 1 as `1.0`, as the format asks.
        let bound = format!("{:?}", bucket.upper_bound());
        write_sample(out, name, "_bucket", labels, Some(&bound), bucket.cumulative_count() as f64)?;
    }
    write_sample(out, name, "_bucket", labels, Some("+Inf"), count)?;
    write_sample(out, name, "_count", labels, None, count)?;
    write_sample(out, name, "_sum", labels, None, histogram.get_sample_sum())
}

fn write_sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<&str>,
    value: f64,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let pairs = labels.iter().map(|label| (label.name(), label.value())).chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (label, value) in pairs {
        write!(out, "{separator}{label}=\"{}\"", escape(value))?;
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    if value.is_infinite() {
        writeln!(out, " {}Inf", if value > 0.0 { '+' } else { '-' })
    } else {
        writeln!(out, " {value}")
    }
}

fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', '\n', '"']) {
        Cow::Owned(text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\""))
    } else {
        Cow::Borrowed(text)
    }
}
