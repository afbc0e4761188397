//! The leader's view of the fleet: who is there, who is leaving, who is dead, and by what evidence.
//!
//! Three independent signs: a heartbeat seen to change, an answered probe, a worker's own word that it leaves. Time counts
//! from when the leader *saw* a sign, on its own clock, and only while its own connection is healthy.

use super::context::{Context, Part};
use super::io::{Bucket, Notice, OpId, ProbeAnswer, Reply, StoredEntry};
use super::watchdog::Finding;
use crate::record::{HeartbeatRecord, PlanRecord, Refusals};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Now, Term, Version, WorkerId, WorkerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A leader that can judge nobody for so many times `heartbeatTtl` gives the lead up.
const BLIND: u32 = 5;

#[derive(Default)]
pub(super) struct Roster {
    members: BTreeMap<WorkerId, Member>,
    /// Of each ID, the highest claim judged dead.
    pub(super) dead: BTreeMap<WorkerId, u64>,
    /// When somebody last joined, left or died.
    pub(super) changed_at: Now,
    /// Grows with everything that a plan could depend on.
    revision: u64,
    probes: BTreeMap<OpId, WorkerId>,
    probe_at: Now,
    /// When the signs were last looked at.
    looked_at: Now,
    ready: bool,
    /// Since when nobody could be judged without a break.
    blind_since: Option<Now>,
}

/// Whether the leader can judge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Clear,
    /// Not for so long that somebody else should lead.
    Blind,
}

pub(super) struct Member {
    pub(super) incarnation: Incarnation,
    pub(super) capacity: u32,
    pub(super) labels: BTreeMap<String, String>,
    /// Digests of its plugins.
    pub(super) digests: BTreeSet<String>,
    pub(super) refusals: Refusals,
    /// The plan of whose partitions, as far as they are its own, it knows that each has a record.
    pub(super) begun: Option<(Term, Version)>,
    pub(super) leaving: bool,
    revision: u64,
    heartbeat_at: Now,
    sign_at: Now,
    missed: bool,
    /// Only who has answered once can be missed by a probe.
    answered: bool,
    silent_probes: u8,
    suspect_since: Option<Now>,
    /// Another has suspected it since then; the next silent probe makes that ours.
    doubted_since: Option<Now>,
    /// It has said that it comes back: until then its partitions wait for it, whatever the signs.
    returns_by: Option<Now>,
    /// Listed in the plan but not heard of yet.
    presumed: bool,
}

impl Member {
    pub(super) fn new(now: Now, incarnation: Incarnation, presumed: bool) -> Self {
        Self {
            incarnation,
            capacity: 1,
            labels: BTreeMap::new(),
            digests: BTreeSet::new(),
            refusals: Refusals::default(),
            begun: None,
            leaving: false,
            revision: 0,
            heartbeat_at: now,
            sign_at: now,
            missed: false,
            answered: false,
            silent_probes: 0,
            suspect_since: None,
            doubted_since: None,
            returns_by: None,
            presumed,
        }
    }

    /// One that has just been heard of for the first time.
    pub(super) fn heard(now: Now, beat: &HeartbeatRecord) -> Self {
        let mut member = Self::new(now, beat.incarnation, false);
        member.capacity = beat.capacity;
        member.labels.clone_from(&beat.labels);
        member.digests = beat.plugins.values().cloned().collect();
        member.refusals.clone_from(&beat.refusals);
        member.begun = beat.begun;
        member.leaving = beat.state == WorkerState::Shutdown;
        member.returns_by = beat.returning.map(|hold| now + Duration::from_millis(hold));
        member
    }

    /// Whether it may get partitions.
    pub(super) fn is_candidate(&self) -> bool {
        !self.leaving && !self.presumed
    }

    /// Whether its partitions are to be moved away: it leaves for good.
    pub(super) fn is_vacating(&self) -> bool {
        self.leaving && self.returns_by.is_none()
    }
}

