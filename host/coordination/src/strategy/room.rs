//! What each worker carries, what its fair share is, and how much it may carry.

use super::Candidate;

/// How far a worker may be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Up to its fair share.
    Share,
    /// Up to its bound, which is its fair share times a factor.
    Bound,
}

/// What each worker carries and may carry. Once a load does not fit on a worker it never will: loads only grow.
pub(super) struct Room {
    carried: Vec<u128>,
    /// What each worker carries and the reciprocal of its capacity, for comparisons: exact enough, and many times faster.
    pressures: Vec<(f64, f64)>,
    share: Vec<u128>,
    bound: Vec<u128>,
    /// How many workers may carry one unit more than their share, where all loads are equal.
    extra: u128,
    unit: u128,
}

impl Room {
    /// For these loads, with a bound of this multiple of the fair share. Where all loads are equal, shares are exact instead:
    /// each worker carries its quota of whole units, and as many workers as there are units left carry one more.
    pub(super) fn new(workers: &[Candidate], loads: &[u128], bound: f64) -> Self {
        let capacities: Vec<u128> = workers.iter().map(|c| u128::from(c.capacity.max(1))).collect();
        let capacity = capacities.iter().sum::<u128>().max(1);
        let carried = vec![0; workers.len()];
        let pressures = workers.iter().map(|c| (0.0, 1.0 / f64::from(c.capacity.max(1)))).collect();
        let (least, most) = (loads.iter().min().copied().unwrap_or(1), loads.iter().max().copied().unwrap_or(1));
        if least == most {
            let units = loads.len() as u128;
            let quotas: Vec<u128> = capacities.iter().map(|own| units * own / capacity).collect();
            let extra = units - quotas.iter().sum::<u128>();
            let share: Vec<u128> = quotas.into_iter().map(|units| units * least).collect();
            return Self { carried, pressures, bound: share.clone(), share, extra, unit: least };
        }
        let (level, per) = level(loads, capacity, workers.len() as u128);
        let share: Vec<u128> = capacities.iter().map(|own| (level.saturating_mul(*own) / per).max(1)).collect();
        // In thousandths, so that the sum of huge weights stays exact.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bound is a small factor >= 1")]
        let bound = (bound.max(1.0) * 1000.0).min(1e9) as u128;
        // A bound that is finer than the lightest load could leave no room for it anywhere.
        let bound =
            share.iter().map(|own| (own.saturating_mul(bound) / 1000).max(own.div_ceil(least) * least)).collect();
        Self { carried, pressures, share, bound, extra: 0, unit: 0 }
    }

    /// Whether all loads are equal, and the shares whole units therefore.
    pub(super) fn is_exact(&self) -> bool {
        self.unit > 0
    }

    pub(super) fn carried(&self, worker: usize) -> u128 {
        self.carried.get(worker).copied().unwrap_or_default()
    }

    pub(super) fn share(&self, worker: usize) -> u128 {
        self.share.get(worker).copied().unwrap_or_default()
    }

    pub(super) fn bound(&self, worker: usize) -> u128 {
        self.bound.get(worker).copied().unwrap_or_default()
    }

    /// What a worker carries per unit of capacity.
    pub(super) fn pressure(&self, worker: usize) -> f64 {
        self.pressure_with(worker, 0.0)
    }

    /// What it would carry with so much more, or less, per unit of capacity.
    pub(super) fn pressure_with(&self, worker: usize, more: f64) -> f64 {
        self.pressures.get(worker).map_or(f64::INFINITY, |(carried, per)| (carried + more) * per)
    }

    /// Whether a worker can take this load.
    pub(super) fn fits(&self, worker: usize, load: u128, limit: Limit) -> bool {
        let most = if limit == Limit::Share { self.share(worker) } else { self.bound(worker) };
        let carried = self.carried(worker);
        let after = carried.saturating_add(load);
        after <= most
            || (self.extra > 0 && after == most + self.unit)
            // What is heavier than any bound still needs a place: only an empty worker takes it.
            || (carried == 0 && limit == Limit::Bound && !self.is_exact())
    }

    /// Whether some worker can take this load within its bound.
    pub(super) fn has_place_for(&self, load: u128) -> bool {
        (0..self.carried.len()).any(|worker| self.fits(worker, load, Limit::Bound))
    }

    /// Puts a load on a worker if it fits.
    pub(super) fn take(&mut self, worker: usize, load: u128, limit: Limit) -> bool {
        let fits = self.fits(worker, load, limit);
        if fits {
            self.put(worker, load);
            if self.is_exact() && self.carried(worker) > self.share(worker) {
                self.extra -= 1;
            }
        }
        fits
    }

    /// Puts a load on a worker, whether it fits or not.
    pub(super) fn put(&mut self, worker: usize, load: u128) {
        self.set(worker, self.carried(worker).saturating_add(load));
    }

    /// Takes a load from a worker.
    pub(super) fn remove(&mut self, worker: usize, load: u128) {
        self.set(worker, self.carried(worker).saturating_sub(load));
    }

    fn set(&mut self, worker: usize, load: u128) {
        if let (Some(carried), Some(pressure)) = (self.carried.get_mut(worker), self.pressures.get_mut(worker)) {
            *carried = load;
            pressure.0 = float(load);
        }
    }

    /// Puts a load where it leaves least per unit of capacity; of several such workers, on the first.
    pub(super) fn put_on_roomiest(&mut self, load: u128) -> usize {
        let after = |(carried, per): &(f64, f64)| (carried + float(load)) * per;
        let workers = self.pressures.iter().map(after).enumerate();
        let worker = workers.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(worker, _)| worker);
        self.put(worker, load);
        worker
    }
}

/// A load to compare with others: what is as close as a float's digits is as good.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(super) fn float(load: u128) -> f64 {
    load as f64
}

/// What a worker carries per unit of capacity when those loads that are heavier than an average worker's share have a worker
/// each, as a fraction: they say nothing about what is fair for the others.
fn level(loads: &[u128], capacity: u128, workers: u128) -> (u128, u128) {
    let mut total: u128 = loads.iter().sum();
    let mut heaviest = loads.to_vec();
    let most = usize::try_from(workers).unwrap_or(usize::MAX);
    if heaviest.len() > most {
        heaviest.select_nth_unstable_by_key(most, |load| std::cmp::Reverse(*load));
        heaviest.truncate(most);
    }
    heaviest.sort_unstable();
    let mut left = workers;
    while let Some(load) = heaviest.pop()
        && left > 1
        && load.saturating_mul(left) > total
    {
        total -= load;
        left -= 1;
    }
    // Of unequal workers, the average one has it.
    (total.max(1), (capacity * left / workers.max(1)).max(1))
}
