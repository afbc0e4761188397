//! Records that are not as their owner has written them: how he comes to know, and whether they are less than what was written
//! because the bucket was deleted or its servers have lost their last writes. Then he writes them back.
//!
//! Somebody may have taken the partition from him without his knowledge before that, and deleted the state that his record names in the
//! object store. So he names nothing of before: the handler gives its state once more, and what is written back is a commit; where it
//! cannot, the state is copied, which shows whether it is there.

use super::ownership::Purpose;
use super::taking::Predecessor;
use super::work::Call;
use super::{Command, PartitionMachine, Phase, Report};
use crate::record::{OwnershipRecord, StoredSnapshot};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Expect, Now, PartitionId, Sequence, Snapshot};
use std::time::Duration;

/// An owner who has not written his record for so long looks at it.
const LOOK: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(30));

/// A record that is written back.
#[derive(Default)]
pub(super) struct Loss {
    renewal: Renewal,
    copying: Option<Copying>,
    /// An answer to [`Command::GetObject`] for a copy is outstanding, whatever became of it.
    getting: bool,
    /// Since when a copy is tried, how often it was, and when again.
    since: Option<Now>,
    tries: u32,
    again_at: Option<Now>,
}

/// Whether the handler gives its state once more, for a record that is lost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    /// No record is lost.
    #[default]
    No,
    /// With the next commit.
    Due,
    /// It could not: its state is ahead of what is handed over.
    Impossible,
    /// It could not, and the record is lost: what is handed over is copied.
    Copied,
}

/// A record that waits for the state which it is to name.
struct Copying {
    record: OwnershipRecord,
    expect: Expect,
    purpose: Purpose,
}

