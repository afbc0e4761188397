//! The workers' side: real processes, timed by their own counts of handled messages.

use super::BenchArgs;
use super::process::{computed, peak_memory};
use crate::cli::child::{Leash, ask, failed, free_addresses, kill, last_lines, metrics};
use crate::error::OperatorError;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the workers' counts are asked for: often enough against a run of seconds, seldom enough not to weigh.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Bench<'a> {
    directory: PathBuf,
    config: PathBuf,
    /// The server's process.
    server: Option<u32>,
    args: &'a BenchArgs,
}

/// What one round of the workers has given.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// Messages handled per second, all workers together, between the first and the last twentieth.
    pub(super) rate: f64,
    /// From the start of the processes until the first message was handled, and until every partition was owned.
    pub(super) first: Duration,
    pub(super) owned: Duration,
    /// From the start until what was there, and what came meanwhile, was handled.
    pub(super) caught_up: Duration,
    /// Processor time per handled message, in microseconds: of the workers, of the server.
    pub(super) worker_cost: Option<f64>,
    pub(super) server_cost: Option<f64>,
    /// The most memory that a worker had, in bytes.
    pub(super) memory: Option<u64>,
}

/// The workers of a round. They end when this is dropped.
pub(super) struct Workers {
    pub(super) children: Vec<Child>,
    addresses: Vec<SocketAddr>,
    logs: Vec<PathBuf>,
    begun: Instant,
}

impl<'a> Bench<'a> {
    /// Writes the workers' configuration.
    pub(super) fn prepare(
        directory: &Path,
        url: &str,
        server: Option<u32>,
        stream: &str,
        args: &'a BenchArgs,
    ) -> Result<Self, OperatorError> {
        let plugins = fs::canonicalize(&args.plugin_dir).map_err(|error| {
            let why = format!("{}: {error}", args.plugin_dir.display());
            failed(
                "there are no plugins to measure with",
                why,
                "run `make plugins`, or name their directory with --plugin-dir",
            )
        })?;
        let mut partitions = String::new();
        for number in 0..args.owned() {
            // Writing to a `String` cannot fail.
            let _ = writeln!(partitions, "      - {{ keys: [\"p-{number}\"] }}");
        }
        // What is measured is new; what an earlier round has left is nobody's.
        let start = if args.latency.is_some() { "new" } else { "all" };
        let text = format!(
            "nats: {{ url: \"{url}\" }}\n\
             stream: {{ name: {stream}, startFrom: {start} }}\n\
             source:\n  static:\n    partitions:\n{partitions}\
             handler: {{ plugin: \"{}\" }}\n\
             plugins: {{ directory: \"{}\" }}\n\
             log: {{ level: warn }}\n",
            args.plugin(),
            plugins.display(),
        );
        let config = directory.join("parti.yaml");
        fs::write(&config, text).map_err(|error| cannot_write(&config, &error))?;
        Ok(Self { directory: directory.to_owned(), config, server, args })
    }

    /// Starts the workers of a round, as a group of their own.
    pub(super) fn start(&self, leash: &Leash, round: u32) -> Result<Workers, OperatorError> {
        let none = |why: String| failed("there is no free port", why, "run it again");
        let addresses = free_addresses(self.args.workers).map_err(|error| none(error.to_string()))?;
        let program = std::env::current_exe().map_err(|error| cannot_write(&self.config, &error))?;
        let (mut children, mut logs) = (Vec::new(), Vec::new());
        for (number, address) in addresses.iter().enumerate() {
            let log = self.directory.join(format!("worker-{round}-{number}.log"));
            let output = File::create(&log).map_err(|error| cannot_write(&log, &error))?;
            let child = leash
                .command(&program)
                .arg("run")
                .arg("--config")
                .arg(&self.config)
                .env("PARTI_PLUGINS_CACHE", self.directory.join("versions"))
                .args(["--set", &format!("group=bench-{round}"), "--set", &format!("http.listen={address}")])
                .stderr(output)
                .spawn()
                .map_err(|error| failed("the worker does not start", error.to_string(), "run it again"))?;
            children.push(child);
            logs.push(log);
        }
        Ok(Workers { children, addresses, logs, begun: Instant::now() })
    }

