//! The settings of a process: the defaults of the configuration, as a test has changed them.

use super::Fleet;
use crate::coordinator::*;
use crate::strategy::ConsistentHash;
use crate::testing::{ms, secs};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

impl Fleet {
    pub(crate) fn settings(&mut self, preferred: Option<u32>) -> Settings {
        let mut settings = Settings {
            group: "group".into(),
            worker_id_prefix: "worker".into(),
            worker_id_min: 0,
            worker_id_max: 99,
            preferred_number: preferred,
            worker_id_ttl: self.id_lives,
            heartbeat_interval: secs(2),
            heartbeat_ttl: self.heartbeat_lives,
            cold_start_window: secs(30),
            planned_scale_window: secs(10),
            quiet_period: None,
            emergency_grace_period: ms(1500),
            election_timeout: self.lease,
            startup_timeout: secs(30),
            probe_interval: ms(250),
            min_rebalance_threshold: 0.15,
            min_rebalance_interval: secs(10),
            max_partitions: None,
            max_moves_per_plan: None,
            shutdown_hold: Duration::ZERO,
            degraded_behavior: DegradedBehavior {
                enter_threshold: secs(10),
                exit_threshold: secs(5),
                kv_error_threshold: 5,
                kv_error_window: secs(30),
                recovery_grace_period: secs(30),
            },
            degraded_alert: DegradedAlert {
                info_threshold: secs(60),
                warn_threshold: secs(5 * 60),
                error_threshold: secs(15 * 60),
                critical_threshold: secs(30 * 60),
                alert_interval: secs(30),
            },
            allow_empty: false,
            refresh_interval: Duration::ZERO,
            assignment_ttl: self.assignment_lives,
            capacity: 1,
            labels: BTreeMap::new(),
            plugins: BTreeMap::new(),
            uuid: Uuid::from_u64_pair(self.random.below(u64::MAX), self.random.below(u64::MAX)),
            host: "host".into(),
            pid: 1,
            strategy: Arc::new(ConsistentHash::default()),
            strategy_patience: self.strategist.map(|_| super::strategist::PATIENCE),
        };
        (self.change)(&mut settings);
        self.max_partitions = settings.max_partitions;
        self.max_moves = settings.max_moves_per_plan;
        self.hold = settings.shutdown_hold;
        settings
    }
}
