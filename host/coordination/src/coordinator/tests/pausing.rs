//! What an operator pauses is told to every worker, whoever leads, and is forgotten by nobody.

use super::*;
use crate::record::{PauseRecord, encode};

fn pause(all: bool, partitions: &[&str]) -> PauseRecord {
    PauseRecord { all, partitions: partitions.iter().map(|id| (*id).into()).collect(), ..PauseRecord::nothing() }
}

fn put(fleet: &mut Fleet, value: Option<Vec<u8>>) {
    fleet.put(Bucket::Assignments, "pause", value, Expect::Anything, Lifetime::Forever);
}

fn set(fleet: &mut Fleet, record: &PauseRecord) {
    put(fleet, Some(encode(record).unwrap().into_bytes()));
}

fn told(fleet: &Fleet) -> Vec<Option<PauseRecord>> {
    let running = fleet.processes.iter().filter(|process| process.status == Status::Running);
    running.map(|process| process.paused.clone()).collect()
}

#[test]
fn every_worker_is_told_what_is_paused_also_one_that_starts_later_and_after_a_change_of_the_leader() {
    let mut fleet = Fleet::settled(1, 30, 3);
    assert_eq!(told(&fleet), vec![Some(PauseRecord::nothing()); 3]);
    let some = pause(false, &["p-1"]);
    set(&mut fleet, &some);
    fleet.run(secs(1));
    assert_eq!(told(&fleet), vec![Some(some.clone()); 3]);

    let leader = fleet.leader();
    fleet.kill(leader);
    fleet.settle(secs(10));
    fleet.start();
    fleet.settle(secs(40));
    assert_eq!(told(&fleet), vec![Some(some); 3]);
    put(&mut fleet, None);
    fleet.run(secs(1));
    assert_eq!(told(&fleet), vec![Some(PauseRecord::nothing()); 3]);
}

#[test]
fn a_value_that_is_none_changes_nothing_and_is_reported() {
    let mut fleet = Fleet::settled(2, 30, 2);
    set(&mut fleet, &pause(true, &[]));
    fleet.run(secs(1));
    for garbage in [&b""[..], b"{", b"\xff", br#"{"v":1,"all":"yes"}"#, br#"{"v":9,"all":false}"#] {
        put(&mut fleet, Some(garbage.to_vec()));
        fleet.run(secs(1));
    }
    assert_eq!(told(&fleet), vec![Some(pause(true, &[])); 2]);
    let reported = |n: &Notice| matches!(n, Notice::Unreadable { key, .. } if key == "pause");
    assert_eq!(fleet.notices.iter().filter(|(_, notice)| reported(notice)).count(), 10);
}

#[test]
fn what_is_paused_stays_so_when_the_bucket_is_lost_until_the_operator_says_otherwise() {
    let mut fleet = Fleet::settled(3, 30, 2);
    set(&mut fleet, &pause(true, &[]));
    fleet.run(secs(1));
    fleet.lose_bucket(Bucket::Assignments);
    fleet.run(secs(60));
    assert_eq!(told(&fleet), vec![Some(pause(true, &[])); 2]);
    set(&mut fleet, &PauseRecord::nothing());
    fleet.run(secs(1));
    assert_eq!(told(&fleet), vec![Some(PauseRecord::nothing()); 2]);
}
