//! Whether a partition may be taken: what its record says, read against the plan in force.

use crate::record::{OwnershipRecord, Phase};
use crate::{Fleet, Incarnation, WorkerId};

/// What a record means for a worker that is assigned the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeDecision {
    /// Nobody has ever owned it: create the record, epoch 1.
    Create,
    /// Somebody has owned it, and its record is gone: its owner is to write it back.
    Missing,
    /// It is free, or ours: take it, epoch + 1.
    Take,
    /// Its owner is dead, or an older run of ourselves: seize it, epoch + 1.
    Seize,
    /// Its owner lives: wait for the release.
    Wait,
    /// A later run of our own ID owns it: we are the zombie.
    Superseded,
}

/// Decides what to do about a partition that this worker is assigned, and of which it is known whether it ever had a record.
#[must_use]
pub fn decide_take(
    record: Option<&OwnershipRecord>,
    has_begun: bool,
    me: (&WorkerId, Incarnation),
    fleet: &Fleet,
) -> TakeDecision {
    let Some(record) = record else {
        return if has_begun { TakeDecision::Missing } else { TakeDecision::Create };
    };
    let owner = &record.owner;
    if owner.worker == *me.0 && owner.incarnation.claim > me.1.claim {
        return TakeDecision::Superseded;
    }
    if record.phase == Phase::Released {
        return TakeDecision::Take;
    }
    if owner.worker == *me.0 {
        return if owner.incarnation == me.1 { TakeDecision::Take } else { TakeDecision::Seize };
    }
    if fleet.is_dead(&owner.worker, &owner.incarnation) { TakeDecision::Seize } else { TakeDecision::Wait }
}
