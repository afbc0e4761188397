//! One partition in a lane: what was delivered for it and is not acknowledged yet.

use super::super::chunk::Gathered;
use super::super::feed::PartitionInput;
use crate::nats::QueueMessage;
use parti_coordination::{Position, Sequence};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// A message that waits for its acknowledgement.
struct Waiting {
    /// Where its latest delivery is acknowledged.
    reply: String,
    /// Since when the server waits.
    since: Instant,
}

/// What a delivery is to its partition.
pub(super) enum Verdict {
    /// For the partition to see.
    New,
    /// It has taken effect: only the acknowledgement is missing.
    Done,
    /// It was delivered before and is still in hand.
    Known,
    /// Delivered before, but not to us: order is lost.
    Astray,
}

/// One partition.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) inbox: Option<mpsc::UnboundedSender<PartitionInput>>,
    /// Committed.
    position: Position,
    /// Number of the reader that serves it.
    pub(super) reader: Option<u64>,
    /// It is to be served by the next consumer.
    pub(super) wanted: bool,
    /// Its ownership is being looked at, because of consumers in the way.
    pub(super) doubted: bool,
    /// It has looked, and is the owner.
    pub(super) verified: bool,
    /// Bytes that it holds while it is parked.
    pub(super) parked: usize,
    /// Collected for it while a delivery is sorted.
    pub(super) gathered: Gathered,
    waiting: BTreeMap<Sequence, Waiting>,
}

impl Slot {
    /// Tells the partition something, if it listens.
    pub(super) fn tell(&self, input: PartitionInput) {
        if let Some(inbox) = &self.inbox {
            let _ = inbox.send(input);
        }
    }

    /// A commit landed, or the partition was taken: what may be acknowledged now.
    pub(super) fn committed(&mut self, position: Position) -> Vec<String> {
        self.position = position;
        let rest = self.waiting.split_off(&Sequence(position.0.saturating_add(1)));
        std::mem::replace(&mut self.waiting, rest).into_values().map(|waiting| waiting.reply).collect()
    }

    /// The stream ends here: no position beyond it means anything.
    pub(super) fn set_back(&mut self, last: Sequence) {
        self.position = self.position.min(Position::from(last));
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Another consumer serves it from now on, which delivers anew what is not acknowledged.
    pub(super) fn served_by(&mut self, reader: u64) {
        self.reader = Some(reader);
        self.verified = false;
        self.waiting.clear();
    }

    pub(super) fn judge(&mut self, delivery: &QueueMessage) -> Verdict {
        let sequence = delivery.message.sequence;
        if self.position.covers(sequence) {
            return Verdict::Done;
        }
        let is_known = self.waiting.contains_key(&sequence);
        if !is_known && delivery.times > 1 {
            return Verdict::Astray;
        }
        self.waiting.insert(sequence, Waiting { reply: delivery.reply.clone(), since: Instant::now() });
        if is_known { Verdict::Known } else { Verdict::New }
    }

    /// Where the server is to be told that messages are still in hand, which it has waited for that long.
    pub(super) fn overdue(&mut self, age: Duration) -> Vec<String> {
        let now = Instant::now();
        let old = self.waiting.values_mut().filter(|waiting| now.duration_since(waiting.since) >= age);
        old.map(|waiting| {
            waiting.since = now;
            waiting.reply.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::{Headers, StreamMessage};

    fn delivery(sequence: u64, times: u64, reply: &str) -> QueueMessage {
        let message = StreamMessage {
            subject: "work.a".into(),
            sequence: Sequence(sequence),
            timestamp_ns: 0,
            headers: Headers::default(),
            payload: bytes::Bytes::new(),
        };
        QueueMessage { message, reply: reply.into(), times }
    }

    #[test]
    fn the_latest_delivery_is_acknowledged_once_a_commit_covers_it() {
        let mut slot = Slot::default();
        assert!(slot.committed(Position(4)).is_empty());
        assert!(matches!(slot.judge(&delivery(4, 1, "a")), Verdict::Done));
        assert!(matches!(slot.judge(&delivery(5, 1, "b")), Verdict::New));
        assert!(matches!(slot.judge(&delivery(7, 1, "c")), Verdict::New));
        assert!(matches!(slot.judge(&delivery(5, 2, "d")), Verdict::Known));
        assert_eq!(slot.committed(Position(6)), ["d"]);
        assert!(matches!(slot.judge(&delivery(5, 3, "e")), Verdict::Done));
        assert_eq!(slot.committed(Position(7)), ["c"]);
    }

    #[test]
    fn a_repeated_delivery_that_was_never_seen_before_is_no_message_in_order() {
        let mut slot = Slot::default();
        assert!(matches!(slot.judge(&delivery(3, 2, "a")), Verdict::Astray));
        assert!(slot.committed(Position(3)).is_empty());
    }
}
