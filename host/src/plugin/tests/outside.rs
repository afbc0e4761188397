//! What is granted is there, within its bounds; what is not does not exist.

use super::*;
use crate::config::HttpOrigin;
use parti_coordination::Completed;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that this many clients can reach; `answer` says what each gets.
async fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    (listener, origin)
}

/// Reads a request with 10,000 bytes of content; its head.
pub(super) async fn request(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() == 10_000
        {
            return head.to_owned();
        }
        let mut chunk = [0; 4096];
        let length = client.read(&mut chunk).await.unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend(&chunk[..length]);
    }
}

pub(super) async fn answer(client: &mut (impl AsyncWrite + Unpin), head: &str, body: &str) {
    let text = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // A client that has heard enough may be gone.
    let _ = client.write_all(text.as_bytes()).await;
}

pub(super) fn granted(origins: &[&str]) -> Grants {
    Grants { http: origins.iter().map(|origin| HttpOrigin::parse(origin).unwrap()).collect(), ..Grants::default() }
}

fn courier(grants: Grants, limits: Limits) -> Arc<HandlerPlugin> {
    granting("courier", grants, limits)
}

fn granting(name: &str, grants: Grants, limits: Limits) -> Arc<HandlerPlugin> {
    let settings = PluginSettings { grants, ..settings(limits, Map::new()) };
    HandlerPlugin::load(&PluginEngine::new().unwrap(), name, &component(name), settings).unwrap()
}

fn short() -> Limits {
    Limits { call_timeout: Duration::from_secs(3), ..Limits::default() }
}

/// The reason of a message that was rejected.
pub(super) fn rejected(handled: &Handled) -> &str {
    let [Completed::Reject(reason)] = handled.outcome.done.as_slice() else { panic!("{handled:?}") };
    reason
}

#[test]
fn what_is_not_granted_is_not_there_and_the_error_says_how_to_grant_it() {
    let engine = PluginEngine::new().unwrap();
    for (name, key) in [("courier", "{http: [\"https://HOST\"]}"), ("reader", "{directory: PATH}")] {
        let refused = HandlerPlugin::load(&engine, name, &component(name), settings(Limits::default(), Map::new()));
        let refused = refused.unwrap_err().to_string();
        let line = format!("`plugins: {{grants: {{{name}: {key}}}}}` in parti.yaml grants it");
        assert!(refused.contains(&line) && refused.contains("`wasi:"), "{refused}");
    }
}

#[tokio::test]
async fn a_granted_request_is_sent_and_its_answer_is_read() {
    let (listener, origin) = server().await;
    let plugin = courier(granted(&[&origin]), Limits::default());
    let mut instance = open(&plugin).await.unwrap();
    let serving = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let head = request(&mut client).await;
        answer(&mut client, "302 Found\r\nlocation: http://127.0.0.1:1/", "over there").await;
        head
    };
    let address = format!("{origin}/a?b=c#d");
    let batch = [message(1, &address)];
    let (head, handled) = tokio::join!(serving, instance.handle(&batch));
    let handled = handled.unwrap();
    // A redirect is an answer like others.
    assert_eq!(handled.publishes[0].payload, "302 over there");
    assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&format!("\r\nhost: {}", origin.trim_start_matches("http://"))), "{head}");
    assert_eq!((plugin.version().stats().http_requests, plugin.version().stats().http_denied), (1, 0));
}

