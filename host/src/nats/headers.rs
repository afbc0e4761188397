//! The headers of a message, as the server sends them.
//!
//! Kept as they came, because most handlers look at none of them and a copy of each would cost more than the rest of a
//! message. Whoever asks gets them in their order, every value of a repeated name, and values that are no text as they are:
//! the client library gives one value of each name, and cannot read a message with such a value at all.

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// The first line of a block names the protocol.
const PROTOCOL: &[u8] = b"NATS/1.0";

/// The headers of one message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// The block of the protocol, first line included; nothing at all if there are none.
    block: Bytes,
}

impl Headers {
    /// Headers as they stand in a message of the protocol.
    #[must_use]
    pub fn from_block(block: Bytes) -> Self {
        Self { block }
    }

    /// These headers, in this order.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut block = PROTOCOL.to_vec();
        let mut some = false;
        for (name, value) in pairs {
            some = true;
            block.extend_from_slice(b"\r\n");
            block.extend_from_slice(name.as_bytes());
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
        }
        block.extend_from_slice(b"\r\n\r\n");
        Self { block: if some { block.into() } else { Bytes::new() } }
    }

    /// Names and values in their order. A name may come several times.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, &[u8])> {
        pairs(&self.block)
    }

    /// The first value of a header, as text as far as it is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.iter().find(|(key, _)| key == name).map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// The same, as text as far as it is.
    #[must_use]
    pub fn texts(&self) -> Vec<(String, String)> {
        self.iter().map(|(name, value)| (name.into_owned(), String::from_utf8_lossy(value).into_owned())).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The block of the protocol.
    #[must_use]
    pub fn block(&self) -> &Bytes {
        &self.block
    }

    /// What the server says instead of a message: its code and its words. `None` for a message.
    pub(super) fn status(&self) -> Option<(u16, Cow<'_, str>)> {
        let line = self.block.strip_prefix(PROTOCOL)?;
        let end = line.windows(2).position(|pair| pair == b"\r\n").unwrap_or(line.len());
        let line = String::from_utf8_lossy(line.get(..end).unwrap_or_default()).trim().to_owned();
        let (code, words) = line.split_once(' ').unwrap_or((&line, ""));
        Some((code.parse().ok()?, Cow::Owned(words.to_owned())))
    }
}

/// Names and values in a block of the protocol, in their order.
pub fn pairs(block: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, &[u8])> {
    let mut rest = block;
    let lines = std::iter::from_fn(move || {
        let end = memchr::memmem::find(rest, b"\r\n")?;
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(2..).unwrap_or_default();
        Some(line)
    });
    lines.skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        Some((String::from_utf8_lossy(name), value.get(1..).unwrap_or_default().trim_ascii()))
    })
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}

impl From<&async_nats::HeaderMap> for Headers {
    fn from(map: &async_nats::HeaderMap) -> Self {
        let pairs = map.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        Self::from_pairs(pairs.map(|(name, value)| (name.as_ref(), value.as_str().as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_their_repetitions_and_values_that_are_no_text() {
        let block = Bytes::from_static(b"NATS/1.0\r\nB: 2\r\nA:1\r\nB:  \xff:x \r\nempty:\r\nno colon\r\n\r\n");
        let headers = Headers::from_block(block);
        let found: Vec<_> = headers.iter().map(|(name, value)| (name.into_owned(), value.to_vec())).collect();
        let pair = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        assert_eq!(found, [pair("B", b"2"), pair("A", b"1"), pair("B", b"\xff:x"), pair("empty", b"")]);
        assert_eq!((headers.get("B").unwrap(), headers.get("b")), ("2".into(), None));
        assert_eq!(headers.status(), None);
        let again = Headers::from_pairs(found.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        assert_eq!(again.iter().count(), 4);
        assert!(Headers::from_pairs([]).is_empty() && Headers::default().iter().next().is_none());
    }

    #[test]
    fn what_the_server_says_is_told_from_messages() {
        let status = |block: &'static [u8]| {
            Headers::from_block(Bytes::from_static(block)).status().map(|(code, words)| (code, words.into_owned()))
        };
        assert_eq!(status(b"NATS/1.0 100 Idle Heartbeat\r\nA: 1\r\n\r\n"), Some((100, "Idle Heartbeat".to_owned())));
        assert_eq!(status(b"NATS/1.0 503\r\n\r\n"), Some((503, String::new())));
        for other in [&b"NATS/1.0\r\nA: 1\r\n\r\n"[..], b"NATS/1.0 x\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n"] {
            assert_eq!(status(other), None);
        }
    }
}
