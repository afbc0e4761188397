//! What becomes of a message, as a test prints, records and expects it.

use super::driven::Fate;
use super::handler::{brief, readable};
use super::messages::{Headers, payload_bytes, read_lines};
use super::usage;
use crate::cli::operator::print::one_line;
use crate::error::OperatorError;
use crate::plugin::Publish;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Most differences that are told.
const TOLD: usize = 20;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Got {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Output>,
}

/// A message that it publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Output {
    subject: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Vec<String>>,
    /// A JSON object or list as such, another text as a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl Got {
    pub(super) fn new<'a>(fate: &Fate, published: impl Iterator<Item = &'a Publish>) -> Self {
        let (outcome, reason) = match fate {
            Fate::Ack => ("ack", None),
            Fate::Reject(reason) => ("reject", Some(reason.clone())),
            Fate::Exhausted => ("exhausted", None),
            Fate::Trap(why) => ("trap", Some(why.clone())),
        };
        Self { outcome, reason, outputs: published.map(Output::from).collect() }
    }

    pub(super) fn outcome(&self) -> &'static str {
        self.outcome
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The outcome with its reason.
    pub(super) fn fate(&self) -> String {
        fate(self.outcome, self.reason.as_deref())
    }
}

fn fate(outcome: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| outcome.to_owned(), |reason| format!("{outcome}: {}", brief(reason)))
}

impl From<&Publish> for Output {
    fn from(publish: &Publish) -> Self {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &publish.headers {
            headers.entry(name.clone()).or_default().push(value.clone());
        }
        let payload = match serde_json::from_slice(&publish.payload) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => Some(value),
            _ => std::str::from_utf8(&publish.payload).ok().map(|text| Value::String(text.to_owned())),
        };
        Self {
            subject: publish.subject.clone(),
            headers,
            payload_base64: payload.is_none().then(|| BASE64_STANDARD.encode(&publish.payload)),
            payload,
            bytes: publish.payload.to_vec(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", one_line(&self.subject))?;
        for (name, values) in &self.headers {
            for value in values {
                write!(f, "  {}: {}", one_line(name), one_line(value))?;
            }
        }
        write!(f, "  {}", readable(&self.bytes))
    }
}

/// What is expected of a message.
#[derive(Debug)]
pub(super) struct Expected {
    outcome: String,
    /// If it matters.
    reason: Option<String>,
    outputs: Vec<ExpectedOutput>,
}

#[derive(Debug)]
struct ExpectedOutput {
    subject: String,
    headers: BTreeMap<String, Vec<String>>,
    payload: ExpectedPayload,
}

#[derive(Debug)]
enum ExpectedPayload {
    Bytes(Vec<u8>),
    /// Whatever way it is written.
    Json(Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    outcome: String,
    reason: Option<String>,
    #[serde(default)]
    outputs: Vec<WireOutput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireOutput {
    subject: String,
    #[serde(default)]
    headers: Headers,
    payload: Option<Value>,
    payload_base64: Option<String>,
}

/// What a file expects of each message.
pub(super) fn read(path: &Path) -> Result<Vec<Expected>, OperatorError> {
    read_lines(path, |Wire { outcome, reason, outputs }: Wire| {
        if !["ack", "reject", "exhausted", "trap"].contains(&outcome.as_str()) {
            return Err(format!("`{outcome}` is no outcome; an outcome is ack, reject, exhausted or trap"));
        }
        let outputs = outputs.into_iter().map(|WireOutput { subject, headers, payload, payload_base64 }| {
            let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in headers.pairs() {
                by_name.entry(name).or_default().push(value);
            }
            let bytes = payload_bytes(payload.as_ref(), payload_base64.as_deref())?;
            let payload = match payload {
                Some(value) if !value.is_string() => ExpectedPayload::Json(value),
                _ => ExpectedPayload::Bytes(bytes),
            };
            Ok(ExpectedOutput { subject, headers: by_name, payload })
        });
        Ok(Expected { outcome, reason, outputs: outputs.collect::<Result<_, String>>()? })
    })
}

/// Writes what became of each message, as it can be expected of them from then on.
pub(super) fn write<'a>(path: &Path, got: impl Iterator<Item = &'a Got>) -> Result<(), OperatorError> {
    let mut text = String::new();
    for got in got {
        // Texts always encode.
        text.push_str(&serde_json::to_string(got).unwrap_or_default());
        text.push('\n');
    }
    std::fs::write(path, text).map_err(|error| {
        usage(
            format!("{} cannot be written", path.display()),
            &error.to_string(),
            "name a file in a folder that is there",
        )
    })
}

/// What is not as expected, as sentences with the expected and the actual side under them.
pub(super) fn differences(expected: &[Expected], got: &[&Got]) -> Vec<String> {
    let mut differences = Vec::new();
    for (number, (expected, got)) in (1..).zip(expected.iter().zip(got)) {
        let mut differ = |what: String, expected: String, got: String| {
            differences.push(format!("message {number} has {what}\n  expected  {expected}\n  got       {got}"));
        };
        let reason = expected.reason.as_ref();
        if expected.outcome != got.outcome || (reason.is_some() && reason != got.reason.as_ref()) {
            differ("another outcome".to_owned(), fate(&expected.outcome, expected.reason.as_deref()), got.fate());
        }
        let outputs = expected.outputs.len().max(got.outputs.len());
        for at in 0..outputs {
            let (expected, got) = (expected.outputs.get(at), got.outputs.get(at));
            let is_same = matches!((expected, got), (Some(expected), Some(got)) if expected.is(got));
            if !is_same {
                let nothing = || "nothing".to_owned();
                differ(
                    format!("another output {}", at + 1),
                    expected.map_or_else(nothing, ToString::to_string),
                    got.map_or_else(nothing, ToString::to_string),
                );
            }
        }
    }
    if expected.len() != got.len() {
        differences.push(format!("{} outcomes are expected, and there are {} messages", expected.len(), got.len()));
    }
    let more = differences.len().saturating_sub(TOLD);
    differences.truncate(TOLD);
    if more > 0 {
        differences.push(format!("and {more} more differences"));
    }
    differences
}

impl Expected {
    /// What became of a message, and nothing else.
    pub(super) fn exactly(got: &Got) -> Self {
        let output = |output: &Output| ExpectedOutput {
            subject: output.subject.clone(),
            headers: output.headers.clone(),
            payload: ExpectedPayload::Bytes(output.bytes.clone()),
        };
        let outputs = got.outputs.iter().map(output).collect();
        Self { outcome: got.outcome.to_owned(), reason: got.reason.clone(), outputs }
    }
}

impl ExpectedOutput {
    fn is(&self, got: &Output) -> bool {
        let is_payload = match &self.payload {
            ExpectedPayload::Bytes(bytes) => *bytes == got.bytes,
            ExpectedPayload::Json(value) => {
                serde_json::from_slice(&got.bytes).is_ok_and(|got: Value| says_the_same(value, &got))
            }
        };
        is_payload && self.subject == got.subject && self.headers == got.headers
    }
}

/// Whether two values say the same: `1` and `1.0` are one number.
fn says_the_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| says_the_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(key, value): (&String, &Value)| other.get(key).is_some_and(|other| says_the_same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        _ => one == other,
    }
}

impl fmt::Display for ExpectedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.payload {
            ExpectedPayload::Bytes(bytes) => bytes.clone(),
            ExpectedPayload::Json(value) => value.to_string().into_bytes(),
        };
        let (subject, headers) = (self.subject.clone(), self.headers.clone());
        Output { subject, headers, payload: None, payload_base64: None, bytes }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parti_coordination::Sequence;

