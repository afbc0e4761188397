//! Child processes of this command: a nats-server, workers, and what they say over HTTP. Used by `parti dev` and `parti bench`.

mod leash;
mod server;
mod web;

pub(in crate::cli) use leash::{Leash, kill, stop};
pub(in crate::cli) use server::Server;
pub(in crate::cli) use web::{Answer, ask, metrics};

use crate::error::{ErrorCode, OperatorError};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Something on this machine that the command needs has failed.
pub(in crate::cli) fn failed(
    what: impl Into<String>,
    why: impl Into<String>,
    todo: impl Into<String>,
) -> OperatorError {
    ErrorCode::DevFailed.error(what, why, todo)
}

/// The last lines of a log, for a message.
pub(in crate::cli) fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0 => "it has logged nothing".to_owned(),
        all => lines.iter().skip(all.saturating_sub(count)).copied().collect::<Vec<_>>().join("\n       "),
    }
}

/// Addresses on the loopback interface on which nobody listens at the moment.
///
/// # Errors
/// The system has none.
pub(in crate::cli) fn free_addresses(count: u32) -> io::Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}
