//! Real servers for tests.

use super::api::ApiError;
use super::connection::Nats;
use super::greeting::greet;
use super::options::{ConnectOptions, Login};
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The example pair of the NATS documentation.
pub(crate) const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
pub(crate) const NKEY_PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// Which server to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The newest, from `NATS_SERVER`.
    Newest,
    /// The oldest supported, from `NATS_SERVER_2_10`.
    Oldest,
}

impl Release {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Newest, Self::Oldest];

    fn binary(self) -> String {
        let variable = match self {
            Self::Newest => "NATS_SERVER",
            Self::Oldest => "NATS_SERVER_2_10",
        };
        std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} must name a nats-server binary; `make test` sets it"))
    }
}

/// A nats-server of its own on a free port, with its own directory, both gone when it is dropped.
pub(crate) struct TestServer {
    release: Release,
    config: String,
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl TestServer {
    /// With JetStream and nothing else.
    pub(crate) async fn start(release: Release) -> Self {
        Self::with_config(release, "jetstream: { sync_interval: 10s }").await
    }

    /// With these lines of configuration; the directory of JetStream is added.
    pub(crate) async fn with_config(release: Release, config: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { release, config: config.to_owned(), directory, port, child: None };
        server.run().await;
        server
    }

    /// Starts it again, with its data.
    pub(crate) async fn run(&mut self) {
        let path = self.directory.path().join("nats.conf");
        let mut file = std::fs::File::create(&path).unwrap();
        writeln!(file, "listen: \"127.0.0.1:{}\"\n{}", self.port, self.config).unwrap();
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = Command::new(self.release.binary())
            .arg("--config")
            .arg(path)
            .arg("--store_dir")
            .arg(self.directory.path().join("data"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let address = self.url().parse().unwrap();
        let started = async {
            while greet(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), started).await.is_err() {
            panic!("nats-server did not start: {}", self.log());
        }
    }

    /// Kills it. Its data stay.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Throws its data away while it is stopped.
    pub(crate) fn forget(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    /// Stops it from running, or lets it run on. A signal is on its way for a while: returns when it has arrived.
    pub(crate) async fn freeze(&self, frozen: bool) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let is_frozen = || {
            let state = Command::new("ps").args(["-o", "stat=", "-p", &pid]).output().unwrap();
            state.stdout.starts_with(b"T")
        };
        in_time(async {
            while is_frozen() != frozen {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Nats {
        Nats::connect(options(&self.url())).await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Fails the test if this does not happen within a minute, whatever the machine has to do besides.
pub(crate) async fn in_time<T>(happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), happens).await.expect("what the test waits for does not happen")
}

/// JetStream's code for a stream that cannot be stored.
const NO_STORE: u64 = 10049;

/// Asks JetStream for something that the host never asks for.
pub(crate) async fn ask(nats: &Nats, subject: &str, body: serde_json::Value) -> serde_json::Value {
    in_time(async {
        loop {
            match nats.api(subject, &body).await {
                // Of a stream that is being deleted the server cannot always make another one yet.
                Err(ApiError::Refused { code: NO_STORE, .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                answer => break answer.unwrap(),
            }
        }
    })
    .await
}

/// How tests connect.
pub(crate) fn options(url: &str) -> ConnectOptions {
    ConnectOptions {
        servers: vec![url.to_owned()],
        login: Login::Anonymous,
        tls: None,
        name: "test".to_owned(),
        operation_timeout: Duration::from_secs(5),
    }
}
