//! When readers have filters.
//!
//! Without one a worker is sent the whole stream, whatever its share of it is: on a fleet of many workers the server sends
//! every message to all of them. With one the server must look for what passes, which at the head of the stream costs it
//! little, and far behind, on a file stream, about a millisecond per message. So a worker has filters where it has caught up
//! and its partitions have but a small part of the traffic, and reads everything where it is behind.

use super::serving::{AT_HEAD, count_member, serve, tell_progress};
use super::{Feed, Group, Since};
use parti_coordination::Sequence;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Most subjects of one reader's filter. Up to there the server makes a consumer within some ten milliseconds; 5,000 take it
/// seconds.
const MOST_SUBJECTS: usize = 1000;

/// Most readers with filters. Who has more partitions than they can name reads everything.
const MOST_READERS: usize = 8;

/// Share of the stream below which a worker is better off with filters, and above which without. In between it stays as it is.
const FEW: f64 = 0.6;
const MANY: f64 = 0.8;

/// Partitions that have come to the head are gathered for this time before the filters are made anew.
const GATHER: Duration = Duration::from_secs(5);

/// Whoever fell behind with filters does without them for this time.
const AFTER_FALLING_BEHIND: Duration = Duration::from_secs(60);

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
        let filtered = || self.groups.iter().filter(|group| group.filter.is_some());
        let share = self.share.get();
        if filtered().any(|group| !group.at_head) || (share > Some(MANY) && filtered().next().is_some()) {
            let numbers: Vec<u64> = filtered().map(|group| group.number).collect();
            tracing::debug!(readers = numbers.len(), ?share, "Reading the stream without filters");
            numbers.into_iter().for_each(|number| self.ended(number));
            self.filter_at = now + AFTER_FALLING_BEHIND;
            return;
        }
        // Who has filters goes on with them while the share is not known.
        let wants_filters = share.is_none_or(|share| share <= MANY) && filtered().next().is_some();
        let numbers: Vec<u64> = filtered().map(|group| group.number).collect();
        numbers.into_iter().for_each(|number| self.move_to_filtered(number));
        let may_open = now >= self.filter_at && self.opening.is_none();
        if may_open && (wants_filters || share.is_some_and(|share| share < FEW)) && self.filters_would_be_others() {
            self.open_filtered();
            self.filter_at = now + GATHER;
        }
    }

    /// Takes stock of the readers at the head of the stream, and of which there are.
    fn measure(&mut self) {
        let (mut passed, mut ours) = (0, 0);
        let share = self.share.get().unwrap_or(FEW);
        let main = self.main;
        for group in &mut self.groups {
            let since = std::mem::replace(
                &mut group.since,
                Since { next: group.next, ours: 0, least_pending: group.pending },
            );
            // With a filter only our part of what is left of the stream counts as pending.
            let part = if group.filter.is_some() { share } else { 1.0 };
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let at_head = since.least_pending as f64 <= AT_HEAD as f64 * part;
            group.at_head = at_head;
            if at_head && (group.filter.is_some() || Some(group.number) == main) {
                passed = passed.max(group.next.0 - since.next.0);
                ours += since.ours;
            }
        }
        self.share.add(passed, ours);
    }

    /// Hands over to a reader with a filter what it names of readers without one, or with another, that have come as far.
    pub(super) fn move_to_filtered(&mut self, number: u64) {
        let Some(to) = self.groups.iter().find(|group| group.number == number) else { return };
        let (next, Some(filter)) = (to.next, to.filter.clone()) else { return };
        let is_former = |group: &Group| group.filter.is_none() || group.number < number;
        let arrived: HashMap<_, _> = self
            .groups
            .iter()
            .filter(|group| is_former(group) && group.next >= next)
            .map(|group| (group.number, (group.next, group.seen)))
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

    /// Whether filters made now would serve partitions at the head that have none, or leave out many that are no longer ours.
    fn filters_would_be_others(&self) -> bool {
        let main_is_at_head = self.main().is_some_and(|main| main.at_head);
        let (mut named, mut served) = (0, 0);
        for group in &self.groups {
            if let Some(filter) = &group.filter {
                named += filter.len();
                served += group.members;
            }
        }
        main_is_at_head || (self.main.is_none() && named > 2 * served + MOST_SUBJECTS / 10)
    }

    /// Opens readers for all partitions at the head, from where the last of them is.
    fn open_filtered(&mut self) {
        let at_head = |number: u64| {
            self.groups
                .iter()
                .find(|group| group.number == number)
                .filter(|group| group.at_head && (group.filter.is_some() || Some(group.number) == self.main))
        };
        let mut from = None;
        let mut subjects: Vec<Arc<str>> = Vec::new();
        for (subject, slot) in &self.slots {
            if let Some(group) = slot.reader.and_then(at_head) {
                from = Some(from.map_or(group.next, |from: Sequence| from.min(group.next)));
                subjects.push(Arc::clone(subject));
            }
        }
        let Some(from) = from.filter(|_| subjects.len() <= MOST_SUBJECTS * MOST_READERS) else { return };
        let filters: Vec<Arc<HashSet<_>>> =
            subjects.chunks(MOST_SUBJECTS).map(|some| Arc::new(some.iter().cloned().collect())).collect();
        tracing::debug!(partitions = subjects.len(), readers = filters.len(), "Reading the stream's head with filters");
        self.open_from(from, Some(filters));
    }
}
