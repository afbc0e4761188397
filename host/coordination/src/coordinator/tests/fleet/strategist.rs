//! A strategy outside the core: it answers in its own way, and late, wrong or never.

use super::requests::News;
use super::{Fleet, Happening};
use crate::coordinator::*;
use crate::strategy::Question;
use crate::testing::secs;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker gives it.
pub(crate) const PATIENCE: Duration = secs(5);

/// What it does, in percent of the questions; else it answers in time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strategist {
    pub(crate) fails: u64,
    pub(crate) wrong: u64,
    pub(crate) late: u64,
    pub(crate) never: u64,
    /// Gives everything to somebody else each time.
    pub(crate) restless: bool,
}

impl Strategist {
    /// What it does for good: one that has failed most in one way fails always, or never again.
    pub(crate) fn settled(self) -> Self {
        let well = Self { restless: self.restless, ..Self::default() };
        match self {
            Self { fails: 20.., .. } => Self { fails: 100, ..well },
            Self { wrong: 20.., .. } => Self { wrong: 100, ..well },
            Self { late: 20.., .. } | Self { never: 20.., .. } => Self { never: 100, ..well },
            _ => well,
        }
    }
}

/// A question and the answer to it.
pub(super) type Advised = (Arc<Question>, Vec<usize>);

impl Fleet {
    /// A process asks.
    pub(super) fn ask_strategist(&mut self, at: usize, op: OpId, question: Arc<Question>) {
        let Some(strategist) = self.strategist else {
            return self.violated(format!("#{at} asks a strategy, and there is none"));
        };
        let listed = question.partitions.len();
        if question.workers.is_empty() || question.previous.len() != listed || listed == 0 {
            self.violated(format!("#{at} asks what cannot be answered: {question:?}"));
        }
        self.processes[at].asked = Some((op, Arc::clone(&question)));
        self.questions += 1;
        let (random, mut percent) = (&mut self.random, 0);
        let roll = random.below(100);
        let mut is = |share: u64| {
            percent += share;
            (percent - share..percent).contains(&roll)
        };
        if is(strategist.never) {
            return;
        }
        let (fails, wrong, late) = (is(strategist.fails), is(strategist.wrong), is(strategist.late));
        let time = if late { random.between(600, 9000) } else { random.between(1, 100) };
        let mut answer = if strategist.restless { turned(&question, self.questions) } else { filled(&question) };
        if wrong {
            match self.random.below(3) {
                0 => answer.push(0),
                1 => drop(answer.pop()),
                _ => answer[0] = question.workers.len() + self.random.below(3) as usize,
            }
        }
        let answer = if fails { Err("as told".into()) } else { Ok(answer) };
        let news = News::Core(Event::Reply { op, reply: Reply::Strategy(answer) });
        let life = self.processes[at].life;
        self.after(time, Happening::Tell { to: at, life, watch: None, news });
    }

    /// What the leader has asked last.
    pub(crate) fn asked(&self) -> Option<&Question> {
        self.processes[self.leader()].asked.as_ref().map(|(_, question)| &**question)
    }

    /// An answer reaches the process that has asked, if it still waits for it.
    pub(super) fn advise(&mut self, at: usize, event: &Event) {
        let Event::Reply { op, reply: Reply::Strategy(Ok(answer)) } = event else { return };
        let process = &mut self.processes[at];
        if let Some((_, question)) = process.asked.as_ref().filter(|(asked, _)| asked == op) {
            process.advised = Some((Arc::clone(question), answer.clone()));
        }
    }
}

/// Who has something keeps it up to an equal share, and who has least gets the rest.
fn filled(question: &Question) -> Vec<usize> {
    let mut held = vec![0; question.workers.len()];
    let most = question.partitions.len().div_ceil(held.len());
    let mut answer: Vec<Option<usize>> = Vec::new();
    for before in &question.previous {
        let stays = before.filter(|at| held[*at] < most);
        stays.into_iter().for_each(|at| held[at] += 1);
        answer.push(stays);
    }
    let mut fill = || {
        let emptiest = (0..held.len()).min_by_key(|at| held[*at]).expect("a worker");
        held[emptiest] += 1;
        emptiest
    };
    answer.into_iter().map(|slot| slot.unwrap_or_else(&mut fill)).collect()
}

fn turned(question: &Question, turn: usize) -> Vec<usize> {
    (0..question.partitions.len()).map(|at| (at + turn) % question.workers.len()).collect()
}
