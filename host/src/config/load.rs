//! From files, environment and flags to a [`Config`], with everything that is wrong on the way.

use super::environment::{self, settable};
use super::handlers::Handlers;
use super::limits::{BatchlessLimits, Limits};
use super::merge::merge;
use super::problem::{Problem, Problems};
use super::rules::{self, Severity};
use super::schema::Config;
use super::section::{Fields, Section, Setting};
use super::tree::{Content, MAX_DOCUMENT_BYTES, Node};
use crate::error::{ErrorCode, OperatorError};
use serde::Serialize;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a configuration comes from. A flag beats the environment, the environment beats the files, a later file beats
/// an earlier one, and any of them beats the defaults.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// Files, the most important last. Maps merge, lists and single values are replaced.
    pub files: Vec<PathBuf>,
    /// Environment variables. [`process_environment`] has those of the process.
    pub env: Vec<(String, String)>,
    /// Values of flags, by dotted key. Text is read as an environment variable of the key would be.
    pub overrides: Vec<(String, serde_json::Value)>,
}

/// The environment of this process, without variables that are no Unicode.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A section that a configuration lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The section: `source`, `stream` or `handler`.
    pub section: &'static str,
    /// Whether no worker can run without it.
    pub required: bool,
    /// What follows from the lack.
    pub why: &'static str,
    /// How to add it.
    pub todo: &'static str,
}

/// What came of loading.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, unless there are problems. It may lack sections: a file alone may be a fragment.
    pub config: Option<Config>,
    /// What must be corrected, everything at once.
    pub problems: Vec<Problem>,
    /// What works and is probably not meant.
    pub warnings: Vec<Problem>,
    /// The sections that nobody wrote.
    pub missing: Vec<Missing>,
}

impl Loaded {
    /// The configuration, if a worker can run with it.
    ///
    /// # Errors
    /// `ErrInvalidConfig` with all problems, or the error of the missing section.
    pub fn into_runnable(self) -> Result<Config, OperatorError> {
        if let Some(missing) = self.missing.iter().find(|missing| missing.required) {
            let code = match missing.section {
                "source" => ErrorCode::PartitionSourceRequired,
                _ => ErrorCode::InvalidConfig,
            };
            if self.problems.is_empty() {
                return Err(code.error(
                    format!("the configuration has no `{}`", missing.section),
                    missing.why,
                    missing.todo,
                ));
            }
        }
        self.into_operable()
    }

    /// The configuration, if what it says is right. It may lack sections that only a worker needs.
    ///
    /// # Errors
    /// `ErrInvalidConfig` with all problems.
    pub fn into_operable(self) -> Result<Config, OperatorError> {
        self.config.ok_or_else(|| {
            let count = self.problems.len();
            let errors = if count == 1 { "an error".to_owned() } else { format!("{count} errors") };
            let all: Vec<String> =
                self.problems.iter().map(|problem| format!("{problem}").replace('\n', "\n  ")).collect();
            ErrorCode::InvalidConfig.error(
                format!("the configuration has {errors}"),
                all.join("\n  "),
                "correct this; `parti check` shows it again without starting anything",
            )
        })
    }
}

impl Config {
    /// Loads a configuration. Never fails: what is wrong is in the result.
    #[must_use]
    pub fn load(request: LoadRequest) -> Loaded {
        let mut problems = Vec::new();
        let mut layers = Vec::new();
        for file in &request.files {
            match read_file(file) {
                Ok(document) => layers.push(document),
                Err(problem) => problems.push(problem),
            }
        }
        let (variables, bad_variables, warnings) = environment::read(&request.env);
        layers.extend(variables);
        problems.extend(bad_variables);

        let flags: Arc<str> = "command line".into();
        let keys = settable();
        for (path, value) in &request.overrides {
            let layer = match (value, keys.iter().find(|key| key.path == *path)) {
                (serde_json::Value::String(text), Some(key)) => key.layer(text, &flags),
                // A section, or a key inside a free map such as `handler.config`: YAML as in a file.
                (serde_json::Value::String(text), None) => {
                    let text_itself = |_| Node::new(Content::Text(text.clone()), &flags);
                    Ok(Node::parse(text, &flags).unwrap_or_else(text_itself).nest(path))
                }
                (value, _) => Ok(Node::from_json(value, &flags).nest(path)),
            };
            match layer {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(problem),
            }
        }
        finish(layers, problems, warnings)
    }

    /// Loads a configuration from one text, without environment. For tests and generated configurations.
    #[must_use]
    pub fn parse_str(yaml: &str) -> Loaded {
        match parse(yaml, "configuration") {
            Ok(document) => finish(vec![document], Vec::new(), Vec::new()),
            Err(problem) => finish(Vec::new(), vec![problem], Vec::new()),
        }
    }
}

/// Merges, reads and validates. `problems` are those of layers that could not be read at all.
fn finish(layers: Vec<Node>, problems: Vec<Problem>, mut warnings: Vec<Problem>) -> Loaded {
    // A file that could not be read may hold what seems to be wrong or missing elsewhere.
    let whole = problems.iter().all(|problem| !problem.path.is_empty());
    let mut problems = Problems(problems);
    let shape = Config::shape();
    let empty = Node::empty(&"defaults".into());
    let tree = layers.into_iter().fold(empty, |tree, layer| merge(Some(tree), layer, Some(&shape)));

    let config = Config::read(&tree, "", &mut problems).map(|config| inherit_limits(config, &tree));
    if let Some(config) = config.as_ref().filter(|_| whole) {
        let (broken, suspicious) = check_rules(config, &tree, &problems);
        problems.0.extend(broken);
        warnings.extend(suspicious);
    }
    let missing = if whole { missing_sections(&tree) } else { Vec::new() };
    Loaded { config: config.filter(|_| problems.0.is_empty()), problems: problems.0, warnings, missing }
}

