//! Which message kills workers, if one does: found without blaming another for it.
//!
//! A worker that dies says nothing of what it died of, and whatever it had in hand dies with it, in all of its partitions. So what a
//! seize tells is counted in steps, each of which leaves fewer messages under suspicion:
//!
//! * After one seize, every call is committed before the next, for as many messages as the dead owner can have had uncommitted. That costs
//!   a write per call, and leaves one batch under suspicion if the next owner dies too.
//! * After the next, that batch is handled one message per call, and before each call the record says which.
//! * A message that was alone in its call when a worker died is tried again only while no other such message is being tried on
//!   this worker, so that those which were merely there at the same time come out of it.
//! * Once workers have died in `max_traps` such calls of it, and at least two, it is given up like one that traps.
//!
//! A message that kills whoever handles it thus kills four workers by default. The count of seizes ends when all that was
//! under suspicion is handled and committed; what an owner commits or releases before that keeps it.

use super::{Command, PartitionMachine, Report};
use crate::Sequence;
use crate::record::{Attempts, OwnershipRecord, Phase as RecordPhase};
#[cfg(test)]
use crate::testing::Mutant;

/// One death may be a coincidence.
const LEAST_DEATHS: u32 = 2;

/// What is known of the deaths of owners before.
#[derive(Default)]
pub(super) struct Suspicion {
    /// Seizes in a row.
    seizes: u32,
    /// Messages under suspicion that are not committed yet.
    left: usize,
    /// The message that was alone in calls in which workers died, and in how many.
    deaths: Option<Attempts>,
    turn: Turn,
}

/// Whether the partition may try a message that was alone in its call when a worker died.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Turn {
    #[default]
    No,
    Asked,
    Ours,
}

/// What is to be done before the next call.
pub(super) enum Caution {
    /// Nothing.
    None,
    /// Commit, with what the record then says of the next message.
    Commit,
    /// Wait for what was asked for.
    Wait,
    /// Give the message up.
    GiveUp(u32),
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// Brings a record that is about to be taken up to date.
    pub(super) fn count_seize(record: &mut OwnershipRecord, seize: bool) {
        if seize {
            record.seizes = record.seizes.saturating_add(1);
        } else if record.phase == RecordPhase::Owned {
            // This process has owned it before, and lives.
            record.alone = forgive(record.alone);
        }
        #[cfg(test)]
        if Mutant::SeizesForgotten.is_on() {
            record.seizes = 0;
        }
    }

    /// The partition is taken.
    pub(super) fn suspect(&mut self, record: &OwnershipRecord) {
        let left = match record.seizes {
            0 => 0,
            1 => self.limits.max_uncommitted.saturating_add(self.limits.batch_messages),
            _ => self.limits.batch_messages,
        };
        self.suspicion = Suspicion { seizes: record.seizes, left, deaths: record.alone, turn: Turn::No };
        if self.hands_over_alone() {
            self.report(Report::Suspicious { seizes: record.seizes });
        }
    }

    /// Nothing is handled under suspicion any more.
    pub(super) fn forget_suspicion(&mut self) {
        self.end_turn();
        self.suspicion = Suspicion::default();
    }

    /// Whether every call is committed before the next.
    pub(super) fn is_suspicious(&self) -> bool {
        self.suspicion.left > 0
    }

    /// Whether messages are handed over one per call.
    pub(super) fn hands_over_alone(&self) -> bool {
        self.suspicion.left > 0 && self.suspicion.seizes > 1
    }

    fn next_sequence(&self) -> Option<Sequence> {
        self.queue.get(self.handled).map(|message| message.sequence)
    }

    /// In how many calls of this message alone a worker has died.
    pub(super) fn deaths(&self, sequence: Sequence) -> u32 {
        let deaths =
            self.suspicion.deaths.filter(|deaths| deaths.sequence == sequence).map_or(0, |deaths| deaths.count);
        #[cfg(test)]
        let deaths = Mutant::SeizeBlamesTheNext.or(deaths, self.suspicion.seizes);
        deaths
    }

    /// What is to be done before the next message is handed over, with everything before it committed.
    pub(super) fn caution(&mut self) -> Caution {
        let Some(next) = self.next_sequence().filter(|_| self.hands_over_alone()) else { return Caution::None };
        let deaths = self.deaths(next);
        if deaths >= self.limits.max_traps.max(LEAST_DEATHS) {
            return Caution::GiveUp(deaths);
        }
        if deaths > 0 && self.suspicion.turn != Turn::Ours {
            if self.suspicion.turn == Turn::No {
                self.suspicion.turn = Turn::Asked;
                self.command(Command::AskTurn);
            }
            return Caution::Wait;
        }
        let written = self.record.as_ref().and_then(|(record, _)| record.alone);
        if written == self.alone() { Caution::None } else { Caution::Commit }
    }

    /// The next message, if it may be handed over alone now, with the call that this begins.
    fn alone(&self) -> Option<Attempts> {
        let sequence = self.next_sequence().filter(|_| self.hands_over_alone())?;
        let count = self.deaths(sequence);
        let may = count == 0 || self.suspicion.turn == Turn::Ours;
        Some(Attempts { sequence, count: count.saturating_add(u32::from(may)) })
    }

    /// What a record that is about to be written says: the seizes in a row, and the message that is handed over alone. A release hands
    /// nothing over.
    pub(super) fn suspects(&self, releases: bool) -> (u32, Option<Attempts>) {
        let seizes = if self.is_suspicious() { self.suspicion.seizes } else { 0 };
        let deaths =
            self.suspicion.deaths.filter(|deaths| self.next_sequence().is_none_or(|next| next <= deaths.sequence));
        let deaths = deaths.filter(|deaths| self.is_suspicious() && !self.position().covers(deaths.sequence));
        (seizes, if releases { deaths } else { self.alone().or(deaths) })
    }

    /// This many more messages are committed.
    pub(super) fn cleared(&mut self, done: usize) {
        self.suspicion.left = self.suspicion.left.saturating_sub(done);
    }

    pub(super) fn turn_granted(&mut self) {
        if self.suspicion.turn == Turn::Asked {
            self.suspicion.turn = Turn::Ours;
        }
    }

    /// A commit has landed: who no longer tries such a message makes way for others.
    pub(super) fn yield_turn(&mut self) {
        if self.next_sequence().is_none_or(|next| self.deaths(next) == 0) {
            self.end_turn();
        }
    }

    fn end_turn(&mut self) {
        if std::mem::take(&mut self.suspicion.turn) != Turn::No {
            self.command(Command::EndTurn);
        }
    }
}

/// A call that has been written down, and in which nobody has died.
fn forgive(alone: Option<Attempts>) -> Option<Attempts> {
    alone.map(|a| Attempts { count: a.count.saturating_sub(1), ..a }).filter(|a| a.count > 0)
}
