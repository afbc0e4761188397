//! A handler whose state is the list of sequences it has applied.

use super::{Command, Input, Ledger, Task, Trouble};
use crate::machine::{Batch, Failure, Handled, Output};
use crate::testing::{Random, ms};
use crate::{Completed, Outcome, Snapshot};
use std::sync::Arc;

/// What the handler does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Applies it.
    Fine,
    /// Refuses it for good.
    Reject,
    /// Traps.
    Poison,
    /// Asks for it again, for ever.
    Stubborn,
    /// Asks for it again, this often.
    Shy(u32),
    /// Kills the worker, as long as anything goes wrong.
    Deadly,
}

impl Fate {
    /// Most messages are fine.
    pub(crate) fn draw(random: &mut Random) -> Self {
        match random.below(30) {
            0 => Fate::Poison,
            1 => Fate::Reject,
            2 => Fate::Stubborn,
            3 => Fate::Shy(1),
            4 => Fate::Shy(2),
            _ => Fate::Fine,
        }
    }
}

/// The applied sequences as a snapshot, and back.
pub(crate) fn snapshot(applied: &[u64]) -> Snapshot {
    let data = applied.iter().map(u64::to_string).collect::<Vec<_>>().join(",").into_bytes();
    Snapshot { format: "list".into(), data }
}

pub(crate) fn applied(snapshot: Option<&Snapshot>) -> Vec<u64> {
    let text = snapshot.map(|s| String::from_utf8_lossy(&s.data).into_owned()).unwrap_or_default();
    text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().expect("a number")).collect()
}

/// What a fine message publishes.
pub(super) fn outputs(sequence: u64) -> impl Iterator<Item = String> {
    (0..sequence % 3).map(move |n| format!("{sequence}:{n}"))
}

/// What a message publishes that is to come again. It must never be seen.
pub(super) const DRAFT: &str = "a draft";

impl Task {
    /// What a call of the handler gives. `Err` says what must not have been asked of it.
    pub(crate) fn call(
        &mut self,
        command: &Command,
        ledger: &mut Ledger,
        random: &mut Random,
        trouble: Trouble,
    ) -> Result<Input, String> {
        match command {
            Command::Open { snapshot, handler, .. } => {
                let fails = random.chance(trouble.opens);
                // An instance of another version stays until the new one is open.
                if !fails {
                    self.instance = Some(applied(snapshot.as_ref()));
                    self.version = Arc::clone(handler);
                } else if self.version == *handler {
                    self.instance = None;
                }
                Ok(Input::Opened(if fails { Err(Failure::Guest("no".into())) } else { Ok(()) }))
            }
            Command::Handle(batch) => {
                let result = self.handle(batch, ledger, random, trouble)?;
                if result.is_err() {
                    self.instance = None;
                }
                Ok(Input::Handled(result))
            }
            Command::Snapshot => {
                let state = self.instance.as_ref().ok_or("a snapshot is asked for, and there is no instance")?;
                Ok(Input::Snapshot(match random.chance(trouble.snapshots).then(|| random.below(2)) {
                    None => Ok(Some(snapshot(state))),
                    Some(0) => Err(Failure::Refused("not now".into())),
                    Some(_) => {
                        self.instance = None;
                        Err(Failure::Guest("trap".into()))
                    }
                }))
            }
            other => Err(format!("{other:?} is no call of the handler")),
        }
    }

    fn handle(
        &mut self,
        batch: &Batch<Fate>,
        ledger: &mut Ledger,
        random: &mut Random,
        trouble: Trouble,
    ) -> Result<Result<Handled<String>, Failure>, String> {
        let state = self.instance.as_ref().ok_or("a batch is handed over, and there is no instance")?;
        let sequences: Vec<u64> = batch.messages.iter().map(|m| m.sequence.0).collect();
        let (Some(first), Some(last)) = (sequences.first(), sequences.last()) else {
            return Err("an empty batch".into());
        };
        if let Some(done) = state.last().filter(|done| *done >= first) {
            return Err(format!("{first} is handed over after {done}"));
        }
        if first > last || !ledger.messages.range(first..=last).map(|(s, _)| s).eq(&sequences) {
            return Err(format!("the batch {sequences:?} has a gap"));
        }
        if random.chance(trouble.traps) {
            return Ok(Err(Failure::Guest("flaky".into())));
        }
        if random.chance(trouble.host) {
            return Ok(Err(Failure::Host("blocked".into())));
        }
        let mut state = state.clone();
        let all = batch.messages.len() as u64;
        let cut = if random.chance(30) { 1 + random.below(all) } else { all };
        let mut handled = Handled { outcome: Outcome::default(), outputs: Vec::new() };
        for message in batch.messages.iter().take(cut as usize) {
            let sequence = message.sequence.0;
            let again = match message.body {
                Fate::Shy(times) => ledger.tried(sequence) <= times,
                fate => fate == Fate::Stubborn,
            };
            if again {
                handled.outputs.push(Output { cause: message.sequence, body: DRAFT.into() });
                handled.outcome.retry = Some(random.chance(50).then_some(ms(70)));
                break;
            }
            if message.body == Fate::Poison {
                return Ok(Err(Failure::Guest("poison".into())));
            }
            if message.body == Fate::Reject {
                handled.outcome.done.push(Completed::Reject("refused".into()));
                continue;
            }
            state.push(sequence);
            handled.outcome.done.push(Completed::Ack);
            handled.outputs.extend(outputs(sequence).map(|body| Output { cause: message.sequence, body }));
        }
        self.instance = Some(state);
        Ok(Ok(handled))
    }
}
