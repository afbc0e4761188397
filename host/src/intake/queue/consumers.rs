//! What the consumers of a stream are to this group: whose they are, which are in the way, which have had their day.
//!
//! Consumers carry labels (consumer metadata) that say who made them. Decisions are pure functions of a listing and the plan.
//!
//! On an Interest stream a subject must never be without a consumer. The *current* consumer of a live worker is the youngest
//! of its lane; every other one is *retired*: nobody reads it, and it only keeps messages. A retired consumer may go when
//! current ones deliver everything that it keeps. A worker that drops a subject first makes the younger consumer without it
//! and then lists: of two workers that drop a subject at the same time, whoever lists last sees that the other one's current
//! consumer does not deliver it either.

use crate::nats::{QueueConsumer, subject_matches};
use parti_coordination::record::Owner;
use parti_coordination::{Fleet, Incarnation, Version, WorkerId};
use std::collections::{HashMap, HashSet};

const GROUP: &str = "parti.group";
const WORKER: &str = "parti.worker";
const CLAIM: &str = "parti.claim";
const UUID: &str = "parti.uuid";
const LANE: &str = "parti.lane";
const NUMBER: &str = "parti.number";
const PLAN: &str = "parti.plan";

/// Who made a consumer, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maker {
    /// The worker.
    pub(super) owner: Owner,
    /// For which of its lanes.
    pub(super) lane: u64,
    /// Grows with every consumer that this run of the worker makes.
    pub(super) number: u64,
    /// The plan that it knew.
    pub(super) plan: Version,
}

/// A consumer of this group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) subjects: Vec<String>,
    /// Nobody if it is a keeper, made for partitions that have no owner.
    pub(super) maker: Option<Maker>,
}

/// The labels of a consumer that this group makes.
pub(super) fn labels(group: &str, maker: Option<&Maker>) -> HashMap<String, String> {
    let mut labels = HashMap::from([(GROUP.to_owned(), group.to_owned())]);
    if let Some(Maker { owner, lane, number, plan }) = maker {
        let Incarnation { claim, uuid } = owner.incarnation;
        labels.extend([
            (WORKER.to_owned(), owner.worker.to_string()),
            (CLAIM.to_owned(), claim.to_string()),
            (UUID.to_owned(), uuid.to_string()),
            (LANE.to_owned(), lane.to_string()),
            (NUMBER.to_owned(), number.to_string()),
            (PLAN.to_owned(), plan.to_string()),
        ]);
    }
    labels
}

fn maker(labels: &HashMap<String, String>) -> Option<Maker> {
    let number = |key: &str| labels.get(key)?.parse::<u64>().ok();
    Some(Maker {
        owner: Owner {
            worker: WorkerId::parse(labels.get(WORKER)?),
            incarnation: Incarnation { claim: number(CLAIM)?, uuid: labels.get(UUID)?.parse().ok()? },
        },
        lane: number(LANE)?,
        number: number(NUMBER)?,
        plan: Version(number(PLAN)?),
    })
}

/// Those of this group among the consumers of a stream, and the others.
pub(super) fn of_group(group: &str, listed: Vec<QueueConsumer>) -> (Vec<Known>, Vec<QueueConsumer>) {
    let is_ours = |consumer: &QueueConsumer| consumer.labels.get(GROUP).is_some_and(|label| label == group);
    let (ours, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_ours);
    let known = |QueueConsumer { name, subjects, labels }| Known { name, subjects, maker: maker(&labels) };
    (ours.into_iter().map(known).collect(), others)
}

/// Whether a consumer, of anybody, delivers one of these subjects.
pub(super) fn delivers_any(consumer: &QueueConsumer, subjects: &[String]) -> bool {
    let filters = &consumer.subjects;
    filters.is_empty() || filters.iter().any(|filter| subjects.iter().any(|subject| subject_matches(filter, subject)))
}

impl Known {
    /// Whether this run of this worker made it.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.maker.as_ref().is_some_and(|maker| maker.owner == *owner)
    }

    /// Whether the plan says that its maker is dead.
    pub(super) fn is_dead(&self, fleet: &Fleet) -> bool {
        self.maker.as_ref().is_some_and(|maker| fleet.is_dead(&maker.owner.worker, &maker.owner.incarnation))
    }

    fn is_live(&self, fleet: &Fleet) -> bool {
        let live = |maker: &Maker| fleet.live.get(&maker.owner.worker) == Some(&maker.owner.incarnation);
        self.maker.as_ref().is_some_and(live)
    }

    /// Nobody reads it any more. A maker that this plan does not know may be of a later one.
    fn is_retired(&self, all: &[Known], fleet: &Fleet) -> bool {
        let Some(maker) = &self.maker else { return true };
        if !self.is_live(fleet) {
            return maker.plan <= fleet.version;
        }
        all.iter()
            .filter_map(|other| other.maker.as_ref())
            .any(|other| (&other.owner, other.lane) == (&maker.owner, maker.lane) && other.number > maker.number)
    }
}

/// What is to be done about the retired consumers of an Interest stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// Current consumers deliver everything that these keep.
    pub(super) superfluous: Vec<String>,
    /// Current consumers deliver a part of what these keep.
    pub(super) partly: Vec<String>,
    /// What of `partly` nobody else delivers.
    pub(super) uncovered: Vec<String>,
    /// Some retired consumers keep what no current one delivers.
    pub(super) remain: bool,
}

