//! Stable worker IDs: claim one, keep it, notice when another process has taken it, give it back.

use super::context::{self, Context, Part, Settings};
use super::io::{Action, Bucket, Expect, Lifetime, OpId, ProbeAnswer, Reply, StartFailure, StoredEntry};
use super::write::{FencedWrite, Progress};
use crate::record::{ClaimRecord, FORMAT, HeartbeatRecord, PlanRecord};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Now, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long to wait before a survey is repeated after NATS did not answer.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Identity {
    phase: Phase,
    /// The highest claim seen of each ID, wherever it was seen; survives fencing.
    highest: BTreeMap<WorkerId, u64>,
    /// The highest claim that was ours, of whatever ID: no two of our runs are the same incarnation.
    latest: u64,
    /// The number to try first: what the operator prefers, or what we held before.
    prefer: Option<u32>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Surveying(Survey),
    /// Probes a round of holders; two rounds without responders make an ID free.
    Probing {
        found: Found,
        asked: BTreeSet<u32>,
        round: u8,
        open: BTreeMap<OpId, u32>,
        silent: BTreeSet<u32>,
        next_round: Option<Now>,
    },
    Claiming {
        found: Found,
        number: u32,
        incarnation: Incarnation,
        write: FencedWrite,
    },
    Held(Held),
    WaitUntil(Now),
}

#[derive(Default)]
struct Survey {
    ids: Option<OpId>,
    heartbeats: Option<OpId>,
    plan: Option<OpId>,
    found: Found,
    /// The plan is our group's.
    is_ours: bool,
    /// Which other group writes to a bucket.
    strangers: BTreeMap<Bucket, String>,
}

/// What the survey found, narrowed down as numbers are tried.
#[derive(Default)]
struct Found {
    entries: BTreeMap<u32, (Option<ClaimRecord>, u64)>,
    lost: BTreeSet<u32>,
    alive: BTreeSet<u32>,
}

struct Held {
    worker: WorkerId,
    incarnation: Incarnation,
    revision: u64,
    renew_at: Now,
    write: Option<FencedWrite>,
}

impl Identity {
    pub(super) fn held(&self) -> Option<(&WorkerId, Incarnation)> {
        match &self.phase {
            Phase::Held(held) => Some((&held.worker, held.incarnation)),
            _ => None,
        }
    }

    pub(super) fn is_writing(&self) -> bool {
        matches!(&self.phase, Phase::Held(Held { write: Some(write), .. }) if write.is_in_flight())
    }

    /// Makes sure now that the ID is still ours.
    pub(super) fn renew_now(&mut self, now: Now) {
        if let Phase::Held(held) = &mut self.phase {
            held.renew_at = now;
        }
    }

    /// Remembers a claim seen anywhere.
    pub(super) fn saw(&mut self, worker: &WorkerId, claim: u64) {
        let highest = self.highest.entry(worker.clone()).or_default();
        *highest = (*highest).max(claim);
    }

    pub(super) fn begin(&mut self, ctx: &mut Context) {
        if self.prefer.is_none() {
            self.prefer = ctx.settings.preferred_number;
        }
        self.phase = Phase::Surveying(Survey {
            ids: Some(ctx.list(Part::Identity, Bucket::StableIds)),
            heartbeats: Some(ctx.list(Part::Identity, Bucket::Heartbeats)),
            plan: Some(ctx.read(Part::Identity, Bucket::Assignments, "plan")),
            ..Survey::default()
        });
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) {
        match std::mem::take(&mut self.phase) {
            Phase::Surveying(survey) => self.survey_reply(ctx, survey, op, reply),
            Phase::Probing { found, asked, round, mut open, mut silent, next_round } => {
                if let (Some(number), Reply::Probe(ProbeAnswer::NoResponders)) = (open.remove(&op), reply) {
                    silent.insert(number);
                }
                self.phase = Phase::Probing { found, asked, round, open, silent, next_round };
                self.probing(ctx);
            }
            Phase::Claiming { mut found, number, incarnation, mut write } => match write.reply(ctx, op, reply) {
                Progress::Pending => self.phase = Phase::Claiming { found, number, incarnation, write },
                Progress::Written { revision, .. } => {
                    let worker = WorkerId::new(&ctx.settings.worker_id_prefix, number);
                    self.saw(&worker, incarnation.claim);
                    self.latest = incarnation.claim;
                    self.prefer = Some(number);
                    let renew_at = ctx.now + ctx.settings.worker_id_ttl / 3;
                    ctx.emit(Action::Claimed { worker: worker.clone(), incarnation });
                    self.phase = Phase::Held(Held { worker, incarnation, revision, renew_at, write: None });
                }
                Progress::Conflict(entry) => {
                    self.note(ctx, &mut found, number, entry);
                    found.lost.insert(number);
                    self.choose(ctx, found);
                }
            },
            Phase::Held(held) => self.renewal_reply(ctx, held, op, reply),
            other => self.phase = other,
        }
    }

