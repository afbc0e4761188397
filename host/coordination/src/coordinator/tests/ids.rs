//! Stable IDs: everybody gets one, nobody loses one that is in use, a start that cannot succeed says why.

use super::fleet::{Fleet, Status};
use super::numbers;
use crate::coordinator::*;
use crate::testing::{ms, secs};

#[test]
fn workers_that_start_at_once_all_get_ids_without_fighting_for_each() {
    for (n, tries) in [(20u32, 120), (64, 600)] {
        let mut fleet = Fleet::settled(7, 200, n as usize);
        assert_eq!(numbers(&fleet).len(), n as usize);
        let writes = fleet.writes[&Bucket::StableIds];
        assert!(writes <= tries, "{writes} writes for {n} IDs");
        fleet.run(secs(60));
        assert_eq!(fleet.unsettled(), None);
    }
}

#[test]
fn a_zombie_whose_id_was_taken_gives_way_to_the_new_holder() {
    let mut fleet = Fleet::new(11, 12);
    fleet.change = Box::new(|s| s.worker_id_max = 2);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    let victim = fleet.follower();
    let id = fleet.id(victim);
    fleet.pause(victim);
    fleet.run(secs(40));
    let successor = fleet.start();
    fleet.run(secs(30));
    assert_eq!(fleet.id(successor), id);
    fleet.resume(victim);
    fleet.until(secs(5), "no ID is left for it", |f| f.processes[victim].failure.is_some());
    fleet.settle(secs(10));
    assert_eq!(fleet.id(successor), id);
    assert_eq!(fleet.processes[successor].fenced, 0);
}

#[test]
fn a_start_without_a_free_id_fails_and_names_the_holders() {
    let mut fleet = Fleet::new(12, 12);
    fleet.change = Box::new(|s| s.worker_id_max = 2);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    let late = fleet.start();
    fleet.until(secs(3), "it fails", |f| f.processes[late].failure.is_some());
    let Some(StartFailure::IdsExhausted { holders }) = &fleet.processes[late].failure else { panic!() };
    assert_eq!(holders.len(), 3);
    for (at, (worker, holder)) in holders.iter().enumerate() {
        assert_eq!(worker, &WorkerId::new("worker", u32::try_from(at).unwrap()));
        assert!(holder.starts_with("host pid 1 ("), "{holder}");
    }
    // One dies: three IDs suffice for three workers.
    let victim = fleet.follower();
    fleet.kill(victim);
    fleet.restart(late);
    fleet.settle(secs(30));
    assert_eq!(numbers(&fleet).len(), 3);
}

#[test]
fn an_id_is_not_taken_from_a_worker_that_is_away_for_a_moment() {
    let mut fleet = Fleet::new(24, 12);
    fleet.change = Box::new(|s| s.worker_id_max = 2);
    for _ in 0..3 {
        fleet.start();
    }
    fleet.settle(secs(30));
    for at in 0..3 {
        fleet.disconnect(at);
    }
    let late = fleet.start();
    fleet.run(ms(100));
    for at in 0..3 {
        fleet.reconnect(at);
    }
    fleet.until(secs(3), "it fails", |f| f.processes[late].failure.is_some());
    fleet.run(secs(30));
    assert!(fleet.processes.iter().all(|p| p.fenced == 0));
}

#[test]
fn a_fenced_worker_takes_its_own_id_back_if_it_can() {
    let mut fleet = Fleet::settled(25, 12, 4);
    let victim = fleet.follower();
    let id = fleet.id(victim);
    fleet.pause(victim);
    // Its key expires, and lower numbers become free.
    fleet.run(secs(40));
    for at in fleet.live().into_iter().take(2) {
        fleet.leave(at);
        fleet.run(secs(5));
    }
    fleet.resume(victim);
    fleet.settle(secs(30));
    assert_eq!((fleet.processes[victim].fenced, fleet.id(victim)), (1, id));
}

#[test]
fn a_worker_that_leaves_claims_no_new_id_when_it_is_fenced() {
    let mut fleet = Fleet::settled(27, 30, 3);
    fleet.drain_time = (40_000, 40_000);
    let leaver = fleet.follower();
    let id = fleet.id(leaver);
    fleet.leave(leaver);
    let other = format!("{{\"v\":1,\"claim\":9,\"uuid\":\"{}\",\"host\":\"h\",\"pid\":2}}", uuid::Uuid::nil());
    fleet.put(Bucket::StableIds, &id, Some(other.into_bytes()), Expect::Anything, Lifetime::Forever);
    fleet.until(secs(12), "fenced", |f| f.processes[leaver].fenced == 1);
    fleet.run(secs(5));
    assert_eq!(fleet.processes[leaver].coordinator.worker(), None);
    fleet.until(secs(60), "it is gone", |f| f.processes[leaver].status == Status::Ended);
}

#[test]
fn a_start_that_gets_no_answer_fails_and_says_what_it_waited_for() {
    let mut fleet = Fleet::new(13, 12);
    fleet.mute = true;
    let at = fleet.start();
    fleet.until(secs(31), "it fails", |f| f.processes[at].failure.is_some());
    let failure =
        StartFailure::TimedOut { state: WorkerState::ClaimingId, waiting_for: "answers from NATS about worker IDs" };
    assert_eq!(fleet.processes[at].failure, Some(failure));
}

#[test]
fn a_start_without_a_connection_fails_too_and_the_time_in_which_the_process_was_stopped_does_not_count() {
    for stopped in [Duration::ZERO, secs(60)] {
        let mut coordinator = Coordinator::new(Fleet::new(14, 1).settings(None));
        coordinator.handle_timeout(Now(secs(5)));
        let (mut now, mut action) = (Now(secs(5)), None);
        while action.is_none() {
            let wanted = coordinator.poll_timeout().expect("it waits for its time to be over");
            // In the middle of its start.
            let wakes = if now < Now(secs(15)) && wanted >= Now(secs(15)) { wanted + stopped } else { wanted };
            coordinator.handle_timeout(wakes);
            (now, action) = (wakes, coordinator.poll_action());
        }
        let failure = StartFailure::TimedOut { state: WorkerState::Init, waiting_for: "a connection to NATS" };
        assert_eq!((action, now), (Some(Action::Failed(failure)), Now(secs(35) + stopped)));
    }
}

#[test]
fn a_start_that_fails_gives_its_id_and_the_lead_back() {
    let mut fleet = Fleet::new(15, 12);
    // Its source never answers: it leads, and has nothing to plan.
    fleet.source_fails = true;
    fleet.change = Box::new(|s| s.shutdown_hold = secs(60));
    let at = fleet.start();
    fleet.until(secs(31), "it fails", |f| f.processes[at].failure.is_some());
    let waiting_for = "the leader to publish an assignment";
    let failure = StartFailure::TimedOut { state: WorkerState::WaitingAssignment, waiting_for };
    assert_eq!(fleet.processes[at].failure, Some(failure));
    for (bucket, key) in
        [(Bucket::StableIds, "worker-0"), (Bucket::Election, "leader"), (Bucket::Heartbeats, "heartbeat.worker-0")]
    {
        assert_eq!(fleet.stored(bucket, key), None, "{key}");
    }
    // Where NATS answers no more, it does not wait for that.
    fleet.change = Box::new(|s| s.startup_timeout = secs(31));
    let at = fleet.start();
    fleet.run(secs(25));
    fleet.mute = true;
    fleet.until(secs(31 + 2 - 25) + ms(10), "it fails", |f| f.processes[at].failure.is_some());
}
