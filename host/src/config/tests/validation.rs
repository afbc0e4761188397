//! What is refused, what is warned about, and how it is said.

use super::{COMPLETE, load, problems, valid, warnings};
use crate::config::{Config, check};
use serde_json::json;

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (yaml, what, todo) in [
        ("heartbeatIntervall: 1s", "unknown key `heartbeatIntervall`", "did you mean `heartbeatInterval`?"),
        ("heartbeat_ttl: 6s", "unknown key `heartbeat_ttl`", "did you mean `heartbeatTtl`?"),
        (
            "minRebalanceInterval: 6s",
            "unknown key `minRebalanceInterval`",
            "did you mean `assignment.minRebalanceInterval`?",
        ),
        ("nats: {urll: x}", "unknown key `nats.urll`", "did you mean `nats.url`?"),
        ("bananas: 3", "unknown key `bananas`", "remove it; docs/configuration.md has every key"),
    ] {
        let loaded = Config::parse_str(yaml);
        assert_eq!(loaded.problems.len(), 1, "{yaml}");
        assert_eq!((loaded.problems[0].what.as_str(), loaded.problems[0].todo.as_str()), (what, todo));
    }
}

#[test]
fn everything_wrong_is_listed_at_once_with_its_place() {
    let first =
        "heartbeatTtl: 3s\nworkerIdMin: 5\nworkerIdMax: 2\nbananas: 1\nstream: {mode: logg}\nhttp: {listen: 8080}\n";
    let second = "heartbeatInterval: 2s\ncapacity: many\nsource: {static: {partitions: [{keys: [1]}, {keys: [a]}, {keys: [a]}]}}\n";
    let loaded = load(&[first, second], &[("PARTI_LOG_LEVEL", "loud")], &[("probeInterval", json!(5))]);
    let mut found: Vec<_> = loaded.problems.iter().map(|problem| problem.path.as_str()).collect();
    found.sort_unstable();
    let expected = [
        "bananas",
        "capacity",
        "heartbeatTtl",
        "http.listen",
        "log.level",
        "probeInterval",
        "source.static.partitions[0].keys[0]",
        "source.static.partitions[2]",
        "stream.mode",
        "stream.name",
        "workerIdMin",
    ];
    assert_eq!(found, expected);

    let origin =
        |path: &str| loaded.problems.iter().find(|problem| problem.path == path).unwrap().origin.clone().unwrap();
    assert!(origin("workerIdMin").ends_with("0.yaml:2"), "{}", origin("workerIdMin"));
    assert!(origin("capacity").ends_with("1.yaml:2"));
    assert_eq!(origin("log.level"), "environment variable PARTI_LOG_LEVEL");
    assert_eq!(origin("probeInterval"), "command line");
    assert_eq!(check::report(&loaded).errors(), 12, "{}", check::report(&loaded));
}

