//! The connection of an operator's command, and the group it leads to.

use crate::cli::ConfigArgs;
use crate::config::{Config, Stream};
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{ApiError, Nats, Objects, Peers, Store, StreamError, StreamInfo};
use crate::pushes::Pushes;
use crate::worker::{
    assignments_bucket, bucket_error, connect_error, connect_options, control_bucket, heartbeats_bucket,
    ownership_bucket, stream_error,
};
use jiff::{Timestamp, Unit};
use parti_coordination::record::{
    self, AssignmentRecord, ChunkRecord, HeartbeatRecord, PauseRecord, PlacementRecord, PlanRecord, assignment_key,
};
use parti_coordination::{Expect, Incarnation, Partition, PartitionId, StoredEntry, WorkerId, WriteOutcome};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Builder;

/// The key of what is paused, beside the plan.
pub(super) const PAUSE_KEY: &str = "pause";

/// The key of what is wanted of the placement, beside the plan.
pub(super) const PLACEMENT_KEY: &str = "placement";

/// Bytes of the largest setting. Half of what a server takes by default in one message.
const MAX_SETTING: usize = 512 << 10;

/// How often a setting is read again when another was faster.
const TRIES: usize = 10;

/// A plan is written assignment by assignment: how often, and after which pauses, it is read again until it is whole.
const WHOLE: (u32, Duration) = (5, Duration::from_millis(200));

/// A name may be this unlike another (0 to 1, Jaro-Winkler) and still be meant.
const ALIKE: f64 = 0.8;

/// A connection to NATS with the configuration that led there.
pub(super) struct Connected {
    pub(super) config: Config,
    pub(super) nats: Nats,
}

/// The group that the configuration names, as it is in NATS.
pub(super) struct Fleet {
    pub(super) assignments: Store,
    pub(super) ownership: Store,
}

/// Who is to own what.
#[derive(Default)]
pub(super) struct Plan {
    /// What the plan says besides; nothing before the first.
    pub(super) head: Option<PlanRecord>,
    /// The live workers and those that leave.
    pub(super) workers: BTreeMap<WorkerId, Incarnation>,
    pub(super) owners: BTreeMap<PartitionId, WorkerId>,
    /// The same by worker, with what each partition weighs.
    pub(super) assignments: BTreeMap<WorkerId, Vec<Partition>>,
    /// What is paused, and its revision; 0 if nothing ever was.
    pub(super) pause: Setting<PauseRecord>,
    /// What is wanted of the placement.
    pub(super) placement: Setting<PlacementRecord>,
}

/// A setting beside the plan.
pub(super) struct Setting<T> {
    pub(super) record: T,
    /// Its revision; 0 if it was never set.
    revision: u64,
}

impl Default for Setting<PauseRecord> {
    fn default() -> Self {
        Self::of(PauseRecord::nothing())
    }
}

impl Default for Setting<PlacementRecord> {
    fn default() -> Self {
        Self::of(PlacementRecord::nothing())
    }
}

impl<T> Setting<T> {
    /// The same setting with another value.
    pub(super) fn with(&self, record: T) -> Self {
        Self { record, revision: self.revision }
    }

    /// One that was never set.
    pub(super) fn of(record: T) -> Self {
        Self { record, revision: 0 }
    }
}

impl<T: serde::de::DeserializeOwned> Setting<T> {
    /// What is not of the protocol is nobody's, as it is for workers; it is written over.
    fn read(&mut self, entry: &StoredEntry) {
        self.revision = entry.revision;
        if let Some(record) = entry.value.as_deref().and_then(|value| record::decode(value).ok()) {
            self.record = record;
        }
    }
}

/// Loads the configuration, connects, and does the work.
pub(super) fn run(
    args: &ConfigArgs,
    work: impl AsyncFnOnce(&Connected) -> Result<(), OperatorError>,
) -> Result<(), OperatorError> {
    // What it warns of concerns those who run workers with it.
    let config = args.load()?.into_operable()?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
        ErrorCode::Internal.error(
            "the command has no threads",
            error.to_string(),
            "raise the limit of threads (ulimit -u)",
        )
    })?;
    runtime.block_on(async {
        let options = connect_options(&config, "operator")?;
        let nats = Box::pin(Nats::connect(options)).await.map_err(|error| connect_error(&error))?;
        let connected = Connected { config, nats };
        let result = Box::pin(work(&connected)).await;
        connected.nats.close().await;
        result
    })
}

/// What an answer that did not come, or came as an error, means for who asked for `what`.
pub(super) fn api_error(what: &str, error: &ApiError) -> OperatorError {
    match error {
        ApiError::TimedOut | ApiError::Disconnected | ApiError::NoResponders => ErrorCode::NatsConnectionLost.error(
            format!("{what} cannot be had"),
            error.to_string(),
            "check that NATS is there, has a JetStream leader, and permits this user what a worker may; then try again",
        ),
        ApiError::Refused { text, .. } | ApiError::Failed(text) => ErrorCode::OperatorRefused.error(
            format!("{what} cannot be had"),
            text,
            "check what NATS says; `nats stream report` shows the state of its streams",
        ),
    }
}

