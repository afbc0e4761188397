//! The example plugins through this host, and what small handlers cost.

use super::*;
use parti_coordination::{CloseReason, Completed, Snapshot};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

fn load_example(engine: &PluginEngine, name: &str, config: Value) -> Arc<HandlerPlugin> {
    HandlerPlugin::load(engine, name, &example(name), settings(Limits::default(), object(config))).unwrap()
}

#[tokio::test]
async fn a_rust_component_needs_no_grant_and_serves_a_partition_from_open_to_close() {
    let engine = PluginEngine::new().unwrap();
    let plugin = load_example(&engine, "noop", json!({}));
    assert_eq!(plugin.version().kind(), PluginKind::Handler);
    let mut instance = open(&plugin).await.unwrap();
    for size in [1, 64] {
        let handled = instance.handle(&messages(size)).await.unwrap();
        assert_eq!(handled.outcome.done, vec![Completed::Ack; size.try_into().unwrap()]);
        assert_eq!(handled.outcome.retry, None);
    }
    assert_eq!(instance.snapshot().await.unwrap(), None);
    instance.close(CloseReason::Shutdown).await.unwrap();
    assert_eq!(plugin.version().stats(), PluginStats::default());
}

#[tokio::test]
async fn payload_headers_and_configuration_arrive_as_they_are() {
    let engine = PluginEngine::new().unwrap();
    let mut instance = open(&load_example(&engine, "relay", json!({"prefix": "copy.of"}))).await.unwrap();
    let batch = [message(7, b"\0\xff\n"), message(9, "")];
    let handled = instance.handle(&batch).await.unwrap();
    let expected: Vec<Publish> = batch
        .into_iter()
        .map(|message| Publish {
            cause: message.sequence,
            subject: "copy.of.work.a".to_owned(),
            headers: vec![("h".to_owned(), "v".to_owned())],
            payload: bytes::Bytes::copy_from_slice(message.payload),
        })
        .collect();
    assert_eq!(handled.publishes, expected);
}

const READINGS: [&str; 7] = [
    r#"{"value": 0}"#,
    r#"{"value": 1}"#,
    r#"{"value": 2}"#,
    r#"{"value": 3}"#,
    r#"{"value": 4}"#,
    r#"{"value": 5}"#,
    r#"{"value": 6}"#,
];

fn readings(sequences: std::ops::RangeInclusive<u64>) -> Vec<Message<'static>> {
    sequences.map(|sequence| message(sequence, READINGS[usize::try_from(sequence % 7).unwrap()])).collect()
}

#[tokio::test]
async fn state_goes_on_from_a_snapshot_in_another_engine() {
    let (here, there) = (PluginEngine::new().unwrap(), PluginEngine::new().unwrap());
    let mut stayed = open(&load_example(&here, "control-chart", json!({}))).await.unwrap();
    stayed.handle(&readings(1..=40)).await.unwrap();
    let snapshot = stayed.snapshot().await.unwrap().unwrap();

    let plugin = load_example(&there, "control-chart", json!({}));
    let mut moved =
        plugin.open(&partition("a"), OpenReason::Recovered, Some(&snapshot), &Ownership::default()).await.unwrap();
    assert_eq!(moved.snapshot().await.unwrap().unwrap(), snapshot);
    let mut outlier = readings(41..=50);
    outlier.push(message(51, r#"{"value": 1000}"#));
    let (a, b) = (stayed.handle(&outlier).await.unwrap(), moved.handle(&outlier).await.unwrap());
    assert_eq!(a, b);
    assert_eq!(a.publishes.len(), 1);
    assert_eq!(stayed.snapshot().await.unwrap(), moved.snapshot().await.unwrap());

    let foreign = Snapshot { format: "other/9".to_owned(), data: Vec::new() };
    let refused =
        plugin.open(&partition("a"), OpenReason::Swapped, Some(&foreign), &Ownership::default()).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Refused { call: "open", ref reason, .. } if reason.contains("other/9")),
        "{refused:?}"
    );
}

fn wanted(name: &str) -> Wanted<'_> {
    Wanted { name, section: "handler", kind: PluginKind::Handler, config: Map::new(), limits: Limits::default() }
}

/// A plugin directory with the hostile handler, unspoilt, as `good`.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("good.wasm"), handler(&[])).unwrap();
    directory
}

