//! How much an instance may allocate.

use super::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use wasmtime::ResourceLimiter;

/// The allocation that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Exceeded {
    /// So many bytes of memory.
    Memory(u64),
    /// So many table elements.
    Tables(u64),
}

/// What one instance has allocated, summed over all its memories and tables.
///
/// A refused growth looks to the guest like a machine without memory: `memory.grow` answers -1. Guests that can do with
/// less go on; most abort, and then the call's error is the limit and not the trap.
pub(in super::super) struct Quota {
    shared: Arc<Shared>,
    memory: u64,
    elements: u64,
    exceeded: Option<Exceeded>,
}

impl Quota {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.counters.instances.fetch_add(1, Relaxed);
        Self { shared, memory: 0, elements: 0, exceeded: None }
    }

    pub(super) fn begin(&mut self) {
        self.exceeded = None;
    }

    /// The first growth refused in the call in progress.
    pub(in super::super) fn exceeded(&self) -> Option<Exceeded> {
        self.exceeded
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.shared.counters.instances.fetch_sub(1, Relaxed);
        self.shared.counters.memory.fetch_sub(self.memory, Relaxed);
    }
}

/// The total after growing one part from `current` to `desired`, if it is at most `limit`, or else the total it would be.
///
/// What the part's own maximum forbids is refused here, before it counts: wasmtime tells of growth that fails later, but
/// not in a way that can be paired with this question, and a guest must not be able to win back what it never had.
/// Growth that fails for want of the machine's memory stays counted; that errs on the safe side.
fn grown(total: u64, current: usize, desired: usize, maximum: Option<usize>, limit: u64) -> Result<Option<u64>, u64> {
    if maximum.is_some_and(|maximum| desired > maximum) {
        return Ok(None);
    }
    // Both are sizes of one allocation, and `usize` is at most 64 bits wide.
    let growth = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
    let wanted = total.saturating_add(growth);
    if wanted > limit { Err(wanted) } else { Ok(Some(wanted)) }
}

impl ResourceLimiter for Quota {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        match grown(self.memory, current, desired, maximum, self.shared.limits.memory) {
            Ok(Some(total)) => {
                self.shared.counters.memory.fetch_add(total - self.memory, Relaxed);
                self.memory = total;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(wanted) => {
                self.exceeded.get_or_insert(Exceeded::Memory(wanted));
                Ok(false)
            }
        }
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        match grown(self.elements, current, desired, maximum, self.shared.limits.table_elements) {
            Ok(Some(total)) => {
                self.elements = total;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(wanted) => {
                self.exceeded.get_or_insert(Exceeded::Tables(wanted));
                Ok(false)
            }
        }
    }

    fn instances(&self) -> usize {
        usize::try_from(self.shared.limits.core_instances).unwrap_or(usize::MAX)
    }

    fn tables(&self) -> usize {
        self.instances()
    }

    fn memories(&self) -> usize {
        self.instances()
    }
}
