//! Writing a plan: first the plan, then every assignment that it changes, each by compare-and-set.

use super::super::context::Context;
use super::super::io::{Action, OpId, Reply};
use super::super::write::{FencedWrite, Progress};
use super::assignment::{AssignmentWrite, Written};
use super::{Phase, Planner, RETRY, Verdict};
use crate::record::{AssignmentRecord, PlanRecord};
use crate::{Now, WorkerId};
use std::collections::BTreeMap;

pub(super) struct Publication {
    pub(super) plan: Option<(FencedWrite, PlanRecord)>,
    pub(super) waiting: BTreeMap<WorkerId, AssignmentRecord>,
    pub(super) writes: BTreeMap<WorkerId, AssignmentWrite>,
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
                    self.changed();
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
        for (worker, write) in &mut publication.writes {
            match write.reply(ctx, op, reply) {
                Written::Pending => {}
                Written::Landed(published) => {
                    landed = Some((worker.clone(), published));
                    break;
                }
                Written::Superseded(term) => return Verdict::Superseded(term),
                Written::Outdated => {
                    // The list was of a moment ago: what is in force is to be collected again. Under another version, since
                    // what is written of this one is on its way, and may not be what is written next.
                    self.publication = None;
                    self.wishes.abandoned();
                    self.phase = Phase::ReadAt(ctx.now + RETRY);
                    return Verdict::GoOn;
                }
            }
        }
        if let Some((worker, published)) = landed {
            publication.writes.remove(&worker);
            self.current.insert(worker, published);
            self.changed();
        }
        self.finish_publication(ctx);
        Verdict::GoOn
    }

    pub(super) fn write_waiting(&mut self, ctx: &mut Context) {
        if let Some(publication) = &mut self.publication {
            let restates = publication.summary.is_none();
            for (worker, record) in std::mem::take(&mut publication.waiting) {
                let write = AssignmentWrite::start(ctx, &worker, record, self.current.get(&worker), restates);
                publication.writes.insert(worker, write);
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
