//! `parti check --online` says what a start would say, and changes nothing.

use async_nats::jetstream::{Context, kv, stream};
use futures::TryStreamExt as _;
use parti_tests::{Ended, Fleet, NatsServer, config, create_queue, create_stream, free_port, parti, subject};
use serde_json::{Value, json};
use std::time::Duration;

const DEAD: &str = "dead.letters";

/// A configuration with dead letters.
fn with_dead_letters(server: &NatsServer) -> Value {
    let mut config = config(&server.url(), 2, "noop");
    config["handler"]["deadLetter"] = json!({ "subject": DEAD });
    config
}

/// Runs `parti COMMAND` with this configuration and these further arguments.
async fn with(command: &str, config: &Value, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let ended = parti(&[&[command, "--config", path], arguments].concat()).await;
    assert!(!ended.output.contains("panicked"), "{}", ended.output);
    ended
}

async fn check(config: &Value) -> Ended {
    with("check", config, &["--online", "--set", "operationTimeout=2s"]).await
}

/// The report as JSON.
async fn report(config: &Value, status: i32) -> Value {
    let ended = with("check", config, &["--online", "--json"]).await;
    assert_eq!(ended.status, Some(status), "{}", ended.output);
    serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {}", ended.output))
}

/// A start and a check end with the same status and say these texts.
async fn both_refuse(config: &Value, status: i32, says: &[&str]) {
    let listen = format!("http.listen=127.0.0.1:{}", free_port());
    let set = ["--set", "startupTimeout=2s", "--set", "operationTimeout=2s", "--set", &listen];
    with("run", config, &set).await.assert(status, says);
    check(config).await.assert(status, says);
}

async fn streams(context: &Context) -> Vec<String> {
    let mut names: Vec<String> = context.stream_names().try_collect().await.expect("names");
    names.sort();
    names
}

#[tokio::test]
async fn what_a_worker_would_find_is_told_and_nothing_is_created() {
    let (server, context) = NatsServer::with_streams(&["work", "dead"]).await;
    let mut config = with_dead_letters(&server);
    let found = report(&config, 0).await;
    assert_eq!((&found["ok"], &found["errors"], &found["advice"]), (&json!(true), &json!([]), &json!([])));
    let online = &found["online"];
    assert_eq!((&online["stream"]["isThere"], &online["stream"]["retention"]), (&json!(true), &json!("Limits")));
    assert_eq!(online["deadLetters"], json!([{ "subject": DEAD, "stream": "dead" }]));
    assert_eq!((&online["partitions"], &online["uncovered"]["subjects"]), (&json!(2), &json!(0)));
    let buckets = online["buckets"].as_array().expect("a list");
    assert!(buckets.len() == 8 && buckets.iter().all(|bucket| bucket["isThere"] == json!(false)), "{buckets:?}");

    create_queue(&context, "jobs", "jobs.>", stream::RetentionPolicy::WorkQueue).await;
    config["stream"] = json!({ "name": "jobs", "subjectTemplate": "jobs.{{.PartitionID}}" });
    assert_eq!(report(&config, 0).await["online"]["stream"]["retention"], json!("WorkQueue"));
    // Its template leads past the stream: nothing would ever come.
    config["stream"]["subjectTemplate"] = json!("job.{{.PartitionID}}");
    check(&config).await.assert(0, &["captures jobs.>", "2 of 2 partitions", "job.p-00"]);

    // Not even a stream that a worker would create.
    config["stream"] = json!({ "name": "fresh", "subjectTemplate": "fresh.{{.PartitionID}}", "create": true });
    let found = report(&config, 0).await;
    assert_eq!(found["online"]["stream"]["isThere"], json!(false));
    assert_eq!(streams(&context).await, ["dead", "jobs", "work"]);
    assert_eq!(parti_tests::messages(&context, "dead").await, 0);
}

