//! The catalogue of errors that operators meet.
//!
//! Each one is declared once, here: its name (the guides' name where they have one), its stable code, the exit status
//! of a command that ends with it, and what it means. Modules keep error types of their own; where an error leaves the
//! program, or reaches an `on-error` hook, it becomes an [`OperatorError`] with a code from this catalogue.
//! `docs/errors.md` is generated from it.

use serde::Serialize;
use std::fmt::{self, Write as _};
use std::process::ExitCode;

/// How a command of `parti` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Ok = 0,
    /// Tried and failed.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// NATS cannot be reached.
    Unreachable = 3,
    /// Every worker ID in the range is held.
    IdsExhausted = 4,
}

impl ExitStatus {
    /// The number that the process returns.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status.number())
    }
}

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $exit:ident;)+) => {
        /// One kind of error. Names and codes are stable: alert rules and hooks may rely on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the catalogue.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),+];

            /// The name, such as `ErrInvalidConfig`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)+ }
            }

            /// What a command that ends with this error returns.
            #[must_use]
            pub fn exit_status(self) -> ExitStatus {
                match self { $(ErrorCode::$variant => ExitStatus::$exit,)+ }
            }

            /// What the error means and what usually helps.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(ErrorCode::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

catalogue! {
    /// The configuration has errors. `parti check` lists all of them, with what to do about each.
    InvalidConfig = 1001, "ErrInvalidConfig", Usage;
    /// No NATS server is configured. Set `nats.url` or `NATS_URL`.
    NatsConnectionRequired = 1002, "ErrNATSConnectionRequired", Usage;
    /// No partition source is configured. Add a `source` section.
    PartitionSourceRequired = 1003, "ErrPartitionSourceRequired", Usage;
    /// The configured assignment strategy does not exist. Name one in `strategy`, or leave it out for `consistentHash`.
    AssignmentStrategyRequired = 1004, "ErrAssignmentStrategyRequired", Usage;

    /// No NATS server answered. Check `nats.url`, the network, and that a server runs.
    NatsUnreachable = 1101, "ErrNATSUnreachable", Unreachable;
    /// NATS answered and refused the login. Check the credentials under `nats`.
    NatsUnauthorized = 1102, "ErrNATSUnauthorized", Unreachable;
    /// The connection to NATS is gone. The worker keeps its partitions and reconnects by itself.
    NatsConnectionLost = 1103, "ErrNATSConnectionLost", Unreachable;
    /// The server is older than NATS 2.10. Upgrade it.
    NatsTooOld = 1104, "ErrNATSTooOld", Failed;
    /// The account has no JetStream. Enable it on the server (`jetstream {}`) and for the account.
    JetStreamDisabled = 1105, "ErrJetStreamDisabled", Failed;
    /// The NATS user may not do what a worker must do. Grant what [operating.md](operating.md#permissions-of-the-nats-user) lists.
    NatsPermission = 1106, "ErrNATSPermission", Failed;
    /// The stream does not exist. Create it, correct `stream.name`, or let `stream.create` make one.
    StreamNotFound = 1107, "ErrStreamNotFound", Failed;
    /// The stream's retention does not fit `stream.mode`. Use `auto`, or the mode that the message names.
    StreamMode = 1108, "ErrStreamMode", Failed;
    /// A KV bucket exists with other settings than the configuration asks for. Align them, or delete the bucket while
    /// no worker runs.
    BucketSettings = 1109, "ErrBucketSettings", Failed;
    /// The stream was deleted and created again. Its partitions start over at its beginning.
    StreamRecreated = 1110, "ErrStreamRecreated", Failed;
    /// The stream lost messages at its end. Its partitions continue with what survives.
    StreamRewound = 1111, "ErrStreamRewound", Failed;
    /// The stream's limits removed messages before they were handled. Raise the limits or add workers.
    MessagesExpired = 1112, "ErrMessagesExpired", Failed;

    /// The address of `http.listen` cannot be listened on. Choose another, or stop who listens there.
    HttpListen = 1113, "ErrHTTPListen", Failed;
    /// The worker lacks something that every machine has. Report it as a bug if the message does not help.
    Internal = 1114, "ErrInternal", Failed;
    /// A KV bucket cannot be opened or created. The message says what the server answers.
    BucketUnavailable = 1115, "ErrBucketUnavailable", Failed;
    /// The stream has no durable consumer of the name in `stream.startFrom`. Correct it; nothing was started.
    StartConsumerNotFound = 1116, "ErrStartConsumerNotFound", Usage;

    /// The ownership record of a partition was lost with its bucket, and no worker has it in memory. The partition is handled from the
    /// start of the stream, without its state. Restore a backup of the bucket while no worker runs, or use `parti seek`.
    RecordLost = 1117, "ErrRecordLost", Failed;

    /// Every worker ID in the range is held. Raise `workerIdMax`, or stop a worker.
    StableIdExhausted = 1201, "ErrStableIDExhausted", IdsExhausted;
    /// Another process holds this worker's ID now. The worker stops what it did under the ID and claims one afresh.
    StableIdLost = 1202, "ErrStableIDLost", Failed;
    /// The leader election failed. It is tried again; partitions stay where they are meanwhile.
    ElectionFailed = 1203, "ErrElectionFailed", Failed;
    /// The worker was not ready within `startupTimeout`. The message names the phase and what it waited for.
    StartupTimeout = 1204, "ErrStartupTimeout", Failed;
    /// An assignment is older than one seen before. It is refused; the leader publishes a newer one.
    AssignmentVersionMismatch = 1205, "ErrAssignmentVersionMismatch", Failed;
    /// The worker did not finish within `shutdownTimeout`. What was not committed is handled again elsewhere.
    ShutdownTimeout = 1206, "ErrShutdownTimeout", Failed;
    /// The source's list of partitions cannot be used. The last good list stays in force.
    PartitionListInvalid = 1207, "ErrPartitionListInvalid", Failed;
    /// The strategy plugin has not decided: it failed, was late, or its answer cannot be used. What has an owner stays there, the
    /// built-in strategy places what has none, and the plugin is asked again.
    StrategyFailed = 1208, "ErrStrategyFailed", Failed;
    /// Every worker is at `assignment.maxPartitions` and partitions are left over. Add workers or raise the limit.
    CapacityExceeded = 1209, "ErrCapacityExceeded", Failed;
    /// The buckets belong to another group. Give each group buckets of its own.
    AnotherGroup = 1210, "ErrAnotherGroup", Usage;
    /// A value in a bucket is not of this protocol. It is ignored; a partition whose record it is waits.
    RecordUnreadable = 1211, "ErrRecordUnreadable", Failed;

    /// No plugin of this name is in the plugin directory. Check the name and `plugins.directory`.
    PluginNotFound = 1301, "ErrPluginNotFound", Usage;
    /// The file is no component that this host can run. The message lists what it exports and what it lacks.
    PluginInvalid = 1302, "ErrPluginInvalid", Usage;
    /// The plugin exceeded one of its limits. The message names the limit, its value and its configuration key.
    PluginLimit = 1303, "ErrPluginLimit", Failed;
    /// The plugin trapped. Its partition goes back to its last commit and continues in a fresh instance.
    PluginTrap = 1304, "ErrPluginTrap", Failed;
    /// A call into the plugin took longer than its `callTimeout`.
    PluginTimeout = 1305, "ErrPluginTimeout", Failed;
    /// The handler refused to open a partition. The partition is held and tried again; nothing is skipped. Where another version
    /// of the handler has written the state, it goes to a worker with that version; if there is none, it waits for one.
    PluginOpen = 1306, "ErrPluginOpen", Failed;
    /// The handler gave no snapshot, or one above `handler.maxSnapshotBytes`. The partition goes on uncommitted up to
    /// `handler.maxUncommitted`, then it waits; with one that is too large it waits at once.
    PluginSnapshot = 1307, "ErrPluginSnapshot", Failed;
    /// Another version of a plugin was not taken, or was taken back from its trial. The version before goes on, and this one is not
    /// tried again before its file or its settings change.
    PluginSwap = 1308, "ErrPluginSwap", Failed;

    /// The handler keeps failing and is fed no more (`handler.quarantine`). Its messages stay in the stream; one partition tries from time to
    /// time. Correct the plugin and copy or push it, or go back with `parti plugin rollback`.
    PluginQuarantined = 1309, "ErrPluginQuarantined", Failed;

    /// Another worker owns the partition now. What this worker did since its last commit is handled again there.
    CommitFenced = 1401, "ErrCommitFenced", Failed;
    /// A message failed `handler.maxAttempts` times and there is no dead-letter subject. Its partition waits (`block`)
    /// or goes on without it (`drop`).
    MessageExhausted = 1402, "ErrMessageExhausted", Failed;
    /// No stream captures `handler.deadLetter.subject`, so dead letters would be lost. Create one.
    DeadLetterUncaptured = 1403, "ErrDeadLetterUncaptured", Failed;
    /// A message that the handler published is not confirmed by any stream. It is published again until it is.
    PublishFailed = 1404, "ErrPublishFailed", Failed;

    /// No entry of `handler` matches the keys of a partition. Its messages wait in the stream until a worker has a handler for it: add an
    /// entry, and start the workers anew.
    PartitionUnmatched = 1405, "ErrPartitionUnmatched", Failed;

    /// There is no fleet of this group: its buckets are not there. Check `nats.url` and `group`, or start a worker.
    FleetNotFound = 1601, "ErrFleetNotFound", Failed;
    /// No plan and no record has a partition of this name. `parti partitions` lists all.
    PartitionUnknown = 1602, "ErrPartitionUnknown", Usage;
    /// What the command would do must be confirmed, at a terminal or with `--yes`. Nothing was changed.
    ConfirmationRequired = 1603, "ErrConfirmationRequired", Usage;
    /// An argument of a command for operators cannot be used. Nothing was changed.
    OperatorUsage = 1604, "ErrOperatorUsage", Usage;
    /// What the command would change does not allow it, or others were faster. The message says what was found.
    OperatorRefused = 1605, "ErrOperatorRefused", Failed;
    /// Some of the dead letters were not replayed. Each is listed with the reason; all of them are still there.
    ReplayIncomplete = 1606, "ErrReplayIncomplete", Failed;

    /// The test of a plugin has failed. What failed is listed before this error.
    PluginTestFailed = 1607, "ErrPluginTestFailed", Failed;

    /// The arguments or the input of `parti dev` or `parti bench` cannot be used. Nothing was started.
    DevUsage = 1501, "ErrDevUsage", Usage;
    /// `parti dev` or `parti bench` could not start or keep its NATS server, its workers or its producer. Its logs are kept.
    DevFailed = 1502, "ErrDevFailed", Failed;
    /// `parti dev` found messages that were lost, handled twice or out of order. Its logs are kept.
    DevVerification = 1503, "ErrDevVerification", Failed;
}

