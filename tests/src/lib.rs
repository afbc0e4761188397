//! The harness of the end-to-end tests: a nats-server, worker processes, streams, and ways to look at them from outside.
//!
//! A crate of its own because the tests know nothing of the host but what a user knows: the binary, its configuration,
//! its exit statuses, its HTTP answers, and what it leaves in NATS. Whatever does not come true within [`DEADLINE`] is
//! a panic; a panicking test prints the logs of everything that it had started.

mod artifacts;
mod cluster;
mod command;
mod faults;
mod fleet;
mod folder;
mod handling;
mod http;
mod log;
mod outside;
mod port;
mod process;
mod producer;
mod proxy;
mod records;
mod server;
mod soak;
mod stream;
mod wait;
mod web;

pub use artifacts::{copy_plugin, plugin_folder, polyglot_folder, replace, variant};
pub use cluster::NatsCluster;
pub use command::{Ended, parti};
pub use faults::{Deck, Faults, Servers};
pub use fleet::{Fleet, Outage, Status, Worker, config, partition, short_leases, subject};
pub use handling::{Account, Effect, Handling};
pub use http::{Answer, get};
pub use log::{LogLine, Moment};
pub use outside::{Expected, Stall, Verdict, assert_relayed, create_streams, dead_letters};
pub use port::free_port;
pub use producer::Producer;
pub use proxy::Proxy;
pub use records::{Notes, Records, Standing};
pub use server::NatsServer;
pub use soak::{is_soak, soak_minutes, soak_seed};
pub use stream::{
    Stored, change_stream, consumers, create_queue, create_replicated_queue, create_replicated_stream, create_stream,
    messages, read_stream,
};
pub use wait::{DEADLINE, eventually, eventually_is, within};
pub use web::{WebRequest, WebServer};
