//! The one door to the host: its imports in a component, the stand-in of [`testing`](crate::testing) in a native build.
//!
//! Everything else in this crate calls these functions and so runs in both.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::parti::plugin::{
    config::{all as config_all, get as config_get},
    log::write as log,
    publish::send as publish,
};

#[cfg(all(target_family = "wasm", feature = "wasi"))]
pub(crate) use crate::http::wasi::send as http;

/// Time since some moment before this instance began.
#[cfg(all(target_family = "wasm", feature = "wasi"))]
pub(crate) fn monotonic() -> std::time::Duration {
    std::time::Duration::from_nanos(wasip2::clocks::monotonic_clock::now())
}

#[cfg(all(not(target_family = "wasm"), feature = "wasi"))]
pub(crate) use crate::testing::stand_in::{http, monotonic};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::stand_in::{config_all, config_get, log, publish};
