//! Consistent hashing with bounded load that knows the previous owners.
//!
//! Karger et al. (STOC 1997) place workers and partitions on a ring; Mirrokni, Thorup and Zadimoghaddam (SODA 2018) add a
//! bound on each worker's load and let a partition walk on to the next worker that has room. Here a partition first
//! stays where it is as long as its owner is within the bound, so that a change of the fleet moves little more than it
//! must.
//!
//! Where all weights are equal, the bound is exact: every worker carries its quota of partitions, and as many workers as
//! there are partitions left carry one more. Then a join displaces exactly what the joiner takes, and a leave displaces
//! only what the leaver had; any looser bound lets partitions move between workers that both stay.

use super::canonical::in_order;
use super::holdings::{Holdings, Need};
use super::ring::{self, Place, Ring};
use super::room::{Limit, Room};
use super::{Request, Strategy};
use serde::Deserialize;
use std::cmp::Reverse;

/// The default strategy.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ConsistentHash {
    /// Points on the ring of a worker of average capacity. With more points, more partitions are at home on the worker that
    /// the ring alone would give them; the ring costs more to build.
    pub virtual_nodes: u32,
    /// Seed of the ring's hash function.
    pub hash_seed: u64,
    /// The most that a worker's load may exceed its fair share where weights differ, as a factor of at least 1.
    pub load_bound: f64,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self { virtual_nodes: 150, hash_seed: 0, load_bound: 1.05 }
    }
}

impl Strategy for ConsistentHash {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        // A weight of 0 still takes a place.
        let load = |weight: u64| u128::from(weight.max(1));
        in_order(request, |request| {
            let loads: Vec<u128> = request.partitions.iter().map(|p| load(p.weight())).collect();
            self.place(request, &loads)
        })
    }
}

impl ConsistentHash {
    /// Places these loads, one per partition, on workers that are in the order of their names.
    pub(super) fn place(&self, request: Request<'_>, loads: &[u128]) -> Vec<usize> {
        let room = Room::new(request.workers, loads, self.load_bound);
        let order = ring::places(request.partitions, loads, self.hash_seed);
        let owners =
            if room.is_exact() { self.equal(request, room, &order) } else { self.uneven(request, room, &order) };
        owners.into_iter().map(Option::unwrap_or_default).collect()
    }

    fn ring(&self, request: Request<'_>, wanted: impl Fn(usize) -> bool) -> Ring {
        Ring::new(request.workers, wanted, self.virtual_nodes, self.hash_seed)
    }

    /// Where all loads are equal: every worker has its quota.
    fn equal(&self, request: Request<'_>, mut room: Room, order: &[Place]) -> Vec<Option<usize>> {
        let mut had = vec![0_u128; request.workers.len()];
        for (Reverse(load), _, partition) in order {
            if let Some(had) = request.owner(*partition).and_then(|worker| had.get_mut(worker)) {
                *had += load;
            }
        }
        let is_new = had.iter().all(|had| *had == 0);
        let mut everybody = self.ring(request, |_| true);
        let mut owners: Vec<Option<usize>> = vec![None; order.len()];
        if !is_new {
            let mut needy = self.ring(request, |worker| had.get(worker).is_none_or(|had| *had < room.share(worker)));
            // Stay first; those that the ring puts here before those that only overflow put here.
            for at_home in [true, false] {
                for (Reverse(load), place, partition) in order {
                    if let Some(worker) = request.owner(*partition)
                        && (everybody.home(*place) == Some(worker)) == at_home
                        && room.take(worker, *load, Limit::Bound)
                        && let Some(slot) = owners.get_mut(*partition)
                    {
                        *slot = Some(worker);
                    }
                }
            }
            // What they cannot keep is for those who lack their quota.
            for (Reverse(load), place, partition) in order {
                if let Some(slot) = owners.get_mut(*partition).filter(|slot| slot.is_none())
                    && request.owner(*partition).is_some()
                {
                    *slot = needy.find(*place, &mut room, *load, *load, Limit::Share);
                }
            }
        }
        everybody.settle(order, &mut room, &mut owners);
        owners
    }

    /// Where loads differ: what has an owner stays, as long as its owner is within the bound and nobody has far too little.
    fn uneven(&self, request: Request<'_>, mut room: Room, order: &[Place]) -> Vec<Option<usize>> {
        let workers = request.workers.len();
        let mut owners: Vec<Option<usize>> = (0..order.len()).map(|partition| request.owner(partition)).collect();
        for (Reverse(load), _, partition) in order {
            if let Some(worker) = owners.get(*partition).copied().flatten() {
                room.put(worker, *load);
            }
        }
        // As far below its share as the bound is above it.
        let need = Need::new(&room, workers, 2.0 - self.load_bound.max(1.0));
        let is_beyond = |room: &Room, worker: usize| room.carried(worker) > room.bound(worker);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as many as partitions at most")]
        let ideal = need.ideal(&room, order.len()).ceil() as usize;
        if !need.is_none() || (0..workers).any(|worker| is_beyond(&room, worker)) {
            let mut holdings = Holdings::new(order, workers, &mut room, &mut owners);
            if !need.is_none() {
                need.fill(&mut holdings, ideal);
            }
            for worker in 0..workers {
                while is_beyond(holdings.room, worker)
                    && let Some(place) = shed(&holdings, worker)
                {
                    holdings.hand(place, worker, None);
                }
            }
        }
        self.ring(request, |_| true).settle(order, &mut room, &mut owners);
        owners
    }
}

/// What a worker beyond its bound gives away: the lightest that suffices, else the heaviest. One that is heavier than the bound
/// itself stays, alone.
fn shed(holdings: &Holdings<'_>, worker: usize) -> Option<Place> {
    let (room, held) = (&holdings.room, holdings.of(worker));
    let (bound, excess) = (room.bound(worker), room.carried(worker).saturating_sub(room.bound(worker)));
    let from = usize::from(held.first().is_some_and(|(Reverse(load), ..)| *load > bound));
    let suffice = held.partition_point(|(Reverse(load), ..)| *load >= excess);
    held.get(suffice.saturating_sub(1).max(from)).copied()
}
