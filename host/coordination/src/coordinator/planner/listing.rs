//! The list of partitions: asked for, checked, kept while the source fails.

use super::super::context::{Context, Part};
use super::super::io::{Notice, Reply};
use super::Planner;
use crate::Partition;
use std::time::Duration;

/// First and longest wait before a failed source is asked again.
const SOURCE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl Planner {
    /// The source is to be asked now.
    pub(in crate::coordinator) fn refresh(&mut self, ctx: &Context) {
        self.list_at = Some(ctx.now);
    }

    /// Asks the source, if it is time.
    pub(super) fn list_if_due(&mut self, ctx: &mut Context) {
        if let Some(at) = self.list_at
            && self.listing.is_none()
            && ctx.due(at)
        {
            self.list_at = None;
            self.wishes.lists();
            self.listing = Some(ctx.list_partitions(Part::Planner));
        }
    }

    pub(super) fn listed(&mut self, ctx: &mut Context, reply: &Reply) {
        self.listing = None;
        self.changed();
        let Reply::Partitions(result) = reply else { return };
        let problem = self.take_list(ctx, result);
        let failed = result.is_err();
        self.wishes.listed(problem.clone());
        if let Some(problem) = problem {
            ctx.notice(Notice::SourceFailed(problem));
        }
        let interval = ctx.settings.refresh_interval;
        // A refresh that was asked for meanwhile still stands.
        if !failed {
            self.list_at = self.list_at.or((!interval.is_zero()).then(|| ctx.now + interval));
        }
    }

    /// Takes what the source has listed. What is wrong with it, if it cannot be used.
    fn take_list(&mut self, ctx: &Context, result: &Result<Vec<Partition>, String>) -> Option<String> {
        match result {
            Ok(list)
                if list.is_empty()
                    && !ctx.settings.allow_empty
                    && (self.partitions.as_ref().is_some_and(|old| !old.is_empty())
                        || self.assigned_partitions().is_some()) =>
            {
                if self.partitions.is_none() {
                    self.partitions = self.assigned_partitions();
                }
                Some("the source lists no partitions any more; the last list stays in force".into())
            }
            Ok(list) => {
                self.list_failures = 0;
                let mut list = list.clone();
                list.sort();
                let twice = list.windows(2).find_map(|pair| match pair {
                    [a, b] if a.id() == b.id() => Some(a.id()),
                    _ => None,
                });
                if let Some(id) = twice {
                    return Some(format!("the source lists partition {id} twice; the last list stays in force"));
                }
                if self.partitions.as_ref() != Some(&list) {
                    self.list_changed = self.partitions.is_some();
                    self.partitions = Some(list);
                }
                None
            }
            Err(why) => {
                self.list_failures = self.list_failures.saturating_add(1);
                if self.partitions.is_none() {
                    self.partitions = self.assigned_partitions();
                }
                let wait = SOURCE_RETRY.0 * 2u32.saturating_pow(self.list_failures.min(16));
                self.list_at = Some(ctx.now + wait.min(SOURCE_RETRY.1));
                Some(why.clone())
            }
        }
    }

    /// The list as the assignments in force have it: a failing source must not keep a new leader from placing orphans.
    fn assigned_partitions(&self) -> Option<Vec<Partition>> {
        let mut list: Vec<_> = self.current.values().flat_map(|a| a.partitions().iter().cloned()).collect();
        list.sort();
        // One that a leader has left in two assignments is about to be taken out of one.
        list.dedup_by(|a, b| a.id() == b.id());
        (!list.is_empty()).then_some(list)
    }
}
