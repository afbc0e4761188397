//! A handler, on the messages of a file: once undisturbed and, if that is asked for, once with a trap or a reload on the way, which
//! must make no difference.

use super::driven::{Driven, Fate, Handing, drive};
use super::expected::{self, Expected, Got};
use super::figures::Calls;
use super::messages::{self, Given};
use super::{Bench, Verdict, usage};
use crate::cli::operator::print::{counted, grouped, one_line};
use crate::error::OperatorError;
use crate::plugin::{Digest, HandlerPlugin, PluginVersion};
use crate::worker::load_alone;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use parti_coordination::{Partition, Snapshot};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Messages that are listed where not all of them are asked for.
const LISTED: usize = 100;

/// Characters that are shown of a payload or a state.
const SHOWN: usize = 200;

/// What a test of a handler takes.
#[derive(Debug, Args)]
pub(super) struct HandlerArgs {
    /// Messages for a handler: a JSON object a line
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Compare what becomes of the messages, and what they publish, with this file
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Write what becomes of the messages into a file for --expect
    #[arg(long, value_name = "FILE", conflicts_with = "expect")]
    record: Option<PathBuf>,
    /// Do it again, throw the instance away at the Nth message, as a trap does, and go on from the last commit: the result must be
    /// the same
    #[arg(long, value_name = "N")]
    trap_at: Option<usize>,
    /// Do it again, and let a new instance take over the state before the Nth message, as a swap does: the result must be the same
    #[arg(long, value_name = "N")]
    reload_at: Option<usize>,
    /// Most messages in one call; 64 as in a worker
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
}

impl HandlerArgs {
    /// Whether any of it is given.
    pub(super) fn is_given(&self) -> bool {
        let Self { messages, expect, record, trap_at, reload_at, batch_size } = self;
        messages.is_some()
            || expect.is_some()
            || record.is_some()
            || [trap_at, reload_at, batch_size].iter().any(|n| n.is_some())
    }
}

/// What the handler has made of the messages.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    messages: Vec<Handled>,
    partitions: Vec<State>,
    timing: Timing,
    #[serde(skip)]
    disturbed: Option<String>,
}

#[derive(Serialize)]
struct Handled {
    partition: String,
    #[serde(flatten)]
    got: Got,
    /// Deliveries.
    attempts: u32,
}

#[derive(Serialize, PartialEq)]
struct State {
    partition: String,
    /// Nothing for a handler without state.
    #[serde(flatten)]
    snapshot: Option<Kept>,
}

#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Kept {
    format: String,
    bytes: usize,
    digest: String,
    /// The state, if it is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Timing {
    open: Calls,
    handle: Calls,
    messages_per_second: f64,
    memory_bytes_per_instance: u64,
}

/// Everything that one pass over the messages has given.
struct Pass {
    by_message: Vec<Handled>,
    states: Vec<State>,
    faults: Vec<String>,
    /// Calls that failed.
    traps: Vec<String>,
    opens: Vec<Duration>,
    calls: Vec<Duration>,
    memory: u64,
    retries: usize,
}

