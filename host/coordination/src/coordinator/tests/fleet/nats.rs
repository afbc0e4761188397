//! The side of NATS: buckets, requests on their way, expiry, watches, probes.

use super::{Fleet, Happening, Status};
use crate::coordinator::*;
use crate::record::{PlanRecord, decode};
use crate::testing::{ms, secs};
use std::collections::BTreeMap;
use std::time::Duration;

/// One KV bucket.
#[derive(Default)]
pub(super) struct Store {
    last: u64,
    pub(super) keys: BTreeMap<String, StoredEntry>,
}

impl Store {
    pub(super) fn put(&mut self, key: &str, value: Option<Vec<u8>>, expect: Expect) -> WriteOutcome {
        let found = self.keys.get(key).map_or(0, |e| e.revision);
        let holds = match expect {
            Expect::Anything => true,
            Expect::Nothing => found == 0,
            Expect::Revision(revision) => found == revision,
        };
        if !holds {
            return WriteOutcome::Lost;
        }
        self.last += 1;
        self.keys.insert(key.to_owned(), StoredEntry { value, revision: self.last });
        WriteOutcome::Written(self.last)
    }
}

pub(super) struct Watch {
    pub(super) id: u64,
    pub(super) keys: Vec<String>,
    /// Nothing overtakes what was told before.
    told_at: Duration,
}

impl Watch {
    fn covers(&self, key: &str) -> bool {
        self.keys.iter().any(|k| k.strip_suffix('*').map_or(k == key, |prefix| key.starts_with(prefix)))
    }
}

/// What a request gets whose answer does not come through.
pub(super) fn failed(reply: Reply) -> Reply {
    match reply {
        Reply::Write(_) => Reply::Write(WriteOutcome::Unknown),
        Reply::Entry(_) => Reply::Entry(Err(())),
        Reply::Listing(_) => Reply::Listing(Err(())),
        Reply::Probe(_) => Reply::Probe(ProbeAnswer::TimedOut),
        Reply::Partitions(answer) => Reply::Partitions(answer),
    }
}

/// A request's name, and what it gets if nobody answers.
fn no_answer(request: &Action) -> Option<(OpId, Reply)> {
    Some(match request {
        Action::Write { op, .. } | Action::Delete { op, .. } => (*op, Reply::Write(WriteOutcome::Unknown)),
        Action::Read { op, .. } => (*op, Reply::Entry(Err(()))),
        Action::List { op, .. } => (*op, Reply::Listing(Err(()))),
        Action::Probe { op, .. } => (*op, Reply::Probe(ProbeAnswer::TimedOut)),
        Action::ListPartitions { op } => (*op, Reply::Partitions(Err("no answer".into()))),
        _ => return None,
    })
}

impl Fleet {
    pub(super) fn send(&mut self, from: usize, request: Action) {
        self.processes[from].sent += 1;
        let life = self.processes[from].life;
        let Some((op, failed)) = no_answer(&request) else { return };
        let time = self.random.between(1, 15);
        let trouble = self.trouble;
        let lost = self.mute || self.random.chance(trouble.lost_requests);
        let late = !lost && self.random.chance(trouble.late_requests);
        let reply_lost = late || self.random.chance(trouble.lost_replies);
        let connected = self.processes[from].connected;
        if !connected || lost || reply_lost {
            let wait = if connected { secs(2) } else { ms(50) };
            let event = Event::Reply { op, reply: failed };
            self.after(wait, Happening::Tell { to: from, life, watch: None, event });
        }
        if connected && !lost {
            let time = if late { secs(2) + time } else { time };
            self.after(time, Happening::Serve { from, life, request, reply_lost });
        }
    }

    pub(super) fn serve(&mut self, from: usize, life: u64, request: Action, reply_lost: bool) {
        if self.processes[from].life == life && self.processes[from].status == Status::Paused && self.random.chance(50)
        {
            return self.processes[from].outbox.push(request);
        }
        // What a killed process had under way may have left it or not.
        if self.processes[from].life != life && self.random.chance(50) {
            return;
        }
        let Some((op, _)) = no_answer(&request) else { return };
        let reply = match request {
            Action::Write { bucket: Bucket::Heartbeats, .. } if self.refuse_heartbeats => {
                Reply::Write(WriteOutcome::Unknown)
            }
            Action::Write { bucket, key, value, expect, lifetime, .. } => {
                Reply::Write(self.put(bucket, &key, Some(value.into_bytes()), expect, lifetime))
            }
            Action::Delete { bucket, key, expect, .. } => {
                Reply::Write(self.put(bucket, &key, None, expect, Lifetime::Forever))
            }
            Action::Read { bucket, key, .. } => {
                Reply::Entry(Ok(self.stores.get(&bucket).and_then(|s| s.keys.get(&key)).cloned()))
            }
            Action::List { bucket, .. } => Reply::Listing(Ok(self
                .stores
                .get(&bucket)
                .map(|s| s.keys.iter().map(|(k, e)| (k.clone(), e.clone())).collect())
                .unwrap_or_default())),
            Action::Probe { incarnation, .. } => Reply::Probe(self.probe(from, incarnation)),
            Action::ListPartitions { .. } if self.source_fails => Reply::Partitions(Err("no database".into())),
            Action::ListPartitions { .. } => Reply::Partitions(Ok(self.partitions.clone())),
            _ => return,
        };
        let time = match reply {
            Reply::Probe(ProbeAnswer::TimedOut) => ms(500),
            _ => self.random.between(1, 15),
        };
        if !reply_lost {
            self.after(time, Happening::Tell { to: from, life, watch: None, event: Event::Reply { op, reply } });
        }
    }

