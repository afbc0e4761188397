//! Consumers that nobody reads: on an Interest stream they keep the messages of partitions that have no owner, and they are
//! swept away when an owner's consumer delivers what they keep. On a WorkQueue stream those of the dead are swept away.

use super::consumers::{self, Leftovers};
use super::{ACK_WAIT, Membership};
use crate::nats::{ApiError, CreateConsumerError, Filters, QueueConsumers, Retention};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

/// Subjects of one consumer at most: creating one costs the server about 0.07 s with a thousand, seconds with several thousand.
pub(super) const MOST_SUBJECTS: usize = 1000;

/// After a new plan, owners are given this long to make their consumers before leftovers are looked for.
const SETTLE: Duration = Duration::from_secs(2);

/// First and longest wait before leftovers that remain are looked at again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After so many looks, what an unread consumer still has to keep is separated from what others deliver.
const SEPARATE: u32 = 3;

/// Makes and sweeps away the consumers that nobody reads. Cheap to clone.
#[derive(Clone)]
pub(in crate::intake) struct Keeper {
    pub(super) consumers: QueueConsumers,
    pub(super) retention: Retention,
    pub(super) group: String,
    pub(super) prefix: String,
}

impl Keeper {
    /// Makes sure that the stream keeps the messages with these subjects from now on.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub(in crate::intake) async fn keep(&self, subjects: Vec<String>) -> Result<(), String> {
        if self.retention != Retention::Interest {
            return Ok(());
        }
        let known = self.known().await.map_err(|error| error.to_string())?;
        let subjects = consumers::unkept(&known, subjects);
        if !subjects.is_empty() {
            tracing::info!(partitions = subjects.len(), "A consumer keeps the messages of partitions without an owner");
        }
        self.create(&subjects).await.map_err(|error| error.to_string())
    }

    pub(super) async fn known(&self) -> Result<Vec<consumers::Known>, ApiError> {
        Ok(consumers::of_group(&self.group, self.consumers.list().await?).0)
    }

    /// Makes consumers that keep the messages with these subjects.
    pub(super) async fn create(&self, subjects: &[String]) -> Result<(), CreateConsumerError> {
        for chunk in subjects.chunks(MOST_SUBJECTS) {
            let name = format!("{}-keeper-{}", self.prefix, Uuid::new_v4());
            if let Some(filters) = Filters::new(chunk.to_vec()) {
                self.consumers.create(&name, &filters, consumers::labels(&self.group, None), ACK_WAIT).await?;
            }
        }
        Ok(())
    }

    /// Looks for leftovers whenever there may be some. Ends with the sender of `membership`.
    pub(super) async fn sweep(self, mut membership: watch::Receiver<Membership>, poke: Arc<Notify>) {
        let mut looks = 0;
        let mut next: Option<Instant> = None;
        loop {
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = poke.notified() => looks = 0,
                changed = membership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    looks = 0;
                    // Plans that follow each other are one occasion.
                    let settled = Instant::now() + SETTLE;
                    while let Ok(changed) = timeout_at(settled, membership.changed()).await {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
            let now = membership.borrow().clone();
            let remain = match self.sweep_once(&now, looks >= SEPARATE).await {
                Ok(remain) => remain,
                Err(error) => {
                    tracing::debug!(error, "Consumers cannot be swept away; trying again");
                    true
                }
            };
            let wait = AGAIN.0.saturating_mul(1 << looks.min(16)).min(AGAIN.1);
            next = remain.then(|| Instant::now() + wait);
            looks = looks.saturating_add(1);
        }
    }

    /// Whether something remains to be swept away later.
    async fn sweep_once(&self, membership: &Membership, separate: bool) -> Result<bool, String> {
        let Membership { me, fleet } = membership;
        let known = self.known().await.map_err(|error| error.to_string())?;
        if self.retention != Retention::Interest {
            for dead in known.iter().filter(|known| known.is_dead(fleet)) {
                self.delete(&dead.name).await?;
            }
            return Ok(false);
        }
        let Leftovers { superfluous, partly, uncovered, remain } = consumers::leftovers(&known, fleet);
        for name in superfluous {
            self.delete(&name).await?;
        }
        // One worker is enough for that.
        let first = fleet.live.keys().next();
        if separate && !partly.is_empty() && me.as_ref().is_some_and(|me| Some(&me.worker) == first) {
            self.create(&uncovered).await.map_err(|error| error.to_string())?;
            for name in partly {
                self.delete(&name).await?;
            }
        }
        Ok(remain)
    }

    async fn delete(&self, name: &str) -> Result<(), String> {
        self.consumers.delete(name).await.map_err(|error| error.to_string())?;
        tracing::info!(consumer = name, "A consumer that nobody needs is deleted");
        Ok(())
    }
}
