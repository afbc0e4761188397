//! The authorities whose certificates this machine trusts.

use rustls_native_certs::{CertificateResult, load_native_certs};
use std::sync::{Arc, OnceLock};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Reads them: for a thread that may block.
pub(crate) fn authorities_of_this_machine() -> RootCertStore {
    authorities(load_native_certs())
}

/// Those that could be read. Without any, no server can be trusted, and the log says so.
fn authorities(read: CertificateResult) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read.certs);
    if roots.is_empty() {
        let why: String = read.errors.iter().map(|error| format!(" ({error})")).collect();
        tracing::warn!(
            "This machine trusts no authority, so the certificate of every server will be refused{why}. Install certificates of \
             authorities, in most systems the package ca-certificates, or name a file with some in SSL_CERT_FILE"
        );
    }
    roots
}

/// What clients of other servers than NATS trust. The certificates are read when the first needs them. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<OnceLock<Arc<ClientConfig>>>);

impl Trust {
    /// How such a client is configured: for a thread that may block.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(self.0.get_or_init(|| client_of(authorities_of_this_machine())))
    }

    /// Trusts these authorities and nobody else.
    #[cfg(test)]
    pub(crate) fn only(authorities: RootCertStore) -> Self {
        Self(Arc::new(OnceLock::from(client_of(authorities))))
    }
}

fn client_of(authorities: RootCertStore) -> Arc<ClientConfig> {
    Arc::new(ClientConfig::builder().with_root_certificates(authorities).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_machine_that_trusts_nobody_is_told_so() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Mutex::new(writer)).finish();
        let roots = tracing::subscriber::with_default(subscriber, || authorities(CertificateResult::default()));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert!(roots.is_empty() && said.contains("SSL_CERT_FILE"), "{said}");
    }
}
