//! Who is served by which reader, and what becomes of what it brings.

use super::{Claim, Feed, Group, PartitionInput, Slot};
use crate::intake::chunk::Gathered;
use crate::intake::reading::Delivery;
use crate::nats::StreamMessage;
use parti_coordination::record::Seen;
use parti_coordination::{Input, Sequence};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Wishes that come together are served by one new reader.
const COLLECT: Duration = Duration::from_millis(20);

/// A partition that could not keep up is not read for again sooner than this after the last time: it would cost a reader for
/// every few messages.
const AGAIN: Duration = Duration::from_millis(100);

/// A main reader that is further behind the stream than this waits for partitions that were just taken: the distance between
/// them would otherwise stay, and every message be read twice.
pub(super) const AT_HEAD: u64 = 1000;

/// A reader that is further behind than this does not serve who need not wait for it.
const NEAR: u64 = 10_000;

impl Feed {
    pub(super) fn want(&mut self, subject: Arc<str>, claim: Claim, inbox: mpsc::UnboundedSender<PartitionInput>) {
        let now = Instant::now();
        let may_have_another = self.may_have_another();
        let slot = self.slots.entry(Arc::clone(&subject)).or_insert_with(|| Slot {
            inbox: inbox.clone(),
            gathered: Gathered::default(),
            reader: None,
            wants: None,
            claim,
            asked: None,
            again: false,
            parked: 0,
        });
        slot.inbox = inbox;
        slot.claim = claim;
        slot.wants = None;
        slot.again = slot.asked.is_some();
        self.budget.take_back(std::mem::take(&mut slot.parked));
        count_member(&mut self.groups, slot.reader.take(), -1);
        if claim.foreign {
            // Nothing is read for it before it is known which stream there is.
            return self.look_if_needed();
        }
        if let Some((to, time)) = self.turned {
            // Its owner has missed that the stream was set back.
            if claim.is_before(to, Some(time), &(0..0)) {
                return slot.rewind(to);
            }
            if claim.is_stale(to, time) {
                slot.forget(to);
            }
        }
        let from = claim.from;
        // The one that has come furthest of those that have not passed that yet, unless it has far to go.
        let serves = |group: &&Group| group.next <= from && group.brings(&subject);
        let group = self.groups.iter().filter(serves).max_by_key(|group| group.next);
        let group = group.filter(|group| from.0 - group.next.0 <= NEAR || !may_have_another);
        if let Some((number, next)) = group.map(|group| (group.number, group.next)) {
            serve(slot, &mut self.groups, number, next);
        } else {
            let at = slot.asked.map_or(now, |asked| (asked + AGAIN).max(now)) + COLLECT;
            slot.wants = Some((from, at));
            self.open_at = Some(self.open_at.map_or(at, |other| other.min(at)));
        }
        slot.asked = Some(now);
    }

    /// Readers without partitions are dropped.
    pub(super) fn drop_idle(&mut self) {
        self.groups.retain(|group| group.members > 0);
        self.choose_main();
    }

    /// If the main reader is gone, the one without a filter that has come furthest takes its place.
    fn choose_main(&mut self) {
        if self.main().is_none() {
            self.main = self.unfiltered().max_by_key(|group| group.next).map(|group| group.number);
        }
    }

