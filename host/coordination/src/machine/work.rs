//! The handler's side of a partition: accept messages, open, call, judge the outcome, publish, ask for the state.

use super::{Batch, Command, Failure, Handled, OnExhausted, Outgoing, PartitionMachine, Phase, QueuedMessage, Report};
use crate::record::Attempts;
use crate::{CloseReason, Completed, Generation, Now, OpenReason, Sequence, Snapshot};
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

/// An idle partition's position is written this often, so that it does not drag a reader back.
const IDLE_COMMIT: Duration = Duration::from_secs(600);

/// The call that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Handle { first: Sequence, last: Sequence, messages: usize },
    Snapshot,
    Close,
}

/// Messages that are done as soon as what they sent is confirmed.
pub(super) struct Pending<M, O> {
    outgoing: Vec<Outgoing<M, O>>,
    done: usize,
    retry: Option<Option<Duration>>,
    tries: u32,
    send_at: Option<Now>,
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

    pub(super) fn reader_started(&mut self, reader: u64, from: Sequence) {
        if !matches!(self.phase, Phase::Opening | Phase::Running) {
            return;
        }
        if from.0 <= self.mark.0 + 1 {
            self.reader = Some(reader);
            self.wanted = false;
        } else {
            // Asked for again as soon as there is room.
            self.reader = None;
            self.wanted = false;
        }
    }

    pub(super) fn accept(&mut self, reader: u64, messages: Vec<QueuedMessage<M>>) {
        if self.reader != Some(reader) {
            return;
        }
        for message in messages {
            if message.sequence <= self.mark {
                continue;
            }
            let full = self.queue.len() >= self.limits.queue_messages
                || (self.queue_bytes + message.bytes > self.limits.queue_bytes && !self.queue.is_empty());
            if full {
                // What does not fit is read again: the mark stays, and this reader no longer counts.
                self.reader = None;
                self.report(Report::Parked);
                return;
            }
            self.mark = message.sequence;
            self.queue_bytes += message.bytes;
            self.queue.push_back(message);
        }
    }

