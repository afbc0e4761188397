//! A machine with what the host keeps beside it: the handler's instance, and the reader that feeds it.

use super::{Command, HANDLER, Input, Ledger, Machine};
use crate::Sequence;
use crate::machine::QueuedMessage;
use crate::testing::Random;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) struct Task {
    pub(crate) machine: Machine,
    /// Counts the handler's instances: what one that was closed still answers is dropped.
    pub(crate) instances: u64,
    /// The state of the handler.
    pub(super) instance: Option<Vec<u64>>,
    /// Which version that is.
    pub(super) version: Arc<str>,
    /// The reader's number, and the sequence at which it goes on.
    reader: Option<(u64, u64)>,
    /// What it has asked for and not been told.
    open: BTreeSet<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Read,
    Write,
    Send,
    Put,
    Get,
    Delete,
    Call,
    Close,
}

impl Task {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, instances: 0, instance: None, version: HANDLER.into(), reader: None, open: BTreeSet::new() }
    }

    /// The machine wants something. Says if it wants what it has asked for already: two answers could be taken for each other.
    pub(crate) fn asks(&mut self, command: &Command) -> Option<String> {
        let kind = match command {
            Command::Read => Kind::Read,
            Command::Write { .. } => Kind::Write,
            Command::Send(_) => Kind::Send,
            Command::PutObject { .. } => Kind::Put,
            Command::GetObject(_) => Kind::Get,
            Command::DeleteObjects { .. } => Kind::Delete,
            Command::Open { .. } | Command::Handle(_) | Command::Snapshot => Kind::Call,
            Command::Close(_) => Kind::Close,
            _ => return None,
        };
        // A close cuts a call off.
        let is_new = self.open.insert(kind) && !(kind == Kind::Call && self.open.contains(&Kind::Close));
        (!is_new).then(|| format!("two requests at once: {:?} are open, and then {command:?}", self.open))
    }

    /// The machine is told something.
    pub(crate) fn hears(&mut self, input: &Input) {
        let kind = match input {
            Input::Record(_) => Kind::Read,
            Input::Written(_) => Kind::Write,
            Input::Sent(_) => Kind::Send,
            Input::ObjectPut(_) => Kind::Put,
            Input::Object(_) => Kind::Get,
            Input::ObjectsDeleted(_) => Kind::Delete,
            Input::Opened(_) | Input::Handled(_) | Input::Snapshot(_) => Kind::Call,
            Input::Closed => Kind::Close,
            _ => return,
        };
        self.open.remove(&kind);
    }

    pub(crate) fn close(&mut self) {
        self.instance = None;
        self.instances += 1;
        self.open.remove(&Kind::Call);
    }

    /// Where the reader with this number goes on, if it is the current one.
    pub(crate) fn reads(&self, reader: u64) -> Option<u64> {
        self.reader.filter(|(number, _)| *number == reader).map(|(_, from)| from)
    }

    pub(crate) fn reader(&self) -> Option<u64> {
        self.reader.map(|(number, _)| number)
    }

    pub(crate) fn stop_reading(&mut self) {
        self.reader = None;
    }

    /// A new reader, which begins here. An earlier one delivers no more.
    pub(crate) fn read_from(&mut self, reader: u64, from: u64) -> Input {
        self.reader = Some((reader, from));
        Input::Reader { reader, from: Sequence(from) }
    }

    /// What the current reader delivers next, of a stream that ends at `head`.
    pub(crate) fn read(&mut self, ledger: &Ledger, head: u64, random: &mut Random) -> Vec<Input> {
        let Some((reader, from)) = self.reader else { return Vec::new() };
        let to = (from + random.below(25)).min(head);
        if to < from {
            return Vec::new();
        }
        let message =
            |(sequence, fate): (&u64, &_)| QueuedMessage { sequence: Sequence(*sequence), bytes: 10, body: *fate };
        let messages = ledger.messages.range(from..=to).map(message).collect();
        self.reader = Some((reader, to + 1));
        let mut told = vec![Input::Messages { reader, messages }];
        if random.chance(50) {
            told.push(Input::Passed { reader, sequence: Sequence(to), seen: None });
        }
        told
    }
}
