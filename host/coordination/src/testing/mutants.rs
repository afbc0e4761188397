//! Ways in which the core can be broken on purpose, to show that the simulator notices.
//!
//! A mutant is switched on for one thread, in which a whole simulation runs. The core asks for it at the one place that it
//! breaks, under `#[cfg(test)]`.

use crate::Snapshot;
use std::cell::{Cell, RefCell};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A worker renews its ID without a compare.
    IdRenewedBlindly,
    /// A leader renews its lease without a compare.
    LeaseRenewedBlindly,
    /// A new leader begins without the assignments in force.
    LeaderPlansFromScratch,
    /// A dead worker's partitions wait for the cool-down.
    EmergencyCoolsDown,
    /// A new leader counts plan versions from the beginning.
    VersionRestarts,
    /// A reply to an earlier request is taken for that of the latest.
    LateReplyTaken,
    /// A value of ours that was there before is taken for the one just written.
    OldValueTakenForNew,
    /// An assignment of another term than the plan's is accepted.
    OldTermAccepted,
    /// A lost compare is taken for the verdict that another holds our ID.
    LostCompareFences,
    /// A candidate's term is one more than the lease's, and an expired lease has none.
    TermFromLeaseOnly,
    /// Of two incarnations of an ID the one with the higher UUID counts as the later.
    UuidInsteadOfClaim,
    /// A commit writes the position first, and the state after it.
    StateAfterPosition,
    /// A commit is written without a compare.
    CommitsBlindly,
    /// A message counts as new if it is above the position, even if it is queued.
    AcceptedByPosition,
    /// A reader is taken that begins one message after what is missing.
    ReaderJoinsEarly,
    /// Outputs are numbered per call of the handler.
    OutputsNumberedPerBatch,
    /// A fresh instance goes on where the lost one was.
    NoWayBackToCommit,
    /// A commit that loses its compare is given up without a question.
    LostCommitFences,
    /// What a version on trial has handled is committed.
    CommitsOnTrial,
    /// A version on trial is kept, whatever the verdict.
    TrialAlwaysKept,
    /// What one partition's handler gives as its state is handed to the next that opens.
    SnapshotShared,
    /// An owner who lives is overruled at once.
    LiveOwnerOverruled,
    /// A partition whose record is lost begins like one that nobody has ever owned.
    LostRecordBeginsAnew,
    /// Nobody counts how often a partition was seized.
    SeizesForgotten,
    /// What is next when a partition is seized is blamed for it.
    SeizeBlamesTheNext,
    /// A partition is released before it has left its consumer.
    ReleasedInConsumer,
    /// An object's name says nothing of the partition whose state it holds.
    ObjectsShared,
    /// Orphans wait for a strategy as long as it takes.
    OrphansWaitForStrategy,
    /// A strategy's answer is taken that was given to another question.
    StaleAnswerTaken,
    /// A strategy's answer is taken whatever it is.
    AnswerUnchecked,
    /// Where a strategy fails, no plan is made for those who joined.
    JoinersWaitForStrategy,
    /// A state in the object store is deleted before the commit that replaces it is confirmed.
    DeletedBeforeCommit,
    /// An owner who has nothing to commit never looks at his record unless he is told to.
    NeverLooks,
    /// A record that was lost is written back with the state that it named.
    LostStateNamedAgain,
    /// An operator who moves a partition keeps its generation.
    MovedInGeneration,
    /// A lost compare is repeated over whatever has the same owner, also if an operator has written it.
    MoveOverwritten,
    /// A leader answers the operator without a compare.
    AnswersBlindly,
    /// A plan moves one partition more than it may.
    BudgetExceeded,
    /// A drained worker gets partitions like any other.
    DrainsForgotten,
    /// A pause is obeyed once nothing waits any more.
    PausedWhenIdle,
}

thread_local! {
    static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    /// For [`Mutant::SnapshotShared`]: the latest state that any partition has committed.
    static SHARED: RefCell<Option<Snapshot>> = const { RefCell::new(None) };
}

/// What all partitions share if [`Mutant::SnapshotShared`].
pub(crate) fn share(snapshot: Option<&Snapshot>) {
    SHARED.set(snapshot.cloned());
}

pub(crate) fn shared() -> Option<Snapshot> {
    SHARED.with_borrow(Clone::clone)
}

impl Mutant {
    /// Whether the core of this thread is broken in this way.
    pub(crate) fn is_on(self) -> bool {
        BROKEN.get() == Some(self)
    }

    /// What the core means, or what it does instead if it is broken in this way.
    pub(crate) fn or<T>(self, meant: T, wrong: T) -> T {
        if self.is_on() { wrong } else { meant }
    }

    /// Runs something with a core that is broken in this way.
    pub(crate) fn breaks<T>(self, run: impl FnOnce() -> T) -> T {
        BROKEN.set(Some(self));
        let result = run();
        BROKEN.set(None);
        result
    }
}
