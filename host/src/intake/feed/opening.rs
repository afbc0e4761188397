//! How readers come to be: for whom one is opened, where it begins, and whom it serves.

use super::serving::serve;
use super::{Feed, Group, Since};
use crate::intake::origin::{NoReader, Opened};
use crate::intake::reading::Reading;
use crate::nats::Reader;
use parti_coordination::Sequence;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Catch-up readers at once at most; further wishes wait for one to end.
const MAX_CATCH_UP: usize = 4;

/// First and longest wait before the next try after a reader could not be opened.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A reader that is being opened, or several with filters.
pub(super) struct Opening {
    /// Where they begin.
    pub(super) from: Sequence,
    /// Number of the last want that the look at the stream is about.
    pub(super) until: u64,
    /// The stream that was known when it began.
    pub(super) created: String,
    pub(super) task: JoinHandle<Result<Opened, NoReader>>,
}

impl Feed {
    pub(super) fn may_open(&self) -> bool {
        self.opening.is_none() && self.may_have_another()
    }

    pub(super) fn may_have_another(&self) -> bool {
        let catching_up = self.unfiltered().filter(|group| Some(group.number) != self.main).count();
        self.main.is_none() || catching_up < MAX_CATCH_UP
    }

    /// Begins to open a reader for the wishes whose time has come.
    pub(super) fn open(&mut self) {
        let now = Instant::now();
        let due = self.slots.values().filter_map(|slot| slot.wants).filter(|(_, at)| *at <= now);
        let Some(from) = due.map(|(from, _)| from).min() else { return self.plan_opening() };
        self.open_at = None;
        let (origin, presumed, created) = (self.origin.clone(), self.presumed(), self.identity.created.clone());
        let task = tokio::spawn(async move { origin.open(from, &presumed).await });
        self.opening = Some(Opening { from, until: self.wants, created, task });
    }

    /// When the next reader is to be opened.
    pub(super) fn plan_opening(&mut self) {
        self.open_at = self.slots.values().filter_map(|slot| slot.wants).map(|(_, at)| at).min();
    }

    pub(super) fn opened(&mut self, opened: Result<Opened, NoReader>) {
        let Some(Opening { from, until, created, .. }) = self.opening.take() else { return };
        let Opened { readers, look } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, "The stream cannot be read; trying again");
                return self.try_again();
            }
        };
        if created != self.identity.created {
            // It may be a reader of the stream before.
            return self.plan_opening();
        }
        if !self.is_as_presumed(&look, until) {
            return;
        }
        self.failures = 0;
        // Who begins at the first message of all has missed nothing.
        let wanted = self.slots.values().filter_map(|slot| slot.wants).map(|(from, _)| from);
        if let Some(from) = wanted.filter(|from| from.0 > 1).min() {
            self.lost(from, look.stream.first);
        }
        if from.0 <= 1 {
            self.expired = self.expired.max(look.stream.first);
        }
        let Some(reader) = readers.into_iter().next() else { return };
        let number = self.put_to_work(reader, None, from);
        if number > 1 {
            self.metrics.reader_restarts.inc();
        }
        if self.main().is_none_or(|main| main.next <= from) {
            self.main = Some(number);
        }
        let mut fresh = false;
        for slot in self.slots.values_mut().filter(|slot| slot.wants.is_some_and(|(wanted, _)| wanted >= from)) {
            fresh |= !slot.again;
            serve(slot, &mut self.groups, number, from);
        }
        if let Some(group) = self.groups.last_mut() {
            group.fresh = fresh;
        }
        // Those who wished have left meanwhile.
        self.drop_idle();
        self.plan_opening();
    }

    pub(super) fn put_to_work(
        &mut self,
        reader: Reader,
        filter: Option<Arc<HashSet<Arc<str>>>>,
        from: Sequence,
    ) -> u64 {
        self.number += 1;
        let pending = reader.pending();
        self.groups.push(Group {
            number: self.number,
            reading: Reading::start(reader, Arc::clone(&self.budget)),
            begun: from,
            filter,
            next: from,
            seen: None,
            pending,
            members: 0,
            fresh: false,
            since: Since { next: from, ours: 0, least_pending: pending },
            silent: 0,
            at_head: true,
        });
        self.number
    }

    pub(super) fn try_again(&mut self) {
        let wait = RETRY.0.saturating_mul(1 << self.failures.min(16)).min(RETRY.1);
        self.failures = self.failures.saturating_add(1);
        self.open_at = Some(Instant::now() + wait);
    }
}
