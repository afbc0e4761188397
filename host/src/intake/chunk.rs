//! Messages of one partition that came together, in one piece of memory.
//!
//! A message is copied out of what was read for everybody, once, to lie beside its neighbours of the same partition: they are
//! handled and forgotten together, so that a partition which stands still keeps its own messages in memory and nobody else's,
//! and memory is asked for once per chunk instead of several times per message.

use super::budget::{Budget, Share};
use crate::nats::{StreamMessage, header_pairs};
use crate::plugin::Message;
use bytes::Bytes;
use parti_coordination::{QueuedMessage, Sequence};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes that a message costs beyond its content: the bookkeeping, and what the allocator loses.
const OVERHEAD: usize = 128;

/// Bytes that a chunk of several messages holds at most: it stays in memory until the last of them is done with.
const FULL: usize = 16 * 1024;

/// Gathers the messages of one partition.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    open: Content,
    closed: Vec<Content>,
}

#[derive(Debug, Default)]
struct Content {
    entries: Vec<Entry>,
    /// Headers and payload of each message, one after the other.
    data: Vec<u8>,
}

/// A message, by its places in the data.
#[derive(Debug)]
struct Entry {
    sequence: Sequence,
    timestamp_ns: u64,
    headers: Range<usize>,
    payload: Range<usize>,
}

#[derive(Debug)]
struct Chunk {
    subject: Arc<str>,
    entries: Vec<Entry>,
    data: Bytes,
    _share: Share,
}

/// A message in flight. Cheap to clone. Its memory is given back with the last message of its chunk.
#[derive(Debug, Clone)]
pub(super) struct Held {
    chunk: Arc<Chunk>,
    at: usize,
}

impl Gathered {
    /// Whether nothing was gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.open.entries.is_empty() && self.closed.is_empty()
    }

    /// Adds a copy of a message.
    pub(super) fn push(&mut self, message: &StreamMessage) {
        let bytes = message.headers.block().len() + message.payload.len();
        if !self.open.entries.is_empty() && self.open.data.len() + bytes > FULL {
            self.closed.push(std::mem::take(&mut self.open));
        }
        let Content { entries, data } = &mut self.open;
        let begin = data.len();
        data.extend_from_slice(message.headers.block());
        let middle = data.len();
        data.extend_from_slice(&message.payload);
        let (headers, payload) = (begin..middle, middle..data.len());
        entries.push(Entry { sequence: message.sequence, timestamp_ns: message.timestamp_ns, headers, payload });
    }

    /// What was gathered, as it waits for its partition.
    pub(super) fn take(&mut self, subject: &Arc<str>, budget: &Arc<Budget>) -> Vec<QueuedMessage<Held>> {
        let mut messages = Vec::new();
        for content in self.closed.drain(..).chain(std::iter::once(std::mem::take(&mut self.open))) {
            let Content { entries, data } = content;
            let overhead = OVERHEAD + subject.len();
            let share = budget.hold(data.capacity() + entries.len() * overhead);
            let chunk = Arc::new(Chunk { subject: Arc::clone(subject), entries, data: data.into(), _share: share });
            messages.extend(chunk.entries.iter().enumerate().map(|(at, entry)| QueuedMessage {
                sequence: entry.sequence,
                bytes: entry.headers.len() + entry.payload.len() + overhead,
                body: Held { chunk: Arc::clone(&chunk), at },
            }));
        }
        messages
    }
}

impl Held {
    /// The message, as it is handed to a handler for the `attempt`th time.
    pub(super) fn message(&self, attempt: u32) -> Message<'_> {
        let Chunk { subject, entries, data, .. } = &*self.chunk;
        let entry = entries.get(self.at);
        let part = |range: Option<&Range<usize>>| range.and_then(|range| data.get(range.clone())).unwrap_or_default();
        Message {
            subject,
            sequence: entry.map_or(Sequence(0), |entry| entry.sequence),
            timestamp_ns: entry.map_or(0, |entry| entry.timestamp_ns),
            attempt,
            headers: header_pairs(part(entry.map(|entry| &entry.headers))).collect(),
            payload: part(entry.map(|entry| &entry.payload)),
        }
    }

    /// How long ago the stream stored it; nothing if its server's clock is ahead of ours.
    pub(super) fn age(&self) -> Duration {
        let stored = self.chunk.entries.get(self.at).map_or(0, |entry| entry.timestamp_ns);
        (UNIX_EPOCH + Duration::from_nanos(stored)).elapsed().unwrap_or_default()
    }

    /// The content, in the memory of the chunk.
    pub(super) fn payload(&self) -> Bytes {
        self.chunk.entries.get(self.at).map(|entry| self.chunk.data.slice(entry.payload.clone())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Headers;

    fn message(sequence: u64, payload: &[u8]) -> StreamMessage {
        StreamMessage {
            subject: "work.a".into(),
            sequence: Sequence(sequence),
            timestamp_ns: 7,
            headers: Headers::from_pairs([("n", sequence.to_string().as_bytes())]),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_give_their_memory_back_with_the_last_of_their_chunk() {
        let (budget, subject) = (Budget::new(1 << 30), Arc::from("work.a"));
        let mut gathered = Gathered::default();
        for (sequence, length) in [(1, 0), (5, 3), (6, 2 * FULL), (9, 1)] {
            gathered.push(&message(sequence, &vec![b'x'; length]));
        }
        let mut messages = gathered.take(&subject, &budget);
        assert!(gathered.is_empty());
        for (queued, (sequence, length)) in messages.iter().zip([(1, 0), (5, 3), (6, 2 * FULL), (9, 1)]) {
            let seen = queued.body.message(2);
            assert_eq!((seen.subject, seen.sequence, seen.attempt), ("work.a", Sequence(sequence), 2));
            assert_eq!((queued.sequence, seen.payload.len(), seen.timestamp_ns), (Sequence(sequence), length, 7));
            assert_eq!(seen.headers, [("n".into(), sequence.to_string().as_bytes())]);
            assert_eq!(queued.body.payload(), seen.payload);
        }
        let (used, all) = (budget.used(), messages.iter().map(|queued| queued.bytes).sum::<usize>());
        assert!(used >= all);
        // The first two lie together, the large one by itself.
        let last = messages.pop().unwrap();
        messages.remove(0);
        assert_eq!(budget.used(), used);
        messages.remove(0);
        assert!((2 * FULL..used).contains(&budget.used()));
        drop(messages);
        assert!((last.bytes..FULL).contains(&budget.used()));
        drop(last);
        assert_eq!(budget.used(), 0);
    }
}
