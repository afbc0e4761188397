//! Metrics that plugins declare while they run, shown beside those of the catalogue.
//!
//! Apart from the catalogue, because whoever declares them is not trusted: names, labels and the number of series are checked, and
//! every name begins with that of its plugin, so that no plugin can take a name of the host. They belong to the plugin and not to one
//! version or instance of it: counters go on through a swap. A metric that no version there is has declared gives way to another: what
//! a version has declared that was refused or taken back stands in nobody's way.

use crate::text::shortened;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Bytes of the longest name of a metric or label.
const MAX_NAME: usize = 64;
/// Labels of one metric.
const MAX_LABELS: usize = 8;
/// Bytes kept of a label's value.
const MAX_VALUE: usize = 128;
/// Bytes kept of a metric's help.
const MAX_HELP: usize = 256;
/// Buckets of one histogram.
const MAX_BUCKETS: usize = 32;

/// Labels that every sample has already, or that the format uses itself.
const RESERVED_LABELS: [&str; 4] = ["worker_id", "le", "quantile", "plugin"];
/// Ends of names that the formats give a meaning. Counters get their `_total` here.
const RESERVED_ENDS: [&str; 6] = ["_total", "_info", "_bucket", "_count", "_sum", "_created"];

/// The metrics of all plugins of this process. Clones share them.
#[derive(Clone, Default)]
pub struct DeclaredMetrics {
    plugins: Arc<Mutex<BTreeMap<String, Arc<PluginMetrics>>>>,
    names: Names,
}

/// The plugin that each name belongs to. The names of two plugins can differ in characters only that the format does not have, and
/// `a` can have a metric `b_c`, and `a-b` a metric `c`.
type Names = Arc<Mutex<BTreeMap<String, Arc<str>>>>;

/// A version of a plugin, which declares metrics. They are in use for as long as it is there.
#[derive(Debug, Default)]
pub struct MetricsUser(Arc<()>);

/// The metrics of one plugin, whichever of its versions and instances uses them.
pub struct PluginMetrics {
    plugin: Arc<str>,
    /// What its names begin with.
    prefix: String,
    names: Names,
    families: Mutex<Vec<Family>>,
}

/// What a metric counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclaredKind {
    /// It only grows.
    Counter,
    /// It has the last value that was set.
    Gauge,
    /// It counts values by buckets.
    Histogram,
}

/// A metric as a plugin declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// The plugin's own name for it.
    pub name: String,
    /// What it is.
    pub kind: DeclaredKind,
    /// What it says, for people.
    pub help: String,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Upper bounds of a histogram's buckets, ascending; none = the usual ones for seconds.
    pub buckets: Vec<f64>,
}

impl Declaration {
    /// Whether what it is recorded in is the same. What a metric says may change.
    fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.labels, &self.buckets) == (other.kind, &other.labels, &other.buckets)
    }
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It counts.
    Noted,
    /// It would have begun a series beyond the plugin's limit.
    Dropped,
}

/// Why a declaration or a value is refused. Read by the plugin's author.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// A name with other characters, or too long.
    #[error(
        "`{0}` is no name of a metric or label: it has at most {MAX_NAME} of a-z, 0-9 and _, and begins with a letter"
    )]
    Name(String),
    /// A name that would mean something to who reads the metrics.
    #[error("`{0}` ends with what the format gives a meaning; counters get their `_total` from the host")]
    End(String),
    /// A label of the host, or one that is there twice.
    #[error("the label `{0}` belongs to the host, or is there twice")]
    Label(String),
    /// Too many labels.
    #[error("a metric has at most {MAX_LABELS} labels")]
    Labels,
    /// Bounds that cannot be.
    #[error("a histogram has at most {MAX_BUCKETS} buckets, with finite, ascending bounds; nothing else has buckets")]
    Buckets,
    /// The name means another metric.
    #[error(
        "`{0}` is declared already with another kind, other labels or buckets; a version of this plugin uses it: choose another name"
    )]
    Other(String),
    /// The name belongs to another plugin.
    #[error("`{0}` would be shown as `{1}`, which is a metric of the plugin `{2}` already: choose another name")]
    Taken(String, String, Arc<str>),
    /// One metric too many.
    #[error("the plugin would have more than {0} metrics, which is limits.metricSeries")]
    TooMany(u64),
    /// A number that no declaration has given.
    #[error("there is no metric {0}; declare it first")]
    Unknown(u32),
    /// More or fewer label values than labels.
    #[error("{0} label values for {1} labels")]
    Values(usize, usize),
    /// Less than nothing, for a counter.
    #[error("{0} cannot be added to a counter, which only grows")]
    Negative(f64),
    /// No number.
    #[error("{0} is no number to record")]
    NotFinite(f64),
}

