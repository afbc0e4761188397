//! Times, as they are shown.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How long calls took.
#[derive(Debug, Clone, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Calls {
    pub(super) count: usize,
    pub(super) p50_micros: f64,
    pub(super) p99_micros: f64,
    pub(super) max_micros: f64,
}

impl Calls {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
            micros(times.get(at).copied().unwrap_or_default())
        };
        Self { count: times.len(), p50_micros: rank(50), p99_micros: rank(99), max_micros: rank(100) }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {}, p99 {}, max {}", shown(self.p50_micros), shown(self.p99_micros), shown(self.max_micros))
    }
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Microseconds in the unit that suits them.
pub(super) fn shown(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_calls_that_were_made() {
        let calls = Calls::of((1..=200).rev().map(Duration::from_micros).collect());
        let expected = Calls { count: 200, p50_micros: 100.0, p99_micros: 198.0, max_micros: 200.0 };
        assert_eq!((calls.count, calls.p50_micros.round(), calls.p99_micros.round()), (200, 100.0, 198.0));
        assert_eq!(calls.max_micros.round(), expected.max_micros);
        assert_eq!(Calls::of(Vec::new()).p99_micros, 0.0);
        assert_eq!([12.34, 1234.0, 2_500_000.0].map(shown), ["12.3 µs", "1.2 ms", "2.5 s"]);
    }
}
