//! One reader at work, in a task of its own.
//!
//! The task only fetches and decodes; what is done with the messages is the feed's. It waits while the feed does not take
//! what it has, and while the memory for messages is used up.

use super::budget::Budget;
use crate::nats::{Reader, ReaderEnd, StreamMessage};
use parti_coordination::Sequence;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Deliveries that wait for the feed: one is sorted while the next is fetched.
const AHEAD: usize = 1;

/// What a reader has brought.
pub(super) struct Delivery {
    pub(super) messages: Vec<StreamMessage>,
    /// Up to here it has looked, if the server has said so.
    pub(super) passed: Option<Sequence>,
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

impl Reading {
    /// Puts a reader to work.
    pub(super) fn start(mut reader: Reader, budget: Arc<Budget>) -> Self {
        let (sender, deliveries) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            loop {
                budget.room().await;
                let mut messages = Vec::new();
                let end = reader.advance(&mut messages).await.err();
                let ended = end.is_some();
                let delivery = Delivery { messages, passed: reader.passed(), pending: reader.pending(), end };
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
