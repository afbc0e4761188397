//! The environment as a layer of the configuration.

use super::problem::Problem;
use super::schema::{PLACEHOLDER, visit_keys};
use super::section::Shape;
use super::tree::{Content, Node};
use std::collections::HashMap;
use std::sync::Arc;

/// Variables of the guides, with the keys that they set. A `PARTI_…` variable of the same key wins over them.
pub(crate) const GUIDE_VARIABLES: [(&str, &str); 3] =
    [("NATS_URL", "nats.url"), ("WORKER_ID_MAX", "workerIdMax"), ("WORKER_ID", "workerId")];

/// A key that the environment or a flag can set.
pub(crate) struct Settable {
    /// The environment variable.
    pub(crate) variable: String,
    /// The key.
    pub(crate) path: String,
    /// Whether text is the value itself, rather than YAML.
    verbatim: bool,
}

/// Every key that can be set from outside a file, parents before their children: all but the sections without a
/// shorthand.
pub(crate) fn settable() -> Vec<Settable> {
    let mut found = Vec::new();
    visit_keys(&mut |path, variable, key| {
        let verbatim = match &key.shape {
            // A name of the user's choice may have any letters, so only the map as a whole can be set.
            _ if path.contains(PLACEHOLDER) => return,
            Shape::Value { verbatim, .. } => *verbatim,
            Shape::FreeMap { .. } | Shape::Named { .. } | Shape::Section { shorthand: Some(_), .. } => false,
            Shape::Section { shorthand: None, .. } => return,
        };
        found.push(Settable { variable: variable.to_owned(), path: path.to_owned(), verbatim });
    });
    found
}

impl Settable {
    /// The value that `text` says, as a layer of its own.
    pub(crate) fn layer(&self, text: &str, source: &Arc<str>) -> Result<Node, Problem> {
        let node = if self.verbatim {
            Node::new(Content::Text(text.to_owned()), source)
        } else {
            Node::parse(text, source).map_err(|malformed| Problem {
                path: self.path.clone(),
                what: format!("the value of `{}` is no YAML", self.path),
                why: malformed.reason,
                todo: "write it as one line of YAML or JSON, such as {a: 1} or [a, b]".to_owned(),
                origin: Some(source.to_string()),
            })?
        };
        Ok(node.nest(&self.path))
    }
}

/// What the environment says: layers in the order in which they win, problems, and warnings about likely slips.
///
/// A variable that is set to nothing counts as not set. A `PARTI_…` variable that is no key is normal (tools, and the
/// service variables of Kubernetes): only one within two letters of a key is warned about.
pub(crate) fn read(environment: &[(String, String)]) -> (Vec<Node>, Vec<Problem>, Vec<Problem>) {
    let set: HashMap<&str, &str> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(_, v)| !v.is_empty())
        .collect();
    let keys = settable();
    let guide =
        GUIDE_VARIABLES.iter().filter_map(|(name, path)| Some((*name, keys.iter().find(|key| key.path == *path)?)));
    let own = keys.iter().map(|key| (key.variable.as_str(), key));

    let (mut layers, mut problems) = (Vec::new(), Vec::new());
    for (name, key) in guide.chain(own) {
        let Some(text) = set.get(name) else { continue };
        match key.layer(text, &format!("environment variable {name}").into()) {
            Ok(layer) => layers.push(layer),
            Err(problem) => problems.push(problem),
        }
    }

    let known = |name: &str| keys.iter().any(|key| key.variable == name);
    let mut strays: Vec<&str> = set.keys().copied().filter(|name| name.starts_with("PARTI_") && !known(name)).collect();
    strays.sort_unstable();
    let warnings = strays.into_iter().filter_map(|name| {
        let near = keys.iter().find(|key| strsim::damerau_levenshtein(name, &key.variable) <= 2)?;
        Some(Problem {
            path: near.path.clone(),
            what: format!("environment variable {name} sets nothing"),
            why: "no key has this name".to_owned(),
            todo: format!("did you mean {}?", near.variable),
            origin: None,
        })
    });
    let warnings = warnings.collect();
    (layers, problems, warnings)
}
