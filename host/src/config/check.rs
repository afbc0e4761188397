//! The report of `parti check`, as far as it goes without NATS.

use super::load::{Loaded, Missing};
use super::problem::Problem;
use crate::error::{ExitStatus, OperatorError};
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
    /// What else a worker would end with.
    pub errors: Vec<OperatorError>,
    /// The plugins that would be loaded.
    pub plugins: Vec<CheckedPlugin>,
}

/// A plugin that would be loaded.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedPlugin {
    /// Its name.
    pub name: String,
    /// `handler` or `hooks`.
    pub kind: String,
    /// What identifies this version.
    pub digest: String,
    /// Bytes of the component.
    pub size: u64,
}

/// The report on what was loaded.
#[must_use]
pub fn report(loaded: &Loaded) -> Report {
    Report {
        ok: loaded.problems.is_empty() && !loaded.missing.iter().any(|missing| missing.required),
        problems: loaded.problems.clone(),
        warnings: loaded.warnings.clone(),
        missing: loaded.missing.clone(),
        errors: Vec::new(),
        plugins: Vec::new(),
    }
}

impl Report {
    /// Notes what a worker would end with.
    pub fn add_error(&mut self, error: OperatorError) {
        self.ok = false;
        self.errors.push(error);
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
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for plugin in &self.plugins {
            writeln!(f, "plugin {} ({}): {}, {} bytes", plugin.name, plugin.kind, plugin.digest, plugin.size)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let required = self.missing.iter().filter(|missing| missing.required).count();
        match (self.problems.len() + self.errors.len() + required, self.warnings.len()) {
            (0, 0) => f.write_str("the configuration is valid"),
            (0, warnings) => write!(f, "the configuration is valid, with {}", count(warnings, "warning")),
            (errors, 0) => f.write_str(&count(errors, "error")),
            (errors, warnings) => write!(f, "{} and {}", count(errors, "error"), count(warnings, "warning")),
        }
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
