//! Mistakes of operators and programs beside the fleet: values of others under the fleet's own keys, keys that no worker
//! would write, IDs out of range, partitions with odd names, two groups on the same buckets.

use async_nats::jetstream::kv::Store;
use parti_coordination::PartitionId;
use parti_coordination::record::{PlanRecord, decode};
use parti_tests::{Fleet, NatsServer, Producer, Records, Standing, Worker, assert_relayed, eventually, subject};
use serde_json::{Value, json};

const PARTITIONS: usize = 12;

/// What others might write, each with a name.
fn nonsense() -> [(&'static str, Vec<u8>); 6] {
    let huge = json!({ "v": 1, "note": "x".repeat(900 << 10) }).to_string();
    [
        ("broken JSON", br#"{"v": 1, "term": "#.to_vec()),
        ("a newer format", br#"{"v": 99, "term": 1}"#.to_vec()),
        ("another shape", b"[]".to_vec()),
        ("other types", br#"{"v":1,"term":"one","claim":{},"live":7,"partitions":"all"}"#.to_vec()),
        ("900 KiB", huge.into_bytes()),
        ("nothing", Vec::new()),
    ]
}

async fn put(store: &Store, key: &str, value: Vec<u8>) {
    store.put(key, value.into()).await.expect("a write");
}

fn assert_no_panic(fleet: &Fleet) {
    for (number, worker) in fleet.workers.iter().enumerate() {
        assert!(!worker.log().contains("panicked"), "worker {number}: {}", worker.log());
    }
}

/// Waits until some worker has said that the value under this key is not understood.
async fn somebody_names(fleet: &Fleet, key: &str) {
    let names = |worker: &Worker| {
        worker.log_lines().iter().any(|line| {
            line.message() == "A value in a bucket is not of this protocol; it is ignored" && line.text("key") == key
        })
    };
    eventually(&format!("a log line names {key}"), async || {
        if fleet.workers.iter().any(names) { Ok(()) } else { Err("there is none".to_owned()) }
    })
    .await;
}

/// Waits until every worker obeys the plan in force and panics unless everything is where it was, whoever leads.
async fn nothing_has_moved(fleet: &mut Fleet, records: &Records, before: &Standing, after: &str) {
    fleet.settled().await;
    let workers: Vec<_> = fleet.running().into_iter().map(|worker| &fleet.workers[worker]).collect();
    eventually(&format!("everyone obeys one plan after {after}"), async || {
        let value = records.assignments.get("plan").await.map_err(|error| error.to_string())?;
        let plan: PlanRecord = decode(&value.unwrap_or_default()).map_err(|error| error.to_string())?;
        for worker in &workers {
            let status = worker.status().await?;
            if status.assignment_version != plan.version.0 || status.partition_count != PARTITIONS / workers.len() {
                return Err(format!("the plan's version is {}, and {status:?}", plan.version));
            }
        }
        Ok(())
    })
    .await;
    fleet.settled().await;
    let epochs = records.epochs(before.owners.keys()).await;
    assert_eq!(epochs, before.epochs, "after {after}");
}

#[tokio::test]
async fn values_of_others_under_the_fleets_own_keys_are_named_and_move_nothing() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    let statuses = fleet.start_settled(3).await;
    let follower = statuses.iter().find(|status| !status.is_leader).expect("a follower").id().to_owned();
    let records = Records::open(&context).await;
    let before = records.standing().await;

    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 200, 4000, |n| n.to_string());
    let (assignment, heartbeat) = (format!("assignment.{follower}"), format!("heartbeat.{follower}"));
    for (what, value) in nonsense() {
        for (store, key) in [
            (&records.assignments, assignment.as_str()),
            (&records.assignments, "plan"),
            (&records.heartbeats, heartbeat.as_str()),
            (&records.election, "leader"),
        ] {
            let version = fleet.workers[0].status().await.expect("a status").assignment_version;
            put(store, key, value.clone()).await;
            if key == "leader" || key == "plan" {
                // Whoever finds the one or the other gone writes the plan anew, and every assignment with it.
                eventually(&format!("the plan is written anew after {what} under {key}"), async || {
                    let now = fleet.workers[0].status().await?.assignment_version;
                    if now > version { Ok(()) } else { Err(format!("it is still {now}")) }
                })
                .await;
            }
            nothing_has_moved(&mut fleet, &records, &before, &format!("{what} under {key}")).await;
        }
    }
    for key in ["plan", &assignment, &heartbeat, "leader"] {
        somebody_names(&fleet, key).await;
    }
    // Whoever finds the plan overwritten writes it anew, and the assignments with it.
    assert_eq!(records.plan().await, before.owners);
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
    assert_no_panic(&fleet);
}

/// Fields that a later version may add are no reason to distrust a value.
#[tokio::test]
async fn unknown_fields_in_the_fleets_values_are_ignored() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "noop");
    let statuses = fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    for (store, key) in [
        (&records.assignments, "plan".to_owned()),
        (&records.assignments, format!("assignment.{}", statuses[1].id())),
        (&records.heartbeats, format!("heartbeat.{}", statuses[1].id())),
    ] {
        let value = store.get(&key).await.expect("a read").expect("a value");
        let mut value: Value = serde_json::from_slice(&value).expect("JSON");
        value["later"] = json!({ "more": [1, 2, 3] });
        put(store, &key, value.to_string().into_bytes()).await;
        nothing_has_moved(&mut fleet, &records, &before, &key).await;
    }
    for worker in &fleet.workers {
        assert!(!worker.log().contains("not of this protocol"), "{}", worker.log());
    }
}

