//! One connection to NATS: made with clear errors within a bounded time, and from then on kept up for ever.

use super::api::{ApiError, NoArguments};
use super::backoff::Backoff;
use super::connect_error::{ConnectError, explain};
use super::greeting::{OLDEST, ServerVersion, greet};
use super::options::ConnectOptions;
use super::wire::Endpoint;
use async_nats::jetstream::account::Account;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Event, ServerAddr};
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How often a silent connection is pinged. The client gives a connection up when the third ping in a row is due, so a cut
/// network is noticed within 6 s. (The client library's own default would take 3 minutes.)
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long one server may take to let us in before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits between attempts to connect again.
/// The longest, one and a half of `cap`, is shorter than any `heartbeatTtl`: who judges after an outage waits that long for the
/// others to come back.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(1) };

/// How long one question whether JetStream is there may take before it is asked again.
const JETSTREAM_CHECK: Duration = Duration::from_secs(2);

/// How the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub connected: bool,
    /// How many times it has been found again. What was in flight before is lost.
    pub reconnects: u64,
}

/// A connection to NATS. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Nats {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: async_nats::Client,
    pub(super) jetstream: jetstream::Context,
    pub(super) operation_timeout: Duration,
    link: watch::Receiver<Link>,
    /// How a reader connects.
    endpoint: Endpoint,
}

impl Nats {
    /// Connects. Fails within the operation timeout; once connected, a lost connection is sought again for ever: at once, then
    /// with waits of up to 3 s that differ from process to process.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let began = Instant::now();
        let deadline = began + options.operation_timeout;
        let (servers, login) = options.prepare().await?;
        require_supported(&servers, deadline).await?;

