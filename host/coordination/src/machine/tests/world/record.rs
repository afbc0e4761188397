//! The record, and what must hold of it whenever it is written.

use super::World;
use super::handler::{Fate, applied, outputs};
use crate::record::{OwnershipRecord, Phase as RecordPhase, decode};
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
        self.check(&new);
        self.note(format!("landed from #{from}: {value}"));
        self.record = Some(StoredEntry { value: Some(value.into_bytes()), revision: found + 1 });
        WriteOutcome::Written(found + 1)
    }

    fn check(&self, new: &OwnershipRecord) {
        if let Some(old) = self.committed() {
            assert!(new.position >= old.position, "position {} after {}", new.position, old.position);
            if new.epoch == old.epoch {
                assert_eq!(new.owner, old.owner, "two owners in epoch {}", new.epoch);
                assert_eq!(old.phase, RecordPhase::Owned, "written after the release");
            } else {
                assert_eq!(new.epoch, old.epoch.next());
                assert_eq!((new.position, &new.snapshot), (old.position, &old.snapshot), "a take changes nothing else");
            }
        }
        let state = applied(new.snapshot.as_ref().map(|s| s.load().expect("base64")).as_ref());
        let due: Vec<u64> = self.messages.range(..=new.position.0).map(|(s, _)| *s).collect();
        assert!(state.is_sorted_by(|a, b| a < b), "out of order: {state:?}");
        assert!(state.iter().all(|s| due.contains(s)), "{state:?} is ahead of position {}", new.position);
        for sequence in due {
            let passed = self.letters.values().any(|s| *s == sequence);
            assert!(state.contains(&sequence) || passed, "message {sequence} is lost at position {}", new.position);
            let fine = matches!(self.messages[&sequence], Fate::Fine | Fate::Shy(_));
            assert!(fine || !state.contains(&sequence));
        }
    }

    pub(super) fn check_outputs(&self) {
        let snapshot = self.committed().and_then(|record| record.snapshot).map(|s| s.load().expect("base64"));
        let state = applied(snapshot.as_ref());
        let expected: Vec<String> = state.iter().flat_map(|s| outputs(*s)).collect();
        // A handler that traps at random makes the machine give up messages whose output is out already, or comes later.
        if self.trouble.traps == 0 {
            assert_eq!(self.output, expected);
        }
        assert!(expected.iter().all(|body| self.output.contains(body)));
    }
}
