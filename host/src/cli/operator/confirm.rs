//! Asking before something is changed.

use crate::error::{ErrorCode, OperatorError};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Asks at the terminal, unless the answer is given. Where nobody can answer, that is an error: what was shown is a dry run.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), OperatorError> {
    if yes {
        return Ok(());
    }
    let refused = |what: &str, why: &str, todo: &str| Err(ErrorCode::ConfirmationRequired.error(what, why, todo));
    if !std::io::stdin().is_terminal() {
        return refused(
            "nothing was changed",
            "this must be confirmed, and the input is no terminal",
            "look at what it would do, then repeat it with --yes",
        );
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    refused("nothing was changed", "it was not confirmed", "answer y, or give --yes")
}
