//! What an author of lifecycle hooks implements.

use std::time::Duration;

use crate::{AlertLevel, Error, Failed, Partition, WorkerState};

/// Is told what happens to one worker. The host opens one for each worker process.
///
/// Calls come one at a time, in the order in which things happened, some time after they did. A call may take a second
/// (`hooks.callTimeout`); what waits meanwhile is bounded, and what finds no room is dropped. So a hook tells others and decides
/// nothing: the worker does not wait for it and does not ask it. An error is logged by the host; after a panic or a call that took
/// too long, the host opens the hooks anew.
///
/// ```
/// use parti_guest::{Error, Hooks, Partition, WorkerState, log};
///
/// struct Diary {
///     partitions: usize,
/// }
///
/// impl Hooks for Diary {
///     fn open() -> Result<Self, Error> {
///         Ok(Self { partitions: 0 })
///     }
///
///     fn on_assignment_changed(&mut self, added: &[Partition], removed: &[Partition]) -> Result<(), Error> {
///         self.partitions = self.partitions + added.len() - removed.len();
///         log::info!("{} partitions", self.partitions);
///         Ok(())
///     }
///
///     fn on_state_changed(&mut self, from: WorkerState, to: WorkerState) -> Result<(), Error> {
///         log::info!("{from} is over, now {to}");
///         Ok(())
///     }
/// }
///
/// parti_guest::export!(Diary as hooks);
/// # fn main() {}
/// ```
pub trait Hooks: 'static {
    /// Begin, before the first call. An error is the answer to that call, and the next one tries again.
    fn open() -> Result<Self, Error>
    where
        Self: Sized;

    /// Another assignment is in force. The first one is told too, also an empty one.
    fn on_assignment_changed(&mut self, _added: &[Partition], _removed: &[Partition]) -> Result<(), Error> {
        Ok(())
    }

    /// The worker does something else.
    fn on_state_changed(&mut self, _from: WorkerState, _to: WorkerState) -> Result<(), Error> {
        Ok(())
    }

    /// Something went wrong that the worker goes on after.
    fn on_error(&mut self, _error: &Failed) -> Result<(), Error> {
        Ok(())
    }

    /// NATS has been away for this long, which is enough to say so at this level.
    fn on_degraded_alert(&mut self, _level: AlertLevel, _lasted: Duration) -> Result<(), Error> {
        Ok(())
    }
}