#[test]
fn a_missing_name_hides_nothing_else_of_its_section() {
    let yaml =
        "stream: {mode: queue, startFrom: new, create: {replicas: 9}}\nhandler: {backoff: {initial: 31s}, maxTraps: 0}";
    let mut found = problems(yaml);
    found.sort_unstable();
    let expected = [
        "handler.backoff.initial",
        "handler.maxTraps",
        "handler.plugin",
        "stream.create.replicas",
        "stream.name",
        "stream.startFrom",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_bare_number_for_a_duration_is_refused_with_a_hint() {
    let loaded = Config::parse_str("heartbeatTtl: 6\nheartbeatInterval: 5s");
    assert_eq!(loaded.problems.len(), 1, "no rule is applied to a value that nobody wrote");
    assert!(loaded.problems[0].todo.contains("\"6s\""), "{}", loaded.problems[0]);
}

#[test]
fn every_error_rule_refuses_what_it_names() {
    let stream = |rest: &str| format!("stream: {{name: s, {rest}}}");
    let handler = |rest: &str| format!("handler: {{plugin: p, {rest}}}");
    let partitions = |list: &str| format!("source: {{static: {{partitions: [{list}]}}}}");
    for (yaml, path) in [
        ("group: a.b".to_owned(), "group"),
        ("group: \"\"".to_owned(), "group"),
        ("workerIdPrefix: \"a b\"".to_owned(), "workerIdPrefix"),
        ("kvBucket: {controlBucket: a/b}".to_owned(), "kvBucket.controlBucket"),
        ("kvBucket: {controlBucket: parti-election}".to_owned(), "kvBucket.controlBucket"),
        ("kvBucket: {replicas: 0}".to_owned(), "kvBucket.replicas"),
        ("kvBucket: {replicas: 6}".to_owned(), "kvBucket.replicas"),
        ("kvBucket: {assignmentTtl: 1.5s}".to_owned(), "kvBucket.assignmentTtl"),
        ("workerIdMin: 100".to_owned(), "workerIdMin"),
        ("workerId: 100".to_owned(), "workerId"),
        ("capacity: 0".to_owned(), "capacity"),
        (handler("isolation: shared, instances: 0"), "handler.instances"),
        (handler("instances: 2"), "handler.instances"),
        ("heartbeatInterval: 0s".to_owned(), "heartbeatInterval"),
        ("probeInterval: 0s".to_owned(), "probeInterval"),
        ("operationTimeout: 0s".to_owned(), "operationTimeout"),
        ("startupTimeout: 0s".to_owned(), "startupTimeout"),
        ("shutdownTimeout: 0s".to_owned(), "shutdownTimeout"),
        ("heartbeatTtl: 3s".to_owned(), "heartbeatTtl"),
        ("heartbeatTtl: 6.5s".to_owned(), "heartbeatTtl"),
        ("electionTimeout: 500ms".to_owned(), "electionTimeout"),
        ("workerIdTtl: 29.5s".to_owned(), "workerIdTtl"),
        ("workerIdTtl: 5s".to_owned(), "workerIdTtl"),
        ("workerIdTtl: 8s\nheartbeatInterval: 3s".to_owned(), "workerIdTtl"),
        ("coldStartWindow: 9s".to_owned(), "coldStartWindow"),
        ("emergencyGracePeriod: 7s".to_owned(), "emergencyGracePeriod"),
        ("assignment: {minRebalanceThreshold: 1.5}".to_owned(), "assignment.minRebalanceThreshold"),
        ("assignment: {minRebalanceThreshold: -0.1}".to_owned(), "assignment.minRebalanceThreshold"),
        ("assignment: {minRebalanceInterval: 0s}".to_owned(), "assignment.minRebalanceInterval"),
        ("assignment: {maxPartitions: 0}".to_owned(), "assignment.maxPartitions"),
        ("assignment: {maxMovesPerPlan: 0}".to_owned(), "assignment.maxMovesPerPlan"),
        ("degradedBehavior: {enterThreshold: 0s, exitThreshold: 0s}".to_owned(), "degradedBehavior.enterThreshold"),
        ("degradedBehavior: {kvErrorThreshold: 0}".to_owned(), "degradedBehavior.kvErrorThreshold"),
        ("degradedAlert: {alertInterval: 0s}".to_owned(), "degradedAlert.alertInterval"),
        ("degradedAlert: {warnThreshold: 1m}".to_owned(), "degradedAlert.warnThreshold"),
        ("degradedAlert: {warnThreshold: 0s, errorThreshold: 30s}".to_owned(), "degradedAlert.errorThreshold"),
        ("strategy: {consistentHash: {virtualNodes: 0}}".to_owned(), "strategy.consistentHash.virtualNodes"),
        ("strategy: {consistentHash: {virtualNodes: 10001}}".to_owned(), "strategy.consistentHash.virtualNodes"),
        ("strategy: {consistentHash: {loadBound: 0.9}}".to_owned(), "strategy.consistentHash.loadBound"),
        ("strategy: {consistentHash: {loadBound: .nan}}".to_owned(), "strategy.consistentHash.loadBound"),
        (
            "strategy: {weightedConsistentHash: {virtualNodes: 0}}".to_owned(),
            "strategy.weightedConsistentHash.virtualNodes",
        ),
        (
            "strategy: {weightedConsistentHash: {defaultWeight: 0}}".to_owned(),
            "strategy.weightedConsistentHash.defaultWeight",
        ),
        (
            "strategy: {weightedConsistentHash: {defaultWeight: -1}}".to_owned(),
            "strategy.weightedConsistentHash.defaultWeight",
        ),
        (
            "strategy: {weightedConsistentHash: {overloadThreshold: 1}}".to_owned(),
            "strategy.weightedConsistentHash.overloadThreshold",
        ),
        (
            "strategy: {weightedConsistentHash: {extremeThreshold: 0.5}}".to_owned(),
            "strategy.weightedConsistentHash.extremeThreshold",
        ),
        (
            "strategy: {weightedConsistentHash: {loadBound: 1.05}}".to_owned(),
            "strategy.weightedConsistentHash.loadBound",
        ),
        ("strategy: {roundRobin: {virtualNodes: 150}}".to_owned(), "strategy.roundRobin.virtualNodes"),
        ("strategy: {roundRobin: {}, weightedConsistentHash: {}}".to_owned(), "strategy"),
        ("strategy: roundrobin".to_owned(), "strategy.roundrobin"),
        ("nats: {url: \"http://a\"}".to_owned(), "nats.url"),
        ("nats: {url: \"nats://a:99999\"}".to_owned(), "nats.url"),
        ("nats: {url: []}".to_owned(), "nats.url"),
        ("nats: {credentials: a.creds, token: t}".to_owned(), "nats.token"),
        ("nats: {url: \"nats://u:p@a\", token: t}".to_owned(), "nats.url"),
        ("nats: {user: u}".to_owned(), "nats.user"),
        ("nats: {password: p}".to_owned(), "nats.password"),
        ("nats: {tls: {cert: c.pem}}".to_owned(), "nats.tls.cert"),
        ("source: {sql: {}}".to_owned(), "source.sql"),
        ("stream: {name: a.b}".to_owned(), "stream.name"),
        (stream("mode: queue, startFrom: new"), "stream.startFrom"),
        (stream("startFrom: yesterday"), "stream.startFrom"),
        (stream("subjectTemplate: work.all"), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"{{.PartitionID}}.{{.PartitionID}}\""), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"work.{{.Worker}}\""), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"work..{{.PartitionID}}\""), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"*.{{.PartitionID}}\""), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"$JS.{{.PartitionID}}\""), "stream.subjectTemplate"),
        (stream("subjectTemplate: \"{{.PartitionID}}\", create: true"), "stream.subjectTemplate"),
        (stream("create: {replicas: 9}"), "stream.create.replicas"),
        (partitions("{keys: []}"), "source.static.partitions[0]"),
        (partitions("{keys: [a, \"\"]}"), "source.static.partitions[0]"),
        (partitions("{weight: 3}"), "source.static.partitions[0].keys"),
        (partitions("{keys: [a], weight: 0}"), "source.static.partitions[0]"),
        (partitions("{keys: [a], weight: 18446744073709551615}"), "source.static.partitions[0]"),
        (partitions("{keys: [a, b]}, {keys: [c]}, {keys: [a, b], weight: 5}"), "source.static.partitions[2]"),
        ("handler: {plugin: ../x}".to_owned(), "handler.plugin"),
        ("handler: {plugin: relay.wasm}".to_owned(), "handler.plugin"),
        (handler("batchSize: 0"), "handler.batchSize"),
        (handler("maxAttempts: 0"), "handler.maxAttempts"),
        (handler("maxTraps: 0"), "handler.maxTraps"),
        (handler("callTimeout: 0s"), "handler.callTimeout"),
        (handler("commitInterval: 0s"), "handler.commitInterval"),
        (handler("backoff: {initial: 0s}"), "handler.backoff.initial"),
        (handler("backoff: {initial: 31s}"), "handler.backoff.initial"),
        (handler("maxUncommitted: {messages: 0}"), "handler.maxUncommitted.messages"),
        (handler("limits: {memory: 0}"), "handler.limits.memory"),
        (handler("limits: {memory: lots}"), "handler.limits.memory"),
        (handler("deadLetter: {}"), "handler.deadLetter.subject"),
        (handler("deadLetter: {subject: \"dead.>\"}"), "handler.deadLetter.subject"),
        (handler("onExhausted: explode"), "handler.onExhausted"),
        ("handler: []".to_owned(), "handler"),
        ("handler: [{plugin: p}, {plugin: q, batchSize: 0}]".to_owned(), "handler[1].batchSize"),
        ("handler: [{plugin: p, match: {keys: [a]}}, {}]".to_owned(), "handler[1].plugin"),
        ("handler: [{plugin: p, match: {keys: [a]}}, {plugin: p}]".to_owned(), "handler[1].plugin"),
        (handler("match: {}"), "handler.match.keys"),
        (handler("match: {keys: []}"), "handler.match.keys"),
        (handler("match: {keys: [a, \"\"]}"), "handler.match.keys"),
        (partitions("{keys: [b]}") + "\nhandler: {plugin: p, match: {keys: [a]}}", "handler"),
        ("commit: {maxPerSecond: 0}".to_owned(), "commit.maxPerSecond"),
        ("plugins: {defaults: {memory: 0}}".to_owned(), "plugins.defaults.memory"),
        ("http: {listen: \"localhost:80\"}".to_owned(), "http.listen"),
    ] {
        assert_eq!(problems(&yaml), [path], "{yaml}");
    }
}

