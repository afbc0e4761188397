//! The ownership bucket as an operator sees it: records, and why one is none.

use super::fleet::{Fleet, api_error};
use crate::error::OperatorError;
use parti_coordination::record::{self, OwnershipRecord};
use parti_coordination::{PartitionId, StoredEntry};
use std::collections::BTreeMap;

/// A partition's record, or why it cannot be used.
pub(super) type Found = Result<OwnershipRecord, String>;

/// Reads a value of the bucket.
pub(super) fn understand(value: &[u8], group: &str, stream: Option<&str>) -> Found {
    let record: OwnershipRecord = record::decode(value).map_err(|error| error.to_string())?;
    if record.group != group {
        return Err(format!("the record belongs to group {:?}", record.group));
    }
    match stream {
        Some(stream) if stream != record.stream.name => {
            Err(format!("the record holds a position of stream {:?}", record.stream.name))
        }
        _ => Ok(record),
    }
}

/// Every record, without the handlers' states, which may be large together.
pub(super) async fn all(
    fleet: &Fleet,
    group: &str,
    stream: Option<&str>,
) -> Result<BTreeMap<PartitionId, Found>, OperatorError> {
    let mut records = BTreeMap::new();
    let listed = fleet.ownership.each(None, |key, StoredEntry { value, .. }| {
        // A key that is no partition's is nobody's.
        let (Some(id), Some(value)) = (PartitionId::from_record_key(&key), value) else { return };
        let found = understand(&value, group, stream);
        records.insert(id, found.map(|record| OwnershipRecord { snapshot: None, ..record }));
    });
    listed.await.map_err(|error| api_error("the ownership records", &error))?;
    Ok(records)
}
