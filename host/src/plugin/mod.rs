//! WebAssembly plugins: engine, limits, what guests may call, the kinds of plugins, and the directory they come from.
//!
//! This is the only folder that names wasmtime; its types stop here. `intake` opens a [`HandlerInstance`] per partition
//! and gives it batches; `hooks` tells a [`HooksInstance`] what happens; `worker` keeps the [`PluginEngine`] and the
//! [`Catalog`]. Guests run in the futures returned here,
//! on the runtime of whoever polls them (a tokio runtime with timers): poll them on the guests' runtime, never on the one
//! that keeps leases.
//!
//! Everything a guest can do wrong ends in a [`CallError`] of that one instance; everything a file can have wrong ends in
//! a [`LoadError`] or [`CatalogError`] that says what, why and what to do.

mod bindings;
mod catalog;
mod cell;
mod code_cache;
mod current;
mod digest;
mod engine;
mod error;
mod grants;
mod handler;
mod hooks;
mod host;
mod inspect;
mod instances;
mod kinds;
mod limits;
mod room;
mod sidecar;
mod source;
mod store;
mod strategy;
mod trials;
mod version;

#[cfg(test)]
mod tests;

pub use catalog::{Catalog, CatalogError, Component, ListedComponent, Listing, Load, Prepared, Wanted};
pub use current::Current;
pub use digest::Digest;
pub use engine::{EngineError, PluginEngine};
pub use error::{CallError, LoadError, MissingImport};
pub use grants::Grants;
pub use handler::{Handled, HandlerInstance, HandlerPlugin, Message};
pub use hooks::{Happening, HooksInstance, HooksPlugin};
pub use host::{Accounts, Home, Ownership, PluginStats, Publish};
pub use inspect::{Description, Inspection, PluginKind, describe, inspect};
pub use instances::HandlerInstances;
pub use kinds::{Loadable, try_load};
pub use limits::{Limits, LimitsOverride, Size, Time};
pub use room::Room;
pub use source::{ListedPartition, SourcePlugin};
pub use store::{Attempt, AttemptResult, Kept, Mark, VersionStore};
pub use strategy::StrategyPlugin;
pub use trials::{OpenTrials, TrialFile};
pub use version::{Plugin, PluginSettings, PluginVersion};
