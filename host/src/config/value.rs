//! How single values are read: text, numbers, durations, sizes, and the types built from them.

use super::problem::Problems;
use super::section::{Setting, Shape};
use super::tree::{Content, Node};
use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, FractionalUnit, Spacing, SpanPrinter};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest duration: ten years. Deadlines are computed by adding to the clock, which must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn value(kind: &str, verbatim: bool) -> Shape {
    Shape::Value { kind: kind.to_owned(), verbatim }
}

/// The text of a node; anything else is a problem.
pub(crate) fn text<'a>(node: &'a Node, path: &str, problems: &mut Problems) -> Option<&'a str> {
    match &node.content {
        Content::Text(text) => Some(text),
        Content::List(_) | Content::Map(_) => {
            problems.value(path, node, "it takes one text", "write one text");
            None
        }
        content => {
            problems.value(
                path,
                node,
                "it takes text, and YAML reads this as something else",
                format!("quote it: \"{content}\""),
            );
            None
        }
    }
}

impl Setting for String {
    fn shape() -> Shape {
        value("text", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        text(node, path, problems).map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Setting for PathBuf {
    fn shape() -> Shape {
        value("path", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        text(node, path, problems).map(PathBuf::from)
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Setting for bool {
    fn shape() -> Shape {
        value("`true`, `false`", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        if let Content::Bool(value) = node.content {
            return Some(value);
        }
        problems.value(path, node, "it is true or false", "write true or false, without quotes");
        None
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! integer {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            fn shape() -> Shape {
                value("integer", false)
            }

            fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
                if let Content::Integer(integer) = node.content
                    && let Ok(value) = <$type>::try_from(integer)
                {
                    return Some(value);
                }
                problems.value(
                    path,
                    node,
                    format!("it takes a whole number from 0 to {}", <$type>::MAX),
                    "write such a number, without quotes",
                );
                None
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}

integer!(u32, u64);

impl Setting for f64 {
    fn shape() -> Shape {
        value("number", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        match node.content {
            Content::Float(number) if number.is_finite() => Some(number),
            Content::Integer(integer) if integer.unsigned_abs() < 1 << f64::MANTISSA_DIGITS => Some(integer as f64),
            _ => {
                problems.value(path, node, "it takes a finite number", "write a number such as 0.15, without quotes");
                None
            }
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Duration {
    fn shape() -> Shape {
        value("duration", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        const HOW: &str = "write a number with its unit, such as \"10s\", \"1.5s\", \"250ms\", \"1m30s\" or \"1h\"";
        match &node.content {
            Content::Text(text) => match text.parse::<SignedDuration>().map(Duration::try_from) {
                Ok(Ok(duration)) if duration <= MAX_DURATION => return Some(duration),
                Ok(Ok(_)) => problems.value(path, node, "no duration may exceed ten years", "write a shorter one"),
                Ok(Err(_)) => problems.value(path, node, "a duration is not negative", HOW),
                Err(_) => problems.value(path, node, "it takes a duration", HOW),
            },
            Content::Integer(number) => {
                let todo = format!("say the unit: \"{number}s\" for seconds, \"{number}ms\" for milliseconds");
                problems.value(path, node, "it takes a duration, and a bare number has no unit", todo);
            }
            _ => problems.value(path, node, "it takes a duration", HOW),
        }
        None
    }

    fn show(&self) -> Option<String> {
        Some(show_duration(*self))
    }
}

/// The duration as one writes it: `1.5s`, `250ms`, `1m30s`.
pub(crate) fn show_duration(duration: Duration) -> String {
    const PRINTER: SpanPrinter = SpanPrinter::new().designator(Designator::Compact).spacing(Spacing::None);
    let printer =
        if duration < Duration::from_secs(1) { PRINTER } else { PRINTER.fractional(Some(FractionalUnit::Second)) };
    // The printer's units go down to seconds; whole minutes and hours need no "0s".
    let shown = printer.unsigned_duration_to_string(&duration);
    match shown.strip_suffix("m0s") {
        Some(minutes) => format!("{minutes}m"),
        None => shown,
    }
}

/// A number of bytes: an integer, or text such as `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units with their factors, the largest binary unit first, so that a size is shown in the largest that divides it.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at_checked(digits)?;
        let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
        number.parse::<u64>().ok()?.checked_mul(*factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |factor: &u64| self.0 > 0 && self.0.is_multiple_of(*factor);
        match SIZE_UNITS.iter().find(|(_, factor)| fits(factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => f.write_str("0B"),
        }
    }
}

impl Setting for ByteSize {
    fn shape() -> Shape {
        value("size", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let size = match &node.content {
            Content::Integer(bytes) => u64::try_from(*bytes).ok().map(Self),
            Content::Text(text) => Self::parse(text),
            _ => None,
        };
        if size.is_none() {
            problems.value(
                path,
                node,
                "it takes a size in bytes",
                "write an integer, or text such as \"64MiB\" or \"32KiB\"",
            );
        }
        size
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for SocketAddr {
    fn shape() -> Shape {
        value("address", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let address = if let Content::Text(text) = &node.content { text.parse().ok() } else { None };
        if address.is_none() {
            let todo =
                "write an IP address and a port, such as \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for every interface";
            problems.value(path, node, "it takes an IP address with a port", todo);
        }
        address
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        T::read(node, path, problems).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(Setting::show)
    }
}

impl Setting for BTreeMap<String, String> {
    fn shape() -> Shape {
        Shape::FreeMap { kind: "map of texts".to_owned() }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::Map(fields) = &node.content else {
            problems.value(path, node, "it takes a map of texts", "write it as `name: value` lines");
            return None;
        };
        let values: Vec<_> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| Some((name.clone(), text(value, &format!("{path}.{name}"), problems)?.to_owned())))
            .collect();
        values.into_iter().collect()
    }

    fn show(&self) -> Option<String> {
        None
    }
}
