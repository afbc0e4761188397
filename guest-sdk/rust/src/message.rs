//! What a handler does with a message: read it and publish because of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Header, Message, Refusal, host};

/// A payload that is not what the handler expects. With `?` in a handler it becomes a reject.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The payload is not UTF-8.
    #[error("the payload is not UTF-8 text: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// The payload is not JSON, or not of the expected shape.
    #[error("the payload is not the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The host did not take a message to publish. With `?` in a handler it becomes a retry.
#[derive(Debug, thiserror::Error)]
#[error("publishing to `{subject}` was refused: {}", said(refusal))]
pub struct PublishError {
    /// Where the message should have gone.
    pub subject: String,
    /// Why, and what the host says about it.
    pub refusal: Refusal,
}

fn said(refusal: &Refusal) -> &str {
    let (Refusal::Invalid(said) | Refusal::Limit(said) | Refusal::Other(said)) = refusal;
    said
}

impl Message {
    /// The payload as text.
    pub fn text(&self) -> Result<&str, Unreadable> {
        Ok(std::str::from_utf8(&self.payload)?)
    }

    /// The payload as JSON of a type; the type may borrow text from the payload.
    ///
    /// ```
    /// # use parti_guest::testing::message;
    /// #[derive(serde::Deserialize)]
    /// struct Order<'a> {
    ///     customer: &'a str,
    ///     pieces: u32,
    /// }
    ///
    /// let message = message(1, "orders", r#"{"customer": "Ada", "pieces": 3}"#);
    /// let order: Order = message.json()?;
    /// assert_eq!((order.customer, order.pieces), ("Ada", 3));
    /// # Ok::<(), parti_guest::Unreadable>(())
    /// ```
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Unreadable> {
        Ok(serde_json::from_slice(&self.payload)?)
    }

    /// The value of the first header with exactly this name, if it is UTF-8. All headers, as bytes, are in `headers`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|header| header.name == name)?;
        std::str::from_utf8(&header.value).ok()
    }

    /// Publishes a message that this one led to.
    ///
    /// The host sends it once this message is done, confirms it before the position moves on, and sends none of it
    /// otherwise. After a crash it is de-duplicated by its place in this message's output: a handler that publishes the
    /// same things in the same order for the same message and state gets each of them exactly once.
    pub fn publish(&self, subject: impl AsRef<str>, payload: impl AsRef<[u8]>) -> Result<(), PublishError> {
        self.publish_with_headers(subject, &[], payload)
    }

    /// Publishes this message again elsewhere: its payload and its headers, without those that begin with `Nats-`. They
    /// speak to the server about the message they came with: its ID, its place in its stream, how long it lives.
    ///
    /// ```
    /// # use parti_guest::{Message, Verdict};
    /// fn handle(message: &Message) -> Verdict {
    ///     message.forward(format!("archive.{}", message.subject))?;
    ///     Ok(())
    /// }
    /// ```
    pub fn forward(&self, subject: impl AsRef<str>) -> Result<(), PublishError> {
        let own: Vec<Header> = self.headers.iter().filter(|header| !header.is_for_the_server()).cloned().collect();
        self.publish_with_headers(subject, &own, &self.payload)
    }

    /// [`publish`](Self::publish) with headers. The host refuses those that it sets itself, such as `Nats-Msg-Id`.
    pub fn publish_with_headers(
        &self,
        subject: impl AsRef<str>,
        headers: &[Header],
        payload: impl AsRef<[u8]>,
    ) -> Result<(), PublishError> {
        let subject = subject.as_ref();
        host::publish(self.sequence, subject, headers, payload.as_ref())
            .map_err(|refusal| PublishError { subject: subject.into(), refusal })
    }

    /// [`publish`](Self::publish) of a value as JSON.
    pub fn publish_json<T: Serialize + ?Sized>(
        &self,
        subject: impl AsRef<str>,
        payload: &T,
    ) -> Result<(), PublishError> {
        let json = serde_json::to_vec(payload).map_err(|error| PublishError {
            subject: subject.as_ref().into(),
            refusal: Refusal::Invalid(format!("the payload cannot be written as JSON: {error}")),
        })?;
        self.publish(subject, json)
    }
}

impl Header {
    /// A header with a text value.
    pub fn new(name: impl Into<String>, value: impl fmt::Display) -> Self {
        Self { name: name.into(), value: value.to_string().into_bytes() }
    }

    fn is_for_the_server(&self) -> bool {
        self.name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Failure, Handler, OpenReason, Partition, Snapshot, Verdict, testing};

    #[test]
    fn an_unreadable_payload_becomes_a_reject_that_says_what_is_wrong() {
        let binary = testing::message(1, "a", [0xff, 0xfe]);
        let Failure::Reject(reason) = Failure::from(binary.text().unwrap_err()) else { panic!("not a reject") };
        assert!(reason.contains("not UTF-8"), "{reason}");

        let truncated = testing::message(1, "a", r#"{"value": 1"#);
        let error = truncated.json::<serde_json::Value>().unwrap_err();
        let Failure::Reject(reason) = Failure::from(error) else { panic!("not a reject") };
        assert!(reason.contains("EOF while parsing"), "{reason}");
    }

    #[test]
    fn a_header_is_found_by_its_exact_name_and_the_first_one_wins() {
        let mut message = testing::message(1, "a", "");
        message.headers = vec![
            Header::new("Trace", 1),
            Header::new("trace", 2),
            Header::new("trace", 3),
            Header { name: "raw".into(), value: vec![0xff] },
        ];

        assert_eq!(message.header("trace"), Some("2"));
        assert_eq!(message.header("raw"), None);
        assert_eq!(message.header("absent"), None);
    }

    #[test]
    fn forwarding_leaves_out_what_speaks_to_the_server_about_the_original() {
        let mut message = testing::message(1, "a", [0xff]);
        let own = [Header::new("traceparent", 1), Header::new("Nats", 2), Header::new("größe", 3)];
        message.headers = own.to_vec();
        message.headers.extend(["Nats-Msg-Id", "nats-rollup", "Nats-TTL"].map(|name| Header::new(name, 1)));
        let mut bench = testing::partition("p").open::<Forward>().unwrap();

        bench.handle(&[message]);

        let [sent] = bench.published() else { panic!("published {:?}", bench.published()) };
        assert_eq!((sent.headers.as_slice(), sent.payload.as_slice()), (own.as_slice(), [0xff].as_slice()));
    }

    struct Forward;

    impl Handler for Forward {
        fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
            Ok(Self)
        }

        fn handle(&mut self, message: &Message) -> Verdict {
            Ok(message.forward("elsewhere")?)
        }
    }
}
