//! One partition as a task: carries out what its machine decides, and tells the machine what became of it.
//!
//! A call into the handler takes the instance with it and brings it back, so that one call at a time is open by
//! construction; meanwhile the machine goes on, above all to bound what waits. What goes to NATS is spawned and comes back as
//! an input. The task owns its instance; dropping the task drops both.
//!
//! * `calls` opens the calls into the handler, and says to the machine what their answers mean.
//! * `outputs` publishes what the handler has given, and dead letters.
//! * `reports` tells what happens: logs, metrics, hooks, the readers.

mod calls;
mod outputs;
mod reports;

use super::chunk::Held;
use super::feed::{PartitionInput, Wish};
use super::shared::{HandlerIndex, Handling, Shared, TaskEvent};
use crate::nats::StreamInfo;
use crate::plugin::{HandlerInstance, Publish};
use calls::{Answer, Calling};
use parti_coordination::record::{Owner, StreamIdentity};
use parti_coordination::{
    CloseReason, Command, Epoch, Failure, Input, Now, Partition, PartitionMachine, PartitionView, Phase, Position,
};
use std::future::pending;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

type Machine = PartitionMachine<Held, Publish>;

/// Why the task has something to do.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for one turn, on the stack; a box would be an allocation for each batch"
)]
enum Woken {
    Answer(Option<HandlerInstance>, Answer),
    Input(Option<PartitionInput>),
    Time,
}

pub(super) struct PartitionTask {
    shared: Arc<Shared>,
    /// Which handler it has.
    of: HandlerIndex,
    handling: Arc<Handling>,
    partition: Partition,
    subject: String,
    record_key: String,
    machine: Machine,
    epoch: Epoch,
    /// Tells the handler that nobody waits for it any more.
    cancelled: Arc<AtomicBool>,
    instance: Option<HandlerInstance>,
    /// The one of another version, until the new one is open.
    former: Option<HandlerInstance>,
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
        (of, handling): (HandlerIndex, Arc<Handling>),
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
            handling.versions.current().version().id().to_owned(),
            start,
            handling.limits.clone(),
        );
        let view = Arc::new(Mutex::new(machine.view()));
        let span = tracing::info_span!("partition", partition = %partition.id());
        let task = Self {
            subject: shared.template.subject(partition.id()),
            record_key: partition.id().record_key(),
            shared,
            of,
            handling,
            partition,
            machine,
            epoch: Epoch(0),
            cancelled: Arc::default(),
            instance: None,
            former: None,
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
        let mut view = self.machine.view();
        if let Some(why) = self.handling.held() {
            // It looks like a pause of the operator's, and is none.
            view.paused = self.shared.is_paused(self.partition.id());
            view.trouble = Some(format!("its handler is fed no more: {why}"));
        }
        let phase = view.phase;
        let mut seen = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = seen.phase != view.phase;
        *seen = view;
        drop(seen);
        // Who goes on waiting for the partition, or gives it up, neither holds a reader's place nor memory, whether there was a handler to
        // close or not. In queue mode it says so by itself.
        if changed && matches!(phase, Phase::Releasing | Phase::Waiting) && !self.shared.acknowledges {
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
            Command::Open { handler, why, snapshot, epoch } => {
                self.epoch = epoch;
                self.open(&handler, why, snapshot);
            }
            Command::Handle(batch) => {
                let instance = self.instance.take();
                self.shared.metrics.batch_size.observe(batch.messages.len() as f64);
                match instance {
                    Some(instance) => self.call(calls::handle(instance, batch)),
                    None => self.tell(Input::Handled(Err(Failure::Host("there is no instance".into())))),
                }
            }
            Command::Send(outgoing) => {
                let (shared, handling) = (Arc::clone(&self.shared), Arc::clone(&self.handling));
                let by =
                    outputs::Sender { partition: self.partition.id().clone(), version: self.machine.handler().clone() };
                self.later(async move { Input::Sent(outputs::send(&shared, &handling, &by, outgoing).await) });
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
            Command::AskCommit { since, stands } => match &self.shared.ration {
                Some(ration) => ration.ask(self.partition.id().clone(), since, stands, self.sender.clone()),
                None => self.tell(Input::MayCommit),
            },
            Command::Released => {
                if let Some(ration) = &self.shared.ration {
                    ration.made();
                }
                self.hint();
            }
            Command::AskOwner => self.hint(),
            Command::Gone => self.gone = true,
            Command::Report(report) => self.report(report),
        }
    }

    /// Has everybody look at the partition's record.
    fn hint(&self) {
        let (shared, id) = (Arc::clone(&self.shared), self.partition.id().clone());
        tokio::spawn(async move { shared.hint(&id).await });
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
}
