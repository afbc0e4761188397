//! Logs: one line per event on stderr, JSON for machines and text for people, each with the worker's name.
//!
//! Lines are written by a thread of their own from a bounded queue. Whoever logs never waits: a log reader that hangs
//! must not cost a lease. When the queue is full, lines are dropped.

use super::WorkerLabel;
use std::fmt;
use std::io::{self, IsTerminal as _};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{Directive, EnvFilter};
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields, Writer};
use tracing_subscriber::fmt::{self as layer, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Why logs cannot be set up. Each message says what, why, and what to do, one line each.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A part of the filter says nothing that can be understood.
    #[error(
        "cannot set up logs from {origin}\n\
         `{directive}` is neither a level nor `target=level`\n\
         use one of error, warn, info, debug, trace, off, or a list such as `info,parti::intake=debug`"
    )]
    Filter {
        /// Where the filter comes from: `log.level` or `RUST_LOG`.
        origin: &'static str,
        /// The part.
        directive: String,
    },
    /// This process logs already.
    #[error("cannot set up logs\nthey are set up already in this process\ncall `telemetry::init` once")]
    AlreadySetUp,
}

/// Writes the queued lines when it is dropped. Keep it until the process ends; `std::process::exit` does not drop it.
#[must_use = "log lines that are still queued are lost without it"]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Lines that wait for a log reader which does not keep up; what exceeds them is dropped. Some seconds' worth of a worker
/// that complains as fast as it can, and a few megabytes.
const QUEUED_LINES: usize = 16_384;

/// A writer that never blocks, in front of one that may.
fn queued(slow: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(QUEUED_LINES).lossy(true).thread_name("parti-log").finish(slow)
}

/// Sends everything that is logged in this process to stderr, from now on.
///
/// `level` is a level (`info`) or a list of `target=level` with a level for the rest (`info,parti::intake=debug`). The
/// environment variable `RUST_LOG`, if it is not empty, is used instead. Crates below ours log at `warn` unless they are
/// named.
///
/// In JSON the fields of an event stand beside `timestamp`, `level`, `target`, `worker` and `spans`, so no event may call
/// a field of its own `timestamp`, `level`, `target` or `spans`; one that speaks of another worker calls it `worker`.
///
/// # Errors
/// A filter that cannot be understood; a second call.
pub fn init(format: LogFormat, level: &str, worker: WorkerLabel) -> Result<LogGuard, LogError> {
    let filter = filter(level, std::env::var("RUST_LOG").ok().as_deref())?;
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let (writer, guard) = queued(stderr);
    let set_up = match format {
        LogFormat::Auto if terminal => text(filter, worker, writer, true).try_init(),
        LogFormat::Text => text(filter, worker, writer, terminal).try_init(),
        LogFormat::Auto | LogFormat::Json => json(filter, worker, writer).try_init(),
    };
    set_up.map_err(|_| LogError::AlreadySetUp)?;
    Ok(LogGuard { _writer: guard })
}

/// Whether [`init`] could be called with this level in this environment.
///
/// # Errors
/// A filter that cannot be understood.
pub fn check(level: &str) -> Result<(), LogError> {
    filter(level, std::env::var("RUST_LOG").ok().as_deref()).map(drop)
}

fn json<W>(filter: EnvFilter, worker: WorkerLabel, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let inner = layer::format().json().flatten_event(true).with_current_span(false).with_span_list(true);
    let lines = layer::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Named { inner, worker, write: write_json })
        .with_ansi(false)
        .with_writer(writer);
    tracing_subscriber::registry().with(filter).with(lines)
}

fn text<W>(filter: EnvFilter, worker: WorkerLabel, writer: W, color: bool) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let inner = layer::format().with_ansi(color);
    let lines = layer::layer()
        .fmt_fields(DefaultFields::new())
        .event_format(Named { inner, worker, write: write_text })
        .with_ansi(color)
        .with_writer(writer);
    tracing_subscriber::registry().with(filter).with(lines)
}

