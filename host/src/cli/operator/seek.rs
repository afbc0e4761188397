//! `parti seek`: a partition goes on from another position, fenced by the same compare-and-set as everything that workers do.

use super::confirm::confirm;
use super::fleet::{Connected, Fleet, api_error, partition_argument, run as run_connected, unknown_partition};
use super::moment::parse_moment;
use super::print::{counted, grouped, print, print_json};
use super::records::understand;
use crate::cli::ConfigArgs;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{Stored, StreamInfo};
use clap::Args;
use jiff::Timestamp;
use parti_coordination::record::{self, Owner, OwnershipRecord, Phase, Seen};
use parti_coordination::{Epoch, Expect, Generation, PartitionId, Position, WriteOutcome};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How often the record is read again when its owner was faster. It commits about once a second.
const TRIES: usize = 20;

/// How long the command waits for a worker to take the partition, and how often it tells them.
const TAKEN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(250));

/// What `parti seek` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti seek tool-07.chamber-2 --to 48211         what comes after sequence 48211 is handled next
  parti seek tool-07.chamber-2 --to first         everything that the stream still holds, once more
  parti seek tool-07.chamber-2 --to last          nothing of what is there now, only what comes
  parti seek tool-07.chamber-2 --to 2h            from two hours ago on
  parti seek tool-07.chamber-2 --to 2026-03-01T12:00:00Z --discard-state --yes

A position is the stream sequence up to which everything counts as handled. A partition whose handler keeps state wants
--keep-state (handle from there on, with the state as it is) or --discard-state (begin with none). Its owner drops what it has not
committed and begins again from there. Outputs of messages that are handled again get new message IDs: they are not taken for
repetitions.")]
pub(in crate::cli) struct SeekArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The partition's id, as `parti partitions` shows it
    partition: String,
    /// The new position: a sequence, `first`, `last`, a time (RFC 3339), or how long ago (2h)
    #[arg(long, value_name = "SEQ|first|last|TIME")]
    to: String,
    /// The handler goes on with the state that it has
    #[arg(long, conflicts_with = "discard_state")]
    keep_state: bool,
    /// The handler begins without state
    #[arg(long)]
    discard_state: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Position(Position),
    First,
    Last,
    Time(Timestamp),
}

/// What is to be done, as far as it is known before it is done.
struct Move<'a> {
    connected: &'a Connected,
    fleet: Fleet,
    stream: &'a StreamInfo,
    id: PartitionId,
    to: Position,
    /// The last message of the stream as it is now.
    seen: Option<Seen>,
    /// What is to become of the handler's state, if the operator has said so.
    keep_state: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    partition: PartitionId,
    from: Position,
    to: Position,
    generation: Generation,
    epoch: Epoch,
    /// Messages that are passed over.
    skipped: u64,
    /// Messages that are handled again.
    repeated: u64,
    /// `kept`, `discarded`, or `none` if there was none.
    state: &'static str,
    /// Who has taken the partition again, if somebody has in time.
    taken_by: Option<String>,
}

pub(in crate::cli) fn run(args: &SeekArgs) -> Result<(), OperatorError> {
    let id = partition_argument(&args.partition)?;
    let target = parse_target(&args.to, Timestamp::now())?;
    run_connected(&args.config, async |connected| seek(args, connected, id, target).await)
}

fn parse_target(text: &str, now: Timestamp) -> Result<Target, OperatorError> {
    match text {
        "first" => return Ok(Target::First),
        "last" => return Ok(Target::Last),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let position = text.parse().map(|sequence| Target::Position(Position(sequence)));
        return position.map_err(|_| usage(format!("{text} is no sequence"), "it is above 2^64"));
    }
    parse_moment(text, now).map(Target::Time).map_err(|why| usage(format!("--to {text:?} is no position"), why))
}

fn usage(what: impl Into<String>, why: impl Into<String>) -> OperatorError {
    ErrorCode::OperatorUsage.error(what, why, "give --to a sequence, first, last, or a time that has been")
}

