//! What the operator wants of the placement, as every worker learns it: a key beside the plan. Whoever leads obeys it, and so each
//! worker has to know it before it leads.

use super::context::Context;
use super::io::{Action, Bucket, StoredEntry};
use crate::record::PlacementRecord;

/// Its key in the bucket of the assignments.
pub(super) const KEY: &str = "placement";

/// What this worker was last told of the key. Nothing before the watch has told everything: until then anybody may be drained.
#[derive(Default)]
pub(super) struct Operator {
    told: Option<PlacementRecord>,
    /// Revision of what was told last; 0 if there is nothing.
    revision: u64,
    /// Grows with everything that is told.
    news: u64,
}

impl Operator {
    pub(super) fn watched(&mut self, ctx: &mut Context, entry: &StoredEntry) {
        let record = match entry.value.as_deref() {
            None => Some(PlacementRecord::nothing()),
            // What cannot be read changes nothing.
            Some(value) => ctx.decode::<PlacementRecord>(Bucket::Assignments, KEY, value),
        };
        if let Some(record) = record {
            self.tell(ctx, record, entry.revision);
        }
    }

    /// Everything that the bucket holds has been told. A key that is not there has never been written, or the bucket is lost: then
    /// what was in force stays so.
    pub(super) fn ready(&mut self, ctx: &mut Context) {
        if self.told.is_none() {
            self.tell(ctx, PlacementRecord::nothing(), 0);
        }
    }

    fn tell(&mut self, ctx: &mut Context, record: PlacementRecord, revision: u64) {
        self.news += 1;
        self.revision = revision;
        let is_same = self.told.as_ref().is_some_and(|told| told.places_like(&record));
        self.told = Some(record.clone());
        if !is_same {
            ctx.emit(Action::Placement(record));
        }
    }

    /// What is wanted; nothing before that is known.
    pub(super) fn wants(&self) -> Option<&PlacementRecord> {
        self.told.as_ref()
    }

    /// The revision of what is wanted.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// A number that is another one whenever something was told.
    pub(super) fn news(&self) -> u64 {
        self.news
    }
}
