//! Compares what the fleet has left behind with what follows from what was published.
//!
//! A chart holds count, mean, squares and EWMA of the readings. The EWMA and the mean depend on the order in which readings
//! come, and both are compared bit by bit, so a message that was lost, handled twice or handled in another order shows.

use super::broker::{RaisedAlarm, Records};
use super::ledger::{Entry, Ledger};
use control_chart_math::Chart;
use parti_coordination::record::OwnershipRecord;
use parti_coordination::{Epoch, PartitionId, Position};
use std::collections::BTreeMap;
use std::fmt;

/// What the control chart calls its state.
const FORMAT: &str = "control-chart/1";

/// What became of everything that was published.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    /// One row per partition, in the ledger's order.
    pub(super) rows: Vec<Row>,
    /// What the alarms stream holds, where the handler is the control chart.
    pub(super) alarms: Option<Alarms>,
}

/// What became of a partition's messages.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The partition.
    pub(super) id: PartitionId,
    /// Messages published.
    pub(super) published: u64,
    /// Alarms that they raise.
    pub(super) alarms: usize,
    /// How many owners the partition has had; 0 if none.
    pub(super) owners: u64,
    /// The committed chart, where there is one.
    pub(super) chart: Option<Chart>,
    /// The committed position.
    pub(super) position: Position,
    /// The result.
    pub(super) finding: Finding,
}

/// How a partition's committed result compares with the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Everything was handled once and in order, and that is committed.
    Equal,
    /// Nobody ever owned the partition.
    NoRecord,
    /// The record is not what it should be.
    Unreadable(String),
    /// The committed position is before the last message.
    Behind(Position),
    /// So many messages less than published are in the state.
    Lost(u64),
    /// So many messages more than published are in the state.
    Repeated(u64),
    /// As many messages as published are in the state, but it is another state.
    Disordered,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => f.write_str("equal"),
            Self::NoRecord => f.write_str("never owned"),
            Self::Unreadable(why) => write!(f, "unreadable: {why}"),
            Self::Behind(position) => write!(f, "committed only up to {position}"),
            Self::Lost(messages) => write!(f, "{messages} lost"),
            Self::Repeated(messages) => write!(f, "{messages} handled twice"),
            Self::Disordered => f.write_str("out of order"),
        }
    }
}

/// The alarms stream against the alarms that the readings raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarms {
    /// Raised by the readings.
    pub(super) expected: u64,
    /// Of these, not in the stream.
    pub(super) missing: u64,
    /// More than once in the stream: the surplus.
    pub(super) repeated: u64,
    /// In the stream, raised by no reading.
    pub(super) unexpected: u64,
}

impl Alarms {
    /// Whether each is there once, and nothing else is.
    pub(super) fn are_clean(&self) -> bool {
        self.missing + self.repeated + self.unexpected == 0
    }
}

impl Verdict {
    /// Whether everything is as it must be.
    pub(super) fn is_clean(&self) -> bool {
        self.alarms.is_none_or(|alarms| alarms.are_clean()) && self.rows.iter().all(|row| row.finding == Finding::Equal)
    }

    /// Messages that are in no committed state.
    pub(super) fn lost(&self) -> u64 {
        let lost = self.rows.iter().map(|row| match row.finding {
            Finding::Lost(messages) => messages,
            Finding::NoRecord => row.published,
            _ => 0,
        });
        lost.sum()
    }

    /// Messages and alarms that took effect more than once.
    pub(super) fn duplicated(&self) -> u64 {
        let repeated =
            self.rows.iter().map(|row| if let Finding::Repeated(messages) = row.finding { messages } else { 0 });
        repeated.sum::<u64>() + self.alarms.map_or(0, |alarms| alarms.repeated)
    }

    /// Partitions whose messages took effect in another order.
    pub(super) fn disordered(&self) -> usize {
        self.rows.iter().filter(|row| row.finding == Finding::Disordered).count()
    }

    /// Partitions as they must be.
    pub(super) fn equal(&self) -> usize {
        self.rows.iter().filter(|row| row.finding == Finding::Equal).count()
    }
}

/// Compares the committed records, and the alarms where the handler raises some, with the ledger.
pub(super) fn judge(ledger: &Ledger, records: &Records, alarms: Option<&[RaisedAlarm]>) -> Verdict {
    let rows = ledger.entries.iter().map(|entry| row(entry, records.get(&entry.id.record_key()), ledger.has_charts()));
    Verdict { rows: rows.collect(), alarms: alarms.map(|found| compare_alarms(ledger, found)) }
}

