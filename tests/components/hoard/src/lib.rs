//! Keeps every payload that it was ever given, so that its state grows as large as a test wants it.
//!
//! Configuration: `format` names the encoding of the state, by default `hoard/1`; a snapshot of another one is refused, as by a
//! version of a handler that does not know it. The state is a JSON list of `[sequence, payload]`.

use parti_guest::{Error, Handler, Message, OpenReason, Partition, Snapshot, Verdict, config};

struct Hoard {
    format: String,
    kept: Vec<(u64, String)>,
}

impl Handler for Hoard {
    fn open(_: &Partition, _: OpenReason, from: Option<Snapshot>) -> Result<Self, Error> {
        let format = config::get("format").unwrap_or_else(|| "hoard/1".to_owned());
        let kept = match from {
            Some(snapshot) => snapshot.read_json(&format)?,
            None => Vec::new(),
        };
        Ok(Self { format, kept })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        self.kept.push((message.sequence, message.text()?.to_owned()));
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(Some(Snapshot::json(&self.format, &self.kept)?))
    }
}

parti_guest::export!(Hoard);
