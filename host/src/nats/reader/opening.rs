//! Opens readers: through a consumer that is made for them, or one that is there.

use super::super::api::ApiError;
use super::super::connection::Nats;
use super::super::greeting::ServerVersion;
use super::super::wire::{Batch, Wire};
use super::options::{HEARTBEAT, asked, pushed};
use super::source::Source;
use super::{Asks, Reader, ReaderOptions};
use async_nats::Subject;
use async_nats::jetstream::{ErrorCode, consumer};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Messages per request. Between 500 and 5000 no difference was measured, in throughput or in the CPU time of either side.
pub(super) const BATCH: u64 = 1000;

/// Bytes per request, so that two of them bound the memory of a reader. Never below what one message may have.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How long an unanswered request stays open.
const EXPIRES: Duration = Duration::from_secs(30);

/// Where a server says, of a consumer that it has just made, which version it is itself (from 2.11 on, ADR-44).
const SERVER_VERSION: &str = "_nats.ver";

/// Why a reader could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenReaderError {
    /// There is no such stream.
    #[error("there is no stream {0:?}. Create it, or correct its name")]
    NoStream(String),
    /// The stream has as many consumers as it may have.
    #[error("stream {0:?} has as many consumers as it may have. Raise its max_consumers, or run fewer readers of it")]
    TooManyConsumers(String),
    /// Anything else.
    #[error("a reader of stream {stream:?} could not be opened: {why}")]
    Failed {
        /// The stream.
        stream: String,
        /// What went wrong.
        why: ApiError,
    },
}

/// How the messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Way {
    /// The server sends them by itself, over a connection of the reader's own.
    Pushed,
    /// The reader asks for them.
    AskedOver(Connection),
}

/// Over which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Connection {
    /// The one that everything else uses.
    Shared,
    /// One of the reader's own.
    Own,
}

/// The body of a request for messages. Durations are in nanoseconds.
#[derive(Serialize)]
struct NextRequest {
    batch: u64,
    max_bytes: usize,
    expires: u128,
    idle_heartbeat: u128,
}

impl Reader {
    /// Creates the consumer on the server, to be read over a connection of its own: for who reads much, or for long.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub async fn open(nats: &Nats, options: &ReaderOptions) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::Pushed, false).await
    }

    /// The same, over the connection that everything else uses.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub(in crate::nats) async fn open_shared(nats: &Nats, options: &ReaderOptions) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::AskedOver(Connection::Shared), false).await
    }

    /// The same, for messages without payloads. Their size is in the header `Nats-Msg-Size`.
    ///
    /// # Errors
    /// See [`OpenReaderError`]; within the operation timeout.
    pub(in crate::nats) async fn open_without_payloads(
        nats: &Nats,
        options: &ReaderOptions,
    ) -> Result<Self, OpenReaderError> {
        Self::open_as(nats, options, Way::AskedOver(Connection::Shared), true).await
    }

    async fn open_as(
        nats: &Nats,
        options: &ReaderOptions,
        way: Way,
        headers_only: bool,
    ) -> Result<Self, OpenReaderError> {
        let stream = options.stream.clone();
        let failed = |why| OpenReaderError::Failed { stream: stream.clone(), why };
        let name = format!("parti-{}", uuid::Uuid::new_v4().simple());
        // A consumer that sends waits until somebody listens.
        let mut reader = Self::attach(nats, &stream, name.clone(), way, 0).await.map_err(failed)?;
        let config = match way {
            Way::Pushed => pushed(&name, options, &reader.inbox),
            Way::AskedOver(_) => asked(&name, options, headers_only),
        };
        let create = json!({ "stream_name": stream, "config": config, "action": "create" });
        let created = nats.api::<_, consumer::Info>(&format!("CONSUMER.CREATE.{stream}.{name}"), &create).await;
        let created = created.map_err(|error| match error {
            ApiError::Refused { code, .. } if code == ErrorCode::STREAM_NOT_FOUND.0 => {
                OpenReaderError::NoStream(stream.clone())
            }
            ApiError::Refused { code, .. } if code == ErrorCode::MAXIMUM_CONSUMERS_LIMIT.0 => {
                OpenReaderError::TooManyConsumers(stream.clone())
            }
            why => failed(why),
        })?;
        reader.pending = created.num_pending;
        reader.served_by = match created.config.metadata.get(SERVER_VERSION) {
            Some(version) => ServerVersion::parse(version),
            // Before 2.11 none says so; where there is no cluster, it is the one that we are connected to.
            None => Some(nats.server_version()).filter(|_| created.cluster.is_none()),
        };
        reader.keep = false;
        Ok(reader)
    }

    /// Reads through a consumer that is there, or will be, and that nobody else reads through. It stays when the reader is
    /// dropped.
    pub(in crate::nats) async fn attach(
        nats: &Nats,
        stream: &str,
        consumer: String,
        way: Way,
        pending: u64,
    ) -> Result<Self, ApiError> {
        let inbox = Subject::from(nats.inner.client.new_inbox());
        let failed = |error: &dyn std::fmt::Display| ApiError::Failed(error.to_string());
        let subscribed = async {
            if way == Way::AskedOver(Connection::Shared) {
                let subscription = nats.inner.client.subscribe(inbox.clone()).await;
                return subscription.map(Source::Shared).map_err(|error| failed(&error));
            }
            let wire = Wire::open(&nats.endpoint(), &inbox).await;
            wire.map(|wire| Source::Own(wire, Batch::default(), 0)).map_err(|error| failed(&error))
        };
        let source = nats.while_connected(nats.operation_timeout(), subscribed).await?;
        let request = NextRequest {
            batch: BATCH,
            max_bytes: BATCH_BYTES.max(2 * nats.max_payload()),
            expires: EXPIRES.as_nanos(),
            idle_heartbeat: HEARTBEAT.as_nanos(),
        };
        let request = serde_json::to_vec(&request).map_err(|error| failed(&error))?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        // Nothing is under way yet that a reconnect before this moment could have lost.
        let link = nats.link();
        let reconnects = link.borrow().reconnects;
        Ok(Self {
            nats: nats.clone(),
            stream: stream.to_owned(),
            consumer,
            inbox,
            source,
            link,
            reconnects,
            asks: (way != Way::Pushed).then(|| Asks { subject, request: request.into(), open: 0 }),
            delivered: 0,
            pending,
            sequence: 0,
            served_by: None,
            passed: None,
            end: None,
            keep: true,
        })
    }
}
