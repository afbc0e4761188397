//! Which handler a partition has: `handler` is one for all of them, or a list, of which the first that matches handles it.

use super::problem::Problems;
use super::schema::Handler;
use super::section::{Section as _, Setting, Shape, section};
use super::tree::{Content, Node};
use parti_coordination::Partition;

section! {
    /// Which partitions an entry of `handler` is for. Without it, for all that no entry before it matches.
    pub struct Match {
        /// A pattern for each key of a partition, from the first on: `["tool-*"]` is every partition whose first key begins with `tool-`,
        /// `["*", "a"]` every one whose second key is `a`. `*` stands for any characters, also none, within one key, and for nothing
        /// but itself there is no way to write it. Keys without a pattern may be anything; a partition with fewer keys than there are patterns
        /// does not match.
        keys: KeyPatterns = KeyPatterns::default(), required;
    }
}

/// A pattern for each of the first keys of a partition. At least one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPatterns(Vec<String>);

impl KeyPatterns {
    /// Whether a partition with these keys matches.
    #[must_use]
    pub fn matches(&self, keys: &[String]) -> bool {
        self.0.len() <= keys.len() && self.0.iter().zip(keys).all(|(pattern, key)| matches(pattern, key))
    }

    /// Whether everything that `other` matches matches this as well.
    fn covers(&self, other: &Self) -> bool {
        // A star of the other one can only be matched by one of ours, and so can whatever it stands for.
        self.matches(&other.0)
    }
}

/// Whether a text matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The first place is the best one: it leaves most for the parts behind it.
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(last)
}

impl Setting for KeyPatterns {
    fn shape() -> Shape {
        Shape::Value { kind: "list of patterns".to_owned(), verbatim: false }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let patterns = Vec::<String>::read(node, path, problems)?;
        if patterns.is_empty() || patterns.iter().any(String::is_empty) {
            let todo = "write patterns such as [\"tool-*\"], or leave `match` out for every partition";
            problems.value(path, node, "there is a pattern for the first key, and a key is never empty", todo);
            return None;
        }
        Some(Self(patterns))
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// The handlers, in the order in which they are asked for a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Handlers {
    entries: Vec<Handler>,
    /// Whether they were written as a list: their keys are named accordingly.
    is_list: bool,
}

impl Handlers {
    /// Each with the key that it has in the configuration: `handler`, or `handler[0]` and so on.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Handler)> {
        self.entries.iter().enumerate().map(|(index, handler)| (self.key(index), handler))
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (String, &mut Handler)> {
        let keys: Vec<String> = (0..self.entries.len()).map(|index| self.key(index)).collect();
        keys.into_iter().zip(&mut self.entries)
    }

    fn key(&self, index: usize) -> String {
        if self.is_list { format!("handler[{index}]") } else { "handler".to_owned() }
    }

    /// Which of them handles this partition, if one does.
    #[must_use]
    pub fn of(&self, partition: &Partition) -> Option<usize> {
        self.entries.iter().position(|handler| handler.handles(partition.keys()))
    }

    /// Those that no partition ever gets to, each with the one before it that takes everything.
    pub(super) fn unreachable(&self) -> Vec<(String, String)> {
        let found = self.entries.iter().enumerate().filter_map(|(index, handler)| {
            let before = self.entries.iter().take(index).position(|before| before.covers(handler))?;
            Some((self.key(index), self.key(before)))
        });
        found.collect()
    }
}

impl Handler {
    /// Whether it is for partitions with these keys, if no entry before it is.
    #[must_use]
    pub fn handles(&self, keys: &[String]) -> bool {
        self.r#match.as_ref().is_none_or(|only| only.keys.matches(keys))
    }

    fn covers(&self, other: &Self) -> bool {
        match (&self.r#match, &other.r#match) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours.keys.covers(&theirs.keys),
            // A partition has at least one key.
            (Some(ours), None) => ours.keys.covers(&KeyPatterns(vec!["*".to_owned()])),
        }
    }
}

impl Setting for Handlers {
    fn shape() -> Shape {
        Shape::Section { keys: Handler::keys(), shorthand: None }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Content::List(items) = &node.content else {
            return Handler::read(node, path, problems).map(|handler| Self { entries: vec![handler], is_list: false });
        };
        if items.is_empty() {
            let todo = "write {plugin: NAME}, or remove the key from a worker that handles nothing";
            problems.value(path, node, "somebody has to handle the messages", todo);
            return None;
        }
        let read = |(index, item)| Handler::read(item, &format!("{path}[{index}]"), problems);
        let entries: Vec<Option<Handler>> = items.iter().enumerate().map(read).collect();
        Some(Self { entries: entries.into_iter().collect::<Option<_>>()?, is_list: true })
    }

    fn show(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(patterns: &[&str]) -> KeyPatterns {
        KeyPatterns(patterns.iter().map(|&pattern| pattern.to_owned()).collect())
    }

    #[test]
    fn a_star_stands_for_any_characters_of_one_key_and_patterns_for_the_first_keys() {
        let matched = |of: &[&str], keys: &[&str]| {
            patterns(of).matches(&keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>())
        };
        for (of, keys) in [
            (&["tool-*"][..], &["tool-07", "chamber-2"][..]),
            (&["tool-*"], &["tool-"]),
            (&["*"], &["anything"]),
            (&["*", "a"], &["x", "a", "b"]),
            (&["a*b*c"], &["a.b.b.c"]),
            (&["*ab"], &["aab"]),
            (&["a**"], &["a"]),
            (&["ä*"], &["äö"]),
        ] {
            assert!(matched(of, keys), "{of:?} {keys:?}");
        }
        for (of, keys) in [
            (&["tool-*"][..], &["Tool-07"][..]),
            (&["tool"], &["tool-07"]),
            (&["*", "*"], &["alone"]),
            (&["ab*ba"], &["aba"]),
            (&["a*b*c"], &["acb"]),
            (&["*", "a"], &["a", "x"]),
        ] {
            assert!(!matched(of, keys), "{of:?} {keys:?}");
        }
    }

    #[test]
    fn a_list_of_patterns_covers_another_only_if_nothing_of_that_is_left() {
        for (wide, narrow) in [
            (&["*"][..], &["*"][..]),
            (&["*"], &["a", "b"]),
            (&["a*"], &["ab*"]),
            (&["a*"], &["a*b*"]),
            (&["*", "*"], &["x", "y*"]),
        ] {
            assert!(patterns(wide).covers(&patterns(narrow)), "{wide:?} {narrow:?}");
        }
        for (wide, narrow) in
            [(&["a"][..], &["a*"][..]), (&["ab*"], &["a*"]), (&["*", "*"], &["x"]), (&["a*c"], &["a*"])]
        {
            assert!(!patterns(wide).covers(&patterns(narrow)), "{wide:?} {narrow:?}");
        }
    }
}
