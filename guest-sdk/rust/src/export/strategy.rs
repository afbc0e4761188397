//! A component that is a [`Strategy`].

use std::marker::PhantomData;

use super::{log_panics, with_causes};
use crate::Strategy;
use crate::bindings::strategy::exports::parti::plugin::strategy::{Guest, Request};

/// The component whose strategy is `S`.
#[derive(Debug)]
pub struct StrategyComponent<S: Strategy>(PhantomData<S>);

impl<S: Strategy> Guest for StrategyComponent<S> {
    fn assign(request: Request) -> Result<Vec<u32>, String> {
        log_panics();
        S::assign(&request.into()).map_err(|error| with_causes(&error))
    }
}
