//! An HTTP server for plugins to talk to.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a plugin has asked a [`WebServer`].
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// For example `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content, as text.
    pub body: String,
}

/// A server on this machine. It ends when it is dropped.
pub struct WebServer {
    url: String,
    requests: Arc<Mutex<Vec<WebRequest>>>,
    task: JoinHandle<()>,
}

impl WebServer {
    /// Starts a server that answers each request with this status and content, or not at all.
    pub async fn start(answer: impl Fn(&WebRequest) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests: Arc<Mutex<Vec<WebRequest>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&seen), Arc::clone(&answer)));
            }
        });
        Self { url, requests, task }
    }

    /// Where it is: scheme, host and port.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every request so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<WebRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    seen: Arc<Mutex<Vec<WebRequest>>>,
    answer: Arc<impl Fn(&WebRequest) -> Option<(u16, String)>>,
) {
    let Some(request) = read(&mut client).await else { return };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    match answer(&request) {
        Some((status, body)) => {
            let head =
                format!("HTTP/1.1 {status} as told\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // A client that has ended meanwhile needs no answer.
            let _ = client.write_all((head + &body).as_bytes()).await;
        }
        None => std::future::pending().await,
    }
}

/// A request, or nothing from a client that goes away.
async fn read(client: &mut TcpStream) -> Option<WebRequest> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.split("\r\n");
            let mut words = lines.next()?.split(' ').map(str::to_owned);
            let (method, path) = (words.next()?, words.next()?);
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.map_or(0, |(_, length)| length.parse().expect("a number"));
            if body.len() >= length {
                return Some(WebRequest { method, path, headers, body: body.to_owned() });
            }
        }
        if client.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
