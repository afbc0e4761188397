//! What all instances of one plugin version share.

use super::super::grants::Grants;
use super::super::limits::Limits;
use super::PluginConfig;
use super::account::Account;
use super::context::Home;
use super::http::HttpShared;
use super::log::LogGate;
use crate::telemetry::{MetricsUser, PluginMetrics};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Lines per second that the host says about a plugin's doings.
const WARNINGS_PER_SECOND: u64 = 10;

/// What all instances of one plugin version share.
pub(in super::super) struct Shared {
    pub(in super::super) plugin: Arc<str>,
    /// The section of the configuration that names it.
    pub(in super::super) section: Arc<str>,
    pub(in super::super) limits: Limits,
    pub(in super::super) config: PluginConfig,
    pub(super) log: LogGate,
    /// Of the host's own words about the plugin.
    pub(super) warnings: LogGate,
    pub(super) http: HttpShared,
    pub(super) home: Arc<Home>,
    pub(super) metrics: Arc<PluginMetrics>,
    pub(super) metrics_user: MetricsUser,
    pub(super) account: Arc<Account>,
    pub(super) env: Vec<(String, String)>,
    pub(in super::super) directory: Option<PathBuf>,
    pub(super) counters: Counters,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) instances: AtomicU64,
    pub(super) memory: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    over_limit: AtomicU64,
    wrong_answers: AtomicU64,
}

/// How a call failed, for counting.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Failure {
    Trap,
    Timeout,
    OverLimit,
    WrongAnswer,
}

/// Figures of one plugin version, for metrics and status. What it does to others, from its log lines on, is counted for all versions of the
/// plugin together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginStats {
    /// Instances that live now.
    pub instances: u64,
    /// Bytes of linear memory of these instances: what they asked for, not what is resident.
    pub memory_bytes: u64,
    /// Calls that ended in a trap since the version was loaded.
    pub traps: u64,
    /// Calls stopped at their time limit.
    pub timeouts: u64,
    /// Calls that did not survive a refused allocation.
    pub over_limit: u64,
    /// Answers that contradicted the contract.
    pub wrong_answers: u64,
    /// Log lines dropped by the rate limit.
    pub log_lines_dropped: u64,
    /// Log lines cut to the length limit.
    pub log_lines_cut: u64,
    /// HTTP requests sent, answered or not.
    pub http_requests: u64,
    /// HTTP requests that `plugins.grants` does not allow.
    pub http_denied: u64,
    /// Values of metrics whose series would have been one too many.
    pub metric_values_dropped: u64,
}

impl Shared {
    pub(in super::super) fn new(
        plugin: Arc<str>,
        section: Arc<str>,
        limits: Limits,
        config: PluginConfig,
        grants: Grants,
        home: Arc<Home>,
    ) -> Self {
        let metrics = home.metrics.of(&plugin);
        let account = home.accounts.of(&plugin);
        let log = LogGate::new(limits.log_lines_per_second, limits.log_line_bytes);
        let warnings = LogGate::new(WARNINGS_PER_SECOND, limits.log_line_bytes);
        let Grants { http, env, directory } = grants;
        let http = HttpShared::new(http, account.places(limits.http_requests));
        Self {
            plugin,
            section,
            limits,
            config,
            log,
            warnings,
            http,
            home,
            metrics,
            metrics_user: MetricsUser::default(),
            account,
            env,
            directory,
            counters: Counters::default(),
        }
    }

    pub(in super::super) fn count(&self, failure: Failure) {
        let counters = &self.counters;
        let counter = match failure {
            Failure::Trap => &counters.traps,
            Failure::Timeout => &counters.timeouts,
            Failure::OverLimit => &counters.over_limit,
            Failure::WrongAnswer => &counters.wrong_answers,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(in super::super) fn stats(&self) -> PluginStats {
        let counters = &self.counters;
        let account = &self.account;
        PluginStats {
            instances: counters.instances.load(Relaxed),
            memory_bytes: counters.memory.load(Relaxed),
            traps: counters.traps.load(Relaxed),
            timeouts: counters.timeouts.load(Relaxed),
            over_limit: counters.over_limit.load(Relaxed),
            wrong_answers: counters.wrong_answers.load(Relaxed),
            log_lines_dropped: account.log_lines_dropped.load(Relaxed),
            log_lines_cut: account.log_lines_cut.load(Relaxed),
            http_requests: account.http_sent.load(Relaxed),
            http_denied: account.http_denied.load(Relaxed),
            metric_values_dropped: account.metric_values_dropped.load(Relaxed),
        }
    }
}
