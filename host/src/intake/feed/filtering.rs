//! When readers have filters.
//!
//! Without one a worker is sent the whole stream, whatever its share of it is: on a fleet of many workers the server sends
//! every message to all of them. With one the server must look for what passes, which at the head of the stream costs it
//! little, and far behind, on a file stream, about a millisecond per message. So a worker has filters where it has caught up
//! and its partitions have but a small part of the traffic, and reads everything where it is behind.

use super::opening::Opening;
use super::serving::{AT_HEAD, count_member, serve, tell_progress};
use super::{Feed, Group, Since};
use crate::intake::origin::{NoReader, Opened};
use crate::nats::{Filters, StreamError, StreamInfo};
use parti_coordination::record::Seen;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Most subjects of one reader's filter. Up to there the server makes a consumer within some ten milliseconds; 5,000 take it
/// seconds.
const MOST_SUBJECTS: usize = 1000;

/// Most readers with filters. Who has more partitions than they can name reads everything.
const MOST_READERS: usize = 5;

/// Share of the stream below which a worker is better off with filters, and above which without. In between it stays as it is.
const FEW: f64 = 0.6;
const MANY: f64 = 0.8;

/// Partitions that have come to the head are gathered for this time before the filters are made anew.
const GATHER: Duration = Duration::from_secs(5);

/// Whoever fell behind with filters does without them for this time.
const AFTER_FALLING_BEHIND: Duration = Duration::from_secs(60);

/// Where the server does not filter exactly, it is asked again after this time.
const UNTIL_UPGRADE: Duration = Duration::from_secs(600);

/// Ticks without a word after which a reader no longer counts as being at the head: it waits for memory, or is dead.
const MOST_SILENT: u32 = 3;

/// Messages that must have passed for the share among them to mean anything.
const ENOUGH: f64 = 1000.0;

/// What a second leaves of the seconds before it in the measured share.
const REMEMBERED: f64 = 0.8;

/// How much of the stream is for the partitions of this worker that are at its head, by a moving average.
#[derive(Debug, Default)]
pub(super) struct Share {
    passed: f64,
    ours: f64,
}

impl Share {
    fn add(&mut self, passed: u64, ours: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a share needs few digits")]
        let (passed, ours) = (passed as f64, ours as f64);
        self.passed = self.passed * REMEMBERED + passed;
        self.ours = self.ours * REMEMBERED + ours;
    }

    /// Between 0 and 1; `None` while too little has passed to tell.
    fn get(&self) -> Option<f64> {
        (self.passed >= ENOUGH).then(|| (self.ours / self.passed).min(1.0))
    }
}

/// Readers with filters that are being opened.
pub(super) struct Narrowing {
    opening: Opening,
    filters: Vec<Arc<HashSet<Arc<str>>>>,
    /// What the reader that they begin with has seen.
    seen: Option<Seen>,
}

impl Narrowing {
    pub(super) fn task(&mut self) -> &mut JoinHandle<Result<Opened, NoReader>> {
        &mut self.opening.task
    }
}

impl Feed {
    /// Once per tick: whether the readers should have filters, or other ones.
    pub(super) fn filter(&mut self) {
        self.measure();
        self.change_filters();
        let served = self.groups.iter().filter(|group| group.filter.is_some()).map(|group| group.members as u64);
        self.metrics.filtered_partitions.set(served.sum());
    }

    fn change_filters(&mut self) {
        let now = Instant::now();
        let share = self.share.get();
        // Dead, or waiting for memory: its successor reads everything, and tells what was lost meanwhile.
        let silent: Vec<u64> =
            self.filtered().filter(|group| group.silent > MOST_SILENT).map(|group| group.number).collect();
        silent.into_iter().for_each(|number| self.ended(number));
        let filtered = self.filtered().count();
        if filtered > 0 && (share > Some(MANY) || self.filtered().any(|group| !group.at_head)) {
            tracing::debug!(readers = filtered, ?share, "Reading the stream without filters");
            return self.leave_filters();
        }
        self.join_filtered();
        self.ask_witness();
        // Who has filters goes on with them while the share is not known.
        let wants_filters = share.map_or(filtered > 0, |share| share < if filtered > 0 { MANY } else { FEW });
        let may_open = now >= self.filter_at && self.narrowing.is_none();
        if may_open && wants_filters && self.filters_would_be_others() {
            self.filter_at = now + GATHER;
            self.open_filtered();
        }
    }

