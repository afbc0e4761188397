//! Messages at a steady rate.

use crate::fleet::subject;
use crate::handling::Handling;
use crate::wait::{DEADLINE, eventually, within};
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::interval;

const TICK: Duration = Duration::from_millis(10);

/// Publishes in the background. A message that the server does not confirm is published again under the same
/// `Nats-Msg-Id`, so that the stream holds each one once in the end, whatever happens to the server.
pub struct Producer {
    confirmed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Producer {
    /// Publishes `total` messages, `rate` a second: message `n` (from 0) goes to subject `n` modulo their number, with
    /// what `payload` makes of `n`.
    #[must_use]
    pub fn start(context: &Context, subjects: &[String], rate: u64, total: u64, payload: fn(u64) -> String) -> Self {
        let subjects = subjects.to_vec();
        Self::start_with(context, rate, total, move |n| (subjects[n as usize % subjects.len()].clone(), payload(n)))
    }

    /// Publishes `total` messages for this handler, `rate` a second, to every partition in turn.
    #[must_use]
    pub fn start_for(context: &Context, handling: Handling, partitions: usize, rate: u64, total: u64) -> Self {
        let message = move |n| (subject(n as usize % partitions), handling.payload(n));
        Self::start_with(context, rate, total, message)
    }

    /// Publishes `total` messages, `rate` a second: `message` gives the subject and the payload of each one, by its number.
    #[must_use]
    pub fn start_with(
        context: &Context,
        rate: u64,
        total: u64,
        message: impl Fn(u64) -> (String, String) + Send + 'static,
    ) -> Self {
        let context = context.clone();
        let confirmed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&confirmed);
        let task = tokio::spawn(async move {
            let mut ticks = interval(TICK);
            let in_a_tick = (rate * TICK.as_millis() as u64 / 1000).max(1);
            let mut next = 0;
            while next < total {
                ticks.tick().await;
                let end = total.min(next + in_a_tick);
                join_all((next..end).map(|n| {
                    let (subject, payload) = message(n);
                    publish(&context, subject, n, payload)
                }))
                .await;
                next = end;
                count.store(next, Ordering::Relaxed);
            }
        });
        Self { confirmed, task }
    }

    /// Waits until this many messages are in the stream.
    pub async fn reach(&self, count: u64) {
        eventually(&format!("{count} messages are published"), async || match self.confirmed.load(Ordering::Relaxed) {
            found if found >= count => Ok(()),
            found => Err(format!("{found} are")),
        })
        .await;
    }

    /// Publishes no more. What is on its way may still arrive.
    pub async fn stop(self) {
        self.task.abort();
        // It was stopped, or had ended.
        let _ = self.task.await;
    }

    /// Waits until all messages are in the stream.
    pub async fn finish(self) {
        self.finish_within(DEADLINE).await;
    }

    /// The same with another deadline.
    pub async fn finish_within(self, limit: Duration) {
        let Self { confirmed, task } = self;
        within(limit, "all messages are published", async || match task.is_finished() {
            true => Ok(()),
            false => Err(format!("{} are", confirmed.load(Ordering::Relaxed))),
        })
        .await;
        task.await.expect("a producer that does not panic");
    }
}

async fn publish(context: &Context, subject: String, number: u64, payload: String) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", number.to_string());
    loop {
        let sent = context.publish_with_headers(subject.clone(), headers.clone(), payload.clone().into()).await;
        if let Ok(ack) = sent
            && ack.await.is_ok()
        {
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}
