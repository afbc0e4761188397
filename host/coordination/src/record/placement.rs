//! What the operator wants of the placement, and what the leader has made of it.

use super::{FORMAT, Grouped};
use crate::{Term, Version, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the operator wants of the placement: key `placement` beside the plan. Operators change it, each change under the next number;
/// the leader obeys what it says, and writes its answer into it. Both by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// Format version.
    pub v: u32,
    /// Workers that are to have no partitions, whether they are there or not.
    #[serde(default)]
    pub drained: BTreeSet<WorkerId>,
    /// The worker with which a partition belongs, by the partition's id.
    #[serde(default)]
    pub pins: BTreeMap<String, WorkerId>,
    /// Number of the last change; grows by one with each. 0 = there was none.
    pub asked: u64,
    /// Number of the last change that asks to spread the partitions anew.
    #[serde(default)]
    pub rebalance: u64,
    /// Number of the last change that asks to list the partitions again.
    #[serde(default)]
    pub refresh: u64,
    /// What the leader has last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<PlacementAnswer>,
    /// Who made the last change, for people.
    #[serde(default)]
    pub by: String,
    /// When: RFC 3339, for people.
    #[serde(default)]
    pub at: String,
}

/// What a leader has done about changes of the [`PlacementRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementAnswer {
    /// Number of the last change that it has seen to, and with it all before.
    pub asked: u64,
    /// The leadership that answers.
    pub term: Term,
    /// The plan that is in force with it.
    pub version: Version,
    /// Partitions that changed owner since the first of these changes was seen.
    pub moved: usize,
    /// Moves that are left for later plans (`assignment.maxMovesPerPlan`).
    #[serde(default)]
    pub left: usize,
    /// Partitions that nobody owns.
    #[serde(default)]
    pub unowned: usize,
    /// Partitions that a drained worker keeps, because no other may have them.
    #[serde(default)]
    pub kept: usize,
    /// A strategy outside the core has not decided; it is asked again.
    #[serde(default)]
    pub undecided: bool,
    /// Why the partitions were not listed, if that was asked for and failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl PlacementRecord {
    /// Nothing was ever asked.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            v: FORMAT,
            drained: BTreeSet::new(),
            pins: BTreeMap::new(),
            asked: 0,
            rebalance: 0,
            refresh: 0,
            answer: None,
            by: String::new(),
            at: String::new(),
        }
    }

    /// Number of the last change that is answered; 0 = none.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.asked)
    }

    /// Whether a change waits for its answer.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.answered() < self.asked
    }

    /// Whether partitions are to be placed in the same way by both.
    #[must_use]
    pub fn places_like(&self, other: &Self) -> bool {
        (&self.drained, &self.pins) == (&other.drained, &other.pins)
    }
}

// It is beside a plan, which names the group.
impl Grouped for PlacementRecord {}
