//! What an author implements, and what a handler may say about a message.
//!
//! Pure: nothing here talks to the host, so all of it runs in native tests.

use std::fmt::Display;
use std::time::Duration;

use crate::{
    CloseReason, Completed, Error, Message, OpenReason, Outcome, Partition, PublishError, Snapshot, Unreadable, log,
};

/// What became of one message: `Ok(())` = its effects are complete, or why it is not done.
///
/// ```
/// use parti_guest::{Failure, Message, OrFail, Verdict};
///
/// fn handle(message: &Message) -> Verdict {
///     let text = message.text()?; // not UTF-8: rejected, with the reason
///     let celsius: f64 = text.trim().parse().or_reject()?; // not a number: rejected, with the reason
///     if celsius < -273.15 {
///         return Err(Failure::reject(format!("{celsius} °C is below absolute zero")));
///     }
///     message.publish("kelvin", (celsius + 273.15).to_string())?; // refused by the host: retried
///     Ok(())
/// }
///
/// use parti_guest::testing::message;
/// assert_eq!(handle(&message(1, "t", "cold")), Err(Failure::reject("invalid float literal")));
/// ```
pub type Verdict = Result<(), Failure>;

/// Why a message is not done, and so what the host does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It can never be handled: the host dead-letters it now with this reason and goes on with the next message.
    Reject(String),
    /// It may succeed later: delivered again after the host's own backoff. Nothing overtakes it, every retry counts as
    /// an attempt, and after `handler.maxAttempts` of them the host dead-letters it.
    Retry,
    /// Like `Retry`, but after this delay (whole milliseconds, rounded up).
    RetryAfter(Duration),
}

impl Failure {
    /// `Reject` with a reason that the operator will read in the dead letter.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject(reason.into())
    }
}

/// A payload that cannot be read now cannot be read later: rejected.
impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        Self::Reject(error.to_string())
    }
}

/// Retried, because a refused publish may be this batch's limit: a retried message begins the next batch. The reason is
/// logged, since a retry itself carries none.
impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        log::warn!("{error}; the message will be retried");
        Self::Retry
    }
}

/// Says which failure an error means, where only the author can know: put it before `?`.
///
/// Works on every `Result` whose error can be displayed, also on `anyhow::Error` and `Box<dyn Error>`.
pub trait OrFail<T> {
    /// The error will come again each time: reject the message, with the error as reason.
    fn or_reject(self) -> Result<T, Failure>;

    /// The error may pass: retry the message after the host's own backoff. The error is logged.
    fn or_retry(self) -> Result<T, Failure>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_reject(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Reject(error.to_string()))
    }

    fn or_retry(self) -> Result<T, Failure> {
        self.map_err(|error| {
            log::warn!("{error}; the message will be retried");
            Failure::Retry
        })
    }
}

/// Processes the messages of one partition. The host opens one handler per partition that this worker owns.
///
/// Within a partition there is never more than one call at a time and messages come in stream order. A panic ends the
/// instance; the host opens a new one from the last committed snapshot and delivers what followed it again.
pub trait Handler: Sized + 'static {
    /// Begin with a partition, from the snapshot of its last commit if there is one.
    ///
    /// An error keeps the partition waiting: the host shows it, tries again, and never skips it. So refuse what you
    /// cannot work with here, an unreadable snapshot or a wrong configuration, rather than message by message.
    fn open(partition: &Partition, why: OpenReason, from: Option<Snapshot>) -> Result<Self, Error>;

    /// Handle one message.
    fn handle(&mut self, message: &Message) -> Verdict;

    /// Handle messages in order. By default each one goes to [`handle`](Self::handle), up to the first that must be
    /// retried; what follows that one is untouched and comes again.
    ///
    /// Override it where messages are cheaper together than one by one. Collecting verdicts into an [`Outcome`] stops at
    /// the first retry too.
    fn handle_batch(&mut self, batch: &[Message]) -> Outcome {
        batch.iter().map(|message| self.handle(message)).collect()
    }

    /// The state as of the last message that is done; `None`, the default, is a handler without state.
    ///
    /// The host asks when a commit is due, not after every batch, and stores the answer together with the position.
    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(None)
    }

    /// End. By default nothing: state that matters is in the snapshot, which the host has already taken. With
    /// [`CloseReason::Lost`] another owner exists, so write nothing.
    fn close(&mut self, _why: CloseReason) {}
}

impl Outcome {
    /// The first `count` messages of the batch are done and nothing is retried.
    pub fn acked(count: usize) -> Self {
        Self { done: vec![Completed::Ack; count], retry: None }
    }
}

/// Takes verdicts in the order of the batch, and none after the first retry.
///
/// ```
/// use parti_guest::{Completed, Failure, Outcome};
///
/// let verdicts = [Ok(()), Err(Failure::reject("no")), Err(Failure::Retry), Ok(())];
/// let outcome: Outcome = verdicts.into_iter().collect();
/// assert_eq!(outcome.done, [Completed::Ack, Completed::Reject("no".into())]);
/// assert_eq!(outcome.retry, Some(None));
/// ```
impl FromIterator<Verdict> for Outcome {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        let mut outcome = Self::acked(0);
        for verdict in verdicts {
            match verdict {
                Ok(()) => outcome.done.push(Completed::Ack),
                Err(Failure::Reject(reason)) => outcome.done.push(Completed::Reject(reason)),
                Err(Failure::Retry) => outcome.retry = Some(None),
                Err(Failure::RetryAfter(delay)) => outcome.retry = Some(Some(whole_milliseconds(delay))),
            }
            if outcome.retry.is_some() {
                break;
            }
        }
        outcome
    }
}

/// Rounded up, so that a short delay does not become none.
fn whole_milliseconds(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    struct Scripted {
        verdicts: Vec<Verdict>,
        handled: usize,
    }

    impl Handler for Scripted {
        fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
            Ok(Self { verdicts: Vec::new(), handled: 0 })
        }

        fn handle(&mut self, _: &Message) -> Verdict {
            self.handled += 1;
            self.verdicts[self.handled - 1].clone()
        }
    }

    #[test]
    fn the_default_loop_touches_nothing_after_the_first_retry() {
        let batch: Vec<Message> = (1..=4).map(|sequence| testing::message(sequence, "a", "")).collect();
        let mut handler =
            Scripted { verdicts: vec![Ok(()), Err(Failure::reject("bad")), Err(Failure::Retry), Ok(())], handled: 0 };

        let outcome = handler.handle_batch(&batch);

        assert_eq!(outcome.done, [Completed::Ack, Completed::Reject("bad".into())]);
        assert_eq!(outcome.retry, Some(None));
        assert_eq!(handler.handled, 3);
    }

    #[test]
    fn a_retry_delay_is_given_in_whole_milliseconds_and_never_becomes_none() {
        let delayed = |delay| [Err(Failure::RetryAfter(delay))].into_iter().collect::<Outcome>().retry;

        assert_eq!(delayed(Duration::from_micros(1)), Some(Some(1)));
        assert_eq!(delayed(Duration::from_secs(2)), Some(Some(2000)));
        assert_eq!(delayed(Duration::MAX), Some(Some(u64::MAX)));
    }
}
