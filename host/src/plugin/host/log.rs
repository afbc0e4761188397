//! `parti:plugin/log` and standard output and error: what guests say, into the host's tracing with target `plugin`.
//!
//! Guests' text is not trusted: it is limited in lines per second and bytes per line, each line is an event of its own, and
//! control characters are replaced, so that a guest can neither flood nor forge the log.

use super::Shared;
use crate::token_bucket::TokenBucket;
use parti_coordination::{PartitionId, Sequence};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::Level;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes that a guest may write to a standard stream at once.
const STREAM_PERMIT: usize = 64 << 10;

/// Bytes of the end of standard error that go into a trap's message: a panic's text and place.
const LAST_WORDS: usize = 1 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is consistent after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets through so many lines per second of all instances of a plugin together, after a burst of as many.
pub(super) struct LogGate {
    line_bytes: usize,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    tokens: TokenBucket,
    /// Lines dropped since the last one let through.
    dropped: u64,
}

impl LogGate {
    pub(super) fn new(lines_per_second: u64, line_bytes: u64) -> Self {
        // A rate needs no more than the 53 bits of a float.
        #[expect(clippy::cast_precision_loss)]
        let per_second = lines_per_second as f64;
        Self {
            line_bytes: usize::try_from(line_bytes).unwrap_or(usize::MAX),
            bucket: Mutex::new(Bucket { tokens: TokenBucket::new(per_second, per_second, Instant::now()), dropped: 0 }),
        }
    }

    /// Let a line through, with the number of lines dropped before it; `None` drops this one too.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut bucket = lock(&self.bucket);
        if !bucket.tokens.take(now) {
            bucket.dropped += 1;
            return None;
        }
        Some(std::mem::take(&mut bucket.dropped))
    }

    fn drop_more(&self, lines: u64) {
        lock(&self.bucket).dropped += lines;
    }

    /// The line as it may appear in the log, and whether it was cut for that.
    fn clean(&self, line: &str) -> (String, bool) {
        let kept = line.get(..line.floor_char_boundary(self.line_bytes)).unwrap_or(line);
        let mut text: String =
            kept.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect();
        let is_cut = kept.len() < line.len();
        if is_cut {
            text.push('…');
        }
        (text, is_cut)
    }
}

/// Call a macro of `tracing` with a level known only at run time.
macro_rules! at_level {
    ($level:expr, $call:ident $(, $args:tt)*) => {
        match $level {
            Level::ERROR => tracing::$call!(target: "plugin", Level::ERROR $(, $args)*),
            Level::WARN => tracing::$call!(target: "plugin", Level::WARN $(, $args)*),
            Level::INFO => tracing::$call!(target: "plugin", Level::INFO $(, $args)*),
            Level::DEBUG => tracing::$call!(target: "plugin", Level::DEBUG $(, $args)*),
            Level::TRACE => tracing::$call!(target: "plugin", Level::TRACE $(, $args)*),
        }
    };
}

/// Who speaks: attached to every line of one instance.
pub(super) struct LogScope {
    shared: Arc<Shared>,
    partition: Mutex<Option<PartitionId>>,
    /// First sequence of the batch in progress; 0 outside `handle`.
    sequence: AtomicU64,
}

impl LogScope {
    pub(super) fn new(shared: Arc<Shared>, partition: Option<PartitionId>) -> Self {
        Self { shared, partition: Mutex::new(partition), sequence: AtomicU64::new(0) }
    }

    /// From now on it speaks for this partition.
    pub(super) fn enter(&self, partition: Option<PartitionId>) {
        *lock(&self.partition) = partition;
    }

    pub(super) fn set_sequence(&self, sequence: Option<Sequence>) {
        self.sequence.store(sequence.map_or(0, |sequence| sequence.0), Relaxed);
    }

    /// The host's own words about the guest. It can neither flood the log with them nor keep them out of it with lines of its own.
    pub(super) fn host_warns(&self, message: &str) {
        let gate = &self.shared.warnings;
        if let Some(dropped) = gate.admit(Instant::now()) {
            let (plugin, (message, _)) = (&*self.shared.plugin, gate.clean(message));
            let dropped = Some(dropped).filter(|dropped| *dropped > 0);
            tracing::warn!(plugin, partition = self.partition(), sequence = self.sequence(), dropped, "{message}");
        }
    }

