//! A store with one instance in it, and the rules of every call into it: time, memory, poison.

use super::engine::EPOCH;
use super::error::CallError;
use super::host::{Exceeded, Failure, HostState, Publish, Scope, Shared};
use super::version::PluginVersion;
use crate::text::shortened;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::error::Elapsed;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Component handles (resources) that one instance may hold. A handler holds one, language runtimes a few dozen.
const MAX_HANDLES: usize = 10_000;

/// Bytes kept of a text by which a guest says why: it travels in headers, records and logs.
const MAX_REASON_BYTES: usize = 4 << 10;

/// The trap of a guest that computes beyond its deadline.
#[derive(Debug, thiserror::Error)]
#[error("out of time")]
struct OutOfTime;

/// A store that holds one instance, and the rules of every call into it.
pub(super) struct Cell {
    pub(super) store: Store<HostState>,
    shared: Arc<Shared>,
    /// Set before a call and cleared after a good answer, so that a call abandoned midway leaves it set.
    poisoned: bool,
}

impl Cell {
    pub(super) fn new(version: &PluginVersion, scope: Scope) -> Self {
        let shared = version.shared().clone();
        let mut store = Store::new(version.pre().engine(), HostState::new(shared.clone(), scope));
        store.limiter(|state| &mut state.quota);
        store.set_hostcall_fuel(usize::try_from(shared.limits.host_call_bytes).unwrap_or(usize::MAX));
        store.set_max_component_handles(MAX_HANDLES);
        store.epoch_deadline_callback(|context| {
            if Instant::now() >= context.data().deadline {
                return Err(OutOfTime.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        Self { store, shared, poisoned: false }
    }

    /// Begin a call. Returns when to abandon it: a little after the guest's own deadline, so that a guest that computes is
    /// stopped by its epoch, which tells where it was, and only one that waits in a host call is abandoned.
    pub(super) fn begin(&mut self) -> Result<Instant, CallError> {
        if self.poisoned {
            return Err(self.gone());
        }
        self.poisoned = true;
        let deadline = Instant::now() + self.shared.limits.call_timeout;
        self.store.data_mut().begin(deadline);
        self.store.set_epoch_deadline(1);
        Ok(deadline + 3 * EPOCH)
    }

    /// End a call: the guest's answer and what it published, or why there is none.
    pub(super) fn end<T>(
        &mut self,
        answer: Result<wasmtime::Result<T>, Elapsed>,
    ) -> Result<(T, Vec<Publish>), CallError> {
        let (publishes, said) = self.store.data_mut().end();
        match answer {
            Ok(Ok(answer)) => {
                self.poisoned = false;
                Ok((answer, publishes))
            }
            Ok(Err(error)) => Err(self.failed(&error, &said)),
            Err(Elapsed { .. }) => Err(self.timed_out(String::new())),
        }
    }

    fn failed(&self, error: &wasmtime::Error, said: &str) -> CallError {
        let backtrace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
        if error.downcast_ref::<OutOfTime>().is_some() {
            return self.timed_out(backtrace);
        }
        let plugin = self.shared.plugin.clone();
        let (section, limits) = (self.shared.section.clone(), &self.shared.limits);
        match self.store.data().quota.exceeded() {
            Some(exceeded) => {
                self.shared.count(Failure::OverLimit);
                match exceeded {
                    Exceeded::Memory(wanted) => CallError::Memory { plugin, section, limit: limits.memory, wanted },
                    Exceeded::Tables(wanted) => {
                        CallError::Tables { plugin, section, limit: limits.table_elements, wanted }
                    }
                }
            }
            None if handed_too_much(error) => {
                self.shared.count(Failure::OverLimit);
                CallError::HostCall { plugin, section, limit: limits.host_call_bytes }
            }
            None => {
                self.shared.count(Failure::Trap);
                CallError::Trap { plugin, message: describe(error, said), backtrace }
            }
        }
    }

    fn timed_out(&self, backtrace: String) -> CallError {
        self.shared.count(Failure::Timeout);
        let (plugin, section) = (self.shared.plugin.clone(), self.shared.section.clone());
        CallError::Timeout { plugin, section, limit: self.shared.limits.call_timeout, backtrace }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    pub(super) fn gone(&self) -> CallError {
        CallError::Poisoned { plugin: self.shared.plugin.clone() }
    }

    pub(super) fn wrong(&mut self, detail: String) -> CallError {
        self.poisoned = true;
        self.shared.count(Failure::WrongAnswer);
        CallError::WrongAnswer { plugin: self.shared.plugin.clone(), detail }
    }

    pub(super) fn refused(&self, call: &'static str, reason: String) -> CallError {
        CallError::Refused { plugin: self.shared.plugin.clone(), call, reason: kept_reason(reason) }
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell")
            .field("plugin", &self.shared.plugin)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

/// Whether the guest handed the host more than it may. wasmtime has no public type for this error; a test notices if its text changes.
fn handed_too_much(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().starts_with("too much data is being copied between the host and the guest")
}

/// What a trap was, with what the guest said last.
fn describe(error: &wasmtime::Error, said: &str) -> String {
    let trap = if let Some(exit) = error.downcast_ref::<I32Exit>() {
        format!("it called exit({})", exit.0)
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        trap.to_string()
    } else {
        error.root_cause().to_string()
    };
    if said.is_empty() { trap } else { format!("{trap}; it wrote: {said}") }
}

/// The text, no longer than what is kept of a reason.
pub(super) fn kept_reason(reason: String) -> String {
    shortened(reason, MAX_REASON_BYTES)
}
