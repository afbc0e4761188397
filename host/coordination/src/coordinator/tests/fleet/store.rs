//! One KV bucket: compare-and-set by revision, and what it was some writes ago.

use crate::coordinator::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many writes a bucket can be told without, or lose.
const REMEMBERED: usize = 128;

#[derive(Default)]
pub(super) struct Store {
    last: u64,
    pub(super) keys: BTreeMap<String, StoredEntry>,
    /// The latest writes: when, which key, and what was there before.
    log: VecDeque<(Duration, String, Option<StoredEntry>)>,
}

impl Store {
    /// One that was made anew in this one's place. Its revisions begin where nobody expects them: that a write which was meant for the old
    /// one meets just the revision that it expects takes a chance that few partitions would have too often.
    pub(super) fn anew(&self) -> Self {
        Self { last: self.last + 1000, ..Self::default() }
    }

    pub(super) fn revision(&self, key: &str) -> u64 {
        self.keys.get(key).map_or(0, |e| e.revision)
    }

    pub(super) fn put(&mut self, now: Duration, key: &str, value: Option<Vec<u8>>, expect: Expect) -> WriteOutcome {
        let found = self.revision(key);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Nothing => found == 0,
            Expect::Revision(revision) => found == revision,
        };
        if !holds {
            return WriteOutcome::Lost;
        }
        self.last += 1;
        let before = self.keys.insert(key.to_owned(), StoredEntry { value, revision: self.last });
        if self.log.len() == REMEMBERED {
            self.log.pop_front();
        }
        self.log.push_back((now, key.to_owned(), before));
        WriteOutcome::Written(self.last)
    }

    /// The bucket as it was then, as far as it is remembered.
    pub(super) fn as_of(&self, then: Duration) -> BTreeMap<String, StoredEntry> {
        let mut keys = self.keys.clone();
        for (_, key, before) in self.log.iter().rev().take_while(|(when, ..)| *when > then) {
            put_back(&mut keys, key, before.clone());
        }
        keys
    }

    /// Every write since then, oldest first.
    pub(super) fn since(&self, then: Duration) -> Vec<(String, StoredEntry)> {
        let mut keys = self.keys.clone();
        let mut writes = Vec::new();
        for (_, key, before) in self.log.iter().rev().take_while(|(when, ..)| *when > then) {
            writes.extend(keys.get(key).map(|entry| (key.clone(), entry.clone())));
            put_back(&mut keys, key, before.clone());
        }
        writes.reverse();
        writes
    }

    /// Loses the latest writes: their revisions will be given again. Returns how many they were.
    pub(super) fn rewind(&mut self, writes: usize) -> usize {
        let mut lost = 0;
        while lost < writes
            && let Some((_, key, before)) = self.log.pop_back()
        {
            put_back(&mut self.keys, &key, before);
            self.last -= 1;
            lost += 1;
        }
        lost
    }
}

fn put_back(keys: &mut BTreeMap<String, StoredEntry>, key: &str, before: Option<StoredEntry>) {
    match before {
        Some(entry) => keys.insert(key.to_owned(), entry),
        None => keys.remove(key),
    };
}
