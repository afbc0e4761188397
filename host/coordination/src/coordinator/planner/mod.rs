//! The leader's plan: plant the term, collect what is in force, list the partitions (`listing`), decide when to plan (`decision`), place
//! (`placement`, with a strategy outside the core asked by `consultation`, within the `budget` of moves), publish (`publication`,
//! `assignment`). `wishes` are the operator's; `outlook` tells somebody else what would be planned.
//!
//! The plan and its assignments are separate writes. A leader that dies between them leaves assignments that do not add up
//! to the plan; the next one rewrites every assignment under its own term and plans again for whatever is in none.

mod assignment;
mod begun;
mod budget;
mod consultation;
mod decision;
mod listing;
mod openable;
mod outlook;
mod placement;
mod publication;
mod wishes;

use super::context::{Context, Found, Part};
use super::io::{Bucket, Expect, Lifetime, OpId, Reply, StoredEntry};
use super::operator::Operator;
use super::roster::Roster;
use super::write::{FencedWrite, Progress};
use crate::record::{AssignmentRecord, ChunkRecord, FORMAT, Lifecycle, PlanRecord, assemble, assignment_key};
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Incarnation, Now, Partition, PartitionId, Term, Version, WorkerId};
use assignment::Published;
use consultation::Consultation;
use placement::Goal;
use publication::Publication;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use wishes::Wishes;

pub use outlook::{Draft, Outlook};

/// How long to wait before NATS is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(250);
#[derive(Default)]
pub(super) struct Planner {
    phase: Phase,
    term: Term,
    /// The run of us that leads.
    me: Option<Incarnation>,
    /// The highest plan version seen anywhere or tried.
    pub(super) highest_version: Version,
    plan: Option<(PlanRecord, u64)>,
    /// When to look whether the plan is still what we wrote, and the read that is looking.
    check_at: Option<Now>,
    checking: Option<OpId>,
    /// The bucket was told anew: what is in force may have been lost, even if the plan is still there.
    retold: bool,
    current: BTreeMap<WorkerId, Published>,
    /// The ids of partitions that are known to have a record.
    begun: BTreeSet<String>,
    partitions: Option<Vec<Partition>>,
    listing: Option<OpId>,
    list_at: Option<Now>,
    list_failures: u32,
    /// The list has changed since the last full plan.
    list_changed: bool,
    publication: Option<Publication>,
    consultation: Consultation,
    wishes: Wishes,
    /// Where everything is to go, while plans are on the way there that move only some.
    goal: Option<Goal>,
    /// Grows with every change of the list or the assignments.
    revision: u64,
    /// The roster that was last looked at without a reason to plan, and when to look again although nothing has changed.
    looked: Option<(u64, Option<Now>)>,
    /// What the assignments in force lack; computed when it is asked for.
    coverage: Option<Coverage>,
    /// Partitions that nobody owns, as last told.
    unowned: usize,
    /// Partitions that nobody can open, as last told.
    unopenable: usize,
    /// When the assignments are to be written again, because they expire.
    restate_at: Option<Now>,
    joined_since: Option<Now>,
    led_since: Now,
    cold_until: Option<Now>,
    planned_at: Option<Now>,
}

/// How the assignments in force compare with the list of partitions.
#[derive(Clone, Copy)]
struct Coverage {
    /// Listed and in no assignment.
    missing: usize,
    /// An assignment holds a partition that is listed no more.
    stale: bool,
}

#[derive(Default)]
enum Phase {
    #[default]
    Off,
    ReadAt(Now),
    Reading(OpId),
    Planting(FencedWrite, Box<PlanRecord>),
    CollectAt(Now),
    Collecting(OpId),
    Ready,
}

/// What the coordinator must do after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// A higher term is at work: we do not lead.
    Superseded(Term),
    /// The plan in the bucket is another group's, and we have none to put there.
    NotOurs,
}

impl Planner {
    pub(super) fn begin(&mut self, ctx: &mut Context, term: Term, me: Option<Incarnation>) {
        let highest_version = self.highest_version;
        *self = Self { term, me, highest_version, led_since: ctx.now, ..Self::default() };
        self.phase = Phase::Reading(ctx.read(Part::Planner, Bucket::Assignments, "plan"));
    }

    pub(super) fn stop(&mut self) {
        *self = Self { highest_version: self.highest_version, ..Self::default() };
    }

    /// Remembers a plan version seen anywhere.
    pub(super) fn saw(&mut self, version: Version) {
        self.highest_version = self.highest_version.max(version);
    }

