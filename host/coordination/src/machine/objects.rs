//! States that are too large for a record: put into the object store before the commit that names them, read back before the
//! handler opens, deleted when no record can name them any more.
//!
//! Why no record ever names an object that is gone:
//!
//! * A name belongs to one partition, one ownership and one snapshot of it: `<record key>/<epoch>/<digest>`, where the digest
//!   covers the owner and the number of the snapshot too. No name comes back, so that a deletion which arrives late meets nothing
//!   that was put after it.
//! * An object is put, and known to be there, before the record that names it is written. A put whose fate is unknown is
//!   repeated under the same name with the same bytes.
//! * Only an owner deletes, and only after a commit of its own is confirmed which names the object no more. From then on no record
//!   can: a record of this epoch is written by this owner alone, which counts its snapshots upwards, and one of a later epoch
//!   takes over what it finds. For the same reason nothing of an earlier epoch can be named once a commit of this epoch is
//!   confirmed that names none of it; who took over from a crash thereby clears what the crash has left.
//! * Who is fenced deletes nothing. What it has put and not committed is of an earlier epoch for its successor, who clears it away with
//!   the rest. A put that lands later than that is left until the ownership after: to leak an object is better than to lose one.
//! * An owner whose record is lost may have been fenced without knowing, and then what it names may be deleted. So it does not write
//!   that back, but names what it puts anew (`loss`).

use super::ownership::Purpose;
use super::work::Call;
use super::{Command, PartitionMachine, Phase, Report};
use crate::record::{OwnershipRecord, StoredSnapshot, StoredState, object_name, object_parts};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{CloseReason, Epoch, Expect, Now, Snapshot};
use std::sync::Arc;

/// A partition's dealings with the object store.
#[derive(Default)]
pub(super) struct Objects {
    /// A commit that waits for its state to be there.
    storing: Option<Storing>,
    /// An answer to [`Command::PutObject`] is outstanding, whatever became of what it was for.
    putting: bool,
    /// Snapshots put so far.
    count: u64,
    /// Since the partition was taken a record has named an object, or one was put.
    used: bool,
    /// What no record names any more.
    leftovers: Vec<String>,
    /// What is being deleted: these, and everything from before this ownership.
    deleting: Option<(Vec<String>, Option<Epoch>)>,
    /// The ownership before which nothing is left.
    cleared: Option<Epoch>,
}

struct Storing {
    record: OwnershipRecord,
    expect: Expect,
    purpose: Purpose,
    name: String,
    data: Arc<[u8]>,
    failures: u32,
    /// When to put again what was not confirmed.
    put_at: Option<Now>,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// Whether a commit is under way: the state is asked for, or stored beside the record, or the record is written.
    pub(super) fn is_committing(&self) -> bool {
        let stores = self.objects.storing.is_some() || self.is_copying();
        self.call == Some(Call::Snapshot) || stores || self.writing.is_some()
    }

    /// Whether NATS still owes an answer to a put: one of an earlier ownership must not be taken for one of a later.
    pub(super) fn is_putting(&self) -> bool {
        self.objects.putting
    }

    /// Where a snapshot goes: into the record, or beside it with these bytes.
    pub(super) fn place(&mut self, epoch: Epoch, snapshot: Snapshot) -> (StoredSnapshot, Option<Arc<[u8]>>) {
        if snapshot.data.len() <= self.limits.inline_snapshot_bytes {
            return (StoredSnapshot::store(&snapshot), None);
        }
        self.objects.count += 1;
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(self.me.incarnation.uuid.as_bytes());
        hash.update(&self.objects.count.to_le_bytes());
        hash.update(&snapshot.data);
        let name = object_name(&self.id.record_key(), epoch, &format!("{:032x}", hash.digest128()));
        #[cfg(test)]
        let name = Mutant::ObjectsShared.or(name, object_name("all", epoch, &self.objects.count.to_string()));
        let stored = StoredSnapshot { format: snapshot.format, state: StoredState::Object(name) };
        (stored, Some(snapshot.data.into()))
    }

    /// Puts the state, and then writes the record that names it.
    pub(super) fn store(&mut self, record: OwnershipRecord, expect: Expect, purpose: Purpose, data: Arc<[u8]>) {
        let named = record.snapshot.as_ref().and_then(StoredSnapshot::object);
        let Some(name) = named.map(str::to_owned) else { return self.write(record, expect, purpose) };
        self.objects.used = true;
        self.objects.storing = Some(Storing { record, expect, purpose, name, data, failures: 0, put_at: None });
        self.put();
    }

    fn put(&mut self) {
        let Some(storing) = &mut self.objects.storing else { return };
        storing.put_at = None;
        let (name, data) = (storing.name.clone(), Arc::clone(&storing.data));
        self.objects.putting = true;
        self.command(Command::PutObject { name, data });
    }

