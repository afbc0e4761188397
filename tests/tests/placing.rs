//! What an operator wants of the placement: drains, pins, dry runs, on a fleet that works meanwhile and loses its leader.

use crate::operator::{json_of, operate};
use parti_tests::{
    Fleet, NatsServer, Producer, Records, assert_relayed, eventually, eventually_is, partition, subject,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PARTITIONS: usize = 24;

/// Workers that have settled, each with the number of its place for its ID.
async fn settled(server: &NatsServer, workers: u32) -> Fleet {
    let mut fleet = Fleet::new(server, PARTITIONS, "relay");
    for number in 0..workers {
        fleet.start_as(Some(number));
    }
    fleet.settled().await;
    fleet
}

fn name(worker: usize) -> String {
    format!("worker-{worker}")
}

/// How many partitions the plan gives to a worker.
fn share(plan: &BTreeMap<String, String>, worker: &str) -> usize {
    plan.values().filter(|owner| *owner == worker).count()
}

#[tokio::test]
async fn a_drain_and_a_pin_hold_across_a_killed_leader_under_load_and_nothing_is_lost() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = settled(&server, 3).await;
    let records = Records::open(&context).await;
    let (leader, drained) = fleet.leader_and_follower().await;
    let stays = 3 - leader - drained;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 1000, 8000, |n| n.to_string());
    producer.reach(1000).await;

    let before = records.plan().await;
    let done = json_of(&fleet, &["drain", &name(drained)]).await;
    assert_eq!(done["answer"]["moved"], json!(share(&before, &name(drained))));
    // Once the command ends, it owns nothing.
    let heartbeat = records.heartbeat(&name(drained)).await;
    assert_eq!(heartbeat.owned, 0);
    let after = records.plan().await;
    let only_its = after.iter().all(|(id, owner)| before[id] == *owner || before[id] == name(drained));
    assert!(only_its && share(&after, &name(drained)) == 0, "{before:?} became {after:?}");
    let pinned = after.iter().find(|(_, owner)| **owner == name(leader)).expect("one of the leader's").0.clone();
    let done = json_of(&fleet, &["pin", &pinned, &name(stays)]).await;
    assert_eq!((&done["answer"]["moved"], &records.plan().await[&pinned]), (&json!(1), &name(stays)));

    let term = records.head().await.term;
    fleet.workers[leader].kill();
    // Asked of nobody in particular: the next leader does it.
    let done = json_of(&fleet, &["rebalance"]).await;
    assert_eq!(done["answer"]["term"], json!(term.0 + 1));
    eventually_is("one has everything", PARTITIONS, async || share(&records.plan().await, &name(stays))).await;
    fleet.start_as(u32::try_from(leader).ok());
    eventually("the one that is back has a share, and the pin holds", async || {
        let plan = records.plan().await;
        let is_so =
            share(&plan, &name(leader)) > 0 && share(&plan, &name(drained)) == 0 && plan[&pinned] == name(stays);
        if is_so { Ok(()) } else { Err(format!("{plan:?}")) }
    })
    .await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
}

#[tokio::test]
async fn a_drained_worker_that_is_restarted_under_its_id_stays_drained_until_it_is_undrained() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = settled(&server, 2).await;
    let records = Records::open(&context).await;
    let (other, drained) = fleet.leader_and_follower().await;
    operate(&fleet, &["drain", &name(drained)]).await.assert(0, &["is drained", "owns nothing any more"]);
    operate(&fleet, &["drain", &name(other)]).await.assert(1, &["last worker", "undrain one"]);
    fleet.workers[drained].terminate();
    assert_eq!(fleet.workers[drained].exit().await, Some(0));
    fleet.start_as(u32::try_from(drained).ok());
    fleet.settled().await;
    assert_eq!(share(&records.plan().await, &name(drained)), 0);

    let status = json_of(&fleet, &["status"]).await;
    let row =
        |worker: usize| status["workers"].as_array().expect("rows").iter().find(|row| row["worker"] == name(worker));
    assert_eq!((&row(drained).unwrap()["drained"], &row(other).unwrap()["drained"]), (&json!(true), &json!(false)));
    let answer = fleet.workers[2].get("/status").await.expect("an answer");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((&answer["drained"], &answer["drainedWorkers"]), (&json!(true), &json!([name(drained)])));

    let done = json_of(&fleet, &["undrain", &name(drained)]).await;
    assert_eq!((&done["drained"], &done["answer"]["moved"]), (&json!([]), &json!(PARTITIONS / 2)));
    fleet.settled().await;
    assert_eq!(share(&records.plan().await, &name(drained)), PARTITIONS / 2);
}

