//! What a start meets on the server. Every question is put, whatever the answers to those before.

use super::super::buckets::{self, ControlBuckets, bucket_error};
use super::super::plugins::Plugins;
use super::super::settings::{self, FoundStream, dead_letter_warning, from_sentence};
use super::super::uncovered::{Uncovered, ids};
use super::super::{fixed, metrics_error, plugin_source, start, start_failure};
use super::Rehearsal;
use super::steps::first_steps;
use super::survey::{BucketState, DeadLetters, Holder, Ids, Server, Survey};
use crate::config::{Config, Stream};
use crate::error::{ErrorCode, OperatorError};
use crate::nats::{
    ApiError, BucketLook, ConnectOptions, Nats, OpenReaderError, Peers, Reader, ReaderOptions, Start, StreamInfo,
    subject_matches,
};
use crate::source::Source as _;
use crate::telemetry::{Metrics, WorkerLabel};
use parti_coordination::record::{ClaimRecord, decode};
use parti_coordination::{Bucket, Incarnation, PartitionList, WorkerId};
use std::sync::Arc;
use tokio::runtime::Handle;
use uuid::Uuid;

/// Subjects of no partition that are listed.
const LISTED: usize = 20;

/// Looks at everything that a start with this configuration needs of the server.
pub(super) async fn survey(config: &Config, options: ConnectOptions, plugins: &Plugins, found: &mut Rehearsal) {
    let connected = Box::pin(Nats::connect(options)).await.map_err(|error| settings::connect_error(&error));
    let Some(nats) = found.check(connected) else { return };
    let mut survey = Survey::of(server(&nats, found).await);
    survey.buckets = buckets(&nats, config, found).await;
    // What it counts is for nobody.
    let metrics = Metrics::new(WorkerLabel::default()).map_err(metrics_error).map(Arc::new);
    let Some(metrics) = found.check(metrics) else { return };
    survey.ids = worker_ids(&nats, config, &metrics, found).await;
    core_subjects(&nats, config, found).await;

    let listed = match plugin_source(plugins, &Handle::current(), &metrics) {
        Some(source) => source.list().await,
        None => fixed(config).list().await,
    };
    let partitions = found.check(listed.map_err(|why| {
        ErrorCode::PartitionListInvalid.error(
            "the partitions cannot be listed",
            why,
            "correct the source: without a list no plan is made, and no worker becomes ready",
        )
    }));
    survey.partitions = partitions.as_ref().map(Vec::len);
    if let (Some(stream), Some(_)) = (&config.stream, &config.handler) {
        let info = the_stream(&nats, config, stream, &mut survey, found).await;
        if let (Some(info), Some(partitions)) = (info, &partitions) {
            coverage(&nats, stream, &info, partitions, &mut survey, found).await;
        }
        for subject in config.dead_letter_subjects() {
            survey.dead_letters.extend(dead_letters(&nats, subject, found).await);
        }
    }
    found.survey = Some(survey);
    nats.close().await;
}

async fn server(nats: &Nats, found: &mut Rehearsal) -> Server {
    let unanswered = |error: ApiError| {
        let todo = "check the network between here and the server";
        ErrorCode::NatsUnreachable.error("NATS does not answer any more", error.to_string(), todo)
    };
    let round_trip = found.check(nats.round_trip().await.map_err(unanswered));
    let account = found.check(nats.account().await.map_err(unanswered));
    Server {
        version: nats.server_version().to_string(),
        round_trip_seconds: round_trip.map(|time| time.as_secs_f64()),
        max_payload: nats.max_payload(),
        account,
    }
}

/// What is not permitted, and why it is needed.
fn forbidden(subject: &str, what_for: &str) -> OperatorError {
    ErrorCode::NatsPermission.error(
        format!("the NATS user may not publish to {subject}"),
        format!("{what_for}, and what is published there is not answered"),
        "grant what docs/operating.md lists for workers",
    )
}

async fn buckets(nats: &Nats, config: &Config, found: &mut Rehearsal) -> Vec<BucketState> {
    let looks = buckets::look(nats, config).await;
    let writable = futures::future::join_all(looks.iter().map(|look| look.may_be_written(nats))).await;
    let mut states = Vec::new();
    for (BucketLook { bucket, found: looked, .. }, may_be_written) in looks.into_iter().zip(writable) {
        let there = match found.check(looked.map_err(|error| bucket_error(&error))) {
            Some(Some(odd)) => {
                found.warnings.extend(odd.iter().map(ToString::to_string));
                Some(true)
            }
            Some(None) => Some(false),
            None => None,
        };
        if !may_be_written {
            let what = match there {
                Some(false) => ("the creation of its stream", "it is missing, and a worker that starts creates it"),
                _ => ("its subjects", "workers write to it"),
            };
            found.errors.push(ErrorCode::NatsPermission.error(
                format!("the NATS user has no right to bucket {bucket:?}: {}", what.0),
                format!("{}, and that is not answered", what.1),
                "grant what docs/operating.md lists for workers",
            ));
        }
        states.push(BucketState { bucket, is_there: there });
    }
    states
}

