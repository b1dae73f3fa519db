//! Dialling: from a configured host to a connected stream, plain or under TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a connection may be silent before the kernel asks whether the other side lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Knows how to reach one host. Where it leads comes from the configuration, never from a request.
#[derive(Clone)]
pub struct Dialer {
    host: Arc<str>,
    port: u16,
    tls: Option<(ServerName<'static>, TlsConnector)>,
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
        timeout: Duration,
    ) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(url.authority().map(Authority::to_string).unwrap_or_default());
        let host = url.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = url.scheme_str() == Some("https");
        let tls = if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid())?;
            let config = tls.ok_or_else(invalid)?;
            Some((name, TlsConnector::from(Arc::clone(config))))
        } else {
            None
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { host: host.into(), port, tls, timeout })
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
        let addresses: Vec<_> = tokio::net::lookup_host((&*self.host, self.port))
            .await
            .map_err(|_| DialError::Name)?
            .collect();
        // Each address gets its share of the time, so that one that swallows packets does not keep
        // the others from being tried.
        let share = self.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failure = DialError::Name;
        let mut connected = None;
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => {
                    connected = Some(tcp);
                    break;
                }
                Ok(Err(error)) => failure = DialError::from_connect(&error),
                Err(_) => failure = DialError::Timeout,
            }
        }
        let Some(tcp) = connected else { return Err(failure) };
        // Failing to tune a socket is no reason not to use it.
        let _ = tcp.set_nodelay(true);
        let _ = SockRef::from(&tcp).set_tcp_keepalive(
            &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(10)),
        );
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some((name, connector)) => {
                let handshake = connector.connect(name.clone(), tcp).await;
                handshake
                    .map(|stream| Stream::Tls(Box::new(stream)))
                    .map_err(|error| DialError::from_handshake(&error))
            }
        }
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({}:{}, tls: {})", self.host, self.port, self.tls.is_some())
    }
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
    /// Nobody listens there.
    #[error("it refused the connection")]
    Refused,
    /// No way there.
    #[error("it cannot be reached ({0})")]
    Unroutable(io::ErrorKind),
    /// Not within the time limit.
    #[error("connecting took too long")]
    Timeout,
    /// Its certificate is not trusted, expired, or for somebody else.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// The TLS handshake failed otherwise.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

impl DialError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the system has many, of which two matter")]
    fn from_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Unroutable(kind),
        }
    }

    fn from_handshake(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                Self::Certificate(reason.to_string())
            }
            Some(other) => Self::Handshake(other.to_string()),
            None => Self::Handshake(error.kind().to_string()),
        }
    }
}

/// A connection to an upstream or a token endpoint.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
