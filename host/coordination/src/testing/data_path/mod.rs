//! What surrounds a partition in the simulations of one machine and of a whole fleet: its messages, a handler whose state is
//! the list of sequences it has applied, its reader, and what must hold whenever something is written.

mod handler;
mod ledger;
mod objects;
mod task;
pub(crate) mod trace;

use crate::machine::{Limits, OnExhausted, PartitionMachine};
use crate::record::{Owner, StreamIdentity};
use crate::testing::ms;
use crate::{Incarnation, PartitionId, Position, WorkerId};
use uuid::Uuid;

pub(crate) use handler::{Fate, applied, snapshot};
pub(crate) use ledger::Ledger;
pub(crate) use objects::{Objects, no_answer};
pub(crate) use task::Task;

pub(crate) type Machine = PartitionMachine<Fate, String>;
pub(crate) type Input = crate::machine::Input<Fate, String>;
pub(crate) type Command = crate::machine::Command<Fate, String>;

/// What may go wrong between a machine and its handler, its reader and the output stream, in percent of the occasions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) sends: u64,
    pub(crate) traps: u64,
    pub(crate) host: u64,
    pub(crate) snapshots: u64,
    pub(crate) opens: u64,
    /// Requests to the object store that fail at once.
    pub(crate) objects: u64,
    /// A reader starts over.
    pub(crate) readers: u64,
    /// A reader begins past what the partition has.
    pub(crate) late_readers: u64,
}

pub(crate) fn limits() -> Limits {
    Limits {
        batch_messages: 4,
        batch_bytes: 1000,
        queue_messages: 8,
        queue_bytes: 10_000,
        commit_interval: ms(1000),
        max_uncommitted: 6,
        max_attempts: 3,
        max_traps: 2,
        backoff: (ms(100), ms(2000)),
        on_exhausted: OnExhausted::DeadLetter,
        handover_timeout: ms(10_000),
        recovery_grace: ms(10_000),
        poll_interval: ms(500),
        inline_snapshot_bytes: 50_000,
        max_snapshot_bytes: 100_000,
        acknowledges: false,
        rationed: false,
    }
}

pub(crate) fn owner(number: u32, claim: u64) -> Owner {
    let uuid = Uuid::from_u64_pair(u64::from(number), claim);
    Owner { worker: WorkerId::new("worker", number), incarnation: Incarnation { claim, uuid } }
}

/// Digest of the version of the handler that every machine begins with.
pub(crate) const HANDLER: &str = "digest";

pub(crate) fn machine(id: PartitionId, me: Owner, start: Position, limits: Limits) -> Machine {
    let stream = StreamIdentity { name: "work".into(), created: "2026-01-01".into() };
    Machine::new(id, "g".into(), stream, me, HANDLER.into(), start, limits)
}
