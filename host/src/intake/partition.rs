//! One partition as a task: carries out what its machine decides, and tells the machine what became of it.
//!
//! A call into the handler takes the instance with it and brings it back, so that one call at a time is open by
//! construction; meanwhile the machine goes on, above all to bound what waits. What goes to NATS is spawned and comes back as
//! an input. The task owns its instance; dropping the task drops both.

use super::chunk::Held;
use super::feed::{PartitionInput, Wish};
use super::manager::{Shared, TaskEvent};
use crate::error::ErrorCode;
use crate::nats::{OutgoingMessage, Published, StreamInfo, sendable_headers};
use crate::plugin::{CallError, Handled as PluginHandled, HandlerInstance, Message, Publish};
use crate::telemetry::Verdict;
use parti_coordination::record::{Owner, StreamIdentity};
use parti_coordination::{
    Batch, CloseReason, Command, Completed, Epoch, Failure, Handled, Input, Now, OnExhausted, OpenReason, Outgoing,
    Partition, PartitionMachine, PartitionView, Phase, Position, Report, Snapshot,
};
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

type Machine = PartitionMachine<Held, Publish>;

/// A call that is open. It brings back the instance, if that is of any more use.
type Calling = Pin<Box<dyn Future<Output = (Option<HandlerInstance>, Answer)> + Send>>;

/// What a call has given.
enum Answer {
    Opened(Result<(), CallError>),
    Handled(Result<PluginHandled, CallError>, Times),
    Snapshot(Result<Option<Snapshot>, CallError>),
    Closed(Result<(), CallError>),
}

/// What is measured of a batch: how long the call took, and how old the first message was in the end.
struct Times {
    took: Duration,
    age: Duration,
}

/// Why the task has something to do.
enum Woken {
    Answer(Option<HandlerInstance>, Answer),
    Input(Option<PartitionInput>),
    Time,
}

pub(super) struct PartitionTask {
    shared: Arc<Shared>,
    partition: Partition,
    subject: String,
    record_key: String,
    machine: Machine,
    epoch: Epoch,
    instance: Option<HandlerInstance>,
    calling: Option<Calling>,
    /// The instance is to be closed as soon as the call that is open has ended; what that gives does not count.
    closes: Option<CloseReason>,
    /// The turn to try a message of which a worker may have died, or the wait for it.
    turn: Option<AbortOnDropHandle<()>>,
    inbox: mpsc::UnboundedReceiver<PartitionInput>,
    sender: mpsc::UnboundedSender<PartitionInput>,
    view: Arc<Mutex<PartitionView>>,
    gone: bool,
}

impl PartitionTask {
    /// Begins to work on a partition. The task ends by itself when the machine has ended, and says so to the manager.
    pub(super) fn spawn(
        shared: Arc<Shared>,
        (stream, start): (StreamIdentity, Position),
        partition: Partition,
        me: Owner,
        inbox: mpsc::UnboundedReceiver<PartitionInput>,
        sender: mpsc::UnboundedSender<PartitionInput>,
    ) -> Arc<Mutex<PartitionView>> {
        let machine = Machine::new(
            partition.id().clone(),
            shared.group.clone(),
            stream,
            me,
            shared.plugin.version().digest().to_string(),
            start,
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
            calling: None,
            closes: None,
            turn: None,
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
            let deadline =
                self.machine.poll_timeout().map(|Now(at)| tokio::time::Instant::from_std(self.shared.origin + at));
            let calling = &mut self.calling;
            let woken = tokio::select! {
                biased;
                (instance, answer) = async {
                    match calling {
                        Some(call) => call.await,
                        None => pending().await,
                    }
                } => Woken::Answer(instance, answer),
                input = self.inbox.recv() => Woken::Input(input),
                () = async {
                    match deadline {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => pending().await,
                    }
                } => Woken::Time,
            };
            match woken {
                Woken::Answer(instance, answer) => {
                    self.calling = None;
                    self.instance = instance;
                    self.answered(answer);
                    // The next call may follow at once, and calls that never wait would keep this thread from others.
                    tokio::task::yield_now().await;
                }
                Woken::Input(Some(input)) => self.tell(input),
                // The manager is gone: the process ends.
                Woken::Input(None) => break,
                Woken::Time => {
                    let now = self.now();
                    self.machine.handle_timeout(now);
                }
            }
            while let Ok(input) = self.inbox.try_recv() {
                self.tell(input);
            }
            while let Some(command) = self.machine.poll_command() {
                self.execute(command);
            }
            self.show();
        }
        let _ = self.shared.wishes.send(Wish::Leave { subject: self.subject.clone() });
        let _ = self.shared.events.send(TaskEvent::Gone(self.partition.id().clone()));
    }

