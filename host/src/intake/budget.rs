//! The memory that messages in flight may take on this worker. A reader waits while it is used up.

use crate::plugin::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Bytes of messages in flight, and the most there may be.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    most: usize,
    freed: Notify,
}

impl Budget {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), most, freed: Notify::new() })
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.used.load(Ordering::Acquire) < self.most {
                return;
            }
            freed.await;
        }
    }

    /// Accounts for a message for as long as it lives. One message may exceed the budget, so that none is too large.
    pub(super) fn hold(self: &Arc<Self>, message: Message, bytes: usize) -> Held {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Held { message, bytes, budget: Arc::clone(self) }
    }
}

/// A message in flight. Dropping it gives its memory back to the budget.
#[derive(Debug)]
pub(super) struct Held {
    message: Message,
    bytes: usize,
    budget: Arc<Budget>,
}

impl std::borrow::Borrow<Message> for Held {
    fn borrow(&self) -> &Message {
        &self.message
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        if before >= self.budget.most && before - self.bytes < self.budget.most {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parti_coordination::Sequence;
    use std::time::Duration;

    fn message() -> Message {
        Message {
            subject: "s".into(),
            sequence: Sequence(1),
            timestamp_ns: 0,
            attempt: 1,
            headers: Vec::new(),
            payload: bytes::Bytes::new(),
        }
    }

    #[tokio::test]
    async fn a_reader_waits_until_messages_are_done_with() {
        let budget = Budget::new(100);
        budget.room().await;
        let (a, b) = (budget.hold(message(), 60), budget.hold(message(), 60));
        assert!(tokio::time::timeout(Duration::from_millis(20), budget.room()).await.is_err());
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.room().await }
        });
        drop(a);
        waiting.await.unwrap();
        drop(b);
        assert_eq!(budget.used.load(Ordering::Acquire), 0);
    }
}
