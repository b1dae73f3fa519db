//! Callers: over HTTP/1.1 and HTTP/2, and byte by byte.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::upstream::read_head;

pub(crate) type Content = BoxBody<Bytes, Infallible>;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// The one value of a field; empty if it is absent.
    pub(crate) fn field(&self, name: &str) -> &str {
        assert!(self.headers.get_all(name).iter().count() <= 1, "{name} comes once");
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Checks that this is an answer of countersign's own in its full form, and returns the last
    /// word of its `type`.
    pub(crate) fn problem(&self, status: u16, error: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.field("content-type"), "application/problem+json");
        let document = self.json();
        assert_eq!(document["status"], status);
        for key in ["type", "title", "detail"] {
            let text = document[key].as_str().unwrap();
            assert!(!text.is_empty(), "{key}");
        }
        let word = document["type"].as_str().unwrap();
        let word = word.strip_prefix("urn:countersign:problem:").unwrap();
        assert_eq!(
            self.field("proxy-status"),
            format!("countersign; error={error}; details=\"{word}\"")
        );
        word.to_owned()
    }

    /// Seconds of `Retry-After`.
    pub(crate) fn retry_after(&self) -> u64 {
        self.field("retry-after").parse().unwrap_or_else(|_| panic!("no Retry-After: {self:?}"))
    }
}

/// A request without `Host`; fields given twice are sent twice.
pub(crate) fn request(
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    content: Content,
) -> Request<Content> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, value.as_bytes());
    }
    request.body(content).unwrap()
}

/// Content of a known length.
pub(crate) fn whole(content: impl Into<Bytes>) -> Content {
    Full::new(content.into()).boxed()
}

/// Content of an unknown length, in pieces of up to 64 KiB.
pub(crate) fn chunked(content: impl Into<Bytes>) -> Content {
    let content: Bytes = content.into();
    let length = content.len();
    let pieces = (0..length).step_by(64 << 10).map(move |start| {
        let end = length.min(start + (64 << 10));
        Ok(Frame::data(content.slice(start..end)))
    });
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

/// Content that comes as it is sent into the channel.
pub(crate) fn from_channel(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> Content {
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok(Frame::data(piece)), receiver))
    });
    // The stream is not `Sync`, which boxing asks for.
    let pieces = sync_wrapper(pieces);
    BodyExt::boxed(StreamBody::new(pieces))
}

fn sync_wrapper<T: Send + 'static>(
    stream: impl futures_util::Stream<Item = T> + Send + 'static,
) -> impl futures_util::Stream<Item = T> + Send + Sync + 'static {
    let stream = std::sync::Mutex::new(Box::pin(stream));
    futures_util::stream::poll_fn(move |cx| stream.lock().unwrap().poll_next_unpin(cx))
}

/// A caller's HTTP/1.1 connection; closed when dropped.
pub(crate) struct Connection {
    sender: http1::SendRequest<Content>,
    host: String,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(stream, &address.to_string()).await
    }

    pub(crate) async fn over<S>(stream: S, host: &str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, host: host.to_owned(), driver: tokio::spawn(connection) }
    }

    /// Sends and returns the answer as soon as its head is there.
    pub(crate) async fn begin(
        &mut self,
        mut request: Request<Content>,
    ) -> hyper::Result<Response<Incoming>> {
        if !request.headers().contains_key("host") {
            let host = self.host.parse().unwrap();
            request.headers_mut().insert("host", host);
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request);
        timeout(PATIENCE, answer).await.expect("no answer")
    }

    pub(crate) async fn try_send(&mut self, request: Request<Content>) -> hyper::Result<Reply> {
        let response = self.begin(request).await?;
        timeout(PATIENCE, Reply::read(response)).await.expect("no end of the answer")
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: impl Into<Bytes>,
    ) -> Reply {
        let request = request(method, target, fields, whole(content));
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn send_chunked(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: impl Into<Bytes>,
    ) -> Reply {
        let request = request(method, target, fields, chunked(content));
        self.try_send(request).await.unwrap()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One HTTP/2 request with prior knowledge.
pub(crate) async fn send_http2(
    address: SocketAddr,
    method: &str,
    target: &str,
    content: impl Into<Bytes>,
) -> hyper::Result<Reply> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let url = format!("http://{address}{target}");
    let request = request(method, &url, &[], whole(content));
    let response = timeout(PATIENCE, sender.send_request(request)).await.expect("no answer")?;
    let reply = Reply::read(response).await;
    driver.abort();
    reply
}

/// Writes `bytes` and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    raw_over(stream, bytes).await
}

pub(crate) async fn raw_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: impl AsRef<[u8]>,
) -> Vec<u8> {
    // Who refuses a request early may close before all of it is written.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection stays open");
    answer
}

/// Sends the head lines (without `Host` and `Connection`, which are added) and reads the answer.
pub(crate) async fn raw_head(address: SocketAddr, lines: &[&str]) -> Reply {
    let (first, fields) = lines.split_first().unwrap();
    let mut head = format!("{first}\r\nHost: {address}\r\nConnection: close\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    parse(&raw(address, head).await)
}

/// An answer as it is on the wire, if it is delimited by the end of the connection or by a length.
pub(crate) fn parse(answer: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.trim().parse().unwrap());
    }
    Reply {
        status: status.parse::<StatusCode>().unwrap().as_u16(),
        headers,
        body: Bytes::from(body.to_owned()),
    }
}

/// Interim answers as they are on the wire, and the answer that they come before, whatever follows
/// its head.
pub(crate) fn parse_all(mut answer: &[u8]) -> (Vec<Reply>, Reply) {
    let mut interims = Vec::new();
    loop {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (head, rest) = answer.split_at(end.map_or(answer.len(), |end| end + 4));
        let first = parse(head);
        if !(100..200).contains(&first.status) {
            return (interims, parse(answer));
        }
        interims.push(first);
        answer = rest;
    }
}

/// Chunked content as it is on the wire: what was in the chunks, and the trailers behind them.
/// `None` unless it comes to its end and nothing follows.
pub(crate) fn unchunked(mut content: &[u8]) -> Option<(Vec<u8>, String)> {
    let mut whole = Vec::new();
    loop {
        let end = content.windows(2).position(|bytes| bytes == b"\r\n")?;
        let (size, rest) = content.split_at(end);
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        let rest = &rest[2..];
        if size == 0 {
            let trailers = String::from_utf8(rest.strip_suffix(b"\r\n")?.to_vec()).ok()?;
            let ends = trailers.is_empty() || trailers.ends_with("\r\n");
            let follows = trailers.starts_with("\r\n") || trailers.contains("\r\n\r\n");
            return (ends && !follows).then_some((whole, trailers));
        }
        whole.extend_from_slice(rest.get(..size)?);
        content = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// Reads one answer whose content has a length, if any, and leaves the connection open.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Reply {
    let head = timeout(PATIENCE, read_head(stream)).await.expect("no answer");
    let mut answer = head.into_bytes();
    let length: usize = parse(&answer).field("content-length").parse().unwrap_or_default();
    let mut content = vec![0; length];
    let read = timeout(PATIENCE, stream.read_exact(&mut content)).await;
    read.expect("no end of the answer").unwrap();
    answer.extend(content);
    parse(&answer)
}
