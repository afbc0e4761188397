//! The part of the NATS client protocol that a reader hears (docs.nats.io, "Client Protocol").

use super::WireError;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Bytes of the longest line. An `INFO` line may come at any time and lists every server of a cluster.
pub(super) const MAX_LINE: usize = 256 * 1024;

/// Bytes of the largest message: the server counts them in 32 bits, with a sign.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// What one read has brought: messages, in order, in one piece of memory.
#[derive(Debug, Default)]
pub(in crate::nats) struct Batch {
    data: Bytes,
    frames: Vec<Frame>,
    /// The server has refused something. Comes after the messages.
    pub(in crate::nats) refused: Option<String>,
}

/// A message in a [`Batch`], by its places there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Frame {
    subject: Range<usize>,
    reply: Range<usize>,
    headers: Range<usize>,
    payload: Range<usize>,
}

impl Batch {
    /// Nothing but why nothing more comes.
    pub(super) fn refused(why: String) -> Self {
        Self { refused: Some(why), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.refused.is_none()
    }

    /// The message at this place.
    pub(in crate::nats) fn frame(&self, at: usize) -> Option<&Frame> {
        self.frames.get(at)
    }

    /// The subject that a message was published to.
    pub(in crate::nats) fn subject(&self, frame: &Frame) -> Bytes {
        self.data.slice(frame.subject.clone())
    }

    /// Where a message wants its answer. Empty if nowhere.
    pub(in crate::nats) fn reply(&self, frame: &Frame) -> Bytes {
        if frame.reply.is_empty() { Bytes::new() } else { self.data.slice(frame.reply.clone()) }
    }

    /// The block of headers. Empty if there is none.
    pub(in crate::nats) fn headers(&self, frame: &Frame) -> Bytes {
        if frame.headers.is_empty() { Bytes::new() } else { self.data.slice(frame.headers.clone()) }
    }

    /// The content.
    pub(in crate::nats) fn payload(&self, frame: &Frame) -> Bytes {
        if frame.payload.is_empty() { Bytes::new() } else { self.data.slice(frame.payload.clone()) }
    }
}

/// What was found in a buffer.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) batch: Batch,
    /// Pings to be answered.
    pub(super) pings: usize,
    /// Bytes that the message at the end of the buffer lacks at least.
    pub(super) missing: usize,
}

/// Takes everything that is complete out of the buffer.
pub(super) fn parse(buffer: &mut BytesMut) -> Result<Parsed, WireError> {
    let mut parsed = Parsed::default();
    let mut at = 0;
    while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if rest.len() > MAX_LINE {
                return Err(WireError::Protocol("a line without end".to_owned()));
            }
            break;
        };
        let line = rest.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let begin = at + end + 1;
        match operation(line)? {
            Operation::Message { subject, reply, header_bytes, bytes } => {
                let next = begin + bytes + 2;
                if buffer.len() < next {
                    parsed.missing = next - buffer.len();
                    break;
                }
                if buffer.get(next - 2..next) != Some(b"\r\n") {
                    return Err(WireError::Protocol("a message does not end where it should".to_owned()));
                }
                parsed.batch.frames.push(Frame {
                    subject: at + subject.start..at + subject.end,
                    reply: at + reply.start..at + reply.end,
                    headers: begin..begin + header_bytes,
                    payload: begin + header_bytes..begin + bytes,
                });
                at = next;
            }
            Operation::Ping => {
                parsed.pings += 1;
                at = begin;
            }
            Operation::Refused(text) => {
                parsed.batch.refused.get_or_insert(text);
                at = begin;
            }
            Operation::Other => at = begin,
        }
    }
    parsed.batch.data = buffer.split_to(at).freeze();
    Ok(parsed)
}

enum Operation {
    /// Places are those in the line.
    Message {
        subject: Range<usize>,
        reply: Range<usize>,
        header_bytes: usize,
        bytes: usize,
    },
    Ping,
    Refused(String),
    /// Nothing that a reader has to heed.
    Other,
}

fn operation(line: &[u8]) -> Result<Operation, WireError> {
    match line {
        [b'M', b'S', b'G', b' ', ..] => message(line, 4, false),
        [b'H', b'M', b'S', b'G', b' ', ..] => message(line, 5, true),
        b"PING" => Ok(Operation::Ping),
        b"PONG" | b"+OK" => Ok(Operation::Other),
        [b'I', b'N', b'F', b'O', b' ', ..] => Ok(Operation::Other),
        [b'-', b'E', b'R', b'R', text @ ..] => Ok(Operation::Refused(refusal(text))),
        _ => {
            let line = String::from_utf8_lossy(line.get(..line.len().min(64)).unwrap_or_default()).into_owned();
            Err(WireError::Protocol(format!("the server says {line:?}")))
        }
    }
}

/// The words of an `-ERR` line.
pub(super) fn refusal(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().trim_matches('\'').to_owned()
}

/// `MSG subject sid [reply] bytes`, or `HMSG subject sid [reply] header-bytes bytes`.
fn message(line: &[u8], begin: usize, with_headers: bool) -> Result<Operation, WireError> {
    let bad = || WireError::Protocol("a message is announced in a way that is not understood".to_owned());
    let mut words: [Range<usize>; 5] = Default::default();
    let mut count = 0;
    let mut at = begin;
    while at <= line.len() {
        let rest = line.get(at..).unwrap_or_default();
        let length = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        if length > 0 {
            *words.get_mut(count).ok_or_else(bad)? = at..at + length;
            count += 1;
        }
        at += length + 1;
    }
    let sizes = if with_headers { 2 } else { 1 };
    let [subject, _, third, fourth, fifth] = words;
    // Without a reply the sizes come at once.
    let (reply, first_size, second_size) = match count.checked_sub(sizes) {
        Some(2) => (0..0, third, fourth),
        Some(3) => (third, fourth, fifth),
        _ => return Err(bad()),
    };
    let size = |range: Range<usize>| number(line.get(range)?).and_then(|size| usize::try_from(size).ok());
    let first = size(first_size).ok_or_else(bad)?;
    let (header_bytes, bytes) = if with_headers { (first, size(second_size).ok_or_else(bad)?) } else { (0, first) };
    // A limit of the server is one of headers and payload together.
    if header_bytes > bytes || bytes > MAX_MESSAGE {
        return Err(bad());
    }
    Ok(Operation::Message { subject, reply, header_bytes, bytes })
}

/// A number in decimal digits, and nothing else.
pub(in crate::nats) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(u64::from(digit))).flatten()
    })
}