        let (watcher, link) = watch_link();
        let client_options = login
            .name(&options.name)
            .connection_timeout(options.operation_timeout.min(CONNECT_TIMEOUT))
            .request_timeout(Some(options.operation_timeout))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempt| RECONNECT.before(u32::try_from(attempt).unwrap_or(u32::MAX)))
            .event_callback(move |event| {
                watcher.observe(&event);
                std::future::ready(())
            });
        let client = timeout_at(deadline, client_options.connect(servers.clone()))
            .await
            .map_err(|_| ConnectError::Unreachable("the server greets, but then falls silent".to_owned()))?
            .map_err(|error| explain(&error))?;
        // Not necessarily the server that greeted first.
        let info = client.server_info();
        if let Some(found) = ServerVersion::parse(&info.version).filter(|found| *found < OLDEST) {
            return Err(ConnectError::TooOld { server: format!("{}:{}", info.host, info.port), found });
        }
        let jetstream =
            jetstream::context::ContextBuilder::new().timeout(options.operation_timeout).build(client.clone());
        let endpoint = Endpoint {
            servers,
            told: Vec::new(),
            login: options.login,
            tls: options.tls,
            name: format!("{} reader", options.name),
            patience: options.operation_timeout.min(CONNECT_TIMEOUT),
        };
        let inner = Inner { client, jetstream, operation_timeout: options.operation_timeout, link, endpoint };
        let nats = Self { inner: Arc::new(inner) };
        nats.require_jetstream(began, deadline).await?;
        Ok(nats)
    }

    async fn require_jetstream(&self, began: Instant, deadline: Instant) -> Result<(), ConnectError> {
        for attempt in 1.. {
            let asked = timeout(JETSTREAM_CHECK, self.api::<_, Account>("INFO", &NoArguments {}))
                .await
                .unwrap_or(Err(ApiError::TimedOut));
            let why = match asked {
                Ok(_) => return Ok(()),
                Err(ApiError::NoResponders) => {
                    return Err(ConnectError::JetStreamOff("nobody answers its requests".to_owned()));
                }
                Err(ApiError::Refused { code, text })
                    if [ErrorCode::JETSTREAM_NOT_ENABLED.0, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT.0]
                        .contains(&code) =>
                {
                    return Err(ConnectError::JetStreamOff(text));
                }
                // A cluster that elects a leader says nothing, or that it is not available.
                Err(error) => error.to_string(),
            };
            let again = Instant::now() + RECONNECT.before(attempt + 1);
            if again >= deadline {
                return Err(ConnectError::JetStreamSilent { waited: began.elapsed(), why });
            }
            tokio::time::sleep_until(again).await;
        }
        Ok(())
    }

    /// How the connection is, now and whenever that changes.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.clone()
    }

    /// Where a reader connects: to the servers that are configured and those that they have told of.
    pub(super) fn endpoint(&self) -> Endpoint {
        let mut endpoint = self.inner.endpoint.clone();
        // What is told is an address. Who insists on TLS does so with every server, whoever has told of it.
        let insists = endpoint.servers.iter().any(ServerAddr::tls_required);
        let scheme = if insists { "tls" } else { "nats" };
        let told = self.inner.client.server_info().connect_urls;
        endpoint.told = told.iter().filter_map(|told| format!("{scheme}://{told}").parse().ok()).collect();
        endpoint
    }

    /// Version of the server that this connection leads to at the moment.
    #[must_use]
    pub fn server_version(&self) -> ServerVersion {
        ServerVersion::parse(&self.inner.client.server_info().version).unwrap_or(OLDEST)
    }

    /// Bytes of the largest message that the server takes, headers included.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.inner.client.max_payload()
    }

    /// Longest time that an operation takes.
    #[must_use]
    pub fn operation_timeout(&self) -> Duration {
        self.inner.operation_timeout
    }

    /// Measures one round trip to the server, without JetStream.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn round_trip(&self) -> Result<Duration, ApiError> {
        let began = Instant::now();
        // Nobody listens there, and it is the server that says so.
        match self.request("parti.round-trip", bytes::Bytes::new(), self.inner.operation_timeout).await {
            Ok(_) | Err(ApiError::NoResponders) => Ok(began.elapsed()),
            Err(error) => Err(error),
        }
    }

    /// Sends what is still queued and closes the connection, within the operation timeout.
    pub async fn close(self) {
        if self.inner.client.drain().await.is_err() {
            return;
        }
        let mut link = self.link();
        let closed = link.wait_for(|link| !link.connected);
        if timeout(self.inner.operation_timeout, closed).await.is_err() {
            tracing::debug!("the connection to NATS did not close in time");
        }
    }
}

/// Reads the greeting of whichever server answers first.
async fn require_supported(servers: &[ServerAddr], deadline: Instant) -> Result<(), ConnectError> {
    let mut greetings: FuturesUnordered<_> = servers
        .iter()
        .map(async |server| {
            let greeting = timeout_at(deadline, greet(server)).await;
            (address(server), greeting.unwrap_or_else(|_| Err("no answer in time".to_owned())))
        })
        .collect();
    let mut failures = Vec::new();
    while let Some((server, greeting)) = greetings.next().await {
        match greeting {
            Ok(found) if found < OLDEST => return Err(ConnectError::TooOld { server, found }),
            Ok(_) => return Ok(()),
            Err(why) => failures.push(format!("{server}: {why}")),
        }
    }
    Err(ConnectError::Unreachable(failures.join("; ")))
}