#[tokio::test]
async fn a_query_without_a_path_is_one_of_the_root() {
    let (listener, origin) = server().await;
    let mut instance = open(&courier(granted(&[&origin]), Limits::default())).await.unwrap();
    let serving = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let head = request(&mut client).await;
        answer(&mut client, "200 OK", "found").await;
        head
    };
    let address = format!("{origin}?b=c");
    let batch = [message(1, &address)];
    let (head, handled) = tokio::join!(serving, instance.handle(&batch));
    assert_eq!(handled.unwrap().publishes[0].payload, "200 found");
    assert!(head.starts_with("POST /?b=c HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_guest_cannot_grow_the_host_with_requests_that_it_never_sends() {
    let plugin = granting("clog", granted(&["https://example.com"]), Limits::default());
    let mut instance = open(&plugin).await.unwrap();
    let handled = instance.handle(&[message(1, "bodies 1"), message(2, "headers 1 30")]).await.unwrap();
    let taken = |at: usize| std::str::from_utf8(&handled.publishes[at].payload).unwrap().parse::<usize>().unwrap();
    // Two chunks of a body may wait.
    assert!(taken(0) > 0 && taken(0) <= 2 * (16 << 10), "{} bytes", taken(0));
    assert_eq!(taken(1), 30_000);
    for more in ["bodies 129", "headers 129 1", "headers 1 33"] {
        let refused = open(&plugin).await.unwrap().handle(&[message(1, more)]).await.unwrap_err();
        assert!(matches!(refused, CallError::Trap { .. }), "{more}: {refused:?}");
    }
}

#[tokio::test]
async fn a_request_to_anywhere_else_is_denied_and_counted() {
    let (listener, origin) = server().await;
    let port = listener.local_addr().unwrap().port();
    // The second is granted, but is a name that leads to this machine.
    let plugin = courier(granted(&["https://*.example.com", &format!("http://127.1:{port}")]), Limits::default());
    let mut instance = open(&plugin).await.unwrap();
    let elsewhere = [
        origin.clone(),
        "https://example.com/".to_owned(),
        "http://a.example.com".to_owned(),
        format!("http://127.1:{port}/"),
        format!("https://a.example.com@127.0.0.1:{port}/"),
    ];
    for (n, address) in elsewhere.iter().enumerate() {
        let handled = instance.handle(&[message(n as u64 + 1, address)]).await.unwrap();
        assert!(rejected(&handled).contains("the host denies requests to"), "{handled:?}");
        assert_eq!(plugin.version().stats().http_denied, n as u64 + 1, "{address}");
    }
    assert!(futures::poll!(Box::pin(listener.accept())).is_pending());
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_guest_its_time_and_nobody_else() {
    let (listener, origin) = server().await;
    let plugin = courier(granted(&[&origin]), short());
    let mut instance = open(&plugin).await.unwrap();
    let batch = [message(1, &origin)];
    let silent = async {
        let (mut client, _) = listener.accept().await.unwrap();
        request(&mut client).await;
        client
    };
    let mut neighbour = open(&load(&PluginEngine::new().unwrap(), Limits::default(), &[])).await.unwrap();
    let mut waiting = Box::pin(instance.handle(&batch));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    // All on one thread: whoever held it would stop the others.
    neighbour.handle(&messages(3)).await.unwrap();
    let (handled, _client) = tokio::join!(waiting, silent);
    assert!(rejected(&handled.unwrap()).contains("no answer from"), "the guest hears of it before it is stopped");
    instance.snapshot().await.unwrap();
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let (listener, origin) = server().await;
    let limits = Limits { http_response_bytes: 1_000, ..Limits::default() };
    let plugin = courier(granted(&[&origin]), limits);
    let mut instance = open(&plugin).await.unwrap();
    let serving = async {
        let (mut client, _) = listener.accept().await.unwrap();
        request(&mut client).await;
        answer(&mut client, "200 OK", &"x".repeat(1_001)).await;
    };
    let batch = [message(1, &origin)];
    let ((), handled) = tokio::join!(serving, instance.handle(&batch));
    let handled = handled.unwrap();
    assert!(rejected(&handled).contains("body size exceeds limit: 1000 bytes"), "{handled:?}");
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let (listener, origin) = server().await;
    let plugin = courier(granted(&[&origin]), Limits::default());
    let mut instance = open(&plugin).await.unwrap();
    let serving = async {
        let (mut client, _) = listener.accept().await.unwrap();
        request(&mut client).await;
        client.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        let mut sent = 0;
        // Until the host has had enough.
        while client.write_all(b"x-more: and more\r\n").await.is_ok() {
            sent += 18;
            assert!(sent < 64 << 20, "{sent} bytes of headers are taken");
        }
    };
    let batch = [message(1, &origin)];
    let ((), handled) = tokio::join!(serving, instance.handle(&batch));
    let handled = handled.unwrap();
    assert!(rejected(&handled).contains("there is no answer from"), "{handled:?}");
}

#[tokio::test]
async fn requests_beyond_those_in_flight_wait_for_their_turn() {
    let (listener, origin) = server().await;
    let plugin = courier(granted(&[&origin]), Limits { http_requests: 1, ..Limits::default() });
    let (mut first, mut second) = (open(&plugin).await.unwrap(), open(&plugin).await.unwrap());
    let serving = async {
        for _ in 0..2 {
            let (mut client, _) = listener.accept().await.unwrap();
            request(&mut client).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert!(futures::poll!(Box::pin(listener.accept())).is_pending(), "one at a time");
            answer(&mut client, "200 OK", "").await;
        }
    };
    let batch = [message(1, &origin)];
    let ((), one, two) = tokio::join!(serving, first.handle(&batch), second.handle(&batch));
    assert_eq!((one.unwrap().publishes.len(), two.unwrap().publishes.len()), (1, 1));
}

#[tokio::test]
async fn a_plugin_sees_the_variables_and_the_directory_that_are_granted_and_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("list"), "a, b").unwrap();
    std::fs::write(folder.path().join("secret"), "c").unwrap();
    let grants = Grants {
        env: vec![("MODE".to_owned(), "fast".to_owned())],
        directory: Some(inside.clone()),
        ..Grants::default()
    };
    let settings = PluginSettings { grants, ..settings(Limits::default(), object(json!({}))) };
    let plugin = HandlerPlugin::load(&PluginEngine::new().unwrap(), "reader", &component("reader"), settings).unwrap();
    let mut instance = open(&plugin).await.unwrap();
    let handled = instance.handle(&[message(1, "list")]).await.unwrap();
    let published: Vec<_> = handled.publishes.iter().map(|publish| publish.payload.clone()).collect();
    assert_eq!(published, ["MODE=fast", "/: a, b"]);
    for escape in ["../secret", "/secret"] {
        let handled = instance.handle(&[message(2, escape)]).await.unwrap();
        assert!(matches!(handled.outcome.done.as_slice(), [Completed::Reject(_)]), "{escape}: {handled:?}");
    }
    assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 1, "nothing is written");
}

