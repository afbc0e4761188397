//! The rules of the connection, the stream, the source and the handler.

use super::super::handlers::Handlers;
use super::super::schema::{Config, Handler, Isolation, OnExhausted, Source, StreamMode};
use super::super::types::{StartFrom, bad_subject};
use super::super::value::show_duration;
use super::{Breach, Rule, Severity, breach, when};
use std::collections::HashSet;

fn plugin_name_is_bad(name: &str) -> bool {
    name.is_empty()
        || name.starts_with('.')
        || name.ends_with(".wasm")
        || name.contains(|c: char| matches!(c, '/' | '\\') || c.is_whitespace() || c.is_control())
}

/// The names of plugins, with their keys.
fn plugin_names(c: &Config) -> Vec<(String, &str)> {
    let handlers = c.handlers().map(|(key, handler)| (format!("{key}.plugin"), handler.plugin.as_str()));
    let hooks = c.hooks.iter().map(|hooks| ("hooks.plugin".to_owned(), hooks.plugin.as_str()));
    let strategy = c.strategy.plugin.iter().map(|plugin| ("strategy.plugin.name".to_owned(), plugin.name.as_str()));
    let source = c.source.iter().filter_map(|source| source.plugin.as_ref());
    let source = source.map(|source| ("source.plugin.name".to_owned(), source.name.as_str()));
    handlers.chain(strategy).chain(source).chain(hooks).collect()
}

/// The ways to log in that are configured.
fn logins(c: &Config) -> Vec<&'static str> {
    let n = &c.nats;
    [
        ("nats.credentials", n.credentials.is_some()),
        ("nats.nkey", n.nkey.is_some()),
        ("nats.user", n.user.is_some()),
        ("nats.token", n.token.is_some()),
        ("nats.url", n.url.has_login()),
    ]
    .into_iter()
    .filter_map(|(path, set)| set.then_some(path))
    .collect()
}

