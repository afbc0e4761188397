//! Degraded mode: when it begins, what it says, what it leaves alone, when it ends.

use super::fleet::{Fleet, Status};
use crate::WorkerState;
use crate::coordinator::*;
use crate::testing::{ms, secs};
use std::time::Duration;

fn states(fleet: &Fleet) -> Vec<WorkerState> {
    fleet.processes.iter().map(|p| p.coordinator.state()).collect()
}

fn alerts(fleet: &Fleet, at: usize) -> Vec<(AlertLevel, Duration)> {
    let said = fleet.processes[at].degraded.iter();
    said.filter_map(|action| match action {
        Action::DegradedAlert { level, lasted } => Some((*level, *lasted)),
        _ => None,
    })
    .collect()
}

#[test]
fn a_lost_connection_is_degraded_mode_after_its_threshold_and_moves_nothing() {
    let mut fleet = Fleet::settled(50, 30, 3);
    fleet.run(secs(40));
    let (before, plans) = (fleet.owners(), fleet.plans.len());
    (0..3).for_each(|at| fleet.disconnect(at));
    fleet.run(ms(9_900));
    assert_eq!(states(&fleet), [WorkerState::Stable; 3]);
    fleet.run(ms(200));
    assert_eq!(states(&fleet), [WorkerState::Degraded; 3]);
    assert_eq!(fleet.owners(), before);
    fleet.run(secs(20));
    (0..3).for_each(|at| fleet.reconnect(at));
    fleet.run(ms(4_900));
    assert_eq!(states(&fleet), [WorkerState::Degraded; 3], "not before all has gone well for the exit threshold");
    fleet.settle(secs(5));
    // Through the time in which nobody is judged and beyond it.
    fleet.run(secs(60));
    assert_eq!((fleet.owners(), fleet.moved, fleet.unsettled()), (before, 0, None));
    // New leaders write their terms; nothing else is published.
    assert!(fleet.plans[plans..].windows(2).all(|pair| pair[0].term < pair[1].term));
    for process in &fleet.processes {
        let [Action::DegradedEntered { outage, lasted }, Action::DegradedLeft { lasted: in_all }] =
            &process.degraded[..]
        else {
            panic!("{:?}", process.degraded)
        };
        assert_eq!((*outage, *lasted), (Outage::Disconnected, secs(10)));
        assert!((secs(35)..secs(40)).contains(in_all), "{in_all:?}");
        assert_eq!(process.coordinator.outage(), None);
    }
}

#[test]
fn a_short_interruption_is_no_degraded_mode_and_a_row_of_errors_is_one() {
    let mut fleet = Fleet::settled(51, 30, 3);
    fleet.run(secs(40));
    let before = fleet.owners();
    (0..3).for_each(|at| fleet.disconnect(at));
    fleet.run(secs(9));
    (0..3).for_each(|at| fleet.reconnect(at));
    fleet.settle(secs(8));
    assert!(fleet.processes.iter().all(|p| p.degraded.is_empty()));
    // Connections stand, and nothing is answered.
    fleet.run(secs(30));
    fleet.mute = true;
    fleet.until(secs(30), "everyone is degraded", |f| states(f) == [WorkerState::Degraded; 3]);
    let entered = &fleet.processes[0].degraded[0];
    assert!(matches!(entered, Action::DegradedEntered { outage: Outage::Errors(5), .. }), "{entered:?}");
    fleet.run(secs(60));
    fleet.mute = false;
    fleet.settle(secs(20));
    fleet.run(secs(60));
    assert_eq!((fleet.owners(), fleet.moved, fleet.unsettled()), (before, 0, None));
}

#[test]
fn alerts_come_when_their_thresholds_are_crossed_and_again_after_each_interval() {
    let mut fleet = Fleet::settled(52, 30, 1);
    fleet.disconnect(0);
    fleet.run(secs(31 * 60));
    use AlertLevel::*;
    let at = |level| {
        alerts(&fleet, 0)
            .into_iter()
            .filter(|(l, _)| *l == level)
            .map(|(_, lasted)| lasted.as_secs())
            .collect::<Vec<_>>()
    };
    assert_eq!(at(Info), (60..300).step_by(30).collect::<Vec<_>>());
    assert_eq!(at(Warn), (300..900).step_by(30).collect::<Vec<_>>());
    assert_eq!(at(Error), (900..1800).step_by(30).collect::<Vec<_>>());
    assert_eq!(at(Critical), [1800, 1830, 1860]);
}

#[test]
fn a_level_without_a_threshold_raises_no_alert_and_a_crossed_one_is_raised_at_once() {
    let mut fleet = Fleet::new(53, 30);
    fleet.change = Box::new(|s| {
        s.degraded_alert = DegradedAlert {
            info_threshold: secs(2),
            warn_threshold: Duration::ZERO,
            error_threshold: secs(20),
            critical_threshold: Duration::ZERO,
            alert_interval: secs(300),
        };
    });
    fleet.start();
    fleet.settle(secs(30));
    fleet.disconnect(0);
    fleet.run(secs(200));
    assert_eq!(alerts(&fleet, 0), [(AlertLevel::Info, secs(10)), (AlertLevel::Error, secs(20))]);
}

#[test]
fn after_degraded_mode_nobody_is_judged_until_the_recovery_grace_period_is_over() {
    let mut fleet = Fleet::settled(54, 30, 4);
    fleet.run(secs(40));
    (0..4).for_each(|at| fleet.disconnect(at));
    fleet.run(secs(30));
    let dead = fleet.follower();
    fleet.kill(dead);
    fleet.live().into_iter().for_each(|at| fleet.reconnect(at));
    fleet.until(secs(10), "degraded mode is over", |f| {
        f.live().into_iter().all(|at| f.processes[at].coordinator.state() != WorkerState::Degraded)
    });
    fleet.run(secs(29));
    assert_eq!(fleet.moved, 0);
    fleet.settle(secs(10));
    assert_eq!(fleet.processes[dead].status, Status::Dead);
}

#[test]
fn one_worker_cut_off_while_the_others_are_well_is_replaced_and_comes_back_with_nothing_of_the_old() {
    let mut fleet = Fleet::settled(55, 30, 3);
    fleet.run(secs(40));
    let cut = fleet.follower();
    fleet.disconnect(cut);
    fleet.until(secs(10), "its partitions have moved", |f| f.moved == 10);
    assert_eq!(fleet.has(cut).len(), 10, "what it works on is frozen, and fenced by its records");
    fleet.run(secs(20));
    assert_eq!(fleet.processes[cut].coordinator.state(), WorkerState::Degraded);
    fleet.reconnect(cut);
    fleet.until(secs(2), "it hears that it was declared dead", |f| f.processes[cut].fenced == 1);
    assert!(matches!(fleet.processes[cut].degraded.last(), Some(Action::DegradedLeft { .. })));
    fleet.settle(secs(60));
}