impl Connected {
    /// The group's buckets, which only workers create.
    pub(super) async fn fleet(&self) -> Result<Fleet, OperatorError> {
        let find = async |spec| Store::existing(&self.nats, spec).await;
        let assignments = find(assignments_bucket(&self.config)).await;
        let ownership = find(ownership_bucket(&self.config)).await;
        let failed = |error| api_error("the buckets of the group", &error);
        match (assignments.map_err(failed)?, ownership.map_err(failed)?) {
            (Some(assignments), Some(ownership)) => Ok(Fleet { assignments, ownership }),
            _ => Err(self.no_fleet(&self.config.buckets().assignments)),
        }
    }

    fn no_fleet(&self, bucket: &str) -> OperatorError {
        ErrorCode::FleetNotFound.error(
            format!("there is no fleet of group {:?}", self.config.group),
            format!("its bucket {bucket:?} is not on this server or not in this account"),
            "check nats.url and group, or start a worker",
        )
    }

    /// What the group is told of its plugins, and tells.
    pub(super) async fn pushes(&self) -> Result<Pushes, OperatorError> {
        let names = self.config.buckets();
        let found = Store::existing(&self.nats, control_bucket(&self.config)).await;
        let control = found.map_err(|error| api_error("the control bucket of the group", &error))?;
        let control = control.ok_or_else(|| self.no_fleet(&names.control))?;
        let replicas = usize::try_from(self.config.kv_bucket.replicas).unwrap_or(1);
        let opened = Objects::open(&self.nats, &names.plugins, replicas).await;
        let (components, _) = opened.map_err(|error| bucket_error(&error))?;
        Ok(Pushes::new(&self.config.group, control, components))
    }

    /// The heartbeats of the workers that live, without those that leave and come back: they are away.
    pub(super) async fn heartbeats(&self) -> Result<BTreeMap<String, HeartbeatRecord>, OperatorError> {
        let mut all = self.all_heartbeats().await?;
        all.retain(|_, record| record.returning.is_none());
        Ok(all)
    }

    /// The last heartbeats of all whose partitions are not to be moved away.
    pub(super) async fn all_heartbeats(&self) -> Result<BTreeMap<String, HeartbeatRecord>, OperatorError> {
        let failed = |error| api_error("the heartbeats of the workers", &error);
        let found = Store::existing(&self.nats, heartbeats_bucket(&self.config)).await.map_err(failed)?;
        let heartbeats = found.ok_or_else(|| self.no_fleet(&self.config.buckets().heartbeats))?;
        let listed = heartbeats.list(None).await.map_err(failed)?;
        let of = |(key, entry): (String, StoredEntry)| {
            let worker = key.strip_prefix("heartbeat.")?.to_owned();
            let record: HeartbeatRecord = record::decode(&entry.value?).ok()?;
            let is_ours = record.group.as_ref().is_none_or(|group| *group == self.config.group);
            is_ours.then_some((worker, record))
        };
        Ok(listed.into_iter().filter_map(of).collect())
    }

    /// The configured stream and what it is.
    pub(super) async fn stream(&self) -> Result<(&Stream, StreamInfo), OperatorError> {
        let Some(stream) = &self.config.stream else {
            return Err(ErrorCode::InvalidConfig.error(
                "the configuration has no `stream`",
                "a group without one reads no messages, and so its partitions have no positions",
                "give the configuration that the workers run with",
            ));
        };
        match StreamInfo::of(&self.nats, &stream.name).await {
            Ok(info) => Ok((stream, info)),
            Err(StreamError::Failed { name, why }) => Err(api_error(&format!("stream {name:?}"), &why)),
            Err(error) => Err(stream_error(&error)),
        }
    }

    pub(super) fn peers(&self) -> Peers {
        Peers::new(&self.nats, &self.config.group)
    }
}

impl Fleet {
    /// The plan in force. A group that has none yet plans for nobody.
    pub(super) async fn plan(&self) -> Result<Plan, OperatorError> {
        let (tries, pause) = WHOLE;
        let mut last = self.read_plan().await?;
        for _ in 1..tries {
            if last.1 {
                break;
            }
            tokio::time::sleep(pause).await;
            last = self.read_plan().await?;
        }
        Ok(last.0)
    }

