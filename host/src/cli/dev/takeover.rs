//! Watches the partitions of a killed worker until each has another owner.

use super::broker::Records;
use parti_coordination::WorkerId;
use parti_coordination::record::{OwnershipRecord, Phase};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The partitions that a killed worker left behind.
#[derive(Debug)]
pub(super) struct Takeover {
    victim: WorkerId,
    killed: Instant,
    /// Record keys of those that nobody else has taken yet.
    waiting: BTreeSet<String>,
    taken: BTreeMap<WorkerId, usize>,
    finished: Option<Instant>,
}

impl Takeover {
    /// The partitions that `victim` owns by these records.
    pub(super) fn of(victim: &str, records: &Records, killed: Instant) -> Self {
        let victim = WorkerId::parse(victim);
        let waiting =
            owned(records).filter(|(_, record)| record.owner.worker == victim).map(|(key, _)| key.clone()).collect();
        Self { victim, killed, waiting, taken: BTreeMap::new(), finished: None }
    }

    /// Takes in how things stand. True at the moment at which the last partition has an owner again.
    pub(super) fn observe(&mut self, records: &Records, now: Instant) -> bool {
        if self.finished.is_some() {
            return false;
        }
        for (key, record) in owned(records).filter(|(_, record)| record.owner.worker != self.victim) {
            if self.waiting.remove(key) {
                *self.taken.entry(record.owner.worker.clone()).or_default() += 1;
            }
        }
        if self.waiting.is_empty() {
            self.finished = Some(now);
        }
        self.waiting.is_empty()
    }

    /// When the last partition had an owner again.
    pub(super) fn finished(&self) -> Option<Instant> {
        self.finished
    }

    /// Partitions that still have no owner.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The worker that was killed.
    pub(super) fn victim(&self) -> &WorkerId {
        &self.victim
    }

    /// Partitions that were left behind.
    pub(super) fn partitions(&self) -> usize {
        self.waiting.len() + self.taken.values().sum::<usize>()
    }

    /// How long it took until each partition had an owner again.
    pub(super) fn duration(&self) -> Option<Duration> {
        Some(self.finished? - self.killed)
    }

    /// Who took how many: `worker-0 took 5, worker-2 took 5`.
    pub(super) fn takers(&self) -> String {
        let takers: Vec<String> = self.taken.iter().map(|(worker, count)| format!("{worker} took {count}")).collect();
        takers.join(", ")
    }
}

fn owned(records: &Records) -> impl Iterator<Item = (&String, &OwnershipRecord)> {
    let readable = records.iter().filter_map(|(key, record)| Some((key, record.as_ref().ok()?)));
    readable.filter(|(_, record)| record.phase == Phase::Owned)
}
