//! The leader's plan: plant the term, collect what is in force, decide when to plan, publish.
//!
//! The plan and its assignments are separate writes. A leader that dies between them leaves assignments that do not add up
//! to the plan; the next one rewrites every assignment under its own term and plans again for whatever is in none.

use super::context::{Context, Part};
use super::io::{Action, Bucket, Expect, Lifetime, Notice, OpId, Reply, StoredEntry};
use super::roster::Roster;
use super::write::{FencedWrite, Progress};
use crate::record::{AssignmentRecord, FORMAT, Lifecycle, PlanRecord, checksum};
use crate::strategy::{Candidate, Request};
use crate::{Now, Partition, PartitionId, Term, Version, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// A first plan waits until nobody has joined for this long.
const COLD_QUIET: Duration = Duration::from_secs(1);
/// Within the cold-start window, later joiners are planned for after this much quiet.
const COLD_JOIN_QUIET: Duration = Duration::from_secs(2);
/// A planned window closes early after a fifth of it without a change.
const QUIET_SHARE: u32 = 5;
/// How long to wait before NATS is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(250);
/// First and longest wait before a failed source is asked again.
const SOURCE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Default)]
pub(super) struct Planner {
    phase: Phase,
    term: Term,
    /// The highest plan version seen anywhere or tried.
    pub(super) highest_version: Version,
    plan: Option<(PlanRecord, u64)>,
    /// When to look whether the plan is still what we wrote, and the read that is looking.
    check_at: Option<Now>,
    checking: Option<OpId>,
    current: BTreeMap<WorkerId, (AssignmentRecord, u64)>,
    partitions: Option<Vec<Partition>>,
    listing: Option<OpId>,
    list_at: Option<Now>,
    list_failures: u32,
    /// The list has changed since the last full plan.
    list_changed: bool,
    publication: Option<Publication>,
    joined_since: Option<Now>,
    led_since: Now,
    cold_until: Option<Now>,
    planned_at: Option<Now>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Off,
    ReadAt(Now),
    Reading(OpId),
    Planting(FencedWrite, PlanRecord),
    CollectAt(Now),
    Collecting(OpId),
    Ready,
}

struct Publication {
    plan: Option<(FencedWrite, PlanRecord)>,
    waiting: BTreeMap<WorkerId, AssignmentRecord>,
    writes: BTreeMap<WorkerId, (FencedWrite, AssignmentRecord)>,
    summary: Option<Summary>,
}

struct Summary {
    moved: usize,
    unowned: usize,
    workers: usize,
    since: Now,
}

/// What the coordinator must do after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// A higher term is at work: we do not lead.
    Superseded(Term),
}

impl Planner {
    pub(super) fn begin(&mut self, ctx: &mut Context, term: Term) {
        let highest_version = self.highest_version;
        *self = Self { term, highest_version, led_since: ctx.now, ..Self::default() };
        self.phase = Phase::Reading(ctx.read(Part::Planner, Bucket::Assignments, "plan"));
    }

    pub(super) fn stop(&mut self) {
        *self = Self { highest_version: self.highest_version, ..Self::default() };
    }

    /// Remembers a plan version seen anywhere.
    pub(super) fn saw(&mut self, version: Version) {
        self.highest_version = self.highest_version.max(version);
    }

    pub(super) fn plan(&self) -> Option<&PlanRecord> {
        self.plan.as_ref().map(|(plan, _)| plan)
    }

    /// Who is dead by the plan in force, or by the one that is being written.
    pub(super) fn published_dead(&self) -> Option<&BTreeMap<WorkerId, u64>> {
        let next = self.publication.as_ref().and_then(|p| p.plan.as_ref()).map(|(_, plan)| &plan.dead);
        next.or(self.plan().map(|plan| &plan.dead))
    }

    /// The plan has been told with this revision, or may have been lost with its bucket: if it is not ours, find out.
    pub(super) fn told(&mut self, ctx: &Context, revision: Option<u64>) {
        if self.plan.as_ref().is_some_and(|(_, ours)| Some(*ours) != revision) {
            self.check_at = Some(ctx.now);
        }
    }

    /// Nothing is being written and nothing is left to hand over from this worker.
    pub(super) fn is_at_rest(&self, leaving: &WorkerId) -> bool {
        self.publication.is_none()
            && self.current.get(leaving).is_none_or(|(assignment, _)| assignment.partitions.is_empty())
    }

