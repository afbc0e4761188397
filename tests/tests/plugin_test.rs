//! `parti plugin test`, as authors of plugins run it: no server, real components, exit status 0, 1 or 2.

use parti_tests::{Ended, WebServer, parti, plugin_folder};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A folder with a copy of a component.
fn with_component(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = format!("{name}.wasm");
    std::fs::copy(plugin_folder(name).join(&file), folder.path().join(&file)).expect("a copy");
    folder
}

fn write(folder: &TempDir, file: &str, content: &str) {
    std::fs::write(folder.path().join(file), content).expect("a file");
}

/// Runs `parti plugin test NAME.wasm ARGUMENTS`, where an argument with a dot is a file of the folder.
async fn test(folder: &TempDir, name: &str, arguments: &[&str]) -> Ended {
    let place = |argument: &str| match argument.contains('.') {
        true => folder.path().join(argument).to_str().expect("UTF-8").to_owned(),
        false => argument.to_owned(),
    };
    let component = place(&format!("{name}.wasm"));
    let arguments =
        ["plugin", "test", &component].into_iter().map(str::to_owned).chain(arguments.iter().map(|a| place(a)));
    parti(&arguments.collect::<Vec<_>>()).await
}

fn report(ended: &Ended) -> Value {
    // After the report comes the error, if there is one.
    let mut values = serde_json::Deserializer::from_str(&ended.output).into_iter();
    values.next().and_then(Result::ok).unwrap_or_else(|| panic!("no JSON: {}", ended.output))
}

/// Readings of two partitions in turn: steady, but one is far off, and the last is none.
fn readings() -> String {
    let reading = |n: u32| {
        let value = if n == 150 { 99.0 } else { 20.0 + f64::from(n % 7) * 0.1 };
        json!({ "subject": format!("work.tool-{}", n % 2), "partition": format!("tool-{}", n % 2), "payload": { "value": value } })
    };
    let last = json!({ "subject": "work.tool-1", "partition": ["tool-1"], "payload": "no reading" });
    (0..200).map(reading).chain([last]).map(|message| format!("{message}\n")).collect()
}

#[tokio::test]
async fn a_handler_is_the_same_after_a_trap_and_after_a_swap_and_does_what_is_expected() {
    let folder = with_component("control-chart");
    write(&folder, "messages.jsonl", &readings());
    let messages = ["--messages", "messages.jsonl", "--batch-size", "16"];
    let recorded = test(&folder, "control-chart", &[&messages[..], &["--record", "expected.jsonl"]].concat()).await;
    recorded.assert(
        0,
        &["200 ack, 1 reject; 1 message published", "tool-0: control-chart/1", "\"count\":100", "messages/s", "passed"],
    );

    let disturbed =
        [&messages[..], &["--expect", "expected.jsonl", "--trap-at", "180", "--reload-at", "60", "--json"]].concat();
    let ended = test(&folder, "control-chart", &disturbed).await;
    ended.assert(0, &[]);
    let report = report(&ended);
    assert_eq!((&report["passed"], &report["kind"]), (&json!(true), &json!("handler")));
    assert_eq!(report["messages"].as_array().map(Vec::len), Some(201));
    let alarm = &report["messages"][150]["outputs"][0];
    assert_eq!(alarm["subject"], "alarms.tool-0");
    assert_eq!(report["partitions"][1]["format"], "control-chart/1");

    let expected = std::fs::read_to_string(folder.path().join("expected.jsonl")).expect("what was recorded");
    write(&folder, "expected.jsonl", &expected.replace("99.0", "98.0").replacen("ack", "exhausted", 1));
    let ended = test(&folder, "control-chart", &disturbed[..disturbed.len() - 1]).await;
    ended.assert(
        1,
        &[
            "message 1 has another outcome",
            "expected  exhausted",
            "message 151 has another output 1",
            "ErrPluginTestFailed",
        ],
    );
}

