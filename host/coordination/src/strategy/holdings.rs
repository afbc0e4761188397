//! What every worker holds while an answer is made, and the moves that fill workers that have far too little.

use super::ring::Place;
use super::room::{Room, float};
use super::weighted::scaled;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Who has which partition, and each worker's partitions, heaviest first.
pub(super) struct Holdings<'a> {
    pub(super) room: &'a mut Room,
    owners: &'a mut [Option<usize>],
    held: Vec<Vec<Place>>,
}

impl<'a> Holdings<'a> {
    /// `order` holds every partition, heaviest first.
    pub(super) fn new(order: &[Place], workers: usize, room: &'a mut Room, owners: &'a mut [Option<usize>]) -> Self {
        let mut held = vec![Vec::new(); workers];
        for place in order {
            let owner = owners.get(place.2).copied().flatten();
            if let Some(held) = owner.and_then(|worker| held.get_mut(worker)) {
                held.push(*place);
            }
        }
        Self { room, owners, held }
    }

    pub(super) fn of(&self, worker: usize) -> &[Place] {
        self.held.get(worker).map_or(&[], Vec::as_slice)
    }

    /// Takes a partition from a worker that has it, and gives it to another, or to nobody yet.
    pub(super) fn hand(&mut self, place: Place, from: usize, to: Option<usize>) {
        let (Reverse(load), _, partition) = place;
        self.room.remove(from, load);
        if let Some(held) = self.held.get_mut(from)
            && let Ok(at) = held.binary_search(&place)
        {
            held.remove(at);
        }
        if let Some(to) = to {
            self.room.put(to, load);
            if let Some(held) = self.held.get_mut(to)
                && let Err(at) = held.binary_search(&place)
            {
                held.insert(at, place);
            }
        }
        if let Some(owner) = self.owners.get_mut(partition) {
            *owner = to;
        }
    }
}

/// Whoever carries less than this part of its share is needy, however far others may be loaded: a worker that joins gets work.
const LEAST: f64 = 0.5;

/// Workers that carry less than a part of their share, and how much work that is.
pub(super) struct Need {
    needy: Vec<bool>,
    least: f64,
    /// What they lack to their shares.
    lack: u128,
}

impl Need {
    /// Workers with less than `least` times their share, or than half of it if that is more; none where nobody has anything.
    pub(super) fn new(room: &Room, workers: usize, least: f64) -> Self {
        let least = least.max(LEAST);
        let needy: Vec<bool> = (0..workers).map(|w| room.carried(w) < scaled(room.share(w), least)).collect();
        let of_needy = (0..workers).zip(&needy).filter(|(_, needy)| **needy);
        let lack = of_needy.map(|(w, _)| room.share(w).saturating_sub(room.carried(w))).sum();
        Self { needy, least, lack }
    }

    pub(super) fn is_needy(&self, worker: usize) -> bool {
        self.needy.get(worker).copied().unwrap_or_default()
    }

    pub(super) fn is_none(&self) -> bool {
        self.lack == 0 || self.needy.iter().all(|needy| *needy)
    }

    /// How many of so many partitions would move if they all weighed the same.
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    pub(super) fn ideal(&self, room: &Room, partitions: usize) -> f64 {
        let shares: u128 = (0..self.needy.len()).map(|worker| room.share(worker)).sum();
        float(self.lack) / float(shares.max(1)) * partitions as f64
    }

    /// Moves partitions to the needy, from whoever carries most, until they have their shares or `moves` are made. Returns how many
    /// it has made.
    pub(super) fn fill(&self, holdings: &mut Holdings<'_>, moves: usize) -> usize {
        let rank = |room: &Room, worker: usize| (room.pressure(worker).to_bits(), Reverse(worker));
        let (mut givers, mut takers) = (BinaryHeap::new(), BinaryHeap::new());
        for (worker, needy) in self.needy.iter().enumerate() {
            let rank = rank(holdings.room, worker);
            if *needy { takers.push(Reverse((rank.0, worker))) } else { givers.push(rank) }
        }
        let (mut lack, mut made) = (self.lack, 0);
        while made < moves
            && let Some(giver) = givers.peek().map(|(_, Reverse(giver))| *giver)
            && let Some(taker) = takers.peek().map(|Reverse((_, taker))| *taker)
        {
            // What is left to move, spread over the moves that are left.
            let worth = lack / (moves - made) as u128;
            let Some(place) = self.pick(holdings, giver, taker, worth) else {
                givers.pop();
                continue;
            };
            holdings.hand(place, giver, Some(taker));
            givers.pop();
            givers.push(rank(holdings.room, giver));
            takers.pop();
            takers.push(Reverse((rank(holdings.room, taker).0, taker)));
            lack = lack.saturating_sub(place.0.0);
            made += 1;
        }
        made
    }

    /// What one gives the other: the heaviest within the giver's excess, if it is worth a move; else the lightest beyond it that leaves
    /// the giver enough.
    fn pick(&self, holdings: &Holdings<'_>, giver: usize, taker: usize, worth: u128) -> Option<Place> {
        let (room, held) = (&holdings.room, holdings.of(giver));
        let excess = room.carried(giver).saturating_sub(room.share(giver));
        let lack = room.share(taker).saturating_sub(room.carried(taker));
        if excess == 0 {
            return None;
        }
        let from = held.partition_point(|(Reverse(load), ..)| *load > excess.min(lack));
        let within = held.get(from).filter(|(Reverse(load), ..)| *load >= worth);
        let leaves_enough = |load: u128| room.carried(giver) >= load + scaled(room.share(giver), self.least);
        let beyond = || {
            let place = held.get(from.checked_sub(1)?)?;
            (place.0.0 <= lack && leaves_enough(place.0.0)).then_some(place)
        };
        within.or_else(beyond).copied()
    }
}