    fn show(&self) {
        let view = self.machine.view();
        let phase = view.phase;
        let mut seen = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = seen.phase != view.phase;
        *seen = view;
        drop(seen);
        // Who goes on waiting for the partition, or gives it up, neither holds a reader's place nor memory, whether there was a handler to
        // close or not. In queue mode it says so by itself.
        if changed && matches!(phase, Phase::Releasing | Phase::Waiting) && !self.shared.limits.acknowledges {
            let _ = self.shared.wishes.send(Wish::Leave { subject: self.subject.clone() });
        }
        if changed {
            let _ = self.shared.events.send(TaskEvent::Changed);
        }
    }

    fn execute(&mut self, command: Command<Held, Publish>) {
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
            Command::CheckStream => {
                let shared = Arc::clone(&self.shared);
                self.later(async move {
                    let stream = StreamInfo::of(&shared.control, &shared.stream).await;
                    let identity = stream.map(|stream| StreamIdentity { name: stream.name, created: stream.created });
                    Input::StreamChecked(identity.map_err(|error| tracing::debug!(%error, "The stream cannot be seen")))
                });
            }
            Command::Open { why, snapshot, epoch } => {
                self.epoch = epoch;
                self.call(open(Arc::clone(&self.shared), self.partition.clone(), why, snapshot));
            }
            Command::Handle(batch) => {
                let instance = self.instance.take();
                self.shared.metrics.batch_size.observe(batch.messages.len() as f64);
                match instance {
                    Some(instance) => self.call(handle(instance, batch)),
                    None => self.tell(Input::Handled(Err(Failure::Host("there is no instance".into())))),
                }
            }
            Command::Send(outgoing) => {
                let shared = Arc::clone(&self.shared);
                let partition = self.partition.id().to_string();
                self.later(async move { Input::Sent(send(&shared, &partition, outgoing).await) });
            }
            Command::Snapshot => match self.instance.take() {
                Some(mut instance) => self.call(async move {
                    let answer = instance.snapshot().await;
                    (Some(instance), Answer::Snapshot(answer))
                }),
                None => self.tell(Input::Snapshot(Ok(None))),
            },
            Command::PutObject { name, data } => {
                let objects = self.shared.objects.clone();
                self.later(async move { Input::ObjectPut(objects.put(&name, &data).await.map_err(|e| e.to_string())) });
            }
            Command::GetObject(name) => {
                let objects = self.shared.objects.clone();
                self.later(async move { Input::Object(objects.get(&name).await.map_err(|e| e.to_string())) });
            }
            Command::DeleteObjects { names, before } => {
                let (objects, key) = (self.shared.objects.clone(), self.record_key.clone());
                self.later(async move {
                    let deleted = objects.delete(&key, &names, before).await;
                    Input::ObjectsDeleted(deleted.map_err(|error| tracing::debug!(%error, "Snapshots are not deleted")))
                });
            }
            Command::AskTurn => {
                let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
                self.turn = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    // It is held for as long as this task is.
                    let _turn = shared.turn.acquire().await;
                    let _ = sender.send(Input::Turn);
                    pending::<()>().await;
                })));
            }
            Command::EndTurn => self.turn = None,
            Command::Close(why) => self.close(why),
            Command::WantReader(mark) => {
                let (subject, inbox) = (self.subject.clone(), self.sender.clone());
                let (seen, stream) = (self.machine.seen(), self.machine.stream().clone());
                let _ = self.shared.wishes.send(Wish::Want { subject, mark, seen, stream, inbox });
            }
            Command::Detach => {
                let (subject, inbox) = (self.subject.clone(), self.sender.clone());
                let _ = self.shared.wishes.send(Wish::Detach { subject, inbox });
            }
            Command::Released | Command::AskOwner => {
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

    /// Opens a call into the handler.
    fn call(&mut self, call: impl Future<Output = (Option<HandlerInstance>, Answer)> + Send + 'static) {
        self.calling = Some(Box::pin(call));
    }

    fn close(&mut self, why: CloseReason) {
        if self.calling.is_some() {
            self.closes = Some(why);
            return;
        }
        match self.instance.take() {
            Some(instance) => self.call(async move { (None, Answer::Closed(instance.close(why).await)) }),
            None => self.tell(Input::Closed),
        }
    }

    fn answered(&mut self, answer: Answer) {
        if let Some(why) = self.closes.take() {
            // What the call before gave belongs to nobody; a failure of it is still the plugin's.
            let failed = match answer {
                Answer::Opened(result) | Answer::Closed(result) => result.err(),
                Answer::Handled(result, _) => result.err(),
                Answer::Snapshot(result) => result.err(),
            };
            if let Some(error) = failed {
                self.failure(&error);
            }
            return self.close(why);
        }
        let input = match answer {
            Answer::Opened(result) => Input::Opened(result.map_err(|error| self.failure(&error))),
            Answer::Handled(result, Times { took, age }) => {
                self.shared.metrics.handle_seconds.observe(took.as_secs_f64());
                if result.as_ref().is_ok_and(|handled| !handled.outcome.done.is_empty()) {
                    self.shared.metrics.message_age.observe(age.as_secs_f64());
                }
                Input::Handled(result.map(|handled| self.handled(handled)).map_err(|error| self.failure(&error)))
            }
            Answer::Snapshot(result) => Input::Snapshot(result.map_err(|error| self.failure(&error))),
            Answer::Closed(result) => {
                if let Err(error) = result {
                    self.failure(&error);
                    tracing::warn!(%error, "The handler failed while it was closed");
                }
                Input::Closed
            }
        };
        self.tell(input);
    }

    fn handled(&self, handled: PluginHandled) -> Handled<Publish> {
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
        self.tell_hooks(error.code(), &text);
        self.instance = None;
        Failure::Guest(text)
    }

    /// What is at or below a committed position may be acknowledged.
    fn is_committed(&self, position: Position) {
        if self.shared.limits.acknowledges {
            let _ = self.shared.wishes.send(Wish::Committed { subject: self.subject.clone(), position });
        }
    }

    fn tell_hooks(&self, code: ErrorCode, what: &str) {
        self.shared.hooks.error(code, what, Some(self.partition.id()));
    }

    fn report(&self, report: Report) {
        let (metrics, epoch) = (&self.shared.metrics, self.epoch);
        match report {
            Report::Taken { epoch, position, seized } => {
                tracing::debug!(%epoch, %position, seized, "Partition taken");
                self.is_committed(position);
            }
            Report::Committed { position, lag } => {
                tracing::trace!(%epoch, %position, ?lag, "Committed");
                self.is_committed(position);
            }
            Report::FencedOff => {
                metrics.commits_fenced.inc();
                self.tell_hooks(ErrorCode::CommitFenced, "another worker owns the partition now");
                tracing::warn!(%epoch, "Another worker owns the partition now; what was not committed is handled there");
            }
            Report::WrittenBack { epoch, position } => {
                tracing::warn!(%epoch, %position, "The ownership bucket has lost this partition's record; written back from memory");
            }
            Report::RecordLost => {
                metrics.records_lost.inc();
                let error = ErrorCode::RecordLost.error(
                    "the ownership record of this partition is gone, and nobody has it in memory",
                    "its bucket was deleted or set back, and the partition's owner has died; position and state are lost",
                    "the stream is handled from its start, so that nothing is passed over; move the partition with parti seek",
                );
                tracing::error!(code = %error.code, "{error}");
            }
            Report::Moved { position, generation } => {
                tracing::warn!(%epoch, %position, %generation, "The partition was moved by hand; beginning again from there");
            }
            Report::Superseded(by) => {
                let _ = self.shared.events.send(TaskEvent::Superseded(by));
            }
            Report::Unreadable(why) => {
                tracing::error!(why, "The ownership record cannot be used; the partition waits");
                self.tell_hooks(ErrorCode::RecordUnreadable, &why);
            }
            Report::CannotOpen { handler, why } => {
                tracing::error!(
                    %epoch, handler, why,
                    "The handler cannot open the state that another version of it has written; the partition is for a worker with that version"
                );
                self.tell_hooks(ErrorCode::PluginOpen, &why);
            }
            Report::OpenFailed(why) => {
                tracing::error!(why, "The handler did not open; the partition waits");
                self.tell_hooks(ErrorCode::PluginOpen, &why);
            }
            Report::Trapped { sequence, messages, why } => {
                tracing::error!(%epoch, %sequence, messages, why, "The handler failed; back to the last commit");
            }
            Report::SnapshotFailed(why) => {
                tracing::error!(%epoch, why, "The handler gave no snapshot");
                self.tell_hooks(ErrorCode::PluginSnapshot, &why);
            }
            Report::SnapshotNotStored(why) => {
                tracing::error!(%epoch, why, "The snapshot is not stored; nothing is committed until it is");
                self.tell_hooks(ErrorCode::PluginSnapshot, &why);
            }
            Report::Suspicious { seizes } => tracing::warn!(
                %epoch, seizes,
                "The owners of this partition have died one after the other; the next messages are handled one by one, each written down before"
            ),
            Report::Retrying { sequence, attempts } => tracing::debug!(%sequence, attempts, "The message is retried"),
            Report::Exhausted { sequence, reason } => {
                tracing::warn!(%epoch, %sequence, reason, "The message cannot be handled");
                if self.shared.limits.on_exhausted == OnExhausted::Drop {
                    self.tell_hooks(ErrorCode::MessageExhausted, &format!("message {sequence} is dropped: {reason}"));
                }
            }
            Report::Blocked { sequence, reason } => {
                tracing::error!(%epoch, %sequence, reason, "The message blocks its partition");
                self.tell_hooks(
                    ErrorCode::MessageExhausted,
                    &format!("message {sequence} blocks its partition: {reason}"),
                );
            }
            Report::Unconfirmed(why) => {
                metrics.publishes_retried.inc();
                tracing::warn!(%epoch, why, "Output is not confirmed; it is repeated");
                self.tell_hooks(ErrorCode::PublishFailed, &why);
            }
            Report::Parked { reader } => {
                tracing::debug!("More messages than may wait; they are read again later");
                let bytes = self.machine.queued_bytes();
                let _ = self.shared.wishes.send(Wish::Parked { subject: self.subject.clone(), reader, bytes });
            }
            Report::StartedOver { generation, before, position } => {
                tracing::warn!(%generation, %before, %position, "The stream is not what it was; the partition goes on from here");
            }
        }
    }
}

