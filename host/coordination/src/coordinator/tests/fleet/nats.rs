//! The side of NATS: requests on their way, expiry, watches, probes.

use super::requests::{News, Request};
use super::store::Store;
use super::{Fleet, Happening, Status};
use crate::PartitionId;
use crate::coordinator::*;
use crate::testing::data_path::{Command, Input};
use crate::testing::{ms, secs};
use std::time::Duration;

/// After this long a request without an answer has failed.
const TIMEOUT: Duration = secs(2);

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

impl Fleet {
    pub(super) fn send(&mut self, from: usize, request: Request) {
        self.processes[from].sent += 1;
        let life = self.processes[from].life;
        let Some(news) = request.no_answer() else { return };
        let time = self.random.between(1, 15);
        let trouble = self.trouble;
        let connected = self.processes[from].connected;
        let lost = self.mute || self.processes[from].cut || self.random.chance(trouble.lost_requests);
        let late = !lost && self.random.chance(trouble.late_requests);
        let reply_lost = late || self.random.chance(trouble.lost_replies);
        if !connected || lost || reply_lost {
            let wait = if connected { TIMEOUT } else { ms(50) };
            self.after(wait, Happening::Tell { to: from, life, watch: None, news });
        }
        if connected && !lost {
            let time = if late { TIMEOUT + self.random.between(0, 6000) } else { time };
            self.after(time, Happening::Serve { from, life, request, reply_lost });
        }
    }

    pub(super) fn serve(&mut self, from: usize, life: u64, request: Request, reply_lost: bool) {
        if self.processes[from].life == life && self.processes[from].status == Status::Paused && self.random.chance(50)
        {
            return self.processes[from].outbox.push((request, reply_lost));
        }
        // What a killed process had under way may have left it or not.
        if self.processes[from].life != life && self.random.chance(50) {
            return;
        }
        let Some(nothing) = request.no_answer() else { return };
        if !self.nats_runs {
            if !reply_lost {
                self.after(TIMEOUT, Happening::Tell { to: from, life, watch: None, news: nothing });
            }
            return;
        }
        let (time, news) = match request {
            Request::Core(action) => {
                let Some((op, reply)) = self.reply(from, life, action) else { return };
                let time = match reply {
                    Reply::Probe(ProbeAnswer::TimedOut) => ms(500),
                    _ => self.random.between(1, 15),
                };
                (time, News::Core(Event::Reply { op, reply }))
            }
            Request::Data(id, run, command) => {
                let Some(input) = self.reply_data(from, &id, command) else { return };
                (self.random.between(1, 15), News::Data(id, run, input))
            }
        };
        if !reply_lost {
            self.after(time, Happening::Tell { to: from, life, watch: None, news });
        }
    }

    /// What NATS says to the data path.
    fn reply_data(&mut self, from: usize, id: &PartitionId, command: Command) -> Option<Input> {
        Some(match command {
            Command::Write { value, expect } => {
                // One that has reached the server twice is told what became of it the second time.
                let twice = self.trouble.lost_replies;
                let outcome = self.put_record(from, id, value, expect);
                let is_again = matches!(outcome, WriteOutcome::Written(_)) && self.random.chance(twice);
                Input::Written(if is_again { WriteOutcome::Lost } else { outcome })
            }
            Command::Read => {
                Input::Record(Ok(self.work.as_ref().and_then(|work| work.records.keys.get(&id.record_key())).cloned()))
            }
            Command::Send(outgoing) => {
                let work = self.work.as_mut()?;
                // What fails has got somewhere.
                let fails = self.random.chance(work.trouble.sends);
                let sent = if fails { self.random.below(outgoing.len() as u64 + 1) as usize } else { outgoing.len() };
                let ledger = work.ledgers.entry(id.clone()).or_default();
                let wrong = outgoing.iter().take(sent).find_map(|one| ledger.receive(one));
                if let Some(wrong) = wrong {
                    self.violated(format!("{id}: {wrong}"));
                }
                Input::Sent(if fails { Err("no answer".into()) } else { Ok(()) })
            }
            command => self.store_object(id, &command)?,
        })
    }

    fn reply(&mut self, from: usize, life: u64, request: Action) -> Option<(OpId, Reply)> {
        Some(match request {
            Action::Write { op, bucket: Bucket::Heartbeats, .. } if self.refuse_heartbeats => {
                (op, Reply::Write(WriteOutcome::Unknown))
            }
            Action::Write { op, bucket, key, value, expect, lifetime } => {
                self.expire_under(bucket, &key, expect, lifetime);
                let by = Some((from, life));
                (op, Reply::Write(self.put_by(by, bucket, &key, Some(value.into_bytes()), expect, lifetime)))
            }
            Action::Delete { op, bucket, key, expect } => {
                (op, Reply::Write(self.put_by(Some((from, life)), bucket, &key, None, expect, Lifetime::Forever)))
            }
            Action::Read { op, bucket, key } => {
                (op, Reply::Entry(Ok(self.stores.get(&bucket).and_then(|s| s.keys.get(&key)).cloned())))
            }
            Action::List { op, bucket } => (op, Reply::Listing(Ok(self.list(bucket)))),
            Action::Probe { op, incarnation } => (op, Reply::Probe(self.probe(from, incarnation))),
            Action::ListPartitions { op } if self.source_fails => (op, Reply::Partitions(Err("no database".into()))),
            Action::ListPartitions { op } => (op, Reply::Partitions(Ok(self.partitions.clone()))),
            _ => return None,
        })
    }

    /// A listing comes from any replica: it may be of a moment ago.
    fn list(&mut self, bucket: Bucket) -> Vec<(String, StoredEntry)> {
        let stale = self.trouble.stale_reads;
        let ago = if self.random.chance(stale) { self.random.between(1, 2000) } else { Duration::ZERO };
        let then = self.now - ago;
        self.stores.get(&bucket).map(|s| s.as_of(then).into_iter().collect()).unwrap_or_default()
    }

