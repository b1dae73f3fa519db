//! Dialling: from a configured host to a connected stream, plain or under TLS, directly or through
//! a proxy.

mod prohibited;
mod race;
mod stream;
mod tls_failure;
mod tunnel;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use http::uri::Authority;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use stream::{LateRefusal, Stream};
pub use tunnel::{ForwardProxy, InvalidProxy};

/// How long a connection may be silent before the kernel asks whether the other side lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Knows how to reach one host. Where it leads comes from the configuration, never from a request.
#[derive(Clone)]
pub struct Dialer {
    host: Arc<str>,
    port: u16,
    tls: Option<(ServerName<'static>, Arc<ArcSwap<ClientConfig>>)>,
    proxy: Option<ForwardProxy>,
    timeout: Duration,
}

impl Dialer {
    /// A dialer for the scheme and authority of `url`. `tls` is needed, and used, for https only.
    ///
    /// # Errors
    /// When `url` has no host, or it is not a name that a certificate can be for.
    pub fn new(
        url: &Uri,
        tls: Option<&Arc<ClientConfig>>,
        proxy: Option<ForwardProxy>,
        timeout: Duration,
    ) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(url.authority().map(Authority::to_string).unwrap_or_default());
        let host = url.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = url.scheme_str() == Some("https");
        let tls = if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid())?;
            let config = tls.ok_or_else(invalid)?;
            Some((name, Arc::new(ArcSwap::new(Arc::clone(config)))))
        } else {
            None
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { host: host.into(), port, tls, proxy, timeout })
    }

    /// Shakes hands in this way from now on, as do its clones; if the scheme is https.
    pub fn renew_tls(&self, tls: Arc<ClientConfig>) {
        if let Some((_, config)) = &self.tls {
            config.store(tls);
        }
    }

    /// Connects, and shakes hands where the scheme is https, within the time limit.
    ///
    /// # Errors
    /// With the step that failed.
    pub async fn dial(&self) -> Result<Stream, DialError> {
        match tokio::time::timeout(self.timeout, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(DialError::Timeout),
        }
    }

    async fn connect(&self) -> Result<Stream, DialError> {
        let tcp = match &self.proxy {
            None => connect_tcp(&self.host, self.port).await?,
            Some(proxy) => {
                let tcp = connect_tcp(&proxy.host, proxy.port).await;
                let tcp = tcp.map_err(|error| DialError::Proxy(error.to_string()))?;
                proxy.tunnel(tcp, &self.host, self.port).await?
            }
        };
        match &self.tls {
            None => Ok(Stream::plain(tcp)),
            Some((name, config)) => {
                let connector = TlsConnector::from(config.load_full());
                let handshake = connector.connect(name.clone(), tcp).await;
                handshake.map(Stream::tls).map_err(|error| DialError::from_handshake(&error))
            }
        }
    }
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    // Asked anew for every connection, so that a host that moves is found.
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| {
        if is_out_of_descriptors(&error) { DialError::Exhausted } else { DialError::Name }
    })?;
    let found: Vec<_> = addresses.collect();
    if found.is_empty() {
        return Err(DialError::Name);
    }
    let addresses = prohibited::allowed(host, found);
    if addresses.is_empty() {
        return Err(DialError::Prohibited);
    }
    let connected = race::race(addresses, TcpStream::connect).await;
    let tcp = connected
        .map_err(|error| error.map_or(DialError::Name, |error| DialError::from_connect(&error)))?;
    // Failing to tune a socket is no reason not to use it.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(&tcp).set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(10)),
    );
    Ok(tcp)
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({}:{}, tls: {}", self.host, self.port, self.tls.is_some())?;
        if let Some(proxy) = &self.proxy {
            write!(f, ", {proxy:?}")?;
        }
        f.write_str(")")
    }
}

/// True if `host`, by name or by address, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// True if the system says that no file descriptor is left, for this process or for all.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    // ENFILE and EMFILE, which all Unix systems number alike; `ErrorKind` has no name for them.
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

/// A URL without a usable host.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a host that can be connected to")]
pub struct InvalidHost(String);

/// Why a host could not be connected to, in the words of RFC 9209 §2.3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No address for the name.
    #[error("its name cannot be resolved")]
    Name,
    /// Its name leads only to addresses that no name may lead to.
    #[error(
        "its name leads to a link-local or metadata address; configure the address itself if that \
         is meant"
    )]
    Prohibited,
    /// Nobody listens there.
    #[error("it refused the connection")]
    Refused,
    /// No way there.
    #[error("it cannot be reached ({0})")]
    Unroutable(io::ErrorKind),
    /// There is no file descriptor for the connection.
    #[error("no file descriptor is left")]
    Exhausted,
    /// Not within the time limit.
    #[error("connecting took too long")]
    Timeout,
    /// Its certificate is not trusted, expired, or for somebody else.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// The TLS handshake failed otherwise.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// The proxy on the way to it cannot be reached, or opens no tunnel.
    #[error("the proxy on the way to it does not let us through: {0}")]
    Proxy(String),
}

impl DialError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the system has many, of which two matter")]
    fn from_connect(error: &io::Error) -> Self {
        match error.kind() {
            _ if is_out_of_descriptors(error) => Self::Exhausted,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Unroutable(kind),
        }
    }
}
