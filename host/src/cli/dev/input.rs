//! The user's own data: a file with one JSON object per line. All of it is read and checked before anything starts.

use bytes::Bytes;
use control_chart_math::{Chart, Settings};
use parti_coordination::{DEFAULT_WEIGHT, InvalidPartition, Partition};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Bytes of the longest line: a little less than a nats-server takes in one message by default (1 MiB).
const MAX_LINE: usize = 1_000_000;

/// What to read from each line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    /// The field whose value names the partition: a name, or a path such as `device.id`.
    pub(super) key: &'a str,
    /// The field with the reading, where the handler wants one.
    pub(super) value: Option<&'a str>,
}

/// A checked input.
#[derive(Debug)]
pub(super) struct Input {
    /// The partitions, in the order in which they first occur.
    pub(super) partitions: Vec<Partition>,
    /// The lines, in their order.
    pub(super) lines: Vec<Line>,
}

/// One message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Which of the partitions.
    pub(super) partition: usize,
    /// The line as it is in the file.
    pub(super) payload: Bytes,
}

/// What is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputProblem {
    /// No line at all.
    #[error("it has no lines")]
    Empty,
    /// A line that cannot be used.
    #[error("line {number}: {fault}")]
    Line {
        /// Which line, counted from 1.
        number: usize,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// More than a message may have.
    #[error("it has {0} bytes; a message has at most {MAX_LINE}")]
    TooLong(usize),
    /// Not JSON, or not UTF-8.
    #[error("it is no JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("it is {0}, and must be a JSON object")]
    NotAnObject(&'static str),
    /// The field that names the partition is not there.
    #[error("it has no field `{0}` to name its partition")]
    NoKey(String),
    /// That field's value is no text, number or truth value.
    #[error("its field `{field}` is {found}, which names no partition")]
    NoName {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
    },
    /// The value cannot be part of a subject.
    #[error("its field `{field}` names no partition: {why}")]
    BadName {
        /// The field.
        field: String,
        /// Why not.
        why: InvalidPartition,
    },
    /// The handler would reject it.
    #[error("it has no numeric field `{0}`")]
    NoReading(String),
    /// The handler would reject it.
    #[error("the reading {0} is too large for the chart")]
    TooLarge(String),
}

/// Reads an input. Empty lines are passed over.
///
/// # Errors
/// The first line that cannot be used.
pub(super) fn parse(content: &Bytes, fields: Fields<'_>) -> Result<Input, InputProblem> {
    let mut by_name: HashMap<String, usize> = HashMap::new();
    let mut input = Input { partitions: Vec::new(), lines: Vec::new() };
    let mut charts: Vec<Chart> = Vec::new();
    // Editors on Windows put a byte-order mark there.
    let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let at = |fault| InputProblem::Line { number: index + 1, fault };
        let object = object(line).map_err(at)?;
        let name = name(&object, fields.key).map_err(at)?;
        let partition = match by_name.get(&name) {
            Some(partition) => *partition,
            None => {
                let partition = Partition::new(vec![name.clone()], DEFAULT_WEIGHT);
                input
                    .partitions
                    .push(partition.map_err(|why| at(Fault::BadName { field: fields.key.to_owned(), why }))?);
                charts.push(Chart::default());
                by_name.insert(name, input.partitions.len() - 1);
                input.partitions.len() - 1
            }
        };
        if let (Some(field), Some(chart)) = (fields.value, charts.get_mut(partition)) {
            let reading = reading(&object, field).ok_or_else(|| at(Fault::NoReading(field.to_owned())))?;
            let taken = chart.add(&Settings::default(), 0, reading);
            taken.map_err(|_| at(Fault::TooLarge(reading.to_string())))?;
        }
        input.lines.push(Line { partition, payload: content.slice_ref(line) });
    }
    if input.lines.is_empty() { Err(InputProblem::Empty) } else { Ok(input) }
}

fn object(line: &[u8]) -> Result<Map<String, Value>, Fault> {
    if line.len() > MAX_LINE {
        return Err(Fault::TooLong(line.len()));
    }
    match serde_json::from_slice(line).map_err(|error| Fault::NotJson(error.to_string()))? {
        Value::Object(object) => Ok(object),
        other => Err(Fault::NotAnObject(kind(&other))),
    }
}

