//! How keys are declared: once each, with name, type, default and meaning.
//!
//! [`section!`](crate::config::section::section) turns one declaration into the typed struct, its defaults, its reader
//! and its row in the reference; [`choice!`](crate::config::section::choice) does the same for a value that is one of a
//! few words. Names follow from the Rust field: `enter_threshold` is `enterThreshold` in YAML and
//! `PARTI_…_ENTER_THRESHOLD` in the environment. [`super::schema`] holds the declarations.

use super::problem::{Problems, nearest};
use super::tree::{Content, Node, one_line};
use std::collections::BTreeMap;

/// A type that a key can hold.
pub(crate) trait Setting: Sized {
    /// What the reference says about the type, and what lies below it.
    fn shape() -> Shape;

    /// The typed value. `None` after a problem, which is then among `problems`.
    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self>;

    /// The value as one writes it in YAML; `None` for a value that is not set.
    fn show(&self) -> Option<String>;
}

/// The kind of value that a key takes.
pub(crate) enum Shape {
    /// One value. Merged by replacing.
    Value {
        /// The word for it, such as `duration`.
        kind: String,
        /// Whether the text of an environment variable is the value itself, rather than YAML.
        verbatim: bool,
    },
    /// A map with keys of the user's choice. Merged key by key.
    FreeMap {
        /// The word for it.
        kind: String,
    },
    /// A map from names of the user's choice to maps with known keys. Merged key by key.
    Named {
        /// What stands for the name in the reference.
        placeholder: &'static str,
        /// The keys of each.
        keys: Vec<Key>,
    },
    /// A map with known keys. Merged key by key.
    Section {
        /// The keys.
        keys: Vec<Key>,
        /// What a value that is no map stands for.
        shorthand: Option<Shorthand>,
    },
}

/// What stands in place of a section's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shorthand {
    /// Text is the value of this key: `balanced` means `{preset: balanced}`.
    Key(&'static str),
    /// Text is the value of this key: `http-source` means `{name: http-source}`.
    Name(&'static str),
    /// Text names the one key of the map: `consistentHash` means `{consistentHash: {}}`.
    Variant,
    /// `true` means `{}`, `false` means that the section is absent.
    Switch,
}

/// One declared key.
pub(crate) struct Key {
    /// The name in YAML.
    pub(crate) name: String,
    /// The name's part of the environment variable.
    pub(crate) env: String,
    /// What it means.
    pub(crate) doc: &'static str,
    /// The default as the reference shows it, in Markdown.
    pub(crate) default: Option<String>,
    /// Whether the section cannot do without it.
    pub(crate) required: bool,
    /// What it holds.
    pub(crate) shape: Shape,
}

/// Keys that sections alike have and that mean nothing in this one, so that using one is told apart from a slip.
pub(crate) struct Foreign {
    /// Their names.
    pub(crate) keys: &'static [&'static str],
    /// Why they mean nothing here.
    pub(crate) why: &'static str,
    /// What to do instead.
    pub(crate) todo: &'static str,
}

/// A map with declared keys. Implemented by `section!`.
pub(crate) trait Section: Default {
    /// What may stand in place of the map.
    const SHORTHAND: Option<Shorthand> = None;

    /// Keys that other versions of Parti know, so that using one is told apart from a slip.
    const LATER: &'static [&'static str] = &[];

    /// Keys of sections alike that mean nothing here.
    const FOREIGN: Foreign = Foreign { keys: &[], why: "", todo: "" };

    /// The declared keys.
    fn keys() -> Vec<Key>;

    /// Reads the map. Keys that are not set come from `base`.
    fn read_fields(fields: &Fields<'_>, base: Self, problems: &mut Problems) -> Self;

    /// What unset keys fall back to, where that depends on other keys of the section.
    fn base(_fields: &Fields<'_>) -> Self {
        Self::default()
    }
}

impl<T: Section> Setting for T {
    fn shape() -> Shape {
        Shape::Section { keys: T::keys(), shorthand: T::SHORTHAND }
    }

    fn read(node: &Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let keys: Vec<String> = T::keys().into_iter().map(|key| key.name).collect();
        let fields = Fields::open(node, path, &keys, T::LATER, &T::FOREIGN, problems)?;
        Some(T::read_fields(&fields, T::base(&fields), problems))
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// The fields of one map while it is read.
pub(crate) struct Fields<'a> {
    map: &'a BTreeMap<String, Node>,
    node: &'a Node,
    path: &'a str,
    replaced: bool,
}

impl<'a> Fields<'a> {
    /// Opens a map and reports what cannot be one of its keys.
    pub(crate) fn open(
        node: &'a Node,
        path: &'a str,
        keys: &[String],
        later: &[&str],
        foreign: &Foreign,
        problems: &mut Problems,
    ) -> Option<Self> {
        let Content::Map(map) = &node.content else {
            problems.value(
                path,
                node,
                format!("it holds several keys: {}", keys.join(", ")),
                "write a map of these keys",
            );
            return None;
        };
        for (name, value) in map.iter().filter(|(name, _)| !keys.contains(name)) {
            let full = one_line(&join(path, name));
            let (what, why, todo) = if later.contains(&name.as_str()) {
                (
                    format!("`{full}` is not available in this version"),
                    "the key is reserved for a feature that this version lacks".to_owned(),
                    format!("available here: {}", keys.join(", ")),
                )
            } else if foreign.keys.contains(&name.as_str()) {
                (format!("`{full}` means nothing"), foreign.why.to_owned(), foreign.todo.to_owned())
            } else {
                let near = nearest(name, keys.iter().map(String::as_str)).map(|near| join(path, near));
                let place = if path.is_empty() { "the top level".to_owned() } else { format!("`{path}`") };
                (
                    format!("unknown key `{full}`"),
                    format!("{place} has no such key"),
                    match near.or_else(|| super::schema::path_of(name)) {
                        Some(known) => format!("did you mean `{known}`?"),
                        None => "remove it; docs/configuration.md has every key".to_owned(),
                    },
                )
            };
            problems.add(&full, &value.origin, what, why, todo);
        }
        // What stands in the place of a required key is reported already.
        let replaced = map.keys().any(|name| later.contains(&name.as_str()));
        Some(Self { map, node, path, replaced })
    }

