//! `parti bench --fleet`: how fast many workers agree on who does what, and what they cost NATS when nothing happens.
//!
//! All members run in this process, each with its own thread and connection; the nats-server is a real one. They have no data
//! path, so that what is timed is the coordination: until every member has accepted a plan that fits who is there.

use super::BenchArgs;
use crate::cli::child::{Server, failed};
use crate::config::Config;
use crate::error::OperatorError;
use crate::worker::{Glance, Member};
use parti_coordination::WorkerState;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the members are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How long idle traffic is counted.
const IDLE: Duration = Duration::from_secs(10);

/// What was timed, in milliseconds, one value per round.
struct Row {
    what: &'static str,
    times: Vec<f64>,
}

impl Row {
    fn new(what: &'static str) -> Self {
        Self { what, times: Vec::new() }
    }

    fn add(&mut self, time: Duration) {
        self.times.push(time.as_secs_f64() * 1000.0);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times
    }

    fn median(&self) -> f64 {
        let times = self.sorted();
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn worst(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }
}

/// The members that are there, and the server that they share.
struct Fleet<'a> {
    server: &'a Server,
    partitions: usize,
    group: String,
    members: Vec<Member>,
}

pub(super) async fn measure(server: &Server, workers: u32, args: &BenchArgs) -> Result<(), OperatorError> {
    let mut rows = [
        Row::new("cold start: every member stable, all partitions given"),
        Row::new("join of one: all stable on a plan with it"),
        Row::new("graceful leave of one: its partitions given to others"),
        Row::new("kill of a follower: its partitions given to others"),
        Row::new("kill of the leader: its partitions given to others"),
    ];
    let mut idle = None;
    for round in 1..=args.rounds {
        let mut fleet = Fleet {
            server,
            partitions: args.partitions as usize,
            group: format!("bench-{round}"),
            members: Vec::new(),
        };
        let begun = Instant::now();
        for _ in 0..workers {
            fleet.start()?;
        }
        let times = fleet.round(begun, round == 1).await?;
        for (row, time) in rows.iter_mut().zip(times.times) {
            row.add(time);
        }
        idle = idle.or(times.idle);
        if !args.json {
            println!("round {round} of {} done", args.rounds);
        }
        for member in fleet.members {
            member.stop()?;
        }
    }
    print(workers, args, &rows, idle);
    Ok(())
}

/// The times of one round, in the order of the rows, and the idle traffic in messages and bytes per second.
struct Times {
    times: Vec<Duration>,
    idle: Option<(f64, f64)>,
}

impl Fleet<'_> {
    fn config(&self) -> Result<Config, OperatorError> {
        let mut text = format!(
            "group: {}\nnats: {{ url: \"{}\" }}\nworkerIdMax: 1999\nstartupTimeout: 120s\nsource:\n  static:\n    partitions:\n",
            self.group,
            self.server.url()
        );
        for number in 0..self.partitions {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "      - {{ keys: [\"p-{number}\"] }}");
        }
        Config::parse_str(&text).into_runnable()
    }

    fn start(&mut self) -> Result<(), OperatorError> {
        self.members.push(Member::start(self.config()?));
        Ok(())
    }

    async fn round(&mut self, begun: Instant, look_at_idle: bool) -> Result<Times, OperatorError> {
        let mut times = Vec::new();
        self.settled("a cold start").await?;
        times.push(begun.elapsed());
        // The cold start has its own window and starts no cool-down; what follows is a fleet at work.
        let calm = begun + Duration::from_secs(31);
        let mut idle = None;
        if look_at_idle {
            sleep(Duration::from_secs(5)).await;
            idle = self.idle().await;
        }
        tokio::time::sleep_until(calm).await;

        let begun = Instant::now();
        self.start()?;
        self.settled("a join").await?;
        times.push(begun.elapsed());

        let begun = Instant::now();
        let leaver = self.remove(|glance| !glance.leads)?;
        leaver.leave();
        self.settled("a leave").await?;
        times.push(begun.elapsed());
        self.until("the leaver ends", |_| leaver.has_ended()).await?;
        leaver.stop()?;

        for leads in [false, true] {
            let victim = self.remove(|glance| glance.leads == leads)?;
            let begun = Instant::now();
            victim.kill();
            self.settled("a kill").await?;
            times.push(begun.elapsed());
            // A leader that has just begun is succeeded by its lease, not early.
            sleep(Duration::from_secs(6)).await;
        }
        Ok(Times { times, idle })
    }

    fn remove(&mut self, which: impl Fn(&Glance) -> bool) -> Result<Member, OperatorError> {
        let at = self.members.iter().position(|member| which(&member.look()));
        let at = at.ok_or_else(|| failed("the fleet has no leader", "it has just had one", "run it again"))?;
        Ok(self.members.swap_remove(at))
    }

    /// Waits until every member is stable on a plan of exactly these members that gives every partition to one of them.
    async fn settled(&self, what: &str) -> Result<(), OperatorError> {
        self.until(what, |members| {
            let glances: Vec<Glance> = members.iter().map(Member::look).collect();
            let partitions: usize = glances.iter().map(|glance| glance.partitions).sum();
            let agree =
                glances.iter().all(|glance| glance.state == WorkerState::Stable && glance.workers == members.len());
            agree && partitions == self.partitions && glances.iter().filter(|glance| glance.leads).count() == 1
        })
        .await
    }

    async fn until(&self, what: &str, holds: impl Fn(&[Member]) -> bool) -> Result<(), OperatorError> {
        let by = Instant::now() + PATIENCE;
        while !holds(&self.members) {
            if Instant::now() > by {
                let states: Vec<_> = self.members.iter().map(Member::look).collect();
                return Err(failed(
                    format!("{what} took longer than {PATIENCE:?}"),
                    format!("the members show {states:?}"),
                    "run it on an idle machine, or with a smaller --fleet",
                ));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Messages and bytes per second that the server carries while nothing happens, both ways together.
    async fn idle(&self) -> Option<(f64, f64)> {
        let (before, begun) = (self.server.traffic().await?, Instant::now());
        sleep(IDLE).await;
        let (after, time) = (self.server.traffic().await?, begun.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / time;
        Some((rate(before.out_msgs, after.out_msgs), rate(before.in_msgs, after.in_msgs)))
    }
}

fn print(workers: u32, args: &BenchArgs, rows: &[Row], idle: Option<(f64, f64)>) {
    if args.json {
        let rows: Vec<_> =
            rows.iter().map(|row| serde_json::json!({ "what": row.what, "milliseconds": row.times })).collect();
        let (out, into) = idle.unzip();
        let idle = serde_json::json!({ "messagesOutPerSecond": out, "messagesInPerSecond": into });
        println!(
            "{}",
            serde_json::json!({ "workers": workers, "partitions": args.partitions, "rows": rows, "idle": idle })
        );
        return;
    }
    println!("\n{workers} workers, {} partitions, default configuration; {} rounds\n", args.partitions, args.rounds);
    println!("{:<58}{:>12}{:>12}", "", "median", "worst");
    for row in rows {
        println!("{:<58}{:>9.0} ms{:>9.0} ms", row.what, row.median(), row.worst());
    }
    if let Some((out, into)) = idle {
        println!("{:<58}{out:>10.0}/s", "idle: messages out of the server");
        println!("{:<58}{into:>10.0}/s", "idle: messages into the server");
    }
}
