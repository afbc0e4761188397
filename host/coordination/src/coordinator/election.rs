//! Who leads. One lease in a bucket, renewed by compare-and-set; a lost lease is bid for under the next term.
//!
//! The lease decides who tries. Who really leads is decided by the plan: a new leader must write its term into it
//! (see `planner`) before it does anything else, and every later write is a compare-and-set on what it knows.

use super::context::{Context, Found, Part};
use super::io::{Action, Bucket, Expect, Lifetime, OpId, Reply, StoredEntry};
use super::write::{FencedWrite, Progress};
use crate::record::{FORMAT, HeartbeatRecord, LeaderRecord, PlanRecord};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Now, Term, WorkerId};
use std::time::Duration;

const KEY: &str = "leader";

/// Bids after a lost lease are spread over this time, so that a fleet does not bid at once.
const SPREAD: Duration = Duration::from_millis(150);

/// On NATS 2.10 a lease expires without an event: this long after its last sign the key is read.
const SLACK: Duration = Duration::from_secs(1);

pub(super) struct Election {
    role: Role,
    lease: Option<LeaderRecord>,
    /// The other group whose leader has the lease, if one has. It is neither followed nor bid against.
    stranger: Option<String>,
    /// Revision of the key, value or marker; 0 if it was never written.
    revision: u64,
    /// Whether the watch has told what was there.
    known: bool,
    seen_at: Now,
    /// The watch has told an older revision than the one known: servers may have lost their last writes.
    doubted: bool,
    /// The highest term seen anywhere.
    pub(super) highest: Term,
    /// Who was last said to lead, and whether that is us.
    announced: (Option<(WorkerId, Term)>, bool),
}

enum Role {
    /// Somebody leads, or nobody is known to.
    Follower {
        bid_at: Option<Now>,
        checking: Option<OpId>,
    },
    Gathering {
        plan: Option<OpId>,
        heartbeats: Option<OpId>,
        /// The revision of a lease whose holder is gone, to be replaced before it expires.
        over: Option<u64>,
    },
    Bidding {
        term: Term,
        sent_at: Now,
        write: FencedWrite,
    },
    Leading {
        term: Term,
        revision: u64,
        until: Now,
        renew_at: Now,
        write: Option<(FencedWrite, Now)>,
    },
}

/// What the coordinator must do after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// We lead from now on, under this term.
    Won(Term),
    /// We lead no longer.
    LostLead,
}

impl Default for Election {
    fn default() -> Self {
        Self {
            role: Role::Follower { bid_at: None, checking: None },
            lease: None,
            stranger: None,
            revision: 0,
            known: false,
            seen_at: Now::default(),
            doubted: false,
            highest: Term::default(),
            announced: (None, false),
        }
    }
}

impl Election {
    pub(super) fn leader(&self) -> Option<&WorkerId> {
        self.lease.as_ref().map(|l| &l.worker)
    }

    pub(super) fn term(&self) -> Option<Term> {
        match &self.role {
            Role::Leading { term, .. } => Some(*term),
            _ => None,
        }
    }

    pub(super) fn is_writing(&self) -> bool {
        match &self.role {
            Role::Leading { write: Some((write, _)), .. } | Role::Bidding { write, .. } => write.is_in_flight(),
            _ => false,
        }
    }

    /// The lease, as last seen, with its revision.
    pub(super) fn lease(&self) -> Option<(&LeaderRecord, u64)> {
        self.lease.as_ref().map(|lease| (lease, self.revision))
    }

    /// The other group whose leader has the lease.
    pub(super) fn stranger(&self) -> Option<&str> {
        self.stranger.as_deref()
    }

    fn is_vacant(&self) -> bool {
        self.lease.is_none() && self.stranger.is_none()
    }

    pub(super) fn saw(&mut self, term: Term) {
        self.highest = self.highest.max(term);
    }

    /// The key has changed, or is told anew.
    pub(super) fn watched(&mut self, ctx: &mut Context, entry: &StoredEntry, me: Option<Incarnation>) -> Change {
        if entry.revision < self.revision && self.known {
            self.doubted = true;
            return Change::None;
        }
        self.observe(ctx, Some(entry));
        // Our own lease under another's name: we are superseded, whatever our clock says.
        let is_anothers = self.stranger.is_some() || self.lease.as_ref().is_some_and(|l| Some(l.incarnation) != me);
        if matches!(self.role, Role::Leading { .. }) && is_anothers {
            return self.step_down(ctx);
        }
        Change::None
    }

    pub(super) fn ready(&mut self, ctx: &mut Context) {
        if !self.known {
            self.known = true;
            self.seen_at = ctx.now;
        }
    }