struct Family {
    declaration: Declaration,
    vector: Vector,
    series: HashSet<Vec<String>>,
    /// The versions that have declared it.
    users: Vec<Weak<()>>,
}

impl Family {
    fn is_used(&self) -> bool {
        self.users.iter().any(|user| user.strong_count() > 0)
    }

    fn used_by(&mut self, MetricsUser(user): &MetricsUser) {
        self.users.retain(|other| other.strong_count() > 0);
        let user = Arc::downgrade(user);
        if !self.users.iter().any(|other| other.ptr_eq(&user)) {
            self.users.push(user);
        }
    }
}

enum Vector {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is consistent after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeclaredMetrics {
    /// The metrics of this plugin.
    #[must_use]
    pub fn of(&self, plugin: &str) -> Arc<PluginMetrics> {
        let new = || Arc::new(PluginMetrics::new(plugin, Arc::clone(&self.names)));
        Arc::clone(lock(&self.plugins).entry(plugin.to_owned()).or_insert_with(new))
    }

    /// What there is to show. No family comes twice, because no name has two plugins.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        let plugins: Vec<Arc<PluginMetrics>> = lock(&self.plugins).values().cloned().collect();
        plugins.iter().flat_map(|plugin| plugin.gather()).collect()
    }
}

impl std::fmt::Debug for DeclaredMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeclaredMetrics").finish_non_exhaustive()
    }
}

impl PluginMetrics {
    fn new(plugin: &str, names: Names) -> Self {
        let shown = plugin.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        Self { plugin: plugin.into(), prefix: format!("plugin_{shown}_"), names, families: Mutex::default() }
    }

    /// The number under which values of this metric are recorded. The same declaration has the same number each time.
    ///
    /// # Errors
    /// A declaration that the formats do not allow, another one of the same name that is in use, a name of another plugin, or one metric
    /// more than `series`.
    pub fn declare(&self, user: &MetricsUser, declaration: Declaration, series: u64) -> Result<u32, MetricError> {
        check(&declaration)?;
        let mut families = lock(&self.families);
        let has_room = (families.len() as u64) < series;
        let known = families.iter_mut().enumerate().find(|(_, family)| family.declaration.name == declaration.name);
        let place = match known {
            Some((at, family)) if family.declaration.is_same(&declaration) => {
                family.used_by(user);
                return Ok(number(at));
            }
            Some((_, family)) if family.is_used() => return Err(MetricError::Other(declaration.name)),
            Some((at, _)) => Some(at),
            None if has_room => None,
            None => {
                let unused = families.iter().position(|family| !family.is_used());
                Some(unused.ok_or(MetricError::TooMany(series))?)
            }
        };
        let vector = self.vector(&declaration).map_err(|_| MetricError::Name(declaration.name.clone()))?;
        self.claim(&declaration.name)?;
        // What it was for is in the vector, as far as it is shown; the rest is as long as the guest likes.
        let declaration = Declaration { help: String::new(), ..declaration };
        let mut family = Family { declaration, vector, series: HashSet::new(), users: Vec::new() };
        family.used_by(user);
        let at = place.unwrap_or(families.len());
        match families.get_mut(at) {
            None => families.push(family),
            Some(place) => {
                let before = std::mem::replace(place, family).declaration.name;
                if place.declaration.name != before {
                    lock(&self.names).remove(&self.shown(&before));
                }
            }
        }
        Ok(number(at))
    }

