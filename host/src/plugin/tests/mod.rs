//! Promises of this folder, kept by real components: hostile ones in WebAssembly text, and the example plugins.

mod examples;
mod hooks;
mod hostile;
mod outside;
mod properties;
mod reports;
mod secure;
mod sharing;
mod sources;
mod strategies;

use super::*;
use parti_coordination::{OpenReason, Partition, Sequence};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// `testdata/handler.wat` with code in the places marked `;;@place`.
fn handler(places: &[(&str, &str)]) -> Vec<u8> {
    let mut text = include_str!("../testdata/handler.wat").to_owned();
    for (place, code) in places {
        let mark = format!(";;@{place}\n");
        assert!(text.contains(&mark), "{place}");
        text = text.replace(&mark, &format!("{code}\n"));
    }
    wat::parse_str(text).unwrap()
}

fn load(engine: &PluginEngine, limits: Limits, places: &[(&str, &str)]) -> Arc<HandlerPlugin> {
    HandlerPlugin::load(engine, "hostile", &handler(places), settings(limits, Map::new())).unwrap()
}

fn settings(limits: Limits, config: Map<String, Value>) -> PluginSettings {
    PluginSettings { section: "handler".into(), config, limits, grants: Grants::default() }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("{value}") };
    map
}

/// The folder of built components that the environment variable names, or `default` in the workspace's `target`.
fn components(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from("../target").join(default), PathBuf::from)
}

/// An example plugin, as `make plugins` builds it.
pub(super) fn example(name: &str) -> Vec<u8> {
    let path = components("PARTI_PLUGINS", "plugins").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make plugins`", path.display()))
}

/// A component that misbehaves, as `make test-components` builds it.
fn component(name: &str) -> Vec<u8> {
    let path = components("PARTI_TEST_COMPONENTS", "test-components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make test-components`", path.display()))
}

fn partition(key: &str) -> Partition {
    Partition::new(vec![key.to_owned()], 100).unwrap()
}

async fn open(plugin: &HandlerPlugin) -> Result<HandlerInstance, CallError> {
    plugin.open(&partition("a"), OpenReason::Assigned, None, &Ownership::default()).await
}

fn message(sequence: u64, payload: &(impl AsRef<[u8]> + ?Sized)) -> Message<'_> {
    Message {
        subject: "work.a",
        sequence: Sequence(sequence),
        timestamp_ns: 0,
        attempt: 1,
        headers: vec![("h".into(), b"v")],
        payload: payload.as_ref(),
    }
}

fn messages(count: u64) -> Vec<Message<'static>> {
    (1..=count).map(|sequence| message(sequence, "payload")).collect()
}