    pub(super) fn unfiltered(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.filter.is_none())
    }

    pub(super) fn delivered(&mut self, number: u64, delivery: Option<Delivery>) {
        let Some(at) = self.groups.iter().position(|group| group.number == number) else { return };
        let Some(Delivery { messages, passed, pending, end }) = delivery else { return self.ended(number) };
        let seen = messages.last().map(|last| Seen { sequence: last.sequence, time: last.timestamp_ns });
        self.distribute(at, messages);
        if let Some(passed) = passed {
            self.comes_to(at, passed.next());
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.pending = pending;
            group.since.least_pending = group.since.least_pending.min(pending);
            group.silent = 0;
            group.seen = seen.or(group.seen);
        }
        self.tell_pending();
        if let Some(end) = end {
            tracing::info!(reason = %end, "The reader ended; starting another");
            return self.ended(number);
        }
        self.join_main();
        if Some(number) == self.main && self.main_is_named {
            self.join_filtered();
        }
    }

    fn tell_pending(&self) {
        self.state.pending.store(self.groups.iter().map(|group| group.pending).max().unwrap_or(0), Ordering::Relaxed);
    }

    /// What a reader served is served by another one, from where it ended.
    pub(super) fn ended(&mut self, number: u64) {
        let Some(at) = self.groups.iter().position(|group| group.number == number) else { return };
        let group = self.groups.remove(at);
        self.choose_main();
        let now = Instant::now();
        self.wants += 1;
        for slot in self.slots.values_mut().filter(|slot| slot.reader == Some(number)) {
            tell_progress(slot, number, group.vouched(), group.seen);
            slot.reader = None;
            slot.wants = Some((group.vouched(), now));
            slot.claim.renew(self.wants, &group);
        }
        self.open_at = Some(now);
    }

    /// The main reader waits while it is far behind the stream anyway and others are about to come to where it is.
    pub(super) fn held(&self) -> Option<u64> {
        let main = self.main()?;
        let near = |group: &Group| group.next < main.next && main.next.0 - group.next.0 <= main.pending;
        let waits = main.pending > AT_HEAD && self.unfiltered().any(|group| group.fresh && near(group));
        waits.then_some(main.number)
    }

    /// Catch-up readers that have come as far as the main one hand their partitions to it.
    fn join_main(&mut self) {
        let Some((main, next)) = self.main().map(|group| (group.number, group.next)) else { return };
        let arrived: Vec<_> = self
            .unfiltered()
            .filter(|group| group.number != main && group.next >= next)
            .map(|group| (group.number, group.next, group.seen))
            .collect();
        if arrived.is_empty() {
            return;
        }
        for (number, passed, seen) in arrived {
            for slot in self.slots.values_mut().filter(|slot| slot.reader == Some(number)) {
                tell_progress(slot, number, passed, seen);
                count_member(&mut self.groups, slot.reader.take(), -1);
                serve(slot, &mut self.groups, main, next);
            }
        }
        self.drop_idle();
    }

    /// Sorts messages by partition. What belongs to nobody that this reader serves is dropped.
    fn distribute(&mut self, at: usize, messages: Vec<StreamMessage>) {
        let Some(number) = self.groups.get(at).map(|group| group.number) else { return };
        let mut touched = Vec::new();
        let mut ours = 0;
        for message in messages {
            self.comes_to(at, message.sequence);
            if let Some(group) = self.groups.get_mut(at) {
                group.next = message.sequence.next();
            }
            let Some(slot) = self.slots.get_mut(message.subject.as_str()) else { continue };
            if slot.reader != Some(number) {
                continue;
            }
            ours += 1;
            if slot.gathered.is_empty() {
                touched.push(message.subject.clone());
            }
            slot.gathered.push(&message);
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.since.ours += ours;
        }
        for subject in touched {
            let Some(subject) = self.slots.get_key_value(subject.as_str()).map(|(subject, _)| Arc::clone(subject))
            else {
                continue;
            };
            if let Some(slot) = self.slots.get_mut(&subject) {
                let messages = slot.gathered.take(&subject, &self.budget);
                let _ = slot.inbox.send(Input::Messages { reader: number, messages });
            }
        }
    }

    /// A reader has nothing more to deliver below this. What a reader without a filter leaves out may have been lost.
    fn comes_to(&mut self, at: usize, next: Sequence) {
        let Some(group) = self.groups.get_mut(at).filter(|group| group.next < next) else { return };
        if group.filter.is_none() && next > self.expired {
            let (from, to) = self.hole.unwrap_or((group.next, next));
            self.hole = Some((from.min(group.next), to.max(next)));
        }
        group.next = next;
    }

    /// Tells every partition how far its reader has come, so that an idle one does not drag the next reader back.
    pub(super) fn progress(&self) {
        for group in &self.groups {
            for slot in self.slots.values().filter(|slot| slot.reader == Some(group.number)) {
                tell_progress(slot, group.number, group.vouched(), group.seen);
            }
        }
    }
}

impl Group {
    /// Everything before this is delivered, as far as it passes the filter, and a message that was seen vouches for the stream
    /// having come so far: of one that was set back nothing else would tell.
    pub(super) fn vouched(&self) -> Sequence {
        let seen = self.seen.map_or(Sequence(0), |seen| seen.sequence.next());
        if self.filter.is_some() { self.next.min(seen.max(self.begun)) } else { self.next }
    }

    /// Whether messages with this subject come with it.
    pub(super) fn brings(&self, subject: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.contains(subject))
    }
}

impl Slot {
    /// The stream was set back to here, and the partition had come further.
    pub(super) fn rewind(&mut self, to: Sequence) {
        self.wants = None;
        self.forget(to);
        let _ = self.inbox.send(Input::NoReader);
    }

    /// The stream was set back to here: the message that was seen is gone.
    pub(super) fn forget(&mut self, to: Sequence) {
        self.claim.seen = None;
        let _ = self.inbox.send(Input::Rewound(to));
    }
}

pub(super) fn tell_progress(slot: &Slot, reader: u64, next: Sequence, seen: Option<Seen>) {
    let _ = slot.inbox.send(Input::Passed { reader, sequence: Sequence(next.0.saturating_sub(1)), seen });
}

/// Has a partition served by this reader from now on.
pub(super) fn serve(slot: &mut Slot, groups: &mut [Group], number: u64, from: Sequence) {
    slot.wants = None;
    slot.reader = Some(number);
    count_member(groups, Some(number), 1);
    let _ = slot.inbox.send(Input::Reader { reader: number, from });
}

pub(super) fn count_member(groups: &mut [Group], reader: Option<u64>, change: isize) {
    if let Some(group) = groups.iter_mut().find(|group| Some(group.number) == reader) {
        group.members = group.members.saturating_add_signed(change);
    }
}