    /// Runs the workers over the whole stream. `published` says how many messages were published to it so far.
    pub(super) async fn round(
        &self,
        leash: &Leash,
        round: u32,
        published: &AtomicU64,
    ) -> Result<Measured, OperatorError> {
        let mut workers = self.start(leash, round)?;
        let measured = self.time(&workers, published).await;
        let failure = workers.failure();
        workers.kill().await;
        measured.ok_or(failure)
    }

    async fn time(&self, workers: &Workers, published: &AtomicU64) -> Option<Measured> {
        let by = workers.begun + PATIENCE;
        let there = self.args.handled(published.load(Ordering::Relaxed));
        let (from, until) = (there / 20, there - there / 20);
        let mut measured = Measured::default();
        let mut first: Option<(u64, Instant, Option<Duration>, Option<Duration>)> = None;
        while Instant::now() < by {
            sleep(LOOK).await;
            let Some((handled, owned)) = workers.look().await else { continue };
            let now = Instant::now();
            let since = now - workers.begun;
            if measured.first.is_zero() && handled > 0 {
                measured.first = since;
            }
            if measured.owned.is_zero() && owned >= u64::from(self.args.owned()) {
                measured.owned = since;
            }
            let costs = || (workers.computed(), self.server.and_then(computed));
            if first.is_none() && handled >= from {
                let (workers, server) = costs();
                first = Some((handled, now, workers, server));
            }
            #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
            if let Some((begun_with, begun, worker_before, server_before)) = first
                && measured.rate == 0.0
                && handled >= until
            {
                let count = (handled - begun_with) as f64;
                measured.rate = count / (now - begun).as_secs_f64().max(1e-9);
                let (worker, server) = costs();
                let cost = |after: Option<Duration>, before: Option<Duration>| {
                    Some((after? - before?).as_secs_f64() * 1e6 / count)
                };
                measured.worker_cost = cost(worker, worker_before);
                measured.server_cost = cost(server, server_before);
            }
            // Half a second behind what comes in is nothing that is still to be caught up with.
            let slack = self.args.rate.map_or(0, |rate| self.args.handled(rate / 2));
            let all = self.args.handled(published.load(Ordering::Relaxed)).saturating_sub(slack);
            if measured.rate > 0.0 && handled >= all.max(until) {
                measured.caught_up = since;
                measured.memory = workers.children.iter().filter_map(|child| peak_memory(child.id()?)).max();
                return Some(measured);
            }
        }
        None
    }
}

impl Workers {
    /// Messages handled and partitions owned, all together; `None` while one of them does not answer.
    pub(super) async fn look(&self) -> Option<(u64, u64)> {
        let answers = futures::future::join_all(self.addresses.iter().map(|address| ask(*address))).await;
        answers.into_iter().try_fold((0, 0), |(handled, owned), answer| {
            let answer = answer?;
            Some((handled + answer.handled, owned + answer.owned as u64))
        })
    }

    /// The metrics of the first of them.
    pub(super) async fn metrics(&self) -> Option<String> {
        metrics(*self.addresses.first()?).await
    }

    /// What their handlers did not get done with, in words.
    pub(super) async fn trouble(&self) -> Option<String> {
        let metrics = self.metrics().await?;
        let sum = |name: &str, label: &str| -> f64 {
            let series = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
            series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let (late, again) = (sum("parti_plugin_timeouts_total{", ""), sum("parti_messages_total{", "\"retry\""));
        Some(format!("{late} calls took too long, {again} messages were asked for again"))
    }

    fn computed(&self) -> Option<Duration> {
        self.children.iter().map(|child| computed(child.id()?)).sum()
    }

    /// What went wrong, as far as it can be seen.
    pub(super) fn failure(&mut self) -> OperatorError {
        let mut why = format!("they were not through within {PATIENCE:?}");
        for (child, log) in self.children.iter_mut().zip(&self.logs) {
            if let Some(status) = child.try_wait().ok().flatten() {
                why = format!("one ended ({status}): {}", last_lines(log, 5));
            }
        }
        failed("the workers did not handle the stream", why, "correct --plugin or --plugin-dir, or lower --messages")
    }

    pub(super) async fn kill(&mut self) {
        for child in &mut self.children {
            kill(child).await;
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> OperatorError {
    failed(format!("{} cannot be used", path.display()), error.to_string(), "free some space, or set TMPDIR")
}
