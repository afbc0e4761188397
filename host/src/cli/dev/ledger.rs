//! What was published, and what follows from it: the account that the fleet's results are compared with.

use super::input;
use bytes::Bytes;
use control_chart_math::{Chart, Settings};
use parti_coordination::{Partition, PartitionId, Sequence};
use serde_json::{Map, Value};

/// What was published, per partition.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    /// One entry per partition.
    pub(super) entries: Vec<Entry>,
    /// The field with the readings, where the handler is the control chart.
    field: Option<String>,
    /// Last message of all.
    last: Sequence,
}

/// What was published to one partition.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The partition.
    pub(super) id: PartitionId,
    /// How many messages.
    pub(super) published: u64,
    /// The last one.
    pub(super) last: Sequence,
    /// The statistics of the readings, computed here.
    pub(super) chart: Chart,
    /// The messages that raise an alarm.
    pub(super) alarms: Vec<Sequence>,
}

/// Why a message cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    /// The stream stored messages in another order than they were sent in.
    #[error("message {0} was stored before a message that was sent earlier")]
    Order(Sequence),
    /// No reading, although every message was checked.
    #[error("message {0} has no reading")]
    Reading(Sequence),
}

impl Ledger {
    /// An empty ledger. With a `field`, statistics are computed of the readings in it.
    pub(super) fn new(partitions: &[Partition], field: Option<String>) -> Self {
        let entry = |partition: &Partition| Entry {
            id: partition.id().clone(),
            published: 0,
            last: Sequence(0),
            chart: Chart::default(),
            alarms: Vec::new(),
        };
        Self { entries: partitions.iter().map(entry).collect(), field, last: Sequence(0) }
    }

    /// Whether statistics are computed.
    pub(super) fn has_charts(&self) -> bool {
        self.field.is_some()
    }

    /// Messages of all partitions.
    pub(super) fn published(&self) -> u64 {
        self.entries.iter().map(|entry| entry.published).sum()
    }

    /// Enters a message that the stream has confirmed.
    ///
    /// # Errors
    /// The stream's order is not ours, or the payload is not what was checked.
    pub(super) fn enter(&mut self, partition: usize, sequence: Sequence, payload: &Bytes) -> Result<(), EntryError> {
        if sequence <= self.last {
            return Err(EntryError::Order(sequence));
        }
        self.last = sequence;
        let Some(entry) = self.entries.get_mut(partition) else { return Ok(()) };
        entry.published += 1;
        entry.last = sequence;
        if let Some(field) = &self.field {
            let unreadable = || EntryError::Reading(sequence);
            let object: Map<String, Value> = serde_json::from_slice(payload).map_err(|_| unreadable())?;
            let reading = input::reading(&object, field).ok_or_else(unreadable)?;
            let alarm = entry.chart.add(&Settings::default(), sequence.0, reading).map_err(|_| unreadable())?;
            entry.alarms.extend(alarm.map(|alarm| Sequence(alarm.sequence)));
        }
        Ok(())
    }
}