    pub(super) fn refresh(&mut self, ctx: &Context) {
        self.list_at = Some(ctx.now);
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Verdict {
        if self.listing == Some(op) {
            self.listed(ctx, reply);
            return Verdict::GoOn;
        }
        if self.checking == Some(op) {
            self.checking = None;
            return match reply {
                Reply::Entry(Ok(entry)) => self.checked(ctx, entry.as_ref()),
                _ => {
                    self.check_at = Some(ctx.now + RETRY);
                    Verdict::GoOn
                }
            };
        }
        match std::mem::take(&mut self.phase) {
            Phase::Reading(mine) if mine == op => match reply {
                Reply::Entry(Ok(entry)) => return self.plant(ctx, entry.as_ref()),
                _ => self.phase = Phase::ReadAt(ctx.now + RETRY),
            },
            Phase::Planting(mut write, plan) => match write.reply(ctx, op, reply) {
                Progress::Pending => self.phase = Phase::Planting(write, plan),
                Progress::Written { revision, .. } => {
                    self.plan = Some((plan, revision));
                    self.phase = Phase::Collecting(ctx.list(Part::Planner, Bucket::Assignments));
                }
                Progress::Conflict(entry) => return self.plant(ctx, entry.as_ref()),
            },
            Phase::Collecting(mine) if mine == op => match reply {
                Reply::Listing(Ok(list)) => self.collect(ctx, list),
                _ => self.phase = Phase::CollectAt(ctx.now + RETRY),
            },
            phase => {
                self.phase = phase;
                return self.published(ctx, op, reply);
            }
        }
        Verdict::GoOn
    }

    /// Writes our term into the plan, content unchanged; every assignment follows. Who loses that is no leader.
    fn plant(&mut self, ctx: &mut Context, entry: Option<&StoredEntry>) -> Verdict {
        let value = entry.and_then(|e| e.value.as_deref());
        let found = value.and_then(|v| ctx.decode::<PlanRecord>(Bucket::Assignments, "plan", v));
        if let Some(plan) = &found {
            if plan.term >= self.term {
                return Verdict::Superseded(plan.term);
            }
            self.saw(plan.version);
        }
        let mut plan = found.or_else(|| self.plan().cloned()).unwrap_or_else(|| PlanRecord {
            v: FORMAT,
            term: self.term,
            version: Version(0),
            lifecycle: Lifecycle::ColdStart,
            live: BTreeMap::new(),
            leaving: BTreeMap::new(),
            dead: BTreeMap::new(),
            changed: BTreeSet::new(),
            partitions: 0,
            checksum: 0,
        });
        plan.term = self.term;
        plan.version = self.highest_version.next();
        self.highest_version = plan.version;
        plan.changed = plan.live.keys().cloned().collect();
        let expect = entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision));
        self.phase = Phase::Planting(Self::write_plan(ctx, &plan, expect), plan);
        Verdict::GoOn
    }

    fn checked(&mut self, ctx: &mut Context, entry: Option<&StoredEntry>) -> Verdict {
        let ours = self.plan.as_ref().map(|(_, revision)| *revision);
        if self.is_busy() || entry.map(|e| e.revision) == ours {
            return Verdict::GoOn;
        }
        self.plant(ctx, entry)
    }

    /// The plan or assignments are being written: what is found then may be half of it.
    fn is_busy(&self) -> bool {
        self.publication.is_some() || !matches!(self.phase, Phase::Ready)
    }

    fn write_plan(ctx: &mut Context, plan: &PlanRecord, expect: Expect) -> FencedWrite {
        let value = Context::encode(plan);
        FencedWrite::start(ctx, Part::Planner, Bucket::Assignments, "plan", value, expect, Lifetime::Forever)
    }

    fn write_assignment(
        ctx: &mut Context,
        worker: &WorkerId,
        record: &AssignmentRecord,
        expect: Expect,
    ) -> FencedWrite {
        let key = format!("assignment.{worker}");
        let value = Context::encode(record);
        FencedWrite::start(ctx, Part::Planner, Bucket::Assignments, &key, value, expect, Lifetime::Assignment)
    }

    /// Takes stock of the assignments in force and rewrites them under our term, which fences an old leader's late writes.
    fn collect(&mut self, ctx: &mut Context, list: &[(String, StoredEntry)]) {
        let mut holders: HashMap<PartitionId, ((Term, Version), WorkerId)> = HashMap::new();
        for (key, entry) in list {
            let Some(worker) = key.strip_prefix("assignment.").map(WorkerId::parse) else { continue };
            let record = entry
                .value
                .as_deref()
                .and_then(|value| ctx.decode::<AssignmentRecord>(Bucket::Assignments, key, value))
                .unwrap_or_else(|| AssignmentRecord {
                    v: FORMAT,
                    term: Term(0),
                    version: Version(0),
                    lifecycle: Lifecycle::ColdStart,
                    partitions: Vec::new(),
                });
            // A partition in two assignments belongs to the one that was written later.
            let rank = (record.term, record.version);
            for partition in &record.partitions {
                let place = holders.entry(partition.id().clone()).or_insert_with(|| (rank, worker.clone()));
                if rank > place.0 {
                    *place = (rank, worker.clone());
                }
            }
            self.current.insert(worker, (record, entry.revision));
        }
        let version = self.plan.as_ref().map_or(Version(1), |(plan, _)| plan.version);
        let mut waiting = BTreeMap::new();
        for (worker, (record, _)) in &mut self.current {
            record.partitions.retain(|p| holders.get(p.id()).is_none_or(|(_, holder)| holder == worker));
            record.term = self.term;
            record.version = version;
            waiting.insert(worker.clone(), record.clone());
        }
        self.phase = Phase::Ready;
        self.list_at = Some(ctx.now);
        if !waiting.is_empty() {
            self.publication = Some(Publication { plan: None, waiting, writes: BTreeMap::new(), summary: None });
            self.write_waiting(ctx);
        }
    }

    fn listed(&mut self, ctx: &mut Context, reply: &Reply) {
        self.listing = None;
        let Reply::Partitions(result) = reply else { return };
        match result {
            Ok(list) if list.is_empty() && self.partitions.as_ref().is_some_and(|old| !old.is_empty()) => {
                ctx.notice(Notice::SourceFailed(
                    "the source lists no partitions any more; the last list stays in force".into(),
                ));
            }
            Ok(list) => {
                self.list_failures = 0;
                let mut list = list.clone();
                list.sort();
                let twice = list.windows(2).find_map(|pair| match pair {
                    [a, b] if a.id() == b.id() => Some(a.id()),
                    _ => None,
                });
                if let Some(id) = twice {
                    ctx.notice(Notice::SourceFailed(format!(
                        "the source lists partition {id} twice; the last list stays in force"
                    )));
                } else if self.partitions.as_ref() != Some(&list) {
                    self.list_changed = self.partitions.is_some();
                    self.partitions = Some(list);
                }
            }
            Err(why) => {
                self.list_failures = self.list_failures.saturating_add(1);
                let wait = SOURCE_RETRY.0 * 2u32.saturating_pow(self.list_failures.min(16));
                self.list_at = Some(ctx.now + wait.min(SOURCE_RETRY.1));
                ctx.notice(Notice::SourceFailed(why.clone()));
                return;
            }
        }
        let interval = ctx.settings.refresh_interval;
        self.list_at = (!interval.is_zero()).then(|| ctx.now + interval);
    }

    fn published(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Verdict {
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

    fn write_waiting(&mut self, ctx: &mut Context) {
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

    pub(super) fn tick(&mut self, ctx: &mut Context, roster: &Roster) {
        match &mut self.phase {
            Phase::ReadAt(at) if ctx.due(*at) => {
                self.phase = Phase::Reading(ctx.read(Part::Planner, Bucket::Assignments, "plan"));
            }
            Phase::CollectAt(at) if ctx.due(*at) => {
                self.phase = Phase::Collecting(ctx.list(Part::Planner, Bucket::Assignments));
            }
            Phase::Planting(write, _) => write.tick(ctx),
            _ => {}
        }
        if let Some(publication) = &mut self.publication {
            if let Some((write, _)) = &mut publication.plan {
                write.tick(ctx);
            }
            for (write, _) in publication.writes.values_mut() {
                write.tick(ctx);
            }
        }
        if !matches!(self.phase, Phase::Ready) {
            return;
        }
        if let Some(at) = self.list_at
            && self.listing.is_none()
            && ctx.due(at)
        {
            self.list_at = None;
            self.listing = Some(ctx.list_partitions(Part::Planner));
        }
        if self.is_busy() {
            return;
        }
        if let Some(lifecycle) = self.trigger(ctx, roster) {
            self.publish(ctx, roster, lifecycle);
        } else if let Some(at) = self.check_at
            && self.checking.is_none()
            && ctx.due(at)
        {
            self.check_at = None;
            self.checking = Some(ctx.read(Part::Planner, Bucket::Assignments, "plan"));
        }
    }

    /// Why a plan is due now, if one is. The order is that of urgency.
    fn trigger(&mut self, ctx: &mut Context, roster: &Roster) -> Option<Lifecycle> {
        let partitions = self.partitions.as_ref()?;
        let candidates = roster.members().filter(|(_, m)| m.is_candidate()).count();
        if candidates == 0 || !roster.is_ready() {
            return None;
        }
        let plan_live = self.plan().map(|p| p.live.clone()).unwrap_or_default();
        let owned_by = |live: &dyn Fn(&WorkerId) -> bool| {
            self.current.iter().any(|(worker, (a, _))| !a.partitions.is_empty() && live(worker))
        };
        // A leader that died in between may have listed a worker and not written its assignment.
        let is_served = |worker| plan_live.contains_key(worker) && self.current.contains_key(worker);
        let joined = roster.members().any(|(worker, m)| m.is_candidate() && !is_served(worker));
        let cold = !owned_by(&|worker| roster.is_live(worker));
        if cold {
            let quiet = ctx.due(roster.changed_at.max(self.led_since) + COLD_QUIET);
            let waited = ctx.due(self.led_since + ctx.settings.cold_start_window);
            let anything = !partitions.is_empty() || joined;
            return (anything && (quiet || waited)).then_some(Lifecycle::ColdStart);
        }
        if owned_by(&|worker| !roster.is_live(worker)) {
            return Some(Lifecycle::Emergency);
        }
        if roster
            .members()
            .any(|(worker, m)| m.leaving && self.current.get(worker).is_some_and(|(a, _)| !a.partitions.is_empty()))
        {
            return Some(Lifecycle::PlannedScale);
        }
        let assigned: usize = self.current.values().map(|(a, _)| a.partitions.len()).sum();
        let listed: BTreeSet<&PartitionId> = partitions.iter().map(Partition::id).collect();
        if assigned != partitions.len()
            || self.current.values().flat_map(|(a, _)| &a.partitions).any(|p| !listed.contains(p.id()))
        {
            return Some(Lifecycle::Refresh);
        }
        if !joined {
            self.joined_since = None;
        } else if self.cold_until.is_some_and(|until| ctx.now < until) {
            let quiet = ctx.due(roster.changed_at + COLD_JOIN_QUIET);
            let closes = self.cold_until.is_some_and(|until| ctx.due(until));
            return (quiet || closes).then_some(Lifecycle::ColdStart);
        } else {
            let window = ctx.settings.planned_scale_window;
            let since = *self.joined_since.get_or_insert(ctx.now);
            let closed = ctx.due(since + window) | ctx.due(roster.changed_at + window / QUIET_SHARE);
            return (self.is_cool(ctx) && closed).then_some(Lifecycle::PlannedScale);
        }
        if self.list_changed && self.imbalance(roster) > ctx.settings.min_rebalance_threshold {
            return self.is_cool(ctx).then_some(Lifecycle::Rebalance);
        }
        None
    }

    fn is_cool(&self, ctx: &mut Context) -> bool {
        self.planned_at.is_none_or(|at| ctx.due(at + ctx.settings.min_rebalance_interval))
    }

    /// `max(max/mean - 1, 1 - min/mean)` by weight per capacity over the workers that may own partitions.
    fn imbalance(&self, roster: &Roster) -> f64 {
        let loads: Vec<f64> = roster
            .members()
            .filter(|(_, m)| m.is_candidate())
            .map(|(worker, m)| {
                let weight: u128 = self
                    .current
                    .get(worker)
                    .map_or(0, |(a, _)| a.partitions.iter().map(|p| u128::from(p.weight().max(1))).sum());
                #[expect(clippy::cast_precision_loss, reason = "a ratio of sums needs no more digits")]
                let load = weight as f64 / f64::from(m.capacity.max(1));
                load
            })
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a number of workers")]
        let mean = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
        if mean == 0.0 {
            return 0.0;
        }
        let most = loads.iter().copied().fold(0.0, f64::max);
        let least = loads.iter().copied().fold(f64::INFINITY, f64::min);
        (most / mean - 1.0).max(1.0 - least / mean)
    }

    fn publish(&mut self, ctx: &mut Context, roster: &Roster, lifecycle: Lifecycle) {
        let Some(partitions) = &self.partitions else { return };
        let old_live = self.plan().map(|p| p.live.clone()).unwrap_or_default();
        // Whoever must move moves now; everything wider waits for a planned change.
        let leaves = roster.members().any(|(_, m)| m.leaving);
        let orphans_only = matches!(lifecycle, Lifecycle::Emergency | Lifecycle::Refresh)
            || (lifecycle == Lifecycle::PlannedScale && leaves);
        let eligible = |worker: &WorkerId| !orphans_only || old_live.contains_key(worker);
        let mut workers: Vec<_> = roster.members().filter(|(w, m)| !m.leaving && eligible(w)).collect();
        if workers.is_empty() {
            workers = roster.members().filter(|(_, m)| !m.leaving).collect();
        }
        if workers.is_empty() {
            return;
        }
        let candidates: Vec<Candidate> = workers
            .iter()
            .map(|(worker, m)| Candidate { worker: (*worker).clone(), capacity: m.capacity.max(1) })
            .collect();
        let index: HashMap<&WorkerId, usize> = candidates.iter().enumerate().map(|(i, c)| (&c.worker, i)).collect();
        let owner: HashMap<&PartitionId, &WorkerId> = self
            .current
            .iter()
            .flat_map(|(worker, (a, _))| a.partitions.iter().map(move |p| (p.id(), worker)))
            .collect();
        let previous: Vec<Option<usize>> =
            partitions.iter().map(|p| owner.get(p.id()).and_then(|w| index.get(*w)).copied()).collect();
        let refs: Vec<&Partition> = partitions.iter().collect();
        let request = Request { workers: &candidates, partitions: &refs, previous: &previous };
        let mut answer = ctx.settings.strategy.assign(request);
        if orphans_only {
            for (slot, before) in answer.iter_mut().zip(&previous) {
                *slot = before.unwrap_or(*slot);
            }
        }

        let mut target: BTreeMap<WorkerId, Vec<Partition>> =
            candidates.iter().map(|c| (c.worker.clone(), Vec::new())).collect();
        let mut moved = 0;
        for (partition, to) in partitions.iter().zip(&answer) {
            let Some(candidate) = candidates.get(*to) else { continue };
            if owner.get(partition.id()).is_some_and(|from| **from != candidate.worker) {
                moved += 1;
            }
            target.entry(candidate.worker.clone()).or_default().push(partition.clone());
        }
        for worker in self.current.keys() {
            target.entry(worker.clone()).or_default();
        }

        let version = self.highest_version.next();
        let mut waiting = BTreeMap::new();
        for (worker, list) in &target {
            let same = self.current.get(worker).is_some_and(|(a, _)| a.partitions == *list);
            if !same {
                let record =
                    AssignmentRecord { v: FORMAT, term: self.term, version, lifecycle, partitions: list.clone() };
                waiting.insert(worker.clone(), record);
            }
        }
        let live: BTreeMap<_, _> = workers.iter().map(|(worker, m)| ((*worker).clone(), m.incarnation)).collect();
        let leaving: BTreeMap<_, _> =
            roster.members().filter(|(_, m)| m.leaving).map(|(worker, m)| (worker.clone(), m.incarnation)).collect();
        match lifecycle {
            Lifecycle::ColdStart => {
                self.cold_until.get_or_insert(ctx.now + ctx.settings.cold_start_window);
                self.list_changed = false;
            }
            Lifecycle::PlannedScale | Lifecycle::Rebalance if !orphans_only => {
                self.planned_at = Some(ctx.now);
                self.list_changed = false;
            }
            _ => {}
        }
        self.joined_since = None;
        if waiting.is_empty() && live == old_live {
            return;
        }
        self.highest_version = version;
        let plan = PlanRecord {
            v: FORMAT,
            term: self.term,
            version,
            lifecycle,
            live,
            leaving,
            dead: roster.dead.clone(),
            changed: waiting.keys().cloned().collect(),
            partitions: partitions.len(),
            checksum: checksum(target.iter().flat_map(|(w, list)| list.iter().map(move |p| (w, p)))),
        };
        let expect = self.plan.as_ref().map_or(Expect::Nothing, |(_, revision)| Expect::Revision(*revision));
        let write = Self::write_plan(ctx, &plan, expect);
        let summary = Summary { moved, unowned: 0, workers: candidates.len(), since: ctx.now };
        self.publication =
            Some(Publication { plan: Some((write, plan)), waiting, writes: BTreeMap::new(), summary: Some(summary) });
    }
}
