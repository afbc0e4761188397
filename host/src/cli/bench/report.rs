//! The figures: ratios first, with their spread.

use super::worker::Measured;
use crate::nats::BareWay;
use serde_json::json;
use std::fmt;

/// Both sides, measured one right after the other.
pub(super) struct Round {
    pub(super) bare: Vec<(BareWay, f64)>,
    pub(super) worker: Measured,
    /// Messages of the stream that the workers pass for each that they handle.
    pub(super) passed: f64,
}

impl Round {
    /// The fastest way of the bare client.
    fn baseline(&self) -> (BareWay, f64) {
        let fastest = self.bare.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        fastest.unwrap_or((BareWay::PullDefault, f64::NAN))
    }

    /// Messages of the stream that the workers passed in a second.
    fn rate(&self) -> f64 {
        self.worker.rate * self.passed
    }

    fn ratio(&self) -> f64 {
        self.rate() / self.baseline().1
    }

    pub(super) fn line(&self, number: u32) -> String {
        let (way, rate) = self.baseline();
        format!(
            "round {number}: workers {:>9.0}/s   bare {rate:>9.0}/s ({way})   ratio {:.2}",
            self.rate(),
            self.ratio()
        )
    }
}

/// All rounds.
pub(super) struct Report {
    rounds: Vec<Round>,
    /// Messages came in while the workers caught up.
    goes_on: bool,
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2));
        Self { least: at(0), median: f64::midpoint(low, high), most: at(sorted.len().saturating_sub(1)) }
    }
}

impl Report {
    pub(super) fn new(rounds: Vec<Round>, goes_on: bool) -> Self {
        Self { rounds, goes_on }
    }

    fn ratios(&self) -> Spread {
        Spread::of(self.rounds.iter().map(Round::ratio))
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let ratios = self.ratios();
        let rounds: Vec<_> = self
            .rounds
            .iter()
            .map(|round| {
                let bare: serde_json::Map<_, _> =
                    round.bare.iter().map(|(way, rate)| (way.to_string(), json!(rate))).collect();
                json!({
                    "worker": round.rate(),
                    "bare": bare,
                    "ratio": round.ratio(),
                    "firstSeconds": round.worker.first.as_secs_f64(),
                    "ownedSeconds": round.worker.owned.as_secs_f64(),
                    "caughtUpSeconds": round.worker.caught_up.as_secs_f64(),
                    "workerMicrosPerMessage": round.worker.worker_cost,
                    "serverMicrosPerMessage": round.worker.server_cost,
                    "peakMemoryBytes": round.worker.memory,
                })
            })
            .collect();
        json!({ "ratio": { "median": ratios.median, "min": ratios.least, "max": ratios.most }, "rounds": rounds })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios = self.ratios();
        let worker = Spread::of(self.rounds.iter().map(Round::rate));
        writeln!(f)?;
        writeln!(f, "messages/s, median (least to most) of {} rounds:", self.rounds.len())?;
        let row = |f: &mut fmt::Formatter<'_>, what: &str, s: &Spread| {
            writeln!(f, "  {what:<28} {:>9.0}   ({:.0} to {:.0})", s.median, s.least, s.most)
        };
        row(f, "parti", &worker)?;
        for way in BareWay::ALL {
            let rates = self.rounds.iter().flat_map(|r| &r.bare).filter(|(w, _)| *w == way).map(|(_, rate)| *rate);
            row(f, &format!("bare client, {way}"), &Spread::of(rates))?;
        }
        let seconds = |of: fn(&Measured) -> std::time::Duration| {
            let spread = Spread::of(self.rounds.iter().map(|round| of(&round.worker).as_secs_f64()));
            format!("{:.2} s ({:.2} to {:.2})", spread.median, spread.least, spread.most)
        };
        writeln!(f, "from the start of the processes to the first message: {}", seconds(|worker| worker.first))?;
        writeln!(f, "from the start of the processes to the last partition: {}", seconds(|worker| worker.owned))?;
        if self.goes_on {
            writeln!(f, "caught up, while messages came in, after: {}", seconds(|worker| worker.caught_up))?;
        }
        let cost = |of: fn(&Measured) -> Option<f64>| {
            let spread = Spread::of(self.rounds.iter().filter_map(|round| of(&round.worker)));
            format!("{:.2} µs ({:.2} to {:.2})", spread.median, spread.least, spread.most)
        };
        writeln!(f, "processor time per handled message, workers: {}", cost(|worker| worker.worker_cost))?;
        writeln!(f, "processor time per handled message, nats-server: {}", cost(|worker| worker.server_cost))?;
        if let Some(memory) = self.rounds.iter().filter_map(|round| round.worker.memory).max() {
            writeln!(f, "most memory of one worker: {} MiB", memory >> 20)?;
        }
        write!(
            f,
            "parti against the fastest bare reader of its round: {:.2} (least {:.2}, most {:.2})",
            ratios.median, ratios.least, ratios.most
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_against_the_fastest_bare_way_of_the_same_round() {
        let round = |slow, fast, worker| Round {
            bare: vec![(BareWay::PullDefault, slow), (BareWay::OrderedPush, fast)],
            worker: Measured { rate: worker / 2.0, ..Measured::default() },
            passed: 2.0,
        };
        let report =
            Report::new(vec![round(50.0, 100.0, 90.0), round(200.0, 10.0, 100.0), round(1.0, 2.0, 2.0)], false);
        let ratios = report.ratios();
        assert_eq!((ratios.least, ratios.median, ratios.most), (0.5, 0.9, 1.0));
    }
}
