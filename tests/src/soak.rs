//! Scenarios that take too long for every run.

use std::env;
use std::time::Duration;

/// Whether they run: where `PARTI_SOAK=1` is set, as `make soak` does.
#[must_use]
pub fn is_soak() -> bool {
    env::var_os("PARTI_SOAK").is_some_and(|value| value == "1")
}

/// How long random faults go on: `PARTI_SOAK_MINUTES`; nothing where it is not set.
#[must_use]
pub fn soak_minutes() -> Option<Duration> {
    number("PARTI_SOAK_MINUTES").map(|minutes| Duration::from_secs(60 * minutes))
}

/// The seed of random faults: `PARTI_SOAK_SEED`, else this one.
#[must_use]
pub fn soak_seed(default: u64) -> u64 {
    number("PARTI_SOAK_SEED").unwrap_or(default)
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable} is {value:?}: {error}")))
}
