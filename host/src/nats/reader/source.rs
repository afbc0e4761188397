//! Where what the server sends to a reader comes from: the client's connection, or one of the reader's own.

use super::super::headers::Headers;
use super::super::wire::{Batch, Wire};
use super::ReaderEnd;
use super::delivery::DELIVERY;
use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures::Stream as _;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Where what the server sends comes from.
pub(super) enum Source {
    Shared(Subscriber),
    /// The wire, what it has brought, and how much of that was taken.
    Own(Wire, Batch, usize),
}

/// What the server has sent.
pub(super) struct Arrival {
    pub(super) subject: Subject,
    /// Where the answer goes, if one is wanted.
    pub(super) reply: Option<Subject>,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
    /// What the server says instead of a message. (Anybody can publish a message with a status; deliveries are told by where
    /// their answers go.)
    pub(super) status: Option<(u16, String)>,
}

impl Source {
    /// Tells when the server has last sent anything, where that is known.
    pub(super) fn heard(&self) -> impl Fn() -> Option<Instant> + use<> {
        let heard = match self {
            Self::Shared(_) => None,
            Self::Own(wire, ..) => Some(wire.heard()),
        };
        move || heard.as_ref().map(|heard| *heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrival, ReaderEnd>> {
        match self {
            Self::Shared(subscription) => Pin::new(subscription).poll_next(cx).map(|message| {
                let message = message.ok_or(ReaderEnd::Disconnected)?;
                Ok(Arrival {
                    headers: message.headers.as_ref().map(Headers::from).unwrap_or_default(),
                    status: message
                        .status
                        .filter(|_| !message.reply.as_ref().is_some_and(|reply| reply.starts_with(DELIVERY)))
                        .map(|status| (status.as_u16(), message.description.unwrap_or_default())),
                    subject: message.subject,
                    reply: message.reply,
                    payload: message.payload,
                })
            }),
            Self::Own(wire, batch, taken) => loop {
                if let Some(frame) = batch.frame(*taken) {
                    *taken += 1;
                    let reply = batch.reply(frame);
                    let headers = Headers::from_block(batch.headers(frame));
                    let is_delivery = reply.starts_with(DELIVERY.as_bytes());
                    let status = if is_delivery { None } else { headers.status() };
                    return Poll::Ready(Ok(Arrival {
                        subject: text(batch.subject(frame)),
                        reply: (!reply.is_empty()).then(|| text(reply)),
                        status: status.map(|(code, words)| (code, words.into_owned())),
                        payload: batch.payload(frame),
                        headers,
                    }));
                }
                if let Some(text) = batch.refused.take() {
                    return Poll::Ready(Err(ReaderEnd::Refused(text)));
                }
                match wire.poll_batch(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(Err(ReaderEnd::Disconnected)),
                    Poll::Ready(Some(next)) => (*batch, *taken) = (next, 0),
                }
            },
        }
    }
}

/// Nothing that is no text is a subject that anybody here waits for.
fn text(bytes: Bytes) -> Subject {
    Subject::from_utf8(bytes).unwrap_or_else(|_| Subject::from_static(""))
}
