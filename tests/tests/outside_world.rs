//! Plugins that talk to other servers: to those that the operator has granted, and never at the cost of the fleet.

use crate::swapping::{from, swaps};
use parti_tests::{
    Fleet, NatsServer, WebServer, config, copy_plugin, create_stream, eventually, messages, parti, partition, replace,
    subject,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PARTITIONS: usize = 4;

/// The configuration in which this plugin may reach this server.
pub(crate) fn grant(plugin: &str, server: &WebServer) -> Value {
    json!({ "plugins": { "grants": { plugin: { "http": [server.url()] } } } })
}

#[tokio::test]
async fn a_plugin_that_needs_the_network_is_refused_with_the_line_that_would_grant_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, config("nats://127.0.0.1:9", 2, "courier").to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    for command in ["check", "run"] {
        let listen = format!("http.listen=127.0.0.1:{}", parti_tests::free_port());
        let ended = parti(&[command, "--config", path, "--set", &listen]).await;
        let line = "plugins: {grants: {courier: {http: [\"https://HOST\"]}}}";
        ended.assert(2, &["ErrPluginInvalid", "courier", "wasi:http/outgoing-handler", line]);
    }
}

#[tokio::test]
async fn a_worker_does_not_start_where_a_plugin_would_get_less_than_it_is_granted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config("nats://127.0.0.1:9", 2, "relay");
    config["plugins"]["grants"] = json!({
        "relay": { "env": { "REGION": { "from": "PARTI_TESTS_UNSET" } }, "directory": folder.path().join("nowhere") },
    });
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let ended = parti(&["check", "--config", path]).await;
    ended.assert(
        2,
        &["plugins.grants.relay.env.REGION", "PARTI_TESTS_UNSET", "plugins.grants.relay.directory", "nowhere"],
    );
}

#[tokio::test]
async fn a_version_that_needs_more_than_is_granted_does_not_take_the_place_of_the_one_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    replace(folder.path(), "relay.wasm", &copy_plugin("relay"));
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(from(folder.path()));
    fleet.start_settled(1).await;
    replace(folder.path(), "relay.wasm", &copy_plugin("courier"));
    swaps(&fleet, "refused", 1).await;
    fleet.workers[0].logs(&["wasi:http/outgoing-handler", "plugins: {grants: {relay: {http: ["]).await;
    context.publish(subject(0), "plain".into()).await.expect("a publish").await.expect("a confirmation");
    eventually("the version before goes on", async || match messages(&context, "out").await {
        1 => Ok(()),
        count => Err(format!("{count} outputs")),
    })
    .await;
}

#[tokio::test]
async fn a_fleet_takes_its_partitions_from_an_http_endpoint() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    let count = Arc::new(AtomicUsize::new(PARTITIONS));
    let known = Arc::clone(&count);
    let registry = WebServer::start(move |_| {
        let machines: Vec<_> = (0..known.load(Ordering::Relaxed)).map(|n| json!([partition(n)])).collect();
        Some((200, json!({ "machines": machines }).to_string()))
    })
    .await;
    let config = json!({ "url": format!("{}/list?all", registry.url()), "at": "/machines" });
    let source =
        json!({ "static": null, "plugin": { "name": "http-source", "config": config }, "refreshInterval": "1s" });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay")
        .with(json!({ "source": source }))
        .with(grant("http-source", &registry));
    fleet.start_settled(1).await;
    let asked = &registry.requests()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/list?all"));

    count.store(PARTITIONS + 1, Ordering::Relaxed);
    context.publish(subject(PARTITIONS), "plain".into()).await.expect("a publish").await.expect("a confirmation");
    eventually("the message of the new partition is handled", async || match messages(&context, "out").await {
        1 => Ok(()),
        count => Err(format!("{count} outputs")),
    })
    .await;
}

