//! Hooks: each told something once, with what it says of it.

use super::figures::{micros, shown};
use super::told::Line;
use super::{Bench, Verdict};
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{CallError, Happening, HooksInstance, HooksPlugin, PluginVersion};
use crate::worker::load_alone;
use parti_coordination::{AlertLevel, DEFAULT_WEIGHT, Partition, WorkerState};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the hooks have taken it.
#[derive(Serialize)]
pub(super) struct Found {
    calls: Vec<Call>,
}

#[derive(Serialize)]
struct Call {
    hook: &'static str,
    micros: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    log: Vec<Line>,
}

/// What a worker meets, from its start to an outage: each hook hears of something, and the first assignment comes first.
fn happenings() -> Vec<(&'static str, Happening)> {
    let partitions = |keys: &[&str]| {
        let of = |key: &&str| Partition::new(vec!["orders".to_owned(), (*key).to_owned()], DEFAULT_WEIGHT).ok();
        keys.iter().filter_map(of).collect::<Vec<_>>()
    };
    let code = ErrorCode::NatsConnectionLost;
    let partition = partitions(&["0"]).first().map(|partition| partition.id().clone());
    let lasted = Duration::from_secs(30);
    vec![
        ("on-state-changed", Happening::StateChanged { from: WorkerState::WaitingAssignment, to: WorkerState::Stable }),
        ("on-assignment-changed", Happening::AssignmentChanged { added: partitions(&["0", "1"]), removed: Vec::new() }),
        ("on-assignment-changed", Happening::AssignmentChanged { added: Vec::new(), removed: partitions(&["1"]) }),
        (
            "on-error",
            Happening::Error {
                code: code.code(),
                name: code.name(),
                message: "the connection to NATS is lost".to_owned(),
                partition: None,
            },
        ),
        (
            "on-error",
            Happening::Error {
                code: ErrorCode::PluginTrap.code(),
                name: ErrorCode::PluginTrap.name(),
                message: "plugin billing trapped: wasm `unreachable` instruction executed".to_owned(),
                partition,
            },
        ),
        ("on-degraded-alert", Happening::DegradedAlert { level: AlertLevel::Info, lasted }),
        ("on-degraded-alert", Happening::DegradedAlert { level: AlertLevel::Warn, lasted: lasted * 4 }),
        ("on-degraded-alert", Happening::DegradedAlert { level: AlertLevel::Error, lasted: lasted * 10 }),
        ("on-degraded-alert", Happening::DegradedAlert { level: AlertLevel::Critical, lasted: lasted * 20 }),
    ]
}

pub(super) async fn test(bench: &Bench<'_>) -> Result<(Arc<PluginVersion>, Verdict<Found>), OperatorError> {
    let file = &bench.file;
    let plugin = load_alone::<HooksPlugin>(&bench.engine, file.directory, file.name, &file.config, &file.host)?;
    let mut calls = Vec::new();
    let mut call = |hook, begun: Instant, result: Result<(), CallError>| {
        let error = result.err().map(|error| error.to_string());
        calls.push(Call { hook, micros: micros(begun.elapsed()), error, log: bench.told.take() });
    };
    let mut instance: Option<HooksInstance> = None;
    for (hook, happening) in happenings() {
        // As in a worker, hooks begin anew after a call that failed.
        let mut open = match instance.take() {
            Some(open) => open,
            None => {
                let begun = Instant::now();
                match plugin.open().await {
                    Ok(open) => {
                        call("open", begun, Ok(()));
                        open
                    }
                    Err(error) => {
                        call("open", begun, Err(error));
                        continue;
                    }
                }
            }
        };
        let begun = Instant::now();
        let told = open.tell(&happening).await;
        if matches!(told, Ok(()) | Err(CallError::Refused { .. })) {
            instance = Some(open);
        }
        call(hook, begun, told);
    }
    let failures = calls.iter().filter_map(|call| Some(format!("{}: {}", call.hook, call.error.as_ref()?))).collect();
    Ok((Arc::clone(plugin.version()), Verdict { failures, notes: Vec::new(), found: Found { calls } }))
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Call { hook, micros, error, log } in &self.calls {
            writeln!(f, "{hook:<22}  {:>9}  {}", shown(*micros), error.as_deref().map_or("ok", |_| "failed"))?;
            for line in log {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}
