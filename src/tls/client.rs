//! TLS towards upstreams and token endpoints.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

use super::{TlsError, provider, read_authorities, read_chain, read_key};
use crate::permissions::Check;

/// What the configuration says about TLS to one host. All paths are PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// Trust these authorities instead of the platform's.
    pub ca: Option<PathBuf>,
    /// Present this certificate chain.
    pub client_certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub client_key: Option<PathBuf>,
}

impl TlsSettings {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.ca.iter().chain(&self.client_certificate).chain(&self.client_key)
    }
}

/// Builds the rustls configuration for a client.
///
/// # Errors
/// When a named file cannot be used, or others can get at the key.
pub fn client_config(settings: &TlsSettings, check: Check) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &settings.ca {
        Some(path) => Arc::new(read_authorities(path, check)?),
        None => platform_roots(),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Client)?
        .with_root_certificates(roots);
    let config = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = read_chain("the client certificate", certificate, check)?;
            let key = read_key("the client key", key, check)?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Client)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// `config`, offering these protocols (RFC 7301), the one it likes best first.
pub fn offering(config: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The platform's roots, or Mozilla's list built into the program where the platform has none, as
/// in an empty container image.
fn platform_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::debug!(%error, "a platform certificate cannot be read");
        }
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            tracing::debug!("the platform has no root certificates; using the built-in list");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    });
    Arc::clone(roots)
}
