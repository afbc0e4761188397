//! A component that is a [`Source`].

use std::marker::PhantomData;

use super::{log_panics, with_causes};
use crate::Source;
use crate::bindings::source::exports::parti::plugin::source::{Guest, Listed};

/// The component whose source is `S`.
#[derive(Debug)]
pub struct SourceComponent<S: Source>(PhantomData<S>);

impl<S: Source> Guest for SourceComponent<S> {
    fn list_partitions() -> Result<Vec<Listed>, String> {
        log_panics();
        S::list_partitions().map_err(|error| with_causes(&error))
    }
}
