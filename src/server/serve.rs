//! Serving one connection: HTTP/1 or HTTP/2, whichever the caller speaks.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::bind::Accepted;
use super::patience::{Activity, Busy, Patient};
use crate::config::{Limits, Protocol};
use crate::proxy::Proxy;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::upstream::Pools;

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Serves until the caller goes away, or gracefully ends when told to stop.
pub(super) async fn serve(
    connection: Connection,
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    stop: CancellationToken,
) {
    let Connection { accepted, ends, protocol, gate, _slots } = connection;
    match accepted {
        Accepted::Tcp(stream) => {
            let _ = stream.set_nodelay(true);
            match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => drive(stream, protocol, ends, gate, proxy, pools, stop).await,
                Err(error) => tracing::warn!(%error, "a connection cannot be served"),
            }
        }
        #[cfg(unix)]
        Accepted::Unix(stream) => match tokio::net::UnixStream::from_std(stream) {
            Ok(stream) => drive(stream, protocol, ends, gate, proxy, pools, stop).await,
            Err(error) => tracing::warn!(%error, "a connection cannot be served"),
        },
    }
}

async fn drive<S>(
    stream: S,
    protocol: Protocol,
    ends: Ends,
    gate: Arc<Gate>,
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let builder = builder(protocol, &proxy);
    let Limits { idle_timeout, header_timeout, write_timeout, .. } = proxy.limits;
    let activity = Activity::new(idle_timeout, header_timeout, write_timeout);
    let stream = TokioIo::new(Patient::new(stream, Rc::clone(&activity)));
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, pools, gate) = (Arc::clone(&proxy), Rc::clone(&pools), Arc::clone(&gate));
        let busy = activity.request(request.version() == Version::HTTP_2);
        async move {
            let response = proxy.handle(&pools, &gate, ends, request).await;
            Ok::<_, Infallible>(response.map(|content| Occupied { content, _busy: busy }))
        }
    });
    let serving = builder.serve_connection(stream, service);
    tokio::pin!(serving);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a caller's connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder(protocol: Protocol, proxy: &Proxy) -> auto::Builder<LocalExecutor> {
    let limits = &proxy.limits;
    let mut builder = match protocol {
        Protocol::Auto => auto::Builder::new(LocalExecutor),
        Protocol::Http1 => auto::Builder::new(LocalExecutor).http1_only(),
        Protocol::Http2 => auto::Builder::new(LocalExecutor).http2_only(),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        // Patience is the stream's, which tells a caller that is idle from one that is slow.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.fields);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
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

/// Runs what hyper spawns on the worker's own thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
