//! Degraded mode: NATS is out of reach or refuses, and work goes on with the assignment in force.
//!
//! Judged by the connection and by the operations on the control buckets alone. While the mode lasts nobody is judged, nothing
//! is planned and the assignment is frozen; the coordinator sees to that.

use super::context::Context;
use super::io::Action;
use crate::{Now, WorkerState};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// When the mode is entered and left (`degradedBehavior`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the configuration reference documents every key")]
pub struct DegradedBehavior {
    pub enter_threshold: Duration,
    pub exit_threshold: Duration,
    pub kv_error_threshold: u32,
    pub kv_error_window: Duration,
    pub recovery_grace_period: Duration,
}

/// When alerts are raised (`degradedAlert`). Thresholds count from the beginning of the outage; zero disables a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the configuration reference documents every key")]
pub struct DegradedAlert {
    pub info_threshold: Duration,
    pub warn_threshold: Duration,
    pub error_threshold: Duration,
    pub critical_threshold: Duration,
    pub alert_interval: Duration,
}

/// How long an outage has lasted, in the operator's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum AlertLevel {
    /// Worth knowing.
    Info,
    /// Somebody should look.
    Warn,
    /// Somebody must look.
    Error,
    /// Wake somebody up.
    Critical,
}

impl AlertLevel {
    /// Every level, mildest first.
    pub const ALL: [AlertLevel; 4] = [AlertLevel::Info, AlertLevel::Warn, AlertLevel::Error, AlertLevel::Critical];

    /// The name, as in logs, `/status` and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AlertLevel::Info => "Info",
            AlertLevel::Warn => "Warn",
            AlertLevel::Error => "Error",
            AlertLevel::Critical => "Critical",
        }
    }
}

/// What makes a worker degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The connection is lost.
    Disconnected,
    /// So many operations on the control buckets have failed in a row.
    Errors(u32),
}

/// Errors closer together than this count as one.
const ERROR_SPACING: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Health {
    connected: bool,
    down_since: Option<Now>,
    /// When the latest operations failed, none of the later ones having succeeded.
    errors: VecDeque<Now>,
    /// The lost connection or the first failed operation since all went well.
    outage: Option<Now>,
    /// Connected, and no operation has failed since this one succeeded.
    well_since: Option<Now>,
    mode: Option<Mode>,
}

struct Mode {
    outage: Now,
    raised: Option<AlertLevel>,
    repeat_at: Now,
}

/// What the coordinator must do after time has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shift {
    None,
    Entered,
    Left,
}

impl DegradedAlert {
    /// The levels that are not disabled, mildest first.
    fn levels(&self) -> impl DoubleEndedIterator<Item = (AlertLevel, Duration)> {
        let all = [
            (AlertLevel::Info, self.info_threshold),
            (AlertLevel::Warn, self.warn_threshold),
            (AlertLevel::Error, self.error_threshold),
            (AlertLevel::Critical, self.critical_threshold),
        ];
        all.into_iter().filter(|(_, threshold)| !threshold.is_zero())
    }
}

impl Health {
    pub(super) fn connected(&mut self) {
        self.connected = true;
        self.down_since = None;
        self.well_since = None;
    }

    pub(super) fn disconnected(&mut self, now: Now) {
        self.connected = false;
        self.well_since = None;
        self.down_since.get_or_insert(now);
        self.outage.get_or_insert(now);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.mode.is_some()
    }

    /// When the outage began that lasts.
    pub(super) fn outage(&self) -> Option<Now> {
        self.outage
    }

    /// An operation on a control bucket was answered, or not.
    pub(super) fn operation(&mut self, ctx: &Context, succeeded: bool) {
        // Without a connection nothing succeeds: that has a threshold of its own.
        if !self.connected {
            return;
        }
        if !succeeded {
            // One operation is tried again several times a second: what fails in the same second has failed once.
            if self.errors.back().is_none_or(|last| ctx.now.since(*last) >= ERROR_SPACING) {
                self.errors.push_back(ctx.now);
            }
            self.well_since = None;
            self.outage.get_or_insert(ctx.now);
        } else {
            self.errors.clear();
            self.well_since.get_or_insert(ctx.now);
            if self.mode.is_none() {
                self.outage = None;
            }
        }
    }

    pub(super) fn tick(&mut self, ctx: &mut Context) -> Shift {
        let behavior = ctx.settings.degraded_behavior;
        while self.errors.front().is_some_and(|at| ctx.now.since(*at) > behavior.kv_error_window) {
            self.errors.pop_front();
        }
        match &mut self.mode {
            None => self.enter(ctx, behavior),
            Some(mode) => {
                if self.connected
                    && let Some(since) = self.well_since
                    && ctx.due(since + behavior.exit_threshold)
                {
                    self.leave(ctx);
                    return Shift::Left;
                }
                mode.alert(ctx);
                Shift::None
            }
        }
    }

    fn enter(&mut self, ctx: &mut Context, behavior: DegradedBehavior) -> Shift {
        if !ctx.state.may_become(WorkerState::Degraded) {
            return Shift::None;
        }
        let errors = u32::try_from(self.errors.len()).unwrap_or(u32::MAX);
        let why = if self.down_since.is_some_and(|since| ctx.due(since + behavior.enter_threshold)) {
            Outage::Disconnected
        } else if errors >= behavior.kv_error_threshold {
            Outage::Errors(errors)
        } else {
            return Shift::None;
        };
        let outage = *self.outage.get_or_insert(ctx.now);
        let mut mode = Mode { outage, raised: None, repeat_at: Now::default() };
        ctx.enter(WorkerState::Degraded);
        ctx.emit(Action::DegradedEntered { outage: why, lasted: ctx.now.since(outage) });
        mode.alert(ctx);
        self.mode = Some(mode);
        Shift::Entered
    }

    /// Ends the mode, if it is on. Whatever happens next begins a new outage.
    pub(super) fn leave(&mut self, ctx: &mut Context) {
        if let Some(mode) = self.mode.take() {
            self.errors.clear();
            self.outage = self.down_since;
            ctx.emit(Action::DegradedLeft { lasted: ctx.now.since(mode.outage) });
        }
    }
}

impl Mode {
    fn alert(&mut self, ctx: &mut Context) {
        let alerts = ctx.settings.degraded_alert;
        let lasted = ctx.now.since(self.outage);
        if let Some((_, next)) = alerts.levels().find(|(_, threshold)| *threshold > lasted) {
            ctx.wake_at(self.outage + next);
        }
        let Some((level, _)) = alerts.levels().filter(|(_, threshold)| *threshold <= lasted).max() else { return };
        if self.raised == Some(level) && !ctx.due(self.repeat_at) {
            return;
        }
        self.raised = Some(level);
        self.repeat_at = ctx.now + alerts.alert_interval;
        ctx.wake_at(self.repeat_at);
        ctx.emit(Action::DegradedAlert { level, lasted });
    }
}