    fn observe(&mut self, ctx: &mut Context, entry: Option<&StoredEntry>) {
        self.seen_at = ctx.now;
        self.doubted = false;
        self.revision = entry.map_or(0, |e| e.revision);
        let value = entry.and_then(|e| e.value.as_deref());
        (self.lease, self.stranger) = match value.map(|value| ctx.find::<LeaderRecord>(Bucket::Election, KEY, value)) {
            Some(Found::Ours(lease)) => (Some(lease), None),
            Some(Found::Theirs(group)) => (None, Some(group)),
            Some(Found::Unreadable) | None => (None, None),
        };
        if let Some(lease) = &self.lease {
            self.highest = self.highest.max(lease.term);
        }
        if !self.is_vacant()
            && let Role::Follower { bid_at, .. } = &mut self.role
        {
            *bid_at = None;
        }
        self.announce(ctx);
    }

    fn announce(&mut self, ctx: &mut Context) {
        let leader = self.lease.as_ref().map(|l| (l.worker.clone(), l.term));
        let news = (leader, self.term().is_some() && self.lease.is_some());
        if news != self.announced {
            self.announced.clone_from(&news);
            let (leader, is_us) = news;
            ctx.emit(Action::LeaderChanged { leader, is_us });
        }
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply, me: (&WorkerId, Incarnation)) -> Change {
        match &mut self.role {
            Role::Follower { checking, .. } if *checking == Some(op) => {
                *checking = None;
                if let Reply::Entry(Ok(entry)) = reply {
                    let entry = entry.clone();
                    self.observe(ctx, entry.as_ref());
                }
            }
            Role::Gathering { plan, heartbeats, over } => {
                let (op, over) = (Some(op), *over);
                match reply {
                    // The answer to what is no longer asked says nothing.
                    _ if op != *plan && op != *heartbeats => {}
                    Reply::Entry(Err(())) | Reply::Listing(Err(())) => self.follow(ctx),
                    Reply::Entry(Ok(entry)) if *plan == op => {
                        *plan = None;
                        let value = entry.as_ref().and_then(|e| e.value.as_deref());
                        if let Some(p) = value.and_then(|v| ctx.decode::<PlanRecord>(Bucket::Assignments, "plan", v)) {
                            self.highest = self.highest.max(p.term);
                        }
                    }
                    Reply::Listing(Ok(list)) if *heartbeats == op => {
                        *heartbeats = None;
                        for (key, entry) in list {
                            let value = entry.value.as_deref();
                            if let Some(h) =
                                value.and_then(|v| ctx.decode::<HeartbeatRecord>(Bucket::Heartbeats, key, v))
                            {
                                self.highest = self.highest.max(h.term);
                            }
                        }
                    }
                    _ => {}
                }
                if let Role::Gathering { plan: None, heartbeats: None, .. } = self.role {
                    self.bid(ctx, me, over);
                }
            }
            Role::Bidding { term, sent_at, write } => match write.reply(ctx, op, reply) {
                Progress::Pending => {}
                Progress::Written { revision, .. } => {
                    let (term, until) = (*term, *sent_at + ctx.settings.election_timeout);
                    let renew_at = *sent_at + ctx.settings.election_timeout / 3;
                    self.role = Role::Leading { term, revision, until, renew_at, write: None };
                    self.revision = revision;
                    self.highest = self.highest.max(term);
                    self.lease = Some(Self::record(ctx, me, term));
                    self.announce(ctx);
                    return Change::Won(term);
                }
                Progress::Conflict(entry) => {
                    self.role = Role::Follower { bid_at: None, checking: None };
                    self.observe(ctx, entry.as_ref());
                }
            },
            Role::Leading { revision, until, renew_at, write, .. } => {
                let Some((mut fenced, sent_at)) = write.take() else { return Change::None };
                match fenced.reply(ctx, op, reply) {
                    Progress::Pending => *write = Some((fenced, sent_at)),
                    Progress::Written { revision: now_at, fresh } => {
                        *revision = now_at;
                        self.revision = self.revision.max(now_at);
                        if fresh {
                            *until = sent_at + ctx.settings.election_timeout;
                            *renew_at = sent_at + ctx.settings.election_timeout / 3;
                        } else {
                            *renew_at = ctx.now;
                        }
                    }
                    // Another's value, or an expired lease: whoever bids next has a higher term.
                    Progress::Conflict(entry) => {
                        self.observe(ctx, entry.as_ref());
                        return self.step_down(ctx);
                    }
                }
            }
            Role::Follower { .. } => {}
        }
        Change::None
    }

    fn record(ctx: &Context, me: (&WorkerId, Incarnation), term: Term) -> LeaderRecord {
        let group = Some(ctx.settings.group.clone());
        LeaderRecord { v: FORMAT, group, worker: me.0.clone(), incarnation: me.1, term }
    }

    fn follow(&mut self, ctx: &mut Context) {
        let bid_at = ctx.now + SPREAD + ctx.jitter(SPREAD);
        self.role = Role::Follower { bid_at: Some(bid_at), checking: None };
    }

