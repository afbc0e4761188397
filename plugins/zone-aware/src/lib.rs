//! Keeps partitions in their zone: those whose first key is `zone-a` go to workers labelled `zone=a`, as far as their share allows.
//!
//! Every worker takes its share of the whole load, by weight and capacity. A zone with more work than its workers' shares gives the
//! rest to others, and so does a zone without workers; partitions without a zone go anywhere. What is where it belongs stays there:
//! a worker that joins takes what is above the others' shares, and nothing else moves.
//!
//! Configuration: `label` (`zone`), the label of workers that names their zone, and `prefix` (`zone-`), what comes before a zone in
//! the first key of a partition.

use parti_guest::{Error, Request, Strategy, config};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

struct ZoneAware;

impl Strategy for ZoneAware {
    fn assign(request: &Request) -> Result<Vec<u32>, Error> {
        let label = config::get("label").unwrap_or_else(|| "zone".into());
        let prefix = config::get("prefix").unwrap_or_else(|| "zone-".into());
        let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (worker, zone) in request.workers.iter().enumerate().filter_map(|(at, w)| Some((at, w.label(&label)?))) {
            zones.entry(zone).or_default().push(worker);
        }
        // Heavy ones first: they fit worst later.
        let mut order: Vec<usize> = (0..request.partitions.len()).collect();
        order.sort_by_key(|at| Reverse(request.partitions.get(*at).map(|partition| partition.weight)));

        let mut shares = Shares::new(request);
        let mut local: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut rest = Vec::new();
        for at in order {
            let first = request.partitions.get(at).and_then(|partition| partition.keys.first());
            match first.and_then(|key| key.strip_prefix(&prefix)).filter(|zone| zones.contains_key(zone)) {
                Some(zone) => local.entry(zone).or_default().push(at),
                None => rest.push(at),
            }
        }
        for (zone, workers) in &zones {
            rest.extend(shares.place(local.remove(zone).unwrap_or_default(), workers));
        }
        let everybody: Vec<usize> = (0..request.workers.len()).collect();
        let left = shares.place(rest, &everybody);
        if left.is_empty() { shares.answer() } else { Err("there is nobody to give a partition to".into()) }
    }
}

/// Who has been given what so far.
struct Shares<'a> {
    request: &'a Request,
    /// Weight and capacity of the whole fleet.
    load: u128,
    capacity: u128,
    /// Weight that each worker carries.
    carried: Vec<u128>,
    /// How many partitions each worker has now. Of two that lack as much, who has none gets more, so that less moves between others.
    held: Vec<usize>,
    owners: Vec<Option<usize>>,
}

impl<'a> Shares<'a> {
    fn new(request: &'a Request) -> Self {
        Self {
            request,
            load: request.partitions.iter().map(|partition| weight(partition.weight)).sum(),
            capacity: request.workers.iter().map(|worker| u128::from(worker.capacity.max(1))).sum(),
            carried: vec![0; request.workers.len()],
            held: request.held(),
            owners: vec![None; request.partitions.len()],
        }
    }

    /// Places these partitions on these workers up to their shares, and returns those that do not fit.
    fn place(&mut self, partitions: Vec<usize>, workers: &[usize]) -> Vec<usize> {
        let (mut above, mut open) = (Vec::new(), Vec::new());
        for at in partitions {
            match self.previous(at).filter(|owner| workers.binary_search(owner).is_ok()) {
                Some(owner) if self.is_within_share(owner, self.weight(at)) => self.give(at, owner),
                Some(owner) => above.push((at, owner)),
                None => open.push(at),
            }
        }
        // The last partition of a worker may exceed its share, or nobody would have room for it. It stays if nobody else has.
        let mut exceeding = Vec::new();
        for (at, owner) in above {
            if self.has_room(owner) {
                self.give(at, owner);
                exceeding.push((at, owner));
            } else {
                open.push(at);
            }
        }
        let mut by_lack: BTreeSet<_> = workers.iter().map(|worker| self.rank(*worker)).collect();
        let emptiest = |by_lack: &BTreeSet<(u128, usize, usize)>| by_lack.first().map(|(.., worker)| *worker);
        let mut left = Vec::new();
        for at in open {
            match emptiest(&by_lack).filter(|worker| self.has_room(*worker)) {
                Some(worker) => {
                    by_lack.remove(&self.rank(worker));
                    self.give(at, worker);
                    by_lack.insert(self.rank(worker));
                }
                None => left.push(at),
            }
        }
        for (at, owner) in exceeding {
            let other =
                emptiest(&by_lack).filter(|worker| *worker != owner && self.is_within_share(*worker, self.weight(at)));
            let Some(worker) = other else { continue };
            by_lack.remove(&self.rank(owner));
            by_lack.remove(&self.rank(worker));
            self.take(at, owner);
            self.give(at, worker);
            by_lack.insert(self.rank(owner));
            by_lack.insert(self.rank(worker));
        }
        left
    }

