//! A handler that goes wrong at one partition, and counts at the others. State: the count as a JSON number, format `zoo/1`.
//!
//! Configuration: `at`, the partition; `open`, `snapshot` and `close`: `trap` or `refuse` (not `close`); `snapshot` also: `unreadable`, a state
//! that `open` never takes; `nth`: an instance gets one message fewer there before it traps. Messages at that partition: `spin`, no end;
//! `sleep`, a call of the host without end; `bomb`, memory without end; `recurse`, calls without end; `publish`, messages without end; `log`,
//! a line of 100 MB; `answer`, a reason of 100 MB; `series`, a million series of a metric, which is no error. Anything else is counted.

use parti_guest::metrics::Counter;
use parti_guest::{
    CloseReason, Error, Failure, Handler, Message, OpenReason, Partition, Snapshot, Verdict, config, log,
};

const FORMAT: &str = "zoo/1";
const HUGE: usize = 100_000_000;
/// In nanoseconds: longer than any call may take.
const HOUR: u64 = 3_600_000_000_000;

struct Zoo {
    here: bool,
    count: u64,
    /// Messages that this instance has got.
    got: u64,
    nth: Option<u64>,
    series: Counter,
}

fn go_wrong(call: &str) -> Result<(), Error> {
    match config::get(call).as_deref() {
        Some("trap") => panic!("as configured: {call}"),
        Some(_) => Err(format!("as configured: {call}").into()),
        None => Ok(()),
    }
}

impl Handler for Zoo {
    fn open(partition: &Partition, _: OpenReason, from: Option<Snapshot>) -> Result<Self, Error> {
        let here = config::get("at").is_some_and(|at| at == partition.id);
        if here {
            go_wrong("open")?;
        }
        let count = from.map_or(Ok(0), |snapshot| snapshot.read_json(FORMAT))?;
        let nth = config::get("nth").map(|nth| nth.parse()).transpose()?;
        Ok(Self { here, count, got: 0, nth, series: Counter::declare("zoo", "Nothing.", &["n"])? })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        self.got += 1;
        assert!(!self.here || self.nth.is_none_or(|nth| self.got < nth), "as configured: message {}", self.got);
        match message.text()? {
            "spin" if self.here => loop {
                std::hint::black_box(message);
            },
            "sleep" if self.here => wasip2::clocks::monotonic_clock::subscribe_duration(HOUR).block(),
            "bomb" if self.here => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "log" if self.here => log::info!("{}", "x".repeat(HUGE)),
            "answer" if self.here => return Err(Failure::reject("x".repeat(HUGE))),
            "recurse" if self.here => log::info!("{}", recurse(message.sequence)),
            "publish" if self.here => loop {
                // Refused beyond the limits, which this guest does not want to hear.
                let _ = message.publish("out.zoo", "x");
            },
            "series" if self.here => (0..1_000_000).for_each(|n| self.series.inc(&[&n.to_string()])),
            _ => {}
        }
        self.count += 1;
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Error> {
        if self.here && config::get("snapshot").as_deref() == Some("unreadable") {
            return Ok(Some(Snapshot::json("zoo/unreadable", &self.count)?));
        }
        if self.here {
            go_wrong("snapshot")?;
        }
        Ok(Some(Snapshot::json(FORMAT, &self.count)?))
    }

    fn close(&mut self, _: CloseReason) {
        if self.here {
            assert!(go_wrong("close").is_ok(), "closing cannot be refused");
        }
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + frame.iter().sum::<u64>() }
}

parti_guest::export!(Zoo);
