//! Where values come from: files, environment, flags, presets, defaults.

use super::{COMPLETE, load, valid};
use crate::config::environment::settable;
use crate::config::{
    BuiltIn, Config, ConsistentHash, DegradedAlert, DegradedBehavior, Preset, StartFrom, Storage, StreamMode,
    WeightedConsistentHash, check,
};
use crate::error::ErrorCode;
use parti_coordination::PartitionId;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

#[test]
fn the_complete_small_file_of_the_design_loads() {
    let config = valid(
        r#"
group: demo                      # default "default"
nats: { url: "nats://127.0.0.1:4222" }
stream: { name: work, subjectTemplate: "work.{{.PartitionID}}" }
source:
  static:
    partitions:
      - { keys: ["tool-07", "chamber-2"], weight: 100 }   # subject work.tool-07.chamber-2
strategy: { consistentHash: { virtualNodes: 150 } }
handler: { plugin: relay, config: { prefix: out } }
plugins: { directory: ./plugins }
http: { listen: "127.0.0.1:8080" }
"#,
    );
    let id = PartitionId::from_keys(&["tool-07", "chamber-2"]).unwrap();
    assert_eq!(config.subject(&id).unwrap(), "work.tool-07.chamber-2");
    assert_eq!(config.handlers().next().unwrap().1.config.as_map().get("prefix"), Some(&json!("out")));
    assert_eq!(config.source.unwrap().fixed()[0].id(), &id);
}

#[test]
fn an_empty_file_is_all_defaults_and_names_what_is_missing() {
    let loaded = Config::parse_str("");
    assert_eq!(loaded.config, Some(Config::default()));
    assert_eq!(loaded.warnings, []);
    let missing: Vec<_> = loaded.missing.iter().map(|missing| (missing.section, missing.required)).collect();
    assert_eq!(missing, [("source", true), ("stream", false), ("handler", false)]);
    assert_eq!(check::report(&loaded).exit_status().number(), 2);
    let error = loaded.into_runnable().unwrap_err();
    assert_eq!(error.code, ErrorCode::PartitionSourceRequired);
}

#[test]
fn a_source_alone_is_an_assignment_only_worker() {
    let loaded = Config::parse_str("source: {static: {partitions: [{keys: [a]}]}}");
    assert_eq!(check::report(&loaded).exit_status().number(), 0);
    assert!(loaded.into_runnable().unwrap().is_assignment_only());
}

#[test]
fn a_stream_without_a_handler_cannot_run() {
    let loaded = Config::parse_str("source: {static: {partitions: [{keys: [a]}]}}\nstream: {name: work}");
    let report = check::report(&loaded);
    assert!(!report.ok);
    assert!(report.to_string().contains("no `handler` section"), "{report}");
    assert_eq!(loaded.into_runnable().unwrap_err().code, ErrorCode::InvalidConfig);
}

#[test]
fn flag_beats_environment_beats_later_file_beats_earlier_file_beats_default() {
    let files =
        ["workerIdMax: 1\ngroup: a\ncapacity: 3\nworkerIdPrefix: p\n", "workerIdMax: 2\ngroup: b\ncapacity: 4\n"];
    let env = [("WORKER_ID_MAX", "3"), ("PARTI_WORKER_ID_MAX", "4"), ("PARTI_GROUP", "c")];
    let config = load(&files, &env, &[("workerIdMax", json!(5))]).config.unwrap();
    assert_eq!(config.worker_id_max, 5, "the flag");
    assert_eq!(config.group, "c", "the environment");
    assert_eq!(config.capacity, 4, "the later file");
    assert_eq!(config.worker_id_prefix, "p", "the earlier file");
    assert_eq!(config.worker_id_min, 0, "the default");
    assert_eq!(load(&files, &env, &[]).config.unwrap().worker_id_max, 4, "PARTI_… beats the guides' names");
    assert_eq!(load(&files, &env[..1], &[]).config.unwrap().worker_id_max, 3, "the guides' name beats the files");
}

#[test]
fn a_flag_given_as_text_reads_like_a_variable_and_reaches_into_maps() {
    let text = |value: &str| json!(value);
    let flags = [
        ("workerIdMax", text("7")),
        ("stream", text("{name: 5s}")),
        ("handler.plugin", text("123")),
        ("handler.config.retries", text("3")),
        ("handler.config.prefix", text("out")),
        ("degradedAlert", text("conservative")),
    ];
    let config = load(&["handler: {config: {prefix: in, keep: 1}}"], &[], &flags).config.unwrap();
    assert_eq!(config.worker_id_max, 7);
    assert_eq!(config.stream.as_ref().unwrap().name, "5s");
    let (_, handler) = config.handlers().next().unwrap();
    assert_eq!(handler.plugin, "123");
    assert_eq!(json!(handler.config.as_map()), json!({"prefix": "out", "keep": 1, "retries": 3}));
    assert_eq!(config.degraded_alert.preset, Preset::Conservative);
    assert_eq!(load(&[], &[], &[("bananas", text("3"))]).problems[0].path, "bananas");
}

