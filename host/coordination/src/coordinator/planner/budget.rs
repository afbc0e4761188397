//! How many partitions a planned change moves at once. What it puts off follows in later plans, until everything is where the strategy
//! wants it.

use crate::Partition;
#[cfg(test)]
use crate::testing::Mutant;
use std::collections::VecDeque;

/// What bounds a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most partitions that are taken from workers that could keep them.
    pub(super) moves: Option<usize>,
    /// Most partitions of one worker.
    pub(super) held: usize,
}

/// A worker while moves are chosen: what it carries so far, and the moves that would bring it more.
struct Receiver {
    capacity: u128,
    load: u128,
    held: usize,
    /// Places of partitions in the list, with their owner.
    coming: VecDeque<(usize, usize)>,
}

impl Receiver {
    fn carries_less_than(&self, other: &Self) -> bool {
        self.load * other.capacity < other.load * self.capacity
    }
}

/// Takes back all moves of an answer but so many, and says how many are left to be made. What has no owner, and what is `due` to
/// move, is not a move of this kind. Moves are made to whoever carries least at that point, so that each plan is more even than the one
/// before; where no worker has room for what it is to get, they are not left but given up.
pub(super) fn put_off(
    bounds: Bounds,
    capacities: &[u32],
    partitions: &[&Partition],
    previous: &[Option<usize>],
    due: &[bool],
    answer: &mut [Option<usize>],
) -> usize {
    let Some(most) = bounds.moves else { return 0 };
    #[cfg(test)]
    let most = Mutant::BudgetExceeded.or(most, most + 1);
    let receiver = |capacity: &u32| Receiver {
        capacity: u128::from((*capacity).max(1)),
        load: 0,
        held: 0,
        coming: VecDeque::new(),
    };
    let mut workers: Vec<Receiver> = capacities.iter().map(receiver).collect();
    for (at, ((partition, before), (slot, due))) in
        partitions.iter().zip(previous).zip(answer.iter_mut().zip(due)).enumerate()
    {
        let (Some(to), weight) = (*slot, weight(partition)) else { continue };
        let holder = match *before {
            Some(from) if from != to && !due => {
                if let Some(receiver) = workers.get_mut(to) {
                    receiver.coming.push_back((at, from));
                }
                *slot = Some(from);
                from
            }
            _ => to,
        };
        if let Some(holder) = workers.get_mut(holder) {
            holder.load += weight;
            holder.held += 1;
        }
    }
    let mut stuck = false;
    for _ in 0..most {
        let mut next: Option<(usize, &Receiver)> = None;
        for (at, worker) in workers.iter().enumerate() {
            let may = !worker.coming.is_empty() && worker.held < bounds.held;
            if may && next.is_none_or(|(_, best)| worker.carries_less_than(best)) {
                next = Some((at, worker));
            }
        }
        let Some((to, _)) = next else {
            stuck = true;
            break;
        };
        let Some((at, from)) = workers.get_mut(to).and_then(|worker| worker.coming.pop_front()) else { break };
        let weight = partitions.get(at).map_or(0, |partition| weight(partition));
        for (worker, comes) in [(from, false), (to, true)] {
            let Some(worker) = workers.get_mut(worker) else { continue };
            if comes {
                worker.load += weight;
                worker.held += 1;
            } else {
                worker.load -= weight;
                worker.held -= 1;
            }
        }
        if let Some(slot) = answer.get_mut(at) {
            *slot = Some(to);
        }
    }
    if stuck { 0 } else { workers.iter().map(|worker| worker.coming.len()).sum() }
}

