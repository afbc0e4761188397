//! Whether the leader's process is there, as those see it who would succeed it.
//!
//! A dead process has no subscription, so that NATS answers a probe with *no responders* at once, long before the lease
//! expires. The three lowest live IDs look, and only while no probe from the leader reaches them. Their finding is a reason to
//! bid early, by compare-and-set on the lease that they have seen; it is never a reason to act.

use super::context::{Context, Part};
use super::io::{OpId, ProbeAnswer, Reply};
use crate::record::{LeaderRecord, PlanRecord};
use crate::{Incarnation, Now, Term, WorkerId};
use std::collections::BTreeSet;

/// How many workers look after the leader.
const SUCCESSORS: usize = 3;

/// A leader from which no probe has come for this many intervals is probed.
const SILENCE: u32 = 2;

#[derive(Default)]
pub(super) struct Watchdog {
    watched: Option<Watched>,
    probes: BTreeSet<OpId>,
    probe_at: Now,
    looked_at: Now,
}

struct Watched {
    worker: WorkerId,
    incarnation: Incarnation,
    term: Term,
    /// When its lease was first seen, and the revision last seen.
    since: Now,
    revision: u64,
    /// The last sign of life.
    heard_at: Now,
    /// Only who has answered once can be missed.
    answered: bool,
    silent: u8,
    suspect_since: Option<Now>,
}

/// What is known about a leader that is to be succeeded.
pub(super) struct Finding {
    pub(super) worker: WorkerId,
    pub(super) incarnation: Incarnation,
    /// Since when it is suspected, if it is.
    pub(super) suspect_since: Option<Now>,
}

impl Watched {
    fn alive(&mut self, now: Now) {
        self.heard_at = now;
        self.silent = 0;
        self.suspect_since = None;
    }
}

impl Watchdog {
    /// A lease as it is now. Returns whether that is a sign of life: it is new to us, or renewed.
    pub(super) fn lease(&mut self, ctx: &Context, lease: &LeaderRecord, revision: u64) -> bool {
        match &mut self.watched {
            Some(w) if w.incarnation == lease.incarnation && w.term == lease.term => {
                let is_news = w.revision != revision;
                w.revision = revision;
                if is_news {
                    w.alive(ctx.now);
                }
                is_news
            }
            _ => {
                self.probes.clear();
                self.watched = Some(Watched {
                    worker: lease.worker.clone(),
                    incarnation: lease.incarnation,
                    term: lease.term,
                    since: ctx.now,
                    revision,
                    heard_at: ctx.now,
                    answered: false,
                    silent: 0,
                    suspect_since: None,
                });
                true
            }
        }
    }

    /// A probe from this worker has reached us. Returns whether that is the leader.
    pub(super) fn probed(&mut self, ctx: &Context, by: Incarnation) -> bool {
        let leader = self.watched.as_mut().filter(|w| w.incarnation == by);
        leader.map(|w| w.alive(ctx.now)).is_some()
    }

    pub(super) fn reply(&mut self, ctx: &Context, op: OpId, reply: &Reply) {
        let (true, Some(w), Reply::Probe(answer)) = (self.probes.remove(&op), &mut self.watched, reply) else { return };
        match answer {
            ProbeAnswer::Answered => {
                w.answered = true;
                w.alive(ctx.now);
            }
            ProbeAnswer::NoResponders => {
                w.silent = w.silent.saturating_add(1);
                if w.silent >= 2 && w.answered {
                    w.suspect_since.get_or_insert(ctx.now);
                }
            }
            ProbeAnswer::TimedOut => {}
        }
    }

    /// The connection was away: what was heard before says nothing about now.
    pub(super) fn reconnected(&mut self, ctx: &Context) {
        if let Some(w) = &mut self.watched {
            w.alive(ctx.now);
        }
    }

    /// Probes the leader if that is due. Returns whether it is to be superseded.
    pub(super) fn tick(&mut self, ctx: &mut Context, me: &WorkerId, plan: Option<&PlanRecord>) -> bool {
        // Who was stopped has not heard the signs of life that came meanwhile.
        if ctx.now.since(self.looked_at) > ctx.settings.heartbeat_interval {
            self.reconnected(ctx);
        }
        self.looked_at = ctx.now;
        let (Some(w), Some(plan)) = (&self.watched, plan) else { return false };
        if !plan.live.keys().filter(|worker| **worker != w.worker).take(SUCCESSORS).any(|s| s == me) {
            return false;
        }
        let interval = ctx.settings.probe_interval;
        let is_silent = ctx.due(w.heard_at + interval * SILENCE);
        if (is_silent || !w.answered) && ctx.due(self.probe_at) {
            self.probe_at = ctx.now + interval;
            ctx.wake_at(self.probe_at);
            let op = ctx.probe(Part::Watchdog, w.incarnation);
            self.probes.insert(op);
        }
        let suspected = w.suspect_since.is_some_and(|since| ctx.due(since + ctx.settings.emergency_grace_period));
        // At most once per lease: leaders that die one after another are left to the lease.
        suspected && ctx.due(w.since + ctx.settings.election_timeout) && ctx.due(ctx.judge_from)
    }

    /// What is known about the leader, to judge it as a worker once we lead ourselves.
    pub(super) fn finding(&self) -> Option<Finding> {
        let w = self.watched.as_ref().filter(|w| w.answered)?;
        let (worker, incarnation, suspect_since) = (w.worker.clone(), w.incarnation, w.suspect_since);
        Some(Finding { worker, incarnation, suspect_since })
    }
}
