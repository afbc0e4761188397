//! The guide's templates, and the completed copies that ship in `deploy/config/`.

use super::load;
use crate::config::{Config, check};

const TEMPLATES: [(&str, &str); 4] = [
    ("config-dev", include_str!("templates/config-dev.yaml")),
    ("config-staging", include_str!("templates/config-staging.yaml")),
    ("config-prod", include_str!("templates/config-prod.yaml")),
    ("config-high-churn", include_str!("templates/config-high-churn.yaml")),
];

#[test]
fn the_guides_templates_are_valid_fragments_and_the_report_names_what_they_lack() {
    for (name, text) in TEMPLATES {
        let loaded = Config::parse_str(text);
        assert_eq!(loaded.problems, [], "{name}");
        assert!(loaded.config.is_some(), "{name}");
        let report = check::report(&loaded);
        let lacking: Vec<_> = report.missing.iter().map(|missing| missing.section).collect();
        assert_eq!(lacking, ["source", "stream", "handler"], "{name}");
        assert_eq!(report.exit_status().number(), 2, "{name}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["missing"][0]["section"], "source");
    }
}

#[test]
fn only_the_development_template_is_warned_about() {
    let warned = |text| Config::parse_str(text).warnings.into_iter().map(|warning| warning.path).collect::<Vec<_>>();
    for (name, text) in TEMPLATES {
        let expected: &[&str] = if name == "config-dev" { &["assignment.minRebalanceInterval"] } else { &[] };
        assert_eq!(warned(text), expected, "{name}");
    }
}

#[test]
fn the_completed_copies_run_and_keep_every_value_of_the_guide() {
    for (name, text) in TEMPLATES {
        let file = format!("../deploy/config/{name}.yaml");
        let copy = std::fs::read_to_string(&file).unwrap();
        let config = Config::parse_str(&copy).into_runnable().unwrap();
        assert!(!config.is_assignment_only(), "{name}");
        // Laying the template over the copy changes nothing.
        assert_eq!(load(&[&copy, text], &[], &[]).config.unwrap(), config, "{name}");
    }
}
