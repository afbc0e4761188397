//! The command line as a user meets it: help, usage errors, and configurations that cannot work.

use parti_tests::{Ended, config, parti};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

fn file(folder: &TempDir, content: &str) -> PathBuf {
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, content).expect("a file");
    path
}

/// Runs `parti COMMAND --config FILE` with these further arguments.
async fn with_config(command: &str, content: &str, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let path = file(&folder, content);
    let path = path.to_str().expect("a path in UTF-8");
    parti(&[&[command, "--config", path], arguments].concat()).await
}

fn valid() -> Value {
    config("nats://127.0.0.1:4222", 2, "noop")
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    parti(&["--help"]).await.assert(0, &["Usage: parti", "run", "check", "dev", "Exit status"]);
    parti(&["run", "--help"]).await.assert(0, &["--config", "--set", "CONFIG_PATH"]);
    for command in ["partitions", "seek", "pause", "resume"] {
        parti(&[command, "--help"]).await.assert(0, &["--config", "--json", "Examples:"]);
    }
    for command in ["list", "show", "replay"] {
        parti(&["dlq", command, "--help"]).await.assert(0, &["--subject", "--json", "Examples:"]);
    }
    parti(&["--version"]).await.assert(0, &["parti ", env!("CARGO_PKG_VERSION")]);
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_names_the_mistake() {
    parti(&[] as &[&str]).await.assert(2, &["Usage: parti"]);
    parti(&["runn"]).await.assert(2, &["runn", "'run'"]);
    parti(&["run", "--confg", "x"]).await.assert(2, &["--confg", "--config"]);
    parti(&["check", "--config"]).await.assert(2, &["--config"]);
    parti(&["run", "--config", "/nowhere/parti.yaml"]).await.assert(2, &["/nowhere/parti.yaml"]);
    with_config("run", &valid().to_string(), &["--set", "log.level"]).await.assert(2, &["log.level", "KEY=VALUE"]);
    with_config("run", &valid().to_string(), &["--set", "lgo.level=info"]).await.assert(2, &["lgo"]);
}

#[tokio::test]
async fn a_configuration_is_not_needed_to_be_told_what_is_missing() {
    for command in ["run", "check"] {
        parti(&[command]).await.assert(2, &["source"]);
        with_config(command, "group: [", &[]).await.assert(2, &["parti.yaml"]);
        with_config(command, "\u{0}\u{1}", &[]).await.assert(2, &["parti.yaml"]);
    }
}

#[tokio::test]
async fn every_problem_of_a_configuration_is_listed_not_only_the_first() {
    let mut wrong = valid();
    wrong["workerIdMin"] = json!(7);
    wrong["workerIdMax"] = json!(3);
    wrong["heartbeatTtl"] = json!("1s");
    wrong["hartbeatInterval"] = json!("1s");
    wrong["electionTimeout"] = json!(5);
    wrong["handler"]["onExhausted"] = json!("explode");
    wrong["hooks"] = json!({ "plugin": "hooks", "limits": { "publishBytes": "1MiB" } });
    wrong["source"]["static"]["partitions"] = json!([{ "keys": ["a"] }, { "keys": ["a"] }, { "keys": [] }]);
    for command in ["run", "check"] {
        let ended = with_config(command, &wrong.to_string(), &[]).await;
        ended.assert(2, &["workerIdMin", "heartbeatTtl", "electionTimeout", "onExhausted", "explode", "partitions"]);
        ended.assert(2, &["hartbeatInterval", "heartbeatInterval"]);
        ended.assert(2, &["`hooks.limits.publishBytes` means nothing", "only a handler", "handler.limits"]);
    }
    let ended = with_config("check", &wrong.to_string(), &["--json"]).await;
    let report: Value = serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {}", ended.output));
    assert_eq!((ended.status, &report["ok"]), (Some(2), &json!(false)));
    let problems = report["problems"].as_array().expect("a list");
    assert!(problems.len() >= 6, "{problems:#?}");
    for problem in problems {
        for part in ["what", "why", "todo"] {
            assert!(problem[part].as_str().is_some_and(|text| !text.is_empty()), "{part} of {problem}");
        }
    }
}

/// Nobody listens at the discard port: a run that got as far as NATS would end with 3.
#[tokio::test]
async fn what_can_never_connect_is_found_without_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = file(&folder, "");
    for (key, value) in [
        ("nats.credentials", "/nowhere/user.creds".to_owned()),
        ("nats.credentials", empty.display().to_string()),
        ("nats.nkey", "SUNONSENSE".to_owned()),
    ] {
        let set = format!("{key}={value}");
        let listen = format!("http.listen=127.0.0.1:{}", parti_tests::free_port());
        for command in ["check", "run"] {
            let config = config("nats://127.0.0.1:9", 2, "noop").to_string();
            let ended = with_config(command, &config, &["--set", &set, "--set", &listen]).await;
            ended.assert(2, &["ErrInvalidConfig", "credentials cannot be used"]);
            assert!(!ended.output.contains("SUNONSENSE"), "{}", ended.output);
        }
    }
    let tls = json!({ "ca": "/nowhere/ca.pem" });
    let mut config = config("tls://127.0.0.1:9", 2, "noop");
    config["nats"]["tls"] = tls;
    for command in ["check", "run"] {
        let listen = format!("http.listen=127.0.0.1:{}", parti_tests::free_port());
        with_config(command, &config.to_string(), &["--set", &listen])
            .await
            .assert(2, &["ErrInvalidConfig", "/nowhere/ca.pem"]);
    }
}

#[tokio::test]
async fn check_accepts_a_good_configuration_and_names_the_plugin() {
    with_config("check", &valid().to_string(), &[]).await.assert(0, &["valid", "noop"]);
    let ended = with_config("check", &valid().to_string(), &["--json"]).await;
    let report: Value = serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {}", ended.output));
    assert_eq!((ended.status, &report["ok"]), (Some(0), &json!(true)));
}

#[tokio::test]
async fn a_later_file_and_a_flag_win() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = file(&folder, &valid().to_string());
    let second = folder.path().join("second.yaml");
    std::fs::write(&second, "workerIdMin: 5\nworkerIdMax: 9\n").expect("a file");
    let (first, second) = (first.to_str().expect("UTF-8"), second.to_str().expect("UTF-8"));
    parti(&["check", "--config", first, "--config", second]).await.assert(0, &["valid"]);
    let ended = parti(&["check", "--config", first, "--config", second, "--set", "workerIdMax=4"]).await;
    ended.assert(2, &["workerIdMin", "workerIdMax", "second.yaml"]);
}