#[test]
fn maps_merge_deep_and_lists_are_replaced() {
    let config = load(
        &[
            "labels: {zone: a, rack: r1}\nsource: {static: {partitions: [{keys: [a]}, {keys: [b]}]}}\n\
             stream: {name: s}\nhandler: {plugin: p, config: {x: {y: 1, z: 2}, list: [1, 2]}}",
            "labels: {zone: b}\nsource: {static: {partitions: [{keys: [c]}]}}\nhandler: {config: {x: {y: 3}, list: [4]}}",
        ],
        &[],
        &[],
    )
    .config
    .unwrap();
    assert_eq!(config.labels, BTreeMap::from([("zone".into(), "b".into()), ("rack".into(), "r1".into())]));
    assert_eq!(config.source.as_ref().unwrap().fixed().len(), 1);
    let (_, handler) = config.handlers().next().unwrap();
    assert_eq!(handler.plugin, "p");
    assert_eq!(json!(handler.config.as_map()), json!({"x": {"y": 3, "z": 2}, "list": [4]}));
}

#[test]
fn a_key_with_nothing_behind_it_means_the_default() {
    let loaded = load(&["workerIdMax: 7\nkvBucket:\nlabels: {a: b}", "workerIdMax:\nlabels:\n"], &[], &[]);
    assert_eq!(loaded.config, Some(Config::default()));
}

#[test]
fn a_strategy_plugin_is_named_beside_the_strategy_that_stands_in_for_it() {
    let files = ["strategy: {consistentHash: {virtualNodes: 200}}", "strategy: {plugin: zone-aware}"];
    let strategy = load(&files, &[], &[]).config.unwrap().strategy;
    let nodes = strategy.consistent_hash.unwrap().virtual_nodes;
    assert_eq!((nodes, strategy.plugin.unwrap().name.as_str()), (200, "zone-aware"));
    let back = load(&files, &[("PARTI_STRATEGY", "consistentHash")], &[]).config.unwrap().strategy;
    assert!(back.plugin.is_none(), "a name alone replaces what other layers said");
}

#[test]
fn the_built_in_strategy_is_the_one_that_is_named() {
    let built_in = |yaml: &str, env: &[(&str, &str)]| load(&[yaml], env, &[]).config.unwrap().strategy.built_in();
    assert_eq!(built_in("", &[]), BuiltIn::ConsistentHash(ConsistentHash::default()));
    assert_eq!(built_in("strategy: roundRobin", &[]), BuiltIn::RoundRobin);
    assert_eq!(built_in("strategy: {roundRobin: {}}", &[]), BuiltIn::RoundRobin);
    let weighted = WeightedConsistentHash::default();
    assert_eq!(built_in("strategy: weightedConsistentHash", &[]), BuiltIn::WeightedConsistentHash(weighted.clone()));
    let env = [("PARTI_STRATEGY_WEIGHTED_CONSISTENT_HASH_OVERLOAD_THRESHOLD", "1.5")];
    let set = WeightedConsistentHash { overload_threshold: 1.5, ..weighted };
    assert_eq!(built_in("strategy: weightedConsistentHash", &env), BuiltIn::WeightedConsistentHash(set));
    // A name alone replaces what a file said.
    let env = [("PARTI_STRATEGY", "roundRobin")];
    assert_eq!(built_in("strategy: {weightedConsistentHash: {hashSeed: 1}}", &env), BuiltIn::RoundRobin);
}