#[test]
fn limits_that_hold_for_batches_are_refused_where_nothing_is_handled() {
    for key in ["batchBytes", "publishMessages", "publishBytes", "publishMessageBytes"] {
        for (section, yaml) in [("hooks", "hooks: {plugin: p, "), ("source.plugin", "source: {plugin: {name: p, ")] {
            let braces = "}".repeat(yaml.matches('{').count());
            let path = format!("{section}.limits.{key}");
            let loaded = load(&[&format!("{yaml}limits: {{{key}: 7}}{braces}")], &[], &[]);
            let [problem] = &loaded.problems[..] else { panic!("{:?}", loaded.problems) };
            assert_eq!(
                (problem.path.as_str(), problem.what.as_str()),
                (path.as_str(), &*format!("`{path}` means nothing"))
            );
            assert!(problem.why.contains("only a handler") && problem.todo.contains("handler.limits"), "{problem}");
            let flag = [(path.as_str(), json!("7"))];
            assert_eq!(load(&[&format!("{yaml}{braces}")], &[], &flag).problems.len(), 1, "--set {path}");
        }
        valid(&format!("handler: {{plugin: p, limits: {{{key}: 7}}}}\nplugins: {{defaults: {{{key}: 7}}}}"));
    }
}

#[test]
fn everything_wrong_with_grants_is_listed_and_no_value_of_a_variable_is_shown() {
    let grants = r#"{p: {http: ["https://a/b", 7], env: {A: 5, "B=C": hush, D: {from: E}, F: [hush]}, htpp: 1}, q: 5}"#;
    let loaded = Config::parse_str(&format!("{COMPLETE}plugins: {{grants: {grants}}}"));
    let mut places: Vec<_> = loaded.problems.iter().map(|problem| problem.path.as_str()).collect();
    places.sort_unstable();
    let wrong = ["p.env.A", "p.env.B=C", "p.env.F", "p.htpp", "p.http[0]", "p.http[1]", "q"];
    assert_eq!(places, wrong.map(|place| format!("plugins.grants.{place}")));
    assert!(!format!("{:?}", loaded.problems).contains("hush"), "{:?}", loaded.problems);
}

