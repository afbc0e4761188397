//! What the coordinator notices: for the log, and for the hooks as far as it is an error.

use crate::error::ErrorCode;
use crate::hooks::Hooks;
use parti_coordination::Notice;

/// Writes a notice to the log.
pub(super) fn say(notice: &Notice) {
    match notice {
        Notice::Unreadable { bucket, key, why } => {
            tracing::error!(?bucket, key, why, "A value in a bucket is not of this protocol; it is ignored");
        }
        Notice::Stranger { bucket, key, group } => {
            tracing::error!(
                ?bucket,
                key,
                group,
                "Another group writes to this bucket; it is ignored. Give each group buckets of its own"
            );
        }
        Notice::SourceFailed(why) => {
            tracing::error!(why, "The partitions cannot be listed; the last list stays in force")
        }
        Notice::StrategyFailed { lifecycle, why } => tracing::error!(
            lifecycle = lifecycle.as_str(),
            %why,
            "The strategy has not decided: what has an owner stays there, and the built-in strategy places what has none"
        ),
        Notice::StrategyRecovered => tracing::info!("The strategy decides again"),
        Notice::WorkerDead { worker, incarnation, evidence } => {
            tracing::warn!(workerId = %worker, %incarnation, evidence, "Worker is dead");
        }
        Notice::HeartbeatMissed { worker } => tracing::warn!(workerId = %worker, retries = 1, "Heartbeat missed"),
        Notice::WorkerJoined { worker } => tracing::info!(workerId = %worker, "Worker joined"),
        Notice::WorkerLeaving { worker } => tracing::info!(workerId = %worker, "Worker leaves"),
        Notice::LeaderSilent { worker, incarnation } => {
            tracing::warn!(leader = %worker, %incarnation, "The leader's process is gone; bidding for the lead before its lease expires");
        }
        Notice::Unopenable { partitions: 0, .. } => tracing::info!("Every partition's state can be opened again"),
        Notice::Unopenable { partitions, handlers } => tracing::error!(
            partitions,
            handlers = handlers.join(", "),
            "No live worker has a handler that opens the state of these partitions: they wait. Start a worker with the version that \
             wrote it, or give the state up: parti seek --discard-state"
        ),
        Notice::Unowned { partitions: 0 } => tracing::info!("Every partition has an owner again"),
        Notice::Unowned { partitions } => tracing::error!(
            partitions,
            "Partitions have no owner: every worker holds assignment.maxPartitions; add workers or raise it"
        ),
        Notice::Regression { key } => {
            tracing::warn!(
                key,
                code = "ErrAssignmentVersionMismatch",
                "An older plan or assignment was seen and refused"
            );
        }
    }
}

/// Tells the hooks of notices that are errors.
pub(super) fn tell(hooks: &Hooks, notice: &Notice) {
    match notice {
        Notice::Unreadable { bucket, key, why } => {
            hooks.error(ErrorCode::RecordUnreadable, format!("{key} in {bucket:?}: {why}"), None);
        }
        Notice::Stranger { bucket, group, .. } => {
            hooks.error(ErrorCode::AnotherGroup, format!("group {group:?} writes to {bucket:?}"), None);
        }
        Notice::SourceFailed(why) => hooks.error(ErrorCode::PartitionListInvalid, why, None),
        Notice::StrategyFailed { why, .. } => hooks.error(ErrorCode::StrategyFailed, why, None),
        Notice::Unopenable { partitions, .. } if *partitions > 0 => {
            let what = format!("no live worker has a handler that opens the state of {partitions} partitions");
            hooks.error(ErrorCode::PluginOpen, what, None);
        }
        Notice::Unowned { partitions } if *partitions > 0 => {
            hooks.error(ErrorCode::CapacityExceeded, format!("{partitions} partitions have no owner"), None);
        }
        Notice::Regression { key } => {
            hooks.error(ErrorCode::AssignmentVersionMismatch, format!("an older value of {key} was refused"), None);
        }
        Notice::WorkerDead { .. }
        | Notice::HeartbeatMissed { .. }
        | Notice::WorkerJoined { .. }
        | Notice::WorkerLeaving { .. }
        | Notice::LeaderSilent { .. }
        | Notice::StrategyRecovered
        | Notice::Unopenable { .. }
        | Notice::Unowned { .. } => {}
    }
}
