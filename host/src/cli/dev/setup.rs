//! The configuration of a development fleet: the small file that a user would write, with windows short enough to watch.

use super::broker::WORK;
use crate::cli::child::failed;
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use parti_coordination::Partition;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The handler that knows readings, and is checked to the last bit.
pub(super) const CONTROL_CHART: &str = "control-chart";

/// Name of the fleet's group.
const GROUP: &str = "demo";

/// Which component to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plugin {
    /// Its name: the file's without `.wasm`.
    pub(super) name: String,
    /// Where the file is. Absolute, since workers may run elsewhere.
    pub(super) directory: PathBuf,
}

impl Plugin {
    /// Finds a component by its name in `directory`, or by the path of its file.
    ///
    /// # Errors
    /// There is no such file.
    pub(super) fn find(asked: &str, directory: &Path) -> Result<Self, OperatorError> {
        let path = Path::new(asked);
        let is_file = path.extension().is_some_and(|extension| extension == "wasm");
        let file = if is_file { path.to_owned() } else { directory.join(format!("{asked}.wasm")) };
        let missing = |why: String| {
            ErrorCode::PluginNotFound.error(
                format!("there is no component {}", file.display()),
                why,
                "name a component of the plugin directory, or the path of a .wasm file; --plugin-dir or PARTI_PLUGINS says which \
                 directory (`make plugins` in a clone of parti builds the examples into target/plugins)",
            )
        };
        let file = std::path::absolute(&file).map_err(|error| missing(error.to_string()))?;
        if !file.is_file() {
            return Err(missing(if is_file { "no such file".to_owned() } else { offered(directory) }));
        }
        match (file.file_stem().and_then(|stem| stem.to_str()), file.parent()) {
            (Some(name), Some(directory)) => Ok(Self { name: name.to_owned(), directory: directory.to_owned() }),
            _ => Err(missing("its name is no text".to_owned())),
        }
    }
}

fn offered(directory: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(directory) else { return format!("{} cannot be read", directory.display()) };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort_unstable();
    match names.as_slice() {
        [] => format!("{} has no components", directory.display()),
        names => format!("{} has {}", directory.display(), names.join(", ")),
    }
}

/// The configuration, as text and as workers read it.
pub(super) struct Setup {
    /// The file.
    pub(super) yaml: String,
    /// What it says.
    pub(super) config: Config,
}

impl Setup {
    /// Writes the configuration. A `field` becomes the handler's `field`.
    ///
    /// # Errors
    /// More partitions, or longer names, than a configuration can hold.
    pub(super) fn new(
        url: &str,
        partitions: &[Partition],
        plugin: &Plugin,
        field: Option<&str>,
    ) -> Result<Self, OperatorError> {
        let yaml = yaml(url, partitions, plugin, field);
        let config = Config::parse_str(&yaml).into_runnable().map_err(|error| {
            failed("these partitions cannot be configured", error.why, "choose a --key with fewer or shorter values")
        })?;
        Ok(Self { yaml, config })
    }
}

/// JSON texts are YAML texts, so every value is written as JSON.
fn yaml(url: &str, partitions: &[Partition], plugin: &Plugin, field: Option<&str>) -> String {
    let handler = match field {
        Some(field) => json!({ "plugin": plugin.name, "config": { "field": field } }),
        None => json!({ "plugin": plugin.name }),
    };
    let directory = json!(plugin.directory.to_string_lossy());
    let mut yaml = format!(
        "# Written by `parti dev`. Each worker runs with it: parti run --config <this file>\n\
         group: {GROUP}\n\
         nats: {{ url: {url} }}\n\
         stream: {{ name: {WORK}, subjectTemplate: \"{WORK}.{{{{.PartitionID}}}}\" }}\n\
         handler: {handler}\n\
         plugins: {{ directory: {directory} }}\n\
         log: {{ format: text }}\n\
         # Short, to be watched. They are upper bounds: a window closes early when nobody comes or goes.\n\
         coldStartWindow: 5s\n\
         plannedScaleWindow: 5s\n\
         assignment: {{ minRebalanceInterval: 5s }}\n\
         source:\n  static:\n    partitions:\n",
        url = json!(url),
    );
    for partition in partitions {
        // Writing to a `String` cannot fail.
        let _ = writeln!(yaml, "      - {{ keys: {} }}", json!(partition.keys()));
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_key_holds_is_configured_as_it_is() {
        let keys = [
            "plain",
            "with \"quotes\" and \\",
            "yes",
            "07",
            "null",
            "# no: comment",
            "line\nbreak",
            "Ofen 1 – ä",
            "{{.X}}",
        ];
        let partitions: Vec<_> = keys.iter().map(|key| Partition::new(vec![(*key).to_owned()], 100).unwrap()).collect();
        let plugin = Plugin { name: CONTROL_CHART.into(), directory: "/a b/'c'".into() };
        let setup = Setup::new("nats://127.0.0.1:1", &partitions, &plugin, Some("a: b")).unwrap();

        assert_eq!(setup.config.source.as_ref().unwrap().fixed(), partitions);
        assert_eq!(setup.config.plugins.directory, plugin.directory);
        assert_eq!(setup.config.buckets().ownership, "parti-demo-ownership");
        assert_eq!(setup.config.handlers().next().unwrap().1.config.as_map().get("field"), Some(&json!("a: b")));
    }

    #[test]
    fn a_missing_component_is_answered_with_those_there_are() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("relay.wasm"), "").unwrap();
        std::fs::write(directory.path().join("relay.yaml"), "").unwrap();
        let error = Plugin::find("rely", directory.path()).unwrap_err();
        assert_eq!(error.code, ErrorCode::PluginNotFound);
        assert!(error.why.ends_with("has relay"), "{error}");

        let by_path = directory.path().join("relay.wasm");
        let found = Plugin::find(by_path.to_str().unwrap(), Path::new("/nowhere")).unwrap();
        assert_eq!(found, Plugin::find("relay", directory.path()).unwrap());
    }
}