/// Whether every message is in a committed state, as far as positions tell.
pub(super) fn is_handled(ledger: &Ledger, records: &Records) -> bool {
    ledger.entries.iter().all(|entry| {
        entry.published == 0
            || matches!(records.get(&entry.id.record_key()), Some(Ok(record)) if record.position >= Position::from(entry.last))
    })
}

fn row(entry: &Entry, record: Option<&Result<OwnershipRecord, String>>, has_charts: bool) -> Row {
    let row = |owners, chart, position, finding| Row {
        id: entry.id.clone(),
        published: entry.published,
        alarms: entry.alarms.len(),
        owners,
        chart,
        position,
        finding,
    };
    let record = match record {
        // Nothing was to be done, so nobody needed to own it yet.
        None if entry.published == 0 => return row(0, None, Position(0), Finding::Equal),
        None => return row(0, None, Position(0), Finding::NoRecord),
        Some(Err(why)) => return row(0, None, Position(0), Finding::Unreadable(why.clone())),
        Some(Ok(record)) => record,
    };
    let (Epoch(owners), position) = (record.epoch, record.position);
    let chart = match has_charts.then(|| chart_of(record)).transpose() {
        Ok(chart) => chart,
        Err(why) => return row(owners, None, position, Finding::Unreadable(why)),
    };
    let finding = match &chart {
        Some(found) if found.count < entry.chart.count => Finding::Lost(entry.chart.count - found.count),
        Some(found) if found.count > entry.chart.count => Finding::Repeated(found.count - entry.chart.count),
        Some(found) if !same(found, &entry.chart) => Finding::Disordered,
        _ if position < Position::from(entry.last) => Finding::Behind(position),
        _ => Finding::Equal,
    };
    row(owners, chart, position, finding)
}

/// The chart that a record holds; a new one before the first message.
fn chart_of(record: &OwnershipRecord) -> Result<Chart, String> {
    let Some(stored) = &record.snapshot else { return Ok(Chart::default()) };
    if stored.format != FORMAT {
        return Err(format!("its state is of format {:?}, not {FORMAT:?}", stored.format));
    }
    let snapshot = stored.load().map_err(|error| error.to_string())?;
    serde_json::from_slice(&snapshot.data).map_err(|error| format!("its state is no chart: {error}"))
}

/// Equal to the last bit.
fn same(a: &Chart, b: &Chart) -> bool {
    let bits = |chart: &Chart| [chart.mean, chart.m2, chart.ewma].map(f64::to_bits);
    a.count == b.count && a.last_sequence == b.last_sequence && bits(a) == bits(b)
}

