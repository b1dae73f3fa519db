//! Serving one connection: HTTP/1 or HTTP/2, whichever the caller speaks.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::bind::Accepted;
use super::patience::{Activity, Busy, Patient, Reset};
use super::stopping::Ear;
use super::{Connection, Syntax};
use crate::config::{HeaderCase, Limits, Protocol};
use crate::local::LocalExecutor;
use crate::proxy::Proxy;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::upstream::Pools;
use crate::proxy::websocket::Tunnel;

/// How a caller begins who speaks HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Serves until the caller goes away, or gracefully ends when told to stop.
pub(super) async fn serve(
    connection: Connection,
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    stopping: Ear,
) {
    let Connection { accepted, ends, syntax, gate, _slots } = connection;
    match accepted {
        Accepted::Tcp(stream) => {
            let _ = stream.set_nodelay(true);
            match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => drive(stream, syntax, ends, gate, proxy, pools, stopping).await,
                Err(error) => tracing::warn!(%error, "a connection cannot be served"),
            }
        }
        #[cfg(unix)]
        Accepted::Unix(stream) => match tokio::net::UnixStream::from_std(stream) {
            Ok(stream) => drive(stream, syntax, ends, gate, proxy, pools, stopping).await,
            Err(error) => tracing::warn!(%error, "a connection cannot be served"),
        },
    }
}

async fn drive<S>(
    stream: S,
    syntax: Syntax,
    ends: Ends,
    gate: Arc<Gate>,
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    mut stopping: Ear,
) where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let Limits { idle_timeout, header_timeout, write_timeout, .. } = proxy.limits;
    let activity = Activity::new(idle_timeout, header_timeout, write_timeout);
    let mut stream = Patient::new(stream, Rc::clone(&activity));
    let http2 = match syntax.protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Auto => {
            let mut begun = std::pin::pin!(stream.begins_with(PREFACE));
            let begun = std::future::poll_fn(|cx| {
                // Nothing was asked yet, so nothing is lost.
                if stopping.is_told(cx) {
                    Poll::Ready(None)
                } else {
                    begun.as_mut().poll(cx).map(Some)
                }
            });
            match begun.await {
                Some(Ok(http2)) => http2,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a caller's connection ended before a request");
                    return;
                }
                None => return,
            }
        }
    };
    let stream = TokioIo::new(stream);
    let limits = proxy.limits.clone();
    let tunnel: Rc<Cell<Option<(Tunnel, Busy)>>> = Rc::default();
    let tunnels = Rc::clone(&tunnel);
    let telling = Rc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = activity.request(request.version() == Version::HTTP_2);
        let (tunnels, activity) = (Rc::clone(&tunnels), Rc::clone(&activity));
        let is_http10 = request.version() == Version::HTTP_10;
        let handled =
            Arc::clone(&proxy).handle(Rc::clone(&pools), Arc::clone(&gate), ends, request);
        handled.map(move |(response, tunnel)| {
            activity.set_open_ended(is_http10 && response.size_hint().exact().is_none());
            let busy = match tunnel {
                Some(tunnel) => {
                    tunnels.set(Some((tunnel, busy)));
                    None
                }
                None => Some(busy),
            };
            Ok::<_, Infallible>(response.map(|content| Occupied { content, _busy: busy }))
        })
    });
    if http2 {
        let serving = http2_builder(&limits).serve_connection(stream, service);
        let mut serving = Box::pin(serving);
        let end = http2::Connection::graceful_shutdown;
        until_done(serving.as_mut(), end, &mut stopping).await;
        return;
    }
    let mut serving = http1_builder(syntax, &limits).serve_connection(stream, service);
    let end = http1::Connection::graceful_shutdown;
    if until_done(Pin::new(&mut serving), end, &mut stopping).await {
        telling.set_open_ended(false);
    }
    if let Some((tunnel, _busy)) = tunnel.take() {
        let parts = serving.into_parts();
        let mut caller = parts.io.into_inner();
        caller.unread(parts.read_buf);
        Box::pin(tunnel.run(caller)).await;
    }
}

/// Waits until a connection has ended, which it does gracefully when told to stop. True if nothing
/// went wrong.
async fn until_done<C>(
    mut serving: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    stopping: &mut Ear,
) -> bool
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut ending = false;
    let ended = std::future::poll_fn(|cx| {
        if !ending && stopping.is_told(cx) {
            ending = true;
            end(serving.as_mut());
        }
        serving.as_mut().poll(cx)
    });
    match ended.await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "a caller's connection ended early");
            false
        }
    }
}

fn http1_builder(syntax: Syntax, limits: &Limits) -> http1::Builder {
    let Syntax { header_case, remember_case, lenient, .. } = syntax;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Patience is the stream's, which tells a caller that is idle from one that is slow.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.fields)
        .title_case_headers(header_case != HeaderCase::Lower)
        .preserve_header_case(header_case == HeaderCase::Preserve || remember_case)
        .half_close(lenient)
        // A dropped line may have said where a request ends: what follows it is not believed.
        .keep_alive(!lenient)
        .ignore_invalid_headers(lenient)
        .allow_multiple_spaces_in_request_line_delimiters(lenient);
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

/// An answer during which the connection counts as busy.
struct Occupied<B> {
    content: B,
    _busy: Option<Busy>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Occupied<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.content).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
