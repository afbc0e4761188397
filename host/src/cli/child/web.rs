//! What a worker says about itself over HTTP.

use parti_coordination::WorkerState;
use serde::Deserialize;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take. A worker on the same machine needs a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the largest answer that is read.
const MAX_ANSWER: u64 = 8 << 20;

/// A worker at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Answer {
    /// What it is doing.
    pub(in crate::cli) state: WorkerState,
    /// Whether it leads.
    pub(in crate::cli) leads: bool,
    /// Partitions that it owns.
    pub(in crate::cli) owned: usize,
    /// Messages that wait for it.
    pub(in crate::cli) lag: u64,
    /// Messages that it has handled since its start.
    pub(in crate::cli) handled: u64,
    /// Versions of plugins that it has taken up since its start.
    pub(in crate::cli) swaps: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    state: WorkerState,
    is_leader: bool,
    owned_partitions: usize,
    lag: u64,
}

/// Asks the worker at this address; `None` while it does not answer.
pub(in crate::cli) async fn ask(worker: SocketAddr) -> Option<Answer> {
    let asked = async { tokio::try_join!(get(worker, "/status"), get(worker, "/metrics")) };
    let (status, metrics) = timeout(PATIENCE, asked).await.ok()?.ok()?;
    let status: Status = serde_json::from_str(&status).ok()?;
    Some(Answer {
        state: status.state,
        leads: status.is_leader,
        owned: status.owned_partitions,
        lag: status.lag,
        handled: counter(&metrics, "parti_messages_total", r#"verdict="ack""#)?,
        swaps: counter(&metrics, "parti_plugin_swaps_total", r#"result="kept""#)?,
    })
}

/// The metrics of the worker at this address; `None` if it does not answer.
pub(in crate::cli) async fn metrics(worker: SocketAddr) -> Option<String> {
    timeout(PATIENCE, get(worker, "/metrics")).await.ok()?.ok()
}

/// The body of a successful answer. HTTP 1.0, so that it comes in one piece and ends with the connection.
pub(super) async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    body(&answer)
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "not a successful HTTP answer"))
}

fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut status = head.lines().next()?.split(' ');
    (status.next()?.starts_with("HTTP/1.") && status.next()? == "200").then_some(body)
}

/// The value of a counter's series with this label, in the Prometheus text format.
fn counter(metrics: &str, name: &str, label: &str) -> Option<u64> {
    let series = metrics.lines().find(|line| {
        let labels = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
        labels.and_then(|rest| rest.split_once('}')).is_some_and(|(labels, _)| labels.split(',').any(|l| l == label))
    })?;
    series.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_successful_answer_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"), Some("hi"));
        for other in ["", "hi", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 503 no\r\n\r\nhi", "SSH-2.0-x\r\n\r\n"] {
            assert_eq!(body(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_counter_is_found_by_its_name_and_label_alone() {
        let metrics = "# HELP parti_messages_total Deliveries.\n\
                       parti_messages_total_more{verdict=\"ack\"} 1\n\
                       parti_messages_total{verdict=\"reject\",worker_id=\"worker-0\"} 2\n\
                       parti_messages_total{verdict=\"ack\",worker_id=\"worker-0\"} 48211\n";
        assert_eq!(counter(metrics, "parti_messages_total", r#"verdict="ack""#), Some(48_211));
        assert_eq!(counter(metrics, "parti_messages_total", r#"verdict="retry""#), None);
        assert_eq!(
            counter("parti_messages_total{verdict=\"ack\"} NaN", "parti_messages_total", r#"verdict="ack""#),
            None
        );
    }
}