/// Whoever cannot tell who holds its ID does not use it any longer.
#[tokio::test]
async fn a_worker_whose_claim_is_overwritten_takes_another_id_and_nothing_is_lost() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({ "workerIdTtl": "6s" }));
    let statuses = fleet.start_settled(3).await;
    let victim = statuses.iter().position(|status| !status.is_leader).expect("a follower");
    let id = statuses[victim].id().to_owned();
    let records = Records::open(&context).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 4000, |n| n.to_string());
    put(&records.stable_ids, &id, b"reserved by hand".to_vec()).await;
    fleet.workers[victim].logs(&["claiming afresh", &id]).await;
    somebody_names(&fleet, &id).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let statuses = fleet.settled().await;
    assert_ne!(statuses[victim].id(), id);
    assert_no_panic(&fleet);
}

/// NATS subjects may hold more than the keys that clients allow: whoever publishes to a bucket's stream can write any.
#[tokio::test]
async fn keys_that_no_worker_would_write_are_left_alone() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;
    let before = records.standing().await;
    let buckets = ["parti-stable-ids", "parti-election", "parti-heartbeats", "parti-assignments", "parti-ownership"];
    let long = "k".repeat(900);
    let keys = [
        "größe",
        "a.b.c.d",
        "=x/y",
        "%00",
        "worker-",
        "worker--1",
        "worker-99999999999999999999",
        "worker-0x1",
        "~",
        &long,
        "heartbeat.größe",
        "heartbeat.worker-1.extra",
        "heartbeat.worker-18446744073709551616",
        "assignment.%",
        "assignment.a.b",
        "plan.b",
        "leader.b",
        "Leader",
        "PLAN",
    ];
    for bucket in buckets {
        for key in keys {
            let subject = format!("$KV.{bucket}.{key}");
            context.publish(subject, "?".into()).await.expect("a publish").await.expect("a confirmation");
        }
    }
    // A newcomer reads all of them, and so does a new leader.
    records.election.purge("leader").await.expect("a purge");
    fleet.start_settled(1).await;
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    Producer::start(&context, &subjects, 1000, 1200, |n| n.to_string()).finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    let after = fleet.settled().await;
    assert_eq!(after.iter().map(|status| status.partition_count).collect::<Vec<_>>(), [4, 4, 4]);
    let stayed = records.plan().await.iter().filter(|(name, owner)| before.owners[*name] == **owner).count();
    assert_eq!(stayed, 8, "only the newcomer's share has moved");
    assert_no_panic(&fleet);
}

#[tokio::test]
async fn a_worker_id_out_of_range_is_refused_with_the_keys_that_set_it() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "noop").with(json!({ "workerIdMin": 5, "workerIdMax": 9 }));
    for number in [4, 10, u32::MAX] {
        let worker = fleet.start_as(Some(number));
        assert_eq!(worker.exit().await, Some(2), "{}", worker.log());
        for text in ["workerId", &number.to_string(), "5", "9"] {
            assert!(worker.log().contains(text), "no {text:?} in {}", worker.log());
        }
    }
    let worker = fleet.start_as(Some(9));
    worker.ready().await;
    assert_eq!(worker.status().await.expect("a status").id(), "worker-9");
}

#[tokio::test]
async fn partitions_with_odd_keys_are_worked_on_like_others() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let long = "k".repeat(150);
    let keys: [&[&str]; 14] = [
        &["größe"],
        &["a b"],
        &["a\tb"],
        &["*"],
        &[">"],
        &["a.b"],
        &["a", "b"],
        &["%2E"],
        &["."],
        &["$JS.API"],
        &["=20"],
        &["日本", "🦀"],
        &["-"],
        &[&long],
    ];
    let partitions: Vec<_> = keys.iter().map(|keys| json!({ "keys": keys })).collect();
    let mut fleet =
        Fleet::new(&server, keys.len(), "relay").with(json!({ "source": { "static": { "partitions": partitions } } }));
    fleet.start_settled(2).await;
    let ids: Vec<_> = keys.iter().map(|keys| PartitionId::from_keys(keys).expect("a partition")).collect();
    let subjects: Vec<_> = ids.iter().map(|id| format!("work.{id}")).collect();
    let producer = Producer::start(&context, &subjects, 500, 2800, |n| n.to_string());
    producer.reach(500).await;
    let (_, follower) = fleet.leader_and_follower().await;
    fleet.workers[follower].kill();
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    let records = Records::open(&context).await;
    for id in &ids {
        assert!(records.ownership(&id.record_key()).await.is_some(), "{id}");
    }
}

/// A worker of another group joins the fleet whose buckets it was given, and may not touch its records.
#[tokio::test]
async fn a_worker_of_another_group_on_the_same_buckets_does_not_start_and_nothing_is_lost() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay");
    fleet.start_settled(2).await;
    let buckets = json!({
        "stableIdBucket": "parti-stable-ids", "electionBucket": "parti-election", "heartbeatBucket": "parti-heartbeats",
        "assignmentBucket": "parti-assignments", "ownershipBucket": "parti-ownership", "controlBucket": "parti-control",
    });
    let subjects: Vec<_> = (0..PARTITIONS).map(subject).collect();
    let producer = Producer::start(&context, &subjects, 500, 3000, |n| n.to_string());
    let stranger = fleet.start_with(json!({ "group": "other", "kvBucket": buckets }));
    assert_eq!(stranger.exit().await, Some(2));
    stranger.logs(&["belongs to group \"default\"", "this worker is of group \"other\""]).await;
    producer.finish().await;
    assert_relayed(&context, "work", "out", &subjects).await;
    fleet.settled().await;
    assert_no_panic(&fleet);
}
