//! The nats-server of a development fleet: a child process on a free port of the loopback interface.

use super::failed;
use super::leash::{self, Leash};
use super::web::get;
use crate::error::OperatorError;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

/// How long the server may take until it listens.
const START: Duration = Duration::from_secs(20);

/// How long it may take to close its files.
const STOP: Duration = Duration::from_secs(5);

/// Where its log is in the directory of the run.
const LOG: &str = "nats-server.log";

/// A running server. Dropping it kills it.
pub(in crate::cli) struct Server {
    child: Child,
    url: String,
    monitor: SocketAddr,
}

/// The part of a nats-server's ports file that matters here.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
    monitoring: Vec<String>,
}

/// What the server has carried since its start.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(in crate::cli) struct Traffic {
    /// Messages that clients sent.
    pub(in crate::cli) in_msgs: u64,
    /// Messages that clients got.
    pub(in crate::cli) out_msgs: u64,
}

impl Server {
    /// Its process, while it runs.
    pub(in crate::cli) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Starts `$NATS_SERVER`, or the nats-server on the PATH, with JetStream and its data in `directory`.
    ///
    /// # Errors
    /// There is no server, or it does not start.
    pub(in crate::cli) async fn start(directory: &Path, leash: &Leash) -> Result<Self, OperatorError> {
        let named = std::env::var_os("NATS_SERVER").filter(|value| !value.is_empty());
        let binary = named.clone().unwrap_or_else(|| "nats-server".into());
        let shown = binary.to_string_lossy().into_owned();
        let log = directory.join(LOG);
        let ports = directory.join("ports");
        let cannot_write = |error: io::Error| {
            failed(
                format!("{} cannot be written to", directory.display()),
                error.to_string(),
                "free some space there, or name another directory with TMPDIR",
            )
        };
        fs::create_dir(&ports).map_err(cannot_write)?;
        let output = File::create(&log).map_err(cannot_write)?;

        let spawned = leash
            .command(&binary)
            .args(["--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1", "--jetstream", "--store_dir"])
            .arg(directory.join("jetstream"))
            .arg("--ports_file_dir")
            .arg(&ports)
            .stderr(output)
            .spawn();
        let mut child = spawned.map_err(|error| match (error.kind(), &named) {
            (ErrorKind::NotFound, None) => failed(
                "there is no nats-server to run",
                "NATS_SERVER is not set, and no nats-server is on the PATH",
                "set NATS_SERVER to a nats-server 2.10 or later; in a clone of parti, `scripts/nats-server` gets one and prints its path",
            ),
            (_, Some(_)) => failed(
                format!("NATS_SERVER={shown} does not start"),
                error.to_string(),
                "correct NATS_SERVER, or unset it to use the nats-server on the PATH",
            ),
            _ => failed("the nats-server on the PATH does not start", error.to_string(), "set NATS_SERVER to one that runs here"),
        })?;

        let deadline = Instant::now() + START;
        loop {
            if let Some((url, monitor)) = listening(&ports) {
                return Ok(Self { child, url, monitor });
            }
            let why = match child.try_wait() {
                Ok(Some(status)) => format!("it ended ({status}): {}", super::last_lines(&log, 2)),
                _ if Instant::now() > deadline => {
                    format!("it does not listen after {START:?}: {}", super::last_lines(&log, 2))
                }
                _ => {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            return Err(failed(
                format!("{shown} does not run"),
                why,
                format!("read {}; set NATS_SERVER to a nats-server 2.10 or later", log.display()),
            ));
        }
    }

    /// Where clients connect.
    pub(in crate::cli) fn url(&self) -> &str {
        &self.url
    }

    /// What it has carried; `None` if it does not say.
    pub(in crate::cli) async fn traffic(&self) -> Option<Traffic> {
        let answer = get(self.monitor, "/varz").await.ok()?;
        serde_json::from_str(&answer).ok()
    }

    /// Whether it has ended by itself.
    pub(in crate::cli) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Stops it.
    pub(in crate::cli) async fn stop(mut self) {
        leash::stop(&mut self.child, STOP).await;
    }
}

/// The addresses in the server's ports file, once it is there and complete: for clients, for monitoring.
fn listening(directory: &Path) -> Option<(String, SocketAddr)> {
    let file = fs::read_dir(directory).ok()?.next()?.ok()?.path();
    let ports: Ports = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let monitor = ports.monitoring.first()?.strip_prefix("http://")?.parse().ok()?;
    Some((ports.nats.into_iter().next()?, monitor))
}
