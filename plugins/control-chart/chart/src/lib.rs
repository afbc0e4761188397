//! The arithmetic of a control chart: running mean, variance, EWMA, and the limits that a reading may leave.
//!
//! Separate from the plugin so that a native program can go over the same readings and compare. The same readings in the
//! same order give the same bits on every target: only IEEE 754 addition, subtraction, multiplication, division and
//! square root are used, each correctly rounded, and Rust neither reorders nor fuses them.

use serde::{Deserialize, Serialize};

/// When a reading is out of control, and how fast the EWMA forgets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Weight of the newest reading in the EWMA: above 0, at most 1.
    pub lambda: f64,
    /// Distance of the limits from the mean in standard deviations: above 0, at most 100.
    pub sigma: f64,
    /// Readings before the first alarm: at least 2, because fewer have no deviation.
    pub warmup: u64,
}

impl Default for Settings {
    /// Lambda 0.2 and 3 standard deviations are the textbook choice (Montgomery, *Introduction to Statistical Quality
    /// Control*, chapters 6 and 9); 30 readings give a usable estimate of the deviation.
    fn default() -> Self {
        Self { lambda: 0.2, sigma: 3.0, warmup: 30 }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutOfRange {
    /// The setting's name.
    pub setting: &'static str,
    /// What it must be.
    pub range: &'static str,
}

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` must be {}", self.setting, self.range)
    }
}

impl std::error::Error for OutOfRange {}

impl Settings {
    /// These settings, if each is within its range.
    pub fn checked(self) -> Result<Self, OutOfRange> {
        if !(self.lambda > 0.0 && self.lambda <= 1.0) {
            return Err(OutOfRange { setting: "lambda", range: "above 0 and at most 1" });
        }
        if !(self.sigma > 0.0 && self.sigma <= 100.0) {
            return Err(OutOfRange { setting: "sigma", range: "above 0 and at most 100" });
        }
        if self.warmup < 2 {
            return Err(OutOfRange { setting: "warmup", range: "at least 2" });
        }
        Ok(self)
    }
}

/// What is known of a partition's readings. Always finite, so that it survives JSON.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Chart {
    /// How many readings.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The sum of squared distances from the mean.
    pub m2: f64,
    /// Their exponentially weighted moving average.
    pub ewma: f64,
    /// The stream sequence of the last one.
    pub last_sequence: u64,
}

/// A reading outside the limits, which are those of the readings before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The reading's stream sequence.
    pub sequence: u64,
    /// The reading.
    pub value: f64,
    /// The mean of the readings before it.
    pub mean: f64,
    /// Their standard deviation.
    pub sigma: f64,
    /// Their EWMA.
    pub ewma: f64,
    /// The lower limit.
    pub lower: f64,
    /// The upper limit.
    pub upper: f64,
    /// How many readings the limits rest on.
    pub count: u64,
}

/// A reading that is not finite, or so large that the chart would no longer be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite(
    /// The reading.
    pub f64,
);

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the reading {} is not finite, or too large for the chart", self.0)
    }
}

impl std::error::Error for NotFinite {}

impl Chart {
    /// The sample standard deviation; 0 for fewer than two readings.
    pub fn sigma(&self) -> f64 {
        if self.count < 2 { 0.0 } else { (self.m2 / (self.count - 1) as f64).sqrt() }
    }

    /// Judges a reading by those before it, then takes it in, also when it is out of control. A reading that the chart
    /// cannot hold leaves it unchanged.
    ///
    /// Mean and squares: B. P. Welford, *Note on a Method for Calculating Corrected Sums of Squares and Products*,
    /// Technometrics 4 (1962).
    pub fn add(&mut self, settings: &Settings, sequence: u64, value: f64) -> Result<Option<Alarm>, NotFinite> {
        let alarm = self.judge(settings, sequence, value);
        let count = self.count + 1;
        let delta = value - self.mean;
        let mean = self.mean + delta / count as f64;
        let m2 = self.m2 + delta * (value - mean);
        let ewma = if self.count == 0 { value } else { self.ewma + settings.lambda * (value - self.ewma) };
        // With a finite sum of squares the deviation is below 1.4e154, so the next reading's limits are finite too.
        if ![mean, m2, ewma].into_iter().all(f64::is_finite) {
            return Err(NotFinite(value));
        }
        *self = Self { count, mean, m2, ewma, last_sequence: sequence };
        Ok(alarm)
    }

    fn judge(&self, settings: &Settings, sequence: u64, value: f64) -> Option<Alarm> {
        let sigma = self.sigma();
        let (lower, upper) = (self.mean - settings.sigma * sigma, self.mean + settings.sigma * sigma);
        (self.count >= settings.warmup && !(lower..=upper).contains(&value)).then_some(Alarm {
            sequence,
            value,
            mean: self.mean,
            sigma,
            ewma: self.ewma,
            lower,
            upper,
            count: self.count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart_of(readings: &[f64]) -> (Chart, Vec<Alarm>) {
        let (mut chart, mut alarms) = (Chart::default(), Vec::new());
        for (sequence, value) in (1..).zip(readings) {
            alarms.extend(chart.add(&Settings::default(), sequence, *value).unwrap());
        }
        (chart, alarms)
    }

    #[test]
    fn mean_deviation_and_ewma_are_those_of_the_definitions() {
        // Mean 5 and sum of squares 32: the usual example.
        let (chart, _) = chart_of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!((chart.count, chart.mean, chart.last_sequence), (8, 5.0, 8));
        assert!((chart.m2 - 32.0).abs() < 1e-12, "{}", chart.m2);
        assert!((chart.sigma() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12, "{}", chart.sigma());

        // By hand: 10, then 10 + 0.2 × (20 − 10) = 12, then 12 + 0.2 × (7 − 12) = 11.
        let (chart, _) = chart_of(&[10.0, 20.0, 7.0]);
        assert!((chart.ewma - 11.0).abs() < 1e-12, "{}", chart.ewma);
    }

    #[test]
    fn the_arithmetic_gives_these_bits_on_every_target() {
        let mut random = 1u64;
        let readings: Vec<f64> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 40) as f64 / 1000.0
        })
        .take(10_000)
        .collect();
        let (chart, _) = chart_of(&readings);
        // From the same formulas in Python, whose floats are IEEE doubles too.
        assert_eq!(chart.mean.to_bits(), 0x40c0_730d_6561_83a5);
        assert_eq!(chart.m2.to_bits(), 0x424a_f92b_fa01_8eba);
        assert_eq!(chart.ewma.to_bits(), 0x40bb_eb17_80af_5f7b);
    }

    #[test]
    fn an_outlier_raises_an_alarm_only_after_the_warm_up() {
        let mut readings: Vec<f64> = (0..29).map(|n| f64::from(n % 2)).collect();
        readings.push(100.0);
        assert_eq!(chart_of(&readings).1, [], "reading 30 is still warm-up");

        let mut readings: Vec<f64> = (0..30).map(|n| f64::from(n % 2)).collect();
        readings.extend([1.0, 100.0]);
        let (_, alarms) = chart_of(&readings);
        let [alarm] = alarms.as_slice() else { panic!("{alarms:?}") };
        assert_eq!((alarm.sequence, alarm.value, alarm.count), (32, 100.0, 31));
        assert!(alarm.lower < 0.0 && 1.0 < alarm.upper && alarm.upper < 100.0, "{alarm:?}");
    }

    #[test]
    fn a_reading_that_would_break_the_chart_leaves_it_unchanged() {
        let (before, _) = chart_of(&[1.0, 2.0, 3.0]);
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1e200] {
            let mut chart = before;
            assert!(chart.add(&Settings::default(), 4, value).is_err(), "{value}");
            assert_eq!(chart, before);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let good = Settings::default();
        for (settings, name) in [
            (Settings { lambda: 0.0, ..good }, "lambda"),
            (Settings { lambda: 1.1, ..good }, "lambda"),
            (Settings { lambda: f64::NAN, ..good }, "lambda"),
            (Settings { sigma: 0.0, ..good }, "sigma"),
            (Settings { sigma: f64::INFINITY, ..good }, "sigma"),
            (Settings { warmup: 1, ..good }, "warmup"),
        ] {
            assert_eq!(settings.checked().unwrap_err().setting, name);
        }
        assert_eq!(good.checked(), Ok(good));
    }
}
