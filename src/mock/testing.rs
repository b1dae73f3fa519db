//! A small client for the tests, on real sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

/// Any free port of the loopback interface.
pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A request with the given fields; those given twice are sent twice.
pub(super) fn request(
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", "stand-in.test");
    for (name, value) in fields {
        request = request.header(*name, value.as_bytes());
    }
    request.body(Full::new(body.into())).unwrap()
}

/// Sends one HTTP/1.1 request over a connection of its own.
pub(super) async fn send(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    tokio::select! {
        response = exchange => response,
        Err(error) = connection => Err(error),
    }
}

/// Sends one HTTP/2 request over a connection of its own.
pub(super) async fn send_h2(
    address: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let target = format!("http://stand-in.test{}", request.uri());
    *request.uri_mut() = target.parse().unwrap();
    request.headers_mut().remove("host");
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    tokio::select! {
        response = exchange => response,
        Err(error) = connection => Err(error),
    }
}

/// The content of an answer as JSON.
pub(super) fn json(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}
