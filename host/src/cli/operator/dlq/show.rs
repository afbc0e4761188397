//! `parti dlq show`: one dead letter, whole.

use super::letter::Letter;
use super::{Letters, Place};
use crate::cli::operator::fleet::{Connected, api_error, run as run_connected};
use crate::cli::operator::print::{is_unprintable, one_line, print, print_json};
use crate::error::{ErrorCode, OperatorError};
use crate::nats::StreamMessage;
use base64::Engine as _;
use clap::Args;
use parti_coordination::Sequence;
use serde::Serialize;
use std::fmt::Write as _;

/// Bytes in a line of a payload that is no text.
const LINE: usize = 16;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti dlq show 17
  parti dlq show 17 --json | jq -r .payload

A payload that is no text is shown in hexadecimal; with --json it is in `payloadBase64`.")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// The dead letter's ID, as `parti dlq list` shows it
    #[arg(value_name = "ID")]
    id: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(flatten)]
    letter: Letter,
    /// Names and values in their order; a name may come more than once.
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

pub(super) fn run(args: &ShowArgs) -> Result<(), OperatorError> {
    run_connected(&args.place.config, async |connected| show(args, connected).await)
}

async fn show(args: &ShowArgs, connected: &Connected) -> Result<(), OperatorError> {
    let letters = Letters::find(&args.place, connected).await?;
    let stream = &letters.stream.name;
    let read = letters.stored.message(Sequence(args.id)).await;
    let found = read.map_err(|error| api_error(&format!("message {} of stream {stream:?}", args.id), &error))?;
    let Some(message) = found else {
        return Err(ErrorCode::OperatorUsage.error(
            format!("there is no dead letter {}", args.id),
            format!("stream {stream:?} holds no message with this sequence, or no longer"),
            "`parti dlq list` shows the IDs",
        ));
    };
    let text = text(&message.payload);
    if args.place.json {
        let payload_base64 = text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&message.payload));
        print_json(&Shown {
            letter: Letter::of(&message),
            headers: message.headers.texts(),
            payload: text,
            payload_base64,
        });
    } else {
        print(page(&message, text));
    }
    Ok(())
}

/// The payload, if it is text that a terminal may be given.
fn text(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    let is_plain = |c| matches!(c, '\n' | '\t') || !is_unprintable(c);
    text.chars().all(is_plain).then_some(text)
}

fn page(message: &StreamMessage, text: Option<&str>) -> String {
    let letter = Letter::of(message);
    // Writing to a `String` cannot fail.
    let mut page = String::new();
    let _ = writeln!(page, "dead letter {} of {}, stored on {}", letter.id, letter.time, one_line(&message.subject));
    let width = message.headers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in message.headers.texts() {
        let _ = writeln!(page, "{:width$}  {}", one_line(&name), one_line(&value));
    }
    let _ = writeln!(page, "\n{} bytes{}", message.payload.len(), if text.is_some() { "" } else { ", no text" });
    match text {
        Some(text) => page.push_str(text),
        None => page.push_str(&hexadecimal(&message.payload)),
    }
    page
}

/// Places, bytes and what of them is ASCII, as `hexdump -C` has it.
fn hexadecimal(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (number, line) in bytes.chunks(LINE).enumerate() {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let ascii: String = line.iter().map(plain).collect();
        let end = if number > 0 { "\n" } else { "" };
        let _ = write!(dump, "{end}{:08x}  {:47}  |{ascii}|", number * LINE, digits.join(" "));
    }
    dump
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_text_is_printed_as_text() {
        assert_eq!(text("größe\n\t7".as_bytes()), Some("größe\n\t7"));
        for wild in [&b"\xff\xfe"[..], b"\x1b[2J", b"a\0b", b"a\rb", "\u{202e}gnp.exe".as_bytes()] {
            assert_eq!(text(wild), None, "{wild:?}");
        }
        assert_eq!(
            hexadecimal(b"0123456789abcdef\x1b"),
            "00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  |0123456789abcdef|\n00000010  1b                                               |.|"
        );
    }
}
