//! One partition, driven through its messages by the machine that drives it in a worker, with a record and a stream in memory and a
//! clock that does not wait.

use super::messages::Given;
use crate::config::{Config, Handler};
use crate::plugin::{CallError, Handled as PluginHandled, HandlerInstance, HandlerPlugin, Message, Ownership, Publish};
use crate::worker::partition_limits;
use parti_coordination::record::{Owner, StreamIdentity};
use parti_coordination::{
    Batch, CloseReason, Command, Completed, Epoch, Failure, Fleet, Handled, Incarnation, Input, Limits, Now,
    OnExhausted, OpenReason, Outgoing, Output, Partition, PartitionMachine, Phase, Position, QueuedMessage, Report,
    Sequence, Snapshot, StoredEntry, SwapOrder, WorkerId, WriteOutcome,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Batches between two commits. A worker commits by time, and a test whose commits depended on the speed of the machine would not
/// give the same twice.
const BATCHES_PER_COMMIT: usize = 2;

/// A handler that wants to be tried again later than this is not waited for, although waiting costs nothing: something is wrong.
const PATIENCE: Duration = Duration::from_secs(400 * 24 * 3600);

/// When the stream got its first message: the first of January 2026. Each further one came a millisecond later.
const FIRST_STORED_NS: u64 = 1_767_225_600_000_000_000;

/// What the instance is told to have done when it is thrown away on purpose.
const THROWN_AWAY: &str = "the test has thrown the instance away";

type Machine = PartitionMachine<usize, Publish>;

/// How the messages of a test are handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handing {
    pub(super) batch: usize,
    /// At the message of this index the instance is lost, as after a trap.
    pub(super) trap_at: Option<usize>,
    /// Before the message of this index a new instance takes over, as when the plugin is swapped.
    pub(super) reload_at: Option<usize>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Ack,
    Reject(String),
    /// It was to be tried again too often.
    Exhausted,
    /// It has trapped too often.
    Trap(String),
}

/// What is known of a partition in the end.
#[derive(Debug, Default)]
pub(super) struct Driven {
    /// What became of each message, after how many deliveries, by its index.
    pub(super) fates: BTreeMap<usize, (Fate, u32)>,
    /// What each message has published, each under the ID by which the output stream knows it again.
    published: BTreeMap<usize, Vec<(String, Publish)>>,
    pub(super) state: Option<Snapshot>,
    /// How long it took to open, and how long each call of `handle` took.
    pub(super) opens: Vec<Duration>,
    pub(super) calls: Vec<Duration>,
    /// Bytes of linear memory at the end.
    pub(super) memory: u64,
    /// Messages that were delivered again after `retry`, and so many times.
    pub(super) retries: usize,
    /// What was wrong, as sentences: traps that nobody has ordered, other outputs at a repetition, a close that failed.
    pub(super) faults: Vec<String>,
    /// The calls that failed, which what became of their messages tells too.
    pub(super) traps: Vec<String>,
}

impl Driven {
    /// What a message has published, in order.
    pub(super) fn published(&self, index: usize) -> impl Iterator<Item = &Publish> {
        self.published.get(&index).into_iter().flatten().map(|(_, publish)| publish)
    }
}

/// Drives a partition through its messages, which are named by their index in `given`.
///
/// # Errors
/// Why it does not go on: the handler does not open, or gives no snapshot.
pub(super) async fn drive(
    plugin: &HandlerPlugin,
    partition: &Partition,
    given: &[Given],
    indices: &[usize],
    handing: Handing,
) -> Result<Driven, String> {
    let limits = limits(handing.batch);
    let (worker, incarnation) = (WorkerId::new("test", 0), Incarnation { claim: 1, uuid: Uuid::nil() });
    let stream = StreamIdentity { name: "test".to_owned(), created: "2026-01-01T00:00:00Z".to_owned() };
    let version = plugin.version().id().to_owned();
    let me = Owner { worker, incarnation };
    let machine =
        Machine::new(partition.id().clone(), "test".to_owned(), stream.clone(), me, version, Position(0), limits);
    let mut drive = Drive {
        plugin,
        partition,
        given,
        handing,
        machine,
        stream,
        now: Now::default(),
        record: None,
        revision: 0,
        reader: 0,
        unread: indices.iter().copied().collect(),
        indices,
        last: Sequence(0),
        instance: None,
        failed: None,
        is_gone: false,
        driven: Driven::default(),
    };
    drive.run().await?;
    Ok(drive.driven)
}

