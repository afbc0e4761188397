//! Acks everything and does nothing: what the host costs by itself, for benchmarks and first tries.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict};

struct Noop;

impl Handler for Noop {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Message) -> Verdict {
        Ok(())
    }
}

parti_guest::export!(Noop);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::{Outcome, testing};

    #[test]
    fn everything_is_acked_and_nothing_published() {
        let mut noop = testing::partition("p").open::<Noop>().unwrap();
        let batch = [testing::message(1, "p.a", ""), testing::message(2, "p.b", [0xff])];
        assert_eq!(noop.handle(&batch), Outcome::acked(2));
        assert!(noop.published().is_empty());
    }
}