#[tokio::test]
async fn a_dry_run_says_what_the_leader_then_does_and_changes_nothing() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = settled(&server, 2).await;
    let records = Records::open(&context).await;
    let (before, standing) = (records.plan().await, records.standing().await);
    let nothing = operate(&fleet, &["plan"]).await;
    nothing.assert(0, &["0 moves", "1.00 of the mean now, 1.00 then"]);
    assert_eq!(nothing.output.trim_end().lines().last(), Some("nothing was changed"));
    operate(&fleet, &["plan", "--remove", "worker-1"]).await.assert(0, &["12 moves", "removed"]);
    let draft = json_of(&fleet, &["plan", "--add", "1"]).await;
    assert_eq!((records.plan().await, records.standing().await), (before.clone(), standing));

    let mut expected = before;
    for moved in draft["moves"].as_array().expect("moves") {
        let text = |key: &str| moved[key].as_str().expect("a text").to_owned();
        assert_eq!(expected.insert(text("partition"), text("to")), Some(text("from")));
    }
    assert_eq!((&draft["changed"], share(&expected, "worker-2") > 5), (&json!(false), true));
    fleet.start_as(Some(2));
    fleet.settled().await;
    assert_eq!(records.plan().await, expected);
    operate(&fleet, &["rebalance"]).await.assert(0, &["nothing had to move"]);
    assert_eq!(json_of(&fleet, &["refresh"]).await["answer"]["problem"], Value::Null);
}

#[tokio::test]
async fn what_cannot_be_placed_is_refused_and_nothing_is_changed() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 3, "relay");
    for arguments in [&["rebalance"][..], &["drain", "worker-0"], &["plan"], &["status"]] {
        operate(&fleet, arguments).await.assert(1, &["there is no fleet of group", "start a worker"]);
    }
    fleet.start_as(Some(0));
    fleet.start_as(Some(1));
    fleet.settled().await;
    let refused: [(&[&str], &[&str]); 8] = [
        (&["drain", "worker-11"], &["no worker \"worker-11\"", "did you mean worker-1?", "--force"]),
        (&["undrain", "elsewhere"], &["no worker \"elsewhere\"", "worker-0, worker-1"]),
        (&["drain", "worker.*"], &["is no worker", "worker-3"]),
        (&["pin", "p-000", "worker-1"], &["no partition \"p-000\"", "did you mean p-00?"]),
        (&["pin", "p-00", "worker-7"], &["no worker \"worker-7\""]),
        (&["unpin", "a b"], &["is no partition"]),
        (&["plan", "--remove", "worker-9"], &["no worker \"worker-9\""]),
        (&["plan", "--strategy", "alphabetical"], &["strategy"]),
    ];
    for (arguments, said) in refused {
        operate(&fleet, arguments).await.assert(2, said);
    }
    for arguments in [&["drain"][..], &["pin", "p-00"], &["plan", "--add", "-1"], &["rebalance", "--timeout", "soon"]] {
        operate(&fleet, arguments).await.assert(2, &["error:"]);
    }
    let bucket = context.get_key_value("parti-assignments").await.expect("the bucket");
    assert!(bucket.get("placement").await.expect("an answer").is_none());

    // One that is to come may be named, and what somebody else has put there is written over.
    bucket.put("placement", "{".into()).await.expect("a write");
    let done = json_of(&fleet, &["pin", &partition(0), "worker-7", "--force"]).await;
    assert_eq!((&done["answer"]["moved"], &done["pins"]), (&json!(0), &json!({ "p-00": "worker-7" })));
    operate(&fleet, &["drain", "worker-7", "--force"]).await.assert(0, &["worker-7 is drained"]);
    let rows = json_of(&fleet, &["partitions"]).await;
    assert_eq!(rows[0]["pinned"], json!("worker-7"));
    for worker in [0, 1] {
        fleet.workers[worker].kill();
    }
    let later = operate(&fleet, &["rebalance", "--timeout", "1s"]).await;
    assert_eq!(later.status, Some(1));
    assert!(later.output.contains("what was asked stands"), "{}", later.output);
}
