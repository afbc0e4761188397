//! Who gets which partition: the contract of a strategy and the built-in ones.
//!
//! A strategy answers with one worker index per partition, so that a partition in two places or in none cannot be
//! expressed. Strategies are pure functions: the same request always gets the same answer, whatever the order in which
//! workers and partitions come.

mod consistent_hash;

pub use consistent_hash::ConsistentHash;

use crate::{Partition, WorkerId};

/// A worker as a strategy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its ID.
    pub worker: WorkerId,
    /// Relative capacity, at least 1: a worker with capacity 2 gets twice as much.
    pub capacity: u32,
}

/// What a strategy is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who may get partitions; not empty.
    pub workers: &'a [Candidate],
    /// What is to be assigned.
    pub partitions: &'a [&'a Partition],
    /// For each partition the index of the worker that has it now, if that worker is among `workers`.
    pub previous: &'a [Option<usize>],
}

/// Decides which worker gets which partition.
pub trait Strategy: Send + Sync {
    /// One worker index per partition, in the order of the partitions.
    fn assign(&self, request: Request<'_>) -> Vec<usize>;
}
