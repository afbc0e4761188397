//! Acknowledges messages in the background, many at once, each until the server has confirmed it.
//!
//! An acknowledgement is never wrong, however late it comes: only what a landed commit covers is acknowledged. So nothing is
//! fenced here; what reaches a consumer that is gone is simply not needed any more.

use crate::nats::{Acknowledger, ApiError, Nats};
use crate::telemetry::Metrics;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// Acknowledgements under way at once.
const AT_ONCE: usize = 256;

enum Order {
    Acknowledge(String),
    Extend(String),
}

#[derive(Default)]
struct Open {
    count: AtomicUsize,
    less: Notify,
}

/// The acknowledgements of one lane.
pub(super) struct Acks {
    orders: mpsc::UnboundedSender<Order>,
    open: Arc<Open>,
}

impl Acks {
    pub(super) fn start(nats: &Nats, metrics: Arc<Metrics>) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let open = Arc::default();
        tokio::spawn(run(Acknowledger::new(nats), metrics, inbox, Arc::clone(&open)));
        Self { orders, open }
    }

    /// Acknowledges a message.
    pub(super) fn acknowledge(&self, reply: String) {
        self.open.count.fetch_add(1, Ordering::AcqRel);
        let _ = self.orders.send(Order::Acknowledge(reply));
    }

    /// Has the server wait longer for a message.
    pub(super) fn extend(&self, reply: String) {
        self.open.count.fetch_add(1, Ordering::AcqRel);
        let _ = self.orders.send(Order::Extend(reply));
    }

    /// Waits until everything is confirmed, or for this long.
    pub(super) async fn flush(&self, longest: Duration) {
        let done = async {
            loop {
                let less = self.open.less.notified();
                if self.open.count.load(Ordering::Acquire) == 0 {
                    return;
                }
                less.await;
            }
        };
        let _ = timeout(longest, done).await;
    }
}

async fn run(acks: Acknowledger, metrics: Arc<Metrics>, mut orders: mpsc::UnboundedReceiver<Order>, open: Arc<Open>) {
    let carry_out = |order: Order| {
        let acks = acks.clone();
        async move {
            let result = match &order {
                Order::Acknowledge(reply) => acks.acknowledge(reply).await,
                Order::Extend(reply) => acks.in_progress(reply).await,
            };
            (order, result)
        }
    };
    let mut under_way = FuturesUnordered::new();
    loop {
        let (order, result) = tokio::select! {
            order = orders.recv(), if under_way.len() < AT_ONCE => {
                match order {
                    Some(order) => under_way.push(carry_out(order)),
                    None => return,
                }
                continue;
            }
            Some(ended) = under_way.next() => ended,
        };
        match (&order, result) {
            (Order::Acknowledge(_), Err(ApiError::TimedOut | ApiError::Disconnected)) => {
                metrics.acks_repeated.inc();
                under_way.push(carry_out(order));
                continue;
            }
            (Order::Acknowledge(_), Ok(())) => metrics.acks_confirmed.inc(),
            // The consumer is gone; what it had not acknowledged comes again and is acknowledged then.
            (_, Err(error)) => tracing::trace!(%error, "A message was not acknowledged"),
            (Order::Extend(_), Ok(())) => {}
        }
        if open.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            open.less.notify_waiters();
        }
    }
}
