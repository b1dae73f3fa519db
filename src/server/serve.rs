//! Serving one connection: HTTP/1 or HTTP/2, whichever the caller speaks.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::bind::Accepted;
use super::patience::{Activity, Busy, Patient, Reset};
use super::stopping::Ear;
use super::tls::{Begun, ListenerTls};
use super::{Connection, Service, Syntax, http1};
use crate::config::{Limits, Protocol};
use crate::local::LocalExecutor;
use crate::proxy::content::CallerContent;
use crate::proxy::respond::ProxyError;
use crate::proxy::upstream::Pools;
use crate::proxy::{Proxy, Received};

/// How a caller begins who speaks HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// How much of an answer may wait on each of them to be sent, in bytes. A caller can open as many
/// windows as it likes and then read nothing, so this is what a connection costs at the worst.
const SEND_BUFFER: usize = 64 << 10;

/// Serves until the caller goes away, or gracefully ends when told to stop.
pub(super) async fn serve(
    connection: Connection,
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    stopping: Ear,
) {
    let Connection { accepted, ends, settings, _slots } = connection;
    let (tls, syntax) = {
        let now = settings.load();
        (now.tls.clone(), now.syntax)
    };
    let service = Service { proxy, pools, settings, ends };
    match accepted {
        Accepted::Tcp(stream) => {
            tune(&stream, service.proxy.limits.write_timeout);
            match (TcpStream::from_std(stream), tls) {
                (Ok(stream), None) => drive(stream, syntax, service, stopping).await,
                // Boxed, as HTTP/2 below.
                (Ok(stream), Some(tls)) => {
                    Box::pin(drive_tls(stream, &tls, syntax, service, stopping)).await;
                }
                (Err(error), _) => tracing::warn!(%error, "a connection cannot be served"),
            }
        }
        #[cfg(unix)]
        Accepted::Unix(stream) => match tokio::net::UnixStream::from_std(stream) {
            Ok(stream) => drive(stream, syntax, service, stopping).await,
            Err(error) => tracing::warn!(%error, "a connection cannot be served"),
        },
    }
}

/// Makes the system send what there is at once and, on Linux, give up a caller who takes nothing of it
/// for too long, also when the connection was closed by then. Failing to is no reason not to serve.
fn tune(stream: &std::net::TcpStream, write_timeout: Duration) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(write_timeout));
    #[cfg(not(target_os = "linux"))]
    let _ = write_timeout;
}

/// Waits, unless the connection is told to end meanwhile: nothing was asked yet, so nothing is lost.
async fn unless_told<T>(stopping: &mut Ear, waiting: impl Future<Output = T>) -> Option<T> {
    let mut waiting = std::pin::pin!(waiting);
    std::future::poll_fn(|cx| {
        if stopping.is_told(cx) { Poll::Ready(None) } else { waiting.as_mut().poll(cx).map(Some) }
    })
    .await
}

/// Shakes hands first.
async fn drive_tls(
    stream: TcpStream,
    tls: &ListenerTls,
    syntax: Syntax,
    mut service: Service,
    mut stopping: Ear,
) {
    let patience = service.proxy.limits.header_timeout;
    let begun = tokio::time::timeout(patience, tls.accept(stream));
    let error = match unless_told(&mut stopping, begun).await {
        Some(Ok(Ok(Begun::Tls(stream, names)))) => {
            service.ends.secure = true;
            service.ends.client = names.map(Arc::new);
            return drive(*stream, syntax, service, stopping).await;
        }
        Some(Ok(Ok(Begun::Plain(stream)))) => {
            let activity = activity(&service);
            let stream = Patient::new(stream, Rc::clone(&activity));
            let error = ProxyError::Malformed("this port speaks TLS; use https://");
            return http1::refuse(stream, &activity, syntax, &service, &error).await;
        }
        Some(Ok(Err(error))) => error,
        Some(Err(_)) => io::ErrorKind::TimedOut.into(),
        None => return,
    };
    tracing::debug!(peer = ?service.ends.peer, %error, "a TLS handshake failed");
}

/// What a new connection is doing.
fn activity(service: &Service) -> Rc<Activity> {
    let Limits { idle_timeout, header_timeout, write_timeout, .. } = service.proxy.limits;
    Activity::new(idle_timeout, header_timeout, write_timeout)
}

async fn drive<S>(stream: S, syntax: Syntax, service: Service, mut stopping: Ear)
where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let activity = activity(&service);
    let mut stream = Patient::new(stream, Rc::clone(&activity));
    let http2 = match syntax.protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Auto => match unless_told(&mut stopping, stream.begins_with(PREFACE)).await {
            Some(Ok(http2)) => http2,
            Some(Err(error)) => {
                tracing::debug!(%error, "a caller's connection ended before a request");
                return;
            }
            None => return,
        },
    };
    if http2 {
        // Boxed: what fewer callers speak does not make every connection larger.
        Box::pin(serve_http2(stream, activity, service, stopping)).await;
    } else {
        http1::serve(stream, activity, syntax, service, stopping).await;
    }
}

async fn serve_http2<S>(
    stream: Patient<S>,
    activity: Rc<Activity>,
    service: Service,
    mut stopping: Ear,
) where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let builder = http2_builder(&service.proxy.limits);
    let pauses = Rc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = activity.request(true);
        let (head, incoming) = request.into_parts();
        let gate = service.gate();
        let Service { proxy, pools, ends, .. } = &service;
        let content = CallerContent::Http2(incoming);
        let ends = ends.clone();
        let received = Received { head, content, ends, spelling: None, interims: None };
        let handled = Arc::clone(proxy).handle(Rc::clone(pools), gate, received);
        handled.map(move |(response, _)| {
            Ok::<_, Infallible>(response.map(|content| Occupied { content, _busy: busy }))
        })
    });
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut ending = false;
    let ended = std::future::poll_fn(|cx| {
        if !ending
            && if pauses.is_paused() {
                stopping.is_told_in_a_pause(cx)
            } else {
                stopping.is_told(cx)
            }
        {
            ending = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a caller's connection ended early");
    }
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

/// An answer during which the connection counts as busy.
struct Occupied<B> {
    content: B,
    _busy: Busy,
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