#[tokio::test]
async fn beside_a_fleet_it_tells_who_is_there_and_disturbs_nobody() {
    let (server, context) = NatsServer::with_streams(&["work", "dead"]).await;
    for subject in [subject(0), "work.stray".to_owned(), "work.p-01.x".to_owned(), "work.stray".to_owned()] {
        context.publish(subject, "x".into()).await.expect("a publish").await.expect("a confirmation");
    }
    let mut fleet = Fleet::new(&server, 2, "noop").with(json!({ "handler": { "deadLetter": { "subject": DEAD } } }));
    fleet.start_settled(2).await;
    let before = streams(&context).await;
    let found = report(&with_dead_letters(&server), 0).await;
    let ids = &found["online"]["ids"];
    assert_eq!((ids["held"].as_array().map(Vec::len), &ids["next"]), (Some(2), &json!("worker-2")));
    let most = json!([{ "subject": "work.stray", "messages": 2 }, { "subject": "work.p-01.x", "messages": 1 }]);
    assert_eq!(found["online"]["uncovered"], json!({ "subjects": 2, "messages": 3, "atLeast": false, "most": most }));
    check(&with_dead_letters(&server)).await.assert(0, &["work.stray: 2", "belong to no partition"]);

    assert_eq!(streams(&context).await, before);
    let statuses = fleet.settled().await;
    assert!(statuses.iter().all(|status| status.state == "Stable"), "{statuses:?}");
    assert_eq!(fleet.sum(r#"parti_plans_published_total{lifecycle="emergency"}"#).await, 0);
}

#[tokio::test]
async fn a_check_refuses_what_a_start_refuses_and_with_the_same_words() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    create_queue(&context, "jobs", "jobs.>", stream::RetentionPolicy::WorkQueue).await;
    let good = config(&server.url(), 2, "noop");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let stream = |value: Value| changed(&|config| config["stream"] = value.clone());
    let missing = stream(json!({ "name": "wrok" }));
    both_refuse(&missing, 1, &["ErrStreamNotFound", "\"wrok\"", "did you mean \"work\"?"]).await;
    both_refuse(&stream(json!({ "name": "work", "mode": "queue" })), 1, &["ErrStreamMode", "mode queue"]).await;
    both_refuse(&stream(json!({ "name": "jobs", "startFrom": "new" })), 1, &["ErrStreamMode", "startFrom"]).await;
    let from = json!({ "name": "work", "startFrom": { "consumer": "nobody" } });
    both_refuse(&stream(from), 2, &["ErrStartConsumerNotFound", "nobody"]).await;
    let letters = changed(&|config| config["handler"]["deadLetter"] = json!({ "subject": "letters.dead" }));
    both_refuse(&letters, 1, &["ErrDeadLetterUncaptured", "letters.dead"]).await;
    let credentials = changed(&|config| config["nats"]["credentials"] = json!("/nowhere/user.creds"));
    both_refuse(&credentials, 2, &["ErrInvalidConfig", "/nowhere/user.creds"]).await;
    let nobody = changed(&|config| config["nats"]["url"] = json!(format!("nats://127.0.0.1:{}", free_port())));
    both_refuse(&nobody, 3, &["ErrNATSUnreachable"]).await;

    // Buckets that a careless hand has made.
    let odd = kv::Config { bucket: "odd".into(), max_age: Duration::from_secs(60), ..Default::default() };
    context.create_key_value(odd).await.expect("a bucket");
    let odd = changed(&|config| config["kvBucket"] = json!({ "ownershipBucket": "odd" }));
    both_refuse(&odd, 1, &["ErrBucketSettings", "max_age"]).await;
    // All that is wrong, and not only the first of it.
    let mut all = letters.clone();
    all["kvBucket"] = json!({ "ownershipBucket": "odd" });
    all["stream"] = json!({ "name": "wrok" });
    check(&all).await.assert(1, &["ErrBucketSettings", "ErrStreamNotFound", "ErrDeadLetterUncaptured", "3 errors"]);
}

#[tokio::test]
async fn ids_that_are_all_held_and_buckets_of_another_group_are_refused_as_a_start_refuses_them() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "noop").with(json!({ "workerIdMax": 0 }));
    fleet.start_settled(1).await;
    let mut full = config(&server.url(), 2, "noop");
    full["workerIdMax"] = json!(0);
    both_refuse(&full, 4, &["ErrStableIDExhausted", "worker-0", "raise workerIdMax"]).await;
    let mut stranger = config(&server.url(), 2, "noop");
    stranger["group"] = json!("other");
    stranger["kvBucket"] = json!({
        "stableIdBucket": "parti-stable-ids", "electionBucket": "parti-election", "heartbeatBucket": "parti-heartbeats",
        "assignmentBucket": "parti-assignments", "ownershipBucket": "parti-ownership", "controlBucket": "parti-control",
    });
    both_refuse(&stranger, 2, &["ErrAnotherGroup", "belongs to group \"default\""]).await;
    fleet.settled().await;
}

#[tokio::test]
async fn what_the_nats_user_may_not_do_is_named() {
    let rights = |rights: &str| {
        format!(
            "jetstream {{}}\nauthorization {{ users: [\n{{ user: admin, password: p }}\n\
             {{ user: fleet, password: p, permissions: {{ {rights} }} }}\n] }}"
        )
    };
    // Those that docs/operating.md lists, and each time some less.
    let all = ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>", "$O.>", "parti.>", "_INBOX.>", "out.>", "dead.>"];
    let cases: [(&[&str], &str, &[&str]); 5] = [
        (&[], "[\"_INBOX.>\", \"parti.>\"]", &["a worker would start"]),
        (&["$JS.FC.>"], "[\"_INBOX.>\", \"parti.>\"]", &["ErrNATSPermission", "$JS.FC.>", "1 error"]),
        (
            &["$KV.>", "$O.>"],
            "[\"_INBOX.>\", \"parti.>\"]",
            &["bucket \"parti-ownership\"", "bucket \"parti-snapshots\"", "8 errors"],
        ),
        (&["dead.>"], "[\"_INBOX.>\", \"parti.>\"]", &["may not publish to dead.letters", "1 error"]),
        (&[], "[\"_INBOX.>\"]", &["comes back to this worker", "subscribe", "1 error"]),
    ];
    for (denied, subscribe, says) in cases {
        let publish: Vec<_> = all.iter().filter(|subject| !denied.contains(subject)).collect();
        let publish = serde_json::to_string(&publish).expect("JSON");
        let server = NatsServer::with_config(&rights(&format!("publish: {publish}, subscribe: {subscribe}"))).await;
        let mut config = with_dead_letters(&server);
        // Whoever may do everything sets the stage.
        let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "p".into());
        let context = async_nats::jetstream::new(admin.connect(server.url()).await.expect("a connection"));
        create_stream(&context, "work", "work.>").await;
        create_stream(&context, "dead", "dead.>").await;
        let mut fleet = Fleet::new(&server, 2, "noop").with(json!({ "nats": { "user": "admin", "password": "p" } }));
        fleet.start_settled(1).await;
        config["nats"]["user"] = json!("fleet");
        config["nats"]["password"] = json!("p");
        let status = if says[0].contains("would start") { 0 } else { 1 };
        check(&config).await.assert(status, says);
        let consumers = context.get_stream("work").await.expect("a stream").consumer_names();
        let left: Vec<String> = consumers.try_collect().await.expect("names");
        assert!(left.len() <= 2, "a check leaves no consumer behind: {left:?}");
    }
}
