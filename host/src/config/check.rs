//! What `parti check` says of a configuration by itself.

use super::load::{Loaded, Missing};
use super::problem::Problem;
use crate::error::ExitStatus;
use serde::Serialize;
use std::fmt;

/// What is wrong with a configuration, what is suspicious, and what is missing. Prints as text; serialises as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether a worker can run with the configuration.
    pub ok: bool,
    /// What must be corrected.
    pub problems: Vec<Problem>,
    /// What works and is probably not meant.
    pub warnings: Vec<Problem>,
    /// The sections that nobody wrote.
    pub missing: Vec<Missing>,
}

/// The report on what was loaded.
#[must_use]
pub fn report(loaded: &Loaded) -> Report {
    Report {
        ok: loaded.problems.is_empty() && !loaded.missing.iter().any(|missing| missing.required),
        problems: loaded.problems.clone(),
        warnings: loaded.warnings.clone(),
        missing: loaded.missing.clone(),
    }
}

impl Report {
    /// How many errors there are.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.len() + self.missing.iter().filter(|missing| missing.required).count()
    }

    /// What `parti check` returns: 0, or 2 if a worker cannot run with the configuration.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        if self.ok { ExitStatus::Ok } else { ExitStatus::Usage }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "error: {problem}")?;
        }
        for missing in &self.missing {
            let severity = if missing.required { "error" } else { "note" };
            writeln!(
                f,
                "{severity}: no `{}` section\n  why: {}\n  do:  {}",
                missing.section, missing.why, missing.todo
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
