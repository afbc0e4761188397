//! Writing one worker's assignment: a value, or chunks first and then the header that makes them count.
//!
//! A chunk counts only with a header of its own term and version, so that a reader never mixes two plans, and a leader that dies
//! between the chunks and the header leaves an assignment that nobody obeys; the next leader finds its partitions unassigned.

use super::super::context::{Context, Part};
use super::super::io::{Bucket, Expect, Lifetime, OpId, Reply, StoredEntry};
use super::super::write::{FencedWrite, Progress};
use crate::record::{AssignmentRecord, ChunkRecord, FORMAT, Grouped};
use crate::{Partition, Term, WorkerId};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// Most bytes of one value. Half of what a server takes by default, so that a list in chunks fits everywhere.
const CHUNK_BYTES: usize = 512 << 10;

/// An assignment as it is in the bucket.
pub(super) struct Published {
    /// The whole of it, whether it is in chunks or not.
    pub(super) record: AssignmentRecord,
    /// Revision of the header.
    pub(super) revision: u64,
    /// Revisions of the chunks that are there, by number.
    pub(super) chunks: Vec<u64>,
}

impl Published {
    pub(super) fn partitions(&self) -> &[Partition] {
        &self.record.partitions
    }
}

/// An assignment on its way into the bucket.
pub(super) struct AssignmentWrite {
    key: String,
    record: AssignmentRecord,
    lists: Vec<Vec<Partition>>,
    chunks: Vec<ChunkWrite>,
    /// Chunks of the assignment before, which has more.
    surplus: Vec<u64>,
    expect: Expect,
    header: Option<FencedWrite>,
    /// The record says what is in force already, under another term: what an older term has written since must not be lost.
    restates: bool,
}

enum ChunkWrite {
    Open(FencedWrite),
    Landed(u64),
}

pub(super) enum Written {
    Pending,
    Landed(Published),
    /// A higher term has written here.
    Superseded(Term),
    /// A lower term has written here since it was read.
    Outdated,
}

impl AssignmentWrite {
    /// Begins to replace what is in the bucket by a record with its whole list.
    pub(super) fn start(
        ctx: &mut Context,
        worker: &WorkerId,
        record: AssignmentRecord,
        before: Option<&Published>,
        restates: bool,
    ) -> Self {
        let expect = before.map_or(Expect::Nothing, |b| Expect::Revision(b.revision));
        let mut before = before.map_or_else(Vec::new, |b| b.chunks.clone());
        let key = format!("assignment.{worker}");
        let lists = split(&record.partitions);
        let surplus = before.split_off(lists.len().min(before.len()));
        let mut write = Self { key, record, lists, chunks: Vec::new(), surplus, expect, header: None, restates };
        for k in 0..write.lists.len() {
            let expect = before.get(k).map_or(Expect::Nothing, |revision| Expect::Revision(*revision));
            let chunk = write.chunk(ctx, k, expect);
            write.chunks.push(ChunkWrite::Open(chunk));
        }
        write.advance(ctx);
        write
    }

    fn chunk(&self, ctx: &mut Context, k: usize, expect: Expect) -> FencedWrite {
        let AssignmentRecord { term, version, .. } = self.record;
        let partitions = self.lists.get(k).cloned().unwrap_or_default();
        let before: usize = self.lists.iter().take(k).map(Vec::len).sum();
        let of_these = |fresh: &BTreeSet<usize>| {
            fresh.range(before..before + partitions.len()).map(|place| place - before).collect()
        };
        let fresh = self.record.fresh.as_ref().map(of_these);
        let value = Context::encode(&ChunkRecord { v: FORMAT, term, version, partitions, fresh });
        Self::write(ctx, &format!("{}.{k}", self.key), value, expect)
    }

    fn write(ctx: &mut Context, key: &str, value: String, expect: Expect) -> FencedWrite {
        FencedWrite::start(ctx, Part::Planner, Bucket::Assignments, key, value, expect, Lifetime::Assignment)
    }

