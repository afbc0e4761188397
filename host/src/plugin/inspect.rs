//! What a component says of itself: its kind, what it exports and imports, and whether this host can serve it.
//!
//! Read from the component's own sections, before anything is compiled: a file that does not fit is refused in
//! microseconds instead of after seconds of compilation, and can be inspected without an engine.

use super::error::{LoadError, MissingImport};
use super::grants::{Grants, Opening};
use std::fmt;
use std::sync::Arc;
use wasmparser::{Parser, Payload};

/// What a plugin is, by the interface it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PluginKind {
    /// Processes the messages of partitions.
    Handler,
    /// Decides which worker gets which partition.
    Strategy,
    /// Lists the partitions that exist.
    Source,
    /// Is told what happens to a worker.
    Hooks,
}

impl PluginKind {
    const ALL: [Self; 4] = [Self::Handler, Self::Strategy, Self::Source, Self::Hooks];

    /// The world in `wit/`.
    fn world(self) -> &'static str {
        match self {
            Self::Handler => "message-handler",
            Self::Strategy => "assignment-strategy",
            Self::Source => "partition-source",
            Self::Hooks => "lifecycle-hooks",
        }
    }

    /// The interface whose export makes a component this kind.
    fn interface(self) -> Interface<'static> {
        let name = match self {
            Self::Handler => "parti:plugin/handler",
            Self::Strategy => "parti:plugin/strategy",
            Self::Source => "parti:plugin/source",
            Self::Hooks => "parti:plugin/hooks",
        };
        Interface { name, track: CONTRACT }
    }

    /// The name of that interface.
    pub(super) fn exports(self) -> &'static str {
        self.interface().name
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handler => "handler",
            Self::Strategy => "strategy",
            Self::Source => "source",
            Self::Hooks => "hooks",
        })
    }
}

/// A component's kind and type, read without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it is.
    pub kind: PluginKind,
    /// The names it exports.
    pub exports: Vec<String>,
    /// The names it imports.
    pub imports: Vec<String>,
}

/// Versions that can stand in for each other: `1` for 1.x.y, `0.2` for 0.2.x (the rule of semantic versioning that the
/// component model uses to match imports).
type Track = &'static str;

const CONTRACT: Track = "0.1";
const WASI: Track = "0.2";

/// The interfaces that [`link`](super::host::link) gives to every component.
const OFFERED: [Interface<'static>; 24] = [
    Interface { name: "parti:plugin/types", track: CONTRACT },
    Interface { name: "parti:plugin/log", track: CONTRACT },
    Interface { name: "parti:plugin/config", track: CONTRACT },
    Interface { name: "parti:plugin/publish", track: CONTRACT },
    Interface { name: "parti:plugin/metrics", track: CONTRACT },
    Interface { name: "parti:plugin/context", track: CONTRACT },
    Interface { name: "wasi:io/error", track: WASI },
    Interface { name: "wasi:io/poll", track: WASI },
    Interface { name: "wasi:io/streams", track: WASI },
    Interface { name: "wasi:clocks/wall-clock", track: WASI },
    Interface { name: "wasi:clocks/monotonic-clock", track: WASI },
    Interface { name: "wasi:random/random", track: WASI },
    Interface { name: "wasi:random/insecure", track: WASI },
    Interface { name: "wasi:random/insecure-seed", track: WASI },
    Interface { name: "wasi:cli/environment", track: WASI },
    Interface { name: "wasi:cli/exit", track: WASI },
    Interface { name: "wasi:cli/stdin", track: WASI },
    Interface { name: "wasi:cli/stdout", track: WASI },
    Interface { name: "wasi:cli/stderr", track: WASI },
    Interface { name: "wasi:cli/terminal-input", track: WASI },
    Interface { name: "wasi:cli/terminal-output", track: WASI },
    Interface { name: "wasi:cli/terminal-stdin", track: WASI },
    Interface { name: "wasi:cli/terminal-stdout", track: WASI },
    Interface { name: "wasi:cli/terminal-stderr", track: WASI },
];

/// The interfaces that a grant adds to these, by what has to be granted.
const GRANTABLE: [(Opening, Interface<'static>); 4] = [
    (Opening::Http, Interface { name: "wasi:http/types", track: WASI }),
    (Opening::Http, Interface { name: "wasi:http/outgoing-handler", track: WASI }),
    (Opening::Directory, Interface { name: "wasi:filesystem/types", track: WASI }),
    (Opening::Directory, Interface { name: "wasi:filesystem/preopens", track: WASI }),
];

/// An interface's name without version, and the track of its version (empty if it has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interface<'a> {
    name: &'a str,
    track: &'a str,
}

