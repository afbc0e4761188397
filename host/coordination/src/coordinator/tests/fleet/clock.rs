//! A process's own clock: it may be ahead or behind, and run faster or slower than time itself.

use crate::Now;
use std::time::Duration;

pub(super) const TRUE_RATE: u32 = 1000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What it showed at a time, and how many thousandths of a second it has gone on each second since.
    set_at: Duration,
    showed: Duration,
    rate: u32,
}

impl Clock {
    pub(super) const TRUE: Self = Self { set_at: Duration::ZERO, showed: Duration::ZERO, rate: TRUE_RATE };

    pub(super) fn new(now: Duration, shows: Duration, rate: u32) -> Self {
        Self { set_at: now, showed: shows, rate }
    }

    /// Goes on from what it shows at another rate.
    pub(super) fn run_at(&mut self, now: Duration, rate: u32) {
        *self = Self::new(now, self.read(now).0, rate);
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    pub(super) fn read(&self, now: Duration) -> Now {
        let nanos = (now - self.set_at).as_nanos() * u128::from(self.rate) / u128::from(TRUE_RATE);
        Now(self.showed + duration(nanos))
    }

    /// When it will show this, or has shown it.
    pub(super) fn when(&self, shows: Now) -> Duration {
        let nanos = shows.0.saturating_sub(self.showed).as_nanos() * u128::from(TRUE_RATE);
        self.set_at + duration(nanos.div_ceil(u128::from(self.rate)))
    }

    /// How long it takes to go on by this much.
    pub(super) fn takes(&self, time: Duration) -> Duration {
        time * TRUE_RATE / self.rate
    }
}

fn duration(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).expect("some years"))
}
