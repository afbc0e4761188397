//! What the operator does: moves partitions, and pauses them, as the commands do.

use super::Fleet;
use crate::coordinator::*;
use crate::record::{PauseRecord, PlacementRecord, decode, encode};
use crate::testing::data_path::{Command, Input};
use crate::{PartitionId, Position};

/// The key that says what is paused, and the one that says what is wanted of the placement.
pub(super) const PAUSE: &str = "pause";
pub(super) const PLACEMENT: &str = "placement";

impl Fleet {
    /// `parti seek` of some partition to some place, with its state or without. Its owner hears of it, or not: then he finds out by
    /// himself.
    pub(crate) fn seek(&mut self) {
        let partitions: Vec<_> = self.partitions.iter().map(|p| p.id().clone()).collect();
        let Some(id) = partitions.get(self.random.below(partitions.len() as u64) as usize) else { return };
        let Some(record) = self.record(id).filter(|_| self.nats_runs && !self.mute) else { return };
        // A bucket that was set back may have forgotten a move, and its generation would come a second time.
        let Some(head) = self.work.as_ref().filter(|work| !work.lost).map(|work| work.head) else { return };
        let to = Position(self.random.below(head + 1));
        // What is repeated on top of a state that holds it is no state of the handler of these tests.
        let keeps_state = to >= record.position && self.random.chance(50);
        let moved = record.moved(to, None, keeps_state);
        self.note(|_| format!("{id} is moved from {} to {to}, with its state: {keeps_state}", record.position));
        let value = encode(&moved).map(String::into_bytes).expect("a record");
        let now = self.now;
        let Some(work) = &mut self.work else { return };
        let expect = Expect::Revision(work.records.revision(&id.record_key()));
        let outcome = work.records.put(now, &id.record_key(), Some(value), expect);
        assert!(matches!(outcome, WriteOutcome::Written(_)), "{outcome:?}");
        // It is one epoch, and who takes it again begins another.
        *work.moves.entry(id.clone()).or_default() += 2;
        work.taken_at.insert(id.clone(), now);
        let wrong = work.ledgers.entry(id.clone()).or_default().moved(&moved, &work.objects);
        if let Some(wrong) = wrong {
            self.violated(format!("{id}, moved: {wrong}"));
        }
        if self.random.chance(50) {
            self.announce(id);
        }
    }

    /// `parti pause` or `parti resume` of some partitions, or of all.
    pub(crate) fn pause_some(&mut self) {
        let share = self.random.pick(&[0, 30, 100]);
        let ids: Vec<_> = self.partitions.iter().map(|p| p.id().to_string()).collect();
        let partitions = ids.into_iter().filter(|_| self.random.chance(share)).collect();
        let all = self.random.chance(20);
        self.pause_these(&PauseRecord { all, partitions, ..PauseRecord::nothing() });
    }

    /// `parti resume --all`.
    pub(crate) fn resume_all(&mut self) {
        self.pause_these(&PauseRecord::nothing());
    }

    fn pause_these(&mut self, record: &PauseRecord) {
        if self.nats_runs && self.work.is_some() {
            self.note(|_| format!("the operator pauses {:?}, all: {}", record.partitions, record.all));
            let value = encode(record).map(String::into_bytes).expect("a record");
            self.put(Bucket::Assignments, PAUSE, Some(value), Expect::Anything, Lifetime::Forever);
        }
    }

    /// What the operator wants of the placement, as the bucket has it.
    pub(crate) fn wants(&self) -> Option<PlacementRecord> {
        decode(&self.stored(Bucket::Assignments, PLACEMENT)?).ok()
    }

    /// Changes what the operator wants, as the commands do; the number of the change.
    pub(crate) fn want(&mut self, change: impl FnOnce(&mut PlacementRecord)) -> u64 {
        let mut record = self.wants().unwrap_or_else(PlacementRecord::nothing);
        record.asked += 1;
        change(&mut record);
        self.note(|_| format!("the operator wants {record:?}"));
        let value = encode(&record).map(String::into_bytes).expect("a record");
        self.put(Bucket::Assignments, PLACEMENT, Some(value), Expect::Anything, Lifetime::Forever);
        record.asked
    }

    /// `parti drain`, `undrain`, `pin`, `unpin`, `rebalance` or `refresh`, of workers and partitions that are there, or are not.
    pub(crate) fn want_something(&mut self, workers: usize) {
        if !self.nats_runs {
            return;
        }
        let worker = WorkerId::new("worker", u32::try_from(self.random.below(workers as u64 + 1)).expect("few"));
        let partitions: Vec<_> = self.partitions.iter().map(|p| p.id().to_string()).collect();
        let partition = partitions.get(self.random.below(partitions.len() as u64 + 1) as usize);
        let partition = partition.cloned().unwrap_or_else(|| "gone".into());
        let what = self.random.below(6);
        self.want(|wants| match what {
            0 => _ = wants.drained.insert(worker),
            1 => {
                wants.drained.remove(&worker);
                wants.rebalance = wants.asked;
            }
            2 => _ = wants.pins.insert(partition, worker),
            3 => _ = wants.pins.remove(&partition),
            4 => wants.rebalance = wants.asked,
            _ => wants.refresh = wants.asked,
        });
    }

    /// What of the operator's wishes is not as it should be, in a fleet that has settled otherwise.
    pub(super) fn unfulfilled(&self) -> Option<String> {
        let wants = self.wants()?;
        if wants.is_open() {
            return Some(format!("change {} waits for its answer", wants.asked));
        }
        // Where there is no room, or a handler refuses, all is not to be had.
        if self.max_partitions.is_some() || self.laws.has_refusals() {
            return None;
        }
        let owners = self.owners();
        let ids: std::collections::BTreeMap<WorkerId, usize> =
            self.live().into_iter().map(|at| (WorkerId::parse(&self.id(at)), at)).collect();
        let is_drained =
            |worker: &WorkerId| wants.drained.contains(worker) && !ids.keys().all(|w| wants.drained.contains(w));
        for (worker, at) in &ids {
            if is_drained(worker) && !self.has(*at).is_empty() {
                return Some(format!("{worker} is drained and has {:?}", self.has(*at)));
            }
        }
        for (id, owner) in &owners {
            let Some(pin) = wants.pins.get(id.as_str()).filter(|pin| !is_drained(pin)) else { continue };
            if ids.get(pin).is_some_and(|at| at != owner) {
                return Some(format!("{id} is pinned to {pin} and with #{owner}"));
            }
        }
        None
    }

    /// A process is told what is paused.
    pub(super) fn pause_work(&mut self, at: usize, paused: PauseRecord) {
        self.processes[at].paused = Some(paused);
        for (id, run) in self.running(at) {
            let paused = self.is_paused(at, &id);
            self.give_data(at, &id, run, Input::Paused(paused));
        }
    }

    /// Whether a process may not work on a partition, as far as it has been told. Before it has been told anything, everything may
    /// be paused.
    pub(super) fn is_paused(&self, at: usize, id: &PartitionId) -> bool {
        self.processes[at].paused.as_ref().is_none_or(|paused| paused.covers(id))
    }

    /// Nothing is handed to the handler of a partition that is paused.
    pub(super) fn check_paused(&mut self, at: usize, id: &PartitionId, command: &Command) {
        if matches!(command, Command::Handle(_)) && self.is_paused(at, id) {
            self.violated(format!("#{at} {id}: is handled, and it is paused"));
        }
    }
}
