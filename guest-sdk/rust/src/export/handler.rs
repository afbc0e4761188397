//! A component that is a [`Handler`].

use std::cell::RefCell;
use std::marker::PhantomData;

use super::{log_panics, with_causes};
use crate::bindings::handler::exports::parti::plugin::handler::{Guest, GuestPartitionHandler, PartitionHandler};
use crate::bindings::parti::plugin::types::{CloseReason, OpenReason};
use crate::{Handler, Message, Outcome, Partition, Snapshot};

/// The component whose handler is `H`.
#[derive(Debug)]
pub struct HandlerComponent<H: Handler>(PhantomData<H>);

impl<H: Handler> Guest for HandlerComponent<H> {
    type PartitionHandler = Open<H>;
}

/// One open handler. The component model never enters an instance twice at once, so the cell is never found borrowed.
#[derive(Debug)]
pub struct Open<H>(RefCell<H>);

impl<H: Handler> GuestPartitionHandler for Open<H> {
    fn open(partition: Partition, why: OpenReason, from: Option<Snapshot>) -> Result<PartitionHandler, String> {
        log_panics();
        let handler = H::open(&partition, why.into(), from).map_err(|error| with_causes(&error))?;
        Ok(PartitionHandler::new(Self(RefCell::new(handler))))
    }

    fn handle(&self, batch: Vec<Message>) -> Outcome {
        self.0.borrow_mut().handle_batch(&batch)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, String> {
        self.0.borrow().snapshot().map_err(|error| with_causes(&error))
    }

    fn close(&self, why: CloseReason) {
        self.0.borrow_mut().close(why.into());
    }
}
