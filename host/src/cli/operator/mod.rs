//! The commands that speak to a whole fleet through NATS, and not to one host: look at workers and partitions, say who gets what,
//! move or pause a partition, deal with dead letters, give the fleet another version of its handler.
//!
//! They are apart from the worker because an operator runs them from anywhere, with nothing but the configuration. What they
//! change, they change by compare-and-set, as workers do; nothing that they do relies on a worker hearing of it at once.
//!
//! * `fleet`: connect, find the group's buckets, read its plan. `records`: what the ownership bucket says.
//! * `status`, `partitions`, `plan`, `placement` (drain, pin, re-balance, refresh), `seek`, `pause`, `dlq`, `plugin`: the commands.
//! * `confirm`, `moment`, `table`, `print`: how they ask, read times, and show.

mod confirm;
pub(super) mod dlq;
mod fleet;
mod moment;
pub(super) mod partitions;
pub(super) mod pause;
pub(super) mod placement;
pub(super) mod plan;
pub(super) mod plugin;
pub(super) mod print;
mod records;
pub(super) mod seek;
pub(super) mod status;
mod table;
