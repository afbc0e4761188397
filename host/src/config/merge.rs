//! How layers of a configuration are laid over each other.

use super::section::{Shape, Shorthand};
use super::tree::{Content, Node};
use std::collections::BTreeMap;

/// Lays `over` onto `base`: maps merge key by key, everything else is replaced. Shorthands become the maps they stand
/// for, so that `degradedBehavior: aggressive` in a file and one threshold in the environment add up.
pub(crate) fn merge(base: Option<Node>, over: Node, shape: Option<&Shape>) -> Node {
    // What is said of a section that there are several of is said of each.
    if let (Some(Node { content: Content::List(items), origin }), Content::Map(_), Some(Shape::Section { .. })) =
        (&base, &over.content, shape)
    {
        let items = items.iter().map(|item| merge(Some(item.clone()), over.clone(), shape)).collect();
        return Node { content: Content::List(items), origin: origin.clone() };
    }
    // A shorthand says all there is to say: it replaces what other layers said.
    let base = base.filter(|_| matches!(over.content, Content::Map(_)));
    let over = match shape {
        Some(Shape::Section { shorthand: Some(shorthand), .. }) => expand(over, *shorthand),
        _ => over,
    };
    let Content::Map(fields) = over.content else { return over };
    let mut merged = match base {
        Some(Node { content: Content::Map(fields), .. }) => fields,
        _ => BTreeMap::new(),
    };
    for (name, value) in fields {
        let key = match shape {
            Some(Shape::Section { keys, .. }) => keys.iter().find(|key| key.name == name).map(|key| &key.shape),
            _ => None,
        };
        let below = merged.remove(&name);
        merged.insert(name, merge(below, value, key));
    }
    Node { content: Content::Map(merged), origin: over.origin }
}

/// The map that a shorthand stands for. What is none stays as it is.
fn expand(node: Node, shorthand: Shorthand) -> Node {
    let origin = node.origin.clone();
    let content = match (shorthand, node.content) {
        (Shorthand::Key(key) | Shorthand::Name(key), content @ Content::Text(_)) => {
            Content::Map(BTreeMap::from([(key.to_owned(), Node { content, origin: origin.clone() })]))
        }
        (Shorthand::Key(_), Content::Map(mut fields)) => {
            // `{preset: aggressive, overrides: {enterThreshold: 8s}}` says the same as the fields beside the preset.
            match fields.remove("overrides") {
                Some(Node { content: Content::Map(overrides), .. }) => fields.extend(overrides),
                Some(other) if !other.is_null() => {
                    fields.insert("overrides".to_owned(), other);
                }
                _ => {}
            }
            Content::Map(fields)
        }
        (Shorthand::Variant, Content::Text(name)) => {
            let options = Node { content: Content::Map(BTreeMap::new()), origin: origin.clone() };
            Content::Map(BTreeMap::from([(name, options)]))
        }
        (Shorthand::Switch, Content::Bool(true)) => Content::Map(BTreeMap::new()),
        (Shorthand::Switch, Content::Bool(false)) => Content::Null,
        (_, content) => content,
    };
    Node { content, origin }
}
