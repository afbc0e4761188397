//! Whether the stream still is what the partitions' positions mean, and what is told to whom if it is not.
//!
//! Whoever asks for messages claims something of the stream: that it is a certain one, that it has come so far, that it holds
//! a certain message. A look at the stream bears out the claims that were made before it, or shows that the stream was made anew
//! or set back. Each opening of a reader comes with a look; a partition that joins a running reader is followed by one.

use super::serving::count_member;
use super::{Claim, Feed, Group, Looking, PartitionInput, Slot};
use crate::error::ErrorCode;
use crate::intake::origin::{BELIEVE_REWIND, Finding, Look, Presumed};
use crate::intake::shared::TaskEvent;
use crate::nats::{StreamError, StreamInfo};
use parti_coordination::{Input, Sequence};
use std::collections::BTreeSet;
use std::ops::Range;
use tokio::time::Instant;

impl Claim {
    /// Whether it was made of what the stream held before it was set back to `to`: by a message that is not younger than
    /// `time`; or, naming none, if the look that has shown it is the first one into it, so that its number is among these.
    pub(super) fn is_before(&self, to: Sequence, time: Option<u64>, looked_into: &Range<u64>) -> bool {
        let is_old = match (self.seen, time) {
            (Some(seen), Some(time)) => seen.time <= time,
            _ => looked_into.contains(&self.number),
        };
        self.from > to.next() && is_old
    }

    /// Claims what a reader that served the partition has come to.
    pub(super) fn renew(&mut self, number: u64, group: &Group) {
        self.number = number;
        self.from = group.vouched();
        self.seen = group.seen.or(self.seen);
    }

    /// Whether the message that it names is gone: of the stream above `to`, before it was set back.
    pub(super) fn is_stale(&self, to: Sequence, time: u64) -> bool {
        self.seen.is_some_and(|seen| seen.sequence > to && seen.time <= time)
    }
}

impl Feed {
    /// What the claims that are not borne out yet presume.
    pub(super) fn presumed(&self) -> Presumed {
        let claims = || self.slots.values().map(|slot| slot.claim).filter(|c| c.number > self.proved && !c.foreign);
        Presumed {
            created: self.identity.created.clone(),
            last: claims().map(|claim| Sequence(claim.from.0.saturating_sub(1))).max().unwrap_or_default(),
            seen: claims().filter_map(|claim| claim.seen).collect::<BTreeSet<_>>().into_iter().collect(),
        }
    }

    /// Looks at the stream if there is a hole in what it delivered, or a claim that no opening of a reader will look into.
    pub(super) fn look_if_needed(&mut self) {
        if self.looking.is_some() {
            return;
        }
        let unproved = |slot: &Slot| slot.reader.is_some() && slot.claim.number > self.proved;
        let doubt = self.slots.values().any(|slot| slot.claim.foreign || unproved(slot));
        if self.hole.is_none() && !doubt {
            return;
        }
        let (origin, presumed, created) = (self.origin.clone(), self.presumed(), self.identity.created.clone());
        let task = tokio::spawn(async move { origin.compare(&presumed).await });
        self.looking = Some(Looking { until: self.wants, created, task });
    }

    pub(super) fn looked(&mut self, look: Result<Look, StreamError>) {
        let Some(Looking { until, created, .. }) = self.looking.take() else { return };
        let Some(look) = look.ok().filter(|_| created == self.identity.created) else { return };
        if self.is_as_presumed(&look, until)
            && let Some((from, to)) = self.hole.take()
        {
            self.lost(from, look.stream.first.min(to));
        }
    }

    /// Draws the conclusions from a look at the stream. Whether it is what the wants up to `until` presume.
    pub(super) fn is_as_presumed(&mut self, look: &Look, until: u64) -> bool {
        let stream = &look.stream;
        match look.finding {
            Finding::MadeAnew => self.made_anew(stream),
            Finding::SetBack { to, time, is_certain } => {
                // Another time when it seemed so says nothing about this one.
                let now = Instant::now();
                let recent = self.rewound.filter(|(_, last)| now - *last < BELIEVE_REWIND);
                let (since, _) = *self.rewound.insert((recent.map_or(now, |(since, _)| since), now));
                if !is_certain && stream.replicas > 1 && now - since < BELIEVE_REWIND {
                    self.try_again();
                } else {
                    self.set_back(stream, (to, time), until);
                }
            }
            Finding::AsPresumed => {
                self.rewound = None;
                self.proved = self.proved.max(until);
                // It is the partition that has not heard yet which stream there is.
                for slot in self.slots.values_mut().filter(|slot| slot.claim.foreign && slot.claim.number <= until) {
                    slot.claim.foreign = false;
                    let _ = slot.inbox.send(Input::Stream(self.identity.clone()));
                    let _ = slot.inbox.send(Input::NoReader);
                }
                return true;
            }
        }
        false
    }

