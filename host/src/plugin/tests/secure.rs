//! With which servers a plugin can speak in secret, and what it is told of the others.

use super::outside::{answer, granted, rejected, request};
use super::*;
use crate::trust::Trust;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_owned()]).unwrap()
}

/// A server with this certificate, signed by this authority.
fn server(
    certificate: CertificateParams,
    by: &Authority,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.signed_by(&key, by).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_protocol_versions(&[version]).with_no_client_auth();
    Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
}

/// Sends one request to https://localhost, where `serve` sees to it: what the plugin is answered, or told.
async fn told(trusted: &Authority, serve: impl AsyncFnOnce(TcpStream)) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let engine = PluginEngine::new().unwrap().at(Home { trust: Trust::only(roots), ..Home::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let settings = PluginSettings { grants: granted(&[&origin]), ..settings(Limits::default(), Map::new()) };
    let plugin = HandlerPlugin::load(&engine, "courier", &component("courier"), settings).unwrap();
    let mut instance = open(&plugin).await.unwrap();
    let serving = async { serve(listener.accept().await.unwrap().0).await };
    let secret = format!("{origin}/path?token=secret");
    let batch = [message(1, &secret)];
    let ((), handled) = tokio::join!(serving, instance.handle(&batch));
    let handled = handled.unwrap();
    let told = match handled.publishes.first() {
        Some(answer) => String::from_utf8(answer.payload.to_vec()).unwrap(),
        None => rejected(&handled).to_owned(),
    };
    assert!(!told.contains("secret"), "{told}");
    told
}

async fn told_of(trusted: &Authority, config: Arc<ServerConfig>) -> String {
    told(trusted, async |client| {
        // A client that does not trust the server is gone.
        if let Ok(mut client) = TlsAcceptor::from(config).accept(client).await {
            request(&mut client).await;
            answer(&mut client, "200 OK", "in confidence").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_server_of_a_trusted_authority_is_spoken_with_in_either_version_of_tls() {
    let trusted = authority();
    for version in [&TLS12, &TLS13] {
        assert_eq!(told_of(&trusted, server(certificate("localhost"), &trusted, version)).await, "200 in confidence");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_who_it_should_be_is_sent_nothing_and_the_plugin_is_told() {
    let trusted = authority();
    let mut expired = certificate("localhost");
    (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    for (what, config) in [
        ("of another authority", server(certificate("localhost"), &authority(), &TLS13)),
        ("of another name", server(certificate("example.com"), &trusted, &TLS13)),
        ("expired", server(expired, &trusted, &TLS12)),
    ] {
        let told = told_of(&trusted, config).await;
        assert!(told.contains("TlsCertificateError"), "{what}: {told}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_hangs_up_is_not_called_untrusted() {
    let trusted = authority();
    let said = told(&trusted, async |mut client| client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap());
    let said = said.await;
    assert!(said.contains("TlsProtocolError"), "{said}");
    let said = told(&trusted, async |client| drop(client)).await;
    assert!(said.contains("ConnectionTerminated"), "{said}");
    // It wants to know who asks.
    let mut certified = certificate("localhost");
    certified.distinguished_name = rcgen::DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    let certificate = certified.signed_by(&key, &trusted).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let clients = tokio_rustls::rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_protocol_versions(&[&TLS12]).with_client_cert_verifier(clients);
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let said = told_of(&trusted, Arc::new(config)).await;
    assert!(said.contains("TlsAlertReceived"), "{said}");
}
