//! Files that are no plugin of this host are refused before anything is touched, with what is wrong and what to do.

use parti_tests::{config, copy_plugin, parti};
use serde_json::json;

/// A core module with one empty function: `(module (func))`.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";

/// Runs `parti check` and `parti run` with a plugin `subject` of these bytes; both must end with 2 and say these texts.
async fn refused(bytes: Option<&[u8]>, says: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(bytes) = bytes {
        std::fs::write(folder.path().join("subject.wasm"), bytes).expect("a file");
    }
    // Nobody listens at the discard port; a run that got as far as NATS would end with 3.
    let mut config = config("nats://127.0.0.1:9", 2, "noop");
    config["handler"]["plugin"] = json!("subject");
    config["plugins"]["directory"] = json!(folder.path());
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let listen = format!("http.listen=127.0.0.1:{}", parti_tests::free_port());
    for command in ["check", "run"] {
        let ended = parti(&[command, "--config", path, "--set", &listen]).await;
        ended.assert(2, says);
        assert!(!ended.output.contains("panicked"), "{}", ended.output);
    }
}

#[tokio::test]
async fn a_missing_plugin_is_named_with_where_it_was_looked_for() {
    refused(None, &["ErrPluginNotFound", "subject", "plugins.directory"]).await;
}

#[tokio::test]
async fn files_that_are_no_components_are_told_apart() {
    refused(Some(b""), &["ErrPluginInvalid", "subject", "is not WebAssembly", "wasm32-wasip2"]).await;
    refused(Some(b"Hello, I am a text file.\n"), &["ErrPluginInvalid", "subject", "is not WebAssembly"]).await;
    refused(Some(CORE_MODULE), &["ErrPluginInvalid", "subject", "core", "wasm32-wasip2"]).await;
}

#[tokio::test]
async fn a_damaged_component_is_refused_wherever_it_is_damaged() {
    let whole = copy_plugin("noop");
    for length in [9, 100, whole.len() / 2, whole.len() - 1] {
        refused(Some(&whole[..length]), &["ErrPluginInvalid", "subject"]).await;
    }
    let mut spoilt = whole.clone();
    let middle = spoilt.len() / 2;
    spoilt[middle..middle + 64].fill(0xff);
    refused(Some(&spoilt), &["ErrPluginInvalid", "subject"]).await;
}

#[tokio::test]
async fn a_component_of_something_else_is_told_what_it_exports() {
    let greeter = copy_plugin("no-known-export");
    refused(Some(&greeter), &["ErrPluginInvalid", "subject", "acme:greeter/greeting", "message-handler"]).await;
}

#[tokio::test]
async fn a_component_that_needs_what_no_host_has_is_told_what() {
    let needy = copy_plugin("missing-import");
    refused(Some(&needy), &["ErrPluginInvalid", "subject", "acme:gadgets/frobnicate"]).await;
}
