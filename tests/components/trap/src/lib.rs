//! Traps on a payload that starts with `trap`; counts every other message.
//!
//! The state is the count as a JSON number, format `count/1`. A count that is lost or doubled after a trap shows there.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

const FORMAT: &str = "count/1";

struct Trap {
    count: u64,
}

impl Handler for Trap {
    fn open(_: &Partition, _: OpenReason, from: Option<Snapshot>) -> Result<Self, Error> {
        let count = match from {
            Some(snapshot) => snapshot.read_json(FORMAT)?,
            None => 0,
        };
        Ok(Self { count })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        // Counted first, so that an instance which survived its trap would be found out.
        self.count += 1;
        assert!(!message.payload.starts_with(b"trap"), "trap at sequence {}", message.sequence);
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(Some(Snapshot::json(FORMAT, &self.count)?))
    }
}

parti_guest::export!(Trap);
