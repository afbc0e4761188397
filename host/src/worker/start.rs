//! Where a partition begins that nobody has ever owned: `stream.startFrom`, resolved once against the server.

use super::settings::from_sentence;
use crate::config::StartFrom;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{ApiError, Nats, Stored, StreamInfo};
use parti_coordination::Position;

/// Streams in which a consumer is looked for that the configured one does not have.
const SEARCHED: usize = 100;

/// The position that the first record of a partition gets.
///
/// # Errors
/// A consumer that the stream does not have, or no answer from the server.
pub(super) async fn start_position(
    nats: &Nats,
    from: &StartFrom,
    info: &StreamInfo,
) -> Result<Position, OperatorError> {
    let stored = Stored::new(nats, &info.name);
    match from {
        StartFrom::All => Ok(Position(0)),
        StartFrom::New => Ok(Position(info.last.0)),
        StartFrom::Time(time) => stored.position_at(*time).await.map_err(|error| unanswered(info, &error)),
        StartFrom::Consumer(name) => match stored.ack_floor(name).await.map_err(|error| unanswered(info, &error))? {
            Some(floor) => Ok(floor),
            None => Err(no_consumer(nats, name, info).await),
        },
    }
}

fn unanswered(info: &StreamInfo, error: &ApiError) -> OperatorError {
    from_sentence(
        ErrorCode::NatsUnreachable,
        &format!(
            "stream.startFrom could not be resolved in stream {:?}: {error}. Check that JetStream is healthy and has a leader",
            info.name
        ),
    )
}

async fn no_consumer(nats: &Nats, name: &str, info: &StreamInfo) -> OperatorError {
    let what = format!("stream {:?} has no durable consumer {name:?} to start from", info.name);
    // Where it is instead is a help, not the point.
    for other in StreamInfo::all(nats).await.unwrap_or_default().into_iter().take(SEARCHED) {
        if other != info.name && matches!(Stored::new(nats, &other).ack_floor(name).await, Ok(Some(_))) {
            return ErrorCode::StartConsumerNotFound.error(
                what,
                format!("a consumer of this name belongs to stream {other:?}, whose sequences mean nothing here"),
                "correct stream.name or stream.startFrom",
            );
        }
    }
    ErrorCode::StartConsumerNotFound.error(
        what,
        "new partitions would start at a place that nobody has chosen",
        "correct stream.startFrom, or remove it once every partition has a record (parti partitions)",
    )
}
