//! The messages of a test: one JSON object a line.

use super::{unreadable, usage};
use crate::error::OperatorError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parti_coordination::{DEFAULT_WEIGHT, Partition};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Most faulty lines that are named.
const NAMED: usize = 10;

/// The partition of messages that name none.
const NO_PARTITION: &str = "test";

/// A message that is given to the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) partition: Partition,
    pub(super) subject: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) payload: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wire {
    subject: String,
    partition: Option<Keys>,
    #[serde(default)]
    headers: Headers,
    payload: Option<Value>,
    payload_base64: Option<String>,
}

/// Keys, or keys joined by dots.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a partition is a text such as \"tool-7.press\", or a list of its keys")]
enum Keys {
    Joined(String),
    List(Vec<String>),
}

/// Headers as they are written: a name may have several values.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Headers(BTreeMap<String, Values>);

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a header is a text or a list of texts")]
enum Values {
    One(String),
    Many(Vec<String>),
}

impl Headers {
    /// Pairs of name and value, in the order of the names.
    pub(super) fn pairs(self) -> Vec<(String, String)> {
        let values = |values| match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        let pairs = |(name, of): (String, Values)| values(of).into_iter().map(move |value| (name.clone(), value));
        self.0.into_iter().flat_map(pairs).collect()
    }
}

/// The bytes of a payload as it is written: a text as it is, anything else as JSON, or base64.
pub(super) fn payload_bytes(payload: Option<&Value>, base64: Option<&str>) -> Result<Vec<u8>, String> {
    match (payload, base64) {
        (Some(_), Some(_)) => Err("there is a payload and a payloadBase64, and a message has one".to_owned()),
        (None, Some(text)) => BASE64_STANDARD.decode(text).map_err(|error| format!("payloadBase64: {error}")),
        (Some(Value::String(text)), None) => Ok(text.clone().into_bytes()),
        (Some(value), None) => Ok(value.to_string().into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}

/// The messages of a file.
pub(super) fn read(path: &Path) -> Result<Vec<Given>, OperatorError> {
    let given = read_lines(path, |wire: Wire| {
        let keys = match wire.partition {
            Some(Keys::List(keys)) => keys,
            Some(Keys::Joined(keys)) => keys.split('.').map(str::to_owned).collect(),
            None => vec![NO_PARTITION.to_owned()],
        };
        let partition = Partition::new(keys, DEFAULT_WEIGHT).map_err(|error| error.to_string())?;
        if wire.subject.is_empty() {
            return Err("the subject is empty".to_owned());
        }
        let payload = payload_bytes(wire.payload.as_ref(), wire.payload_base64.as_deref())?;
        Ok(Given { partition, subject: wire.subject, headers: wire.headers.pairs(), payload })
    })?;
    if given.is_empty() {
        return Err(usage(format!("{} has no messages", path.display()), "it is empty", "write one message a line"));
    }
    Ok(given)
}

/// What each line that is not blank says, or what is wrong with the lines.
pub(super) fn read_lines<W: DeserializeOwned, T>(
    path: &Path,
    accept: impl Fn(W) -> Result<T, String>,
) -> Result<Vec<T>, OperatorError> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(line).map_err(|error| fault(&error)).and_then(&accept);
        match parsed {
            Ok(parsed) => good.push(parsed),
            Err(why) => faults.push(format!("line {number}: {why}")),
        }
    }
    if faults.is_empty() {
        return Ok(good);
    }
    let more = faults.len().saturating_sub(NAMED);
    faults.truncate(NAMED);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    let what = format!("{} cannot be used", path.display());
    Err(usage(what, &faults.join("\n       "), "write one JSON object a line; `parti plugin test --help` shows some"))
}

/// What serde says, with the place in this line only.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    if error.column() == 0 { what.to_owned() } else { format!("{what} (column {})", error.column()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Given>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_is_read_as_its_author_writes_it() {
        let given = parse(
            "{\"subject\": \"a\", \"payload\": \"text\"}\n\n\
             {\"subject\": \"b\", \"partition\": \"x.y\", \"payload\": {\"value\": 1.5}, \"headers\": {\"h\": \"1\", \"i\": [\"2\", \"3\"]}}\r\n\
             {\"subject\": \"c\", \"partition\": [\"x.y\"], \"payloadBase64\": \"AP8=\"}",
        )
        .unwrap();
        let partitions: Vec<_> = given.iter().map(|message| message.partition.id().as_str()).collect();
        assert_eq!(partitions, ["test", "x.y", "x%2Ey"]);
        let payloads: Vec<_> = given.iter().map(|message| message.payload.as_slice()).collect();
        assert_eq!(payloads, [b"text".as_slice(), br#"{"value":1.5}"#, &[0, 0xff]]);
        let pairs = [("h", "1"), ("i", "2"), ("i", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(given[1].headers, pairs);
    }

    #[test]
    fn every_wrong_line_is_named_with_its_number() {
        let refused = parse(
            "{\"subject\": \"a\"}\n{\"subjet\": \"a\"}\n{\"subject\": \"a\", \"payload\": 1, \"payloadBase64\": \"\"}\n\
             {\"subject\": \"a\", \"payloadBase64\": \"?\"}\n{\"subject\": \"\"}\n[]\n{\"subject\": \"a\", \"partition\": \"a..b\"}\n\
             {\"subject\": \"a\", \"partition\": 7}\n{\"subject\": \"a\"",
        )
        .unwrap_err();
        for part in [
            "line 2: ",
            "subjet",
            "line 3: there is a payload and",
            "line 4: payloadBase64",
            "line 5: the subject",
            "line 6: ",
            "line 7: key 1 of the partition is empty",
            "line 8: ",
            "line 9: EOF while parsing",
        ] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        assert!(!refused.contains("line 1:"), "{refused}");
        assert!(parse("\n").unwrap_err().contains("has no messages"));
        assert!(parse(&"x\n".repeat(100)).unwrap_err().contains("and 90 more"));
        let hostile = format!("{{\"subject\": \"a\", \"payload\": {}", "[".repeat(100_000));
        assert!(parse(&hostile).unwrap_err().contains("recursion limit"));
    }
}
