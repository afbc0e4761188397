//! Never returns from a message with the payload `spin`; acks every other one.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

struct Spin;

impl Handler for Spin {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        if message.payload == b"spin" {
            loop {
                std::hint::black_box(message);
            }
        }
        Ok(())
    }
}

parti_guest::export!(Spin);
