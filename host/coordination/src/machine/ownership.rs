//! The record's side of a partition that is ours: commit, release, and find out what became of a write.

use super::loss::expected;
use super::{Command, PartitionMachine, Phase, Report};
use crate::record::{self, Owner, OwnershipRecord, Phase as RecordPhase};
#[cfg(test)]
use crate::testing::{Mutant, share};
use crate::{CloseReason, Epoch, Expect, Generation, OpenReason, Sequence, Snapshot, StoredEntry, WriteOutcome};
use std::time::Duration;

/// How long to wait before a record is read again after NATS did not answer.
const READ_RETRY: Duration = Duration::from_millis(500);

/// What a write of the record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Become the owner; whether a live or dead owner is overruled.
    Take {
        seize: bool,
    },
    Commit,
    Release,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    pub(super) fn record_read(&mut self, entry: Result<Option<StoredEntry>, ()>) {
        self.reading = false;
        if std::mem::take(&mut self.outdated) {
            return;
        }
        let Ok(entry) = entry else {
            self.read_at = Some(self.now + READ_RETRY);
            return;
        };
        match self.phase {
            _ if self.writing.is_some() => self.resolve(entry),
            Phase::Waiting if self.revoked.is_none() => self.judge(entry),
            Phase::Opening | Phase::Running => self.confirm(entry),
            _ => {}
        }
    }

    /// The record while we hold the partition.
    fn confirm(&mut self, entry: Option<StoredEntry>) {
        self.looked_at = self.now;
        let found = self.understand(entry.as_ref());
        let Some((ours, known)) = self.record.clone() else { return };
        let revision = entry.map_or(0, |e| e.revision);
        match found {
            // A commit that is under way finds out by itself, unless the handler gives no state for it.
            Ok(found) if self.is_lost(found.as_ref(), revision, &ours, known) => {
                if self.is_committing() || self.is_written_back_later(&ours) {
                    self.read_at = Some(self.now + self.limits.poll_interval);
                } else {
                    self.write_back(ours, found.as_ref(), revision, Purpose::Commit);
                }
            }
            Ok(Some(found)) if identity(&found) != identity(&ours) => self.superseded(&found),
            Ok(_) => self.doubt = false,
            Err(()) if self.doubt => self.read_at = Some(self.now + self.limits.handover_timeout),
            Err(()) => {}
        }
    }

    /// Another hand has written the record that we owned.
    fn superseded(&mut self, found: &OwnershipRecord) {
        let generation = self.record.as_ref().map(|(record, _)| record.generation);
        if found.phase == RecordPhase::Released && generation.is_some_and(|ours| found.generation > ours) {
            // Moved by an operator. What was known of its messages says nothing about the next time.
            self.report(Report::Moved { position: found.position, generation: found.generation });
            self.traps = None;
            self.one_by_one = Sequence(0);
        } else {
            self.report(Report::FencedOff);
        }
        self.fenced_off(true);
    }

    /// Reads a record; what is not ours to understand is reported and left alone.
    pub(super) fn understand(&mut self, entry: Option<&StoredEntry>) -> Result<Option<OwnershipRecord>, ()> {
        let Some(value) = entry.and_then(|e| e.value.as_deref()) else { return Ok(None) };
        self.begun = true;
        let why = match record::decode::<OwnershipRecord>(value) {
            Ok(record) if record.group != self.group => {
                format!("the record belongs to group {:?}", record.group)
            }
            Ok(record) if record.stream.name != self.stream.name => {
                format!("the record holds a position of stream {:?}", record.stream.name)
            }
            Ok(record) => return Ok(Some(record)),
            Err(e) => e.0,
        };
        if self.trouble.as_ref() != Some(&why) {
            self.trouble = Some(why.clone());
            self.report(Report::Unreadable(why));
        }
        Err(())
    }

    pub(super) fn write(&mut self, record: OwnershipRecord, expect: Expect, purpose: Purpose) {
        // The records of this crate always encode.
        let value = record::encode(&record).unwrap_or_default();
        self.command(Command::Write { value: value.clone(), expect });
        self.read_at = None;
        self.outdated = self.reading;
        self.writing = Some((record, value, purpose));
    }

    pub(super) fn written(&mut self, outcome: WriteOutcome) {
        #[cfg(test)]
        if Mutant::LostCommitFences.is_on()
            && outcome == WriteOutcome::Lost
            && self.writing.as_ref().is_some_and(|(_, _, purpose)| *purpose == Purpose::Commit)
        {
            self.report(Report::FencedOff);
            return self.fenced_off(true);
        }
        match outcome {
            WriteOutcome::Written(revision) => self.landed(revision),
            // A question, not a verdict.
            WriteOutcome::Lost => self.read_at = Some(self.now),
            // NATS may refuse writes and answer reads for long: no haste.
            WriteOutcome::Unknown => self.read_at = Some(self.now + READ_RETRY),
        }
    }

    /// The record as read after a write whose fate is unknown.
    fn resolve(&mut self, entry: Option<StoredEntry>) {
        let Some((record, value, purpose)) = self.writing.take() else { return };
        let revision = entry.as_ref().map_or(0, |e| e.revision);
        let found = entry.as_ref().and_then(|e| e.value.clone());
        if found.as_deref() == Some(value.as_bytes()) {
            self.writing = Some((record, value, purpose));
            return self.landed(revision);
        }
        let Ok(found) = self.understand(entry.as_ref()) else {
            self.writing = Some((record, value, purpose));
            self.read_at = Some(self.now + self.limits.handover_timeout);
            return;
        };
        if matches!(purpose, Purpose::Take { .. }) {
            self.phase = Phase::Waiting;
            return self.judge(entry);
        }
        #[cfg(test)]
        if Mutant::MoveOverwritten.is_on() && found.as_ref().is_some_and(|found| found.owner == record.owner) {
            return self.write(record, Expect::Revision(revision), purpose);
        }
        // Measured by what has landed: a record on its way may be of a new ownership already.
        let (landed, known) = self.record.clone().unwrap_or_else(|| (record.clone(), 0));
        match found {
            found if self.is_lost(found.as_ref(), revision, &landed, known) => {
                self.write_back(record, found.as_ref(), revision, purpose);
            }
            // An earlier state of ours: the write has not landed.
            Some(found)
                if (&found.owner, found.generation) == (&record.owner, record.generation)
                    && found.epoch <= record.epoch =>
            {
                self.write(record, Expect::Revision(revision), purpose);
            }
            Some(found) => self.superseded(&found),
            None => {}
        }
    }

    fn landed(&mut self, revision: u64) {
        let Some((record, _, purpose)) = self.writing.take() else { return };
        self.begun = true;
        self.looked_at = self.now;
        let position = record.position;
        let before = self.record.take().map(|(record, _)| record);
        self.forget_copy();
        if !matches!(purpose, Purpose::Take { .. }) {
            self.clear_objects(before.as_ref(), &record);
        }
        if std::mem::take(&mut self.looks_after_write) && purpose != Purpose::Release {
            self.read_at = Some(self.now);
        }
        match purpose {
            Purpose::Take { seize } => {
                self.report(Report::Taken { epoch: record.epoch, position, seized: seize });
                self.rewound = None;
                let why = if seize { OpenReason::Recovered } else { OpenReason::Assigned };
                self.attempts = record.attempts;
                self.suspect(&record);
                self.seen = record.seen;
                self.record = Some((record, revision));
                self.mark = Sequence(position.0);
                self.passed = self.mark;
                self.committed_at = self.now;
                self.phase = Phase::Opening;
                self.needs_open = Some(why);
            }
            Purpose::Commit => {
                let lag = self.handled_since.map_or(Duration::ZERO, |since| self.now.since(since));
                self.record = Some((record, revision));
                self.committed_at = self.now;
                self.doubt = false;
                let waiting = self.queue.len();
                while self.queue.front().is_some_and(|m| position.covers(m.sequence)) {
                    if let Some(message) = self.queue.pop_front() {
                        self.queue_bytes -= message.bytes;
                        self.handled = self.handled.saturating_sub(1);
                    }
                }
                self.cleared(waiting - self.queue.len());
                // What was let go of meanwhile, and is in the state that has landed, is not read again.
                self.mark = self.mark.max(Sequence(position.0));
                self.handled_since = (self.handled > 0).then_some(self.now);
                self.yield_turn();
                self.report(Report::Committed { position, lag });
            }
            Purpose::Release => {
                self.record = Some((record, revision));
                self.command(Command::Released);
                self.close(self.revoked.unwrap_or(CloseReason::Revoked));
            }
        }
    }

    /// Another owner exists. Nothing may be written any more.
    pub(super) fn fenced_off(&mut self, may_return: bool) {
        if self.phase == Phase::Gone {
            return;
        }
        self.forget_work();
        self.forget_objects();
        self.writing = None;
        self.looks_after_write = false;
        self.read_at = None;
        self.record = None;
        if !may_return {
            self.revoked = Some(CloseReason::Lost);
        }
        self.close(CloseReason::Lost);
    }

    /// Closes the handler, if there is one, and then ends or waits again.
    pub(super) fn close(&mut self, why: CloseReason) {
        self.forget_work();
        self.phase = Phase::Releasing;
        if self.is_open {
            self.is_open = false;
            self.needs_open = None;
            self.closing(why);
        } else if !self.has_call() {
            self.closed();
        }
    }

    pub(super) fn closed(&mut self) {
        self.call = None;
        self.record = None;
        self.phase = Phase::Waiting;
        if let Some(stream) = self.next_stream.take() {
            self.change_stream(stream);
        }
        self.starts_over = false;
        if self.revoked.is_some() {
            self.end();
        } else {
            // Given back while it was being released, or taken from us while the plan still names us.
            self.waiting = None;
            self.read_at = Some(self.now + self.limits.poll_interval);
        }
    }

    /// Begins or goes on to hand over: final state, then the record, then the handler.
    pub(super) fn release(&mut self) {
        self.gives_up_storing();
        if self.is_committing() || self.has_call() || self.copies_later() {
            return;
        }
        let Some((record, revision)) = self.record.clone() else { return };
        if record.phase == RecordPhase::Released {
            return;
        }
        let position = self.position();
        if (self.handled > 0 || self.is_renewing()) && self.is_open {
            return self.ask_snapshot();
        }
        if !self.is_detached() {
            return;
        }
        let (seizes, alone) = self.suspects(true);
        let record = OwnershipRecord {
            phase: RecordPhase::Released,
            position,
            seen: self.seen,
            attempts: self.tries(),
            seizes,
            alone,
            ..record
        };
        self.write_release(record, expected(revision));
    }

    /// Commits what is handled, together with the state that the handler gave for this very instant.
    pub(super) fn commit(&mut self, snapshot: Option<Snapshot>) {
        let Some((record, revision)) = self.record.clone() else { return };
        // In queue mode the record is released when the partition has left its consumer.
        let releasing = self.phase == Phase::Releasing && !self.limits.acknowledges;
        #[cfg(test)]
        if Mutant::SnapshotShared.is_on() {
            share(snapshot.as_ref());
        }
        let (snapshot, beside) = snapshot.map(|snapshot| self.place(record.epoch, snapshot)).unzip();
        let (seizes, alone) = self.suspects(self.phase == Phase::Releasing || self.gives_up());
        let record = OwnershipRecord {
            position: self.position(),
            seen: self.seen,
            attempts: self.tries(),
            seizes,
            alone,
            handler: Some(self.handler.to_string()),
            snapshot,
            phase: if releasing { RecordPhase::Released } else { RecordPhase::Owned },
            ..record
        };
        self.commit_wanted = false;
        self.end_renewal();
        self.snapshot_retry_at = None;
        self.outgrown = false;
        let purpose = if releasing { Purpose::Release } else { Purpose::Commit };
        let expect = expected(revision);
        #[cfg(test)]
        let (record, expect) = self.broken_commit(record, expect);
        match beside.flatten() {
            Some(data) => self.store(record, expect, purpose, data),
            None => self.write(record, expect, purpose),
        }
    }

    #[cfg(test)]
    fn broken_commit(&mut self, mut record: OwnershipRecord, expect: Expect) -> (OwnershipRecord, Expect) {
        self.delete_too_early();
        if Mutant::StateAfterPosition.is_on() && record.position > self.committed() {
            record.snapshot = self.record.as_ref().and_then(|(before, _)| before.snapshot.clone());
            self.commit_wanted = true;
        }
        (record, Mutant::CommitsBlindly.or(expect, Expect::Anything))
    }
}

/// Which ownership of which history a record is of.
fn identity(record: &OwnershipRecord) -> (&Owner, Epoch, Generation) {
    (&record.owner, record.epoch, record.generation)
}
