//! A worker that cannot work says why within bounded time, each reason in its own words and with its own exit status.

use parti_tests::{Ended, Fleet, NatsServer, config, create_stream, free_port, parti};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

/// What a worker may take that is given two seconds to start, on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// Runs a worker that is expected to give up.
async fn run(config: &Value) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("parti.yaml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let path = path.to_str().expect("a path in UTF-8");
    let listen = format!("http.listen=127.0.0.1:{}", free_port());
    let ended = parti(&[
        "run",
        "--config",
        path,
        "--set",
        "startupTimeout=2s",
        "--set",
        "operationTimeout=2s",
        "--set",
        &listen,
    ])
    .await;
    assert!(ended.took < BOUND, "it took {:?}", ended.took);
    assert!(!ended.output.contains("panicked"), "{}", ended.output);
    ended
}

fn at_port(port: u16) -> Value {
    config(&format!("nats://127.0.0.1:{port}"), 2, "noop")
}

/// A server that says `greeting` to everyone who connects, then listens and says no more.
async fn stub(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(greeting).await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn where_nobody_listens_the_exit_status_is_3() {
    let port = free_port();
    let ended = run(&at_port(port)).await;
    ended.assert(3, &["ErrNATSUnreachable", &format!("127.0.0.1:{port}"), "URL"]);
}

#[tokio::test]
async fn what_is_no_nats_server_is_not_waited_for_for_ever() {
    let silent = stub(b"").await;
    run(&at_port(silent)).await.assert(3, &["ErrNATSUnreachable", &format!("127.0.0.1:{silent}")]);
    let other = stub(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    run(&at_port(other)).await.assert(3, &["ErrNATSUnreachable", "not a NATS server"]);
    let falls_silent = stub(
        br#"INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"headers":true}
"#,
    )
    .await;
    run(&at_port(falls_silent)).await.assert(3, &["ErrNATSUnreachable"]);
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named_with_its_version() {
    let old = stub(
        br#"INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"headers":true,"jetstream":true}
"#,
    )
    .await;
    run(&at_port(old)).await.assert(1, &["ErrNATSTooOld", "2.9.10", "2.10"]);
}

#[tokio::test]
async fn a_server_without_jetstream_is_told_from_one_that_is_not_there() {
    let server = NatsServer::with_config("").await;
    run(&config(&server.url(), 2, "noop")).await.assert(1, &["ErrJetStreamDisabled"]);
}

#[tokio::test]
async fn wrong_credentials_are_refused_at_once_and_never_printed() {
    let server = NatsServer::with_config("jetstream {}\nauthorization { user: fleet, password: right }").await;
    let mut config = config(&server.url(), 2, "noop");
    run(&config).await.assert(3, &["ErrNATSUnauthorized"]);
    config["nats"]["user"] = json!("fleet");
    config["nats"]["password"] = json!("wr0ng-s3cret");
    let ended = run(&config).await;
    ended.assert(3, &["ErrNATSUnauthorized"]);
    assert!(!ended.output.contains("wr0ng-s3cret"), "{}", ended.output);
    config["nats"] = json!({ "url": server.url().replace("//", "//fleet:wr0ng-s3cret@") });
    let ended = run(&config).await;
    ended.assert(3, &["ErrNATSUnauthorized"]);
    assert!(!ended.output.contains("wr0ng-s3cret"), "{}", ended.output);
}

#[tokio::test]
async fn a_missing_stream_is_reported_with_those_that_exist() {
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    let missing = config(&server.url(), 2, "noop");
    run(&missing).await.assert(1, &["ErrStreamNotFound", "\"work\"", "stream.create"]);
    create_stream(&context, "works", "works.>").await;
    create_stream(&context, "orders", "orders.>").await;
    run(&missing).await.assert(1, &["ErrStreamNotFound", "\"work\"", "orders", "works"]);
}

#[tokio::test]
async fn dead_letters_that_no_stream_would_keep_are_a_refusal_to_start() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut config = config(&server.url(), 2, "noop");
    config["handler"]["deadLetter"] = json!({ "subject": "letters.dead" });
    run(&config).await.assert(1, &["ErrDeadLetterUncaptured", "letters.dead"]);
}

#[tokio::test]
async fn a_taken_http_port_is_named() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "noop");
    let port = fleet.start().port;
    fleet.settled().await;
    let path = fleet.config_file();
    let listen = format!("http.listen=127.0.0.1:{port}");
    let ended = parti(&["run", "--config", path.to_str().expect("UTF-8"), "--set", &listen]).await;
    ended.assert(1, &["ErrHTTPListen", &format!("127.0.0.1:{port}"), "http.listen"]);
}

#[tokio::test]
async fn a_worker_without_a_free_id_ends_with_4_and_names_the_holder() {
    let (server, _) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "noop").with(json!({ "workerIdMax": 0 }));
    fleet.start_settled(1).await;
    assert_eq!(fleet.start().exit().await, Some(4));
    let log = fleet.workers[1].log();
    for text in ["ErrStableIDExhausted", "worker-0", "workerIdMax"] {
        assert!(log.contains(text), "no {text} in {log}");
    }
    fleet.settled().await;
}

#[tokio::test]
async fn a_worker_waits_for_a_server_that_comes_up_late() {
    let (mut server, _) = NatsServer::with_streams(&["work"]).await;
    server.kill();
    let mut fleet = Fleet::new(&server, 2, "noop");
    fleet.start().logs(&["cannot be reached yet"]).await;
    server.restart().await;
    fleet.settled().await;
}