#[test]
fn a_dead_letter_subject_of_a_partition_is_refused() {
    let yaml = "stream: {name: s}\nsource: {static: {partitions: [{keys: [dead]}]}}\nhandler: {plugin: p, deadLetter: {subject: work.dead}}";
    assert_eq!(problems(yaml), ["handler.deadLetter.subject"]);
    valid(&yaml.replace("[dead]", "[alive]"));
}

#[test]
fn every_warning_rule_warns_and_lets_the_worker_start() {
    for (yaml, path) in [
        ("assignment: {minRebalanceInterval: 11s}", "assignment.minRebalanceInterval"),
        ("assignment: {minRebalanceInterval: 4s}", "assignment.minRebalanceInterval"),
        ("degradedBehavior: {exitThreshold: 11s}", "degradedBehavior.exitThreshold"),
        ("degradedBehavior: {recoveryGracePeriod: 6s}", "degradedBehavior.recoveryGracePeriod"),
        ("workerIdTtl: 11s", "workerIdTtl"),
        ("strategy: {consistentHash: {virtualNodes: 99}}", "strategy.consistentHash.virtualNodes"),
        ("strategy: {consistentHash: {virtualNodes: 301}}", "strategy.consistentHash.virtualNodes"),
        ("strategy: {weightedConsistentHash: {virtualNodes: 301}}", "strategy.weightedConsistentHash.virtualNodes"),
        ("source: {static: {partitions: []}}", "source.static.partitions"),
        ("handler: {plugin: p, deadLetter: {subject: d}, onExhausted: drop}", "handler.onExhausted"),
    ] {
        assert_eq!(warnings(yaml), [path], "{yaml}");
    }
    assert!(warnings(COMPLETE).is_empty());
}

