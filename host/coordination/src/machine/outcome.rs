//! What became of a call of the handler: messages completed, retried, given up, or an instance lost; and what it published.

use super::work::Call;
use super::{Command, Failure, Handled, OnExhausted, Outgoing, PartitionMachine, QueuedMessage, Report};
use crate::record::Attempts;
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Completed, Generation, Now, OpenReason, Sequence};
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

/// Messages that are done as soon as what they sent is confirmed.
pub(super) struct Pending<M, O> {
    outgoing: Vec<Outgoing<M, O>>,
    done: usize,
    retry: Option<Option<Duration>>,
    tries: u32,
    /// When to send again what was not confirmed.
    pub(super) send_at: Option<Now>,
}

enum GiveUp<M, O> {
    Pass,
    Send(Outgoing<M, O>),
    Wait,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    pub(super) fn call_returned(&mut self, result: Result<Handled<O>, Failure>) {
        let Some(Call::Handle { first, last, messages }) = self.call.clone() else { return };
        self.call = None;
        if self.goes_back() {
            // What a version that is given up has done since the commit counts for nothing.
            self.is_open = result.is_ok();
            return;
        }
        match result {
            Ok(handled) => self.judge_outcome(handled, last, messages),
            Err(failure) => self.lost_call(&failure, first, last, messages),
        }
    }

    fn judge_outcome(&mut self, handled: Handled<O>, last: Sequence, messages: usize) {
        let Handled { outcome, outputs } = handled;
        let first_reject = outcome.done.iter().position(|c| matches!(c, Completed::Reject(_)));
        if self.on_exhausted() == OnExhausted::Block
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
                let counted = output.cause;
                #[cfg(test)]
                let counted = Mutant::OutputsNumberedPerBatch.or(counted, Sequence(0));
                let place = places.entry(counted).or_default();
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

    /// What becomes of messages that cannot be handled. On trial none is given up.
    fn on_exhausted(&self) -> OnExhausted {
        if self.is_on_trial() { OnExhausted::Block } else { self.limits.on_exhausted }
    }

    /// What to do about a message that cannot be handled.
    fn give_up(&mut self, message: QueuedMessage<M>, reason: &str, attempts: u32) -> GiveUp<M, O> {
        let sequence = message.sequence;
        let reason = reason.to_owned();
        if self.is_on_trial() {
            self.trial_waits();
            return GiveUp::Wait;
        }
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

    pub(super) fn send(&mut self) {
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
                self.trial_failed();
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
            self.trial_went_on(pending.done);
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
            self.trial_failed();
            self.one_by_one = self.one_by_one.max(last);
            // Only a message alone in its call can be blamed.
            let traps = self.traps.filter(|(sequence, _)| alone && *sequence == first).map_or(0, |(_, n)| n);
            if alone {
                self.traps = Some((first, traps + 1));
                if traps + 1 >= self.limits.max_traps && !self.is_on_trial() && self.poison(first, why) {
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
    pub(super) fn forgive_attempt(&mut self) {
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

    /// The next message was alone in its call when so many workers died: it is not handed over again.
    pub(super) fn condemn(&mut self, deaths: u32) {
        let Some(message) = self.queue.get(self.handled).cloned() else { return };
        let attempts = self.tries().map_or(deaths, |a| a.count.max(deaths));
        let reason = format!("{deaths} workers died while they handled this message alone");
        let letter = match self.give_up(message, &reason, attempts) {
            GiveUp::Pass => Vec::new(),
            GiveUp::Send(letter) => vec![letter],
            GiveUp::Wait => {
                if let Some(at) = self.pause_until {
                    self.due(at);
                }
                return;
            }
        };
        self.pending = Some(Pending { outgoing: letter, done: 1, retry: None, tries: 0, send_at: None });
        self.send();
    }

    /// The instance is gone: back to the last commit, with a fresh one.
    pub(super) fn lose_instance(&mut self, why: OpenReason) {
        self.is_open = false;
        let kept = 0;
        #[cfg(test)]
        let kept = Mutant::NoWayBackToCommit.or(kept, self.handled);
        self.handled = kept;
        self.handled_since = None;
        self.needs_open = Some(why);
    }
}
