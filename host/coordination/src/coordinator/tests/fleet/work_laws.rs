//! The promises about records that are checked whenever one is written, besides those of its ledger.

use super::{Fleet, Status, Trouble};
use crate::coordinator::*;
use crate::record::{OwnershipRecord, Phase, decode};
use crate::testing::data_path::{self, Command, Input};
use crate::testing::secs;
use crate::{Epoch, PartitionId};

/// Nothing has gone wrong for this long: whatever a fault has delayed has happened.
const CALM: std::time::Duration = secs(15);

impl Fleet {
    pub(crate) fn record(&self, id: &PartitionId) -> Option<OwnershipRecord> {
        let value = self.work.as_ref()?.records.keys.get(&id.record_key())?.value.as_ref()?;
        decode(value).ok()
    }

    /// The write of a record reaches NATS.
    pub(super) fn put_record(&mut self, from: usize, id: &PartitionId, value: String, expect: Expect) -> WriteOutcome {
        let (old, now) = (self.record(id), self.now);
        let Some(work) = &mut self.work else { return WriteOutcome::Unknown };
        let outcome = work.records.put(now, &id.record_key(), Some(value.into_bytes()), expect);
        if let (WriteOutcome::Written(revision), Some(new)) = (outcome, self.record(id)) {
            self.note(|_| format!("#{from} {id} is written, revision {revision}"));
            if let Some(wrong) = self.judge_record(from, id, old.as_ref(), &new) {
                self.violated(format!("{id}, written by #{from}: {wrong}"));
            }
        }
        outcome
    }

    fn judge_record(
        &mut self,
        from: usize,
        id: &PartitionId,
        old: Option<&OwnershipRecord>,
        new: &OwnershipRecord,
    ) -> Option<String> {
        let wrong = old.and_then(|old| self.judge_seizure(from, id, old, new));
        let now = self.now;
        let work = self.work.as_mut()?;
        if old.is_none_or(|old| old.epoch != new.epoch) {
            work.taken_at.insert(id.clone(), now);
        }
        // Whoever creates a record that was there before has been told that it never was: so soon after its first owner, and with a
        // leader that dies in between, nobody knows better.
        if old.is_none() && !self.processes[from].data.has_begun(id) {
            work.ledgers.entry(id.clone()).or_default().begin_anew(new);
        }
        if let Some(old) = old {
            work.ledgers.entry(id.clone()).or_default().count_loss(old, new);
        }
        // What is left of a bucket that was lost says nothing of what was before; each record must be right by itself.
        let old = old.filter(|_| !work.lost);
        wrong.or_else(|| work.ledgers.entry(id.clone()).or_default().judge(old, new, &work.objects))
    }

    /// A request reaches the object store; whatever it does, what records name stays.
    pub(super) fn store_object(&mut self, id: &PartitionId, command: &Command) -> Option<Input> {
        let work = self.work.as_mut()?;
        let fails = work.trouble.objects;
        if self.random.chance(fails) {
            return data_path::no_answer(command);
        }
        let told = work.objects.serve(&id.record_key(), command);
        let records = self.partitions.iter().filter_map(|p| self.record(p.id()));
        let wrong = records.filter_map(|record| self.work.as_ref()?.objects.judge(&record)).next();
        if let Some(wrong) = wrong {
            self.violated(format!("{id}: {wrong}, after {command:?}"));
        }
        told
    }

    /// An owner who lives has the time to hand over, and needs it all only if something has gone wrong.
    fn judge_seizure(
        &self,
        from: usize,
        id: &PartitionId,
        old: &OwnershipRecord,
        new: &OwnershipRecord,
    ) -> Option<String> {
        let owner = &old.owner;
        let own = owner.worker == new.owner.worker && owner.incarnation.claim <= new.owner.incarnation.claim;
        if old.phase == Phase::Released || own || self.laws.is_over(owner) {
            return None;
        }
        let lives = self.processes.iter().find(|process| process.data.me.as_ref() == Some(owner))?;
        if lives.status != Status::Running || !lives.connected || lives.cut {
            return None;
        }
        let work = self.work.as_ref()?;
        if work.lost && (new.epoch > old.epoch.next() || new.position > old.position) {
            // The bucket was set back to before the take, or an owner of before has written his record back, and who has taken the
            // partition since writes its record again. Who seizes one begins where it has ended.
            return None;
        }
        let began = self.processes[from].data.jobs.get(id)?.began;
        let waited = self.now - work.taken_at.get(id).copied().unwrap_or_default().max(began);
        // A clock may run at twice the speed.
        let is_calm = self.laws.calm_since + CALM < self.now
            && !self.mute
            && self.trouble == Trouble::default()
            && work.trouble == data_path::Trouble::default();
        (is_calm || waited < work.limits.handover_timeout / 2)
            .then(|| format!("seized from {} {}, who lives, after {waited:?}", owner.worker, owner.incarnation))
    }

    /// Only who has lost a partition drops it.
    pub(super) fn check_fenced_off(&mut self, at: usize, id: &PartitionId) {
        let me = self.processes[at].data.me.as_ref();
        // Records that were set back a moment ago are not what it has read.
        let is_set_back = self.work.as_ref().is_some_and(|work| work.lost) && self.now < self.laws.calm_since;
        if let Some(record) = self.record(id).filter(|record| Some(&record.owner) == me && !is_set_back) {
            self.violated(format!("#{at} drops {id}, which it owns in epoch {}", record.epoch));
        }
    }

    /// What is not as it must be once everything works and all is quiet: every message handled by whom the plan names.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let work = self.work.as_ref()?;
        for (id, at) in &self.owners() {
            let last = work.ledgers.get(id).and_then(|ledger| ledger.messages.keys().next_back()).copied().unwrap_or(0);
            let Some(record) = self.record(id) else { return Some(format!("{id} has no record")) };
            if let Some(wrong) = work.objects.judge(&record) {
                return Some(format!("{id}: {wrong}"));
            }
            if record.position.0 < last {
                return Some(format!("{id} is at {}, and its last message is {last}", record.position));
            }
            let (owner, due) = (&record.owner, &self.processes[*at].data.me);
            if record.phase != Phase::Owned || due.as_ref() != Some(owner) {
                return Some(format!(
                    "{id} is {:?} by {} {}, not by #{at}",
                    record.phase, owner.worker, owner.incarnation
                ));
            }
        }
        None
    }

    /// The partition that was taken more often than by so many faults and the moves of plans.
    pub(crate) fn duelled(&self, faults: u64) -> Option<(PartitionId, Epoch, u64)> {
        let work = self.work.as_ref().filter(|work| !work.lost)?;
        work.ledgers.keys().find_map(|id| {
            let (epoch, moves) = (self.record(id)?.epoch, work.moves.get(id).copied().unwrap_or(0));
            (epoch.0 > faults + moves + 1).then(|| (id.clone(), epoch, moves))
        })
    }
}
