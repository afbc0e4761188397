//! What the parts of the coordinator share: settings, the current time, the queue of actions, names for requests.

use super::degraded::{DegradedAlert, DegradedBehavior};
use super::io::{Action, Bucket, Expect, Lifetime, Notice, OpId};
use crate::record::{self, Grouped};
use crate::strategy::{Question, Strategy};
use crate::{Now, WorkerState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What the operator decided, as far as the coordinator must know it. Names are those of the configuration.
#[derive(Clone)]
#[expect(missing_docs, reason = "the configuration reference documents every key")]
pub struct Settings {
    pub group: String,
    pub worker_id_prefix: String,
    pub worker_id_min: u32,
    pub worker_id_max: u32,
    /// The number to claim if it can be had (`workerId`).
    pub preferred_number: Option<u32>,
    pub worker_id_ttl: Duration,
    pub heartbeat_interval: Duration,
    pub heartbeat_ttl: Duration,
    pub cold_start_window: Duration,
    pub planned_scale_window: Duration,
    /// A planned window closes early after this long without a change; `None` = a fifth of the window.
    pub quiet_period: Option<Duration>,
    pub emergency_grace_period: Duration,
    pub election_timeout: Duration,
    pub startup_timeout: Duration,
    pub probe_interval: Duration,
    pub min_rebalance_threshold: f64,
    pub min_rebalance_interval: Duration,
    /// The most partitions that a plan gives to one worker.
    pub max_partitions: Option<usize>,
    /// The most partitions that a planned change takes from live workers at once; the rest follows in later plans.
    pub max_moves_per_plan: Option<usize>,
    /// How long the partitions of this worker wait for it after it has left; zero = they move at once (`shutdown.hold`).
    pub shutdown_hold: Duration,
    pub degraded_behavior: DegradedBehavior,
    pub degraded_alert: DegradedAlert,
    /// An empty list is believed where there were partitions.
    pub allow_empty: bool,
    /// How often the source is asked again; zero = only when told to.
    pub refresh_interval: Duration,
    /// How long an assignment lives without being written again; zero = for ever (`kvBucket.assignmentTtl`).
    pub assignment_ttl: Duration,
    pub capacity: u32,
    pub labels: BTreeMap<String, String>,
    /// Digests of the loaded plugins by name.
    pub plugins: BTreeMap<String, String>,
    /// This process: drawn once at its start.
    pub uuid: Uuid,
    /// Host name, for people.
    pub host: String,
    /// Process number, for people.
    pub pid: u32,
    /// Decides who gets what; where a strategy outside the core does, what that one leaves undecided.
    pub strategy: Arc<dyn Strategy>,
    /// How long a strategy outside the core may take; `None` = there is none.
    pub strategy_patience: Option<Duration>,
}

/// Which part a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Identity,
    Heartbeat,
    Election,
    Watchdog,
    Roster,
    Planner,
}

/// A value from a bucket.
pub(super) enum Found<T> {
    Ours(T),
    /// Another group's, of this name.
    Theirs(String),
    /// Not of this protocol.
    Unreadable,
}

pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) now: Now,
    pub(super) state: WorkerState,
    /// Nobody is judged before this: a connection that was away has not brought the signs of life.
    pub(super) judge_from: Now,
    actions: VecDeque<Action>,
    pending: BTreeMap<OpId, Part>,
    next_op: u64,
    draws: u64,
    deadline: Option<Now>,
    /// The other group that was last reported of each bucket.
    strangers: BTreeMap<Bucket, String>,
}

