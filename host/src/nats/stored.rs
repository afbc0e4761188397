//! Single messages of a stream, by their places: for commands that look at, publish again or move to some of them.

use super::api::{ApiError, NoArguments};
use super::connection::Nats;
use super::headers::Headers;
use super::kv::read_backlog;
use super::reader::{Filters, OpenReaderError, Reader, ReaderOptions, Start, StreamMessage};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::RawMessage as EncodedMessage;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parti_coordination::{Position, Sequence};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long the server keeps a consumer that was only made to be asked.
const INACTIVE_NS: u64 = 5_000_000_000;

/// The messages of a stream, one at a time.
#[derive(Clone)]
pub struct Stored {
    nats: Nats,
    stream: String,
}

#[derive(Deserialize)]
struct Found {
    message: EncodedMessage,
}

#[derive(Deserialize)]
struct Deleted {
    success: bool,
}

/// What a consumer would bring.
#[derive(Deserialize)]
struct Ahead {
    delivered: Delivered,
    num_pending: u64,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct Durable {
    config: DurableConfig,
    ack_floor: Delivered,
}

#[derive(Deserialize)]
struct DurableConfig {
    #[serde(default)]
    durable_name: Option<String>,
}

impl Stored {
    /// The messages of this stream.
    #[must_use]
    pub fn new(nats: &Nats, stream: &str) -> Self {
        Self { nats: nats.clone(), stream: stream.to_owned() }
    }

    /// The message at this place, from the stream's leader. `None` if there is none, or no longer.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn message(&self, sequence: Sequence) -> Result<Option<StreamMessage>, ApiError> {
        if sequence == Sequence(0) {
            // The server takes it for a question without a sequence.
            return Ok(None);
        }
        self.get(json!({ "seq": sequence.0 })).await
    }