impl ErrorCode {
    /// The code, such as `PARTI-1001`.
    #[must_use]
    pub fn code(self) -> String {
        format!("PARTI-{}", self as u16)
    }

    /// An error of this kind. What happened, why, and what to do: one line each, without a full stop.
    #[must_use]
    pub fn error(self, what: impl Into<String>, why: impl Into<String>, todo: impl Into<String>) -> OperatorError {
        OperatorError { code: self, what: what.into(), why: why.into(), todo: todo.into() }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.code())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.code())
    }
}

/// An error as an operator reads it. `Display` prints three lines: what (with name and code), why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorError {
    /// Which kind of error.
    pub code: ErrorCode,
    /// What happened.
    pub what: String,
    /// Why it happened. Several lines where there are several causes.
    pub why: String,
    /// What to do about it.
    pub todo: String,
}

impl fmt::Display for OperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.what, self.code)?;
        writeln!(f, "  why: {}", self.why)?;
        write!(f, "  do:  {}", self.todo)
    }
}

impl std::error::Error for OperatorError {}

/// The page `docs/errors.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Every error that an operator meets has a name, a code and, when it ends a command, an exit status. Names and\n\
         codes are stable. `on-error` hooks get the code.\n\n\
         This page is generated from `host/src/error.rs`. After a change there, write it anew with\n\
         `PARTI_UPDATE_DOCS=1 cargo test --release -p parti --lib error::`.\n\n\
         Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 NATS cannot be reached,\n\
         4 worker IDs exhausted.\n\n\
         | code | name | exit | meaning |\n| --- | --- | --- | --- |\n",
    );
    for code in ErrorCode::ALL {
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            code.code(),
            code.name(),
            code.exit_status().number(),
            code.help()
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_errors_page_is_current() {
        crate::config::reference::assert_page_is_current("errors.md", &reference());
    }

    #[test]
    fn no_two_errors_share_a_name() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("Err")));
    }

    #[test]
    fn an_error_is_three_lines_what_why_and_what_to_do() {
        let error = ErrorCode::StableIdExhausted.error(
            "all stable IDs in range are claimed",
            "worker-0 to worker-2 are held",
            "raise workerIdMax",
        );
        assert_eq!(
            error.to_string(),
            "all stable IDs in range are claimed (ErrStableIDExhausted PARTI-1201)\n  why: worker-0 to worker-2 are \
             held\n  do:  raise workerIdMax"
        );
        assert_eq!(error.code.exit_status().number(), 4);
    }
}
