//! Other versions of the handlers, taken up one at a time for each: what a rollout decides is told to the partitions' tasks.

use super::super::refused::Refused;
use super::super::rollout::{Others, Rehearsed, Rollout, Step, SwapOutcome, SwapReport, SwapRequest};
use super::super::shared::HandlerIndex;
use super::{Manager, Task};
use parti_coordination::{Input, Partition, PartitionId, PartitionView, Phase, SwapOrder};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Manager {
    /// The rollout of a handler, while there is one.
    pub(super) fn rollout(&mut self, HandlerIndex(of): HandlerIndex) -> Option<&mut Rollout> {
        self.rollouts.get_mut(of)?.as_mut()
    }

    /// Begins to take up another version of the handler of its name, unless one is being taken up.
    pub(super) fn swap(&mut self, request: SwapRequest) {
        let refuse = |request: SwapRequest, why: String| {
            let _ = request.reply.send(SwapReport::untried(SwapOutcome::Refused(why)));
        };
        let name = request.to.version().name().to_owned();
        let mut handlers = self.shared.handlers.iter();
        let place = handlers.position(|handling| handling.versions.current().version().name() == name);
        let place = place.and_then(|at| Some((at, self.shared.handlers.get(at)?, self.rollouts.get_mut(at)?)));
        match place {
            None => refuse(request, format!("this worker has no handler {name}")),
            Some((_, _, Some(_))) => refuse(request, "another version is on trial; wait for its verdict".to_owned()),
            Some((at, handling, rollout)) => {
                handling.versions.propose(Arc::clone(&request.to));
                let of = HandlerIndex(at);
                let is_its = |partition: &&Partition| self.shared.handler_of(partition).is_some_and(|its| its.0 == of);
                let sample = Rollout::sample(self.assigned.values().filter(is_its));
                *rollout = Some(Rollout::begin(&self.shared, of, request, sample));
                self.hold_on(of);
                self.pause_tasks(of);
            }
        }
    }

    /// The partitions of a handler that nobody works on.
    fn others(&self, of: HandlerIndex) -> Others {
        let mut others = if self.rank.is_some() { Others::None } else { Others::Expected };
        for (_, task) in self.tasks_of(of) {
            match task.phase_and_refusal() {
                (Phase::Waiting | Phase::Taking, false) => return Others::Expected,
                (Phase::Waiting | Phase::Taking, true) if others == Others::None => others = Others::Unopened,
                _ => {}
            }
        }
        others
    }

    /// Tells those who take versions up for which handlers this worker has something to try them on.
    pub(super) fn tell_work(&self) {
        for (at, handling) in self.shared.handlers.iter().enumerate() {
            let works = |(phase, unopened)| unopened || matches!(phase, Phase::Opening | Phase::Running);
            let has_work = self.tasks_of(HandlerIndex(at)).any(|(_, task)| works(task.phase_and_refusal()));
            handling.has_work.store(has_work, Ordering::Relaxed);
        }
    }

    /// The tasks of the partitions that a handler has.
    pub(super) fn tasks_of(&self, of: HandlerIndex) -> impl Iterator<Item = (&PartitionId, &Task)> {
        self.tasks.iter().filter(move |(_, task)| task.of == of)
    }

    pub(super) fn rehearsed(&mut self, of: HandlerIndex, to: &str, result: Rehearsed) {
        let running = |(id, task): (&PartitionId, &Task)| (task.view().phase == Phase::Running).then(|| id.clone());
        let running: Vec<PartitionId> = self.tasks_of(of).filter_map(running).collect();
        if let Some(rollout) = self.rollout(of) {
            let step = rollout.rehearsed(to, result, &running);
            self.carry_on(of, step);
        }
    }

    pub(super) fn roll_out(&mut self) {
        for of in (0..self.rollouts.len()).map(HandlerIndex) {
            // Taken out, so that it can look at the tasks.
            let Some(mut rollout) = self.rollouts.get_mut(of.0).and_then(Option::take) else { continue };
            let step = rollout.look(self.tasks_of(of).map(|(id, task)| (id, task.view())), self.others(of));
            if let Some(place) = self.rollouts.get_mut(of.0) {
                *place = Some(rollout);
            }
            self.carry_on(of, step);
        }
    }

    fn carry_on(&mut self, of: HandlerIndex, step: Step) {
        let Some(place) = self.rollouts.get_mut(of.0) else { return };
        match (step, place.take()) {
            (Step::End(outcome), Some(rollout)) => {
                let kept = outcome == SwapOutcome::Kept;
                if let Some(handling) = self.shared.handlers.get(of.0) {
                    handling.versions.settle(kept);
                }
                if kept {
                    self.forgive(of);
                    // What the version before has refused, this one may open. What others have refused shows again at the next look.
                    self.refused = Refused::default();
                } else {
                    self.hold_on(of);
                }
                let order = self.in_force(of);
                for (_, task) in self.tasks_of(of) {
                    let _ = task.inbox.send(Input::Swap(order.clone()));
                }
                self.pause_tasks(of);
                rollout.end(outcome);
            }
            (Step::Change(partitions), Some(rollout)) => {
                let order = rollout.order();
                *place = Some(rollout);
                for task in partitions.iter().filter_map(|id| self.tasks.get(id)) {
                    let _ = task.inbox.send(Input::Swap(order.clone()));
                }
                // Who changes is fed, whatever is known of the version before.
                self.pause_tasks(of);
            }
            (_, rollout) => *place = rollout,
        }
    }

    /// There is nobody left to judge versions by: nothing is said of them.
    pub(super) fn stop_rollouts(&mut self) {
        for (rollout, handling) in self.rollouts.iter_mut().zip(&self.shared.handlers) {
            if rollout.take().is_some() {
                handling.versions.settle(false);
            }
        }
    }

    /// To go on with the version of a handler that is in force, whichever that is.
    fn in_force(&self, of: HandlerIndex) -> SwapOrder {
        let current = self.shared.handlers.get(of.0).map(|handling| handling.versions.current());
        let to = current.map_or_else(|| "".into(), |current| current.version().id().into());
        SwapOrder { to, on_trial: false, discard_state: false }
    }

    /// Whoever has another version than the one in force, while none is taken up, changes to that: it has begun, or come back, since.
    pub(super) fn bring_into_line(&self) {
        for (at, _) in self.rollouts.iter().enumerate().filter(|(_, rollout)| rollout.is_none()) {
            let order = self.in_force(HandlerIndex(at));
            let differs = |view: &PartitionView| view.handler != order.to || view.trial.is_some();
            for (_, task) in self.tasks_of(HandlerIndex(at)).filter(|(_, task)| differs(&task.view())) {
                let _ = task.inbox.send(Input::Swap(order.clone()));
            }
        }
    }
}