    fn got(fate: &Fate, published: &[(&str, &[u8])]) -> Got {
        let publish = |(subject, payload): &(&str, &[u8])| Publish {
            cause: Sequence(1),
            subject: (*subject).to_owned(),
            headers: vec![("h".to_owned(), "1".to_owned()), ("h".to_owned(), "2".to_owned())],
            payload: payload.to_vec().into(),
        };
        let published: Vec<_> = published.iter().map(publish).collect();
        Got::new(fate, published.iter())
    }

    fn expected(lines: &str) -> Result<Vec<Expected>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("expected.jsonl");
        std::fs::write(&path, lines).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_recorded_is_what_is_expected_from_then_on() {
        let all = [
            got(&Fate::Ack, &[("out.a", b"{\"n\": 1}"), ("out.b", &[0xff]), ("out.c", b"")]),
            got(&Fate::Reject("no".to_owned()), &[]),
            got(&Fate::Exhausted, &[]),
            got(&Fate::Trap("it fell".to_owned()), &[]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("expected.jsonl");
        write(&path, all.iter()).unwrap();
        let all: Vec<_> = all.iter().collect();
        assert_eq!(differences(&read(&path).unwrap(), &all), [""; 0]);
        let told = differences(&read(&path).unwrap(), &[all[1], all[1], all[2]]).join("\n");
        for part in [
            "message 1 has another outcome\n  expected  ack\n  got       reject: no",
            "got       nothing",
            "expected  out.b  h: 1  h: 2  base64 /w==",
            "4 outcomes are expected, and there are 3 messages",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn a_json_payload_is_compared_by_what_it_says_and_a_reason_only_where_one_is_given() {
        let wire = |payload: &str| {
            let line = format!(
                "{{\"outcome\": \"ack\", \"outputs\": [{{\"subject\": \"a\", \"headers\": {{\"h\": [\"1\", \"2\"]}}, {payload}}}]}}"
            );
            expected(&line).unwrap()
        };
        let one = got(&Fate::Ack, &[("a", b"{ \"x\": 1.0, \"y\": [] }")]);
        assert_eq!(differences(&wire(r#""payload": {"y": [], "x": 1}"#), &[&one]).len(), 0);
        assert_eq!(differences(&wire(r#""payload": "{\"x\":1.0,\"y\":[]}""#), &[&one]).len(), 1);
        let rejected = got(&Fate::Reject("no".to_owned()), &[]);
        assert_eq!(differences(&expected(r#"{"outcome": "reject"}"#).unwrap(), &[&rejected]).len(), 0);
        assert_eq!(differences(&expected(r#"{"outcome": "reject", "reason": "yes"}"#).unwrap(), &[&rejected]).len(), 1);
        assert!(expected("\n{\"outcome\": \"acked\"}").unwrap_err().contains("line 2: `acked` is no outcome"));
    }
}
