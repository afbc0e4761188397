//! Opens a connection as the client library would: the same servers, the same login, the same TLS.

use super::super::options::{ClientCertificate, Login, Tls};
use super::parse::{MAX_LINE, refusal};
use crate::trust::authorities_of_this_machine;
use async_nats::ServerAddr;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf as _, BytesMut};
use nkeys::KeyPair;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where to connect and as whom.
#[derive(Clone)]
pub(in crate::nats) struct Endpoint {
    /// Those that are configured. Any of them will do.
    pub(in crate::nats) servers: Vec<ServerAddr>,
    /// Those that a server has told of. They need not be reachable from here.
    pub(in crate::nats) told: Vec<ServerAddr>,
    pub(in crate::nats) login: Login,
    pub(in crate::nats) tls: Option<Tls>,
    /// How the connection is called in the server's monitoring.
    pub(in crate::nats) name: String,
    /// How long one address may take before the next one is tried.
    pub(in crate::nats) patience: Duration,
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub(in crate::nats) enum WireError {
    #[error("the connection was lost")]
    Lost,
    #[error("the server was silent for too long")]
    Silent,
    #[error("the server refuses the connection: {0}")]
    Refused(String),
    #[error("the credentials cannot be used: {0}")]
    Credentials(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("what answers does not speak the NATS protocol: {0}")]
    Protocol(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connected socket, with TLS or without.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// What matters here of what a server says first.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    tls_required: bool,
}

#[derive(Serialize, Default)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    protocol: u8,
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// Connects to the first server that lets us in: the configured ones first, in an order of chance, so that readers spread over a
/// cluster. Returns what the server has said already, too.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<(Box<dyn Socket>, BytesMut), WireError> {
    let (mut servers, mut told) = (endpoint.servers.clone(), endpoint.told.clone());
    servers.shuffle(&mut rand::rng());
    told.shuffle(&mut rand::rng());
    let mut failure = WireError::Lost;
    for server in servers.iter().chain(&told) {
        let addresses: Vec<_> = match timeout(endpoint.patience, server.socket_addrs()).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                failure = error.into();
                continue;
            }
            Err(_) => {
                failure = WireError::Silent;
                continue;
            }
        };
        for address in addresses {
            match timeout(endpoint.patience, connect_to(endpoint, server, address)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = WireError::Silent,
            }
            tracing::debug!(error = %failure, host = server.host(), %address, "No connection for a reader");
        }
    }
    Err(failure)
}

async fn connect_to(
    endpoint: &Endpoint,
    server: &ServerAddr,
    address: SocketAddr,
) -> Result<(Box<dyn Socket>, BytesMut), WireError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut socket: Box<dyn Socket> = Box::new(stream);
    let mut buffer = BytesMut::new();
    let line = read_line(&mut socket, &mut buffer).await?;
    let greeting = line.strip_prefix("INFO ").ok_or_else(|| WireError::Protocol(line.chars().take(64).collect()))?;
    let info: Info = serde_json::from_str(greeting).map_err(|error| WireError::Protocol(error.to_string()))?;
    let insists = endpoint.tls.is_some() || server.tls_required();
    if insists || info.tls_required {
        socket = secure(socket, endpoint.tls.clone().unwrap_or_default(), server.host()).await?;
        // Nothing that was said in the clear counts.
        buffer.clear();
    }
    let mut connect = login(endpoint, &info.nonce).await?;
    connect.tls_required = insists;
    let connect = serde_json::to_string(&connect).map_err(|error| WireError::Protocol(error.to_string()))?;
    socket.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await?;
    socket.flush().await?;
    loop {
        let line = read_line(&mut socket, &mut buffer).await?;
        if let Some(text) = line.strip_prefix("-ERR") {
            return Err(WireError::Refused(refusal(text.as_bytes())));
        }
        if line == "PONG" {
            return Ok((socket, buffer));
        }
    }
}