pub(super) fn leftovers(all: &[Known], fleet: &Fleet) -> Leftovers {
    let (retired, others): (Vec<&Known>, Vec<&Known>) = all.iter().partition(|known| known.is_retired(all, fleet));
    let current = others.into_iter().filter(|known| known.is_live(fleet));
    let covered: HashSet<&str> = current.flat_map(|known| &known.subjects).map(String::as_str).collect();
    let mut found = Leftovers::default();
    let mut uncovered: HashSet<&String> = HashSet::new();
    for known in retired {
        let missing: Vec<&String> =
            known.subjects.iter().filter(|subject| !covered.contains(subject.as_str())).collect();
        if missing.is_empty() {
            found.superfluous.push(known.name.clone());
            continue;
        }
        found.remain = true;
        if missing.len() < known.subjects.len() {
            found.partly.push(known.name.clone());
            uncovered.extend(missing);
        }
    }
    found.uncovered = uncovered.into_iter().cloned().collect();
    found.uncovered.sort_unstable();
    found
}

/// Which of these subjects no consumer of the group keeps.
pub(super) fn unkept(all: &[Known], subjects: Vec<String>) -> Vec<String> {
    let kept: HashSet<&String> = all.iter().flat_map(|known| &known.subjects).collect();
    subjects.into_iter().filter(|subject| !kept.contains(subject)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn owner(number: u32, claim: u64) -> Owner {
        let uuid = Uuid::from_u64_pair(u64::from(number), claim);
        Owner { worker: WorkerId::new("worker", number), incarnation: Incarnation { claim, uuid } }
    }

    fn known(name: &str, maker: Option<(Owner, u64, u64)>, subjects: &[&str]) -> Known {
        let maker = maker.map(|(owner, number, plan)| Maker { owner, lane: 0, number, plan: Version(plan) });
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        Known { name: name.to_owned(), subjects, maker }
    }

    fn fleet(version: u64, live: &[Owner]) -> Fleet {
        let live = live.iter().map(|owner| (owner.worker.clone(), owner.incarnation)).collect();
        Fleet { version: Version(version), live, ..Fleet::default() }
    }

    #[test]
    fn labels_tell_who_made_a_consumer_and_those_of_other_groups_are_not_ours() {
        let maker = Maker { owner: owner(3, 12), lane: 2, number: 9, plan: Version(4) };
        let listed = |name: &str, labels| QueueConsumer { name: name.to_owned(), subjects: Vec::new(), labels };
        let (found, others) = of_group(
            "a",
            vec![
                listed("ours", labels("a", Some(&maker))),
                listed("keeper", labels("a", None)),
                listed("other", labels("b", Some(&maker))),
                listed("foreign", HashMap::new()),
            ],
        );
        let names: Vec<_> = found.iter().map(|known| (known.name.as_str(), known.maker.clone())).collect();
        assert_eq!(names, [("ours", Some(maker)), ("keeper", None)]);
        assert_eq!(others.len(), 2);
    }

    #[test]
    fn a_foreign_consumer_is_in_the_way_if_it_delivers_one_of_our_subjects() {
        let ours = ["work.a.b".to_owned(), "work.c".to_owned()];
        let delivers = |filters: &[&str]| {
            let subjects = filters.iter().map(|filter| (*filter).to_owned()).collect();
            delivers_any(&QueueConsumer { name: "x".into(), subjects, labels: HashMap::new() }, &ours)
        };
        for filters in [&[][..], &["work.c"], &["work.>"], &["work.*.b"], &["other", "*.c"], &[">"]] {
            assert!(delivers(filters), "{filters:?}");
        }
        for filters in [&["work"][..], &["work.a"], &["work.*.c"], &["work.c.>"], &["other.>"]] {
            assert!(!delivers(filters), "{filters:?}");
        }
    }

    #[test]
    fn what_a_retired_consumer_keeps_must_be_delivered_by_current_ones_before_it_goes() {
        let (one, two, gone) = (owner(1, 1), owner(2, 1), owner(3, 1));
        let fleet = fleet(5, &[one.clone(), two.clone()]);
        let all = [
            known("one-old", Some((one.clone(), 1, 5)), &["a", "b"]),
            known("one", Some((one, 2, 5)), &["a"]),
            known("two", Some((two, 1, 5)), &["c"]),
            known("gone", Some((gone, 7, 3)), &["a", "c"]),
            known("keeper", None, &["d"]),
        ];
        let found = leftovers(&all, &fleet);
        assert_eq!((found.superfluous, found.remain), (vec!["gone".to_owned()], true));
        assert_eq!((found.partly, found.uncovered), (vec!["one-old".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn of_two_that_drop_a_subject_at_once_nobody_counts_on_the_other() {
        let (one, two) = (owner(1, 1), owner(2, 1));
        let fleet = fleet(5, &[one.clone(), two.clone()]);
        // Both have made the younger consumer before they list.
        let all = [
            known("one-old", Some((one.clone(), 1, 5)), &["a", "p"]),
            known("one", Some((one, 2, 5)), &["a"]),
            known("two-old", Some((two.clone(), 1, 5)), &["b", "p"]),
            known("two", Some((two, 2, 5)), &["b"]),
        ];
        assert_eq!(leftovers(&all, &fleet).superfluous, Vec::<String>::new());
    }

    #[test]
    fn a_worker_of_a_later_plan_keeps_its_consumer() {
        let (one, joined) = (owner(1, 1), owner(2, 1));
        let all = [known("one", Some((one.clone(), 1, 5)), &["a"]), known("joined", Some((joined, 1, 6)), &["a"])];
        assert_eq!(leftovers(&all, &fleet(5, std::slice::from_ref(&one))), Leftovers::default());
        assert_eq!(leftovers(&all, &fleet(6, &[one])).superfluous, ["joined"]);
    }
}
