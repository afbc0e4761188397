//! One simulation over many seeds, on all cores: counts what was run, and says how to replay what failed.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a simulation of one seed went.
pub(crate) struct Run {
    pub(crate) steps: u64,
    /// What was violated, if anything was.
    pub(crate) violation: Option<String>,
}

/// What was run.
pub(crate) struct Tally {
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    pub(crate) took: Duration,
}

/// The seeds that a simulation runs: `PARTI_SEEDS=from..to` in the environment, or the given ones.
pub(crate) fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("PARTI_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PARTI_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// For how long `make soak` wants to run: `PARTI_SOAK_MINUTES` in the environment.
pub(crate) fn soak_minutes() -> Option<u64> {
    std::env::var("PARTI_SOAK_MINUTES").ok().map(|text| text.parse().expect("PARTI_SOAK_MINUTES is a number"))
}

/// Runs a simulation over these seeds. The second argument of `run` says whether to keep a trace and print it in the end: the
/// first seed that fails is run once more with it.
///
/// # Panics
/// If a seed fails, with its number and the command that replays it.
pub(crate) fn sweep(test: &str, seeds: Range<u64>, run: impl Fn(u64, bool) -> Run + Sync) -> Tally {
    sweep_until(test, seeds, None, run)
}

/// The same from one seed on, for as long as told.
pub(crate) fn sweep_for(test: &str, from: u64, time: Duration, run: impl Fn(u64, bool) -> Run + Sync) -> Tally {
    sweep_until(test, from..u64::MAX, Some(time), run)
}

fn sweep_until(test: &str, seeds: Range<u64>, limit: Option<Duration>, run: impl Fn(u64, bool) -> Run + Sync) -> Tally {
    let began = Instant::now();
    let (next, ran, steps) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let is_over =
        || limit.is_some_and(|limit| began.elapsed() >= limit) || failed.lock().is_ok_and(|failed| failed.is_some());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, false)));
                    let violation = match outcome {
                        Ok(run) => {
                            ran.fetch_add(1, Ordering::Relaxed);
                            steps.fetch_add(run.steps, Ordering::Relaxed);
                            run.violation
                        }
                        Err(_) => Some("the core or the simulator has panicked, see above".to_owned()),
                    };
                    if let Some(violation) = violation
                        && let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(other, _)| seed < *other)
                    {
                        *failed = Some((seed, violation));
                    }
                }
            });
        }
    });
    let tally = Tally { seeds: ran.into_inner(), steps: steps.into_inner(), took: began.elapsed() };
    let Some((seed, violation)) = failed.into_inner().expect("no thread holds it any more") else {
        println!(
            "{test}: {} steps over {} seeds ({}..{}), 0 violations, {:.1} s",
            tally.steps,
            tally.seeds,
            seeds.start,
            seeds.start.saturating_add(tally.seeds),
            tally.took.as_secs_f64()
        );
        return tally;
    };
    // Once more, for the trace.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, true)));
    panic!(
        "seed {seed}: {violation}\nreplay: PARTI_SEEDS={seed}..{} cargo test --release -p parti-coordination --lib {test} -- \
         --nocapture",
        seed.saturating_add(1)
    );
}
