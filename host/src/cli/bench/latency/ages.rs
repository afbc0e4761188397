//! Ages of messages, sorted into the buckets of the worker's histogram, so that both sides are measured with the same rule.

/// What the worker calls it, see `docs/metrics.md`.
const METRIC: &str = "parti_message_age_seconds_bucket";

/// How many were how old at most.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ages {
    /// Upper bounds in seconds, ascending; the last is infinity.
    bounds: Vec<f64>,
    counts: Vec<u64>,
}

impl Ages {
    /// As a worker's metrics tell them.
    pub(super) fn told(metrics: &str) -> Option<Self> {
        let buckets = metrics.lines().filter_map(|line| {
            let (labels, count) = line.strip_prefix(METRIC)?.split_once("} ")?;
            let bound = labels.split(['{', ',']).find_map(|label| label.strip_prefix("le=\""))?.trim_end_matches('"');
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse::<u64>().ok()?))
        });
        let (bounds, below): (Vec<f64>, Vec<u64>) = buckets.unzip();
        let mut before = 0;
        let counts: Vec<u64> = below.into_iter().map(|n| n - std::mem::replace(&mut before, n)).collect();
        (bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY)).then_some(Self { bounds, counts })
    }

    /// None, to be added to under the same rule.
    pub(super) fn none(&self) -> Self {
        Self { bounds: self.bounds.clone(), counts: vec![0; self.counts.len()] }
    }

    pub(super) fn add(&mut self, seconds: f64) {
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
    }

    /// What has come since then.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        self.counts.iter_mut().zip(&earlier.counts).for_each(|(count, earlier)| *count -= earlier);
        self
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The age in microseconds that this part of all is not beyond, in proportion within its bucket.
    #[expect(clippy::cast_precision_loss, reason = "numbers of messages")]
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let rank = part * self.len() as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let to = if bound.is_finite() { *bound } else { from };
                return (from + (to - from) * (rank - below) / count) * 1e6;
            }
            (below, from) = (below + count, *bound);
        }
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE parti_message_age_seconds histogram\n\
        parti_message_age_seconds_bucket{worker_id=\"worker-0\",le=\"0.001\"} 10\n\
        parti_message_age_seconds_bucket{worker_id=\"worker-0\",le=\"0.002\"} 90\n\
        parti_message_age_seconds_bucket{worker_id=\"worker-0\",le=\"+Inf\"} 100\n\
        parti_message_age_seconds_sum{worker_id=\"worker-0\"} 1.5\n";

    #[test]
    fn a_quantile_is_where_its_rank_lies_within_the_bucket() {
        let ages = Ages::told(METRICS).unwrap();
        let at = |part| ages.quantile(part).round();
        assert_eq!((at(0.05), at(0.5), at(0.9), at(0.99)), (500.0, 1500.0, 2000.0, 2000.0));
        assert!(ages.none().quantile(0.5).is_nan());
    }

    #[test]
    fn what_is_added_is_what_a_worker_would_tell() {
        let told = Ages::told(METRICS).unwrap();
        let mut ages = told.none();
        [0.001, 0.0015, 7.0].into_iter().for_each(|age| ages.add(age));
        assert_eq!(ages.counts, [1, 1, 1]);
        assert_eq!(told.clone().since(&ages).counts, [9, 79, 9]);
        assert_eq!(told.len(), 100);
    }

    #[test]
    fn what_tells_no_ages_is_not_taken_for_none() {
        for text in
            ["", "parti_message_age_seconds_bucket{le=\"0.1\"} 1\n", "parti_message_age_seconds_bucket{le=\"x\"} 1\n"]
        {
            assert_eq!(Ages::told(text), None, "{text:?}");
        }
    }
}
