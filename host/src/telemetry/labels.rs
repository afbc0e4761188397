//! The labels whose values are known in advance. A handle for such a label takes the enum, never a text, so that a
//! misspelled value does not compile and the series is found by index instead of by hashing.

use parti_coordination::strategy::StrategyFailure;
use parti_coordination::{AlertLevel, WorkerState, record::Lifecycle};
use serde::Serialize;

/// The values of a label that has a closed set of them.
pub trait LabelValue: Copy + 'static {
    /// Every value, in the order of their indices.
    const ALL: &'static [Self];

    /// Place in [`LabelValue::ALL`].
    fn index(self) -> usize;

    /// As it appears on the metric.
    fn text(self) -> &'static str;
}

/// Names every variant twice, once for the list and once in a `match`: a variant that is added to the enum and not here
/// does not compile.
macro_rules! label_values {
    ($label:ty: $($variant:ident)*) => {
        impl LabelValue for $label {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn index(self) -> usize {
                match self {
                    $(Self::$variant)|* => self as usize,
                }
            }

            fn text(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

/// Declares an enum together with its texts.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),*
        }

        impl $name {
            /// The name, as in logs, `/status` and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),*
                }
            }
        }

        label_values!($name: $($variant)*);
    };
}

label! {
    /// What became of one delivery of a message.
    Verdict {
        /// Its effects are complete.
        Ack = "ack",
        /// It can never be handled.
        Reject = "reject",
        /// It is to be delivered again.
        Retry = "retry",
    }
}

label! {
    /// What was asked of a KV bucket.
    KvOperation {
        /// The value of one key, from the stream leader.
        Read = "read",
        /// A value for one key, most often by compare-and-set.
        Write = "write",
        /// The end of one key.
        Delete = "delete",
        /// Every key.
        List = "list",
    }
}

label! {
    /// How a KV operation ended.
    KvResult {
        /// As asked.
        Ok = "ok",
        /// The compare of a compare-and-set did not hold. Not an error.
        Lost = "lost",
        /// No answer in time, or an error: a write may or may not have landed.
        Unknown = "unknown",
    }
}

label! {
    /// How a call of a lifecycle hook ended.
    HookResult {
        /// It was taken.
        Ok = "ok",
        /// The plugin returned an error.
        Error = "error",
        /// It trapped, took too long or exceeded a limit; the plugin begins anew.
        Failed = "failed",
    }
}

label! {
    /// How a swap ended.
    SwapResult {
        /// The new version is in force.
        Kept = "kept",
        /// It failed on trial, and the version before goes on.
        TakenBack = "taken-back",
        /// Nothing was changed.
        Refused = "refused",
    }
}

label! {
    /// Why a strategy has not decided.
    StrategyFault {
        /// It returned an error, trapped, took too long or exceeded a limit.
        Failed = "failed",
        /// Its answer has come too late for those who waited.
        Late = "late",
        /// Its answer has another length than the question, or names a worker that does not exist.
        Wrong = "wrong",
    }
}

impl From<&StrategyFailure> for StrategyFault {
    fn from(why: &StrategyFailure) -> Self {
        match why {
            StrategyFailure::Failed(_) => Self::Failed,
            StrategyFailure::Late(_) => Self::Late,
            StrategyFailure::Length { .. } | StrategyFailure::Range { .. } => Self::Wrong,
        }
    }
}

label_values!(WorkerState: Init ClaimingId Election WaitingAssignment Stable Scaling Rebalancing Emergency Degraded Shutdown);
label_values!(AlertLevel: Info Warn Error Critical);
label_values!(Lifecycle: ColdStart PlannedScale Emergency Refresh Rebalance);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn assert_indexed<L: LabelValue>() {
        let indices: Vec<usize> = L::ALL.iter().map(|value| value.index()).collect();
        assert_eq!(indices, (0..L::ALL.len()).collect::<Vec<_>>());
        let texts: BTreeSet<&str> = L::ALL.iter().map(|value| value.text()).collect();
        assert_eq!(texts.len(), L::ALL.len(), "two values share a text");
    }

    #[test]
    fn every_label_value_has_its_own_index_and_text() {
        assert_indexed::<Verdict>();
        assert_indexed::<AlertLevel>();
        assert_indexed::<KvOperation>();
        assert_indexed::<HookResult>();
        assert_indexed::<StrategyFault>();
        assert_indexed::<KvResult>();
        assert_indexed::<WorkerState>();
        assert_indexed::<Lifecycle>();
    }
}
