//! Chunked content: what is malformed is never taken for whole, in either direction, and trailers.

use std::sync::{Arc, Mutex};

use http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::client::{parse, raw, raw_over, unchunked, whole};
use crate::harness::http2::with_trailers;
use crate::harness::upstream::read_head;
use crate::harness::{Act, Faulty, PATIENCE, Proxy, Upstream, Upstream2, route, secret, until};

/// The lines of a route that speaks HTTP/2 to its upstream.
const ALWAYS: &str = "http2 = \"always\"\n";

/// What makes chunked content malformed behind a first chunk of five bytes.
const MALFORMED: [(&str, &str); 9] = [
    ("a chunk that is longer than it says", "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a size that is no number", "\r\nxyz\r\nagain\r\n0\r\n\r\n"),
    ("a size below zero", "\r\n-1\r\nagain\r\n0\r\n\r\n"),
    ("a size of seventeen digits", "\r\n00000000000000005\r\nagain\r\n0\r\n\r\n"),
    ("a size behind which a line feed stands alone", "\r\n5\nagain\r\n0\r\n\r\n"),
    ("an extension with a NUL", "\r\n5;x=\0\r\nagain\r\n0\r\n\r\n"),
    ("a trailer with a space before the colon", "\r\n0\r\nX-Check : 7\r\n\r\n"),
    ("a trailer without a colon", "\r\n0\r\nX-Check\r\n\r\n"),
    ("a trailer behind which a line feed stands alone", "\r\n0\r\nX-Check: 7\n\r\n"),
];

/// What would be a request of its own if the content had come to its end before.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A request up to the end of its first chunk, without the line end behind that.
const BEGUN: &str = "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5\r\nhello";

/// A proxy with one worker, and so with one pool for every request.
async fn proxy(upstream: &str, more: &str) -> Proxy {
    Proxy::start(&format!("workers = 1\n{}", route(upstream, "", more))).await
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// The one answer to content that was malformed, on a connection that has ended.
fn check_refusal(answer: &[u8], what: &str) {
    let reply = parse(answer);
    assert_eq!(reply.problem(400, "http_request_error"), "content-aborted", "{what}");
    assert_eq!(reply.field("connection"), "close", "{what}");
    let length = reply.body.len().to_string();
    assert_eq!(reply.field("content-length"), length, "{what}: {}", reply.text());
}

#[tokio::test]
async fn a_request_whose_chunks_are_malformed_ends_its_connection_and_never_looks_whole() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = proxy(&upstream.url(), "").await;
    for (what, malformed) in MALFORMED {
        let rest = format!("{malformed}{SMUGGLED}");
        let at_once = raw(proxy.address(), format!("{BEGUN}{rest}")).await;
        check_refusal(&at_once, what);

        let begun = upstream.count("POST", "/x");
        let mut stream = connect(&proxy).await;
        stream.write_all(BEGUN.as_bytes()).await.unwrap();
        until("it is under way", || upstream.count("POST", "/x") > begun).await;
        check_refusal(&raw_over(stream, rest).await, what);

        let reply = proxy.get("/after").await;
        assert_eq!((reply.status, reply.text()), (200, "/after"), "{what}");
        for request in upstream.received() {
            let target = request.target();
            assert!(target == "/x" || target == "/after", "{what}: {request:?}");
            assert!(target == "/after" || request.content.is_none(), "{what}: {request:?}");
        }
    }
    until("all but the last are closed", || upstream.closed() + 1 >= upstream.connections()).await;
    let complete = upstream.received().into_iter().filter(|one| one.content.is_some());
    assert_eq!(complete.count(), MALFORMED.len(), "those that came after, and no other");
}

#[tokio::test]
async fn content_that_has_to_be_signed_and_is_malformed_goes_nowhere() {
    let upstream = Faulty::always(Act::Fine).await;
    let config = format!(
        "workers = 1\n[credential.it]\nkind = \"devo-signature\"\ndomain_api_key = {}\n\
         api_secret = {}\n{}",
        secret("key"),
        secret("secret"),
        route(&upstream.url(), "it", ""),
    );
    let proxy = Proxy::start(&config).await;
    for (what, malformed) in MALFORMED {
        let rest = format!("{malformed}{SMUGGLED}");
        let at_once = raw(proxy.address(), format!("{BEGUN}{rest}")).await;
        check_refusal(&at_once, what);

        let mut stream = connect(&proxy).await;
        stream.write_all(BEGUN.as_bytes()).await.unwrap();
        check_refusal(&raw_over(stream, rest).await, what);

        let reply = proxy.get("/after").await;
        assert_eq!((reply.status, reply.text()), (200, "/after"), "{what}");
        let strangers = upstream.received().into_iter().filter(|one| one.target() != "/after");
        assert_eq!(strangers.count(), 0, "{what}");
    }
}