    fn gather(&mut self, ctx: &mut Context, over: Option<u64>) {
        let plan = Some(ctx.read(Part::Election, Bucket::Assignments, "plan"));
        let heartbeats = Some(ctx.list(Part::Election, Bucket::Heartbeats));
        self.role = Role::Gathering { plan, heartbeats, over };
    }

    /// Bids for a lease that still stands, because its holder's process is gone. Who renews it meanwhile keeps it. Returns
    /// whether the bid begins now.
    pub(super) fn supersede(&mut self, ctx: &mut Context) -> bool {
        let begins = match self.role {
            // One that came to nothing is not repeated at once.
            Role::Follower { bid_at, .. } => self.lease.is_some() && bid_at.is_none_or(|at| ctx.due(at)),
            _ => false,
        };
        if begins {
            self.gather(ctx, Some(self.revision));
        }
        begins
    }

    /// The leader whose lease was about to be bid for gives a sign of life.
    pub(super) fn leave_in_office(&mut self) {
        if let Role::Gathering { over: Some(_), .. } = self.role {
            self.role = Role::Follower { bid_at: None, checking: None };
        }
    }

    /// Does not bid for the time of two leases, so that others can.
    pub(super) fn sit_out(&mut self, ctx: &Context) {
        let bid_at = Some(ctx.now + ctx.settings.election_timeout * 2);
        self.role = Role::Follower { bid_at, checking: None };
    }

    fn bid(&mut self, ctx: &mut Context, me: (&WorkerId, Incarnation), over: Option<u64>) {
        if !self.is_vacant() && over != Some(self.revision) {
            self.role = Role::Follower { bid_at: None, checking: None };
            return;
        }
        let term = self.highest.next();
        #[cfg(test)]
        let term = Mutant::TermFromLeaseOnly.or(term, self.lease.as_ref().map_or(Term(1), |lease| lease.term.next()));
        let value = Context::encode(&Self::record(ctx, me, term));
        let expect = if self.revision == 0 { Expect::Nothing } else { Expect::Revision(self.revision) };
        let write = FencedWrite::start(ctx, Part::Election, Bucket::Election, KEY, value, expect, Lifetime::Election);
        self.role = Role::Bidding { term, sent_at: ctx.now, write };
    }

    fn step_down(&mut self, ctx: &mut Context) -> Change {
        self.follow(ctx);
        self.announce(ctx);
        Change::LostLead
    }

    pub(super) fn tick(&mut self, ctx: &mut Context, me: (&WorkerId, Incarnation), connected: bool) -> Change {
        if let Role::Leading { until, .. } = &self.role
            && ctx.due(*until)
        {
            self.lease = None;
            return self.step_down(ctx);
        }
        if !connected {
            return Change::None;
        }
        match &mut self.role {
            Role::Follower { .. } if !self.known => {}
            Role::Follower { bid_at, checking } => {
                if self.lease.is_none() && self.stranger.is_none() {
                    let at = *bid_at.get_or_insert_with(|| ctx.now + ctx.jitter(SPREAD));
                    if ctx.due(at) {
                        self.gather(ctx, None);
                    }
                } else if checking.is_none()
                    && (self.doubted || ctx.due(self.seen_at + ctx.settings.election_timeout + SLACK))
                {
                    (self.seen_at, self.doubted) = (ctx.now, false);
                    *checking = Some(ctx.read(Part::Election, Bucket::Election, KEY));
                }
            }
            Role::Gathering { .. } => {}
            Role::Bidding { write, .. } => write.tick(ctx),
            Role::Leading { term, revision, renew_at, write, .. } => match write {
                Some((write, _)) => write.tick(ctx),
                None if ctx.due(*renew_at) => {
                    let value = Context::encode(&Self::record(ctx, me, *term));
                    let expect = Expect::Revision(*revision);
                    #[cfg(test)]
                    let expect = Mutant::LeaseRenewedBlindly.or(expect, Expect::Anything);
                    let (part, bucket) = (Part::Election, Bucket::Election);
                    let fenced = FencedWrite::start(ctx, part, bucket, KEY, value, expect, Lifetime::Election);
                    *write = Some((fenced, ctx.now));
                }
                None => {}
            },
        }
        Change::None
    }

    /// Gives the lead back, or stops trying for it.
    pub(super) fn resign(&mut self, ctx: &mut Context) -> Option<OpId> {
        let role = std::mem::replace(&mut self.role, Role::Follower { bid_at: None, checking: None });
        self.known = false;
        match role {
            Role::Leading { revision, .. } => {
                self.lease = None;
                self.announce(ctx);
                Some(ctx.delete(Part::Election, Bucket::Election, KEY, Expect::Revision(revision)))
            }
            _ => None,
        }
    }
}
