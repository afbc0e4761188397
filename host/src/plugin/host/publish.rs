//! `parti:plugin/publish`: what a batch publishes, checked and kept until `handle` returns.

use super::super::bindings::parti::plugin::publish as wit;
use super::super::limits::Limits;
use bytes::Bytes;
use parti_coordination::Sequence;

/// Bytes of the longest subject. A server reads a publish's subject, reply and sizes into a control line of 4 KiB by default.
const MAX_SUBJECT_BYTES: usize = 2_048;

/// First tokens, besides all that begin with `$`, of subjects that are not for guests. Those of the server and its clients:
/// `$JS.API.STREAM.DELETE.work` deletes a stream, `$KV.…` writes ownership records. And `parti`, on which workers talk.
const RESERVED_TOKENS: [&str; 4] = ["_INBOX", "_R_", "_GR_", "parti"];

/// Headers that the host sets or that change what a confirmation means; names compare without case. An entry that ends
/// with `-` stands for every name that begins so.
const RESERVED_HEADERS: [&str; 3] = ["Nats-Msg-Id", "Nats-Expected-", "Nats-Batch-"];

/// Bytes that a header takes on the wire besides its name and value: `: ` and the end of the line.
const HEADER_FRAME: usize = 4;

/// A message that a guest wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The message of the batch that led to it.
    pub cause: Sequence,
    /// A subject without wildcards, outside the server's and the workers' own.
    pub subject: String,
    /// Names and values as NATS takes them.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub payload: Bytes,
}

/// What the batch in progress publishes.
pub(super) struct Outbox {
    causes: Vec<Sequence>,
    messages: Vec<Publish>,
    bytes: u64,
}

/// Why a message is not published. Read by the guest's author.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("cause {0} is no message of this batch; name the sequence of the message that led to this one")]
    UnknownCause(Sequence),
    #[error("`{subject}` is no subject to publish to: {why}")]
    Subject { subject: String, why: &'static str },
    #[error("`{name}` is no header to publish: {why}")]
    Header { name: String, why: &'static str },
    #[error("the message has {size} bytes with its headers; limits.publishMessageBytes allows {limit}")]
    MessageTooLarge { size: u64, limit: u64 },
    #[error("the batch has published {limit} messages already, which is limits.publishMessages")]
    TooMany { limit: u64 },
    #[error("the batch would publish {size} bytes; limits.publishBytes allows {limit}")]
    TooMuch { size: u64, limit: u64 },
}

impl From<Refusal> for wit::Refusal {
    fn from(refusal: Refusal) -> Self {
        let said = refusal.to_string();
        match refusal {
            Refusal::UnknownCause(_)
            | Refusal::Subject { .. }
            | Refusal::Header { .. }
            | Refusal::MessageTooLarge { .. } => Self::Invalid(said),
            Refusal::TooMany { .. } | Refusal::TooMuch { .. } => Self::Limit(said),
        }
    }
}

impl Outbox {
    pub(super) fn new(batch: impl Iterator<Item = Sequence>) -> Self {
        Self { causes: batch.collect(), messages: Vec::new(), bytes: 0 }
    }

    pub(super) fn first_cause(&self) -> Option<Sequence> {
        self.causes.first().copied()
    }

    pub(super) fn into_messages(self) -> Vec<Publish> {
        self.messages
    }

    /// Keep a message, if it may be published.
    pub(super) fn send(
        &mut self,
        limits: &Limits,
        cause: u64,
        subject: String,
        headers: Vec<(String, Vec<u8>)>,
        payload: Vec<u8>,
    ) -> Result<(), Refusal> {
        let cause = Sequence(cause);
        if !self.causes.contains(&cause) {
            return Err(Refusal::UnknownCause(cause));
        }
        if let Err(why) = check_subject(&subject) {
            let end = subject.floor_char_boundary(200);
            return Err(Refusal::Subject { subject: subject.get(..end).unwrap_or_default().to_owned(), why });
        }
        let headers = headers.into_iter().map(checked_header).collect::<Result<Vec<_>, _>>()?;

        let framed = headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_FRAME).sum::<usize>();
        // `usize` is at most 64 bits wide, and these are sizes in memory.
        let size = u64::try_from(framed + payload.len()).unwrap_or(u64::MAX);
        if size > limits.publish_message_bytes {
            return Err(Refusal::MessageTooLarge { size, limit: limits.publish_message_bytes });
        }
        if self.messages.len() as u64 >= limits.publish_messages {
            return Err(Refusal::TooMany { limit: limits.publish_messages });
        }
        let bytes = self.bytes + size + subject.len() as u64;
        if bytes > limits.publish_bytes {
            return Err(Refusal::TooMuch { size: bytes, limit: limits.publish_bytes });
        }
        self.bytes = bytes;
        self.messages.push(Publish { cause, subject, headers, payload: payload.into() });
        Ok(())
    }
}

fn check_subject(subject: &str) -> Result<(), &'static str> {
    if subject.is_empty() {
        return Err("it is empty");
    }
    if subject.len() > MAX_SUBJECT_BYTES {
        return Err("it is longer than 2048 bytes");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has whitespace or control characters");
    }
    if subject.contains(['*', '>']) {
        return Err("wildcards are for subscribing");
    }
    if subject.split('.').any(str::is_empty) {
        return Err("it has an empty token");
    }
    let first = subject.split('.').next().unwrap_or_default();
    if first.starts_with('$') || RESERVED_TOKENS.contains(&first) {
        return Err("it belongs to the server or to the workers");
    }
    Ok(())
}

