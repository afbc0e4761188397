//! What holds whatever a file, a sidecar or a state says: nothing of it ends the host, and what is refused is refused with a reason.

use super::super::sidecar::Sidecar;
use super::*;
use parti_coordination::{CloseReason, Snapshot};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::{Index, select};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// One for all cases: they would spend their time on starting engines.
static ENGINE: LazyLock<PluginEngine> = LazyLock::new(|| PluginEngine::new().unwrap());
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
static CHART: LazyLock<Arc<HandlerPlugin>> = LazyLock::new(|| {
    let settings = settings(Limits::default(), Map::new());
    HandlerPlugin::load(&ENGINE, "control-chart", &example("control-chart"), settings).unwrap()
});

/// Something that happens to a file. Places are relative to its length.
#[derive(Debug, Clone)]
enum Damage {
    Bit(Index, u8),
    Byte(Index, u8),
    Cut(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        8 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Damage::Cut(at, length)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), 1_usize..40, any::<Index>()).prop_map(|(at, length, to)| Damage::Repeat(at, length, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let size = bytes.len();
        let place = |at: &Index| at.index(size.max(1)).min(size);
        let end = |at: usize, length: usize| (at + length).min(size);
        match damage {
            Damage::Bit(at, bit) => {
                if let Some(byte) = bytes.get_mut(place(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Byte(at, byte) => {
                let at = place(at);
                bytes.splice(at..end(at, 1), [*byte]);
            }
            Damage::Cut(at, length) => {
                let at = place(at);
                bytes.drain(at..end(at, *length));
            }
            Damage::Insert(at, inserted) => {
                let at = place(at);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Damage::Repeat(at, length, to) => {
                let (at, to) = (place(at), place(to));
                let part = bytes[at..end(at, *length)].to_vec();
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

/// A component that may be damaged is refused, or does what it does within its limits.
async fn refused_or_contained(bytes: &[u8]) -> Result<(), String> {
    let limits = Limits {
        call_timeout: Duration::from_millis(200),
        memory: 16 << 20,
        log_lines_per_second: 1,
        ..Limits::default()
    };
    let (inspected, described) = (inspect("p", bytes, &Grants::default()), describe("p", bytes, &Grants::default()));
    if described.problem.as_ref() != inspected.as_ref().err() {
        return Err(format!("{described:?} is not {inspected:?}"));
    }
    let loaded = HandlerPlugin::load(&ENGINE, "p", bytes, settings(limits, Map::new()));
    let plugin = match (loaded, inspected) {
        (Ok(plugin), Ok(_)) => plugin,
        (Err(error), _) if error.to_string().starts_with("plugin p") => return Ok(()),
        (loaded, inspected) => return Err(format!("{loaded:?} after {inspected:?}")),
    };
    if let Ok(mut instance) = open(&plugin).await {
        let handled = instance.handle(&messages(3)).await;
        if handled.is_ok_and(|handled| handled.outcome.done.len() > 3) {
            return Err("more verdicts than messages".to_owned());
        }
        let _ = instance.snapshot().await;
        let _ = instance.close(CloseReason::Revoked).await;
    }
    let PluginStats { instances, memory_bytes, .. } = plugin.version().stats();
    if (instances, memory_bytes) == (0, 0) { Ok(()) } else { Err(format!("{instances} instances are left")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_damaged_component_is_refused_or_contained(damages in vec(damage(), 1..3)) {
        let bytes = damaged(handler(&[]), &damages);
        prop_assert_eq!(RUNTIME.block_on(refused_or_contained(&bytes)), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_component_are_refused(bytes in vec(any::<u8>(), 0..200), headed in any::<bool>()) {
        let head: &[u8] = if headed { b"\0asm\x0d\0\x01\0" } else { b"" };
        let bytes = [head, &bytes].concat();
        prop_assert!(inspect("p", &bytes, &Grants::default()).is_err());
    }
}

proptest! {
    // Compiling takes a tenth of a second, where the damage is not found before.
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_damaged_component_of_a_real_compiler_is_refused_or_contained(damages in vec(damage(), 1..3)) {
        let bytes = damaged(example("noop"), &damages);
        prop_assert_eq!(RUNTIME.block_on(refused_or_contained(&bytes)), Ok(()));
    }
}

/// Code of a guest that hands over whatever comes: answers with pointers and lengths to anywhere, and as many of the host's functions with
/// the like.
fn nonsense() -> impl Strategy<Value = String> {
    let number = || prop_oneof![0_u32..8, 0_u32..70_000, any::<u32>()];
    let step = prop_oneof![
        // Where the answers of every call are.
        6 => (256_u32..352, number()).prop_map(|(at, value)| format!("(i32.store (i32.const {at}) (i32.const {value}))")),
        2 => (0_u32..8, number(), number()).prop_map(|(level, at, length)| {
            format!("(call $write (i32.const {level}) (i32.const {at}) (i32.const {length}))")
        }),
        2 => (0_u64..4, vec(number(), 7)).prop_map(|(cause, arguments)| {
            let arguments: String = arguments.iter().map(|value| format!(" (i32.const {value})")).collect();
            format!("(call $send (i64.const {cause}){arguments})")
        }),
        1 => number().prop_map(|handle| format!("(call $block (i32.const {handle}))")),
        1 => number().prop_map(|pages| format!("(drop (memory.grow (i32.const {pages})))")),
    ];
    vec(step, 0..5).prop_map(|steps| steps.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_a_guest_hands_over_is_taken_or_refused(
        opening in nonsense(), handling in nonsense(), snapping in nonsense(), often in any::<bool>(),
    ) {
        // Most nonsense at the opening ends everything.
        let opening = if often { opening } else { String::new() };
        let bytes = handler(&[("open", &opening), ("handle", &handling), ("snapshot", &snapping)]);
        prop_assert_eq!(RUNTIME.block_on(refused_or_contained(&bytes)), Ok(()));
    }
}

/// Text that is nearly a sidecar.
fn nearly_a_sidecar() -> impl Strategy<Value = String> {
    let key =
        select(vec!["config", "limits", "sha256", "enabled", "memory", "callTimeout", "grants", "? ", "- ", "<<", ""]);
    let value = prop_oneof![
        select(vec![
            "",
            "{}",
            "[]",
            "null",
            "true",
            "~",
            "1",
            "-1",
            "1e999",
            "64MiB",
            "9999999999999999999999999",
            "5s",
            "-5s",
            "&a [*a]",
            "*a",
            "!!binary x",
            "{memory: 65MiB}",
            "{callTimeout: 1ms}",
            "{a: {b: c}}",
            "|",
            "\"",
            "'",
            "{",
            "\u{feff}",
        ])
        .prop_map(str::to_owned),
        ".{0,20}",
    ];
    let line =
        (0_usize..3, key, value).prop_map(|(depth, key, value)| format!("{}{key}: {value}\n", "  ".repeat(depth)));
    prop_oneof![4 => vec(line, 0..6).prop_map(|lines| lines.concat()), 1 => ".{0,200}"]
}

/// What is set for a plugin that lies somewhere.
fn wanted() -> Wanted<'static> {
    Wanted { name: "p", section: "handler", kind: PluginKind::Handler, config: Map::new(), limits: Limits::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_sidecar_is_read_or_refused_by_its_name(text in nearly_a_sidecar()) {
        let catalog = Catalog::new("/nowhere", Limits::default(), BTreeMap::new());
        let component = Component { bytes: b"p".to_vec(), sidecar: Some(text) };
        if let Err(refused) = catalog.prepare(wanted(), component) {
            let refused = refused.to_string();
            prop_assert!(refused.contains("/nowhere/p.yaml") || refused.contains("plugin p has the digest"), "{}", refused);
        }
    }

    #[test]
    fn a_sidecar_lowers_any_limit_and_raises_none(
        memory in 0_u64..(128 << 20), milliseconds in 1_u64..10_000, lines in 0_u64..200, requests in 0_u64..128,
    ) {
        let text = format!(
            "limits: {{memory: {memory}, callTimeout: {milliseconds}ms, logLinesPerSecond: {lines}, httpRequests: {requests}}}"
        );
        let (ceiling, sidecar) = (Limits::default(), serde_saphyr::from_str::<Sidecar>(&text).unwrap());
        let wanted = Limits {
            memory,
            call_timeout: Duration::from_millis(milliseconds),
            log_lines_per_second: lines,
            http_requests: requests,
            ..Limits::default()
        };
        let is_lower = memory <= ceiling.memory
            && wanted.call_timeout <= ceiling.call_timeout
            && lines <= ceiling.log_lines_per_second
            && requests <= ceiling.http_requests;
        prop_assert_eq!(sidecar.limits.within(&ceiling).ok(), is_lower.then_some(wanted));
    }
}

/// What may stand where a state has a number.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<u32>().prop_map(|number| number.to_string()),
        4 => any::<f64>().prop_map(|number| json!(number).to_string()),
        1 => select(vec!["1e999", "-0", "-1", "9999999999999999999999999", "null", "\"1\"", "[]"]).prop_map(str::to_owned),
    ]
}

/// A state that is one, or nearly.
fn nearly_a_state() -> impl Strategy<Value = Vec<u8>> {
    let whole = any::<u32>().prop_map(|number| number.to_string());
    let count = prop_oneof![3 => whole, 1 => number()];
    let state = (count.clone(), number(), number(), number(), count).prop_map(|(count, mean, m2, ewma, last)| {
        format!(r#"{{"count":{count},"mean":{mean},"m2":{m2},"ewma":{ewma},"last_sequence":{last}}}"#).into_bytes()
    });
    prop_oneof![2 => state, 1 => vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_handler_opens_what_somebody_calls_its_state_or_refuses_it(
        format in prop_oneof![3 => Just("control-chart/1".to_owned()), 1 => ".{0,20}"], data in nearly_a_state(),
    ) {
        let opened = |snapshot: Snapshot| RUNTIME.block_on(async move {
            let ownership = Ownership::default();
            let opened = CHART.open(&partition("a"), OpenReason::Recovered, Some(&snapshot), &ownership).await;
            match opened {
                Ok(mut instance) => Ok(Some(instance.snapshot().await.map_err(|error| error.to_string())?)),
                Err(CallError::Refused { .. }) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        });
        // One that opens gives a state that opens again, and is the same then.
        if let Some(state) = opened(Snapshot { format, data }).map_err(proptest::test_runner::TestCaseError::fail)? {
            let state = state.expect("a handler with state");
            prop_assert_eq!(opened(state.clone()), Ok(Some(Some(state))));
        }
    }
}
