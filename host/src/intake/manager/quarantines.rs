//! Handlers that keep failing are fed no more: what [`Quarantine`] decides is told to the partitions' tasks, and to operators.

use super::super::quarantine::{Change, Quarantine, Sight};
use super::super::shared::HandlerIndex;
use super::{Manager, Task};
use crate::error::ErrorCode;
use parti_coordination::{Input, PartitionId, Phase, Sequence};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Manager {
    /// A call has failed that began with this message. What a version on trial does is its rollout's to judge.
    pub(super) fn call_failed(&mut self, of: HandlerIndex, partition: &PartitionId, message: Sequence, why: &str) {
        if self.rollout(of).is_some() {
            return;
        }
        let answered = self.answered(of);
        let Some(quarantine) = self.quarantines.get_mut(of.0) else { return };
        let change = quarantine.failed(partition, message, why, answered, Instant::now());
        self.carry_out(of, change);
    }

    /// The handler did not open for this partition.
    pub(super) fn not_opened(&mut self, of: HandlerIndex, partition: &PartitionId, why: String) {
        if let Some(quarantine) = self.quarantines.get_mut(of.0) {
            quarantine.not_opened(partition, why);
        }
    }

    /// Looks at each handler: whether it is time for a probe, or one has succeeded.
    pub(super) fn look_at_quarantines(&mut self) {
        for of in (0..self.quarantines.len()).map(HandlerIndex) {
            // What answers during a trial may be another version than the one that is held.
            let is_on_trial = self.rollout(of).is_some();
            if is_on_trial || !self.quarantines.get(of.0).is_some_and(Quarantine::is_worth_a_look) {
                continue;
            }
            let mut sight = Sight::default();
            for (id, task) in self.tasks_of(of) {
                match task.phase_and_refusal() {
                    // Who waits for a worker with another version is not this one's to open.
                    (_, true) | (Phase::Releasing | Phase::Gone, _) => {}
                    (Phase::Waiting | Phase::Taking | Phase::Opening, _) => drop(sight.closed.insert(id.clone())),
                    (Phase::Running, _) => {
                        sight.open.insert(id.clone());
                        if !self.shared.is_paused(id) {
                            sight.free.insert(id.clone());
                        }
                    }
                }
            }
            let answered = self.answered(of);
            let Some(quarantine) = self.quarantines.get_mut(of.0) else { return };
            let change = quarantine.look(&sight, answered, Instant::now());
            self.carry_out(of, change);
        }
    }

    /// Another version is in force: nothing is known of it yet.
    pub(super) fn forgive(&mut self, of: HandlerIndex) {
        if self.quarantines.get_mut(of.0).is_some_and(|quarantine| quarantine.reset()) {
            self.carry_out(of, Change::End);
        }
    }

    /// Another version was tried, or is about to be: until it is in force, nothing of that counts for the one that is held.
    pub(super) fn hold_on(&mut self, of: HandlerIndex) {
        let answered = self.answered(of);
        if let Some(quarantine) = self.quarantines.get_mut(of.0) {
            quarantine.begin_again(answered);
        }
    }

    fn answered(&self, of: HandlerIndex) -> u64 {
        self.shared.handlers.get(of.0).map_or(0, |handling| handling.answered.load(Ordering::Relaxed))
    }

    fn carry_out(&mut self, of: HandlerIndex, change: Change) {
        let Some(handling) = self.shared.handlers.get(of.0) else { return };
        let current = handling.versions.current();
        let plugin = current.version().name();
        match change {
            Change::Nothing => return,
            Change::Begin(why) => {
                handling.hold(Some(why.clone()));
                handling.quarantined.set(1);
                let error = ErrorCode::PluginQuarantined.error(
                    format!("plugin {plugin} is fed no more"),
                    why,
                    "correct it, and copy or push it, or go back (parti plugin rollback); its messages wait in the stream, and one \
                     partition tries from time to time",
                );
                tracing::error!(code = %error.code, plugin, version = current.version().id(), "{error}");
                self.shared.hooks.error(error.code, &error, None);
            }
            Change::Probe(partition) => {
                tracing::info!(plugin, %partition, "One partition tries whether the plugin works again")
            }
            Change::ProbeFailed => tracing::warn!(plugin, "The plugin fails still"),
            Change::End => {
                handling.hold(None);
                handling.quarantined.set(0);
                tracing::info!(plugin, version = current.version().id(), "The plugin works again, and is fed again");
            }
        }
        self.pause_tasks(of);
    }

    /// Whether a partition is to get nothing, by the operator or because its handler is fed no more. Who changes to another version is
    /// to show whether that is better.
    pub(super) fn is_to_pause(&self, id: &PartitionId, of: HandlerIndex) -> bool {
        let is_held = self.quarantines.get(of.0).is_some_and(|quarantine| quarantine.holds(id));
        let tries = self.rollouts.get(of.0).and_then(Option::as_ref).is_some_and(|rollout| rollout.has_told(id));
        self.shared.is_paused(id) || (is_held && !tries)
    }

    /// Tells the tasks of a handler's partitions whether they get anything.
    pub(super) fn pause_tasks(&self, of: HandlerIndex) {
        for (id, Task { inbox, .. }) in self.tasks_of(of) {
            let _ = inbox.send(Input::Paused(self.is_to_pause(id, of)));
        }
    }
}
