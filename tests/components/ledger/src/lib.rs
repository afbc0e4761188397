//! Publishes each message again to `out.<its subject>` and keeps an account of what it has handled. A message that is lost,
//! handled twice or handled out of order shows in the account as well as in what came out.
//!
//! The first word of the payload says what becomes of the message: `trap` always traps, `flaky` traps at its first attempt,
//! `retry` asks to be tried again at its first attempt, `reject` is rejected; anything else is handled at once.
//!
//! The state is the account as JSON, format `ledger/1`.

use parti_guest::{Error, Failure, Handler, Message, OpenReason, Partition, Snapshot, Verdict};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "ledger/1";

/// A prime number that spreads the bits of what is multiplied with it: the one of the 64-bit hash FNV-1a.
const PRIME: u64 = 0x0100_0000_01b3;

/// How many messages, and a digest of their sequences that another order would change.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Account {
    count: u64,
    digest: u64,
}

struct Ledger {
    account: Account,
}

impl Handler for Ledger {
    fn open(_: &Partition, _: OpenReason, from: Option<Snapshot>) -> Result<Self, Error> {
        let account = match from {
            Some(snapshot) => snapshot.read_json(FORMAT)?,
            None => Account::default(),
        };
        Ok(Self { account })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        let before = self.account;
        // Entered first, so that an instance which survived its trap would be found out.
        self.account.count += 1;
        self.account.digest = (self.account.digest ^ message.sequence).wrapping_mul(PRIME);
        let kind = message.text()?.split(' ').next().unwrap_or_default();
        assert!(kind != "trap", "trap at sequence {}", message.sequence);
        assert!(kind != "flaky" || message.attempt > 1, "a first attempt at sequence {}", message.sequence);
        if kind == "retry" && message.attempt == 1 {
            self.account = before;
            return Err(Failure::Retry);
        }
        if kind == "reject" {
            self.account = before;
            return Err(Failure::reject("the payload says so"));
        }
        message.forward(format!("out.{}", message.subject))?;
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(Some(Snapshot::json(FORMAT, &self.account)?))
    }
}

parti_guest::export!(Ledger);
