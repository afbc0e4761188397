//! `parti bench`: one worker against the bare client, on this machine, in one run, as a ratio.
//!
//! Absolute rates say more about the machine than about the software. So both sides read the same stream, alternating, and
//! what counts is the ratio of each round. The worker is a real `parti run` process with a no-op handler; its rate is read
//! from its own metrics. The bare side is the fastest of the ways in which the client library can read.
//!
//! `--fleet` measures something else: how fast many workers agree.

mod fleet;
mod report;
mod worker;

use super::child::{Leash, Server, failed};
use crate::error::OperatorError;
use crate::nats::{
    BareWay, ConnectOptions, Login, Nats, NewStream, Retention, Storage, StreamInfo, bare_fill, bare_rate,
};
use bytes::Bytes;
use clap::Args;
use report::{Report, Round};
use std::path::PathBuf;
use std::time::Duration;

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
    /// Keep the stream in a file instead of in memory
    #[arg(long)]
    file: bool,
    /// Directory of the handler's component
    #[arg(long, value_name = "DIR", env = "PARTI_PLUGINS", default_value = "target/plugins")]
    plugin_dir: PathBuf,
    /// The handler
    #[arg(long, value_name = "PLUGIN", default_value = "noop")]
    plugin: String,
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
    fill(&nats, args).await?;
    let bench = worker::Bench::prepare(directory.path(), server.url(), STREAM, args)?;

    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut bare = Vec::new();
        for way in BareWay::ALL {
            let rate = bare_rate(&nats, STREAM, args.messages, way).await;
            let rate =
                rate.map_err(|error| failed("the bare client cannot read", error.to_string(), "run it again"))?;
            bare.push((way, rate));
        }
        let worker = bench.rate(&leash, number, args.messages).await?;
        let round = Round { bare, worker };
        if !args.json {
            println!("{}", round.line(number));
        }
        rounds.push(round);
    }
    server.stop().await;
    let report = Report::new(rounds);
    if args.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(())
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

/// Publishes the messages, spread evenly over the partitions.
async fn fill(nats: &Nats, args: &BenchArgs) -> Result<(), OperatorError> {
    let cannot = |why: String| failed("the stream cannot be filled", why, "free memory or disk, or lower --messages");
    let new = NewStream {
        name: STREAM.to_owned(),
        subjects: vec!["work.>".to_owned()],
        retention: Retention::Limits,
        storage: if args.file { Storage::File } else { Storage::Memory },
        replicas: 1,
        max_age: None,
        duplicate_window: Duration::from_secs(1),
    };
    StreamInfo::create(nats, &new).await.map_err(|error| cannot(error.to_string()))?;
    let payload = Bytes::from(vec![b'x'; usize::try_from(args.size).unwrap_or_default()]);
    let subject = |number| format!("work.p-{}", number % u64::from(args.partitions));
    bare_fill(nats, args.messages, subject, payload).await.map_err(|error| cannot(error.to_string()))?;
    let stored = StreamInfo::of(nats, STREAM).await.map_err(|error| cannot(error.to_string()))?.last.0;
    if stored == args.messages { Ok(()) } else { Err(cannot(format!("{stored} messages were stored"))) }
}
