//! The record.

use super::World;
use crate::record::{OwnershipRecord, Phase as RecordPhase, decode};
use crate::testing::data_path::{Command, Input, Task};
use crate::{Expect, StoredEntry, WriteOutcome};

/// The record key of the one partition.
const KEY: &str = "p";

impl World {
    pub(super) fn land(&mut self, from: usize, value: String, expect: Expect) -> WriteOutcome {
        let found = self.record.as_ref().map_or(0, |e| e.revision);
        let holds = match expect {
            Expect::Anything => panic!("a record is never overwritten blindly"),
            Expect::Nothing => found == 0,
            Expect::Revision(revision) => found == revision,
        };
        if !holds {
            return WriteOutcome::Lost;
        }
        let new: OwnershipRecord = decode(value.as_bytes()).expect("a record");
        // After a loss revisions come a second time, and a late write may meet one that it expects: from then on each record is judged
        // by itself, and must be right all the same.
        if let Some(old) = self.committed() {
            self.ledger.count_loss(&old, &new);
        }
        let old = self.committed().filter(|_| !self.lost);
        assert_eq!(self.ledger.judge(old.as_ref(), &new, &self.objects), None);
        if self.limits.acknowledges && new.phase == RecordPhase::Released {
            let reader = self.workers[from].task.as_ref().and_then(Task::reader);
            assert_eq!(reader, None, "released while its consumer still has it");
        }
        self.note(format!("landed from #{from}: {value}"));
        self.earlier.extend(self.record.clone());
        let revision = found.max(self.begins_above) + 1;
        self.record = Some(StoredEntry { value: Some(value.into_bytes()), revision });
        WriteOutcome::Written(revision)
    }

    /// The bucket is deleted, or its servers have lost their last writes.
    pub(crate) fn lose_record(&mut self) {
        // What an earlier record names is deleted, and so may be what a write names that comes late and meets what it expects: a revision
        // that is given a second time, or nothing after the next loss. Without their owners they are of no use to anybody but the
        // operator.
        let beside = self.limits.inline_snapshot_bytes < 50_000;
        if beside && self.lost {
            return;
        }
        let earlier = self.earlier.get(self.random.below(self.earlier.len() as u64 + 1) as usize).cloned();
        let earlier = earlier.filter(|_| !beside);
        if let Some(last) = self.record.as_ref().filter(|_| beside) {
            self.begins_above = last.revision;
        }
        self.note(format!(
            "the record is lost, left is {}",
            if earlier.is_some() { "an earlier one" } else { "nothing" }
        ));
        self.faults += 1;
        self.record = earlier;
        self.earlier.clear();
        self.lost = true;
    }

    /// A request reaches the object store; whatever it does, what the record names stays.
    pub(super) fn store(&mut self, command: &Command) -> Option<Input> {
        let told = self.objects.serve(KEY, command);
        assert_eq!(self.committed().and_then(|record| self.objects.judge(&record)), None);
        told
    }

    /// Objects that the partition has.
    pub(crate) fn stored_objects(&self) -> usize {
        self.objects.of(KEY)
    }
}
