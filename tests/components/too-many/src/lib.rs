//! Answers every batch with one verdict more than it has messages.

use parti_guest::{Error, Handler, Message, OpenReason, Outcome, Partition, Snapshot, Verdict};

struct TooMany;

impl Handler for TooMany {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Message) -> Verdict {
        Ok(())
    }

    fn handle_batch(&mut self, batch: &[Message]) -> Outcome {
        Outcome::acked(batch.len() + 1)
    }
}

parti_guest::export!(TooMany);
