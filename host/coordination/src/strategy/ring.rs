//! The hash ring: points of workers, and the walk from a partition's place to a worker that has room.

use super::Candidate;
use super::room::{Limit, Room};
use crate::Partition;
use std::cmp::Reverse;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Where each load goes in turn: heavy ones first, because they fit worst later; then by their partition's place on the ring, which
/// is as good as chance.
pub(super) fn places(partitions: &[&Partition], loads: &[u128], seed: u64) -> Vec<Place> {
    let place = |(index, (partition, load)): (usize, (&&Partition, &u128))| {
        (Reverse(*load), xxh3_64_with_seed(partition.id().as_str().as_bytes(), seed), index)
    };
    let mut places: Vec<Place> = partitions.iter().zip(loads).enumerate().map(place).collect();
    places.sort_unstable();
    places
}

/// A partition's load, its place on the ring, and its index.
pub(super) type Place = (Reverse<u128>, u64, usize);

/// Points of workers in their order. Points whose worker takes nothing more are skipped from then on: a walk past full
/// workers would cost as much as the ring is long, for each partition again.
pub(super) struct Ring {
    points: Vec<(u64, usize)>,
    /// Where each slice of the circle begins: its 2^n slices are as many as there are points, or up to twice as many.
    slices: Vec<usize>,
    shift: u32,
    /// For each point the next one that may have room; a point that has room names itself.
    next: Vec<usize>,
    is_exhausted: bool,
}

impl Ring {
    /// Points of those workers that are `wanted`: `virtual_nodes` for one of average capacity, in proportion for others.
    pub(super) fn new(workers: &[Candidate], wanted: impl Fn(usize) -> bool, virtual_nodes: u32, seed: u64) -> Self {
        let capacity: u128 = workers.iter().map(|c| u128::from(c.capacity.max(1))).sum();
        let points = u128::from(virtual_nodes.max(1)) * workers.len() as u128;
        let mut ring: Vec<(u64, usize)> = Vec::new();
        for (index, candidate) in workers.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            let own = (points * u128::from(candidate.capacity.max(1)) / capacity.max(1)).max(1);
            let name = xxh3_64_with_seed(candidate.worker.to_string().as_bytes(), seed);
            let own = u64::try_from(own).unwrap_or(u64::MAX);
            ring.extend((0..own).map(|point| (xxh3_64_with_seed(&point.to_le_bytes(), name), index)));
        }
        // Two points may collide: the worker's name decides then, since workers are in the order of names.
        ring.sort_unstable();
        let bits = ring.len().max(2).next_power_of_two().trailing_zeros();
        let shift = u64::BITS - bits;
        let mut slices = vec![ring.len(); 1 << bits];
        for (at, (point, _)) in ring.iter().enumerate().rev() {
            if let Some(slice) = slices.get_mut(slice(*point, shift)) {
                *slice = at;
            }
        }
        // A slice without a point begins where the next one does.
        let mut begin = ring.len();
        for slice in slices.iter_mut().rev() {
            begin = begin.min(*slice);
            *slice = begin;
        }
        let next = (0..ring.len()).collect();
        Self { points: ring, slices, shift, next, is_exhausted: false }
    }

    /// The first point at or after this place.
    fn start(&self, place: u64) -> usize {
        let mut at = self.slices.get(slice(place, self.shift)).copied().unwrap_or_default();
        while self.points.get(at).is_some_and(|(point, _)| *point < place) {
            at += 1;
        }
        if at < self.points.len() { at } else { 0 }
    }

    /// The worker of the first point at or after this place.
    pub(super) fn home(&self, place: u64) -> Option<usize> {
        self.points.get(self.start(place)).map(|(_, worker)| *worker)
    }

    /// The first point from this one on, around the ring, whose worker is not full.
    fn open(&mut self, from: usize, is_full: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut at = from;
        let mut passed = Vec::new();
        while passed.len() <= 2 * self.points.len() {
            let next = self.next.get(at).copied()?;
            if next == at {
                if !self.points.get(at).is_some_and(|(_, worker)| is_full(*worker)) {
                    for point in passed {
                        if let Some(next) = self.next.get_mut(point) {
                            *next = at;
                        }
                    }
                    return Some(at);
                }
                if let Some(next) = self.next.get_mut(at) {
                    *next = (at + 1) % self.points.len();
                }
            }
            passed.push(at);
            at = self.next.get(at).copied()?;
        }
        self.is_exhausted = true;
        None
    }

    /// Places what nobody has on the first worker from its place on with room for it; what fits nowhere under the bound goes where
    /// there is most room.
    pub(super) fn settle(&mut self, order: &[Place], room: &mut Room, owners: &mut [Option<usize>]) {
        let lightest = order.last().map_or(1, |(Reverse(load), ..)| *load);
        for (Reverse(load), place, partition) in order {
            let Some(slot) = owners.get_mut(*partition).filter(|slot| slot.is_none()) else { continue };
            // A walk that finds nobody costs as much as the ring is long; only much heavier loads than others end so.
            let fits_nowhere = *load / 16 > lightest && !room.has_place_for(*load);
            let by_ring = if fits_nowhere { None } else { self.find(*place, room, lightest, *load, Limit::Bound) };
            *slot = by_ring.or_else(|| Some(room.put_on_roomiest(*load)));
        }
    }

    /// The first worker from this place on with room for a load, which it takes. No load is lighter than `lightest`, and a ring
    /// is always asked within the same limit.
    pub(super) fn find(
        &mut self,
        place: u64,
        room: &mut Room,
        lightest: u128,
        load: u128,
        limit: Limit,
    ) -> Option<usize> {
        let mut at = self.start(place);
        for _ in 0..self.points.len() {
            if self.is_exhausted {
                return None;
            }
            let open = self.open(at, &|worker| !room.fits(worker, lightest, limit))?;
            let (_, worker) = self.points.get(open).copied()?;
            if room.take(worker, load, limit) {
                return Some(worker);
            }
            at = (open + 1) % self.points.len();
        }
        None
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the slices are as many as a vector holds")]
fn slice(place: u64, shift: u32) -> usize {
    (place >> shift) as usize
}