impl<'a> Interface<'a> {
    fn parse(text: &'a str) -> Self {
        let Some((name, version)) = text.split_once('@') else { return Self { name: text, track: "" } };
        let dots = if version.starts_with("0.") { 2 } else { 1 };
        let end = version.match_indices('.').nth(dots - 1).map_or(version.len(), |(at, _)| at);
        Self { name, track: version.get(..end).unwrap_or(version) }
    }
}

impl fmt::Display for Interface<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.track)
    }
}

/// Read what a component is and check that this host can serve it.
///
/// # Errors
/// Bytes that are no component, a component of an unknown world, or imports that this host does not offer or has not granted.
pub fn inspect(plugin: &str, bytes: &[u8], grants: &Grants) -> Result<Inspection, LoadError> {
    let plugin: Arc<str> = plugin.into();
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::CoreModule { plugin });
    }
    if !Parser::is_component(bytes) {
        return Err(LoadError::NotWasm { plugin });
    }
    let (exports, imports) = match names(bytes) {
        Ok(names) => names,
        Err(error) => return Err(LoadError::Malformed { plugin, detail: error.to_string() }),
    };
    let Some(kind) = PluginKind::ALL
        .into_iter()
        .find(|kind| exports.iter().any(|export| Interface::parse(export) == kind.interface()))
    else {
        let nearest = nearest_kind(&exports);
        return Err(LoadError::UnknownWorld {
            plugin,
            exports,
            world: nearest.world(),
            wanted: nearest.interface().to_string(),
        });
    };
    let missing: Vec<MissingImport> = imports
        .iter()
        .filter(|import| !is_given(import, grants))
        .map(|import| MissingImport { interface: import.clone(), advice: advice(&plugin, import) })
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::MissingImports { plugin, missing });
    }
    Ok(Inspection { kind, exports, imports })
}

/// What can be told of a file, whether this host can serve it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What it is; nothing if it is of no world that this host knows.
    pub kind: Option<PluginKind>,
    /// The version of the contract that it was built against.
    pub contract: Option<String>,
    /// The names it exports.
    pub exports: Vec<String>,
    /// The names it imports, and whether this host gives them to it.
    pub imports: Vec<(String, bool)>,
    /// The keys of `plugins.grants` that it needs, and whether it has them.
    pub grants: Vec<(&'static str, bool)>,
    /// Why this host cannot serve it.
    pub problem: Option<LoadError>,
}

/// Tell what a file is, where it is granted this.
#[must_use]
pub fn describe(plugin: &str, bytes: &[u8], grants: &Grants) -> Description {
    let (exports, imports) = names(bytes).unwrap_or_default();
    let of_kind = |kind: PluginKind| {
        let export = exports.iter().find(|export| Interface::parse(export) == kind.interface())?;
        Some((kind, export.split_once('@').map(|(_, version)| version.to_owned())))
    };
    let (kind, contract) = PluginKind::ALL.into_iter().find_map(of_kind).unzip();
    let mut needed: Vec<Opening> = imports.iter().filter_map(|import| opening(Interface::parse(import))).collect();
    needed.sort_unstable();
    needed.dedup();
    Description {
        kind,
        contract: contract.flatten(),
        imports: imports.into_iter().map(|import| (import.clone(), is_given(&import, grants))).collect(),
        grants: needed.into_iter().map(|opening| (opening.key(), grants.open(opening))).collect(),
        exports,
        problem: inspect(plugin, bytes, grants).err(),
    }
}

/// What has to be granted for this interface, if anything does.
fn opening(wanted: Interface<'_>) -> Option<Opening> {
    GRANTABLE.iter().find_map(|(opening, interface)| (*interface == wanted).then_some(*opening))
}

/// Whether this host gives the import to a plugin that is granted this.
fn is_given(import: &str, grants: &Grants) -> bool {
    let wanted = Interface::parse(import);
    OFFERED.contains(&wanted) || opening(wanted).is_some_and(|opening| grants.open(opening))
}

/// The names that the outermost component exports and imports.
fn names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), wasmparser::BinaryReaderError> {
    let (mut exports, mut imports) = (Vec::new(), Vec::new());
    // Modules and components nest; only the outermost component's names are its contract.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((exports, imports))
}

/// How alike two names must be (0 to 1, Jaro-Winkler) for one to be a slip of the other.
const NEAR: f64 = 0.8;

/// The kind that exports with these names were probably meant for; a handler, if they are like nothing.
fn nearest_kind(exports: &[String]) -> PluginKind {
    let likeness = |kind: &PluginKind| {
        exports
            .iter()
            .map(|export| strsim::jaro_winkler(Interface::parse(export).name, kind.interface().name))
            .fold(0.0, f64::max)
    };
    let near = PluginKind::ALL.into_iter().filter(|kind| likeness(kind) >= NEAR);
    near.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or(PluginKind::Handler)
}

