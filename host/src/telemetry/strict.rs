//! A strict reader of both exposition formats, for tests: whatever the specifications forbid makes it panic.

use std::collections::{BTreeMap, BTreeSet};

type Labels = Vec<(String, String)>;
/// Name, and labels in the order of their names.
type Series = (String, Labels);

/// What a page of metrics says.
pub(super) struct Exposition {
    values: BTreeMap<Series, f64>,
}

impl Exposition {
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut labels: Vec<_> =
            labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        labels.sort();
        *self.values.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no series {name} with these labels"))
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = &Series> {
        self.values.keys()
    }
}

pub(super) fn parse_text(text: &str) -> Exposition {
    parse(text, &["HELP", "TYPE"], |kind| match kind {
        "counter" | "gauge" => &[""],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => panic!("type {other}"),
    })
}

pub(super) fn parse_openmetrics(text: &str) -> Exposition {
    let body = text.strip_suffix("# EOF\n").expect("`# EOF` is the last line");
    parse(body, &["TYPE", "UNIT", "HELP"], |kind| match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_count", "_sum"],
        other => panic!("type {other}"),
    })
}

/// One family after the other: its comment lines, each at most once and in `order`, then its samples and nothing else.
fn parse(text: &str, order: &[&str], suffixes: fn(&str) -> &'static [&'static str]) -> Exposition {
    assert!(text.ends_with('\n') && !text.contains("\n\n"), "every line ends, none is empty");
    let mut values = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while lines.peek().is_some() {
        let mut about: BTreeMap<&str, &str> = BTreeMap::new();
        let (mut family, mut last) = (None, None);
        while let Some(comment) = lines.next_if(|line| line.starts_with('#')) {
            let (word, rest) = comment.strip_prefix("# ").and_then(|line| line.split_once(' ')).expect(comment);
            let (name, said) = rest.split_once(' ').expect(comment);
            let place = order.iter().position(|known| *known == word).expect(comment);
            assert!(
                last.is_none_or(|last| place > last),
                "{comment}: out of order, or a family before it has no samples"
            );
            assert!(family.is_none_or(|family| family == name), "{comment}: family {family:?} has no samples");
            (family, last) = (Some(name), Some(place));
            about.insert(word, said);
        }
        let family = family.expect("samples without a family");
        assert!(families.insert(family), "{family} appears twice");
        assert!(about.contains_key("HELP"), "{family} has no help");
        if let Some(unit) = about.get("UNIT") {
            assert!(family.ends_with(&format!("_{unit}")), "{family} does not end in {unit}");
        }
        let kind = *about.get("TYPE").expect(family);
        let mut members = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let ((name, labels), value) = sample(line);
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{name} is not of {family}"));
            assert!(suffixes(kind).contains(&suffix), "{name} in the {kind} {family}");
            assert!(kind == "gauge" || value >= 0.0, "{line}");
            members.push((suffix.to_owned(), labels.clone(), value));
            let mut labels = labels;
            labels.sort();
            assert!(values.insert((name, labels), value).is_none(), "{line} appears twice");
        }
        assert!(!members.is_empty(), "{family} has no samples");
        if kind == "histogram" {
            check_histogram(family, &members);
        }
    }
    Exposition { values }
}

/// Buckets ascend in bound and count, and the last one is `+Inf` and holds everything.
fn check_histogram(family: &str, members: &[(String, Labels, f64)]) {
    let of = |suffix: &str| members.iter().filter(move |(name, ..)| name == suffix).cloned().collect::<Vec<_>>();
    for (_, labels, count) in of("_count") {
        assert!(of("_sum").iter().any(|(_, others, _)| *others == labels), "{family}{labels:?} has no sum");
        let buckets: Vec<(f64, f64)> = of("_bucket")
            .into_iter()
            .filter_map(|(_, mut bucket_labels, value)| {
                let (le, bound) = bucket_labels.pop()?;
                (bucket_labels == labels).then(|| {
                    assert_eq!(le, "le", "{family}");
                    (number(&bound), value)
                })
            })
            .collect();
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{family}");
    }
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        // Rust reads more than the formats allow.
        finite => {
            assert!(finite.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte)), "{finite}");
            finite.parse().expect(finite)
        }
    }
}

/// `name{label="value",…} number`, with `\\`, `\"` and `\n` as the only escapes.
fn sample(line: &str) -> (Series, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (mut value, mut chars) = (String::new(), after.chars());
            loop {
                match chars.next().expect(line) {
                    '"' => break,
                    '\\' => value.push(match chars.next() {
                        Some('n') => '\n',
                        Some(escaped @ ('\\' | '"')) => escaped,
                        other => panic!("escape {other:?} in {line}"),
                    }),
                    plain => value.push(plain),
                }
            }
            assert!(labels.iter().all(|(other, _)| other != label), "{line}: {label} twice");
            labels.push((label.to_owned(), value));
            match chars.next() {
                Some(',') => rest = chars.as_str(),
                Some('}') => {
                    rest = chars.as_str();
                    break;
                }
                other => panic!("{other:?} after a label in {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    ((name.to_owned(), labels), number(value))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