/// The limits of each plugin, with what it does not name from `plugins.defaults`.
fn inherit_limits(mut config: Config, tree: &Node) -> Config {
    let defaults = &config.plugins.defaults;
    let inherit = |path: &str| {
        // Whatever is wrong with them has been reported when the section was read.
        let mut reported = Problems::default();
        let named = tree.find(path).filter(|node| !node.is_null());
        let own = named
            .and_then(|node| Fields::open(node, path, &[], &[], &Limits::FOREIGN, &mut reported))
            .map(|fields| Limits::read_fields(&fields, defaults.clone(), &mut reported));
        own.unwrap_or_else(|| defaults.clone())
    };
    for (key, handler) in config.handler.iter_mut().flat_map(Handlers::entries_mut) {
        handler.limits = inherit(&format!("{key}.limits"));
    }
    if let Some(strategy) = &mut config.strategy.plugin {
        strategy.limits = BatchlessLimits(inherit("strategy.plugin.limits"));
    }
    if let Some(source) = config.source.as_mut().and_then(|source| source.plugin.as_mut()) {
        source.limits = BatchlessLimits(inherit("source.plugin.limits"));
    }
    if let Some(hooks) = &mut config.hooks {
        hooks.limits = BatchlessLimits(inherit("hooks.limits"));
    }
    config
}

/// What breaks the rules: errors and warnings.
fn check_rules(config: &Config, tree: &Node, problems: &Problems) -> (Vec<Problem>, Vec<Problem>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for rule in rules::all().filter(|rule| !rule.needs.iter().any(|key| problems.concern(key))) {
        let found = (rule.broken)(config).into_iter().map(|breach| Problem {
            what: format!("`{}` is {}", breach.path, breach.value),
            why: rule.says.to_owned(),
            todo: breach.todo,
            origin: tree.find(&breach.path).map(|node| node.origin.to_string()),
            path: breach.path,
        });
        match rule.severity {
            Severity::Error => errors.extend(found),
            Severity::Warning => warnings.extend(found),
        }
    }
    (errors, warnings)
}

fn missing_sections(tree: &Node) -> Vec<Missing> {
    let lacks = |section: &str| tree.find(section).is_none_or(Node::is_null);
    let (stream, handler) = (lacks("stream"), lacks("handler"));
    let assignment_only = stream && handler;
    let mut missing = Vec::new();
    if lacks("source") {
        missing.push(Missing {
            section: "source",
            required: true,
            why: "without a source there are no partitions to share",
            todo: "add the partitions: source: {static: {partitions: [{keys: [\"a\"]}, {keys: [\"b\"]}]}}",
        });
    }
    if stream {
        missing.push(Missing {
            section: "stream",
            required: !assignment_only,
            why: if assignment_only { ASSIGNMENT_ONLY } else { "the handler gets its messages from a stream" },
            todo: "add the stream: stream: {name: work, subjectTemplate: \"work.{{.PartitionID}}\"}",
        });
    }
    if handler {
        missing.push(Missing {
            section: "handler",
            required: !assignment_only,
            why: if assignment_only { ASSIGNMENT_ONLY } else { "somebody has to handle the messages of the stream" },
            todo: "add the handler: handler: {plugin: NAME}",
        });
    }
    missing
}

const ASSIGNMENT_ONLY: &str =
    "without stream and handler the worker is assignment-only: it takes part in the plan and consumes nothing";

fn read_file(file: &Path) -> Result<Node, Problem> {
    let name = file.display().to_string();
    let unreadable = |why: String, todo: &str| Problem {
        path: String::new(),
        what: format!("cannot read the configuration file {name}"),
        why,
        todo: todo.to_owned(),
        origin: Some(name.clone()),
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        // One byte more than allowed shows that there is more, and a device without end is not read for ever.
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string(), "check the path and its permissions"))?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(unreadable(
            format!("it has more than {} MiB", MAX_DOCUMENT_BYTES >> 20),
            "a configuration is smaller; check the path",
        ));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| unreadable(format!("it is no UTF-8: {}", error.utf8_error()), "save it as UTF-8 text"))?;
    parse(&text, &name)
}

fn parse(text: &str, name: &str) -> Result<Node, Problem> {
    let refused = |line: Option<u64>, what: &str, why: String, todo: &str| Problem {
        path: String::new(),
        what: format!("{name} {what}"),
        why,
        todo: todo.to_owned(),
        origin: Some(line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))),
    };
    let source: Arc<str> = name.into();
    let document = Node::parse(text, &source)
        .map_err(|malformed| refused(malformed.line, "is no valid YAML", malformed.reason, "correct the YAML there"))?;
    match document.content {
        Content::Map(_) => Ok(document),
        Content::Null => Ok(Node::empty(&source)),
        content => {
            let why = format!("it holds {content}");
            Err(refused(None, "is no configuration", why, "write a map of keys, such as `group: demo`"))
        }
    }
}
