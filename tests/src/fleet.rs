//! Workers of one group, as processes.

use crate::artifacts::{parti_binary, plugin_folder};
use crate::folder::Folder;
use crate::http::{Answer, get};
use crate::log::LogLine;
use crate::port::free_port;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::server::NatsServer;
use crate::wait::eventually;
use parti_coordination::Incarnation;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of partition `n`.
#[must_use]
pub fn partition(n: usize) -> String {
    format!("p-{n:02}")
}

/// The subject of partition `n` in the stream `work`.
#[must_use]
pub fn subject(n: usize) -> String {
    format!("work.{}", partition(n))
}

/// A whole configuration, as a file has it: stream `work`, this many partitions, and a handler. Windows are as short as a
/// fleet of a few processes on one machine allows; everything that decides who is alive has its default.
#[must_use]
pub fn config(url: &str, partitions: usize, plugin: &str) -> Value {
    let mut config = default_config(url, partitions, plugin);
    let windows = json!({
        "coldStartWindow": "3s",
        "plannedScaleWindow": "2s",
        "assignment": { "minRebalanceInterval": "1s" },
    });
    merge(&mut config, windows);
    config
}

/// The same with every default.
fn default_config(url: &str, partitions: usize, plugin: &str) -> Value {
    let partitions: Vec<_> = (0..partitions).map(|n| json!({ "keys": [partition(n)] })).collect();
    json!({
        "nats": { "url": url },
        "stream": { "name": "work" },
        "source": { "static": { "partitions": partitions } },
        "handler": { "plugin": plugin },
        "plugins": { "directory": plugin_folder(plugin) },
    })
}

/// Keys of the configuration that make leases as short as it allows, so that a test can outlast them all.
#[must_use]
pub fn short_leases() -> Value {
    json!({ "workerIdTtl": "3s", "heartbeatInterval": "500ms", "heartbeatTtl": "2s", "electionTimeout": "2s" })
}

/// The workers of a test, all with the same configuration. They are killed when it is dropped.
pub struct Fleet {
    config: Value,
    partitions: usize,
    /// Every worker that was started, also those that have ended.
    pub workers: Vec<Worker>,
    // Goes last: a failed test reads the workers' logs in it.
    folder: Folder,
}

impl Fleet {
    /// A fleet without workers yet; see [`config`].
    #[must_use]
    pub fn new(server: &NatsServer, partitions: usize, plugin: &str) -> Self {
        Self::at(&server.url(), partitions, plugin)
    }

    /// The same with the default windows.
    #[must_use]
    pub fn by_default(server: &NatsServer, partitions: usize, plugin: &str) -> Self {
        Self::by_default_at(&server.url(), partitions, plugin)
    }

    /// A fleet with the default windows for servers with these URLs, separated by commas.
    #[must_use]
    pub fn by_default_at(urls: &str, partitions: usize, plugin: &str) -> Self {
        Self { config: default_config(urls, partitions, plugin), ..Self::at(urls, partitions, plugin) }
    }

    /// A fleet for servers with these URLs, separated by commas.
    #[must_use]
    pub fn at(urls: &str, partitions: usize, plugin: &str) -> Self {
        let config = config(urls, partitions, plugin);
        Self { config, partitions, workers: Vec::new(), folder: Folder::new() }
    }

    /// The same with these keys of the configuration, for workers started from now on.
    #[must_use]
    pub fn with(mut self, keys: Value) -> Self {
        merge(&mut self.config, keys);
        self
    }

    /// Starts a worker.
    pub fn start(&mut self) -> &mut Worker {
        self.start_as(None)
    }

    /// Starts a worker that prefers this number for its ID.
    pub fn start_as(&mut self, number: Option<u32>) -> &mut Worker {
        let config = self.config_file();
        self.launch(number, &config)
    }

    /// Starts a worker whose configuration has these keys besides.
    pub fn start_with(&mut self, keys: Value) -> &mut Worker {
        let mut config = self.config.clone();
        merge(&mut config, keys);
        let config = self.write(&config);
        self.launch(None, &config)
    }

    /// Starts a worker that reaches its server through this proxy.
    pub fn start_behind(&mut self, proxy: &Proxy) -> &mut Worker {
        self.start_with(json!({ "nats": { "url": proxy.url() } }))
    }

    fn launch(&mut self, number: Option<u32>, config: &Path) -> &mut Worker {
        let port = free_port();
        let mut command = Command::new(parti_binary());
        command.args(["run", "--config"]).arg(config).env_clear();
        command.env("PARTI_HTTP_LISTEN", format!("127.0.0.1:{port}")).env("PARTI_LOG_FORMAT", "json");
        // The workers of a test are one machine; those of another test are not.
        command.env("PARTI_PLUGINS_CACHE", self.cache());
        command.envs(number.map(|number| ("WORKER_ID", number.to_string())));
        let name = format!("process-{}", self.workers.len());
        let process = Process::start(&name, self.folder.path(), &mut command);
        self.workers.push(Worker { process, port, is_over: false });
        self.workers.last_mut().expect("the worker just started")
    }

    /// Starts this many workers and waits until they have [settled](Self::settled).
    pub async fn start_settled(&mut self, workers: usize) -> Vec<Status> {
        for _ in 0..workers {
            self.start();
        }
        self.settled().await
    }

