//! What goes from a process to NATS, and what comes back.

use crate::PartitionId;
use crate::coordinator::*;
use crate::testing::data_path::{Command, Input, no_answer};

#[derive(Debug, Clone)]
pub(super) enum Request {
    Core(Action),
    /// Of the partition's task with this number.
    Data(PartitionId, u64, Command),
}

/// What a process is told.
#[derive(Debug, Clone)]
pub(super) enum News {
    Core(Event),
    Data(PartitionId, u64, Input),
}

impl Request {
    /// What it gets if nobody answers.
    pub(super) fn no_answer(&self) -> Option<News> {
        let (op, reply) = match self {
            Request::Core(Action::Write { op, .. } | Action::Delete { op, .. }) => {
                (*op, Reply::Write(WriteOutcome::Unknown))
            }
            Request::Core(Action::Read { op, .. }) => (*op, Reply::Entry(Err(()))),
            Request::Core(Action::List { op, .. }) => (*op, Reply::Listing(Err(()))),
            Request::Core(Action::Probe { op, .. }) => (*op, Reply::Probe(ProbeAnswer::TimedOut)),
            Request::Core(Action::ListPartitions { op }) => (*op, Reply::Partitions(Err("no answer".into()))),
            Request::Core(_) => return None,
            Request::Data(id, run, command) => {
                let input = match command {
                    Command::Read => Input::Record(Err(())),
                    Command::Write { .. } => Input::Written(WriteOutcome::Unknown),
                    Command::Send(_) => Input::Sent(Err("no answer".into())),
                    command => no_answer(command)?,
                };
                return Some(News::Data(id.clone(), *run, input));
            }
        };
        Some(News::Core(Event::Reply { op, reply }))
    }
}

impl News {
    /// What arrives of it if the answer does not come through.
    pub(super) fn cut_off(self) -> Self {
        match self {
            News::Core(Event::Reply { op, reply }) => {
                let reply = match reply {
                    Reply::Write(_) => Reply::Write(WriteOutcome::Unknown),
                    Reply::Entry(_) => Reply::Entry(Err(())),
                    Reply::Listing(_) => Reply::Listing(Err(())),
                    Reply::Probe(_) => Reply::Probe(ProbeAnswer::TimedOut),
                    // These do not come from NATS.
                    Reply::Partitions(answer) => Reply::Partitions(answer),
                    Reply::Strategy(answer) => Reply::Strategy(answer),
                };
                News::Core(Event::Reply { op, reply })
            }
            News::Data(id, run, input) => {
                let input = match input {
                    Input::Record(_) => Input::Record(Err(())),
                    Input::Written(_) => Input::Written(WriteOutcome::Unknown),
                    Input::Sent(_) => Input::Sent(Err("no answer".into())),
                    Input::ObjectPut(_) => Input::ObjectPut(Err("no answer".into())),
                    Input::Object(_) => Input::Object(Err("no answer".into())),
                    Input::ObjectsDeleted(_) => Input::ObjectsDeleted(Err(())),
                    other => other,
                };
                News::Data(id, run, input)
            }
            other => other,
        }
    }

    /// Whether nobody repeats it for a process that cannot be reached.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, News::Core(Event::Probed { .. }) | News::Data(_, _, Input::Hint))
    }
}