async fn open(
    shared: Arc<Shared>,
    partition: Partition,
    why: OpenReason,
    snapshot: Option<Snapshot>,
) -> (Option<HandlerInstance>, Answer) {
    match shared.plugin.open(&partition, why, snapshot.as_ref()).await {
        Ok(instance) => (Some(instance), Answer::Opened(Ok(()))),
        Err(error) => (None, Answer::Opened(Err(error))),
    }
}

async fn handle(mut instance: HandlerInstance, batch: Batch<Held>) -> (Option<HandlerInstance>, Answer) {
    let begun = Instant::now();
    // Only the first message can have been tried before.
    let attempts = std::iter::once(batch.first_attempt).chain(std::iter::repeat(1));
    let messages: Vec<Message<'_>> =
        batch.messages.iter().zip(attempts).map(|(message, attempt)| message.body.message(attempt)).collect();
    let result = instance.handle(&messages).await;
    drop(messages);
    let age = batch.messages.first().map_or(Duration::ZERO, |message| message.body.age());
    (Some(instance), Answer::Handled(result, Times { took: begun.elapsed(), age }))
}

/// Publishes everything and waits for every confirmation.
async fn send(shared: &Shared, partition: &str, outgoing: Vec<Outgoing<Held, Publish>>) -> Result<(), String> {
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
                let (payload, message) = (message.body.payload(), message.body.message(1));
                // What others have sent and cannot be sent on must not keep the message from leaving.
                let mut headers = sendable_headers(message.headers.iter().map(|(name, value)| (&**name, *value)));
                let origin: [(&str, String); 7] = [
                    ("Parti-Stream", shared.stream.clone()),
                    ("Parti-Sequence", message.sequence.to_string()),
                    ("Parti-Subject", message.subject.to_owned()),
                    ("Parti-Partition", partition.to_owned()),
                    ("Parti-Attempts", attempts.to_string()),
                    ("Parti-Reason", one_line(&reason)),
                    ("Parti-Handler", shared.plugin.version().digest().to_string()),
                ];
                headers.extend(origin.into_iter().map(|(name, value)| (name.to_owned(), value)));
                let subject = shared.dead_letter.clone().unwrap_or_default();
                OutgoingMessage { subject, id, headers, payload }
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

/// A header value holds no line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect()
}
