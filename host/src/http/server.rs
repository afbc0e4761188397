//! Listens, and serves each connection within fixed bounds.

use super::{Backend, routes};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What one client, and all of them together, may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections served at once; more wait in the kernel.
    pub(super) connections: usize,
    /// Time until a request's head is complete.
    pub(super) head: Duration,
    /// Time of a connection, which carries one request and its answer.
    pub(super) connection: Duration,
    /// Bytes of a request's head.
    pub(super) head_bytes: usize,
    /// Time that answers get to finish at shutdown.
    pub(super) farewell: Duration,
}

/// Probes and scrapes come seconds apart and take milliseconds: ample for them, dull for an attacker.
pub(super) const BOUNDS: Bounds = Bounds {
    connections: 128,
    head: Duration::from_secs(5),
    connection: Duration::from_secs(30),
    head_bytes: 16 * 1024,
    farewell: Duration::from_secs(1),
};

/// The address cannot be listened on. The message says what, why, and what to do, one line each.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for HTTP on {address}\n{}\n{}", why(.source), way_out(.source))]
pub struct BindError {
    /// `http.listen`, as configured.
    pub address: String,
    /// What the system says.
    pub source: io::Error,
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another process listens there".to_owned(),
        ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        ErrorKind::PermissionDenied => "this process may not use the port".to_owned(),
        _ => error.to_string(),
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "stop that process, or set `http.listen` to another port",
        ErrorKind::AddrNotAvailable => "set `http.listen` to an address of this machine, or to 0.0.0.0 for all of them",
        ErrorKind::PermissionDenied => "set `http.listen` to a port above 1023",
        _ => "set `http.listen` to an address and a port, such as 127.0.0.1:8080",
    }
}

/// Listens on `http.listen`, for example `127.0.0.1:8080`.
///
/// # Errors
/// The address is none, is not ours, or is in use.
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address: address.to_owned(), source })
}

/// Answers requests until `shutdown` is done, then lets running answers finish for a second. Dropping the future closes
/// every connection.
pub async fn serve(listener: TcpListener, backend: Backend, shutdown: impl Future<Output = ()>) {
    serve_within(BOUNDS, listener, backend, shutdown).await;
}

pub(super) async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    backend: Backend,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes::router(backend);
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(exchange(bounds, stream, router.clone()));
                }
                Err(error) => cannot_accept(&error).await,
            },
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What has not finished by then is closed.
    let _ = timeout(bounds.farewell, finished).await;
}

/// One request and its answer. Without connections that are kept alive, one bound on the whole covers a client that
/// writes slowly, reads slowly, or does nothing.
async fn exchange(bounds: Bounds, stream: TcpStream, router: axum::Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(bounds.head_bytes)
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(bounds.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection took too long"),
    }
}

/// A client that is gone already concerns nobody. Anything else, such as too many open files, lasts: pause, so that the
/// control runtime is not spent on it.
async fn cannot_accept(error: &io::Error) {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "HTTP connections cannot be accepted");
        sleep(Duration::from_secs(1)).await;
    }
}
