//! Certificates of an authority that nobody trusts unless told to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
};
use rcgen::{KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
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
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("authority {number}"))
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
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

    /// A certificate for `name`, of servers unless `adjust` says otherwise.
    pub(crate) fn issue(
        &self,
        name: &str,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Presented {
        let (params, key) = asked_for(name, adjust);
        Presented { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
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
        self.issue(name, |_| {}).server(clients, protocols, rustls::ALL_VERSIONS)
    }

    /// A certificate and a key for a server, as `server.pem` and `server.key`.
    pub(crate) fn write_server(&self, name: &str) {
        let Presented { certificate, key } = self.issue(name, |_| {});
        self.write("server.pem", &certificate.pem());
        self.write("server.key", &key.serialize_pem());
    }

    /// A caller that trusts this authority, presents a certificate if given, and speaks one of
    /// `protocols`.
    pub(crate) fn connector(&self, own: Option<&Presented>, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(Presented { certificate, key }) => {
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
        let Presented { certificate, key } = self.issue("client.example", for_clients);
        let certificate = self.write("client.pem", &certificate.pem());
        let key = self.write("client.key", &key.serialize_pem());
        let (certificate, key) = (path(&certificate), path(&key));
        format!("client_certificate = {certificate}, client_key = {key}")
    }
}

/// A certificate and its key.
pub(crate) struct Presented {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Presented {
    /// A certificate that nobody but itself stands for.
    pub(crate) fn self_made(name: &str, adjust: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = asked_for(name, adjust);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    /// A server that presents it, asks for a certificate of `clients` if given, and speaks one of
    /// `protocols`, by their names in ALPN, over one of these versions of TLS.
    pub(crate) fn server(
        &self,
        clients: Option<&Authority>,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsAcceptor {
        let chain: Vec<CertificateDer<'static>> = vec![self.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
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
}

fn asked_for(
    name: &str,
    adjust: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    adjust(&mut params);
    (params, KeyPair::generate().unwrap())
}

/// Makes a certificate one that is for clients and not for servers.
pub(crate) fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

/// A path as a TOML string.
pub(crate) fn path(path: &Path) -> String {
    quoted(path.to_str().unwrap())
}
