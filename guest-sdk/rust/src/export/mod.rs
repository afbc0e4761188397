//! Makes a component of an author's type: the adapters between the traits of this crate and the generated ones.
//!
//! Public only because [`export!`](crate::export!) expands to paths into it.

use std::fmt::Write as _;

mod handler;
mod hooks;
mod source;
mod strategy;

pub use handler::HandlerComponent;
pub use hooks::HooksComponent;
pub use source::SourceComponent;
pub use strategy::StrategyComponent;

use crate::{Error, log};

/// Exports a type as what the component is. Once per crate.
///
/// `export!(Billing)` exports a [`Handler`](crate::Handler), `export!(Steady as strategy)` a
/// [`Strategy`](crate::Strategy), `export!(Numbered as source)` a [`Source`](crate::Source), `export!(Diary as hooks)`
/// [`Hooks`](crate::Hooks).
///
/// In a native build nothing is exported: it only checks that the type is what it is said to be.
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        $crate::__export!($handler, HandlerComponent, handler, export_handler);
    };
    ($strategy:ty as strategy) => {
        $crate::__export!($strategy, StrategyComponent, strategy, export_strategy);
    };
    ($source:ty as source) => {
        $crate::__export!($source, SourceComponent, source, export_source);
    };
    ($hooks:ty as hooks) => {
        $crate::__export!($hooks, HooksComponent, hooks, export_hooks);
    };
}

/// Exports a type through an adapter and a generated macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($type:ty, $adapter:ident, $bindings:ident, $export:ident) => {
        const _: () = {
            #[cfg(target_family = "wasm")]
            type Component = $crate::export::$adapter<$type>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::$bindings::$export!(Component with_types_in $crate::bindings::$bindings);
            #[cfg(not(target_family = "wasm"))]
            let _ = ::core::marker::PhantomData::<$crate::export::$adapter<$type>>;
        };
    };
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
