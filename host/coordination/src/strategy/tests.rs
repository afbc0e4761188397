//! What every built-in strategy promises, with the peer's vectors and with inputs that nobody should send.

use super::*;
use crate::testing::Random;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

fn strategies() -> [(&'static str, Box<dyn Strategy>); 3] {
    [
        ("consistentHash", Box::new(ConsistentHash::default())),
        ("weightedConsistentHash", Box::new(WeightedConsistentHash::default())),
        ("roundRobin", Box::new(RoundRobin)),
    ]
}

fn worker(n: u32, capacity: u32) -> Candidate {
    Candidate { worker: WorkerId::new("worker", n), capacity, labels: BTreeMap::new() }
}

fn workers(n: u32) -> Vec<Candidate> {
    (0..n).map(|n| worker(n, 1)).collect()
}

fn weighing(weights: impl IntoIterator<Item = u64>) -> Vec<Partition> {
    let partition = |(n, weight)| Partition::new(vec![format!("p-{n}")], weight).unwrap();
    weights.into_iter().enumerate().map(partition).collect()
}

fn equal(n: usize) -> Vec<Partition> {
    weighing(std::iter::repeat_n(100, n))
}

/// 150 of 3,000 partitions weigh 10,000 to 50,000, the others 100.
fn heavy_tail(seed: u64) -> Vec<Partition> {
    let mut random = Random(seed);
    weighing((0..3000).map(|n| if n % 20 == 7 { 10_000 + random.below(40_001) } else { 100 }))
}

fn assign(
    strategy: &dyn Strategy,
    workers: &[Candidate],
    list: &[Partition],
    previous: &[Option<usize>],
) -> Vec<usize> {
    let refs: Vec<&Partition> = list.iter().collect();
    strategy.assign(Request { workers, partitions: &refs, previous })
}

fn anew(strategy: &dyn Strategy, workers: &[Candidate], list: &[Partition]) -> Vec<usize> {
    assign(strategy, workers, list, &vec![None; list.len()])
}

/// What these workers have of an answer.
fn kept(answer: &[usize], workers: usize) -> Vec<Option<usize>> {
    answer.iter().map(|worker| (*worker < workers).then_some(*worker)).collect()
}

fn counts(answer: &[usize], workers: usize) -> Vec<usize> {
    (0..workers).map(|worker| answer.iter().filter(|owner| **owner == worker).count()).collect()
}

fn same(before: &[usize], after: &[usize]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before == after).count()
}

/// The largest load over the mean, and the most that the targets allow.
fn balance(answer: &[usize], list: &[Partition], workers: usize) -> (f64, f64) {
    let mut loads = vec![0.0; workers];
    for (owner, partition) in answer.iter().zip(list) {
        loads[*owner] += partition.weight() as f64;
    }
    let mean = loads.iter().sum::<f64>() / workers as f64;
    let heaviest = list.iter().map(Partition::weight).max().unwrap() as f64;
    (loads.into_iter().fold(0.0, f64::max) / mean, f64::max(1.10, heaviest / mean))
}

#[test]
fn equal_weights_are_balanced_to_within_one_partition() {
    for (name, strategy) in strategies() {
        for (w, p) in [(3, 9), (7, 100), (30, 2400), (64, 5000), (100, 1500), (5, 3), (1, 10), (4, 0)] {
            let counts = counts(&anew(&*strategy, &workers(w), &equal(p)), w as usize);
            let (least, most) = (p / w as usize, p.div_ceil(w as usize));
            assert!(counts.iter().all(|count| (least..=most).contains(count)), "{name}, {w}, {p}: {counts:?}");
        }
    }
}

#[test]
fn a_worker_gets_its_capacitys_share_to_within_one_partition() {
    for (name, strategy) in strategies() {
        for capacities in [vec![2, 1, 1], vec![1, 1, 1000], vec![u32::MAX, 1], vec![3, 5, 7, 11]] {
            let fleet: Vec<_> = (0..).zip(&capacities).map(|(n, capacity)| worker(n, *capacity)).collect();
            let counts = counts(&anew(&*strategy, &fleet, &equal(400)), fleet.len());
            let total: f64 = capacities.iter().map(|own| f64::from(*own)).sum();
            for (count, own) in counts.iter().zip(&capacities) {
                let quota = 400.0 * f64::from(*own) / total;
                assert!((*count as f64 - quota).abs() <= 1.0, "{name}, {capacities:?}: {counts:?}");
            }
        }
    }
}

