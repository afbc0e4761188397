//! Partitions dealt to the workers in turn, and left where they are as long as that is even.
//!
//! A literal round robin gives partition `i` to worker `i mod W`: when one worker joins, nearly everything moves. What users
//! want of it is that it is even by count and predictable, and both leave room to stay, as in Kafka's sticky assignor (KIP-54).
//! So: every worker keeps what it has, in the order of partitions, up to its quota; the rest is dealt in the order of
//! partitions, each to the worker that has least for its capacity, the first by name among equals. Without previous
//! owners that is the literal round robin. Weights do not count.

use super::canonical::in_order;
use super::room::{Limit, Room};
use super::{Request, Strategy};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Even by count, in order of names. It has no options.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin;

/// Who is next: fewest partitions for its capacity, then by name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// Partitions times 2^32 per unit of capacity.
    held: u128,
    worker: usize,
}

impl Strategy for RoundRobin {
    fn assign(&self, request: Request<'_>) -> Vec<usize> {
        in_order(request, deal)
    }
}

fn deal(request: Request<'_>) -> Vec<usize> {
    let Request { workers, partitions, .. } = request;
    let mut room = Room::new(workers, &vec![1; partitions.len()], 1.0);
    let stays = |partition| request.owner(partition).filter(|worker| room.take(*worker, 1, Limit::Share));
    let mut owners: Vec<Option<usize>> = (0..partitions.len()).map(stays).collect();
    let turn = |room: &Room, worker: usize| {
        let capacity = workers.get(worker).map_or(1, |c| u128::from(c.capacity.max(1)));
        Reverse(Turn { held: (room.carried(worker) << 32) / capacity, worker })
    };
    let mut turns: BinaryHeap<_> = (0..workers.len()).map(|worker| turn(&room, worker)).collect();
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        while let Some(Reverse(Turn { worker, .. })) = turns.pop() {
            // Who is full stays full.
            if room.take(worker, 1, Limit::Share) {
                *owner = Some(worker);
                turns.push(turn(&room, worker));
                break;
            }
        }
    }
    owners.into_iter().map(Option::unwrap_or_default).collect()
}
