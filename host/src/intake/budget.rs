//! The memory that messages in flight may take on this worker. A reader waits while it is used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes of messages in flight, and the most there may be.
///
/// Readers stop well before the most, so that partitions that all keep up never fill their queues; what partitions hold that
/// do not keep up is set aside and does not stop the readers of the others.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    aside: AtomicUsize,
    most: usize,
    /// At this many bytes readers wait.
    pace: AtomicUsize,
    freed: Notify,
}

/// Of the most, the part at which readers wait at the latest.
const PACE: usize = 2;

/// Of what the queues of all partitions may hold together, the part at which readers wait: queues differ in length by chance,
/// and none should overflow by that.
const PART_OF_QUEUES: (usize, usize) = (3, 4);

/// If nothing is given back for so long, those who hold the memory do not move, and readers go on to the most.
const STANDSTILL: Duration = Duration::from_millis(200);

impl Budget {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            most,
            pace: AtomicUsize::new(most / PACE),
            freed: Notify::new(),
        })
    }

    /// The queues of all partitions together may hold so many bytes.
    pub(super) fn adapt(&self, queues: usize) {
        self.pace.store((queues / PART_OF_QUEUES.1 * PART_OF_QUEUES.0).min(self.most / PACE), Ordering::Release);
        self.freed.notify_waiters();
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room(self.used.load(Ordering::Acquire)) {
                return;
            }
            // Whoever holds everything and gives nothing back stands still: what comes next parks it.
            if timeout(STANDSTILL, freed).await.is_err() && self.used.load(Ordering::Acquire) < self.most {
                return;
            }
        }
    }

    fn has_room(&self, used: usize) -> bool {
        used < self.most && used.saturating_sub(self.aside.load(Ordering::Acquire)) < self.pace.load(Ordering::Acquire)
    }

    /// A partition that does not keep up holds this much.
    pub(super) fn set_aside(&self, bytes: usize) {
        self.aside.fetch_add(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// It keeps up again, or is gone.
    pub(super) fn take_back(&self, bytes: usize) {
        self.aside.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Accounts for so many bytes for as long as the share lives. It may exceed the budget, so that no message is too large.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Share {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Share { bytes, budget: Arc::clone(self) }
    }

    /// Bytes that are accounted for.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

/// Memory in use. Dropping it gives it back to the budget.
#[derive(Debug)]
pub(super) struct Share {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let before = self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        if !self.budget.has_room(before) && self.budget.has_room(before - self.bytes) {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_reader_waits_until_messages_are_done_with() {
        let budget = Budget::new(100 * PACE);
        budget.room().await;
        let (a, b) = (budget.hold(60), budget.hold(60));
        assert!(budget.room().now_or_never().is_none());
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.room().await }
        });
        drop(a);
        waiting.await.unwrap();
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn what_a_stuck_partition_holds_does_not_stop_the_readers_of_others_until_the_memory_ends() {
        let budget = Budget::new(1000);
        let stuck = budget.hold(600);
        assert!(budget.room().now_or_never().is_none());
        budget.set_aside(600);
        budget.room().await;
        let more = budget.hold(400);
        budget.set_aside(400);
        assert!(tokio::time::timeout(STANDSTILL * 2, budget.room()).await.is_err());
        drop((stuck, more));
        budget.take_back(1000);
        budget.room().await;
    }

    #[tokio::test]
    async fn partitions_that_stand_still_without_being_parked_do_not_stop_the_readers_for_good() {
        let budget = Budget::new(1000);
        let _stuck = budget.hold(600);
        budget.room().await;
    }
}