/// The bounds and policies of a worker with nothing configured. What cannot be handled is told instead of blocking the test.
fn limits(batch: usize) -> Limits {
    let usual = partition_limits(&Config::default(), &Handler::default(), usize::MAX, 1, false);
    Limits {
        batch_messages: batch,
        queue_messages: usize::MAX,
        queue_bytes: usize::MAX,
        // The machine commits at half of what may be uncommitted.
        max_uncommitted: batch.saturating_mul(BATCHES_PER_COMMIT * 2),
        on_exhausted: OnExhausted::DeadLetter,
        inline_snapshot_bytes: usize::MAX,
        ..usual
    }
}

fn sequence(index: usize) -> Sequence {
    Sequence(index as u64 + 1)
}

fn index(sequence: Sequence) -> usize {
    usize::try_from(sequence.0).map_or(usize::MAX, |sequence| sequence.saturating_sub(1))
}

struct Drive<'a> {
    plugin: &'a HandlerPlugin,
    partition: &'a Partition,
    given: &'a [Given],
    handing: Handing,
    machine: Machine,
    stream: StreamIdentity,
    now: Now,
    record: Option<Vec<u8>>,
    revision: u64,
    reader: u64,
    /// What the reader has not delivered yet.
    unread: VecDeque<usize>,
    indices: &'a [usize],
    /// The last message that was delivered.
    last: Sequence,
    instance: Option<HandlerInstance>,
    /// Why the last call of `handle` failed, if it did.
    failed: Option<String>,
    is_gone: bool,
    driven: Driven,
}

