//! The values that are more than a number or a text: secrets, server addresses, subjects, where to start, partitions.

use super::problem::Problems;
use super::section::{Setting, Shape, section};
use super::tree::{Content, Node};
use super::value::text;
use parti_coordination::{DEFAULT_WEIGHT, Partition, PartitionId};
use std::collections::HashMap;
use std::fmt;

fn shape(kind: &str, verbatim: bool) -> Shape {
    Shape::Value { kind: kind.to_owned(), verbatim }
}

/// A text that is never printed: `Debug` and every message hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, to be handed to whoever checks it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Setting for Secret {
    fn shape() -> Shape {
        shape("secret text", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        if let Content::Text(text) = &node.content {
            return Some(Self(text.clone()));
        }
        problems.hidden_value(path, node, "it takes text, and YAML reads this as something else", "quote it");
        None
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Addresses of NATS servers, at least one. `Debug` and `Display` hide the login that an address may hold.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrls(Vec<String>);

impl ServerUrls {
    /// The addresses as written, login included.
    #[must_use]
    pub fn reveal(&self) -> &[String] {
        &self.0
    }

    /// Reads addresses separated by commas.
    ///
    /// # Errors
    /// Why it is none, in words that show no login.
    pub fn parse(text: &str) -> Result<Self, String> {
        let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
        match urls.iter().find_map(|url| bad_url(url)) {
            Some(why) => Err(why),
            None => Ok(Self(urls)),
        }
    }

    /// A server on this machine, at the usual port.
    pub(crate) fn local() -> Self {
        Self(vec!["nats://127.0.0.1:4222".to_owned()])
    }

    /// Whether an address holds a login.
    #[must_use]
    pub fn has_login(&self) -> bool {
        self.0.iter().any(|url| url.contains('@'))
    }
}

/// Why a text is no server address.
fn bad_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let host_port = rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/');
    // An IPv6 address is in brackets and full of colons.
    let (host, port) = match host_port.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host_port, None),
    };
    if !matches!(scheme, "nats" | "tls") {
        Some("the scheme of a server address is nats:// or tls://".to_owned())
    } else if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        Some("a server address names a host".to_owned())
    } else if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        Some("the port of a server address is a number up to 65535".to_owned())
    } else {
        None
    }
}