async fn seek(args: &SeekArgs, connected: &Connected, id: PartitionId, target: Target) -> Result<(), OperatorError> {
    let fleet = connected.fleet().await?;
    let (set, stream) = connected.stream().await?;
    let stored = Stored::new(&connected.nats, &stream.name);
    let failed = |error| api_error(&format!("stream {:?}", stream.name), &error);
    let to = match target {
        Target::Position(position) => position,
        Target::First => Position(stream.first.0.saturating_sub(1)),
        Target::Last => Position(stream.last.0),
        Target::Time(time) => stored.position_at(time).await.map_err(failed)?,
    };
    if to.0 > stream.last.0 {
        return Err(usage(
            format!("position {to} is beyond the end of stream {:?}", stream.name),
            format!(
                "its last sequence is {}; a partition there would silently wait for messages that never come",
                stream.last
            ),
        ));
    }
    let subject = set.subject_template.subject(&id);
    let keep_state = (args.keep_state || args.discard_state).then_some(args.keep_state);
    let last = stored.message(stream.last).await.map_err(failed)?;
    let seen = last.map(|last| Seen { sequence: last.sequence, time: last.timestamp_ns });
    let plan = Move { connected, fleet, stream: &stream, id, to, seen, keep_state };
    let (before, _) = plan.read().await?;
    let state = plan.state(&before)?;

    let count = async |position| stored.count_above(&subject, position).await.map_err(failed);
    let (above_old, above_new) = (count(before.position).await?, count(to).await?);
    let (skipped, repeated) = (above_old.saturating_sub(above_new), above_new.saturating_sub(above_old));
    let owner = &before.owner.worker;
    eprintln!(
        "partition  {}, {}",
        plan.id,
        if before.phase == Phase::Owned { format!("owned by {owner}") } else { "released".into() }
    );
    eprintln!("from       position {}", grouped(before.position.0));
    eprintln!("to         position {}", grouped(to.0));
    eprintln!(
        "effect     {}",
        match (skipped, repeated) {
            (0, 0) => "no message of the partition lies between".to_owned(),
            (0, repeated) => format!("{} handled again", verb(repeated)),
            (skipped, _) => format!("{} never handled", verb(skipped)),
        }
    );
    eprintln!("state      {state}");
    confirm("Move it?", args.yes)?;

    let (moved, from) = plan.write(before).await?;
    let taken = plan.taken(&moved).await;
    let taken_by = taken.map(|owner| owner.worker.to_string());
    if args.json {
        let Move { id: partition, .. } = plan;
        let OwnershipRecord { generation, epoch, .. } = moved;
        print_json(&Moved { partition, from, to, generation, epoch, skipped, repeated, state, taken_by });
    } else {
        let id = &plan.id;
        print(match taken_by {
            Some(worker) => format!("{id} is at position {}; {worker} has taken it again from there", grouped(to.0)),
            None => format!(
                "{id} is at position {}; no worker has taken it yet. The one that the plan names will within half a minute, or as soon \
                 as it runs and reaches NATS",
                grouped(to.0)
            ),
        });
    }
    Ok(())
}

fn verb(messages: u64) -> String {
    format!("{} {}", counted(messages, "message"), if messages == 1 { "is" } else { "are" })
}

