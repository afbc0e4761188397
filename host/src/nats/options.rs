//! Where to connect and as whom, and what can be told of that without a server: an address that is none, a file that cannot be used.

use super::connect_error::ConnectError;
use super::wire::{self, WireError};
use async_nats::ServerAddr;
use nkeys::KeyPair;
use std::path::PathBuf;
use std::time::Duration;

/// Where to connect and as whom.
#[derive(Clone)]
pub struct ConnectOptions {
    /// URLs of one or more servers of the same cluster: `nats://host:4222`, `tls://host`, or just `host`. User and password
    /// in a URL are used when `login` is [`Login::Anonymous`].
    pub servers: Vec<String>,
    /// As whom.
    pub login: Login,
    /// Set to insist on TLS. A server that itself insists on it gets it anyway.
    pub tls: Option<Tls>,
    /// How the connection is called in the server's monitoring.
    pub name: String,
    /// How long any one operation may take, connecting included.
    pub operation_timeout: Duration,
}

/// As whom to connect.
#[derive(Clone)]
pub enum Login {
    /// As nobody in particular.
    Anonymous,
    /// With the JWT and the seed in this `.creds` file.
    Credentials(PathBuf),
    /// With this NKey seed (`SU…`).
    NkeySeed(String),
    /// With a user name and a password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// With a token.
    Token(String),
}

/// How to speak TLS. All files are PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What to show to a server that asks.
    pub client: Option<ClientCertificate>,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, with its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl ConnectOptions {
    /// Whether these options can work, as far as that can be told without a server.
    ///
    /// # Errors
    /// An address that is none, or credentials or certificates that cannot be used whatever the server says.
    pub async fn check(&self) -> Result<(), ConnectError> {
        self.prepare().await.map(drop)
    }

    /// The servers, and for the client library login and TLS.
    pub(super) async fn prepare(&self) -> Result<(Vec<ServerAddr>, async_nats::ConnectOptions), ConnectError> {
        let servers = parse_servers(&self.servers)?;
        let mut client = async_nats::ConnectOptions::new();
        client = match &self.login {
            Login::Anonymous => {
                match servers.iter().find_map(|server| Some((server.username()?, server.password()?))) {
                    Some((user, password)) => client.user_and_password(user.to_owned(), password.to_owned()),
                    None => client,
                }
            }
            Login::Credentials(path) => client
                .credentials_file(path)
                .await
                .map_err(|error| ConnectError::BadCredentials(format!("{}: {error}", path.display())))?,
            Login::NkeySeed(seed) => {
                // The client would find out when a server asks for it.
                KeyPair::from_seed(seed).map_err(|error| ConnectError::BadCredentials(error.to_string()))?;
                client.nkey(seed.clone())
            }
            Login::Password { user, password } => client.user_and_password(user.clone(), password.clone()),
            Login::Token(token) => client.token(token.clone()),
        };
        if let Some(tls) = &self.tls {
            // The client would not say which file it is.
            wire::check_tls(tls).await.map_err(|error| match error {
                WireError::Tls(why) => ConnectError::BadCertificates(why),
                error => ConnectError::BadCertificates(error.to_string()),
            })?;
            client = client.require_tls(true);
            if let Some(ca) = &tls.ca {
                client = client.add_root_certificates(ca.clone());
            }
            if let Some(ClientCertificate { certificate, key }) = &tls.client {
                client = client.add_client_certificate(certificate.clone(), key.clone());
            }
        }
        Ok((servers, client))
    }
}

fn parse_servers(urls: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    let parse = |url: &String| {
        // What stands before the host may be a login.
        let shown = url.rsplit_once('@').map_or_else(|| url.clone(), |(_, host)| format!("[hidden]@{host}"));
        let bad = |why: String| ConnectError::BadUrl { url: shown.clone(), why };
        let server: ServerAddr = url.parse().map_err(|error: std::io::Error| bad(error.to_string()))?;
        if server.is_websocket() {
            return Err(bad("websockets are not supported".to_owned()));
        }
        if server.host().is_empty() {
            return Err(bad("it names no host".to_owned()));
        }
        Ok(server)
    };
    let servers: Vec<_> = urls.iter().map(parse).collect::<Result<_, _>>()?;
    if servers.is_empty() { Err(ConnectError::NoServers) } else { Ok(servers) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NKEY_SEED, options};
    use super::*;

    async fn refused(change: impl FnOnce(&mut ConnectOptions)) -> String {
        let mut options = options("nats://127.0.0.1:1");
        change(&mut options);
        options.check().await.expect_err("it should be refused").to_string()
    }

    #[tokio::test]
    async fn what_cannot_work_with_any_server_is_told_without_one() {
        options("nats://127.0.0.1:1").check().await.unwrap();
        let mut good = options("tls://127.0.0.1:1");
        good.login = Login::NkeySeed(NKEY_SEED.to_owned());
        good.check().await.unwrap();

        assert!(refused(|o| o.servers.clear()).await.contains("no NATS server is configured"));
        assert!(refused(|o| o.servers = vec!["ws://a:1".to_owned()]).await.contains("websockets"));
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for file in ["/nowhere/user.creds".into(), empty.clone()] {
            let why = refused(|o| o.login = Login::Credentials(file.clone())).await;
            assert!(why.contains(&file.display().to_string()), "{why}");
        }
        let why = refused(|o| o.login = Login::NkeySeed("s3cret".to_owned())).await;
        assert!(why.contains("credentials cannot be used") && !why.contains("s3cret"), "{why}");
        let files = |ca: Option<PathBuf>, client: Option<ClientCertificate>| Some(Tls { ca, client });
        let why = refused(|o| o.tls = files(Some("/nowhere/ca.pem".into()), None)).await;
        assert!(why.contains("/nowhere/ca.pem"), "{why}");
        let client = ClientCertificate { certificate: empty.clone(), key: empty.clone() };
        assert!(refused(|o| o.tls = files(None, Some(client))).await.contains("empty"));
    }
}