    /// The stream was deleted and made again: nothing that was asked for exists any more.
    fn made_anew(&mut self, stream: &StreamInfo) {
        tracing::error!(
            stream = stream.name,
            was = self.identity.created,
            is = stream.created,
            readUpTo = self.slots.values().map(|slot| slot.claim.from.0.saturating_sub(1)).max(),
            "The stream was deleted and made again; every partition begins at its start. What the stream before still held is lost"
        );
        self.metrics.streams_replaced.inc();
        self.identity.created.clone_from(&stream.created);
        self.expired = Sequence(0);
        (self.hole, self.rewound, self.turned, self.vouches) = (None, None, None, None);
        self.proved = self.wants;
        let _ = self.events.send(TaskEvent::Stream(self.identity.clone()));
        self.failed(ErrorCode::StreamRecreated, format!("stream {:?} was deleted and made again", stream.name));
        self.forget_readers(&Input::Stream(self.identity.clone()));
    }

    /// The stream was put back to what it was, up to `to`. Who had come further, in what it was then, goes on from there.
    fn set_back(&mut self, stream: &StreamInfo, (to, time): (Sequence, Option<u64>), until: u64) {
        tracing::error!(
            stream = stream.name,
            to = %to,
            last = %stream.last,
            "The stream was set back; partitions that had come further go on after the last message that is still the one it was"
        );
        self.metrics.streams_replaced.inc();
        self.failed(ErrorCode::StreamRewound, format!("stream {:?} was set back to {to}", stream.name));
        (self.rewound, self.hole, self.vouches) = (None, None, None);
        self.expired = self.expired.min(to.next());
        self.turned = time.map(|time| (to, time));
        // Readers from before have ended, or will; one that was opened since delivers what there is now.
        for group in &self.groups {
            for slot in self.slots.values_mut().filter(|slot| slot.reader == Some(group.number)) {
                slot.claim.from = slot.claim.from.max(group.vouched());
                slot.claim.seen = group.seen.or(slot.claim.seen);
            }
        }
        let looked_into = self.proved + 1..until + 1;
        for slot in self.slots.values_mut() {
            if slot.claim.is_before(to, time, &looked_into) {
                count_member(&mut self.groups, slot.reader.take(), -1);
                slot.rewind(to);
            } else if time.is_some_and(|time| slot.claim.is_stale(to, time)) {
                slot.forget(to);
            }
        }
        self.proved = self.proved.max(until);
        self.drop_idle();
        self.plan_opening();
    }

    fn failed(&self, code: ErrorCode, what: String) {
        let _ = self.events.send(TaskEvent::Error(code, what));
    }

    /// Tells every partition what has happened. Whoever still wants to be served asks again, from where it then stands.
    fn forget_readers(&mut self, news: &PartitionInput) {
        self.groups.clear();
        self.main = None;
        self.open_at = None;
        for slot in self.slots.values_mut() {
            slot.reader = None;
            slot.wants = None;
            slot.claim.foreign = false;
            slot.asked = None;
            let _ = slot.inbox.send(news.clone());
            let _ = slot.inbox.send(Input::NoReader);
        }
    }

    /// Notes messages that were to be read and that the stream no longer holds.
    pub(super) fn lost(&mut self, from: Sequence, first: Sequence) {
        let from = from.max(self.expired);
        if first <= from {
            return;
        }
        let most = first.0 - from.0;
        self.expired = first;
        self.metrics.messages_expired.inc_by(most);
        tracing::error!(
            from = from.0,
            to = first.0 - 1,
            atMost = most,
            "Messages were removed from the stream before they were read. Let the stream keep more, or add workers"
        );
        let what = format!("up to {most} messages were removed from the stream before they were read");
        self.failed(ErrorCode::MessagesExpired, what);
    }
}
