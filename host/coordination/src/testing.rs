//! What the simulations of this crate share: seeded randomness, short names for times, runs over many seeds, what surrounds a
//! partition, and the ways in which the core can be broken on purpose.

pub(crate) mod data_path;
mod mutants;
mod sweep;

use std::time::Duration;

pub(crate) use mutants::{Mutant, share, shared};
pub(crate) use sweep::{Run, seeds, soak_minutes, sweep, sweep_for};

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time between these numbers of milliseconds, both included.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> Duration {
        ms(least + self.below(most - least + 1))
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
