//! Another version of the handler, while the partition goes on.
//!
//! At the end of a batch what is handled is committed, the new version opens with that state, and the next batch is its. The old
//! instance stays until the new one is open, so that a version which does not open has changed nothing.
//!
//! Then the new version is on trial, until the worker has judged it by all of its partitions. Meanwhile nothing is committed: a state
//! that the new version has written might be one that the old one cannot read. So a crash, a hand-over and a verdict against it
//! all lead back to the same place, the commit that the old version has made, and every message since then comes again. For the
//! same reason nothing is given up on trial: a message that only the new version cannot handle is not to blame. A partition that
//! cannot go on without a commit waits for the verdict, as does one that has as many uncommitted messages as it may have.

use super::{PartitionMachine, Phase, Report};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Now, OpenReason, Sequence};
use std::sync::Arc;

/// The version of the handler that a partition is to change to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapOrder {
    /// Its digest.
    pub to: Arc<str>,
    /// Whether it is on trial until the next order. If not, it is in force as soon as it is open.
    pub on_trial: bool,
    /// It begins without the state that the other version has written.
    pub discard_state: bool,
}

/// How a version does that is on trial.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Messages that it has completed. What comes again after a failure counts again.
    pub handled: u64,
    /// Calls that were completed.
    pub completed: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Messages that it would have given up: the partition waits at the first.
    pub rejected: u64,
    /// It cannot go on before the verdict.
    pub waits: bool,
}

/// A change of version that has begun.
pub(super) struct Swap {
    order: SwapOrder,
    stage: Stage,
    /// When the partition has stopped handing messages to the old version.
    stopped_at: Option<Now>,
}

