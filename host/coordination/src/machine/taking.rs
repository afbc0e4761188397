//! Taking a partition: what its record says is read against the plan in force, and then it is taken or waited for.

use super::ownership::Purpose;
use super::{Command, PartitionMachine, Phase, Report};
use crate::record::{FORMAT, Owner, OwnershipRecord, Phase as RecordPhase, StateIdentity};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Epoch, Expect, Fleet, Generation, Incarnation, Position, StoredEntry, WorkerId};
use std::time::Duration;

/// Whoever may have a record in memory that is gone is asked for it this often.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A state that our handler has refused is tried again after so long.
const REOPEN: Duration = Duration::from_secs(60);

/// What a record means for a worker that is assigned the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeDecision {
    /// Nobody has ever owned it: create the record, epoch 1.
    Create,
    /// Somebody has owned it, and its record is gone: its owner is to write it back.
    Missing,
    /// It is free, or ours: take it, epoch + 1.
    Take,
    /// Its owner is dead, or an older run of ourselves: seize it, epoch + 1.
    Seize,
    /// Its owner lives: wait for the release.
    Wait,
    /// A later run of our own ID owns it: we are the zombie.
    Superseded,
}

/// Decides what to do about a partition that this worker is assigned, and of which it is known whether it ever had a record.
#[must_use]
pub fn decide_take(
    record: Option<&OwnershipRecord>,
    has_begun: bool,
    me: (&WorkerId, Incarnation),
    fleet: &Fleet,
) -> TakeDecision {
    let Some(record) = record else {
        return if has_begun { TakeDecision::Missing } else { TakeDecision::Create };
    };
    let owner = &record.owner;
    if owner.worker == *me.0 && owner.incarnation.claim > me.1.claim {
        return TakeDecision::Superseded;
    }
    if record.phase == RecordPhase::Released {
        return TakeDecision::Take;
    }
    if owner.worker == *me.0 {
        return if owner.incarnation == me.1 { TakeDecision::Take } else { TakeDecision::Seize };
    }
    if fleet.is_dead(&owner.worker, &owner.incarnation) { TakeDecision::Seize } else { TakeDecision::Wait }
}

