//! The stream, and readers that start over.

use super::{Fate, Happening, World};
use crate::machine::*;
use crate::testing::ms;

impl World {
    pub(crate) fn publish(&mut self, fate: Fate) -> u64 {
        self.head += 1 + self.random.below(4);
        self.ledger.messages.insert(self.head, fate);
        self.note(format!("message {} is {fate:?}", self.head));
        self.head
    }

    /// A reader that starts over, as after a gap or a reconnect.
    pub(crate) fn restart_reader(&mut self, at: usize) {
        if self.workers[at].detaching {
            return;
        }
        if let Some(task) = self.workers[at].task.as_mut().filter(|task| task.reader().is_some()) {
            let mark = task.machine.mark();
            if self.limits.acknowledges && self.random.chance(50) {
                // Somebody has deleted the consumer.
                task.stop_reading();
                // Behind what is on its way already.
                return self.tell(at, ms(5), Input::Doubted);
            }
            self.start_reader(at, mark);
        }
    }

    pub(super) fn start_reader(&mut self, at: usize, mark: Sequence) {
        self.readers += 1;
        let (reader, run) = (self.readers, self.workers[at].run);
        let from = (mark.0 + 1).saturating_sub(self.random.below(4)).max(1);
        // The old one may still deliver something.
        let Some(task) = &mut self.workers[at].task else { return };
        let started = task.read_from(reader, from);
        self.tell(at, ms(3), started);
        self.after(ms(4), Happening::Pump { to: at, run, reader });
    }

    pub(super) fn pump(&mut self, at: usize, run: u64, reader: u64) {
        let worker = &mut self.workers[at];
        let Some(task) = worker.task.as_mut().filter(|task| worker.run == run && task.reads(reader).is_some()) else {
            return;
        };
        for told in task.read(&self.ledger, self.head, &mut self.random) {
            self.tell(at, ms(1), told);
        }
        let time = self.random.between(5, 60);
        self.after(time, Happening::Pump { to: at, run, reader });
        let readers = self.trouble.readers;
        if self.random.chance(readers) {
            self.restart_reader(at);
        }
    }
}