impl Move<'_> {
    /// The record as it is now, if it may be moved.
    async fn read(&self) -> Result<(OwnershipRecord, u64), OperatorError> {
        let (id, stream) = (&self.id, self.stream);
        let read = self.fleet.ownership.read(&id.record_key()).await;
        let entry = read.map_err(|error| api_error(&format!("the record of {id}"), &error))?;
        let Some((value, revision)) = entry.and_then(|entry| Some((entry.value?, entry.revision))) else {
            let plan = self.fleet.plan().await?;
            if !plan.owners.contains_key(id) {
                return Err(unknown_partition(id.as_str(), plan.owners.keys()));
            }
            return Err(refused(
                format!("{id} has no record yet"),
                "no worker has ever taken it, so that there is no position to move",
                "wait until a worker has taken it (parti partitions), or set stream.startFrom",
            ));
        };
        let record = understand(&value, &self.connected.config.group, Some(&stream.name)).map_err(|why| {
            refused(
                format!("the record of {id} is not moved"),
                why,
                "use the configuration of the group and the stream that the record belongs to",
            )
        })?;
        if record.stream.created != stream.created {
            return Err(refused(
                format!("the record of {id} is not moved"),
                format!(
                    "stream {:?} was created anew at {}, and the record is of the one before",
                    stream.name, stream.created
                ),
                "nothing has to be done: its worker begins at the start of the new stream when it takes the partition next",
            ));
        }
        Ok((record, revision))
    }

    /// What becomes of the handler's state.
    fn state(&self, record: &OwnershipRecord) -> Result<&'static str, OperatorError> {
        match (&record.snapshot, self.keep_state) {
            (None, _) => Ok("none"),
            (Some(_), Some(true)) => Ok("kept"),
            (Some(_), Some(false)) => Ok("discarded"),
            (Some(snapshot), None) => Err(ErrorCode::OperatorUsage.error(
                format!("what is to become of the state of {}?", self.id),
                format!("its handler keeps state ({:?}) that belongs to position {}", snapshot.format, record.position),
                "say --keep-state to go on with it from the new position, or --discard-state to begin without",
            )),
        }
    }

    /// Writes the record, however often its owner commits in between. The record that has landed, and the position before.
    async fn write(&self, first: OwnershipRecord) -> Result<(OwnershipRecord, Position), OperatorError> {
        let mut tried: Option<(OwnershipRecord, Position)> = None;
        for _ in 0..TRIES {
            let (found, revision) = self.read().await?;
            if let Some((tried, from)) = tried.take_if(|(tried, _)| is_ours(&found, tried)) {
                return Ok((tried, from));
            }
            if found.generation != first.generation {
                return Err(refused(
                    format!("{} is not moved", self.id),
                    format!("somebody else has moved it meanwhile, to position {}", found.position),
                    "look at it again (parti partitions), and repeat the command if it is still what you want",
                ));
            }
            self.state(&found)?;
            let (moved, from) = (found.moved(self.to, self.seen, self.keep_state == Some(true)), found.position);
            let value = record::encode(&moved).map_err(|error| {
                refused("the record cannot be written", error.to_string(), "report this as a bug of parti")
            })?;
            let expect = Expect::Revision(revision);
            match self.fleet.ownership.write(&self.id.record_key(), value.into(), expect, None).await {
                WriteOutcome::Written(_) => return Ok((moved, from)),
                WriteOutcome::Lost => {}
                WriteOutcome::Unknown => tried = Some((moved, from)),
            }
        }
        Err(refused(
            format!("{} is not moved", self.id),
            format!("its record changed under each of {TRIES} tries"),
            "pause it first (parti pause), then repeat the command",
        ))
    }

    /// Tells the workers, until one has taken the partition or the time is up.
    async fn taken(&self, moved: &OwnershipRecord) -> Option<Owner> {
        let ((most, pause), begun) = (TAKEN, Instant::now());
        let peers = self.connected.peers();
        while begun.elapsed() < most {
            peers.announce_release(&self.id).await;
            tokio::time::sleep(pause).await;
            let Ok((found, _)) = self.read().await else { continue };
            if found.epoch > moved.epoch && found.phase == Phase::Owned {
                return Some(found.owner);
            }
        }
        None
    }
}

/// Whether a write whose answer did not come has landed. Its next owner may have been there since.
fn is_ours(found: &OwnershipRecord, tried: &OwnershipRecord) -> bool {
    found == tried
        || (found.generation == tried.generation && found.epoch > tried.epoch && found.position >= tried.position)
}

fn refused(what: impl Into<String>, why: impl Into<String>, todo: impl Into<String>) -> OperatorError {
    ErrorCode::OperatorRefused.error(what, why, todo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_position_an_end_or_a_time() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let parse = |text| parse_target(text, now).ok();
        assert_eq!(parse("0"), Some(Target::Position(Position(0))));
        assert_eq!(parse("48211"), Some(Target::Position(Position(48_211))));
        assert_eq!((parse("first"), parse("last")), (Some(Target::First), Some(Target::Last)));
        assert_eq!(parse("2h"), Some(Target::Time("2026-03-01T10:00:00Z".parse().unwrap())));
        for wrong in
            ["", "-1", "1.5", "18446744073709551616", "FIRST", "end", "1e9", "0x10", "٣", "2027-01-01T00:00:00Z"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
