//! Callers and upstreams of HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::{Content, request, whole};
use super::upstream::Seen;
use super::{PATIENCE, Reply, Upstream};

/// Streams at once that an upstream allows if nothing else is said.
const STREAMS: u32 = 200;

/// Content with trailers after it.
pub(crate) fn with_trailers(content: &'static str, trailers: &[(&'static str, &str)]) -> Content {
    let mut fields = HeaderMap::new();
    for (name, value) in trailers {
        fields.append(*name, value.parse().unwrap());
    }
    let frames = [Ok(Frame::data(Bytes::from(content))), Ok(Frame::trailers(fields))];
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Reads an answer to its end: with the trailers.
pub(crate) async fn complete(response: Response<Incoming>) -> hyper::Result<(Reply, HeaderMap)> {
    let (head, body) = response.into_parts();
    let collected = timeout(PATIENCE, body.collect()).await.expect("no end of the answer")?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    Ok((Reply { status: head.status.as_u16(), headers: head.headers, body }, trailers))
}

/// A caller's connection with prior knowledge; closed when dropped.
pub(crate) struct Http2 {
    sender: http2::SendRequest<Content>,
    address: SocketAddr,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Http2 {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), address).await
    }

    pub(crate) async fn over<S>(stream: S, address: SocketAddr) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.unwrap();
        Self { sender, address, driver: tokio::spawn(connection) }
    }

    /// Sends, and returns the answer as soon as its head is there.
    pub(crate) async fn begin(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: Content,
    ) -> hyper::Result<Response<Incoming>> {
        let url = format!("http://{}{target}", self.address);
        let request = request(method, &url, fields, content);
        let mut sender = self.sender.clone();
        let answer = sender.send_request(request);
        timeout(PATIENCE, answer).await.expect("no answer")
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: Content,
    ) -> (Reply, HeaderMap) {
        let response = self.begin(method, target, fields, content).await.unwrap();
        complete(response).await.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], whole("")).await.0
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request as an upstream of HTTP/2 received it.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) authority: String,
    pub(crate) request: Seen,
    pub(crate) trailers: HeaderMap,
}

/// A server of HTTP/2 with prior knowledge. Stops when dropped.
pub(crate) struct Upstream2 {
    upstream: Upstream,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    go_away: Arc<Notify>,
}

impl Upstream2 {
    /// Answers with the content of the request, and its trailers.
    pub(crate) async fn echo() -> Self {
        let arrived: Arc<Mutex<Vec<Arrived>>> = Arc::default();
        let record = Arc::clone(&arrived);
        let upstream = Self::serving(STREAMS, move |request| {
            let record = Arc::clone(&record);
            async move { echo(request, &record).await }
        })
        .await;
        Self { arrived, ..upstream }
    }

    /// Answers what a future says; so many requests at once on a connection.
    pub(crate) async fn serving<F, A>(streams: u32, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Content>> + Send + 'static,
    {
        let (answer, go_away) = (Arc::new(answer), Arc::new(Notify::new()));
        let told = Arc::clone(&go_away);
        let upstream = Upstream::raw(move |stream| {
            let (answer, told) = (Arc::clone(&answer), Arc::clone(&told));
            serve(stream, streams, answer, told)
        })
        .await;
        Self { upstream, arrived: Arc::default(), go_away }
    }

    pub(crate) fn url(&self) -> String {
        self.upstream.url()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    pub(crate) fn connections(&self) -> usize {
        self.upstream.connections()
    }

    /// What an echo has received.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// Says GOAWAY on every connection that there is. What is in flight is answered.
    pub(crate) fn go_away(&self) {
        self.go_away.notify_waiters();
    }
}

async fn echo(request: Request<Incoming>, record: &Mutex<Vec<Arrived>>) -> Response<Content> {
    let (head, body) = request.into_parts();
    let Ok(collected) = body.collect().await else {
        return Response::new(whole("it broke off"));
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    record.lock().unwrap().push(Arrived {
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        request: Seen {
            method: head.method.to_string(),
            target,
            headers: head.headers,
            body: body.clone(),
        },
        trailers: trailers.clone(),
    });
    if trailers.is_empty() {
        return Response::new(whole(body));
    }
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
}

/// Serves HTTP/2 on one connection until the other side goes away, or is told to.
pub(crate) async fn serve<S, F, A>(stream: S, streams: u32, answer: Arc<F>, go_away: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Content>> + Send + 'static,
{
    let told = go_away.notified();
    tokio::pin!(told);
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut going = false;
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            () = told.as_mut(), if !going => {
                going = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
