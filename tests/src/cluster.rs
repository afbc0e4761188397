//! Three nats-servers that are one.

use crate::http::{Answer, get};
use crate::port::free_port;
use crate::server::{NatsServer, jetstream_at};
use crate::wait::eventually;
use async_nats::jetstream::Context;

/// How many servers there are: with three, one may be away.
const SERVERS: usize = 3;

fn server_name(number: usize) -> String {
    format!("n{number}")
}

/// A cluster on this machine, with JetStream on every server.
pub struct NatsCluster {
    servers: Vec<(NatsServer, u16)>,
}

impl NatsCluster {
    /// Starts it and waits until every server is healthy.
    pub async fn start() -> Self {
        let routes: Vec<_> = (0..SERVERS).map(|_| free_port()).collect();
        let known: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let start = async |(number, route): (usize, &u16)| {
            let monitor = free_port();
            let config = format!(
                "server_name: {}\njetstream {{}}\nhttp: \"127.0.0.1:{monitor}\"\n\
                 cluster {{ name: parti, listen: \"127.0.0.1:{route}\", routes: [{}] }}",
                server_name(number),
                known.join(", ")
            );
            (NatsServer::with_config(&config).await, monitor)
        };
        let cluster = Self { servers: futures::future::join_all(routes.iter().enumerate().map(start)).await };
        for number in 0..SERVERS {
            cluster.healthy(number).await;
        }
        cluster
    }

    /// Kills one server and starts it again; returns when it says that it has caught up.
    pub async fn roll(&mut self, number: usize) {
        self.kill(number);
        self.restart(number).await;
        self.healthy(number).await;
    }

    /// Kills one server. Its data stay.
    pub fn kill(&mut self, number: usize) {
        self.servers[number].0.kill();
    }

    /// Starts a server again after a kill; returns when it listens, not when it has caught up.
    pub async fn restart(&mut self, number: usize) {
        self.servers[number].0.restart().await;
    }

    /// The server that leads a stream, if one does and can be asked.
    pub async fn leader(&self, context: &Context, stream: &str) -> Option<usize> {
        let stream = context.get_stream(stream).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        (0..self.servers.len()).find(|number| leader == server_name(*number))
    }

    /// Waits until a server says that it has caught up.
    pub async fn healthy(&self, number: usize) {
        let monitor = self.servers[number].1;
        eventually(&format!("server {number} is healthy"), async || match get(monitor, "/healthz").await? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    }

    /// How many servers there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// Where they listen, separated by commas.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(|(server, _)| server.url()).collect();
        urls.join(",")
    }

    /// A connection to whichever server is there.
    pub async fn jetstream(&self) -> Context {
        jetstream_at(&self.urls()).await
    }
}
