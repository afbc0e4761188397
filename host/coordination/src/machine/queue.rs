//! What a partition does besides in queue mode, where messages are acknowledged and a subject is in one consumer at a time.
//!
//! Handing over has a step more: what is handled is committed while the record is still ours, then the partition leaves its
//! consumer, then the record is released, so that the next owner's consumer never meets ours. And whoever finds a consumer in
//! its way looks at the record before it clears it away: a worker that was frozen must not take from the owner that came
//! after it.

use super::{Command, PartitionMachine, Phase};
#[cfg(test)]
use crate::testing::Mutant;

/// Whether the partition has left its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detach {
    No,
    Asked,
    Done,
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// Whether the partition may be released. Asks for it to leave its consumer, once.
    pub(super) fn is_detached(&mut self) -> bool {
        if self.limits.acknowledges && self.detach == Detach::No {
            self.detach = Detach::Asked;
            self.command(Command::Detach);
        }
        let left = !self.limits.acknowledges || self.detach == Detach::Done;
        #[cfg(test)]
        let left = Mutant::ReleasedInConsumer.or(left, true);
        left
    }

    pub(super) fn detached(&mut self) {
        if self.detach == Detach::Asked {
            self.detach = Detach::Done;
        }
    }

    /// Somebody else may own the partition: nothing is read before the record says that it is ours.
    pub(super) fn doubted(&mut self) {
        if matches!(self.phase, Phase::Opening | Phase::Running) {
            self.no_reader();
            self.doubt = true;
            self.look_again();
        }
    }
}
