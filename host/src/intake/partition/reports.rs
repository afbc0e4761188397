//! What a partition's machine reports, told to those whom it concerns: logs, metrics, hooks, and who reads for it.

use super::super::feed::Wish;
use super::super::shared::TaskEvent;
use super::PartitionTask;
use crate::error::ErrorCode;
use parti_coordination::{OnExhausted, Position, Report};

impl PartitionTask {
    /// What is at or below a committed position may be acknowledged.
    fn is_committed(&self, position: Position) {
        if self.shared.acknowledges {
            let _ = self.shared.wishes.send(Wish::Committed { subject: self.subject.clone(), position });
        }
    }

    pub(super) fn tell_hooks(&self, code: ErrorCode, what: &str) {
        self.shared.hooks.error(code, what, Some(self.partition.id()));
    }

    pub(super) fn report(&self, report: Report) {
        let (metrics, epoch) = (&self.shared.metrics, self.epoch);
        match report {
            Report::Taken { epoch, position, seized } => {
                tracing::debug!(%epoch, %position, seized, "Partition taken");
                self.is_committed(position);
            }
            Report::Committed { position, lag } => {
                tracing::trace!(%epoch, %position, ?lag, "Committed");
                self.is_committed(position);
            }
            Report::FencedOff => {
                metrics.commits_fenced.inc();
                self.tell_hooks(ErrorCode::CommitFenced, "another worker owns the partition now");
                tracing::warn!(%epoch, "Another worker owns the partition now; what was not committed is handled there");
            }
            Report::WrittenBack { epoch, position } => {
                tracing::warn!(%epoch, %position, "The ownership bucket has lost this partition's record; written back from memory");
            }
            Report::RecordLost => {
                metrics.records_lost.inc();
                let error = ErrorCode::RecordLost.error(
                    "the ownership record of this partition is gone, and nobody has it in memory",
                    "its bucket was deleted or set back, and the partition's owner has died; position and state are lost",
                    "the stream is handled from its start, so that nothing is passed over; move the partition with parti seek",
                );
                tracing::error!(code = %error.code, "{error}");
            }
            Report::Moved { position, generation } => {
                tracing::warn!(%epoch, %position, %generation, "The partition was moved by hand; beginning again from there");
            }
            Report::Superseded(by) => {
                let _ = self.shared.events.send(TaskEvent::Superseded(by));
            }
            Report::Unreadable(why) => {
                tracing::error!(why, "The ownership record cannot be used; the partition waits");
                self.tell_hooks(ErrorCode::RecordUnreadable, &why);
            }
            Report::CannotOpen { handler, why } => {
                tracing::error!(
                    %epoch, handler, why,
                    "The handler cannot open the state that another version of it has written; the partition is for a worker with that version"
                );
                self.tell_hooks(ErrorCode::PluginOpen, &why);
            }
            Report::Swapped { to, pause } => {
                metrics.swap_pause.observe(pause.as_secs_f64());
                tracing::debug!(%epoch, version = %to, ?pause, "Another version of the handler goes on");
                let _ = self.shared.events.send(TaskEvent::Swapped { of: self.of, to, pause });
            }
            Report::SwapFailed { to, why } => {
                tracing::error!(%epoch, version = %to, why, "A version of the handler does not open; the one before goes on");
                let partition = self.partition.id().clone();
                let _ = self.shared.events.send(TaskEvent::SwapFailed { of: self.of, partition, to, why });
            }
            Report::SwappedBack { from } => {
                tracing::debug!(%epoch, version = %from, "The version of the handler before goes on, from its last commit");
            }
            Report::OpenFailed(why) => {
                tracing::error!(why, "The handler did not open; the partition waits");
                self.tell_hooks(ErrorCode::PluginOpen, &why);
                let partition = self.partition.id().clone();
                let _ = self.shared.events.send(TaskEvent::NotOpened { of: self.of, partition, why });
            }
            Report::StateUnavailable(why) => {
                tracing::error!(why, "The partition's state cannot be had; the partition waits");
                self.tell_hooks(ErrorCode::PluginOpen, &why);
            }
            Report::Trapped { sequence, messages, why } => {
                tracing::error!(%epoch, %sequence, messages, why, "The handler failed; back to the last commit");
            }
            Report::SnapshotFailed(why) => {
                tracing::error!(%epoch, why, "The handler gave no snapshot");
                self.tell_hooks(ErrorCode::PluginSnapshot, &why);
            }
            Report::SnapshotNotStored(why) => {
                tracing::error!(%epoch, why, "The snapshot is not stored; nothing is committed until it is");
                self.tell_hooks(ErrorCode::PluginSnapshot, &why);
            }
            Report::Suspicious { seizes } => tracing::warn!(
                %epoch, seizes,
                "The owners of this partition have died one after the other; the next messages are handled one by one, each written down before"
            ),
            Report::Retrying { sequence, attempts } => tracing::debug!(%sequence, attempts, "The message is retried"),
            Report::Exhausted { sequence, reason } => {
                tracing::warn!(%epoch, %sequence, reason, "The message cannot be handled");
                if self.handling.limits.on_exhausted == OnExhausted::Drop {
                    self.tell_hooks(ErrorCode::MessageExhausted, &format!("message {sequence} is dropped: {reason}"));
                }
            }
            Report::Blocked { sequence, reason } => {
                tracing::error!(%epoch, %sequence, reason, "The message blocks its partition");
                self.tell_hooks(
                    ErrorCode::MessageExhausted,
                    &format!("message {sequence} blocks its partition: {reason}"),
                );
            }
            Report::Unconfirmed(why) => {
                metrics.publishes_retried.inc();
                tracing::warn!(%epoch, why, "Output is not confirmed; it is repeated");
                self.tell_hooks(ErrorCode::PublishFailed, &why);
            }
            Report::Parked { reader } => {
                tracing::debug!("More messages than may wait; they are read again later");
                let bytes = self.machine.queued_bytes();
                let _ = self.shared.wishes.send(Wish::Parked { subject: self.subject.clone(), reader, bytes });
            }
            Report::StartedOver { generation, before, position } => {
                tracing::warn!(%generation, %before, %position, "The stream is not what it was; the partition goes on from here");
            }
        }
    }
}
