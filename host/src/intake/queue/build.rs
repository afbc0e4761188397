//! How a lane's consumer is made anew.
//!
//! On a WorkQueue stream: acknowledge what is to be acknowledged, delete ours, clear away what is in the way, create. A
//! consumer is in the way if it delivers a subject that is ours. That of a dead worker is deleted at once. Any other is seen
//! first, then every partition concerned looks at its record, and only if it is still its owner is the consumer deleted: it
//! then was its maker's before us, and has no business there. Nothing is lost by a deletion: the stream keeps the messages.
//!
//! On an Interest stream: create; what this supersedes is left to the keeper.

use super::consumers::{self, Known, Maker};
use super::lane::{Lane, Made};
use super::{ACK_WAIT, Membership};
use crate::error::ErrorCode;
use crate::intake::origin::BELIEVE_REWIND;
use crate::intake::shared::TaskEvent;
use crate::nats::{ApiError, CreateConsumerError, Filters, Retention, StreamError, StreamInfo};
use parti_coordination::{Input, Sequence};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a consumer that is to go waits for the last acknowledgements. What is not acknowledged by then comes again.
const FLUSH: Duration = Duration::from_secs(1);

/// After this time, those whose records could be read go on without those whose could not.
const DOUBT: Duration = Duration::from_millis(500);

/// Why there is no consumer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConsumer {
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error(transparent)]
    Create(#[from] CreateConsumerError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{0}")]
    InTheWay(String),
}

pub(super) async fn build(lane: &mut Lane) -> Result<(), NoConsumer> {
    let built = attempt(lane).await;
    if built.is_err() && lane.queue.origin.restore().await? {
        // The stream was gone.
        lane.build_by(Instant::now());
    }
    built
}

async fn attempt(lane: &mut Lane) -> Result<(), NoConsumer> {
    let retention = lane.queue.keeper.retention;
    lane.stop_reading();
    if retention == Retention::WorkQueue {
        lane.acks.flush(FLUSH).await;
        while let Some(made) = lane.made.last() {
            lane.queue.keeper.consumers.delete(&made.name).await?;
            lane.made.pop();
        }
    }
    lane.have_left();
    let subjects = lane.wanted();
    let membership = lane.queue.membership.borrow().clone();
    let (Some(filters), Some(_)) = (Filters::new(subjects.clone()), &membership.me) else {
        return retire(lane).await;
    };
    if retention == Retention::WorkQueue && !way_is_clear(lane, &subjects, &membership).await? {
        return Ok(());
    }
    create(lane, &filters, &membership).await
}

/// Nobody is left: on an Interest stream, what the last consumer keeps is kept by one that claims no owner.
async fn retire(lane: &mut Lane) -> Result<(), NoConsumer> {
    let kept: BTreeSet<String> = lane.made.iter().flat_map(|made| made.subjects.iter().cloned()).collect();
    lane.queue.keeper.create(&kept.into_iter().collect::<Vec<_>>()).await?;
    while let Some(made) = lane.made.last() {
        lane.queue.keeper.consumers.delete(&made.name).await?;
        lane.made.pop();
    }
    lane.queue.swept.notify_one();
    Ok(())
}

/// Whether no consumer is in the way any more. If not, the lane tries again when the partitions have looked at their records.
async fn way_is_clear(lane: &mut Lane, subjects: &[String], membership: &Membership) -> Result<bool, NoConsumer> {
    let wanted: BTreeSet<&String> = subjects.iter().collect();
    let listed = lane.queue.keeper.consumers.list().await?;
    let (labelled, strangers) = consumers::of_group(&lane.queue.keeper.group, listed);
    if let Some(stranger) = strangers.iter().find(|stranger| consumers::delivers_any(stranger, subjects)) {
        return Err(NoConsumer::InTheWay(format!(
            "consumer {:?} delivers the same subjects and is not of this group. Delete it, or give the group other partitions",
            stranger.name
        )));
    }
    let is_ours = |known: &Known| membership.me.as_ref().is_some_and(|me| known.is_of(me));
    let mut doubtful: BTreeSet<String> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for known in &labelled {
        // Another lane of ours makes room by itself.
        if is_ours(known) && known.maker.as_ref().is_some_and(|maker| maker.lane != lane.number) {
            continue;
        }
        let shared: Vec<&String> = known.subjects.iter().filter(|subject| wanted.contains(subject)).collect();
        if shared.is_empty() {
            continue;
        }
        let verified = shared.iter().any(|subject| lane.slots.get(*subject).is_some_and(|slot| slot.verified));
        let condemned = verified && lane.condemned.contains(&known.name);
        if condemned || is_ours(known) || known.is_dead(&membership.fleet) {
            lane.queue.keeper.consumers.delete(&known.name).await?;
            tracing::info!(consumer = known.name, "A consumer was deleted whose partitions are ours now");
        } else {
            seen.insert(known.name.clone());
            doubtful.extend(shared.into_iter().cloned());
        }
    }
    lane.condemned = seen;
    if doubtful.is_empty() {
        return Ok(true);
    }
    lane.doubt(&doubtful.into_iter().collect::<Vec<_>>());
    lane.build_by(Instant::now() + DOUBT);
    Ok(false)
}

