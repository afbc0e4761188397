//! The untyped tree of a configuration: what a YAML file, an environment variable or a flag says, and where.
//!
//! Separate from the typed configuration because layers are merged before types are known, and because a problem is
//! reported with the file and line of the value. [`super::load`] builds and merges trees, [`super::section`] reads
//! them.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where a value comes from: `parti.yaml:7`, `environment variable PARTI_GROUP`, `command line`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    source: Arc<str>,
    line: Option<u64>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) origin: Origin,
}

/// A value as YAML knows it. Integers beyond 64 bits arrive as `Float`.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// Most bytes of one file. A list of 100,000 partitions takes about 8 MiB.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 32 * 1024 * 1024;

/// Why a text is no configuration document.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub(crate) reason: String,
    pub(crate) line: Option<u64>,
}

impl Node {
    /// An empty map: the document of an empty file, and the start of every merge.
    pub(crate) fn empty(source: &Arc<str>) -> Self {
        Self::new(Content::Map(BTreeMap::new()), source)
    }

    /// A value without a line.
    pub(crate) fn new(content: Content, source: &Arc<str>) -> Self {
        Self { content, origin: Origin { source: source.clone(), line: None } }
    }

    /// Reads one YAML document. Duplicate keys, several documents, unknown tags, and documents that grow when their
    /// aliases are expanded are refused. YAML 1.1 words such as `yes` and `on`, and numbers such as `007`, stay text.
    pub(crate) fn parse(text: &str, source: &Arc<str>) -> Result<Self, Malformed> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: 2_000_000,
                max_events: 4_000_000,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            reject_unsupported_tags: true,
            non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
            // A snippet of the file could show a password.
            with_snippet: false,
        };
        let document: Spanned<Content> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            Malformed { reason: one_line(&error.to_string()), line: error.location().map(|place| place.line()) }
        })?;
        let mut node = Node::from(document);
        node.stamp(source);
        Ok(node)
    }

    /// The value from a flag.
    pub(crate) fn from_json(value: &serde_json::Value, source: &Arc<str>) -> Self {
        let content = match value {
            serde_json::Value::Null => Content::Null,
            serde_json::Value::Bool(value) => Content::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(integer) => Content::Integer(integer),
                None => Content::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Content::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Content::List(items.iter().map(|item| Self::from_json(item, source)).collect())
            }
            serde_json::Value::Object(fields) => {
                Content::Map(fields.iter().map(|(key, value)| (key.clone(), Self::from_json(value, source))).collect())
            }
        };
        Self::new(content, source)
    }

    /// The value for a plugin; `None` where a number cannot be written as JSON.
    pub(crate) fn to_json(&self) -> Option<serde_json::Value> {
        Some(match &self.content {
            Content::Null => serde_json::Value::Null,
            Content::Bool(value) => serde_json::Value::Bool(*value),
            Content::Integer(integer) => serde_json::Value::Number(serde_json::Number::from_i128(*integer)?),
            Content::Float(float) => serde_json::Value::Number(serde_json::Number::from_f64(*float)?),
            Content::Text(text) => serde_json::Value::String(text.clone()),
            Content::List(items) => serde_json::Value::Array(items.iter().map(Node::to_json).collect::<Option<_>>()?),
            Content::Map(fields) => serde_json::Value::Object(
                fields.iter().map(|(key, value)| Some((key.clone(), value.to_json()?))).collect::<Option<_>>()?,
            ),
        })
    }

    /// Wraps the value into maps, so that it lies at the dotted `path` of the result.
    pub(crate) fn nest(self, path: &str) -> Self {
        path.rsplit('.').fold(self, |inner, key| {
            let origin = inner.origin.clone();
            Node { content: Content::Map(BTreeMap::from([(key.to_owned(), inner)])), origin }
        })
    }

    /// The value at a dotted path with indices (`source.static.partitions[3].weight`), if somebody set it.
    pub(crate) fn find(&self, path: &str) -> Option<&Node> {
        let mut node = self;
        for step in path.split('.') {
            let (key, indices) =
                step.split_once('[').map_or((step, ""), |(key, rest)| (key, rest.trim_end_matches(']')));
            let Content::Map(fields) = &node.content else { return None };
            node = fields.get(key)?;
            if !indices.is_empty() {
                let Content::List(items) = &node.content else { return None };
                node = items.get(indices.parse::<usize>().ok()?)?;
            }
        }
        Some(node)
    }

    /// Whether the value says nothing: `key:` with nothing behind it means the same as no `key` at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.content, Content::Null)
    }

    fn stamp(&mut self, source: &Arc<str>) {
        self.origin.source = source.clone();
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.stamp(source)),
            Content::Map(fields) => fields.values_mut().for_each(|value| value.stamp(source)),
            _ => {}
        }
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        let line = Some(spanned.referenced.line()).filter(|line| *line > 0);
        Self { content: spanned.value, origin: Origin { source: Arc::default(), line } }
    }
}

impl fmt::Display for Content {
    /// The value as a message shows it: one line, shortened, without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Null => f.write_str("nothing"),
            Content::Bool(value) => value.fmt(f),
            Content::Integer(value) => value.fmt(f),
            Content::Float(value) => value.fmt(f),
            Content::Text(text) => write!(f, "\"{}\"", one_line(text)),
            Content::List(items) => write!(f, "a list of {}", items.len()),
            Content::Map(_) => f.write_str("a map"),
        }
    }
}

/// The text on one line, without control characters, and no longer than a message should be.
pub(crate) fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut line: String = text
        .chars()
        .take(MAX_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned();
    if text.chars().nth(MAX_CHARS).is_some() {
        line.push('…');
    }
    line
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Content>>()? {
            items.push(item.into());
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, Spanned<Content>>()? {
            fields.insert(key, value.into());
        }
        Ok(Content::Map(fields))
    }
}
