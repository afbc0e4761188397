//! One reader at work, in a task of its own, and how it is opened.
//!
//! The task only fetches and decodes; what is done with the messages is the feed's. It waits while the feed does not take
//! what it has, and while the memory for messages is used up.

use super::budget::Budget;
use crate::nats::{
    Nats, NewStream, OpenReaderError, Reader, ReaderEnd, ReaderOptions, Start, StreamError, StreamInfo, StreamMessage,
};
use parti_coordination::Sequence;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Deliveries that wait for the feed: one is sorted while the next is fetched.
const AHEAD: usize = 1;

/// A stream on several servers that seems set back is believed after this time: longer than a server that has lost its peers
/// goes on answering as the leader it was.
pub(super) const BELIEVE_REWIND: Duration = Duration::from_secs(12);

/// The stream that is read.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) nats: Nats,
    pub(super) stream: String,
    /// How to make it where the configuration says that the host does.
    pub(super) create: Option<NewStream>,
}

/// What a reader has brought.
pub(super) struct Delivery {
    pub(super) messages: Vec<StreamMessage>,
    /// Messages of the stream that it has not delivered yet.
    pub(super) pending: u64,
    /// It has ended, and this is its last delivery.
    pub(super) end: Option<ReaderEnd>,
}

/// A reader at work.
pub(super) struct Reading {
    deliveries: mpsc::Receiver<Delivery>,
    _task: AbortOnDropHandle<()>,
}

/// A reader that was just opened, and the stream as it was then.
pub(super) struct Opened {
    pub(super) reader: Reader,
    pub(super) stream: StreamInfo,
}

/// Why there is no reader.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReader {
    #[error(transparent)]
    Reader(#[from] OpenReaderError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl Origin {
    /// Opens a reader that begins at `from`. A stream that is gone is made anew if that is the host's to do.
    pub(super) async fn open(&self, from: Sequence) -> Result<Opened, NoReader> {
        let options = ReaderOptions { stream: self.stream.clone(), start: Start::At(from), filters: None };
        let reader = match (Reader::open(&self.nats, &options).await, &self.create) {
            (Err(OpenReaderError::NoStream(_)), Some(_)) => {
                self.restore().await?;
                Reader::open(&self.nats, &options).await?
            }
            (reader, _) => reader?,
        };
        // Asked after the reader was opened: if this is the stream that we know, it was then, too.
        let stream = self.look().await?;
        Ok(Opened { reader, stream })
    }

    /// Makes a stream that is gone anew, if that is the host's to do. Whether it was.
    pub(super) async fn restore(&self) -> Result<bool, StreamError> {
        let Some(new) = &self.create else { return Ok(false) };
        match self.look().await {
            Err(StreamError::NotFound { .. }) => {}
            other => return other.map(|_| false),
        }
        tracing::warn!(stream = self.stream, "The stream is gone; making it anew, as stream.create says");
        StreamInfo::create(&self.nats, new).await.map(|_| true)
    }

    /// The stream as it is now.
    pub(super) async fn look(&self) -> Result<StreamInfo, StreamError> {
        StreamInfo::of(&self.nats, &self.stream).await
    }
}

impl Reading {
    /// Puts a reader to work.
    pub(super) fn start(mut reader: Reader, budget: Arc<Budget>) -> Self {
        let (sender, deliveries) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            loop {
                budget.room().await;
                let mut messages = Vec::new();
                let end = reader.read(&mut messages).await.err();
                let ended = end.is_some();
                let delivery = Delivery { messages, pending: reader.pending(), end };
                if sender.send(delivery).await.is_err() || ended {
                    return;
                }
            }
        });
        Self { deliveries, _task: AbortOnDropHandle::new(task) }
    }

    /// The next delivery; `None` once the last one was taken.
    pub(super) fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.deliveries.poll_recv(cx)
    }
}
