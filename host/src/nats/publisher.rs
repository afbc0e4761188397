//! Publishes to streams: many messages in flight, each confirmed or not.

use super::api::ApiError;
use super::connection::Nats;
use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;

/// Headers that the server obeys begin so.
const SERVER_HEADERS: &str = "nats-";

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// Where to.
    pub subject: String,
    /// By this id the stream recognizes a repetition, within its duplicate window.
    pub id: String,
    /// Headers. Those that the server obeys (`Nats-…`) are left out: in a copied message they speak of the original.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: Bytes,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// A stream has it.
    Confirmed {
        /// The stream.
        stream: String,
        /// Its place there.
        sequence: u64,
        /// Whether the stream had it before.
        duplicate: bool,
    },
    /// No stream captures the subject, or the one that does has no leader at the moment.
    NoStream,
    /// It cannot be published as it is, or the stream does not take it.
    Refused {
        /// JetStream's number for the error; `None` if the message never got that far.
        code: Option<u64>,
        /// What is wrong.
        text: String,
    },
    /// No answer: a stream may or may not have it. Publish it again under the same id.
    Unknown,
}

/// Publishes messages. Cheap to clone; the clones share the limit of messages in flight.
#[derive(Clone)]
pub struct Publisher {
    nats: Nats,
    jetstream: Context,
}

/// A message on its way.
pub struct Receipt {
    nats: Nats,
    sent: Result<(PublishAckFuture, u64), Published>,
}

impl Publisher {
    /// A publisher with at most this many unconfirmed messages.
    #[must_use]
    pub fn new(nats: &Nats, in_flight: usize) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(nats.operation_timeout())
            .ack_timeout(nats.operation_timeout())
            .max_ack_inflight(in_flight)
            .backpressure_on_inflight(true)
            .build(nats.inner.client.clone());
        Self { nats: nats.clone(), jetstream }
    }

    /// Sends a message, as soon as there is room, and returns without waiting for its confirmation. Messages get into a stream in
    /// the order in which they are sent.
    pub async fn send(&self, message: OutgoingMessage) -> Receipt {
        let sent = match build(&message) {
            Ok(built) => {
                let sending = async {
                    let reconnects = self.nats.link().borrow().reconnects;
                    Ok((self.jetstream.send_publish(message.subject, built).await?, reconnects))
                };
                let sent = self.nats.while_connected(self.nats.operation_timeout(), sending).await;
                sent.map_err(Published::from)
            }
            Err(text) => Err(Published::Refused { code: None, text }),
        };
        Receipt { nats: self.nats.clone(), sent }
    }
}

impl Receipt {
    /// Number of the connection over which the message went; `None` if it was not sent at all.
    #[must_use]
    pub fn connection(&self) -> Option<u64> {
        self.sent.as_ref().ok().map(|(_, reconnects)| *reconnects)
    }

    /// Waits until it is known what became of the message, at most for the operation timeout.
    pub async fn published(self) -> Published {
        let (ack, reconnects) = match self.sent {
            Ok(sent) => sent,
            Err(published) => return published,
        };
        let confirmed = async { Ok(ack.await?) };
        match self.nats.unless_reconnected(reconnects, self.nats.operation_timeout(), confirmed).await {
            Ok(ack) => Published::Confirmed { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate },
            Err(error) => error.into(),
        }
    }
}

impl From<ApiError> for Published {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NoResponders => Self::NoStream,
            ApiError::TimedOut | ApiError::Disconnected => Self::Unknown,
            ApiError::Refused { code, text } => Self::Refused { code: Some(code), text },
            ApiError::Failed(text) => Self::Refused { code: None, text },
        }
    }
}

/// Of the headers of somebody else's message, what can be published: values as text, as far as they are, in one line; names that
/// the client library refuses are left out.
pub fn sendable_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, String)> {
    let line = |value: &[u8]| String::from_utf8_lossy(value).replace(['\r', '\n'], " ");
    let is_sendable = |name: &str| !name.is_empty() && name.parse::<HeaderName>().is_ok();
    let sendable = headers.into_iter().filter(|(name, _)| is_sendable(name));
    sendable.map(|(name, value)| (name.to_owned(), line(value))).collect()
}

fn build(message: &OutgoingMessage) -> Result<PublishMessage, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        if name.get(..SERVER_HEADERS.len()).is_some_and(|start| start.eq_ignore_ascii_case(SERVER_HEADERS)) {
            continue;
        }
        let valid_name: HeaderName = name.parse().map_err(|error| format!("header {name:?}: {error}"))?;
        headers.append(valid_name, parse_value(name, value)?);
    }
    headers.insert(NATS_MESSAGE_ID, parse_value("Nats-Msg-Id", &message.id)?);
    Ok(PublishMessage::build().headers(headers).payload(message.payload.clone()))
}

