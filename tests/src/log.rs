//! Log lines as a collector reads them.

use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: f64 = 86_400.0;

/// One line.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// When it was written.
    pub at: Moment,
    /// Its fields, `message` and `level` among them.
    pub fields: Value,
}

/// A time of day. Differences are right for logs of less than half a day.
#[derive(Debug, Clone, Copy)]
pub struct Moment(f64);

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        Self(since.as_secs_f64() % DAY)
    }

    /// Seconds since another moment; negative if that is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> f64 {
        (self.0 - earlier.0 + DAY / 2.0).rem_euclid(DAY) - DAY / 2.0
    }

    /// From RFC 3339 in UTC.
    fn parse(text: &str) -> Option<Self> {
        let time = text.split_once('T')?.1.trim_end_matches('Z');
        let seconds = time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?));
        seconds.map(Self)
    }
}

impl LogLine {
    /// A line in JSON; nothing if it is something else, such as the message of a failed start.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        Some(Self { at: Moment::parse(fields["timestamp"].as_str()?)?, fields })
    }

    /// What it says.
    #[must_use]
    pub fn message(&self) -> &str {
        self.fields["message"].as_str().unwrap_or_default()
    }

    /// A field that is text; empty if it has none of this name.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_compared_across_midnight() {
        let line = |time: &str| LogLine::parse(&format!(r#"{{"timestamp":"{time}","message":"x"}}"#)).expect("a line");
        let (late, early) = (line("2026-01-01T23:59:59.500000Z"), line("2026-01-02T00:00:01Z"));
        assert!((early.at.since(late.at) - 1.5).abs() < 1e-6);
        assert!((late.at.since(early.at) + 1.5).abs() < 1e-6);
        assert!(LogLine::parse("no JSON").is_none());
    }
}