async fn read_line(socket: &mut Box<dyn Socket>, buffer: &mut BytesMut) -> Result<String, WireError> {
    loop {
        if let Some(end) = memchr::memchr(b'\n', buffer) {
            let line = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).trim().to_owned();
            buffer.advance(end + 1);
            return Ok(line);
        }
        if buffer.len() > MAX_LINE {
            return Err(WireError::Protocol("a line without end".to_owned()));
        }
        if socket.read_buf(buffer).await? == 0 {
            return Err(WireError::Lost);
        }
    }
}

/// Whether the files of a TLS section can be used.
pub(in crate::nats) async fn check_tls(tls: &Tls) -> Result<(), WireError> {
    read_config(tls.clone()).await.map(drop)
}

async fn read_config(tls: Tls) -> Result<ClientConfig, WireError> {
    let read = tokio::task::spawn_blocking(move || client_config(&tls)).await;
    read.map_err(|error| WireError::Tls(error.to_string()))?
}

async fn secure(socket: Box<dyn Socket>, tls: Tls, host: &str) -> Result<Box<dyn Socket>, WireError> {
    let failed = |error: &dyn std::fmt::Display| WireError::Tls(error.to_string());
    // Read anew every time: certificates are replaced while workers run.
    let config = read_config(tls).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(|error| failed(&error))?;
    Ok(Box::new(stream))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, WireError> {
    let failed =
        |file: &std::path::Path, error: &dyn std::fmt::Display| WireError::Tls(format!("{}: {error}", file.display()));
    let certificates = |file: &std::path::Path| {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        read.map_err(|error| failed(file, &error))
    };
    let roots = match &tls.ca {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| failed(file, &error))?;
            }
            roots
        }
        None => authorities_of_this_machine(),
    };
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some(ClientCertificate { certificate, key }) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| failed(certificate, &error))
}

/// What to say to a server that wants to know who connects, and has given this nonce to be signed.
async fn login<'a>(endpoint: &'a Endpoint, nonce: &str) -> Result<Connect<'a>, WireError> {
    let connect = Connect {
        name: &endpoint.name,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        // Of the protocol: the server may send `INFO` at any time.
        protocol: 1,
        headers: true,
        no_responders: true,
        ..Connect::default()
    };
    let bad = |error: &dyn std::fmt::Display| WireError::Credentials(error.to_string());
    let sign = |seed: &str| {
        let pair = KeyPair::from_seed(seed).map_err(|error| bad(&error))?;
        let signature = pair.sign(nonce.as_bytes()).map_err(|error| bad(&error))?;
        Ok::<_, WireError>((pair.public_key(), URL_SAFE_NO_PAD.encode(signature)))
    };
    let text = |text: &str| Some(text.to_owned());
    Ok(match &endpoint.login {
        Login::Anonymous => {
            // One for all servers, as the client has it: its consumers are in that account.
            let mut found = endpoint.servers.iter();
            let (user, pass) = found.find_map(|server| Some((server.username()?, server.password()?))).unzip();
            Connect { user: user.map(str::to_owned), pass: pass.map(str::to_owned), ..connect }
        }
        Login::Password { user, password } => Connect { user: text(user), pass: text(password), ..connect },
        Login::Token(token) => Connect { auth_token: text(token), ..connect },
        Login::NkeySeed(seed) => {
            let (public, signature) = sign(seed)?;
            Connect { nkey: Some(public), sig: Some(signature), ..connect }
        }
        Login::Credentials(file) => {
            // Read anew every time: credentials are replaced while workers run.
            let shown = file.display();
            let text = tokio::fs::read_to_string(file).await.map_err(|error| bad(&format!("{shown}: {error}")))?;
            let (jwt, seed) = credentials(&text).ok_or_else(|| bad(&format!("{shown}: no JWT, or no seed")))?;
            Connect { jwt: Some(jwt.to_owned()), sig: Some(sign(seed)?.1), ..connect }
        }
    })
}

/// The JWT and the seed of a `.creds` file: the first line after each of two `-----BEGIN …-----` lines.
pub(super) fn credentials(text: &str) -> Option<(&str, &str)> {
    let mut lines = text.lines().map(str::trim);
    let mut next = || {
        lines.find(|line| line.starts_with("---") && line.contains("BEGIN"))?;
        lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
    };
    Some((next()?, next()?))
}
