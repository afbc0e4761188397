//! What the operator wants: heard, obeyed, and answered in the same record.
//!
//! Drains and pins hold for as long as they stand there, and a leader that finds something otherwise plans for it, whoever led when it was
//! asked. What is to be done once (spread anew, list again) is done if its number is not answered yet; a leader that dies between the deed
//! and the answer leaves it to the next one, which does it again: that moves nothing more.

use super::super::context::{Context, Part};
use super::super::io::{Bucket, Expect, Lifetime, OpId, Reply};
use super::super::operator::{self, Operator};
use super::super::roster::Roster;
use super::super::write::{FencedWrite, Progress};
use super::openable::Openable;
use super::placement::{Scope, Team};
use super::{Planner, Published};
use crate::WorkerId;
use crate::record::{PlacementAnswer, PlacementRecord};
#[cfg(test)]
use crate::testing::Mutant;

/// What a leader has made of the operator's wishes so far.
#[derive(Default)]
pub(super) struct Wishes {
    /// What is wanted, and the revision that said so.
    pub(super) record: Option<PlacementRecord>,
    revision: u64,
    /// The news that were heard last.
    news: u64,
    /// Number of the last change for which the partitions were spread anew.
    rebalanced: u64,
    /// Numbers of the last changes for which the partitions are being listed, and were.
    listing: u64,
    listed: u64,
    /// What was wrong with the last list.
    problem: Option<String>,
    /// Partitions that changed owner since something waits for its answer.
    moved: usize,
    answering: Option<FencedWrite>,
    /// What was told last is answered, or was to be.
    answered: bool,
}

impl Wishes {
    /// A wish to spread the partitions anew has not been fulfilled.
    pub(super) fn is_rebalance_open(&self) -> bool {
        self.record.as_ref().is_some_and(|wants| wants.rebalance > wants.answered().max(self.rebalanced))
    }

    fn is_list_open(&self) -> bool {
        self.record.as_ref().is_some_and(|wants| wants.refresh > wants.answered().max(self.listed))
    }

    /// A plan spreads the partitions anew.
    pub(super) fn rebalances(&mut self) {
        self.rebalanced = self.record.as_ref().map_or(0, |wants| wants.rebalance);
    }

    /// A plan has not come into force.
    pub(super) fn abandoned(&mut self) {
        self.rebalanced = 0;
    }

    pub(super) fn moves(&mut self, partitions: usize) {
        if self.record.as_ref().is_some_and(PlacementRecord::is_open) {
            self.moved += partitions;
        }
    }

    /// The source is being asked.
    pub(super) fn lists(&mut self) {
        self.listing = self.record.as_ref().map_or(0, |wants| wants.refresh);
    }

    /// The source has answered.
    pub(super) fn listed(&mut self, problem: Option<String>) {
        self.listed = self.listing;
        self.problem = problem;
    }

    /// Takes the reply to an answer that is being written.
    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) {
        let Some(mut write) = self.answering.take() else { return };
        match write.reply(ctx, op, reply) {
            Progress::Pending => self.answering = Some(write),
            Progress::Written { .. } => self.moved = 0,
            // An operator was faster: the watch tells of it.
            Progress::Conflict(_) => {}
        }
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) {
        if let Some(write) = &mut self.answering {
            write.tick(ctx);
        }
    }
}

impl Planner {
    /// Hears what the operator wants. Whether that is known: before it is, nobody is placed anywhere.
    pub(super) fn hear_wishes(&mut self, ctx: &mut Context, operator: &Operator) -> bool {
        let Some(wants) = operator.wants() else { return false };
        if self.wishes.record.is_none() || self.wishes.news != operator.news() {
            if self.wishes.record.as_ref().is_some_and(|heard| heard.asked > wants.asked) {
                // The bucket was lost or set back, and numbers are given a second time.
                self.wishes = Wishes { answering: self.wishes.answering.take(), ..Wishes::default() };
            }
            self.wishes.record = Some(wants.clone());
            self.wishes.revision = operator.revision();
            self.wishes.news = operator.news();
            // A bucket that was set back may show again what was answered before.
            self.wishes.answered = false;
            self.changed();
            if self.wishes.is_list_open() && self.wishes.listing < wants.refresh {
                self.refresh(ctx);
            }
        }
        true
    }

