//! The handler's side of a partition: open, call, ask for the state.

use super::suspicion::Caution;
use super::{Batch, Command, Failure, PartitionMachine, Phase, QueuedMessage, Report};
use crate::record::{Attempts, StateIdentity, StoredSnapshot};
#[cfg(test)]
use crate::testing::{Mutant, shared};
use crate::{CloseReason, OpenReason, Sequence, Snapshot};
use std::time::Duration;

/// Of the commit interval, the part after which a queue full of handled messages is committed.
const CROWDED: u32 = 8;

/// An idle partition's position is written this often, so that it does not drag a reader back.
const IDLE_COMMIT: Duration = Duration::from_secs(600);

/// The call that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// The state is being read from the object store, before it opens.
    Load,
    Open,
    Handle {
        first: Sequence,
        last: Sequence,
        messages: usize,
    },
    Snapshot,
    Close,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    pub(super) fn has_call(&self) -> bool {
        self.call.is_some()
    }

    pub(super) fn closing(&mut self, why: CloseReason) {
        // A call that is still open belongs to the instance that is being closed; its answer is not waited for.
        self.call = Some(Call::Close);
        self.command(Command::Close(why));
    }

    pub(super) fn work(&mut self) {
        if self.call.is_some() {
            return;
        }
        if let Some(pending) = &self.pending {
            if (self.gives_up() || self.goes_back() || self.is_to_change()) && pending.send_at.is_some() {
                // It cannot be confirmed now: the next owner, or version, repeats the batch, under the same IDs.
                self.pending = None;
                self.forgive_attempt();
                self.lose_instance(OpenReason::Recovered);
                return self.work();
            }
            if let Some(at) = pending.send_at
                && self.due(at)
            {
                self.send();
            }
            return;
        }
        self.end_trial();
        if self.gives_up() {
            self.go_back(false);
            self.phase = Phase::Releasing;
            self.reader = None;
            self.needs_open = None;
            return self.release();
        }
        self.take_up_swap();
        if self.needs_open.is_none() && self.change_over() {
            return;
        }
        if self.needs_open.is_some() {
            return self.open();
        }
        self.phase = Phase::Running;
        let on_trial = self.is_on_trial();
        #[cfg(test)]
        let on_trial = Mutant::CommitsOnTrial.or(on_trial, false);
        if !on_trial && !self.is_committing() && self.commit_is_due() && self.may_commit() {
            return self.ask_snapshot();
        }
        if let Some(at) = self.pause_until {
            if !self.due(at) {
                return;
            }
            self.pause_until = None;
        }
        let paused = self.paused;
        #[cfg(test)]
        let paused = Mutant::PausedWhenIdle.or(paused, paused && self.queue.len() == self.handled);
        if paused || self.outgrown || self.awaits_verdict() {
            return;
        }
        if self.awaits_commit() {
            return;
        }
        // What comes before a message that has trapped is committed first, so that passing over it loses nothing else; and so
        // is the number of its tries.
        let next = self.queue.get(self.handled).map(|m| m.sequence);
        let trapped = next.is_some() && self.traps.map(|(sequence, _)| sequence) == next;
        if trapped && (self.handled > 0 || self.written_attempts() != self.tries()) {
            self.commit_wanted = true;
            return self.work();
        }
        match self.caution() {
            Caution::None => self.call_handler(),
            Caution::Wait => {}
            // It may be what is being written.
            Caution::Commit if self.is_committing() => {}
            Caution::Commit => {
                self.commit_wanted = true;
                self.work();
            }
            Caution::GiveUp(deaths) => self.condemn(deaths),
        }
    }

    /// Nothing more is handled before a commit: what a crash repeats is bounded, and a further try is written down before it begins.
    pub(super) fn awaits_commit(&self) -> bool {
        let written_down = self.attempts.is_none() || !self.is_committing();
        let most = if self.is_suspicious() { 1 } else { self.limits.max_uncommitted };
        self.handled >= most || self.commit_wanted || !written_down
    }

    fn open(&mut self) {
        // A commit under way decides what the new instance starts from.
        if self.is_committing() {
            return;
        }
        if let Some(at) = self.pause_until {
            if !self.due(at) {
                return;
            }
            self.pause_until = None;
        }
        #[cfg(test)]
        if let (true, Some(snapshot)) = (Mutant::SnapshotShared.is_on(), shared()) {
            return self.open_from(Some(snapshot));
        }
        let stored = self.record.as_ref().and_then(|(record, _)| record.snapshot.as_ref());
        if let Some(name) = stored.and_then(StoredSnapshot::object) {
            let name = name.to_owned();
            return self.get_object(name);
        }
        // What cannot be read back keeps the partition waiting instead of losing its state.
        match stored.map(StoredSnapshot::load).transpose() {
            Ok(snapshot) => self.open_from(snapshot),
            Err(why) => self.state_unavailable(why.0),
        }
    }

    pub(super) fn open_from(&mut self, snapshot: Option<Snapshot>) {
        let (Some((record, _)), Some(why)) = (&self.record, self.needs_open) else { return };
        let epoch = record.epoch;
        let (handler, with_state) = self.version_to_open();
        let snapshot = snapshot.filter(|_| with_state);
        let why = if handler == self.handler { why } else { OpenReason::Swapped };
        self.phase = Phase::Opening;
        self.call = Some(Call::Open);
        self.command(Command::Open { handler, why, snapshot, epoch });
    }

    pub(super) fn opened(&mut self, result: Result<(), Failure>) {
        if self.call != Some(Call::Open) {
            // Closed meanwhile: the close that follows ends the new instance too.
            return;
        }
        self.call = None;
        if self.phase == Phase::Releasing {
            // Fenced while it opened.
            self.is_open |= result.is_ok();
            return self.close(CloseReason::Lost);
        }
        match result {
            Ok(()) => {
                self.is_open = true;
                self.needs_open = None;
                self.swap_opened();
                self.open_failures = 0;
                self.refused = None;
                self.trouble = None;
            }
            Err(failure) if self.swap_failed(failure.text()) => {}
            Err(Failure::Refused(why)) if self.foreign_state().is_some() && !self.is_on_trial() => {
                self.cannot_open(why)
            }
            Err(failure) => {
                self.trial_failed();
                self.report(Report::OpenFailed(failure.text().to_owned()));
                self.open_later(failure.text().to_owned());
            }
        }
    }

    /// The committed state, if another version of the handler has written it.
    fn foreign_state(&self) -> Option<StateIdentity> {
        self.record.as_ref().and_then(|(record, _)| self.state_of_another(record))
    }

    /// Another version may open what this one does not: it goes to a worker that has it.
    fn cannot_open(&mut self, why: String) {
        let Some(state) = self.foreign_state() else { return };
        self.report(Report::CannotOpen { handler: state.handler.clone(), why });
        self.refused = Some(state);
        self.refused_at = Some(self.now);
        self.starts_over = true;
    }

    /// Nothing was asked of the handler: it is not to blame.
    pub(super) fn state_unavailable(&mut self, why: String) {
        self.report(Report::StateUnavailable(why.clone()));
        self.open_later(why);
    }

    fn open_later(&mut self, why: String) {
        self.trouble = Some(why);
        let at = self.now + self.backoff(self.open_failures);
        self.pause_until = Some(at);
        self.open_failures = self.open_failures.saturating_add(1);
        self.due(at);
    }

    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let (first, longest) = self.limits.backoff;
        first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(longest)
    }

    fn commit_is_due(&mut self) -> bool {
        if let Some(at) = self.snapshot_retry_at
            && !self.due(at)
        {
            return false;
        }
        // What a pause has interrupted is not kept waiting for more.
        if self.commit_wanted || self.is_renewing() || (self.paused && self.handled > 0) {
            return true;
        }
        if self.handled > 0 && self.is_suspicious() {
            return true;
        }
        if self.handled > 0 {
            // Messages hold their memory until they are committed: a queue that is half full, mostly of handled ones, would
            // only wait for the interval. Where a few messages fill it, that is still not once for every few messages.
            let crowded = self.queue_bytes >= self.limits.queue_bytes / 2 && self.handled * 2 >= self.queue.len();
            let early = crowded && self.due(self.committed_at + self.limits.commit_interval / CROWDED);
            let many = self.handled >= self.limits.max_uncommitted / 2;
            let since = self.handled_since.unwrap_or(self.now);
            return early || many || self.due(since + self.limits.commit_interval);
        }
        let moved = self.position() > self.committed();
        moved && self.due(self.committed_at + IDLE_COMMIT)
    }

    pub(super) fn written_attempts(&self) -> Option<Attempts> {
        self.record.as_ref().and_then(|(record, _)| record.attempts)
    }

    /// The tries of the next message. What is written down was tried, whatever has happened to other messages since.
    pub(super) fn tries(&self) -> Option<Attempts> {
        let next = self.queue.get(self.handled).map(|m| m.sequence);
        let is_next = |a: &Attempts| next.map_or(a.sequence.0 > self.position().0, |next| a.sequence == next);
        [self.attempts, self.written_attempts()].into_iter().flatten().filter(is_next).max_by_key(|a| a.count)
    }

    fn call_handler(&mut self) {
        let mut messages: Vec<QueuedMessage<M>> = Vec::new();
        let mut bytes = 0usize;
        for message in self.queue.iter().skip(self.handled) {
            let first = messages.is_empty();
            let alone = message.sequence <= self.one_by_one || self.hands_over_alone();
            if !first && (alone || messages.len() >= self.limits.batch_messages) {
                break;
            }
            bytes = bytes.saturating_add(message.bytes);
            if !first && bytes > self.limits.batch_bytes {
                break;
            }
            messages.push(message.clone());
            if alone {
                break;
            }
        }
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return };
        let (first, last) = (first.sequence, last.sequence);
        let before = self.tries().map_or(0, |a| a.count).max(self.deaths(first));
        let first_attempt = before.saturating_add(1);
        self.attempts = Some(Attempts { sequence: first, count: first_attempt });
        self.call = Some(Call::Handle { first, last, messages: messages.len() });
        self.command(Command::Handle(Batch { messages, first_attempt }));
    }

    pub(super) fn ask_snapshot(&mut self) {
        self.call = Some(Call::Snapshot);
        self.command(Command::Snapshot);
    }

    pub(super) fn snapshot_given(&mut self, result: Result<Option<Snapshot>, Failure>) {
        if self.call != Some(Call::Snapshot) {
            return;
        }
        self.call = None;
        let most = self.limits.max_snapshot_bytes;
        let bytes = result.as_ref().ok().and_then(|snapshot| Some(snapshot.as_ref()?.data.len()));
        self.outgrown = bytes.is_some_and(|bytes| bytes > most);
        let result = match bytes.filter(|bytes| *bytes > most) {
            Some(bytes) => {
                Err(Failure::Refused(format!("the snapshot has {bytes} bytes, at most {most} are possible")))
            }
            None => result,
        };
        match result {
            Ok(snapshot) => self.commit(snapshot),
            Err(failure) => {
                let why = failure.text().to_owned();
                self.report(Report::SnapshotFailed(why.clone()));
                self.trouble = Some(why);
                if self.phase == Phase::Releasing {
                    // Hand over as last committed: the next owner repeats the rest.
                    self.hand_over_as_committed();
                    self.is_open = matches!(failure, Failure::Refused(_));
                } else if matches!(failure, Failure::Refused(_)) && !self.wants_swap() {
                    self.snapshot_retry_at = Some(self.now + self.limits.commit_interval.max(self.limits.backoff.0));
                } else {
                    self.pause_until = Some(self.now + self.backoff(0));
                    self.lose_instance(OpenReason::Recovered);
                }
            }
        }
    }
}
