//! Hooks that log what they are told, one line for each call, after a number that counts the calls of this instance.
//!
//! Configuration: `on`, the words that a line must contain for the call to go wrong, and `how`: `error`, `trap`, `hang` or `bomb`.

use parti_guest::{AlertLevel, Error, Failed, Hooks, Partition, WorkerState, config, log};
use std::time::Duration;

struct Telltale {
    calls: u32,
    on: Option<String>,
    how: String,
}

impl Telltale {
    fn tell(&mut self, line: &str) -> Result<(), Error> {
        self.calls += 1;
        log::info!("told {}: {line}", self.calls);
        if !self.on.as_ref().is_some_and(|on| line.contains(on)) {
            return Ok(());
        }
        match self.how.as_str() {
            "error" => Err(format!("no wish to hear of {line}").into()),
            "hang" => loop {
                std::hint::black_box(());
            },
            "bomb" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            how => panic!("as configured: {how}"),
        }
    }
}

fn ids(partitions: &[Partition]) -> String {
    partitions.iter().map(|partition| partition.id.as_str()).collect::<Vec<_>>().join(",")
}

impl Hooks for Telltale {
    fn open() -> Result<Self, Error> {
        Ok(Self { calls: 0, on: config::get("on"), how: config::get("how").unwrap_or_default() })
    }

    fn on_assignment_changed(&mut self, added: &[Partition], removed: &[Partition]) -> Result<(), Error> {
        self.tell(&format!("assignment +[{}] -[{}]", ids(added), ids(removed)))
    }

    fn on_state_changed(&mut self, from: WorkerState, to: WorkerState) -> Result<(), Error> {
        self.tell(&format!("state {from} to {to}"))
    }

    fn on_error(&mut self, error: &Failed) -> Result<(), Error> {
        let partition = error.partition.as_deref().unwrap_or("none");
        self.tell(&format!("error {} {} partition {partition}: {}", error.code, error.name, error.message))
    }

    fn on_degraded_alert(&mut self, level: AlertLevel, lasted: Duration) -> Result<(), Error> {
        self.tell(&format!("alert {level} after {} s", lasted.as_secs()))
    }
}

parti_guest::export!(Telltale as hooks);
