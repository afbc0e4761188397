//! The stream, and readers that start over.

use super::{Fate, Happening, World};
use crate::machine::*;
use crate::testing::ms;

impl World {
    pub(crate) fn publish(&mut self, fate: Fate) -> u64 {
        self.head += 1 + self.random.below(4);
        self.messages.insert(self.head, fate);
        self.note(format!("message {} is {fate:?}", self.head));
        self.head
    }

    /// A reader that starts over, as after a gap or a reconnect.
    pub(crate) fn restart_reader(&mut self, at: usize) {
        if let (Some(machine), Some(_)) = (&self.workers[at].machine, self.workers[at].reader) {
            let mark = machine.mark();
            self.start_reader(at, mark);
        }
    }

    pub(super) fn start_reader(&mut self, at: usize, mark: Sequence) {
        self.readers += 1;
        let (reader, run) = (self.readers, self.workers[at].run);
        let from = (mark.0 + 1).saturating_sub(self.random.below(4)).max(1);
        // The old one may still deliver something.
        self.workers[at].reader = Some((reader, from));
        self.tell(at, ms(3), Input::Reader { reader, from: Sequence(from) });
        self.after(ms(4), Happening::Pump { to: at, run, reader });
    }

    pub(super) fn pump(&mut self, at: usize, run: u64, reader: u64) {
        let Some((number, from)) = self.workers[at].reader else { return };
        if self.workers[at].run != run || number != reader {
            return;
        }
        let to = (from + self.random.below(25)).min(self.head);
        if to >= from {
            let messages = self
                .messages
                .range(from..=to)
                .map(|(sequence, fate)| QueuedMessage { sequence: Sequence(*sequence), bytes: 10, body: *fate })
                .collect();
            self.workers[at].reader = Some((reader, to + 1));
            self.tell(at, ms(1), Input::Messages { reader, messages });
            if self.random.chance(50) {
                self.tell(at, ms(1), Input::Passed { reader, sequence: Sequence(to) });
            }
        }
        let time = self.random.between(5, 60);
        self.after(time, Happening::Pump { to: at, run, reader });
        let readers = self.trouble.readers;
        if self.random.chance(readers) {
            self.restart_reader(at);
        }
    }
}