    pub(super) fn partitions(&self) -> Option<&[Partition]> {
        self.partitions.as_deref()
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
            self.retold |= revision.is_none();
        }
    }

    /// Nothing is being written and nothing is left to hand over from this worker.
    pub(super) fn is_at_rest(&self, leaving: &WorkerId) -> bool {
        self.publication.is_none()
            && self.current.get(leaving).is_none_or(|assignment| assignment.partitions().is_empty())
    }

    /// The list or the assignments have changed: look again.
    fn changed(&mut self) {
        self.looked = None;
        self.coverage = None;
        self.revision += 1;
    }

    pub(super) fn reply(&mut self, ctx: &mut Context, op: OpId, reply: &Reply) -> Verdict {
        if self.listing == Some(op) {
            self.listed(ctx, reply);
            return Verdict::GoOn;
        }
        if self.consultation.reply(op, reply) {
            return Verdict::GoOn;
        }
        self.wishes.reply(ctx, op, reply);
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
                    self.plan = Some((*plan, revision));
                    self.phase = Phase::Collecting(ctx.list(Part::Planner, Bucket::Assignments));
                }
                Progress::Conflict(entry) => return self.plant(ctx, entry.as_ref()),
            },
            Phase::Collecting(mine) if mine == op => match reply {
                Reply::Listing(Ok(list)) => return self.collect(ctx, list),
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
        self.wishes.abandoned();
        let value = entry.and_then(|e| e.value.as_deref());
        let known = self.plan().cloned();
        let found = match value.map(|v| ctx.find::<PlanRecord>(Bucket::Assignments, "plan", v)) {
            Some(Found::Ours(plan)) => Some(plan),
            Some(Found::Theirs(_)) if known.is_none() => return Verdict::NotOurs,
            Some(Found::Theirs(_) | Found::Unreadable) | None => None,
        };
        if let Some(plan) = &found {
            // Our own term is another's too, if it is not on a plan of ours that has come back.
            let ours = known.as_ref().is_some_and(|known| plan.version <= known.version);
            if plan.term > self.term || (plan.term == self.term && !ours) {
                return Verdict::Superseded(plan.term);
            }
            self.saw(plan.version);
        }
        let latest = [found, known].into_iter().flatten().max_by_key(|plan| (plan.term, plan.version));
        let mut plan = latest.unwrap_or_else(|| PlanRecord {
            v: FORMAT,
            group: None,
            term: self.term,
            leader: self.me,
            version: Version(0),
            lifecycle: Lifecycle::ColdStart,
            live: BTreeMap::new(),
            leaving: BTreeMap::new(),
            drained: BTreeSet::new(),
            dead: BTreeMap::new(),
            changed: BTreeSet::new(),
            partitions: 0,
            checksum: 0,
            provisional: false,
            left: 0,
        });
        plan.group = Some(ctx.settings.group.clone());
        plan.term = self.term;
        plan.leader = self.me;
        plan.version = self.highest_version.next();
        #[cfg(test)]
        let first = Mutant::VersionRestarts.is_on() && self.plan().is_none();
        #[cfg(test)]
        if first {
            plan.version = Version(1);
        }
        self.highest_version = plan.version;
        plan.changed = plan.live.keys().cloned().collect();
        let expect = entry.map_or(Expect::Nothing, |e| Expect::Revision(e.revision));
        self.phase = Phase::Planting(Self::write_plan(ctx, &plan, expect), Box::new(plan));
        Verdict::GoOn
    }

    fn checked(&mut self, ctx: &mut Context, entry: Option<&StoredEntry>) -> Verdict {
        let ours = self.plan.as_ref().map(|(_, revision)| *revision);
        if self.is_busy() {
            self.check_at = Some(ctx.now + RETRY);
            return Verdict::GoOn;
        }
        if entry.map(|e| e.revision) != ours {
            return self.plant(ctx, entry);
        }
        if std::mem::take(&mut self.retold) {
            self.phase = Phase::Collecting(ctx.list(Part::Planner, Bucket::Assignments));
        }
        Verdict::GoOn
    }

    /// The plan or assignments are being written: what is found then may be half of it.
    fn is_busy(&self) -> bool {
        self.publication.is_some() || !matches!(self.phase, Phase::Ready)
    }

    fn write_plan(ctx: &mut Context, plan: &PlanRecord, expect: Expect) -> FencedWrite {
        let value = Context::encode(plan);
        FencedWrite::start(ctx, Part::Planner, Bucket::Assignments, "plan", value, expect, Lifetime::Forever)
    }

    /// Takes stock of the assignments in force and rewrites those that are not ours as the plan wants them under our term, which
    /// fences an old leader's late writes.
    fn collect(&mut self, ctx: &mut Context, list: &[(String, StoredEntry)]) -> Verdict {
        let mut stands = BTreeSet::new();
        let mut chunks: BTreeMap<WorkerId, BTreeMap<usize, (ChunkRecord, u64)>> = BTreeMap::new();
        for (key, entry) in list {
            let Some((worker, Some(k))) = assignment_key(key) else { continue };
            let value = entry.value.as_deref();
            if let Some(chunk) = value.and_then(|v| ctx.decode::<ChunkRecord>(Bucket::Assignments, key, v)) {
                chunks.entry(worker).or_default().insert(k, (chunk, entry.revision));
            }
        }
        for (key, entry) in list {
            let Some((worker, None)) = assignment_key(key) else { continue };
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
                    fresh: None,
                    chunks: 0,
                });
            if record.term > self.term {
                // Listed so late that a later leader has written already: ours would go over it.
                return Verdict::Superseded(record.term);
            }
            let parts = chunks.remove(&worker).unwrap_or_default();
            if entry.value.is_none() && parts.is_empty() {
                // Expired or deleted: that says nothing about what the worker has, least of all that it has nothing.
                continue;
            }
            let revisions = (0..).map_while(|k| parts.get(&k).map(|(_, revision)| *revision)).collect();
            let parts = parts.into_iter().map(|(k, (chunk, _))| (k, chunk)).collect();
            // Chunks that do not belong together are a write that never ended. Its worker still obeys the one before it, of which they
            // hold most; what another has been given since is found below, and what is in none is placed again.
            let record = assemble(&record, &parts).unwrap_or_else(|| AssignmentRecord {
                partitions: union(&parts),
                fresh: None,
                chunks: 0,
                ..record
            });
            // What we have written ourselves may have been lost since: an older value is no news.
            let known = self.current.remove(&worker).map(|known| known.record);
            let is_awaited =
                self.plan().is_some_and(|plan| plan.changed.contains(&worker) && record.version < plan.version);
            if record.term == self.term && known.as_ref() == Some(&record) && !is_awaited {
                stands.insert(worker.clone());
            }
            let newer = known.filter(|known| (known.term, known.version) >= (record.term, record.version));
            let published = Published { record: newer.unwrap_or(record), revision: entry.revision, chunks: revisions };
            self.current.insert(worker, published);
        }
        let mut holders: HashMap<PartitionId, ((Term, Version), WorkerId)> = HashMap::new();
        for (worker, Published { record, .. }) in &self.current {
            // A partition in two assignments belongs to the one that was written later.
            let rank = (record.term, record.version);
            for partition in &record.partitions {
                let place = holders.entry(partition.id().clone()).or_insert_with(|| (rank, worker.clone()));
                if rank > place.0 {
                    *place = (rank, worker.clone());
                }
            }
        }
        #[cfg(test)]
        if Mutant::LeaderPlansFromScratch.is_on() {
            self.current.values_mut().for_each(|published| published.record.partitions.clear());
        }
        self.collect_begun();
        let version = self.plan.as_ref().map_or(Version(1), |(plan, _)| plan.version);
        let mut waiting = BTreeMap::new();
        for (worker, Published { record, .. }) in self.current.iter().filter(|(worker, _)| !stands.contains(*worker)) {
            let mut record = AssignmentRecord { term: self.term, version, ..record.clone() };
            record.partitions.retain(|p| holders.get(p.id()).is_none_or(|(_, holder)| holder == worker));
            record.fresh = record.fresh.map(|_| self.fresh(&record.partitions));
            waiting.insert(worker.clone(), record);
        }
        self.phase = Phase::Ready;
        self.changed();
        self.list_at = Some(ctx.now);
        if self.plan().is_some_and(|plan| plan.provisional) && self.consultation.owed_at().is_none() {
            self.consultation.owe(Some(ctx.now));
        }
        if !waiting.is_empty() {
            self.publication = Some(Publication { plan: None, waiting, writes: BTreeMap::new(), summary: None });
            self.write_waiting(ctx);
        }
        Verdict::GoOn
    }

    /// Writes every assignment again before it expires.
    fn restate(&mut self, ctx: &mut Context) {
        let lifetime = ctx.settings.assignment_ttl;
        if lifetime.is_zero() {
            return;
        }
        let at = *self.restate_at.get_or_insert(ctx.now + lifetime / 3);
        if ctx.due(at) {
            self.restate_at = None;
            let waiting = self.current.iter().map(|(worker, a)| (worker.clone(), a.record.clone())).collect();
            self.publication = Some(Publication { plan: None, waiting, writes: BTreeMap::new(), summary: None });
            self.write_waiting(ctx);
        }
    }

    pub(super) fn tick(&mut self, ctx: &mut Context, roster: &Roster, operator: &Operator) {
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
            for write in publication.writes.values_mut() {
                write.tick(ctx);
            }
        }
        self.wishes.tick(ctx);
        if !matches!(self.phase, Phase::Ready) || !self.hear_wishes(ctx, operator) {
            return;
        }
        self.list_if_due(ctx);
        if self.is_busy() {
            return;
        }
        if self.hear_begun(ctx, roster) {
            return;
        }
        let waits = self.consultation.waits(ctx, (roster.revision(), self.revision));
        let due = if waits { None } else { self.look(ctx, roster) };
        if !waits && due.is_none() {
            self.consultation.forget(ctx);
        }
        if let Some(due) = due {
            self.publish(ctx, roster, due);
        } else if !waits && self.answer(ctx, roster) {
            // Nothing else now: what follows may take its time.
        } else if let Some(at) = self.check_at
            && self.checking.is_none()
            && ctx.due(at)
        {
            self.check_at = None;
            self.checking = Some(ctx.read(Part::Planner, Bucket::Assignments, "plan"));
        } else {
            self.restate(ctx);
        }
    }
}

/// Every partition of these chunks, once.
fn union(chunks: &BTreeMap<usize, ChunkRecord>) -> Vec<Partition> {
    let mut all: Vec<_> = chunks.values().flat_map(|chunk| chunk.partitions.iter().cloned()).collect();
    all.sort();
    all.dedup_by(|a, b| a.id() == b.id());
    all
}