#[tokio::test]
async fn alerts_reach_the_chat_and_who_is_on_call_once_each() {
    let mut server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    let inbox = WebServer::start(|_| Some((202, "ok".to_owned()))).await;
    let config = json!({
        "name": "orders",
        "slack": format!("{}/slack", inbox.url()),
        "pagerduty": { "url": format!("{}/pagerduty", inbox.url()), "routingKey": "R" },
    });
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay")
        .with(json!({ "hooks": { "plugin": "webhook-hooks", "config": config } }))
        .with(grant("webhook-hooks", &inbox))
        .with(json!({
            "degradedBehavior": { "enterThreshold": "2s", "exitThreshold": "1s" },
            "degradedAlert": {
                "infoThreshold": "2s", "warnThreshold": "3s", "errorThreshold": "4s", "criticalThreshold": "5s",
                "alertInterval": "1s",
            },
        }));
    fleet.start_settled(1).await;
    server.kill();
    fleet.workers[0].logs(&["Info: NATS has been away for "]).await;
    eventually("the critical alert has arrived", async || {
        let requests = inbox.requests();
        if requests.iter().any(|request| request.path == "/pagerduty") { Ok(()) } else { Err(format!("{requests:?}")) }
    })
    .await;
    // Alerts are raised every second; two more of the last level are enough to see that they are not told.
    eventually("it is raised again", async || {
        let raised = fleet.sum(r#"parti_degraded_alerts_total{level="Critical"}"#).await;
        if raised >= 3 { Ok(()) } else { Err(format!("{raised} times")) }
    })
    .await;
    let told = |path: &str, text: &str| {
        inbox.requests().iter().filter(|request| request.path == path && request.body.contains(text)).count()
    };
    assert_eq!(told("/slack", "*orders*: Warn: NATS has been away"), 1);
    assert_eq!(told("/slack", "*orders*: Error: NATS has been away"), 1);
    assert_eq!(told("/pagerduty", r#""routing_key":"R""#), 1);
    assert_eq!(told("/pagerduty", "orders: Critical: NATS has been away"), 1);
}

/// One partition's messages lead to a server that never answers, one's to a server that is not granted. Both fail alone.
#[tokio::test]
async fn a_silent_server_and_a_forbidden_one_harm_only_the_partitions_that_ask_them() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_stream(&context, "work", "work.>").await;
    create_stream(&context, "out", "out.>").await;
    create_stream(&context, "dead", "dead.>").await;
    let silent = WebServer::start(|request| (request.path != "/silent").then(|| (200, "hello".to_owned()))).await;
    let forbidden = WebServer::start(|_| Some((200, "hello".to_owned()))).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "courier").with(grant("courier", &silent)).with(json!({
        "handler": { "callTimeout": "1s", "deadLetter": { "subject": "dead.work" } },
    }));
    let before = fleet.start_settled(1).await;
    let addresses = [format!("{}/silent", silent.url()), forbidden.url().to_owned(), silent.url().to_owned()];
    for _ in 0..3 {
        for (n, address) in addresses.iter().enumerate() {
            let published = context.publish(subject(n), address.clone().into()).await.expect("a publish");
            published.await.expect("a confirmation");
        }
    }
    eventually("every message is handled or dead-lettered", async || {
        match (messages(&context, "out").await, messages(&context, "dead").await) {
            (3, 6) => Ok(()),
            counts => Err(format!("{counts:?} outputs and dead letters")),
        }
    })
    .await;
    assert!(forbidden.requests().is_empty());
    let lines = fleet.workers[0].log_lines();
    let port = forbidden.url().rsplit(':').next().expect("a port");
    let denied =
        lines.iter().find(|line| line.message().contains("plugins.grants.courier.http")).expect("a line about it");
    assert_eq!((denied.text("plugin"), denied.text("partition")), ("courier", partition(1).as_str()));
    assert!(denied.message().contains(&format!("http://127.0.0.1:{port}")), "{denied:?}");
    let after = fleet.settled().await;
    assert_eq!(after[0].assignment_version, before[0].assignment_version, "nothing has moved");
    assert_eq!(fleet.sum("parti_heartbeats_failed_total").await, 0);
}
