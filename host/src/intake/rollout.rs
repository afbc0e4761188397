//! Takes up another version of a handler on this worker, and takes it back if it does not do.
//!
//! First it is rehearsed beside the data path, on copies of states in force. Then some partitions change to it, and, if it stands the
//! trial there, all. While it is on trial no partition commits, so that each can go back to the commit of the version before; what a
//! trial may last is therefore bounded by time and by messages. The [`Manager`](super::manager) drives this: it tells what the
//! partitions' tasks tell, and looks at their views.

use super::shared::{HandlerIndex, Shared, TaskEvent};
use crate::plugin::{HandlerPlugin, Ownership};
use parti_coordination::record::{OwnershipRecord, decode};
use parti_coordination::{OpenReason, Partition, PartitionId, PartitionView, Phase, Snapshot, SwapOrder};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// States that a version is rehearsed on.
const REHEARSALS: usize = 3;

/// How often partitions are told that have not changed.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// How long after its time a trial waits for partitions that have not changed: their calls may take that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most that counts of the time between two looks: a worker that was stopped meanwhile has tried nothing.
const LOOK: Duration = Duration::from_millis(200);

/// How many times as long a stage may last while the version has had no message: what is idle now, or cut off, may have one yet.
const UNTRIED: u32 = 10;

/// How a version is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwapRules {
    /// Share of the partitions that change first, from 0 to 1.
    pub canary: f64,
    /// Messages after which a stage of the trial ends.
    pub messages: u64,
    /// Time after which a stage of the trial ends; ten times as long if it has had no message by then.
    pub time: Duration,
    /// The share of failed calls above which the version is taken back.
    pub max_error_rate: f64,
    /// The share of messages that it would give up above which it is taken back.
    pub max_reject_rate: f64,
}

/// A version that is to be taken up.
pub struct SwapRequest {
    /// The version.
    pub to: Arc<HandlerPlugin>,
    /// How it is judged. Without rules it is in force as soon as it is open.
    pub rules: Option<SwapRules>,
    /// It begins without the states that the version before has written.
    pub discard_state: bool,
    /// Who hears how it ended.
    pub reply: oneshot::Sender<SwapReport>,
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The version is in force.
    Kept,
    /// The version before goes on; why.
    TakenBack(String),
    /// Nothing was changed; why.
    Refused(String),
    /// Nothing was changed, and nothing is known of the version: why it could not be tried.
    Waiting(String),
}

/// What became of a swap, and what it has cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapReport {
    /// How it ended.
    pub outcome: SwapOutcome,
    /// Partitions that have changed to the version.
    pub partitions: usize,
    /// Messages that it has handled on trial.
    pub handled: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Messages that it would have given up.
    pub rejected: u64,
    /// For how long partitions stood still, shortest first.
    pub pauses: Vec<Duration>,
    /// What speaks for a version besides what it has handled.
    pub evidence: Option<String>,
}

impl SwapReport {
    /// An end without messages handled on trial.
    #[must_use]
    pub fn untried(outcome: SwapOutcome) -> Self {
        Self { outcome, partitions: 0, handled: 0, failed: 0, rejected: 0, pauses: Vec::new(), evidence: None }
    }

