//! `wasi:http/outgoing-handler`, where it is granted: every request is checked against the plugin's list, waits for a place among
//! the plugin's requests in flight, and ends before the call that made it must.
//!
//! The host connects itself (`route`), so that the certificates of this machine count, and so that a name cannot lead to where only this
//! machine may go. Requests are tasks on the runtime of the guests: one that waits holds no thread.

mod route;

use super::Shared;
use super::log::LogScope;
use crate::config::HttpOrigin;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use route::{Destination, connect, tls_error};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep_until, timeout_at};
use wasmtime_wasi::runtime;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// A request ends so long before its call must, or a tenth of what is left of the call if that is less: the guest can still
/// answer.
const RESERVE: Duration = Duration::from_millis(250);

/// What a request says of itself if the guest says nothing.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("parti/", env!("CARGO_PKG_VERSION")));

/// What all instances of a plugin version share for their requests.
pub(super) struct HttpShared {
    granted: Vec<HttpOrigin>,
    places: Arc<Semaphore>,
}

impl HttpShared {
    pub(super) fn new(granted: Vec<HttpOrigin>, places: Arc<Semaphore>) -> Self {
        Self { granted, places }
    }
}

/// The requests of one instance.
pub(super) struct Outgoing {
    shared: Arc<Shared>,
    log: Arc<LogScope>,
    /// When the call in progress must have ended.
    deadline: Instant,
}

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>, log: Arc<LogScope>) -> Self {
        Self { shared, log, deadline: Instant::now() }
    }

    pub(super) fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Where the request goes, if it may.
    fn check(&self, uri: &Uri) -> Result<Destination, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = match authority.port() {
            None => HttpOrigin::usual_port(https),
            Some(port) => port.as_u16(),
        };
        let host = authority.host();
        let origins = self.shared.http.granted.iter();
        // A login before the host has no meaning in a request; it only serves to deceive readers of an address.
        let mut granted = origins.filter(|origin| origin.allows(https, host, port)).peekable();
        if authority.as_str().contains('@') || granted.peek().is_none() {
            self.shared.account.http_denied.fetch_add(1, Relaxed);
            let scheme = if https { "https" } else { "http" };
            self.log.host_warns(&format!(
                "A request to {scheme}://{host}:{port} is denied: it is not among plugins.grants.{}.http",
                self.shared.plugin
            ));
            return Err(Error::HttpRequestDenied);
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Destination { https, host: bare.to_owned(), port, any_address: granted.any(HttpOrigin::names_address) })
    }
}

/// Bytes of a request's body that a guest hands over at once, of which two may wait.
const BODY_CHUNK: usize = 16 << 10;

/// The response, and what drives its connection.
type Answer = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Outgoing {
    /// A body that is written and not sent is kept by the host.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let destination = match self.check(request.uri()) {
            Ok(destination) => destination,
            Err(error) => return Box::new(std::future::ready(Err(error))),
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let until = self.deadline.checked_sub(RESERVE.min(left / 10)).unwrap_or(self.deadline);
        let (shared, log, options) = (Arc::clone(&self.shared), Arc::clone(&self.log), options.unwrap_or_default());
        Box::new(async move { send(shared, log, destination, request, options, until).await })
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(plugin = &*self.shared.plugin, %error, "An HTTP request failed");
        ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(plugin = &*self.shared.plugin, %error, "An HTTP server cannot be reached");
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        tls_error(error)
    }
}

async fn send(
    shared: Arc<Shared>,
    log: Arc<LogScope>,
    to: Destination,
    mut request: Request<WasiBody>,
    options: RequestOptions,
    until: Instant,
) -> Result<Answer, Error> {
    let place = match timeout_at(until.into(), Arc::clone(&shared.http.places).acquire_owned()).await {
        Ok(Ok(place)) => Arc::new(place),
        _ => {
            log.host_warns(&format!(
                "A request waited in vain: {} are in flight, which is {}.limits.httpRequests",
                shared.limits.http_requests, shared.section
            ));
            return Err(Error::ConnectionLimitReached);
        }
    };
    let within = |limit| earlier(until, limit);
    let by = within(options.connect_timeout);
    let stream =
        timeout_at(by.into(), connect(&shared, &log, &to, &place)).await.map_err(|_| Error::ConnectionTimeout)??;
    shared.account.http_sent.fetch_add(1, Relaxed);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = runtime::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "A connection of an HTTP request ended");
        }
    });
    // On a connection of its own, a request names its path only. The authority is in its header `Host`.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // A query without a path is one of the root.
    let root = if path.starts_with('?') { "/" } else { "" };
    *request.uri_mut() = format!("{root}{path}").parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().entry(header::USER_AGENT).or_insert(USER_AGENT);
    let by = within(options.first_byte_timeout);
    let response =
        timeout_at(by.into(), sender.send_request(request)).await.map_err(|_| Error::ConnectionReadTimeout)??;

    let response = response.map(|incoming| {
        let body = Received {
            incoming,
            left: shared.limits.http_response_bytes,
            until,
            pause: options.between_bytes_timeout,
            timer: Box::pin(sleep_until(within(options.between_bytes_timeout).into())),
            shared,
            log,
        };
        body.boxed_unsync()
    });
    // Dropped when the guest lets go of the response. What a guest keeps after its time is no longer in flight.
    let driven = async move {
        let _ = timeout_at(until.into(), connection).await;
        drop(place);
        Ok(())
    };
    Ok((response, Box::new(driven)))
}

/// `until`, or a time from now that is shorter. The guest chooses it, so it may be longer than clocks reach.
fn earlier(until: Instant, limit: Option<Duration>) -> Instant {
    limit.and_then(|limit| Instant::now().checked_add(limit)).map_or(until, |by| by.min(until))
}

/// A response's body: no longer and no later than it may be.
struct Received {
    incoming: Incoming,
    /// Bytes that may still come.
    left: u64,
    /// When it must have ended.
    until: Instant,
    /// The longest pause that the guest allows.
    pause: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    shared: Arc<Shared>,
    log: Arc<LogScope>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => {
                        let limit = self.shared.limits.http_response_bytes;
                        self.log.host_warns(&format!(
                            "A response has more than {limit} bytes, which is {}.limits.httpResponseBytes",
                            self.shared.section
                        ));
                        return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(limit)))));
                    }
                }
                let by = earlier(self.until, self.pause);
                self.timer.as_mut().reset(by.into());
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                std::task::ready!(self.timer.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
