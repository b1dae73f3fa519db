//! Content on its way, in both directions: as it comes, to its end, or not at all.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::harness::client::{from_channel, request, send_http2, whole};
use crate::harness::upstream::read_head;
use crate::harness::{Connection, PATIENCE, Proxy, Upstream, plant, route, sha256, twinzo, until};

#[tokio::test]
async fn an_answer_is_passed_on_piece_by_piece() {
    let go = Arc::new(Notify::new());
    let waiting = Arc::clone(&go);
    let upstream = Upstream::raw(move |mut stream| {
        let waiting = Arc::clone(&waiting);
        async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            waiting.notified().await;
            stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut connection = Connection::open(proxy.address()).await;
    let get = request("GET", "/", &[], whole(""));
    let mut response = connection.begin(get).await.unwrap();
    let mut next = async || {
        let frame = timeout(PATIENCE, response.frame()).await.unwrap()?;
        Some(frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "first");
    go.notify_one();
    assert_eq!(next().await.unwrap(), "second");
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_request_is_passed_on_piece_by_piece() {
    let (arrived, mut arrivals) = mpsc::channel(10);
    let upstream = Upstream::raw(move |mut stream| {
        let arrived = arrived.clone();
        async move {
            read_head(&mut stream).await;
            let mut received = Vec::new();
            while !received.ends_with(b"0\r\n\r\n") {
                let mut piece = [0; 1024];
                let length = stream.read(&mut piece).await.unwrap();
                received.extend_from_slice(&piece[..length]);
                let text = String::from_utf8_lossy(&received).into_owned();
                arrived.send(text).await.unwrap();
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let stand_in = twinzo().await;
    // A token does not depend on the content, so the content need not be here.
    let config = plant(&stand_in.url(), "") + &route(&upstream.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let (pieces, receiver) = mpsc::channel(1);
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        let post = request("POST", "/", &[], from_channel(receiver));
        connection.try_send(post).await.unwrap().status
    });
    for word in ["first", "second"] {
        pieces.send(Bytes::from(word)).await.unwrap();
        loop {
            let so_far = timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap();
            if so_far.contains(word) {
                break;
            }
        }
    }
    drop(pieces);
    let last = async { while arrivals.recv().await.is_some_and(|t| !t.ends_with("0\r\n\r\n")) {} };
    timeout(PATIENCE, last).await.unwrap();
    assert_eq!(caller.await.unwrap(), 200);
}

#[tokio::test]
async fn large_answers_arrive_whole() {
    let content: Bytes = (0_u32..32 << 20)
        .map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    let served = content.clone();
    let upstream = Upstream::answering(move |_| Response::new(Full::new(served.clone()))).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let reply = proxy.get("/").await;
    assert_eq!(reply.status, 200);
    assert_eq!(sha256(&reply.body), sha256(&content));
    let reply = send_http2(proxy.address(), "GET", "/", "").await.unwrap();
    assert_eq!(sha256(&reply.body), sha256(&content));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nonly this",
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
        })
        .await;
        let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
        let mut connection = Connection::open(proxy.address()).await;
        let get = request("GET", "/", &[], whole(""));
        let broken = connection.try_send(get).await.unwrap_err();
        assert!(!broken.is_timeout(), "{head}");
        let two = send_http2(proxy.address(), "GET", "/", "").await;
        assert!(two.is_err(), "{head}");
        // A caller of HTTP/1.0 that is told no length would take an orderly end for the end.
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        old.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, old.read_to_end(&mut answer)).await.expect("no end");
        let told = String::from_utf8_lossy(&answer).contains("content-length: 100");
        assert!(
            told || read.is_err() || answer.is_empty(),
            "{head}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_off() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    for limit in ["idle", "total"] {
        let more = format!("timeouts = {{ {limit} = \"300ms\" }}\n");
        let proxy = Proxy::start(&route(&upstream.url(), "", &more)).await;
        let mut connection = Connection::open(proxy.address()).await;
        let get = request("GET", "/", &[], whole(""));
        assert!(connection.try_send(get).await.is_err(), "{limit}");
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_during_the_answer_frees_the_upstream() {
    let (upstream, gone) = Upstream::endless().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut connection = Connection::open(proxy.address()).await;
    let get = request("GET", "/", &[], whole(""));
    let mut response = connection.begin(get).await.unwrap();
    response.frame().await.unwrap().unwrap();
    drop((response, connection));
    timeout(PATIENCE, gone.notified()).await.unwrap();
}

/// An upstream that never answers, and tells when its connection ends.
async fn never_answers() -> (Upstream, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let upstream = Upstream::raw(move |mut stream| {
        let tell = Arc::clone(&tell);
        async move {
            read_head(&mut stream).await;
            // The end of the connection is all that can come.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            tell.notify_one();
        }
    })
    .await;
    (upstream, gone)
}

#[tokio::test]
async fn a_caller_of_http_1_who_goes_away_while_waiting_frees_the_upstream() {
    let (upstream, gone) = never_answers().await;
    let more = "timeouts = { first_byte = \"10m\" }\n";
    let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address());
    stream.write_all(get.as_bytes()).await.unwrap();
    until("it is in flight", || upstream.connections() == 1).await;
    drop(stream);
    timeout(PATIENCE, gone.notified()).await.unwrap();
}

#[tokio::test]
async fn a_caller_of_http_2_who_goes_away_while_waiting_frees_the_upstream() {
    let (upstream, gone) = never_answers().await;
    let more = "timeouts = { first_byte = \"10m\" }\n";
    let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
    let stream = tokio::net::TcpStream::connect(proxy.address()).await;
    let io = TokioIo::new(stream.unwrap());
    let handshake = http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.unwrap();
    let driver = tokio::spawn(connection);
    let url = format!("http://{}/", proxy.address());
    let get = request("GET", &url, &[], whole(""));
    let caller = tokio::spawn(async move { sender.send_request(get).await.is_ok() });
    until("it is in flight", || upstream.connections() == 1).await;
    caller.abort();
    driver.abort();
    timeout(PATIENCE, gone.notified()).await.unwrap();
}

#[tokio::test]
async fn an_early_answer_passes_while_content_is_still_coming() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 413 Too Much\r\nContent-Length: 5\r\n\r\nearly";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let (pieces, receiver) = mpsc::channel(1);
    pieces.send(Bytes::from("the beginning")).await.unwrap();
    let mut connection = Connection::open(proxy.address()).await;
    let post = request("POST", "/", &[], from_channel(receiver));
    let response = connection.begin(post).await.unwrap();
    assert_eq!(response.status(), 413);
    assert!(!response.headers().contains_key("proxy-status"), "theirs");
    drop(pieces);
}

#[tokio::test]
async fn an_upstream_that_closes_idle_connections_is_dialled_again() {
    let noticed = Arc::new(Notify::new());
    let tell = Arc::clone(&noticed);
    let upstream = Upstream::raw(move |mut stream| {
        let tell = Arc::clone(&tell);
        async move {
            read_head(&mut stream).await;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
            stream.write_all(answer.as_bytes()).await.unwrap();
            // It closes without having said so, and sees the other side close as well.
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            tell.notify_one();
        }
    })
    .await;
    let config = format!("workers = 1\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    for number in 1..=5 {
        assert_eq!(proxy.get("/").await.text(), "fine");
        assert_eq!(upstream.connections(), number);
        timeout(PATIENCE, noticed.notified()).await.unwrap();
    }
}

#[tokio::test]
async fn answers_without_content_keep_their_fields() {
    let upstream = Upstream::raw(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            let answer = match head.split(' ').nth(1) {
                None => return,
                Some("/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some(_) => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut connection = Connection::open(proxy.address()).await;
    let head = connection.send("HEAD", "/", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.field("content-length"), "1234");
    assert_eq!(head.field("etag"), "\"x\"");
    let unchanged = connection.send("GET", "/304", &[], "").await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.field("etag"), "\"x\"");
    assert_eq!(connection.send("GET", "/204", &[], "").await.status, 204);
    assert_eq!(connection.send("HEAD", "/", &[], "").await.status, 200);
}

#[tokio::test]
async fn coded_content_and_ranges_are_not_touched() {
    let upstream = Upstream::answering(|seen| {
        Response::builder()
            .status(206)
            .header("content-encoding", "gzip")
            .header("content-range", "bytes 0-3/9")
            .header("x-asked", seen.values("accept-encoding").join("|"))
            .body(Full::from(&b"\x1f\x8b\x08\x00"[..]))
            .unwrap()
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let fields = [("range", "bytes=0-3"), ("accept-encoding", "br, gzip;q=0.5")];
    let reply = proxy.send("GET", "/", &fields, "").await;
    assert_eq!((reply.status, &reply.body[..]), (206, &b"\x1f\x8b\x08\x00"[..]));
    assert_eq!(reply.field("content-encoding"), "gzip");
    assert_eq!(reply.field("content-range"), "bytes 0-3/9");
    assert_eq!(reply.field("x-asked"), "br, gzip;q=0.5");
    assert_eq!(upstream.last().values("range"), ["bytes=0-3"]);
    let reply = proxy.get("/").await;
    assert_eq!(reply.field("x-asked"), "", "nothing is asked for on its behalf");
}