    pub(super) fn work(&mut self) {
        if self.call.is_some() {
            return;
        }
        if let Some(pending) = &self.pending {
            if self.revoked.is_some() && pending.send_at.is_some() {
                // It cannot be confirmed now: the next owner repeats the batch, under the same IDs.
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
        if self.revoked.is_some() {
            self.phase = Phase::Releasing;
            self.reader = None;
            self.needs_open = None;
            return self.release();
        }
        if let Some(why) = self.needs_open {
            return self.open(why);
        }
        self.phase = Phase::Running;
        if self.writing.is_none() && self.commit_is_due() {
            return self.ask_snapshot();
        }
        if let Some(at) = self.pause_until {
            if !self.due(at) {
                return;
            }
            self.pause_until = None;
        }
        // What a crash repeats is bounded, and a further try is written down before it begins.
        let written_down = self.attempts.is_none() || self.writing.is_none();
        if self.handled >= self.limits.max_uncommitted || self.commit_wanted || !written_down {
            return;
        }
        // What comes before a message that has trapped is committed first, so that passing over it loses nothing else; and so
        // is the number of its tries.
        let next = self.queue.get(self.handled).map(|m| m.sequence);
        let trapped = next.is_some() && self.traps.map(|(sequence, _)| sequence) == next;
        let written = self.record.as_ref().and_then(|(record, _)| record.attempts);
        if trapped && (self.handled > 0 || written != self.attempts) {
            self.commit_wanted = true;
            return self.work();
        }
        self.call_handler();
    }

    fn open(&mut self, why: OpenReason) {
        // A commit under way decides what the new instance starts from.
        if self.writing.is_some() {
            return;
        }
        if let Some(at) = self.pause_until {
            if !self.due(at) {
                return;
            }
            self.pause_until = None;
        }
        let snapshot = match self.committed_snapshot() {
            Ok(snapshot) => snapshot,
            Err(why) => return self.open_failed(why),
        };
        let Some((record, _)) = &self.record else { return };
        let epoch = record.epoch;
        self.phase = Phase::Opening;
        self.call = Some(Call::Open);
        self.command(Command::Open { why, snapshot, epoch });
    }

    pub(super) fn opened(&mut self, result: Result<(), Failure>) {
        if self.call != Some(Call::Open) {
            // Closed meanwhile: the close that follows ends the new instance too.
            return;
        }
        self.call = None;
        if self.phase == Phase::Releasing {
            // Fenced while it opened.
            self.is_open = result.is_ok();
            return self.close(CloseReason::Lost);
        }
        match result {
            Ok(()) => {
                self.is_open = true;
                self.needs_open = None;
                self.open_failures = 0;
                self.trouble = None;
            }
            Err(failure) => self.open_failed(failure.text().to_owned()),
        }
    }

    fn open_failed(&mut self, why: String) {
        self.report(Report::OpenFailed(why.clone()));
        self.trouble = Some(why);
        let at = self.now + self.backoff(self.open_failures);
        self.pause_until = Some(at);
        self.open_failures = self.open_failures.saturating_add(1);
        self.due(at);
    }

    fn backoff(&self, failures: u32) -> Duration {
        let (first, longest) = self.limits.backoff;
        first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(longest)
    }

    /// Asks for a reader at the start, and again once a parked partition has worked off half of what it may hold.
    pub(super) fn want_reader(&mut self) {
        let room =
            self.queue.len() <= self.limits.queue_messages / 2 && self.queue_bytes <= self.limits.queue_bytes / 2;
        if self.reader.is_none() && !self.wanted && room {
            self.wanted = true;
            self.command(Command::WantReader(self.mark));
        }
    }

    fn commit_is_due(&mut self) -> bool {
        if let Some(at) = self.snapshot_retry_at
            && !self.due(at)
        {
            return false;
        }
        if self.commit_wanted {
            return true;
        }
        if self.handled > 0 {
            let since = self.handled_since.unwrap_or(self.now);
            return self.handled >= self.limits.max_uncommitted / 2 || self.due(since + self.limits.commit_interval);
        }
        let moved = self.position() > self.committed();
        moved && self.due(self.committed_at + IDLE_COMMIT)
    }

    fn call_handler(&mut self) {
        let mut messages: Vec<QueuedMessage<M>> = Vec::new();
        let mut bytes = 0usize;
        for message in self.queue.iter().skip(self.handled) {
            let first = messages.is_empty();
            let alone = message.sequence <= self.one_by_one;
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
        let before = self.attempts.filter(|a| a.sequence == first).map_or(0, |a| a.count);
        let first_attempt = before.saturating_add(1);
        self.attempts = Some(Attempts { sequence: first, count: first_attempt });
        self.call = Some(Call::Handle { first, last, messages: messages.len() });
        self.command(Command::Handle(Batch { messages, first_attempt }));
    }

    pub(super) fn call_returned(&mut self, result: Result<Handled<O>, Failure>) {
        let Some(Call::Handle { first, last, messages }) = self.call.clone() else { return };
        self.call = None;
        match result {
            Ok(handled) => self.judge_outcome(handled, last, messages),
            Err(failure) => self.lost_call(&failure, first, last, messages),
        }
    }

    fn judge_outcome(&mut self, handled: Handled<O>, last: Sequence, messages: usize) {
        let Handled { outcome, outputs } = handled;
        let first_reject = outcome.done.iter().position(|c| matches!(c, Completed::Reject(_)));
        if self.limits.on_exhausted == OnExhausted::Block
            && let Some(at) = first_reject
            && (at + 1 < outcome.done.len() || at > 0)
        {
            // The state holds what came after the message that must block: go back and come to it alone.
            self.one_by_one = self.one_by_one.max(last);
            self.attempts = None;
            return self.lose_instance(OpenReason::Recovered);
        }
        let done: Vec<QueuedMessage<M>> =
            self.queue.iter().skip(self.handled).take(outcome.done.len().min(messages)).cloned().collect();
        let mut count = done.len();
        let mut letters = Vec::new();
        for (message, completed) in done.iter().zip(&outcome.done) {
            let Completed::Reject(reason) = completed else { continue };
            let attempts = self.attempts.filter(|a| a.sequence == message.sequence).map_or(1, |a| a.count);
            match self.give_up(message.clone(), reason, attempts) {
                GiveUp::Pass => {}
                GiveUp::Send(letter) => letters.push(letter),
                GiveUp::Wait => count = 0,
            }
        }
        let blocked = count < done.len();
        let mut outgoing = Vec::new();
        let mut places: HashMap<Sequence, u32> = HashMap::new();
        for output in outputs {
            // What a message outside the completed prefix has published comes again with it.
            if done.iter().take(count).any(|m| m.sequence == output.cause) {
                let place = places.entry(output.cause).or_default();
                outgoing.push(Outgoing::Publish { id: self.message_id(output.cause, &*place), body: output.body });
                *place += 1;
            }
        }
        outgoing.append(&mut letters);
        // A handler that gets nowhere would be called again and again: that is a retry.
        let nowhere = outcome.done.is_empty() && outcome.retry.is_none();
        let mut retry = if nowhere { Some(None) } else { outcome.retry };
        if let (Some(_), Some(message)) = (retry, self.queue.get(self.handled + count).cloned())
            && count < messages
            && !blocked
        {
            let attempts = self.attempts.filter(|a| a.sequence == message.sequence).map_or(1, |a| a.count);
            if attempts >= self.limits.max_attempts {
                match self.give_up(message, "retries are exhausted", attempts) {
                    GiveUp::Pass => count += 1,
                    GiveUp::Send(letter) => {
                        outgoing.push(letter);
                        count += 1;
                    }
                    GiveUp::Wait => {}
                }
                retry = None;
            } else {
                self.attempts = Some(Attempts { sequence: message.sequence, count: attempts });
                self.report(Report::Retrying { sequence: message.sequence, attempts });
            }
        } else {
            retry = None;
        }
        self.pending = Some(Pending { outgoing, done: count, retry, tries: 0, send_at: None });
        self.send();
    }

    /// The ID under which the output at this place of a message is published, now and whenever it is published again.
    fn message_id(&self, sequence: Sequence, place: &dyn Display) -> String {
        let generation = self.record.as_ref().map_or_else(Generation::default, |(record, _)| record.generation);
        let (group, stream, key) = (&self.group, &self.stream, self.id.record_key());
        format!("{group}/{}@{}/{key}/{generation}:{sequence}:{place}", stream.name, stream.created)
    }

    /// What to do about a message that cannot be handled.
    fn give_up(&mut self, message: QueuedMessage<M>, reason: &str, attempts: u32) -> GiveUp<M, O> {
        let sequence = message.sequence;
        let reason = reason.to_owned();
        match self.limits.on_exhausted {
            OnExhausted::Drop => {
                self.report(Report::Exhausted { sequence, reason });
                GiveUp::Pass
            }
            OnExhausted::DeadLetter => {
                self.report(Report::Exhausted { sequence, reason: reason.clone() });
                let id = self.message_id(sequence, &"dead-letter");
                GiveUp::Send(Outgoing::DeadLetter { id, message, reason, attempts })
            }
            OnExhausted::Block => {
                self.trouble = Some(format!("message {sequence} blocks the partition: {reason}"));
                self.report(Report::Blocked { sequence, reason });
                self.pause_until = Some(self.now + self.limits.backoff.1);
                GiveUp::Wait
            }
        }
    }

    fn send(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        pending.send_at = None;
        if pending.outgoing.is_empty() {
            return self.complete();
        }
        let outgoing = pending.outgoing.clone();
        self.sending = true;
        self.command(Command::Send(outgoing));
    }

    pub(super) fn sent(&mut self, result: Result<(), String>) {
        self.sending = false;
        let failures = match &mut self.pending {
            None => return,
            Some(pending) => {
                pending.tries = pending.tries.saturating_add(1);
                pending.tries - 1
            }
        };
        match result {
            Ok(()) => self.complete(),
            Err(why) => {
                let wait = self.backoff(failures);
                let at = self.now + wait;
                if let Some(pending) = &mut self.pending {
                    pending.send_at = Some(at);
                }
                self.trouble = Some(format!("output is not confirmed: {why}"));
                self.report(Report::Unconfirmed(why));
            }
        }
    }

    /// Everything the pending messages sent is confirmed: they have taken effect.
    fn complete(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        if pending.tries > 0 || pending.done > 0 {
            self.trouble = self.trouble.take().filter(|_| self.pause_until.is_some());
        }
        if pending.done > 0 {
            self.handled = (self.handled + pending.done).min(self.queue.len());
            self.handled_since.get_or_insert(self.now);
            let next = self.queue.get(self.handled).map(|m| m.sequence);
            let trapped = self.traps.map(|(sequence, count)| Attempts { sequence, count });
            self.attempts = [self.attempts, trapped].into_iter().flatten().find(|a| Some(a.sequence) == next);
        }
        if let Some(delay) = pending.retry {
            let failures = self.attempts.map_or(0, |a| a.count.saturating_sub(1));
            let wait = delay.unwrap_or_else(|| self.backoff(failures));
            self.pause_until = Some(self.now + wait);
            // The number of attempts must survive this process, so that a message which kills hosts does not kill them all.
            self.commit_wanted = true;
        }
    }

    fn lost_call(&mut self, failure: &Failure, first: Sequence, last: Sequence, messages: usize) {
        let alone = messages == 1;
        if let Failure::Guest(why) | Failure::Refused(why) = failure {
            self.report(Report::Trapped { sequence: first, messages, why: why.clone() });
            self.one_by_one = self.one_by_one.max(last);
            // Only a message alone in its call can be blamed.
            let traps = self.traps.filter(|(sequence, _)| alone && *sequence == first).map_or(0, |(_, n)| n);
            if alone {
                self.traps = Some((first, traps + 1));
                if traps + 1 >= self.limits.max_traps && self.poison(first, why) {
                    return;
                }
                self.pause_until = Some(self.now + self.backoff(traps));
            } else {
                self.attempts = None;
            }
        } else {
            self.forgive_attempt();
            self.pause_until = Some(self.now + self.backoff(0));
        }
        self.lose_instance(OpenReason::Recovered);
    }

    /// The host's doing never counts against a message.
    fn forgive_attempt(&mut self) {
        self.attempts =
            self.attempts.map(|a| Attempts { count: a.count.saturating_sub(1), ..a }).filter(|a| a.count > 0);
    }

    /// A message that has trapped too often. Returns whether it is on its way to be passed over.
    fn poison(&mut self, sequence: Sequence, why: &str) -> bool {
        let Some(message) = self.queue.iter().find(|m| m.sequence == sequence).cloned() else { return false };
        let attempts = self.attempts.map_or(1, |a| a.count);
        // The instance is gone and with it what it did since the last commit: those messages come again first, and only
        // then may the poisonous one be passed over.
        if self.handled > 0 {
            return false;
        }
        let letter = match self.give_up(message, &format!("the handler trapped: {why}"), attempts) {
            GiveUp::Pass => Vec::new(),
            GiveUp::Send(letter) => vec![letter],
            GiveUp::Wait => return false,
        };
        self.lose_instance(OpenReason::Recovered);
        self.commit_wanted = true;
        self.pending = Some(Pending { outgoing: letter, done: 1, retry: None, tries: 0, send_at: None });
        self.send();
        true
    }

    /// The instance is gone: back to the last commit, with a fresh one.
    fn lose_instance(&mut self, why: OpenReason) {
        self.is_open = false;
        self.handled = 0;
        self.handled_since = None;
        self.needs_open = Some(why);
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
        let result = result.and_then(|snapshot| match snapshot {
            Some(s) if s.data.len() > self.limits.max_snapshot_bytes => Err(Failure::Refused(format!(
                "the snapshot has {} bytes, at most {} are possible",
                s.data.len(),
                self.limits.max_snapshot_bytes
            ))),
            other => Ok(other),
        });
        match result {
            Ok(snapshot) => self.commit(snapshot),
            Err(failure) => {
                let why = failure.text().to_owned();
                self.report(Report::SnapshotFailed(why.clone()));
                self.trouble = Some(why);
                if self.phase == Phase::Releasing {
                    // Hand over as last committed: the next owner repeats the rest.
                    self.handled = 0;
                    self.passed = Sequence(0);
                    self.is_open = matches!(failure, Failure::Refused(_));
                } else if matches!(failure, Failure::Refused(_)) {
                    self.snapshot_retry_at = Some(self.now + self.limits.commit_interval.max(self.limits.backoff.0));
                } else {
                    self.pause_until = Some(self.now + self.backoff(0));
                    self.lose_instance(OpenReason::Recovered);
                }
            }
        }
    }
}

enum GiveUp<M, O> {
    Pass,
    Send(Outgoing<M, O>),
    Wait,
}
