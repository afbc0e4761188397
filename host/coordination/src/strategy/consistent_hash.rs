//! Consistent hashing with bounded load that knows the previous owners.
//!
//! Karger et al. (STOC 1997) place workers and partitions on a ring; Mirrokni, Thorup and Zadimoghaddam (SODA 2018) add a
//! bound on each worker's load and let a partition walk on to the next worker that has room. Here a partition first
//! stays where it is as long as its owner is within the bound, so that a change of the fleet moves little more than it
//! must.
//!
//! Where all weights and all capacities are equal, the bound is exact: `P mod W` workers carry one partition more than the
//! others. Then a join displaces exactly what the joiner takes, and a leave displaces only what the leaver had; any looser
//! bound lets partitions move between workers that both stay.

use super::{Request, Strategy};
use crate::Partition;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The default strategy.
#[derive(Debug, Clone)]
pub struct ConsistentHash {
    /// Points on the ring per unit of capacity. More points spread better and cost more to build.
    pub virtual_nodes: u32,
    /// Seed of the ring's hash function.
    pub hash_seed: u64,
    /// The most that a worker's load may exceed its fair share, as a factor of at least 1.
    pub load_bound: f64,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self { virtual_nodes: 150, hash_seed: 0, load_bound: 1.05 }
    }
}

/// What a partition weighs here: a weight of 0 still takes a place.
fn load(partition: &Partition) -> u128 {
    u128::from(partition.weight().max(1))
}

impl ConsistentHash {
    fn ring(&self, request: &Request<'_>) -> Vec<(u64, usize)> {
        let mut ring: Vec<(u64, usize)> = request
            .workers
            .iter()
            .enumerate()
            .flat_map(|(index, candidate)| {
                let points = u64::from(self.virtual_nodes.max(1)) * u64::from(candidate.capacity.max(1));
                (0..points).map(move |point| {
                    let text = format!("{}#{point}", candidate.worker);
                    (xxh3_64_with_seed(text.as_bytes(), self.hash_seed), index)
                })
            })
            .collect();
        // Two points may collide: the name decides, not the order in which the workers came.
        ring.sort_by(|a, b| {
            let name = |index: usize| request.workers.get(index).map(|c| &c.worker);
            a.0.cmp(&b.0).then_with(|| name(a.1).cmp(&name(b.1)))
        });
        ring
    }

    fn room(&self, request: &Request<'_>) -> Room {
        let loads = || request.partitions.iter().map(|p| load(p));
        let capacities = || request.workers.iter().map(|c| u128::from(c.capacity.max(1)));
        let (total, capacity): (u128, u128) = (loads().sum(), capacities().sum());
        let lightest = loads().min().unwrap_or(1);
        let equal = loads().all(|l| l == lightest) && capacities().min() == capacities().max();
        let carried = vec![0; request.workers.len()];
        if equal {
            let workers = request.workers.len().max(1) as u128;
            let units = total / lightest;
            let most = vec![units / workers * lightest; request.workers.len()];
            return Room { carried, most, extra: units % workers, unit: lightest };
        }
        // In thousandths, so that the sum of huge weights stays exact.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bound is a small factor >= 1")]
        let bound = (self.load_bound.max(1.0) * 1000.0).min(1e9) as u128;
        let most = capacities()
            .map(|own| {
                let share = total.saturating_mul(own);
                let bounded = share.saturating_mul(bound) / capacity.max(1) / 1000;
                let whole = share.div_ceil(capacity.max(1)).div_ceil(lightest) * lightest;
                bounded.max(whole)
            })
            .collect();
        Room { carried, most, extra: 0, unit: 0 }
    }
}

/// What each worker carries and may carry.
struct Room {
    carried: Vec<u128>,
    most: Vec<u128>,
    /// How many workers may carry one unit more than `most`.
    extra: u128,
    unit: u128,
}

impl Room {
    /// Whether a worker could take this load. Once it cannot it never can again: loads only grow.
    fn fits(&self, worker: usize, load: u128) -> bool {
        let (Some(carried), Some(most)) = (self.carried.get(worker), self.most.get(worker)) else { return false };
        let after = carried + load;
        after <= *most
            || (self.extra > 0 && after == most + self.unit)
            // What is heavier than the bound still needs a place: only an empty worker takes it.
            || (*carried == 0 && self.unit == 0)
    }

    /// Puts a load on a worker, if it has room or must take it.
    fn take(&mut self, worker: usize, load: u128, force: bool) -> bool {
        if !force && !self.fits(worker, load) {
            return false;
        }
        let (Some(carried), Some(most)) = (self.carried.get_mut(worker), self.most.get(worker)) else { return false };
        *carried += load;
        if !force && *carried > *most && self.unit > 0 {
            self.extra -= 1;
        }
        true
    }
}