enum Stage {
    /// What is handled is committed first.
    Wanted,
    /// The new version opens; the other one is still there.
    Opening,
    /// The new version handles messages. The digest is that of the other one.
    OnTrial { from: Arc<str>, trial: Trial },
}

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// The worker wants another version.
    pub(super) fn swap_ordered(&mut self, order: SwapOrder) {
        if self.phase == Phase::Gone {
            return;
        }
        if let Some(Swap { order: now, stage: Stage::OnTrial { .. }, .. }) = &self.swap {
            if now.to == order.to && !order.discard_state {
                // To go on with it for good; or it is on trial already.
                self.verdict = self.verdict.or((!order.on_trial).then_some(true));
                return;
            }
            self.verdict = Some(false);
        }
        // What the other version refuses, this one may open.
        if self.refused.take().is_some() && self.phase == Phase::Waiting {
            self.read_at = Some(self.now);
        }
        if self.needs_open.is_some() {
            self.pause_until = None;
        }
        self.next_swap = Some(order);
    }

    pub(super) fn is_on_trial(&self) -> bool {
        self.swap.as_ref().is_some_and(Swap::is_on_trial)
    }

    /// How the version on trial does.
    pub(super) fn trial(&self) -> Option<Trial> {
        let Some(Swap { stage: Stage::OnTrial { trial, .. }, .. }) = &self.swap else { return None };
        // What bounds the messages that a crash repeats bounds the trial too.
        let is_full = self.awaits_commit() || self.is_full_of_handled();
        Some(Trial { waits: trial.waits || is_full, ..*trial })
    }

    fn trial_mut(&mut self) -> Option<&mut Trial> {
        match &mut self.swap {
            Some(Swap { stage: Stage::OnTrial { trial, .. }, .. }) => Some(trial),
            _ => None,
        }
    }

    /// Whether the partition has come to a message that nobody may give up before the verdict.
    pub(super) fn awaits_verdict(&self) -> bool {
        matches!(&self.swap, Some(Swap { stage: Stage::OnTrial { trial, .. }, .. }) if trial.waits)
    }

    /// A call is completed, and so many messages with it.
    pub(super) fn trial_went_on(&mut self, messages: usize) {
        if let Some(trial) = self.trial_mut() {
            trial.completed = trial.completed.saturating_add(1);
            trial.handled = trial.handled.saturating_add(messages as u64);
        }
    }

    /// A call of the version on trial has failed, or it has not opened again after one.
    pub(super) fn trial_failed(&mut self) {
        if let Some(trial) = self.trial_mut() {
            trial.failed = trial.failed.saturating_add(1);
        }
    }

    /// The version on trial would have given up a message: it waits, with the message, for the verdict.
    pub(super) fn trial_waits(&mut self) {
        if let Some(trial) = self.trial_mut() {
            trial.rejected = trial.rejected.saturating_add(1);
            trial.waits = true;
        }
    }

    /// Whether the verdict is that the old version comes back.
    pub(super) fn goes_back(&self) -> bool {
        self.verdict == Some(false)
    }

    /// Carries out the verdict, with no call open and nothing unconfirmed.
    pub(super) fn end_trial(&mut self) {
        let Some(keep) = self.verdict.take() else { return };
        #[cfg(test)]
        let keep = Mutant::TrialAlwaysKept.or(keep, true);
        if !keep {
            return self.go_back(true);
        }
        self.swap = None;
        // What has waited for a commit goes on.
        self.pause_until = None;
        self.commit_wanted = true;
    }

    /// Back to the other version and to its commit. Whether it opens again, or the partition is given up as it was committed.
    pub(super) fn go_back(&mut self, reopens: bool) {
        let Some(Swap { order, stage: Stage::OnTrial { from, .. }, .. }) = self.swap.take_if(|swap| swap.is_on_trial())
        else {
            return;
        };
        self.verdict = None;
        self.handler = from;
        self.report(Report::SwappedBack { from: order.to });
        self.handled = 0;
        self.handled_since = None;
        self.attempts = None;
        self.traps = None;
        self.one_by_one = Sequence(0);
        self.commit_wanted = false;
        self.pause_until = None;
        if reopens {
            // Its instance knows more than is committed: whatever opens now, it is not to come back.
            self.is_open = false;
            self.needs_open = Some(OpenReason::Swapped);
        } else {
            self.give_no_state();
        }
    }

    /// Whether the instance that is there is of the version whose state may be committed, and nothing is about to replace it.
    pub(super) fn holds_state(&self) -> bool {
        self.is_open && !matches!(&self.swap, Some(Swap { stage: Stage::Opening | Stage::OnTrial { .. }, .. }))
    }

    /// Whether another version is ordered.
    pub(super) fn is_to_change(&self) -> bool {
        self.next_swap.as_ref().is_some_and(|order| order.to != self.handler)
    }

    /// Takes up what was ordered, between two batches.
    pub(super) fn take_up_swap(&mut self) {
        let Some(order) = self.next_swap.take() else { return };
        if self.is_on_trial() {
            // It came while the version on trial was opening: it is the verdict on that.
            self.swap_ordered(order);
            self.end_trial();
            return self.take_up_swap();
        }
        let is_there = self.handler == order.to && !order.discard_state;
        self.swap = (!is_there).then_some(Swap { order, stage: Stage::Wanted, stopped_at: None });
    }

    /// Commits what the old version has handled, and opens the new one. Whether there is anything of that to do.
    pub(super) fn change_over(&mut self) -> bool {
        let Some(Swap { stage: Stage::Wanted, stopped_at, .. }) = &mut self.swap else { return false };
        stopped_at.get_or_insert(self.now);
        if self.is_committing() {
            return true;
        }
        if (self.handled > 0 || self.is_renewing()) && !self.outgrown {
            self.ask_snapshot();
            return true;
        }
        if self.handled > 0 {
            // A state that cannot be kept is left behind with its instance: what opens now begins at the last commit.
            self.lose_instance(OpenReason::Swapped);
        }
        self.pause_until = None;
        self.needs_open = Some(OpenReason::Swapped);
        false
    }

    /// Whether the old version is only there to give its state.
    pub(super) fn wants_swap(&self) -> bool {
        matches!(&self.swap, Some(Swap { stage: Stage::Wanted, .. }))
    }

    /// The version to open, and whether it gets the state. From now on what becomes of that is the swap's.
    pub(super) fn version_to_open(&mut self) -> (Arc<str>, bool) {
        match &mut self.swap {
            Some(swap @ Swap { stage: Stage::Wanted | Stage::Opening, .. }) => {
                swap.stage = Stage::Opening;
                (swap.order.to.clone(), !swap.order.discard_state)
            }
            // A lost instance of a version on trial begins where that has begun.
            Some(Swap { order, stage: Stage::OnTrial { .. }, .. }) => (order.to.clone(), !order.discard_state),
            None => (Arc::clone(&self.handler), true),
        }
    }

    /// The new version is open, if it was one that was opening.
    pub(super) fn swap_opened(&mut self) {
        let Some(Swap { order, stage: Stage::Opening, stopped_at }) = self.swap.take_if(|swap| swap.is_opening())
        else {
            return;
        };
        let from = std::mem::replace(&mut self.handler, order.to.clone());
        let pause = self.now.since(stopped_at.unwrap_or(self.now));
        self.report(Report::Swapped { to: order.to.clone(), pause });
        // What the other version could not do says nothing about this one.
        self.traps = None;
        self.one_by_one = Sequence(0);
        self.pause_until = None;
        self.outgrown = false;
        if order.on_trial {
            let stage = Stage::OnTrial { from, trial: Trial::default() };
            self.swap = Some(Swap { order, stage, stopped_at: None });
        } else {
            self.commit_wanted |= order.discard_state;
        }
    }

    /// The new version does not open: the old one goes on. Whether it was a new version that was opening.
    pub(super) fn swap_failed(&mut self, why: &str) -> bool {
        let Some(swap) = self.swap.take_if(|swap| swap.is_opening()) else { return false };
        self.report(Report::SwapFailed { to: Arc::clone(&swap.order.to), why: why.to_owned() });
        if self.is_open {
            self.needs_open = None;
        } else if !swap.order.on_trial {
            // It is the version in force, and there is no other to go on with.
            self.handler = swap.order.to;
            return false;
        }
        true
    }

    /// The partition is no longer ours: whoever takes it begins at the commit, and so do we if it comes back.
    pub(super) fn forget_swap(&mut self) {
        self.go_back(false);
        self.verdict = None;
        // What was not yet open is still to be.
        if let Some(swap) = self.swap.take() {
            self.next_swap.get_or_insert(swap.order);
        }
    }
}

impl Swap {
    fn is_on_trial(&self) -> bool {
        matches!(self.stage, Stage::OnTrial { .. })
    }

    fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening)
    }
}
