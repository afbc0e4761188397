//! Records that are less than what was written: the bucket was deleted, or its servers have lost their last writes. Who has a
//! later one in memory writes it back.

use super::ownership::Purpose;
use super::taking::Predecessor;
use super::{PartitionMachine, Report};
use crate::Expect;
use crate::record::OwnershipRecord;

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
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
