//! What happens to NATS itself: restarts, lost writes, lost buckets.

use super::operator::{PAUSE, PLACEMENT};
use super::store::Store;
use super::{Fleet, Happening, Status};
use crate::coordinator::*;
use crate::testing::{data_path, ms};

pub(crate) const BUCKETS: [Bucket; 4] = [Bucket::StableIds, Bucket::Election, Bucket::Heartbeats, Bucket::Assignments];

impl Fleet {
    /// NATS goes away for everybody, and whatever is on its way is lost.
    pub(crate) fn stop_nats(&mut self) {
        self.disturb_all(|| "NATS stops".into());
        self.nats_runs = false;
        for at in 0..self.processes.len() {
            if matches!(self.processes[at].status, Status::Running | Status::Paused) {
                self.disconnect(at);
            }
        }
    }

    /// NATS is back; processes come back to it one by one within so many milliseconds.
    pub(crate) fn start_nats(&mut self, within: u64) {
        self.disturb_all(|| "NATS runs".into());
        self.nats_runs = true;
        for at in 0..self.processes.len() {
            let (life, time) = (self.processes[at].life, self.random.between(0, within));
            self.after(time, Happening::Reconnect { at, life });
        }
    }

    /// A bucket loses its latest writes, as after a loss of power. Only while NATS is stopped.
    pub(crate) fn rewind(&mut self, bucket: Bucket, writes: usize) {
        let lost = self.stores.entry(bucket).or_default().rewind(writes);
        self.disturb_all(|| format!("{bucket:?} has lost its last {lost} writes"));
        if lost == 0 {
            return;
        }
        let left: Vec<_> =
            self.stores[&bucket].keys.iter().map(|(k, e)| (k.clone(), e.revision, e.value.is_some())).collect();
        for (key, revision, is_there) in left {
            let lifetime = match bucket {
                Bucket::StableIds => Lifetime::WorkerId,
                Bucket::Election => Lifetime::Election,
                Bucket::Heartbeats => Lifetime::Heartbeat,
                Bucket::Assignments if ["plan", PAUSE, PLACEMENT].contains(&key.as_str()) => Lifetime::Forever,
                Bucket::Assignments => Lifetime::Assignment,
            };
            if is_there {
                self.will_expire(bucket, &key, revision, lifetime);
            }
        }
        self.forgive(bucket);
    }

    /// Loses a bucket with everything in it; it is made anew, its revisions begin again.
    pub(crate) fn lose_bucket(&mut self, bucket: Bucket) {
        self.disturb_all(|| format!("{bucket:?} is lost"));
        self.stores.insert(bucket, Store::default());
        self.forgive(bucket);
        for at in 0..self.processes.len() {
            if let Some(watch) = self.processes[at].watches.get(&bucket) {
                let keys = watch.keys.clone();
                self.watch(at, bucket, keys);
            }
        }
    }

    /// Loses the records of all partitions, or the last writes among them. Owners look at their records at some time.
    pub(crate) fn lose_records(&mut self) {
        // Once: a write that is on its way from before one loss, and arrives after the next, would meet what it expects.
        let Some(work) = self.work.as_ref().filter(|work| !work.lost) else { return };
        // What an earlier record names is deleted: without its owner it is of no use to anybody but the operator.
        let beside = work.limits.inline_snapshot_bytes < 50_000;
        let (all, writes) = (self.random.chance(70) || beside, 1 + self.random.below(12) as usize);
        self.disturb_all(|| format!("the records of all partitions are lost, or the last writes of them; all: {all}"));
        if let Some(work) = &mut self.work {
            work.lost = true;
            work.ledgers.values_mut().for_each(data_path::Ledger::forget_deaths);
            if all {
                work.records = work.records.anew();
            } else {
                work.records.rewind(writes);
            }
        }
        for at in 0..self.processes.len() {
            let time = self.random.between(0, 5000);
            let life = self.processes[at].life;
            self.after(time, Happening::Remind { at, life });
        }
    }

    /// Nothing reaches this process and nothing leaves it, and its connection still looks well.
    pub(crate) fn cut(&mut self, at: usize) {
        self.disturb_all(|| format!("cut #{at} off"));
        self.processes[at].cut = true;
    }

    pub(crate) fn disconnect(&mut self, at: usize) {
        self.disturb_all(|| format!("disconnect #{at}"));
        self.processes[at].connected = false;
        self.processes[at].cut = false;
        self.give(at, Event::Disconnected);
    }

    pub(crate) fn reconnect(&mut self, at: usize) {
        if !self.nats_runs {
            return;
        }
        self.disturb_all(|| format!("reconnect #{at}"));
        self.processes[at].connected = true;
        self.processes[at].cut = false;
        let late = self.trouble.late_subscriptions;
        let late = if self.random.chance(late) { self.random.between(1, 700) } else { ms(0) };
        self.processes[at].subscribes_at = self.now + late;
        self.give(at, Event::Connected);
        let watches: Vec<_> = self.processes[at].watches.iter().map(|(b, w)| (*b, w.keys.clone())).collect();
        for (bucket, keys) in watches {
            self.watch(at, bucket, keys);
        }
    }
}
