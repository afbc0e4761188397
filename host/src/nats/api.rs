//! Requests to the server and publishes that it confirms, all bounded in time and given up when the connection breaks:
//! what was in flight then is lost, and waiting for it would only delay the question what became of it.

use super::connection::{Link, Nats};
use async_nats::client::{Request, RequestError, RequestErrorKind};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, response::Response};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens to the request's subject: what it speaks to does not exist, or has no leader at the moment.
    #[error("nobody answers (no responders)")]
    NoResponders,
    /// No answer in time; the request may have been carried out.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke while the answer was awaited; the request may have been carried out.
    #[error("the connection to NATS was lost")]
    Disconnected,
    /// The server answers with an error.
    #[error("{text}")]
    Refused {
        /// JetStream's number for the error.
        code: u64,
        /// What the server says, with its codes.
        text: String,
    },
    /// The request was never sent, or the answer makes no sense.
    #[error("{0}")]
    Failed(String),
}

/// The body of a request that takes none; the API insists on an object.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct NoArguments {}

impl Nats {
    /// Asks the JetStream API, `$JS.API.<subject>`.
    pub(super) async fn api<T: Serialize + ?Sized, V: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &T,
    ) -> Result<V, ApiError> {
        let asked = async {
            match self.inner.jetstream.request(subject.to_owned(), payload).await? {
                Response::Ok(value) => Ok(value),
                Response::Err { error } => Err(error.into()),
            }
        };
        self.while_connected(self.inner.operation_timeout, asked).await
    }

    /// Asks whoever listens to `subject`.
    pub(super) async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, ApiError> {
        let request = Request::new().payload(payload).timeout(Some(wait));
        let asked = async { Ok(self.inner.client.send_request(subject.to_owned(), request).await?.payload) };
        self.while_connected(wait, asked).await
    }

    /// Publishes and waits until the stream has stored the message.
    pub(super) async fn publish_and_confirm(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<PublishAck, ApiError> {
        let confirmed = async { Ok(self.inner.jetstream.send_publish(subject.to_owned(), message).await?.await?) };
        self.while_connected(self.inner.operation_timeout, confirmed).await
    }

    /// Waits for the connection, if need be, and then for `operation`, as long as the connection holds.
    pub(super) async fn while_connected<V>(
        &self,
        wait: Duration,
        operation: impl Future<Output = Result<V, ApiError>>,
    ) -> Result<V, ApiError> {
        let deadline = Instant::now() + wait;
        let mut link = self.link();
        // Sending into a lost connection would only queue the request, to be carried out when nobody waits for it any more.
        let reconnects = match timeout_at(deadline, link.wait_for(|link| link.connected)).await {
            Ok(Ok(link)) => link.reconnects,
            Ok(Err(_)) => return Err(ApiError::Disconnected),
            Err(_) => return Err(ApiError::TimedOut),
        };
        self.unless_reconnected(reconnects, deadline.saturating_duration_since(Instant::now()), operation).await
    }

    /// Waits for `operation`, which began when there had been so many reconnects, as long as that connection holds.
    pub(super) async fn unless_reconnected<V>(
        &self,
        reconnects: u64,
        wait: Duration,
        operation: impl Future<Output = Result<V, ApiError>>,
    ) -> Result<V, ApiError> {
        let mut link = self.link();
        tokio::select! {
            biased;
            result = operation => result,
            () = connection_lost(&mut link, reconnects) => Err(ApiError::Disconnected),
            () = sleep(wait) => Err(ApiError::TimedOut),
        }
    }
}

/// Waits until the connection, which was found again so many times, is lost.
pub(super) async fn connection_lost(link: &mut watch::Receiver<Link>, reconnects: u64) {
    // The sender lives as long as the connection; its end is the connection's.
    let _ = link.wait_for(|link| !link.connected || link.reconnects != reconnects).await;
}

impl From<jetstream::Error> for ApiError {
    fn from(error: jetstream::Error) -> Self {
        Self::Refused { code: error.error_code().0, text: error.to_string() }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NoResponders,
            RequestErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<jetstream::context::RequestError> for ApiError {
    fn from(error: jetstream::context::RequestError) -> Self {
        match error.kind() {
            jetstream::context::RequestErrorKind::NoResponders => Self::NoResponders,
            jetstream::context::RequestErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        if let Some(refusal) = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
            return refusal.clone().into();
        }
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::NoResponders,
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Self::TimedOut,
            _ => Self::Failed(error.to_string()),
        }
    }
}