    fn survey_reply(&mut self, ctx: &mut Context, mut survey: Survey, op: OpId, reply: &Reply) {
        let op = Some(op);
        match reply {
            // The answer to what is no longer asked says nothing.
            _ if ![survey.ids, survey.heartbeats, survey.plan].contains(&op) => {}
            Reply::Listing(Err(())) | Reply::Entry(Err(())) => {
                let at = ctx.now + RETRY + ctx.jitter(RETRY);
                ctx.wake_at(at);
                self.phase = Phase::WaitUntil(at);
                return;
            }
            Reply::Listing(Ok(list)) if op == survey.ids => {
                survey.ids = None;
                for (key, entry) in list {
                    if let Some(number) = WorkerId::parse(key).number(&ctx.settings.worker_id_prefix) {
                        let stranger = self.note(ctx, &mut survey.found, number, Some(entry.clone()));
                        survey.strangers.extend(stranger.map(|group| (Bucket::StableIds, group)));
                    }
                }
            }
            Reply::Listing(Ok(list)) if op == survey.heartbeats => {
                survey.heartbeats = None;
                for (key, entry) in list {
                    let (Some(worker), Some(value)) = (key.strip_prefix("heartbeat."), &entry.value) else { continue };
                    match ctx.find::<HeartbeatRecord>(Bucket::Heartbeats, key, value) {
                        context::Found::Ours(record) => self.saw(&WorkerId::parse(worker), record.incarnation.claim),
                        context::Found::Theirs(group) => {
                            survey.strangers.insert(Bucket::Heartbeats, group);
                        }
                        context::Found::Unreadable => {}
                    }
                }
            }
            Reply::Entry(Ok(entry)) if op == survey.plan => {
                survey.plan = None;
                let value = entry.as_ref().and_then(|e| e.value.as_deref());
                match value.map(|v| ctx.find::<PlanRecord>(Bucket::Assignments, "plan", v)) {
                    Some(context::Found::Ours(plan)) => {
                        survey.is_ours = plan.group.is_some();
                        for (worker, incarnation) in plan.live.iter().chain(&plan.leaving) {
                            self.saw(worker, incarnation.claim);
                        }
                        for (worker, claim) in &plan.dead {
                            self.saw(worker, *claim);
                        }
                    }
                    Some(context::Found::Theirs(group)) => {
                        survey.strangers.insert(Bucket::Assignments, group);
                    }
                    Some(context::Found::Unreadable) | None => {}
                }
            }
            _ => {}
        }
        if survey.ids.is_some() || survey.heartbeats.is_some() || survey.plan.is_some() {
            self.phase = Phase::Surveying(survey);
        } else if !survey.is_ours
            && let Some((bucket, group)) = survey.strangers.pop_last()
        {
            // Nothing has been written yet. Buckets with a plan of ours are ours, whoever else has come to them.
            self.phase = Phase::Idle;
            ctx.emit(Action::Failed(StartFailure::AnotherGroup { bucket, group }));
        } else {
            self.choose(ctx, survey.found);
        }
    }

    /// Takes note of a number's key. Returns the group that holds it, if that is not ours.
    fn note(
        &mut self,
        ctx: &mut Context,
        found: &mut Found,
        number: u32,
        entry: Option<StoredEntry>,
    ) -> Option<String> {
        let Some(entry) = entry else {
            found.entries.remove(&number);
            return None;
        };
        let worker = WorkerId::new(&ctx.settings.worker_id_prefix, number);
        let mut stranger = None;
        let record = match &entry.value {
            None => {
                // A marker says no claim any more. No claim is higher than the revision of its write, so the marker's is above all;
                // unless the bucket has lost something, and then who is not in the key finds out at the next renewal.
                self.saw(&worker, entry.revision);
                None
            }
            Some(value) => match ctx.find::<ClaimRecord>(Bucket::StableIds, worker.as_str(), value) {
                context::Found::Ours(record) => {
                    self.saw(&worker, record.incarnation.claim);
                    Some(record)
                }
                theirs => {
                    // Not ours to overwrite: the number counts as held by somebody who answers. Another group's does not answer to ours.
                    if let context::Found::Theirs(group) = theirs {
                        stranger = Some(group);
                    }
                    found.lost.insert(number);
                    found.alive.insert(number);
                    None
                }
            },
        };
        found.entries.insert(number, (record, entry.revision));
        stranger
    }

