//! Partition sources through this host.

use super::*;
use serde_json::json;
use std::time::Duration;

async fn ask(config: Value) -> Result<Vec<ListedPartition>, CallError> {
    let engine = PluginEngine::new().unwrap();
    // What is to be stopped for its time is stopped soon; everything else has time enough.
    let limits = match config["how"].as_str() {
        Some("hang") => Limits { call_timeout: Duration::from_millis(150), ..Limits::default() },
        _ => Limits::default(),
    };
    let settings = PluginSettings { section: "source.plugin".into(), ..settings(limits, object(config)) };
    SourcePlugin::load(&engine, "registry", &component("registry"), settings).unwrap().list().await
}

#[tokio::test]
async fn a_source_lists_partitions_or_says_why_not() {
    let listed = ask(json!({"count": 2})).await.unwrap();
    assert_eq!(listed[1], ListedPartition { keys: vec!["p-01".to_owned()], weight: 100 });
    let error = ask(json!({})).await.unwrap_err();
    assert!(error.to_string().contains("plugin registry refused to list partitions: no `count`"), "{error}");
}

#[tokio::test]
async fn a_source_that_traps_hangs_hoards_or_floods_ends_in_an_error_of_its_own() {
    let failed = async |how: &str| ask(json!({"count": 2, "how": how})).await.unwrap_err();
    let error = failed("trap").await;
    assert!(matches!(error, CallError::Trap { .. }), "{error:?}");
    let error = failed("hang").await;
    assert!(error.to_string().contains("source.plugin.callTimeout, which is 150ms"), "{error}");
    let error = failed("bomb").await;
    assert!(error.to_string().contains("source.plugin.limits.memory allows 64 MiB"), "{error}");
    let error = failed("flood").await;
    assert!(error.to_string().contains("source.plugin.limits.hostCallBytes"), "{error}");
}
