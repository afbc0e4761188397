//! Every metric, declared once. From the table below come the handles in [`Metrics`], their registration, the text that
//! `GET /metrics` answers, and `docs/metrics.md`.

use super::declared::DeclaredMetrics;
use super::handles::{Age, Counter, CounterBy, CounterWith, Gauge, GaugeWith, Handle, Histogram, HistogramBy, Spec};
use super::labels::{HookResult, KvOperation, KvResult, StrategyFault, SwapResult, Verdict};
use super::{WorkerLabel, openmetrics};
use parti_coordination::AlertLevel;
use parti_coordination::{WorkerState, record::Lifecycle};
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{Registry, Result, TextEncoder};

/// Answers of a healthy NATS lie between half a millisecond and some tens; `operationTimeout` is 10 s by default.
const NATS_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// An empty batch takes about 1 µs in a small Rust handler; `handler.callTimeout` is 5 s by default.
const HANDLE_SECONDS: &[f64] = &[0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// Twelve steps to the decade where a fleet that keeps up is, so that a quantile is known within a few percent; then up to a day of
/// backlog.
const AGE_SECONDS: &[f64] = &[
    0.0001, 0.00012, 0.00015, 0.00018, 0.00022, 0.00027, 0.00033, 0.00039, 0.00047, 0.00056, 0.00068, 0.00082, 0.001,
    0.0012, 0.0015, 0.0018, 0.0022, 0.0027, 0.0033, 0.0039, 0.0047, 0.0056, 0.0068, 0.0082, 0.01, 0.015, 0.022, 0.033,
    0.047, 0.068, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0, 86400.0,
];
/// From ten partitions to a hundred thousand.
const PLAN_SECONDS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// A commit, and a new instance.
const SWAP_SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0];
/// `handler.batchSize` is 64 by default.
const BATCH_MESSAGES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// The thresholds of the `degradedAlert` presets, and what is shorter than the first.
const OUTAGE_SECONDS: &[f64] = &[5.0, 15.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0];

/// One chapter of the catalogue, for the reference page.
pub(super) struct Chapter {
    pub(super) title: &'static str,
    pub(super) rows: Vec<Row>,
}

/// One metric, for the reference page.
pub(super) struct Row {
    pub(super) spec: Spec,
    pub(super) kind: &'static str,
    pub(super) closed_values: Vec<Vec<&'static str>>,
}

