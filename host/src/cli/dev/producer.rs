//! Publishes at a steady rate, many messages in flight, and keeps the ledger.

use super::ledger::{EntryError, Ledger};
use super::workload::Workload;
use crate::nats::{OutgoingMessage, Published, Publisher};
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use parti_coordination::Sequence;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Unconfirmed messages at most.
pub(super) const IN_FLIGHT: usize = 1024;

/// How often messages are sent.
const BEAT: Duration = Duration::from_millis(10);

/// What was missed for longer than this is not made up for: a burst would be no steady rate.
const LATE: Duration = Duration::from_millis(200);

/// A producer at work.
pub(super) struct Producer {
    task: JoinHandle<Result<Ledger, ProducerError>>,
    stop: CancellationToken,
    published: Arc<AtomicU64>,
}

/// Why a producer gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProducerError {
    /// A message is not in the stream, or nobody knows.
    #[error("a message to {subject} was not confirmed: {what:?}")]
    Unconfirmed {
        /// Its subject.
        subject: String,
        /// What came instead.
        what: Published,
    },
    /// A message that does not fit the ledger.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A bug.
    #[error("the producer failed: {0}")]
    Task(String),
}

impl Producer {
    /// Starts publishing `rate` messages per second, each to the subject of its partition.
    pub(super) fn start(
        publisher: Publisher,
        workload: Workload,
        subjects: Vec<String>,
        ledger: Ledger,
        rate: u32,
    ) -> Self {
        let (stop, published) = (CancellationToken::new(), Arc::default());
        let shift =
            Shift { publisher, workload, subjects, ledger, published: Arc::clone(&published), stop: stop.clone() };
        Self { task: tokio::spawn(shift.work(rate)), stop, published }
    }

    /// Messages that the stream has confirmed.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Whether it is through with its workload, or has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops publishing, waits for what is unconfirmed, and gives the ledger.
    ///
    /// # Errors
    /// See [`ProducerError`].
    pub(super) async fn stop(self) -> Result<Ledger, ProducerError> {
        self.stop.cancel();
        self.task.await.unwrap_or_else(|error| Err(ProducerError::Task(error.to_string())))
    }
}

struct Shift {
    publisher: Publisher,
    workload: Workload,
    subjects: Vec<String>,
    ledger: Ledger,
    published: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Shift {
    async fn work(mut self, rate: u32) -> Result<Ledger, ProducerError> {
        let rate = f64::from(rate);
        let burst = (rate * LATE.as_secs_f64()).max(1.0);
        // Confirmations are entered in the order of sending, which is the stream's.
        let mut unconfirmed = FuturesOrdered::new();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut before) = (0.0, Instant::now());
        let (mut working, mut sent) = (true, 0u64);
        while working || !unconfirmed.is_empty() {
            tokio::select! {
                () = self.stop.cancelled(), if working => working = false,
                Some(confirmed) = unconfirmed.next() => self.enter(confirmed)?,
                now = beat.tick(), if working => {
                    due = f64::min(due + rate * (now - before).as_secs_f64(), burst);
                    before = now;
                    while due >= 1.0 && unconfirmed.len() < IN_FLIGHT {
                        due -= 1.0;
                        let Some(line) = self.workload.next() else {
                            working = false;
                            break;
                        };
                        let subject = self.subjects.get(line.partition).cloned().unwrap_or_default();
                        let message = OutgoingMessage {
                            subject: subject.clone(),
                            id: format!("dev:{sent}"),
                            headers: Vec::new(),
                            payload: line.payload.clone(),
                        };
                        sent += 1;
                        let receipt = self.publisher.send(message).await;
                        unconfirmed.push_back(async move { (line, subject, receipt.published().await) });
                    }
                }
            }
        }
        Ok(self.ledger)
    }

    fn enter(&mut self, (line, subject, what): (super::input::Line, String, Published)) -> Result<(), ProducerError> {
        let Published::Confirmed { sequence, .. } = what else {
            return Err(ProducerError::Unconfirmed { subject, what });
        };
        self.ledger.enter(line.partition, Sequence(sequence), &line.payload)?;
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
