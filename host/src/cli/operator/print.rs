//! What a command prints. A reader that has seen enough (`| head`) is no error.

use serde::Serialize;
use std::io::Write as _;

/// Prints lines.
pub(super) fn print(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &impl Serialize) {
    // Values of texts and numbers always encode.
    print(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A text from elsewhere in one line, without what would drive a terminal.
pub(in crate::cli) fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters, and those that turn the direction of a text around.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 message`, `2 messages`: a count with its noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(count))
}

/// A number with its digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(one_line("a\u{1b}[31mb\r\nc\u{202e}d"), "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn numbers_are_grouped_and_nouns_follow_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((counted(1, "message"), counted(2000, "message")), ("1 message".into(), "2,000 messages".into()));
    }
}