impl Context {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Now::default(),
            state: WorkerState::Init,
            judge_from: Now::default(),
            actions: VecDeque::new(),
            pending: BTreeMap::new(),
            next_op: 0,
            draws: 0,
            deadline: None,
            strangers: BTreeMap::new(),
        }
    }

    pub(super) fn emit(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.emit(Action::Notice(notice));
    }

    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn name(&mut self, part: Part) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.pending.insert(op, part);
        op
    }

    /// The part that asked, once.
    pub(super) fn answered(&mut self, op: OpId) -> Option<Part> {
        self.pending.remove(&op)
    }

    pub(super) fn write(
        &mut self,
        part: Part,
        bucket: Bucket,
        key: &str,
        value: &str,
        expect: Expect,
        lifetime: Lifetime,
    ) -> OpId {
        let op = self.name(part);
        self.emit(Action::Write { op, bucket, key: key.to_owned(), value: value.to_owned(), expect, lifetime });
        op
    }

    pub(super) fn delete(&mut self, part: Part, bucket: Bucket, key: &str, expect: Expect) -> OpId {
        let op = self.name(part);
        self.emit(Action::Delete { op, bucket, key: key.to_owned(), expect });
        op
    }

    pub(super) fn read(&mut self, part: Part, bucket: Bucket, key: &str) -> OpId {
        let op = self.name(part);
        self.emit(Action::Read { op, bucket, key: key.to_owned() });
        op
    }

    pub(super) fn list(&mut self, part: Part, bucket: Bucket) -> OpId {
        let op = self.name(part);
        self.emit(Action::List { op, bucket });
        op
    }

    pub(super) fn probe(&mut self, part: Part, incarnation: crate::Incarnation) -> OpId {
        let op = self.name(part);
        self.emit(Action::Probe { op, incarnation });
        op
    }

    pub(super) fn list_partitions(&mut self, part: Part) -> OpId {
        let op = self.name(part);
        self.emit(Action::ListPartitions { op });
        op
    }

    pub(super) fn ask_strategy(&mut self, part: Part, question: Arc<Question>) -> OpId {
        let op = self.name(part);
        self.emit(Action::AskStrategy { op, question });
        op
    }

    /// Judges nobody for this long from now on.
    pub(super) fn give_time(&mut self, time: Duration) {
        self.judge_from = self.judge_from.max(self.now + time);
    }

    /// A time between zero and `most`, different for each process and each call.
    pub(super) fn jitter(&mut self, most: Duration) -> Duration {
        self.draws += 1;
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(self.settings.uuid.as_bytes(), self.draws);
        most * u32::try_from(hash % 1000).unwrap_or(0) / 1000
    }

    /// Goes to a state if the protocol allows it from here.
    pub(super) fn enter(&mut self, to: WorkerState) {
        if self.state != to && self.state.may_become(to) {
            let from = std::mem::replace(&mut self.state, to);
            self.emit(Action::StateChanged { from, to });
        }
    }

    /// Asks to be called again at `at`, or earlier.
    pub(super) fn wake_at(&mut self, at: Now) {
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
    }

    /// Whether `at` has come; if not, asks to be called then.
    pub(super) fn due(&mut self, at: Now) -> bool {
        if self.now >= at {
            return true;
        }
        self.wake_at(at);
        false
    }

    /// Runs `look` and says when it has asked to be called again.
    pub(super) fn noting_wakes<T>(&mut self, look: impl FnOnce(&mut Self) -> T) -> (T, Option<Now>) {
        let before = self.deadline.take();
        let found = look(self);
        let asked = self.deadline;
        self.deadline = [before, asked].into_iter().flatten().min();
        (found, asked)
    }

    pub(super) fn forget_deadline(&mut self) {
        self.deadline = None;
    }

    pub(super) fn deadline(&self) -> Option<Now> {
        self.deadline
    }

    /// A record as JSON. The records of this crate always encode; an empty text would be refused by every reader.
    pub(super) fn encode<T: Serialize>(record: &T) -> String {
        record::encode(record).unwrap_or_default()
    }

    /// A record of our group from a bucket; what cannot be read, or is another group's, is reported and ignored.
    pub(super) fn decode<T: DeserializeOwned + Grouped>(
        &mut self,
        bucket: Bucket,
        key: &str,
        value: &[u8],
    ) -> Option<T> {
        match self.find(bucket, key, value) {
            Found::Ours(record) => Some(record),
            Found::Theirs(_) | Found::Unreadable => None,
        }
    }

    /// What a value from a bucket is. Another group is reported once.
    pub(super) fn find<T: DeserializeOwned + Grouped>(&mut self, bucket: Bucket, key: &str, value: &[u8]) -> Found<T> {
        let record: T = match record::decode(value) {
            Ok(record) => record,
            Err(e) => {
                self.notice(Notice::Unreadable { bucket, key: key.to_owned(), why: e.0 });
                return Found::Unreadable;
            }
        };
        let Some(group) = record.group().filter(|group| *group != self.settings.group) else {
            return Found::Ours(record);
        };
        let group = group.to_owned();
        if self.strangers.get(&bucket) != Some(&group) {
            self.strangers.insert(bucket, group.clone());
            self.notice(Notice::Stranger { bucket, key: key.to_owned(), group: group.clone() });
        }
        Found::Theirs(group)
    }
}
