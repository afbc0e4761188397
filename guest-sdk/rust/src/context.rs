//! Where and for whom the call in progress runs.
//!
//! ```
//! use parti_guest::{Message, Verdict, context};
//! use std::time::Duration;
//!
//! fn handle(message: &Message) -> Verdict {
//!     if context::cancelled() || context::remaining() < Duration::from_millis(100) {
//!         return Err(parti_guest::Failure::Retry);
//!     }
//!     message.publish("seen", context::worker())?;
//!     Ok(())
//! }
//! ```

use std::time::Duration;

use crate::{Message, host};

/// The ID of this worker, such as `worker-3`; empty until it has one. It can change while the process runs.
pub fn worker() -> String {
    host::worker()
}

/// The group of workers that share the partitions.
pub fn group() -> String {
    host::group()
}

/// The stream whose messages the handlers of this worker get, if it has any.
pub fn stream() -> Option<String> {
    host::stream()
}

/// The number of this ownership of the handler's partition; none outside handlers, and in the rehearsal of a version, which is opened
/// on a copy of a state while the owner of the partition works on.
///
/// It grows with each owner. Send it along to a system outside, and let that refuse what comes with a lower number than it has seen:
/// then an owner of the past, who does not know yet that it is one, can do no harm there.
pub fn epoch() -> Option<u64> {
    host::epoch()
}

/// How long the call in progress may still take.
pub fn remaining() -> Duration {
    Duration::from_millis(host::remaining_ms())
}

/// Whether nobody waits for the answer of the call in progress any more: the partition is lost, moves away, or the worker stops. What
/// is not done is not lost; ending early is a courtesy. Never outside handlers.
pub fn cancelled() -> bool {
    host::cancelled()
}

impl Message {
    /// The W3C trace context of this message, for requests to others: its header `traceparent`, if it has a valid one.
    pub fn trace_parent(&self) -> Option<String> {
        host::trace_parent(self.sequence)
    }
}
