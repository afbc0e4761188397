//! The library behind the `parti` binary.
//!
//! Data flows one way: NATS → `intake` → `plugin` → commit (`nats`). Control flows one way: events → the core
//! (`parti-coordination`) → actions → `worker` → adapters. A module knows the modules to its right in these two sentences
//! and no others.

pub mod cli;
pub mod config;
pub mod error;
pub mod hooks;
pub mod http;
pub mod intake;
pub mod nats;
pub mod plugin;
pub mod pushes;
pub mod source;
pub mod telemetry;
mod text;
mod token_bucket;
pub mod trust;
pub mod worker;
