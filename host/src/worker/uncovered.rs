//! Subjects of which the stream holds messages and that belong to no partition: nobody ever handles what is published there. The leader
//! counts them, because it knows the partitions; `parti check --online` lists them.

use crate::config::SubjectTemplate;
use crate::nats::{ApiError, Nats, each_subject};
use crate::telemetry::Metrics;
use parti_coordination::Partition;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(30);

/// A look takes no more than this part of the time, however many subjects the stream has: the server goes through all of them.
const PART: u32 = 100;

/// Partitions that change one after the other are one occasion to look again.
const SETTLE: Duration = Duration::from_secs(2);

/// Subjects that the log names.
const NAMED: usize = 5;

/// What of a stream belongs to no partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Uncovered {
    /// Subjects.
    pub(crate) subjects: u64,
    /// Their messages.
    pub(crate) messages: u64,
    /// There may be more: the stream has more subjects than were looked at.
    pub(crate) at_least: bool,
    /// Those with the most messages, which come first.
    pub(crate) most: Vec<UncoveredSubject>,
}

/// A subject that belongs to no partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UncoveredSubject {
    /// The subject.
    pub(crate) subject: String,
    /// How many messages of it the stream holds.
    pub(crate) messages: u64,
}

impl Uncovered {
    /// Looks through the stream's subjects, and keeps this many of those that no partition covers.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub(crate) async fn find(
        nats: &Nats,
        stream: &str,
        template: &SubjectTemplate,
        partitions: &Ids,
        kept: usize,
    ) -> Result<Self, ApiError> {
        let mut found = Self { subjects: 0, messages: 0, at_least: false, most: Vec::new() };
        let mut most = BinaryHeap::new();
        let is_whole = each_subject(nats, stream, ">", |subject, messages| {
            if template.partition_id(subject).is_some_and(|id| partitions.contains(id)) {
                return;
            }
            found.subjects += 1;
            found.messages += messages;
            most.push(Reverse((messages, Reverse(subject.to_owned()))));
            if most.len() > kept {
                most.pop();
            }
        })
        .await?;
        found.at_least = !is_whole;
        let sorted = most.into_sorted_vec().into_iter();
        found.most =
            sorted.map(|Reverse((messages, Reverse(subject)))| UncoveredSubject { subject, messages }).collect();
        Ok(found)
    }

    /// What it means for an operator; nothing if there is none.
    pub(crate) fn warning(&self) -> Option<String> {
        let most: Vec<_> = self.most.iter().take(NAMED).map(|one| one.subject.as_str()).collect();
        let more = if self.subjects > most.len() as u64 { ", …" } else { "" };
        (self.subjects > 0).then(|| {
            format!(
                "the stream holds messages whose subjects belong to no partition, and nobody handles them. Subjects: {} ({}{more}). Add \
                 the partitions to the source, or correct stream.subjectTemplate",
                self.subjects,
                most.join(", "),
            )
        })
    }
}

/// The ids of partitions.
pub(crate) type Ids = HashSet<String>;

/// The ids of these partitions.
pub(crate) fn ids(partitions: &[Partition]) -> Ids {
    partitions.iter().map(|partition| partition.id().to_string()).collect()
}

/// Counts the subjects that no partition covers, while this worker leads.
pub(super) struct UncoveredWatch {
    nats: Nats,
    stream: String,
    template: SubjectTemplate,
    metrics: Arc<Metrics>,
    running: Option<(watch::Sender<Arc<Ids>>, AbortOnDropHandle<()>)>,
}

impl UncoveredWatch {
    /// Of this stream, whose subjects follow this template.
    pub(super) fn new(nats: Nats, stream: String, template: SubjectTemplate, metrics: Arc<Metrics>) -> Self {
        Self { nats, stream, template, metrics, running: None }
    }

