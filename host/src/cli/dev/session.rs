//! One run from beginning to end: start everything, watch, stop in order, verify.

use super::broker::{Broker, Records};
use super::changeover::Changeover;
use super::fleet::Fleet;
use super::ledger::Ledger;
use super::producer::Producer;
use super::setup::{Plugin, Setup};
use super::takeover::Takeover;
use super::verify::{self, Verdict};
use super::view::{self, Second, grouped};
use super::workload::Workload;
use crate::cli::child::{Leash, Server, failed};
use crate::error::{ErrorCode, OperatorError};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

/// How often the partitions of a killed worker are looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// How often positions are looked at in the end.
const POLL: Duration = Duration::from_millis(200);

/// The time in which some position must advance, or what is left counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// What to do.
pub(super) struct Plan {
    /// Number of workers.
    pub(super) workers: u32,
    /// Messages per second.
    pub(super) rate: u32,
    /// Whether logs and data stay in any case.
    pub(super) keep: bool,
    /// The handler.
    pub(super) plugin: Plugin,
    /// What to publish.
    pub(super) workload: Workload,
    /// The field with the readings, where the handler is the control chart.
    pub(super) field: Option<String>,
    /// What happens on the way.
    pub(super) script: Option<Script>,
}

/// The script of the demo, in time since the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    kill: Duration,
    swap: Duration,
    end: Duration,
}

/// What the script lets happen after the take-over, before it ends.
const AFTERMATH: Duration = Duration::from_secs(1);

impl Script {
    /// A script that takes about so long: a kill after two fifths, another handler after three, and time to drain and verify in the
    /// end.
    pub(super) fn lasting(length: Duration) -> Self {
        let end = length.saturating_sub(length.mul_f64(0.1).max(Duration::from_secs(3)));
        Self { kill: length.mul_f64(0.4), swap: length.mul_f64(0.6), end }
    }
}

/// Carries out a plan. Logs and data stay when it fails.
pub(super) async fn run(plan: Plan) -> Result<(), OperatorError> {
    let stops = watch_signals()?;
    let directory = tempfile::Builder::new().prefix("parti-dev-").tempdir().map_err(|error| {
        failed("there is no room for logs and data", error.to_string(), "name a writable directory with TMPDIR")
    })?;
    let keep = plan.keep;
    let mut again = stops.clone();
    let result = tokio::select! {
        biased;
        _ = again.wait_for(|stops| *stops > 1) => Err(failed(
            "stopped at once",
            "a second signal came before everything was handled and checked",
            "run it again, and wait for the summary after the first signal",
        )),
        result = Box::pin(live(plan, directory.path(), stops)) => result,
    };
    if keep || (result.is_err() && holds_anything(directory.path())) {
        say(&format!("logs and data: {}", directory.keep().display()));
    }
    result
}

/// Whether anything was logged.
fn holds_anything(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).any(|file| file.is_file() && file.len() > 0)
}

async fn live(plan: Plan, directory: &Path, stops: watch::Receiver<u32>) -> Result<(), OperatorError> {
    let began = Instant::now();
    // Declared first, so dropped last: while it lives, no child outlives this process.
    let leash = Leash::new()?;
    let server = Server::start(directory, &leash).await?;
    let broker = Broker::connect(server.url()).await?;
    let partitions = plan.workload.partitions();
    let plugin = match plan.script {
        Some(_) => Changeover::prepare(&plan.plugin, directory)?,
        None => plan.plugin,
    };
    let setup = Setup::new(server.url(), partitions, &plugin, plan.field.as_deref())?;
    let config = directory.join("parti.yaml");
    std::fs::write(&config, &setup.yaml).map_err(|error| {
        failed(format!("{} cannot be written", config.display()), error.to_string(), "free some space there")
    })?;
    let fleet = Fleet::start(plan.workers, &config, directory, &leash)?;

    say(&format!(
        "parti dev: {} worker{}, {} partitions, handler {}, {} messages/s",
        plan.workers,
        if plan.workers == 1 { "" } else { "s" },
        grouped(partitions.len() as u64),
        plugin.name,
        grouped(plan.rate.into())
    ));
    for worker in fleet.addresses() {
        say(&view::event(&worker));
    }
    say(&view::event(&format!("nats-server  {}", server.url())));
    say(&view::event(&format!("configuration and logs  {}", directory.display())));

    let subjects =
        partitions.iter().map(|partition| setup.config.subject(partition.id()).unwrap_or_default()).collect();
    let ledger = Ledger::new(partitions, plan.field);
    let mut session = Session {
        began,
        partitions: partitions.len(),
        bucket: setup.config.buckets().ownership,
        server,
        fleet,
        stops,
        settled: false,
        takeover: None,
        plugin,
        changeover: None,
        rates: Rates { at: began, published: 0, handled: 0 },
        broker,
    };
    let producer = Producer::start(session.broker.publisher(), plan.workload, subjects, ledger, plan.rate);
    session.watch(&producer, plan.script).await?;
    let ledger = producer.stop().await.map_err(|error| {
        failed("the producer gave up", error.to_string(), "read nats-server.log in the directory of this run")
    })?;
    let drained = session.drain(&ledger).await?;
    session.conclude(&ledger, drained, plan.script).await
}

