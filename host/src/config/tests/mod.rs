//! Tests of the configuration as a whole.

mod hostile;
mod loading;
mod templates;
mod validation;

use super::{Config, LoadRequest, Loaded};
use std::path::PathBuf;

/// A configuration with which a worker can run.
const COMPLETE: &str = r#"
group: demo
stream: { name: work }
source: { static: { partitions: [ { keys: ["tool-07", "chamber-2"], weight: 100 }, { keys: ["tool-08"] } ] } }
handler: { plugin: relay, config: { prefix: out } }
"#;

/// Files with these texts in a directory of their own, in order.
fn files(texts: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let paths = texts.iter().enumerate().map(|(index, text)| {
        let path = directory.path().join(format!("{index}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    });
    let paths = paths.collect();
    (directory, paths)
}

/// Loads files, variables and flags together.
fn load(texts: &[&str], env: &[(&str, &str)], overrides: &[(&str, serde_json::Value)]) -> Loaded {
    let (_directory, files) = files(texts);
    Config::load(LoadRequest {
        files,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        overrides: overrides.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect(),
    })
}

/// The configuration of a text that must have no problems.
#[track_caller]
fn valid(yaml: &str) -> Config {
    let loaded = Config::parse_str(yaml);
    assert_eq!(loaded.problems, [], "{yaml}");
    loaded.config.unwrap()
}

/// The paths of the problems of a text.
fn problems(yaml: &str) -> Vec<String> {
    let loaded = Config::parse_str(yaml);
    assert_eq!(loaded.config.is_none(), !loaded.problems.is_empty(), "{yaml}");
    loaded.problems.into_iter().map(|problem| problem.path).collect()
}

/// The paths of the warnings of a text that has no problems.
#[track_caller]
fn warnings(yaml: &str) -> Vec<String> {
    let loaded = Config::parse_str(yaml);
    assert_eq!(loaded.problems, [], "{yaml}");
    loaded.warnings.into_iter().map(|problem| problem.path).collect()
}
