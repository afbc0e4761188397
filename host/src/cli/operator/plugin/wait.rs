//! Shows how each worker obeys an order, until all have.

use super::history::milliseconds;
use super::{Watching, short};
use crate::cli::operator::fleet::{Connected, api_error};
use crate::cli::operator::print::{counted, one_line, print, print_json};
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::{Attempt, AttemptResult};
use crate::pushes::{Order, Pushes};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often the workers are looked at.
const LOOK: Duration = Duration::from_millis(300);

/// For how long a worker may run what is wanted before it says how that came. One that has begun since never does.
const UNSAID: Duration = Duration::from_secs(3);

/// How a worker has obeyed.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
enum Obeyed {
    /// It has tried.
    Tried(Attempt),
    /// It has begun since, and runs what is wanted.
    InForce { version: String },
}

impl Obeyed {
    fn succeeded(&self) -> bool {
        match self {
            Self::Tried(attempt) => matches!(attempt.result, AttemptResult::Kept | AttemptResult::Waiting),
            Self::InForce { .. } => true,
        }
    }

    fn waits(&self) -> bool {
        matches!(self, Self::Tried(attempt) if attempt.result == AttemptResult::Waiting)
    }
}

/// Waits until every worker that runs the plugin has obeyed, and prints how.
///
/// # Errors
/// The version is not in force on all of them, another order came, or the time is over.
pub(super) async fn wait(
    args: &Watching,
    connected: &Connected,
    pushes: &Pushes,
    plugin: &str,
    order: &Order,
    revision: u64,
) -> Result<(), OperatorError> {
    let by = Instant::now() + args.timeout;
    let mut obeyed: BTreeMap<String, Obeyed> = BTreeMap::new();
    let mut runs_since: BTreeMap<String, Instant> = BTreeMap::new();
    let mut other = None;
    let silent = loop {
        let standing =
            pushes.standing(plugin).await.map_err(|error| api_error("what is wanted of the plugin", &error))?;
        let history = pushes.history(plugin).await.map_err(|error| api_error("the history of the plugin", &error))?;
        let heartbeats = connected.heartbeats().await?;
        let (mut silent, mut waiting) = (BTreeSet::new(), BTreeMap::new());
        let running = heartbeats.into_iter().filter_map(|(worker, mut h)| Some((worker, h.plugins.remove(plugin)?)));
        for (worker, version) in running {
            if obeyed.contains_key(&worker) {
                continue;
            }
            let attempts = history.get(&worker).into_iter().flatten();
            let tried = attempts.into_iter().find(|reported| reported.order == revision);
            let runs = order.wanted.as_ref().is_some_and(|wanted| version.starts_with(wanted.as_str()));
            let how = match tried {
                Some(reported) if reported.attempt.result == AttemptResult::Waiting => {
                    waiting.insert(worker, Obeyed::Tried(reported.attempt.clone()));
                    continue;
                }
                Some(reported) => Obeyed::Tried(reported.attempt.clone()),
                None if runs && runs_since.entry(worker.clone()).or_insert_with(Instant::now).elapsed() >= UNSAID => {
                    Obeyed::InForce { version }
                }
                None => {
                    silent.insert(worker);
                    continue;
                }
            };
            if !args.json {
                print(line(&worker, &how));
            }
            obeyed.insert(worker, how);
        }
        if standing.revision != revision {
            other = standing.order;
        }
        // Who waits does what the others find out, and only where nobody finds out anything does that end here.
        let is_found_out = |how: &Obeyed| matches!(how, Obeyed::Tried(attempt) if attempt.proves() || attempt.result == AttemptResult::TakenBack);
        match silent.is_empty() && !obeyed.values().any(is_found_out) {
            true => {
                for (worker, how) in waiting {
                    if !args.json {
                        print(line(&worker, &how));
                    }
                    obeyed.insert(worker, how);
                }
            }
            false => silent.extend(waiting.into_keys()),
        }
        if silent.is_empty() || standing.revision != revision || Instant::now() >= by {
            break silent;
        }
        tokio::time::sleep(LOOK).await;
    };
    if args.json {
        print_json(&obeyed);
    }
    judge(args, plugin, &obeyed, &silent, other.as_ref())
}

fn judge(
    args: &Watching,
    plugin: &str,
    obeyed: &BTreeMap<String, Obeyed>,
    silent: &BTreeSet<String>,
    other: Option<&Order>,
) -> Result<(), OperatorError> {
    if let Some(other) = other {
        return Err(ErrorCode::OperatorRefused.error(
            format!("another order for plugin {plugin} came, by {} at {}", other.by, other.at),
            "the last order is the one that holds; what is shown is how far the workers had come",
            format!("look how they obey that one: parti plugin history {plugin}"),
        ));
    }
    let all = (obeyed.len() + silent.len()) as u64;
    if !silent.is_empty() {
        let names: Vec<&str> = silent.iter().map(String::as_str).collect();
        return Err(ErrorCode::PluginSwap.error(
            format!("{} of {all} workers have not said within {:?} how it ended", silent.len(), args.timeout),
            format!("{} may be cut off, busy with another version, or unable to fetch it", names.join(", ")),
            format!("look at their logs, and again at: parti plugin history {plugin}"),
        ));
    }
    let failures: Vec<_> = obeyed.iter().filter(|(_, obeyed)| !obeyed.succeeded()).collect();
    let why = failures.iter().find_map(|(worker, obeyed)| match obeyed {
        Obeyed::Tried(attempt) => Some(format!("on {worker}: {}", one_line(attempt.reason.as_deref()?))),
        Obeyed::InForce { .. } => None,
    });
    match (all, failures.len()) {
        (0, _) if !args.json => print(format!("no worker runs plugin {plugin} now; the first that starts tries it")),
        (_, 0) if !args.json && obeyed.values().any(Obeyed::waits) => {
            print("who waits tries it as soon as that is possible, or takes it up once another worker has tried it");
        }
        (_, 0) => {}
        (_, failed) => {
            return Err(ErrorCode::PluginSwap.error(
                format!("{failed} of {} have not taken it up", counted(all, "worker")),
                why.unwrap_or_default(),
                format!("they go on with the version before; push a corrected one, or go back: parti plugin rollback {plugin}"),
            ));
        }
    }
    Ok(())
}

fn line(worker: &str, obeyed: &Obeyed) -> String {
    let attempt = match obeyed {
        Obeyed::InForce { version } => return format!("{worker}  in force    {}", short(version)),
        Obeyed::Tried(attempt) => attempt,
    };
    let mut line = format!("{worker}  {:<10}  {}", attempt.result.as_str(), short(&attempt.to));
    if attempt.partitions > 0 {
        let (partitions, handled) =
            (counted(attempt.partitions as u64, "partition"), counted(attempt.handled, "message"));
        let (p50, p99) = (milliseconds(attempt.pause_p50_us), milliseconds(attempt.pause_p99_us));
        line += &format!("  {partitions}, {handled} on trial, {} failed, pause p50 {p50} p99 {p99}", attempt.failed);
    }
    if let Some(reason) = &attempt.reason {
        line += &format!("  {}", one_line(reason));
    }
    line
}
