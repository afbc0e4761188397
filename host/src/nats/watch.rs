//! Watching a bucket for ever.
//!
//! A watch never resumes. Whatever breaks it (the connection, the consumer, silence), it begins anew and tells everything again,
//! because what had changed meanwhile is not known, and because watchers that resume have been seen to die without a word.

use super::api::ApiError;
use super::backoff::Backoff;
use super::kv::{Store, read_backlog};
use super::reader::Filters;
use parti_coordination::StoredEntry;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Waits before a broken watch begins anew. There is one even before the first new attempt: a fleet that re-watches in step has
/// taken clusters down.
const RESTART: Backoff = Backoff { first: Duration::from_millis(200), cap: Duration::from_secs(4) };

/// Events that may wait to be taken.
const BUFFER: usize = 256;

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvEvent {
    /// A key's latest revision, new or told again.
    Entry {
        /// The key.
        key: String,
        /// Its latest revision; without a value after a deletion or an expiry.
        entry: StoredEntry,
    },
    /// Everything that the bucket held has been told. Comes again after each restart of the watch; a key that was not told
    /// since the one before is gone.
    Ready,
}

/// A watch of a bucket; ends when it is dropped.
pub struct Watch {
    events: mpsc::Receiver<KvEvent>,
    _task: AbortOnDropHandle<()>,
}

impl Watch {
    pub(super) fn start(store: Store, keys: Option<Filters>) -> Self {
        let (sender, events) = mpsc::channel(BUFFER);
        let task = tokio::spawn(async move {
            let mut attempt = 1;
            loop {
                let Err(error) = tell(&store, keys.as_ref(), &sender, &mut attempt).await else { return };
                tracing::debug!(bucket = store.name(), %error, "the watch begins anew");
                attempt += 1;
                sleep(RESTART.before(attempt)).await;
            }
        });
        Self { events, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits for the next event. May be cancelled without loss.
    pub async fn next(&mut self) -> KvEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The runtime is shutting down, and this task with it.
            None => std::future::pending().await,
        }
    }
}

/// Tells everything and then every change. Ends with an error, or when nobody listens any more.
async fn tell(
    store: &Store,
    keys: Option<&Filters>,
    events: &mpsc::Sender<KvEvent>,
    attempt: &mut u32,
) -> Result<(), ApiError> {
    // Without a connection there is nothing to try.
    if store.nats().link().wait_for(|link| link.connected).await.is_err() {
        return Ok(());
    }
    let mut reader = store.reader(keys).await?;
    let mut batch = Vec::new();
    let mut ready = false;
    loop {
        if ready {
            reader.read(&mut batch).await.map_err(|end| ApiError::Failed(end.to_string()))?;
        } else if !read_backlog(&mut reader, &mut batch).await? {
            ready = true;
            *attempt = 1;
            if events.send(KvEvent::Ready).await.is_err() {
                return Ok(());
            }
        }
        for (key, entry) in batch.drain(..).filter_map(|message| store.entry(&message)) {
            if events.send(KvEvent::Entry { key, entry }).await.is_err() {
                return Ok(());
            }
        }
    }
}
