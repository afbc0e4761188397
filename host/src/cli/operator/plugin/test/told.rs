//! What a guest logs during a test.

use super::LogLevel;
use crate::cli::operator::print::one_line;
use serde::Serialize;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;

/// A line that a guest has logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    level: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    /// The first message of the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<u64>,
    text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, partition, message, text } = self;
        write!(f, "log {level:<5}  ")?;
        match (partition, message) {
            (Some(partition), Some(message)) => write!(f, "{}, from message {message}: ", one_line(partition))?,
            (Some(partition), None) => write!(f, "{}: ", one_line(partition))?,
            _ => {}
        }
        f.write_str(&one_line(text))
    }
}

/// The lines since they were last taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Mutex<Vec<Line>>>);

impl Told {
    /// Listens from this level on, to guests alone, where the subscriber is in force.
    pub(super) fn from(level: LogLevel) -> (Self, impl Subscriber + Send + Sync) {
        let level = match level {
            LogLevel::Trace => LevelFilter::TRACE,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error => LevelFilter::ERROR,
        };
        let told = Self::default();
        let guests = Targets::new().with_target("plugin", level);
        (told.clone(), Registry::default().with(told.with_filter(guests)))
    }

    pub(super) fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These lines count, and not those since they were taken.
    pub(super) fn put_back(&self, lines: Vec<Line>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }
}

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level: &Level = event.metadata().level();
        let mut line = Line { level: level.as_str().to_owned(), ..Line::default() };
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "sequence" {
            self.message = Some(value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "partition" {
            self.partition = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }
}
