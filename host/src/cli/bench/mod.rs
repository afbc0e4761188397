//! `parti bench`: one worker against the bare client, on this machine, in one run, as a ratio.
//!
//! Absolute rates say more about the machine than about the software. So both sides read the same stream, alternating, and
//! what counts is the ratio of each round. The worker is a real `parti run` process with a no-op handler; its rate is read
//! from its own metrics. The bare side is the fastest of the ways in which the client library can read.
//!
//! `--fleet` measures something else: how fast many workers agree.

mod fleet;
mod latency;
mod process;
mod report;
mod worker;

use super::child::{Leash, Server, failed};
use crate::error::OperatorError;
use crate::nats::{
    BareWay, ConnectOptions, Login, Nats, NewStream, Retention, Storage, StreamInfo, bare_fill, bare_pace, bare_rate,
};
use bytes::Bytes;
use clap::Args;
use report::{Report, Round};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Name of the stream that both sides read.
const STREAM: &str = "bench";

/// What `parti bench` takes.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Measure the coordination of this many workers in one process instead: cold start, join, leave, kill, idle traffic
    #[arg(long, value_name = "WORKERS", value_parser = clap::value_parser!(u32).range(2..=1_000))]
    fleet: Option<u32>,
    /// Messages in the stream
    #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1_000..=50_000_000))]
    messages: u64,
    /// Bytes of payload in each message
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    size: u32,
    /// Partitions over which the messages are spread
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    partitions: u32,
    /// Rounds; each measures both sides
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Workers that share the partitions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Only so many of the partitions belong to the workers; the rest of the stream is not theirs
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    own: Option<u32>,
    /// Publish so many messages a second while the workers catch up, and tell how long that takes
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Measure how long a message takes instead, at so many a second, against the bare client doing the same
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..=1_000_000), conflicts_with_all = ["fleet", "rate", "json"])]
    latency: Option<u64>,
    /// With --latency: until what the handler publishes is heard, instead of until it has handled the message
    #[arg(long, requires = "latency")]
    published: bool,
    /// With --latency: with partitions whose handler never gets done with this payload, against without them
    #[arg(long, value_name = "PAYLOAD", requires = "latency", conflicts_with = "published")]
    stuck: Option<String>,
    /// How many partitions are stuck with --stuck
    #[arg(long, value_name = "PARTITIONS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    stuck_partitions: u32,
    /// Keep the stream in a file instead of in memory
    #[arg(long)]
    file: bool,
    /// Directory of the handler's component
    #[arg(long, value_name = "DIR", env = "PARTI_PLUGINS", default_value = "target/plugins")]
    plugin_dir: PathBuf,
    /// The handler [default: noop; relay with --published]
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs) -> Result<(), OperatorError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| failed("there are no threads", error.to_string(), "raise the limit (ulimit -u)"))?;
    runtime.block_on(Box::pin(measure(args)))
}

async fn measure(args: &BenchArgs) -> Result<(), OperatorError> {
    let directory = tempfile::Builder::new().prefix("parti-bench-").tempdir();
    let directory = directory.map_err(|error| failed("there is no room", error.to_string(), "set TMPDIR"))?;
    let leash = Leash::new()?;
    let server = Server::start(directory.path(), &leash).await?;
    if let Some(workers) = args.fleet {
        fleet::measure(&server, workers, args).await?;
        server.stop().await;
        return Ok(());
    }
    let nats = connect(server.url()).await?;
    create(&nats, STREAM, "work.>", args.file).await?;
    let bench = worker::Bench::prepare(directory.path(), server.url(), server.process(), STREAM, args)?;
    if let Some(rate) = args.latency {
        latency::measure(server.url(), &leash, &bench, args, rate).await?;
        server.stop().await;
        return Ok(());
    }
    fill(&nats, args).await?;
    let published = Arc::new(AtomicU64::new(args.messages));
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut bare = Vec::new();
        for way in BareWay::ALL {
            let rate = bare_rate(&nats, STREAM, args.messages, way).await;
            let rate =
                rate.map_err(|error| failed("the bare client cannot read", error.to_string(), "run it again"))?;
            bare.push((way, rate));
        }
        let load = args.rate.map(|rate| {
            let (nats, published, partitions) = (nats.clone(), Arc::clone(&published), u64::from(args.partitions));
            let payload = payload(args);
            AbortOnDropHandle::new(tokio::spawn(async move {
                bare_pace(&nats, rate, partitions, || payload.clone(), &published).await
            }))
        });
        let worker = bench.round(&leash, number, &published).await?;
        drop(load);
        let round = Round { bare, worker, passed: args.passed() };
        if !args.json {
            println!("{}", round.line(number));
        }
        rounds.push(round);
    }
    server.stop().await;
    let report = Report::new(rounds, args.rate.is_some());
    if args.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(())
}