/// Crates below ours that say more at `info` than an operator wants to know.
const BELOW_US: [&str; 6] = ["async_nats", "cranelift", "hyper", "regalloc2", "wasmtime", "wasmtime_wasi"];

/// The filter that `RUST_LOG`, or else the configured level, asks for.
fn filter(level: &str, rust_log: Option<&str>) -> Result<EnvFilter, LogError> {
    let (origin, wanted) = match rust_log {
        Some(wanted) if !wanted.trim().is_empty() => ("RUST_LOG", wanted),
        _ => ("log.level", level),
    };
    let mut directives = Vec::new();
    let mut rest = None;
    for part in wanted.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let refused = || LogError::Filter { origin, directive: part.to_owned() };
        if let Ok(level) = part.parse::<LevelFilter>() {
            rest = Some(level);
        } else if !part.contains(['=', '[']) {
            // A lone word would be taken for a target: `inof` would silence everything but a crate of that name.
            return Err(refused());
        }
        directives.push(part.parse::<Directive>().map_err(|_| refused())?);
    }
    if directives.is_empty() {
        return Err(LogError::Filter { origin, directive: wanted.to_owned() });
    }
    // Whoever wants less than warnings wants it of every crate.
    let below = if rest.unwrap_or(LevelFilter::OFF) > LevelFilter::WARN { BELOW_US.as_slice() } else { &[] };
    let quiet = below.iter().filter_map(|target| format!("{target}=warn").parse::<Directive>().ok());
    // A later directive replaces an earlier one of the same target.
    Ok(quiet.chain(directives).fold(EnvFilter::default(), EnvFilter::add_directive))
}

