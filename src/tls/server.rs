//! TLS towards callers.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::{TlsError, provider, read_authorities, read_chain, read_key};
use crate::permissions::Check;

/// What the configuration says about TLS on a listener. All paths are PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate chain that callers see, its own certificate first.
    pub certificate: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
    /// Callers have to present a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

impl ServerTls {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca)
    }
}

/// Builds the rustls configuration for a listener that speaks `protocols` (RFC 7301), the one it
/// likes best first. TLS 1.2 and 1.3. No session of an earlier configuration is resumed, and none at all
/// where callers have certificates.
///
/// # Errors
/// When a named file cannot be used, others can read the key, or certificate and key do not fit.
pub fn server_config(
    settings: &ServerTls,
    protocols: &[&[u8]],
    check: Check,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_chain("the certificate", &settings.certificate, check)?;
    let key = read_key("the key", &settings.key, check)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Server)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(read_authorities(path, check)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Server)?;
    if settings.client_ca.is_some() {
        // A session that is resumed is not asked for its certificate again, which may have ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
