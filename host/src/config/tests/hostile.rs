//! Files that are broken, by accident or by intent: each ends in a report, never in a panic, a hang or a wrong value.

use super::{files, problems};
use crate::config::tree::MAX_DOCUMENT_BYTES;
use crate::config::{Config, LoadRequest};
use std::fmt::Write as _;
use std::path::PathBuf;

/// The one problem of a text that is no document.
#[track_caller]
fn refused(yaml: &str) -> String {
    let loaded = Config::parse_str(yaml);
    assert_eq!(loaded.problems.len(), 1, "{yaml:.200}");
    assert!(loaded.config.is_none_or(|_| false), "no configuration comes of it");
    assert_eq!(loaded.missing, [], "what is missing cannot be known");
    loaded.problems[0].to_string()
}

#[test]
fn text_that_is_no_single_yaml_map_is_refused_with_its_line() {
    assert!(refused("group: a\ngroup: b").contains("configuration:2"));
    assert!(refused("nats:\n  url: a\n  url: b").contains("configuration:3"));
    assert!(refused("nats:\n\turl: a").contains("configuration:2"));
    assert!(refused("group: [a").contains("configuration"));
    refused("group: a\n---\ngroup: b");
    refused("group: !secret a");
    refused("group: *nowhere");
    assert!(refused("- a\n- b").contains("a list of 2"));
    assert!(refused("just text").contains("\"just text\""));
    refused("\u{0}");
    refused("{{{{{{{{");
}

#[test]
fn aliases_work_and_alias_bombs_do_not() {
    assert_eq!(problems("labels: {a: &x one, b: *x}"), [""; 0]);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{below}]").unwrap();
    }
    refused(&bomb);
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    refused(&format!("handler: {{plugin: p, config: {{a: {}{}}}}}", "[".repeat(100_000), "]".repeat(100_000)));
    refused(&format!("handler:\n  config: {}1{}", "{a: ".repeat(5_000), "}".repeat(5_000)));
}

#[test]
fn values_of_the_wrong_type_are_refused_where_they_are() {
    for (yaml, path) in [
        ("group: 5", "group"),
        ("group: true", "group"),
        ("group: [a]", "group"),
        ("nats: here", "nats"),
        ("nats: [a]", "nats"),
        ("workerIdMax: \"99\"", "workerIdMax"),
        ("workerIdMax: 1.0", "workerIdMax"),
        ("workerIdMax: -1", "workerIdMax"),
        ("workerIdMax: 4294967296", "workerIdMax"),
        ("workerIdMax: 99999999999999999999999999999999999999999999", "workerIdMax"),
        ("http: {readyWhenEmpty: yes}", "http.readyWhenEmpty"),
        ("assignment: {minRebalanceThreshold: .nan}", "assignment.minRebalanceThreshold"),
        ("assignment: {minRebalanceThreshold: .inf}", "assignment.minRebalanceThreshold"),
        ("assignment: {minRebalanceThreshold: 1e999}", "assignment.minRebalanceThreshold"),
        ("heartbeatTtl: -6s", "heartbeatTtl"),
        ("heartbeatTtl: 6 parsecs", "heartbeatTtl"),
        ("heartbeatTtl: \"\"", "heartbeatTtl"),
        ("heartbeatTtl: 99999999999999999999h", "heartbeatTtl"),
        ("coldStartWindow: 90000h", "coldStartWindow"),
        ("plugins: {defaults: {memory: 99999999999GiB}}", "plugins.defaults.memory"),
        ("plugins: {defaults: {memory: -1}}", "plugins.defaults.memory"),
        ("labels: {zone: 1}", "labels.zone"),
        ("labels: [a]", "labels"),
        ("handler: {plugin: p, config: [a]}", "handler.config"),
        ("handler: {plugin: p, config: {a: .nan}}", "handler.config"),
        ("degradedBehavior: gentle", "degradedBehavior.preset"),
        ("degradedBehavior: {preset: balanced, overrides: 5}", "degradedBehavior.overrides"),
        ("source: {static: {partitions: {a: b}}}", "source.static.partitions"),
        ("strategy: 5", "strategy"),
    ] {
        assert_eq!(problems(yaml), [path], "{yaml}");
    }
}

#[test]
fn a_list_full_of_mistakes_gives_a_report_of_readable_length() {
    let list = vec!["{keys: [1]}"; 5_000].join(", ");
    assert_eq!(problems(&format!("source: {{static: {{partitions: [{list}]}}}}")).len(), 21);
    let same = vec!["{keys: [a]}"; 5_000].join(", ");
    assert_eq!(problems(&format!("source: {{static: {{partitions: [{same}]}}}}")).len(), 21);
}

#[test]
fn a_hundred_thousand_partitions_are_no_problem() {
    let mut yaml = String::from("source:\n  static:\n    partitions:\n");
    for n in 0..100_000 {
        writeln!(yaml, "      - {{keys: [\"orders\", \"{n}\"], weight: 100}}").unwrap();
    }
    let config = Config::parse_str(&yaml).config.unwrap();
    assert_eq!(config.source.unwrap().fixed().len(), 100_000);
}

#[test]
fn messages_show_hostile_text_harmlessly() {
    let report = Config::parse_str("\"\\e[31mred\\a\": 1\ngroup: \"a\\nb\\e[0m\"").problems;
    assert_eq!(report.len(), 2);
    assert!(report.iter().all(|problem| !problem.what.contains(['\u{1b}', '\u{7}', '\n'])), "{report:?}");
    let long =
        Config::parse_str(&format!("http: {{listen: {}}}\n{}: 1", "x".repeat(100_000), "y".repeat(1_000))).problems;
    assert!(long.iter().all(|problem| problem.to_string().len() < 2_000), "{long:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_hides_nothing_else() {
    let (directory, mut paths) = files(&["group: a.b", "bananas: 1"]);
    let latin1 = directory.path().join("latin1.yaml");
    std::fs::write(&latin1, b"group: caf\xe9").unwrap();
    let huge = directory.path().join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; MAX_DOCUMENT_BYTES + 1]).unwrap();
    let unreadable =
        [directory.path().join("missing.yaml"), directory.path().to_owned(), latin1, huge, PathBuf::from("/dev/zero")];
    paths.extend(unreadable.clone());
    let loaded = Config::load(LoadRequest { files: paths, ..LoadRequest::default() });
    assert!(loaded.config.is_none());
    for file in unreadable {
        let name = file.display().to_string();
        assert!(loaded.problems.iter().any(|problem| problem.what.ends_with(&name)), "{name}: {:?}", loaded.problems);
    }
    assert!(loaded.problems.iter().any(|problem| problem.path == "bananas"));
}
