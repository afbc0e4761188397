use super::super::connection::Nats;
use super::super::options::{ClientCertificate, ConnectOptions, Login, Tls};
use super::super::testing::{NKEY_PUBLIC as PUBLIC, NKEY_SEED as SEED, Release, TestServer, in_time, options};
use super::connect::credentials;
use super::parse::parse;
use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::future::poll_fn;
use std::path::Path;

/// Subject, reply, headers and payload of every message.
fn messages(batch: &Batch) -> Vec<[String; 4]> {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    (0..)
        .map_while(|at| batch.frame(at))
        .map(|frame| [batch.subject(frame), batch.reply(frame), batch.headers(frame), batch.payload(frame)].map(text))
        .collect()
}

#[test]
fn messages_are_read_however_the_network_cuts_them() {
    let said = b"INFO {}\r\nMSG a 1 5\r\nhello\r\nPING\r\nHMSG b.c 1 inbox 12 14\r\nNATS/1.0\r\n\r\nhi\r\n+OK\r\nMSG  d 1 r  0\r\n\r\n-ERR 'No'\r\nPING\r\n";
    let whole = [
        ["a", "", "", "hello"].map(str::to_owned),
        ["b.c", "inbox", "NATS/1.0\r\n\r\n", "hi"].map(str::to_owned),
        ["d", "r", "", ""].map(str::to_owned),
    ];
    for size in 1..=said.len() {
        let (mut buffer, mut found, mut pings, mut refused) = (BytesMut::new(), Vec::new(), 0, None);
        for piece in said.chunks(size) {
            buffer.extend_from_slice(piece);
            let parsed = parse(&mut buffer).unwrap();
            found.extend(messages(&parsed.batch));
            pings += parsed.pings;
            refused = refused.or(parsed.batch.refused);
        }
        assert_eq!((found.as_slice(), pings, refused.as_deref()), (&whole[..], 2, Some("No")), "in pieces of {size}");
        assert!(buffer.is_empty());
    }
}

#[test]
fn what_is_not_the_protocol_ends_the_connection_and_nothing_else() {
    let huge = format!("MSG a 1 {}\r\n", u64::MAX);
    let endless = "x".repeat(parse::MAX_LINE + 1);
    for said in [
        "MSG a 1 5\r\nhelloXXnext",
        "MSG a 1\r\n",
        "MSG\r\n",
        "MSG a 1 r 5 6\r\n",
        "MSG a 1 -5\r\n",
        "MSG a 1 0x5\r\n",
        "HMSG a 1 9 5\r\n",
        "HMSG a 1 5\r\n",
        "GET / HTTP/1.1\r\n",
        &huge,
        "MSG a 1 99999999999999999999999\r\n",
        &endless,
    ] {
        let shown: String = said.chars().take(40).collect();
        assert!(matches!(parse(&mut BytesMut::from(said)), Err(WireError::Protocol(_))), "{shown:?}");
    }
}

#[test]
fn a_credentials_file_is_read_with_whatever_stands_around_it() {
    let creds = "-----BEGIN NATS USER JWT-----\r\neyJ.a.b\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n\
                 -----BEGIN USER NKEY SEED-----\n\nSUAX\n------END USER NKEY SEED------\n";
    assert_eq!(credentials(creds), Some(("eyJ.a.b", "SUAX")));
    for bad in ["", "SUAX", "-----BEGIN NATS USER JWT-----\neyJ", "-----BEGIN A-----\n-----END A-----\n"] {
        assert_eq!(credentials(bad), None, "{bad:?}");
    }
}

/// A message comes to a wire that was opened with this login.
async fn hears(server: &TestServer, with: ConnectOptions) {
    let nats = Nats::connect(with).await.unwrap();
    let mut wire = in_time(Wire::open(&nats.endpoint(), "here")).await.unwrap_or_else(|error| {
        panic!("{error}: {}", server.log());
    });
    wire.publish("here", "there", b"hello");
    let batch = in_time(poll_fn(|cx| wire.poll_batch(cx))).await.unwrap();
    assert_eq!(messages(&batch), [["here", "there", "", "hello"].map(str::to_owned)]);
}

#[tokio::test]
async fn a_wire_opens_the_same_doors_as_the_client() {
    let users =
        format!("jetstream: {{}}\nauthorization {{ users: [{{ user: u, password: p }}, {{ nkey: {PUBLIC} }}] }}");
    let server = TestServer::with_config(Release::Newest, &users).await;
    let with = |login| ConnectOptions { login, ..options(&server.url()) };
    hears(&server, with(Login::Password { user: "u".to_owned(), password: "p".to_owned() })).await;
    hears(&server, with(Login::NkeySeed(SEED.to_owned()))).await;
    hears(&server, options(&server.url().replace("nats://", "nats://u:p@"))).await;

    let nats = Nats::connect(with(Login::NkeySeed(SEED.to_owned()))).await.unwrap();
    let stranger = Endpoint { login: Login::Token("t".to_owned()), ..nats.endpoint() };
    assert!(matches!(Wire::open(&stranger, "here").await, Err(WireError::Refused(_))));

    let server = TestServer::with_config(Release::Oldest, "jetstream: {}\nauthorization { token: t }").await;
    hears(&server, ConnectOptions { login: Login::Token("t".to_owned()), ..options(&server.url()) }).await;
}

/// An authority and what it has signed for one name, as files that servers and clients read: `ca.pem`, `cert.pem`, `key.pem`.
fn certificates(folder: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

#[tokio::test]
async fn a_wire_speaks_tls_and_shows_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let tls = format!(
        "jetstream: {{}}\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        file("cert.pem"),
        file("key.pem"),
        file("ca.pem")
    );
    let server = TestServer::with_config(Release::Newest, &tls).await;
    let client = ClientCertificate { certificate: file("cert.pem"), key: file("key.pem") };
    let secured =
        |client| ConnectOptions { tls: Some(Tls { ca: Some(file("ca.pem")), client }), ..options(&server.url()) };
    hears(&server, secured(Some(client.clone()))).await;

    let nats = Nats::connect(secured(Some(client))).await.unwrap();
    let nameless = Endpoint { tls: Some(Tls { ca: Some(file("ca.pem")), client: None }), ..nats.endpoint() };
    assert!(Wire::open(&nameless, "here").await.is_err());
    let distrustful = Endpoint { tls: Some(Tls::default()), ..nats.endpoint() };
    assert!(matches!(Wire::open(&distrustful, "here").await, Err(WireError::Tls(_))));
}

#[tokio::test]
async fn a_wire_that_is_cut_says_so_and_a_silent_server_is_given_up() {
    let mut server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let mut wire = Wire::open(&nats.endpoint(), "here").await.unwrap();
    server.kill();
    assert!(in_time(poll_fn(|cx| wire.poll_batch(cx))).await.is_none());
    assert!(Wire::open(&nats.endpoint(), "here").await.is_err());

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = vec![format!("nats://{}", silent.local_addr().unwrap()).parse().unwrap()];
    let endpoint = Endpoint { servers, patience: Duration::from_millis(50), ..nats.endpoint() };
    assert!(matches!(Wire::open(&endpoint, "here").await, Err(WireError::Silent)));
}
