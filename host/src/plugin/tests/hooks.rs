//! Lifecycle hooks through this host.

use super::*;
use parti_coordination::WorkerState;
use serde_json::json;
use std::time::Duration;

fn load(engine: &PluginEngine, config: Value) -> Arc<HooksPlugin> {
    // What is to be stopped for its time is stopped soon; everything else has time enough.
    let limits = match config["how"].as_str() {
        Some("hang") => Limits { call_timeout: Duration::from_millis(150), ..Limits::default() },
        _ => Limits::default(),
    };
    let settings = PluginSettings { section: "hooks".into(), ..settings(limits, object(config)) };
    HooksPlugin::load(engine, "telltale", &component("telltale"), settings).unwrap()
}

async fn told(how: &str) -> (CallError, Arc<HooksPlugin>, HooksInstance) {
    let engine = PluginEngine::new().unwrap();
    let plugin = load(&engine, json!({"on": "Stable", "how": how}));
    let mut instance = plugin.open().await.unwrap();
    let harmless = Happening::StateChanged { from: WorkerState::Init, to: WorkerState::ClaimingId };
    instance.tell(&harmless).await.unwrap();
    let happening = Happening::StateChanged { from: WorkerState::WaitingAssignment, to: WorkerState::Stable };
    (instance.tell(&happening).await.unwrap_err(), plugin, instance)
}

#[tokio::test]
async fn a_hook_that_returns_an_error_goes_on() {
    let (error, _, mut instance) = told("error").await;
    let CallError::Refused { call: "accept on-state-changed", ref reason, .. } = error else { panic!("{error:?}") };
    assert_eq!(reason, "no wish to hear of state WaitingAssignment to Stable");
    let next = Happening::StateChanged { from: WorkerState::Stable, to: WorkerState::Scaling };
    assert!(instance.tell(&next).await.is_err(), "the line has the word too");
}

#[tokio::test]
async fn a_hook_that_hangs_traps_or_hoards_is_stopped_and_the_limit_named_by_its_section() {
    let (error, plugin, _) = told("hang").await;
    assert!(error.to_string().contains("hooks.callTimeout, which is 150ms"), "{error}");
    assert_eq!(plugin.version().stats().timeouts, 1);
    let (error, _, _) = told("trap").await;
    assert!(matches!(error, CallError::Trap { .. }), "{error:?}");
    let (error, _, mut instance) = told("bomb").await;
    assert!(error.to_string().contains("hooks.limits.memory allows 64 MiB"), "{error}");
    let next = Happening::StateChanged { from: WorkerState::Stable, to: WorkerState::Scaling };
    assert!(matches!(instance.tell(&next).await, Err(CallError::Poisoned { .. })));
}

#[test]
fn a_plugin_of_another_kind_is_refused_with_what_it_is_and_what_is_needed() {
    let engine = PluginEngine::new().unwrap();
    let settings = PluginSettings { section: "hooks".into(), ..settings(Limits::default(), Map::new()) };
    let refused = HooksPlugin::load(&engine, "noop", &example("noop"), settings).unwrap_err().to_string();
    for part in ["plugin noop is of the kind handler", "hooks needs one of the kind hooks", "`parti:plugin/hooks`"] {
        assert!(refused.contains(part), "{refused}");
    }
}
