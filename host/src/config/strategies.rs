//! The keys of `strategy`: which built-in strategy decides, with its options, and the plugin that is asked first.

use super::limits::BatchlessLimits;
use super::problem::Problems;
use super::section::{Fields, Key, Section, Shorthand, section};
use super::types::PluginConfig;
use std::time::Duration;

section! {
    /// Which worker gets which partition: one built-in strategy, which is `consistentHash` where none is named, and maybe a plugin. Beside
    /// a plugin, the built-in one places what the plugin leaves undecided.
    pub struct Strategy {
        /// A hash ring with an exact bound: few partitions move when workers come and go.
        consistent_hash: Option<ConsistentHash> = None => "chosen if no other is";
        /// For weights that differ much: heavy partitions are spread first.
        weighted_consistent_hash: Option<WeightedConsistentHash> = None => "not chosen";
        /// Even by count, whatever the weights. It has no options: write `roundRobin: {}`.
        round_robin: Option<RoundRobin> = None => "not chosen";
        /// A plugin of the kind strategy that the leader asks.
        plugin: Option<PluginStrategy> = None;
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Variant);
    }
}

/// A strategy that is part of the host.
#[derive(Debug, Clone, PartialEq)]
pub enum BuiltIn {
    /// `consistentHash`
    ConsistentHash(ConsistentHash),
    /// `weightedConsistentHash`
    WeightedConsistentHash(WeightedConsistentHash),
    /// `roundRobin`
    RoundRobin,
}

/// How many points a worker has on a ring, and the key that says so.
pub(super) struct Points {
    pub(super) path: &'static str,
    pub(super) virtual_nodes: u32,
}

impl Strategy {
    /// Names of the built-in strategies that are configured; more than one is a mistake.
    #[must_use]
    pub fn named(&self) -> Vec<&'static str> {
        let named = [
            self.consistent_hash.as_ref().map(|_| "consistentHash"),
            self.weighted_consistent_hash.as_ref().map(|_| "weightedConsistentHash"),
            self.round_robin.as_ref().map(|_| "roundRobin"),
        ];
        named.into_iter().flatten().collect()
    }

    /// Points on the ring of what is configured.
    pub(super) fn rings(&self) -> impl Iterator<Item = Points> {
        let plain = self.consistent_hash.as_ref().map(|set| set.virtual_nodes);
        let weighted = self.weighted_consistent_hash.as_ref().map(|set| set.virtual_nodes);
        let points = |path, set: Option<u32>| set.map(|virtual_nodes| Points { path, virtual_nodes });
        points("strategy.consistentHash.virtualNodes", plain)
            .into_iter()
            .chain(points("strategy.weightedConsistentHash.virtualNodes", weighted))
    }

    /// The built-in strategy to use.
    #[must_use]
    pub fn built_in(&self) -> BuiltIn {
        if let Some(set) = &self.weighted_consistent_hash {
            BuiltIn::WeightedConsistentHash(set.clone())
        } else if self.round_robin.is_some() {
            BuiltIn::RoundRobin
        } else {
            BuiltIn::ConsistentHash(self.consistent_hash.clone().unwrap_or_default())
        }
    }
}

section! {
    /// A plugin of the kind strategy. Where it fails, is late or gives a wrong answer, what has an owner stays there, and
    /// the built-in strategy places what has none. `plugin: NAME` is short for `plugin: {name: NAME}`.
    pub struct PluginStrategy {
        /// Name of the plugin: its file in `plugins.directory` without `.wasm`.
        name: String = String::new(), required;
        /// What the plugin gets as its configuration. Any map.
        config: PluginConfig = PluginConfig::default() => "empty";
        /// Longest time of one answer. Partitions that nobody serves wait for one second of it at most.
        call_timeout: Duration = Duration::from_secs(5);
        /// What an instance may use. Keys that are not set here come from `plugins.defaults`.
        limits: BatchlessLimits = BatchlessLimits::default();
    }
    with {
        const SHORTHAND: Option<Shorthand> = Some(Shorthand::Name("name"));
    }
}

section! {
    /// The strategy `consistentHash`: a hash ring with virtual nodes and bounded loads.
    pub struct ConsistentHash {
        /// Points of a worker of average capacity on the ring. More of them keep more partitions where the ring alone would put them, and
        /// cost more.
        virtual_nodes: u32 = 150;
        /// Seed of the ring. Groups with different seeds spread the same partitions differently.
        hash_seed: u64 = 0;
        /// Largest load of a worker where weights differ, as a multiple of its fair share. A wider one moves less when weights change.
        load_bound: f64 = 1.05;
    }
}

section! {
    /// The strategy `weightedConsistentHash`: the heaviest partitions go where there is most room, the others by a hash ring.
    pub struct WeightedConsistentHash {
        /// Points of a worker of average capacity on the ring.
        virtual_nodes: u32 = 150;
        /// Seed of the ring. Groups with different seeds spread the same partitions differently.
        hash_seed: u64 = 0;
        /// A worker with more than this multiple of its fair share is relieved whatever it costs in moves, and one that lacks as much is
        /// filled up.
        overload_threshold: f64 = 1.3;
        /// A partition heavier than this multiple of the mean is placed by room, not by the ring.
        extreme_threshold: f64 = 2.0;
        /// What a partition of weight 0 counts.
        default_weight: u64 = parti_coordination::DEFAULT_WEIGHT;
    }
}

/// The strategy `roundRobin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundRobin;

impl Section for RoundRobin {
    fn keys() -> Vec<Key> {
        Vec::new()
    }

    fn read_fields(_: &Fields<'_>, base: Self, _: &mut Problems) -> Self {
        base
    }
}
