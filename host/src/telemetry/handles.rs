//! The kinds of handle that a row of the catalogue can have.
//!
//! [`Counter`], [`Gauge`] and [`Histogram`] are one series each. `…By` has a label with a closed set of values and is
//! called with the enum: the series are resolved once and then found by index. `…With` has labels whose values come
//! from outside, such as a plugin's name: call `series` when the plugin is loaded and keep what it returns.

use super::labels::LabelValue;
use prometheus::core::{AtomicU64, Collector, GenericGauge, GenericGaugeVec};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, PullingGauge, Result};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// A number that only grows.
pub type Counter = IntCounter;
/// A number that goes up and down, never below zero.
pub type Gauge = GenericGauge<AtomicU64>;
/// How often a value fell into which bucket.
pub type Histogram = prometheus::Histogram;
/// Counters, one for each value of a label.
pub type CounterBy<L> = By<IntCounterVec, L>;
/// Histograms, one for each value of a label.
pub type HistogramBy<L> = By<HistogramVec, L>;
/// Counters, one for each combination of `N` texts.
pub type CounterWith<const N: usize> = With<IntCounterVec, N>;
/// Gauges, one for each combination of `N` texts.
pub type GaugeWith<const N: usize> = With<GenericGaugeVec<AtomicU64>, N>;

/// One row of the catalogue, as declared.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Names of the labels besides `worker_id`.
    pub(super) labels: &'static [&'static str],
    /// Upper bounds, ascending. Empty unless it is a histogram.
    pub(super) buckets: &'static [f64],
}

impl Spec {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn histogram_opts(&self) -> HistogramOpts {
        HistogramOpts::new(self.name, self.help).buckets(self.buckets.to_vec())
    }
}

/// What every handle can do for the catalogue.
pub(super) trait Handle: Sized {
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;

    /// The handle, not yet registered.
    fn create(spec: &Spec) -> Result<Self>;

    /// What the registry asks for the values.
    fn collector(&self) -> Box<dyn Collector>;

    /// For each label the values that it can have; nothing where they are open.
    fn closed_values() -> Vec<Vec<&'static str>> {
        Vec::new()
    }
}

macro_rules! single_series {
    ($handle:ty, $kind:literal, $spec:ident => $create:expr) => {
        impl Handle for $handle {
            const KIND: &'static str = $kind;

            fn create($spec: &Spec) -> Result<Self> {
                $create
            }

            fn collector(&self) -> Box<dyn Collector> {
                Box::new(self.clone())
            }
        }
    };
}

single_series!(Counter, "counter", spec => Counter::with_opts(spec.opts()));
single_series!(Gauge, "gauge", spec => Gauge::with_opts(spec.opts()));
single_series!(Histogram, "histogram", spec => Histogram::with_opts(spec.histogram_opts()));

/// Seconds since a moment, computed when the value is asked for. 0 while there is no such moment.
#[derive(Debug, Clone)]
pub struct Age {
    since: Arc<Mutex<Option<Instant>>>,
    gauge: PullingGauge,
}

impl Age {
    /// Counts from `since`, or stays at 0.
    pub fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Handle for Age {
    const KIND: &'static str = "gauge";

    fn create(spec: &Spec) -> Result<Self> {
        let since: Arc<Mutex<Option<Instant>>> = Arc::default();
        let read = Arc::clone(&since);
        let seconds = move || {
            let since = *read.lock().unwrap_or_else(PoisonError::into_inner);
            since.map_or(0.0, |since| since.elapsed().as_secs_f64())
        };
        Ok(Self { since, gauge: PullingGauge::new(spec.name, spec.help, Box::new(seconds))? })
    }

    fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.gauge.clone())
    }
}

/// A metric with labels, as the `prometheus` crate has it.
pub trait Vector: Collector + Clone + 'static {
    /// One series.
    type Series;
    /// `counter`, `gauge` or `histogram`.
    const KIND: &'static str;

    /// The series with these label values. The caller's type guarantees that there are as many values as labels.
    fn series(&self, values: &[&str]) -> Self::Series;
}

trait CreateVector: Vector {
    fn create(spec: &Spec) -> Result<Self>;
}

macro_rules! vector {
    ($vector:ty, $series:ty, $kind:literal, $opts:ident) => {
        impl Vector for $vector {
            type Series = $series;
            const KIND: &'static str = $kind;

            fn series(&self, values: &[&str]) -> $series {
                self.with_label_values(values)
            }
        }

        impl CreateVector for $vector {
            fn create(spec: &Spec) -> Result<Self> {
                <$vector>::new(spec.$opts(), spec.labels)
            }
        }
    };
}

vector!(IntCounterVec, Counter, "counter", opts);
vector!(GenericGaugeVec<AtomicU64>, Gauge, "gauge", opts);
vector!(HistogramVec, Histogram, "histogram", histogram_opts);

