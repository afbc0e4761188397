//! What a delivered message says of its delivery.

use super::super::wire::number;

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
