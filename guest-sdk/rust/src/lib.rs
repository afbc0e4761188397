//! Write Parti plugins in Rust.
//!
//! A **handler** processes the messages of one partition, in order. Implement [`Handler`], name the type in [`export!`],
//! build with `cargo build --release --target wasm32-wasip2`, and put the file into the host's plugin directory.
//!
//! ```
//! use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict, config};
//!
//! struct Relay {
//!     prefix: String,
//! }
//!
//! impl Handler for Relay {
//!     fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
//!         let prefix = config::get("prefix").unwrap_or_else(|| "out".into());
//!         Ok(Self { prefix })
//!     }
//!
//!     fn handle(&mut self, message: &Message) -> Verdict {
//!         message.forward(format!("{}.{}", self.prefix, message.subject))?;
//!         Ok(())
//!     }
//! }
//!
//! parti_guest::export!(Relay);
//! # fn main() {}
//! ```
//!
//! What to say about a message: [`Verdict`] and [`Failure`]. State that moves with its partition: [`Snapshot`] and
//! [`Handler::snapshot`]. Output: [`Message::publish`]. What the operator set: [`config`]. What the operator reads:
//! [`log`] and [`metrics`]. Where it runs: [`context`]. Unit tests without a host: `testing` (native builds only).
//!
//! The crate itself asks the host for nothing but the imports of the `message-handler` world, so it builds for
//! `wasm32-wasip2` and, with `wit-component`, for `wasm32-unknown-unknown`.

#[doc(hidden)]
pub mod bindings;
#[cfg(feature = "wasi")]
pub mod clock;
pub mod config;
pub mod context;
#[cfg(feature = "wasi")]
pub mod env;
#[doc(hidden)]
pub mod export;
mod handler;
mod hooks;
mod host;
#[cfg(feature = "wasi")]
pub mod http;
pub mod log;
mod message;
pub mod metrics;
mod snapshot;
mod source;
mod strategy;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod told;

pub use bindings::hooks::exports::parti::plugin::hooks::Failure as Failed;
pub use bindings::parti::plugin::publish::Refusal;
pub use bindings::parti::plugin::types::{Completed, Header, Message, Outcome, Partition, Snapshot};
pub use bindings::source::exports::parti::plugin::source::Listed;
pub use bindings::strategy::exports::parti::plugin::strategy::{Label, Worker};
pub use handler::{Failure, Handler, OrFail, Verdict};
pub use hooks::Hooks;
pub use message::{PublishError, Unreadable};
pub use snapshot::SnapshotError;
pub use source::Source;
pub use strategy::{Request, Strategy};
pub use told::{AlertLevel, CloseReason, OpenReason, Reason, WorkerState};

/// The JSON library behind the helpers of this crate, so that an author's plugin uses the same one.
pub use serde_json;

/// Why a handler could not begin or give its state: any error type goes in with `?`, a text with `.into()`.
pub type Error = Box<dyn std::error::Error>;

/// The examples of the guide, and of the page that leads to it, compile and run with this crate's tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/plugin-guide.md")]
#[doc = include_str!("../../../docs/plugins.md")]
struct PluginGuide;