    /// From now on these are the partitions; none while this worker does not lead.
    pub(super) fn compare_with(&mut self, partitions: Option<&[Partition]>) {
        let Some(partitions) = partitions else {
            if self.running.take().is_some() {
                self.metrics.uncovered_subjects.set(0);
            }
            return;
        };
        let partitions = ids(partitions);
        match &self.running {
            Some((known, _)) => {
                known.send_if_modified(|known| {
                    let is_new = **known != partitions;
                    if is_new {
                        *known = Arc::new(partitions);
                    }
                    is_new
                });
            }
            None => {
                let (known, partitions) = watch::channel(Arc::new(partitions));
                let (nats, metrics) = (self.nats.clone(), Arc::clone(&self.metrics));
                let look = look(nats, self.stream.clone(), self.template.clone(), metrics, partitions);
                self.running = Some((known, AbortOnDropHandle::new(tokio::spawn(look))));
            }
        }
    }
}

/// Looks again and again. Ends with the sender of `partitions`.
async fn look(
    nats: Nats,
    stream: String,
    template: SubjectTemplate,
    metrics: Arc<Metrics>,
    mut partitions: watch::Receiver<Arc<Ids>>,
) {
    let mut told = 0;
    loop {
        let begun = Instant::now();
        let known = Arc::clone(&partitions.borrow_and_update());
        match Uncovered::find(&nats, &stream, &template, &known, NAMED).await {
            Ok(found) => {
                metrics.uncovered_subjects.set(found.subjects);
                if std::mem::replace(&mut told, found.subjects) != found.subjects {
                    say(&stream, &found);
                }
            }
            Err(error) => {
                tracing::debug!(stream, %error, "The stream's subjects cannot be compared with the partitions")
            }
        }
        let spared = begun.elapsed() * PART;
        match timeout(INTERVAL.max(spared), partitions.changed()).await {
            Ok(Ok(())) => sleep(SETTLE.max(spared)).await,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
}

fn say(stream: &str, found: &Uncovered) {
    match found.warning() {
        Some(warning) => tracing::warn!(
            stream,
            subjects = found.subjects,
            messages = found.messages,
            "{warning}; parti check --online lists them"
        ),
        None => tracing::info!(stream, "Every subject of the stream belongs to a partition again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::testing::{Release, TestServer, ask};
    use crate::nats::{OutgoingMessage, Publisher};
    use serde_json::json;

    #[tokio::test]
    async fn what_no_partition_covers_is_counted_and_what_has_most_messages_comes_first() {
        let server = TestServer::start(Release::Oldest).await;
        let nats = server.connect().await;
        let config = json!({ "name": "work", "subjects": ["work.>", "other"], "num_replicas": 1 });
        ask(&nats, "STREAM.CREATE.work", config).await;
        let publisher = Publisher::new(&nats, 1);
        let subjects = ["work.a", "work.b.c", "work.b", "work.b", "work.x", "work.y", "work.y", "other", "work.a%2Eb"];
        for (n, subject) in subjects.into_iter().enumerate() {
            let message = OutgoingMessage {
                subject: subject.into(),
                id: n.to_string(),
                headers: Vec::new(),
                payload: "x".into(),
            };
            publisher.send(message).await.published().await;
        }
        let partition =
            |keys: &[&str]| Partition::new(keys.iter().map(|key| (*key).to_owned()).collect(), 100).unwrap();
        let partitions = ids(&[partition(&["a"]), partition(&["b", "c"]), partition(&["a.b"]), partition(&["unused"])]);
        let template = SubjectTemplate::default();
        let found = Uncovered::find(&nats, "work", &template, &partitions, 3).await.unwrap();
        let subject = |subject: &str, messages| UncoveredSubject { subject: subject.to_owned(), messages };
        let most = vec![subject("work.b", 2), subject("work.y", 2), subject("other", 1)];
        assert_eq!(found, Uncovered { subjects: 4, messages: 6, at_least: false, most });
        let none = Uncovered::find(&nats, "work", &template, &Ids::new(), 0).await.unwrap();
        assert_eq!((none.subjects, none.messages, none.most.len()), (7, 9, 0));
    }
}
