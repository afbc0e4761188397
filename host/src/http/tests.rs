//! Real requests over real connections.

use super::readiness::tests::working;
use super::server::{Bounds, serve_within};
use super::*;
use crate::telemetry::WorkerLabel;
use parti_coordination::{Epoch, PartitionId, Position, WorkerState};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Worker(Mutex<Status>);

impl StatusSource for Worker {
    fn status(&self) -> Status {
        self.0.lock().unwrap().clone()
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let id = PartitionId::from_keys(&["tool-07", "chamber 2"]).unwrap();
        vec![PartitionStatus {
            id,
            epoch: Epoch(7),
            position: Position(48_211),
            lag: 12,
            queue: 3,
            attempts: 1,
            phase: "running",
            paused: false,
            problem: None,
        }]
    }
}

/// A worker that is served on a port of its own.
struct Served {
    worker: Arc<Worker>,
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
    runtime: Runtime,
}

fn served() -> Served {
    served_within(super::server::BOUNDS)
}

fn served_within(bounds: Bounds) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let worker = Arc::new(Worker(Mutex::new(working())));
    let name = WorkerLabel::default();
    name.set("worker-3");
    let metrics = Arc::new(Metrics::new(name).unwrap());
    metrics.worker_state.set(4);
    let backend = Backend { worker: worker.clone(), metrics, ready_when_empty: false };
    let listener = runtime.block_on(bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, signal) = oneshot::channel();
    let task = runtime.spawn(serve_within(bounds, listener, backend, async {
        let _ = signal.await;
    }));
    Served { worker, address, shutdown, task, runtime }
}

struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Served {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // A server that never answers fails the test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Everything that the server answers to these bytes until it closes the connection.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        // The server may refuse, and close, before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        String::from_utf8(answer).unwrap()
    }

    fn request(&self, line: &str, headers: &str) -> Answer {
        let answer = self.exchange(&format!("{line} HTTP/1.1\r\nhost: parti\r\n{headers}\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {line}: {answer:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "")
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.worker.0.lock().unwrap());
    }
}

#[test]
fn probes_answer_as_the_guides_say() {
    let served = served();
    let says = |path: &str| {
        let answer = served.get(path);
        (answer.code, answer.body)
    };
    assert_eq!(says("/health/live"), (200, "OK".into()));
    assert_eq!(says("/health/ready"), (200, "OK".into()));
    served.change(|status| status.partition_count = 0);
    assert_eq!(says("/health/ready"), (503, "no assignments".into()));
    served.change(|status| status.state = WorkerState::Shutdown);
    assert_eq!(says("/health/ready"), (503, "not ready".into()));
    assert_eq!(says("/health/live"), (503, "shutting down".into()));
}