/// Points on the ring in their order, with those left out whose worker takes nothing more: a walk past full workers would cost as
/// much as the ring is long, for each partition again.
struct Walk {
    workers: Vec<usize>,
    /// For each point the next one that may have room; a point that has room names itself.
    next: Vec<usize>,
    is_exhausted: bool,
}

impl Walk {
    fn new(workers: Vec<usize>) -> Self {
        let next = (0..workers.len()).collect();
        Self { workers, next, is_exhausted: false }
    }

    /// The first point from this one on, around the ring, whose worker is not full.
    fn open(&mut self, from: usize, is_full: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut at = from;
        let mut passed = Vec::new();
        while passed.len() <= 2 * self.workers.len() {
            let next = self.next.get(at).copied()?;
            if next == at {
                if !self.workers.get(at).is_some_and(|worker| is_full(*worker)) {
                    for point in passed {
                        if let Some(next) = self.next.get_mut(point) {
                            *next = at;
                        }
                    }
                    return Some(at);
                }
                if let Some(next) = self.next.get_mut(at) {
                    *next = (at + 1) % self.workers.len();
                }
            }
            passed.push(at);
            at = self.next.get(at).copied()?;
        }
        self.is_exhausted = true;
        None
    }

    /// The first worker from this point on with room for a load, which it takes.
    fn find(&mut self, start: usize, room: &mut Room, lightest: u128, load: u128) -> Option<usize> {
        let mut at = start;
        for _ in 0..self.workers.len() {
            if self.is_exhausted {
                return None;
            }
            let open = self.open(at, &|worker| !room.fits(worker, lightest))?;
            let worker = self.workers.get(open).copied()?;
            if room.take(worker, load, false) {
                return Some(worker);
            }
            at = (open + 1) % self.workers.len();
        }
        None
    }
}

impl Strategy for ConsistentHash {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        let ring = self.ring(&request);
        let mut room = self.room(&request);
        let mut owners: Vec<Option<usize>> = vec![None; request.partitions.len()];

        struct Place {
            partition: usize,
            hash: u64,
            start: usize,
            home: usize,
        }
        let mut places: Vec<Place> = request
            .partitions
            .iter()
            .enumerate()
            .filter_map(|(partition, p)| {
                let hash = xxh3_64_with_seed(p.id().as_str().as_bytes(), self.hash_seed);
                let start = ring.partition_point(|(point, _)| *point < hash) % ring.len().max(1);
                let home = ring.get(start)?.1;
                Some(Place { partition, hash, start, home })
            })
            .collect();
        // The order of the answer's making must not depend on the order of the question: heavy ones first, because they fit
        // worst later, then by hash, then by name.
        let key = |p: &Place| request.partitions.get(p.partition).map(|q| (std::cmp::Reverse(load(q)), p.hash, q.id()));
        places.sort_by(|a, b| key(a).cmp(&key(b)));

        let mut take = |owners: &mut Vec<Option<usize>>, partition: usize, worker: usize, force: bool| {
            let fits = request.partitions.get(partition).is_some_and(|p| room.take(worker, load(p), force));
            if fits && let Some(slot) = owners.get_mut(partition) {
                *slot = Some(worker);
            }
            fits
        };

        let veterans: std::collections::HashSet<usize> = request.previous.iter().copied().flatten().collect();
        let is_new = |worker: &usize| !veterans.contains(worker);

        // Stay first; those that the ring puts here before those that only overflow put here.
        let previous = |place: &Place| request.previous.get(place.partition).copied().flatten();
        for at_home in [true, false] {
            for place in &places {
                if let Some(worker) = previous(place)
                    && (place.home == worker) == at_home
                {
                    take(&mut owners, place.partition, worker, false);
                }
            }
        }
        let lightest = request.partitions.iter().map(|p| load(p)).min().unwrap_or(1);
        let (new_points, new_workers): (Vec<u64>, Vec<usize>) =
            ring.iter().filter(|(_, worker)| is_new(worker)).copied().unzip();
        let mut newcomers = Walk::new(new_workers);
        let mut everybody = Walk::new(ring.iter().map(|(_, worker)| *worker).collect());
        for place in &places {
            if owners.get(place.partition).copied().flatten().is_some() {
                continue;
            }
            let Some(size) = request.partitions.get(place.partition).map(|p| load(p)) else { continue };
            // What a lower bound displaces belongs to the workers that lowered it: nothing moves between those that stay.
            let mut found = None;
            if previous(place).is_some() && !newcomers.workers.is_empty() {
                let start = new_points.partition_point(|point| *point < place.hash) % new_points.len();
                found = newcomers.find(start, &mut room, lightest, size);
            }
            // Where weights do not fit under the bound, the home takes it.
            let found = found.or_else(|| everybody.find(place.start, &mut room, lightest, size)).unwrap_or_else(|| {
                room.take(place.home, size, true);
                place.home
            });
            if let Some(slot) = owners.get_mut(place.partition) {
                *slot = Some(found);
            }
        }
        owners.into_iter().map(Option::unwrap_or_default).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerId;
    use crate::strategy::{Candidate, Strategy};
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeMap;

