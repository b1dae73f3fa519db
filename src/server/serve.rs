//! Serving one connection: HTTP/1 or HTTP/2, whichever the caller speaks.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use hyper::rt::{Executor, Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::bind::Accepted;
use crate::config::Protocol;
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
    TokioIo<S>: Read + Write + Unpin + 'static,
{
    let builder = builder(protocol, &proxy);
    let service = service_fn(move |request| {
        let (proxy, pools, gate) = (Arc::clone(&proxy), Rc::clone(&pools), Arc::clone(&gate));
        async move { Ok::<_, Infallible>(proxy.handle(&pools, &gate, ends, request).await) }
    });
    let serving = builder.serve_connection(TokioIo::new(stream), service);
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
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.fields)
        // A caller that has sent its request may close its half of the connection.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.idle_timeout);
    builder
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
