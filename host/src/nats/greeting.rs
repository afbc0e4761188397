//! What a server says of itself before anything is asked: the `INFO` line that it sends to everyone who connects.
//!
//! It is read on a connection of its own before the client library connects, because the library reports a server that
//! is too old, or that is no NATS server at all, as whatever goes wrong afterwards.

use async_nats::ServerAddr;
use serde::Deserialize;
use std::fmt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// The oldest server that Parti runs on.
pub(super) const OLDEST: ServerVersion = ServerVersion { major: 2, minor: 10, patch: 0 };

/// The first server that expires single keys of a bucket.
const PER_KEY_TTL_SINCE: ServerVersion = ServerVersion { major: 2, minor: 11, patch: 0 };

/// The first server whose consumers with several filters go on where they are when messages of one of their subjects are purged or
/// rolled up. Before, what was still to be delivered of the others was left out (nats-server #8571, fixed by #8572).
const KEEPS_FILTERED_PLACE_SINCE: ServerVersion = ServerVersion { major: 2, minor: 15, patch: 1 };

/// The first server whose consumers with several filters leave nothing out where nobody purges (#6526).
const FILTERS_EXACTLY_SINCE: ServerVersion = ServerVersion { major: 2, minor: 10, patch: 26 };

/// Bytes of the longest `INFO` line that is read. Real ones have a few hundred, and some more per known server.
const MAX_INFO_BYTES: u64 = 256 * 1024;

/// The version of a NATS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl ServerVersion {
    /// Reads `2.11.0`, and `2.12.0-RC.1` as 2.12.0. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let patch = numbers.next()?;
        let patch = patch.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some(Self { major, minor, patch })
    }

    /// Whether single keys of a bucket can have a lifetime of their own.
    #[must_use]
    pub fn expires_single_keys(self) -> bool {
        self >= PER_KEY_TTL_SINCE
    }

    /// Whether a consumer with several filters delivers all that matches, on a stream of which messages may be purged by subject.
    pub(super) fn filters_exactly(self, may_purge: bool) -> bool {
        self >= if may_purge { KEEPS_FILTERED_PLACE_SINCE } else { FILTERS_EXACTLY_SINCE }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[derive(Deserialize)]
struct Info {
    version: String,
}

/// Connects, reads the greeting and hangs up. The error says in a few words what went wrong.
pub(super) async fn greet(server: &ServerAddr) -> Result<ServerVersion, String> {
    let addresses: Vec<_> = match server.socket_addrs().await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(format!("the name does not resolve ({error})")),
    };
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_INFO_BYTES))
        .read_line(&mut line)
        .await
        .map_err(|error| format!("it connects, but does not greet as a NATS server does ({error})"))?;
    line.strip_prefix("INFO ")
        .and_then(|json| serde_json::from_str::<Info>(json).ok())
        .and_then(|info| ServerVersion::parse(&info.version))
        .ok_or_else(|| "what answers there is not a NATS server".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_read_from_release_candidates_too() {
        let version = |text| ServerVersion::parse(text).unwrap();
        assert!(version("2.9.10") < OLDEST);
        assert!(version("2.10.0-beta.3") >= OLDEST && !version("2.10.29").expires_single_keys());
        assert!(version("v2.11.0-RC.1").expires_single_keys() && version("10.0.0").expires_single_keys());
        for nonsense in ["", "2", "2.x.1", "two.ten.one", "2.10.", "-1.2.3"] {
            assert_eq!(ServerVersion::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
