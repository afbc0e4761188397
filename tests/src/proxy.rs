//! The network between one worker and its NATS server, which a test can break.

use crate::server::NatsServer;
use std::future::pending;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that are carried at once.
const CHUNK: usize = 16 << 10;

/// A TCP proxy on a port of its own. Connections that it carries end with it.
pub struct Proxy {
    port: u16,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

/// What becomes of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Line {
    is_cut: bool,
    to_server: Flow,
    to_worker: Flow,
    /// How often everything was reset.
    resets: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Passes,
    Stalls,
}

impl Proxy {
    /// Carries connections to this server, also after its restart.
    pub async fn to(server: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (line, state) = watch::channel(Line::default());
        let target = server.port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((worker, _)) = listener.accept().await {
                connections.spawn(carry(worker, target, state.clone()));
            }
        });
        Self { port, line, task }
    }

    /// What a worker takes for its server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Resets every connection; new ones pass.
    pub fn reset(&self) {
        self.line.send_modify(|line| line.resets += 1);
    }

    /// Resets every connection, and new ones as soon as they are made.
    pub fn cut(&self) {
        self.line.send_modify(|line| line.is_cut = true);
    }

    /// Passes nothing more in either direction: connections stand, new ones are accepted, and nothing arrives. Once healed,
    /// what was sent arrives late, as on a network that lost packets for a while.
    pub fn stall(&self) {
        self.line.send_modify(|line| (line.to_server, line.to_worker) = (Flow::Stalls, Flow::Stalls));
    }

    /// The same only for what the worker says: it still hears.
    pub fn mute(&self) {
        self.line.send_modify(|line| line.to_server = Flow::Stalls);
    }

    /// The same only for what the worker is told: it is still heard.
    pub fn deafen(&self) {
        self.line.send_modify(|line| line.to_worker = Flow::Stalls);
    }

    /// Passes everything again.
    pub fn heal(&self) {
        self.line.send_modify(|line| *line = Line { resets: line.resets, ..Line::default() });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut worker: TcpStream, target: u16, mut state: watch::Receiver<Line>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        let _ = worker.set_zero_linger();
        return;
    };
    let _ = (worker.set_nodelay(true), server.set_nodelay(true));
    let resets = state.borrow_and_update().resets;
    let (from_worker, to_worker) = worker.split();
    let (from_server, to_server) = server.split();
    let speaks = pump(from_worker, to_server, state.clone(), |line| line.to_server);
    let hears = pump(from_server, to_worker, state.clone(), |line| line.to_worker);
    let is_reset = tokio::select! {
        _ = state.wait_for(|line| line.is_cut || line.resets != resets) => true,
        () = speaks => false,
        () = hears => false,
    };
    if is_reset {
        let _ = (worker.set_zero_linger(), server.set_zero_linger());
    }
}

/// Carries one direction until its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Line>,
    flow: fn(&Line) -> Flow,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        if state.wait_for(|line| flow(line) == Flow::Passes).await.is_err() {
            pending::<()>().await;
        }
        tokio::select! {
            biased;
            _ = state.changed() => {}
            read = from.read(&mut chunk) => match read {
                Ok(length) if length > 0 && to.write_all(&chunk[..length]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Duration;

    #[tokio::test]
    async fn it_passes_resets_cuts_and_stalls() {
        let server = NatsServer::start().await;
        let proxy = Proxy::to(&server).await;
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port)).await.expect("a connection");
        let greets = async |stream: &mut TcpStream| {
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await.map(|_| greeting)
        };

        let mut passing = connect().await;
        assert_eq!(greets(&mut passing).await.expect("a greeting"), *b"INFO");
        proxy.reset();
        let broken = passing.read_to_end(&mut Vec::new()).await.expect_err("a reset");
        assert_eq!(broken.kind(), ErrorKind::ConnectionReset);
        assert_eq!(greets(&mut connect().await).await.expect("a greeting"), *b"INFO");

        proxy.cut();
        assert!(greets(&mut connect().await).await.is_err());
        proxy.heal();
        proxy.deafen();
        let mut stalled = connect().await;
        let nothing = tokio::time::timeout(Duration::from_millis(300), greets(&mut stalled)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        proxy.heal();
        assert_eq!(greets(&mut stalled).await.expect("a late greeting"), *b"INFO");
    }
}