#[test]
fn a_sidecar_configures_and_lowers_and_the_hosts_file_overrides_it_key_by_key() {
    let directory = directory();
    fs::write(directory.path().join("relay.wasm"), example("relay")).unwrap();
    let yaml = "config: { prefix: a, deep: { kept: 1, over: 2 } }\nlimits: { memory: 1MiB, callTimeout: 1s }\n";
    fs::write(directory.path().join("relay.yaml"), yaml).unwrap();
    let engine = PluginEngine::new().unwrap();
    let catalog = Catalog::new(directory.path(), Limits::default(), BTreeMap::new());
    let wanted = Wanted { config: object(json!({"prefix": "b", "deep": {"over": 3}})), ..wanted("relay") };
    let plugin = catalog.load(&engine, wanted, HandlerPlugin::load).unwrap();
    let version = plugin.version();
    assert_eq!((version.limits().memory, version.limits().call_timeout), (1 << 20, Duration::from_secs(1)));
    assert_eq!(version.config(), &json!({"prefix": "b", "deep": {"kept": 1, "over": 3}}));
}

#[test]
fn what_a_sidecar_may_not_do_is_refused() {
    let directory = directory();
    let digest = Digest::of(&handler(&[]));
    let catalog = Catalog::new(directory.path(), Limits::default(), BTreeMap::new());
    let find = |yaml: &str| {
        fs::write(directory.path().join("good.yaml"), yaml).unwrap();
        catalog.list().unwrap().pop().unwrap().component
    };
    assert_eq!(find(&format!("sha256: {digest}\nenabled: true")).unwrap().digest, digest);
    assert!(matches!(find(&format!("sha256: {}", "0".repeat(64))), Err(CatalogError::Digest { .. })));
    assert!(matches!(find("enabled: false"), Err(CatalogError::Disabled { .. })));
    assert!(matches!(find("limits: { memory: 1GiB }"), Err(CatalogError::Sidecar { .. })));
    assert!(matches!(find("config: [1]"), Err(CatalogError::Sidecar { .. })));
    let refused = find("grants: { http: [\"*\"] }").unwrap_err();
    assert!(matches!(refused, CatalogError::Sidecar { ref detail, .. } if detail.contains("grants")), "{refused}");
}

