//! Time: what happens next, one step after another.

use super::{Fleet, Happening, Process, Status};
use crate::coordinator::*;
use std::time::Duration;

/// Lines of the trace that are kept.
const TRACED: usize = 8000;

impl Fleet {
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until.max(self.now);
    }

    /// Runs until `what` holds; fails after `limit`. Returns how long it took.
    pub(crate) fn until(&mut self, limit: Duration, name: &str, mut what: impl FnMut(&Self) -> bool) -> Duration {
        let began = self.now;
        while !what(self) {
            if !self.step(began + limit) {
                self.violated(format!("not within {limit:?}: {name}; {:?}", self.unsettled()));
                break;
            }
        }
        self.now - began
    }

    pub(crate) fn settle(&mut self, limit: Duration) -> Duration {
        self.until(limit, "settled", |fleet| fleet.unsettled().is_none())
    }

    /// One step: a timer of a process or something on its way. Returns whether there was one.
    fn step(&mut self, until: Duration) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let (now, running) = (self.now, |process: &&Process| process.status == Status::Running);
        let timer = (0..).zip(&self.processes).filter(|(_, process)| running(process)).filter_map(|(at, process)| {
            let core = process.coordinator.poll_timeout().map(|due| (due, false));
            let (due, is_data) = core.into_iter().chain(process.data.due.map(|due| (due, true))).min()?;
            Some((process.clock.when(due).max(now), at, is_data))
        });
        let timer = timer.min();
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        if let Some((when, at, is_data)) = timer
            && queued.is_none_or(|q| when <= q)
        {
            if when > until {
                return false;
            }
            self.steps += 1;
            self.now = when;
            if is_data {
                self.tick_data(at);
                return true;
            }
            self.tick(at);
            let process = &self.processes[at];
            let shows = process.clock.read(self.now);
            if process.coordinator.poll_timeout().is_some_and(|next| next <= shows) {
                self.violated(format!("#{at} asks to be called at a time that has come"));
            }
            return true;
        }
        if queued.is_none_or(|q| q > until) {
            return false;
        }
        let Some(((when, _), happening)) = self.queue.pop_first() else { return false };
        self.steps += 1;
        self.now = when;
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Serve { from, life, request, reply_lost } => self.serve(from, life, request, reply_lost),
            Happening::Tell { to, life, watch, news } => {
                let process = &self.processes[to];
                let reached = process.connected && !process.cut;
                let dropped = watch
                    .is_some_and(|(bucket, id)| !reached || process.watches.get(&bucket).is_none_or(|w| w.id != id));
                if process.life != life || dropped || (!reached && news.is_passing()) {
                    return;
                }
                let news = if reached { news } else { news.cut_off() };
                self.deliver(to, news);
            }
            Happening::Expire { bucket, key, revision } => self.expire(bucket, &key, revision),
            Happening::Reconnect { at, life } => {
                let process = &self.processes[at];
                if process.life == life && !process.connected {
                    self.reconnect(at);
                }
            }
            Happening::Verdict { at, life, worker, claim, said_at, term } => {
                self.check_verdict((at, life, term), &worker, claim, said_at);
            }
            Happening::Settle { at, life, settled } => {
                let process = &self.processes[at];
                let assigned = process.assigned.as_ref();
                if process.life == life && assigned.is_some_and(|a| (a.term, a.version) == settled) {
                    let owned = assigned.map_or(0, |a| a.partitions.len());
                    self.give(at, Event::DataPath { owned, lag: 0, settled: Some(settled), begun: Some(settled) });
                }
            }
            Happening::Return { at, life, id, run, instance, command } => {
                if self.processes[at].life == life {
                    self.returned(at, &id, run, instance, &command);
                }
            }
            Happening::Attach { at, life, id, run, from } => self.attach(at, life, id, run, from),
            Happening::Pump { at, life, id, run, reader } => self.pump(at, life, id, run, reader),
            Happening::Produce => self.produce(),
            Happening::Remind { at, life } => {
                if self.processes[at].life == life {
                    self.remind(at);
                }
            }
        }
    }

    pub(super) fn after(&mut self, time: Duration, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + time, self.order), happening);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if !self.traced {
            return;
        }
        let line = format!("{:10.3} {}", self.now.as_secs_f64() - 1000.0, line(self));
        if self.trace.len() == TRACED {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// A promise is broken. The first one counts.
    pub(crate) fn violated(&mut self, what: String) {
        assert!(self.collects, "{what}");
        if self.violation.is_none() {
            self.note(|_| format!("VIOLATED: {what}"));
            self.violation = Some(what);
        }
    }
}