    /// Writes the header once all chunks have landed.
    fn advance(&mut self, ctx: &mut Context) {
        if self.header.is_some() || self.chunks.iter().any(|c| matches!(c, ChunkWrite::Open(_))) {
            return;
        }
        let value = if self.lists.is_empty() {
            Context::encode(&self.record)
        } else {
            let (chunks, partitions) = (self.lists.len(), Vec::new());
            let fresh = self.record.fresh.as_ref().map(|_| BTreeSet::new());
            Context::encode(&AssignmentRecord { chunks, partitions, fresh, ..self.record })
        };
        self.header = Some(Self::write(ctx, &self.key, value, self.expect));
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Written {
        for k in 0..self.chunks.len() {
            let Some(ChunkWrite::Open(write)) = self.chunks.get_mut(k) else { continue };
            let next = match write.reply(ctx, op, reply) {
                Progress::Pending => continue,
                Progress::Written { revision, .. } => ChunkWrite::Landed(revision),
                Progress::Conflict(entry) => {
                    let theirs = decode::<ChunkRecord>(ctx, &self.key, entry.as_ref()).map(|chunk| chunk.term);
                    if let Some(term) = theirs.filter(|term| *term > self.record.term) {
                        return Written::Superseded(term);
                    }
                    if self.restates && theirs.is_some_and(|term| term < self.record.term) {
                        return Written::Outdated;
                    }
                    ChunkWrite::Open(self.chunk(ctx, k, found(entry.as_ref())))
                }
            };
            if let Some(slot) = self.chunks.get_mut(k) {
                *slot = next;
            }
        }
        self.advance(ctx);
        let Some(header) = &mut self.header else { return Written::Pending };
        match header.reply(ctx, op, reply) {
            Progress::Pending => Written::Pending,
            Progress::Written { revision, .. } => {
                let landed = |chunk: &ChunkWrite| match chunk {
                    ChunkWrite::Landed(revision) => Some(*revision),
                    ChunkWrite::Open(_) => None,
                };
                let chunks: Vec<u64> = self.chunks.iter().filter_map(landed).collect();
                for (k, revision) in (self.lists.len()..).zip(self.surplus.drain(..)) {
                    // If another has written there meanwhile, it is not ours to delete.
                    let key = format!("{}.{k}", self.key);
                    ctx.delete(Part::Planner, Bucket::Assignments, &key, Expect::Revision(revision));
                }
                Written::Landed(Published { record: self.record.clone(), revision, chunks })
            }
            Progress::Conflict(entry) => {
                let theirs = decode::<AssignmentRecord>(ctx, &self.key, entry.as_ref()).map(|record| record.term);
                if let Some(term) = theirs.filter(|term| *term > self.record.term) {
                    return Written::Superseded(term);
                }
                if self.restates && theirs.is_some_and(|term| term < self.record.term) {
                    return Written::Outdated;
                }
                self.expect = found(entry.as_ref());
                self.header = None;
                self.advance(ctx);
                Written::Pending
            }
        }
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) {
        for chunk in &mut self.chunks {
            if let ChunkWrite::Open(write) = chunk {
                write.tick(ctx);
            }
        }
        if let Some(header) = &mut self.header {
            header.tick(ctx);
        }
    }
}

fn found(entry: Option<&StoredEntry>) -> Expect {
    entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision))
}

fn decode<T: DeserializeOwned + Grouped>(ctx: &mut Context, key: &str, entry: Option<&StoredEntry>) -> Option<T> {
    entry.and_then(|e| e.value.as_deref()).and_then(|value| ctx.decode(Bucket::Assignments, key, value))
}

/// The chunks of a list that does not fit into one value; none for one that does.
fn split(partitions: &[Partition]) -> Vec<Vec<Partition>> {
    let mut chunks = vec![Vec::new()];
    let mut bytes = 0;
    for partition in partitions {
        // What JSON adds: quotes and commas, escapes at worst six bytes for one, the weight.
        let keys: usize = partition.keys().iter().map(|key| key.chars().map(json_bytes).sum::<usize>() + 3).sum();
        let size = keys + r#"{"keys":[],"weight":18446744073709551615},0000000,"#.len();
        if bytes + size > CHUNK_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(partition.clone());
        }
    }
    if chunks.len() == 1 { Vec::new() } else { chunks }
}

fn json_bytes(c: char) -> usize {
    if c.is_ascii_control() || matches!(c, '"' | '\\') { 6 } else { c.len_utf8() }
}
