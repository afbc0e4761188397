//! Why there is no connection, in words that say what to do, decided by what caused it.

use super::greeting::{OLDEST, ServerVersion};
use async_nats::{ConnectErrorKind, rustls};
use std::error::Error;
use std::time::Duration;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL of a NATS server.
    #[error("{url:?} is no NATS server URL: {why}. Write nats://HOST:PORT or tls://HOST:PORT")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The list of servers is empty.
    #[error("no NATS server is configured. Name at least one, for example nats://127.0.0.1:4222")]
    NoServers,
    /// The credentials cannot be used, whatever the server says.
    #[error("the NATS credentials cannot be used: {0}. Check the file or the seed")]
    BadCredentials(String),
    /// The files for TLS cannot be used, whatever the server says.
    #[error("the TLS files for NATS cannot be used: {0}. Check the files under nats.tls")]
    BadCertificates(String),
    /// Nothing answers as a NATS server does.
    #[error(
        "no NATS server could be reached: {0}. Check that the server runs and that the URL and the network are right"
    )]
    Unreachable(String),
    /// The server does not let us in.
    #[error("the NATS server refuses these credentials ({0}). Check user, password, token, NKey or credentials file")]
    Refused(String),
    /// No secure connection.
    #[error(
        "TLS with the NATS server failed: {0}. Check that the server speaks TLS, its certificate, and the tls files"
    )]
    Tls(String),
    /// The server lacks what Parti needs.
    #[error("the NATS server at {server} has version {found}; Parti needs {OLDEST} or newer. Upgrade the server")]
    TooOld {
        /// Its address.
        server: String,
        /// Its version.
        found: ServerVersion,
    },
    /// The account has no JetStream.
    #[error("JetStream is off ({0}). Start nats-server with -js, or enable JetStream for this account")]
    JetStreamOff(String),
    /// JetStream gives no answer.
    #[error(
        "JetStream did not answer within {waited:?} ({why}). Check that the cluster has a quorum and that this user may \
         publish to $JS.API.INFO and subscribe to _INBOX.>"
    )]
    JetStreamSilent {
        /// How long it was asked.
        waited: Duration,
        /// The last answer, or the lack of one.
        why: String,
    },
}

/// Turns the client library's error into one that says what to do, by what caused it.
pub(super) fn explain(error: &async_nats::ConnectError) -> ConnectError {
    let text = root_cause(error).to_string();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => ConnectError::Refused(text),
        ConnectErrorKind::Authentication => ConnectError::BadCredentials(error.to_string()),
        ConnectErrorKind::Tls => ConnectError::Tls(text),
        _ if causes(error).any(|cause| cause.is::<rustls::Error>()) => ConnectError::Tls(text),
        _ => ConnectError::Unreachable(error.to_string()),
    }
}

fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The error, what caused it, what caused that, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An `io::Error` keeps what it wraps out of `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}