    /// The name as everybody sees it, without what the formats put behind it.
    fn shown(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name is this plugin's, unless it is another's.
    fn claim(&self, name: &str) -> Result<(), MetricError> {
        let shown = self.shown(name);
        match lock(&self.names).entry(shown.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(Arc::clone(&self.plugin))),
            Entry::Occupied(entry) if *entry.get() == self.plugin => {}
            Entry::Occupied(entry) => {
                return Err(MetricError::Taken(name.to_owned(), shown, Arc::clone(entry.get())));
            }
        }
        Ok(())
    }

    /// Notes a value: adds it to a counter, sets a gauge, sorts it into a histogram's buckets. All metrics of the plugin together
    /// have at most `series` series.
    ///
    /// # Errors
    /// A number that was not declared, label values that do not fit, or a value that cannot be.
    pub fn record(&self, metric: u32, value: f64, labels: Vec<String>, series: u64) -> Result<Recorded, MetricError> {
        let mut families = lock(&self.families);
        let total: usize = families.iter().map(|family| family.series.len()).sum();
        let family =
            usize::try_from(metric).ok().and_then(|at| families.get_mut(at)).ok_or(MetricError::Unknown(metric))?;
        if labels.len() != family.declaration.labels.len() {
            return Err(MetricError::Values(labels.len(), family.declaration.labels.len()));
        }
        if !value.is_finite() {
            return Err(MetricError::NotFinite(value));
        }
        if value < 0.0 && family.declaration.kind == DeclaredKind::Counter {
            return Err(MetricError::Negative(value));
        }
        let labels: Vec<String> = labels.into_iter().map(|label| shortened(label, MAX_VALUE)).collect();
        if !family.series.contains(&labels) {
            if total as u64 >= series {
                return Ok(Recorded::Dropped);
            }
            family.series.insert(labels.clone());
        }
        match &family.vector {
            Vector::Counter(vector) => vector.with_label_values(&labels).inc_by(value),
            Vector::Gauge(vector) => vector.with_label_values(&labels).set(value),
            Vector::Histogram(vector) => vector.with_label_values(&labels).observe(value),
        }
        Ok(Recorded::Noted)
    }

    fn vector(&self, declared: &Declaration) -> prometheus::Result<Vector> {
        let labels: Vec<&str> = declared.labels.iter().map(String::as_str).collect();
        let help = if declared.help.trim().is_empty() { declared.name.clone() } else { declared.help.clone() };
        let help = shortened(help.replace(char::is_control, " "), MAX_HELP);
        let name = self.shown(&declared.name);
        Ok(match declared.kind {
            DeclaredKind::Counter => {
                Vector::Counter(CounterVec::new(Opts::new(format!("{name}_total"), help), &labels)?)
            }
            DeclaredKind::Gauge => Vector::Gauge(GaugeVec::new(Opts::new(name, help), &labels)?),
            DeclaredKind::Histogram => {
                let opts = HistogramOpts::new(name, help);
                let usual = declared.buckets.is_empty();
                let opts = if usual { opts } else { opts.buckets(declared.buckets.clone()) };
                Vector::Histogram(HistogramVec::new(opts, &labels)?)
            }
        })
    }