/// The header as text, if NATS takes it and the host does not set it itself.
fn checked_header((name, value): (String, Vec<u8>)) -> Result<(String, String), Refusal> {
    // The characters of RFC 9110 field names that NATS servers and clients agree on.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Err(Refusal::Header {
            name,
            why: "a name has printable ASCII characters other than `:`, and at least one",
        });
    }
    let reserved = RESERVED_HEADERS.iter().any(|reserved| match name.get(..reserved.len()) {
        Some(start) if start.eq_ignore_ascii_case(reserved) => reserved.ends_with('-') || name.len() == reserved.len(),
        _ => false,
    });
    if reserved {
        return Err(Refusal::Header {
            name,
            why: "the host sets it, so that nothing is published twice or out of turn",
        });
    }
    match String::from_utf8(value) {
        Ok(value) if !value.contains(['\r', '\n', '\0']) => Ok((name, value)),
        Ok(_) => Err(Refusal::Header { name, why: "its value has a line end or a zero byte" }),
        Err(_) => Err(Refusal::Header { name, why: "its value is not UTF-8" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        Outbox::new([Sequence(5), Sequence(9)].into_iter())
    }

    fn send(cause: u64, subject: &str, headers: &[(&str, &[u8])]) -> Result<(), Refusal> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        outbox().send(&Limits::default(), cause, subject.to_owned(), headers, b"x".to_vec())
    }

    #[test]
    fn only_a_message_of_the_batch_is_a_cause() {
        assert_eq!(send(5, "out.a", &[]), Ok(()));
        assert_eq!(send(9, "out.a", &[]), Ok(()));
        for cause in [0, 4, 6, 10, u64::MAX] {
            assert_eq!(send(cause, "out.a", &[]), Err(Refusal::UnknownCause(Sequence(cause))));
        }
    }

    #[test]
    fn a_subject_is_literal_and_never_the_servers_or_the_workers() {
        let long = "x".repeat(2_049);
        for subject in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a.*",
            "a.>",
            "a*",
            "a b",
            "a\r\nPUB b 0",
            "a\tb",
            "a\u{a0}b",
            "$JS.API.STREAM.DELETE.work",
            "$KV.parti.x",
            "$",
            "_INBOX.a",
            "_R_.a",
            "parti.default.released",
            &long,
        ] {
            assert!(matches!(send(5, subject, &[]), Err(Refusal::Subject { .. })), "{subject:?}");
        }
        for subject in ["a", "out.größe", "a.$b", "_INBOXES.a", "party.a", "a.%2A"] {
            assert_eq!(send(5, subject, &[]), Ok(()), "{subject:?}");
        }
    }

    #[test]
    fn headers_stay_on_their_line_and_off_the_hosts_own() {
        for (name, value) in [
            ("", b"x".as_slice()),
            ("a b", b"x"),
            ("a:b", b"x"),
            ("ä", b"x"),
            ("a\r\nb", b"x"),
            ("a", b"x\r\nNats-Msg-Id: y"),
            ("a", b"\n"),
            ("a", b"\0"),
            ("a", b"\xff"),
            ("Nats-Msg-Id", b"x"),
            ("nats-msg-id", b"x"),
            ("Nats-Expected-Last-Sequence", b"1"),
            ("NATS-EXPECTED-STREAM", b"s"),
            ("Nats-Batch-Id", b"x"),
        ] {
            assert!(matches!(send(5, "out", &[(name, value)]), Err(Refusal::Header { .. })), "{name:?} {value:?}");
        }
        assert_eq!(send(5, "out", &[("Nats-Msg-Idea", b"x"), ("traceparent", "ü:\t".as_bytes()), ("a", b"")]), Ok(()));
    }

    #[test]
    fn a_batch_publishes_no_more_than_its_limits() {
        let limits = Limits { publish_messages: 3, publish_bytes: 30, publish_message_bytes: 12, ..Limits::default() };
        let mut outbox = outbox();
        let mut send = |headers: &[(&str, &str)], bytes: usize| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
            outbox.send(&limits, 5, "out".to_owned(), headers, vec![0; bytes])
        };
        assert_eq!(send(&[], 13), Err(Refusal::MessageTooLarge { size: 13, limit: 12 }));
        assert_eq!(send(&[("a", "b")], 7), Err(Refusal::MessageTooLarge { size: 13, limit: 12 }));
        assert_eq!(send(&[("a", "b")], 6), Ok(()));
        assert_eq!(send(&[], 12), Ok(()));
        assert_eq!(send(&[], 0), Err(Refusal::TooMuch { size: 33, limit: 30 }));
        let limits = Limits { publish_bytes: 100, ..limits };
        let mut send = |bytes| outbox.send(&limits, 5, "out".to_owned(), Vec::new(), vec![0; bytes]);
        assert_eq!(send(1), Ok(()));
        assert_eq!(send(1), Err(Refusal::TooMany { limit: 3 }));
    }
}
