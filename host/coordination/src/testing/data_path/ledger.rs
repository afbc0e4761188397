//! A partition's messages, what came out of them, and what must hold of its record and its output whenever they are written.

use super::Objects;
use super::handler::{DRAFT, Fate, applied, outputs};
use crate::machine::{Batch, Outgoing};
use crate::record::{OwnershipRecord, Phase as RecordPhase};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By sequence.
    pub(crate) messages: BTreeMap<u64, Fate>,
    /// Where its first owner has begun: what is not above was never its.
    start: Option<u64>,
    /// The sequences of the messages that were dead-lettered, by message ID.
    pub(crate) letters: BTreeMap<String, u64>,
    /// The output stream by message ID: it takes none twice.
    published: BTreeMap<String, String>,
    /// The same, in order.
    output: BTreeSet<String>,
    /// The last output: which message's, and which of that.
    last: (u64, u64),
    tries: BTreeMap<u64, u32>,
    /// How many owners each message has killed.
    kills: BTreeMap<u64, u32>,
    /// How often the partition was seized while its record said that the message is handled alone.
    lost_alone: BTreeMap<u64, u32>,
}

/// A message that kills workers is found by the time that it has killed so many.
const KILLS: u32 = 4;

/// And no message is blamed for less than this many losses.
const LOSSES: u32 = 2;

impl Ledger {
    /// How often a message has been tried, this time included.
    pub(super) fn tried(&mut self, sequence: u64) -> u32 {
        let tries = self.tries.entry(sequence).or_default();
        *tries += 1;
        *tries
    }

    /// The next record is the first.
    pub(crate) fn begin_anew(&mut self) {
        self.start = None;
    }

    /// The record is lost, and with it what it says of deaths.
    pub(crate) fn forget_deaths(&mut self) {
        self.kills.clear();
    }

    /// The owner dies of the first of these messages that is deadly, if one is. Says what is wrong with that.
    pub(crate) fn kills(&mut self, batch: &Batch<Fate>) -> Option<String> {
        let deadly = batch.messages.iter().find(|message| message.body == Fate::Deadly)?.sequence.0;
        let kills = self.kills.entry(deadly).or_default();
        *kills += 1;
        (*kills > KILLS).then(|| format!("message {deadly} has killed {kills} owners"))
    }

    /// A record is replaced by another.
    pub(crate) fn count_loss(&mut self, old: &OwnershipRecord, new: &OwnershipRecord) {
        if let Some(alone) = old.alone.filter(|_| old.seizes < new.seizes) {
            *self.lost_alone.entry(alone.sequence.0).or_default() += 1;
        }
    }

    fn is_dead_letter(&self, sequence: u64) -> bool {
        self.letters.values().any(|letter| *letter == sequence)
    }

    /// Something reaches the output stream. Says what is wrong with it: each output comes once, in the order of the messages.
    /// A message that was given up may have published before, or publish in the hands of the next owner.
    pub(crate) fn receive(&mut self, outgoing: &Outgoing<Fate, String>) -> Option<String> {
        let (id, body) = match outgoing {
            Outgoing::DeadLetter { id, message, reason, .. } => {
                let sequence = message.sequence.0;
                self.letters.insert(id.clone(), sequence);
                let losses = self.lost_alone.get(&sequence).copied().unwrap_or_default();
                let is_blamed = reason.contains("workers died") && losses < LOSSES;
                return is_blamed.then(|| format!("message {sequence} is blamed for deaths after {losses} losses"));
            }
            Outgoing::Publish { id, body } => (id, body),
        };
        if body == DRAFT {
            return Some(format!("{id} is the output of a message that is not done"));
        }
        match self.published.get(id) {
            Some(before) if before == body => return None,
            Some(before) => return Some(format!("{id} is {before:?} and {body:?}")),
            None => {}
        }
        self.published.insert(id.clone(), body.clone());
        if !self.output.insert(body.clone()) {
            return Some(format!("{body:?} is published twice, again as {id}"));
        }
        let place = body.split_once(':').and_then(|(sequence, n)| Some((sequence.parse().ok()?, n.parse().ok()?)));
        let Some(place @ (sequence, _)) = place else { return Some(format!("{body:?} is no output")) };
        if self.is_dead_letter(sequence) {
            return None;
        }
        let last = std::mem::replace(&mut self.last, place);
        (place < last).then(|| format!("{body:?} is published after {}:{}", last.0, last.1))
    }

    /// What is wrong with a record that replaces another: one owner per epoch, positions that only grow, and a state that is
    /// exactly the partition's messages up to the position, with all that they publish published.
    pub(crate) fn judge(
        &mut self,
        old: Option<&OwnershipRecord>,
        new: &OwnershipRecord,
        objects: &Objects,
    ) -> Option<String> {
        self.start.get_or_insert(new.position.0);
        if old.is_none() && new.position.0 < self.last.0 {
            // State and position are lost, and what was before the start comes out too.
            self.last = (new.position.0, 0);
        }
        old.and_then(|old| succession(old, new)).or_else(|| self.judge_state(old, new, objects))
    }

    fn judge_state(&self, old: Option<&OwnershipRecord>, new: &OwnershipRecord, objects: &Objects) -> Option<String> {
        let position = new.position.0;
        let snapshot = match new.snapshot.as_ref().map(|stored| objects.load(stored)).transpose() {
            Ok(snapshot) => snapshot,
            Err(wrong) => return Some(wrong),
        };
        let state = applied(snapshot.as_ref());
        if !state.is_sorted_by(|a, b| a < b) {
            return Some(format!("out of order: {state:?}"));
        }
        if let Some(foreign) = state.iter().find(|s| !self.messages.contains_key(*s)) {
            return Some(format!("{foreign} in {state:?} is another partition's"));
        }
        if state.last().is_some_and(|last| *last > position) {
            return Some(format!("the state {state:?} is ahead of position {position}"));
        }
        for (sequence, fate) in self.messages.range(..=position) {
            let is_in = state.binary_search(sequence).is_ok();
            if !is_in && !self.is_dead_letter(*sequence) && self.start.is_some_and(|start| *sequence > start) {
                return Some(format!("message {sequence} is lost at position {position}"));
            }
            if is_in && !matches!(fate, Fate::Fine | Fate::Shy(_) | Fate::Deadly) {
                return Some(format!("message {sequence} is applied, which is {fate:?}"));
            }
        }
        let before = old.map_or(0, |old| old.position.0);
        let new_ones = state.iter().skip_while(|sequence| **sequence <= before);
        let unsent = new_ones.flat_map(|sequence| outputs(*sequence)).find(|body| !self.output.contains(body));
        unsent.map(|body| format!("position {position} is committed, and {body:?} is not published"))
    }
}

fn succession(old: &OwnershipRecord, new: &OwnershipRecord) -> Option<String> {
    let (was, is) = (old.epoch, new.epoch);
    if new.position < old.position {
        return Some(format!("position {} after {}", new.position, old.position));
    }
    if is == was {
        if new.owner != old.owner {
            let (one, other) = (&old.owner, &new.owner);
            return Some(format!(
                "epoch {is} has two owners: {} {} and {} {}",
                one.worker, one.incarnation, other.worker, other.incarnation
            ));
        }
        return (old.phase == RecordPhase::Released).then(|| format!("epoch {is} is written after its release"));
    }
    if is != was.next() {
        return Some(format!("epoch {is} after {was}"));
    }
    let changed = new.position != old.position || new.snapshot != old.snapshot;
    changed.then(|| format!("epoch {is} begins otherwise than epoch {was} has ended"))
}
