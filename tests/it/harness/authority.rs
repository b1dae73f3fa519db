//! Certificates of an authority that nobody trusts unless told to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType};
use rcgen::{ExtendedKeyUsagePurpose, IsCa};
use rcgen::{KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{private_directory, quoted};

/// An invented certificate authority and the files it has written.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "An authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory: private_directory() };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server for `name`, which asks for a certificate of `clients` if given.
    pub(crate) fn server(&self, name: &str, clients: Option<&Authority>) -> TlsAcceptor {
        self.server_speaking(name, clients, &[])
    }

    /// The same, which speaks one of `protocols`, by their names in ALPN.
    pub(crate) fn server_speaking(
        &self,
        name: &str,
        clients: Option<&Authority>,
        protocols: &[&str],
    ) -> TlsAcceptor {
        let (certificate, key) = self.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A certificate and a key for a server, as `server.pem` and `server.key`.
    pub(crate) fn write_server(&self, name: &str) {
        let (certificate, key) = self.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
        self.write("server.pem", &certificate.pem());
        self.write("server.key", &key.serialize_pem());
    }

    /// A caller that trusts this authority and speaks one of `protocols`, with a certificate of
    /// another authority for a name if given.
    pub(crate) fn connector(
        &self,
        client: Option<(&Authority, &str)>,
        protocols: &[&str],
    ) -> TlsConnector {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.connector_for(client.map(|(clients, name)| clients.issue(name, usage)), protocols)
    }

    /// The same with a certificate that is for servers.
    pub(crate) fn connector_as_server(&self, clients: &Authority, name: &str) -> TlsConnector {
        self.connector_for(Some(clients.issue(name, ExtendedKeyUsagePurpose::ServerAuth)), &[])
    }

    fn connector_for(
        &self,
        client: Option<(rcgen::Certificate, KeyPair)>,
        protocols: &[&str],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// The lines of `tls` for a route or credential that trusts this authority.
    pub(crate) fn trusted(&self) -> String {
        format!("ca = {}", path(&self.ca()))
    }

    /// A client certificate: the lines for it.
    pub(crate) fn client(&self) -> String {
        let (certificate, key) = self.issue("client.example", ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = self.write("client.pem", &certificate.pem());
        let key = self.write("client.key", &key.serialize_pem());
        let (certificate, key) = (path(&certificate), path(&key));
        format!("client_certificate = {certificate}, client_key = {key}")
    }
}

/// A path as a TOML string.
pub(crate) fn path(path: &Path) -> String {
    quoted(path.to_str().unwrap())
}