#[test]
fn every_key_can_be_set_by_its_own_variable() {
    let keys = settable();
    let names: HashSet<_> = keys.iter().map(|key| &key.variable).collect();
    assert_eq!(names.len(), keys.len(), "no two keys share a variable");

    let env = [
        ("PARTI_DEGRADED_BEHAVIOR_ENTER_THRESHOLD", "12s"),
        ("PARTI_DEGRADED_ALERT", "aggressive"),
        ("PARTI_LABELS", "{zone: eu}"),
        ("PARTI_SOURCE_STATIC_PARTITIONS", r#"[{"keys": ["a", "1"]}]"#),
        ("PARTI_SOURCE_REFRESH_INTERVAL", "5m"),
        ("PARTI_STREAM_NAME", "123"),
        ("PARTI_STREAM_CREATE", "{storage: memory}"),
        ("PARTI_STREAM_START_FROM", "{consumer: old}"),
        ("PARTI_STREAM_MODE", "log"),
        ("PARTI_STRATEGY", "consistentHash"),
        ("PARTI_STRATEGY_CONSISTENT_HASH_VIRTUAL_NODES", "200"),
        ("PARTI_HANDLER_PLUGIN", "relay"),
        ("PARTI_HANDLER_CONFIG", r#"{"prefix": "out"}"#),
        ("PARTI_HANDLER_DEAD_LETTER_SUBJECT", "dead"),
        ("PARTI_HANDLER_LIMITS_MEMORY", "32MiB"),
        ("PARTI_HTTP_READY_WHEN_EMPTY", "true"),
        ("PARTI_KV_BUCKET_STABLE_ID_BUCKET", "ids"),
        ("NATS_URL", "nats://a:4222,nats://b:4222"),
        ("WORKER_ID", "7"),
        ("PARTI_NATS_NAME", ""),
    ];
    let config = load(&[], &env, &[]).into_runnable().unwrap();
    assert_eq!(config.degraded_behavior.enter_threshold, Duration::from_secs(12));
    assert_eq!(config.degraded_alert, DegradedAlert::preset(Preset::Aggressive));
    assert_eq!(config.labels["zone"], "eu");
    let source = config.source.as_ref().unwrap();
    assert_eq!(source.fixed()[0].id().as_str(), "a.1");
    assert_eq!(source.refresh_interval, Some(Duration::from_secs(300)));
    let stream = config.stream.as_ref().unwrap();
    assert_eq!(stream.name, "123", "text keys take the variable as it is");
    assert_eq!(stream.create.as_ref().unwrap().storage, Storage::Memory);
    assert_eq!(stream.start_from, StartFrom::Consumer("old".into()));
    assert_eq!(stream.mode, StreamMode::Log);
    let BuiltIn::ConsistentHash(ring) = config.strategy.built_in() else { panic!("{:?}", config.strategy) };
    assert_eq!(ring.virtual_nodes, 200);
    let (_, handler) = config.handlers().next().unwrap();
    assert_eq!(handler.config.as_map()["prefix"], json!("out"));
    assert_eq!(handler.dead_letter.as_ref().unwrap().subject, "dead");
    assert_eq!(handler.limits.memory.0, 32 << 20);
    assert!(config.http.ready_when_empty);
    assert_eq!(config.buckets().stable_ids, "ids");
    assert_eq!(config.nats.url.reveal(), ["nats://a:4222", "nats://b:4222"]);
    assert_eq!(config.worker_id, Some(7));
    assert_eq!(config.nats.name, None, "a variable that is set to nothing is not set");
}

#[test]
fn variables_of_tools_and_of_kubernetes_disturb_nothing_and_a_slip_is_pointed_out() {
    let strangers = [
        ("PARTI_BIN", "/usr/bin/parti"),
        ("PARTI_PLUGINS", "/x"),
        ("PARTI_TEST_COMPONENTS", "/y"),
        ("PARTI_WASM_TOOLCHAIN", "z"),
        ("PARTI_SERVICE_HOST", "10.0.0.1"),
        ("PARTI_PORT", "tcp://10.0.0.1:80"),
        ("PARTI_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PARTI_NATS_SERVICE_PORT", "4222"),
        ("HOME", "/"),
    ];
    let loaded = load(&[COMPLETE], &strangers, &[]);
    assert_eq!(loaded.warnings, []);
    assert!(loaded.into_runnable().is_ok());

    let loaded = load(&[COMPLETE], &[("PARTI_HEARTBEAT_INTERVALL", "1s")], &[]);
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].todo, "did you mean PARTI_HEARTBEAT_INTERVAL?");
    assert!(loaded.into_runnable().is_ok());
}

#[test]
fn a_preset_is_a_name_fields_or_both() {
    let conservative = DegradedBehavior::preset(Preset::Conservative);
    assert_eq!(valid("degradedBehavior: conservative").degraded_behavior, conservative);

    let mixed = DegradedBehavior { enter_threshold: Duration::from_secs(20), ..conservative };
    for yaml in [
        "degradedBehavior: {preset: conservative, enterThreshold: 20s}",
        "degradedBehavior: {preset: conservative, overrides: {enterThreshold: 20s}}",
    ] {
        assert_eq!(valid(yaml).degraded_behavior, mixed, "{yaml}");
    }
    let fields = valid("degradedAlert: {infoThreshold: 30s}").degraded_alert;
    assert_eq!(fields, DegradedAlert { info_threshold: Duration::from_secs(30), ..DegradedAlert::default() });

    // A file names the preset, the environment one field.
    let env = [("PARTI_DEGRADED_BEHAVIOR_ENTER_THRESHOLD", "20s")];
    assert_eq!(load(&["degradedBehavior: conservative"], &env, &[]).config.unwrap().degraded_behavior, mixed);
    // A later layer that names only a preset replaces all of it.
    let layers = ["degradedBehavior: {enterThreshold: 20s}", "degradedBehavior: conservative"];
    assert_eq!(load(&layers, &[], &[]).config.unwrap().degraded_behavior.enter_threshold, Duration::from_secs(30));
}