/// How long the owner of this partition goes without a look: always the same, so that those who begin together soon look each at
/// another time.
pub(super) fn look_every(id: &PartitionId) -> Duration {
    let (least, most) = LOOK;
    let spread = u64::try_from((most - least).as_millis()).unwrap_or_default().max(1);
    least + Duration::from_millis(xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes()) % spread)
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// Whoever moves or deletes a record tells its owner, who may not hear of it. One who commits finds out with his next compare; one
    /// who does not has to look.
    pub(super) fn look_now_and_then(&mut self) {
        let looks = matches!(self.phase, Phase::Opening | Phase::Running);
        #[cfg(test)]
        let looks = Mutant::NeverLooks.or(looks, false);
        let is_asked = self.writing.is_some() || self.reading || self.read_at.is_some();
        if looks && !is_asked && self.due(self.looked_at + self.look_every) {
            self.read_at = Some(self.now);
        }
    }

    /// Whether what is found is less than what we have written, because the bucket was deleted or its servers have lost their last
    /// writes: nothing, a record of ours from before, the one that we have taken the partition from, or another's that lies behind ours.
    /// That was written back by an owner of before us who did not know that he was none, or by one who has begun anew because he found
    /// nothing. Any other record of another's is never taken for that, however old it looks: he may go on after a loss that we have not
    /// seen. To go back to him loses nothing; to go back to what we have taken over would, since what it names may be deleted. What
    /// belongs to a later history, which an operator has begun, is nothing that was lost.
    pub(super) fn is_lost(
        &self,
        found: Option<&OwnershipRecord>,
        revision: u64,
        ours: &OwnershipRecord,
        known: u64,
    ) -> bool {
        found.is_none_or(|found| {
            let earlier = found.epoch < ours.epoch || (found.epoch == ours.epoch && revision < known);
            let is_predecessor = |from: &Predecessor| {
                (&from.owner, from.epoch) == (&found.owner, found.epoch) && revision <= from.revision
            };
            let taken = self.predecessor.as_ref().is_some_and(is_predecessor);
            let behind = found.position < ours.position;
            found.generation <= ours.generation && (behind || (earlier && (taken || found.owner == ours.owner)))
        })
    }

    /// The bucket has lost a record of ours, and what is found in its place is less. It is written back as a new ownership, so that a
    /// write that is still on its way under the old one, and a revision that comes a second time, mean nothing.
    pub(super) fn write_back(
        &mut self,
        record: OwnershipRecord,
        found: Option<&OwnershipRecord>,
        revision: u64,
        purpose: Purpose,
    ) {
        let latest = found.map_or(record.epoch, |found| found.epoch.max(record.epoch));
        let record = OwnershipRecord { epoch: latest.next(), ..record };
        self.report(Report::WrittenBack { epoch: record.epoch, position: record.position });
        let may_renew = self.holds_state() && matches!(self.loss.renewal, Renewal::No | Renewal::Due);
        match &mut self.record {
            Some((landed, known)) if may_renew && names_object(&record) => {
                (landed.epoch, *known) = (record.epoch, revision);
                self.loss.renewal = Renewal::Due;
            }
            _ => self.write_copy(record, expected(revision), purpose),
        }
    }

    /// Whether a record that is lost cannot be written back yet: its state is about to be given once more, or to be opened first.
    pub(super) fn is_written_back_later(&self, record: &OwnershipRecord) -> bool {
        self.is_renewing() || ((!self.is_open || self.call == Some(Call::Load)) && names_object(record))
    }

    /// Whether the handler is to give its state once more.
    pub(super) fn is_renewing(&self) -> bool {
        self.loss.renewal == Renewal::Due
    }

    /// It has given it, or there is nothing more to write.
    pub(super) fn end_renewal(&mut self) {
        self.loss.renewal = Renewal::No;
    }

    /// The next owner repeats what is handled and not committed: the handler's state is ahead of what is handed over.
    pub(super) fn hand_over_as_committed(&mut self) {
        self.handled = 0;
        self.passed = Sequence(0);
        self.give_no_state();
    }

    /// The handler's state is not the one that is handed over.
    pub(super) fn give_no_state(&mut self) {
        self.loss.renewal = if self.is_renewing() { Renewal::Copied } else { Renewal::Impossible };
    }

    /// Hands over what is committed.
    pub(super) fn write_release(&mut self, record: OwnershipRecord, expect: Expect) {
        if self.loss.renewal == Renewal::Copied {
            self.write_copy(record, expect, Purpose::Release);
        } else {
            self.write(record, expect, Purpose::Release);
        }
    }

    /// Writes a record that names nothing of before: what it names is read first, and put under another name.
    fn write_copy(&mut self, record: OwnershipRecord, expect: Expect, purpose: Purpose) {
        let named = record.snapshot.as_ref().and_then(StoredSnapshot::object).filter(|_| names_object(&record));
        let Some(name) = named.map(str::to_owned) else { return self.write(record, expect, purpose) };
        self.loss.since.get_or_insert(self.now);
        self.loss.again_at = Some(self.now + self.backoff(self.loss.tries));
        self.loss.tries = self.loss.tries.saturating_add(1);
        self.loss.copying = Some(Copying { record, expect, purpose });
        self.loss.getting = true;
        self.command(Command::GetObject(name));
    }

    pub(super) fn is_copying(&self) -> bool {
        self.loss.copying.is_some()
    }

    /// Whether NATS still owes an answer to a copy's read: it must not be taken for that of an ownership's after.
    pub(super) fn awaits_copy(&self) -> bool {
        self.loss.getting
    }

    /// Whether a copy has failed, and the next one may not begin yet.
    pub(super) fn copies_later(&mut self) -> bool {
        self.loss.again_at.is_some_and(|at| !self.due(at))
    }

    /// A copy's state is read. A release tries that for as long as others wait for the record; after that it is theirs.
    pub(super) fn copied(&mut self, result: Result<Vec<u8>, String>) {
        self.loss.getting = false;
        let Some(Copying { mut record, expect, purpose }) = self.loss.copying.take() else { return };
        match result {
            Ok(data) => {
                let format = record.snapshot.as_ref().map(|stored| stored.format.clone()).unwrap_or_default();
                let (stored, beside) = self.place(record.epoch, Snapshot { format, data });
                record.snapshot = Some(stored);
                match beside {
                    Some(data) => self.store(record, expect, purpose, data),
                    None => self.write(record, expect, purpose),
                }
            }
            Err(why) => {
                let why = format!("the record is lost, and the snapshot that it named cannot be read: {why}");
                self.trouble = Some(why.clone());
                let waited = self.loss.since.map_or(Duration::ZERO, |since| self.now.since(since));
                if self.phase != Phase::Releasing {
                    self.read_at = self.loss.again_at;
                } else if waited >= self.limits.recovery_grace {
                    self.report(Report::SnapshotFailed(why));
                    self.fenced_off(true);
                }
            }
        }
    }

    /// Nothing is copied any more.
    pub(super) fn forget_copy(&mut self) {
        self.loss = Loss { renewal: self.loss.renewal, getting: self.loss.getting, ..Loss::default() };
    }
}

fn names_object(record: &OwnershipRecord) -> bool {
    let names = record.snapshot.as_ref().and_then(StoredSnapshot::object).is_some();
    #[cfg(test)]
    let names = Mutant::LostStateNamedAgain.or(names, false);
    names
}

/// What a write of ours must find where this was found; 0 is nothing.
pub(super) fn expected(revision: u64) -> Expect {
    if revision == 0 { Expect::Nothing } else { Expect::Revision(revision) }
}