/// The record that a partition was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Predecessor {
    pub(super) owner: Owner,
    pub(super) epoch: Epoch,
    pub(super) revision: u64,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    pub(super) fn judge(&mut self, entry: Option<StoredEntry>) {
        if self.sending || self.is_putting() || self.awaits_copy() {
            // The answer to what an earlier ownership sent must not be taken for that of a later one.
            self.read_at = Some(self.now + self.limits.poll_interval);
            return;
        }
        let Ok(found) = self.understand(entry.as_ref()) else {
            self.read_at = Some(self.now + self.limits.handover_timeout);
            return;
        };
        if self.is_of_unknown_stream(found.as_ref()) {
            return;
        }
        self.trouble = None;
        if self.still_cannot_open(found.as_ref()) {
            return;
        }
        let expect = entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision));
        let me = (&self.me.worker, self.me.incarnation);
        let decision = decide_take(found.as_ref(), self.has_begun(), me, &self.fleet);
        match (decision, found) {
            (TakeDecision::Missing, _) => self.miss(expect),
            (TakeDecision::Create, _) | (_, None) => self.begin(expect),
            (TakeDecision::Take, Some(found)) => self.take(found, expect, false),
            (TakeDecision::Seize, Some(found)) => self.take(found, expect, true),
            (TakeDecision::Wait, Some(found)) => {
                let is_over = self.waited_for(Some(&found)) >= self.limits.handover_timeout;
                #[cfg(test)]
                let is_over = Mutant::LiveOwnerOverruled.or(is_over, true);
                if is_over {
                    self.take(found, expect, true);
                } else {
                    self.read_at = Some(self.now + self.limits.poll_interval);
                }
            }
            (TakeDecision::Superseded, Some(found)) => {
                self.report(Report::Superseded(found.owner.incarnation));
                self.trouble = Some("a later run of this worker's ID owns the partition".into());
                self.read_at = Some(self.now + self.limits.handover_timeout);
            }
        }
    }

    /// How long a record's owner has been waited for, or, if there is none, the record. Another owner than before gets the full time
    /// again.
    fn waited_for(&mut self, found: Option<&OwnershipRecord>) -> Duration {
        let epoch = found.map(|record| record.epoch);
        let since = self.waiting.filter(|(of, _)| *of == epoch).map_or(self.now, |(_, since)| since);
        self.waiting = Some((epoch, since));
        self.now.since(since)
    }

    /// The record is lost. Who owned the partition has position and state in memory, if he lives; what is left without him is the
    /// stream from its start.
    fn miss(&mut self, expect: Expect) {
        if self.waited_for(None) >= self.limits.recovery_grace {
            self.report(Report::RecordLost);
            return self.begin(expect);
        }
        self.trouble = Some("the record is gone, and its owner is asked to write it back".into());
        if self.asked_at.is_none_or(|at| self.now.since(at) >= ASK_AGAIN) {
            self.asked_at = Some(self.now);
            self.command(Command::AskOwner);
        }
        self.read_at = Some(self.now + self.limits.poll_interval);
    }

    /// The state that a record holds, if another version of the handler has written it.
    pub(super) fn state_of_another(&self, record: &OwnershipRecord) -> Option<StateIdentity> {
        record.state().filter(|state| *state.handler != *self.handler)
    }

    /// What our handler has refused is left to another worker, or to the operator, until its state is another. Where nobody
    /// else can open it either, it is tried again from time to time: what has kept the handler from it may have passed.
    fn still_cannot_open(&mut self, found: Option<&OwnershipRecord>) -> bool {
        let Some(refused) = self.refused.clone() else { return false };
        let is_another = found.and_then(OwnershipRecord::state).as_ref() != Some(&refused);
        if is_another || self.refused_at.is_none_or(|at| self.due(at + REOPEN)) {
            self.refused = None;
            return false;
        }
        let writer = refused.handler;
        self.trouble = Some(format!("this worker's handler cannot open the state that handler {writer} has written"));
        self.read_at = Some(self.now + self.limits.handover_timeout);
        true
    }

    /// Takes a partition that has no record. If it had one, its epoch was below the plan's version, unless owners have changed
    /// without a plan: so what is still on its way from then, above all deletions of objects, meets nothing of today.
    fn begin(&mut self, expect: Expect) {
        let is_first = !self.has_begun();
        let record = OwnershipRecord {
            v: FORMAT,
            group: self.group.clone(),
            stream: self.stream.clone(),
            epoch: if is_first { Epoch(0) } else { Epoch(self.fleet.version.0) },
            generation: Generation(1),
            owner: self.me.clone(),
            phase: RecordPhase::Released,
            position: if is_first { self.start } else { Position(0) },
            seen: None,
            attempts: None,
            seizes: 0,
            alone: None,
            handler: None,
            snapshot: None,
        };
        self.take(record, expect, false);
    }

    /// Whether the partition ever had a record.
    fn has_begun(&self) -> bool {
        let has_begun = self.begun || self.fleet.has_begun(&self.id);
        #[cfg(test)]
        let has_begun = Mutant::LostRecordBeginsAnew.or(has_begun, false);
        has_begun
    }

    fn take(&mut self, mut record: OwnershipRecord, expect: Expect, seize: bool) {
        self.predecessor = match expect {
            Expect::Revision(revision) if record.epoch > Epoch(0) => {
                Some(Predecessor { owner: record.owner.clone(), epoch: record.epoch, revision })
            }
            _ => None,
        };
        Self::count_seize(&mut record, seize);
        self.start_history(&mut record);
        record.epoch = record.epoch.next();
        record.owner = self.me.clone();
        record.phase = RecordPhase::Owned;
        self.phase = Phase::Taking;
        self.write(record, expect, Purpose::Take { seize });
    }
}
