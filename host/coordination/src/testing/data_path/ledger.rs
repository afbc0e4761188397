//! A partition's messages, what came out of them, and what must hold of its record and its output whenever they are written.

use super::Objects;
use super::handler::{DRAFT, Fate, outputs};
use crate::machine::{Batch, Outgoing};
use crate::record::{OwnershipRecord, Phase as RecordPhase};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By sequence.
    pub(crate) messages: BTreeMap<u64, Fate>,
    /// By generation: with each move the operator begins another.
    histories: BTreeMap<u64, History>,
    /// The output stream by message ID: it takes none twice.
    published: BTreeMap<String, String>,
    tries: BTreeMap<u64, u32>,
    /// How many owners each message has killed.
    kills: BTreeMap<u64, u32>,
    /// How often the partition was seized while its record said that the message is handled alone.
    lost_alone: BTreeMap<u64, u32>,
}

/// What comes of the messages from some place on.
#[derive(Debug, Default)]
struct History {
    /// Where it begins, once that is known: what is not above was never its.
    from: Option<u64>,
    /// The state that the operator has left to it. Nothing that he has passed over comes into it.
    left: Option<Vec<u64>>,
    /// The messages that were dead-lettered.
    letters: BTreeSet<u64>,
    /// What the output stream has taken.
    output: BTreeSet<String>,
    /// The last output: which message's, and which of that.
    last: (u64, u64),
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

    /// How many messages were dead-lettered.
    pub(crate) fn letters(&self) -> usize {
        self.histories.values().map(|history| history.letters.len()).sum()
    }

    /// This record begins a partition, and perhaps not for the first time. What only one of them has passed over may be missing: the other
    /// may still be written back.
    pub(crate) fn begin_anew(&mut self, first: &OwnershipRecord) {
        let history = self.histories.entry(first.generation.0).or_default();
        if history.left.is_none() {
            history.from = history.from.max(Some(first.position.0));
        }
    }

    /// The operator has written this record: what follows is another history. Says what is wrong with it.
    pub(crate) fn moved(&mut self, moved: &OwnershipRecord, objects: &Objects) -> Option<String> {
        let state = match objects.state(moved) {
            Ok(state) => state,
            Err(wrong) => return Some(wrong),
        };
        let history = History { from: Some(moved.position.0), left: Some(state), ..History::default() };
        // What has killed workers is found anew.
        self.forget_deaths();
        self.histories.insert(moved.generation.0, history);
        None
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

    /// Something reaches the output stream. Says what is wrong with it: in a history each output comes once, in the order of the
    /// messages. A message that was given up may have published before, or publish in the hands of the next owner.
    pub(crate) fn receive(&mut self, outgoing: &Outgoing<Fate, String>) -> Option<String> {
        let (id, body) = match outgoing {
            Outgoing::DeadLetter { id, message, reason, .. } => {
                let sequence = message.sequence.0;
                self.history(id)?.letters.insert(sequence);
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
        let Some(history) = self.history(id) else { return Some(format!("{id:?} is no message ID")) };
        if !history.output.insert(body.clone()) {
            return Some(format!("{body:?} is published twice, again as {id}"));
        }
        let place = body.split_once(':').and_then(|(sequence, n)| Some((sequence.parse().ok()?, n.parse().ok()?)));
        let Some(place @ (sequence, _)) = place else { return Some(format!("{body:?} is no output")) };
        if history.letters.contains(&sequence) || history.from.is_some_and(|from| sequence <= from) {
            return None;
        }
        let last = std::mem::replace(&mut history.last, place);
        (place < last).then(|| format!("{body:?} is published after {}:{}", last.0, last.1))
    }

    /// The history that a message ID names: `…/<generation>:<sequence>:…`.
    fn history(&mut self, id: &str) -> Option<&mut History> {
        let generation = id.rsplit('/').next()?.split(':').next()?.parse().ok()?;
        Some(self.histories.entry(generation).or_default())
    }

    /// What is wrong with a record that replaces another: one owner per epoch, positions that only grow, and a state that is
    /// exactly the partition's messages up to the position, with all that they publish published.
    pub(crate) fn judge(
        &mut self,
        old: Option<&OwnershipRecord>,
        new: &OwnershipRecord,
        objects: &Objects,
    ) -> Option<String> {
        let history = self.histories.entry(new.generation.0).or_default();
        history.from.get_or_insert(new.position.0);
        if old.is_none() && new.position.0 < history.last.0 {
            // State and position are lost, and what was before the start comes out too.
            history.last = (new.position.0, 0);
        }
        old.and_then(|old| succession(old, new)).or_else(|| self.judge_state(old, new, objects))
    }

    fn judge_state(&self, old: Option<&OwnershipRecord>, new: &OwnershipRecord, objects: &Objects) -> Option<String> {
        let position = new.position.0;
        let state = match objects.state(new) {
            Ok(state) => state,
            Err(wrong) => return Some(wrong),
        };
        let Some(history) = self.histories.get(&new.generation.0) else { return Some("it has no history".into()) };
        let from = history.from.unwrap_or_default();
        let left = history.left.as_deref().unwrap_or_default();
        let Some(state) = state.strip_prefix(left) else {
            return Some(format!("{state:?} does not go on from {left:?}, which the operator has left"));
        };
        if let Some(passed) = state.iter().find(|sequence| history.left.is_some() && **sequence <= from) {
            return Some(format!("message {passed} is applied, and the operator has moved the partition to {from}"));
        }
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
            if !is_in && !history.letters.contains(sequence) && *sequence > from {
                return Some(format!("message {sequence} is lost at position {position}"));
            }
            if is_in && !matches!(fate, Fate::Fine | Fate::Shy(_) | Fate::Deadly) {
                return Some(format!("message {sequence} is applied, which is {fate:?}"));
            }
        }
        let before = old.map_or(0, |old| old.position.0);
        let new_ones = state.iter().skip_while(|sequence| **sequence <= before);
        let unsent = new_ones.flat_map(|sequence| outputs(*sequence)).find(|body| !history.output.contains(body));
        unsent.map(|body| format!("position {position} is committed, and {body:?} is not published"))
    }
}

fn succession(old: &OwnershipRecord, new: &OwnershipRecord) -> Option<String> {
    let (was, is) = (old.epoch, new.epoch);
    if new.generation != old.generation {
        return Some(format!("generation {} after {}", new.generation, old.generation));
    }
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
