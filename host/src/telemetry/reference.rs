//! Writes `docs/metrics.md` from the catalogue.

use super::catalogue::{Row, chapters};

const HEAD: &str = "\
# Metrics

Every worker answers `GET /metrics` in the Prometheus text format, and in OpenMetrics to a client whose `Accept` header
asks for it. Each series has the label `worker_id`; it is empty until the worker has claimed an ID. A counter that has one
label with listed values exists from the start, at 0; other labelled series appear when they are first used.

Plugins can show metrics of their own, with names `plugin_<plugin>_<name>`: see [the plugin guide](plugin-guide.md#metrics).

This page is generated from `host/src/telemetry/catalogue.rs`. After a change there, write it anew with
`PARTI_UPDATE_DOCS=1 cargo test --release -p parti --lib telemetry::reference`.
";

/// The text of `docs/metrics.md`.
#[must_use]
pub fn reference_page() -> String {
    let mut page = HEAD.to_owned();
    for chapter in chapters() {
        page += &format!("\n## {}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n", chapter.title);
        for row in &chapter.rows {
            page += &format!("| `{}` | {} | {} | {} |\n", row.spec.name, row.kind, labels(row), meaning(row));
        }
    }
    page
}

fn labels(row: &Row) -> String {
    let labels = row.spec.labels.iter().map(|label| format!("`{label}`"));
    labels.collect::<Vec<_>>().join(", ")
}

/// The help text, the values of closed labels, and the buckets.
fn meaning(row: &Row) -> String {
    let mut meaning = row.spec.help.to_owned();
    let closed: Vec<_> = row.spec.labels.iter().zip(&row.closed_values).collect();
    match closed.as_slice() {
        [(a, values), (b, others)] if values == others => {
            meaning += &format!(" `{a}`, `{b}`: {}.", values.join(", "));
        }
        closed => {
            for (label, values) in closed {
                meaning += &format!(" `{label}`: {}.", values.join(", "));
            }
        }
    }
    if !row.spec.buckets.is_empty() {
        let bounds: Vec<String> = row.spec.buckets.iter().map(ToString::to_string).collect();
        meaning += &format!(" Buckets: {}.", bounds.join(", "));
    }
    meaning
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_page_is_current() {
        // Cargo runs tests in the folder of their package, wherever they were built.
        let path = "../docs/metrics.md";
        if std::env::var_os("PARTI_UPDATE_DOCS").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == reference_page(),
            "docs/metrics.md differs from the catalogue; the page itself says how to write it anew"
        );
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for row in chapters().iter().flat_map(|chapter| &chapter.rows) {
            let name = row.spec.name;
            assert!(name.starts_with("parti_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), row.kind == "counter", "{name}");
            assert_eq!(row.kind == "histogram", !row.spec.buckets.is_empty(), "{name}");
            assert!(row.spec.buckets.is_sorted(), "{name}");
            assert!(row.spec.help.ends_with('.'), "{name}");
            assert!(!row.spec.labels.contains(&"worker_id"), "{name}");
            assert!(row.closed_values.is_empty() || row.closed_values.len() == row.spec.labels.len(), "{name}");
        }
    }

    #[test]
    fn every_metric_of_the_guides_is_there_with_its_type_and_labels() {
        let guides: [(&str, &str, &[&str]); 13] = [
            ("parti_worker_state", "gauge", &[]),
            ("parti_is_leader", "gauge", &[]),
            ("parti_assigned_partitions", "gauge", &[]),
            ("parti_assignment_version", "gauge", &[]),
            ("parti_state_transitions_total", "counter", &["from_state", "to_state"]),
            ("parti_assignment_changes_total", "counter", &[]),
            ("parti_assignment_calculation_seconds", "histogram", &[]),
            ("parti_degraded_mode", "gauge", &[]),
            ("parti_cache_age_seconds", "gauge", &[]),
            ("parti_alert_level", "gauge", &[]),
            ("parti_degraded_duration_seconds", "histogram", &[]),
            ("parti_degraded_alerts_total", "counter", &["level"]),
            ("parti_cache_fallback_total", "counter", &[]),
        ];
        let chapters = chapters();
        for (name, kind, labels) in guides {
            let row = chapters.iter().flat_map(|chapter| &chapter.rows).find(|row| row.spec.name == name).expect(name);
            assert_eq!((row.kind, row.spec.labels), (kind, labels), "{name}");
        }
    }
}