impl fmt::Display for ServerUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (scheme, rest) =
                url.split_once("://").map_or((None, url.as_str()), |(scheme, rest)| (Some(scheme), rest));
            if let Some(scheme) = scheme {
                write!(f, "{scheme}://")?;
            }
            match rest.rsplit_once('@') {
                Some((_, host)) => write!(f, "[hidden]@{host}")?,
                None => f.write_str(rest)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ServerUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Setting for ServerUrls {
    fn shape() -> Shape {
        shape("URL, or several", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let joined = match &node.content {
            Content::Text(text) => Some(text.clone()),
            Content::List(items) if !items.is_empty() => {
                let texts: Option<Vec<_>> = items
                    .iter()
                    .map(|item| if let Content::Text(text) = &item.content { Some(text.as_str()) } else { None })
                    .collect();
                texts.map(|texts| texts.join(","))
            }
            _ => None,
        };
        let parsed = joined
            .ok_or_else(|| "it takes one address or a list of addresses".to_owned())
            .and_then(|text| Self::parse(&text));
        parsed
            .map_err(|why| {
                problems.hidden_value(path, node, why, "write it as \"nats://host:4222\", several with commas")
            })
            .ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Why NATS would not take `subject` for publishing.
pub(crate) fn bad_subject(subject: &str) -> Option<&'static str> {
    if subject.split('.').any(str::is_empty) {
        Some("a subject has no empty part between its dots")
    } else if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("a subject has no spaces")
    } else if subject.split('.').any(|token| matches!(token, "*" | ">")) {
        Some("a subject to publish to has no wildcards")
    } else if subject.starts_with('$') {
        Some("subjects that begin with $ belong to NATS")
    } else if subject.len() > 512 {
        Some("it may have at most 512 bytes")
    } else {
        None
    }
}

/// Which subject carries the messages of a partition: a subject with `{{.PartitionID}}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectTemplate {
    prefix: String,
    suffix: String,
}

impl SubjectTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const PLACEHOLDER: &str = "it has {{.PartitionID}} exactly once and no other placeholder";
        let (prefix, rest) = text.split_once("{{").ok_or(PLACEHOLDER)?;
        let (name, suffix) = rest.split_once("}}").ok_or(PLACEHOLDER)?;
        if name.trim() != ".PartitionID" || suffix.contains("{{") || suffix.contains("}}") || prefix.contains("}}") {
            return Err(PLACEHOLDER);
        }
        match bad_subject(&format!("{prefix}id{suffix}")) {
            Some(why) => Err(why),
            None => Ok(Self { prefix: prefix.to_owned(), suffix: suffix.to_owned() }),
        }
    }

    /// The subject of a partition.
    #[must_use]
    pub fn subject(&self, partition: &PartitionId) -> String {
        format!("{}{}{}", self.prefix, partition, self.suffix)
    }

    /// The id of the partition that a subject belongs to: the inverse of [`subject`](Self::subject). The partition
    /// need not exist.
    #[must_use]
    pub fn partition_id<'s>(&self, subject: &'s str) -> Option<&'s str> {
        subject.strip_prefix(&self.prefix)?.strip_suffix(self.suffix.as_str()).filter(|id| !id.is_empty())
    }

    /// The narrowest subject with a wildcard that covers every partition: `work.>` for `work.{{.PartitionID}}`.
    #[must_use]
    pub fn wildcard(&self) -> String {
        match self.prefix.rsplit_once('.') {
            Some((whole_tokens, _)) => format!("{whole_tokens}.>"),
            None => ">".to_owned(),
        }
    }
}

impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{{.PartitionID}}}}{}", self.prefix, self.suffix)
    }
}

impl Default for SubjectTemplate {
    /// `work.{{.PartitionID}}`, as in the guides.
    fn default() -> Self {
        Self { prefix: "work.".to_owned(), suffix: String::new() }
    }
}

impl Setting for SubjectTemplate {
    fn shape() -> Shape {
        shape("subject template", true)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        Self::parse(text(node, path, problems)?)
            .map_err(|why| problems.value(path, node, why, "write a subject such as \"work.{{.PartitionID}}\""))
            .ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Where a partition that has never been processed starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFrom {
    /// With the oldest message of the stream.
    All,
    /// With what arrives from now on.
    New,
    /// With the first message stored at this time or later.
    Time(jiff::Timestamp),
    /// Behind the ack floor of this durable consumer: for moving over from another client.
    Consumer(String),
}

impl Setting for StartFrom {
    fn shape() -> Shape {
        shape("`all`, `new`, time, `{consumer: NAME}`", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let start = match &node.content {
            Content::Text(word) if word == "all" => Some(Self::All),
            Content::Text(word) if word == "new" => Some(Self::New),
            Content::Text(time) => time.parse().ok().map(Self::Time),
            Content::Map(fields) => match fields.iter().next().map(|(key, value)| (key.as_str(), &value.content)) {
                Some(("consumer", Content::Text(name))) if fields.len() == 1 && !name.is_empty() => {
                    Some(Self::Consumer(name.clone()))
                }
                _ => None,
            },
            _ => None,
        };
        if start.is_none() {
            let todo = "write all, new, a time such as 2025-11-02T00:00:00Z, or {consumer: NAME}";
            problems.value(path, node, "it says with which message new partitions start", todo);
        }
        start
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::All => "all".to_owned(),
            Self::New => "new".to_owned(),
            Self::Time(time) => time.to_string(),
            Self::Consumer(name) => format!("{{consumer: {name}}}"),
        })
    }
}

/// What a plugin gets as its configuration. `Debug` shows the keys only: values may be secrets of the plugin's own.
#[derive(Clone, Default, PartialEq)]
pub struct PluginConfig(serde_json::Map<String, serde_json::Value>);

impl PluginConfig {
    /// The values.
    #[must_use]
    pub fn as_map(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.0
    }
}

impl fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Setting for PluginConfig {
    fn shape() -> Shape {
        Shape::FreeMap { kind: "map".to_owned() }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        if !matches!(node.content, Content::Map(_)) {
            problems.hidden_value(path, node, "it takes a map", "write it as `name: value` lines");
            return None;
        }
        match node.to_json() {
            Some(serde_json::Value::Object(map)) => Some(Self(map)),
            _ => {
                problems.hidden_value(
                    path,
                    node,
                    "plugins get it as JSON, which has no infinite numbers",
                    "quote such numbers",
                );
                None
            }
        }
    }

