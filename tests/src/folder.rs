//! A folder for what a test's processes write.

use std::path::Path;
use tempfile::TempDir;

/// Gone with its owner, unless the test has failed: then it stays, and the test says where.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("--- whole logs are in {} ---", self.path().display());
        }
    }
}
