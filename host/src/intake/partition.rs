//! One partition as a task: carries out what its machine decides, and tells the machine what became of it.
//!
//! Calls into the handler are awaited in place, so that one call at a time is open by construction. What goes to NATS is
//! spawned and comes back as an input. The task owns its handler instance; dropping the task drops both.

use super::budget::Held;
use super::feed::{PartitionInput, Wish};
use super::manager::{Shared, TaskEvent};
use crate::nats::{OutgoingMessage, Published};
use crate::plugin::{CallError, HandlerInstance, Message, Publish};
use crate::telemetry::Verdict;
use bytes::Bytes;
use parti_coordination::record::Owner;
use parti_coordination::{
    Batch, Command, Completed, Epoch, Failure, Handled, Input, Now, Outgoing, Partition, PartitionMachine,
    PartitionView, Report,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;
use tracing::Instrument as _;

type Machine = PartitionMachine<Arc<Held>, Publish>;

pub(super) struct PartitionTask {
    shared: Arc<Shared>,
    partition: Partition,
    subject: String,
    record_key: String,
    machine: Machine,
    epoch: Epoch,
    instance: Option<HandlerInstance>,
    inbox: mpsc::UnboundedReceiver<PartitionInput>,
    sender: mpsc::UnboundedSender<PartitionInput>,
    view: Arc<Mutex<PartitionView>>,
    gone: bool,
}

impl PartitionTask {
    /// Begins to work on a partition. The task ends by itself when the machine has ended, and says so to the manager.
    pub(super) fn spawn(
        shared: Arc<Shared>,
        partition: Partition,
        me: Owner,
        inbox: mpsc::UnboundedReceiver<PartitionInput>,
        sender: mpsc::UnboundedSender<PartitionInput>,
    ) -> Arc<Mutex<PartitionView>> {
        let machine = Machine::new(
            partition.id().clone(),
            shared.group.clone(),
            shared.stream.clone(),
            me,
            shared.plugin.digest().to_string(),
            shared.start,
            shared.limits.clone(),
        );
        let view = Arc::new(Mutex::new(machine.view()));
        let span = tracing::info_span!("partition", partition = %partition.id());
        let task = Self {
            subject: shared.template.subject(partition.id()),
            record_key: partition.id().record_key(),
            shared,
            partition,
            machine,
            epoch: Epoch(0),
            instance: None,
            inbox,
            sender,
            view: Arc::clone(&view),
            gone: false,
        };
        let (events, wishes) = (task.shared.events.clone(), task.shared.wishes.clone());
        let (id, subject) = (task.partition.id().clone(), task.subject.clone());
        let run = tokio::spawn(task.run().instrument(span));
        tokio::spawn(async move {
            if let Err(error) = run.await {
                // A bug, or a panic in a library: the next task takes the partition from its last commit.
                tracing::error!(partition = %id, %error, "The partition's task failed; starting another");
                let _ = wishes.send(Wish::Leave { subject });
                let _ = events.send(TaskEvent::Gone(id));
            }
        });
        view
    }

    fn now(&self) -> Now {
        Now(self.shared.origin.elapsed())
    }

    async fn run(mut self) {
        while !self.gone {
            let input = match self.machine.poll_timeout() {
                None => self.inbox.recv().await,
                Some(Now(at)) => {
                    let at = tokio::time::Instant::from_std(self.shared.origin + at);
                    match tokio::time::timeout_at(at, self.inbox.recv()).await {
                        Ok(input) => input,
                        Err(_) => {
                            let now = self.now();
                            self.machine.handle_timeout(now);
                            self.carry_out().await;
                            continue;
                        }
                    }
                }
            };
            // The manager is gone: the process ends.
            let Some(input) = input else { break };
            let now = self.now();
            self.machine.handle(now, input);
            while let Ok(input) = self.inbox.try_recv() {
                self.machine.handle(now, input);
            }
            self.carry_out().await;
        }
        let _ = self.shared.wishes.send(Wish::Leave { subject: self.subject.clone() });
        let _ = self.shared.events.send(TaskEvent::Gone(self.partition.id().clone()));
    }

    async fn carry_out(&mut self) {
        while let Some(command) = self.machine.poll_command() {
            self.execute(command).await;
            // A call may have taken long, and the next one follows at once while messages wait: what has come meanwhile, a
            // revocation above all, must not wait for the whole queue.
            while let Ok(input) = self.inbox.try_recv() {
                self.tell(input);
            }
        }
        let view = self.machine.view();
        let mut seen = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = seen.phase != view.phase;
        *seen = view;
        drop(seen);
        if changed {
            let _ = self.shared.events.send(TaskEvent::Changed);
        }
    }

    async fn execute(&mut self, command: Command<Arc<Held>, Publish>) {
        match command {
            Command::Read => {
                let (shared, key) = (Arc::clone(&self.shared), self.record_key.clone());
                self.later(async move {
                    let _permit = shared.requests.acquire().await;
                    Input::Record(shared.records.read(&key).await.map_err(|error| {
                        tracing::debug!(%error, "The record cannot be read");
                    }))
                });
            }
            Command::Write { value, expect } => {
                let (shared, key) = (Arc::clone(&self.shared), self.record_key.clone());
                self.later(async move {
                    let _permit = shared.requests.acquire().await;
                    let begun = Instant::now();
                    let outcome = shared.records.write(&key, value.into(), expect, None).await;
                    shared.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
                    Input::Written(outcome)
                });
            }
            Command::Open { why, snapshot, epoch } => {
                self.epoch = epoch;
                let opened = self.shared.plugin.open(&self.partition, why, snapshot.as_ref()).await;
                let result = match opened {
                    Ok(instance) => {
                        self.instance = Some(instance);
                        Ok(())
                    }
                    Err(error) => Err(self.failure(&error)),
                };
                self.tell(Input::Opened(result));
            }
            Command::Handle(batch) => {
                let result = self.handle(batch).await;
                self.tell(Input::Handled(result));
            }
            Command::Send(outgoing) => {
                let shared = Arc::clone(&self.shared);
                let partition = self.partition.id().to_string();
                self.later(async move { Input::Sent(send(&shared, &partition, outgoing).await) });
            }
            Command::Snapshot => {
                let result = match &mut self.instance {
                    Some(instance) => instance.snapshot().await,
                    None => Ok(None),
                };
                let result = result.map_err(|error| self.failure(&error));
                self.tell(Input::Snapshot(result));
            }
            Command::Close(why) => {
                if let Some(instance) = self.instance.take()
                    && let Err(error) = instance.close(why).await
                {
                    self.failure(&error);
                    tracing::warn!(%error, "The handler failed while it was closed");
                }
                self.tell(Input::Closed);
            }
            Command::WantReader(mark) => {
                let (subject, inbox) = (self.subject.clone(), self.sender.clone());
                let _ = self.shared.wishes.send(Wish::Want { subject, mark, inbox });
            }
            Command::Released => {
                let (shared, id) = (Arc::clone(&self.shared), self.partition.id().clone());
                tokio::spawn(async move { shared.hint(&id).await });
            }
            Command::Gone => self.gone = true,
            Command::Report(report) => self.report(report),
        }
    }

    fn tell(&mut self, input: PartitionInput) {
        let now = self.now();
        self.machine.handle(now, input);
    }

    fn later(&self, work: impl Future<Output = PartitionInput> + Send + 'static) {
        let sender = self.sender.clone();
        tokio::spawn(
            async move {
                let input = work.await;
                let _ = sender.send(input);
            }
            .in_current_span(),
        );
    }

    async fn handle(&mut self, batch: Batch<Arc<Held>>) -> Result<Handled<Publish>, Failure> {
        let Some(instance) = &mut self.instance else {
            return Err(Failure::Host("there is no instance".into()));
        };
        let metrics = &self.shared.metrics;
        metrics.batch_size.observe(batch.messages.len() as f64);
        let begun = Instant::now();
        let result = if batch.first_attempt > 1 {
            let mut messages: Vec<Message> =
                batch.messages.iter().map(|m| std::borrow::Borrow::<Message>::borrow(&*m.body).clone()).collect();
            if let Some(first) = messages.first_mut() {
                first.attempt = batch.first_attempt;
            }
            instance.handle(&messages).await
        } else {
            let messages: Vec<&Message> =
                batch.messages.iter().map(|m| std::borrow::Borrow::borrow(&*m.body)).collect();
            instance.handle(&messages).await
        };
        metrics.handle_seconds.observe(begun.elapsed().as_secs_f64());
        match result {
            Ok(handled) => {
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
                Ok(Handled { outcome: handled.outcome, outputs })
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// What a failed call means. After anything but a refusal the instance is of no use any more.
    fn failure(&mut self, error: &CallError) -> Failure {
        let text = error.to_string();
        if matches!(error, CallError::Refused { .. }) {
            return Failure::Refused(text);
        }
        match error {
            CallError::Timeout { .. } => self.shared.timeouts.inc(),
            _ => self.shared.traps.inc(),
        }
        self.instance = None;
        Failure::Guest(text)
    }

    fn report(&self, report: Report) {
        let (metrics, epoch) = (&self.shared.metrics, self.epoch);
        match report {
            Report::Taken { epoch, position, seized } => {
                tracing::debug!(%epoch, %position, seized, "Partition taken");
            }
            Report::Committed { position, lag } => {
                tracing::trace!(%epoch, %position, ?lag, "Committed");
            }
            Report::FencedOff => {
                metrics.commits_fenced.inc();
                tracing::warn!(%epoch, "Another worker owns the partition now; what was not committed is handled there");
            }
            Report::Superseded(by) => {
                let _ = self.shared.events.send(TaskEvent::Superseded(by));
            }
            Report::Unreadable(why) => tracing::error!(why, "The ownership record cannot be used; the partition waits"),
            Report::OpenFailed(why) => tracing::error!(why, "The handler did not open; the partition waits"),
            Report::Trapped { sequence, messages, why } => {
                tracing::error!(%epoch, %sequence, messages, why, "The handler failed; back to the last commit");
            }
            Report::SnapshotFailed(why) => tracing::error!(%epoch, why, "The handler gave no snapshot"),
            Report::Retrying { sequence, attempts } => tracing::debug!(%sequence, attempts, "The message is retried"),
            Report::Exhausted { sequence, reason } => {
                tracing::warn!(%epoch, %sequence, reason, "The message cannot be handled");
            }
            Report::Blocked { sequence, reason } => {
                tracing::error!(%epoch, %sequence, reason, "The message blocks its partition");
            }
            Report::Unconfirmed(why) => {
                metrics.publishes_retried.inc();
                tracing::warn!(%epoch, why, "Output is not confirmed; it is repeated");
            }
            Report::Parked => tracing::debug!("More messages than may wait; they are read again later"),
        }
    }
}

/// Publishes everything and waits for every confirmation.
async fn send(shared: &Shared, partition: &str, outgoing: Vec<Outgoing<Arc<Held>, Publish>>) -> Result<(), String> {
    // Sent one after the other, so that a subject's outputs are stored in order; confirmed together.
    let count = outgoing.len();
    let mut receipts = Vec::with_capacity(count);
    let mut first = None;
    for outgoing in outgoing {
        let dead_letter = matches!(outgoing, Outgoing::DeadLetter { .. });
        let message = match outgoing {
            Outgoing::Publish { id, body } => {
                OutgoingMessage { subject: body.subject, id, headers: body.headers, payload: body.payload }
            }
            Outgoing::DeadLetter { id, message, reason, attempts } => {
                let message: &Message = std::borrow::Borrow::borrow(&*message.body);
                let mut headers = texts(&message.headers);
                let origin: [(&str, String); 7] = [
                    ("Parti-Stream", shared.stream.name.clone()),
                    ("Parti-Sequence", message.sequence.to_string()),
                    ("Parti-Subject", message.subject.clone()),
                    ("Parti-Partition", partition.to_owned()),
                    ("Parti-Attempts", attempts.to_string()),
                    ("Parti-Reason", one_line(&reason)),
                    ("Parti-Handler", shared.plugin.digest().to_string()),
                ];
                headers.extend(origin.into_iter().map(|(name, value)| (name.to_owned(), value)));
                let subject = shared.dead_letter.clone().unwrap_or_default();
                OutgoingMessage { subject, id, headers, payload: message.payload.clone() }
            }
        };
        let subject = message.subject.clone();
        let receipt = shared.publisher.send(message).await;
        let connection = receipt.connection();
        receipts.push((subject, dead_letter, receipt));
        // Nothing may overtake what was not sent, or was sent over a connection that is gone: everything is sent again.
        if connection.is_none() || *first.get_or_insert(connection) != connection {
            break;
        }
    }
    let complete = receipts.len() == count;
    let confirmed = receipts
        .into_iter()
        .map(|(subject, dead_letter, receipt)| async move { (subject, dead_letter, receipt.published().await) });
    let mut result = if complete { Ok(()) } else { Err("the connection to NATS was lost".to_owned()) };
    for (subject, dead_letter, published) in futures::future::join_all(confirmed).await {
        match published {
            Published::Confirmed { .. } => {
                shared.metrics.publishes_confirmed.inc();
                if dead_letter {
                    shared.metrics.dead_letters.inc();
                }
            }
            Published::NoStream => result = Err(format!("no stream captures the subject {subject:?}")),
            Published::Refused { text, .. } => result = Err(format!("{subject:?}: {text}")),
            Published::Unknown => result = Err(format!("no confirmation for {subject:?}")),
        }
    }
    result
}

/// Headers as the publisher takes them. NATS headers are text; what is none is carried over as far as it is.
fn texts(headers: &[(String, Bytes)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}

/// A header value holds no line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect()
}
