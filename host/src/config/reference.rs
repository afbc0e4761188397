//! The page `docs/configuration.md`, written from the declarations of the keys and the rules.

use super::environment::{GUIDE_VARIABLES, settable};
use super::rules::{self, Severity};
use super::schema::{PLACEHOLDER, visit_keys};
use super::section::{Shape, Shorthand};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

const HEAD: &str = "\
# Configuration

A worker is configured by YAML files, environment variables and flags. A flag beats the environment, the environment
beats the files, and the files beat the defaults below. `--config` may be repeated: maps merge key by key, lists and
single values are replaced, the later file wins. `key:` with nothing behind it means the default.
`parti check --config parti.yaml` lists everything that is wrong with a configuration, and starts nothing.

This page is generated from `host/src/config/`. After a change there, write it anew with
`PARTI_UPDATE_DOCS=1 cargo test --release -p parti --lib config::reference`.

```yaml
group: demo
nats: { url: \"nats://127.0.0.1:4222\" }
stream: { name: work, subjectTemplate: \"work.{{.PartitionID}}\" }
source:
  static:
    partitions:
      - { keys: [\"tool-07\", \"chamber-2\"], weight: 100 }   # subject work.tool-07.chamber-2
strategy: { consistentHash: { virtualNodes: 150 } }       # or just: strategy: consistentHash
handler: { plugin: relay, config: { prefix: out } }
plugins: { directory: ./plugins }
http: { listen: \"127.0.0.1:8080\" }
```

Unknown keys are refused, with the nearest known one. A **duration** is text with units: `10s`, `1.5s`, `250ms`,
`1m30s`, `1h`; a bare number is refused. A **size** is a number of bytes, or text such as `64MiB` or `32KiB`. Text that
looks like a number needs quotes.

Every key has an environment variable. Maps and lists are given there as YAML or JSON on one line; a variable that is
set to nothing counts as not set.
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    // Writing to a `String` cannot fail: the results are dropped.
    let guide: Vec<_> = GUIDE_VARIABLES.iter().map(|(name, path)| format!("`{name}` sets `{path}`")).collect();
    let _ = writeln!(
        page,
        "The guides' names work too, and `PARTI_…` wins over them: {}. `CONFIG_PATH` names the file where there is no \
         `--config`.",
        guide.join(", ")
    );

    let variables: HashMap<String, String> = settable().into_iter().map(|key| (key.path, key.variable)).collect();
    let mut sections = vec![(String::new(), String::new())];
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    visit_keys(&mut |path, _, key| {
        let kind = match &key.shape {
            Shape::Section { shorthand, .. } => {
                let mut intro = key.doc.to_owned();
                if let (Some(shorthand), Some(variable)) = (shorthand, variables.get(path)) {
                    let _ = write!(intro, " {} Environment, as a whole: `{variable}`.", shorthand_note(*shorthand));
                }
                sections.push((path.to_owned(), intro));
                return;
            }
            Shape::Named { placeholder, .. } => {
                let mut intro = key.doc.to_owned();
                if let Some(variable) = variables.get(path) {
                    let _ = write!(intro, " Environment, as a whole: `{variable}`.");
                }
                sections.push((format!("{path}.{PLACEHOLDER}{placeholder}>"), intro));
                return;
            }
            Shape::Value { kind, .. } | Shape::FreeMap { kind } => kind,
        };
        let default = match (&key.default, key.required) {
            (Some(default), _) => default.clone(),
            (None, true) => "**required**".to_owned(),
            (None, false) => "not set".to_owned(),
        };
        let variable = variables.get(path).map_or_else(String::new, |name| format!("`{name}`"));
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        let row = [format!("`{}`", key.name), kind.clone(), default, key.doc.to_owned(), variable];
        let _ = writeln!(
            rows.entry(section.to_owned()).or_default(),
            "| {} |",
            row.map(|cell| cell.replace('|', "\\|")).join(" | ")
        );
    });

    for (path, intro) in sections {
        let title = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
        let _ = write!(page, "\n## {title}\n{}", if intro.is_empty() { "" } else { "\n" });
        if !intro.is_empty() {
            let _ = writeln!(page, "{intro}");
        }
        if let Some(rows) = rows.get(&path) {
            let _ = write!(
                page,
                "\n| key | value | default | meaning | environment |\n| --- | --- | --- | --- | --- |\n{rows}"
            );
        }
    }

    page.push_str("\n## Rules\n\nA worker does not start while one of these is broken.\n\n");
    page.push_str(
        "- a worker needs a `source`; with only one of `stream` and `handler` it lacks the other, without both it is \
         assignment-only\n",
    );
    list_rules(&mut page, Severity::Error);
    page.push_str("\n## Warnings\n\nThese are allowed, and probably not meant.\n\n");
    list_rules(&mut page, Severity::Warning);
    page
}

fn list_rules(page: &mut String, severity: Severity) {
    for rule in rules::all().filter(|rule| rule.severity == severity) {
        let _ = writeln!(page, "- {}", rule.says);
    }
}

fn shorthand_note(shorthand: Shorthand) -> &'static str {
    match shorthand {
        Shorthand::Key(_) => {
            "Takes a preset's name, the fields, or both: the fields beside `preset`, or in a map `overrides` beside it."
        }
        Shorthand::Name(_) => "Takes a name, or a map.",
        Shorthand::Variant => "Takes a name, or a map of the name to its options.",
        Shorthand::Switch => "Takes `true`, `false`, or a map.",
    }
}

/// Compares a generated page with the one in `docs/`; writes it first if the environment has `PARTI_UPDATE_DOCS`.
#[cfg(test)]
pub(crate) fn assert_page_is_current(name: &str, page: &str) {
    // Cargo runs tests in the folder of their package, wherever they were built.
    let file = std::path::Path::new("../docs").join(name);
    if std::env::var_os("PARTI_UPDATE_DOCS").is_some() {
        std::fs::write(&file, page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/{name} differs from its source; the page itself says how to write it anew");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_configuration_page_is_current() {
        super::assert_page_is_current("configuration.md", &super::markdown());
    }
}
