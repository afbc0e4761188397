//! A component that is [`Hooks`].

use std::cell::RefCell;
use std::marker::PhantomData;

use super::{log_panics, with_causes};
use crate::bindings::hooks::exports::parti::plugin::hooks::{AlertLevel, Guest, WorkerState};
use crate::{Error, Failed, Hooks, Partition};
use std::time::Duration;

thread_local! {
    /// The hooks of this instance, from the first call on. A component has one thread, and exports one type.
    static HOOKS: RefCell<Option<Box<dyn Hooks>>> = const { RefCell::new(None) };
}

/// The component whose hooks are `H`.
#[derive(Debug)]
pub struct HooksComponent<H: Hooks>(PhantomData<H>);

impl<H: Hooks> HooksComponent<H> {
    fn call(call: impl FnOnce(&mut dyn Hooks) -> Result<(), Error>) -> Result<(), String> {
        HOOKS.with_borrow_mut(|hooks| {
            let hooks = match hooks {
                Some(hooks) => hooks,
                None => {
                    log_panics();
                    hooks.insert(Box::new(H::open().map_err(|error| with_causes(&error))?))
                }
            };
            call(hooks.as_mut()).map_err(|error| with_causes(&error))
        })
    }
}

impl<H: Hooks> Guest for HooksComponent<H> {
    fn on_assignment_changed(added: Vec<Partition>, removed: Vec<Partition>) -> Result<(), String> {
        Self::call(|hooks| hooks.on_assignment_changed(&added, &removed))
    }

    fn on_state_changed(from: WorkerState, to: WorkerState) -> Result<(), String> {
        Self::call(|hooks| hooks.on_state_changed(from.into(), to.into()))
    }

    fn on_error(error: Failed) -> Result<(), String> {
        Self::call(|hooks| hooks.on_error(&error))
    }

    fn on_degraded_alert(level: AlertLevel, duration_ms: u64) -> Result<(), String> {
        Self::call(|hooks| hooks.on_degraded_alert(level.into(), Duration::from_millis(duration_ms)))
    }
}
