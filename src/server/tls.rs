//! TLS on a listener: the handshake, and certificates that are renewed while it serves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::Protocol;
use crate::permissions::Check;
use crate::stamp::Stamp;
use crate::tls::{PeerNames, ServerTls, TlsError, server_config};

/// How a TLS record of a handshake begins (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// TLS of one listener.
#[derive(Debug)]
pub struct ListenerTls {
    settings: ServerTls,
    protocols: &'static [&'static [u8]],
    check: Check,
    config: ArcSwap<ServerConfig>,
    /// Of the files, from before they were read.
    stamps: Vec<Option<Stamp>>,
}

/// What a caller began with.
pub(super) enum Begun {
    /// TLS. With the names in the certificate that it was asked for, if it was.
    Tls(Box<TlsStream<TcpStream>>, Option<PeerNames>),
    /// Something else, which is still to be read.
    Plain(TcpStream),
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(settings: ServerTls, protocol: Protocol, check: Check) -> Result<Self, TlsError> {
        let protocols: &[&[u8]] = match protocol {
            Protocol::Auto => &[b"h2", b"http/1.1"],
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 => &[b"h2"],
        };
        let stamps = settings.files().map(|file| Stamp::of_blocking(file)).collect();
        let config = ArcSwap::new(server_config(&settings, protocols, check)?);
        Ok(Self { settings, protocols, check, config, stamps })
    }

    /// Looks at the files again and again until stopped, and uses what is new for the handshakes
    /// from then on. While they cannot be used, such as between the replacement of a certificate and
    /// that of its key, what there was stays.
    pub async fn watch(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut seen = None;
        loop {
            let current = self.stamps().await;
            if current != *seen.as_ref().unwrap_or(&self.stamps) && self.read_again(&current).await
            {
                seen = Some(current);
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// False if the files were changed meanwhile, so that they have to be read once more.
    async fn read_again(self: &Arc<Self>, stamps: &[Option<Stamp>]) -> bool {
        let this = Arc::clone(self);
        let build = move || server_config(&this.settings, this.protocols, this.check);
        let Ok(read) = tokio::task::spawn_blocking(build).await else { return false };
        // The beginning may be of the old one, the end of the new.
        if self.stamps().await != stamps {
            return false;
        }
        let certificate = self.settings.certificate.display();
        match read {
            Ok(config) => {
                self.config.store(config);
                tracing::debug!(%certificate, "the certificate of a listener was read");
            }
            Err(reason) => tracing::warn!(
                %certificate, %reason,
                "the certificate of a listener cannot be read again; what it had stays in use"
            ),
        }
        true
    }

    async fn stamps(&self) -> Vec<Option<Stamp>> {
        let mut stamps = Vec::new();
        for file in self.settings.files() {
            stamps.push(Stamp::of(file).await);
        }
        stamps
    }

    /// Shakes hands, unless the caller begins with something that is no handshake.
    ///
    /// # Errors
    /// When the handshake fails, as it does without a certificate that was asked for.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Begun> {
        let mut first = [0];
        if stream.peek(&mut first).await? > 0 && first != [HANDSHAKE] {
            return Ok(Begun::Plain(stream));
        }
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let names = chain.and_then(<[_]>::first).map(PeerNames::of);
        Ok(Begun::Tls(Box::new(stream), names))
    }
}