/// Formats an event as `inner` does and puts the worker's name into the line.
struct Named<F> {
    inner: F,
    worker: WorkerLabel,
    /// Writes a finished line together with the name.
    write: fn(&mut Writer<'_>, line: &str, worker: &str) -> fmt::Result,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let worker = self.worker.get();
        let speaks_of_a_worker = event.metadata().fields().field("worker").is_some();
        if worker.is_empty() || speaks_of_a_worker {
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        (self.write)(&mut writer, &line, &worker)
    }
}

fn write_json(out: &mut Writer<'_>, line: &str, worker: &str) -> fmt::Result {
    match line.strip_prefix('{') {
        Some(fields) => write!(out, "{{\"worker\":{},{fields}", serde_json::Value::from(worker)),
        None => out.write_str(line),
    }
}

fn write_text(out: &mut Writer<'_>, line: &str, worker: &str) -> fmt::Result {
    writeln!(out, "{} worker={worker}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn maker(&self) -> impl for<'a> MakeWriter<'a> + Send + Sync + use<> {
            let lines = self.clone();
            move || lines.clone()
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        /// Every line, each of which must be one JSON object.
        fn objects(&self) -> Vec<Value> {
            self.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
        }
    }

    fn named(name: &str) -> WorkerLabel {
        let worker = WorkerLabel::default();
        worker.set(name);
        worker
    }

    #[test]
    fn a_json_line_is_one_object_whatever_is_logged() {
        let lines = Lines::default();
        let subscriber = json(filter("info", None).unwrap(), named("worker-\"3\""), lines.maker());
        tracing::subscriber::with_default(subscriber, || {
            let _partition = tracing::info_span!("partition", partition = "tool-07.chamber-2", epoch = 7).entered();
            tracing::warn!(sequence = 48_212, said = "\"}\n{\"level\":\"ERROR\"", "line one\nline two");
        });
        let [line] = lines.objects().try_into().expect("one line");
        assert_eq!(line["message"], "line one\nline two");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["worker"], "worker-\"3\"");
        assert_eq!(line["sequence"], 48_212);
        assert_eq!(line["said"], "\"}\n{\"level\":\"ERROR\"");
        assert_eq!(line["spans"][0]["partition"], "tool-07.chamber-2");
        let at: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().expect("RFC 3339");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && at > jiff::Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn lines_carry_the_name_that_the_worker_has_then() {
        let lines = Lines::default();
        let worker = WorkerLabel::default();
        let subscriber = json(filter("info", None).unwrap(), worker.clone(), lines.maker());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("Manager starting");
            worker.set("worker-3");
            tracing::info!("Assignment received");
            tracing::warn!(worker = "worker-12", "Heartbeat missed");
        });
        let names: Vec<Value> = lines.objects().iter().map(|line| line["worker"].clone()).collect();
        assert_eq!(names, [Value::Null, "worker-3".into(), "worker-12".into()]);
        assert_eq!(lines.text().lines().nth(2).unwrap().matches("\"worker\"").count(), 1);
    }

    #[test]
    fn a_text_line_carries_the_name_and_no_color_where_none_is_wanted() {
        let lines = Lines::default();
        let subscriber = text(filter("info", None).unwrap(), named("worker-3"), lines.maker(), false);
        tracing::subscriber::with_default(subscriber, || tracing::info!(version = 3, "Assignment received"));
        let text = lines.text();
        assert!(text.ends_with(": Assignment received version=3 worker=worker-3\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    /// Hangs in its first write until the sender is gone.
    struct Hung(mpsc::Receiver<()>);

    impl io::Write for Hung {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_reader_that_hangs_stops_nobody() {
        let (release, hung) = mpsc::channel();
        let (writer, guard) = queued(Hung(hung));
        let (done, logged) = mpsc::channel();
        std::thread::spawn(move || {
            let subscriber = json(filter("info", None).unwrap(), named("worker-3"), writer);
            tracing::subscriber::with_default(subscriber, || {
                for line in 0..QUEUED_LINES * 2 {
                    tracing::info!(line, "Assignment received");
                }
            });
            let _ = done.send(());
        });
        assert_eq!(logged.recv_timeout(Duration::from_secs(60)), Ok(()), "logging waits for the reader");
        drop(release);
        drop(guard);
    }

    /// What of four events gets through.
    fn passes(level: &str, rust_log: Option<&str>) -> String {
        let lines = Lines::default();
        let subscriber = json(filter(level, rust_log).unwrap(), WorkerLabel::default(), lines.maker());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "parti::intake", "d");
            tracing::info!(target: "parti::intake", "i");
            tracing::info!(target: "async_nats::connector", "n");
            tracing::warn!(target: "async_nats::connector", "w");
        });
        lines.objects().iter().filter_map(|line| line["message"].as_str()).collect()
    }

    #[test]
    fn crates_below_ours_are_quiet_unless_they_are_named() {
        assert_eq!(passes("info", None), "iw");
        assert_eq!(passes("debug", None), "diw");
        assert_eq!(passes("info,async_nats=info", None), "inw");
        assert_eq!(passes("error", None), "");
        assert_eq!(passes("info, parti::intake=debug", None), "diw");
    }

    #[test]
    fn rust_log_overrides_the_configured_level_unless_it_is_empty() {
        assert_eq!(passes("error", Some("debug")), "diw");
        assert_eq!(passes("info", Some("async_nats=info")), "nw");
        assert_eq!(passes("info", Some(" ")), "iw");
    }

    #[test]
    fn a_filter_that_says_nothing_is_refused_by_name() {
        for (level, rust_log, origin, directive) in [
            ("inof", None, "log.level", "inof"),
            ("info,parti=loud", None, "log.level", "parti=loud"),
            ("info", Some("debug,async_nats"), "RUST_LOG", "async_nats"),
            ("info", Some("[span{x=]"), "RUST_LOG", "[span{x=]"),
            ("", None, "log.level", ""),
        ] {
            let message = filter(level, rust_log).expect_err(level).to_string();
            assert!(message.contains(origin) && message.contains(&format!("`{directive}`")), "{message}");
            assert_eq!(message.lines().count(), 3, "{message}");
        }
    }
}
