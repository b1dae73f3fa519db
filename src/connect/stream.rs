//! A connection to an upstream or a token endpoint, plain or under TLS.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::DialError;

/// A connection.
#[derive(Debug)]
pub struct Stream(Transport);

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, LateRefusal),
}

/// What the other side has to say about our certificate after our side of the handshake has ended,
/// for whoever has given the stream away.
#[derive(Debug, Clone, Default)]
pub struct LateRefusal(Arc<OnceLock<DialError>>);

impl LateRefusal {
    /// The refusal, if there was one.
    pub fn get(&self) -> Option<DialError> {
        self.0.get().cloned()
    }

    fn look_at(&self, read: &Poll<io::Result<()>>) {
        if let Poll::Ready(Err(error)) = read
            && let Some(refusal) = DialError::from_late_refusal(error)
        {
            let _ = self.0.set(refusal);
        }
    }
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self(Transport::Plain(tcp))
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>) -> Self {
        Self(Transport::Tls(Box::new(tls), LateRefusal::default()))
    }

    /// True if both sides have agreed on HTTP/2 (RFC 7301, RFC 9113 §3.2).
    pub fn negotiated_http2(&self) -> bool {
        match &self.0 {
            Transport::Plain(_) => false,
            Transport::Tls(tls, _) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Tells of a refusal that is yet to be read.
    pub fn late_refusal(&self) -> LateRefusal {
        match &self.0 {
            Transport::Plain(_) => LateRefusal::default(),
            Transport::Tls(_, refusal) => refusal.clone(),
        }
    }

    /// The version of TLS; `None` without TLS.
    pub fn tls_version(&self) -> Option<ProtocolVersion> {
        match &self.0 {
            Transport::Plain(_) => None,
            Transport::Tls(tls, _) => tls.get_ref().1.protocol_version(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls, refusal) => {
                let read = Pin::new(tls).poll_read(cx, buffer);
                refusal.look_at(&read);
                read
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls, _) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Transport::Tls(tls, _) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls, _) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls, _) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls, _) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