pub(super) async fn test(
    bench: &Bench<'_>,
    args: &HandlerArgs,
) -> Result<(Arc<PluginVersion>, Verdict<Found>), OperatorError> {
    let Some(path) = &args.messages else {
        let (what, why) =
            (format!("{} is a handler, and there are no messages", bench.file.name), "--messages is missing");
        return Err(usage(what, why, "give it a file of messages; `parti plugin test --help` shows some"));
    };
    let given = messages::read(path)?;
    let expected = args.expect.as_deref().map(expected::read).transpose()?;
    let handing = handing(args, &given)?;
    let plugin: Arc<HandlerPlugin> =
        load_alone(&bench.engine, bench.file.directory, bench.file.name, &bench.file.config, &bench.file.host)?;
    let undisturbed = Handing { trap_at: None, reload_at: None, ..handing };
    let (mut failures, mut notes) = (Vec::new(), Vec::new());
    let pass = match pass(&plugin, &given, undisturbed).await {
        Ok(pass) => pass,
        Err(why) => {
            let verdict = Verdict { failures: vec![why], notes, found: Pass::nothing().into_found(None) };
            return Ok((Arc::clone(plugin.version()), verdict));
        }
    };
    failures.extend(pass.faults.iter().cloned());
    // Traps that are expected are no fault.
    match &expected {
        Some(expected) => {
            notes.extend(pass.traps.iter().cloned());
            failures.extend(compare(expected, &pass.by_message));
        }
        None => failures.extend(pass.traps.iter().cloned()),
    }
    let mut disturbed = None;
    if handing.trap_at.is_some() || handing.reload_at.is_some() {
        let (how, log) = (handing.to_string(), bench.told.take());
        match disturb(&plugin, &given, handing, &pass).await {
            Ok(()) => disturbed = Some(how),
            Err(differences) => {
                failures.extend(differences.into_iter().map(|difference| format!("{how}: {difference}")));
            }
        }
        bench.told.put_back(log);
    }
    if let Some(path) = &args.record
        && failures.is_empty()
    {
        expected::write(path, pass.by_message.iter().map(|handled| &handled.got))?;
        notes.push(format!("recorded in {}", path.display()));
    }
    if pass.retries > 0 {
        notes.push(format!(
            "{} were delivered again after a retry, without the wait of a worker",
            counted(pass.retries as u64, "message")
        ));
    }
    let found = pass.into_found(disturbed);
    Ok((Arc::clone(plugin.version()), Verdict { failures, notes, found }))
}

fn handing(args: &HandlerArgs, given: &[Given]) -> Result<Handing, OperatorError> {
    let at = |option: &str, at: Option<usize>| match at {
        Some(0) => {
            Err(usage(format!("{option} 0 is at no message"), "messages are counted from 1", "give another number"))
        }
        Some(at) if at > given.len() => {
            let why = format!("there are {} messages", given.len());
            Err(usage(format!("{option} {at} is at no message"), &why, "give a lower number"))
        }
        at => Ok(at.map(|at| at - 1)),
    };
    let batch =
        args.batch_size.unwrap_or_else(|| usize::try_from(crate::config::Handler::default().batch_size).unwrap_or(1));
    if batch == 0 {
        return Err(usage(
            "--batch-size 0 hands no message over",
            "a batch has at least one message",
            "give a higher number",
        ));
    }
    Ok(Handing { batch, trap_at: at("--trap-at", args.trap_at)?, reload_at: at("--reload-at", args.reload_at)? })
}

impl fmt::Display for Handing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trap = self.trap_at.map(|at| format!("a trap at message {}", at + 1));
        let reload = self.reload_at.map(|at| format!("a reload before message {}", at + 1));
        f.write_str(&[trap, reload].into_iter().flatten().collect::<Vec<_>>().join(" and "))
    }
}

