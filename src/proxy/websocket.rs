//! WebSocket (RFC 6455): recognising a handshake, and the tunnel that follows it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::Route;
use super::content::ExchangeGuard as _;
use super::exchange::Exchange;
use super::headers::lists;
use crate::connect::Stream;

/// True if this is the handshake of a WebSocket (RFC 6455 §4.2.1). What merely looks like one is an
/// ordinary request.
pub fn is_handshake(head: &Parts) -> bool {
    let headers = &head.headers;
    let once = |name: HeaderName| headers.get_all(name).iter().count() == 1;
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && lists(headers, CONNECTION, b"upgrade")
        && once(UPGRADE)
        && headers.get(UPGRADE).is_some_and(is_websocket)
        && once(SEC_WEBSOCKET_KEY)
        && once(SEC_WEBSOCKET_VERSION)
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0")
}

fn is_websocket(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// True if an answer with status 101 and these fields says that WebSocket follows.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(is_websocket)
}

/// Says in the fields of an answer that WebSocket follows on this connection.
pub fn accept(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// What follows an accepted handshake: bytes in both directions.
#[derive(Debug)]
pub struct Tunnel {
    /// The connection of the upstream, which is no longer HTTP.
    pub upstream: Stream,
    /// What the upstream has said already.
    pub read_ahead: Bytes,
    /// How long both sides may be silent.
    pub idle: Duration,
    /// What it stands on.
    pub ground: Ground,
    /// Lasts as long as this.
    pub exchange: Exchange,
}

/// What has to stay for a tunnel to stay: its route, and the device that it belongs to.
#[derive(Debug)]
pub struct Ground {
    /// The route.
    pub route: Arc<Route>,
    /// The device, where the route asks for one.
    pub device: Option<Arc<str>>,
}

impl Ground {
    /// Waits until one of them is gone, and says which.
    async fn gone(&self) -> &'static str {
        let Some(device) = &self.device else {
            self.route.removed().await;
            return "route removed";
        };
        let identities = self.route.identities.iter();
        let unknown = identities.map(|one| one.cache.until_unknown(device));
        let mut unknown: FuturesUnordered<_> = unknown.collect();
        tokio::select! {
            () = self.route.removed() => "route removed",
            Some(()) = unknown.next() => "device removed",
        }
    }
}

impl Tunnel {
    /// Carries bytes between `caller`, who has said `said` already, and the upstream, until one side
    /// ends, nothing moves for too long, or the route or the device is removed.
    pub async fn run(self, caller: impl AsyncRead + AsyncWrite + Unpin, said: Bytes) {
        let Self { upstream, read_ahead, idle, ground, mut exchange } = self;
        let moved = Rc::new(Cell::new(Instant::now()));
        let mut caller = Watched { stream: caller, moved: Rc::clone(&moved) };
        let mut upstream = Watched { stream: upstream, moved: Rc::clone(&moved) };
        let silence = async {
            loop {
                let end = moved.get() + idle;
                if end <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(end).await;
            }
        };
        let carry = async {
            upstream.write_all(&said).await?;
            caller.write_all(&read_ahead).await?;
            let (to_upstream, to_caller) =
                tokio::io::copy_bidirectional(&mut caller, &mut upstream).await?;
            let ahead = u64::try_from(read_ahead.len()).unwrap_or(u64::MAX);
            Ok::<_, io::Error>((to_upstream, to_caller.saturating_add(ahead)))
        };
        tokio::select! {
            carried = carry => match carried {
                Ok((_, to_caller)) => {
                    exchange.passed(usize::try_from(to_caller).unwrap_or(usize::MAX));
                    exchange.ended();
                }
                // One side is gone without a word, as WebSockets often are.
                Err(error) => {
                    tracing::debug!(%error, "a tunnel ended early");
                    exchange.ended();
                }
            },
            () = silence => exchange.ended_by("websocket idle timeout"),
            gone = ground.gone() => exchange.ended_by(gone),
        }
    }
}

/// A stream that says when it moves.
struct Watched<S> {
    stream: S,
    moved: Rc<Cell<Instant>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            this.moved.set(Instant::now());
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        this.moved.set(Instant::now());
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/socket");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const HANDSHAKE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn a_handshake_has_all_its_parts() {
        assert!(is_handshake(&head(&HANDSHAKE)));
        for missing in 0..HANDSHAKE.len() {
            let mut fields = HANDSHAKE.to_vec();
            let (name, _) = fields.remove(missing);
            assert!(!is_handshake(&head(&fields)), "without {name}");
        }
    }

    #[test]
    fn what_merely_looks_like_a_handshake_is_none() {
        let with = |name, value| {
            let mut fields = HANDSHAKE.to_vec();
            fields.push((name, value));
            is_handshake(&head(&fields))
        };
        assert!(!with("upgrade", "h2c"), "two protocols");
        assert!(!with("sec-websocket-key", "another"), "two keys");
        assert!(!with("content-length", "5"), "content");
        assert!(!with("transfer-encoding", "chunked"), "content");
        let mut lengths = HANDSHAKE.to_vec();
        lengths.extend([("content-length", "0"), ("content-length", "5")]);
        assert!(!is_handshake(&head(&lengths)), "content behind none");
        let mut h2c = HANDSHAKE.to_vec();
        h2c[1] = ("upgrade", "h2c");
        assert!(!is_handshake(&head(&h2c)));
        let mut parts = head(&HANDSHAKE);
        parts.method = Method::POST;
        assert!(!is_handshake(&parts));
        let mut parts = head(&HANDSHAKE);
        parts.version = Version::HTTP_10;
        assert!(!is_handshake(&parts));
    }
}
