//! Which worker can open a partition's state, by what workers say: a handler may refuse a state that another version of it has written.
//!
//! Such a partition belongs with a worker that has the version which wrote it, else with one whose version has not tried, else with
//! one whose version has refused a state that is no more: any other state is a new question. Where all have refused the one that
//! there is, it stays where it is, and the operator is told: its owner takes it as soon as its state is another. What a version has
//! refused is remembered for as long as the worker runs, so that its partitions do not go back and forth between two versions.
//!
//! Whether the state is still the one that was refused, the workers find out who have refused it. Who holds a partition knows best:
//! as long as he does not say that he cannot open it, he has opened it, or is about to try.

use super::super::roster::Member;
use crate::record::ByWriter;
use crate::{Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How well a worker suits a partition; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suits {
    /// It has the version that wrote the state, or nobody has refused any; or it holds the partition and does not refuse it.
    Well,
    /// Its version has not tried.
    Perhaps,
    /// It, or another of its version, has refused an earlier state.
    Hardly,
    /// It, or another of its version, refuses the state.
    Not,
}

/// A worker's version: the digests of its plugins.
type Digests = BTreeSet<String>;

/// What is said of one partition: of the state that there is, and of earlier ones.
#[derive(Default)]
struct Told<'a> {
    now: Refused<'a>,
    before: Refused<'a>,
}

/// Who wrote states that were refused, and the versions that have refused them.
#[derive(Default)]
struct Refused<'a> {
    writers: BTreeSet<&'a str>,
    versions: BTreeSet<&'a Digests>,
}

impl<'a> Refused<'a> {
    fn add(&mut self, writer: &'a str, version: &'a Digests) {
        self.writers.insert(writer);
        self.versions.insert(version);
    }
}

/// What the members say of states that they cannot open.
#[derive(Default)]
pub(super) struct Openable<'a> {
    told: BTreeMap<&'a str, Told<'a>>,
}

impl<'a> Openable<'a> {
    pub(super) fn of(members: impl Iterator<Item = (&'a WorkerId, &'a Member)>) -> Self {
        let mut openable = Self::default();
        for (_, member) in members {
            for (writer, id) in each(&member.refusals.cannot_open) {
                openable.told.entry(id).or_default().now.add(writer, &member.digests);
            }
            for (writer, id) in each(&member.refusals.could_not_open) {
                openable.told.entry(id).or_default().before.add(writer, &member.digests);
            }
        }
        openable
    }

    /// Whether anybody has refused anything.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    fn suits(&self, id: &str, member: &Member, holds: bool) -> Suits {
        let Some(Told { now, before }) = self.told.get(id) else { return Suits::Well };
        // Who wrote an earlier state says something only while nobody speaks of the one that there is.
        let writers = if now.writers.is_empty() { &before.writers } else { &now.writers };
        let refuses = member.refusals.stands_for(id);
        let has_writer = member.digests.iter().any(|digest| writers.contains(digest.as_str()));
        // With several handlers the one that wrote a state may not be the one that is for the partition here.
        if refuses {
            Suits::Not
        } else if has_writer || holds {
            Suits::Well
        } else if now.versions.contains(&member.digests) {
            Suits::Not
        } else if before.versions.contains(&member.digests) {
            Suits::Hardly
        } else {
            Suits::Perhaps
        }
    }

    /// Whether a worker may be given a partition, as far as its handler is concerned: it has not refused the state.
    pub(super) fn may_have(&self, id: &str, member: &Member, holds: bool) -> bool {
        self.suits(id, member, holds) < Suits::Hardly
    }

    /// Whether one of these workers, which have room, suits a partition better than the one that has it and cannot open it.
    pub(super) fn is_misplaced(
        &self,
        partition: &PartitionId,
        holder: &Member,
        workers: &[(&WorkerId, &Member)],
    ) -> bool {
        let suits = |member, holds| self.suits(partition.as_str(), member, holds);
        suits(holder, true) == Suits::Not && workers.iter().any(|(_, member)| suits(member, false) < Suits::Not)
    }

    /// Gives what a strategy has placed with a worker that has refused it to one that suits better: the one that has it already, else
    /// the one with the fewest partitions, as long as it has fewer than `most`.
    pub(super) fn correct(
        &self,
        most: usize,
        partitions: &[&Partition],
        workers: &[(&WorkerId, &Member)],
        previous: &[Option<usize>],
        answer: &mut [Option<usize>],
    ) {
        if self.is_empty() {
            return;
        }
        let mut held = vec![0usize; workers.len()];
        for count in answer.iter().flatten() {
            if let Some(held) = held.get_mut(*count) {
                *held += 1;
            }
        }
        for ((partition, before), slot) in partitions.iter().zip(previous).zip(answer.iter_mut()) {
            let id = partition.id().as_str();
            let suits = |at: usize| workers.get(at).map(|(_, member)| self.suits(id, member, *before == Some(at)));
            let has_room = |at: &usize| held.get(*at).is_some_and(|held| *held < most);
            let Some(at) = *slot else { continue };
            if suits(at) < Some(Suits::Hardly) {
                continue;
            }
            let rank = |to: &usize| (suits(*to), *before != Some(*to), held.get(*to).copied());
            let best = (0..workers.len()).filter(has_room).min_by_key(rank);
            let Some(best) = best.filter(|best| suits(*best) < suits(at)) else { continue };
            *slot = Some(best);
            for (worker, by) in [(at, -1), (best, 1)] {
                if let Some(held) = held.get_mut(worker) {
                    *held = held.saturating_add_signed(by);
                }
            }
        }
    }

    /// Of these partitions, those that suit none of the workers, and who wrote their states.
    pub(super) fn hopeless(
        &self,
        workers: &[(&WorkerId, &Member)],
        listed: impl Fn(&str) -> bool,
        holders: &HashMap<&str, &WorkerId>,
    ) -> (usize, Vec<String>) {
        let suits = |id: &str, worker, member| self.suits(id, member, holders.get(id) == Some(&worker));
        let nobody = |id: &str| workers.iter().all(|(worker, member)| suits(id, worker, member) == Suits::Not);
        let found: Vec<_> = self.told.iter().filter(|(id, _)| listed(id) && nobody(id)).collect();
        let writers: BTreeSet<&str> = found.iter().flat_map(|(_, told)| told.now.writers.iter().copied()).collect();
        (found.len(), writers.into_iter().map(str::to_owned).collect())
    }
}

fn each(refused: &ByWriter) -> impl Iterator<Item = (&str, &str)> {
    refused.iter().flat_map(|(writer, ids)| ids.iter().map(move |id| (writer.as_str(), id.as_str())))
}
