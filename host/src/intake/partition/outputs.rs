//! What a partition publishes: its handler's outputs, and the messages that cannot be handled.

use super::super::chunk::Held;
use super::super::shared::{Handling, Shared};
use crate::nats::{OutgoingMessage, Published, sendable_headers};
use crate::plugin::Publish;
use parti_coordination::{Outgoing, PartitionId};
use std::sync::Arc;

/// Whose messages they are.
pub(super) struct Sender {
    pub(super) partition: PartitionId,
    /// Of the handler.
    pub(super) version: Arc<str>,
}

/// Publishes everything and waits for every confirmation.
pub(super) async fn send(
    shared: &Shared,
    handling: &Handling,
    by: &Sender,
    outgoing: Vec<Outgoing<Held, Publish>>,
) -> Result<(), String> {
    // Sent one after the other, so that a subject's outputs are stored in order; confirmed together.
    let count = outgoing.len();
    let mut receipts = Vec::with_capacity(count);
    let mut first = None;
    for outgoing in outgoing {
        let dead_letter = matches!(outgoing, Outgoing::DeadLetter { .. });
        let message = match outgoing {
            Outgoing::Publish { id, body } => {
                OutgoingMessage { subject: body.subject, id, headers: body.headers, payload: body.payload }
            }
            Outgoing::DeadLetter { id, message, reason, attempts } => {
                let (payload, message) = (message.body.payload(), message.body.message(1));
                // What others have sent and cannot be sent on must not keep the message from leaving.
                let mut headers = sendable_headers(message.headers.iter().map(|(name, value)| (&**name, *value)));
                let origin: [(&str, String); 7] = [
                    ("Parti-Stream", shared.stream.clone()),
                    ("Parti-Sequence", message.sequence.to_string()),
                    ("Parti-Subject", message.subject.to_owned()),
                    ("Parti-Partition", by.partition.to_string()),
                    ("Parti-Attempts", attempts.to_string()),
                    ("Parti-Reason", one_line(&reason)),
                    ("Parti-Handler", by.version.to_string()),
                ];
                headers.extend(origin.into_iter().map(|(name, value)| (name.to_owned(), value)));
                let subject = handling.dead_letter.clone().unwrap_or_default();
                OutgoingMessage { subject, id, headers, payload }
            }
        };
        let subject = message.subject.clone();
        let receipt = shared.publisher.send(message).await;
        let connection = receipt.connection();
        receipts.push((subject, dead_letter, receipt));
        // Nothing may overtake what was not sent, or was sent over a connection that is gone: everything is sent again.
        if connection.is_none() || *first.get_or_insert(connection) != connection {
            break;
        }
    }
    let complete = receipts.len() == count;
    let confirmed = receipts
        .into_iter()
        .map(|(subject, dead_letter, receipt)| async move { (subject, dead_letter, receipt.published().await) });
    let mut result = if complete { Ok(()) } else { Err("the connection to NATS was lost".to_owned()) };
    for (subject, dead_letter, published) in futures::future::join_all(confirmed).await {
        match published {
            Published::Confirmed { .. } => {
                shared.metrics.publishes_confirmed.inc();
                if dead_letter {
                    shared.metrics.dead_letters.inc();
                }
            }
            Published::NoStream => result = Err(format!("no stream captures the subject {subject:?}")),
            Published::Refused { text, .. } => result = Err(format!("{subject:?}: {text}")),
            Published::Unknown => result = Err(format!("no confirmation for {subject:?}")),
        }
    }
    result
}

/// A header value holds no line breaks.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect()
}
