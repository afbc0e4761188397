//! The record.

use super::World;
use crate::record::{OwnershipRecord, Phase as RecordPhase, decode};
use crate::testing::data_path::Task;
use crate::{Expect, StoredEntry, WriteOutcome};

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
        assert_eq!(self.ledger.judge(self.committed().as_ref(), &new), None);
        if self.limits.acknowledges && new.phase == RecordPhase::Released {
            let reader = self.workers[from].task.as_ref().and_then(Task::reader);
            assert_eq!(reader, None, "released while its consumer still has it");
        }
        self.note(format!("landed from #{from}: {value}"));
        self.record = Some(StoredEntry { value: Some(value.into_bytes()), revision: found + 1 });
        WriteOutcome::Written(found + 1)
    }
}