/// One without weight is work all the same.
fn weight(partition: &Partition) -> u128 {
    u128::from(partition.weight().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A fleet, who has what, who is to have what, and what is due to move.
    #[derive(Debug, Clone)]
    struct Case {
        workers: usize,
        partitions: Vec<Partition>,
        previous: Vec<Option<usize>>,
        goal: Vec<Option<usize>>,
        due: Vec<bool>,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let one = |workers: usize| {
            (
                proptest::option::weighted(0.9, 0..workers),
                proptest::option::weighted(0.95, 0..workers),
                0_u64..1000,
                0..10,
            )
        };
        (1_usize..6).prop_flat_map(move |workers| {
            proptest::collection::vec(one(workers), 0..40).prop_map(move |rows| Case {
                workers,
                partitions: (0..rows.len())
                    .map(|n| Partition::new(vec![format!("p-{n}")], rows[n].2).unwrap())
                    .collect(),
                previous: rows.iter().map(|row| row.0).collect(),
                goal: rows.iter().map(|row| row.1).collect(),
                due: rows.iter().map(|row| row.3 == 0).collect(),
            })
        })
    }

    impl Case {
        fn step(&self, previous: &[Option<usize>], moves: usize, held: usize) -> (Vec<Option<usize>>, usize) {
            let partitions: Vec<&Partition> = self.partitions.iter().collect();
            let mut answer = self.goal.clone();
            let capacities = vec![1; self.workers];
            let bounds = Bounds { moves: Some(moves), held };
            let left = put_off(bounds, &capacities, &partitions, previous, &self.due, &mut answer);
            (answer, left)
        }

        /// Moves from one owner to another that were not due.
        fn moved(&self, before: &[Option<usize>], after: &[Option<usize>]) -> usize {
            let rows = before.iter().zip(after).zip(&self.due);
            rows.filter(|((b, a), due)| b.is_some() && a.is_some() && a != b && !**due).count()
        }
    }

    proptest! {
        #[test]
        fn each_plan_moves_so_many_at_most_and_they_end_where_one_plan_would(case in cases(), most in 1_usize..6) {
            let all = case.moved(&case.previous, &case.goal);
            let (mut now, mut plans) = (case.previous.clone(), 0);
            loop {
                let (next, left) = case.step(&now, most, usize::MAX);
                plans += 1;
                prop_assert!(case.moved(&now, &next) <= most);
                for (at, slot) in next.iter().enumerate() {
                    // Nobody waits for the budget who has no owner, or who is due.
                    let waits = *slot != case.goal[at];
                    prop_assert!(!waits || (now[at] == *slot && slot.is_some() && !case.due[at]));
                }
                prop_assert_eq!(left, next.iter().zip(&case.goal).filter(|(a, b)| a != b).count());
                now = next;
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(now, case.goal);
            prop_assert_eq!(plans, all.div_ceil(most).max(1));
        }

        #[test]
        fn no_worker_gets_more_than_it_may_hold_on_the_way_and_the_plans_come_to_an_end(
            case in cases(), most in 1_usize..6, room in 0_usize..4,
        ) {
            let count = |answer: &[Option<usize>], worker| answer.iter().filter(|slot| **slot == Some(worker)).count();
            let (mut now, mut plans) = (case.previous.clone(), 0);
            loop {
                // As many as it has, or is given of what must go somewhere, it may hold.
                let (least, _) = case.step(&now, 0, usize::MAX);
                let held = (0..case.workers).map(|worker| count(&least, worker)).max().unwrap_or(0) + room;
                let (next, left) = case.step(&now, most, held);
                prop_assert!((0..case.workers).all(|worker| count(&next, worker) <= held));
                plans += 1;
                prop_assert!(plans <= case.goal.len() + 1);
                now = next;
                if left == 0 {
                    break;
                }
            }
        }
    }

    #[test]
    fn the_first_moves_go_to_whoever_has_least() {
        let case = Case {
            workers: 3,
            partitions: (0..6).map(|n| Partition::new(vec![format!("p-{n}")], 100).unwrap()).collect(),
            previous: [0, 0, 0, 0, 1, 1].map(Some).to_vec(),
            goal: [1, 1, 2, 2, 1, 1].map(Some).to_vec(),
            due: vec![false; 6],
        };
        let (next, left) = case.step(&case.previous, 2, usize::MAX);
        assert_eq!((next, left), ([0, 0, 2, 2, 1, 1].map(Some).to_vec(), 2));
    }
}