    /// The first message at this place or after it, from the stream's leader. `None` if there is none.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn next(&self, sequence: Sequence) -> Result<Option<StreamMessage>, ApiError> {
        self.get(json!({ "seq": sequence.0.max(1), "next_by_subj": ">" })).await
    }

    /// The last message at this place or before it, from the stream's leader. `None` if there is none.
    ///
    /// A server only tells what comes next, so it is looked for in steps that double, and then by halves: where `n` places in a row
    /// are empty, that takes about twice the logarithm of `n` questions.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn last_up_to(&self, sequence: Sequence) -> Result<Option<StreamMessage>, ApiError> {
        // From there up to `sequence` there is none.
        let mut empty = sequence.next();
        let mut step = 1;
        let mut found = loop {
            let from = Sequence(empty.0.saturating_sub(step).max(1));
            match self.next(from).await?.filter(|message| message.sequence <= sequence) {
                Some(message) => break message,
                None if from == Sequence(1) => return Ok(None),
                None => empty = from,
            }
            step *= 2;
        };
        while found.sequence.next() < empty {
            let between = Sequence(found.sequence.0.midpoint(empty.0));
            match self.next(between).await?.filter(|message| message.sequence <= sequence) {
                Some(message) => found = message,
                None => empty = between,
            }
        }
        Ok(Some(found))
    }

    async fn get(&self, ask: Value) -> Result<Option<StreamMessage>, ApiError> {
        let found = self.nats.api::<_, Found>(&format!("STREAM.MSG.GET.{}", self.stream), &ask).await;
        let message = match found {
            Ok(found) => found.message,
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::NO_MESSAGE_FOUND.0 => return Ok(None),
            Err(error) => return Err(error),
        };
        let decode = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|error| ApiError::Failed(format!("message {} cannot be read: {error}", message.sequence)))
        };
        Ok(Some(StreamMessage {
            sequence: Sequence(message.sequence),
            timestamp_ns: u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(0),
            headers: Headers::from_block(decode(message.headers.as_deref().unwrap_or_default())?.into()),
            payload: decode(&message.payload)?.into(),
            subject: message.subject.into(),
        }))
    }

    /// Deletes the message at this place. Whether there was one.
    ///
    /// # Errors
    /// The stream forbids it, or no answer within the operation timeout.
    pub async fn delete(&self, sequence: Sequence) -> Result<bool, ApiError> {
        let ask = json!({ "seq": sequence.0, "no_erase": true });
        match self.nats.api::<_, Deleted>(&format!("STREAM.MSG.DELETE.{}", self.stream), &ask).await {
            Ok(deleted) => Ok(deleted.success),
            // For a place without a message the servers of different releases answer differently.
            Err(error @ ApiError::Refused { .. }) => match self.message(sequence).await? {
                None => Ok(false),
                Some(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Gives every message up to `last`, without payloads, in order.
    ///
    /// # Errors
    /// The stream cannot be read, or the connection is lost on the way.
    pub async fn headers(
        &self,
        start: Start,
        filters: Option<Filters>,
        last: Sequence,
        mut take: impl FnMut(StreamMessage),
    ) -> Result<(), ApiError> {
        let options = ReaderOptions { stream: self.stream.clone(), start, filters };
        let mut reader = match Reader::open_without_payloads(&self.nats, &options).await {
            Ok(reader) => reader,
            Err(OpenReaderError::Failed { why, .. }) => return Err(why),
            Err(error) => return Err(ApiError::Failed(error.to_string())),
        };
        let (mut batch, mut at) = (Vec::new(), Sequence(0));
        while at < last && read_backlog(&mut reader, &mut batch).await? {
            for message in batch.drain(..) {
                at = message.sequence;
                if at <= last {
                    take(message);
                }
            }
        }
        Ok(())
    }

    /// The position before the first message that was stored at this time or later.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn position_at(&self, time: Timestamp) -> Result<Position, ApiError> {
        let start = json!({ "deliver_policy": "by_start_time", "opt_start_time": time.to_string() });
        Ok(Position(self.ahead(start).await?.delivered.stream_seq))
    }

    /// The position up to which a durable consumer has acknowledged everything. `None` if the stream has no such consumer.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn ack_floor(&self, consumer: &str) -> Result<Option<Position>, ApiError> {
        let subject = format!("CONSUMER.INFO.{}.{consumer}", self.stream);
        match self.nats.api::<_, Durable>(&subject, &NoArguments {}).await {
            Ok(found) => Ok(found.config.durable_name.map(|_| Position(found.ack_floor.stream_seq))),
            Err(ApiError::Refused { code, .. }) if code == ErrorCode::CONSUMER_NOT_FOUND.0 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many messages with this subject the stream holds above a position.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn count_above(&self, subject: &str, position: Position) -> Result<u64, ApiError> {
        let start = position.0.saturating_add(1);
        let start = json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": start, "filter_subject": subject });
        Ok(self.ahead(start).await?.num_pending)
    }

    /// Asks what a consumer that starts like this would bring, by making one that is never read.
    async fn ahead(&self, start: Value) -> Result<Ahead, ApiError> {
        let name = format!("parti-{}", uuid::Uuid::new_v4().simple());
        let mut config = json!({
            "name": name, "ack_policy": "none", "replay_policy": "instant",
            "num_replicas": 1, "mem_storage": true, "inactive_threshold": INACTIVE_NS,
        });
        if let (Some(config), Value::Object(start)) = (config.as_object_mut(), start) {
            config.extend(start);
        }
        let subject = format!("CONSUMER.CREATE.{}.{name}", self.stream);
        let create = json!({ "stream_name": self.stream, "config": config, "action": "create" });
        let ahead = self.nats.api(&subject, &create).await?;
        let delete = format!("CONSUMER.DELETE.{}.{name}", self.stream);
        if let Err(error) = self.nats.api::<_, Value>(&delete, &NoArguments {}).await {
            tracing::debug!(%error, "a consumer was not deleted; the server will do it");
        }
        Ok(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::super::publisher::{OutgoingMessage, Publisher};
    use super::super::testing::{Release, TestServer};
    use super::*;

    async fn filled(nats: &Nats) -> Stored {
        let config = json!({ "name": "work", "subjects": ["work.>"], "storage": "file", "num_replicas": 1 });
        let _: Value = nats.api("STREAM.CREATE.work", &config).await.unwrap();
        let publisher = Publisher::new(nats, 1);
        for n in 1..=10 {
            let subject = format!("work.{}", if n % 2 == 1 { "odd" } else { "even" });
            let headers = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
            let message = OutgoingMessage { subject, id: n.to_string(), headers, payload: n.to_string().into() };
            publisher.send(message).await.published().await;
        }
        Stored::new(nats, "work")
    }

    #[tokio::test]
    async fn messages_are_found_counted_and_deleted_by_their_places() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            let stored = filled(&nats).await;
            let third = stored.message(Sequence(3)).await.unwrap().unwrap();
            assert_eq!((third.subject.as_str(), third.payload.as_ref()), ("work.odd", &b"3"[..]));
            let values: Vec<_> =
                third.headers.texts().into_iter().filter(|(name, _)| name == "a").map(|(_, v)| v).collect();
            assert_eq!(values, ["1", "2"]);
            for absent in [0, 11, u64::MAX] {
                assert_eq!(stored.message(Sequence(absent)).await, Ok(None), "{absent}");
            }

            let count = async |position| stored.count_above("work.odd", Position(position)).await.unwrap();
            assert_eq!(
                [count(0).await, count(1).await, count(2).await, count(9).await, count(10).await],
                [5, 4, 4, 0, 0]
            );
            assert_eq!(stored.count_above("work.none", Position(0)).await, Ok(0));

            assert_eq!(stored.delete(Sequence(3)).await, Ok(true));
            assert_eq!(stored.delete(Sequence(3)).await, Ok(false));
            assert_eq!((stored.message(Sequence(3)).await, count(0).await), (Ok(None), 4));

            let at = |ns: u64| Timestamp::from_nanosecond(i128::from(ns)).unwrap();
            let fifth = stored.message(Sequence(5)).await.unwrap().unwrap().timestamp_ns;
            assert_eq!(stored.position_at(at(fifth)).await, Ok(Position(4)));
            assert_eq!(stored.position_at(at(fifth + 1)).await, Ok(Position(5)));
            assert_eq!(stored.position_at(at(0)).await, Ok(Position(0)));
            assert_eq!(
                stored.position_at(Timestamp::now() + jiff::SignedDuration::from_hours(9)).await,
                Ok(Position(10))
            );
        }
    }

    #[tokio::test]
    async fn the_neighbours_of_a_place_are_found_across_holes() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let stored = filled(&server.connect().await).await;
            let place = |found: Result<Option<StreamMessage>, ApiError>| found.unwrap().map(|found| found.sequence.0);
            let mut there: Vec<u64> = (1..=10).collect();
            for hole in [&[][..], &[3], &[6, 7], &[1, 2], &[9, 10], &[5], &[8], &[4]] {
                for sequence in hole {
                    assert_eq!(stored.delete(Sequence(*sequence)).await, Ok(true));
                }
                there.retain(|n| !hole.contains(n));
                for n in 0..=12 {
                    let before = there.iter().rfind(|there| **there <= n).copied();
                    let after = there.iter().find(|there| **there >= n).copied();
                    assert_eq!(place(stored.last_up_to(Sequence(n)).await), before, "up to {n} of {there:?}");
                    assert_eq!(place(stored.next(Sequence(n)).await), after, "from {n} of {there:?}");
                }
            }
        }
    }
}
