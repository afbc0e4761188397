//! The promises that are checked after every step. A promise about what NATS holds is checked when it is written, one about a
//! process when the process has acted.

use super::operator::{PAUSE, PLACEMENT};
use super::strategist::Advised;
use super::{Fleet, Happening, Process, Status, Trouble};
use crate::coordinator::*;
use crate::record::{
    AssignmentRecord, ClaimRecord, LeaderRecord, Lifecycle, Owner, PlacementRecord, PlanRecord, assignment_key, decode,
};
use crate::testing::{ms, secs};
use crate::{Partition, PartitionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// After the loss of plan and assignments a leader writes back what it remembers: for so long nothing is said about moves.
const SHAKEN: Duration = secs(90);

/// Within this time of a verdict, on the leader's clock, the plan must know the dead, if nothing else happens; with a strategy
/// outside the core it is one second more.
const AT_ONCE: Duration = secs(1);

/// One start of one process.
type Writer = (usize, u64);

#[derive(Default)]
pub(super) struct Laws {
    /// Partitions by id whose state somebody has said that its handler cannot open.
    refused: BTreeSet<String>,
    plan: Option<PlanRecord>,
    /// When the first plan of its term was written.
    led_since: Duration,
    /// The last plan says nothing new: a leader has only put its term into it.
    is_restated: bool,
    /// It does, or does so once more.
    is_repeated: bool,
    /// A strategy outside the core decides, and what it last said to whom wrote the last plan.
    is_advised: bool,
    follows: Option<Advised>,
    /// What the operator wants of the placement.
    wants: Option<PlacementRecord>,
    /// A worker may not have as many partitions as there are.
    is_capped: bool,
    /// Every partition by id that was ever pinned.
    pinned: BTreeSet<String>,
    /// The most that a plan may move, and what the last one has moved of what could have stayed.
    max_moves: Option<usize>,
    moved: BTreeSet<PartitionId>,
    /// Who wrote plans under a term.
    writers: BTreeMap<Term, Writer>,
    /// The assignments in the bucket, and those that were there when the last plan was written.
    stored: BTreeMap<WorkerId, AssignmentRecord>,
    in_force: BTreeMap<WorkerId, AssignmentRecord>,
    /// Whose assignment a leader wrote after a later one's plan: it has come too late for anybody to obey it.
    overtaken: BTreeSet<WorkerId>,
    /// Assignments that have expired: a leader that has listed them before may write them back.
    expired: BTreeMap<WorkerId, AssignmentRecord>,
    /// What a worker was given under a term, by version.
    given: BTreeMap<(WorkerId, Term), BTreeMap<Version, Vec<Partition>>>,
    /// The highest claim of an ID in any plan, as live and as dead.
    listed: BTreeMap<WorkerId, u64>,
    dead: BTreeMap<WorkerId, u64>,
    /// Who has held an ID's key.
    holders: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
    /// When a process last wrote its lease.
    leases: BTreeMap<Uuid, Duration>,
    shaken_until: Duration,
    /// Whether the bucket of IDs has ever lost something, and whether one has that holds terms.
    ids_lost: bool,
    term_lost: bool,
    /// Nothing has gone wrong by the test's doing since then, and nothing that it has delayed is still to come.
    pub(super) calm_since: Duration,
}

fn ids(record: Option<&AssignmentRecord>) -> BTreeSet<&PartitionId> {
    record.iter().flat_map(|r| &r.partitions).map(Partition::id).collect()
}

impl Laws {
    pub(super) fn stored(&self, worker: &WorkerId) -> Option<&AssignmentRecord> {
        self.stored.get(worker)
    }

    /// Whether the plan says of a run of a worker that it is dead, or that a later one lives.
    pub(super) fn is_over(&self, run: &Owner) -> bool {
        let claim = run.incarnation.claim;
        self.dead.get(&run.worker).is_some_and(|dead| claim <= *dead)
            || self.listed.get(&run.worker).is_some_and(|listed| claim < *listed)
    }

    /// What is wrong with a plan that follows the last one.
    fn judge_plan(&self, new: &PlanRecord, by: Option<Writer>, now: Duration) -> Option<String> {
        // A revision that is given twice lets a write through that was meant for the first.
        if let Some(last) = self.plan.as_ref().filter(|_| now >= self.shaken_until)
            && ((new.term, new.version) <= (last.term, last.version) || new.version <= last.version)
        {
            return Some(format!("plan {}/{} follows {}/{}", new.term, new.version, last.term, last.version));
        }
        if let (Some(by), Some(other)) = (by, self.writers.get(&new.term))
            && by != *other
        {
            return Some(format!("#{} and #{} both write plans under term {}", by.0, other.0, new.term));
        }
        for (worker, incarnation) in &new.live {
            let later = self.listed.get(worker).is_some_and(|claim| incarnation.claim < *claim);
            // A bucket that has forgotten who has claimed what lets claims be counted again.
            if later && !self.ids_lost {
                return Some(format!("the plan lists {worker} {incarnation} after a later run of it"));
            }
            if new.dead.get(worker).is_some_and(|claim| incarnation.claim <= *claim) {
                return Some(format!("the plan lists {worker} {incarnation} as live and as dead"));
            }
        }
        None
    }

    fn planned(&mut self, new: PlanRecord, by: Option<Writer>, now: Duration) {
        if let Some(by) = by {
            self.writers.entry(new.term).or_insert(by);
        }
        for (worker, incarnation) in &new.live {
            let listed = self.listed.entry(worker.clone()).or_default();
            *listed = (*listed).max(incarnation.claim);
        }
        for (worker, claim) in &new.dead {
            let dead = self.dead.entry(worker.clone()).or_default();
            *dead = (*dead).max(*claim);
        }
        let restates = self.plan.as_ref().is_some_and(|old| new.restates(old));
        let is_by_another = self.plan.as_ref().is_some_and(|old| old.term < new.term);
        // What a new leader says again is said once more where somebody else had written there meanwhile.
        self.is_repeated = restates && (is_by_another || self.is_repeated);
        self.is_restated = restates && is_by_another;
        if self.plan.as_ref().is_none_or(|old| old.term != new.term) {
            self.led_since = now;
        }
        self.moved.clear();
        self.in_force.clone_from(&self.stored);
        self.in_force.retain(|worker, _| !self.overtaken.contains(worker));
        self.plan = Some(new);
    }

    /// Whether the last plan places only what has no owner.
    fn is_orphans_only(&self, plan: &PlanRecord) -> bool {
        match plan.lifecycle {
            Lifecycle::Emergency | Lifecycle::Refresh => true,
            // Who has handed over already holds back nobody who joins.
            Lifecycle::PlannedScale => {
                // Who is drained keeps what fits nowhere else.
                let drained = plan.drained.iter().filter(|_| !self.is_capped);
                plan.leaving.keys().chain(drained).any(|w| !ids(self.in_force.get(w)).is_empty())
            }
            Lifecycle::ColdStart | Lifecycle::Rebalance => false,
        }
    }

    /// Whether the last plan is all that a strategy outside the core has said.
    fn is_followed(&self, plan: &PlanRecord) -> bool {
        // The first leader of all begins with an empty plan.
        let says_something = !self.is_repeated && !plan.live.is_empty();
        self.is_advised && says_something && !self.is_orphans_only(plan) && !plan.provisional
    }

    /// What is wrong with the last plan's following the strategy, where nobody keeps partitions without being asked about.
    fn judge_advice(&self) -> Option<String> {
        let plan = self.plan.as_ref().filter(|plan| self.is_followed(plan))?;
        let rank = (plan.term, plan.version);
        let Some((question, answer)) = &self.follows else {
            return Some(format!("plan {}/{} follows a strategy that nobody has asked", rank.0, rank.1));
        };
        if let Some(why) = question.judge(answer) {
            return Some(format!("plan {}/{} follows a wrong answer: {why}", rank.0, rank.1));
        }
        let wanted = plan.live.keys().filter(|worker| !plan.drained.contains(*worker));
        let is_same = question.workers.iter().map(|candidate| &candidate.worker).eq(wanted);
        (!is_same).then(|| format!("plan {}/{} follows an answer that was given for other workers", rank.0, rank.1))
    }

    /// What is wrong with a worker's new assignment.
    fn judge_assignment(&self, worker: &WorkerId, new: &AssignmentRecord, now: Duration) -> Option<String> {
        let rank = (new.term, new.version);
        let has = ids(Some(new));
        for (other, theirs) in self.stored.iter().filter(|(w, a)| *w != worker && (a.term, a.version) == rank) {
            if let Some(twice) = ids(Some(theirs)).intersection(&has).next() {
                return Some(format!("{}/{} gives {twice} to {worker} and to {other}", rank.0, rank.1));
            }
        }
        let plan = self.plan.as_ref().filter(|plan| (plan.term, plan.version) == rank)?;
        if now < self.shaken_until {
            return None;
        }
        let had = ids(self.stored.get(worker));
        if self.is_restated {
            let expired = ids(self.expired.get(worker));
            if let Some(gained) = has.difference(&had).find(|p| !expired.contains(*p)) {
                return Some(format!("a new leader alone has moved {gained} to {worker}"));
            }
            let elsewhere: BTreeSet<_> =
                self.stored.iter().filter(|(w, _)| *w != worker).flat_map(|(_, a)| ids(Some(a))).collect();
            if let Some(lost) = had.difference(&has).find(|p| !elsewhere.contains(*p)) {
                return Some(format!("a new leader alone has taken {lost} from {worker}"));
            }
        }
        if self.is_followed(plan)
            && let Some(gained) = has.difference(&had).find(|p| !self.is_as_advised(worker, p) && !self.is_pinned(p))
        {
            return Some(format!("{}/{} gives {gained} to {worker}, and the strategy has not said so", rank.0, rank.1));
        }
        // Whoever has listed a moment too early takes the fleet for a cold one, in which nobody has anything.
        let stays = plan.provisional && plan.lifecycle != Lifecycle::ColdStart;
        if !self.is_restated && (self.is_orphans_only(plan) || stays) {
            let lives = |w: &WorkerId| plan.live.contains_key(w) && !plan.drained.contains(w);
            for (other, theirs) in self.in_force.iter().filter(|(w, _)| *w != worker && lives(w)) {
                let theirs = ids(Some(theirs));
                let may = |p: &PartitionId| self.refused.contains(p.as_str()) || (stays && self.is_pinned(p));
                if let Some(taken) = has.iter().find(|p| !had.contains(*p) && theirs.contains(*p) && !may(p)) {
                    let why = plan.lifecycle.as_str();
                    return Some(format!("{why} {}/{} moves {taken} from {other}, who lives", rank.0, rank.1));
                }
            }
        }
        None
    }
}

impl Laws {
    pub(super) fn has_refusals(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Whether the operator has pinned it, now or until lately.
    fn is_pinned(&self, id: &PartitionId) -> bool {
        self.pinned.contains(id.as_str())
    }

    /// A leader has written what the operator wants: it may answer, and nothing else.
    fn judge_answer(&self, new: &PlacementRecord) -> Option<String> {
        let asked = self.wants.as_ref().map(|wants| PlacementRecord { answer: new.answer.clone(), ..wants.clone() });
        let before = self.wants.as_ref().map_or(0, PlacementRecord::answered);
        (asked.as_ref() != Some(new) || new.answered() != new.asked || new.answered() <= before)
            .then(|| format!("{new:?} is the answer to {:?}", self.wants))
    }

    /// More was moved by the last plan than may be, from workers who could have kept it.
    fn judge_moves(&mut self, worker: &WorkerId, new: &AssignmentRecord) -> Option<String> {
        let (most, plan) = (self.max_moves?, self.plan.as_ref()?);
        let is_bounded = matches!(plan.lifecycle, Lifecycle::PlannedScale | Lifecycle::Rebalance);
        if !is_bounded || self.is_orphans_only(plan) || (plan.term, plan.version) != (new.term, new.version) {
            return None;
        }
        let could_stay = |w: &WorkerId| w != worker && plan.live.contains_key(w) && !plan.drained.contains(w);
        let theirs = self.in_force.iter().filter(|(w, _)| could_stay(w)).flat_map(|(_, theirs)| ids(Some(theirs)));
        let theirs: BTreeSet<&PartitionId> = theirs.collect();
        let had = ids(self.in_force.get(worker));
        let has = ids(Some(new));
        let moved = has.iter().filter(|p| !had.contains(*p) && theirs.contains(*p) && !self.is_pinned(p));
        self.moved.extend(moved.map(|p| (*p).clone()).collect::<Vec<_>>());
        let (moved, version) = (self.moved.len(), plan.version);
        (moved > most).then(|| format!("plan {version} moves {moved} partitions, and {most} is the most"))
    }

    /// Whether the strategy gives this partition to this worker, if it was asked about it.
    fn is_as_advised(&self, worker: &WorkerId, id: &PartitionId) -> bool {
        let Some((question, answer)) = &self.follows else { return false };
        let place = question.partitions.iter().position(|partition| partition.id() == id);
        // One whose owner comes back is not asked about.
        place.is_none_or(|at| {
            answer.get(at).and_then(|to| question.workers.get(*to)).is_some_and(|candidate| candidate.worker == *worker)
        })
    }
}

impl Fleet {
    /// A bucket has lost what was in it: what follows is not measured by it.
    pub(super) fn forgive(&mut self, bucket: Bucket) {
        match bucket {
            Bucket::StableIds => self.laws.ids_lost = true,
            Bucket::Election | Bucket::Heartbeats | Bucket::Assignments => self.laws.term_lost = true,
        }
        if bucket != Bucket::Assignments {
            return;
        }
        self.plans.clear();
        let (wants, kept) = (self.wants(), std::mem::take(&mut self.laws));
        self.laws = Laws {
            holders: kept.holders,
            dead: kept.dead,
            leases: kept.leases,
            calm_since: kept.calm_since,
            pinned: kept.pinned,
            wants,
            ids_lost: kept.ids_lost,
            term_lost: true,
            shaken_until: self.now + SHAKEN,
            ..Laws::default()
        };
        let stored: Vec<_> = self.stores.get(&bucket).map(|s| s.keys.keys().cloned().collect()).unwrap_or_default();
        for key in stored {
            if let Some((worker, None)) = assignment_key(&key)
                && let Some(record) = self.stored_assignment(&worker)
            {
                self.laws.stored.insert(worker, record);
            }
        }
    }

    pub(super) fn check_write(&mut self, by: Option<Writer>, bucket: Bucket, key: &str) {
        let Some(value) = self.stored(bucket, key) else { return };
        match bucket {
            Bucket::StableIds => {
                if let Ok(record) = decode::<ClaimRecord>(&value) {
                    self.laws.holders.entry(WorkerId::parse(key)).or_default().insert(record.incarnation);
                }
            }
            Bucket::Election => {
                let Ok(record) = decode::<LeaderRecord>(&value) else { return };
                let planned = self.laws.plan.as_ref().map_or(Term(0), |plan| plan.term);
                if record.term < planned && !self.laws.term_lost {
                    let (worker, term) = (record.worker, record.term);
                    self.violated(format!("{worker} has the lease under term {term}, and the plan is of {planned}"));
                }
                self.laws.leases.insert(record.incarnation.uuid, self.now);
            }
            Bucket::Heartbeats => {}
            // The operator's: no leader touches it.
            Bucket::Assignments if key == PAUSE => {}
            Bucket::Assignments if key == PLACEMENT => {
                let Ok(new) = decode::<PlacementRecord>(&value) else { return };
                let is_leaders = by.is_some() && self.now >= self.laws.shaken_until;
                if let Some(wrong) = Some(&new).filter(|_| is_leaders).and_then(|new| self.laws.judge_answer(new)) {
                    self.violated(wrong);
                }
                self.laws.pinned.extend(new.pins.keys().cloned());
                self.laws.wants = Some(new);
            }
            Bucket::Assignments if by.is_none() => {
                // Not the protocol's doing.
                self.forgive(bucket);
                if key == "plan"
                    && let Ok(plan) = decode::<PlanRecord>(&value)
                {
                    self.plans.push(plan);
                }
            }
            Bucket::Assignments if key == "plan" => {
                let Ok(plan) = decode::<PlanRecord>(&value) else { return };
                if let Some(wrong) = self.laws.judge_plan(&plan, by, self.now) {
                    self.violated(wrong);
                }
                self.planned += 1;
                self.laws.planned(plan.clone(), by, self.now);
                // A limit, or a state that somebody cannot open, corrects what a strategy says.
                self.laws.is_advised =
                    self.strategist.is_some() && self.max_partitions.is_none() && self.laws.refused.is_empty();
                // What is left of an answer for later plans is followed without asking again.
                self.laws.is_advised &= self.max_moves.is_none();
                // Where only what is pinned moves, or all is pinned, there is nothing to ask.
                let is_free = |p: &Partition| !self.laws.pinned.contains(p.id().as_str());
                self.laws.is_advised &= plan.lifecycle != Lifecycle::Rebalance || self.laws.pinned.is_empty();
                self.laws.is_advised &= self.partitions.iter().any(is_free);
                self.laws.is_capped = self.max_partitions.is_some();
                self.laws.max_moves = self.max_moves.filter(|_| {
                    self.max_partitions.is_none() && self.laws.refused.is_empty() && self.now >= self.laws.shaken_until
                });
                // What a run before has written late is not measured by what this one was told.
                let by = by.filter(|(at, life)| self.processes[*at].life == *life);
                self.laws.is_advised &= by.is_some() && self.now >= self.laws.shaken_until;
                self.laws.follows = by.and_then(|(at, _)| self.processes[at].follows.clone());
                // Who comes back keeps what it has, and the strategy is not asked about that.
                if self.hold.is_zero()
                    && let Some(wrong) = self.laws.judge_advice()
                {
                    self.violated(wrong);
                }
                self.plans.push(plan);
            }
            Bucket::Assignments => {
                let Some((worker, None)) = assignment_key(key) else { return };
                let Some(record) = self.stored_assignment(&worker) else { return };
                if let Some(wrong) = self.laws.judge_assignment(&worker, &record, self.now) {
                    self.violated(wrong);
                }
                if let Some(wrong) = self.laws.judge_moves(&worker, &record) {
                    self.violated(wrong);
                }
                let given = self.laws.given.entry((worker.clone(), record.term)).or_default();
                given.insert(record.version, record.partitions.clone());
                if let Some(work) = &mut self.work {
                    for gained in ids(Some(&record)).difference(&ids(self.laws.stored.get(&worker))) {
                        *work.moves.entry((*gained).clone()).or_default() += 1;
                    }
                }
                self.laws.expired.remove(&worker);
                if self.laws.plan.as_ref().is_some_and(|plan| record.term < plan.term) {
                    self.laws.overtaken.insert(worker.clone());
                } else {
                    self.laws.overtaken.remove(&worker);
                }
                self.laws.stored.insert(worker, record);
            }
        }
    }

    /// Whoever leads undisturbed for as long as an assignment lives has written it again. One that has expired while nobody could is
    /// lost: its partitions are anybody's.
    pub(super) fn check_expiry(&mut self, bucket: Bucket, key: &str) {
        let (Bucket::Assignments, Some((worker, _))) = (bucket, assignment_key(key)) else { return };
        let is_led = |term: Term| {
            let leads = |process: &&Process| process.coordinator.leading() == Some(term) && process.connected;
            self.processes.iter().filter(leads).any(|process| process.status == Status::Running && !process.cut)
        };
        let since = self.laws.calm_since.max(self.laws.led_since);
        let is_calm = self.now > since + self.assignment_lives && !self.mute && self.trouble == Trouble::default();
        let plan = self.laws.plan.as_ref();
        if is_calm && plan.is_some_and(|plan| plan.live.contains_key(&worker) && is_led(plan.term)) {
            self.violated(format!("{key} has expired, and {worker} lives by the plan"));
        }
        self.laws.in_force.remove(&worker);
        if let Some(record) = self.laws.stored.remove(&worker) {
            self.laws.expired.insert(worker, record);
        }
    }

    pub(super) fn check_action(&mut self, at: usize, action: &Action) {
        let wrong = match action {
            Action::StateChanged { from, to } => {
                (!from.may_become(*to)).then(|| format!("#{at} goes from {from} to {to}"))
            }
            Action::Claimed { worker, incarnation } => {
                let process = &mut self.processes[at];
                process.accepted = None;
                process.incarnation = Some(*incarnation);
                self.check_claim(at, worker, *incarnation)
            }
            Action::Fenced { worker, .. } => self.check_fenced(at, worker),
            Action::Assigned(assigned) => self.check_assigned(at, assigned),
            Action::Notice(Notice::WorkerDead { worker, incarnation, .. }) => {
                let (life, said_at) = (self.processes[at].life, self.now);
                let (worker, claim) = (worker.clone(), incarnation.claim);
                let term = self.processes[at].coordinator.leading();
                let at_once = if self.strategist.is_some() { AT_ONCE + secs(1) } else { AT_ONCE };
                let time = self.processes[at].clock.takes(at_once);
                let heard = self.processes[at].heard.get(&worker).copied().unwrap_or(0);
                let wrong =
                    (heard > claim).then(|| format!("#{at} judges {worker} {claim} dead, which {heard} has replaced"));
                self.after(time, Happening::Verdict { at, life, worker, claim, said_at, term });
                wrong
            }
            Action::Watch { bucket: Bucket::Heartbeats, .. } | Action::Unwatch { bucket: Bucket::Heartbeats } => {
                self.processes[at].heard.clear();
                None
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
    }

    /// Of two live processes that believe in one ID, one is the later run. Only a bucket that has ever forgotten who has claimed what can
    /// mislead them, until they meet: in it a claim can be higher than the revision of its write, which its marker does not tell.
    fn check_claim(&self, at: usize, worker: &WorkerId, mine: Incarnation) -> Option<String> {
        let mut others = (0..self.processes.len()).filter(|other| *other != at && self.is_there(*other));
        let other = others.find(|other| {
            let process = &self.processes[*other];
            !self.laws.ids_lost
                && process.coordinator.worker().is_some_and(|(id, i)| id == *worker && i.claim == mine.claim)
        })?;
        Some(format!("#{at} and #{other} both act under claim {} of {worker}", mine.claim))
    }

    fn is_there(&self, at: usize) -> bool {
        matches!(self.processes[at].status, Status::Running | Status::Paused)
    }

    /// A leader has been told of a sign of life.
    pub(super) fn hears(&mut self, at: usize, event: &Event) {
        if let Event::Refused(refusals) = event {
            self.laws.refused.extend(refusals.cannot_open.values().flatten().cloned());
        }
        let Event::Watched { bucket: Bucket::Heartbeats, key, entry } = event else { return };
        let Some(worker) = key.strip_prefix("heartbeat.").map(WorkerId::parse) else { return };
        let heard = &mut self.processes[at].heard;
        match entry.value.as_deref().map(decode::<HeartbeatRecord>) {
            Some(Ok(beat)) => {
                let highest = heard.entry(worker).or_default();
                *highest = (*highest).max(beat.incarnation.claim);
            }
            Some(Err(_)) => {}
            // That run is over.
            None => {
                heard.remove(&worker);
            }
        }
    }

    /// Only who is superseded or declared dead stops.
    fn check_fenced(&self, at: usize, worker: &WorkerId) -> Option<String> {
        let mine = self.processes[at].incarnation?;
        let others = self.laws.holders.get(worker);
        let superseded = others.is_some_and(|all| all.iter().any(|i| i.claim >= mine.claim && i.uuid != mine.uuid));
        let dead = self.laws.dead.get(worker).is_some_and(|claim| mine.claim <= *claim);
        (!superseded && !dead).then(|| format!("#{at} is fenced, and nobody has {worker} or calls it dead"))
    }

    /// What a worker works on never goes back, and is what the leader of that term has given it.
    fn check_assigned(&mut self, at: usize, new: &Assigned) -> Option<String> {
        let rank = (new.term, new.version);
        let before = self.processes[at].accepted.replace(rank);
        if before.is_some_and(|before| rank < before) {
            return Some(format!("#{at} accepts {}/{} after {before:?}", rank.0, rank.1));
        }
        let (worker, _) = self.processes[at].coordinator.worker()?;
        let given = self.laws.given.get(&(worker.clone(), new.term));
        // Not always the last of them: who has missed a plan hears of the next one first, and then of what the missed one changed.
        let was_given =
            given.is_some_and(|given| given.range(..=new.version).any(|(_, partitions)| *partitions == new.partitions));
        if self.now >= self.laws.shaken_until && !was_given {
            return Some(format!(
                "#{at} works under {}/{} on other partitions than those that {worker} was given",
                rank.0, rank.1
            ));
        }
        None
    }

    /// After everything that a process does.
    pub(super) fn check_process(&mut self, at: usize) {
        let process = &self.processes[at];
        if process.status != Status::Running {
            return;
        }
        let mut wrong = None;
        if let Some(term) = process.coordinator.leading() {
            // The lease decides who tries, the plan who leads: who has not put its term into it yet acts not.
            let leads = |process: &Process| {
                process.coordinator.leading() == Some(term) && process.coordinator.planner.plan().is_some()
            };
            let mut others = (0..self.processes.len()).filter(|other| *other != at && self.is_there(*other));
            // A plan that was lost with its term, and the lease with it, can be planted twice; the first to write again ends that.
            let calm = self.now >= self.laws.shaken_until;
            let other = others.find(|other| leads(&self.processes[*other])).filter(|_| calm && leads(process));
            if let Some(other) = other {
                wrong = Some(format!("#{at} and #{other} both lead under term {term}"));
            }
            let wrote = process.incarnation.and_then(|mine| self.laws.leases.get(&mine.uuid)).copied();
            let until = wrote.unwrap_or_default() + self.lease * super::clock::TRUE_RATE / process.slowest;
            if self.now > until + ms(1) {
                wrong = Some(format!("#{at} still leads, {:?} after its lease has ended", self.now - until));
            }
        }
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
    }

    /// Time has passed since a leader has judged somebody dead. Who leads again since, under another term, has to find out again.
    pub(super) fn check_verdict(
        &mut self,
        (at, life, term): (usize, u64, Option<Term>),
        worker: &WorkerId,
        claim: u64,
        said_at: Duration,
    ) {
        let process = &self.processes[at];
        let leads = process.life == life
            && process.status == Status::Running
            && process.connected
            && !process.cut
            && process.coordinator.leading().is_some()
            && process.coordinator.leading() == term
            && process.coordinator.state() != WorkerState::Shutdown;
        let is_calm = self.laws.calm_since < said_at && !self.mute && self.trouble == Trouble::default();
        let has_some = |a: &AssignmentRecord| !a.partitions.is_empty();
        // If nobody is left who has something, the fleet starts cold.
        let served = self.laws.stored.iter().any(|(w, a)| has_some(a) && process.coordinator.roster.is_live(w));
        if leads
            && is_calm
            && served
            && self.laws.stored.get(worker).is_some_and(has_some)
            && self.laws.plan.as_ref().is_some_and(|plan| plan.dead.get(worker).is_none_or(|dead| *dead < claim))
        {
            self.violated(format!("#{at} has judged {worker} dead, and its partitions wait"));
        }
    }
}
