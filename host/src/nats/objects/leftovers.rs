//! Chunks that a failed put has left behind without anything that could ever name them.
//!
//! Of a put that fails before it has tried to describe its object, the chunks are nobody's: their subject ends with the attempt, and
//! what would have named that was never sent. They are purged by that subject. Once it was tried to describe the object, its chunks
//! stay, whatever became of it: they go with the object's name. So do those that are not purged here, because there are too many or
//! the process ends.

use super::super::api::ApiError;
use super::super::connection::Nats;
use async_nats::jetstream::ErrorCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// So many attempts wait to be purged at most: an outage makes more of them than are worth remembering.
const WAITING: usize = 1024;

/// The failed attempts whose chunks are to be purged.
pub(super) struct Leftovers {
    subjects: mpsc::Sender<String>,
}

impl Leftovers {
    /// Purges in the background, until this is dropped.
    pub(super) fn start(nats: &Nats, stream: &str) -> Self {
        let (subjects, inbox) = mpsc::channel(WAITING);
        tokio::spawn(purge(nats.clone(), stream.to_owned(), inbox));
        Self { subjects }
    }

    /// Nothing will ever name the chunks under this subject.
    pub(super) fn add(&self, subject: String) {
        if self.subjects.try_send(subject).is_err() {
            tracing::debug!(
                "Too many snapshots fail to purge their chunks one by one; they go with the snapshots' names"
            );
        }
    }
}

async fn purge(nats: Nats, stream: String, mut inbox: mpsc::Receiver<String>) {
    let request = format!("STREAM.PURGE.{stream}");
    let mut subjects = Vec::new();
    while inbox.recv_many(&mut subjects, WAITING).await > 0 {
        // What was on its way has arrived by then; what the client still held is sent as soon as the connection is back.
        if !settled(&nats).await {
            return;
        }
        while let Some(subject) = subjects.last() {
            match nats.api::<_, Value>(&request, &json!({ "filter": subject })).await {
                Err(ApiError::Refused { code, .. }) if code == ErrorCode::STREAM_NOT_FOUND.0 => subjects.clear(),
                Err(error @ (ApiError::TimedOut | ApiError::Disconnected | ApiError::NoResponders)) => {
                    tracing::debug!(%error, "The chunks of a failed put are not purged yet");
                    if !settled(&nats).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "The chunks of a failed put are not purged");
                    subjects.pop();
                }
                Ok(_) => drop(subjects.pop()),
            }
        }
    }
}

/// Waits until the connection has held for the time that an operation takes. False if there will be none any more.
async fn settled(nats: &Nats) -> bool {
    let mut link = nats.link();
    loop {
        let Ok(reconnects) = link.wait_for(|link| link.connected).await.map(|link| link.reconnects) else {
            return false;
        };
        sleep(nats.operation_timeout()).await;
        let link = *link.borrow();
        if link.connected && link.reconnects == reconnects {
            return true;
        }
    }
}