    fn filtered(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.filter.is_some())
    }

    /// Everybody is served by readers without filters again, for a while.
    fn leave_filters(&mut self) {
        self.narrowing = None;
        let numbers: Vec<u64> = self.filtered().map(|group| group.number).collect();
        numbers.into_iter().for_each(|number| self.ended(number));
        self.filter_at = Instant::now() + AFTER_FALLING_BEHIND;
    }

    /// Takes stock of the readers at the head of the stream, and of which there are.
    fn measure(&mut self) {
        let (mut passed, mut ours) = (0, 0);
        let share = self.share.get().unwrap_or(FEW);
        let main = self.main;
        for group in &mut self.groups {
            let since =
                std::mem::replace(&mut group.since, Since { next: group.next, ours: 0, least_pending: group.pending });
            // With a filter only our part of what is left of the stream counts as pending.
            let part = if group.filter.is_some() { share } else { 1.0 };
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let at_head = since.least_pending as f64 <= AT_HEAD as f64 * part;
            group.silent += 1;
            group.at_head = at_head && group.silent <= MOST_SILENT;
            if group.at_head && (group.filter.is_some() || Some(group.number) == main) {
                passed = passed.max(group.next.0 - since.next.0);
                ours += since.ours;
            }
        }
        self.share.add(passed, ours);
    }

    /// Partitions that have come to where a reader is whose filter names them join it.
    pub(super) fn join_filtered(&mut self) {
        let numbers: Vec<u64> = self.filtered().map(|group| group.number).collect();
        numbers.into_iter().for_each(|number| self.move_to_filtered(number, |group| group.filter.is_none()));
        let named = |subject: &str| self.filtered().any(|group| group.brings(subject));
        self.main_is_named = self.filtered().next().is_some()
            && self
                .slots
                .iter()
                .any(|(subject, slot)| slot.reader.is_some() && slot.reader == self.main && named(subject));
    }

    /// Hands over to a reader with a filter what it names of such readers as have come as far.
    fn move_to_filtered(&mut self, number: u64, hands_over: impl Fn(&Group) -> bool) {
        let Some(to) = self.groups.iter().find(|group| group.number == number) else { return };
        let (next, Some(filter)) = (to.next, to.filter.clone()) else { return };
        let arrived: HashMap<_, _> = self
            .groups
            .iter()
            .filter(|group| hands_over(group) && group.vouched() >= next)
            .map(|group| (group.number, (group.vouched(), group.seen)))
            .collect();
        if arrived.is_empty() {
            return;
        }
        for (subject, slot) in &mut self.slots {
            let Some(from) = slot.reader.filter(|_| filter.contains(subject)) else { continue };
            let Some((passed, seen)) = arrived.get(&from) else { continue };
            tell_progress(slot, from, *passed, *seen);
            count_member(&mut self.groups, slot.reader.take(), -1);
            serve(slot, &mut self.groups, number, next);
        }
        self.drop_idle();
    }

    /// Whether filters made now would serve partitions at the head that none names, or leave out many that are no longer ours.
    fn filters_would_be_others(&self) -> bool {
        let Some(main) = self.main() else {
            let named: usize =
                self.filtered().filter_map(|group| group.filter.as_ref()).map(|filter| filter.len()).sum();
            let served: usize = self.filtered().map(|group| group.members).sum();
            return named > 2 * served + MOST_SUBJECTS / 10;
        };
        let is_unnamed = |subject: &str| !self.filtered().any(|group| group.brings(subject));
        main.at_head && self.slots.iter().any(|(subject, slot)| slot.reader == self.main && is_unnamed(subject))
    }

    /// Opens readers for all partitions at the head, from where the last of them is.
    fn open_filtered(&mut self) {
        let main = self.main;
        let at_head: HashMap<u64, &Group> = self
            .groups
            .iter()
            .filter(|group| group.at_head && (group.filter.is_some() || Some(group.number) == main))
            .map(|group| (group.number, group))
            .collect();
        let Some(last) = at_head.values().filter(|group| group.members > 0).min_by_key(|group| group.vouched()) else {
            return;
        };
        let (from, seen) = (last.vouched(), last.seen);
        let mut subjects: Vec<Arc<str>> = Vec::new();
        self.wants += 1;
        for (subject, slot) in &mut self.slots {
            if let Some(group) = slot.reader.and_then(|reader| at_head.get(&reader)) {
                // So that the look at the stream that comes with the readers is about these.
                slot.claim.renew(self.wants, group);
                subjects.push(Arc::clone(subject));
            }
        }
        if subjects.len() > MOST_SUBJECTS * MOST_READERS {
            return self.leave_filters();
        }
        let filters: Vec<Arc<HashSet<_>>> =
            subjects.chunks(MOST_SUBJECTS).map(|some| Arc::new(some.iter().cloned().collect())).collect();
        tracing::debug!(partitions = subjects.len(), readers = filters.len(), "Reading the stream's head with filters");
        let subjects = |filter: &Arc<HashSet<Arc<str>>>| filter.iter().map(ToString::to_string).collect();
        let asked = filters.iter().filter_map(|filter| Filters::new(subjects(filter))).collect();
        let (origin, presumed, created) = (self.origin.clone(), self.presumed(), self.identity.created.clone());
        let task = tokio::spawn(async move { origin.open_filtered(from, asked, &presumed).await });
        self.narrowing = Some(Narrowing { opening: Opening { from, until: self.wants, created, task }, filters, seen });
    }

    pub(super) fn narrowed(&mut self, opened: Result<Opened, NoReader>) {
        let Some(Narrowing { opening, filters, seen }) = self.narrowing.take() else { return };
        let Opened { readers, look } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "The stream is read without filters");
                let inexact = matches!(error, NoReader::Inexact);
                self.filter_at = Instant::now() + if inexact { UNTIL_UPGRADE } else { AFTER_FALLING_BEHIND };
                return;
            }
        };
        if opening.created != self.identity.created || !self.is_as_presumed(&look, opening.until) {
            return;
        }
        if opening.from.0 > 1 {
            self.lost(opening.from, look.stream.first);
        }
        let first = self.number + 1;
        for (reader, filter) in readers.into_iter().zip(filters) {
            let number = self.put_to_work(reader, Some(filter), opening.from);
            if let Some(group) = self.groups.last_mut() {
                group.seen = seen;
            }
            self.move_to_filtered(number, |group| group.number < first);
        }
        self.drop_idle();
    }

    /// Who passes messages of others by the server's word alone has seen nothing that would tell this stream from one that was
    /// set back. The stream's last message is asked for, and counts as seen by those that have passed it.
    fn ask_witness(&mut self) {
        if let Some(witness) = self.vouches {
            for group in self.groups.iter_mut().filter(|group| group.filter.is_some()) {
                if group.next > witness.sequence && group.seen.is_none_or(|seen| seen.sequence < witness.sequence) {
                    group.seen = Some(witness);
                }
            }
        }
        let is_passed = self.vouches.is_none_or(|witness| self.filtered().all(|group| group.next > witness.sequence));
        if is_passed && self.witness.is_none() && self.filtered().any(|group| group.next > group.vouched()) {
            let origin = self.origin.clone();
            self.witness = Some(tokio::spawn(async move { origin.look().await }));
        }
    }

    pub(super) fn witnessed(&mut self, stream: Result<StreamInfo, StreamError>) {
        self.witness = None;
        let stream = stream.ok().filter(|stream| stream.created == self.identity.created && stream.last.0 > 0);
        self.vouches = stream.map(|stream| Seen { sequence: stream.last, time: stream.last_time });
    }
}