    /// Who is there to have partitions.
    pub(super) fn team<'a>(&self, roster: &'a Roster, scope: Scope) -> Team<'a> {
        Team::of(roster.members().collect(), self.plan(), self.wishes.record.as_ref(), scope)
    }

    /// How many partitions a worker has.
    pub(super) fn held(&self, worker: &WorkerId) -> usize {
        self.current.get(worker).map_or(0, |assignment| assignment.partitions().len())
    }

    /// A partition that is pinned is with another worker, and the one that it is pinned to can have it.
    pub(super) fn somebody_is_pinned_elsewhere(&self, ctx: &Context, roster: &Roster) -> bool {
        let Some(pins) = self.wishes.record.as_ref().map(|wants| &wants.pins).filter(|pins| !pins.is_empty()) else {
            return false;
        };
        let (team, openable) = (self.team(roster, Scope::Pins), Openable::of(roster.members()));
        let most = ctx.settings.max_partitions.unwrap_or(usize::MAX);
        let can_have = |id: &str, to: &WorkerId| {
            let found = team.workers.iter().find(|(worker, _)| *worker == to);
            found.is_some_and(|(_, member)| self.held(to) < most && openable.may_have(id, member, false))
        };
        let held = team.workers.iter().filter_map(|(worker, _)| Some((*worker, self.current.get(*worker)?)));
        held.flat_map(|(worker, published)| published.partitions().iter().map(move |p| (worker, p.id().as_str())))
            .any(|(worker, id)| pins.get(id).is_some_and(|to| to != worker && can_have(id, to)))
    }

    /// Partitions that drained workers have.
    fn kept(&self, roster: &Roster) -> usize {
        self.team(roster, Scope::Everything).drained.keys().map(|worker| self.held(worker)).sum()
    }

    /// Answers what is asked, once nothing of it is left to be done. Whether it does.
    pub(super) fn answer(&mut self, ctx: &mut Context, roster: &Roster) -> bool {
        let Some(wants) = self.wishes.record.as_ref().filter(|wants| wants.is_open()) else { return false };
        let is_done = !self.wishes.is_rebalance_open() && !self.wishes.is_list_open();
        let is_answered = self.wishes.answering.is_some() || self.wishes.answered;
        // A fleet that is about to start has not done anything yet; one without partitions never will.
        let starts = self.partitions.as_ref().is_none_or(|listed| !listed.is_empty() && self.is_cold(roster));
        let can_plan = roster.is_ready() && !starts;
        let Some((plan, _)) = self.plan.as_ref().filter(|_| is_done && !is_answered && can_plan) else { return false };
        let answer = PlacementAnswer {
            asked: wants.asked,
            term: plan.term,
            version: plan.version,
            moved: self.wishes.moved,
            left: plan.left,
            unowned: self.unowned,
            kept: self.kept(roster),
            undecided: self.consultation.owed_at().is_some(),
            problem: self.wishes.problem.clone().filter(|_| wants.refresh > wants.answered()),
        };
        let value = Context::encode(&PlacementRecord { answer: Some(answer), ..wants.clone() });
        let expect = Expect::Revision(self.wishes.revision);
        #[cfg(test)]
        let expect = Mutant::AnswersBlindly.or(expect, Expect::Anything);
        let (bucket, key) = (Bucket::Assignments, operator::KEY);
        let write = FencedWrite::start(ctx, Part::Planner, bucket, key, value, expect, Lifetime::Forever);
        (self.wishes.answering, self.wishes.answered) = (Some(write), true);
        true
    }

    /// Nobody who lives has anything.
    pub(super) fn is_cold(&self, roster: &Roster) -> bool {
        let serves = |(worker, a): (&WorkerId, &Published)| !a.partitions().is_empty() && roster.is_live(worker);
        !self.current.iter().any(serves)
    }
}