macro_rules! catalogue {
    ($($chapter:literal {
        $($field:ident: $handle:ty = $name:literal [$($label:literal),*] $(in $buckets:ident)? => $help:literal;)*
    })*) => {
        /// A handle for each metric of the catalogue. Cheap to use from any thread; share it in an `Arc`.
        pub struct Metrics {
            $($(#[doc = $help] pub $field: $handle,)*)*
            /// What plugins declare while they run.
            pub declared: DeclaredMetrics,
            registry: Registry,
            worker: WorkerLabel,
        }

        impl Metrics {
            fn register(worker: WorkerLabel) -> Result<Self> {
                let registry = Registry::new();
                $($(
                    let $field = <$handle>::create(&catalogue!(@spec $name [$($label),*] $($buckets)? => $help))?;
                    registry.register($field.collector())?;
                )*)*
                Ok(Self { $($($field,)*)* declared: DeclaredMetrics::default(), registry, worker })
            }
        }

        /// The catalogue as data.
        pub(super) fn chapters() -> Vec<Chapter> {
            vec![$(Chapter {
                title: $chapter,
                rows: vec![$(Row {
                    spec: catalogue!(@spec $name [$($label),*] $($buckets)? => $help),
                    kind: <$handle>::KIND,
                    closed_values: <$handle>::closed_values(),
                },)*],
            },)*]
        }
    };
    (@spec $name:literal [$($label:literal),*] $($buckets:ident)? => $help:literal) => {
        Spec { name: $name, help: $help, labels: &[$($label),*], buckets: catalogue!(@buckets $($buckets)?) }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

catalogue! {
    "Worker" {
        worker_state: Gauge = "parti_worker_state" [] =>
            "What the worker is doing: 0 Init, 1 ClaimingID, 2 Election, 3 WaitingAssignment, 4 Stable, 5 Scaling, 6 Rebalancing, 7 Emergency, 8 Degraded, 9 Shutdown.";
        state_transitions: CounterBy<(WorkerState, WorkerState)> = "parti_state_transitions_total" ["from_state", "to_state"] =>
            "Changes of the worker's state.";
        heartbeats_sent: Counter = "parti_heartbeats_sent_total" [] =>
            "Heartbeats that NATS has confirmed.";
        heartbeats_failed: Counter = "parti_heartbeats_failed_total" [] =>
            "Heartbeats that NATS has not confirmed in time, or has refused.";
        build_info: GaugeWith<1> = "parti_build_info" ["version"] =>
            "Version of the worker's binary. Always 1.";
    }
    "Leadership and plans" {
        is_leader: Gauge = "parti_is_leader" [] =>
            "1 while this worker leads the group, else 0.";
        leadership_changes: Counter = "parti_leadership_changes_total" [] =>
            "Changes of the group's leader that this worker has seen, to another worker or to nobody.";
        active_workers: Gauge = "parti_active_workers" [] =>
            "Live workers of the group by the plan in force.";
        plans_published: CounterBy<Lifecycle> = "parti_plans_published_total" ["lifecycle"] =>
            "Plans that this worker has published as leader, by what made them necessary.";
        assignment_calculation: Histogram = "parti_assignment_calculation_seconds" [] in PLAN_SECONDS =>
            "Time that the strategy took to assign every partition.";
        strategy_failures: CounterBy<StrategyFault> = "parti_strategy_failures_total" ["reason"] =>
            "Times that the strategy plugin has not decided when it was asked. Known to the leader; 0 elsewhere.";
        unowned_partitions: Gauge = "parti_unowned_partitions" [] =>
            "Partitions that the plan gives to nobody. Known to the leader; 0 elsewhere.";
        uncovered_subjects: Gauge = "parti_uncovered_subjects" [] =>
            "Subjects of which the stream holds messages and that belong to no partition: nobody handles them. Known to the leader, who looks every half minute; 0 elsewhere.";
        unopenable_partitions: Gauge = "parti_unopenable_partitions" [] =>
            "Partitions whose state the handler of no live worker opens. Known to the leader; 0 elsewhere.";
    }
    "Assignment" {
        assigned_partitions: Gauge = "parti_assigned_partitions" [] =>
            "Partitions that the plan gives to this worker.";
        owned_partitions: Gauge = "parti_owned_partitions" [] =>
            "Partitions whose ownership record this worker holds. Differs from parti_assigned_partitions while partitions move.";
        paused_partitions: Gauge = "parti_paused_partitions" [] =>
            "Assigned partitions that the operator has paused (parti pause).";
        unmatched_partitions: Gauge = "parti_unmatched_partitions" [] =>
            "Assigned partitions whose keys no entry of handler matches. They wait, and their messages stay in the stream.";
        filtered_partitions: Gauge = "parti_filtered_partitions" [] =>
            "Partitions whose messages come through a reader with a filter, at the head of a stream of which this worker has a small share.";
        assignment_version: Gauge = "parti_assignment_version" [] =>
            "Version of the assignment in force.";
        assignment_changes: Counter = "parti_assignment_changes_total" [] =>
            "Assignments that came into force and differed from the one before.";
    }
    "Degraded mode" {
        degraded_mode: Gauge = "parti_degraded_mode" [] =>
            "1 while the worker goes on without NATS, else 0.";
        cache_age: Age = "parti_cache_age_seconds" [] =>
            "Seconds since the assignment was last confirmed with NATS; 0 while NATS is there.";
        alert_level: Gauge = "parti_alert_level" [] =>
            "Level of the last degraded alert: 0 none, 1 Info, 2 Warn, 3 Error, 4 Critical.";
        degraded_duration: Histogram = "parti_degraded_duration_seconds" [] in OUTAGE_SECONDS =>
            "How long a degradation lasted, from the start of the outage; noted when it ends.";
        degraded_alerts: CounterBy<AlertLevel> = "parti_degraded_alerts_total" ["level"] =>
            "Degraded alerts raised.";
        cache_fallback: Counter = "parti_cache_fallback_total" [] =>
            "Operations answered from the cached partition list or assignment because NATS could not answer.";
    }
    "NATS" {
        kv_operations: HistogramBy<(KvOperation, KvResult)> = "parti_kv_operation_seconds" ["operation", "result"] in NATS_SECONDS =>
            "Time of an operation on a KV bucket. A lost compare is not an error; unknown means no answer in time, or an error.";
        reader_restarts: Counter = "parti_reader_restarts_total" [] =>
            "Readers opened after the first: for partitions that are behind, and after a gap, a missed heartbeat, a lost consumer or a reconnect.";
        acks_confirmed: Counter = "parti_acks_confirmed_total" [] =>
            "Queue mode: acknowledgements that the server has confirmed.";
        acks_repeated: Counter = "parti_acks_repeated_total" [] =>
            "Queue mode: acknowledgements that were not confirmed in time and were sent again.";
        acks_unhandled: Counter = "parti_acks_unhandled_total" [] =>
            "Queue mode: messages that were delivered after they had taken effect, and were acknowledged without a call of the handler.";
        streams_replaced: Counter = "parti_stream_replaced_total" [] =>
            "Times that the stream was found made anew or set back: its messages are not those that positions meant.";
        records_lost: Counter = "parti_records_lost_total" [] =>
            "Ownership records that were gone and that nobody has written back: their partitions were begun again.";
        messages_expired: Counter = "parti_messages_expired_total" [] =>
            "Messages, at most, that the stream removed before this worker read them.";
        publishes_confirmed: Counter = "parti_publishes_confirmed_total" [] =>
            "Messages published for handlers that the output stream has confirmed.";
        publishes_retried: Counter = "parti_publishes_retried_total" [] =>
            "Publishes repeated under the same message ID because they were not confirmed.";
    }
    "Messages" {
        messages: CounterBy<Verdict> = "parti_messages_total" ["verdict"] =>
            "Deliveries to handlers by verdict: ack and reject complete a message, retry asks for it again.";
        handle_seconds: Histogram = "parti_handle_seconds" [] in HANDLE_SECONDS =>
            "Time of one call of a handler, which handles one batch.";
        message_age: Histogram = "parti_message_age_seconds" [] in AGE_SECONDS =>
            "Age of the first message of a batch when the handler had completed it, since the stream stored it; by the clocks of server and worker.";
        swap_pause: Histogram = "parti_plugin_swap_pause_seconds" [] in SWAP_SECONDS =>
            "For how long a partition stood still while it changed the version of its handler.";
        batch_size: Histogram = "parti_batch_size_messages" [] in BATCH_MESSAGES =>
            "Messages in one batch.";
        commit_seconds: Histogram = "parti_commit_seconds" [] in NATS_SECONDS =>
            "Time of one commit of a partition's position and state.";
        commits_fenced: Counter = "parti_commits_fenced_total" [] =>
            "Commits refused because another worker owns the partition by now. Nothing of them took effect.";
        commit_lag: Age = "parti_commit_lag_seconds" [] =>
            "Age of the oldest handled message that is not committed; a crash would repeat no more than this.";
        commits_waiting: Gauge = "parti_commits_waiting" [] =>
            "Commits that are due and wait for their turn, because commit.maxPerSecond bounds them.";
        lag: Gauge = "parti_lag_messages" [] =>
            "Messages of the owned partitions that the stream holds beyond their positions.";
        lag_max: Gauge = "parti_lag_max_messages" [] =>
            "Messages that the owned partition with the most of them has before it.";
        queue_depth: Gauge = "parti_queue_depth_messages" [] =>
            "Messages read from the stream that wait in this worker for their handler.";
        dead_letters: Counter = "parti_dead_letters_total" [] =>
            "Messages that went to the dead-letter subject, confirmed.";
    }
    "Plugins" {
        plugin_info: GaugeWith<3> = "parti_plugin_info" ["plugin", "digest", "kind"] =>
            "A plugin that this worker has loaded. Always 1.";
        plugin_traps: CounterWith<1> = "parti_plugin_traps_total" ["plugin"] =>
            "Calls that ended in a trap, limits included.";
        plugin_quarantined: GaugeWith<1> = "parti_plugin_quarantined" ["plugin"] =>
            "Whether a handler is fed no more because it keeps failing: 1 or 0.";
        plugin_timeouts: CounterWith<1> = "parti_plugin_timeouts_total" ["plugin"] =>
            "Calls that took longer than they may.";
        plugin_log_lines_dropped: CounterWith<1> = "parti_plugin_log_lines_dropped_total" ["plugin"] =>
            "Log lines of a plugin, of any kind, beyond its lines per second.";
        plugin_http_requests: CounterWith<2> = "parti_plugin_http_requests_total" ["plugin", "result"] =>
            "HTTP requests of a plugin. result: sent, whatever became of it, or denied by plugins.grants.";
        plugin_metric_values_dropped: CounterWith<1> = "parti_plugin_metric_values_dropped_total" ["plugin"] =>
            "Values of a plugin's own metrics beyond its limits.metricSeries.";
        plugin_swaps: CounterBy<SwapResult> = "parti_plugin_swaps_total" ["result"] =>
            "Versions of plugins that were to be taken up while the worker ran, by how that ended.";
        hook_calls: CounterBy<HookResult> = "parti_hook_calls_total" ["result"] =>
            "Calls of lifecycle hooks by how they ended.";
        hooks_dropped: Counter = "parti_hooks_dropped_total" [] =>
            "Happenings that the lifecycle hooks were not told because hooks.queue of them waited.";
    }
}

/// How metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The value of the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// All metrics at zero. `worker` names the worker in what is shown.
    ///
    /// # Errors
    /// Only if two rows of the catalogue contradict each other, which a test excludes.
    pub fn new(worker: WorkerLabel) -> Result<Self> {
        let metrics = Self::register(worker)?;
        metrics.build_info.series([env!("CARGO_PKG_VERSION")]).set(1);
        Ok(metrics)
    }

    /// Everything as of now, each series with the label `worker_id`.
    ///
    /// # Errors
    /// Only if a metric has no series, which the registry excludes.
    pub fn render(&self, format: Format) -> Result<String> {
        let families = self.gather();
        match format {
            Format::Text => TextEncoder::new().encode_to_string(&families),
            Format::OpenMetrics => Ok(openmetrics::encode(&families)),
        }
    }

    /// The values of all metrics. The worker's name is put in here and not at registration, because it is not known then
    /// and may change.
    fn gather(&self) -> Vec<MetricFamily> {
        let mut worker = LabelPair::default();
        worker.set_name("worker_id".to_owned());
        worker.set_value(self.worker.get().to_string());
        let mut families = self.registry.gather();
        families.extend(self.declared.gather());
        for metric in families.iter_mut().flat_map(|family| family.mut_metric()) {
            let mut labels = vec![worker.clone()];
            labels.append(&mut metric.take_label());
            metric.set_label(labels);
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::super::strict::{Exposition, parse_openmetrics, parse_text};
    use super::*;
    use std::time::{Duration, Instant};

    /// Metrics with something in every kind of handle, under names that a careless encoder would break on.
    fn used() -> Metrics {
        let worker = WorkerLabel::default();
        let metrics = Metrics::new(worker.clone()).unwrap();
        worker.set("worker-\"3\"\\\n");
        metrics.worker_state.set(4);
        metrics.state_transitions.inc((WorkerState::WaitingAssignment, WorkerState::Stable));
        metrics.messages.add(Verdict::Ack, 64);
        metrics.kv_operations.observe((KvOperation::Write, KvResult::Lost), 0.002);
        metrics.handle_seconds.observe(0.000_02);
        metrics.handle_seconds.observe(60.0);
        metrics.plugin_info.series(["a \"quoted\"\nname\\", "sha256:00", "handler"]).set(1);
        metrics.plugin_traps.series(["relay"]).inc();
        metrics.cache_age.set(Some(Instant::now() - Duration::from_secs(90)));
        metrics
    }

    fn assert_values(shown: &Exposition) {
        let worker = ("worker_id", "worker-\"3\"\\\n");
        assert_eq!(shown.value("parti_worker_state", &[worker]), 4.0);
        assert_eq!(shown.value("parti_messages_total", &[worker, ("verdict", "ack")]), 64.0);
        assert_eq!(shown.value("parti_messages_total", &[worker, ("verdict", "reject")]), 0.0);
        let states = [worker, ("from_state", "WaitingAssignment"), ("to_state", "Stable")];
        assert_eq!(shown.value("parti_state_transitions_total", &states), 1.0);
        let lost_write = [worker, ("operation", "write"), ("result", "lost")];
        assert_eq!(shown.value("parti_kv_operation_seconds_count", &lost_write), 1.0);
        let plugin = [worker, ("plugin", "a \"quoted\"\nname\\"), ("digest", "sha256:00"), ("kind", "handler")];
        assert_eq!(shown.value("parti_plugin_info", &plugin), 1.0);
        assert_eq!(shown.value("parti_handle_seconds_count", &[worker]), 2.0);
        assert!(shown.value("parti_cache_age_seconds", &[worker]) >= 90.0);
        assert!(shown.samples().all(|(_, labels)| labels.iter().any(|(name, _)| name == "worker_id")));
    }

    #[test]
    fn the_text_format_is_valid_and_complete() {
        assert_values(&parse_text(&used().render(Format::Text).unwrap()));
    }

    #[test]
    fn openmetrics_is_valid_and_complete() {
        assert_values(&parse_openmetrics(&used().render(Format::OpenMetrics).unwrap()));
    }

    #[test]
    fn a_counter_with_one_closed_label_starts_at_zero_so_that_the_first_event_shows_in_a_rate() {
        let metrics = Metrics::new(WorkerLabel::default()).unwrap();
        let shown = parse_text(&metrics.render(Format::Text).unwrap());
        for level in ["Info", "Warn", "Error", "Critical"] {
            assert_eq!(shown.value("parti_degraded_alerts_total", &[("worker_id", ""), ("level", level)]), 0.0);
        }
    }

    #[test]
    fn a_worker_that_claims_another_id_is_shown_under_the_new_one_only() {
        let worker = WorkerLabel::default();
        let metrics = Metrics::new(worker.clone()).unwrap();
        metrics.heartbeats_sent.inc();
        worker.set("worker-1");
        worker.set("worker-2");
        let text = metrics.render(Format::Text).unwrap();
        assert_eq!(parse_text(&text).value("parti_heartbeats_sent_total", &[("worker_id", "worker-2")]), 1.0);
        assert!(!text.contains("worker-1"));
    }

    #[test]
    fn the_cache_is_of_age_zero_again_once_nats_is_back() {
        let metrics = used();
        metrics.cache_age.set(None);
        let shown = parse_text(&metrics.render(Format::Text).unwrap());
        assert_eq!(shown.value("parti_cache_age_seconds", &[("worker_id", "worker-\"3\"\\\n")]), 0.0);
    }

    #[test]
    fn a_plugin_that_is_gone_is_no_longer_shown() {
        let metrics = used();
        metrics.plugin_info.series(["relay", "sha256:01", "handler"]).set(1);
        metrics.plugin_info.remove(["relay", "sha256:01", "handler"]);
        assert!(!metrics.render(Format::Text).unwrap().contains("sha256:01"));
    }
}
