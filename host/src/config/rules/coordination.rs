//! The rules of identity, liveness, windows, degraded mode and strategy.

use super::super::schema::Config;
use super::super::value::show_duration;
use super::{Rule, Severity, breach, when};
use std::collections::HashMap;
use std::time::Duration;

/// The alert levels that are enabled, in order.
fn alert_levels(c: &Config) -> Vec<(&'static str, Duration)> {
    let a = &c.degraded_alert;
    [
        ("degradedAlert.infoThreshold", a.info_threshold),
        ("degradedAlert.warnThreshold", a.warn_threshold),
        ("degradedAlert.errorThreshold", a.error_threshold),
        ("degradedAlert.criticalThreshold", a.critical_threshold),
    ]
    .into_iter()
    .filter(|(_, threshold)| !threshold.is_zero())
    .collect()
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        severity: Severity::Error,
        needs: &["kvBucket", "group"],
        says: "no two buckets share a name",
        broken: |c| {
            let mut seen = HashMap::new();
            let buckets = c.buckets();
            let twice = buckets.all().into_iter().filter_map(|(key, name)| {
                let first = *seen.entry(name).or_insert(key);
                (first != key)
                    .then(|| breach(key, format!("{name:?}, like {first}"), "give each bucket a name of its own"))
            });
            twice.collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["workerIdMin", "workerIdMax"],
        says: "workerIdMin must be at most workerIdMax",
        broken: |c| {
            let todo = format!("lower workerIdMin to {} or less, or raise workerIdMax", c.worker_id_max);
            when(c.worker_id_min > c.worker_id_max, "workerIdMin", c.worker_id_min, todo)
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["workerId", "workerIdMin", "workerIdMax"],
        says: "workerId must lie between workerIdMin and workerIdMax",
        broken: |c| match c.worker_id {
            Some(id) if c.worker_id_min <= c.worker_id_max && !(c.worker_id_min..=c.worker_id_max).contains(&id) => {
                let todo =
                    format!("choose a number from {} to {}, or raise workerIdMax", c.worker_id_min, c.worker_id_max);
                vec![breach("workerId", id, todo)]
            }
            _ => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["heartbeatTtl", "heartbeatInterval"],
        says: "heartbeatTtl must be at least 2 × heartbeatInterval, or one late heartbeat looks like a death",
        broken: |c| {
            let least = c.heartbeat_interval * 2;
            let todo = format!("raise heartbeatTtl to {} or more, or lower heartbeatInterval", show_duration(least));
            when(c.heartbeat_ttl < least, "heartbeatTtl", show_duration(c.heartbeat_ttl), todo)
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["workerIdTtl", "heartbeatTtl", "heartbeatInterval"],
        says: "workerIdTtl must be at least 3 × heartbeatInterval and at least heartbeatTtl, or live workers lose their IDs",
        broken: |c| {
            let least = (c.heartbeat_interval * 3).max(c.heartbeat_ttl);
            let todo = format!("raise workerIdTtl to {} or more", show_duration(least));
            when(c.worker_id_ttl < least, "workerIdTtl", show_duration(c.worker_id_ttl), todo)
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["coldStartWindow", "plannedScaleWindow"],
        says: "coldStartWindow must be at least plannedScaleWindow: a whole fleet takes longer to come up than one worker",
        broken: |c| {
            let todo = format!(
                "raise coldStartWindow to {} or more, or lower plannedScaleWindow",
                show_duration(c.planned_scale_window)
            );
            when(
                c.cold_start_window < c.planned_scale_window,
                "coldStartWindow",
                show_duration(c.cold_start_window),
                todo,
            )
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["emergencyGracePeriod", "heartbeatTtl"],
        says: "emergencyGracePeriod must be at most heartbeatTtl, or suspicion outlasts the proof",
        broken: |c| {
            let todo = format!(
                "lower emergencyGracePeriod to {} or less, or raise heartbeatTtl",
                show_duration(c.heartbeat_ttl)
            );
            when(
                c.emergency_grace_period > c.heartbeat_ttl,
                "emergencyGracePeriod",
                show_duration(c.emergency_grace_period),
                todo,
            )
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["degradedAlert"],
        says: "alert thresholds that are not 0s ascend from Info to Critical",
        broken: |c| {
            let levels = alert_levels(c);
            let falls = levels.iter().zip(levels.iter().skip(1)).filter(|((_, lower), (_, upper))| upper <= lower);
            falls
                .map(|((lower_path, lower), (path, upper))| {
                    let todo = format!(
                        "raise it above {lower_path} ({}), or set it to 0s to disable the level",
                        show_duration(*lower)
                    );
                    breach(path, show_duration(*upper), todo)
                })
                .collect()
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "strategy.consistentHash.loadBound is a ratio from 1 to 10: no bound can hold every worker below the mean",
        broken: |c| {
            let bound = c.strategy.consistent_hash.as_ref().map_or(1.0, |set| set.load_bound);
            let todo = "choose a number such as 1.05 or 1.25";
            when(!(1.0..=10.0).contains(&bound), "strategy.consistentHash.loadBound", bound, todo)
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "strategy.weightedConsistentHash.overloadThreshold is a ratio from 1.1 to 10: less would never let a partition rest",
        broken: |c| {
            let over = c.strategy.weighted_consistent_hash.as_ref().map_or(1.3, |set| set.overload_threshold);
            let path = "strategy.weightedConsistentHash.overloadThreshold";
            when(!(1.1..=10.0).contains(&over), path, over, "choose a number such as 1.3")
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "strategy.weightedConsistentHash.extremeThreshold is a ratio from 1 to 1000: below the mean nothing is extreme",
        broken: |c| {
            let extreme = c.strategy.weighted_consistent_hash.as_ref().map_or(2.0, |set| set.extreme_threshold);
            let path = "strategy.weightedConsistentHash.extremeThreshold";
            when(!(1.0..=1000.0).contains(&extreme), path, extreme, "choose a number such as 2")
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &["strategy"],
        says: "strategy names at most one of consistentHash, weightedConsistentHash and roundRobin: a partition can follow only one",
        broken: |c| {
            let named = c.strategy.named();
            let todo = "keep one of them; the name alone, such as `strategy: roundRobin`, replaces what another file or variable said";
            when(named.len() > 1, "strategy", named.join(" and "), todo)
        },
    },
    Rule {
        severity: Severity::Error,
        needs: &[],
        says: "virtualNodes of a strategy is at most 10000: the ring would not fit into memory",
        broken: |c| {
            let too_many = c.strategy.rings().filter(|ring| ring.virtual_nodes > 10_000);
            too_many.map(|ring| breach(ring.path, ring.virtual_nodes, "150 serves most fleets")).collect()
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["strategy.plugin", "startupTimeout"],
        says: "strategy.plugin.callTimeout above half of startupTimeout lets a slow strategy fail the start of workers",
        broken: |c| match &c.strategy.plugin {
            Some(plugin) => {
                let most = c.startup_timeout / 2;
                let todo = format!("lower it to {} or less, or raise startupTimeout", show_duration(most));
                let time = plugin.call_timeout;
                when(time > most, "strategy.plugin.callTimeout", show_duration(time), todo)
            }
            None => Vec::new(),
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["assignment.minRebalanceInterval", "plannedScaleWindow"],
        says: "assignment.minRebalanceInterval above plannedScaleWindow delays planned changes beyond their window",
        broken: |c| {
            let interval = c.assignment.min_rebalance_interval;
            let todo = format!("lower it to {}, or raise plannedScaleWindow", show_duration(c.planned_scale_window));
            when(interval > c.planned_scale_window, "assignment.minRebalanceInterval", show_duration(interval), todo)
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &[],
        says: "assignment.minRebalanceInterval under 5s lets a restless fleet re-balance all the time",
        broken: |c| {
            let interval = c.assignment.min_rebalance_interval;
            let low = !interval.is_zero() && interval < Duration::from_secs(5);
            when(
                low,
                "assignment.minRebalanceInterval",
                show_duration(interval),
                "raise it to 5s or more outside development",
            )
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["degradedBehavior"],
        says: "degradedBehavior.exitThreshold above enterThreshold keeps a worker degraded long after a short outage",
        broken: |c| {
            let b = &c.degraded_behavior;
            let todo = format!("lower it to {} or less", show_duration(b.enter_threshold));
            when(
                b.exit_threshold > b.enter_threshold,
                "degradedBehavior.exitThreshold",
                show_duration(b.exit_threshold),
                todo,
            )
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["degradedBehavior", "heartbeatTtl"],
        says: "degradedBehavior.recoveryGracePeriod up to heartbeatTtl judges workers that had no time to reconnect",
        broken: |c| {
            let grace = c.degraded_behavior.recovery_grace_period;
            let todo = format!("raise it above {}", show_duration(c.heartbeat_ttl));
            when(grace <= c.heartbeat_ttl, "degradedBehavior.recoveryGracePeriod", show_duration(grace), todo)
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &["workerIdTtl", "heartbeatTtl"],
        says: "workerIdTtl under 2 × heartbeatTtl frees an ID soon after its worker is judged dead",
        broken: |c| {
            let todo = format!("raise it to {} or more", show_duration(c.heartbeat_ttl * 2));
            when(c.worker_id_ttl < c.heartbeat_ttl * 2, "workerIdTtl", show_duration(c.worker_id_ttl), todo)
        },
    },
    Rule {
        severity: Severity::Warning,
        needs: &[],
        says: "virtualNodes of a strategy outside 100 to 300 spreads unevenly, or costs time and memory",
        broken: |c| {
            let odd = c.strategy.rings().filter(|r| r.virtual_nodes > 0 && !(100..=300).contains(&r.virtual_nodes));
            odd.map(|ring| breach(ring.path, ring.virtual_nodes, "150 serves most fleets")).collect()
        },
    },
];
