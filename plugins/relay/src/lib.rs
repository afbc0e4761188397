//! Publishes each message again, payload and headers, to `<prefix>.<its subject>`. Headers that begin with `Nats-` stay
//! behind: they belong to the original.
//!
//! Configuration: `prefix` (default `out`).

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict, config};

struct Relay {
    prefix: String,
}

impl Handler for Relay {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        let prefix = config::get("prefix").unwrap_or_else(|| "out".into());
        Ok(Self { prefix })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        message.forward(format!("{}.{}", self.prefix, message.subject))?;
        Ok(())
    }
}

parti_guest::export!(Relay);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::serde_json::json;
    use parti_guest::{Header, Outcome, testing};

    #[test]
    fn payload_and_headers_go_on_unchanged() {
        let mut relay = testing::partition("p").open::<Relay>().unwrap();
        let headers = vec![Header::new("traceparent", "00-1-2-01"), Header::new("traceparent", "again")];
        let message = Message { headers: headers.clone(), ..testing::message(7, "p.orders", [0, 0xff]) };

        assert_eq!(relay.handle(&[message]), Outcome::acked(1));

        let [sent] = relay.published() else { panic!("published {:?}", relay.published()) };
        assert_eq!((sent.cause, sent.subject.as_str()), (7, "out.p.orders"));
        assert_eq!((&sent.headers, sent.payload.as_slice()), (&headers, [0, 0xff].as_slice()));
    }

    #[test]
    fn the_prefix_comes_from_the_configuration() {
        let mut relay = testing::partition("p").config(json!({"prefix": "copy.of"})).open::<Relay>().unwrap();
        relay.handle(&[testing::message(1, "p.orders", "")]);
        assert_eq!(relay.published()[0].subject, "copy.of.p.orders");
    }
}