    fn gather(&self) -> Vec<MetricFamily> {
        let collect = |family: &Family| match &family.vector {
            Vector::Counter(vector) => vector.collect(),
            Vector::Gauge(vector) => vector.collect(),
            Vector::Histogram(vector) => vector.collect(),
        };
        // A family without series is none: the formats do not allow it.
        lock(&self.families).iter().flat_map(collect).filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn check(declared: &Declaration) -> Result<(), MetricError> {
    for name in std::iter::once(&declared.name).chain(&declared.labels) {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.len() > MAX_NAME || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(allowed) {
            return Err(MetricError::Name(shortened(name.clone(), MAX_NAME)));
        }
    }
    // As the whole name will be: a bare `total` is an end too.
    if RESERVED_ENDS.iter().any(|end| format!("_{}", declared.name).ends_with(end)) {
        return Err(MetricError::End(declared.name.clone()));
    }
    if declared.labels.len() > MAX_LABELS {
        return Err(MetricError::Labels);
    }
    let mut seen = HashSet::new();
    if let Some(label) =
        declared.labels.iter().find(|label| RESERVED_LABELS.contains(&label.as_str()) || !seen.insert(*label))
    {
        return Err(MetricError::Label(label.clone()));
    }
    let buckets = &declared.buckets;
    let right = buckets.len() <= MAX_BUCKETS
        && buckets.iter().all(|bound| bound.is_finite())
        && buckets.is_sorted_by(|a, b| a < b)
        && (buckets.is_empty() || declared.kind == DeclaredKind::Histogram);
    if right { Ok(()) } else { Err(MetricError::Buckets) }
}

#[cfg(test)]
mod tests {
    use super::super::strict::{parse_openmetrics, parse_text};
    use super::super::{Format, Metrics, WorkerLabel};
    use super::*;

    fn declared(name: &str, kind: DeclaredKind, labels: &[&str]) -> Declaration {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Declaration { name: name.to_owned(), kind, help: String::new(), labels, buckets: Vec::new() }
    }

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn what_plugins_declare_is_shown_in_both_formats_under_their_own_names() {
        let user = MetricsUser::default();
        let metrics = Metrics::new(WorkerLabel::default()).unwrap();
        let plugin = metrics.declared.of("My-plugin.2");
        let orders = plugin.declare(&user, declared("orders", DeclaredKind::Counter, &["kind"]), 10).unwrap();
        let seconds = Declaration { buckets: vec![0.1, 1.0], ..declared("wait_seconds", DeclaredKind::Histogram, &[]) };
        let seconds = plugin.declare(&user, seconds, 10).unwrap();
        let level = plugin.declare(&user, declared("level", DeclaredKind::Gauge, &[]), 10).unwrap();
        plugin.declare(&user, declared("never_used", DeclaredKind::Gauge, &[]), 10).unwrap();
        plugin.record(orders, 2.0, values(&["a \"b\"\n"]), 10).unwrap();
        plugin.record(orders, 1.5, values(&["a \"b\"\n"]), 10).unwrap();
        plugin.record(seconds, 0.5, Vec::new(), 10).unwrap();
        plugin.record(level, -3.0, Vec::new(), 10).unwrap();
        let text = parse_text(&metrics.render(Format::Text).unwrap());
        let open = parse_openmetrics(&metrics.render(Format::OpenMetrics).unwrap());
        for shown in [text, open] {
            let orders = [("worker_id", ""), ("kind", "a \"b\"\n")];
            assert_eq!(shown.value("plugin_my_plugin_2_orders_total", &orders), 3.5);
            assert_eq!(
                shown.value("plugin_my_plugin_2_wait_seconds_bucket", &[("worker_id", ""), ("le", "+Inf")]),
                1.0
            );
            assert_eq!(shown.value("plugin_my_plugin_2_level", &[("worker_id", "")]), -3.0);
        }
    }

    #[test]
    fn series_beyond_the_limit_are_dropped_and_counted_and_the_others_go_on() {
        let user = MetricsUser::default();
        let plugin = DeclaredMetrics::default().of("p");
        let metric = plugin.declare(&user, declared("m", DeclaredKind::Counter, &["id"]), 3).unwrap();
        for n in 0..1000 {
            let recorded = plugin.record(metric, 1.0, values(&[&n.to_string()]), 3).unwrap();
            assert_eq!(recorded, if n < 3 { Recorded::Noted } else { Recorded::Dropped });
        }
        assert_eq!(plugin.record(metric, 1.0, values(&["2"]), 3), Ok(Recorded::Noted));
        assert_eq!(plugin.gather()[0].get_metric().len(), 3);
    }

    #[test]
    fn a_declaration_is_the_same_for_every_instance_and_another_one_is_refused() {
        let user = MetricsUser::default();
        let metrics = DeclaredMetrics::default();
        let first = metrics.of("p").declare(&user, declared("m", DeclaredKind::Counter, &["a"]), 10).unwrap();
        assert_eq!(metrics.of("p").declare(&user, declared("m", DeclaredKind::Counter, &["a"]), 10), Ok(first));
        let other = metrics.of("p").declare(&user, declared("m", DeclaredKind::Gauge, &["a"]), 10);
        assert_eq!(other, Err(MetricError::Other("m".to_owned())));
        assert!(metrics.of("q").declare(&user, declared("m", DeclaredKind::Gauge, &["a"]), 10).is_ok());
    }

    #[test]
    fn of_a_help_text_no_more_is_kept_than_is_shown() {
        let user = MetricsUser::default();
        let plugin = DeclaredMetrics::default().of("p");
        let declaration = Declaration { help: "h".repeat(16 << 20), ..declared("m", DeclaredKind::Gauge, &[]) };
        let metric = plugin.declare(&user, declaration, 10).unwrap();
        plugin.record(metric, 1.0, Vec::new(), 10).unwrap();
        assert_eq!(plugin.gather()[0].help().len(), MAX_HELP);
        assert_eq!(lock(&plugin.families)[0].declaration.help.capacity(), 0);
    }

    #[test]
    fn what_a_version_has_declared_that_is_gone_stands_in_nobodys_way() {
        let (metrics, gone, user) = (DeclaredMetrics::default(), MetricsUser::default(), MetricsUser::default());
        let plugin = metrics.of("p");
        let metric = plugin.declare(&gone, declared("m", DeclaredKind::Gauge, &[]), 1).unwrap();
        plugin.record(metric, 7.0, Vec::new(), 1).unwrap();
        let counter = |name| declared(name, DeclaredKind::Counter, &[]);
        assert_eq!(plugin.declare(&user, counter("m"), 1), Err(MetricError::Other("m".to_owned())));
        assert_eq!(plugin.declare(&user, counter("n"), 1), Err(MetricError::TooMany(1)));
        drop(gone);
        assert_eq!(plugin.gather()[0].get_metric()[0].get_gauge().get_value(), 7.0, "it is shown until it gives way");
        let metric = plugin.declare(&user, counter("m"), 1).unwrap();
        plugin.record(metric, 1.0, Vec::new(), 1).unwrap();
        assert_eq!(plugin.gather()[0].name(), "plugin_p_m_total");
        drop(user);
        let user = MetricsUser::default();
        assert_eq!(plugin.declare(&user, counter("n"), 1), Ok(0));
        assert_eq!(plugin.gather().len(), 0, "the metric has given way, and its values with it");
        assert!(!lock(&metrics.names).contains_key("plugin_p_m"));
    }

    #[test]
    fn no_two_plugins_share_a_name() {
        let user = MetricsUser::default();
        let metrics = DeclaredMetrics::default();
        metrics.of("a").declare(&user, declared("b_requests", DeclaredKind::Counter, &[]), 10).unwrap();
        for (plugin, name) in [("a-b", "requests"), ("A", "b_requests")] {
            let refused = metrics.of(plugin).declare(&user, declared(name, DeclaredKind::Gauge, &[]), 10).unwrap_err();
            let said = refused.to_string();
            assert!(said.contains("`plugin_a_b_requests`, which is a metric of the plugin `a`"), "{said}");
        }
    }

    #[test]
    fn what_the_formats_do_not_allow_is_refused() {
        let user = MetricsUser::default();
        let plugin = DeclaredMetrics::default().of("p");
        let long = "a".repeat(65);
        for name in
            ["", "A", "1a", "_a", "a-b", "a b", "ä", "a\n", "a_total", "a_bucket", "a_info", "total", "info", &long]
        {
            assert!(plugin.declare(&user, declared(name, DeclaredKind::Counter, &[]), 10).is_err(), "{name}");
        }
        for labels in [&["le"][..], &["worker_id"], &["a", "a"], &["a-b"], &["a"; 9]] {
            assert!(plugin.declare(&user, declared("m", DeclaredKind::Counter, labels), 10).is_err(), "{labels:?}");
        }
        for buckets in [vec![1.0, 1.0], vec![f64::NAN], vec![f64::INFINITY], vec![2.0, 1.0], vec![0.0; 33]] {
            let declaration = Declaration { buckets, ..declared("m", DeclaredKind::Histogram, &[]) };
            assert_eq!(plugin.declare(&user, declaration, 10), Err(MetricError::Buckets));
        }
        let counter = plugin.declare(&user, declared("m", DeclaredKind::Counter, &["a"]), 10).unwrap();
        for (value, labels) in [(1.0, vec![]), (-1.0, values(&["a"])), (f64::NAN, values(&["a"]))] {
            assert!(plugin.record(counter, value, labels, 10).is_err(), "{value}");
        }
        assert!(plugin.record(7, 1.0, Vec::new(), 10).is_err());
    }
}