    /// A renewal may find that its key has expired on its way.
    fn expire_under(&mut self, bucket: Bucket, key: &str, expect: Expect, lifetime: Lifetime) {
        let expires = !matches!(lifetime, Lifetime::Forever | Lifetime::Assignment);
        let just_then = self.trouble.expires_under_renewal;
        if let Expect::Revision(revision) = expect
            && expires
            && self.random.chance(just_then)
        {
            self.expire(bucket, key, revision);
        }
    }

    pub(super) fn expire(&mut self, bucket: Bucket, key: &str, revision: u64) {
        let now = self.now;
        let store = self.stores.entry(bucket).or_default();
        if store.keys.get(key).is_some_and(|e| e.revision == revision && e.value.is_some()) {
            store.put(now, key, None, Expect::Revision(revision));
            self.note(|_| format!("{bucket:?} {key} expires"));
            self.check_expiry(bucket, key);
            self.changed(bucket, key);
        }
    }

    fn probe(&mut self, from: usize, incarnation: Incarnation) -> ProbeAnswer {
        let Some(to) = self.processes.iter().position(|p| p.answers == Some(incarnation)) else {
            return ProbeAnswer::NoResponders;
        };
        let (asked, asking) = (&self.processes[to], self.processes[from].coordinator.worker());
        // Who has just reconnected has not subscribed yet.
        if !asked.connected || asked.subscribes_at > self.now {
            return ProbeAnswer::NoResponders;
        }
        if asked.cut {
            return ProbeAnswer::TimedOut;
        }
        if let Some((_, by)) = asking {
            let life = asked.life;
            let news = News::Core(Event::Probed { by });
            self.after(ms(1), Happening::Tell { to, life, watch: None, news });
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
        self.put_by(None, bucket, key, value, expect, lifetime)
    }

    fn put_by(
        &mut self,
        by: Option<(usize, u64)>,
        bucket: Bucket,
        key: &str,
        value: Option<Vec<u8>>,
        expect: Expect,
        lifetime: Lifetime,
    ) -> WriteOutcome {
        *self.writes.entry(bucket).or_default() += 1;
        let now = self.now;
        let outcome = self.stores.entry(bucket).or_default().put(now, key, value, expect);
        let WriteOutcome::Written(revision) = outcome else { return outcome };
        self.will_expire(bucket, key, revision, lifetime);
        self.check_write(by, bucket, key);
        self.changed(bucket, key);
        outcome
    }

    pub(super) fn will_expire(&mut self, bucket: Bucket, key: &str, revision: u64, lifetime: Lifetime) {
        let lives = match lifetime {
            Lifetime::WorkerId => self.id_lives,
            Lifetime::Heartbeat => self.heartbeat_lives,
            Lifetime::Hold => self.heartbeat_lives.max(self.hold),
            Lifetime::Election => self.lease,
            Lifetime::Assignment if !self.assignment_lives.is_zero() => self.assignment_lives,
            Lifetime::Assignment | Lifetime::Forever => return,
        };
        let time = lives + self.random.between(0, 250);
        self.after(time, Happening::Expire { bucket, key: key.to_owned(), revision });
    }

    pub(super) fn changed(&mut self, bucket: Bucket, key: &str) {
        let Some(entry) = self.stores.get(&bucket).and_then(|s| s.keys.get(key)).cloned() else { return };
        for at in 0..self.processes.len() {
            self.tell(at, bucket, Some((key, &entry)));
        }
    }

    /// Begins a watch: tells what is there, or what was there a moment ago and then what has happened since.
    pub(super) fn watch(&mut self, at: usize, bucket: Bucket, keys: Vec<String>) {
        self.order += 1;
        let watch = Watch { id: self.order, keys, told_at: self.now };
        self.processes[at].watches.insert(bucket, watch);
        if !self.processes[at].connected || !self.nats_runs {
            return;
        }
        let stale = self.trouble.stale_watches;
        let ago = if self.random.chance(stale) { self.random.between(1, 3000) } else { Duration::ZERO };
        let then = self.now - ago;
        let store: &Store = self.stores.entry(bucket).or_default();
        let mut all: Vec<_> = store.as_of(then).into_iter().collect();
        all.sort_by_key(|(_, entry)| entry.revision);
        let later = store.since(then);
        for (key, entry) in all {
            self.tell(at, bucket, Some((&key, &entry)));
        }
        self.tell(at, bucket, None);
        for (key, entry) in later {
            self.tell(at, bucket, Some((&key, &entry)));
        }
    }

    /// Sends a key's revision to a watcher, or that everything has been told.
    fn tell(&mut self, at: usize, bucket: Bucket, news: Option<(&str, &StoredEntry)>) {
        let slow = self.trouble.slow_watches;
        let now = self.now;
        if self.processes[at].watches.get(&bucket).is_none_or(|w| news.is_some_and(|(key, _)| !w.covers(key))) {
            return;
        }
        let delay = if self.random.chance(slow) { self.random.between(40, 4000) } else { self.random.between(1, 40) };
        let process = &mut self.processes[at];
        let Some(watch) = process.watches.get_mut(&bucket) else { return };
        let event = match news {
            None => Event::WatchReady { bucket },
            Some((key, entry)) => Event::Watched { bucket, key: key.to_owned(), entry: entry.clone() },
        };
        watch.told_at = watch.told_at.max(now + delay);
        let (time, watch, life) = (watch.told_at - now, Some((bucket, watch.id)), process.life);
        self.after(time, Happening::Tell { to: at, life, watch, news: News::Core(event) });
    }
}
