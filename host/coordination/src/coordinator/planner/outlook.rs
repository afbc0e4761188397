//! What a leader would plan, for somebody who only wants to know: the same steps as for a plan, with nothing written.

use super::super::roster::Member;
use super::assignment::Published;
use super::budget::Bounds;
use super::openable::Openable;
use super::placement::{Open, Placement, Scope, Team};
use crate::record::{AssignmentRecord, FORMAT, HeartbeatRecord, Lifecycle, PlacementRecord};
use crate::strategy::Question;
use crate::{Now, Partition, Term, Version, WorkerId};
use std::collections::BTreeMap;

/// A fleet as its buckets show it, or as it might be.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// The workers that live.
    pub workers: BTreeMap<WorkerId, HeartbeatRecord>,
    /// Who has what.
    pub assignments: BTreeMap<WorkerId, Vec<Partition>>,
    /// What the operator wants.
    pub wants: PlacementRecord,
    /// The most partitions of one worker.
    pub max_partitions: Option<usize>,
    /// The most partitions that one plan takes from live workers.
    pub max_moves_per_plan: Option<usize>,
}

/// A plan that nobody has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Every worker's partitions, sorted by id; of those that get none, an empty list.
    pub target: BTreeMap<WorkerId, Vec<Partition>>,
    /// Partitions that change from one owner to another.
    pub moved: usize,
    /// Partitions that fit on no worker.
    pub unowned: usize,
    /// Moves that it leaves for later plans.
    pub left: usize,
}

impl Outlook {
    /// What a leader would ask the strategy if it spread the partitions anew; nothing where there is no worker to get any.
    #[must_use]
    pub fn question(&self) -> Option<Question> {
        let question = self.with_open(|open, _| open.question(Lifecycle::Rebalance));
        Some(question).filter(|question| !question.workers.is_empty())
    }

    /// The plan that follows from an answer to [`Outlook::question`], as [`Question::judge`] accepts it.
    #[must_use]
    pub fn draft(&self, answer: Vec<usize>) -> Draft {
        let bounds = Bounds { moves: self.max_moves_per_plan, held: self.max_partitions.unwrap_or(usize::MAX) };
        let Placement { target, moved, unowned, left } =
            self.with_open(|open, openable| open.place(bounds, answer, false, openable));
        Draft { target, moved, unowned, left }
    }

    fn with_open<T>(&self, look: impl FnOnce(Open, &Openable) -> T) -> T {
        let member =
            |(worker, beat): (&WorkerId, &HeartbeatRecord)| (worker.clone(), Member::heard(Now::default(), beat));
        let members: BTreeMap<WorkerId, Member> = self.workers.iter().map(member).collect();
        let current = self.assignments.iter().map(|(worker, list)| (worker.clone(), published(list))).collect();
        let mut partitions: Vec<Partition> = self.assignments.values().flatten().cloned().collect();
        partitions.sort();
        partitions.dedup_by(|a, b| a.id() == b.id());
        let team = Team::of(members.iter().collect(), None, Some(&self.wants), Scope::Everything);
        let openable = Openable::of(members.iter());
        let open = Open::new(&partitions, &team, &current, &self.wants.pins, &openable, Scope::Everything);
        look(open, &openable)
    }
}

fn published(list: &[Partition]) -> Published {
    let record = AssignmentRecord {
        v: FORMAT,
        term: Term(0),
        version: Version(0),
        lifecycle: Lifecycle::Rebalance,
        partitions: list.to_vec(),
        fresh: None,
        chunks: 0,
    };
    Published { record, revision: 0, chunks: Vec::new() }
}