fn parse_value(name: &str, value: &str) -> Result<HeaderValue, String> {
    value.parse().map_err(|error| format!("value of header {name:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::options::ConnectOptions;
    use super::super::testing::{Release, TestServer, in_time, options};
    use super::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    #[test]
    fn headers_that_cannot_be_sent_on_do_not_keep_a_message_from_being_sent() {
        let odd: [(&str, &[u8]); 6] =
            [("a", b"1"), ("my header", b"2"), ("", b"3"), ("b", b"x\ry\nz"), ("c", b"\xff"), ("\u{e9}", b"4")];
        let headers = sendable_headers(odd);
        assert!(build(&OutgoingMessage { headers: headers.clone(), ..message("out.a", "1") }).is_ok());
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(headers, [header("a", "1"), header("b", "x y z"), header("c", "\u{fffd}")]);
    }

    async fn stream(nats: &Nats, settings: Value) {
        let mut config = json!({ "name": "out", "subjects": ["out.>"], "storage": "file", "num_replicas": 1 });
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let _: Value = nats.api("STREAM.CREATE.out", &config).await.unwrap();
    }

    fn message(subject: &str, id: &str) -> OutgoingMessage {
        let headers =
            vec![("trace".to_owned(), "abc".to_owned()), ("nats-expected-LAST-sequence".to_owned(), "999".to_owned())];
        OutgoingMessage { subject: subject.to_owned(), id: id.to_owned(), headers, payload: "payload".into() }
    }

    #[tokio::test]
    async fn a_repeated_message_is_stored_once_and_confirmed_again() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            stream(&nats, json!({})).await;
            let publisher = Publisher::new(&nats, 10);
            for duplicate in [false, true, true] {
                let published = publisher.send(message("out.a", "one")).await.published().await;
                assert_eq!(published, Published::Confirmed { stream: "out".to_owned(), sequence: 1, duplicate });
            }
        }
    }

    #[tokio::test]
    async fn messages_in_flight_are_stored_in_the_order_in_which_they_were_sent() {
        let server = TestServer::start(Release::Newest).await;
        let nats = server.connect().await;
        stream(&nats, json!({})).await;
        let publisher = Publisher::new(&nats, 500);
        let mut receipts = Vec::new();
        for n in 0..5000 {
            let receipt = publisher.send(message("out.a", &n.to_string())).await;
            receipts.push(tokio::spawn(receipt.published()));
        }
        for (sequence, receipt) in (1..).zip(receipts) {
            let published = receipt.await.unwrap();
            assert_eq!(published, Published::Confirmed { stream: "out".to_owned(), sequence, duplicate: false });
        }
    }

    #[tokio::test]
    async fn what_no_stream_takes_is_told_apart_from_what_a_stream_refuses() {
        let server = TestServer::start(Release::Newest).await;
        let nats = server.connect().await;
        stream(&nats, json!({ "max_msgs": 1, "discard": "new" })).await;
        let publisher = Publisher::new(&nats, 10);
        let publish = async |message| publisher.send(message).await.published().await;
        assert_eq!(publish(message("elsewhere.a", "1")).await, Published::NoStream);
        assert!(matches!(publish(message("out.a", "1")).await, Published::Confirmed { .. }));
        let full = publish(message("out.a", "2")).await;
        assert!(
            matches!(&full, Published::Refused { code: Some(10077), text } if text.contains("maximum messages")),
            "{full:?}"
        );

        let large = OutgoingMessage { payload: vec![0; 2 * nats.max_payload()].into(), ..message("out.a", "3") };
        let injected =
            OutgoingMessage { headers: vec![("a".into(), "b\r\nNats-Rollup: all".into())], ..message("out.a", "4") };
        let bad_name = OutgoingMessage { headers: vec![("a: b".into(), "c".into())], ..message("out.a", "5") };
        let bad_id = message("out.a", "6\r\nNats-Rollup: all");
        let bad_subject = message("out.a b", "7");
        for message in [large, injected, bad_name, bad_id, bad_subject] {
            let refused = publish(message).await;
            assert!(matches!(refused, Published::Refused { code: None, .. }), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_message_in_flight_when_the_server_dies_has_an_unknown_fate() {
        let mut server = TestServer::start(Release::Newest).await;
        let options = ConnectOptions { operation_timeout: Duration::from_secs(600), ..options(&server.url()) };
        let nats = Nats::connect(options).await.unwrap();
        stream(&nats, json!({})).await;
        server.freeze(true).await;
        let receipt = Publisher::new(&nats, 10).send(message("out.a", "1")).await;
        server.kill();
        assert_eq!(in_time(receipt.published()).await, Published::Unknown);
    }

    #[tokio::test]
    async fn a_message_that_finds_the_connection_lost_goes_out_when_it_is_back() {
        let mut server = TestServer::start(Release::Newest).await;
        let nats = server.connect().await;
        stream(&nats, json!({})).await;
        server.kill();
        in_time(nats.link().wait_for(|link| !link.connected)).await.unwrap();
        let publisher = Publisher::new(&nats, 10);
        let sending = tokio::spawn(async move { publisher.send(message("out.a", "1")).await.published().await });
        server.run().await;
        assert!(matches!(in_time(sending).await.unwrap(), Published::Confirmed { sequence: 1, .. }));
    }
}