/// Why `import` is not there, and what to do.
fn advice(plugin: &str, import: &str) -> String {
    let wanted = Interface::parse(import);
    let mut known = OFFERED.iter().chain(GRANTABLE.iter().map(|(_, interface)| interface));
    if let Some(offered) = known.find(|known| known.name == wanted.name && known.track != wanted.track) {
        return format!("this host offers `{offered}`; build the plugin with the SDK of this host's release");
    }
    if let Some(opening) = opening(wanted) {
        return format!(
            "not granted; `plugins: {{grants: {{{plugin}: {{{}}}}}}}` in parti.yaml grants it",
            opening.example()
        );
    }
    match wanted.name.split_once('/').map_or(wanted.name, |(package, _)| package) {
        "wasi:sockets" => "sockets are never granted; exchange messages through `parti:plugin/publish`".to_owned(),
        "parti:plugin" => format!(
            "this host does not have it (it has {}); run a newer release of the host, or build against this one's WIT",
            OFFERED
                .iter()
                .filter_map(|offered| offered.name.strip_prefix("parti:plugin/"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        _ => {
            "this host does not have it; plugins get the interfaces of `parti:plugin` and WASI 0.2 clocks, random and \
              standard streams"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &str) -> Result<Inspection, LoadError> {
        inspect("p", &wat::parse_str(text).unwrap(), &Grants::default())
    }

    const HANDLER: &str = r#"(instance $h) (export "parti:plugin/handler@0.1.7" (instance $h))"#;

    #[test]
    fn what_is_no_component_is_refused_with_the_way_to_make_one() {
        assert!(matches!(inspect("p", b"#!/bin/sh\n", &Grants::default()), Err(LoadError::NotWasm { .. })));
        assert!(matches!(inspect("p", b"", &Grants::default()), Err(LoadError::NotWasm { .. })));
        let refused = component("(module)").unwrap_err();
        assert!(matches!(refused, LoadError::CoreModule { .. }));
        assert!(refused.to_string().contains("wasm32-wasip2"), "{refused}");
        let mut cut = wat::parse_str(format!("(component {HANDLER})")).unwrap();
        cut.truncate(cut.len() - 3);
        assert!(matches!(inspect("p", &cut, &Grants::default()), Err(LoadError::Malformed { .. })));
    }

    #[test]
    fn the_kind_follows_from_the_export_and_not_from_nested_components() {
        assert_eq!(component(&format!("(component {HANDLER})")).unwrap().kind, PluginKind::Handler);
        let nested = component(&format!("(component (component {HANDLER}))")).unwrap_err();
        assert!(matches!(nested, LoadError::UnknownWorld { ref exports, .. } if exports.is_empty()), "{nested}");
    }

    #[test]
    fn an_unknown_world_is_refused_with_what_it_exports_and_the_nearest() {
        let text = r#"(component (instance $h) (export "parti:plugin/handler@0.2.0" (instance $h)))"#;
        let refused = component(text).unwrap_err().to_string();
        for part in ["`parti:plugin/handler@0.2.0`", "`message-handler`", "`parti:plugin/handler@0.1`"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn every_ungranted_import_is_named_with_the_line_that_would_grant_it() {
        let text = format!(
            r#"(component
                (import "wasi:http/outgoing-handler@0.2.3" (instance))
                (import "wasi:filesystem/types@0.2.3" (instance))
                (import "wasi:sockets/tcp@0.2.3" (instance))
                (import "wasi:clocks/wall-clock@0.3.0" (instance))
                (import "wasi:clocks/monotonic-clock@0.2.9" (instance))
                (import "parti:plugin/oracle@0.1.0" (instance))
                (import "acme:sql/query" (instance))
                {HANDLER})"#
        );
        let refused = component(&text).unwrap_err();
        let LoadError::MissingImports { missing, .. } = &refused else { panic!("{refused}") };
        let advice: Vec<&str> = missing.iter().map(|import| import.advice.as_str()).collect();
        let described = describe("p", &wat::parse_str(&text).unwrap(), &Grants::default());
        assert_eq!((described.kind, described.contract.as_deref()), (Some(PluginKind::Handler), Some("0.1.7")));
        let given: Vec<&str> = described.imports.iter().filter(|(_, given)| *given).map(|(name, _)| &**name).collect();
        assert_eq!((given, described.problem), (vec!["wasi:clocks/monotonic-clock@0.2.9"], Some(refused.clone())));
        assert_eq!(described.grants, [("http", false), ("directory", false)]);
        let [http, files, sockets, clocks, oracle, other] = advice.as_slice() else { panic!("{refused}") };
        assert!(http.contains("plugins: {grants: {p: {http: [\"https://HOST\"]}}}"), "{http}");
        assert!(files.contains("{p: {directory: PATH}}"), "{files}");
        assert!(sockets.contains("never"));
        assert!(clocks.contains("offers `wasi:clocks/wall-clock@0.2`"));
        assert!(oracle.contains("types, log, config, publish, metrics, context"));
        assert!(other.contains("does not have it"));
    }
}
