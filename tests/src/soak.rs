//! Scenarios that take too long for every run.

/// Whether they run: where `PARTI_SOAK=1` is set, as `make soak` does.
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os("PARTI_SOAK").is_some_and(|value| value == "1")
}
