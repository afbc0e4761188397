//! A connection to NATS of its own, for one reader that reads as fast as the server sends.
//!
//! The client library hands every message over on its own, through a channel, in memory that holds the neighbours alive; that
//! costs more than everything else that is done with a message before a handler sees it (docs/design/data-path.md has the
//! figures). A `Wire` hands over what one read from the socket has brought, in one piece. It can do what a reader needs and no
//! more: subscribe to one inbox, publish requests, answer pings. It never connects again: a reader whose wire is cut has ended.
//!
//! `connect` opens the door, `parse` reads the protocol.

mod connect;
mod parse;
#[cfg(test)]
mod tests;

pub(super) use connect::{Endpoint, WireError, check_tls};
pub(super) use parse::{Batch, number};

use bytes::{Bytes, BytesMut};
use connect::Socket;
use parse::parse;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that are read at once. What the server sends in one go is as much.
const READ: usize = 128 * 1024;

/// Longest wait for the server to take the few bytes that a reader sends.
const WRITE: Duration = Duration::from_secs(10);

/// The number of the only subscription.
const SUBSCRIPTION: &str = "1";

/// The connection. It is closed when this is dropped.
pub(super) struct Wire {
    batches: mpsc::UnboundedReceiver<Batch>,
    orders: mpsc::UnboundedSender<Bytes>,
    /// When the server has last sent anything, be it a part of a message.
    heard: Arc<Mutex<Instant>>,
    _task: AbortOnDropHandle<()>,
}

impl Wire {
    /// Connects, and subscribes to `inbox` before anything else is sent. Each address of each server gets the endpoint's
    /// patience.
    pub(super) async fn open(endpoint: &Endpoint, inbox: &str) -> Result<Self, WireError> {
        let (socket, rest) = connect::connect(endpoint).await?;
        // What waits is bounded by what the reader has asked for, or by the window of flow control.
        let (sender, batches) = mpsc::unbounded_channel();
        let (orders, outgoing) = mpsc::unbounded_channel();
        let _ = orders.send(format!("SUB {inbox} {SUBSCRIPTION}\r\n").into());
        let heard = Arc::new(Mutex::new(Instant::now()));
        let noted = Arc::clone(&heard);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            match run(socket, rest, outgoing, &sender, &noted).await {
                Err(error @ WireError::Protocol(_)) => drop(sender.send(Batch::refused(error.to_string()))),
                Err(error) => tracing::debug!(%error, "A reader's connection to NATS has ended"),
                Ok(()) => {}
            }
        }));
        Ok(Self { batches, orders, heard, _task: task })
    }

    /// Publishes, with the subject for the answers if there is one. What is sent into a connection that is lost is lost with it.
    pub(super) fn publish(&self, subject: &str, reply: &str, payload: &[u8]) {
        let mut line = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        line.extend_from_slice(payload);
        line.extend_from_slice(b"\r\n");
        let _ = self.orders.send(line.into());
    }

    /// When the server has last sent anything, be it a part of a message.
    pub(super) fn heard(&self) -> Arc<Mutex<Instant>> {
        Arc::clone(&self.heard)
    }

    /// What has arrived next; `None` once the connection is lost.
    pub(super) fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        self.batches.poll_recv(cx)
    }
}

/// Reads and writes until the connection, or its user, is gone.
async fn run(
    mut socket: Box<dyn Socket>,
    mut buffer: BytesMut,
    mut orders: mpsc::UnboundedReceiver<Bytes>,
    batches: &mpsc::UnboundedSender<Batch>,
    heard: &Mutex<Instant>,
) -> Result<(), WireError> {
    loop {
        let parsed = parse(&mut buffer)?;
        if parsed.pings > 0 {
            write(&mut socket, &b"PONG\r\n".repeat(parsed.pings)).await?;
        }
        if !parsed.batch.is_empty() && batches.send(parsed.batch).is_err() {
            return Ok(());
        }
        // What is read next goes behind what was read before, as long as there is room: a batch keeps all of its memory.
        if buffer.capacity() - buffer.len() < parsed.missing.max(READ / 8) {
            buffer.reserve(parsed.missing.max(READ));
        }
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(order) => write(&mut socket, &order).await?,
                None => return Ok(()),
            },
            read = socket.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Err(WireError::Lost);
                }
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        }
    }
}

async fn write(socket: &mut Box<dyn Socket>, bytes: &[u8]) -> Result<(), WireError> {
    let written = async {
        socket.write_all(bytes).await?;
        socket.flush().await
    };
    timeout(WRITE, written).await.map_err(|_| WireError::Lost)?.map_err(WireError::from)
}
