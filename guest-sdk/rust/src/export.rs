//! Makes a component of a [`Handler`]: the adapter between the author's trait and the generated one.
//!
//! Public only because [`export!`](crate::export!) expands to paths into it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::marker::PhantomData;

use crate::bindings::exports::parti::plugin::handler::{Guest, GuestPartitionHandler, PartitionHandler};
use crate::{CloseReason, Error, Handler, Message, OpenReason, Outcome, Partition, Snapshot, log};

/// Exports a [`Handler`] as the component's message handler. Once per crate.
///
/// In a native build nothing is exported: it only checks that the type is a handler.
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        const _: () = {
            #[cfg(target_family = "wasm")]
            type Component = $crate::export::Component<$handler>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::export_bindings!(Component with_types_in $crate::bindings);
            #[cfg(not(target_family = "wasm"))]
            let _ = ::core::marker::PhantomData::<$crate::export::Component<$handler>>;
        };
    };
}

/// The component whose handler is `H`.
#[derive(Debug)]
pub struct Component<H: Handler>(PhantomData<H>);

impl<H: Handler> Guest for Component<H> {
    type PartitionHandler = Open<H>;
}

/// One open handler. The component model never enters an instance twice at once, so the cell is never found borrowed.
#[derive(Debug)]
pub struct Open<H>(RefCell<H>);

impl<H: Handler> GuestPartitionHandler for Open<H> {
    fn open(partition: Partition, why: OpenReason, from: Option<Snapshot>) -> Result<PartitionHandler, String> {
        log_panics();
        let handler = H::open(&partition, why, from).map_err(|error| with_causes(&error))?;
        Ok(PartitionHandler::new(Self(RefCell::new(handler))))
    }

    fn handle(&self, batch: Vec<Message>) -> Outcome {
        self.0.borrow_mut().handle_batch(&batch)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, String> {
        self.0.borrow().snapshot().map_err(|error| with_causes(&error))
    }

    fn close(&self, why: CloseReason) {
        self.0.borrow_mut().close(why);
    }
}

/// A panic ends in a trap, which says where but not why: the host's log gets the message, in one line, on every target,
/// also where there is no standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("no reason given");
        match panic.location() {
            Some(place) => log::error!("panicked at {place}: {reason}"),
            None => log::error!("panicked: {reason}"),
        }
    }));
}

/// An error and what caused it, in one line. A cause that the error's own text already contains is not repeated.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            let _ = write!(text, ": {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn the_host_is_told_an_error_with_its_causes_once() {
        let cause = "x".parse::<u8>().unwrap_err();
        assert_eq!(with_causes(&Outer(cause.clone()).into()), format!("cannot open: {cause}"));
        assert_eq!(with_causes(&format!("bad: {cause}").into()), format!("bad: {cause}"));
    }
}