#[test]
fn a_sidecar_of_hooks_sets_no_limit_of_what_only_handlers_do() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("telltale.wasm"), component("telltale")).unwrap();
    let engine = PluginEngine::new().unwrap();
    let catalog = Catalog::new(directory.path(), Limits::default(), BTreeMap::new());
    for (yaml, is_good) in [("limits: { publishBytes: 1 }", false), ("limits: { memory: 8MiB }", true)] {
        fs::write(directory.path().join("telltale.yaml"), yaml).unwrap();
        let wanted = Wanted { section: "hooks", kind: PluginKind::Hooks, ..wanted("telltale") };
        let loaded = catalog.load(&engine, wanted, HooksPlugin::load).map(drop);
        let listed = catalog.list().unwrap().pop().unwrap().component.map(drop);
        for result in [loaded, listed] {
            match result {
                Ok(()) => assert!(is_good, "{yaml}"),
                Err(CatalogError::Sidecar { detail, .. }) => {
                    assert!(!is_good && detail.contains("kind hooks"), "{detail}")
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_missing_plugin_is_refused_with_those_that_are_there() {
    let directory = directory();
    let engine = PluginEngine::new().unwrap();
    let catalog = Catalog::new(directory.path(), Limits::default(), BTreeMap::new());
    let refusal = |name: &str| catalog.load(&engine, wanted(name), HandlerPlugin::load).unwrap_err().to_string();
    assert!(refusal("goood").contains("Did you mean `good`?"), "{}", refusal("goood"));
    for name in ["", "..", "../good", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0"] {
        assert!(refusal(name).contains("is no plugin name"), "{name}: {}", refusal(name));
    }
    let nowhere = Catalog::new(directory.path().join("none"), Limits::default(), BTreeMap::new());
    assert!(matches!(nowhere.list(), Err(CatalogError::Directory { .. })));
    let refused = nowhere.load(&engine, wanted("good"), HandlerPlugin::load);
    assert!(matches!(refused, Err(CatalogError::Directory { .. })));
}

#[test]
fn an_invalid_file_is_listed_with_its_reason_and_disturbs_no_other() {
    let directory = directory();
    fs::write(directory.path().join("bad.wasm"), "half a file").unwrap();
    fs::write(directory.path().join("large.wasm"), vec![0; 1 << 20]).unwrap();
    fs::write(directory.path().join("notes.txt"), "").unwrap();
    let limits = Limits { component_bytes: 100_000, ..Limits::default() };
    let [bad, good, large] =
        Catalog::new(directory.path(), limits, BTreeMap::new()).list().unwrap().try_into().unwrap();
    assert!(matches!(bad.component, Err(CatalogError::Load(LoadError::NotWasm { .. }))));
    assert!(matches!(large.component, Err(CatalogError::Load(LoadError::TooLarge { size: 1_048_576, .. }))));
    let listed = good.component.unwrap();
    assert_eq!((good.name.as_str(), listed.kind), ("good", PluginKind::Handler));
    assert!(listed.imports.iter().any(|import| import.starts_with("parti:plugin/log@")), "{:?}", listed.imports);
}

/// Time that this thread has computed, which other load on the machine does not lengthen.
fn computed() -> Duration {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// What this process has resident, in KiB, and its memory maps.
fn resident() -> (u64, usize) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    (resident.trim().trim_end_matches(" kB").parse().unwrap(), maps)
}

#[tokio::test]
#[ignore = "prints figures: cargo test --release -p parti --lib costs_of -- --ignored --nocapture"]
async fn costs_of_a_small_handler() {
    let engine = PluginEngine::new().unwrap();
    let plugin = load_example(&engine, "noop", json!({}));
    println!("{} bytes compile in {:?}", plugin.version().size(), plugin.version().compile_time());

    let mut instance = open(&plugin).await.unwrap();
    for (count, bytes, rounds) in [(1_u64, 100, 200_000_u32), (64, 1024, 10_000)] {
        let payload = vec![b'x'; bytes];
        let batch: Vec<Message<'_>> =
            (1..=count).map(|sequence| Message { headers: Vec::new(), ..message(sequence, &payload) }).collect();
        for warm in [true, false] {
            let begun = computed();
            for _ in 0..rounds {
                instance.handle(&batch).await.unwrap();
            }
            let each = (computed() - begun) / rounds;
            if !warm {
                println!(
                    "handle {count} x {bytes} B: {each:?} per call, {:?} per message",
                    each / u32::try_from(count).unwrap()
                );
            }
        }
    }

    let (before, maps_before) = resident();
    let begun = computed();
    let mut instances = Vec::new();
    for _ in 0..1_000 {
        let mut instance = open(&plugin).await.unwrap();
        instance.handle(&messages(1)).await.unwrap();
        instances.push(instance);
    }
    let opened = computed() - begun;
    let (after, maps_after) = resident();
    println!(
        "1000 instances: {:?} and {} KiB and {:.1} maps each",
        opened / 1_000,
        (after - before) / 1_000,
        (maps_after - maps_before) as f64 / 1_000.0
    );
    let begun = computed();
    drop(instances);
    println!("dropping one: {:?}", (computed() - begun) / 1_000);
}

/// So many instances that what other tests map meanwhile does not count.
const MANY: usize = 2_000;

#[tokio::test]
async fn an_instance_takes_no_more_room_than_is_reckoned_with() {
    let engine = PluginEngine::new().unwrap();
    let plugin = load_example(&engine, "noop", json!({}));
    let before = Room::read().unwrap();
    let mut instances = Vec::new();
    for _ in 0..MANY {
        let mut instance = open(&plugin).await.unwrap();
        instance.handle(&messages(1)).await.unwrap();
        instances.push(instance);
    }
    let after = Room::read().unwrap();
    let fewer = before.instances() - after.instances();
    assert!(fewer <= MANY as u64 * 11 / 10, "{MANY} instances take the room of {fewer}: {before:?}, {after:?}");
}

#[tokio::test]
#[ignore = "prints figures, after make plugins-polyglot: cargo test --release -p parti --lib costs_of_every -- --ignored --nocapture"]
async fn costs_of_every_language() {
    let engine = PluginEngine::new().unwrap();
    let rust = components("PARTI_PLUGINS", "plugins").join("control-chart.wasm");
    let others = components("PARTI_POLYGLOT", "plugins-polyglot");
    let others = ["c", "javascript", "python"].map(|language| others.join(format!("control-chart-{language}.wasm")));
    for path in std::iter::once(rust).chain(others) {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let plugin = HandlerPlugin::load(&engine, "p", &bytes, settings(Limits::default(), Map::new())).unwrap();
        let file = path.file_stem().unwrap().to_string_lossy();
        println!("{file}: {} bytes, compiled in {:?}", bytes.len(), plugin.version().compile_time());

        let (before, begun) = (resident().0, Instant::now());
        const INSTANCES: u32 = 50;
        let mut instances = Vec::new();
        for _ in 0..INSTANCES {
            instances.push(open(&plugin).await.unwrap());
        }
        let opened = begun.elapsed() / INSTANCES;
        for instance in &mut instances {
            assert_eq!(instance.handle(&readings(1..=64)).await.unwrap().outcome.done.len(), 64);
        }
        let kept = (resident().0 - before) / u64::from(INSTANCES);
        let asked = plugin.version().stats().memory_bytes / u64::from(INSTANCES) / 1024;
        println!("  open {opened:?}; {kept} KiB resident an instance after its first batch, {asked} KiB asked for");

        let instance = instances.first_mut().unwrap();
        for count in [1, 64] {
            let batch = readings(1..=count);
            let mut times = Vec::new();
            for _ in 0..2_000 {
                let begun = Instant::now();
                instance.handle(&batch).await.unwrap();
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            println!("  handle {count}: p50 {:?}, p99 {:?} a call", times[1_000], times[1_980]);
        }
    }
}
