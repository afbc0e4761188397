//! Replaces the handler while the fleet works: another build of the same component, copied over the one that runs.

use super::setup::Plugin;
use crate::cli::child::failed;
use crate::error::OperatorError;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// A custom section at the end of a component: its identifier, its size, and a name of one byte with that byte. It changes the digest and
/// nothing else, like another build of the same source.
const OTHER_BUILD: [u8; 4] = [0, 2, 1, b'2'];

/// The replacement of the handler.
#[derive(Debug)]
pub(super) struct Changeover {
    copied: Instant,
    finished: Option<Instant>,
}

impl Changeover {
    /// Puts the component into a directory of its own, so that what is replaced is a copy. Returns the copy.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn prepare(plugin: &Plugin, directory: &Path) -> Result<Plugin, OperatorError> {
        let directory = directory.join("plugins");
        let copy = || {
            fs::create_dir(&directory)?;
            fs::copy(file(plugin), directory.join(format!("{}.wasm", plugin.name)))
        };
        copy().map_err(|error| {
            failed(
                format!("{} cannot be copied", file(plugin).display()),
                error.to_string(),
                "free some space in TMPDIR",
            )
        })?;
        Ok(Plugin { name: plugin.name.clone(), directory })
    }

    /// Copies another build over the component.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn begin(plugin: &Plugin) -> Result<Self, OperatorError> {
        let (file, new) = (file(plugin), plugin.directory.join(".new"));
        let replace = || {
            let mut bytes = fs::read(&file)?;
            bytes.extend(OTHER_BUILD);
            fs::write(&new, bytes)?;
            fs::rename(&new, &file)
        };
        replace().map_err(|error| {
            failed(format!("{} cannot be replaced", file.display()), error.to_string(), "free some space in TMPDIR")
        })?;
        Ok(Self { copied: Instant::now(), finished: None })
    }

    /// Takes in whether every worker runs the new build. True at the moment at which that is so.
    pub(super) fn observe(&mut self, everywhere: bool) -> bool {
        let is_news = everywhere && self.finished.is_none();
        if is_news {
            self.finished = Some(Instant::now());
        }
        is_news
    }

    /// When every worker ran the new build, if they do.
    pub(super) fn finished(&self) -> Option<Instant> {
        self.finished
    }

    /// From the copy until every worker ran it.
    pub(super) fn duration(&self) -> Option<Duration> {
        Some(self.finished?.duration_since(self.copied))
    }
}

fn file(plugin: &Plugin) -> PathBuf {
    plugin.directory.join(format!("{}.wasm", plugin.name))
}