    /// Picks the next number to try: our own, the preferred one, then free ones from the lowest on. After three lost tries
    /// among many starters the choice spreads over a window that doubles, so that n starters need O(n log n) tries.
    fn choose(&mut self, ctx: &mut Context, found: Found) {
        let uuid = ctx.settings.uuid;
        let range = ctx.settings.worker_id_min..=ctx.settings.worker_id_max;
        let holder = |n: u32| found.entries.get(&n).and_then(|(record, _)| record.as_ref());
        if let Some(own) = range.clone().find(|n| holder(*n).is_some_and(|r| r.incarnation.uuid == uuid)) {
            return self.claim(ctx, found, own);
        }
        if let Some(n) =
            self.prefer.filter(|n| range.contains(n) && !found.lost.contains(n) && !found.alive.contains(n))
        {
            if holder(n).is_none() {
                return self.claim(ctx, found, n);
            }
            return self.probe(ctx, found, vec![n]);
        }
        let free: Vec<u32> = range.clone().filter(|n| holder(*n).is_none() && !found.lost.contains(n)).collect();
        if !free.is_empty() {
            let tries = u32::try_from(found.lost.len()).unwrap_or(u32::MAX);
            let window = 1usize.checked_shl(tries.saturating_sub(2)).unwrap_or(usize::MAX).clamp(1, free.len());
            let step = ctx.jitter(Duration::from_secs(1)).as_millis() as usize % window;
            if let Some(n) = free.get(step) {
                return self.claim(ctx, found, *n);
            }
        }
        let unknown: Vec<u32> = range.clone().filter(|n| holder(*n).is_some() && !found.alive.contains(n)).collect();
        if !unknown.is_empty() {
            return self.probe(ctx, found, unknown);
        }
        let holders = range
            .map(|n| {
                let by = holder(n)
                    .map_or_else(|| "unknown".to_owned(), |r| format!("{} pid {} ({})", r.host, r.pid, r.incarnation));
                (WorkerId::new(&ctx.settings.worker_id_prefix, n), by)
            })
            .collect();
        self.phase = Phase::Idle;
        ctx.emit(Action::Failed(StartFailure::IdsExhausted { holders }));
    }

    fn claim(&mut self, ctx: &mut Context, found: Found, number: u32) {
        let worker = WorkerId::new(&ctx.settings.worker_id_prefix, number);
        let claim = self.highest.get(&worker).copied().unwrap_or(0).max(self.latest) + 1;
        let incarnation = Incarnation { claim, uuid: ctx.settings.uuid };
        let value = Self::value(ctx, incarnation);
        let expect = found.entries.get(&number).map_or(Expect::Nothing, |(_, revision)| Expect::Revision(*revision));
        let key = worker.as_str();
        let write = FencedWrite::start(ctx, Part::Identity, Bucket::StableIds, key, value, expect, Lifetime::WorkerId);
        self.phase = Phase::Claiming { found, number, incarnation, write };
    }

    fn value(ctx: &Context, incarnation: Incarnation) -> String {
        let Settings { group, host, pid, .. } = &ctx.settings;
        let (group, host) = (Some(group.clone()), host.clone());
        Context::encode(&ClaimRecord { v: FORMAT, group, incarnation, host, pid: *pid })
    }

    fn probe(&mut self, ctx: &mut Context, found: Found, numbers: Vec<u32>) {
        let mut open = BTreeMap::new();
        let asked = numbers.iter().copied().collect();
        for n in numbers {
            if let Some(record) = found.entries.get(&n).and_then(|(record, _)| record.as_ref()) {
                let incarnation = record.incarnation;
                open.insert(ctx.probe(Part::Identity, incarnation), n);
            }
        }
        self.phase = Phase::Probing { found, asked, round: 1, open, silent: BTreeSet::new(), next_round: None };
    }

