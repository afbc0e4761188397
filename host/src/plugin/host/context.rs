//! `parti:plugin/context`: where and for whom a call runs.

use super::super::bindings::parti::plugin::context::Host;
use super::{Accounts, HostState};
use crate::telemetry::{DeclaredMetrics, WorkerLabel};
use crate::trust::Trust;
use parti_coordination::{Epoch, PartitionId, Sequence};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// The worker that plugins run on.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// Its ID, once it has one.
    pub worker: WorkerLabel,
    /// Its group.
    pub group: String,
    /// The stream that its handlers get messages from.
    pub stream: Option<String>,
    /// Where the metrics go that plugins declare.
    pub metrics: DeclaredMetrics,
    /// What its plugins have done.
    pub accounts: Accounts,
    /// Which HTTP servers are who they say.
    pub trust: Trust,
}

/// An ownership of a partition, for which a handler is opened.
#[derive(Debug, Clone, Default)]
pub struct Ownership {
    /// Its number. None in a rehearsal: what is opened there owns nothing, while the owner works on.
    pub epoch: Option<Epoch>,
    /// Set when nobody waits for the answer of the call in progress any more.
    pub cancelled: Arc<AtomicBool>,
}

/// What an instance is there for.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Scope {
    pub(super) partition: Option<PartitionId>,
    ownership: Option<Ownership>,
}

impl Scope {
    /// Whether nobody waits for what is done here any more.
    pub(in super::super) fn is_cancelled(&self) -> bool {
        self.ownership.as_ref().is_some_and(|ownership| ownership.cancelled.load(Relaxed))
    }

    /// The work of one partition.
    pub(in super::super) fn of(partition: &PartitionId, ownership: &Ownership) -> Self {
        Self { partition: Some(partition.clone()), ownership: Some(ownership.clone()) }
    }
}

/// The messages of a batch that have a trace context, with it.
pub(super) type Traces = Vec<(Sequence, String)>;

impl Host for HostState {
    fn worker(&mut self) -> String {
        self.shared.home.worker.get().to_string()
    }

    fn group(&mut self) -> String {
        self.shared.home.group.clone()
    }

    fn stream(&mut self) -> Option<String> {
        self.shared.home.stream.clone()
    }

    fn epoch(&mut self) -> Option<u64> {
        self.scope.ownership.as_ref().and_then(|ownership| ownership.epoch).map(|epoch| epoch.0)
    }

    fn remaining_ms(&mut self) -> u64 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }

    fn cancelled(&mut self) -> bool {
        self.scope.ownership.as_ref().is_some_and(|ownership| ownership.cancelled.load(Relaxed))
    }

    fn trace_parent(&mut self, sequence: u64) -> Option<String> {
        let mut traces = self.traces.iter();
        traces.find(|(of, _)| of.0 == sequence).map(|(_, trace)| trace.clone())
    }
}

/// The value of a header `traceparent`, if it is valid: version, trace, parent and flags, as the W3C Trace Context has them.
pub(in super::super) fn trace_parent(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        let part = parts.next()?;
        let digits = part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then_some(part)
    };
    let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    // Later versions may say more behind these; the first does not.
    let whole = version != "00" || parts.next().is_none();
    let set = |part: &str| part.bytes().any(|byte| byte != b'0');
    (whole && version != "ff" && set(trace) && set(parent)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::trace_parent;

    #[test]
    fn only_a_valid_trace_context_is_one() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_parent(valid.as_bytes()), Some(valid));
        for (from, to) in
            [("00-0", "ff-0"), ("b7ad6b7169203331", "0000000000000000"), ("af", "AF"), ("-01", "-01-2"), ("-01", "")]
        {
            assert_eq!(trace_parent(valid.replacen(from, to, 1).as_bytes()), None, "{from} as {to}");
        }
        assert_eq!(trace_parent(b"\xff"), None);
    }
}
