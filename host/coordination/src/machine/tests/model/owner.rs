//! What a worker does with one partition.

use super::state::{Record, Run, Write, then};

/// The machine as it is built, or broken to show that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsBuilt,
    /// A commit overwrites whatever is there.
    CommitsBlindly,
    /// A commit writes the position, and the state only with the next.
    StateAfterPosition,
    /// A fresh instance begins with the committed state, and goes on where the lost one was.
    NoWayBack,
    /// Who was given a partition back, or has missed a plan, trusts that it still owns it.
    NeverLooksAgain,
    /// A write whose fate is unknown is sent again, whoever is there by now.
    SentAgainBlindly,
    /// Who takes a partition goes on at its position with an empty state.
    PositionAlone,
    /// A live owner is overruled as often as one likes.
    WaitsForNobody,
}

/// A write on its way to certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Sent(Write),
    /// No answer, or a lost compare: the record is to be read.
    Unknown(Write),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Part {
    #[default]
    Idle,
    /// For its record, or for the write by which it is taken.
    Waiting,
    Holding {
        /// The record as it last landed by our hand.
        ours: Record,
        handled: u8,
        /// What the handler has applied, see [`Record::state`].
        applied: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Job {
    pub(super) part: Part,
    pub(super) step: Option<Step>,
    /// The plan gives it to somebody else.
    pub(super) revoked: bool,
    /// Somebody else may own it by now.
    pub(super) doubts: bool,
}

impl Job {
    pub(super) fn take(&mut self, partition: u8, me: Run, found: Option<Record>) {
        let record = match found {
            Some(found) => Record { epoch: found.epoch + 1, owner: me, released: false, ..found },
            None => Record { revision: 0, epoch: 1, owner: me, released: false, position: 0, state: 0 },
        };
        let expect = Some(found.map_or(0, |found| found.revision));
        self.step = Some(Step::Sent(Write { partition, record, expect }));
    }

    pub(super) fn handle(&mut self) {
        if let Part::Holding { handled, applied, .. } = &mut self.part {
            *handled += 1;
            *applied = then(*applied, *handled);
        }
    }

    /// The instance is lost: back to the last commit.
    pub(super) fn trap(&mut self, variant: Variant) {
        if let Part::Holding { ours, handled, applied } = &mut self.part {
            *applied = ours.state;
            if variant != Variant::NoWayBack {
                *handled = ours.position;
            }
        }
    }

    /// Somebody has released the partition, in this record.
    pub(super) fn doubt(&mut self, released: Record, variant: Variant) {
        if let Part::Holding { ours, .. } = self.part {
            let is_ours = (ours.owner, ours.epoch) == (released.owner, released.epoch);
            self.doubts |= !is_ours && variant != Variant::NeverLooksAgain;
        }
    }

    /// Commits what is handled, and releases it in the same write or goes on.
    pub(super) fn write(&mut self, partition: u8, released: bool, variant: Variant) {
        let Part::Holding { ours, handled, applied } = self.part else { return };
        let apart = variant == Variant::StateAfterPosition && handled > ours.position;
        let state = if apart { ours.state } else { applied };
        let record = Record { released, position: handled, state, ..ours };
        let expect = Some(ours.revision).filter(|_| variant != Variant::CommitsBlindly);
        self.step = Some(Step::Sent(Write { partition, record, expect }));
        // What was looked for is found out by the compare.
        self.doubts = false;
    }

    /// Our write is there.
    pub(super) fn landed(&mut self, record: Record, variant: Variant) {
        self.step = None;
        self.part = match self.part {
            _ if record.released => Part::Idle,
            Part::Holding { handled, applied, .. } => {
                // An instance that was lost meanwhile has gone back to what is committed now.
                let (handled, applied) =
                    if handled < record.position { (record.position, record.state) } else { (handled, applied) };
                Part::Holding { ours: record, handled, applied }
            }
            _ => {
                let applied = if variant == Variant::PositionAlone { 0 } else { record.state };
                Part::Holding { ours: record, handled: record.position, applied }
            }
        };
    }

    /// The record as read after a write whose fate is unknown.
    pub(super) fn resolve(&mut self, found: Option<Record>, variant: Variant) {
        let Some(Step::Unknown(write)) = self.step.take() else { return };
        let same = |found: Record| Record { revision: write.record.revision, ..found } == write.record;
        match (found, self.part) {
            (Some(found), _) if same(found) => self.landed(found, variant),
            // It is judged again.
            (_, Part::Waiting) => {}
            (Some(found), _)
                if (found.owner, found.epoch) == (write.record.owner, write.record.epoch)
                    || variant == Variant::SentAgainBlindly =>
            {
                self.step = Some(Step::Sent(Write { expect: write.expect.map(|_| found.revision), ..write }));
            }
            _ => *self = Self { revoked: self.revoked, ..Self::default() },
        }
    }

    /// The record as read to see whether it is still ours.
    pub(super) fn confirm(&mut self, found: Option<Record>) {
        let Part::Holding { ours, .. } = self.part else { return };
        self.doubts = false;
        if found.is_none_or(|found| (found.owner, found.epoch) != (ours.owner, ours.epoch)) {
            *self = Self { revoked: self.revoked, ..Self::default() };
        }
    }
}