#[tokio::test]
async fn retries_count_up_and_are_not_waited_for() {
    let folder = with_component("retry");
    let payloads = ["retry 2", "retry", "retry 1 after 3600000", "at once"];
    let lines: String = payloads.iter().map(|p| format!("{}\n", json!({ "subject": "a", "payload": p }))).collect();
    write(&folder, "messages.jsonl", &lines);
    let ended = test(&folder, "retry", &["--messages", "messages.jsonl", "--json"]).await;
    ended.assert(0, &[]);
    let report = report(&ended);
    let became = |n: usize| (report["messages"][n]["outcome"].clone(), report["messages"][n]["attempts"].clone());
    let expected =
        [("ack", 3), ("exhausted", 5), ("ack", 2), ("ack", 1)].map(|(outcome, n)| (json!(outcome), json!(n)));
    assert_eq!([became(0), became(1), became(2), became(3)], expected);
}

#[tokio::test]
async fn a_trap_is_a_failure_unless_it_is_expected_and_its_neighbours_are_handled() {
    let folder = with_component("trap");
    let payloads = ["1", "trap", "3"];
    let lines: String = payloads.iter().map(|p| format!("{}\n", json!({ "subject": "a", "payload": p }))).collect();
    write(&folder, "messages.jsonl", &lines);
    let ended = test(&folder, "trap", &["--messages", "messages.jsonl"]).await;
    ended.assert(1, &["2 ack, 1 trap", "1 byte, 2", "failed: partition test: message 2: plugin trap trapped"]);
    write(&folder, "expected.jsonl", "{\"outcome\": \"ack\"}\n{\"outcome\": \"trap\"}\n{\"outcome\": \"ack\"}\n");
    let ended = test(&folder, "trap", &["--messages", "messages.jsonl", "--expect", "expected.jsonl"]).await;
    ended.assert(0, &["panicked at", "trap at sequence 2", "passed"]);
}

#[tokio::test]
async fn a_strategy_is_judged_by_whether_its_answers_can_be_used() {
    let folder = with_component("oracle");
    let ended = test(&folder, "oracle", &["--fleet", "3x30", "--fleet", "1x1", "--json"]).await;
    ended.assert(0, &[]);
    let facts = &report(&ended)["fleets"][0];
    assert_eq!((&facts["workers"], &facts["partitions"], &facts["movedOnJoin"]), (&json!(3), &json!(30), &json!(0)));
    test(&folder, "oracle", &[]).await.assert(0, &["5,000", "MAX/MEAN", "passed"]);
    test(&with_component("zone-aware"), "zone-aware", &[]).await.assert(0, &["passed"]);
    for (how, why) in [
        ("short", "it answered for 29 partitions and was asked for 30"),
        ("range", "and the workers are 0 to 2"),
        ("error", "the stars are not right"),
        ("trap", "plugin oracle trapped"),
    ] {
        write(&folder, "oracle.yaml", &format!("config: {{ how: {how} }}"));
        test(&folder, "oracle", &["--fleet", "3x30"]).await.assert(1, &["failed: 3x30: asked about a cold start", why]);
    }
}

#[tokio::test]
async fn a_source_lists_partitions_or_is_told_why_a_worker_would_refuse_them() {
    let folder = with_component("registry");
    write(&folder, "three.yaml", "count: 3");
    let ended = test(&folder, "registry", &["--config", "three.yaml"]).await;
    ended.assert(0, &["p-02", "3 partitions", "log INFO   asked for 3 partitions", "passed"]);
    for (how, why) in [
        ("twice", "entry 3 is partition p-00 for the second time"),
        ("empty-key", "key 0 of the partition is empty"),
        ("error", "the registry is closed"),
    ] {
        // The configuration goes over that of the sidecar, key by key.
        write(&folder, "registry.yaml", &format!("config: {{ count: 1000, how: {how} }}"));
        test(&folder, "registry", &["--config", "three.yaml"]).await.assert(1, &[why, "ErrPluginTestFailed"]);
    }
}

