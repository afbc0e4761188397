//! What the producer publishes: readings of a made-up factory, or the lines of the user's file.

use super::input::{Input, Line};
use bytes::Bytes;
use jiff::Timestamp;
use parti_coordination::{DEFAULT_WEIGHT, InvalidPartition, Partition};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Tools of the factory, and chambers of each tool: 30 partitions.
const TOOLS: usize = 10;
const CHAMBERS: usize = 3;

/// One reading in so many lies far outside the limits.
const OUTLIER_IN: u32 = 500;

/// How far outside, at least and at most.
const OUTLIER: std::ops::Range<f64> = 8.0..12.0;

/// Messages to publish, and the partitions that they belong to.
pub(super) enum Workload {
    /// Readings without end.
    Factory(Box<Factory>),
    /// The lines of a file.
    File(std::vec::IntoIter<Line>, Vec<Partition>),
}

impl Workload {
    pub(super) fn of_file(input: Input) -> Self {
        Self::File(input.lines.into_iter(), input.partitions)
    }

    /// Every partition that messages can belong to.
    pub(super) fn partitions(&self) -> &[Partition] {
        match self {
            Self::Factory(factory) => &factory.partitions,
            Self::File(_, partitions) => partitions,
        }
    }
}

impl Iterator for Workload {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        match self {
            Self::Factory(factory) => Some(factory.reading()),
            Self::File(lines, _) => lines.next(),
        }
    }
}

/// Tools with chambers whose temperature is read.
pub(super) struct Factory {
    partitions: Vec<Partition>,
    random: StdRng,
}

impl Factory {
    /// The same seed gives the same readings.
    ///
    /// # Errors
    /// None: the names are valid.
    pub(super) fn new(seed: u64) -> Result<Self, InvalidPartition> {
        let chambers = (1..=TOOLS).flat_map(|tool| (1..=CHAMBERS).map(move |chamber| (tool, chamber)));
        let named = chambers.map(|(tool, chamber)| {
            Partition::new(vec![format!("tool-{tool:02}"), format!("chamber-{chamber}")], DEFAULT_WEIGHT)
        });
        Ok(Self { partitions: named.collect::<Result<_, _>>()?, random: StdRng::seed_from_u64(seed) })
    }

    /// A chamber keeps its own temperature but for noise. Three uniform numbers make noise that looks normal and, unlike
    /// normal noise, never leaves 3 standard deviations, so that alarms come from outliers.
    fn reading(&mut self) -> Line {
        let partition = self.random.random_range(0..self.partitions.len());
        let level = 20.0 + partition as f64 / 10.0;
        let noise: f64 = (0..3).map(|_| self.random.random_range(-0.5..0.5)).sum();
        let outlier = if self.random.random_ratio(1, OUTLIER_IN) { self.random.random_range(OUTLIER) } else { 0.0 };
        // Three decimals are read back exactly by any parser.
        let payload = format!(r#"{{"value":{:.3},"at":"{}"}}"#, level + noise + outlier, Timestamp::now());
        Line { partition, payload: Bytes::from(payload) }
    }
}
