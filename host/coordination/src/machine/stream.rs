//! The stream's side of a partition: which stream it is, and what becomes of positions when it is not what it was.
//!
//! A position means something in one stream only. A stream that was deleted and made again counts from 1; one that was set
//! back, from a backup or by a server that lost its disk, gives numbers a second time. Either begins a new history: the
//! generation is raised, so that message IDs do not repeat, and the position is set to the last message that is still the one
//! that was handled. What was published after that, before anybody looked, has sequences that were handled too: it is read.

use super::{Command, PartitionMachine, Phase, Report};
use crate::record::{OwnershipRecord, StreamIdentity};
use crate::{Now, Position, Sequence};

impl<M: Clone, O: Clone> PartitionMachine<M, O> {
    /// The stream was made anew.
    pub(super) fn stream_is(&mut self, stream: StreamIdentity) {
        if stream == self.stream {
            return;
        }
        if self.holds_work() {
            // What was handled of the stream before has taken effect: it is committed before the partition goes on.
            self.next_stream = Some(stream);
            self.starts_over = true;
        } else {
            self.change_stream(stream);
        }
    }

    pub(super) fn change_stream(&mut self, stream: StreamIdentity) {
        if stream != self.stream {
            self.stream = stream;
            // Whatever was to be left out belongs to the stream before.
            self.start = Position(0);
        }
    }

    /// The stream was set back.
    pub(super) fn stream_rewound(&mut self, last: Sequence) {
        let Some((record, _)) = &self.record else { return };
        if self.mark > last || record.position > Position::from(last) {
            self.rewound = Some((last, record.epoch));
            self.starts_over = true;
        } else {
            // It stands in what is left, but its reader had seen more.
            self.seen = self.seen.filter(|seen| seen.sequence <= last);
        }
    }

    pub(super) fn stream_checked(&mut self, stream: Result<StreamIdentity, ()>) {
        let Some(asked) = self.checking.take() else { return };
        match stream {
            Ok(stream) => {
                self.former_stream = (stream != asked).then_some(asked);
                if self.phase == Phase::Waiting {
                    self.change_stream(stream);
                }
                self.judge_again_at(self.now);
            }
            Err(()) => self.judge_again_at(self.now + self.limits.poll_interval),
        }
    }

    /// Unless the partition is being taken meanwhile: a read in the middle of a write would answer for it.
    fn judge_again_at(&mut self, at: Now) {
        if self.phase == Phase::Waiting && self.writing.is_none() {
            self.read_at = Some(at);
        }
    }

    /// Whether a record tells of another stream than we know, and it is not known yet which of them is of today. A worker that
    /// has missed that the stream was made anew must not set back the record of one that has not.
    pub(super) fn is_of_unknown_stream(&mut self, record: Option<&OwnershipRecord>) -> bool {
        let Some(record) = record.filter(|r| r.stream != self.stream && self.former_stream.as_ref() != Some(&r.stream))
        else {
            return false;
        };
        if self.checking.is_none() {
            self.checking = Some(record.stream.clone());
            self.command(Command::CheckStream);
        }
        true
    }

    /// Brings a record that is about to be taken in line with the stream that there is.
    pub(super) fn start_history(&mut self, record: &mut OwnershipRecord) {
        let before = record.position;
        if record.stream != self.stream {
            record.stream = self.stream.clone();
            record.position = Position(0);
        } else if let Some((last, _)) = self
            .rewound
            // Whoever owned it in between has looked for himself.
            .filter(|(last, epoch)| record.epoch == *epoch && record.position > Position::from(*last))
        {
            record.position = last.into();
        } else {
            return;
        }
        record.generation = record.generation.next();
        record.seen = None;
        record.attempts = None;
        (record.seizes, record.alone) = (0, None);
        let (generation, position) = (record.generation, record.position);
        self.report(Report::StartedOver { generation, before, position });
    }

    fn holds_work(&self) -> bool {
        matches!(self.phase, Phase::Taking | Phase::Opening | Phase::Running | Phase::Releasing)
    }
}