#[tokio::test]
async fn a_plugin_gets_what_the_configuration_of_a_worker_grants_it_and_nothing_else() {
    let folder = with_component("http-source");
    let registry = WebServer::start(|_| Some((200, json!(["tool-1", "tool-2"]).to_string()))).await;
    write(&folder, "registry.yaml", &json!({ "url": registry.url() }).to_string());
    let ended = test(&folder, "http-source", &["--config", "registry.yaml"]).await;
    ended.assert(2, &["ErrPluginInvalid", "not granted"]);
    let grant = |origin: &str| json!({ "plugins": { "grants": { "http-source": { "http": [origin] } } } }).to_string();
    let granted = ["--config", "registry.yaml", "--grants", "parti.yaml"];
    write(&folder, "parti.yaml", &grant("https://example.com"));
    test(&folder, "http-source", &granted).await.assert(1, &["refused to list partitions"]);
    assert_eq!(registry.requests().len(), 0);
    write(&folder, "parti.yaml", &grant(registry.url()));
    test(&folder, "http-source", &granted).await.assert(0, &["tool-2", "2 partitions", "passed"]);
    write(&folder, "parti.yaml", "plugins: { grant: {} }");
    test(&folder, "http-source", &granted).await.assert(2, &["ErrInvalidConfig", "plugins.grant"]);
}

#[tokio::test]
async fn each_hook_is_called_and_shown_with_what_it_logs() {
    let folder = with_component("telltale");
    let hooks = ["on-state-changed", "on-assignment-changed", "on-error", "on-degraded-alert"];
    let ended = test(&folder, "telltale", &[]).await;
    ended.assert(0, &hooks);
    ended.assert(0, &["told 1: state WaitingAssignment to Stable", "told 9: alert Critical", "passed"]);
    write(&folder, "telltale.yaml", "config: { on: PARTI-1304, how: trap }");
    let ended = test(&folder, "telltale", &["--json"]).await;
    ended.assert(1, &["ErrPluginTestFailed"]);
    let calls = report(&ended)["calls"].as_array().cloned().unwrap_or_default();
    // It begins anew after the trap, and counts from one again.
    let told = |call: &Value| call["log"][0]["text"].as_str().map(str::to_owned);
    assert!(
        calls.iter().any(|call| call["error"].as_str().is_some_and(|error| error.contains("trapped"))),
        "{calls:#?}"
    );
    assert_eq!(calls.last().and_then(told).as_deref(), Some("told 4: alert Critical after 600 s"));
}

#[tokio::test]
async fn what_cannot_be_tested_ends_with_2_and_says_why() {
    let folder = with_component("noop");
    write(&folder, "good.jsonl", "{\"subject\": \"a\"}\n");
    write(&folder, "bad.jsonl", "{\"subject\": \"a\"}\n{\"subjet\": \"a\"}\nnonsense\n");
    write(&folder, "list.yaml", "[1]");
    for (arguments, why) in [
        (&[][..], "--messages is missing"),
        (&["--messages", "none.jsonl"], "none.jsonl cannot be read"),
        (&["--messages", "bad.jsonl"], "line 2: unknown field `subjet`"),
        (&["--messages", "bad.jsonl"], "line 3: "),
        (&["--messages", "good.jsonl", "--expect", "bad.jsonl"], "line 1: "),
        (&["--messages", "good.jsonl", "--trap-at", "2"], "there are 1 messages"),
        (&["--messages", "good.jsonl", "--batch-size", "0"], "--batch-size 0"),
        (&["--messages", "good.jsonl", "--config", "list.yaml"], "list.yaml is no configuration of a plugin"),
        (&["--messages", "good.jsonl", "--fleet", "1x1"], "--fleet is for strategies"),
        (&["--fleet", "0x1"], "such as 10x1000"),
    ] {
        test(&folder, "noop", arguments).await.assert(2, &[why]);
    }
    write(&folder, "noop.yaml", "sha256: \"00\"");
    test(&folder, "noop", &["--messages", "good.jsonl"]).await.assert(2, &["sha256"]);
    write(&folder, "text.wasm", "no component");
    test(&folder, "text", &[]).await.assert(2, &["is not WebAssembly"]);
    let missing = Path::new("/nowhere/x.wasm").to_str().expect("UTF-8");
    parti(&["plugin", "test", missing]).await.assert(2, &["/nowhere/x.wasm cannot be read"]);
    parti(&["plugin", "test", "x.txt"]).await.assert(2, &["its name does not end with .wasm"]);
}