    fn probe(&mut self, from: usize, incarnation: Incarnation) -> ProbeAnswer {
        let Some(to) = self.processes.iter().position(|p| p.answers == Some(incarnation)) else {
            return ProbeAnswer::NoResponders;
        };
        let (asked, asking) = (&self.processes[to], self.processes[from].coordinator.worker());
        if !asked.connected {
            return ProbeAnswer::NoResponders;
        }
        if let Some((_, by)) = asking {
            let life = asked.life;
            self.after(ms(1), Happening::Tell { to, life, watch: None, event: Event::Probed { by } });
        }
        match self.processes[to].status {
            Status::Paused => ProbeAnswer::TimedOut,
            _ => ProbeAnswer::Answered,
        }
    }

    pub(crate) fn put(
        &mut self,
        bucket: Bucket,
        key: &str,
        value: Option<Vec<u8>>,
        expect: Expect,
        lifetime: Lifetime,
    ) -> WriteOutcome {
        *self.writes.entry(bucket).or_default() += 1;
        let outcome = self.stores.entry(bucket).or_default().put(key, value, expect);
        let WriteOutcome::Written(revision) = outcome else { return outcome };
        let lives = match lifetime {
            Lifetime::Forever | Lifetime::Assignment => None,
            Lifetime::WorkerId => Some(secs(30)),
            Lifetime::Heartbeat => Some(secs(6)),
            Lifetime::Election => Some(self.lease),
        };
        if let Some(lives) = lives {
            let time = lives + self.random.between(0, 250);
            self.after(time, Happening::Expire { bucket, key: key.to_owned(), revision });
        }
        if bucket == Bucket::Assignments && key == "plan" {
            self.check_plan();
        }
        self.changed(bucket, key);
        outcome
    }

    /// What must hold of any two plans that ever were in force.
    fn check_plan(&mut self) {
        let Some(value) = self.stored(Bucket::Assignments, "plan") else { return };
        let Ok(plan) = decode::<PlanRecord>(&value) else { return };
        if let Some(last) = self.plans.last() {
            assert!(
                (plan.term, plan.version) > (last.term, last.version) && plan.version > last.version,
                "plan {}/{} follows {}/{}",
                plan.term,
                plan.version,
                last.term,
                last.version
            );
        }
        self.plans.push(plan);
    }

    /// Loses a bucket with everything in it; it is made anew, its revisions begin again.
    pub(crate) fn lose_bucket(&mut self, bucket: Bucket) {
        self.note(format!("{bucket:?} is lost"));
        self.stores.insert(bucket, Store::default());
        if bucket == Bucket::Assignments {
            self.plans.clear();
        }
        for at in 0..self.processes.len() {
            if let Some(watch) = self.processes[at].watches.get(&bucket) {
                let keys = watch.keys.clone();
                self.watch(at, bucket, keys);
            }
        }
    }

    pub(super) fn changed(&mut self, bucket: Bucket, key: &str) {
        for at in 0..self.processes.len() {
            self.tell(at, bucket, Some(key));
        }
    }

    pub(super) fn watch(&mut self, at: usize, bucket: Bucket, keys: Vec<String>) {
        self.order += 1;
        let watch = Watch { id: self.order, keys, told_at: self.now };
        self.processes[at].watches.insert(bucket, watch);
        if !self.processes[at].connected {
            return;
        }
        let mut all: Vec<_> =
            self.stores.entry(bucket).or_default().keys.iter().map(|(k, e)| (e.revision, k.clone())).collect();
        all.sort();
        for (_, key) in all {
            self.tell(at, bucket, Some(&key));
        }
        self.tell(at, bucket, None);
    }

    /// Sends a key's latest revision to a watcher, or that everything has been told.
    fn tell(&mut self, at: usize, bucket: Bucket, key: Option<&str>) {
        let delay = self.random.between(1, 40);
        let now = self.now;
        let process = &mut self.processes[at];
        let Some(watch) = process.watches.get_mut(&bucket) else { return };
        let event = match key {
            None => Event::WatchReady { bucket },
            Some(key) if !watch.covers(key) => return,
            Some(key) => {
                let Some(entry) = self.stores.get(&bucket).and_then(|s| s.keys.get(key)) else { return };
                Event::Watched { bucket, key: key.to_owned(), entry: entry.clone() }
            }
        };
        watch.told_at = watch.told_at.max(now + delay);
        let (time, watch, life) = (watch.told_at - now, Some((bucket, watch.id)), process.life);
        self.after(time, Happening::Tell { to: at, life, watch, event });
    }
}
