//! Moves and swaps that relieve the workers that carry most.

use super::Request;
use super::holdings::{Holdings, Need};
use super::ring::Place;
use super::room::{Room, float};
use super::weighted::scaled;
use std::cmp::Reverse;

/// What evening out may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Partitions that may move.
    pub(super) moves: usize,
    /// How many of them may move between workers that are not needy.
    pub(super) among_others: usize,
    /// A worker that carries more than this multiple of its share is relieved beyond that.
    pub(super) overload: f64,
}

/// By how much an exchange raises what the budget counts; negative where a partition comes back to who has had it before.
#[derive(Clone, Copy, Default)]
struct Cost {
    moves: isize,
    among_others: isize,
}

impl Budget {
    fn allows(&self, cost: Cost) -> bool {
        let within = |cost: isize, left: usize| usize::try_from(cost).is_ok_and(|cost| cost <= left) || cost <= 0;
        within(cost.moves, self.moves) && within(cost.among_others, self.among_others)
    }

    fn spend(&mut self, cost: Cost) {
        self.moves = self.moves.saturating_add_signed(-cost.moves);
        self.among_others = self.among_others.saturating_add_signed(-cost.among_others);
    }
}

/// Who carries more than this multiple of its share is relieved as long as the budget lasts.
const RELIEVED: f64 = 1.09;

/// How many of the least loaded workers are looked at as takers. More cost more and find hardly better moves.
const TAKERS: usize = 128;

/// A partition given, and one taken in exchange.
#[derive(Clone, Copy)]
struct Exchange {
    /// What the more loaded of the two carries after it, per unit of capacity.
    peak: f64,
    taker: usize,
    given: Place,
    taken: Option<Place>,
}

/// Moves partitions away from workers that carry too much, most loaded first, the best exchange each time.
pub(super) fn relieve(
    request: &Request<'_>,
    need: &Need,
    order: &[Place],
    room: &mut Room,
    owners: &mut [Option<usize>],
    mut budget: Budget,
) {
    let workers = 0..request.workers.len();
    let is_beyond = |room: &Room, worker: usize| room.carried(worker) > scaled(room.share(worker), RELIEVED);
    if !workers.clone().any(|worker| is_beyond(room, worker)) {
        return;
    }
    let mut relief = Relief { request, need, holdings: Holdings::new(order, workers.len(), room, owners) };
    let mut is_stuck = vec![false; workers.len()];
    // Every exchange lowers the peak of two workers, so that this ends; the count is for weights beyond a float's digits.
    for _ in 0..2 * order.len() {
        let room = &relief.holdings.room;
        let waits = |w: &usize| is_beyond(room, *w) && is_stuck.get(*w).is_some_and(|stuck| !stuck);
        let pressure = |w: &usize| room.pressure(*w);
        let Some(giver) = workers.clone().filter(waits).max_by(|a, b| pressure(a).total_cmp(&pressure(b))) else {
            return;
        };
        let is_overloaded = room.carried(giver) > scaled(room.share(giver), budget.overload);
        match relief.best(giver) {
            Some(exchange) if is_overloaded || budget.allows(relief.cost(giver, exchange)) => {
                budget.spend(relief.cost(giver, exchange));
                relief.holdings.hand(exchange.given, giver, Some(exchange.taker));
                if let Some(taken) = exchange.taken {
                    relief.holdings.hand(taken, exchange.taker, Some(giver));
                }
            }
            _ => {
                if let Some(stuck) = is_stuck.get_mut(giver) {
                    *stuck = true;
                }
            }
        }
    }
}

struct Relief<'a> {
    request: &'a Request<'a>,
    need: &'a Need,
    holdings: Holdings<'a>,
}

impl Relief<'_> {
    /// The exchange that leaves least on the more loaded of the two, if any leaves less than now.
    fn best(&self, giver: usize) -> Option<Exchange> {
        let room = &self.holdings.room;
        let pressure = |worker: &usize| room.pressure(*worker);
        let mut takers: Vec<usize> = (0..self.request.workers.len()).filter(|worker| *worker != giver).collect();
        let others = |worker: &usize| !self.need.is_needy(*worker);
        takers.sort_by(|a, b| others(a).cmp(&others(b)).then(pressure(a).total_cmp(&pressure(b))));
        let mut best: Option<Exchange> = None;
        let now = pressure(&giver);
        for taker in takers.into_iter().take(TAKERS) {
            let spare = room.bound(taker).saturating_sub(room.carried(taker));
            let even = room.carried(giver).saturating_sub(room.carried(taker)) / 2;
            let of_taker = self.holdings.of(taker);
            let mut seen = None;
            for given in self.holdings.of(giver) {
                let Reverse(load) = given.0;
                // Of equal ones, one is enough.
                if seen.replace(load) == Some(load) {
                    continue;
                }
                let mut consider = |taken: Option<Place>| {
                    let back = taken.map_or(0, |(Reverse(load), ..)| load);
                    if load <= back {
                        return;
                    }
                    let net = float(load - back);
                    let peak = room.pressure_with(giver, -net).max(room.pressure_with(taker, net));
                    if peak < now && best.is_none_or(|best| peak < best.peak) {
                        best = Some(Exchange { peak, taker, given: *given, taken });
                    }
                };
                consider(None);
                // The lightest for which the taker has room, and one that leaves it less full.
                for net in [spare, even] {
                    let beyond = of_taker.partition_point(|(Reverse(back), ..)| back.saturating_add(net) >= load);
                    consider(beyond.checked_sub(1).and_then(|at| of_taker.get(at)).copied());
                }
            }
        }
        best
    }

    fn cost(&self, giver: usize, exchange: Exchange) -> Cost {
        let mut cost = Cost::default();
        let mut hand = |place: Place, from: usize, to: usize| {
            let Some(before) = self.request.owner(place.2) else { return };
            for (worker, change) in [(from, -1), (to, 1)] {
                if worker != before {
                    cost.moves += change;
                    cost.among_others += if self.need.is_needy(worker) { 0 } else { change };
                }
            }
        };
        hand(exchange.given, giver, exchange.taker);
        if let Some(taken) = exchange.taken {
            hand(taken, exchange.taker, giver);
        }
        cost
    }
}
