//! A message as it comes, what it says of its delivery, and as it is handed out.

use super::super::headers::Headers;
use super::super::wire::number;
use async_nats::Subject;
use bytes::Bytes;
use parti_coordination::Sequence;

/// How the reply subject of a delivery begins.
pub(super) const DELIVERY: &str = "$JS.ACK.";

/// What the reply subject of a delivered message tells: ADR-15 of the NATS architecture, both formats.
pub(in crate::nats) struct Delivery {
    /// How many times the consumer has delivered this message, this time included.
    pub(in crate::nats) times: u64,
    /// The message's place in the stream.
    pub(super) sequence: u64,
    /// Number of the delivery.
    pub(super) number: u64,
    /// When the stream stored the message, in nanoseconds since 1970.
    pub(super) timestamp_ns: u64,
    /// Messages that match and are still to be delivered.
    pub(super) pending: u64,
}

impl Delivery {
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix(DELIVERY)?.as_bytes();
        let leading = match memchr::memchr_iter(b'.', rest).count() + 1 {
            // stream, consumer
            7 => 2,
            // domain, account, stream, consumer
            9.. => 4,
            _ => return None,
        };
        let mut numbers = rest.split(|byte| *byte == b'.').skip(leading).map(number);
        Some(Self {
            times: numbers.next()??,
            sequence: numbers.next()??,
            number: numbers.next()??,
            timestamp_ns: numbers.next()??,
            pending: numbers.next()??,
        })
    }
}

/// A message as the stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMessage {
    /// Its subject. Empty if what the server says is no text.
    pub subject: Subject,
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the stream stored it, in nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub payload: Bytes,
}

/// A message as the server delivered it.
pub(in crate::nats) struct Delivered {
    pub(super) subject: Subject,
    pub(in crate::nats) reply: Subject,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
    pub(in crate::nats) delivery: Delivery,
}

impl From<Delivered> for StreamMessage {
    fn from(Delivered { subject, headers, payload, delivery, .. }: Delivered) -> Self {
        let (sequence, timestamp_ns) = (Sequence(delivery.sequence), delivery.timestamp_ns);
        Self { subject, sequence, timestamp_ns, headers, payload }
    }
}
