//! The numbers and names of the protocol, each a type of its own so that a term is never compared with an epoch.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next number.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Number of a leadership; grows by one with each new leader. 0 = none yet.
    Term
);
counter!(
    /// Number of a plan; grows by one with each published plan.
    Version
);
counter!(
    /// Number of an ownership of one partition; grows by one with each new owner. The first is 1.
    Epoch
);
counter!(
    /// Number of a partition's history; raised by `seek` and when the stream was re-created. The first is 1.
    Generation
);
counter!(
    /// A message's place in the stream. The first message has 1.
    Sequence
);
counter!(
    /// Stream sequence of the last message of a partition whose effects are complete. 0 = none.
    Position
);

impl Position {
    /// Whether the message at `sequence` has taken effect.
    #[must_use]
    pub fn covers(self, sequence: Sequence) -> bool {
        sequence.0 <= self.0
    }
}

impl From<Sequence> for Position {
    fn from(sequence: Sequence) -> Self {
        Self(sequence.0)
    }
}

/// A stable worker ID, `<prefix>-<number>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// The ID with this prefix and number.
    #[must_use]
    pub fn new(prefix: &str, number: u32) -> Self {
        Self(format!("{prefix}-{number}"))
    }

    /// The ID as written, for example in a KV key.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a worker may be called so: letters, digits, `-` and `_`. Others may put any key into a bucket.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    }

    /// The number, if the ID has this prefix.
    #[must_use]
    pub fn number(&self, prefix: &str) -> Option<u32> {
        self.0.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of a worker. `claim` counts the claims of one worker ID and only grows, so of two incarnations of one ID
/// the one with the lower claim is the older; UUIDs alone have no *older*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// How many times the worker ID had been claimed when this run claimed it, this claim included.
    pub claim: u64,
    /// Drawn by the process at its start.
    pub uuid: Uuid,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.claim, self.uuid)
    }
}
