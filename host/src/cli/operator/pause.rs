//! `parti pause` and `parti resume`: partitions that stay owned and handle nothing, until the operator says otherwise.

use super::fleet::{PAUSE_KEY, Plan, now, operator, partition_argument, run as run_connected, unknown_partition};
use super::print::{counted, print, print_json};
use crate::cli::ConfigArgs;
use crate::error::{ErrorCode, OperatorError};
use clap::Args;
use parti_coordination::PartitionId;
use parti_coordination::record::{FORMAT, PauseRecord};
use std::collections::BTreeSet;

/// What `parti pause` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti pause tool-07.chamber-2 tool-07.chamber-3
  parti pause --all                              every partition, also those that are added later

A paused partition stays with its worker, finishes and commits the batch in hand, and handles nothing more. The setting outlasts
restarts and changes of the leader. A worker that has lost NATS learns of it when it is back.")]
pub(in crate::cli) struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// What `parti resume` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti resume tool-07.chamber-2
  parti resume --all                             nothing is paused any more")]
pub(in crate::cli) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ids of partitions, as `parti partitions` shows them
    #[arg(value_name = "PARTITION", required_unless_present = "all")]
    partitions: Vec<String>,
    /// Every partition
    #[arg(long, conflicts_with = "partitions")]
    all: bool,
    /// Print what is paused then, as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn pause(args: &PauseArgs) -> Result<(), OperatorError> {
    set(&args.which, true)
}

pub(in crate::cli) fn resume(args: &ResumeArgs) -> Result<(), OperatorError> {
    set(&args.which, false)
}

fn set(which: &Which, pause: bool) -> Result<(), OperatorError> {
    let ids = which.partitions.iter().map(|text| partition_argument(text)).collect::<Result<BTreeSet<_>, _>>()?;
    run_connected(&which.config, async |connected| {
        let fleet = connected.fleet().await?;
        let changed = |plan: &Plan| Ok(plan.pause.with(change(plan, &ids, which.all, pause)?));
        let record = fleet.set((PAUSE_KEY, "what is paused"), changed).await?;
        if which.json {
            print_json(&record);
            return Ok(());
        }
        print(match (record.all, record.partitions.len()) {
            (true, _) => "every partition is paused".to_owned(),
            (false, 0) => "nothing is paused".to_owned(),
            (false, 1) => "1 partition is paused".to_owned(),
            (false, paused) => format!("{} are paused", counted(paused as u64, "partition")),
        });
        Ok(())
    })
}

fn refused(why: impl Into<String>, todo: &str) -> OperatorError {
    ErrorCode::OperatorRefused.error("what is paused is as it was", why, todo)
}

/// The setting after a command.
fn change(plan: &Plan, ids: &BTreeSet<PartitionId>, all: bool, pause: bool) -> Result<PauseRecord, OperatorError> {
    let before = &plan.pause.record;
    // What is paused may be resumed, whether it exists or not.
    let is_known =
        |id: &&PartitionId| plan.owners.contains_key(*id) || (!pause && before.partitions.contains(id.as_str()));
    if let Some(id) = ids.iter().find(|id| !is_known(id)) {
        return Err(unknown_partition(id.as_str(), plan.owners.keys()));
    }
    if before.all && !all && !pause {
        return Err(refused(
            "every partition is paused, also those to come; there is no list to take one from",
            "parti resume --all, then pause those that are to stay paused",
        ));
    }
    let names = ids.iter().map(|id| id.as_str().to_owned());
    let mut partitions = before.partitions.clone();
    match (all, pause) {
        (true, _) => partitions.clear(),
        (false, true) => partitions.extend(names),
        (false, false) => names.for_each(|name| {
            partitions.remove(&name);
        }),
    }
    let all = if all { pause } else { before.all };
    Ok(PauseRecord { v: FORMAT, all, partitions, by: operator(), at: now() })
}

#[cfg(test)]
mod tests {
    use super::super::fleet::Setting;
    use super::*;
    use parti_coordination::WorkerId;

    fn id(name: &str) -> PartitionId {
        PartitionId::from_keys(&[name]).unwrap()
    }

    fn plan(all: bool, paused: &[&str]) -> Plan {
        let partitions = paused.iter().map(|name| (*name).to_owned()).collect();
        Plan {
            owners: ["a", "b", "c"].map(|name| (id(name), WorkerId::new("worker", 0))).into(),
            pause: Setting::of(PauseRecord { all, partitions, ..PauseRecord::nothing() }),
            ..Plan::default()
        }
    }

    /// What is paused after a command: whether all, and which.
    fn after(plan: &Plan, ids: &[&str], all: bool, pause: bool) -> Option<(bool, Vec<String>)> {
        let ids = ids.iter().map(|name| id(name)).collect();
        let record = change(plan, &ids, all, pause).ok()?;
        Some((record.all, record.partitions.into_iter().collect()))
    }

    #[test]
    fn partitions_join_and_leave_what_is_paused() {
        let some = |all, ids: &[&str]| Some((all, ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!(after(&plan(false, &["a"]), &["b", "a"], false, true), some(false, &["a", "b"]));
        assert_eq!(after(&plan(false, &["a", "b"]), &["b", "c"], false, false), some(false, &["a"]));
        assert_eq!(after(&plan(false, &["a"]), &[], true, true), some(true, &[]));
        assert_eq!(after(&plan(true, &["a"]), &[], true, false), some(false, &[]));
        // A partition that is gone can still be resumed; one that never was can be neither.
        assert_eq!(after(&plan(false, &["gone"]), &["gone"], false, false), some(false, &[]));
        assert_eq!(after(&plan(false, &[]), &["gone"], false, true), None);
        assert_eq!(after(&plan(true, &[]), &["a"], false, false), None, "all but one is no setting");
    }
}
