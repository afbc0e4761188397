//! So many a second and no more: log lines of a plugin, commits of a worker.

use std::time::{Duration, Instant};

/// Tokens that come at a steady rate, up to as many as fit. Whoever takes one may act. Time is handed in.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    size: f64,
    /// Below zero after [`Self::take_anyway`].
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Full: `size` tokens at once, and then `per_second` of them.
    pub(crate) fn new(per_second: f64, size: f64, now: Instant) -> Self {
        Self { per_second, size, tokens: size, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let come = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + come).min(self.size);
        self.filled = now;
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    /// Takes a token whether there is one or not; others wait the longer for it, though never more than a second for all of them.
    pub(crate) fn take_anyway(&mut self, now: Instant) {
        self.fill(now);
        self.tokens = (self.tokens - 1.0).max(-self.per_second);
    }

    /// Puts back a token that was not needed.
    pub(crate) fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.size);
    }

    /// How long it takes until there is a token.
    pub(crate) fn wait(&self) -> Duration {
        // At a rate of zero there never is one.
        Duration::try_from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_of_it_no_more_is_given_than_has_come() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::new(100.0, 5.0, begun);
        let mut given = 0;
        for millisecond in 0..=10_000 {
            let now = begun + Duration::from_millis(millisecond);
            given += (0..3).filter(|_| bucket.take(now)).count();
        }
        assert!((1004..=1005).contains(&given), "{given}");
        assert!(bucket.wait() <= Duration::from_millis(10));
    }

    #[test]
    fn what_is_taken_anyway_is_owed_for_a_second_at_most() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::new(10.0, 1.0, begun);
        (0..3).for_each(|_| bucket.take_anyway(begun));
        assert!(!bucket.take(begun + Duration::from_millis(200)));
        assert!(bucket.take(begun + Duration::from_millis(310)));
        (0..1000).for_each(|_| bucket.take_anyway(begun));
        assert!(bucket.wait() <= Duration::from_millis(1101), "{:?}", bucket.wait());
    }

    #[test]
    fn a_rate_of_zero_gives_nothing_and_does_not_overflow() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::new(0.0, 0.0, begun);
        assert!(!bucket.take(begun + Duration::from_secs(1_000_000)));
        assert_eq!(bucket.wait(), Duration::MAX);
    }
}