#[test]
fn the_status_has_the_fields_of_the_guides_and_the_present_time() {
    let served = served();
    let before = jiff::Timestamp::now().as_second();
    let status = served.get("/status").json();
    assert_eq!(status["workerID"], "worker-3");
    assert_eq!(status["state"], "Stable");
    assert_eq!(status["isLeader"], true);
    assert_eq!(status["assignmentVersion"], 7);
    assert_eq!(status["partitionCount"], 75);
    assert_eq!(status["lifecycle"], "planned_scale");
    let at: jiff::Timestamp = status["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(at.as_second() >= before);
    assert_eq!(status["ownedPartitions"], 74);
    assert_eq!(status["natsConnected"], true);
    assert_eq!(status["degraded"], Value::Null);
    assert_eq!(status["plugins"][0]["kind"], "handler");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptimeSeconds"].is_u64());

    served.change(|status| {
        status.state = WorkerState::ClaimingId;
        status.worker_id = None;
        status.degraded = Some(Degraded { since: "2026-01-02T03:04:05Z".parse().unwrap(), level: None });
    });
    let status = served.get("/status").json();
    assert_eq!((&status["workerID"], &status["state"]), (&Value::Null, &"ClaimingID".into()));
    assert_eq!(status["degraded"], serde_json::json!({"since": "2026-01-02T03:04:05Z", "level": null}));
}

#[test]
fn partitions_are_listed_by_the_id_that_all_commands_take() {
    let listed = served().get("/api/v1/partitions").json();
    let expected = serde_json::json!([
        {"id": "tool-07.chamber%202", "epoch": 7, "position": 48_211, "lag": 12, "queue": 3, "attempts": 1,
         "phase": "running", "paused": false, "problem": null}
    ]);
    assert_eq!(listed, expected);
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    let served = served();
    let text = served.get("/metrics");
    assert!(text.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", text.head);
    assert!(text.body.contains("\nparti_worker_state{worker_id=\"worker-3\"} 4\n"), "{}", text.body);
    let asked = served.request("GET /metrics", "accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(asked.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", asked.head);
    assert!(asked.body.ends_with("# EOF\n"));
}

#[test]
fn a_wrong_path_or_method_is_told_what_is_right() {
    let served = served();
    let unknown = served.get("/healthz/\"x");
    assert_eq!(unknown.code, 404);
    assert_eq!(unknown.json()["error"], "there is nothing at /healthz/\"x");
    for path in unknown.json()["paths"].as_array().unwrap() {
        assert_eq!(served.get(path.as_str().unwrap()).code, 200, "{path}");
    }
    for method in ["POST", "DELETE", "PATCH"] {
        let refused = served.request(&format!("{method} /status"), "");
        assert_eq!(refused.code, 405);
        assert!(refused.head.contains("allow: get,head"), "{}", refused.head);
    }
}

#[test]
fn head_answers_like_get_without_the_body() {
    let served = served();
    for path in ["/health/live", "/health/ready", "/status", "/metrics"] {
        let head = served.request(&format!("HEAD {path}"), "");
        assert_eq!((head.code, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains("content-length: "), "{path}");
    }
}

#[test]
fn what_is_too_large_or_no_http_is_refused() {
    let served = served();
    assert_eq!(served.request("GET /status", "content-length: 65537\r\n").code, 413);
    assert_eq!(served.request("GET /status", &format!("x: {}\r\n", "x".repeat(64 * 1024))).code, 431);
    assert!(served.exchange("\u{16}\u{3}\u{1}\0 this is no HTTP\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert_eq!(served.get("/health/live").code, 200);
}

#[test]
fn a_client_that_dawdles_is_cut_off_and_holds_up_nobody() {
    let short = Duration::from_millis(200);
    let served = served_within(Bounds { head: short, connection: short * 2, connections: 2, ..super::server::BOUNDS });
    let mut slow_head = served.connect();
    slow_head.write_all(b"GET /status HTTP/1.1\r\nhost: ").unwrap();
    let mut silent = served.connect();
    // Both places are taken; this one is served when they are free.
    assert_eq!(served.get("/health/live").code, 200);
    for stream in [&mut slow_head, &mut silent] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes the connection");
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
}

#[test]
fn a_client_that_has_nothing_more_to_say_gets_its_answer() {
    let served = served();
    let mut stream = served.connect();
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: parti\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn serving_ends_at_shutdown_although_a_client_hangs_on() {
    let served = served();
    let _idle = served.connect();
    assert_eq!(served.get("/health/live").code, 200);
    let Served { address, shutdown, task, runtime, .. } = served;
    shutdown.send(()).unwrap();
    runtime.block_on(task).unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn an_address_that_cannot_be_used_says_why_and_what_to_do() {
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (address, why) in [
        (address.as_str(), "another process listens there"),
        ("192.0.2.1:8080", "this machine has no such address"),
        ("8080", "invalid socket address"),
    ] {
        let message = bind(address).await.expect_err(address).to_string();
        let lines: Vec<&str> = message.lines().collect();
        let [what, because, way_out] = lines.as_slice() else { panic!("{message}") };
        assert_eq!(*what, format!("cannot listen for HTTP on {address}"));
        assert!(because.contains(why), "{message}");
        assert!(way_out.contains("`http.listen`"), "{message}");
    }
}
