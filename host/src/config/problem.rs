//! What is wrong with a configuration, collected so that all of it is reported at once.

use super::tree::{Node, Origin};
use serde::Serialize;
use std::fmt;

/// One problem, or one warning: what, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, dotted (`assignment.minRebalanceInterval`, `source.static.partitions[3]`); empty for a whole file.
    pub path: String,
    /// What is wrong, with the value where it may be shown.
    pub what: String,
    /// Why that is wrong.
    pub why: String,
    /// What to do about it.
    pub todo: String,
    /// Who said so: file and line, environment variable, or command line. `None` for a default.
    pub origin: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, "\n  why: {}\n  do:  {}", self.why, self.todo)
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// A problem in the words given.
    pub(crate) fn add(
        &mut self,
        path: &str,
        origin: &Origin,
        what: String,
        why: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.0.push(Problem {
            path: path.to_owned(),
            what,
            why: why.into(),
            todo: todo.into(),
            origin: Some(origin.to_string()),
        });
    }

    /// A value that its key cannot take.
    pub(crate) fn value(&mut self, path: &str, node: &Node, why: impl Into<String>, todo: impl Into<String>) {
        self.add(path, &node.origin, format!("`{path}` is {}", node.content), why, todo);
    }

    /// A value that its key cannot take and that must not be shown.
    pub(crate) fn hidden_value(&mut self, path: &str, node: &Node, why: impl Into<String>, todo: impl Into<String>) {
        self.add(path, &node.origin, format!("`{path}` has a value that it cannot take"), why, todo);
    }

    /// Whether a problem concerns the value at `path`, in whichever entry of a list: it was found there, below or above.
    pub(crate) fn concern(&self, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().map(|problem| without_indices(&problem.path)).any(|at| within(&at, path) || within(path, &at))
    }
}

/// The key without the places in lists: `handler.plugin` for `handler[1].plugin`.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |key, part| key + part.split_once(']').map_or("", |(_, rest)| rest))
}

/// The candidate that `word` most likely means, if one is near enough. Case, `-` and `_` do not count, so that
/// `heartbeat_ttl` means `heartbeatTtl`.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No key is that long; the comparison takes time in proportion to the length.
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_lowercase();
    let word = plain(word);
    // One slip for every three characters: the rule of thumb that rustc and clap use too.
    let limit = word.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
