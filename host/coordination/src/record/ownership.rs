//! The values of the ownership bucket: who owns a partition, how far it is, and where its state is.

use super::Unreadable;
#[cfg(test)]
use crate::testing::Mutant;
use crate::{Epoch, Generation, Incarnation, Position, Sequence, Snapshot, WorkerId};
use serde::{Deserialize, Serialize};

/// Whether a partition's owner still works on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The owner works on it.
    Owned,
    /// The owner has let go; anyone the plan names may take it.
    Released,
}

/// The stream whose positions a record holds. Another `created` means that the stream was made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamIdentity {
    /// The stream's name.
    pub name: String,
    /// When the server created it: RFC 3339, as the server tells it.
    pub created: String,
}

/// Which run of which worker owns a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The worker.
    pub worker: WorkerId,
    /// Which run of it.
    #[serde(flatten)]
    pub incarnation: Incarnation,
}

/// How often the first unfinished message was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// The message.
    pub sequence: Sequence,
    /// Deliveries that have begun.
    pub count: u32,
}

/// Who owns a partition and how far it is: one entry per partition in the ownership bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnershipRecord {
    /// Format version.
    pub v: u32,
    /// The group; another group's record under our key is refused.
    pub group: String,
    /// The stream.
    pub stream: StreamIdentity,
    /// Number of this ownership.
    pub epoch: Epoch,
    /// Number of this history.
    pub generation: Generation,
    /// The owner, or the last one if released.
    pub owner: Owner,
    /// Whether the owner still works on it.
    pub phase: Phase,
    /// Everything up to here has taken effect.
    pub position: Position,
    /// A message that the owner's reader has delivered, of this partition or another, about a second before the write. Should
    /// the stream be set back, it tells so, and which of the stream's messages were not there then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Deliveries of the message after the position, if more than one has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Attempts>,
    /// How often in a row the partition was seized before all was handled that its owner may have died of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seizes: u32,
    /// A message after the position that is under suspicion of killing workers and is handed to the handler alone: how many such calls
    /// of it have begun and, but for the last, ended with the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Attempts>,
    /// Digest of the handler that wrote the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// The handler's state at the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<StoredSnapshot>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Which state of its handler a record holds. It stays the same under whatever owner: the epoch says only who has it. A later commit
/// makes another, and so does whatever begins a new history: a seek, a stream that was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateIdentity {
    /// Digest of the handler that wrote it.
    pub handler: String,
    /// The history that it belongs to.
    pub generation: Generation,
    /// It holds the effect of every message up to here.
    pub position: Position,
}

/// A message as the stream gave it. Under the same sequence with another time it is another message: the stream was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When the stream stored it, in nanoseconds since 1970.
    pub time: u64,
}

impl OwnershipRecord {
    /// Which state it holds, if it holds one of which is known who wrote it.
    #[must_use]
    pub fn state(&self) -> Option<StateIdentity> {
        let handler = self.snapshot.as_ref().and(self.handler.clone())?;
        Some(StateIdentity { handler, generation: self.generation, position: self.position })
    }

    /// What an operator writes who moves the partition: released, so that whoever the plan names takes it again from there, and
    /// of a new history, so that no message ID of the old one comes again. Whoever owned it loses its next compare. `seen` is a message
    /// that the stream holds now: what the owner has seen may be of before the stream was set back, which would move the partition again.
    #[must_use]
    pub fn moved(&self, position: Position, seen: Option<Seen>, keep_state: bool) -> Self {
        let generation = self.generation.next();
        #[cfg(test)]
        let generation = Mutant::MovedInGeneration.or(generation, self.generation);
        Self {
            epoch: self.epoch.next(),
            generation,
            phase: Phase::Released,
            position,
            seen,
            attempts: None,
            seizes: 0,
            alone: None,
            handler: self.handler.clone().filter(|_| keep_state),
            snapshot: self.snapshot.clone().filter(|_| keep_state),
            ..self.clone()
        }
    }
}

/// A snapshot as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSnapshot {
    /// The handler's name for the encoding.
    pub format: String,
    /// The state, or where it is.
    #[serde(flatten)]
    pub state: StoredState,
}

/// Where a state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredState {
    /// In the record itself, base64.
    Inline(String),
    /// In the object store, under this name.
    Object(String),
}