    fn partition(&self) -> Option<String> {
        lock(&self.partition).as_ref().map(PartitionId::to_string)
    }

    fn sequence(&self) -> Option<u64> {
        Some(self.sequence.load(Relaxed)).filter(|sequence| *sequence != 0)
    }

    pub(super) fn write(&self, level: Level, text: &str) {
        // A line that nobody would see must not use up the share of one that somebody would.
        if !at_level!(level, enabled) {
            return;
        }
        let (gate, account) = (&self.shared.log, &self.shared.account);
        let plugin = &*self.shared.plugin;
        let mut lines = text.lines().filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            let Some(dropped) = gate.admit(Instant::now()) else {
                // A text of millions of lines must not hold the thread: what comes after the first one too many is only counted.
                let more = lines.count() as u64;
                account.log_lines_dropped.fetch_add(1 + more, Relaxed);
                return gate.drop_more(more);
            };
            if dropped > 0 {
                tracing::warn!(
                    target: "plugin", plugin, dropped,
                    "log lines dropped: the plugin wrote more than {}.limits.logLinesPerSecond", self.shared.section
                );
            }
            let (line, is_cut) = gate.clean(line);
            account.log_lines_cut.fetch_add(is_cut.into(), Relaxed);
            let (partition, sequence) = (self.partition(), self.sequence());
            let partition = partition.as_deref();
            at_level!(level, event, plugin, partition, sequence, "{line}");
        }
    }
}

/// Standard output or error of one instance: complete lines go to the log.
#[derive(Clone)]
pub(super) struct Stdio {
    level: Level,
    log: Arc<LogScope>,
    buffer: Arc<Mutex<Buffer>>,
}

#[derive(Default)]
struct Buffer {
    /// The line that has begun, up to one byte more than a line may have.
    line: Vec<u8>,
    /// The end of what was written in this call.
    said: Vec<u8>,
}

impl Stdio {
    pub(super) fn new(level: Level, log: Arc<LogScope>) -> Self {
        Self { level, log, buffer: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut buffer = lock(&self.buffer);
        let excess = (buffer.said.len() + bytes.len()).saturating_sub(LAST_WORDS);
        let forgotten = excess.min(buffer.said.len());
        buffer.said.drain(..forgotten);
        buffer.said.extend(bytes.iter().skip(excess - forgotten));

        for (index, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if index > 0 {
                self.finish_line(&mut buffer);
            }
            let room = self.log.shared.log.line_bytes.saturating_add(1).saturating_sub(buffer.line.len());
            buffer.line.extend(part.iter().take(room));
        }
    }

    fn finish_line(&self, buffer: &mut Buffer) {
        if !buffer.line.is_empty() {
            self.log.write(self.level, &String::from_utf8_lossy(&buffer.line));
            buffer.line.clear();
        }
    }

    /// End the call: a line without an end ends here. Returns the end of what was written in the call.
    pub(super) fn end(&self) -> String {
        let mut buffer = lock(&self.buffer);
        self.finish_line(&mut buffer);
        let said = std::mem::take(&mut buffer.said);
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STREAM_PERMIT)
    }
}

