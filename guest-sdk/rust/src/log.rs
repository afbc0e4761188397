//! Lines for the operator, in the host's log: the host adds plugin, version and partition.
//!
//! The host limits lines per second and bytes per line, and drops and counts what exceeds them: say what changed, not
//! what happens with every message. A panic is logged as an error by itself.
//!
//! ```
//! use parti_guest::log;
//!
//! let order = 17;
//! log::info!("order {order} is complete");
//! log::warn!("{} of {} readings are missing", 3, 60);
//! ```

pub use crate::bindings::parti::plugin::log::Level;
use crate::host;

#[doc(inline)]
pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace, __log_warn as warn,
};

/// Writes one line at a level that is known only at run time; otherwise use the macro of that level.
pub fn write(level: Level, message: &str) {
    host::log(level, message);
}

/// Writes one line at the level `trace`, with the arguments of `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Trace, &::std::format!($($argument)+)) };
}

/// Writes one line at the level `debug`, with the arguments of `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($argument)+)) };
}

/// Writes one line at the level `info`, with the arguments of `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($argument)+)) };
}

/// Writes one line at the level `warn`, with the arguments of `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($argument)+)) };
}

/// Writes one line at the level `error`, with the arguments of `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($argument)+)) };
}