    fn probing(&mut self, ctx: &mut Context) {
        let Phase::Probing { found, asked, round, open, silent, next_round } = &mut self.phase else { return };
        if !open.is_empty() {
            return;
        }
        if *round == 1 && !silent.is_empty() {
            let at = *next_round.get_or_insert(ctx.now + ctx.settings.probe_interval);
            if !ctx.due(at) {
                return;
            }
            *round = 2;
            for n in std::mem::take(silent) {
                if let Some(record) = found.entries.get(&n).and_then(|(record, _)| record.as_ref()) {
                    open.insert(ctx.probe(Part::Identity, record.incarnation), n);
                }
            }
            return;
        }
        let mut found = std::mem::take(found);
        // Nobody answers for the silent ones: as good as free. The others have been asked and are not to be had.
        for n in std::mem::take(asked) {
            if silent.contains(&n) {
                if let Some((record, _)) = found.entries.get_mut(&n) {
                    *record = None;
                }
            } else {
                found.alive.insert(n);
            }
        }
        self.choose(ctx, found);
    }

    fn renewal_reply(&mut self, ctx: &mut Context, mut held: Held, op: OpId, reply: &Reply) {
        let Some(mut write) = held.write.take() else {
            self.phase = Phase::Held(held);
            return;
        };
        #[cfg(test)]
        if Mutant::LostCompareFences.is_on() && *reply == Reply::Write(super::io::WriteOutcome::Lost) {
            return self.fenced(ctx, held.worker, None);
        }
        match write.reply(ctx, op, reply) {
            Progress::Pending => held.write = Some(write),
            Progress::Written { revision, fresh } => {
                held.revision = revision;
                held.renew_at = if fresh { ctx.now + ctx.settings.worker_id_ttl / 3 } else { ctx.now };
            }
            Progress::Conflict(entry) => {
                let value = entry.as_ref().and_then(|e| e.value.as_deref());
                let holder = value.map(|v| ctx.find::<ClaimRecord>(Bucket::StableIds, held.worker.as_str(), v));
                match holder {
                    Some(context::Found::Unreadable | context::Found::Theirs(_)) => {
                        return self.fenced(ctx, held.worker, None);
                    }
                    Some(context::Found::Ours(record)) if record.incarnation.claim >= held.incarnation.claim => {
                        return self.fenced(ctx, held.worker, Some(record.incarnation));
                    }
                    // Expired during an outage, or an earlier run's, shown again by servers that have lost their last writes: nobody
                    // has it, so it is written back.
                    _ => {
                        let expect = entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision));
                        let value = Self::value(ctx, held.incarnation);
                        let key = held.worker.as_str();
                        let part = Part::Identity;
                        held.write = Some(FencedWrite::start(
                            ctx,
                            part,
                            Bucket::StableIds,
                            key,
                            value,
                            expect,
                            Lifetime::WorkerId,
                        ));
                    }
                }
            }
        }
        self.phase = Phase::Held(held);
        self.tick(ctx);
    }

    /// Another process holds our ID, or the plan has declared us dead: stop, then claim afresh.
    pub(super) fn fenced(&mut self, ctx: &mut Context, worker: WorkerId, by: Option<Incarnation>) {
        if let Some(by) = by {
            self.saw(&worker, by.claim);
        }
        self.phase = Phase::Idle;
        ctx.emit(Action::Fenced { worker, by });
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) {
        match &mut self.phase {
            Phase::WaitUntil(at) => {
                let at = *at;
                if ctx.due(at) {
                    self.begin(ctx);
                }
            }
            Phase::Probing { .. } => self.probing(ctx),
            Phase::Claiming { write, .. } => write.tick(ctx),
            Phase::Held(held) => match &mut held.write {
                Some(write) => write.tick(ctx),
                None => {
                    if ctx.due(held.renew_at) {
                        let value = Self::value(ctx, held.incarnation);
                        let (key, expect) = (held.worker.as_str(), Expect::Revision(held.revision));
                        #[cfg(test)]
                        let expect = Mutant::IdRenewedBlindly.or(expect, Expect::Anything);
                        held.write = Some(FencedWrite::start(
                            ctx,
                            Part::Identity,
                            Bucket::StableIds,
                            key,
                            value,
                            expect,
                            Lifetime::WorkerId,
                        ));
                    }
                }
            },
            Phase::Idle | Phase::Surveying(_) => {}
        }
    }

    /// Gives the ID back. If another process has it by now, the revision says so.
    pub(super) fn release(&mut self, ctx: &mut Context) -> Option<OpId> {
        let Phase::Held(held) = std::mem::take(&mut self.phase) else { return None };
        Some(ctx.delete(Part::Identity, Bucket::StableIds, held.worker.as_str(), Expect::Revision(held.revision)))
    }
}