/// The reading in a field of an object, as the control-chart handler reads it.
pub(super) fn reading(object: &Map<String, Value>, field: &str) -> Option<f64> {
    object.get(field).and_then(Value::as_f64)
}

/// The text of the field that names the partition. A field whose own name has dots in it comes before a path.
fn name(object: &Map<String, Value>, path: &str) -> Result<String, Fault> {
    let descend = || {
        let mut steps = path.split('.');
        let first = object.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    };
    match object.get(path).or_else(descend) {
        None => Err(Fault::NoKey(path.to_owned())),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(truth)) => Ok(truth.to_string()),
        Some(other) => Err(Fault::NoName { field: path.to_owned(), found: kind(other) }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl Into<Vec<u8>>) -> Result<Input, InputProblem> {
        parse(&Bytes::from(text.into()), Fields { key: "device.id", value: Some("celsius") })
    }

    #[test]
    fn lines_keep_their_order_and_bytes_and_go_to_the_partition_that_they_name() {
        let input = read(
            "\u{feff}{\"device\": {\"id\": \"oven 1\"}, \"celsius\": 20.5}\r\n\
             \n\
             {\"device\": {\"id\": 7}, \"celsius\": 1}\n\
             {\"device.id\": \"oven 1\", \"celsius\": -3}",
        )
        .unwrap();
        let ids: Vec<_> = input.partitions.iter().map(|partition| partition.id().as_str()).collect();
        assert_eq!(ids, ["oven%201", "7"]);
        let lines: Vec<_> = input.lines.iter().map(|line| (line.partition, &line.payload[..])).collect();
        assert_eq!(
            lines,
            [
                (0, &b"{\"device\": {\"id\": \"oven 1\"}, \"celsius\": 20.5}"[..]),
                (1, &b"{\"device\": {\"id\": 7}, \"celsius\": 1}"[..]),
                (0, &b"{\"device.id\": \"oven 1\", \"celsius\": -3}"[..]),
            ]
        );
    }

    #[test]
    fn a_line_that_cannot_be_used_is_named_before_anything_starts() {
        let good = r#"{"device": {"id": "a"}, "celsius": 1}"#;
        let long = format!(r#"{{"device": {{"id": "a"}}, "celsius": 1, "x": "{}"}}"#, "x".repeat(MAX_LINE));
        let deep = format!("{}{}", r#"{"x":"#.repeat(100_000), "}".repeat(100_000));
        let id = |text: &str| format!(r#"{{"device": {{"id": {text}}}, "celsius": 1}}"#);
        for (bad, why) in [
            (r#"{"device": "#.to_owned(), "no JSON"),
            ("{} {}".to_owned(), "no JSON"),
            ("[1]".to_owned(), "a list, and must be a JSON object"),
            ("null".to_owned(), "null, and must be a JSON object"),
            (deep, "no JSON"),
            (long, "a message has at most"),
            (r#"{"celsius": 1}"#.to_owned(), "no field `device.id`"),
            (r#"{"device": 3, "celsius": 1}"#.to_owned(), "no field `device.id`"),
            (id("null"), "is null"),
            (id("[1]"), "is a list"),
            (id("{}"), "is an object"),
            (id("\"\""), "key 0 of the partition is empty"),
            (id(&format!("\"{}\"", "x".repeat(2000))), "2000 bytes long"),
            (r#"{"device": {"id": "a"}}"#.to_owned(), "no numeric field `celsius`"),
            (r#"{"device": {"id": "a"}, "celsius": "1"}"#.to_owned(), "no numeric field `celsius`"),
            (r#"{"device": {"id": "a"}, "celsius": 1e999}"#.to_owned(), "no JSON: number out of range"),
            (r#"{"device": {"id": "a"}, "celsius": 1e300}"#.to_owned(), "too large for the chart"),
        ] {
            let problem = read(format!("{good}\n\n{bad}\n{good}")).unwrap_err().to_string();
            assert!(problem.starts_with("line 3: ") && problem.contains(why), "{problem:.200}");
        }
        let not_utf8 = read(b"{\"device\": {\"id\": \"\xff\"}, \"celsius\": 1}".to_vec()).unwrap_err().to_string();
        assert!(not_utf8.starts_with("line 1: it is no JSON"), "{not_utf8}");
        for empty in ["", "\n\r\n \n"] {
            assert_eq!(read(empty).unwrap_err(), InputProblem::Empty);
        }
    }
}
