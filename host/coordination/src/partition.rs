//! Partitions and their ids.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// The weight of a partition that names none.
pub const DEFAULT_WEIGHT: u64 = 100;

/// The name of a partition: its keys joined by `.`, each key escaped so that two key lists never share an id.
///
/// The same text is the partition's part of the subject, the argument on the command line and the field in logs. A key
/// keeps every character that a NATS subject token can hold; whitespace, control characters, `.`, `*`, `>` and the escape
/// character `%` itself become `%` and two hexadecimal digits per byte. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(Arc<str>);

/// Why a list of keys names no partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPartition {
    /// No key at all.
    #[error("a partition needs at least one key")]
    NoKeys,
    /// An empty text among the keys: a NATS subject cannot hold an empty token.
    #[error("key {index} of the partition is empty")]
    EmptyKey {
        /// Which key, counted from 0.
        index: usize,
    },
    /// Longer than a subject may reasonably be.
    #[error("the partition's id is {length} bytes long; at most {max} are possible")]
    TooLong {
        /// Bytes of the id.
        length: usize,
        /// The most that is possible.
        max: usize,
    },
}

/// Bytes of the longest id. NATS takes subjects up to the size of its control line (4 KiB); bucket and template need room.
const MAX_ID_BYTES: usize = 1024;

impl PartitionId {
    /// The id of the partition with these keys.
    ///
    /// # Errors
    /// No keys, an empty key, or an id of more than 1024 bytes.
    pub fn from_keys<K: AsRef<str>>(keys: &[K]) -> Result<Self, InvalidPartition> {
        if keys.is_empty() {
            return Err(InvalidPartition::NoKeys);
        }
        let mut id = String::new();
        for (index, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            if key.is_empty() {
                return Err(InvalidPartition::EmptyKey { index });
            }
            if index > 0 {
                id.push('.');
            }
            for c in key.chars() {
                if c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '%') {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        // Writing to a `String` cannot fail.
                        let _ = write!(id, "%{byte:02X}");
                    }
                } else {
                    id.push(c);
                }
            }
        }
        if id.len() > MAX_ID_BYTES {
            return Err(InvalidPartition::TooLong { length: id.len(), max: MAX_ID_BYTES });
        }
        Ok(Self(id.into()))
    }

    /// The id with this text, as a command line or another program has it.
    ///
    /// # Errors
    /// No list of keys has this id.
    pub fn parse(text: &str) -> Result<Self, NoPartitionId> {
        let no_id = || NoPartitionId(text.to_owned());
        let keys: Option<Vec<String>> = text.split('.').map(|key| unescape(key, '%')).collect();
        let id = Self::from_keys(&keys.ok_or_else(no_id)?).map_err(|_| no_id())?;
        if id.as_str() == text { Ok(id) } else { Err(no_id()) }
    }

    /// The partition whose record has this key, if one can: the inverse of [`record_key`](Self::record_key).
    #[must_use]
    pub fn from_record_key(key: &str) -> Option<Self> {
        Self::parse(&unescape(key, '=')?).ok().filter(|id| id.record_key() == key)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the partition's record in a KV bucket. KV keys hold only ASCII letters, digits and `-/_=.`, so every other
    /// byte, and `=` itself, becomes `=` and two hexadecimal digits.
    #[must_use]
    pub fn record_key(&self) -> String {
        let mut key = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'.') {
                key.push(char::from(byte));
            } else {
                let _ = write!(key, "={byte:02X}");
            }
        }
        key
    }
}

/// A text that is no partition's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no partition id: it is the keys joined by `.`, and in a key whitespace, `.`, `*`, `>` and `%` are written as `%` \
     and two hexadecimal digits"
)]
pub struct NoPartitionId(pub String);

/// Undoes an escaping of bytes as `mark` and two hexadecimal digits. `None` if it is none, or no text.
fn unescape(text: &str, mark: char) -> Option<String> {
    let mut parts = text.split(mark);
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unit of work: everything in it is processed in order, by one worker at a time. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    id: PartitionId,
    keys: Arc<[String]>,
    weight: u64,
}

impl Partition {
    /// A partition with these keys and this relative cost.
    ///
    /// # Errors
    /// See [`PartitionId::from_keys`].
    pub fn new(keys: Vec<String>, weight: u64) -> Result<Self, InvalidPartition> {
        Ok(Self { id: PartitionId::from_keys(&keys)?, keys: keys.into(), weight })
    }

    /// The partition's name.
    #[must_use]
    pub fn id(&self) -> &PartitionId {
        &self.id
    }

    /// The keys, as its source gave them.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Relative processing cost.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }
}

impl Serialize for PartitionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[derive(Serialize)]
struct PartitionOut<'a> {
    keys: &'a [String],
    weight: u64,
}

#[derive(Deserialize)]
struct PartitionIn {
    keys: Vec<String>,
    #[serde(default = "default_weight")]
    weight: u64,
}

fn default_weight() -> u64 {
    DEFAULT_WEIGHT
}

impl Serialize for Partition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PartitionOut { keys: &self.keys, weight: self.weight }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Partition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = PartitionIn::deserialize(deserializer)?;
        Partition::new(wire.keys, wire.weight).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(keys: &[&str]) -> String {
        PartitionId::from_keys(keys).unwrap().to_string()
    }

    #[test]
    fn plain_keys_are_joined_as_they_are() {
        assert_eq!(id(&["tool-07", "chamber-2"]), "tool-07.chamber-2");
        assert_eq!(id(&["größe:€", "a/b"]), "größe:€.a/b");
    }

    #[test]
    fn keys_that_would_collide_when_joined_are_kept_apart() {
        assert_ne!(id(&["a.b"]), id(&["a", "b"]));
        assert_ne!(id(&["a%2Eb"]), id(&["a.b"]));
        assert_eq!(id(&["* >"]), "%2A%20%3E");
    }

    #[test]
    fn what_names_no_partition_is_refused() {
        assert_eq!(PartitionId::from_keys::<&str>(&[]), Err(InvalidPartition::NoKeys));
        assert_eq!(PartitionId::from_keys(&["a", ""]), Err(InvalidPartition::EmptyKey { index: 1 }));
        assert!(matches!(PartitionId::from_keys(&["x".repeat(1025)]), Err(InvalidPartition::TooLong { .. })));
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        for text in ["", ".", "a..b", "a.", "*", "a b", "a%2", "a%zz", "a%2e", "a%41", "%FF", "a%é", "a>", "a\n"] {
            assert_eq!(PartitionId::parse(text), Err(NoPartitionId(text.into())));
        }
        for key in ["", ".", "a=", "a=4", "a=41", "a=zz", "=FF", "a%41"] {
            assert_eq!(PartitionId::from_record_key(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn two_key_lists_never_share_an_id_or_a_record_key(
            a in proptest::collection::vec("[a%.=*é \\x00]{1,4}", 1..4),
            b in proptest::collection::vec("[a%.=*é \\x00]{1,4}", 1..4),
        ) {
            let (x, y) = (PartitionId::from_keys(&a).unwrap(), PartitionId::from_keys(&b).unwrap());
            prop_assert_eq!(a == b, x == y);
            prop_assert_eq!(a == b, x.record_key() == y.record_key());
            prop_assert_eq!(PartitionId::parse(x.as_str()), Ok(x.clone()));
            prop_assert_eq!(PartitionId::from_record_key(&x.record_key()), Some(x.clone()));
            prop_assert!(x.record_key().bytes().all(|c| c.is_ascii_alphanumeric() || b"-/_=.".contains(&c)));
        }
    }
}
