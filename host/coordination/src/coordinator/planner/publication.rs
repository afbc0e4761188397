//! Writing a plan: first the plan, then every assignment that it changes, each by compare-and-set.

use super::super::context::Context;
use super::super::io::{Action, Bucket, Expect, OpId, Reply};
use super::super::write::{FencedWrite, Progress};
use super::{Planner, Verdict};
use crate::record::{AssignmentRecord, PlanRecord};
use crate::{Now, WorkerId};
use std::collections::BTreeMap;

pub(super) struct Publication {
    pub(super) plan: Option<(FencedWrite, PlanRecord)>,
    pub(super) waiting: BTreeMap<WorkerId, AssignmentRecord>,
    pub(super) writes: BTreeMap<WorkerId, (FencedWrite, AssignmentRecord)>,
    pub(super) summary: Option<Summary>,
}

pub(super) struct Summary {
    pub(super) moved: usize,
    pub(super) unowned: usize,
    pub(super) workers: usize,
    pub(super) since: Now,
}

impl Planner {
    pub(super) fn published(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Verdict {
        let Some(publication) = &mut self.publication else { return Verdict::GoOn };
        if let Some((mut write, plan)) = publication.plan.take() {
            match write.reply(ctx, op, reply) {
                Progress::Pending => publication.plan = Some((write, plan)),
                Progress::Written { revision, .. } => {
                    self.plan = Some((plan, revision));
                    self.write_waiting(ctx);
                }
                Progress::Conflict(entry) => {
                    // Whoever wrote a higher term leads; anything else is replaced by a plan made anew.
                    self.publication = None;
                    return self.plant(ctx, entry.as_ref());
                }
            }
            return Verdict::GoOn;
        }
        let mut landed = None;
        for (worker, (write, record)) in &mut publication.writes {
            match write.reply(ctx, op, reply) {
                Progress::Pending => {}
                Progress::Written { revision, .. } => {
                    landed = Some((worker.clone(), revision));
                    break;
                }
                Progress::Conflict(entry) => {
                    let value = entry.as_ref().and_then(|e| e.value.as_deref());
                    let key = format!("assignment.{worker}");
                    let theirs = value.and_then(|v| ctx.decode::<AssignmentRecord>(Bucket::Assignments, &key, v));
                    if let Some(theirs) = theirs
                        && theirs.term > self.term
                    {
                        return Verdict::Superseded(theirs.term);
                    }
                    let expect = entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision));
                    *write = Self::write_assignment(ctx, worker, record, expect);
                    break;
                }
            }
        }
        if let Some((worker, revision)) = landed
            && let Some((_, record)) = publication.writes.remove(&worker)
        {
            self.current.insert(worker, (record, revision));
        }
        self.finish_publication(ctx);
        Verdict::GoOn
    }

    pub(super) fn write_waiting(&mut self, ctx: &mut Context) {
        if let Some(publication) = &mut self.publication {
            for (worker, record) in std::mem::take(&mut publication.waiting) {
                let expect = self.current.get(&worker).map_or(Expect::Nothing, |(_, rev)| Expect::Revision(*rev));
                let write = Self::write_assignment(ctx, &worker, &record, expect);
                publication.writes.insert(worker, (write, record));
            }
        }
        self.finish_publication(ctx);
    }

    fn finish_publication(&mut self, ctx: &mut Context) {
        if self.publication.as_ref().is_none_or(|p| p.plan.is_some() || !p.writes.is_empty() || !p.waiting.is_empty()) {
            return;
        }
        let summary = self.publication.take().and_then(|p| p.summary);
        if let (Some(summary), Some((plan, _))) = (summary, &self.plan) {
            ctx.emit(Action::PlanPublished {
                term: plan.term,
                version: plan.version,
                lifecycle: plan.lifecycle,
                moved: summary.moved,
                unowned: summary.unowned,
                workers: summary.workers,
                took: ctx.now.since(summary.since),
            });
        }
    }
}
