//! What an instance of a plugin may use.
//!
//! Apart from the other sections because there are two of them with the same keys: whoever handles no messages has no batches, and so
//! a part of the limits means nothing to it. Each key is declared once all the same.

use super::problem::Problems;
use super::section::{Fields, Foreign, Key, Section, section};
use super::value::ByteSize;

section! {
    /// What one instance of a plugin may use. To exceed a limit is an error of the plugin that names the limit.
    pub struct Limits {
        /// Memory, summed over the memories of one instance.
        memory: ByteSize = ByteSize(64 << 20);
        /// Elements of tables, summed over the tables of one instance. Rust needs hundreds, a JavaScript engine
        /// thousands.
        table_elements: u32 = 100_000;
        /// Core instances, and as many memories and tables, of one instance. Rust needs 1 to 4, Python 38.
        core_instances: u32 = 256;
        /// Bytes of a component's file.
        component_bytes: ByteSize = ByteSize(64 << 20);
        /// Bytes of the messages in one batch. A larger message comes alone.
        batch_bytes: ByteSize = ByteSize(8 << 20);
        /// Messages published while one batch is handled.
        publish_messages: u32 = 1_000;
        /// Bytes published while one batch is handled.
        publish_bytes: ByteSize = ByteSize(8 << 20);
        /// Bytes of one published message. Never above the `max_payload` of the NATS server, 1 MiB by default.
        publish_message_bytes: ByteSize = ByteSize(1 << 20);
        /// Log lines of a plugin's instances together in a second. What exceeds it is dropped and counted.
        log_lines_per_second: u32 = 100;
        /// Bytes of one log line. The rest of a longer line is cut.
        log_line_bytes: ByteSize = ByteSize(4 << 10);
        /// Series of the plugin's own metrics on one worker: combinations of label values. Values of further ones are dropped and counted.
        metric_series: u32 = 500;
        /// Bytes that the plugin may hand to the host in one call or answer: a snapshot, a list of partitions, a line of log.
        host_call_bytes: ByteSize = ByteSize(16 << 20);
        /// HTTP requests of a plugin's instances together that are in flight, where `plugins.grants` allows any. One more waits for
        /// its turn.
        http_requests: u32 = 64;
        /// Bytes of the body of one HTTP response. Where a response has more, reading it fails.
        http_response_bytes: ByteSize = ByteSize(8 << 20);
    }
}

/// The limits of a plugin that handles no messages: all but those that hold for a batch of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BatchlessLimits(pub Limits);

impl BatchlessLimits {
    const OF_BATCHES: &'static [&'static str] =
        &["batchBytes", "publishMessages", "publishBytes", "publishMessageBytes"];
}

impl Section for BatchlessLimits {
    const FOREIGN: Foreign = Foreign {
        keys: Self::OF_BATCHES,
        why: "it holds for a batch of messages, which only a handler gets and publishes for",
        todo: "remove it; for handlers, set it in `handler.limits` or `plugins.defaults`",
    };

    fn keys() -> Vec<Key> {
        let mut keys = Limits::keys();
        keys.retain(|key| !Self::OF_BATCHES.contains(&key.name.as_str()));
        keys
    }

    fn read_fields(fields: &Fields<'_>, base: Self, problems: &mut Problems) -> Self {
        Self(Limits::read_fields(fields, base.0, problems))
    }
}
