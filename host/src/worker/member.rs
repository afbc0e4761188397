//! A worker's coordination alone, inside this process: no messages, no HTTP, no signals. `parti bench --fleet` runs many.

use super::control::End;
use super::plugins::Running;
use super::status::Board;
use super::{Equipment, Identification, buckets, connect, coordinate, silent, start_failure};
use crate::config::Config;
use crate::error::OperatorError;
use crate::hooks::Hooks;
use crate::telemetry::{Metrics, WorkerLabel};
use parti_coordination::{Version, WorkerState};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::watch;

/// A member of a fleet, on a thread and a connection of its own.
pub(crate) struct Member {
    board: Arc<Mutex<Board>>,
    stop: watch::Sender<bool>,
    kill: watch::Sender<bool>,
    thread: JoinHandle<Result<(), OperatorError>>,
}

/// What a member shows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    /// What it is doing.
    pub(crate) state: WorkerState,
    /// Whether it leads.
    pub(crate) leads: bool,
    /// Version of the plan in force; 0 before the first.
    pub(crate) version: Version,
    /// Partitions assigned.
    pub(crate) partitions: usize,
    /// Live workers by the plan in force.
    pub(crate) workers: usize,
}

impl Member {
    /// Starts it. What keeps it from starting shows when it is [stopped](Self::stop).
    pub(crate) fn start(config: Config) -> Self {
        let board = Arc::new(Mutex::new(Board::new()));
        let ((stop, stopped), (kill, mut killed)) = (watch::channel(false), watch::channel(false));
        let shown = Arc::clone(&board);
        let thread = std::thread::spawn(move || {
            let runtime = super::single_threaded()?;
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = Box::pin(run(&config, shown, stopped)) => ended,
                    _ = killed.wait_for(|kill| *kill) => Ok(()),
                }
            });
            // Its connection and everything that it was doing end here, unannounced if it was killed.
            drop(runtime);
            ended
        });
        Self { board, stop, kill, thread }
    }

    /// What it shows now.
    pub(crate) fn look(&self) -> Glance {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let assigned = board.assigned.as_ref();
        Glance {
            state: board.state,
            leads: board.is_leader,
            version: assigned.map_or(Version(0), |a| a.version),
            partitions: assigned.map_or(0, |a| a.partitions.len()),
            workers: assigned.map_or(0, |a| a.fleet.live.len()),
        }
    }

    /// Asks it to leave, as SIGTERM does.
    pub(crate) fn leave(&self) {
        let _ = self.stop.send(true);
    }

    /// Ends it at once, as SIGKILL does. Returns without waiting for its thread.
    pub(crate) fn kill(self) {
        let _ = self.kill.send(true);
    }

    /// Whether its thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it at once and says what went wrong, if anything did.
    pub(crate) fn stop(self) -> Result<(), OperatorError> {
        let _ = self.kill.send(true);
        // A panic has been reported where it happened.
        self.thread.join().unwrap_or(Ok(()))
    }
}

async fn run(config: &Config, board: Arc<Mutex<Board>>, stop: watch::Receiver<bool>) -> Result<(), OperatorError> {
    let origin = Instant::now();
    let Some(nats) = connect(config, "control", origin + config.startup_timeout, stop.clone()).await? else {
        return Ok(());
    };
    let (buckets, ..) = buckets::open(&nats, config).await?;
    let label = WorkerLabel::default();
    let metrics = Arc::new(Metrics::new(label.clone()).map_err(super::metrics_error)?);
    let label = Identification { metrics, label, board, origin };
    let source = super::fixed(config);
    let equipment = Equipment { source, strategist: None, intake: None, hooks: Hooks::default() };
    let (control, inbox) = coordinate(config, nats, buckets, Running::of(Vec::new()), equipment, label);
    match control.run(inbox, silent(), stop).await {
        End::Finished => Ok(()),
        End::Failed(failure) => Err(start_failure(config, failure)),
    }
}
