//! One compare-and-set write carried through to certainty.
//!
//! A lost compare is a question, not a verdict: an earlier try of ours may have landed with its reply lost. And no answer
//! means *unknown*. Both go the same way: read the key from the stream leader and see whose value is there.

use super::context::{Context, Part};
use super::io::{Bucket, Expect, Lifetime, OpId, Reply, StoredEntry, WriteOutcome};
use crate::Now;
#[cfg(test)]
use crate::testing::Mutant;
use std::time::Duration;

/// How long to wait before NATS is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(250);

pub(super) struct FencedWrite {
    part: Part,
    bucket: Bucket,
    key: String,
    value: String,
    expect: Expect,
    lifetime: Lifetime,
    step: Step,
}

enum Step {
    Writing(OpId),
    Reading(OpId),
    ReadAt(Now),
}

pub(super) enum Progress {
    /// No verdict yet.
    Pending,
    /// Our value is there with this revision; `fresh` if it is a later one than the one we expected to replace.
    Written { revision: u64, fresh: bool },
    /// Another value is there, or none.
    Conflict(Option<StoredEntry>),
}

impl FencedWrite {
    pub(super) fn start(
        ctx: &mut Context,
        part: Part,
        bucket: Bucket,
        key: &str,
        value: String,
        expect: Expect,
        lifetime: Lifetime,
    ) -> Self {
        let op = ctx.write(part, bucket, key, &value, expect, lifetime);
        Self { part, bucket, key: key.to_owned(), value, expect, lifetime, step: Step::Writing(op) }
    }

    /// A write is on its way; its answer, whatever it is, will come.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.step, Step::Writing(_))
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Progress {
        match (&self.step, reply) {
            #[cfg(test)]
            (Step::Writing(_), Reply::Write(WriteOutcome::Written(revision))) if Mutant::LateReplyTaken.is_on() => {
                Progress::Written { revision: *revision, fresh: true }
            }
            (Step::Writing(mine), Reply::Write(outcome)) if *mine == op => match outcome {
                WriteOutcome::Written(revision) => Progress::Written { revision: *revision, fresh: true },
                WriteOutcome::Lost => {
                    self.step = Step::Reading(ctx.read(self.part, self.bucket, &self.key));
                    Progress::Pending
                }
                // NATS may refuse writes and answer reads for long: no haste.
                WriteOutcome::Unknown => self.read_later(ctx),
            },
            (Step::Reading(mine), Reply::Entry(entry)) if *mine == op => match entry {
                Err(()) => self.read_later(ctx),
                Ok(entry) => self.judge(ctx, entry.clone()),
            },
            _ => Progress::Pending,
        }
    }

    fn read_later(&mut self, ctx: &mut Context) -> Progress {
        let at = ctx.now + RETRY;
        ctx.wake_at(at);
        self.step = Step::ReadAt(at);
        Progress::Pending
    }

    fn judge(&mut self, ctx: &mut Context, entry: Option<StoredEntry>) -> Progress {
        let revision = entry.as_ref().map_or(0, |e| e.revision);
        if entry.as_ref().and_then(|e| e.value.as_deref()) == Some(self.value.as_bytes()) {
            // What a server that has lost its last writes shows again is older than what we expected to replace.
            let fresh = !matches!(self.expect, Expect::Revision(expected) if revision <= expected);
            #[cfg(test)]
            let fresh = Mutant::OldValueTakenForNew.or(fresh, true);
            return Progress::Written { revision, fresh };
        }
        let unchanged = match self.expect {
            Expect::Anything => true,
            Expect::Nothing => revision == 0,
            Expect::Revision(expected) => revision == expected,
        };
        if unchanged {
            // The write has not landed; should it still land, the second one loses to it and finds its own value.
            let op = ctx.write(self.part, self.bucket, &self.key, &self.value, self.expect, self.lifetime);
            self.step = Step::Writing(op);
            return Progress::Pending;
        }
        Progress::Conflict(entry)
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) {
        if let Step::ReadAt(at) = self.step
            && ctx.due(at)
        {
            self.step = Step::Reading(ctx.read(self.part, self.bucket, &self.key));
        }
    }
}