    /// The value of a key, unless it is not set.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Node> {
        self.map.get(name).filter(|node| !node.is_null())
    }

    /// The typed value of a key. `fallback` where it is not set, or set to what it cannot be.
    pub(crate) fn read<T: Setting>(&self, name: &str, fallback: T, required: bool, problems: &mut Problems) -> T {
        let path = join(self.path, name);
        if let Some(node) = self.get(name) {
            return T::read(node, &path, problems).unwrap_or(fallback);
        }
        if required && !self.replaced {
            problems.add(
                &path,
                &self.node.origin,
                format!("`{path}` is missing"),
                format!("`{}` cannot do without it", self.path),
                format!("set `{path}`"),
            );
        }
        fallback
    }
}

/// The path of `name` inside `path`.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The YAML name of a Rust field.
pub(crate) fn camel(field: &str) -> String {
    let mut name = String::with_capacity(field.len());
    let mut upper = false;
    for c in field.trim_start_matches("r#").chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                name.extend(c.to_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    name
}

/// The environment's name of a Rust field.
pub(crate) fn screaming(field: &str) -> String {
    field.trim_start_matches("r#").to_uppercase()
}

/// Declares a section: `name: Type = default;`. Behind the default, `=> "text"` says how the reference shows it, and
/// `, required` that the section cannot do without the key: the default is then never what a worker runs with. The doc
/// comment of a field is its text in the reference.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+ $vis:vis struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident : $type:ty = $default:expr $(=> $shown:literal)? $(, $required:ident)?;
            )+
        }
        $(with { $($extra:tt)* })?
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[doc = $field_doc])+ $vis $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl $crate::config::section::Section for $name {
            $($($extra)*)?

            fn keys() -> Vec<$crate::config::section::Key> {
                use $crate::config::section::{Key, Setting, camel, screaming, section};
                let defaults = Self::default();
                vec![$(Key {
                    name: camel(stringify!($field)),
                    env: screaming(stringify!($field)),
                    doc: concat!($($field_doc),+).trim_ascii(),
                    required: section!(@required $($required)?),
                    default: section!(@shown $($shown)?)
                        .or_else(|| Some(format!("`{}`", <$type as Setting>::show(&defaults.$field)?))),
                    shape: <$type as Setting>::shape(),
                }),+]
            }

            fn read_fields(
                fields: &$crate::config::section::Fields<'_>,
                base: Self,
                problems: &mut $crate::config::problem::Problems,
            ) -> Self {
                use $crate::config::section::{camel, section};
                Self {
                    $($field: fields.read(
                        &camel(stringify!($field)),
                        base.$field,
                        section!(@required $($required)?),
                        problems,
                    )),+
                }
            }
        }
    };
    (@required) => { false };
    (@required required) => { true };
    (@shown) => { None };
    (@shown $shown:literal) => { Some($shown.to_owned()) };
}

/// Declares a value that is one of a few words.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+ pub enum $name:ident {
            $($(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl $name {
            /// The word in the configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::config::section::Setting for $name {
            fn shape() -> $crate::config::section::Shape {
                let kind = [$(concat!("`", $word, "`")),+].join(", ");
                $crate::config::section::Shape::Value { kind, verbatim: true }
            }

            fn read(
                node: &$crate::config::tree::Node,
                path: &str,
                problems: &mut $crate::config::problem::Problems,
            ) -> Option<Self> {
                match &node.content {
                    $($crate::config::tree::Content::Text(text) if text == $word => Some(Self::$variant),)+
                    content => {
                        let words = [$($word),+];
                        let near = match content {
                            $crate::config::tree::Content::Text(text) => $crate::config::problem::nearest(text, words),
                            _ => None,
                        };
                        problems.value(path, node, format!("it is one of: {}", words.join(", ")), match near {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => "choose one of these".to_owned(),
                        });
                        None
                    }
                }
            }

            fn show(&self) -> Option<String> {
                Some(self.as_str().to_owned())
            }
        }
    };
}

pub(crate) use {choice, section};