    pub(super) fn put_again(&mut self) {
        let at = self.objects.storing.as_ref().and_then(|storing| storing.put_at);
        if at.is_some_and(|at| self.due(at)) {
            self.put();
        }
    }

    pub(super) fn object_put(&mut self, result: Result<(), String>) {
        self.objects.putting = false;
        let Some(mut storing) = self.objects.storing.take() else { return };
        match result {
            Ok(()) => {
                if storing.failures > 0 {
                    self.trouble = None;
                }
                self.write(storing.record, storing.expect, storing.purpose);
            }
            Err(why) => {
                storing.put_at = Some(self.now + self.backoff(storing.failures));
                storing.failures = storing.failures.saturating_add(1);
                self.objects.storing = Some(storing);
                self.trouble = Some(format!("the snapshot is not stored: {why}"));
                self.report(Report::SnapshotNotStored(why));
            }
        }
    }

    /// A hand-over does not wait for an object store that does not answer: the next owner repeats what is not committed.
    pub(super) fn gives_up_storing(&mut self) {
        let Some(storing) = self.objects.storing.take_if(|storing| storing.put_at.is_some()) else { return };
        self.objects.leftovers.push(storing.name);
        self.hand_over_as_committed();
    }

    /// What was to be committed belongs to nobody.
    pub(super) fn forget_objects(&mut self) {
        self.objects.storing = None;
        self.forget_copy();
        self.objects.used = false;
        self.objects.leftovers.clear();
    }

    pub(super) fn get_object(&mut self, name: String) {
        self.phase = Phase::Opening;
        self.call = Some(Call::Load);
        self.command(Command::GetObject(name));
    }

    pub(super) fn object_read(&mut self, result: Result<Vec<u8>, String>) {
        if self.awaits_copy() {
            return self.copied(result);
        }
        if self.call != Some(Call::Load) {
            return;
        }
        self.call = None;
        if self.phase == Phase::Releasing {
            // Fenced while it was read.
            return self.close(CloseReason::Lost);
        }
        let stored = self.record.as_ref().and_then(|(record, _)| record.snapshot.as_ref());
        let format = stored.map(|stored| stored.format.clone()).unwrap_or_default();
        match result {
            // It goes to the next owner unopened.
            _ if self.gives_up() => {}
            Ok(data) => self.open_from(Some(Snapshot { format, data })),
            Err(why) => self.state_unavailable(format!("the snapshot cannot be read: {why}")),
        }
    }

    /// A commit has landed: what it no longer names can go.
    pub(super) fn clear_objects(&mut self, before: Option<&OwnershipRecord>, now: &OwnershipRecord) {
        let name =
            |record: &OwnershipRecord| record.snapshot.as_ref().and_then(StoredSnapshot::object).map(str::to_owned);
        let is_of = |name: &String| object_parts(name).is_some_and(|(_, epoch, _)| epoch == now.epoch);
        let (replaced, named) = (before.and_then(name), name(now));
        self.objects.used |= replaced.is_some() || named.is_some();
        // Those of earlier ownerships go all together.
        self.objects.leftovers.extend(replaced.filter(|old| is_of(old) && Some(old) != named.as_ref()));
        self.objects.leftovers.retain(|name| is_of(name));
        let is_rid = named.as_ref().is_none_or(is_of);
        let before = (self.objects.used && is_rid && self.objects.cleared != Some(now.epoch)).then_some(now.epoch);
        self.delete_objects(before);
    }

    pub(super) fn delete_objects(&mut self, before: Option<Epoch>) {
        if self.objects.deleting.is_none() && (before.is_some() || !self.objects.leftovers.is_empty()) {
            let names = self.objects.leftovers.clone();
            self.objects.deleting = Some((names.clone(), before));
            self.command(Command::DeleteObjects { names, before });
        }
    }

    /// What is not known to be gone is tried again after the next commit.
    pub(super) fn objects_deleted(&mut self, result: Result<(), ()>) {
        let Some((names, before)) = self.objects.deleting.take() else { return };
        if result.is_ok() {
            self.objects.leftovers.retain(|name| !names.contains(name));
            self.objects.cleared = before.or(self.objects.cleared);
        }
    }

    /// Deletes the object in force already when the commit that replaces it is sent.
    #[cfg(test)]
    pub(super) fn delete_too_early(&mut self) {
        let stored = self.record.as_ref().and_then(|(record, _)| record.snapshot.as_ref());
        if let (true, Some(name)) = (Mutant::DeletedBeforeCommit.is_on(), stored.and_then(StoredSnapshot::object)) {
            self.objects.leftovers.push(name.to_owned());
            self.delete_objects(None);
        }
    }
}
