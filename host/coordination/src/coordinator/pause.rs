//! What the operator has paused, as every worker learns it: a key beside the plan that no leader touches.

use super::context::Context;
use super::io::{Action, Bucket, StoredEntry};
use crate::record::PauseRecord;

/// Its key in the bucket of the assignments.
pub(super) const KEY: &str = "pause";

/// What the data path was last told of the key. Nothing before the watch has told everything: until then anything may be paused.
#[derive(Default)]
pub(super) struct Pause(Option<PauseRecord>);

impl Pause {
    pub(super) fn watched(&mut self, ctx: &mut Context, entry: &StoredEntry) {
        let record = match entry.value.as_deref() {
            None => Some(PauseRecord::nothing()),
            // What cannot be read changes nothing.
            Some(value) => ctx.decode::<PauseRecord>(Bucket::Assignments, KEY, value),
        };
        if let Some(record) = record
            && self.0.as_ref().is_none_or(|told| (told.all, &told.partitions) != (record.all, &record.partitions))
        {
            self.tell(ctx, record);
        }
    }

    /// Everything that the bucket holds has been told. A key that is not there has never been written, or the bucket is lost: then
    /// what was in force stays so.
    pub(super) fn ready(&mut self, ctx: &mut Context) {
        if self.0.is_none() {
            self.tell(ctx, PauseRecord::nothing());
        }
    }

    fn tell(&mut self, ctx: &mut Context, record: PauseRecord) {
        self.0 = Some(record.clone());
        ctx.emit(Action::Paused(record));
    }
}
