//! A handler that sends a request to the address that is the message, and publishes what is answered to `out.courier`. A message
//! whose request fails is rejected with the reason.

use parti_guest::http::Request;
use parti_guest::{Error, Failure, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

struct Courier;

impl Handler for Courier {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        let request = Request::post(message.text()?).body(vec![b'x'; 10_000]);
        let answer = request.send().map_err(|error| Failure::reject(error.to_string()))?;
        message.publish("out.courier", format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))?;
        Ok(())
    }
}

parti_guest::export!(Courier);