struct Session {
    began: Instant,
    partitions: usize,
    bucket: String,
    server: Server,
    broker: Broker,
    fleet: Fleet,
    stops: watch::Receiver<u32>,
    /// Whether every partition has had an owner.
    settled: bool,
    takeover: Option<Takeover>,
    plugin: Plugin,
    changeover: Option<Changeover>,
    rates: Rates,
}

/// The counters as of the last line.
struct Rates {
    at: Instant,
    published: u64,
    handled: u64,
}

impl Session {
    /// Watches the fleet at work until it is told to stop, or the script or the input is at an end.
    async fn watch(&mut self, producer: &Producer, script: Option<Script>) -> Result<(), OperatorError> {
        let (mut second, mut glance) = (seconds(), every(GLANCE));
        let mut stops = self.stops.clone();
        loop {
            tokio::select! {
                biased;
                _ = stops.wait_for(|stops| *stops > 0) => return Ok(()),
                _ = second.tick() => {
                    self.show(producer.published()).await?;
                    if producer.has_ended() || script.is_some_and(|script| self.is_over(script)) {
                        return Ok(());
                    }
                    if script.is_some_and(|script| self.began.elapsed() >= script.kill) && self.takeover.is_none() && self.settled {
                        self.kill_follower().await?;
                    }
                    if let Some(script) = script {
                        self.change_over(script)?;
                    }
                }
                _ = glance.tick(), if self.takeover.as_ref().is_some_and(|takeover| takeover.finished().is_none()) => {
                    self.watch_takeover().await?;
                }
            }
        }
    }

    /// Shows a line, and ends the run if something has failed.
    async fn show(&mut self, published: u64) -> Result<(), OperatorError> {
        self.fleet.look().await;
        let handled = self.fleet.handled();
        let (now, before) = (Instant::now(), &self.rates);
        let rate = |now_at: u64, was: u64| now_at.saturating_sub(was) as f64 / (now - before.at).as_secs_f64();
        let line = Second {
            elapsed: now - self.began,
            published: rate(published, before.published),
            handled: rate(handled, before.handled),
            lag: self.fleet.lag(),
            workers: self.fleet.shown(),
            // Before that, partitions wait for their first owner, and everyone can see it.
            unowned: if self.settled { self.partitions.saturating_sub(self.fleet.owned()) } else { 0 },
        };
        self.rates = Rates { at: now, published, handled };
        say(&view::line(&line));

        if self.server.has_ended() {
            return Err(failed(
                "the nats-server has ended",
                "its process is gone",
                "read nats-server.log in the directory of this run",
            ));
        }
        if let Some(failure) = self.fleet.failure() {
            return Err(failure);
        }
        if !self.fleet.lives() {
            return Err(failed("no worker is left", "every worker was killed", "leave one, so that it can take over"));
        }
        if !self.settled && self.fleet.owned() >= self.partitions {
            self.settled = true;
            say(&view::event(&format!("all {} partitions have an owner", grouped(self.partitions as u64))));
        }
        Ok(())
    }

    async fn kill_follower(&mut self) -> Result<(), OperatorError> {
        let Some(victim) = self.fleet.follower() else { return Ok(()) };
        let records = self.broker.records(&self.bucket).await?;
        let takeover = Takeover::of(&victim, &records, Instant::now());
        self.fleet.kill(&victim).await;
        say(&view::event(&format!(
            "{victim} killed (SIGKILL): its {} partitions go on elsewhere",
            takeover.partitions()
        )));
        self.takeover = Some(takeover);
        Ok(())
    }

    async fn watch_takeover(&mut self) -> Result<(), OperatorError> {
        let records = self.broker.records(&self.bucket).await?;
        let Some(takeover) = &mut self.takeover else { return Ok(()) };
        if takeover.observe(&records, Instant::now()) {
            let took = takeover.duration().unwrap_or_default().as_secs_f64();
            say(&view::event(&format!("every partition has an owner again after {took:.1} s: {}", takeover.takers())));
        }
        Ok(())
    }

