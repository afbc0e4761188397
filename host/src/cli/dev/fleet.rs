//! The workers of a development fleet: child processes, each `parti run` with the generated configuration.

use crate::cli::child::{Answer, Leash, ask, failed, free_addresses, kill, last_lines, stop};
use crate::error::OperatorError;
use futures::future::join_all;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Child;

/// A little longer than a worker gives itself (`shutdownTimeout`, 10 s).
const STOP: Duration = Duration::from_secs(15);

/// Variables that workers read besides `PARTI_…`; the fleet is to be as its configuration says, whatever the terminal has set.
const READ_BY_WORKERS: [&str; 4] = ["CONFIG_PATH", "NATS_URL", "WORKER_ID", "WORKER_ID_MAX"];

/// The workers.
pub(super) struct Fleet {
    workers: Vec<Worker>,
}

struct Worker {
    name: String,
    http: SocketAddr,
    log: PathBuf,
    child: Child,
    life: Life,
    answer: Option<Answer>,
}

/// Whether a worker's process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Killed,
    Ended(ExitStatus),
}

/// A worker as the live view shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its name.
    pub(super) name: String,
    /// What it is doing.
    pub(super) doing: Doing,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It has never answered.
    Starting,
    /// It owns so many partitions.
    Owns(usize),
    /// Its process was killed.
    Killed,
    /// Its process has ended by itself.
    Ended,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.pad("starting"),
            Self::Owns(partitions) => partitions.fmt(f),
            Self::Killed => f.pad("killed"),
            Self::Ended => f.pad("ended"),
        }
    }
}

impl Fleet {
    /// Starts `count` workers with the configuration in `config`. Their logs go to `directory`.
    ///
    /// # Errors
    /// A process cannot be started.
    pub(super) fn start(count: u32, config: &Path, directory: &Path, leash: &Leash) -> Result<Self, OperatorError> {
        let cannot = |error: std::io::Error| {
            failed(
                "a worker cannot be started",
                error.to_string(),
                "free memory, processes or disk space, then try again",
            )
        };
        let binary = std::env::current_exe().map_err(cannot)?;
        let foreign =
            || std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PARTI_"));
        let mut workers = Vec::new();
        for (number, http) in (0..count).zip(free_addresses(count).map_err(cannot)?) {
            let name = format!("worker-{number}");
            let log = directory.join(format!("{name}.log"));
            let mut command = leash.command(&binary);
            for variable in foreign() {
                command.env_remove(variable);
            }
            for variable in READ_BY_WORKERS {
                command.env_remove(variable);
            }
            command.args(["run", "--config"]).arg(config).env("WORKER_ID", number.to_string());
            // What a run tries is not to be remembered beside the component.
            command.env("PARTI_PLUGINS_CACHE", directory.join("versions"));
            command.env("PARTI_HTTP_LISTEN", http.to_string()).stderr(File::create(&log).map_err(cannot)?);
            let child = command.spawn().map_err(cannot)?;
            workers.push(Worker { name, http, log, child, life: Life::Running, answer: None });
        }
        Ok(Self { workers })
    }

    /// A line per worker: name, process and address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = String> + '_ {
        self.workers.iter().map(|worker| {
            let pid = worker.child.id().unwrap_or_default();
            format!("{}  pid {pid}  http://{}/status", worker.name, worker.http)
        })
    }

    /// Asks every worker how it is.
    pub(super) async fn look(&mut self) {
        join_all(self.workers.iter_mut().map(Worker::look)).await;
    }

    /// The workers as of the last look.
    pub(super) fn shown(&self) -> Vec<Shown> {
        self.workers.iter().map(Worker::shown).collect()
    }

    /// Partitions that running workers owned at the last look.
    pub(super) fn owned(&self) -> usize {
        self.answers().map(|answer| answer.owned).sum()
    }

    /// Messages that waited for running workers at the last look.
    pub(super) fn lag(&self) -> u64 {
        self.answers().map(|answer| answer.lag).sum()
    }

    /// Messages that every worker had handled when it was last seen.
    pub(super) fn handled(&self) -> u64 {
        self.workers.iter().filter_map(|worker| worker.answer.as_ref()).map(|answer| answer.handled).sum()
    }

    /// Whether every running worker had taken up another version of its plugin at the last look.
    pub(super) fn has_swapped(&self) -> bool {
        self.answers().count() > 0 && self.answers().all(|answer| answer.swaps > 0)
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.workers.iter().filter(|worker| worker.life == Life::Running).filter_map(|worker| worker.answer.as_ref())
    }

    /// A worker that does not lead and has partitions.
    pub(super) fn follower(&self) -> Option<String> {
        let follows = |worker: &&Worker| {
            worker.life == Life::Running
                && worker.answer.as_ref().is_some_and(|answer| !answer.leads && answer.owned > 0)
        };
        self.workers.iter().rev().find(follows).map(|worker| worker.name.clone())
    }

    /// Kills a worker: SIGKILL, no goodbye.
    pub(super) async fn kill(&mut self, name: &str) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.name == name) {
            kill(&mut worker.child).await;
            worker.life = Life::Killed;
        }
    }

    /// A worker that has ended although nobody killed or stopped it.
    pub(super) fn failure(&self) -> Option<OperatorError> {
        self.workers.iter().find_map(|worker| match worker.life {
            Life::Ended(status) => Some(failed(
                format!("{} ended by itself ({status})", worker.name),
                last_lines(&worker.log, 3),
                format!("read {}", worker.log.display()),
            )),
            Life::Running | Life::Killed => None,
        })
    }

    /// Whether a worker lives.
    pub(super) fn lives(&self) -> bool {
        self.workers.iter().any(|worker| worker.life == Life::Running)
    }

    /// Asks all workers to stop, so that they commit and release, and waits for them. Names those that did not end well.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        let stopped = join_all(self.workers.iter_mut().map(Worker::stop)).await;
        stopped.into_iter().flatten().collect()
    }
}

impl Worker {
    async fn look(&mut self) {
        if self.life == Life::Running
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.life = if status.signal().is_some() { Life::Killed } else { Life::Ended(status) };
        }
        if self.life == Life::Running
            && let Some(answer) = ask(self.http).await
        {
            self.answer = Some(answer);
        }
    }

    fn shown(&self) -> Shown {
        let doing = match (self.life, &self.answer) {
            (Life::Killed, _) => Doing::Killed,
            (Life::Ended(_), _) => Doing::Ended,
            (Life::Running, None) => Doing::Starting,
            (Life::Running, Some(answer)) => Doing::Owns(answer.owned),
        };
        Shown { name: self.name.clone(), doing }
    }

    async fn stop(&mut self) -> Option<String> {
        if self.life != Life::Running {
            return None;
        }
        let ended = stop(&mut self.child, STOP).await;
        self.life = Life::Killed;
        match ended {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("{} stopped badly ({status}): {}", self.name, last_lines(&self.log, 3))),
            None => Some(format!("{} did not stop within {STOP:?} and was killed", self.name)),
        }
    }
}