impl Roster {
    pub(super) fn members(&self) -> impl Iterator<Item = (&WorkerId, &Member)> {
        self.members.iter()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    fn changed(&mut self, now: Now) {
        self.changed_at = now;
        self.revision += 1;
    }

    pub(super) fn is_live(&self, worker: &WorkerId) -> bool {
        self.members.contains_key(worker)
    }

    /// Begins to lead: everyone in the plan is presumed alive until the time for a sign has passed.
    pub(super) fn begin(&mut self, ctx: &Context, plan: Option<&PlanRecord>) {
        *self = Self { changed_at: ctx.now, probe_at: ctx.now, looked_at: ctx.now, ..Self::default() };
        if let Some(plan) = plan {
            self.dead.clone_from(&plan.dead);
            for (worker, incarnation) in &plan.live {
                self.members.insert(worker.clone(), Member::new(ctx.now, *incarnation, true));
            }
        }
    }

    /// What a successor has found out about the leader before it: it is judged as a worker like any other.
    pub(super) fn inherit(&mut self, finding: Finding) {
        if let Some(member) = self.members.get_mut(&finding.worker).filter(|m| m.incarnation == finding.incarnation) {
            member.answered = true;
            member.doubted_since = finding.suspect_since;
        }
    }

    /// The connection came back: for one heartbeat time nobody is judged, and silence so far does not count.
    pub(super) fn reconnected(&mut self, ctx: &mut Context) {
        ctx.give_time(ctx.settings.heartbeat_ttl);
        for member in self.members.values_mut() {
            member.heartbeat_at = ctx.now;
            member.sign_at = ctx.now;
            member.suspect_since = None;
            member.doubted_since = None;
            member.silent_probes = 0;
        }
    }

    /// Ourselves: present without a heartbeat of our own.
    pub(super) fn include(
        &mut self,
        ctx: &Context,
        worker: &WorkerId,
        incarnation: Incarnation,
        leaving: bool,
        refusals: &Refusals,
        begun: Option<(Term, Version)>,
    ) {
        let known = self.members.get(worker).is_some_and(|m| m.incarnation == incarnation && !m.presumed);
        if !known {
            self.changed(ctx.now);
            let mut member = Member::new(ctx.now, incarnation, false);
            member.capacity = ctx.settings.capacity;
            member.labels.clone_from(&ctx.settings.labels);
            member.digests = ctx.settings.plugins.values().cloned().collect();
            self.members.insert(worker.clone(), member);
        }
        if let Some(member) = self.members.get_mut(worker) {
            member.heartbeat_at = ctx.now;
            member.sign_at = ctx.now;
            member.suspect_since = None;
            let hold = Some(ctx.settings.shutdown_hold).filter(|hold| leaving && !hold.is_zero());
            member.returns_by = hold.map(|hold| ctx.now + hold);
            if std::mem::replace(&mut member.leaving, leaving) != leaving || member.refusals != *refusals {
                self.revision += 1;
            }
            member.refusals.clone_from(refusals);
            member.begun = begun;
        }
    }

    /// A heartbeat has changed. Returns what it says, whoever it is from. `published` are the verdicts that a plan has made known.
    pub(super) fn heartbeat(
        &mut self,
        ctx: &mut Context,
        key: &str,
        entry: &StoredEntry,
        published: Option<&BTreeMap<WorkerId, u64>>,
    ) -> Option<(WorkerId, HeartbeatRecord)> {
        let worker = Some(WorkerId::parse(key.strip_prefix("heartbeat.")?)).filter(WorkerId::is_well_formed)?;
        let Some(value) = &entry.value else {
            // Deleted by a worker that has finished leaving; an expired one is judged by time.
            if let Some(member) = self.members.get(&worker)
                && member.is_vacating()
                && entry.revision > member.revision
            {
                self.members.remove(&worker);
                self.changed(ctx.now);
            }
            return None;
        };
        let beat = ctx.decode::<HeartbeatRecord>(Bucket::Heartbeats, key, value)?;
        let published = published.and_then(|dead| dead.get(&worker).copied());
        let condemned = |dead: Option<u64>| dead.is_some_and(|claim| beat.incarnation.claim <= claim);
        if condemned(self.dead.get(&worker).copied()) && !condemned(published) {
            // Nobody has been told, this worker least of all: it never had anything to lose. The verdict is void.
            match published {
                Some(claim) => self.dead.insert(worker.clone(), claim),
                None => self.dead.remove(&worker),
            };
        }
        self.signed(ctx, &worker, &beat, entry.revision);
        Some((worker, beat))
    }

    fn signed(&mut self, ctx: &mut Context, worker: &WorkerId, beat: &HeartbeatRecord, revision: u64) {
        if self.dead.get(worker).is_some_and(|claim| beat.incarnation.claim <= *claim) {
            return;
        }
        let leaving = beat.state == WorkerState::Shutdown;
        let returns_by = beat.returning.map(|hold| ctx.now + Duration::from_millis(hold));
        let now = ctx.now;
        let known = self.members.get(worker).map(|member| member.incarnation);
        let is_older = known.is_some_and(|known| known.claim > beat.incarnation.claim);
        #[cfg(test)]
        let is_older =
            Mutant::UuidInsteadOfClaim.or(is_older, known.is_some_and(|known| known.uuid > beat.incarnation.uuid));
        match self.members.get_mut(worker) {
            _ if is_older => {}
            Some(member) if member.incarnation == beat.incarnation => {
                if revision == member.revision {
                    return;
                }
                member.revision = revision;
                member.heartbeat_at = now;
                member.sign_at = now;
                // What the watch tells first may be older than the suspicion.
                if self.ready {
                    member.suspect_since = None;
                    member.doubted_since = None;
                }
                member.missed = false;
                let digests = beat.plugins.values().cloned().collect();
                let says_more = member.digests != digests || member.refusals != beat.refusals;
                (member.digests, member.refusals) = (digests, beat.refusals.clone());
                member.begun = beat.begun;
                let is_other =
                    (member.capacity, member.presumed) != (beat.capacity, false) || member.labels != beat.labels;
                (member.capacity, member.presumed) = (beat.capacity, false);
                member.labels.clone_from(&beat.labels);
                member.returns_by = returns_by;
                let leaves = leaving && !member.leaving;
                member.leaving |= leaving;
                if says_more || is_other {
                    self.revision += 1;
                }
                if leaves {
                    self.changed(now);
                    ctx.notice(Notice::WorkerLeaving { worker: worker.clone() });
                }
            }
            _ => {
                let mut member = Member::heard(now, beat);
                member.revision = revision;
                self.members.insert(worker.clone(), member);
                self.changed(now);
                ctx.notice(Notice::WorkerJoined { worker: worker.clone() });
            }
        }
    }

    pub(super) fn ready(&mut self) {
        self.ready = true;
        self.revision += 1;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn reply(&mut self, ctx: &Context, op: OpId, reply: &Reply) {
        let (Some(worker), Reply::Probe(answer)) = (self.probes.remove(&op), reply) else { return };
        let Some(member) = self.members.get_mut(&worker) else { return };
        match answer {
            ProbeAnswer::Answered => {
                member.answered = true;
                member.silent_probes = 0;
                member.suspect_since = None;
                member.doubted_since = None;
                member.sign_at = ctx.now;
            }
            ProbeAnswer::NoResponders => {
                member.silent_probes = member.silent_probes.saturating_add(1);
                if member.silent_probes >= 2 && member.answered {
                    member.suspect_since.get_or_insert(member.doubted_since.unwrap_or(ctx.now));
                }
            }
            // A stopped process: it proves nothing, the heartbeat decides.
            ProbeAnswer::TimedOut => {}
        }
    }

    /// Probes whoever is due and judges.
    pub(super) fn tick(&mut self, ctx: &mut Context, me: &WorkerId) -> Sight {
        // A judge that was stopped has not seen the signs that came meanwhile.
        if ctx.now.since(self.looked_at) > ctx.settings.heartbeat_interval {
            self.reconnected(ctx);
        }
        self.looked_at = ctx.now;
        if ctx.due(self.probe_at) {
            self.probe_at = ctx.now + ctx.settings.probe_interval;
            ctx.wake_at(self.probe_at);
            let targets: Vec<_> = self
                .members
                .iter()
                .filter(|(worker, member)| *worker != me && member.returns_by.is_none())
                .map(|(worker, member)| (worker.clone(), member.incarnation))
                .collect();
            for (worker, incarnation) in targets {
                let op = ctx.probe(Part::Roster, incarnation);
                self.probes.insert(op, worker);
            }
        }
        if !ctx.due(ctx.judge_from) {
            // A connection that comes and goes, or a process that is stopped again and again, would never judge.
            let since = *self.blind_since.get_or_insert(ctx.now);
            let recovery = ctx.settings.degraded_behavior.recovery_grace_period;
            let patience = (ctx.settings.heartbeat_ttl * BLIND).max(recovery + ctx.settings.heartbeat_ttl);
            return if ctx.due(since + patience) { Sight::Blind } else { Sight::Clear };
        }
        self.blind_since = None;
        if !self.ready {
            return Sight::Clear;
        }
        let (grace, ttl, interval) =
            (ctx.settings.emergency_grace_period, ctx.settings.heartbeat_ttl, ctx.settings.heartbeat_interval);
        let others = self.members.keys().filter(|w| *w != me).count();
        let suspects = self.members.values().filter(|m| m.silent_probes >= 2).count();
        // Many at once are a server being rolled, not many deaths: then only heartbeats count, and who is still away when the
        // others are back gets the full time.
        if suspects > 1 && suspects * 3 > others + 1 {
            for member in self.members.values_mut().filter(|m| m.suspect_since.is_some()) {
                member.suspect_since = Some(ctx.now);
            }
        }
        let mut dead = Vec::new();
        for (worker, member) in &mut self.members {
            if worker == me {
                continue;
            }
            if let Some(by) = member.returns_by {
                if ctx.due(by) {
                    dead.push((
                        worker.clone(),
                        member.incarnation,
                        "it left and has not come back within its shutdown.hold",
                    ));
                }
                continue;
            }
            if !member.missed && !member.leaving && ctx.due(member.heartbeat_at + interval + interval / 2) {
                member.missed = true;
                ctx.notice(Notice::HeartbeatMissed { worker: worker.clone() });
            }
            // Silence from before anybody could be judged proves nothing: all were reconnecting.
            if let Some(since) = member.suspect_since
                && ctx.due(since.max(ctx.judge_from) + grace)
            {
                dead.push((worker.clone(), member.incarnation, "no process answers for it"));
            } else if ctx.due(member.sign_at.max(member.heartbeat_at + ttl) + grace) {
                dead.push((worker.clone(), member.incarnation, "its heartbeat has expired"));
            }
        }
        for (worker, incarnation, evidence) in dead {
            self.members.remove(&worker);
            let claim = self.dead.entry(worker.clone()).or_default();
            *claim = (*claim).max(incarnation.claim);
            self.changed(ctx.now);
            ctx.notice(Notice::WorkerDead { worker, incarnation, evidence });
        }
        Sight::Clear
    }
}
