//! Commits by ration: where a worker bounds its commits, one that is due is asked for, and made once it is granted.
//!
//! The handler is asked for its state only then, so that a commit which has waited covers what was handled meanwhile. Handling goes
//! on, as far as `max_uncommitted` allows. The last commit of an ownership is never asked for: no hand-over waits for a ration.

use super::{Command, PartitionMachine};

/// Where the next commit stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ration {
    /// Nothing is asked for.
    #[default]
    Unasked,
    /// It is asked for, and whether it was said that nothing is handled before it.
    Asked { stands: bool },
    /// It may be made.
    Granted,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// Whether a commit that is due may be made now. If not, it is asked for.
    pub(super) fn may_commit(&mut self) -> bool {
        if !self.limits.rationed {
            return true;
        }
        let stands = self.awaits_commit() || self.is_full_of_handled();
        match self.ration {
            Ration::Granted => {
                self.ration = Ration::Unasked;
                return true;
            }
            Ration::Asked { stands: said } if said || !stands => {}
            Ration::Asked { .. } | Ration::Unasked => {
                self.ration = Ration::Asked { stands };
                let since = self.handled_since.unwrap_or(self.now);
                self.command(Command::AskCommit { since, stands });
            }
        }
        false
    }

    pub(super) fn commit_granted(&mut self) {
        // What was asked for by an earlier ownership is not for this one.
        if matches!(self.ration, Ration::Asked { .. }) {
            self.ration = Ration::Granted;
        }
    }

    /// It was parked, and has room for more only when what is handled is committed.
    pub(super) fn is_full_of_handled(&self) -> bool {
        self.reader.is_none() && !self.wanted && self.handled > 0 && self.handled == self.queue.len()
    }
}
