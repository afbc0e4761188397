//! Child processes that never outlive this one.
//!
//! All children are in one process group of their own, led by a shell that waits on a pipe whose other end this process
//! holds. When this process ends, however it ends, the pipe closes and the shell kills the group. A group of their own also
//! keeps the terminal's Ctrl-C from them: what stops first, and what is verified before, is decided here.

use super::failed;
use crate::error::OperatorError;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Kills the process group that this script leads once its standard input ends.
const WAIT_THEN_KILL: &str = "read -r _; kill -KILL 0";

/// Ends every process that was started through it when it is dropped, or when this process dies.
pub(in crate::cli) struct Leash {
    group: i32,
    _shell: Child,
}

impl Leash {
    /// # Errors
    /// There is no shell.
    pub(in crate::cli) fn new() -> Result<Self, OperatorError> {
        let no_shell =
            |why: String| failed("the child processes cannot be supervised", why, "make `sh` available on the PATH");
        let shell = Command::new("sh")
            .args(["-c", WAIT_THEN_KILL])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| no_shell(format!("`sh` does not start: {error}")))?;
        let group = shell
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| no_shell("`sh` ended at once".to_owned()))?;
        Ok(Self { group, _shell: shell })
    }

    /// A command whose process this leash holds.
    pub(in crate::cli) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(self.group).kill_on_drop(true);
        command
    }
}

/// Asks a process to stop and waits for it; kills it when it takes too long. How it ended; `None` if it was killed, or
/// nothing is known.
pub(in crate::cli) async fn stop(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // One that ends in this moment needs no signal.
        let _ = kill_process(pid, Signal::TERM);
    }
    match timeout(patience, child.wait()).await {
        Ok(ended) => ended.ok(),
        Err(_) => {
            kill(child).await;
            None
        }
    }
}

/// Kills a process (SIGKILL) and waits until it is gone.
pub(in crate::cli) async fn kill(child: &mut Child) {
    // Fails only for a process that has ended already.
    let _ = child.kill().await;
}