    /// Where the fleet's workers remember versions of plugins: `plugins.cache`.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The file with the configuration, written anew.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.write(&self.config)
    }

    fn write(&self, config: &Value) -> PathBuf {
        // One for each process: another one may be reading its own. And JSON is YAML.
        let path = self.folder.path().join(format!("parti-{}.yaml", self.workers.len()));
        fs::write(&path, config.to_string()).expect("a configuration file");
        path
    }

    /// Waits until every running worker knows of exactly the running workers, is `Stable`, and holds what it is assigned,
    /// one leads, and no partition is left over. Gives their statuses in the order in which they were started.
    pub async fn settled(&mut self) -> Vec<Status> {
        let (running, partitions) = (self.running(), self.partitions);
        eventually("the fleet settles", async || {
            let mut statuses = Vec::new();
            for &worker in &running {
                let worker = &mut self.workers[worker];
                assert!(worker.process.is_running(), "a worker has ended that should run");
                statuses.push(worker.status().await?);
            }
            let settled = statuses.iter().all(|status| {
                let all_there = status.workers.len() == running.len();
                all_there && status.state == "Stable" && status.owned_partitions == status.partition_count
            });
            let assigned: usize = statuses.iter().map(|status| status.partition_count).sum();
            let leaders = statuses.iter().filter(|status| status.is_leader).count();
            if settled && assigned == partitions && leaders == 1 { Ok(statuses) } else { Err(format!("{statuses:?}")) }
        })
        .await
    }

    /// Which of the workers run: all whose end the test has not seen.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        let workers = self.workers.iter().enumerate();
        workers.filter_map(|(index, worker)| (!worker.is_over).then_some(index)).collect()
    }

    /// Which of the workers leads, and another one that does not. Both run.
    pub async fn leader_and_follower(&mut self) -> (usize, usize) {
        let (running, statuses) = (self.running(), self.settled().await);
        let find = |leads: bool| {
            let found = running.iter().zip(&statuses).find(|(_, status)| status.is_leader == leads);
            *found.expect("a leader and a follower").0
        };
        (find(true), find(false))
    }

    /// The sum of a series over the running workers; a worker that does not have it counts as 0.
    pub async fn sum(&self, series: &str) -> u64 {
        let mut sum = 0;
        for worker in self.running() {
            sum += self.workers[worker].metric(series).await;
        }
        sum
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// What `GET /status` says, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The claimed ID.
    #[serde(rename = "workerID")]
    pub worker_id: Option<String>,
    /// What the worker is doing.
    pub state: String,
    /// Whether it leads.
    pub is_leader: bool,
    /// Version of the assignment in force.
    pub assignment_version: u64,
    /// Partitions assigned.
    pub partition_count: usize,
    /// Partitions held.
    pub owned_partitions: usize,
    /// Live workers by the plan in force.
    pub workers: Vec<String>,
    /// This run of the worker.
    pub incarnation: Option<Incarnation>,
    /// Since when and how badly it does without NATS.
    pub degraded: Option<Outage>,
    /// What keeps it from working as it should.
    pub problems: Vec<String>,
}

/// An outage as `/status` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Outage {
    /// When it began.
    pub since: String,
    /// The last alert.
    pub level: Option<String>,
}

impl Status {
    /// The claimed ID; panics if there is none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.worker_id.as_deref().expect("a claimed worker ID")
    }
}

/// One worker process.
pub struct Worker {
    process: Process,
    is_over: bool,
    /// Where it answers HTTP.
    pub port: u16,
}

impl Worker {
    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.is_over = true;
        self.process.kill();
    }

    /// Asks it to leave, with SIGTERM.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Stops it from running, like a machine that hangs.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Waits for its end; the exit status, or nothing if a signal ended it.
    pub async fn exit(&mut self) -> Option<i32> {
        self.is_over = true;
        self.process.exit().await
    }

    /// Whether its process has come to an end, by whatever cause.
    pub fn has_ended(&mut self) -> bool {
        !self.process.is_running()
    }

    /// Bytes of memory that its process has in use.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.process.resident()
    }

    /// Everything that it has written.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The lines of its log, as far as they are JSON.
    #[must_use]
    pub fn log_lines(&self) -> Vec<LogLine> {
        self.log().lines().filter_map(LogLine::parse).collect()
    }

    /// Waits until its log has a line with each of these texts.
    pub async fn logs(&self, texts: &[&str]) {
        eventually(&format!("the log has a line with {texts:?}"), async || {
            let log = self.log();
            let found = log.lines().any(|line| texts.iter().all(|text| line.contains(text)));
            if found { Ok(()) } else { Err("it has none".to_owned()) }
        })
        .await;
    }

    /// Its answer to `GET path`.
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        get(self.port, path).await
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Status, String> {
        let answer = self.get("/status").await?;
        serde_json::from_str(&answer.body).map_err(|error| format!("{error} in {answer:?}"))
    }

    /// Waits until it is ready to work.
    pub async fn ready(&self) {
        eventually("the worker is ready", async || match self.get("/health/ready").await? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    }

    /// The sum over the samples of `/metrics` with this name and labels, such as
    /// `parti_messages_total{verdict="ack"}`. 0 if there are none.
    pub async fn metric(&self, series: &str) -> u64 {
        let answer = eventually("the worker tells its metrics", async || self.get("/metrics").await).await;
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let samples = answer.body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (found, found_labels) = sample.split_once('{').unwrap_or((sample, ""));
            (found == name && labels.split(',').all(|label| found_labels.contains(label))).then_some(value)
        });
        samples.map(|value| value.parse::<f64>().expect("a number") as u64).sum()
    }
}
