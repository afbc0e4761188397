//! The one door to the host: its imports in a component, the stand-in of [`testing`](crate::testing) in a native build.
//!
//! Everything else in this crate calls these four functions and so runs in both.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::parti::plugin::{
    config::{all as config_all, get as config_get},
    log::write as log,
    publish::send as publish,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::stand_in::{config_all, config_get, log, publish};