    /// The pause that so many percent of the partitions did not exceed.
    #[must_use]
    pub fn pause(&self, percent: usize) -> Duration {
        let last = self.pauses.len().saturating_sub(1);
        self.pauses.get((self.pauses.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

/// A swap under way.
pub(super) struct Rollout {
    request: SwapRequest,
    stage: Stage,
    clock: Clock,
    /// Partitions that were told to change, and when last.
    told: BTreeSet<PartitionId>,
    told_at: Instant,
    /// Messages that it had handled when the stage began.
    handled_before: u64,
    pauses: Vec<Duration>,
    /// Why the version does not do, as it was said first.
    complaint: Option<String>,
    /// What has gone wrong last in a call of the handler.
    last_failure: Option<String>,
    handled: u64,
    /// Calls that were completed.
    completed: u64,
    failed: u64,
    rejected: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Rehearsing,
    Canary,
    All,
}

/// For how long a stage has lasted.
struct Clock {
    lasted: Duration,
    looked_at: Instant,
}

impl Clock {
    fn start(now: Instant) -> Self {
        Self { lasted: Duration::ZERO, looked_at: now }
    }

    /// Until now, but for the time in which the worker did not run.
    fn look(&mut self, now: Instant) -> Duration {
        self.lasted += now.duration_since(self.looked_at).min(LOOK);
        self.looked_at = now;
        self.lasted
    }
}

/// What a rehearsal says of a version.
#[derive(Debug)]
pub(super) enum Rehearsed {
    Does,
    /// Why it does not.
    Fails(String),
    /// Why nothing is known of it: a state could not be had.
    Unknown(String),
}

/// Partitions of the handler that nobody works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// There are none, by the worker's plan.
    None,
    /// The worker does not know its plan yet, or does not hold all that it gives it.
    Expected,
    /// All of them have a state that the version before does not open.
    Unopened,
}

/// What is to be done next.
pub(super) enum Step {
    Wait,
    /// Tell these partitions to change.
    Change(Vec<PartitionId>),
    /// The version is kept, or not.
    End(SwapOutcome),
}

impl Rollout {
    /// Begins with the rehearsal, for which it is told a few of the partitions.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        of: HandlerIndex,
        request: SwapRequest,
        partitions: Vec<Partition>,
    ) -> Self {
        let (rehearsed, plugin, shared) = (shared.events.clone(), Arc::clone(&request.to), Arc::clone(shared));
        let with_state = !request.discard_state;
        tokio::spawn(async move {
            let result = match rehearse(&shared, &plugin, partitions, with_state).await {
                Ok(()) => Rehearsed::Does,
                Err(unfit) => unfit,
            };
            let _ = rehearsed.send(TaskEvent::Rehearsed { of, to: plugin.version().id().into(), result });
        });
        Self {
            request,
            stage: Stage::Rehearsing,
            clock: Clock::start(Instant::now()),
            told: BTreeSet::new(),
            told_at: Instant::now(),
            handled_before: 0,
            pauses: Vec::new(),
            complaint: None,
            last_failure: None,
            handled: 0,
            completed: 0,
            failed: 0,
            rejected: 0,
        }
    }

    /// Partitions that a version is rehearsed on.
    pub(super) fn sample<'a>(partitions: impl Iterator<Item = &'a Partition>) -> Vec<Partition> {
        partitions.take(REHEARSALS).cloned().collect()
    }

    pub(super) fn version(&self) -> &str {
        self.request.to.version().id()
    }

    /// Whether this partition was told to change.
    pub(super) fn has_told(&self, partition: &PartitionId) -> bool {
        self.told.contains(partition)
    }

    /// What the partitions are told.
    pub(super) fn order(&self) -> SwapOrder {
        let (on_trial, discard_state) = (self.request.rules.is_some(), self.request.discard_state);
        SwapOrder { to: self.version().into(), on_trial, discard_state }
    }

    /// A rehearsal is over, of this version or of one that is no longer wanted; these partitions are worked on. What is to be done then.
    pub(super) fn rehearsed(&mut self, to: &str, result: Rehearsed, running: &[PartitionId]) -> Step {
        if to != self.version() || self.stage != Stage::Rehearsing {
            return Step::Wait;
        }
        match result {
            Rehearsed::Does => {}
            Rehearsed::Fails(why) => return Step::End(SwapOutcome::Refused(why)),
            Rehearsed::Unknown(why) => return Step::End(SwapOutcome::Waiting(why)),
        }
        let share = self.request.rules.map_or(1.0, |rules| rules.canary.clamp(0.0, 1.0));
        let first = ((running.len() as f64 * share).ceil() as usize).clamp(1, running.len().max(1));
        self.enter(if first < running.len() { Stage::Canary } else { Stage::All });
        self.change(running.iter().take(first).cloned().collect())
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.clock = Clock::start(Instant::now());
        self.handled_before = self.handled;
    }

    fn change(&mut self, partitions: Vec<PartitionId>) -> Step {
        self.told.extend(partitions.iter().cloned());
        self.told_at = Instant::now();
        Step::Change(partitions)
    }

    pub(super) fn swapped(&mut self, to: &str, pause: Duration) {
        if to == self.version() {
            self.pauses.push(pause);
        }
    }

    pub(super) fn swap_failed(&mut self, partition: &PartitionId, to: &str, why: &str) {
        if to == self.version() {
            self.complaint.get_or_insert_with(|| format!("it does not open for partition {partition}: {why}"));
        }
    }

    pub(super) fn call_failed(&mut self, why: String) {
        self.last_failure = Some(why);
    }

    /// Looks at the partitions, and says what is to be done.
    pub(super) fn look<'a>(
        &mut self,
        views: impl Iterator<Item = (&'a PartitionId, PartitionView)>,
        others: Others,
    ) -> Step {
        if self.stage == Stage::Rehearsing {
            return Step::Wait;
        }
        if let Some(why) = self.complaint.take() {
            return Step::End(SwapOutcome::TakenBack(why));
        }
        let (mut rest, mut unchanged, mut waiting, mut on_trial) = (Vec::new(), Vec::new(), 0usize, 0usize);
        (self.handled, self.completed, self.failed, self.rejected) = (0, 0, 0, 0);
        for (id, view) in views.filter(|(_, view)| matches!(view.phase, Phase::Opening | Phase::Running)) {
            if !self.told.contains(id) {
                rest.push(id.clone());
            } else if *view.handler != *self.request.to.version().id() {
                unchanged.push(id.clone());
            } else if let Some(trial) = view.trial {
                self.handled += trial.handled;
                self.completed += trial.completed;
                self.failed += trial.failed;
                self.rejected += trial.rejected;
                waiting += usize::from(trial.waits);
                on_trial += 1;
            }
        }
        let lasted = self.clock.look(Instant::now());
        let Some(rules) = self.request.rules else {
            return match unchanged.len() {
                0 => Step::End(SwapOutcome::Kept),
                late if lasted >= PATIENCE => Step::End(SwapOutcome::Waiting(too_late(late))),
                _ => self.tell_again(unchanged),
            };
        };
        // More than a whole stage could make up for.
        if self.failed as f64 > rules.max_error_rate * rules.messages as f64 {
            return Step::End(SwapOutcome::TakenBack(self.verdict()));
        }
        if !unchanged.is_empty() {
            let is_late = lasted >= rules.time + PATIENCE;
            return match is_late {
                true => Step::End(SwapOutcome::Waiting(too_late(unchanged.len()))),
                false => self.tell_again(unchanged),
            };
        }
        // Nobody tries it: those that did have moved away, or the worker has only begun to take its partitions, or has none.
        if on_trial == 0 && !rest.is_empty() {
            self.enter(self.stage);
            return self.change(rest);
        }
        if on_trial == 0 {
            match others {
                Others::Expected if lasted < PATIENCE => return Step::Wait,
                Others::Expected => {
                    return Step::End(SwapOutcome::Waiting("its partitions are not there yet".to_owned()));
                }
                Others::None => {
                    return Step::End(SwapOutcome::Waiting("no partition of this worker has the handler".to_owned()));
                }
                // The version before can do nothing with those: there is nothing to go back to.
                Others::Unopened => self.pauses.clear(),
            }
        }
        let handled = self.handled.saturating_sub(self.handled_before);
        let all_wait = on_trial > 0 && waiting == on_trial;
        let is_untried = on_trial > 0 && self.handled + self.failed + self.rejected == 0;
        let time = if is_untried { rules.time * UNTRIED } else { rules.time };
        let is_over = handled >= rules.messages || lasted >= time || all_wait;
        if !is_over {
            return Step::Wait;
        }
        // One partition alone may have come to the one message that every version rejects.
        let is_alone = self.told.len() == 1 && rest.is_empty();
        let rejects = self.rejected > 1 || is_alone;
        if self.handled == 0 && (waiting > 1 || (waiting == 1 && is_alone)) {
            return Step::End(SwapOutcome::TakenBack(format!("it has completed no message. {}", self.verdict())));
        }
        if exceeds(self.failed, self.completed, rules.max_error_rate)
            || (rejects && exceeds(self.rejected, self.handled, rules.max_reject_rate))
        {
            return Step::End(SwapOutcome::TakenBack(self.verdict()));
        }
        if self.stage == Stage::Canary && !rest.is_empty() {
            self.enter(Stage::All);
            return self.change(rest);
        }
        Step::End(SwapOutcome::Kept)
    }

    /// Who has come back meanwhile, from another worker or from another place in the stream, has not heard of it.
    fn tell_again(&mut self, unchanged: Vec<PartitionId>) -> Step {
        if self.told_at.elapsed() < TELL_AGAIN { Step::Wait } else { self.change(unchanged) }
    }

    fn verdict(&self) -> String {
        let last = self.last_failure.as_ref().map(|last| format!("; the last failure: {last}")).unwrap_or_default();
        format!(
            "on trial {} calls failed, {} messages would have been given up, and {} were handled{last}",
            self.failed, self.rejected, self.handled
        )
    }

    /// Tells who has asked how it ended.
    pub(super) fn end(mut self, outcome: SwapOutcome) {
        self.pauses.sort_unstable();
        let partitions = self.pauses.len();
        let Self { handled, failed, rejected, pauses, .. } = self;
        let evidence = None;
        let _ =
            self.request.reply.send(SwapReport { outcome, partitions, handled, failed, rejected, pauses, evidence });
    }
}

/// Whether the share of these among all exceeds a rate.
fn exceeds(bad: u64, good: u64, rate: f64) -> bool {
    bad as f64 > rate * (bad + good) as f64
}

fn too_late(unchanged: usize) -> String {
    format!(
        "{unchanged} partitions have not changed to it in time: their handler is still in a call, or NATS does not answer"
    )
}

/// Opens the version with copies of states in force, has it give its state, and throws all of that away.
///
/// What the version asks of other servers is asked: one that reads there what it works with could not be tried otherwise. It has no
/// epoch to show them, because the owner works on.
async fn rehearse(
    shared: &Shared,
    plugin: &HandlerPlugin,
    partitions: Vec<Partition>,
    with_state: bool,
) -> Result<(), Rehearsed> {
    for partition in partitions {
        let snapshot = if with_state { state(shared, partition.id()).await.map_err(Rehearsed::Unknown)? } else { None };
        let of = |error: String| Rehearsed::Fails(format!("partition {}: {error}", partition.id()));
        let mut instance = plugin
            .open(&partition, OpenReason::Swapped, snapshot.as_ref(), &Ownership::default())
            .await
            .map_err(|error| of(error.to_string()))?;
        instance.snapshot().await.map_err(|error| of(error.to_string()))?;
    }
    Ok(())
}

/// The committed state of a partition, if it has one that can be read.
async fn state(shared: &Shared, partition: &PartitionId) -> Result<Option<Snapshot>, String> {
    let unread = |error: String| format!("the state of partition {partition} cannot be read: {error}");
    let entry = shared.records.read(&partition.record_key()).await.map_err(|error| unread(error.to_string()))?;
    let Some(value) = entry.and_then(|entry| entry.value) else { return Ok(None) };
    let record: OwnershipRecord = decode(&value).map_err(|error| unread(error.0))?;
    let Some(stored) = record.snapshot else { return Ok(None) };
    match stored.object() {
        // It may be replaced meanwhile, which says nothing about the version.
        Some(name) => {
            Ok(shared.objects.get(name).await.ok().map(|data| Snapshot { format: stored.format.clone(), data }))
        }
        None => stored.load().map(Some).map_err(|error| unread(error.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_which_a_worker_is_stopped_is_no_trial() {
        let (begun, step) = (Instant::now(), Duration::from_millis(20));
        let mut clock = Clock::start(begun);
        for n in 1..=50 {
            assert_eq!(clock.look(begun + step * n), step * n);
        }
        let thawed = begun + Duration::from_secs(60);
        assert_eq!(clock.look(thawed), Duration::from_secs(1) + LOOK);
        assert_eq!(clock.look(thawed), Duration::from_secs(1) + LOOK);
    }
}