fn compare_alarms(ledger: &Ledger, found: &[RaisedAlarm]) -> Alarms {
    // How often each alarm is in the stream.
    let mut times: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for alarm in found {
        *times.entry((alarm.partition.as_str(), alarm.sequence)).or_default() += 1;
    }
    let mut alarms = Alarms { expected: 0, missing: 0, repeated: 0, unexpected: 0 };
    for entry in &ledger.entries {
        for sequence in &entry.alarms {
            alarms.expected += 1;
            match times.remove(&(entry.id.as_str(), sequence.0)) {
                None => alarms.missing += 1,
                Some(times) => alarms.repeated += times - 1,
            }
        }
    }
    alarms.unexpected = times.values().sum();
    alarms
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use control_chart_math::Settings;
    use parti_coordination::record::{FORMAT as RECORD, Owner, Phase, StoredSnapshot, StreamIdentity};
    use parti_coordination::{Generation, Incarnation, Partition, Sequence, Snapshot, WorkerId};

    /// Readings of one partition, by sequence. The one at 40 raises an alarm.
    fn published() -> Vec<(u64, f64)> {
        (1..=50)
            .map(|sequence| (sequence, if sequence == 40 { 99.0 } else { 20.0 + (sequence % 7) as f64 / 10.0 }))
            .collect()
    }

    fn ledger() -> Ledger {
        ledger_of(Some("value"))
    }

    fn ledger_of(field: Option<&str>) -> Ledger {
        let mut ledger = Ledger::new(&[Partition::new(vec!["p".into()], 100).unwrap()], field.map(str::to_owned));
        for (sequence, value) in published() {
            let payload = Bytes::from(format!(r#"{{"value":{value}}}"#));
            ledger.enter(0, Sequence(sequence), &payload).unwrap();
        }
        ledger
    }

    /// The record that a fleet leaves which has handled exactly these.
    fn handled(readings: &[(u64, f64)]) -> Records {
        let mut chart = Chart::default();
        for (sequence, value) in readings {
            chart.add(&Settings::default(), *sequence, *value).unwrap();
        }
        let snapshot = Snapshot { format: FORMAT.into(), data: serde_json::to_vec(&chart).unwrap() };
        let last = readings.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0);
        records(Position(last), Some(StoredSnapshot::store(&snapshot)))
    }

    fn records(position: Position, snapshot: Option<StoredSnapshot>) -> Records {
        let record = OwnershipRecord {
            v: RECORD,
            group: "demo".into(),
            stream: StreamIdentity { name: "work".into(), created: "2025-01-01T00:00:00Z".into() },
            epoch: Epoch(2),
            generation: Generation(1),
            owner: Owner {
                worker: WorkerId::new("worker", 0),
                incarnation: Incarnation { claim: 1, uuid: uuid::Uuid::nil() },
            },
            phase: Phase::Released,
            position,
            seen: None,
            attempts: None,
            seizes: 0,
            alone: None,
            handler: None,
            snapshot,
        };
        [("p".to_owned(), Ok(record))].into()
    }

    fn finding(records: &Records) -> Finding {
        judge(&ledger(), records, None).rows.remove(0).finding
    }

    fn alarm(partition: &str, sequence: u64) -> RaisedAlarm {
        RaisedAlarm { partition: partition.into(), sequence }
    }

    #[test]
    fn a_fleet_that_handled_everything_once_and_in_order_is_clean() {
        let verdict = judge(&ledger(), &handled(&published()), Some(&[alarm("p", 40)]));
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.lost(), verdict.duplicated(), verdict.disordered(), verdict.equal()), (0, 0, 0, 1));
        assert!(is_handled(&ledger(), &handled(&published())));
    }

    #[test]
    fn a_lost_a_repeated_and_a_swapped_message_are_found() {
        let without = |index: usize| [&published()[..index], &published()[index + 1..]].concat();
        assert_eq!(finding(&handled(&without(20))), Finding::Lost(1));

        let mut twice = published();
        twice.insert(21, published()[20]);
        assert_eq!(finding(&handled(&twice)), Finding::Repeated(1));

        // Neighbours, far from the end: only the last bits of the sums tell.
        let mut swapped = published();
        swapped.swap(3, 4);
        assert_eq!(finding(&handled(&swapped)), Finding::Disordered);

        let mut one_lost_one_twice = without(20);
        one_lost_one_twice.insert(31, one_lost_one_twice[30]);
        assert_eq!(finding(&handled(&one_lost_one_twice)), Finding::Disordered);
    }

    #[test]
    fn what_is_not_committed_or_not_readable_is_not_equal() {
        assert_eq!(finding(&handled(&published()[..49])), Finding::Lost(1));
        assert!(!is_handled(&ledger(), &handled(&published()[..49])));
        assert_eq!(finding(&Records::new()), Finding::NoRecord);
        assert!(matches!(finding(&[("p".to_owned(), Err("cut".to_owned()))].into()), Finding::Unreadable(_)));
        let foreign = Snapshot { format: "count/1".into(), data: b"50".to_vec() };
        let foreign = records(Position(50), Some(StoredSnapshot::store(&foreign)));
        assert!(matches!(finding(&foreign), Finding::Unreadable(_)));
        // A state that says more than the position covers must not pass either.
        let mut ahead = handled(&published());
        ahead.get_mut("p").unwrap().as_mut().unwrap().position = Position(49);
        assert_eq!(finding(&ahead), Finding::Behind(Position(49)));
    }

    #[test]
    fn without_a_chart_the_position_decides() {
        let ledger = ledger_of(None);
        assert!(judge(&ledger, &records(Position(50), None), None).is_clean());
        assert!(judge(&ledger, &records(Position(51), None), None).is_clean(), "an idle partition follows its reader");
        assert_eq!(judge(&ledger, &records(Position(49), None), None).rows[0].finding, Finding::Behind(Position(49)));
    }

    #[test]
    fn every_alarm_is_in_the_stream_exactly_once() {
        let compare = |found: &[RaisedAlarm]| compare_alarms(&ledger(), found);
        let clean = Alarms { expected: 1, missing: 0, repeated: 0, unexpected: 0 };
        assert_eq!(compare(&[alarm("p", 40)]), clean);
        assert_eq!(compare(&[]), Alarms { missing: 1, ..clean });
        assert_eq!(compare(&[alarm("p", 40), alarm("p", 40), alarm("p", 40)]), Alarms { repeated: 2, ..clean });
        // As many as expected, yet wrong.
        assert_eq!(compare(&[alarm("p", 41)]), Alarms { missing: 1, unexpected: 1, ..clean });
        assert_eq!(compare(&[alarm("p", 40), alarm("q", 40)]), Alarms { unexpected: 1, ..clean });
    }
}
