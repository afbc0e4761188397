//! Asks the strategy plugin what the core wants to know, on the runtime of guests, one question at a time.

use crate::plugin::{CallError, StrategyPlugin};
use crate::telemetry::Metrics;
use parti_coordination::strategy::Question;
use parti_coordination::{Event, OpId, Reply};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;

/// A plugin of the kind strategy that a worker asks while it leads.
pub(super) struct Strategist {
    plugin: Arc<StrategyPlugin>,
    guests: Handle,
    metrics: Arc<Metrics>,
    /// The question that is being answered.
    asking: Option<AbortOnDropHandle<()>>,
}

impl Strategist {
    pub(super) fn new(plugin: Arc<StrategyPlugin>, guests: Handle, metrics: Arc<Metrics>) -> Self {
        Self { plugin, guests, metrics, asking: None }
    }

    /// Asks, and sends the answer. Whatever was asked before is answered no more: the core does not wait for it.
    pub(super) fn ask(&mut self, op: OpId, question: Arc<Question>, events: UnboundedSender<Event>) {
        let (plugin, metrics) = (Arc::clone(&self.plugin), Arc::clone(&self.metrics));
        let task = self.guests.spawn(async move {
            let begun = Instant::now();
            let answer = plugin.assign(&question).await;
            metrics.assignment_calculation.observe(begun.elapsed().as_secs_f64());
            let answer = answer.map_err(|error| failed(&plugin, &metrics, &error));
            // The control loop has ended: nobody plans any more.
            let _ = events.send(Event::Reply { op, reply: Reply::Strategy(answer) });
        });
        self.asking = Some(AbortOnDropHandle::new(task));
    }
}

fn failed(plugin: &StrategyPlugin, metrics: &Metrics, error: &CallError) -> String {
    let name = plugin.version().name();
    match error {
        CallError::Refused { .. } => {}
        CallError::Timeout { .. } => metrics.plugin_timeouts.series([name]).inc(),
        _ => metrics.plugin_traps.series([name]).inc(),
    }
    error.to_string()
}
