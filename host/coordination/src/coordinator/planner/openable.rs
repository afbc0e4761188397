//! Which worker can open a partition's state, by what workers say: a handler may refuse a state that another version of it has written.
//!
//! Such a partition belongs with a worker that has the version which wrote it, else with one whose version has not tried. Where all
//! have refused, it stays where it is, and the operator is told: its owner takes it as soon as its state is another. A worker that
//! has refused keeps saying so for as long as it runs, so that no later plan gives the partition back to it.

use super::super::roster::{Member, Refused};
use crate::{Partition, PartitionId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// How well a worker suits a partition; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suits {
    /// It has the version that wrote the state, or nobody has refused it.
    Well,
    /// Its version has not tried.
    Perhaps,
    /// It, or another of its version, has refused.
    Not,
}

/// What the members say of states that they cannot open.
#[derive(Default)]
pub(super) struct Openable<'a> {
    /// By partition: who wrote the state, and the versions that have refused it.
    refused: BTreeMap<&'a str, (BTreeSet<&'a str>, BTreeSet<&'a BTreeSet<String>>)>,
}

impl<'a> Openable<'a> {
    pub(super) fn of(members: impl Iterator<Item = (&'a WorkerId, &'a Member)>) -> Self {
        let mut openable = Self::default();
        for (_, member) in members {
            for (writer, id) in each(&member.cannot_open) {
                let (writers, versions) = openable.refused.entry(id).or_default();
                writers.insert(writer);
                versions.insert(&member.digests);
            }
        }
        openable
    }

    /// Whether anybody has refused anything.
    pub(super) fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }

    fn suits(&self, id: &str, member: &Member) -> Suits {
        let Some((writers, versions)) = self.refused.get(id) else { return Suits::Well };
        if member.digests.iter().any(|digest| writers.contains(digest.as_str())) {
            Suits::Well
        } else if versions.contains(&member.digests) {
            Suits::Not
        } else {
            Suits::Perhaps
        }
    }

    /// Whether one of these workers, which have room, suits a partition better than the one that has it.
    pub(super) fn is_misplaced(
        &self,
        partition: &PartitionId,
        holder: &Member,
        workers: &[(&WorkerId, &Member)],
    ) -> bool {
        let suits = |member| self.suits(partition.as_str(), member);
        suits(holder) == Suits::Not && workers.iter().any(|(_, member)| suits(member) < Suits::Not)
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
            let suits = |at: usize| workers.get(at).map(|(_, member)| self.suits(partition.id().as_str(), member));
            let has_room = |at: &usize| held.get(*at).is_some_and(|held| *held < most);
            let Some(at) = *slot else { continue };
            if suits(at) != Some(Suits::Not) {
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
    ) -> (usize, Vec<String>) {
        let nobody = |id: &str| workers.iter().all(|(_, member)| self.suits(id, member) == Suits::Not);
        let found: Vec<_> = self.refused.iter().filter(|(id, _)| listed(id) && nobody(id)).collect();
        let writers: BTreeSet<&str> = found.iter().flat_map(|(_, (writers, _))| writers.iter().copied()).collect();
        (found.len(), writers.into_iter().map(str::to_owned).collect())
    }
}

fn each(refused: &Refused) -> impl Iterator<Item = (&str, &str)> {
    refused.iter().flat_map(|(writer, ids)| ids.iter().map(move |id| (writer.as_str(), id.as_str())))
}
