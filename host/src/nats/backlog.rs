//! How many messages of many subjects a stream holds above the position of each: the lag of a fleet, in seconds and without a
//! consumer per subject.
//!
//! One pass over the latest message of each subject tells which subjects have anything left; one pass without payloads and without
//! a filter, which costs a server microseconds per message, counts what lies within the window at the stream's end. Subjects that
//! are further behind are asked for one by one, as far as there are few of them; of the others only a lower bound is known.

use super::api::ApiError;
use super::connection::Nats;
use super::reader::{Filters, Start};
use super::stored::Stored;
use super::stream::StreamInfo;
use futures::StreamExt as _;
use parti_coordination::{Position, Sequence};
use std::collections::HashMap;

/// Messages at the stream's end that are counted exactly: two seconds of reading.
const WINDOW: u64 = 400_000;

/// Subjects further behind that are asked for one by one. A cluster makes about 50 consumers a second.
const ASKED: usize = 64;

/// How many of them at once.
const AT_ONCE: usize = 8;

/// How much a stream holds of one subject above a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: u64,
    /// There may be more.
    pub at_least: bool,
}

/// The backlogs of many subjects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backlogs {
    by_subject: HashMap<String, Backlog>,
}

struct Counter<'a> {
    nats: &'a Nats,
    stream: &'a StreamInfo,
    positions: &'a HashMap<String, Position>,
    window: u64,
    asked: usize,
}

impl Backlogs {
    /// Counts for each of these subjects what the stream holds above its position, as of when `stream` was asked for.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub async fn count(
        nats: &Nats,
        stream: &StreamInfo,
        positions: &HashMap<String, Position>,
    ) -> Result<Self, ApiError> {
        Counter { nats, stream, positions, window: WINDOW, asked: ASKED }.count().await
    }

    /// The backlog of a subject that was asked for; none of another.
    #[must_use]
    pub fn of(&self, subject: &str) -> Backlog {
        self.by_subject.get(subject).copied().unwrap_or(Backlog { messages: 0, at_least: false })
    }
}

impl Counter<'_> {
    async fn count(self) -> Result<Backlogs, ApiError> {
        let mut behind: HashMap<&str, (Position, u64)> = HashMap::new();
        if self.stream.messages > 0 && !self.positions.is_empty() {
            // The server wants a filter for this. A stream that has its messages from others names no subjects.
            let latest = Filters::new(self.stream.subjects.clone()).or_else(|| Filters::new(vec![">".to_owned()]));
            self.read(Start::LatestOfEachSubject, latest, |subject, sequence| {
                if let Some((subject, position)) = self.positions.get_key_value(subject)
                    && !position.covers(sequence)
                {
                    behind.insert(subject, (*position, 0));
                }
            })
            .await?;
        }
        let horizon = Position(self.stream.last.0.saturating_sub(self.window));
        if let Some(lowest) = behind.values().map(|(position, _)| *position).min() {
            let from = Sequence(lowest.max(horizon).0).next();
            self.read(Start::At(from), None, |subject, sequence| {
                if let Some((position, count)) = behind.get_mut(subject)
                    && !position.covers(sequence)
                {
                    *count += 1;
                }
            })
            .await?;
        }
        let stored = Stored::new(self.nats, &self.stream.name);
        let mut far: Vec<_> = behind.iter().filter(|(_, (position, _))| *position < horizon).collect();
        far.sort_by_key(|(_, (position, _))| *position);
        let asked: Vec<_> =
            far.into_iter().take(self.asked).map(|(subject, (position, _))| (*subject, *position)).collect();
        let exact: HashMap<&str, u64> = futures::stream::iter(asked)
            .map(async |(subject, position)| (subject, stored.count_above(subject, position).await))
            .buffer_unordered(AT_ONCE)
            .filter_map(async |(subject, count)| Some((subject, count.ok()?)))
            .collect()
            .await;
        let found = behind.into_iter().map(|(subject, (position, counted))| {
            let backlog = match exact.get(subject) {
                Some(exact) => Backlog { messages: *exact, at_least: false },
                // Its latest message is above its position, so that there is one even outside the window.
                None => Backlog { messages: counted.max(1), at_least: position < horizon },
            };
            (subject.to_owned(), backlog)
        });
        Ok(Backlogs { by_subject: found.collect() })
    }

    /// Tells subject and place of what there is, up to the stream's end as it was when this began.
    async fn read(
        &self,
        start: Start,
        filters: Option<Filters>,
        mut tell: impl FnMut(&str, Sequence),
    ) -> Result<(), ApiError> {
        let stored = Stored::new(self.nats, &self.stream.name);
        stored.headers(start, filters, self.stream.last, |message| tell(&message.subject, message.sequence)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::publisher::{OutgoingMessage, Publisher};
    use super::super::testing::{Release, TestServer};
    use super::*;
    use serde_json::{Value, json};

    async fn publish(nats: &Nats, subjects: &[&str]) {
        let publisher = Publisher::new(nats, 100);
        for (n, subject) in subjects.iter().enumerate() {
            let id = format!("{n} of {}", subjects.len());
            let message = OutgoingMessage { subject: (*subject).into(), id, headers: Vec::new(), payload: "x".into() };
            publisher.send(message).await.published().await;
        }
    }

    #[tokio::test]
    async fn every_backlog_is_exact_or_says_that_it_is_not() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            let config = json!({ "name": "work", "subjects": ["work.>", "more.*"], "num_replicas": 1 });
            let _: Value = nats.api("STREAM.CREATE.work", &config).await.unwrap();
            let empty = StreamInfo::of(&nats, "work").await.unwrap();
            let at = |pairs: &[(&str, u64)]| -> HashMap<String, Position> {
                pairs.iter().map(|(subject, position)| ((*subject).to_owned(), Position(*position))).collect()
            };
            assert_eq!(Backlogs::count(&nats, &empty, &at(&[("work.a", 0)])).await, Ok(Backlogs::default()));

            // 1 to 6: a a a b b c, 7 to 10: c c c c, 11: d.
            publish(&nats, &["work.a", "work.a", "work.a", "work.b", "work.b", "work.c"]).await;
            publish(&nats, &["work.c", "work.c", "work.c", "work.c", "more.d"]).await;
            let stream = StreamInfo::of(&nats, "work").await.unwrap();
            let positions = at(&[("work.a", 1), ("work.b", 5), ("work.c", 7), ("more.d", 10), ("work.never", 0)]);
            let of = |backlogs: &Backlogs| {
                ["work.a", "work.b", "work.c", "more.d", "work.never"].map(|subject| {
                    let Backlog { messages, at_least } = backlogs.of(subject);
                    (messages, at_least)
                })
            };
            let all = Backlogs::count(&nats, &stream, &positions).await.unwrap();
            assert_eq!(of(&all), [(2, false), (0, false), (3, false), (1, false), (0, false)]);

            // What comes later does not count, and neither does what is outside the window, unless it is asked for.
            publish(&nats, &["work.b"]).await;
            let few = async |asked| {
                Counter { nats: &nats, stream: &stream, positions: &positions, window: 3, asked }.count().await.unwrap()
            };
            assert_eq!(of(&few(0).await), [(1, true), (0, false), (2, true), (1, false), (0, false)]);
            assert_eq!(of(&few(1).await), [(2, false), (0, false), (2, true), (1, false), (0, false)]);
        }
    }
}
