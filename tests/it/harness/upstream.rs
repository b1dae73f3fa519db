//! Upstreams of our own, for what the stand-ins do not do.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::ANY_PORT;

/// A request as an upstream received it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query as received.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// All values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }
}

/// A server that records what it receives. Stops when dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Answers 200 to everything.
    pub(crate) async fn fine() -> Self {
        Self::answering(|_| Response::new(Full::default())).await
    }

    pub(crate) async fn answering<F>(answer: F) -> Self
    where
        F: Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::serving(move |seen| {
            let response = answer(&seen);
            async move { response }
        })
        .await
    }

    /// Answers what a future says, in its own time.
    pub(crate) async fn serving<F, A>(answer: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, record) = (Arc::new(answer), Arc::clone(&seen));
        let mut upstream =
            Self::raw(move |stream| serve(stream, Arc::clone(&answer), Arc::clone(&record))).await;
        upstream.seen = seen;
        upstream
    }

    /// Hands over every connection.
    pub(crate) async fn raw<F, A>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::raw_on(TcpListener::bind(ANY_PORT).await.unwrap(), serve)
    }

    /// The same on a socket that is there already.
    pub(crate) fn raw_on<F, A>(listener: TcpListener, serve: F) -> Self
    where
        F: Fn(TcpStream) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&connections);
        let open: Arc<AtomicUsize> = Arc::default();
        let live = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (serving, live) = (serve(stream), Arc::clone(&live));
                live.fetch_add(1, Ordering::Relaxed);
                tasks.spawn(async move {
                    serving.await;
                    live.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, seen: Arc::default(), connections, open, task }
    }

    /// Answers every connection with content that only the end of the connection ends; then tells.
    pub(crate) async fn endless() -> (Self, Arc<Notify>) {
        let gone = Arc::new(Notify::new());
        let tell = Arc::clone(&gone);
        let upstream = Self::raw(move |mut stream| {
            let tell = Arc::clone(&tell);
            async move {
                read_head(&mut stream).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
                let mut written = stream.write_all(head.as_bytes()).await;
                while written.is_ok() {
                    written = stream.write_all(&[b'x'; 1 << 13]).await;
                }
                tell.notify_one();
            }
        })
        .await;
        (upstream, gone)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The newest request.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("nothing arrived")
    }

    /// Connections that are being served.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves HTTP/1.1 on one connection.
pub(crate) async fn serve<S, F, A>(stream: S, answer: Arc<F>, record: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Seen) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, record) = (Arc::clone(&answer), Arc::clone(&record));
        async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return Err(error),
            };
            let seen = Seen {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                headers: head.headers,
                body,
            };
            record.lock().unwrap().push(seen.clone());
            Ok(answer(seen).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Reads the head of a request and returns it as text.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// What an upstream says that answers nothing but a status and a text.
pub(crate) fn answer(status: u16, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status.try_into().unwrap();
    response
}