/// Without user and password, which have no place in a log.
fn address(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

/// Turns what the client library tells about the connection into the state of the [`Link`], and into log lines.
struct LinkWatcher {
    link: watch::Sender<Link>,
    /// The last error that the server reported. It repeats itself, for example with every probe that it does not permit.
    reported: Mutex<String>,
}

fn watch_link() -> (LinkWatcher, watch::Receiver<Link>) {
    let (sender, link) = watch::channel(Link { connected: true, reconnects: 0 });
    (LinkWatcher { link: sender, reported: Mutex::default() }, link)
}

impl LinkWatcher {
    fn observe(&self, event: &Event) {
        match event {
            Event::Connected => self.link.send_modify(|link| {
                // The first connection is told too.
                link.reconnects += u64::from(!link.connected);
                link.connected = true;
            }),
            Event::Disconnected | Event::Closed => {
                self.link.send_if_modified(|link| std::mem::replace(&mut link.connected, false));
            }
            // The server hangs up on its clients one by one; the client then turns to another server at once. Moving earlier
            // would only bunch the moves that the server spreads out.
            Event::LameDuckMode => {
                tracing::info!("the NATS server is about to stop; the connection will move to another one")
            }
            Event::ServerError(error) => {
                let error = error.to_string();
                if self
                    .reported
                    .lock()
                    .is_ok_and(|mut reported| std::mem::replace(&mut *reported, error.clone()) != error)
                {
                    tracing::warn!(error, "the NATS server reports an error on this connection");
                }
            }
            Event::SlowConsumer(_) | Event::Draining | Event::ClientError(_) => {
                tracing::debug!(%event, "NATS connection")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Login, Tls};
    use super::super::testing::{NKEY_PUBLIC as PUBLIC, NKEY_SEED as SEED, Release, TestServer, in_time, options};
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    async fn failure(options: ConnectOptions) -> ConnectError {
        // Far below the operation timeout of some of these tests: what is known at once is said at once.
        in_time(Nats::connect(options)).await.err().expect("it should not connect")
    }

    /// A server that takes one connection, says this, and then neither reads nor hangs up.
    fn stub(greeting: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(greeting.as_bytes()).unwrap();
            let _ = connection.read_to_end(&mut Vec::new());
            std::thread::park();
        });
        url
    }

    #[tokio::test]
    async fn a_server_that_is_too_old_is_named_with_the_version_that_is_needed() {
        let old =
            "INFO {\"server_id\":\"N\",\"version\":\"2.9.10\",\"max_payload\":1048576}\r\n-ERR 'nonsense'\r\nNOISE\r\n";
        let mut options = options(&stub(old));
        options.operation_timeout = Duration::from_secs(3600);
        let error = failure(options).await;
        assert!(
            matches!(error, ConnectError::TooOld { found: ServerVersion { major: 2, minor: 9, patch: 10 }, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("2.9.10") && error.to_string().contains("2.10"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_said_within_the_operation_timeout() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut refused = options(&format!("nats://user:secret@{nobody}"));
        refused.operation_timeout = Duration::from_secs(3600);
        let error = failure(refused).await;
        assert!(matches!(&error, ConnectError::Unreachable(why) if why.contains(&nobody.to_string())), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");

        let mut silent = options(&stub(""));
        silent.operation_timeout = Duration::from_millis(200);
        assert!(matches!(failure(silent).await, ConnectError::Unreachable(_)));

        let mut silent_later = options(&stub("INFO {\"version\":\"2.12.0\"}\r\n"));
        silent_later.operation_timeout = Duration::from_millis(200);
        assert!(matches!(failure(silent_later).await, ConnectError::Unreachable(_)));

        let web = options(&stub("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"));
        let error = failure(web).await;
        assert!(error.to_string().contains("not a NATS server"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_server_url_is_refused_before_anything_is_tried() {
        for url in ["http://host", "ws://host:80", "nats://", "nats://ho st", ""] {
            let error = failure(options(url)).await;
            assert!(matches!(error, ConnectError::BadUrl { .. }), "{url:?}: {error}");
        }
        let mut none = options("");
        none.servers.clear();
        assert!(matches!(failure(none).await, ConnectError::NoServers));
    }

    #[tokio::test]
    async fn a_server_or_an_account_without_jetstream_is_told_apart_from_one_that_is_away() {
        let off = TestServer::with_config(Release::Newest, "").await;
        assert!(matches!(failure(options(&off.url())).await, ConnectError::JetStreamOff(_)));

        let accounts = "jetstream: {}\naccounts { A { users: [{ user: a, password: a }] } }";
        let account = TestServer::with_config(Release::Oldest, accounts).await;
        let mut options = options(&account.url());
        options.login = Login::Password { user: "a".to_owned(), password: "a".to_owned() };
        let error = failure(options).await;
        assert!(matches!(error, ConnectError::JetStreamOff(_)), "{error}");
    }

    #[tokio::test]
    async fn every_kind_of_credentials_opens_the_door_and_wrong_ones_are_called_wrong() {
        let users =
            format!("jetstream: {{}}\nauthorization {{ users: [{{ user: u, password: p }}, {{ nkey: {PUBLIC} }}] }}");
        let server = TestServer::with_config(Release::Newest, &users).await;
        let with = |login| ConnectOptions { login, ..options(&server.url()) };
        let password = |password: &str| Login::Password { user: "u".to_owned(), password: password.to_owned() };

        assert!(Nats::connect(with(password("p"))).await.is_ok());
        assert!(Nats::connect(with(Login::NkeySeed(SEED.to_owned()))).await.is_ok());
        let in_url = options(&server.url().replace("nats://", "nats://u:p@"));
        assert!(Nats::connect(in_url).await.is_ok());

        assert!(matches!(failure(with(password("x"))).await, ConnectError::Refused(_)));
        assert!(matches!(failure(with(Login::Anonymous)).await, ConnectError::Refused(_)));
        assert!(matches!(failure(with(Login::Token("t".to_owned()))).await, ConnectError::Refused(_)));
        assert!(matches!(failure(with(Login::NkeySeed("nonsense".to_owned()))).await, ConnectError::BadCredentials(_)));
        let missing = Login::Credentials("/nowhere/user.creds".into());
        assert!(matches!(failure(with(missing)).await, ConnectError::BadCredentials(_)));

        let server = TestServer::with_config(Release::Newest, "jetstream: {}\nauthorization { token: t }").await;
        let token = ConnectOptions { login: Login::Token("t".to_owned()), ..options(&server.url()) };
        assert!(Nats::connect(token).await.is_ok());
    }

    #[tokio::test]
    async fn a_server_without_tls_is_not_spoken_to_in_the_clear_when_tls_is_demanded() {
        let server = TestServer::start(Release::Newest).await;
        let demanded = ConnectOptions { tls: Some(Tls::default()), ..options(&server.url()) };
        let error = failure(demanded).await;
        assert!(matches!(error, ConnectError::Tls(_)), "{error}");
        let missing = Tls { ca: Some("/nowhere/ca.pem".into()), client: None };
        let error = failure(ConnectOptions { tls: Some(missing), ..options(&server.url()) }).await;
        assert!(matches!(&error, ConnectError::BadCertificates(why) if why.contains("/nowhere/ca.pem")), "{error}");
    }

    #[tokio::test]
    async fn a_lost_connection_is_told_and_found_again() {
        let mut server = TestServer::start(Release::Newest).await;
        let patient = ConnectOptions { operation_timeout: Duration::from_secs(3600), ..options(&server.url()) };
        let nats = Nats::connect(patient).await.unwrap();
        let mut link = nats.link();
        assert_eq!(*link.borrow(), Link { connected: true, reconnects: 0 });
        assert!(nats.round_trip().await.is_ok());

        let in_flight = tokio::spawn({
            let nats = nats.clone();
            async move { while nats.round_trip().await.is_ok() {} }
        });
        server.kill();
        in_time(link.wait_for(|link| !link.connected)).await.unwrap();
        // Given up because the connection is lost, long before the timeout of the operation.
        in_time(in_flight).await.unwrap();

        server.run().await;
        in_time(link.wait_for(|link| *link == Link { connected: true, reconnects: 1 })).await.unwrap();
        assert!(nats.round_trip().await.is_ok());
        nats.close().await;
        assert!(!link.borrow().connected);
    }
}
