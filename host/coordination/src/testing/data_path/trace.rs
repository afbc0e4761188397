//! What goes into and out of a machine, as a trace shows it.

use super::{Command, Input, applied};
use crate::Snapshot;
use crate::record::{OwnershipRecord, StoredSnapshot, decode};

/// The last few sequences that a state holds.
fn state(snapshot: Option<&Snapshot>) -> String {
    let applied = applied(snapshot);
    let last = applied.len().saturating_sub(5);
    format!("{} applied, to {:?}", applied.len(), &applied[last..])
}

fn record(value: &[u8]) -> String {
    let Ok(record) = decode::<OwnershipRecord>(value) else { return String::from_utf8_lossy(value).into_owned() };
    let object = record.snapshot.as_ref().and_then(StoredSnapshot::object).map(str::to_owned);
    let snapshot = record.snapshot.as_ref().map(StoredSnapshot::load).transpose().ok().flatten();
    let (owner, attempts) = (&record.owner, record.attempts.map(|a| (a.sequence.0, a.count)));
    format!(
        "epoch {} {} claim {} {:?} position {} attempts {attempts:?}, {}",
        record.epoch,
        owner.worker,
        owner.incarnation.claim,
        record.phase,
        record.position,
        object.unwrap_or_else(|| state(snapshot.as_ref()))
    )
}

pub(crate) fn command(command: &Command) -> String {
    match command {
        Command::Write { value, expect } => format!("> Write {expect:?} {}", record(value.as_bytes())),
        Command::Open { handler, why, snapshot, epoch } => {
            format!("> Open {handler} {why:?} epoch {epoch}, {}", state(snapshot.as_ref()))
        }
        Command::Handle(batch) => {
            let messages: Vec<_> = batch.messages.iter().map(|m| (m.sequence.0, m.body)).collect();
            format!("> Handle attempt {} of {messages:?}", batch.first_attempt)
        }
        Command::PutObject { name, data } => format!("> PutObject {name}, {} bytes", data.len()),
        other => format!("> {other:?}"),
    }
}

pub(crate) fn input(input: &Input) -> String {
    match input {
        Input::Record(Ok(Some(entry))) => {
            let value = entry.value.as_deref().map_or_else(|| "a marker".into(), record);
            format!("< Record revision {} {value}", entry.revision)
        }
        Input::Snapshot(Ok(snapshot)) => format!("< Snapshot {}", state(snapshot.as_ref())),
        Input::Object(Ok(data)) => format!("< Object of {} bytes", data.len()),
        Input::Messages { reader, messages } => {
            let messages: Vec<_> = messages.iter().map(|m| m.sequence.0).collect();
            format!("< Messages of reader {reader}: {messages:?}")
        }
        Input::Assigned(fleet) => format!("< Assigned by plan {}", fleet.version),
        other => format!("< {other:?}"),
    }
}
