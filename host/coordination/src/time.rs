//! Time as the core sees it: a monotonic reading that the caller hands in.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A reading of the caller's monotonic clock: time since an arbitrary origin, the same for all calls into one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now(pub Duration);

impl Now {
    /// Time passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Now) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Now {
    type Output = Now;
    fn add(self, rhs: Duration) -> Now {
        Now(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Now {
    type Output = Now;
    fn sub(self, rhs: Duration) -> Now {
        Now(self.0.saturating_sub(rhs))
    }
}
