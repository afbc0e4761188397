//! What the headers of a dead letter say.

use crate::nats::StreamMessage;
use jiff::Timestamp;
use parti_coordination::Sequence;
use serde::Serialize;

/// The headers that a worker adds to a message that cannot be handled.
const ORIGIN: [&str; 7] = [
    "Parti-Stream",
    "Parti-Sequence",
    "Parti-Subject",
    "Parti-Partition",
    "Parti-Attempts",
    "Parti-Reason",
    "Parti-Handler",
];

/// Where the server puts the size of a message that it delivers without its payload.
const SIZE: &str = "Nats-Msg-Size";

/// A dead letter. Everything but the first two is nothing in a message that no worker has put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    /// Its sequence in the stream that holds it.
    pub(super) id: Sequence,
    /// When it came there.
    pub(super) time: Timestamp,
    /// The stream that it is from.
    pub(super) stream: Option<String>,
    /// Its sequence there.
    pub(super) sequence: Option<String>,
    /// Its subject there.
    pub(super) subject: Option<String>,
    /// Its partition.
    pub(super) partition: Option<String>,
    /// How often it was delivered.
    pub(super) attempts: Option<String>,
    /// Why it could not be handled.
    pub(super) reason: Option<String>,
    /// Digest of the handler that could not.
    pub(super) handler: Option<String>,
    /// Bytes of its payload.
    pub(super) bytes: Option<u64>,
}

impl Letter {
    /// Reads the headers. A worker's come last: those of the same name before are the original's own.
    pub(super) fn of(message: &StreamMessage) -> Self {
        let headers = message.headers.texts();
        let last = |name: &str| {
            let mut values = headers.iter().rev().filter(|(key, _)| key == name);
            values.next().map(|(_, value)| value.clone())
        };
        let size = last(SIZE).and_then(|size| size.parse().ok());
        Self {
            id: message.sequence,
            time: Timestamp::from_nanosecond(message.timestamp_ns.into()).unwrap_or_default(),
            stream: last("Parti-Stream"),
            sequence: last("Parti-Sequence"),
            subject: last("Parti-Subject"),
            partition: last("Parti-Partition"),
            attempts: last("Parti-Attempts"),
            reason: last("Parti-Reason"),
            handler: last("Parti-Handler"),
            bytes: size.or_else(|| (!message.payload.is_empty()).then_some(message.payload.len() as u64)),
        }
    }
}

/// The headers that the original had: all but what the worker added, which is the last of each name.
pub(super) fn original_headers(headers: &[(String, String)]) -> Vec<(String, String)> {
    let is_added =
        |at: usize, name: &str| ORIGIN.contains(&name) && !headers.iter().skip(at + 1).any(|(later, _)| later == name);
    let kept = headers.iter().enumerate().filter(|(at, (name, _))| !is_added(*at, name));
    kept.map(|(_, header)| header.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Headers;

    #[test]
    fn what_a_worker_said_counts_and_not_what_the_original_pretended() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut headers = vec![header("Parti-Subject", "work.forged"), header("trace", "1"), header("trace", "2")];
        headers.extend(ORIGIN.map(|name| header(name, "true")));
        let message = StreamMessage {
            subject: "dead.letters".into(),
            sequence: Sequence(17),
            timestamp_ns: 0,
            headers: Headers::from_pairs(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))),
            payload: "abc".into(),
        };
        let letter = Letter::of(&message);
        assert_eq!((letter.subject.as_deref(), letter.bytes), (Some("true"), Some(3)));
        assert_eq!(original_headers(&headers), headers[..3]);
        assert_eq!(Letter::of(&StreamMessage { headers: Headers::default(), ..message }).subject, None);
    }
}
