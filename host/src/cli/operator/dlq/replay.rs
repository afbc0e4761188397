//! `parti dlq replay`: dead letters go to their original subjects again.

use super::letter::{Letter, original_headers};
use super::{Letters, Place};
use crate::cli::operator::confirm::confirm;
use crate::cli::operator::fleet::{Connected, partition_argument, run as run_connected};
use crate::cli::operator::print::{counted, one_line, print, print_json};
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{OutgoingMessage, Published, Publisher, StreamMessage};
use clap::Args;
use parti_coordination::Sequence;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti dlq replay 17 18
  parti dlq replay --all --partition tool-07.chamber-2
  parti dlq replay --all --delete --yes          and delete each one once it is confirmed

A message that is replayed comes behind everything that its partition has by now. It has the original's headers and a message ID
that follows from the dead letter: replayed twice within the stream's duplicate window, it is there once.")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    place: Place,
    /// IDs of dead letters, as `parti dlq list` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<u64>,
    /// All that are there
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// With --all: only those of this partition
    #[arg(long, value_name = "PARTITION", requires = "all")]
    partition: Option<String>,
    /// Delete a dead letter once its message is confirmed
    #[arg(long)]
    delete: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What became of a dead letter.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    id: Sequence,
    /// Where it went, or was to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
    /// Whether the dead letter is deleted.
    deleted: bool,
    /// Why it is not deleted although it was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_deleted: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
enum Outcome {
    /// A stream has it.
    Replayed { stream: String, sequence: u64 },
    /// The stream has had it from an earlier replay.
    Duplicate { stream: String, sequence: u64 },
    /// It was not published, or may not have been.
    Failed { why: String },
}

pub(super) fn run(args: &ReplayArgs) -> Result<(), OperatorError> {
    run_connected(&args.place.config, async |connected| replay(args, connected).await)
}

async fn replay(args: &ReplayArgs, connected: &Connected) -> Result<(), OperatorError> {
    let partition = args.partition.as_deref().map(partition_argument).transpose()?;
    let letters = Letters::find(&args.place, connected).await?;
    let ids: BTreeSet<Sequence> = if args.all {
        letters.all(partition.as_ref().map(|id| id.as_str()), None).await?.into_iter().map(|letter| letter.id).collect()
    } else {
        args.ids.iter().copied().map(Sequence).collect()
    };
    if !ids.is_empty() {
        let what = counted(ids.len() as u64, "dead letter");
        let then = if args.delete { ", and deleted once it is confirmed" } else { "" };
        eprintln!("{what} of stream {:?}: each is published to its original subject again{then}", letters.stream.name);
        confirm("Replay?", args.yes)?;
    }
    let publisher = Publisher::new(&connected.nats, 1);
    let (mut all, mut incomplete) = (Vec::new(), 0);
    for id in ids {
        let replayed = letters.replay(&publisher, id, args.delete).await;
        incomplete += usize::from(matches!(replayed.outcome, Outcome::Failed { .. }) || replayed.not_deleted.is_some());
        if args.place.json {
            all.push(replayed);
        } else {
            print(line(&replayed));
        }
    }
    if args.place.json {
        print_json(&all);
    }
    if incomplete == 0 {
        return Ok(());
    }
    Err(ErrorCode::ReplayIncomplete.error(
        format!("{incomplete} of the dead letters were not dealt with"),
        "the reason is beside each",
        "correct it and replay them again: what is there already is recognised within the duplicate window",
    ))
}

fn line(replayed: &Replayed) -> String {
    let Replayed { id, subject, outcome, deleted, not_deleted } = replayed;
    let subject = one_line(subject.as_deref().unwrap_or("-"));
    let became = match outcome {
        Outcome::Replayed { stream, sequence } => format!("replayed to {subject}: sequence {sequence} of {stream}"),
        Outcome::Duplicate { stream, sequence } => {
            format!("already replayed to {subject}: sequence {sequence} of {stream}")
        }
        Outcome::Failed { why } => format!("not replayed: {}", one_line(why)),
    };
    let then = match (deleted, not_deleted) {
        (true, _) => ", deleted".to_owned(),
        (false, Some(why)) => format!(", not deleted: {}", one_line(why)),
        (false, None) => String::new(),
    };
    format!("{id}  {became}{then}")
}

impl Letters {
    async fn replay(&self, publisher: &Publisher, id: Sequence, delete: bool) -> Replayed {
        let mut replayed = Replayed {
            id,
            subject: None,
            outcome: Outcome::Failed { why: String::new() },
            deleted: false,
            not_deleted: None,
        };
        let message = match self.stored.message(id).await {
            Ok(Some(message)) => message,
            Ok(None) => {
                replayed.outcome = Outcome::Failed {
                    why: format!("stream {:?} holds no such message, or no longer", self.stream.name),
                };
                return replayed;
            }
            Err(error) => {
                replayed.outcome = Outcome::Failed { why: error.to_string() };
                return replayed;
            }
        };
        replayed.subject = Letter::of(&message).subject;
        replayed.outcome = self.publish(publisher, message, replayed.subject.clone()).await;
        if delete && !matches!(replayed.outcome, Outcome::Failed { .. }) {
            match self.stored.delete(id).await {
                Ok(_) => replayed.deleted = true,
                Err(error) => replayed.not_deleted = Some(error.to_string()),
            }
        }
        replayed
    }

    async fn publish(&self, publisher: &Publisher, message: StreamMessage, subject: Option<String>) -> Outcome {
        let failed = |why: &str| Outcome::Failed { why: why.to_owned() };
        let Some(subject) = subject else {
            return failed("no worker has put it there: it has no Parti-Subject header");
        };
        if subject == *message.subject {
            return failed("its original subject is the dead-letter subject itself");
        }
        let (stream, id) = (&self.stream, message.sequence);
        let id = format!("parti-replay/{}@{}/{id}", stream.name, stream.created);
        let headers = original_headers(&message.headers.texts());
        let message = OutgoingMessage { subject, id, headers, payload: message.payload };
        match publisher.send(message).await.published().await {
            Published::Confirmed { stream, sequence, duplicate: false } => Outcome::Replayed { stream, sequence },
            Published::Confirmed { stream, sequence, duplicate: true } => Outcome::Duplicate { stream, sequence },
            Published::NoStream => failed("no stream captures its original subject"),
            Published::Refused { text, .. } => Outcome::Failed { why: text },
            Published::Unknown => failed("no confirmation came; it may be there. Replay it again"),
        }
    }
}
