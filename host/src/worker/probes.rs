//! Being reached by others: whoever probes this worker gets an answer.

use super::status::Board;
use crate::nats::Peers;
use parti_coordination::{Event, Incarnation};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// How long after a failure a worker tries again to be reached by probes.
const REACHABLE_AGAIN: Duration = Duration::from_secs(5);

/// Answers probes of this incarnation until the handle is dropped. Setting that up waits for NATS, which the control loop must
/// not. A worker that cannot be reached works, is judged by its heartbeat alone, and says so until it can.
pub(super) fn answer(
    peers: Peers,
    incarnation: Incarnation,
    events: mpsc::UnboundedSender<Event>,
    board: Arc<Mutex<Board>>,
) -> AbortOnDropHandle<()> {
    let show = move |problem: Option<String>| {
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = board.unreachable != problem;
        board.unreachable = problem;
        is_new
    };
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            match peers.answer(&incarnation).await {
                Ok(mut responder) => {
                    show(None);
                    loop {
                        let by = responder.asked().await;
                        // The control loop has ended: nobody is to be told, and who asks is still to be answered.
                        let _ = events.send(Event::Probed { by });
                    }
                }
                Err(error) => {
                    if show(Some(error.to_string())) {
                        tracing::warn!(%error, "Probes cannot be answered; this worker is judged by its heartbeat alone");
                    }
                    tokio::time::sleep(REACHABLE_AGAIN).await;
                }
            }
        }
    }))
}