/// Goes over the messages once, partition by partition.
async fn pass(plugin: &HandlerPlugin, given: &[Given], handing: Handing) -> Result<Pass, String> {
    let mut partitions: Vec<(&Partition, Vec<usize>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (at, message) in given.iter().enumerate() {
        let place = *places.entry(message.partition.id()).or_insert_with(|| {
            partitions.push((&message.partition, Vec::new()));
            partitions.len() - 1
        });
        if let Some((_, indices)) = partitions.get_mut(place) {
            indices.push(at);
        }
    }
    let mut pass = Pass::nothing();
    let mut handled = Vec::new();
    for (partition, indices) in partitions {
        let driven = drive(plugin, partition, given, &indices, handing).await;
        let driven = driven.map_err(|why| format!("partition {} does not go on: {why}", partition.id()))?;
        for at in indices {
            // The machine does not end before every message has its fate.
            let (fate, attempts) = driven.fates.get(&at).cloned().unwrap_or((Fate::Exhausted, 0));
            let got = Got::new(&fate, driven.published(at));
            handled.push((at, Handled { partition: partition.id().to_string(), got, attempts }));
        }
        pass.take(partition, driven);
    }
    handled.sort_by_key(|(at, _)| *at);
    pass.by_message = handled.into_iter().map(|(_, handled)| handled).collect();
    Ok(pass)
}

/// Goes over the messages again, disturbed. What is different then, if anything is.
async fn disturb(
    plugin: &HandlerPlugin,
    given: &[Given],
    handing: Handing,
    undisturbed: &Pass,
) -> Result<(), Vec<String>> {
    let pass = pass(plugin, given, handing).await.map_err(|why| vec![why])?;
    let expected: Vec<Expected> =
        undisturbed.by_message.iter().map(|handled| Expected::exactly(&handled.got)).collect();
    let mut differences = compare(&expected, &pass.by_message);
    let states = undisturbed.states.iter().zip(&pass.states).filter(|(before, after)| before != after);
    differences.extend(
        states.map(|(before, after)| format!("the state is another\n  expected  {before}\n  got       {after}")),
    );
    let is_new = |what: &String| !undisturbed.faults.contains(what) && !undisturbed.traps.contains(what);
    differences.extend(pass.faults.into_iter().chain(pass.traps).filter(is_new));
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

fn compare(expected: &[Expected], handled: &[Handled]) -> Vec<String> {
    expected::differences(expected, &handled.iter().map(|handled| &handled.got).collect::<Vec<_>>())
}

impl Pass {
    fn nothing() -> Self {
        Self {
            by_message: Vec::new(),
            states: Vec::new(),
            faults: Vec::new(),
            traps: Vec::new(),
            opens: Vec::new(),
            calls: Vec::new(),
            memory: 0,
            retries: 0,
        }
    }

    fn take(&mut self, partition: &Partition, driven: Driven) {
        let of = |what: String| format!("partition {}: {what}", partition.id());
        self.faults.extend(driven.faults.into_iter().map(of));
        self.traps.extend(driven.traps.into_iter().map(of));
        self.states.push(State { partition: partition.id().to_string(), snapshot: driven.state.map(Kept::from) });
        self.opens.extend(driven.opens);
        self.calls.extend(driven.calls);
        self.memory = self.memory.max(driven.memory);
        self.retries += driven.retries;
    }

    fn into_found(self, disturbed: Option<String>) -> Found {
        let total: Duration = self.calls.iter().sum();
        let rate = self.by_message.len() as f64 / total.as_secs_f64().max(f64::MIN_POSITIVE);
        let timing = Timing {
            messages_per_second: if total.is_zero() { 0.0 } else { rate.round() },
            open: Calls::of(self.opens),
            handle: Calls::of(self.calls),
            memory_bytes_per_instance: self.memory,
        };
        Found { messages: self.by_message, partitions: self.states, timing, disturbed }
    }
}

impl From<Snapshot> for Kept {
    fn from(Snapshot { format, data }: Snapshot) -> Self {
        let (bytes, digest) = (data.len(), Digest::of(&data).to_string());
        Self { format, bytes, digest, text: String::from_utf8(data).ok() }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Kept { format, bytes, digest, text }) = &self.snapshot else {
            return write!(f, "{}: no state", one_line(&self.partition));
        };
        write!(f, "{}: {}, {}, ", one_line(&self.partition), one_line(format), counted(*bytes as u64, "byte"))?;
        match text {
            Some(text) => f.write_str(&brief(text)),
            None => write!(f, "sha256 {digest}"),
        }
    }
}

/// A text in one line that is not too long.
pub(super) fn brief(text: &str) -> String {
    let mut line = one_line(text);
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// A payload, as a person reads it.
pub(super) fn readable(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => brief(text),
        Err(_) => brief(&format!("base64 {}", BASE64_STANDARD.encode(payload))),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.messages.len().to_string().len();
        for (number, handled) in (1..).zip(&self.messages).take(LISTED) {
            let Handled { partition, got, attempts } = handled;
            write!(f, "{number:>width$}  {}  {}", one_line(partition), got.fate())?;
            if *attempts > 1 {
                write!(f, ", delivered {attempts} times")?;
            }
            writeln!(f)?;
            for output in got.outputs() {
                writeln!(f, "{:width$}  -> {output}", "")?;
            }
        }
        if self.messages.len() > LISTED {
            writeln!(f, "and {} more; --json lists all", grouped((self.messages.len() - LISTED) as u64))?;
        }
        if self.messages.is_empty() {
            return Ok(());
        }
        let outputs = self.messages.iter().map(|handled| handled.got.outputs().len()).sum::<usize>();
        let fates = ["ack", "reject", "exhausted", "trap"].map(|outcome| {
            let of = self.messages.iter().filter(|handled| handled.got.outcome() == outcome).count();
            (of > 0).then(|| format!("{} {outcome}", grouped(of as u64)))
        });
        let fates: Vec<_> = fates.into_iter().flatten().collect();
        writeln!(f, "outcomes  {}; {} published", fates.join(", "), counted(outputs as u64, "message"))?;
        for state in self.partitions.iter().take(LISTED) {
            writeln!(f, "state     {state}")?;
        }
        let Timing { open, handle, messages_per_second, memory_bytes_per_instance } = &self.timing;
        writeln!(f, "open      {open}")?;
        writeln!(f, "handle    {}: {handle}", counted(handle.count as u64, "call"))?;
        writeln!(f, "rate      {} messages/s", grouped(*messages_per_second as u64))?;
        writeln!(f, "memory    {} KiB an instance", grouped(memory_bytes_per_instance >> 10))?;
        if let Some(how) = &self.disturbed {
            writeln!(f, "disturbed by {how}: the same outcomes, messages and state")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogLevel;
    use super::super::told::Told;
    use super::*;
    use crate::config::Config;
    use crate::plugin::PluginEngine;
    use serde_json::Map;
    use std::path::Path;

    /// A handler in WebAssembly text that counts messages and, from the third on, rejects them. Its snapshot does not have the count.
    fn forgetful() -> Vec<u8> {
        let rejects = "
            (if (i32.ge_u (global.get $n) (i32.const 2))
              (then (i32.store8 (i32.const 1024) (i32.const 1))
                    (i32.store (i32.const 1028) (i32.const 144)) (i32.store (i32.const 1032) (i32.const 2))))
            (global.set $n (i32.add (global.get $n) (local.get $length)))";
        let text = include_str!("../../../../plugin/testdata/handler.wat")
            .replace(";;@module", "(global $n (mut i32) (i32.const 0))")
            .replace(";;@handle", rejects);
        wat::parse_str(text).unwrap()
    }

    async fn test_forgetful(folder: &Path, trap_at: Option<usize>) -> Verdict<Found> {
        std::fs::write(folder.join("forgetful.wasm"), forgetful()).unwrap();
        let messages = folder.join("messages.jsonl");
        std::fs::write(&messages, "{\"subject\": \"a\"}\n".repeat(6)).unwrap();
        let file = super::super::Component {
            directory: folder,
            name: "forgetful",
            config: Map::new(),
            host: Config::default(),
        };
        let (told, _) = Told::from(LogLevel::Info);
        let bench = Bench { engine: PluginEngine::new().unwrap(), file, told };
        let args = HandlerArgs {
            messages: Some(messages),
            expect: None,
            record: None,
            trap_at,
            reload_at: None,
            batch_size: Some(1),
        };
        test(&bench, &args).await.unwrap().1
    }

    #[tokio::test]
    async fn a_state_that_is_not_in_the_snapshot_is_missed_after_a_trap() {
        let folder = tempfile::tempdir().unwrap();
        let undisturbed = test_forgetful(folder.path(), None).await;
        assert_eq!(undisturbed.failures, [""; 0]);
        let outcomes: Vec<_> = undisturbed.found.messages.iter().map(|handled| handled.got.outcome()).collect();
        assert_eq!(outcomes, ["ack", "ack", "reject", "reject", "reject", "reject"]);
        let disturbed = test_forgetful(folder.path(), Some(4)).await;
        let told = disturbed.failures.join("\n");
        assert!(
            told.contains(
                "a trap at message 4: message 3 has another outcome\n  expected  reject: no\n  got       ack"
            ),
            "{told}"
        );
    }

    #[test]
    fn what_a_handler_makes_is_shown_in_one_line_of_bounded_length() {
        assert_eq!(readable(b"a\x1b[2J"), "a\u{fffd}[2J");
        assert_eq!(readable(&[0xff, 0]), "base64 /wA=");
        assert_eq!(brief(&"é".repeat(1_000)).chars().count(), SHOWN + 1);
    }
}
