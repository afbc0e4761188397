//! The one door to the host: its imports in a component, the stand-in of [`testing`](crate::testing) in a native build.
//!
//! Everything else in this crate calls these functions and so runs in both.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::parti::plugin::{
    config::{all as config_all, get as config_get},
    context::{cancelled, epoch, group, remaining_ms, stream, trace_parent, worker},
    log::write as log,
    metrics::{declare as metric_declare, note as metric_note},
    publish::send as publish,
};

#[cfg(all(target_family = "wasm", feature = "wasi"))]
pub(crate) use crate::http::wasi::send as http;

/// Time since some moment before this instance began.
#[cfg(all(target_family = "wasm", feature = "wasi"))]
pub(crate) fn monotonic() -> std::time::Duration {
    std::time::Duration::from_nanos(wasip2::clocks::monotonic_clock::now())
}

#[cfg(all(target_family = "wasm", feature = "wasi"))]
pub(crate) fn env(name: &str) -> Option<String> {
    let granted = wasip2::cli::environment::get_environment();
    granted.into_iter().find_map(|(granted, value)| (granted == name).then_some(value))
}

#[cfg(all(not(target_family = "wasm"), feature = "wasi"))]
pub(crate) use crate::testing::stand_in::{env, http, monotonic};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::stand_in::{
    cancelled, config_all, config_get, epoch, group, log, metric_declare, metric_note, publish, remaining_ms, stream,
    trace_parent, worker,
};