impl Drive<'_> {
    async fn run(&mut self) -> Result<(), String> {
        self.tell(Input::Assigned(Arc::new(Fleet::default())));
        let mut is_ending = false;
        while !self.is_gone {
            if let Some(command) = self.machine.poll_command() {
                self.execute(command).await?;
                continue;
            }
            let view = self.machine.view();
            let is_handled = view.phase == Phase::Running && view.handled.0 >= self.last.0;
            if is_handled && !is_ending && !self.feed() {
                is_ending = true;
                self.tell(Input::Revoked(CloseReason::Shutdown));
            } else if !is_handled || is_ending {
                self.wait(view.trouble.as_deref())?;
            }
        }
        Ok(())
    }

    /// Delivers the next batch, if there is one.
    fn feed(&mut self) -> bool {
        let (trap_at, reload_at) = (self.handing.trap_at, self.handing.reload_at);
        if reload_at.is_some() && reload_at == self.unread.front().copied() {
            self.handing.reload_at = None;
            let to = format!("{} again", self.plugin.version().id()).into();
            self.tell(Input::Swap(SwapOrder { to, on_trial: false, discard_state: false }));
            return true;
        }
        let mut messages = Vec::new();
        while let Some(at) = self.unread.front().copied()
            && messages.len() < self.handing.batch
            && (messages.is_empty() || ![trap_at, reload_at].contains(&Some(at)))
        {
            self.unread.pop_front();
            let bytes = self.given.get(at).map_or(0, |message| message.payload.len());
            messages.push(QueuedMessage { sequence: sequence(at), bytes, body: at });
            self.last = sequence(at);
        }
        let is_fed = !messages.is_empty();
        if is_fed {
            self.tell(Input::Messages { reader: self.reader, messages });
        }
        is_fed
    }

    /// Lets the time pass until the machine wants to go on.
    fn wait(&mut self, trouble: Option<&str>) -> Result<(), String> {
        match self.machine.poll_timeout().filter(|at| at.0 < PATIENCE) {
            Some(at) => {
                self.now = self.now.max(at);
                self.machine.handle_timeout(self.now);
                Ok(())
            }
            None => Err(trouble.unwrap_or("it waits for ever").to_owned()),
        }
    }

    fn tell(&mut self, input: Input<usize, Publish>) {
        self.machine.handle(self.now, input);
    }

    async fn execute(&mut self, command: Command<usize, Publish>) -> Result<(), String> {
        let answer = match command {
            Command::Read => {
                let entry = |value: &Vec<u8>| StoredEntry { value: Some(value.clone()), revision: self.revision };
                Input::Record(Ok(self.record.as_ref().map(entry)))
            }
            Command::Write { value, .. } => {
                self.record = Some(value.into_bytes());
                self.revision += 1;
                Input::Written(WriteOutcome::Written(self.revision))
            }
            Command::CheckStream => Input::StreamChecked(Ok(self.stream.clone())),
            Command::Open { why, snapshot, .. } => self.open(why, snapshot).await?,
            Command::Handle(batch) => self.handle(batch).await,
            Command::Send(outgoing) => {
                self.send(outgoing);
                Input::Sent(Ok(()))
            }
            Command::Snapshot => self.snapshot().await,
            Command::Close(why) => {
                self.close(why).await;
                Input::Closed
            }
            Command::WantReader(mark) => {
                self.reader += 1;
                self.unread = self.indices.iter().copied().filter(|at| sequence(*at) > mark).collect();
                self.last = mark;
                Input::Reader { reader: self.reader, from: Sequence(mark.0 + 1) }
            }
            Command::AskTurn => Input::Turn,
            Command::AskCommit { .. } => Input::MayCommit,
            Command::Detach => Input::Detached,
            // Every snapshot fits into the record.
            Command::PutObject { .. } => Input::ObjectPut(Ok(())),
            Command::GetObject(name) => Input::Object(Err(format!("there is no {name}"))),
            Command::DeleteObjects { .. } => Input::ObjectsDeleted(Ok(())),
            Command::Report(report) => return self.report(report),
            Command::Gone => {
                self.is_gone = true;
                return Ok(());
            }
            Command::EndTurn | Command::Released | Command::AskOwner => return Ok(()),
        };
        self.tell(answer);
        Ok(())
    }

    /// Opens an instance. One that is there is of the version before, and is closed once the new one is open.
    async fn open(&mut self, why: OpenReason, snapshot: Option<Snapshot>) -> Result<Input<usize, Publish>, String> {
        let begun = Instant::now();
        let ownership = Ownership { epoch: Some(Epoch(1)), ..Ownership::default() };
        let opened = self.plugin.open(self.partition, why, snapshot.as_ref(), &ownership).await;
        let instance = opened.map_err(|error| format!("{error} (open, {})", reason(why)))?;
        self.driven.opens.push(begun.elapsed());
        if let Some(former) = self.instance.replace(instance) {
            self.closed(former.close(CloseReason::Swapped).await);
        }
        Ok(Input::Opened(Ok(())))
    }

    async fn handle(&mut self, batch: Batch<usize>) -> Input<usize, Publish> {
        if batch.messages.iter().any(|message| Some(message.body) == self.handing.trap_at) {
            self.handing.trap_at = None;
            self.instance = None;
            self.failed = Some(THROWN_AWAY.to_owned());
            return Input::Handled(Err(Failure::Guest(THROWN_AWAY.to_owned())));
        }
        let Some(instance) = &mut self.instance else {
            return Input::Handled(Err(Failure::Host("there is no instance".to_owned())));
        };
        let attempts = std::iter::once(batch.first_attempt).chain(std::iter::repeat(1));
        let given = batch.messages.iter().zip(attempts).filter_map(|(message, attempt)| {
            self.given.get(message.body).map(|given| given.message(message.sequence, attempt))
        });
        let messages: Vec<Message<'_>> = given.collect();
        let begun = Instant::now();
        let handled = instance.handle(&messages).await;
        self.driven.calls.push(begun.elapsed());
        match handled {
            Ok(PluginHandled { outcome, publishes }) => {
                self.failed = None;
                for (message, completed) in messages.iter().zip(&outcome.done) {
                    let fate = match completed {
                        Completed::Ack => Fate::Ack,
                        Completed::Reject(reason) => Fate::Reject(reason.clone()),
                    };
                    self.driven.fates.insert(index(message.sequence), (fate, message.attempt));
                }
                let output = |publish: Publish| Output { cause: publish.cause, body: publish };
                Input::Handled(Ok(Handled { outcome, outputs: publishes.into_iter().map(output).collect() }))
            }
            Err(error) => {
                self.instance = None;
                self.failed = Some(error.to_string());
                Input::Handled(Err(Failure::Guest(error.to_string())))
            }
        }
    }

    /// Keeps what is published under its ID once, as the output stream does.
    fn send(&mut self, outgoing: Vec<Outgoing<usize, Publish>>) {
        for outgoing in outgoing {
            match outgoing {
                Outgoing::Publish { id, body } => {
                    let cause = index(body.cause);
                    let published = self.driven.published.entry(cause).or_default();
                    match published.iter().find(|(known, _)| *known == id).map(|(_, first)| first.clone()) {
                        None => published.push((id, body)),
                        Some(first) if first == body => {}
                        Some(first) => self.fault(format!(
                            "message {} was handled again and published something else: to {} before, to {} then",
                            body.cause, first.subject, body.subject
                        )),
                    }
                }
                Outgoing::DeadLetter { message, attempts, .. } => {
                    let fate = match (&self.failed, self.driven.fates.get(&message.body)) {
                        (Some(why), _) => Fate::Trap(why.clone()),
                        (None, Some((rejected @ Fate::Reject(_), _))) => rejected.clone(),
                        (None, _) => Fate::Exhausted,
                    };
                    self.driven.fates.insert(message.body, (fate, attempts));
                }
            }
        }
    }

    async fn snapshot(&mut self) -> Input<usize, Publish> {
        let Some(instance) = &mut self.instance else { return Input::Snapshot(Ok(None)) };
        let snapshot = instance.snapshot().await;
        if let Ok(snapshot) = &snapshot {
            self.driven.state.clone_from(snapshot);
        }
        Input::Snapshot(snapshot.map_err(|error| match error {
            CallError::Refused { .. } => Failure::Refused(error.to_string()),
            _ => Failure::Guest(error.to_string()),
        }))
    }

    async fn close(&mut self, why: CloseReason) {
        let Some(instance) = self.instance.take() else { return };
        self.driven.memory = self.plugin.version().stats().memory_bytes;
        self.closed(instance.close(why).await);
    }

    fn closed(&mut self, closed: Result<(), CallError>) {
        if let Err(error) = closed {
            self.fault(format!("{error} (close)"));
        }
    }

    fn fault(&mut self, fault: String) {
        once(&mut self.driven.faults, fault);
    }

    fn report(&mut self, report: Report) -> Result<(), String> {
        match report {
            Report::Trapped { sequence, messages, why } if why != THROWN_AWAY => {
                let of = if messages == 1 { String::new() } else { format!(" in a call with {messages} messages") };
                once(&mut self.driven.traps, format!("message {sequence}{of}: {why}"));
            }
            Report::Retrying { .. } => self.driven.retries += 1,
            Report::SnapshotFailed(why) => return Err(format!("{why} (snapshot)")),
            _ => {}
        }
        Ok(())
    }
}

impl Given {
    fn message(&self, sequence: Sequence, attempt: u32) -> Message<'_> {
        let headers = self.headers.iter().map(|(name, value)| (Cow::Borrowed(name.as_str()), value.as_bytes()));
        Message {
            subject: &self.subject,
            sequence,
            timestamp_ns: FIRST_STORED_NS + sequence.0.saturating_sub(1) * 1_000_000,
            attempt,
            headers: headers.collect(),
            payload: &self.payload,
        }
    }
}

fn reason(why: OpenReason) -> &'static str {
    match why {
        OpenReason::Assigned => "assigned",
        OpenReason::Recovered => "recovered, from the last commit",
        OpenReason::Swapped => "swapped, from the state of the instance before",
    }
}

/// What happens again, as a trap does at every try, is told once.
fn once(told: &mut Vec<String>, what: String) {
    if !told.contains(&what) {
        told.push(what);
    }
}