#[tokio::test]
async fn a_guest_cannot_leave_the_host_without_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let grants = Grants { directory: Some(folder.path().to_owned()), ..Grants::default() };
    let plugin = granting("reader", grants, Limits::default());
    let handled = open(&plugin).await.unwrap().handle(&[message(1, "hold 20")]).await.unwrap();
    assert_eq!(handled.publishes[0].payload, "20");
    let refused = open(&plugin).await.unwrap().handle(&[message(1, "hold 32")]).await.unwrap_err();
    assert!(matches!(refused, CallError::Trap { .. }), "{refused:?}");
}

#[tokio::test]
async fn what_one_version_did_is_counted_with_what_the_next_does() {
    let engine = PluginEngine::new().unwrap();
    let version = |limits| {
        let settings = PluginSettings { grants: granted(&["https://example.com"]), ..settings(limits, Map::new()) };
        HandlerPlugin::load(&engine, "courier", &component("courier"), settings).unwrap()
    };
    let (taken_back, kept) = (version(Limits::default()), version(short()));
    for plugin in [taken_back, Arc::clone(&kept)] {
        open(&plugin).await.unwrap().handle(&[message(1, "http://localhost:1/")]).await.unwrap();
    }
    assert_eq!((kept.version().stats().http_denied, kept.version().stats().http_requests), (2, 0));
}

#[tokio::test]
async fn a_request_that_reached_nobody_was_not_sent() {
    let (listener, origin) = server().await;
    drop(listener);
    let plugin = courier(granted(&[&origin]), Limits::default());
    let handled = open(&plugin).await.unwrap().handle(&[message(1, &origin)]).await.unwrap();
    assert!(rejected(&handled).contains("ConnectionRefused"), "{handled:?}");
    assert_eq!((plugin.version().stats().http_requests, plugin.version().stats().http_denied), (0, 0));
}
