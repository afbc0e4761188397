//! Which partitions have a record, so that one which has none any more is known to have lost it.
//!
//! A partition that nobody has ever owned begins where the configuration says. One whose record was lost with its bucket must not:
//! what came since its last commit would be passed over. Nothing in the ownership bucket tells the two apart, so the assignments do.
//! A worker says of which plan it has seen a record for each of its partitions; the leader remembers, and writes it down at once,
//! because both it and the worker may be gone by the time that it matters.

use super::super::context::Context;
use super::super::roster::Roster;
use super::Planner;
use super::publication::Publication;
use crate::Partition;
use crate::record::AssignmentRecord;
use std::collections::{BTreeMap, BTreeSet};

impl Planner {
    /// Of these partitions, the places of those that are not known to have a record.
    pub(super) fn fresh(&self, partitions: &[Partition]) -> BTreeSet<usize> {
        let places = partitions.iter().enumerate();
        places.filter(|(_, p)| !self.begun.contains(p.id().as_str())).map(|(place, _)| place).collect()
    }

    /// What the assignments in force say, whoever has written them.
    pub(super) fn collect_begun(&mut self) {
        for record in self.current.values().map(|published| &published.record) {
            let Some(fresh) = &record.fresh else { continue };
            let begun = record.partitions.iter().enumerate().filter(|(place, _)| !fresh.contains(place));
            self.begun.extend(begun.map(|(_, p)| p.id().as_str().to_owned()));
        }
    }

    /// Hears what the workers say. Whether an assignment is to be written again because of it.
    pub(super) fn hear_begun(&mut self, ctx: &mut Context, roster: &Roster) -> bool {
        let mut waiting = BTreeMap::new();
        for (worker, member) in roster.members() {
            let Some(record) = self.current.get(worker).map(|published| &published.record) else { continue };
            let is_told = record.fresh.as_ref().is_some_and(BTreeSet::is_empty);
            let has_begun = member.begun.is_some_and(|(term, v)| term == record.term && v >= record.version);
            if is_told || !has_begun {
                continue;
            }
            self.begun.extend(record.partitions.iter().map(|p| p.id().as_str().to_owned()));
            waiting.insert(worker.clone(), AssignmentRecord { fresh: Some(BTreeSet::new()), ..record.clone() });
        }
        let any = !waiting.is_empty();
        if any {
            self.publication = Some(Publication { plan: None, waiting, writes: BTreeMap::new(), summary: None });
            self.write_waiting(ctx);
        }
        any
    }
}