    fn show(&self) -> Option<String> {
        None
    }
}

section! {
    /// One partition of a static source, as written.
    struct PartitionEntry {
        /// What the partition is called.
        keys: Vec<String> = Vec::new(), required;
        /// Relative processing cost.
        weight: u64 = DEFAULT_WEIGHT;
    }
}

impl Setting for Vec<String> {
    fn shape() -> Shape {
        shape("list of texts", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::List(items) = &node.content else {
            problems.value(path, node, "it takes a list of texts", "write it as [\"a\", \"b\"]");
            return None;
        };
        let texts: Vec<Option<String>> =
            items.iter().enumerate().map(|(i, item)| String::read(item, &format!("{path}[{i}]"), problems)).collect();
        texts.into_iter().collect()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Most problems that one list reports: behind these, the same mistake is likely to repeat.
const MAX_LISTED: usize = 20;

/// Largest weight. The weights of a million partitions still add up within 64 bits.
const MAX_WEIGHT: u64 = 1_000_000_000;

impl Setting for Vec<Partition> {
    fn shape() -> Shape {
        shape("list of `{keys: [text, …], weight: integer}`", false)
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::List(items) = &node.content else {
            problems.value(
                path,
                node,
                "it takes a list of partitions",
                "write entries such as {keys: [\"orders\", \"0\"], weight: 100}",
            );
            return None;
        };
        let before = problems.0.len();
        let mut partitions: Vec<Partition> = Vec::with_capacity(items.len());
        let mut places: HashMap<PartitionId, usize> = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if problems.0.len() - before >= MAX_LISTED {
                let what = format!("the rest of `{path}`, from entry {index}, was not looked at");
                problems.add(path, &item.origin, what, "its first entries have problems enough", "correct these first");
                break;
            }
            let path = format!("{path}[{index}]");
            let so_far = problems.0.len();
            let Some(entry) = PartitionEntry::read(item, &path, problems) else { continue };
            if problems.0.len() > so_far {
                continue;
            }
            let mut bad = |what: String, why: &str, todo: &str| problems.add(&path, &item.origin, what, why, todo);
            if !(1..=MAX_WEIGHT).contains(&entry.weight) {
                bad(
                    format!("`{path}.weight` is {}", entry.weight),
                    "a weight is a cost relative to the other partitions, from 1 to 1000000000",
                    "100 is the usual weight",
                );
            }
            match Partition::new(entry.keys, entry.weight) {
                Ok(partition) => {
                    if let Some(first) = places.insert(partition.id().clone(), index) {
                        bad(
                            format!("`{path}` is {}, like entry {first}", partition.id()),
                            "two partitions with one id would share subject and position",
                            "remove one of the two, or give it other keys",
                        );
                    }
                    partitions.push(partition);
                }
                Err(error) => bad(
                    format!("`{path}` is no partition"),
                    &error.to_string(),
                    "give each partition at least one key, none of them empty",
                ),
            }
        }
        Some(partitions)
    }

    fn show(&self) -> Option<String> {
        None
    }
}
