//! What waits for a partition's handler: from which reader it accepts, how much it holds, and when it lets go of that.
//!
//! A partition that cannot keep up is parked: what exceeds its bound is dropped, the mark stays behind it, and it is read again
//! once there is room. One that stands still lets go of what waits at once, so that its neighbours have the memory.

use super::{Command, PartitionMachine, Phase, QueuedMessage, Report};
use crate::Sequence;
#[cfg(test)]
use crate::testing::Mutant;
use std::time::Duration;

/// A partition that handles nothing for longer than this stands still.
const STANDS_STILL: Duration = Duration::from_secs(1);

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    pub(super) fn reader_started(&mut self, reader: u64, from: Sequence) {
        if !matches!(self.phase, Phase::Opening | Phase::Running) {
            return;
        }
        self.no_reader();
        let latest = self.mark.0 + 1;
        #[cfg(test)]
        let latest = Mutant::ReaderJoinsEarly.or(latest, latest + 1);
        if from.0 <= latest {
            self.reader = Some(reader);
            self.fed_by = reader;
        } else if self.let_go {
            // It was asked for before the partition stood still, and is asked for again when it goes on.
            self.report(Report::Parked { reader });
        }
    }

    /// Asked for again as soon as there is room.
    pub(super) fn no_reader(&mut self) {
        self.reader = None;
        self.wanted = false;
    }

    pub(super) fn accept(&mut self, reader: u64, messages: Vec<QueuedMessage<M>>) {
        if self.reader != Some(reader) {
            return;
        }
        for message in messages {
            let known = self.mark;
            #[cfg(test)]
            let known = Mutant::AcceptedByPosition.or(known, Sequence(self.committed().0));
            if message.sequence <= known {
                continue;
            }
            let full = self.queue.len() >= self.limits.queue_messages.min(self.may_hold())
                || (self.queue_bytes + message.bytes > self.limits.queue_bytes && !self.queue.is_empty());
            if full {
                // What does not fit is read again: the mark stays, and this reader no longer counts.
                self.park(reader);
                return;
            }
            self.mark = message.sequence;
            self.queue_bytes += message.bytes;
            self.queue.push_back(message);
        }
    }

    /// Asks for a reader at the start, and again once a parked partition has worked off half of what it may hold.
    pub(super) fn want_reader(&mut self) {
        let room =
            self.queue.len() <= self.limits.queue_messages / 2 && self.queue_bytes <= self.limits.queue_bytes / 2;
        if !self.doubt && !self.let_go && self.reader.is_none() && !self.wanted && room {
            self.wanted = true;
            self.command(Command::WantReader(self.mark));
        }
    }

    /// Whether nothing is handled before long: the operator has paused the partition, a message blocks it or waits for a late
    /// retry, or the handler does not open. (What is published and not confirmed yet holds up everybody.) In queue mode the
    /// server counts what is not acknowledged, and delivers no more than that.
    fn stands_still(&self) -> bool {
        let waits = self.pause_until.is_some_and(|at| at.since(self.now) > STANDS_STILL);
        !self.limits.acknowledges && self.call.is_none() && self.pending.is_none() && (self.paused || waits)
    }

    /// How many messages it may hold, for what it is doing.
    fn may_hold(&self) -> usize {
        // The next one, to try it again. The operator may have paused the partition for days.
        if self.stands_still() { self.handled + usize::from(!self.paused) } else { usize::MAX }
    }

    /// Lets go of what waits while the partition stands still. What is let go of is asked for once the rest is handled, and not at
    /// each try before.
    pub(super) fn let_go(&mut self) {
        if self.let_go && self.handled == self.queue.len() && !self.stands_still() {
            self.let_go = false;
        }
        let kept = self.may_hold();
        let Some(first) = self.queue.get(kept).map(|message| message.sequence) else { return };
        self.queue_bytes -= self.queue.drain(kept..).map(|message| message.bytes).sum::<usize>();
        self.mark = Sequence(first.0 - 1);
        self.passed = self.passed.min(self.mark);
        self.park(self.fed_by);
    }

    fn park(&mut self, reader: u64) {
        self.reader = None;
        self.let_go |= self.stands_still();
        self.report(Report::Parked { reader });
    }
}