/// Who holds which ID, and which one a worker that starts now would claim.
async fn worker_ids(nats: &Nats, config: &Config, metrics: &Arc<Metrics>, found: &mut Rehearsal) -> Option<Ids> {
    // Why it does not answer is said where all buckets are looked at.
    let Ok(Some(buckets)) = ControlBuckets::existing(nats, config).await else { return None };
    let entries = buckets.of(Bucket::StableIds).list(None).await.ok()?;
    let holder = |key: &str, value: Option<Vec<u8>>| {
        let claim: ClaimRecord = decode(&value?).ok()?;
        Some(Holder { worker: WorkerId::parse(key), host: claim.host, pid: claim.pid })
    };
    let held = entries.into_iter().filter_map(|(key, entry)| holder(&key, entry.value)).collect();
    let first_steps = first_steps(config, nats, &buckets, metrics).await;
    let next = found.check(first_steps.map_err(|failure| start_failure(config, failure)));
    Some(Ids { held, most: config.worker_id_max.saturating_sub(config.worker_id_min).saturating_add(1), next })
}

/// What workers say to each other without JetStream.
async fn core_subjects(nats: &Nats, config: &Config, found: &mut Rehearsal) {
    let nobody = Incarnation { claim: 0, uuid: Uuid::new_v4() };
    if let Err(error) = Peers::new(nats, &config.group).answer(&nobody).await {
        found.errors.push(from_sentence(ErrorCode::NatsPermission, &error.to_string()));
    }
}

/// The stream, whether it can be worked on, and where new partitions would begin.
async fn the_stream(
    nats: &Nats,
    config: &Config,
    stream: &Stream,
    survey: &mut Survey,
    found: &mut Rehearsal,
) -> Option<StreamInfo> {
    let info = match found.check(settings::find_stream(nats, stream).await)? {
        FoundStream::There(info) => info,
        FoundStream::ToCreate(new) => {
            if !nats.may_create(&new.name).await {
                found.errors.push(forbidden(
                    &format!("$JS.API.STREAM.CREATE.{}", new.name),
                    "the stream is missing, and stream.create has a worker create it",
                ));
            }
            survey.stream = Some((&new).into());
            return None;
        }
    };
    let queue = found.check(settings::queue(config, stream, &info, settings::partitions(config)));
    found.check(start::start_position(nats, &stream.start_from, &info).await);
    match queue {
        Some(None) => log_mode(nats, &info, found).await,
        Some(Some(_)) if !nats.may_publish("$JS.ACK.check").await => {
            found.errors.push(forbidden("$JS.ACK.>", "messages of this stream must be acknowledged"));
        }
        _ => {}
    }
    survey.stream = Some((&info).into());
    Some(info)
}

/// Whether the stream can be read as workers read it: by a reader with a connection of its own.
async fn log_mode(nats: &Nats, info: &StreamInfo, found: &mut Rehearsal) {
    let options = ReaderOptions { stream: info.name.clone(), start: Start::At(info.last.next()), filters: None };
    if let Err(error) = Reader::open(nats, &options).await {
        let code = match &error {
            OpenReaderError::NoStream(_) => ErrorCode::StreamNotFound,
            OpenReaderError::TooManyConsumers(_) | OpenReaderError::Failed { .. } => ErrorCode::NatsPermission,
        };
        found.errors.push(from_sentence(code, &error.to_string()));
    }
    if !nats.may_publish("$JS.FC.check").await {
        found.errors.push(forbidden("$JS.FC.>", "readers tell the server there that they go on"));
    }
}

/// How stream and partitions fit: messages that nobody handles, and partitions that get none.
async fn coverage(
    nats: &Nats,
    stream: &Stream,
    info: &StreamInfo,
    partitions: &PartitionList,
    survey: &mut Survey,
    found: &mut Rehearsal,
) {
    let template = &stream.subject_template;
    // A stream that has its messages from others names no subjects.
    if !info.subjects.is_empty() {
        let is_captured = |subject: &str| info.subjects.iter().any(|filter| subject_matches(filter, subject));
        let mut lost = partitions.iter().map(|partition| template.subject(partition.id())).filter(|s| !is_captured(s));
        if let Some(first) = lost.next() {
            found.warnings.push(format!(
                "stream {:?} captures {} and not the subjects of {} of {} partitions, such as {first}: they get no messages. Correct \
                 stream.subjectTemplate or the source, or add the subjects to the stream",
                info.name,
                info.subjects.join(", "),
                lost.count() + 1,
                partitions.len(),
            ));
        }
    }
    match Uncovered::find(nats, &info.name, template, &ids(partitions), LISTED).await {
        Ok(uncovered) => {
            if let Some(warning) = uncovered.warning() {
                found.warnings.push(warning);
            }
            survey.uncovered = Some(uncovered);
        }
        Err(error) => found.warnings.push(format!("the stream's subjects cannot be told: {error}")),
    }
}

async fn dead_letters(nats: &Nats, subject: &str, found: &mut Rehearsal) -> Option<DeadLetters> {
    let info = found.check(settings::dead_letter_stream(nats, subject).await)?;
    found.warnings.extend(dead_letter_warning(&info));
    if !nats.may_store(subject).await {
        found.errors.push(forbidden(subject, "dead letters go there"));
    }
    Some(DeadLetters { subject: subject.to_owned(), stream: info.name })
}
