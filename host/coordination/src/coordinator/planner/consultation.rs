//! Asking a strategy outside the core, which may answer late, wrong or never.
//!
//! An answer counts only for the very question that a plan needs at that moment: where the fleet has changed meanwhile, it is asked
//! again. Who waits, waits for a bounded time: orphans for a second, everybody else for as long as the strategy may take, however
//! often the question changes. What a failed strategy leaves undecided is in force for a while, until it is asked again.

use super::super::context::{Context, Part};
use super::super::io::{Notice, OpId, Reply};
use crate::Now;
use crate::strategy::{Question, StrategyFailure};
#[cfg(test)]
use crate::testing::Mutant;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait of partitions that nobody serves, and of a worker that wants to leave.
const ORPHANS_WAIT: Duration = Duration::from_secs(1);
/// First and longest wait before a failed strategy is asked for the plan that is owed.
const OWED_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

#[derive(Default)]
pub(super) struct Consultation {
    asking: Option<Asking>,
    /// Failures in a row.
    failures: u32,
    /// A plan is owed that the strategy did not decide: when to ask for it.
    owed_at: Option<Now>,
    /// When the plan that was last asked for became due.
    due_since: Now,
}

struct Asking {
    op: OpId,
    question: Arc<Question>,
    answer: Option<Result<Vec<usize>, String>>,
    /// When the plan became due, and how long it may wait for an answer from then on.
    since: Now,
    patience: Duration,
    /// What was looked at when the question was last compared with what is needed.
    seen: Seen,
}

/// Revisions of everything that a question depends on.
pub(super) type Seen = (u64, u64);

/// What has come of asking.
pub(super) enum Advice {
    /// Nothing yet.
    Wait,
    /// One worker index per partition, each of which exists.
    Follow(Vec<usize>),
    /// The strategy has not decided.
    None,
}

impl Consultation {
    /// Whether an answer is still awaited to a question that nothing has changed.
    pub(super) fn waits(&self, ctx: &mut Context, seen: Seen) -> bool {
        self.asking.as_ref().is_some_and(|a| a.answer.is_none() && a.seen == seen && !ctx.due(a.since + a.patience))
    }

    /// No plan is due any more.
    pub(super) fn forget(&mut self, ctx: &mut Context) {
        if let Some(asking) = self.asking.take() {
            ctx.answered(asking.op);
        }
    }

    /// Takes an answer. Returns whether it was one to the question that is open.
    pub(super) fn reply(&mut self, op: OpId, reply: &Reply) -> bool {
        let Some(asking) = self.asking.as_mut().filter(|asking| asking.op == op) else { return false };
        if let Reply::Strategy(answer) = reply {
            asking.answer = Some(answer.clone());
        }
        true
    }

    /// When a plan is owed, if one is.
    pub(super) fn owed_at(&self) -> Option<Now> {
        self.owed_at
    }

    /// When the plan that was last asked for became due.
    pub(super) fn due_since(&self) -> Now {
        self.due_since
    }

    /// A plan is owed from now on, or no more.
    pub(super) fn owe(&mut self, at: Option<Now>) {
        self.owed_at = at;
    }

    /// Asks, or takes the answer to what was asked.
    pub(super) fn consult(&mut self, ctx: &mut Context, question: Question, patience: Duration, seen: Seen) -> Advice {
        let urgent = question.orphans_only;
        let patience = if urgent { patience.min(ORPHANS_WAIT) } else { patience };
        #[cfg(test)]
        let patience = Mutant::OrphansWaitForStrategy.or(patience, Duration::from_secs(20));
        let mut since = ctx.now;
        if let Some(mut asking) = self.asking.take() {
            let is_same = *asking.question == question;
            #[cfg(test)]
            let is_same = Mutant::StaleAnswerTaken.or(is_same, true);
            // Who has waited for one answer does not wait as long again for the next.
            if asking.patience == patience {
                since = asking.since;
            }
            self.due_since = since;
            if asking.answer.is_some() && is_same {
                return self.judge(ctx, asking, urgent);
            }
            if ctx.due(since + patience) {
                ctx.answered(asking.op);
                return self.failed(ctx, &question, StrategyFailure::Late(patience));
            }
            if is_same {
                asking.seen = seen;
                self.asking = Some(asking);
                return Advice::Wait;
            }
            ctx.answered(asking.op);
        }
        ctx.wake_at(since + patience);
        let question = Arc::new(question);
        let op = ctx.ask_strategy(Part::Planner, Arc::clone(&question));
        self.asking = Some(Asking { op, question, answer: None, since, patience, seen });
        Advice::Wait
    }

    fn judge(&mut self, ctx: &mut Context, asking: Asking, urgent: bool) -> Advice {
        let answer = match asking.answer {
            Some(Ok(answer)) => answer,
            Some(Err(why)) => return self.failed(ctx, &asking.question, StrategyFailure::Failed(why)),
            None => return Advice::Wait,
        };
        let wrong = asking.question.judge(&answer);
        #[cfg(test)]
        let wrong = if Mutant::AnswerUnchecked.is_on() { None } else { wrong };
        if let Some(why) = wrong {
            return self.failed(ctx, &asking.question, why);
        }
        if std::mem::take(&mut self.failures) > 0 {
            ctx.notice(Notice::StrategyRecovered);
        }
        // One that has placed orphans is well again: what is owed is owed now.
        self.owed_at = self.owed_at.filter(|_| urgent).map(|_| ctx.now);
        Advice::Follow(answer)
    }

    fn failed(&mut self, ctx: &mut Context, question: &Question, why: StrategyFailure) -> Advice {
        let wait = OWED_RETRY.0 * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.owed_at = Some(ctx.now + wait.min(OWED_RETRY.1));
        ctx.notice(Notice::StrategyFailed { lifecycle: question.lifecycle, why });
        Advice::None
    }
}