impl BenchArgs {
    fn plugin(&self) -> &str {
        let default = if self.published { "relay" } else { "noop" };
        self.plugin.as_deref().unwrap_or(default)
    }

    /// Partitions that the workers have.
    fn owned(&self) -> u32 {
        self.own.map_or(self.partitions, |own| own.min(self.partitions))
    }

    /// Of so many messages of the stream, how many are the workers'.
    fn handled(&self, messages: u64) -> u64 {
        let (all, own) = (u64::from(self.partitions), u64::from(self.owned()));
        messages / all * own + (messages % all).min(own)
    }

    /// Messages of the stream that are passed for each that is handled.
    fn passed(&self) -> f64 {
        f64::from(self.partitions) / f64::from(self.owned())
    }
}

async fn connect(url: &str) -> Result<Nats, OperatorError> {
    let options = ConnectOptions {
        servers: vec![url.to_owned()],
        login: Login::Anonymous,
        tls: None,
        name: "parti bench".to_owned(),
        operation_timeout: Duration::from_secs(10),
    };
    let connected = Nats::connect(options).await;
    connected.map_err(|error| {
        failed("the nats-server cannot be used", error.to_string(), "set NATS_SERVER to 2.10 or later")
    })
}

async fn create(nats: &Nats, name: &str, subject: &str, file: bool) -> Result<(), OperatorError> {
    let new = NewStream {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        retention: Retention::Limits,
        storage: if file { Storage::File } else { Storage::Memory },
        replicas: 1,
        max_age: None,
        duplicate_window: Duration::from_secs(120),
    };
    let made = StreamInfo::create(nats, &new).await;
    made.map(drop).map_err(|error| failed("the stream cannot be made", error.to_string(), "run it again"))
}

/// The stream for outputs.
async fn output_stream(nats: &Nats, prefix: &str) -> Result<(), OperatorError> {
    create(nats, "outputs", &format!("{prefix}.>"), false).await
}

fn payload(args: &BenchArgs) -> Bytes {
    Bytes::from(vec![b'x'; args.size as usize])
}

/// Publishes the messages, spread evenly over the partitions.
async fn fill(nats: &Nats, args: &BenchArgs) -> Result<(), OperatorError> {
    let cannot = |why: String| failed("the stream cannot be filled", why, "free memory or disk, or lower --messages");
    let subject = |number| format!("work.p-{}", number % u64::from(args.partitions));
    bare_fill(nats, args.messages, subject, payload(args)).await.map_err(|error| cannot(error.to_string()))?;
    let stored = StreamInfo::of(nats, STREAM).await.map_err(|error| cannot(error.to_string()))?.last.0;
    if stored == args.messages { Ok(()) } else { Err(cannot(format!("{stored} messages were stored"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn the_workers_share_of_the_stream_is_counted_exactly() {
        let args = Line::parse_from(["bench", "--partitions", "10", "--own", "3"]).args;
        let counted = |messages: u64| (0..messages).filter(|number| number % 10 < 3).count() as u64;
        assert!((0..50).all(|messages| args.handled(messages) == counted(messages)));
        assert_eq!(Line::parse_from(["bench", "--partitions", "10", "--own", "30"]).args.handled(7), 7);
    }
}
