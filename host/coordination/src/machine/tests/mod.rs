//! What one partition's machine promises: step by step, driven by hand, and under random faults in `world`.

mod handling;
mod model;
mod objects;
mod operator;
mod owning;
mod soak;
mod streams;
mod suspicion;
mod swapping;
mod versions;
mod world;

use super::*;
use crate::record::{OwnershipRecord, Phase as RecordPhase, decode, encode};
use crate::testing::data_path::{self, Command, Fate, Input, Machine, owner, snapshot};
use crate::testing::ms;
use crate::{Completed, Epoch, Expect, Generation, Outcome, StoredEntry, WriteOutcome};
use std::time::Duration;

fn machine(me: Owner, limits: Limits) -> Machine {
    data_path::machine(PartitionId::from_keys(&["p"]).unwrap(), me, Position(0), limits)
}

/// A machine that is driven by hand.
struct Hand {
    machine: Machine,
    now: Duration,
    revision: u64,
}

type Commands = Vec<Command>;

impl Hand {
    fn new(limits: Limits) -> Self {
        Self { machine: machine(owner(1, 1), limits), now: ms(1000), revision: 0 }
    }

    /// A machine that has taken a partition nobody has ever owned, and has a reader.
    fn running(limits: Limits) -> Self {
        let mut hand = Self::new(limits);
        hand.give(Input::Assigned(Arc::new(Fleet::default())));
        hand.give(Input::Record(Ok(None)));
        hand.opened_after_take();
        hand
    }

    fn opened_after_take(&mut self) {
        let commands = self.write_lands();
        assert!(matches!(commands.last(), Some(Command::Open { .. })), "{commands:?}");
        let commands = self.give(Input::Opened(Ok(())));
        let Some(Command::WantReader(mark)) = commands.last() else { panic!("{commands:?}") };
        self.give(Input::Reader { reader: 1, from: Sequence(mark.0 + 1) });
    }

    fn drain(&mut self) -> Commands {
        std::iter::from_fn(|| self.machine.poll_command()).collect()
    }

    fn give(&mut self, input: Input) -> Commands {
        self.machine.handle(Now(self.now), input);
        self.drain()
    }

    /// Lets time pass, with every timer on its way.
    fn wait(&mut self, time: Duration) -> Commands {
        let until = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.machine.poll_timeout().filter(|at| at.0 <= until) {
            self.now = self.now.max(at.0);
            self.machine.handle_timeout(Now(self.now));
            all.extend(self.drain());
        }
        self.now = until;
        all
    }

    fn write_lands(&mut self) -> Commands {
        self.revision += 1;
        self.give(Input::Written(WriteOutcome::Written(self.revision)))
    }

    fn messages(&mut self, sequences: impl IntoIterator<Item = u64>) -> Commands {
        let messages = sequences
            .into_iter()
            .map(|s| QueuedMessage { sequence: Sequence(s), bytes: 10, body: Fate::Fine })
            .collect();
        self.give(Input::Messages { reader: 1, messages })
    }

    fn acked(&mut self, n: usize) -> Commands {
        self.done(vec![Completed::Ack; n], None)
    }

    fn done(&mut self, done: Vec<Completed>, retry: Option<Option<Duration>>) -> Commands {
        let outcome = Outcome { done, retry };
        self.give(Input::Handled(Ok(Handled { outcome, outputs: Vec::new() })))
    }

    fn traps(&mut self) -> Commands {
        self.give(Input::Handled(Err(Failure::Guest("trap".into()))))
    }

    fn state(&mut self, applied: &[u64]) -> Commands {
        self.give(Input::Snapshot(Ok(Some(snapshot(applied)))))
    }
}

fn record(owner: Owner, epoch: u64, phase: RecordPhase, position: u64) -> OwnershipRecord {
    OwnershipRecord {
        v: 1,
        group: "g".into(),
        stream: StreamIdentity { name: "work".into(), created: "2026-01-01".into() },
        epoch: Epoch(epoch),
        generation: Generation(1),
        owner,
        phase,
        position: Position(position),
        seen: None,
        attempts: None,
        seizes: 0,
        alone: None,
        handler: None,
        snapshot: None,
    }
}

fn entry(record: &OwnershipRecord, revision: u64) -> Input {
    let value = Some(encode(record).unwrap().into_bytes());
    Input::Record(Ok(Some(StoredEntry { value, revision })))
}

/// The one record that the commands write.
fn written(commands: &Commands) -> (OwnershipRecord, Expect) {
    let mut writes = commands.iter().filter_map(|c| match c {
        Command::Write { value, expect } => Some((decode(value.as_bytes()).unwrap(), *expect)),
        _ => None,
    });
    let write = writes.next().unwrap_or_else(|| panic!("no write in {commands:?}"));
    assert!(writes.next().is_none(), "two writes at once");
    write
}

fn batch(commands: &Commands) -> (Vec<u64>, u32) {
    let batches: Vec<_> = commands
        .iter()
        .filter_map(|c| match c {
            Command::Handle(b) => Some((b.messages.iter().map(|m| m.sequence.0).collect(), b.first_attempt)),
            _ => None,
        })
        .collect();
    assert_eq!(batches.len(), 1, "{commands:?}");
    batches[0].clone()
}

fn reports(commands: &Commands) -> Vec<Report> {
    commands.iter().filter_map(|c| if let Command::Report(r) = c { Some(r.clone()) } else { None }).collect()
}