    fn workers(n: u32) -> Vec<Candidate> {
        (0..n).map(|i| Candidate { worker: WorkerId::new("worker", i), capacity: 1, labels: BTreeMap::new() }).collect()
    }

    fn partitions(n: usize) -> Vec<Partition> {
        (0..n).map(|i| Partition::new(vec![format!("p-{i}")], 100).unwrap()).collect()
    }

    fn assign(workers: &[Candidate], partitions: &[Partition], previous: &[Option<usize>]) -> Vec<usize> {
        let refs: Vec<&Partition> = partitions.iter().collect();
        ConsistentHash::default().assign(Request { workers, partitions: &refs, previous })
    }

    fn counts(answer: &[usize], workers: usize) -> Vec<usize> {
        (0..workers).map(|w| answer.iter().filter(|a| **a == w).count()).collect()
    }

    #[test]
    fn equal_weights_are_balanced_within_the_bound() {
        for (w, p) in [(3, 30), (7, 100), (30, 2400), (64, 5000), (100, 1500), (5, 3)] {
            let answer = assign(&workers(w), &partitions(p), &vec![None; p]);
            let mean = p as f64 / f64::from(w);
            let most = counts(&answer, w as usize).into_iter().max().unwrap() as f64;
            assert!(most <= (1.05 * mean).max(mean.ceil()), "{w} workers, {p} partitions: {most} against {mean}");
        }
    }

    #[test]
    fn a_worker_of_twice_the_capacity_gets_twice_as_much() {
        let mut fleet = workers(3);
        fleet[0].capacity = 2;
        let answer = assign(&fleet, &partitions(400), &vec![None; 400]);
        let counts = counts(&answer, 3);
        assert!((190..=210).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn a_weight_heavier_than_all_others_together_finds_a_place() {
        let list: Vec<Partition> = [u64::MAX, 1, 0, 1]
            .iter()
            .enumerate()
            .map(|(i, w)| Partition::new(vec![format!("{i}")], *w).unwrap())
            .collect();
        assert_eq!(assign(&workers(2), &list, &[None; 4]).len(), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_join_moves_only_to_the_joiner_and_a_leave_only_from_the_leaver(n in 2u32..12, p in 1usize..300) {
            let list = partitions(p);
            let before = assign(&workers(n), &list, &vec![None; p]);
            let previous: Vec<_> = before.iter().map(|w| Some(*w)).collect();
            prop_assert_eq!(&assign(&workers(n), &list, &previous), &before, "nothing changed, nothing moves");

            let joined = assign(&workers(n + 1), &list, &previous);
            for (old, new) in before.iter().zip(&joined) {
                prop_assert!(old == new || *new == n as usize);
            }
            let back: Vec<_> = joined.iter().map(|w| (*w < n as usize).then_some(*w)).collect();
            let left = assign(&workers(n), &list, &back);
            for (old, new) in joined.iter().zip(&left) {
                prop_assert!(old == new || *old == n as usize);
            }
        }

        #[test]
        fn the_answer_does_not_depend_on_the_order_of_the_question(seed in any::<u64>(), p in 1usize..100) {
            let (fleet, list) = (workers(5), partitions(p));
            let straight = assign(&fleet, &list, &vec![None; p]);
            let mut order: Vec<usize> = (0..p).collect();
            order.sort_by_key(|i| xxh3_64_with_seed(&i.to_le_bytes(), seed));
            let shuffled: Vec<Partition> = order.iter().map(|i| list[*i].clone()).collect();
            let mut reversed = fleet.clone();
            reversed.reverse();
            let answer = assign(&reversed, &shuffled, &vec![None; p]);
            for (place, i) in order.iter().enumerate() {
                prop_assert_eq!(&reversed[answer[place]].worker, &fleet[straight[*i]].worker);
            }
        }
    }
}
