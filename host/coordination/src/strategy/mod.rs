//! Who gets which partition: the contract of a strategy and the built-in ones.
//!
//! A strategy answers with one worker index per partition, so that a partition in two places or in none cannot be
//! expressed. The built-in strategies are pure functions: the same request always gets the same answer, whatever the order in
//! which workers and partitions come. A strategy outside the core, such as a plugin, is asked a [`Question`], the same as a value
//! of its own, and nothing is relied on but that its answer is checked.

mod canonical;
mod consistent_hash;
mod holdings;
mod relief;
mod ring;
mod room;
mod round_robin;
#[cfg(test)]
mod tests;
mod weighted;

pub use consistent_hash::ConsistentHash;
pub use round_robin::RoundRobin;
pub use weighted::WeightedConsistentHash;

use crate::record::Lifecycle;
use crate::{Partition, WorkerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A worker as a strategy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its ID.
    pub worker: WorkerId,
    /// Relative capacity, at least 1: a worker with capacity 2 gets twice as much.
    pub capacity: u32,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
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

impl Request<'_> {
    /// Who has this partition now.
    fn owner(&self, partition: usize) -> Option<usize> {
        self.previous.get(partition).copied().flatten().filter(|worker| *worker < self.workers.len())
    }
}

/// What a strategy outside the core is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Why a plan is made.
    pub lifecycle: Lifecycle,
    /// Nothing moves that has an owner among the workers, whatever the answer says of it.
    pub orphans_only: bool,
    /// Who may get partitions; not empty.
    pub workers: Vec<Candidate>,
    /// What is to be assigned.
    pub partitions: Vec<Partition>,
    /// For each partition the index of the worker that has it now, if that worker is among `workers`.
    pub previous: Vec<Option<usize>>,
}

impl Question {
    /// What is wrong with an answer, if anything is.
    #[must_use]
    pub fn judge(&self, answer: &[usize]) -> Option<StrategyFailure> {
        let (given, wanted) = (answer.len(), self.partitions.len());
        if given != wanted {
            return Some(StrategyFailure::Length { given, wanted });
        }
        let workers = self.workers.len();
        let (at, index) = answer.iter().enumerate().find(|(_, index)| **index >= workers)?;
        let partition = self.partitions.get(at).map(|partition| partition.id().to_string()).unwrap_or_default();
        Some(StrategyFailure::Range { partition, index: *index, workers })
    }
}

/// Why a strategy outside the core has not decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategyFailure {
    /// It could not be asked, or failed.
    #[error("{0}")]
    Failed(String),
    /// It has not answered in time, or the fleet changed faster than it answers.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// Its answer has another length than the question.
    #[error("it answered for {given} partitions and was asked for {wanted}")]
    Length {
        /// Indices in the answer.
        given: usize,
        /// Partitions in the question.
        wanted: usize,
    },
    /// Its answer names a worker that does not exist.
    #[error("it gave partition {partition} to worker {index}, and the workers are 0 to {}", .workers.saturating_sub(1))]
    Range {
        /// The first such partition.
        partition: String,
        /// The index.
        index: usize,
        /// Workers in the question.
        workers: usize,
    },
}

/// Decides which worker gets which partition.
pub trait Strategy: Send + Sync {
    /// One worker index per partition, in the order of the partitions.
    fn assign(&self, request: Request<'_>) -> Vec<usize>;
}
