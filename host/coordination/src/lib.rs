//! The pure core of Parti: what a worker decides, without any means to carry it out.
//!
//! Everything here is sans-IO, in the manner of `quinn-proto`: a machine takes `(now, event)` and yields actions and
//! the next deadline. Nothing sleeps, spawns, reads a clock, draws randomness or talks to NATS, so that a whole fleet
//! can be simulated in one thread and a failing seed replays. The crate boundary enforces it: no runtime and no
//! network crate is among the dependencies.
//!
//! * [`Coordinator`] decides who a worker is, who leads, what the plan is and what this worker is assigned.
//! * [`PartitionMachine`] decides, for one partition, what is accepted, handled, published, committed and handed over.
//! * [`strategy`] holds the built-in assignment strategies.
//! * The records in [`record`] are what workers tell each other through NATS; their JSON is part of the protocol.

mod coordinator;
mod handler;
mod id;
mod machine;
mod partition;
pub mod record;
mod state;
pub mod strategy;
#[cfg(test)]
mod testing;
mod time;

pub use coordinator::{
    Action, AlertLevel, Assigned, Bucket, Coordinator, DegradedAlert, DegradedBehavior, Draft, Event, Expect, Fleet,
    Lifetime, Notice, OpId, Outage, Outlook, PartitionList, ProbeAnswer, Reply, Settings, StartFailure, StoredEntry,
    WriteOutcome,
};
pub use handler::{CloseReason, Completed, OpenReason, Outcome, Snapshot};
pub use id::{Epoch, Generation, Incarnation, Position, Sequence, Term, Version, WorkerId};
pub use machine::{
    Batch, Command, Failure, Handled, Input, Limits, OnExhausted, Outgoing, Output, PartitionMachine, PartitionView,
    Phase, QueuedMessage, Report, SwapOrder, TakeDecision, Trial, decide_take,
};
pub use partition::{DEFAULT_WEIGHT, InvalidPartition, NoPartitionId, Partition, PartitionId};
pub use state::WorkerState;
pub use time::Now;
