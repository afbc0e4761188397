//! Records that are not as their owner has written them: how he comes to know, and whether they are less than what was written
//! because the bucket was deleted or its servers have lost their last writes. Then he writes them back.

use super::ownership::Purpose;
use super::taking::Predecessor;
use super::{PartitionMachine, Phase, Report};
use crate::record::OwnershipRecord;
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Expect, PartitionId};
use std::time::Duration;

/// An owner who has not written his record for so long looks at it.
const LOOK: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(30));

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

    /// Whether what is found is less than what we have written: nothing, a record of ours from before, or the one that we have taken the
    /// partition from. The bucket was deleted, or its servers have lost their last writes. Any other record of another's is never
    /// taken for that, however old it looks: he may have begun anew after a loss of which we have slept through the beginning, or go
    /// on after one that we have not seen. To go back to him loses nothing; to go back to what we have taken over would, since what
    /// it names may be deleted.
    pub(super) fn is_lost(
        &self,
        found: Option<&OwnershipRecord>,
        revision: u64,
        ours: &OwnershipRecord,
        known: u64,
    ) -> bool {
        found.is_none_or(|found| {
            let earlier = found.epoch < ours.epoch || (found.epoch == ours.epoch && revision < known);
            let taken = |from: &Predecessor| {
                (&from.owner, from.epoch) == (&found.owner, found.epoch) && revision <= from.revision
            };
            (found.owner == ours.owner && earlier) || (earlier && self.predecessor.as_ref().is_some_and(taken))
        })
    }

    /// The bucket has lost a record of ours, which is the latest there was. As a new ownership, so that a write that is still on its way
    /// under the old one, and a revision that comes a second time, mean nothing.
    pub(super) fn write_back(&mut self, record: OwnershipRecord, revision: u64, purpose: Purpose) {
        let expect = if revision == 0 { Expect::Nothing } else { Expect::Revision(revision) };
        let record = OwnershipRecord { epoch: record.epoch.next(), ..record };
        self.report(Report::WrittenBack { epoch: record.epoch, position: record.position });
        self.write(record, expect, purpose);
    }
}