#[test]
fn limits_that_the_rules_name_are_themselves_allowed() {
    let yaml = "heartbeatTtl: 4s\nworkerIdTtl: 8s\nheartbeatInterval: 2s\nemergencyGracePeriod: 4s\ncoldStartWindow: 10s\n\
        workerIdMin: 99\nworkerId: 99\nassignment: {minRebalanceThreshold: 0, minRebalanceInterval: 5s, maxPartitions: 1}\n\
        degradedAlert: {infoThreshold: 0s, warnThreshold: 0s, errorThreshold: 1s, criticalThreshold: 0s}\n\
        kvBucket: {replicas: 5, assignmentTtl: 0s}\nstrategy: {consistentHash: {virtualNodes: 300, loadBound: 1}}\n";
    assert_eq!(warnings(yaml), [""; 0]);
}

#[test]
fn a_strategy_that_does_not_exist_is_met_with_the_nearest_that_does() {
    for (slip, meant) in
        [("roundrobin", "strategy.roundRobin"), ("weightedConsistentHas", "strategy.weightedConsistentHash")]
    {
        let problem = &Config::parse_str(&format!("strategy: {slip}")).problems[0];
        assert_eq!(problem.todo, format!("did you mean `{meant}`?"));
    }
}

#[test]
fn sources_of_other_versions_are_refused_by_name() {
    assert!(Config::parse_str("source: {file: {}}").problems[0].what.contains("not available in this version"));
}

#[test]
fn no_secret_is_ever_printed() {
    let yaml = "nats: {url: \"nats://ann:s3cret@a\", user: ann, password: s3cret, token: s3cret, nkey: s3cret}\n\
        handler: {plugin: p, config: {key: s3cret}}";
    let broken = "nats: {url: \"gopher://ann:s3cret@a\", password: [s3cret], token: {s3cret: 1}, nkey: [s3cret]}\nhandler: {config: s3cret}";
    for text in [yaml, broken, "nats: {password: \"s3cret"] {
        let loaded = Config::parse_str(text);
        let report = check::report(&loaded);
        let printed = format!(
            "{loaded:?} {report} {} {:?}",
            serde_json::to_string(&report).unwrap(),
            loaded.clone().into_runnable()
        );
        assert!(!printed.contains("s3cret"), "{printed}");
    }
    let config = valid("nats: {user: ann, password: s3cret}\nhandler: {plugin: p, config: {key: s3cret}}");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(config.nats.password.unwrap().reveal(), "s3cret");
}

#[test]
fn a_handler_that_no_partition_gets_to_is_warned_of_and_one_that_is_needed_is_not() {
    let entry = |plugin: &str, keys: &str| format!("{{plugin: {plugin}, match: {{keys: [{keys}]}}}}");
    let warned = |entries: &[String]| -> Vec<String> {
        let loaded = Config::parse_str(&format!("handler: [{}]", entries.join(", ")));
        assert_eq!(loaded.problems, []);
        loaded.warnings.into_iter().map(|warning| warning.what).collect()
    };
    let all = "{plugin: all}".to_owned();
    assert_eq!(warned(&[entry("p", "tool-*"), all.clone()]), Vec::<String>::new());
    let late = warned(&[entry("p", "\"*\""), entry("q", "tool-*"), all.clone()]);
    assert_eq!(
        late,
        [
            "`handler[1]` is never reached: handler[0] matches all of it",
            "`handler[2]` is never reached: handler[0] matches all of it"
        ]
    );
    assert_eq!(warned(&[all, entry("p", "a, b")]).len(), 1);
}

#[test]
fn what_another_layer_says_of_the_handler_holds_for_each_of_a_list() {
    let file = "handler: [{plugin: p, match: {keys: [a]}, batchSize: 7}, {plugin: q, limits: {memory: 1MiB}}]\nplugins: {defaults: {tableElements: 9}}";
    let loaded = load(&[file], &[("PARTI_HANDLER_CALL_TIMEOUT", "3s")], &[]);
    assert_eq!(loaded.problems, []);
    let config = loaded.config.unwrap();
    let found: Vec<_> = config
        .handlers()
        .map(|(key, h)| (key, h.batch_size, h.call_timeout.as_secs(), h.limits.table_elements))
        .collect();
    assert_eq!(found, [("handler[0]".to_owned(), 7, 3, 9), ("handler[1]".to_owned(), 64, 3, 9)]);
}
