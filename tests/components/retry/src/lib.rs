//! Asks for a message with the payload `retry N` again until it has been retried N times, then acks it; plain `retry` is
//! never acked, `retry N after MS` asks with that delay. Every other message is acked.

use std::time::Duration;

use parti_guest::{Error, Failure, Handler, Message, OpenReason, OrFail, Partition, Snapshot, Verdict};

struct Retry;

impl Handler for Retry {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        let words: Vec<&str> = message.text()?.split(' ').collect();
        let (times, failure) = match words.as_slice() {
            ["retry"] => (u32::MAX, Failure::Retry),
            ["retry", times] => (times.parse().or_reject()?, Failure::Retry),
            ["retry", times, "after", delay] => {
                let delay = Duration::from_millis(delay.parse().or_reject()?);
                (times.parse().or_reject()?, Failure::RetryAfter(delay))
            }
            _ => return Ok(()),
        };
        if message.attempt <= times { Err(failure) } else { Ok(()) }
    }
}

parti_guest::export!(Retry);
