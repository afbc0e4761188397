//! `parti` as a command that ends by itself.

use crate::artifacts::parti_binary;
use crate::process::Process;
use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; nothing if a signal ended it.
    pub status: Option<i32>,
    /// What it printed, to standard output and error together.
    pub output: String,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// Panics unless it ended with this status and said each of these.
    #[track_caller]
    pub fn assert(&self, status: i32, said: &[&str]) {
        assert_eq!(self.status, Some(status), "exit status; it said:\n{}", self.output);
        for text in said {
            assert!(self.output.contains(text), "it does not say {text:?} but:\n{}", self.output);
        }
    }
}

/// Runs `parti` with these arguments to its end, with nothing of the test's environment.
pub async fn parti(arguments: &[impl AsRef<OsStr>]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let begun = Instant::now();
    let mut process = Process::start("parti", folder.path(), Command::new(parti_binary()).args(arguments).env_clear());
    let status = process.exit().await;
    Ended { status, output: process.log(), took: begun.elapsed() }
}
