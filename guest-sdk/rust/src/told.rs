//! What the host tells by a name: why something happens, and what state something is in.
//!
//! A host can learn to tell more than this version of the crate knows. The contract has a case for that, `other`, so that a plugin which
//! was built before still understands the rest.

use std::fmt;

use crate::bindings::hooks::exports::parti::plugin::hooks as of_hooks;
use crate::bindings::parti::plugin::types as of_handlers;
use crate::bindings::strategy::exports::parti::plugin::strategy as of_strategies;

/// An enum with the cases of a generated one, that later versions of this crate can add cases to.
macro_rules! told {
    ($(#[$about:meta])* $name:ident of $generated:ty { $($(#[$doc:meta])* $case:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $case,)+
            /// Something that the host tells and this version of the crate does not know, by the host's name for it.
            Other(String),
        }

        impl From<$generated> for $name {
            fn from(told: $generated) -> Self {
                type Told = $generated;
                match told {
                    $(Told::$case => Self::$case,)+
                    Told::Other(name) => Self::Other(name),
                }
            }
        }

        /// As the host writes it.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$case => $text,)+
                    Self::Other(name) => name,
                })
            }
        }
    };
}

told! {
    /// Why a handler is opened.
    OpenReason of of_handlers::OpenReason {
        /// The partition came to this worker by plan.
        Assigned = "assigned",
        /// After a trap, a timeout or a crash: state is that of the last commit.
        Recovered = "recovered",
        /// Another version of the plugin served the partition until now.
        Swapped = "swapped",
    }
}

told! {
    /// Why a handler ends.
    CloseReason of of_handlers::CloseReason {
        /// The partition moves to another worker.
        Revoked = "revoked",
        /// Another version of the plugin takes over.
        Swapped = "swapped",
        /// Another owner exists already: write nothing.
        Lost = "lost",
        /// The worker stops.
        Shutdown = "shutdown",
    }
}

told! {
    /// What a worker is doing, as in its log and in `/status`.
    WorkerState of of_hooks::WorkerState {
        /// It begins.
        Init = "Init",
        /// It looks for an ID that nobody has.
        ClaimingId = "ClaimingID",
        /// It finds out who leads.
        Election = "Election",
        /// It has not been given partitions yet.
        WaitingAssignment = "WaitingAssignment",
        /// It works.
        Stable = "Stable",
        /// It works, while workers come or go.
        Scaling = "Scaling",
        /// It works, while partitions move.
        Rebalancing = "Rebalancing",
        /// It works, while the partitions of a dead worker are taken over.
        Emergency = "Emergency",
        /// It works on without NATS.
        Degraded = "Degraded",
        /// It stops.
        Shutdown = "Shutdown",
    }
}

told! {
    /// How bad an outage of NATS has become.
    AlertLevel of of_hooks::AlertLevel {
        /// Worth knowing.
        Info = "Info",
        /// Worth a look.
        Warn = "Warn",
        /// Something is wrong.
        Error = "Error",
        /// Somebody should act now.
        Critical = "Critical",
    }
}

told! {
    /// Why a plan is made.
    Reason of of_strategies::Reason {
        /// There was no plan, or nobody who had a partition is there any more.
        ColdStart = "cold_start",
        /// Workers joined, or one leaves.
        PlannedScale = "planned_scale",
        /// A worker is dead.
        Emergency = "emergency",
        /// Partitions were added or removed.
        Refresh = "refresh",
        /// Weights have changed, the load is uneven, or an earlier plan was not this strategy's.
        Rebalance = "rebalance",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_host_tells_has_its_name() {
        let told = OpenReason::from(of_handlers::OpenReason::Other("rewound".into()));
        assert_eq!((told.to_string().as_str(), &told), ("rewound", &OpenReason::Other("rewound".into())));
        let told = AlertLevel::from(of_hooks::AlertLevel::Critical);
        assert_eq!((told.to_string().as_str(), &told), ("Critical", &AlertLevel::Critical));
    }
}