#[test]
fn presets_have_the_values_of_the_guide() {
    let seconds = |b: DegradedBehavior| {
        [b.enter_threshold, b.exit_threshold, b.kv_error_window, b.recovery_grace_period].map(|d| d.as_secs())
    };
    assert_eq!(seconds(DegradedBehavior::preset(Preset::Conservative)), [30, 10, 30, 60]);
    assert_eq!(seconds(DegradedBehavior::preset(Preset::Balanced)), [10, 5, 30, 30]);
    assert_eq!(seconds(DegradedBehavior::preset(Preset::Aggressive)), [5, 3, 15, 10]);
    let seconds = |a: DegradedAlert| {
        [a.info_threshold, a.warn_threshold, a.error_threshold, a.critical_threshold, a.alert_interval]
            .map(|d| d.as_secs())
    };
    assert_eq!(seconds(DegradedAlert::preset(Preset::Conservative)), [120, 600, 1800, 3600, 300]);
    assert_eq!(seconds(DegradedAlert::preset(Preset::Balanced)), [60, 300, 900, 1800, 30]);
    assert_eq!(seconds(DegradedAlert::preset(Preset::Aggressive)), [15, 60, 300, 600, 15]);
}

#[test]
fn bucket_names_follow_the_group_unless_they_are_set() {
    let buckets = Config::default().buckets();
    assert_eq!(
        buckets.all().map(|(_, name)| name),
        [
            "parti-stable-ids",
            "parti-election",
            "parti-heartbeats",
            "parti-assignments",
            "parti-ownership",
            "parti-snapshots",
            "parti-plugins",
            "parti-control"
        ]
    );
    let buckets = valid("group: etl\nkvBucket: {electionBucket: lead}").buckets();
    assert_eq!(buckets.stable_ids, "parti-etl-stable-ids");
    assert_eq!(buckets.election, "lead");
}

#[test]
fn a_stream_is_created_on_request_only() {
    for (create, created) in [("true", true), ("false", false), ("{replicas: 3}", true), ("", false)] {
        let config = valid(&format!("stream: {{name: s, create: {create}}}"));
        assert_eq!(config.stream.unwrap().create.is_some(), created, "create: {create}");
    }
}

#[test]
fn a_handler_inherits_the_limits_that_it_does_not_name() {
    let config = valid(
        "plugins: {defaults: {memory: 16MiB, logLineBytes: 1KiB}}\nhandler: {plugin: p, limits: {memory: 32MiB}}",
    );
    let limits = config.handlers().next().unwrap().1.limits.clone();
    assert_eq!((limits.memory.0, limits.log_line_bytes.0), (32 << 20, 1024));
}

#[test]
fn durations_and_sizes_are_read_in_all_their_forms() {
    for (text, milliseconds) in
        [("10s", 10_000), ("1.5s", 1500), ("1m30s", 90_000), ("0s", 0), ("250ms", 250), ("1h", 3_600_000), ("500us", 0)]
    {
        let config = valid(&format!("quietPeriod: {text}"));
        assert_eq!(config.quiet_period.unwrap().as_millis(), milliseconds, "{text}");
    }
    for (text, bytes) in
        [("64MiB", 64 << 20), ("32KiB", 32 << 10), ("1GB", 1_000_000_000), ("4096", 4096), ("\"7 B\"", 7)]
    {
        let config = valid(&format!("plugins: {{defaults: {{memory: {text}}}}}"));
        assert_eq!(config.plugins.defaults.memory.0, bytes, "{text}");
    }
}

#[test]
fn a_template_gives_subjects_and_takes_them_apart_again() {
    let config = valid("stream: {name: s, subjectTemplate: \"in.{{ .PartitionID }}.raw\"}");
    let id = PartitionId::from_keys(&["a.b", "c"]).unwrap();
    let template = &config.stream.as_ref().unwrap().subject_template;
    let subject = config.subject(&id).unwrap();
    assert_eq!(subject, "in.a%2Eb.c.raw");
    assert_eq!(template.partition_id(&subject), Some(id.as_str()));
    assert_eq!(template.partition_id("in.raw"), None);
    assert_eq!(template.wildcard(), "in.>");
}