#[tokio::test]
async fn content_that_is_malformed_does_not_look_whole_over_http_2() {
    // The targets of the requests, and whether all of their content came.
    let seen: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let record = Arc::clone(&seen);
    let upstream = Upstream2::serving(10, move |request| {
        let record = Arc::clone(&record);
        async move {
            let target = request.uri().path().to_owned();
            let place = {
                let mut all = record.lock().unwrap();
                all.push((target, false));
                all.len() - 1
            };
            if request.into_body().collect().await.is_ok() {
                record.lock().unwrap()[place].1 = true;
            }
            Response::new(whole("fine"))
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let begun = || seen.lock().unwrap().iter().filter(|(target, _)| target == "/x").count();
    for (what, malformed) in MALFORMED {
        let rest = format!("{malformed}{SMUGGLED}");
        let at_once = raw(proxy.address(), format!("{BEGUN}{rest}")).await;
        check_refusal(&at_once, what);

        let before = begun();
        let mut stream = connect(&proxy).await;
        stream.write_all(BEGUN.as_bytes()).await.unwrap();
        until("it is under way", || begun() > before).await;
        check_refusal(&raw_over(stream, rest).await, what);

        let reply = proxy.get("/after").await;
        assert_eq!((reply.status, reply.text()), (200, "fine"), "{what}");
        for (target, complete) in seen.lock().unwrap().iter() {
            assert!(target == "/x" || target == "/after", "{what}: {target}");
            assert_eq!(*complete, target == "/after", "{what}: {target}");
        }
    }
}

#[tokio::test]
async fn content_that_is_malformed_after_the_answer_has_begun_ends_both_connections() {
    let received_bytes: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let record = Arc::clone(&received_bytes);
    let upstream = Upstream::raw(move |mut stream| {
        let record = Arc::clone(&record);
        async move {
            read_head(&mut stream).await;
            let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
            stream.write_all(begun.as_bytes()).await.unwrap();
            let mut content = Vec::new();
            let _ = stream.read_to_end(&mut content).await;
            record.lock().unwrap().push(content);
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    for (number, (what, malformed)) in MALFORMED.into_iter().enumerate() {
        let mut stream = connect(&proxy).await;
        stream.write_all(BEGUN.as_bytes()).await.unwrap();
        let head = timeout(PATIENCE, read_head(&mut stream)).await.expect("no answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
        let answer = raw_over(stream, format!("{malformed}{SMUGGLED}")).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(unchunked(&answer), None, "{what}: the upstream has not ended it: {text}");
        assert!(!text.contains("HTTP/1.1"), "{what}: {text}");
        until("the upstream is let go", || received_bytes.lock().unwrap().len() > number).await;
        let content = received_bytes.lock().unwrap()[number].clone();
        let content = String::from_utf8_lossy(&content);
        assert!(!content.contains("smuggled"), "{what}: {content}");
        assert!(!content.contains("\r\n0\r\n"), "{what}: it looks whole: {content}");
    }
    assert_eq!(upstream.connections(), MALFORMED.len());
}

#[tokio::test]
async fn an_answer_whose_chunks_are_malformed_breaks_off_and_its_connection_is_not_used_again() {
    let upstream = Faulty::start(|request| {
        let Some(number) = request.target().strip_prefix("/malformed/") else { return Act::Fine };
        let (_, malformed) = MALFORMED[number.parse::<usize>().unwrap()];
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        Act::SayEarly(format!("{head}5\r\nearly{malformed}{SMUGGLED}"))
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    for (number, (what, _)) in MALFORMED.into_iter().enumerate() {
        let target = format!("/malformed/{number}");
        let get = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // One who is still sending.
        let post = BEGUN.replace("/x", &target) + "\r\n";
        for (method, request) in [("GET", get), ("POST", post)] {
            let answer = raw(proxy.address(), request).await;
            let text = String::from_utf8_lossy(&answer);
            let (_, content) = text.split_once("\r\n\r\n").unwrap_or_default();
            assert_eq!(unchunked(content.as_bytes()), None, "{what} {method}: {text}");
            assert!(!text.contains("smuggled"), "{what} {method}: {text}");

            let reply = proxy.get("/after").await;
            assert_eq!((reply.status, reply.text()), (200, "/after"), "{what} {method}");
            let received = upstream.received();
            let broken =
                received.iter().find(|one| one.method() == method && one.target() == target);
            let (connection, place) = broken.map(|one| (one.connection, one.number)).unwrap();
            let later =
                received.iter().filter(|one| one.connection == connection && one.number > place);
            assert_eq!(later.count(), 0, "{what} {method}: the connection is used again");
        }
    }
}

#[tokio::test]
async fn trailers_of_an_answer_come_to_callers_of_http_1_1_that_say_they_take_them() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n\
                   3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Check: 7\r\n\r\n";
    let one = Faulty::always(Act::Say(chunked.to_owned())).await;
    let two = Upstream2::serving(10, |_| async {
        Response::new(with_trailers("hello", &[("x-check", "7")]))
    })
    .await;
    for (url, more) in [(one.url(), ""), (two.url(), ALWAYS)] {
        let proxy = proxy(&url, more).await;
        let ask = async |version: &str, te: &str| {
            let get = format!(
                "GET / HTTP/{version}\r\nHost: localhost\r\nConnection: TE, close\r\n{te}\r\n"
            );
            parse(&raw(proxy.address(), get).await)
        };
        for (te, expected) in [
            ("TE: trailers\r\n", "x-check: 7\r\n"),
            ("TE: deflate;q=0.5, Trailers\r\n", "x-check: 7\r\n"),
            ("TE: deflate\r\n", ""),
            ("", ""),
        ] {
            let reply = ask("1.1", te).await;
            assert_eq!(reply.status, 200, "{more} {te}");
            assert_eq!(reply.field("transfer-encoding"), "chunked", "{more} {te}");
            let (content, trailers) = unchunked(&reply.body).expect("content in chunks");
            assert_eq!(content, b"hello", "{more} {te}");
            assert_eq!(trailers.to_ascii_lowercase(), expected, "{more} {te}");
            let reply = ask("1.0", te).await;
            assert_eq!((reply.status, reply.text()), (200, "hello"), "{more} {te}");
            assert_eq!(reply.field("transfer-encoding"), "", "{more} {te}");
        }
    }
}