    fn previous(&self, at: usize) -> Option<usize> {
        self.request.previous.get(at).copied().flatten().and_then(|owner| usize::try_from(owner).ok())
    }

    fn weight(&self, at: usize) -> u128 {
        self.request.partitions.get(at).map_or(0, |partition| weight(partition.weight))
    }

    fn capacity(&self, worker: usize) -> u128 {
        self.request.workers.get(worker).map_or(1, |worker| u128::from(worker.capacity.max(1)))
    }

    /// Whether a worker with so much more would still be within its share.
    fn is_within_share(&self, worker: usize, more: u128) -> bool {
        let carried = self.carried.get(worker).copied().unwrap_or(u128::MAX / 2);
        (carried + more).saturating_mul(self.capacity) <= self.load.saturating_mul(self.capacity(worker))
    }

    /// Whether a worker is below its share.
    fn has_room(&self, worker: usize) -> bool {
        self.is_within_share(worker, 1)
    }

    /// How full a worker is, in millionths of its capacity, and what decides between equals.
    fn rank(&self, worker: usize) -> (u128, usize, usize) {
        let fill = self.carried.get(worker).map_or(u128::MAX, |carried| carried * 1_000_000 / self.capacity(worker));
        (fill, self.held.get(worker).copied().unwrap_or_default(), worker)
    }

    fn give(&mut self, at: usize, worker: usize) {
        let more = self.weight(at);
        if let (Some(owner), Some(carried)) = (self.owners.get_mut(at), self.carried.get_mut(worker)) {
            *owner = Some(worker);
            *carried += more;
        }
    }

    fn take(&mut self, at: usize, worker: usize) {
        let less = self.weight(at);
        if let Some(carried) = self.carried.get_mut(worker) {
            *carried -= less;
        }
    }

    fn answer(self) -> Result<Vec<u32>, Error> {
        let index = |owner: Option<usize>| Ok(u32::try_from(owner.ok_or("a partition was not placed")?)?);
        self.owners.into_iter().map(index).collect()
    }
}

/// What a partition counts: one of weight 0 takes a place too.
fn weight(weight: u64) -> u128 {
    u128::from(weight.max(1))
}

