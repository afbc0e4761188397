//! What the core needs to know of a message handler: why it opens and closes, what it says of a batch, what it keeps.

use serde::{Deserialize, Serialize};

/// Why a handler opens a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenReason {
    /// The partition came to this worker by plan.
    Assigned,
    /// After a trap, a timeout or a crash: state is that of the last commit.
    Recovered,
    /// Another version of the plugin served the partition until now.
    Swapped,
}

/// Why a handler closes a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The partition moves to another worker.
    Revoked,
    /// Another version of the plugin takes over.
    Swapped,
    /// Another owner exists already: nothing may be written.
    Lost,
    /// The worker stops.
    Shutdown,
}

/// What became of one message that the handler is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// Its effects are complete.
    Ack,
    /// It can never be handled, for this reason.
    Reject(String),
}

/// What became of a batch: a completed prefix, then at most one retry. What follows is untouched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The completed prefix.
    pub done: Vec<Completed>,
    /// Deliver the message after the prefix again: after the given delay, or `None` after the host's own backoff.
    pub retry: Option<Option<std::time::Duration>>,
}

/// A handler's state at one position of its partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Names the encoding, so that another version can tell whether it can read it.
    pub format: String,
    /// The state itself.
    pub data: Vec<u8>,
}