/// What is wrong with the subject of dead letters, if anything is.
fn dead_letter_comes_back(c: &Config, handler: &str, subject: &str) -> Option<Breach> {
    let path = format!("{handler}.deadLetter.subject");
    if let Some(why) = bad_subject(subject) {
        return Some(breach(&path, format!("{subject:?}: {why}"), "write a subject such as \"dead.work\""));
    }
    let own = c.stream.as_ref()?.subject_template.partition_id(subject)?;
    let comes_back = c.source.iter().flat_map(Source::fixed).any(|partition| partition.id().as_str() == own);
    let (value, todo) =
        (format!("{subject:?}, the subject of a partition"), "choose a subject outside stream.subjectTemplate");
    comes_back.then(|| breach(&path, value, todo))
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        severity: Severity::Error,
        needs: &["nats"],
        says: "there is at most one way to log in to NATS: credentials, nkey, user with password, token, or a login in the URL",
        broken: |c| {
            let ways = logins(c);
            let all = ways.join(", ");
            ways.into_iter()
                .skip(1)
                .map(|path| breach(path, format!("set beside others ({all})"), "keep one of them"))
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["nats"],
        says: "nats.user and nats.password, and nats.tls.cert and nats.tls.key, come in pairs",
        broken: |c| {
            let tls = c.nats.tls.clone().unwrap_or_default();
            let pairs = [
                ("nats.user", c.nats.user.is_some(), "nats.password", c.nats.password.is_some()),
                ("nats.tls.cert", tls.cert.is_some(), "nats.tls.key", tls.key.is_some()),
            ];
            let halves = pairs.into_iter().filter_map(|(a, has_a, b, has_b)| match (has_a, has_b) {
                (true, false) => Some(breach(a, format!("set without {b}"), format!("set {b} too, or remove {a}"))),
                (false, true) => Some(breach(b, format!("set without {a}"), format!("set {a} too, or remove {b}"))),
                _ => None,
            });
            halves.collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["stream.name"],
        says: "stream.name has 1 to 255 printable characters without spaces, dots, *, > and slashes: NATS takes no others",
        broken: |c| match &c.stream {
            Some(stream) => {
                let name = &stream.name;
                let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
                when(
                    name.is_empty() || name.len() > 255 || name.contains(bad),
                    "stream.name",
                    format!("{name:?}"),
                    "name the stream as `nats stream ls` shows it",
                )
            }
            None => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["stream.consumerPrefix"],
        says: "stream.consumerPrefix has 1 to 128 letters, digits, - and _: it begins the names of consumers",
        broken: |c| match c.stream.as_ref().and_then(|stream| stream.consumer_prefix.as_ref()) {
            Some(prefix) => {
                let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                when(
                    prefix.is_empty() || prefix.len() > 128 || !prefix.chars().all(good),
                    "stream.consumerPrefix",
                    format!("{prefix:?}"),
                    "write a word such as orders-workers",
                )
            }
            None => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["stream.startFrom", "stream.mode"],
        says: "stream.startFrom cannot be chosen in queue mode: the server decides what is left in a WorkQueue stream",
        broken: |c| match &c.stream {
            Some(stream) if stream.mode == StreamMode::Queue && stream.start_from != StartFrom::All => {
                let todo = "remove stream.startFrom, or use a Limits stream in log mode";
                vec![breach("stream.startFrom", "set while stream.mode is queue", todo)]
            }
            _ => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "a stream that the worker creates needs a subject of its own: stream.subjectTemplate begins with a fixed part",
        broken: |c| match &c.stream {
            Some(stream) if stream.create.is_some() && stream.subject_template.wildcard() == ">" => {
                let todo = "begin the template with a word and a dot, such as \"work.{{.PartitionID}}\"";
                vec![breach("stream.subjectTemplate", &stream.subject_template, todo)]
            }
            _ => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["handler.plugin", "strategy.plugin.name", "source.plugin.name", "hooks.plugin"],
        says: "a plugin's name is that of its file: no path, no spaces, no .wasm",
        broken: |c| {
            let bad = plugin_names(c).into_iter().filter(|(_, name)| plugin_name_is_bad(name));
            bad.map(|(path, name)| {
                let todo = "write relay for plugins/relay.wasm; plugins.directory names the directory";
                breach(&path, format!("{name:?}"), todo)
            })
            .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["handler"],
        says: "no two entries of handler name the same plugin: versions, pushes and trials are told apart by the plugin's name",
        broken: |c| {
            let mut seen = HashSet::new();
            let again = c.handlers().filter(|(_, handler)| !seen.insert(&handler.plugin));
            let todo = "copy the component to a file with another name, and name that";
            again
                .map(|(key, handler)| breach(&format!("{key}.plugin"), format!("{:?} once more", handler.plugin), todo))
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["handler", "source"],
        says: "every partition of source.static has a handler: an entry of handler that matches its keys",
        broken: |c| {
            let Some(handlers) = &c.handler else { return Vec::new() };
            let partitions = c.source.iter().flat_map(Source::fixed);
            let without: Vec<_> = partitions.filter(|partition| handlers.of(partition).is_none()).collect();
            let Some(first) = without.first() else { return Vec::new() };
            let todo = "correct match.keys, or add an entry without match at the end of the list";
            vec![breach("handler", format!("none for {} partitions, such as {}", without.len(), first.id()), todo)]
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["handler"],
        says: "an entry of handler gets only partitions that no entry before it matches",
        broken: |c| {
            let unreachable = c.handler.iter().flat_map(Handlers::unreachable);
            let todo = "put it before that entry, or remove it";
            unreachable
                .map(|(key, before)| breach(&key, format!("never reached: {before} matches all of it"), todo))
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "handler.instances counts the instances that partitions share: it needs handler.isolation shared",
        broken: |c| {
            let counted = c.handlers().filter_map(|(key, handler)| Some((key, handler, handler.instances?)));
            let alone = counted.filter(|(_, handler, _)| handler.isolation == Isolation::Partition);
            alone
                .map(|(key, _, instances)| {
                    let todo = format!("set {key}.isolation: shared, or leave instances out");
                    breach(&format!("{key}.instances"), instances, todo)
                })
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["handler.backoff"],
        says: "handler.backoff.initial must be at most handler.backoff.max",
        broken: |c| {
            let wrong = c.handlers().filter(|(_, handler)| handler.backoff.initial > handler.backoff.max);
            wrong
                .map(|(key, handler)| {
                    let todo = format!("lower it to {} or less", show_duration(handler.backoff.max));
                    breach(&format!("{key}.backoff.initial"), show_duration(handler.backoff.initial), todo)
                })
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["handler.deadLetter.subject"],
        says: "handler.deadLetter.subject is a subject to publish to, and of no partition: its messages would come back",
        broken: |c| {
            let letters = c.handlers().filter_map(|(key, handler)| Some((key, &handler.dead_letter.as_ref()?.subject)));
            letters.filter_map(|(key, subject)| dead_letter_comes_back(c, &key, subject)).collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["source"],
        says: "a source is one of: static, plugin",
        broken: |c| match &c.source {
            Some(source) => match (&source.r#static, &source.plugin) {
                (None, None) => {
                    vec![breach("source", "none", "write source: {static: {partitions: [...]}} or {plugin: NAME}")]
                }
                (Some(_), Some(_)) => vec![breach("source", "both static and plugin", "keep one of the two")],
                _ => Vec::new(),
            },
            None => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["source.plugin", "source.refreshInterval"],
        says: "a plugin source without source.refreshInterval is asked only when a leader begins",
        broken: |c| match &c.source {
            Some(source) if source.plugin.is_some() && source.refresh_interval.is_none() => {
                vec![breach("source.refreshInterval", "not set", "set how often partitions may change, such as 30s")]
            }
            _ => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["source.static.partitions"],
        says: "source.static.partitions without an entry leaves every worker without work",
        broken: |c| match &c.source {
            Some(source) => {
                let empty = source.r#static.as_ref().is_some_and(|fixed| fixed.partitions.is_empty());
                when(empty, "source.static.partitions", "empty", "add partitions such as {keys: [\"orders\", \"0\"]}")
            }
            None => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["handler.onExhausted", "handler.deadLetter"],
        says: "handler.onExhausted decides only where there is no dead-letter subject",
        broken: |c| {
            let drops = |handler: &Handler| handler.dead_letter.is_some() && handler.on_exhausted == OnExhausted::Drop;
            let both = c.handlers().filter(|(_, handler)| drops(handler));
            both.map(|(key, _)| {
                breach(&format!("{key}.onExhausted"), format!("drop beside {key}.deadLetter"), "remove one of the two")
            })
            .collect()
        },
    },
];