impl StoredSnapshot {
    /// A snapshot within the record.
    #[must_use]
    pub fn store(snapshot: &Snapshot) -> Self {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(&snapshot.data);
        Self { format: snapshot.format.clone(), state: StoredState::Inline(data) }
    }

    /// The name of the object that holds the state, if one does.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        match &self.state {
            StoredState::Object(name) => Some(name),
            StoredState::Inline(_) => None,
        }
    }

    /// The snapshot that the record itself holds.
    ///
    /// # Errors
    /// It is in the object store, or the text is not base64.
    pub fn load(&self) -> Result<Snapshot, Unreadable> {
        use base64::Engine as _;
        let data = match &self.state {
            StoredState::Inline(text) => base64::engine::general_purpose::STANDARD.decode(text),
            StoredState::Object(name) => return Err(Unreadable(format!("snapshot: it is the object {name:?}"))),
        };
        let data = data.map_err(|e| Unreadable(format!("snapshot: {e}")))?;
        Ok(Snapshot { format: self.format.clone(), data })
    }
}

/// The name of an object that holds a state: `<record key>/<epoch>/<digest>`. No two partitions and no two ownerships share one.
#[must_use]
pub fn object_name(record_key: &str, epoch: Epoch, digest: &str) -> String {
    format!("{record_key}/{epoch}/{digest}")
}

/// The record key, the epoch and the digest of an object's name.
#[must_use]
pub fn object_parts(name: &str) -> Option<(&str, Epoch, &str)> {
    let (rest, digest) = name.rsplit_once('/')?;
    let (key, epoch) = rest.rsplit_once('/')?;
    Some((key, Epoch(epoch.parse().ok()?), digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FORMAT, decode, encode};
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_state_is_in_the_record_or_named_by_it_and_later_fields_are_ignored() {
        let snapshot = Snapshot { format: "list".into(), data: b"1,2".to_vec() };
        let inline = StoredSnapshot::store(&snapshot);
        assert_eq!(encode(&inline).unwrap(), r#"{"format":"list","inline":"MSwy"}"#);
        assert_eq!((inline.load(), inline.object()), (Ok(snapshot), None));
        let named = object_name("a/b", Epoch(7), "f00");
        let found = format!(r#"{{"v":{FORMAT},"format":"list","object":"{named}","later":{{"x":1}}}}"#);
        let found: StoredSnapshot = decode(found.as_bytes()).unwrap();
        assert_eq!(found.object().and_then(object_parts), Some(("a/b", Epoch(7), "f00")));
        assert!(found.load().is_err());
        assert!(decode::<StoredSnapshot>(br#"{"v":1,"format":"list"}"#).is_err());
        for odd in ["", "a", "a/b", "a/x/f00", "a/-1/f00"] {
            assert_eq!(object_parts(odd), None, "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn every_state_comes_back_from_its_record_as_it_was(format in ".*", data in vec(any::<u8>(), 0..200)) {
            let snapshot = Snapshot { format, data };
            let stored = encode(&StoredSnapshot::store(&snapshot)).unwrap();
            let with_version = stored.replacen('{', &format!("{{\"v\":{FORMAT},"), 1);
            let found: StoredSnapshot = decode(with_version.as_bytes()).unwrap();
            prop_assert_eq!(found.load(), Ok(snapshot));
        }

        #[test]
        fn a_record_that_somebody_has_spoilt_is_unreadable_and_nothing_worse(
            at in any::<proptest::sample::Index>(), byte in any::<u8>(), junk in vec(any::<u8>(), 0..40),
        ) {
            let snapshot = Snapshot { format: "list".into(), data: b"1,2,3,4,5,6".to_vec() };
            let mut spoilt = encode(&StoredSnapshot::store(&snapshot)).unwrap().into_bytes();
            let at = at.index(spoilt.len());
            spoilt[at] = byte;
            for bytes in [&spoilt, &junk] {
                if let Ok(found) = decode::<StoredSnapshot>(bytes) {
                    prop_assert!(found.load().is_ok() || found.load().unwrap_err().0.contains("snapshot"));
                }
                // A whole record lacks more than this one has.
                prop_assert!(decode::<OwnershipRecord>(bytes).is_err());
            }
        }
    }
}
