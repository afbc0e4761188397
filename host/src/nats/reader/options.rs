//! What to read, and the consumer that the server is to make for that.

use async_nats::Subject;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy, pull, push};
use parti_coordination::Sequence;
use std::time::Duration;

/// How often the server says that it has nothing to say.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long the server keeps the consumer of a reader that has vanished.
pub(super) const INACTIVE: Duration = Duration::from_secs(30);

/// What to read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Name of the stream.
    pub stream: String,
    /// Where to begin.
    pub start: Start,
    /// Only these subjects; `None` for all. A filtered reader that is far behind costs the server about 1 ms per message on a
    /// file stream, an unfiltered one 3–5 µs.
    pub filters: Option<Filters>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first message at or above this sequence. Beyond the stream's last sequence the server says nothing until the
    /// stream gets there.
    At(Sequence),
    /// With the latest message of each subject, then with what comes.
    LatestOfEachSubject,
}

/// Subjects to read, wildcards allowed. Never none: to the server an empty list means everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters(Vec<String>);

impl Filters {
    /// These subjects; `None` if there are none.
    #[must_use]
    pub fn new(subjects: Vec<String>) -> Option<Self> {
        (!subjects.is_empty()).then_some(Self(subjects))
    }

    /// The subjects.
    #[must_use]
    pub fn subjects(&self) -> &[String] {
        &self.0
    }
}

/// A consumer that sends by itself.
pub(super) fn pushed(name: &str, options: &ReaderOptions, inbox: &Subject) -> consumer::Config {
    consumer::IntoConsumerConfig::into_consumer_config(push::Config {
        name: Some(name.to_owned()),
        deliver_subject: inbox.to_string(),
        deliver_policy: policy(options),
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: options.filters.as_ref().map(|filters| filters.0.clone()).unwrap_or_default(),
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        inactive_threshold: INACTIVE,
        // One replica in memory: nothing of a reader is worth keeping.
        num_replicas: 1,
        memory_storage: true,
        ..Default::default()
    })
}

/// A consumer that is asked.
pub(super) fn asked(name: &str, options: &ReaderOptions, headers_only: bool) -> consumer::Config {
    consumer::IntoConsumerConfig::into_consumer_config(pull::Config {
        name: Some(name.to_owned()),
        deliver_policy: policy(options),
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subjects: options.filters.as_ref().map(|filters| filters.0.clone()).unwrap_or_default(),
        inactive_threshold: INACTIVE,
        headers_only,
        num_replicas: 1,
        memory_storage: true,
        ..Default::default()
    })
}

fn policy(options: &ReaderOptions) -> DeliverPolicy {
    match options.start {
        Start::At(Sequence(sequence)) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
        Start::LatestOfEachSubject => DeliverPolicy::LastPerSubject,
    }
}
