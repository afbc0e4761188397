//! A nats-server of a test's own.

use crate::artifacts::nats_server;
use crate::port::free_port;
use crate::process::Process;
use crate::stream::create_stream;
use crate::wait::eventually;
use async_nats::ServerAddr;
use async_nats::jetstream::{self, Context};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// How long a client of a test waits for one answer before it asks again.
const REQUEST: Duration = Duration::from_secs(5);

/// A nats-server on a free port with a folder of its own; both are gone when it is dropped.
pub struct NatsServer {
    port: u16,
    process: Process,
    folder: TempDir,
}

impl NatsServer {
    /// With JetStream, which keeps its data in files.
    pub async fn start() -> Self {
        Self::with_config("jetstream {}").await
    }

    /// The same with file streams, each for the subjects that begin with its name, and a connection.
    pub async fn with_streams(names: &[&str]) -> (Self, Context) {
        let server = Self::start().await;
        let context = server.jetstream().await;
        for name in names {
            create_stream(&context, name, &format!("{name}.>")).await;
        }
        (server, context)
    }

    /// With these lines of configuration.
    pub async fn with_config(config: &str) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        let listen = format!("listen: \"127.0.0.1:{port}\"\n{config}\n");
        fs::write(folder.path().join("nats.conf"), listen).expect("a configuration file");
        let process = Self::spawn(&folder);
        let server = Self { port, process, folder };
        server.greets().await;
        server
    }

    fn spawn(folder: &TempDir) -> Process {
        let mut command = Command::new(nats_server());
        command.arg("--config").arg(folder.path().join("nats.conf"));
        command.arg("--store_dir").arg(folder.path().join("data"));
        Process::start("nats-server", folder.path(), &mut command)
    }

    async fn greets(&self) {
        eventually("nats-server greets", async || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|error| error.to_string())?;
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await.map_err(|error| error.to_string())?;
            if &greeting == b"INFO" { Ok(()) } else { Err(format!("{greeting:?}")) }
        })
        .await;
    }

    /// Kills it. Its data stay.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after a kill, on the same port and with its data.
    pub async fn restart(&mut self) {
        self.process = Self::spawn(&self.folder);
        self.greets().await;
    }

    /// Throws away all its data, between a kill and a restart.
    pub fn wipe(&self) {
        fs::remove_dir_all(self.folder.path().join("data")).expect("data");
    }

    /// Keeps a copy of what a stream holds, between a kill and a restart, for [`Self::rewind`].
    pub fn save(&self, stream: &str) {
        copy(&self.stream_folder(stream), &self.folder.path().join(stream));
    }

    /// Puts a stream back to what it was when it was saved, between a kill and a restart.
    pub fn rewind(&self, stream: &str) {
        let folder = self.stream_folder(stream);
        fs::remove_dir_all(&folder).expect("the stream's data");
        copy(&self.folder.path().join(stream), &folder);
    }

    fn stream_folder(&self, stream: &str) -> PathBuf {
        self.folder.path().join("data/jetstream/$G/streams").join(stream)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A connection to it, for a server that asks for no login. It lasts through a restart.
    pub async fn jetstream(&self) -> Context {
        jetstream_at(&self.url()).await
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A connection to whichever of these servers is there; their URLs are separated by commas.
pub(crate) async fn jetstream_at(urls: &str) -> Context {
    let servers: Vec<ServerAddr> = urls.split(',').map(|url| url.parse().expect("a URL")).collect();
    let options = async_nats::ConnectOptions::new().request_timeout(Some(REQUEST));
    let client = options.connect(servers).await.expect("a connection");
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST);
    eventually("JetStream answers", async || context.query_account().await.map_err(|error| error.to_string())).await;
    context
}
