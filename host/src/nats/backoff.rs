//! How long to wait before trying again: at once the first time, then growing and spread at random, because a fleet that
//! comes back in step takes the server down that it has just lost.

use rand::Rng;
use std::time::Duration;

/// Waits that double from `first` up to `cap`, each spread over half to one and a half of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    /// The wait before the second attempt.
    pub(super) first: Duration,
    /// No wait is spread around more than this.
    pub(super) cap: Duration,
}

impl Backoff {
    /// The wait before an attempt, counted from 1. The first attempt is made at once.
    pub(super) fn before(self, attempt: u32) -> Duration {
        if attempt <= 1 {
            return Duration::ZERO;
        }
        let doublings = (attempt - 2).min(16);
        let wait = self.first.saturating_mul(1 << doublings).min(self.cap);
        wait.mul_f64(rand::rng().random_range(0.5..1.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_made_at_once_and_later_ones_are_spread_and_bounded() {
        let backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };
        assert_eq!(backoff.before(1), Duration::ZERO);
        for attempt in 2..200 {
            let wait = backoff.before(attempt);
            assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_secs(3), "{attempt}: {wait:?}");
        }
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| backoff.before(5)).collect();
        assert!(waits.len() > 1, "every worker would come back at the same moment");
    }
}
