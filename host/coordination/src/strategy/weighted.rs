//! Consistent hashing for partitions of very different weights.
//!
//! Bounded loads alone do not balance heavy tails: a few partitions that weigh as much as a worker's share fit nowhere on a
//! walk around the ring. So the heaviest go where there is most room, heaviest first (longest processing time first, Graham
//! 1969), and the others go by the ring into what is left. What has an owner stays there; joiners get their share from whoever
//! carries most, and what is then uneven is moved as Slicer does it (Adya et al., OSDI 2016, "weighted-move"): the moves that even
//! out most, within a budget, which only overloaded workers may exceed.

use super::canonical::in_order;
use super::holdings::{Holdings, Need};
use super::relief::{Budget, relieve};
use super::ring::{self, Place, Ring};
use super::room::Room;
use super::{ConsistentHash, Request, Strategy};
use serde::Deserialize;
use std::cmp::Reverse;

/// How far above its fair share a worker is loaded on purpose.
const BOUND: f64 = 1.05;

/// How many partitions may move when workers join, as a multiple of the joiners' part of all: what evens out the others takes a few
/// more than what only fills the joiners.
const MOVES: f64 = 1.08;

/// For weights that differ much. Where they are all equal it is [`ConsistentHash`].
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WeightedConsistentHash {
    /// Points on the ring of a worker of average capacity.
    pub virtual_nodes: u32,
    /// Seed of the ring's hash function.
    pub hash_seed: u64,
    /// A worker that carries more than this multiple of its fair share is relieved whatever it costs in moves, and one that
    /// carries as much less is filled up; at least 1.
    pub overload_threshold: f64,
    /// A partition that weighs more than this multiple of the mean is placed where there is most room, and not by the ring.
    pub extreme_threshold: f64,
    /// What a partition of weight 0 counts.
    pub default_weight: u64,
}

impl Default for WeightedConsistentHash {
    fn default() -> Self {
        Self {
            virtual_nodes: 150,
            hash_seed: 0,
            overload_threshold: 1.3,
            extreme_threshold: 2.0,
            default_weight: crate::DEFAULT_WEIGHT,
        }
    }
}

impl Strategy for WeightedConsistentHash {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        in_order(request, |request| {
            let load = |weight: u64| u128::from(if weight == 0 { self.default_weight.max(1) } else { weight });
            let loads: Vec<u128> = request.partitions.iter().map(|p| load(p.weight())).collect();
            let room = Room::new(request.workers, &loads, BOUND);
            if room.is_exact() || request.workers.len() < 2 {
                let Self { virtual_nodes, hash_seed, .. } = *self;
                return ConsistentHash { virtual_nodes, hash_seed, load_bound: BOUND }.place(request, &loads);
            }
            self.place(request, &loads, room)
        })
    }
}

impl WeightedConsistentHash {
    fn place(&self, request: Request<'_>, loads: &[u128], mut room: Room) -> Vec<usize> {
        let workers = request.workers.len();
        let order = ring::places(request.partitions, loads, self.hash_seed);
        let mut owners: Vec<Option<usize>> = (0..loads.len()).map(|partition| request.owner(partition)).collect();
        for (owner, load) in owners.iter().zip(loads) {
            if let Some(worker) = owner {
                room.put(*worker, *load);
            }
        }
        let overload = self.overload_threshold.max(1.0);
        // 2 % of the partitions may move between workers that stay; a swap takes two.
        let few = (order.len() / 50).max(2);
        let mut budget = Budget { moves: few, among_others: few, overload };
        let need = Need::new(&room, workers, 2.0 - overload);
        if !need.is_none() {
            let ideal = need.ideal(&room, order.len());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "as many as partitions at most"
            )]
            let (least, most) = (ideal.ceil() as usize, (ideal * MOVES) as usize);
            let made = need.fill(&mut Holdings::new(&order, workers, &mut room, &mut owners), least);
            let left = most.saturating_sub(made);
            if owners.iter().all(Option::is_some) {
                budget.among_others = few.min(left);
            }
            budget.moves = left.max(budget.among_others);
        }
        self.settle(&request, &order, &mut room, &mut owners);
        relieve(&request, &need, &order, &mut room, &mut owners, budget);
        owners.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Places what nobody has: the heaviest where there is most room, the others by the ring.
    fn settle(&self, request: &Request<'_>, order: &[Place], room: &mut Room, owners: &mut [Option<usize>]) {
        if owners.iter().all(Option::is_some) {
            return;
        }
        let total: u128 = order.iter().map(|(Reverse(load), ..)| load).sum();
        let extreme = scaled(total / order.len().max(1) as u128, self.extreme_threshold);
        for (Reverse(load), _, partition) in order.iter().take_while(|(Reverse(load), ..)| *load > extreme) {
            if let Some(slot) = owners.get_mut(*partition).filter(|slot| slot.is_none()) {
                *slot = Some(room.put_on_roomiest(*load));
            }
        }
        Ring::new(request.workers, |_| true, self.virtual_nodes, self.hash_seed).settle(order, room, owners);
    }
}

/// A load times a factor.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a threshold needs no more digits; a negative one is 0"
)]
pub(super) fn scaled(load: u128, factor: f64) -> u128 {
    (load as f64 * factor) as u128
}
