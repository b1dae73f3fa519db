//! TLS by rustls: `client` towards upstreams and token endpoints, `server` towards callers,
//! `renewed` the former when its files are replaced, `peer` who a caller's certificate says that it is. Certificates are always verified.

mod client;
mod peer;
mod renewed;
mod server;

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::permissions::{Check, Exposed};
pub use client::{TlsSettings, client_config, offering};
pub use peer::PeerNames;
pub use renewed::RenewedTls;
pub use server::{ServerTls, server_config};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds nothing of the kind.
    #[error("{what} '{}' cannot be used: {reason}", path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Others can get at a key.
    #[error("{what} '{}' cannot be used: {reason}", path.display())]
    Exposed {
        /// Which key.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Who can do what.
        reason: Exposed,
    },
    /// The certificate and the key do not fit, or the like.
    #[error("the client certificate cannot be used: {0}")]
    Client(rustls::Error),
    /// The same for a listener.
    #[error("the certificate cannot be used: {0}")]
    Server(rustls::Error),
    /// The authorities cannot be used to verify callers.
    #[error("the authorities of callers cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_authorities(path: &Path, check: Check) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain("the certificate authority", path, check)? {
        roots.add(certificate).map_err(|error| TlsError::File {
            what: "the certificate authority",
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// Certificates, which nobody else may be able to replace.
fn read_chain(
    what: &'static str,
    path: &Path,
    check: Check,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path, |opened| check.trusted(path, opened))?;
    let unusable = |reason: String| TlsError::File { what, path: path.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(chain)
}

/// A key, which nobody else may be able to get at.
fn read_key(
    what: &'static str,
    path: &Path,
    check: Check,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(what, path, |opened| check.secret(path, opened))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| TlsError::File {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// The text of a file that passes `check`.
fn read(
    what: &'static str,
    path: &Path,
    check: impl FnOnce(&Metadata) -> Result<(), Exposed>,
) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unusable = |error: io::Error| TlsError::File {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut file = File::open(path).map_err(unusable)?;
    check(&file.metadata().map_err(unusable)?).map_err(|reason| TlsError::Exposed {
        what,
        path: path.to_owned(),
        reason,
    })?;
    let mut text = Zeroizing::new(Vec::new());
    file.read_to_end(&mut text).map_err(unusable)?;
    Ok(text)
}
