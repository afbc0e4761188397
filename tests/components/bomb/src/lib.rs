//! Allocates until it may not on a message with the payload `bomb`; acks every other one.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

const CHUNK_BYTES: usize = 1 << 20;

struct Bomb {
    hoard: Vec<Vec<u8>>,
}

impl Handler for Bomb {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self { hoard: Vec::new() })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        if message.payload == b"bomb" {
            loop {
                self.hoard.push(std::hint::black_box(vec![1; CHUNK_BYTES]));
            }
        }
        Ok(())
    }
}

parti_guest::export!(Bomb);
