//! The calls into a partition's handler: opened one at a time, and what their answers mean to the machine.

use super::super::chunk::Held;
use super::super::feed::PartitionInput;
use super::super::shared::TaskEvent;
use super::PartitionTask;
use crate::plugin::{CallError, Handled as PluginHandled, HandlerInstance, Message, Ownership, Publish};
use crate::telemetry::Verdict;
use parti_coordination::{Batch, CloseReason, Completed, Failure, Handled, Input, OpenReason, Sequence, Snapshot};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A call that is open. It brings back the instance, if that is of any more use.
pub(super) type Calling = Pin<Box<dyn Future<Output = (Option<HandlerInstance>, Answer)> + Send>>;

/// What a call has given.
pub(super) enum Answer {
    Opened(Result<(), CallError>),
    Handled(Result<PluginHandled, CallError>, Times),
    Snapshot(Result<Option<Snapshot>, CallError>),
    Closed(Result<(), CallError>),
}

/// What is measured of a batch: how long the call took, and how old the first message was in the end.
pub(super) struct Times {
    first: Option<Sequence>,
    took: Duration,
    age: Duration,
}

impl PartitionTask {
    /// Opens a call into the handler.
    pub(super) fn call(&mut self, call: impl Future<Output = (Option<HandlerInstance>, Answer)> + Send + 'static) {
        self.calling = Some(Box::pin(call));
    }

    pub(super) fn close(&mut self, why: CloseReason) {
        if self.calling.is_some() {
            self.cancelled.store(true, Relaxed);
            self.closes = Some(why);
            return;
        }
        match self.instance.take() {
            Some(instance) => self.call(async move { (None, Answer::Closed(instance.close(why).await)) }),
            None => self.tell(Input::Closed),
        }
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        if let Some(why) = self.closes.take() {
            // What the call before gave belongs to nobody; a failure of it is still the plugin's.
            let failed = match answer {
                Answer::Opened(result) | Answer::Closed(result) => result.err(),
                Answer::Handled(result, _) => result.err(),
                Answer::Snapshot(result) => result.err(),
            };
            if let Some(error) = failed {
                self.failure(&error, None);
            }
            // Whichever instance there is: one of another version, if the new one has not opened.
            let former = self.former.take();
            self.instance = self.instance.take().or(former);
            return self.close(why);
        }
        let input = match answer {
            Answer::Opened(result) => self.opened(result),
            Answer::Handled(result, Times { first, took, age }) => {
                self.shared.metrics.handle_seconds.observe(took.as_secs_f64());
                if result.as_ref().is_ok_and(|handled| !handled.outcome.done.is_empty()) {
                    self.shared.metrics.message_age.observe(age.as_secs_f64());
                }
                Input::Handled(result.map(|handled| self.handled(handled)).map_err(|error| self.failure(&error, first)))
            }
            Answer::Snapshot(result) => Input::Snapshot(result.map_err(|error| self.failure(&error, None))),
            Answer::Closed(result) => {
                if let Err(error) = result {
                    self.failure(&error, None);
                    tracing::warn!(%error, "The handler failed while it was closed");
                }
                Input::Closed
            }
        };
        self.tell(input);
    }

    /// Opens this version. An instance of another one stays until that has succeeded.
    pub(super) fn open(&mut self, version: &str, why: OpenReason, snapshot: Option<Snapshot>) {
        let Some(instances) = self.handling.versions.find(version) else {
            return self.tell(Input::Opened(Err(Failure::Host(format!("version {version} is not loaded any more")))));
        };
        self.former = self.instance.take();
        self.cancelled = Arc::default();
        let ownership = Ownership { epoch: Some(self.epoch), cancelled: Arc::clone(&self.cancelled) };
        let partition = self.partition.clone();
        self.call(async move {
            match instances.open(&partition, why, snapshot.as_ref(), &ownership).await {
                Ok(instance) => (Some(instance), Answer::Opened(Ok(()))),
                Err(error) => (None, Answer::Opened(Err(error))),
            }
        });
    }

    fn opened(&mut self, result: Result<(), CallError>) -> PartitionInput {
        let former = self.former.take();
        let result = result.map_err(|error| self.failure(&error, None));
        match former {
            Some(former) if result.is_ok() => drop(tokio::spawn(async move {
                if let Err(error) = former.close(CloseReason::Swapped).await {
                    tracing::warn!(%error, "The version before failed while it was closed");
                }
            })),
            former => self.instance = self.instance.take().or(former),
        }
        Input::Opened(result)
    }

    fn handled(&self, handled: PluginHandled) -> Handled<Publish> {
        self.handling.answered.fetch_add(1, Relaxed);
        let metrics = &self.shared.metrics;
        let rejected = handled.outcome.done.iter().filter(|c| matches!(c, Completed::Reject(_))).count() as u64;
        metrics.messages.add(Verdict::Ack, handled.outcome.done.len() as u64 - rejected);
        metrics.messages.add(Verdict::Reject, rejected);
        if handled.outcome.retry.is_some() {
            metrics.messages.inc(Verdict::Retry);
        }
        let outputs = handled
            .publishes
            .into_iter()
            .map(|publish| parti_coordination::Output { cause: publish.cause, body: publish })
            .collect();
        Handled { outcome: handled.outcome, outputs }
    }

    /// What a failed call means; one that began with this message, if it was to handle some. After anything but a refusal the instance is of no use any more.
    fn failure(&mut self, error: &CallError, message: Option<Sequence>) -> Failure {
        let text = error.to_string();
        if matches!(error, CallError::Refused { .. }) {
            return Failure::Refused(text);
        }
        if matches!(error, CallError::Lost { .. }) {
            self.instance = None;
            return Failure::Host(text);
        }
        match error {
            CallError::Timeout { .. } => self.handling.timeouts.inc(),
            _ => self.handling.traps.inc(),
        }
        self.tell_hooks(error.code(), &text);
        let (of, partition, why) = (self.of, self.partition.id().clone(), text.clone());
        let _ = self.shared.events.send(TaskEvent::Failed { of, partition, message, why });
        self.instance = None;
        Failure::Guest(text)
    }
}

pub(super) async fn handle(mut instance: HandlerInstance, batch: Batch<Held>) -> (Option<HandlerInstance>, Answer) {
    let begun = Instant::now();
    // Only the first message can have been tried before.
    let attempts = std::iter::once(batch.first_attempt).chain(std::iter::repeat(1));
    let messages: Vec<Message<'_>> =
        batch.messages.iter().zip(attempts).map(|(message, attempt)| message.body.message(attempt)).collect();
    let result = instance.handle(&messages).await;
    drop(messages);
    let age = batch.messages.first().map_or(Duration::ZERO, |message| message.body.age());
    let first = batch.messages.first().map(|message| message.sequence);
    (Some(instance), Answer::Handled(result, Times { first, took: begun.elapsed(), age }))
}
