//! The worker's side: a real process, timed by its own count of handled messages.

use super::BenchArgs;
use crate::cli::child::{Leash, ask, failed, free_addresses, kill, last_lines};
use crate::error::OperatorError;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the worker's count is asked for: often enough against a run of seconds, seldom enough not to weigh.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Bench {
    directory: PathBuf,
    config: PathBuf,
}

impl Bench {
    /// Writes the worker's configuration.
    pub(super) fn prepare(directory: &Path, url: &str, stream: &str, args: &BenchArgs) -> Result<Self, OperatorError> {
        let plugins = fs::canonicalize(&args.plugin_dir).map_err(|error| {
            let why = format!("{}: {error}", args.plugin_dir.display());
            failed(
                "there are no plugins to measure with",
                why,
                "run `make plugins`, or name their directory with --plugin-dir",
            )
        })?;
        let mut partitions = String::new();
        for number in 0..args.partitions {
            // Writing to a `String` cannot fail.
            let _ = writeln!(partitions, "      - {{ keys: [\"p-{number}\"] }}");
        }
        let text = format!(
            "nats: {{ url: \"{url}\" }}\n\
             stream: {{ name: {stream} }}\n\
             source:\n  static:\n    partitions:\n{partitions}\
             handler: {{ plugin: \"{}\" }}\n\
             plugins: {{ directory: \"{}\" }}\n\
             log: {{ level: warn }}\n",
            args.plugin,
            plugins.display(),
        );
        let config = directory.join("parti.yaml");
        fs::write(&config, text).map_err(|error| cannot_write(&config, &error))?;
        Ok(Self { directory: directory.to_owned(), config })
    }

    /// Runs one worker over the whole stream, as a group of its own, and returns its rate in messages per second between the
    /// first and the last twentieth.
    pub(super) async fn rate(&self, leash: &Leash, round: u32, messages: u64) -> Result<f64, OperatorError> {
        let none = |why: &str| failed("there is no free port", why, "run it again");
        let addresses = free_addresses(1).map_err(|error| none(&error.to_string()))?;
        let address = *addresses.first().ok_or_else(|| none("the system gave none"))?;
        let log = self.directory.join(format!("worker-{round}.log"));
        let output = File::create(&log).map_err(|error| cannot_write(&log, &error))?;
        let program = std::env::current_exe().map_err(|error| cannot_write(&self.config, &error))?;
        let mut child = leash
            .command(program)
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .args(["--set", &format!("group=bench-{round}"), "--set", &format!("http.listen={address}")])
            .stderr(output)
            .spawn()
            .map_err(|error| failed("the worker does not start", error.to_string(), "run it again"))?;
        let rate = time(address, messages).await;
        let ended = child.try_wait().ok().flatten();
        kill(&mut child).await;
        rate.ok_or_else(|| {
            let why = match ended {
                Some(status) => format!("it ended ({status}): {}", last_lines(&log, 5)),
                None => format!("it was not through within {PATIENCE:?}: {}", last_lines(&log, 5)),
            };
            failed("the worker did not handle the stream", why, "correct --plugin or --plugin-dir, or lower --messages")
        })
    }
}

async fn time(address: SocketAddr, messages: u64) -> Option<f64> {
    let by = Instant::now() + PATIENCE;
    let (from, until) = (messages / 20, messages - messages / 20);
    let mut first: Option<(u64, Instant)> = None;
    let mut refused = 0;
    while Instant::now() < by {
        match ask(address).await.map(|answer| answer.handled) {
            Some(count) if count >= until => {
                let (begun_with, begun) = first?;
                #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
                return Some((count - begun_with) as f64 / begun.elapsed().as_secs_f64().max(1e-9));
            }
            Some(count) if count >= from => {
                first.get_or_insert((count, Instant::now()));
            }
            Some(_) => {}
            // It does not listen yet, or does not any more.
            None => {
                refused += 1;
                if first.is_some() || refused > 1_000 {
                    return None;
                }
            }
        }
        sleep(LOOK).await;
    }
    None
}

fn cannot_write(path: &Path, error: &io::Error) -> OperatorError {
    failed(format!("{} cannot be used", path.display()), error.to_string(), "free some space, or set TMPDIR")
}