/// One closed label, or two.
pub trait Labels: Copy + 'static {
    /// How many combinations there are.
    const COUNT: usize;
    /// Whether every series exists from the start, so that a rate sees the step from 0 to 1. Pairs have too many for
    /// that: theirs appear when they are first used.
    const FROM_THE_START: bool;

    /// A number below [`Labels::COUNT`], different for each combination.
    fn index(self) -> usize;

    /// Every combination.
    fn all() -> impl Iterator<Item = Self>;

    /// Calls `f` with the texts.
    fn with_texts<T>(self, f: impl FnOnce(&[&str]) -> T) -> T;

    /// For each label its values.
    fn texts() -> Vec<Vec<&'static str>>;
}

fn texts_of<L: LabelValue>() -> Vec<&'static str> {
    L::ALL.iter().map(|value| value.text()).collect()
}

impl<L: LabelValue> Labels for L {
    const COUNT: usize = L::ALL.len();
    const FROM_THE_START: bool = true;

    fn index(self) -> usize {
        LabelValue::index(self)
    }

    fn all() -> impl Iterator<Item = Self> {
        L::ALL.iter().copied()
    }

    fn with_texts<T>(self, f: impl FnOnce(&[&str]) -> T) -> T {
        f(&[self.text()])
    }

    fn texts() -> Vec<Vec<&'static str>> {
        vec![texts_of::<L>()]
    }
}

impl<A: LabelValue, B: LabelValue> Labels for (A, B) {
    const COUNT: usize = A::ALL.len() * B::ALL.len();
    const FROM_THE_START: bool = false;

    fn index(self) -> usize {
        self.0.index() * B::ALL.len() + self.1.index()
    }

    fn all() -> impl Iterator<Item = Self> {
        A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| (*a, *b)))
    }

    fn with_texts<T>(self, f: impl FnOnce(&[&str]) -> T) -> T {
        f(&[self.0.text(), self.1.text()])
    }

    fn texts() -> Vec<Vec<&'static str>> {
        vec![texts_of::<A>(), texts_of::<B>()]
    }
}

/// A metric whose labels have closed sets of values.
pub struct By<V: Vector, L: Labels> {
    vector: V,
    /// By [`Labels::index`].
    series: Box<[OnceLock<V::Series>]>,
    labels: PhantomData<L>,
}

impl<V: Vector, L: Labels> By<V, L> {
    /// The series of these labels. Every label has its slot, so it is always found.
    fn find(&self, labels: L) -> Option<&V::Series> {
        let slot = self.series.get(labels.index())?;
        Some(slot.get_or_init(|| labels.with_texts(|texts| self.vector.series(texts))))
    }
}

impl<L: Labels> CounterBy<L> {
    /// One more.
    pub fn inc(&self, labels: L) {
        self.add(labels, 1);
    }

    /// `count` more.
    pub fn add(&self, labels: L, count: u64) {
        if let Some(series) = self.find(labels) {
            series.inc_by(count);
        }
    }
}

impl<L: Labels> HistogramBy<L> {
    /// Notes one value.
    pub fn observe(&self, labels: L, value: f64) {
        if let Some(series) = self.find(labels) {
            series.observe(value);
        }
    }
}

impl<V: CreateVector, L: Labels> Handle for By<V, L> {
    const KIND: &'static str = V::KIND;

    fn create(spec: &Spec) -> Result<Self> {
        let series = (0..L::COUNT).map(|_| OnceLock::new()).collect();
        let by = Self { vector: V::create(spec)?, series, labels: PhantomData };
        if L::FROM_THE_START {
            L::all().for_each(|labels| {
                by.find(labels);
            });
        }
        Ok(by)
    }

    fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.vector.clone())
    }

    fn closed_values() -> Vec<Vec<&'static str>> {
        L::texts()
    }
}

/// A metric whose labels have values that come from outside.
pub struct With<V: Vector, const N: usize> {
    vector: V,
}

impl<V: Vector, const N: usize> With<V, N> {
    /// The series with these label values, in the order of the labels. Takes a lock: keep the result.
    #[must_use]
    pub fn series(&self, values: [&str; N]) -> V::Series {
        self.vector.series(&values)
    }
}

impl<const N: usize> GaugeWith<N> {
    /// Ends a series: from now on it is not shown.
    pub fn remove(&self, values: [&str; N]) {
        // The only error is that there is no such series, which is what was asked for.
        let _ = self.vector.remove_label_values(&values);
    }
}

impl<V: CreateVector, const N: usize> Handle for With<V, N> {
    const KIND: &'static str = V::KIND;

    fn create(spec: &Spec) -> Result<Self> {
        Ok(Self { vector: V::create(spec)? })
    }

    fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.vector.clone())
    }
}