#[test]
fn round_robin_without_previous_owners_deals_in_turn() {
    assert_eq!(anew(&RoundRobin, &workers(3), &equal(9)), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_peers_vectors_for_joins_and_leaves_hold() {
    for (name, strategy) in strategies() {
        for (from, to, keeps) in [(2, 3, 60), (3, 4, 65)] {
            let list = equal(100);
            let before = anew(&*strategy, &workers(from), &list);
            let after = assign(&*strategy, &workers(to), &list, &kept(&before, from as usize));
            assert!(same(&before, &after) >= keeps, "{name} keeps {} at {from} to {to}", same(&before, &after));
        }
    }
}

#[test]
fn extremes_go_to_one_worker_each() {
    let list = weighing([5000, 4000, 3000, 2000].into_iter().chain(std::iter::repeat_n(100, 12)));
    let answer = anew(&WeightedConsistentHash::default(), &workers(4), &list);
    let mut holders = answer[..4].to_vec();
    holders.sort_unstable();
    assert_eq!(holders, [0, 1, 2, 3]);
}

#[test]
fn heavy_tails_stay_balanced_and_in_place_while_a_fleet_grows_and_shrinks() {
    for seed in 0..20 {
        let (strategy, list) = (WeightedConsistentHash::default(), heavy_tail(seed));
        let (mut from, mut before) = (100, anew(&strategy, &workers(100), &list));
        for to in [110, 100, 101] {
            let after = assign(&strategy, &workers(to as u32), &list, &kept(&before, to));
            let (ratio, most) = balance(&after, &list, to);
            assert!(ratio <= most + 1e-9, "seed {seed}, {from} to {to}: {ratio} against {most}");
            let moved = list.len() - same(&before, &after);
            assert!(moved <= list.len() / 10, "seed {seed}, {from} to {to}: {moved} moved");
            let stayed = |(old, new): &(&usize, &usize)| old != new && **old < to && **new < from;
            let between_stayers = before.iter().zip(&after).filter(stayed).count();
            assert!(between_stayers <= list.len() / 50, "seed {seed}, {from} to {to}: {between_stayers} moved");
            (from, before) = (to, after);
        }
    }
}

#[test]
fn a_joiner_gets_its_share_of_unequal_weights() {
    for (name, strategy) in strategies() {
        let list = weighing((0..1000).map(|n| 50 + n % 100));
        let before = anew(&*strategy, &workers(9), &list);
        let after = assign(&*strategy, &workers(10), &list, &kept(&before, 9));
        let joined = after.iter().zip(&list).filter(|(w, _)| **w == 9).map(|(_, p)| p.weight()).sum::<u64>() as f64;
        let share = list.iter().map(Partition::weight).sum::<u64>() as f64 / 10.0;
        assert!((0.9..1.1).contains(&(joined / share)), "{name}: {}", joined / share);
        let between_stayers = 1000 - after.iter().filter(|w| **w == 9).count() - same(&before, &after);
        assert!(between_stayers <= 20, "{name}: {between_stayers}");
    }
}

#[test]
fn one_partition_heavier_than_the_rest_leaves_the_rest_shared_out() {
    for strategy in [&ConsistentHash::default() as &dyn Strategy, &WeightedConsistentHash::default()] {
        let list = weighing(std::iter::once(1 << 63).chain(std::iter::repeat_n(1, 90)));
        let before = anew(strategy, &workers(3), &list);
        let after = assign(strategy, &workers(4), &list, &kept(&before, 3));
        for (answer, share) in [(&before, 45), (&after, 30)] {
            assert_eq!(answer.iter().filter(|owner| **owner == answer[0]).count(), 1, "it is alone");
            let most = counts(answer, 4).into_iter().max().unwrap();
            assert!(most <= share + 3, "{:?}", counts(answer, 4));
        }
        assert_eq!(before[0], after[0]);
    }
}

#[test]
fn an_overloaded_worker_is_relieved_beyond_the_budget_and_others_within_it() {
    // Ten workers of a hundred partitions each; those of the first have become heavier, and nobody has too little.
    let list = weighing((0..1000).map(|n| if n < 100 { 250 } else { 90 + n % 20 }));
    let before: Vec<usize> = (0..1000).map(|n| n / 100).collect();
    let relieved = |overload_threshold| {
        let strategy = WeightedConsistentHash { overload_threshold, ..WeightedConsistentHash::default() };
        let after = assign(&strategy, &workers(10), &list, &kept(&before, 10));
        (balance(&after, &list, 10).0, 1000 - same(&before, &after))
    };
    let (ratio, moved) = relieved(1.3);
    assert!(ratio <= 1.31 && moved > 20, "{ratio}, {moved} moved");
    let (ratio, moved) = relieved(3.0);
    assert!(ratio > 1.31 && moved <= 20, "{ratio}, {moved} moved");
}

#[test]
fn a_joiner_gets_work_however_far_others_may_be_loaded() {
    let mut random = Random(5);
    let list = weighing((0..2000).map(|_| 50 + random.below(100)));
    let total: u64 = list.iter().map(Partition::weight).sum();
    for bound in [1.0, 1.3, 2.0, 10.0] {
        let strategies: [(&str, Box<dyn Strategy>); 2] = [
            ("consistentHash", Box::new(ConsistentHash { load_bound: bound, ..ConsistentHash::default() })),
            (
                "weightedConsistentHash",
                Box::new(WeightedConsistentHash { overload_threshold: bound, ..WeightedConsistentHash::default() }),
            ),
        ];
        for (name, strategy) in strategies {
            let before = anew(&*strategy, &workers(10), &list);
            let after = assign(&*strategy, &workers(11), &list, &kept(&before, 11));
            let joiners: u64 =
                after.iter().zip(&list).filter(|(owner, _)| **owner == 10).map(|(_, p)| p.weight()).sum();
            assert!(joiners as f64 >= 0.4 * total as f64 / 11.0, "{name}, {bound}: {joiners} of {total}");
        }
    }
}

#[test]
fn many_joiners_move_no_more_between_workers_that_stay() {
    for seed in 0..20 {
        let (strategy, list) = (WeightedConsistentHash::default(), heavy_tail(seed));
        let before = anew(&strategy, &workers(40), &list);
        let after = assign(&strategy, &workers(60), &list, &kept(&before, 60));
        let between = before.iter().zip(&after).filter(|(old, new)| old != new && **new < 40).count();
        assert!(between <= list.len() / 50, "seed {seed}: {between} moved");
    }
}

#[test]
fn a_partition_of_weight_0_counts_as_the_default_weight() {
    let list = weighing([0; 40].into_iter().chain([100; 40]));
    let heavy = WeightedConsistentHash { default_weight: 1000, ..WeightedConsistentHash::default() };
    let zeros = |strategy: &WeightedConsistentHash| {
        let answer = anew(strategy, &workers(4), &list);
        (counts(&answer[..40], 4), counts(&answer, 4))
    };
    let (zeros_each, _) = zeros(&heavy);
    assert!(zeros_each.iter().all(|count| (9..=11).contains(count)), "{zeros_each:?}");
    let (_, all_each) = zeros(&WeightedConsistentHash::default());
    assert_eq!(all_each, [20; 4]);
}

#[test]
fn a_hash_seed_spreads_differently() {
    let spread = |seed| anew(&ConsistentHash { hash_seed: seed, ..Default::default() }, &workers(10), &equal(1000));
    assert!(same(&spread(0), &spread(1)) < 200);
}

#[test]
fn more_virtual_nodes_keep_more_partitions_at_home() {
    // Two leaders that know of no previous owners, one of a fleet of 20 and one of 21.
    let agree = |virtual_nodes| {
        let strategy = ConsistentHash { virtual_nodes, ..ConsistentHash::default() };
        same(&anew(&strategy, &workers(20), &equal(2000)), &anew(&strategy, &workers(21), &equal(2000)))
    };
    assert!(agree(150) > agree(1) + 200, "{} {}", agree(150), agree(1));
}

#[test]
fn the_load_bound_holds_when_weights_change_and_a_wider_one_moves_less() {
    let before = weighing((0..1000).map(|n| 50 + n % 100));
    let after = weighing((0..1000).map(|n| 50 + (n * 7) % 130));
    let moved = |load_bound| {
        let strategy = ConsistentHash { load_bound, ..ConsistentHash::default() };
        let first = anew(&strategy, &workers(20), &before);
        let second = assign(&strategy, &workers(20), &after, &kept(&first, 20));
        let (ratio, _) = balance(&second, &after, 20);
        assert!(ratio <= load_bound, "{ratio} within {load_bound}");
        1000 - same(&first, &second)
    };
    assert!(moved(1.02) > moved(1.3), "{} {}", moved(1.02), moved(1.3));
}

#[test]
fn what_nobody_should_send_is_answered_all_the_same() {
    let deep: Vec<String> = (0..64).map(|n| format!("é{n}")).collect();
    let odd = vec![Partition::new(deep, 1).unwrap(), Partition::new(vec!["分割 %.*".into()], 0).unwrap()];
    let twins = [equal(3), equal(3)].concat();
    let lists = [Vec::new(), equal(1), odd, twins, weighing([u64::MAX, 1, 0, 1 << 63, u64::MAX]), weighing([0; 5])];
    for (name, strategy) in strategies() {
        for list in &lists {
            assert_eq!(anew(&*strategy, &[], list).len(), list.len(), "{name} without workers");
            for n in [1, 2, 50] {
                let answer = anew(&*strategy, &workers(n), list);
                assert_eq!(answer.len(), list.len(), "{name}");
                assert!(answer.iter().all(|owner| *owner < n as usize), "{name}");
            }
        }
        // Previous owners that do not exist, and fewer of them than partitions.
        assert!(assign(&*strategy, &workers(2), &equal(4), &[Some(7), Some(1)]).iter().all(|owner| *owner < 2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_weights_join_only_to_joiners_and_leave_only_from_leavers(n in 1_u32..12, k in 1_u32..4, p in 0_usize..300) {
        for (name, strategy) in strategies() {
            let (list, many) = (equal(p), (n + k) as usize);
            let before = anew(&*strategy, &workers(n), &list);
            let again = assign(&*strategy, &workers(n), &list, &kept(&before, many));
            prop_assert_eq!(&again, &before, "{}: nothing changed, nothing moves", name);

            let joined = assign(&*strategy, &workers(n + k), &list, &kept(&before, many));
            prop_assert!(before.iter().zip(&joined).all(|(old, new)| old == new || *new >= n as usize), "{}", name);
            // No more than the joiners' quota moves.
            prop_assert!(p - same(&before, &joined) <= k as usize * p.div_ceil(many), "{}", name);

            let left = assign(&*strategy, &workers(n), &list, &kept(&joined, n as usize));
            prop_assert!(joined.iter().zip(&left).all(|(old, new)| old == new || *old >= n as usize), "{}", name);
            let (least, most) = (p / n as usize, p.div_ceil(n as usize));
            prop_assert!(counts(&left, n as usize).iter().all(|count| (least..=most).contains(count)), "{}", name);
        }
    }

    #[test]
    fn the_answer_does_not_depend_on_the_order_of_the_question(
        seed in any::<u64>(), weights in vec(0_u64..1000, 1..80), n in 1_u32..8, owned in any::<bool>(),
    ) {
        for (name, strategy) in strategies() {
            let mut random = Random(seed);
            let fleet: Vec<_> = (0..n).map(|n| worker(n, 1 + random.below(3) as u32)).collect();
            let list = weighing(weights.iter().copied());
            let owner = |random: &mut Random| (owned && random.chance(70)).then(|| random.below(u64::from(n)) as usize);
            let previous: Vec<_> = list.iter().map(|_| owner(&mut random)).collect();
            let straight = assign(&*strategy, &fleet, &list, &previous);
            prop_assert_eq!(straight.len(), list.len());

            let mut order: Vec<usize> = (0..list.len()).collect();
            order.sort_by_cached_key(|_| random.below(u64::MAX));
            let mut seats: Vec<usize> = (0..n as usize).collect();
            seats.sort_by_cached_key(|_| random.below(u64::MAX));
            let shuffled: Vec<_> = order.iter().map(|at| list[*at].clone()).collect();
            let seated: Vec<_> = seats.iter().map(|at| fleet[*at].clone()).collect();
            let seat = |worker: usize| seats.iter().position(|at| *at == worker).unwrap();
            let before: Vec<_> = order.iter().map(|at| previous[*at].map(seat)).collect();
            let answer = assign(&*strategy, &seated, &shuffled, &before);
            for (place, at) in order.iter().enumerate() {
                prop_assert_eq!(answer[place], seat(straight[*at]), "{}", name);
            }
        }
    }

    #[test]
    fn any_weights_come_to_rest(weights in vec(0_u64..5000, 1..200), n in 1_u32..10, joins in 0_u32..3) {
        for (name, strategy) in strategies() {
            let list = weighing(weights.iter().copied());
            let many = (n + joins) as usize;
            let mut before = anew(&*strategy, &workers(n), &list);
            let came_to_rest = (0..20).any(|_| {
                let after = assign(&*strategy, &workers(n + joins), &list, &kept(&before, many));
                let rests = after == before;
                before = after;
                rests
            });
            prop_assert!(came_to_rest, "{}", name);
        }
    }

    #[test]
    fn an_answer_counts_if_it_gives_every_partition_to_a_worker_that_exists(
        n in 1_u32..5, partitions in 1_usize..6, answer in vec(0_usize..6, 0..7),
    ) {
        let question = Question {
            lifecycle: Lifecycle::Rebalance,
            orphans_only: false,
            workers: workers(n),
            partitions: equal(partitions),
            previous: vec![None; partitions],
        };
        let is_right = answer.len() == partitions && answer.iter().all(|index| *index < n as usize);
        let wrong = question.judge(&answer);
        prop_assert_eq!(wrong.is_none(), is_right);
        // What is wrong is told with the place where it is.
        if let Some(StrategyFailure::Range { partition, index, .. }) = wrong {
            let at = answer.iter().position(|given| *given == index).unwrap();
            prop_assert!(answer[..at].iter().all(|given| *given < n as usize));
            prop_assert_eq!(partition, format!("p-{at}"));
        }
    }
}
