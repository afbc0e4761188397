//! A handler whose state is the list of sequences it has applied, and where its output goes.

use super::World;
use crate::machine::*;
use crate::testing::ms;
use crate::{Completed, Outcome, Snapshot};

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

impl World {
    pub(super) fn answer(&mut self, at: usize, command: Command<Fate, String>) {
        let trouble = self.trouble;
        let input = match command {
            Command::Open { snapshot, .. } => {
                if self.random.chance(trouble.opens) {
                    self.workers[at].instance = None;
                    Input::Opened(Err(Failure::Guest("no".into())))
                } else {
                    self.workers[at].instance = Some(applied(snapshot.as_ref()));
                    Input::Opened(Ok(()))
                }
            }
            Command::Handle(batch) => {
                let result = self.handle(at, &batch);
                if result.is_err() {
                    self.workers[at].instance = None;
                }
                Input::Handled(result)
            }
            Command::Snapshot => {
                let state = self.workers[at].instance.clone().expect("an instance");
                match self.random.chance(trouble.snapshots).then(|| self.random.below(2)) {
                    None => Input::Snapshot(Ok(Some(snapshot(&state)))),
                    Some(0) => Input::Snapshot(Err(Failure::Refused("not now".into()))),
                    Some(_) => {
                        self.workers[at].instance = None;
                        Input::Snapshot(Err(Failure::Guest("trap".into())))
                    }
                }
            }
            Command::Send(outgoing) => {
                // What fails has got somewhere.
                let fails = self.random.chance(trouble.sends);
                let sent = if fails { self.random.below(outgoing.len() as u64 + 1) as usize } else { outgoing.len() };
                for one in outgoing.into_iter().take(sent) {
                    self.send(one);
                }
                Input::Sent(if fails { Err("no answer".into()) } else { Ok(()) })
            }
            _ => return,
        };
        self.give(at, input);
    }

    fn handle(&mut self, at: usize, batch: &Batch<Fate>) -> Result<Handled<String>, Failure> {
        let trouble = self.trouble;
        let mut state = self.workers[at].instance.clone().expect("an instance");
        let sequences: Vec<u64> = batch.messages.iter().map(|m| m.sequence.0).collect();
        let (first, last) = (sequences[0], sequences[sequences.len() - 1]);
        assert!(state.last().is_none_or(|done| *done < first), "{first} comes after {:?}", state.last());
        assert!(self.messages.range(first..=last).map(|(s, _)| *s).eq(sequences), "the batch has a gap");
        assert!(batch.first_attempt <= self.limits.max_attempts + 2, "attempt {}", batch.first_attempt);
        if self.random.chance(trouble.traps) {
            return Err(Failure::Guest("flaky".into()));
        }
        if self.random.chance(trouble.host) {
            return Err(Failure::Host("blocked".into()));
        }
        let all = batch.messages.len() as u64;
        let cut = if self.random.chance(30) { 1 + self.random.below(all) } else { all };
        let mut handled = Handled { outcome: Outcome::default(), outputs: Vec::new() };
        for message in batch.messages.iter().take(cut as usize) {
            let sequence = message.sequence.0;
            let again = match message.body {
                Fate::Shy(times) => {
                    let tries = self.tries.entry(sequence).or_default();
                    *tries += 1;
                    *tries <= times
                }
                fate => fate == Fate::Stubborn,
            };
            if again {
                handled.outputs.push(Output { cause: message.sequence, body: "a draft".into() });
                handled.outcome.retry = Some(self.random.chance(50).then_some(ms(70)));
                break;
            }
            if message.body == Fate::Poison {
                return Err(Failure::Guest("poison".into()));
            }
            if message.body == Fate::Reject {
                handled.outcome.done.push(Completed::Reject("refused".into()));
                continue;
            }
            state.push(sequence);
            handled.outcome.done.push(Completed::Ack);
            handled.outputs.extend(outputs(sequence).map(|body| Output { cause: message.sequence, body }));
        }
        self.workers[at].instance = Some(state);
        Ok(handled)
    }

    fn send(&mut self, outgoing: Outgoing<Fate, String>) {
        match outgoing {
            Outgoing::Publish { id, body } => {
                assert_ne!(body, "a draft");
                if let Some(before) = self.published.get(&id) {
                    assert_eq!(before, &body, "one ID, two messages");
                } else {
                    self.published.insert(id, body.clone());
                    self.output.push(body);
                }
            }
            Outgoing::DeadLetter { id, message, .. } => {
                self.letters.insert(id, message.sequence.0);
            }
        }
    }
}
