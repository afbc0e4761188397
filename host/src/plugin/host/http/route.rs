//! The way to a server: its addresses, a connection, and whether the server is who it should be.

use super::super::Shared;
use super::super::log::LogScope;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, TlsAlertReceivedPayload};

/// A place that the plugin may send requests to.
pub(super) struct Destination {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether it may also be this machine itself, or another that only this machine reaches.
    pub(super) any_address: bool,
}

/// A place among the requests in flight. It is free again once everything is over that was begun for the request.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) async fn connect(
    shared: &Arc<Shared>,
    log: &LogScope,
    to: &Destination,
    place: &Place,
) -> Result<Box<dyn Stream>, Error> {
    let name = (to.host.clone(), to.port);
    let found = look_up(Arc::clone(place), move || (name.0.as_str(), name.1).to_socket_addrs()).await?;
    let may_lead = |address: &SocketAddr| to.any_address || !is_private_to_this_machine(address.ip());
    let (allowed, prohibited): (Vec<_>, Vec<_>) = found.partition(may_lead);
    if let (true, Some(address)) = (allowed.is_empty(), prohibited.first()) {
        shared.account.http_denied.fetch_add(1, Relaxed);
        log.host_warns(&format!(
            "A request to {} is denied: it leads to {}, which only a grant of that address or of localhost allows",
            to.host,
            address.ip()
        ));
        return Err(Error::DestinationIpProhibited);
    }
    let mut failed = Error::DestinationNotFound;
    for address in allowed {
        match TcpStream::connect(address).await {
            Ok(stream) if to.https => return secure(shared, log, to, stream).await,
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => failed = Error::Connect(error),
        }
    }
    Err(failed)
}

/// The addresses of a name. Nothing interrupts the resolver of the machine, and each look-up holds a thread: whoever stops waiting for one
/// leaves it its place.
async fn look_up<Addresses: Iterator<Item = SocketAddr> + Send + 'static>(
    place: Place,
    resolve: impl FnOnce() -> io::Result<Addresses> + Send + 'static,
) -> Result<Addresses, Error> {
    let looking = spawn_blocking(move || {
        let found = resolve();
        drop(place);
        found
    });
    match looking.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err(Error::DnsError { rcode: Some("address not available".to_owned()), info_code: None }),
        Err(error) => Err(Error::InternalError(Some(error.to_string()))),
    }
}

async fn secure(
    shared: &Shared,
    log: &LogScope,
    to: &Destination,
    stream: TcpStream,
) -> Result<Box<dyn Stream>, Error> {
    let trust = shared.home.trust.clone();
    let config = spawn_blocking(move || trust.client()).await;
    let config = config.map_err(|error| Error::InternalError(Some(error.to_string())))?;
    let name = ServerName::try_from(to.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            log.host_warns(&format!("There is no secure connection with https://{}:{}: {error}", to.host, to.port));
            Err(Error::Tls(error))
        }
    }
}

/// What a guest is told of a connection that did not become secure.
pub(super) fn tls_error(error: &io::Error) -> ErrorCode {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ErrorCode::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
            alert_id: Some((*alert).into()),
            alert_message: Some(format!("{alert:?}")),
        }),
        Some(_) => ErrorCode::TlsProtocolError,
        None => ErrorCode::ConnectionTerminated,
    }
}

/// Addresses of clouds that mean another thing on each machine: Azure's agent, and the credentials of Alibaba Cloud and Oracle Cloud.
const OF_CLOUDS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// The same among unique local ones: the credentials of AWS, `fd00:ec2::254`, and of Google Cloud, `fd20:ce::254`.
const NETWORKS_OF_CLOUDS: [[u16; 2]; 2] = [[0xfd00, 0x0ec2], [0xfd20, 0x00ce]];

/// Addresses that mean something only on this machine: itself, and where clouds keep what is for this machine alone, its credentials
/// among it. No name that is granted can lead there, and no way around through a network that translates addresses.
fn is_private_to_this_machine(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast()
                || NETWORKS_OF_CLOUDS.iter().any(|network| v6.segments().starts_with(network))
                || translated(v6).is_some_and(is_private_v4)
        }
    }
}

fn is_private_v4(v4: Ipv4Addr) -> bool {
    v4.is_loopback()
        || v4.is_link_local()
        || v4.octets().starts_with(&[0])
        || v4.is_broadcast()
        || v4.is_multicast()
        || OF_CLOUDS.contains(&v4)
}

/// The IPv4 address that a network makes of this one: by NAT64 (RFC 6052 and 8215) or 6to4 (RFC 3056), or because it is an old way to
/// write one.
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match v6.segments() {
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] | [0x2002, high, low, ..] | [0, 0, 0, 0, 0, 0, high, low] => {
            (high, low)
        }
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::sync::Semaphore;

    #[test]
    fn names_lead_to_the_network_and_not_into_this_machine() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::127.0.0.1",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_private_to_this_machine(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "93.184.216.34",
            "168.63.129.17",
            "fd12::1",
            "2606:2800::1",
            "64:ff9b::93.184.216.34",
            "2002:5db8:d822::1",
        ] {
            assert!(!is_private_to_this_machine(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_any_more_keeps_its_place_until_it_ends() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::new(Arc::clone(&places).try_acquire_owned().unwrap());
        let (end, ended) = mpsc::channel::<()>();
        let looking = look_up(place, move || {
            let _ = ended.recv();
            Ok(std::iter::empty())
        });
        {
            let mut looking = Box::pin(looking);
            assert!(futures::poll!(looking.as_mut()).is_pending());
        }
        assert_eq!(places.available_permits(), 0, "the thread is still held");
        end.send(()).unwrap();
        drop(places.acquire().await.unwrap());
    }
}
