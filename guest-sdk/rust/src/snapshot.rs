//! A handler's state as JSON, under a name that tells versions of a plugin apart.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Snapshot;

/// A state that cannot be written or read. Its text tells the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The snapshot is of another format than the one asked for.
    #[error(
        "the partition's snapshot has the format `{found}`, but this version of the plugin reads `{expected}`: deploy a \
         version that reads `{found}`, or discard the state"
    )]
    Format {
        /// The format in the snapshot.
        found: String,
        /// The format that the plugin asked for.
        expected: String,
    },
    /// The data does not have the shape that its format name promises.
    #[error("the partition's snapshot cannot be read as `{format}`: {source}")]
    Read {
        /// The format in the snapshot.
        format: String,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// The state has no JSON form.
    #[error("the state cannot be written as `{format}`: {source}")]
    Write {
        /// The format that was asked for.
        format: String,
        /// What the JSON writer says.
        source: serde_json::Error,
    },
}

impl Snapshot {
    /// A state as JSON. Name the format after the plugin and the version of the shape, and raise the version when an old
    /// plugin could no longer read it.
    ///
    /// Floating point numbers come back bit by bit, except that JSON has no infinities and no NaN: they are written as
    /// `null`, which does not read back as a number. Keep them out of the state.
    ///
    /// ```
    /// use parti_guest::Snapshot;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    /// struct Count {
    ///     orders: u64,
    /// }
    ///
    /// let snapshot = Snapshot::json("count/1", &Count { orders: 7 })?;
    /// assert_eq!(snapshot.read_json::<Count>("count/1")?, Count { orders: 7 });
    /// assert!(snapshot.read_json::<Count>("count/2").is_err());
    /// # Ok::<(), parti_guest::SnapshotError>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(format: &str, state: &T) -> Result<Self, SnapshotError> {
        match serde_json::to_vec(state) {
            Ok(data) => Ok(Self { format: format.into(), data }),
            Err(source) => Err(SnapshotError::Write { format: format.into(), source }),
        }
    }

    /// The state again, if this snapshot has the format.
    pub fn read_json<T: DeserializeOwned>(&self, format: &str) -> Result<T, SnapshotError> {
        if self.format != format {
            return Err(SnapshotError::Format { found: self.format.clone(), expected: format.into() });
        }
        serde_json::from_slice(&self.data).map_err(|source| SnapshotError::Read { format: format.into(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_format_is_refused_with_both_names() {
        let snapshot = Snapshot::json("old/1", &1).unwrap();
        let error = snapshot.read_json::<u8>("new/2").unwrap_err().to_string();
        assert!(error.contains("`old/1`") && error.contains("`new/2`"), "{error}");
    }

    #[test]
    fn damaged_data_is_refused_with_its_format() {
        let snapshot = Snapshot { format: "count/1".into(), data: b"{\"orders\":".to_vec() };
        let error = snapshot.read_json::<serde_json::Value>("count/1").unwrap_err().to_string();
        assert!(error.contains("`count/1`") && error.contains("EOF"), "{error}");
    }

    #[test]
    fn floating_point_state_comes_back_bit_by_bit() {
        // The second one is off by one unit in the last place with a JSON reader that trades exactness for speed.
        for number in [0.1 + 0.2, 55.393_536_131_272_924, f64::MIN_POSITIVE, 1.797_693_134_862_315_7e308, -0.0] {
            let snapshot = Snapshot::json("f/1", &number).unwrap();
            assert_eq!(snapshot.read_json::<f64>("f/1").unwrap().to_bits(), number.to_bits(), "{number}");
        }
    }
}