    /// Changes a setting beside the plan by compare-and-set, from what is in force; what is in force then.
    pub(super) async fn set<T: Serialize>(
        &self,
        (key, what): (&str, &str),
        change: impl Fn(&Plan) -> Result<Setting<T>, OperatorError>,
    ) -> Result<T, OperatorError> {
        let refused =
            |why: String, todo: &str| ErrorCode::OperatorRefused.error(format!("{what} is as it was"), why, todo);
        for _ in 0..TRIES {
            let Setting { record, revision } = change(&self.plan().await?)?;
            let value =
                record::encode(&record).map_err(|error| refused(error.to_string(), "report this as a bug of parti"))?;
            if value.len() > MAX_SETTING {
                let why = format!("it would have {} bytes, and {MAX_SETTING} are the most", value.len());
                return Err(refused(why, "take something else out of it first"));
            }
            let expect = if revision == 0 { Expect::Nothing } else { Expect::Revision(revision) };
            match self.assignments.write(key, value.into(), expect, None).await {
                WriteOutcome::Written(_) => return Ok(record),
                // Written again, whether it has landed or not: the setting is the same.
                WriteOutcome::Lost | WriteOutcome::Unknown => {}
            }
        }
        let read = self.assignments.read(key).await;
        read.map_err(|error| api_error(what, &error))?;
        Err(refused(
            format!("it changed under each of {TRIES} tries, or NATS refuses to write it"),
            "try again; check that this NATS user may write to the bucket",
        ))
    }

    /// What is wanted of the placement now.
    pub(super) async fn placement(&self) -> Result<PlacementRecord, OperatorError> {
        let read = self.assignments.read(PLACEMENT_KEY).await;
        let entry = read.map_err(|error| api_error("what is wanted of the placement", &error))?;
        let mut setting = Setting::of(PlacementRecord::nothing());
        entry.iter().for_each(|entry| setting.read(entry));
        Ok(setting.record)
    }

    /// The plan, and whether it is whole.
    async fn read_plan(&self) -> Result<(Plan, bool), OperatorError> {
        let listed = self.assignments.list(None).await.map_err(|error| api_error("the plan", &error))?;
        let (mut head, mut headers, mut chunks) = (None, BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        let mut plan = Plan::default();
        for (key, entry) in listed {
            match key.as_str() {
                PAUSE_KEY => plan.pause.read(&entry),
                PLACEMENT_KEY => plan.placement.read(&entry),
                _ => {}
            }
            let Some(value) = entry.value else { continue };
            // What is not of the protocol is nobody's, as it is for workers.
            match (key.as_str(), assignment_key(&key)) {
                ("plan", _) => head = record::decode::<PlanRecord>(&value).ok(),
                (_, Some((worker, None))) => {
                    headers.extend(record::decode::<AssignmentRecord>(&value).ok().map(|header| (worker, header)));
                }
                (_, Some((worker, Some(k)))) => {
                    let chunk = record::decode::<ChunkRecord>(&value).ok();
                    chunks.entry(worker).or_default().extend(chunk.map(|chunk| (k, chunk)));
                }
                _ => {}
            }
        }
        let Some(head) = head else { return Ok((plan, true)) };
        let partitions = head.partitions;
        plan.workers = head.live.iter().chain(&head.leaving).map(|(worker, i)| (worker.clone(), *i)).collect();
        plan.head = Some(head);
        let none = BTreeMap::new();
        for (worker, header) in headers.iter().filter(|(worker, _)| plan.workers.contains_key(*worker)) {
            let whole = record::assemble(header, chunks.get(worker).unwrap_or(&none));
            let list = whole.map(|whole| whole.partitions).unwrap_or_default();
            plan.owners.extend(list.iter().map(|partition| (partition.id().clone(), worker.clone())));
            plan.assignments.insert(worker.clone(), list);
        }
        let is_whole = plan.owners.len() == partitions;
        Ok((plan, is_whole))
    }
}

/// Who runs this command, for people.
pub(super) fn operator() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), crate::worker::host_name())
}

/// The error of a partition that nobody knows, with what may have been meant.
pub(super) fn unknown_partition<'a>(id: &str, known: impl Iterator<Item = &'a PartitionId>) -> OperatorError {
    ErrorCode::PartitionUnknown.error(
        format!("there is no partition {id:?}"),
        "neither the plan nor a record has it",
        match nearest(id, known.map(PartitionId::as_str)) {
            Some(nearest) => format!("did you mean {nearest}? `parti partitions` lists all"),
            None => "`parti partitions` lists all".to_owned(),
        },
    )
}

/// Of these names, the one that may have been meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = known.map(|other| (strsim::jaro_winkler(name, other), other));
    let alike = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    alike.map(|(_, nearest)| nearest)
}

/// The time that a command was run at, for people.
pub(super) fn now() -> String {
    Timestamp::now().round(Unit::Second).unwrap_or_default().to_string()
}

/// A time such as `90s` or `5m`, as an argument.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}; write for example 90s or 5m"))?;
    Duration::try_from(span).map_err(|_| "a time is not negative".to_owned())
}

/// The id that an argument names.
pub(super) fn partition_argument(text: &str) -> Result<PartitionId, OperatorError> {
    PartitionId::parse(text).map_err(|error| {
        ErrorCode::PartitionUnknown.error(
            format!("{text:?} is no partition"),
            error.to_string(),
            "write the id as `parti partitions` shows it",
        )
    })
}