    /// Replaces the handler when it is time to, and nothing else happens; and tells when every worker has taken that up.
    fn change_over(&mut self, script: Script) -> Result<(), OperatorError> {
        let is_time = self.began.elapsed() >= script.swap && self.is_calm();
        let has_swapped = self.fleet.has_swapped();
        let is_over = self.changeover.as_mut().is_some_and(|changeover| changeover.observe(has_swapped));
        match &self.changeover {
            Some(changeover) if is_over => {
                let took = changeover.duration().unwrap_or_default().as_secs_f64();
                say(&view::event(&format!("every worker runs the new build after {took:.1} s, state and all")));
            }
            None if is_time => {
                self.changeover = Some(Changeover::begin(&self.plugin)?);
                say(&view::event(&format!(
                    "another build of {} copied over the one that runs: the workers take it up, on trial",
                    self.plugin.name
                )));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the killed worker's partitions have been taken over, and a second has passed.
    fn is_calm(&self) -> bool {
        self.takeover.as_ref().and_then(Takeover::finished).is_some_and(|at| at.elapsed() >= AFTERMATH)
    }

    fn is_over(&self, script: Script) -> bool {
        let changed_over =
            self.changeover.as_ref().and_then(Changeover::finished).is_some_and(|at| at.elapsed() >= AFTERMATH);
        let elapsed = self.began.elapsed();
        elapsed >= script.end && ((self.is_calm() && changed_over) || elapsed >= script.end + STUCK)
    }

    /// Waits until everything that was published is handled and committed. False if it gets stuck.
    async fn drain(&mut self, ledger: &Ledger) -> Result<bool, OperatorError> {
        say(&view::event(&format!(
            "stopped publishing after {} messages; waiting until all are handled",
            grouped(ledger.published())
        )));
        let (mut second, mut poll) = (seconds(), every(POLL));
        let (mut reached, mut stuck_at) = (0, Instant::now() + STUCK);
        loop {
            tokio::select! {
                biased;
                _ = second.tick() => self.show(ledger.published()).await?,
                _ = poll.tick() => {
                    let records = self.broker.records(&self.bucket).await?;
                    if verify::is_handled(ledger, &records) {
                        return Ok(true);
                    }
                    let positions = positions(&records);
                    if positions > reached {
                        (reached, stuck_at) = (positions, Instant::now() + STUCK);
                    }
                    if Instant::now() > stuck_at {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Stops the workers and compares what they have left with what was published.
    async fn conclude(mut self, ledger: &Ledger, drained: bool, script: Option<Script>) -> Result<(), OperatorError> {
        let mut faults = Vec::new();
        if !drained {
            faults.push(format!("not everything was handled: no position has advanced for {} s", STUCK.as_secs()));
        }
        say(&view::event("stopping the workers: they commit and release what they own"));
        faults.extend(self.fleet.stop().await);
        let records = self.broker.records(&self.bucket).await?;
        let alarms = if ledger.has_charts() { Some(self.broker.alarms().await?) } else { None };
        self.broker.close().await;
        self.server.stop().await;

        let verdict = verify::judge(ledger, &records, alarms.as_deref());
        say(&format!("\n{}", view::summary(&verdict)));
        match &self.takeover {
            Some(takeover) => match takeover.duration() {
                Some(took) => say(&format!(
                    "the {} partitions of the killed {} had no owner for {:.1} s",
                    takeover.partitions(),
                    takeover.victim(),
                    took.as_secs_f64()
                )),
                None => faults.push(format!(
                    "{} partitions of the killed {} got no new owner",
                    takeover.waiting(),
                    takeover.victim()
                )),
            },
            None if script.is_some() && *self.stops.borrow() == 0 => {
                faults.push("no worker was killed: the fleet was not ready for it in time".to_owned());
            }
            None => {}
        }
        match self.changeover.as_ref().map(Changeover::duration) {
            Some(Some(took)) => {
                say(&format!("the handler was replaced on every worker within {:.1} s", took.as_secs_f64()));
            }
            Some(None) => faults.push("the new build of the handler was not taken up by every worker".to_owned()),
            None if script.is_some() && *self.stops.borrow() == 0 => {
                faults.push("the handler was not replaced: the fleet was not ready for it in time".to_owned());
            }
            None => {}
        }
        say(&format!("took {:.1} s", self.began.elapsed().as_secs_f64()));
        faults.extend(differences(&verdict));
        if faults.is_empty() {
            return Ok(());
        }
        Err(ErrorCode::DevVerification.error(
            "the fleet's results are not what they must be",
            faults.join("\n       "),
            "read the workers' logs; if neither the handler nor the machine explains it, report it as a bug of parti",
        ))
    }
}

/// What is wrong, one sentence each.
fn differences(verdict: &Verdict) -> Vec<String> {
    if verdict.is_clean() {
        return Vec::new();
    }
    let mut sentences = Vec::new();
    let unequal = verdict.rows.len() - verdict.equal();
    if unequal > 0 {
        sentences.push(format!("{unequal} of {} partitions differ, see the table", verdict.rows.len()));
    }
    if let Some(alarms) = verdict.alarms.filter(|alarms| !alarms.are_clean()) {
        sentences.push(format!(
            "of {} alarms {} are missing, {} are there too often, {} are unexpected",
            alarms.expected, alarms.missing, alarms.repeated, alarms.unexpected
        ));
    }
    sentences
}

/// A figure that grows with every commit.
fn positions(records: &Records) -> u64 {
    records.values().filter_map(|record| record.as_ref().ok()).map(|record| record.position.0).sum()
}

/// Counts the requests to stop: Ctrl-C, SIGTERM, a terminal that is closed.
fn watch_signals() -> Result<watch::Receiver<u32>, OperatorError> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| failed("signals cannot be watched", error.to_string(), "report this as a bug of parti"))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(counted)
}

fn seconds() -> Interval {
    let second = Duration::from_secs(1);
    interval_at(Instant::now() + second, second)
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Prints a line. A reader that has gone away (`| head`) must not keep the fleet from an orderly end.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