impl tokio::io::AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::grants::Grants;
    use super::super::super::limits::Limits;
    use super::super::PluginConfig;
    use super::*;
    use std::time::Duration;

    fn shared(lines: u64, bytes: u64) -> Arc<Shared> {
        let limits = Limits { log_lines_per_second: lines, log_line_bytes: bytes, ..Limits::default() };
        Arc::new(Shared::new(
            "p".into(),
            "handler".into(),
            limits,
            PluginConfig::new(serde_json::Map::new()),
            Grants::default(),
            Arc::default(),
        ))
    }

    /// What `speak` logs through a scope, one event per line.
    fn logged(shared: &Arc<Shared>, speak: impl FnOnce(&Arc<LogScope>)) -> Vec<serde_json::Value> {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                lock(&self.0).write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let partition = PartitionId::from_keys(&["a"]).unwrap();
        let scope = Arc::new(LogScope::new(shared.clone(), Some(partition)));
        tracing::subscriber::with_default(subscriber, || speak(&scope));
        let bytes = lock(&sink.0).clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn messages(events: &[serde_json::Value]) -> Vec<&str> {
        events.iter().map(|event| event["fields"]["message"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_line_carries_plugin_partition_and_sequence() {
        let events = logged(&shared(10, 100), |scope| {
            scope.set_sequence(Some(Sequence(7)));
            scope.write(Level::WARN, "hot");
            scope.set_sequence(None);
            scope.write(Level::INFO, "closed");
        });
        assert_eq!(events[0]["target"], "plugin");
        assert_eq!(events[0]["level"], "WARN");
        let fields = &events[0]["fields"];
        assert_eq!(
            (&fields["plugin"], &fields["partition"], &fields["sequence"]),
            (&"p".into(), &"a".into(), &7.into())
        );
        assert!(events[1]["fields"].get("sequence").is_none());
    }

    #[test]
    fn lines_above_the_rate_are_dropped_counted_and_reported_once() {
        let gate = LogGate::new(2, 100);
        let start = Instant::now();
        let admitted: Vec<_> = (0..5).map(|_| gate.admit(start)).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None]);
        assert_eq!(gate.admit(start + Duration::from_millis(500)), Some(3));
        assert_eq!(gate.admit(start + Duration::from_millis(500)), None);
        // A long silence earns one burst, not more.
        let later = start + Duration::from_secs(3600);
        let admitted: Vec<_> = (0..3).map(|_| gate.admit(later)).collect();
        assert_eq!(admitted, [Some(1), Some(0), None]);
    }

    #[test]
    fn a_guest_cannot_keep_the_words_of_the_host_about_it_out_of_the_log() {
        let shared = shared(3, 100);
        let events = logged(&shared, |scope| {
            (0..10).for_each(|_| scope.write(Level::INFO, "noise"));
            (0..1_000).for_each(|_| scope.host_warns("denied"));
        });
        let denied = messages(&events).iter().filter(|message| **message == "denied").count();
        assert!((10..1_000).contains(&denied), "{denied}");
        assert_eq!(shared.stats().log_lines_dropped, 7);
    }

    #[test]
    fn unseen_lines_use_up_nothing() {
        let shared = shared(1, 100);
        let events = logged(&shared, |scope| {
            (0..10).for_each(|_| scope.write(Level::TRACE, "unseen"));
            scope.write(Level::INFO, "seen");
        });
        assert_eq!(messages(&events), ["seen"]);
        assert_eq!(shared.stats().log_lines_dropped, 0);
    }

    #[test]
    fn a_guest_cannot_forge_lines_and_long_ones_are_cut() {
        let shared = shared(10, 6);
        let events = logged(&shared, |scope| {
            scope.write(Level::INFO, "one\r\n\ntwo\x1b[2J\rx");
            scope.write(Level::INFO, "ééééé");
        });
        assert_eq!(messages(&events), ["one", "two\u{fffd}[2…", "ééé…"]);
        assert_eq!(shared.stats().log_lines_cut, 2);
    }

    #[test]
    fn after_the_first_line_too_many_a_text_is_only_counted() {
        const LINES: u64 = 2_000_000;
        // Going through all of it takes long enough to earn lines again.
        let text: String = (0..LINES).map(|line| format!("{line}\n")).collect();
        let shared = shared(1_000, 100);
        let events = logged(&shared, |scope| scope.write(Level::INFO, &text));
        let admitted: Vec<u64> = messages(&events).iter().map(|line| line.parse().unwrap()).collect();
        assert!(admitted.iter().copied().eq(0..admitted.len() as u64), "a beginning of the text: {admitted:?}");
        assert_eq!(shared.stats().log_lines_dropped, LINES - admitted.len() as u64);
    }

    #[test]
    fn standard_streams_become_lines_and_the_last_words_are_kept() {
        let shared = shared(10, 20);
        let events = logged(&shared, |scope| {
            let stderr = Stdio::new(Level::WARN, scope.clone());
            stderr.take(b"first li");
            stderr.take(b"ne\nsecond");
            assert_eq!(stderr.end(), "first line\nsecond");
            for _ in 0..1000 {
                stderr.take(b"0123456789");
            }
            assert_eq!(stderr.end().len(), LAST_WORDS);
            assert_eq!(stderr.end(), "");
        });
        assert_eq!(messages(&events), ["first line", "second", "01234567890123456789…"]);
    }
}