parti_guest::export!(ZoneAware as strategy);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::testing::{self, StrategySetup};
    use parti_guest::{Partition, serde_json::json};

    fn ids(zone: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{zone}.{n:03}")).collect()
    }

    /// Workers of two zones, `a-0`, `b-0`, `a-1`, …, and as many partitions of each.
    fn two_zones(workers: usize, partitions: usize) -> StrategySetup {
        let fleet = (0..workers).fold(testing::strategy(), |fleet, n| {
            fleet.worker(&format!("a-{n}"), [("zone", "a")]).worker(&format!("b-{n}"), [("zone", "b")])
        });
        fleet.partitions(ids("zone-a", partitions)).partitions(ids("zone-b", partitions))
    }

    fn count(owners: &[String], worker: &str) -> usize {
        owners.iter().filter(|owner| owner.starts_with(worker)).count()
    }

    #[test]
    fn partitions_go_to_workers_of_their_zone_in_equal_shares() {
        let owners = two_zones(3, 30).assign::<ZoneAware>().unwrap();
        assert!(owners[..30].iter().all(|owner| owner.starts_with("a-")), "{owners:?}");
        assert!(owners[30..].iter().all(|owner| owner.starts_with("b-")), "{owners:?}");
        assert!((0..3).all(|n| count(&owners, &format!("a-{n}")) == 10));
    }

    #[test]
    fn what_a_zone_cannot_carry_goes_elsewhere_and_stays_there() {
        let fleet = testing::strategy().worker("a", [("zone", "a")]).worker("b", [("zone", "b")]);
        let fleet = fleet.partitions(ids("zone-a", 9)).partitions(ids("zone-b", 1));
        let owners = fleet.clone().assign::<ZoneAware>().unwrap();
        assert_eq!((count(&owners, "a"), count(&owners, "b")), (5, 5));
        assert_eq!(owners[9], "b");
        assert_eq!(fleet.owners(&owners).assign::<ZoneAware>().unwrap(), owners, "nothing changed, nothing moves");
    }

    #[test]
    fn a_zone_without_workers_and_partitions_without_a_zone_are_shared_by_all() {
        let fleet = testing::strategy().worker("a", [("zone", "a")]).worker("b", []).worker("c", []);
        let owners = fleet.partitions(ids("zone-x", 3)).partitions(ids("other", 3)).assign::<ZoneAware>().unwrap();
        assert!(["a", "b", "c"].iter().all(|worker| count(&owners, worker) == 2), "{owners:?}");
    }

    #[test]
    fn a_joiner_takes_its_share_and_nothing_else_moves() {
        for partitions in [5, 30, 100] {
            let before = two_zones(3, partitions).assign::<ZoneAware>().unwrap();
            let fleet = two_zones(3, partitions).worker("a-9", [("zone", "a")]).owners(&before);
            let after = fleet.assign::<ZoneAware>().unwrap();
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
            assert!(moved.clone().all(|(_, after)| after == "a-9"), "{before:?} {after:?}");
            let share = 2 * partitions / 7;
            assert!((share..=share + 1).contains(&moved.count()), "{after:?}");
        }
    }

    #[test]
    fn a_dead_workers_partitions_go_to_its_zone_as_far_as_there_is_room() {
        let before = two_zones(3, 30).assign::<ZoneAware>().unwrap();
        let mut fleet = two_zones(3, 30);
        fleet.request.workers.retain(|worker| worker.id != "a-1");
        let after = fleet.owners(&before).assign::<ZoneAware>().unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before == "a-1");
        }
        assert_eq!((count(&after, "a-"), count(&after, "b-")), (24, 36));
    }

    #[test]
    fn capacity_and_weight_decide_the_shares() {
        let mut fleet = testing::strategy().worker("big", []).worker("small", []).partitions(ids("p", 30));
        fleet.request.workers[0].capacity = 2;
        fleet.request.partitions.push(Partition { weight: 1_500, ..fleet.request.partitions[0].clone() });
        fleet.request.previous.push(None);
        let owners = fleet.assign::<ZoneAware>().unwrap();
        let big: u64 = if owners[30] == "big" { 1_500 } else { 0 } + 100 * count(&owners[..30], "big") as u64;
        assert_eq!(big, 3_000, "{owners:?}");
    }

    #[test]
    fn uneven_weights_and_capacities_move_nothing_where_nothing_has_changed() {
        for (workers, partitions) in [(1, 20), (2, 50), (5, 500)] {
            let uneven = || {
                let mut fleet = two_zones(workers, partitions).partitions(ids("other", partitions / 3));
                for (n, partition) in (0..).zip(&mut fleet.request.partitions) {
                    partition.weight = [100, 50, 100, 400, 150][n % 5];
                }
                for (n, worker) in (0..).zip(&mut fleet.request.workers) {
                    worker.capacity = [1, 1, 2, 1][n % 4];
                }
                fleet
            };
            let before = uneven().assign::<ZoneAware>().unwrap();
            assert_eq!(uneven().owners(&before).assign::<ZoneAware>().unwrap(), before);
        }
    }

    #[test]
    fn label_and_prefix_are_the_operators_to_choose() {
        let fleet = testing::strategy().worker("w-0", [("rack", "7")]).worker("w-1", [("rack", "8")]);
        let fleet = fleet.partitions(["r8.a", "r7.a"]).config(json!({"label": "rack", "prefix": "r"}));
        assert_eq!(fleet.assign::<ZoneAware>().unwrap(), ["w-1", "w-0"]);
    }

    #[test]
    fn a_question_without_workers_is_refused() {
        assert!(testing::strategy().partitions(["a"]).assign::<ZoneAware>().is_err());
    }
}