async fn create(lane: &mut Lane, filters: &Filters, membership: &Membership) -> Result<(), NoConsumer> {
    let queue = Arc::clone(&lane.queue);
    let Some(owner) = membership.me.clone() else { return Ok(()) };
    let number = queue.number.fetch_add(1, Ordering::Relaxed) + 1;
    let name = format!("{}-{}-{}-{number}", queue.keeper.prefix, owner.incarnation.claim, owner.incarnation.uuid);
    let maker = Maker { owner, lane: lane.number, number, plan: membership.fleet.version };
    let labels = consumers::labels(&queue.keeper.group, Some(&maker));
    // Whatever becomes of the request, it may be there.
    let subjects: BTreeSet<String> = filters.subjects().iter().cloned().collect();
    if queue.keeper.retention == Retention::WorkQueue {
        lane.made.push(Made { name: name.clone(), subjects: subjects.clone() });
    }
    let reader = queue.keeper.consumers.open(&name, filters, labels, ACK_WAIT).await?;
    // Asked after the consumer was made: if this is the stream that we know, it was then, too.
    let stream = queue.origin.look().await?;
    if queue.keeper.retention != Retention::WorkQueue {
        // What it takes the place of is left to the keeper.
        lane.made = vec![Made { name, subjects }];
        queue.swept.notify_one();
    }
    if !is_the_same(lane, &stream) {
        return Ok(());
    }
    if number > 1 {
        queue.metrics.reader_restarts.inc();
    }
    for subject in filters.subjects() {
        if let Some(slot) = lane.slots.get_mut(subject) {
            slot.served_by(number);
            slot.tell(Input::Reader { reader: number, from: Sequence(1) });
        }
    }
    lane.reader = Some((number, reader));
    Ok(())
}

/// Whether the stream is what it was. If not, every partition is told, and asks again from where it then stands.
fn is_the_same(lane: &mut Lane, stream: &StreamInfo) -> bool {
    let expected = lane.queue.keeper.retention;
    if stream.retention != expected && !std::mem::replace(&mut lane.complained, true) {
        tracing::error!(
            stream = stream.name,
            was = ?expected,
            is = ?stream.retention,
            "The stream's retention was changed. Messages are acknowledged as before; restart every worker of the group"
        );
    }
    let news = if stream.created != lane.identity.created {
        tracing::error!(
            stream = stream.name,
            was = lane.identity.created,
            is = stream.created,
            "The stream was deleted and made again; every partition begins at its start. What the stream before still held is lost"
        );
        let what = format!("stream {:?} was deleted and made again", stream.name);
        let _ = lane.queue.events.send(TaskEvent::Error(ErrorCode::StreamRecreated, what));
        lane.identity.created.clone_from(&stream.created);
        let _ = lane.queue.events.send(TaskEvent::Stream(lane.identity.clone()));
        Input::Stream(lane.identity.clone())
    } else if stream.last.0 < lane.furthest().0 {
        let since = *lane.rewound_since.get_or_insert_with(Instant::now);
        if stream.replicas > 1 && since.elapsed() < BELIEVE_REWIND {
            lane.build_by(Instant::now() + Duration::from_secs(1));
            return false;
        }
        tracing::error!(
            stream = stream.name,
            last = %stream.last,
            committed = %lane.furthest(),
            "The stream was set back; every partition goes on from where it ends now"
        );
        let what = format!("stream {:?} was set back to {}", stream.name, stream.last);
        let _ = lane.queue.events.send(TaskEvent::Error(ErrorCode::StreamRewound, what));
        Input::Rewound(stream.last)
    } else {
        lane.rewound_since = None;
        return true;
    };
    lane.queue.metrics.streams_replaced.inc();
    lane.rewound_since = None;
    let last = if matches!(news, Input::Stream(_)) { Sequence(0) } else { stream.last };
    for slot in lane.slots.values_mut() {
        slot.set_back(last);
        slot.wanted = false;
        slot.tell(news.clone());
        slot.tell(Input::NoReader);
    }
    false
}
