//! Carries out what the core decides about partitions: takes them, reads their messages, calls their handlers, commits
//! and hands over.
//!
//! * `partition` drives one [`PartitionMachine`](parti_coordination::PartitionMachine) as a task of its own.
//! * `feed` reads the stream once and gives each partition its messages; on a WorkQueue or Interest stream `queue` takes its
//!   place.
//! * `manager` keeps one task per partition of the assignment; `shared` is what these have in common, and `refused` what the handler
//!   has refused to open.
//! * `front` has [`Intake`], which is what `worker` talks to.
//! * `ration` bounds the commits of all of them together.
//! * `versions` are those of a handler; `rollout` takes another one up, on trial; `quarantine` decides whether it is fed at all.
//!
//! Everything here runs on the work runtime, apart from leases and probes: a guest that burns every core must not cost a
//! lease.

mod budget;
mod chunk;
mod feed;
mod front;
mod manager;
mod origin;
mod partition;
mod quarantine;
mod queue;
mod ration;
mod reading;
mod refused;
mod rollout;
mod shared;
mod versions;

pub use front::{HandlerOptions, Intake, IntakeEvent, IntakeOptions, PartitionReport};
pub use quarantine::QuarantineRules;
pub use queue::QueueOptions;
pub use rollout::{SwapOutcome, SwapReport, SwapRequest, SwapRules};
