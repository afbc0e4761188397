//! Asks the strategy plugin what the core wants to know, on the runtime of guests, one question at a time.

use crate::config::Config;
use crate::plugin::{CallError, Current, StrategyPlugin};
use crate::telemetry::Metrics;
use parti_coordination::record::Lifecycle;
use parti_coordination::strategy::{Candidate, Question};
use parti_coordination::{Event, OpId, Partition, Reply, WorkerId};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;

/// Partitions of a question that is made up for a trial.
const MADE_UP: usize = 8;

/// The strategy in force, and what it was asked last. Clones are the same one.
#[derive(Clone)]
pub(super) struct Consultant {
    current: Current<StrategyPlugin>,
    metrics: Arc<Metrics>,
    /// What was asked last, on a worker that leads or has led.
    last: Arc<Mutex<Option<Arc<Question>>>>,
    /// What others are asked on trial.
    made_up: Arc<Question>,
}

impl Consultant {
    pub(super) fn new(plugin: Arc<StrategyPlugin>, metrics: Arc<Metrics>, config: &Config) -> Self {
        Self { current: Current::new(plugin), metrics, last: Arc::default(), made_up: Arc::new(made_up(config)) }
    }

    /// Another version is asked from the next question on.
    pub(super) fn replace(&self, version: Arc<StrategyPlugin>) {
        self.current.replace(version);
    }

    /// Asks a version what was asked last, or what might be asked, for nothing but to see whether it answers as it should. What it then
    /// says for itself, or what is wrong with it.
    pub(super) async fn try_out(&self, version: &StrategyPlugin) -> Result<String, String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_real = last.is_some();
        let question = last.unwrap_or_else(|| Arc::clone(&self.made_up));
        let what = if is_real { "what was asked last" } else { "a made-up question" };
        match version.assign(&question).await {
            Ok(answer) => match question.judge(&answer) {
                None => Ok(format!("asked {what}, it placed {} partitions", answer.len())),
                Some(wrong) => Err(format!("asked {what}, {wrong}")),
            },
            // No such fleet may ever ask it.
            Err(CallError::Refused { reason, .. }) if !is_real => Ok(format!("asked {what}, it refused: {reason}")),
            Err(error) => {
                count(version, &self.metrics, &error);
                Err(format!("asked {what}: {error}"))
            }
        }
    }
}

/// A question about the partitions of the configuration and two workers like this one.
fn made_up(config: &Config) -> Question {
    let worker = |number| Candidate {
        worker: WorkerId::new(&config.worker_id_prefix, number),
        capacity: config.capacity,
        labels: config.labels.clone(),
    };
    let fixed = config.source.as_ref().map(|source| source.fixed()).unwrap_or_default();
    let mut partitions: Vec<Partition> = fixed.iter().take(MADE_UP).cloned().collect();
    if partitions.is_empty() {
        let named = (0..MADE_UP).filter_map(|n| Partition::new(vec![format!("partition-{n}")], 100).ok());
        partitions.extend(named);
    }
    let previous = vec![None; partitions.len()];
    let workers = [config.worker_id_min, config.worker_id_max].map(worker).to_vec();
    Question { lifecycle: Lifecycle::ColdStart, orphans_only: false, workers, partitions, previous }
}

/// What a worker asks while it leads.
pub(super) struct Strategist {
    consultant: Consultant,
    guests: Handle,
    /// The question that is being answered.
    asking: Option<AbortOnDropHandle<()>>,
}

impl Strategist {
    pub(super) fn new(consultant: Consultant, guests: Handle) -> Self {
        Self { consultant, guests, asking: None }
    }

    /// Asks, and sends the answer. Whatever was asked before is answered no more: the core does not wait for it.
    pub(super) fn ask(&mut self, op: OpId, question: Arc<Question>, events: UnboundedSender<Event>) {
        let Consultant { current, metrics, last, .. } = self.consultant.clone();
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&question));
        let task = self.guests.spawn(async move {
            let (begun, plugin) = (Instant::now(), current.get());
            let answer = plugin.assign(&question).await;
            metrics.assignment_calculation.observe(begun.elapsed().as_secs_f64());
            let answer = answer.map_err(|error| {
                count(&plugin, &metrics, &error);
                error.to_string()
            });
            // The control loop has ended: nobody plans any more.
            let _ = events.send(Event::Reply { op, reply: Reply::Strategy(answer) });
        });
        self.asking = Some(AbortOnDropHandle::new(task));
    }
}

fn count(plugin: &StrategyPlugin, metrics: &Metrics, error: &CallError) {
    let name = plugin.version().name();
    match error {
        CallError::Refused { .. } => {}
        CallError::Timeout { .. } => metrics.plugin_timeouts.series([name]).inc(),
        _ => metrics.plugin_traps.series([name]).inc(),
    }
}
