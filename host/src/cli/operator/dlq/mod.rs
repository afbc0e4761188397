//! `parti dlq`: look at dead letters, and publish them again.
//!
//! A dead letter is named by its sequence in the stream that holds it. What it was is in the `Parti-…` headers that the worker put
//! behind the original's: see `intake/partition.rs`.

mod letter;
mod replay;
mod show;

use super::fleet::{Connected, api_error, partition_argument, run as run_connected};
use super::moment::parse_moment;
use super::print::{grouped, print, print_json};
use super::table::{Align, Table};
use crate::cli::ConfigArgs;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{Filters, Start, Stored, StreamError, StreamInfo};
use crate::worker::stream_error;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use letter::Letter;
use parti_coordination::Sequence;

/// What `parti dlq` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti dlq list --since 2h
  parti dlq show 17
  parti dlq replay 17 18
  parti dlq replay --all --partition tool-07.chamber-2 --delete --yes

A dead letter's ID is its sequence in the stream that captures handler.deadLetter.subject.")]
pub(in crate::cli) struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// List dead letters, the latest last
    List(ListArgs),
    /// Print one with its headers and its payload
    Show(show::ShowArgs),
    /// Publish dead letters to their original subjects again
    Replay(replay::ReplayArgs),
}

/// Where the dead letters are.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    config: ConfigArgs,
    /// The dead-letter subject, instead of the configured handler.deadLetter.subject
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti dlq list
  parti dlq list --partition tool-07.chamber-2 --since 2026-03-01T12:00:00Z
  parti dlq list --limit 1000 --json")]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Only those of this partition
    #[arg(long, value_name = "PARTITION")]
    partition: Option<String>,
    /// Only those from this time on (RFC 3339), or from so long ago on (2h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the latest so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// The stream that holds the dead letters, and their subject in it.
struct Letters {
    stream: StreamInfo,
    stored: Stored,
    subject: String,
}

pub(in crate::cli) fn run(args: &DlqArgs) -> Result<(), OperatorError> {
    match &args.command {
        DlqCommand::List(args) => run_connected(&args.place.config, async |connected| list(args, connected).await),
        DlqCommand::Show(args) => show::run(args),
        DlqCommand::Replay(args) => replay::run(args),
    }
}

async fn list(args: &ListArgs, connected: &Connected) -> Result<(), OperatorError> {
    let partition = args.partition.as_deref().map(partition_argument).transpose()?;
    let since = args.since.as_deref().map(|text| {
        parse_moment(text, Timestamp::now()).map_err(|why| {
            ErrorCode::OperatorUsage.error(format!("--since {text:?} is no time"), why, "give a time that has been")
        })
    });
    let since = since.transpose()?;
    let letters = Letters::find(&args.place, connected).await?;
    let mut found = letters.all(partition.as_ref().map(|id| id.as_str()), since).await?;
    let left_out = found.len().saturating_sub(args.limit);
    found.drain(..left_out);
    if args.place.json {
        print_json(&found);
    } else {
        print(table(&found));
        if left_out > 0 {
            eprintln!("{} earlier ones are not shown; raise --limit", grouped(left_out as u64));
        }
    }
    Ok(())
}

fn table(letters: &[Letter]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Right),
        ("TIME", Left),
        ("PARTITION", Left),
        ("SEQUENCE", Right),
        ("ATTEMPTS", Right),
        ("BYTES", Right),
        ("REASON", Left),
    ]);
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for letter in letters {
        table.row([
            letter.id.to_string(),
            letter.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            known(&letter.partition),
            known(&letter.sequence),
            known(&letter.attempts),
            letter.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            letter.reason.clone().unwrap_or_else(|| "(no dead letter of a worker)".to_owned()),
        ]);
    }
    table
}

impl Letters {
    async fn find(place: &Place, connected: &Connected) -> Result<Self, OperatorError> {
        let configured = connected.config.dead_letter_subjects();
        let unknown = |why: String, todo: &str| {
            Err(ErrorCode::OperatorUsage.error("it is not known where dead letters are", why, todo))
        };
        let configured: Vec<&str> = configured.into_iter().collect();
        let subject = match (&place.subject, configured.as_slice()) {
            (Some(subject), _) => subject.clone(),
            (None, [subject]) => (*subject).to_owned(),
            (None, []) => {
                let why = "the configuration has no handler.deadLetter.subject".to_owned();
                return unknown(why, "give the configuration that the workers run with, or --subject");
            }
            (None, several) => {
                let why = format!("the handlers have subjects of their own: {}", several.join(", "));
                return unknown(why, "give one of them with --subject");
            }
        };
        if subject.is_empty() || subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ErrorCode::OperatorUsage.error(
                format!("{subject:?} is no subject"),
                "it is empty or holds blanks",
                "give --subject the subject that dead letters are published to",
            ));
        }
        match StreamInfo::capturing(&connected.nats, &subject).await {
            Ok(Some(stream)) => {
                let stored = Stored::new(&connected.nats, &stream.name);
                Ok(Self { stream, stored, subject })
            }
            Ok(None) => Err(ErrorCode::DeadLetterUncaptured.error(
                format!("no stream captures the dead-letter subject {subject:?}"),
                "what was published to it is nowhere",
                "create a stream with this subject, or correct handler.deadLetter.subject",
            )),
            Err(StreamError::Failed { name, why }) => Err(api_error(&format!("the stream of {name:?}"), &why)),
            Err(error) => Err(stream_error(&error)),
        }
    }

    /// The dead letters that are there now, without payloads, in the order in which they came.
    async fn all(&self, partition: Option<&str>, since: Option<Timestamp>) -> Result<Vec<Letter>, OperatorError> {
        let failed = |error| api_error(&format!("stream {:?}", self.stream.name), &error);
        let from = match since {
            Some(since) => self.stored.position_at(since).await.map_err(failed)?.0 + 1,
            None => 1,
        };
        let mut letters = Vec::new();
        if self.stream.messages > 0 && from <= self.stream.last.0 {
            let only = Filters::new(vec![self.subject.clone()]);
            let start = Start::At(Sequence(from));
            let read = self.stored.headers(start, only, self.stream.last, |message| {
                let letter = Letter::of(&message);
                if partition.is_none() || letter.partition.as_deref() == partition {
                    letters.push(letter);
                }
            });
            read.await.map_err(failed)?;
        }
        Ok(letters)
    }
}
