//! HTTP/2 on either side: streams that do not hold each other up, trailers, resets, GOAWAY.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::authority::Authority;
use crate::harness::client::{Content, from_channel, request, whole};
use crate::harness::frames::{Frames, INTERNAL_ERROR, REFUSED_STREAM};
use crate::harness::http2::{complete, serve, with_trailers};
use crate::harness::upstream::{self, answer, read_head};
use crate::harness::{
    Act, Connection, Faulty, Http2, PATIENCE, Proxy, Upstream, Upstream2, route, sha256, until,
};

/// The lines of a route that speaks HTTP/2 to its upstream, whoever asks.
const ALWAYS: &str = "http2 = \"always\"\n";

/// A proxy with one worker.
async fn proxy(upstream: &str, more: &str) -> Proxy {
    Proxy::start(&format!("workers = 1\n{}", route(upstream, "", more))).await
}

#[tokio::test]
async fn an_upstream_of_http_2_gets_what_callers_of_either_version_send() {
    let upstream = Upstream2::echo().await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let content = Bytes::from(vec![b'x'; 300_000]);
    let mut one = Connection::open(proxy.address()).await;
    let two = Http2::open(proxy.address()).await;
    let fields = [("x-mine", "1"), ("keep-alive", "timeout=5"), ("upgrade", "x")];
    let reply = one.send("POST", "/x%2Fy?z", &fields, content.clone()).await;
    assert_eq!((reply.status, sha256(&reply.body)), (200, sha256(&content)));
    let reply = one.send_chunked("PUT", "/x%2Fy?z", &fields[..1], content.clone()).await;
    assert_eq!((reply.status, sha256(&reply.body)), (200, sha256(&content)));
    let (reply, _) = two.send("POST", "/x%2Fy?z", &fields[..1], whole(content.clone())).await;
    assert_eq!((reply.status, sha256(&reply.body)), (200, sha256(&content)));
    assert_eq!(one.send("GET", "/", &[("connection", "close")], "").await.status, 200);
    let arrived = upstream.arrived();
    assert_eq!(arrived.len(), 4);
    for (arrived, method) in arrived.iter().zip(["POST", "PUT", "POST"]) {
        let seen = &arrived.request;
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/x%2Fy?z"));
        assert_eq!(sha256(&seen.body), sha256(&content), "{method}");
        assert_eq!(seen.values("x-mine"), ["1"], "{method}");
        assert_eq!(arrived.authority, upstream.address().to_string(), "{method}");
        for gone in ["connection", "keep-alive", "upgrade", "transfer-encoding", "host"] {
            assert_eq!(seen.values(gone), [""; 0], "{method} {gone}");
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn answers_without_content_pass_over_http_2() {
    let upstream = Upstream2::serving(10, |request| async move {
        let status: u16 = request.uri().path().trim_start_matches('/').parse().unwrap();
        let response = Response::builder().status(status).header("etag", "\"x\"");
        response.body(whole("")).unwrap()
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let mut one = Connection::open(proxy.address()).await;
    let two = Http2::open(proxy.address()).await;
    for (method, target, status) in
        [("HEAD", "/200", 200), ("GET", "/204", 204), ("GET", "/304", 304)]
    {
        let reply = one.send(method, target, &[], "").await;
        assert_eq!((reply.status, reply.field("etag")), (status, "\"x\""), "{method} {target}");
        let (reply, _) = two.send(method, target, &[], whole("")).await;
        assert_eq!((reply.status, reply.field("etag")), (status, "\"x\""), "{method} {target}");
    }
}

#[tokio::test]
async fn one_connection_to_the_upstream_carries_many_requests_at_once() {
    let together = Arc::new(tokio::sync::Barrier::new(50));
    let upstream = Upstream2::serving(100, move |request| {
        let together = Arc::clone(&together);
        async move {
            if request.uri().path() == "/together" {
                together.wait().await;
            }
            Response::new(whole("fine"))
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    assert_eq!(proxy.get("/first").await.text(), "fine");
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let address = proxy.address();
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("GET", "/together", &[], "").await.status
        });
    }
    assert_eq!(callers.join_all().await, [200; 50]);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_takes_few_at_once_fails_nobody() {
    let upstream = Upstream2::serving(2, |request| async move {
        let content = request.into_body().collect().await.unwrap();
        Response::new(whole(content.to_bytes()))
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    assert_eq!(proxy.get("/first").await.status, 200);
    let caller = Arc::new(Http2::open(proxy.address()).await);
    let mut requests = JoinSet::new();
    for number in 0..60 {
        let caller = Arc::clone(&caller);
        requests.spawn(async move {
            let content = format!("{number}");
            let (reply, _) = caller.send("POST", "/", &[], whole(content.clone())).await;
            assert_eq!((reply.status, reply.text()), (200, content.as_str()));
        });
    }
    requests.join_all().await;
}

#[tokio::test]
async fn trailers_of_an_answer_reach_callers_of_http_2() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Check: 7\r\n\r\n";
    let one = Faulty::always(Act::Say(chunked.to_owned())).await;
    let two = Upstream2::serving(10, |_| async {
        Response::new(with_trailers("hello", &[("x-check", "7")]))
    })
    .await;
    for (url, more) in [(one.url(), ""), (two.url(), ALWAYS)] {
        let proxy = proxy(&url, more).await;
        let caller = Http2::open(proxy.address()).await;
        let (reply, trailers) = caller.send("GET", "/", &[], whole("")).await;
        assert_eq!((reply.status, reply.text()), (200, "hello"), "{more}");
        assert_eq!(trailers.get("x-check").unwrap(), "7", "{more}");
        // To callers of HTTP/1.1 they may get lost; the content does not.
        assert_eq!(proxy.get("/").await.text(), "hello", "{more}");
    }
}

#[tokio::test]
async fn grpc_has_its_trailers_in_both_directions() {
    let upstream = Upstream2::echo().await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let caller = Http2::open(proxy.address()).await;
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
        let fields = [("content-type", content_type), ("te", "trailers")];
        let content = with_trailers("hello", &[("x-check", "7"), ("x-check", "8")]);
        let (reply, trailers) = caller.send("POST", "/test.Echo/Call", &fields, content).await;
        assert_eq!((reply.status, reply.text()), (200, "hello"), "{content_type}");
        let arrived = upstream.arrived().pop().unwrap();
        assert_eq!(arrived.request.values("te"), ["trailers"], "{content_type}");
        for trailers in [trailers, arrived.trailers] {
            let values: Vec<_> = trailers.get_all("x-check").iter().collect();
            assert_eq!(values, ["7", "8"], "{content_type}");
        }
    }
}

#[tokio::test]
async fn an_error_in_the_head_alone_reaches_the_caller() {
    let upstream = Upstream2::serving(10, |_| async {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "9")
            .header("grpc-message", "no");
        response.body(whole("")).unwrap()
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let caller = Http2::open(proxy.address()).await;
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let (reply, _) = caller.send("POST", "/test.Echo/Call", &fields, whole("")).await;
    assert_eq!((reply.status, reply.field("grpc-status")), (200, "9"));
    assert_eq!(reply.field("grpc-message"), "no");
}

#[tokio::test]
async fn a_reset_of_one_stream_frees_its_upstream_and_no_other() {
    let upstream = Faulty::start(|request| match request.target() {
        "/never" => Act::Silent,
        _ => Act::Fine,
    })
    .await;
    let proxy = proxy(&upstream.url(), "timeouts = { first_byte = \"10m\" }\n").await;
    let caller = Arc::new(Http2::open(proxy.address()).await);
    let waiting = Arc::clone(&caller);
    let never =
        tokio::spawn(async move { waiting.begin("GET", "/never", &[], whole("")).await.is_ok() });
    until("it is in flight", || upstream.count("GET", "/never") == 1).await;
    assert_eq!(caller.get("/x").await.text(), "/x");
    never.abort();
    until("its connection is given up", || upstream.closed() == 1).await;
    assert_eq!(caller.get("/y").await.text(), "/y", "the others go on");
    assert_eq!(upstream.connections(), 2);
}

/// Tells when it is dropped.
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_reset_reaches_an_upstream_of_http_2_as_a_reset() {
    let (begun, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_begun, tell_gone) = (Arc::clone(&begun), Arc::clone(&gone));
    let upstream = Upstream2::serving(10, move |request| {
        let (begun, gone) = (Arc::clone(&tell_begun), Arc::clone(&tell_gone));
        async move {
            if request.uri().path() == "/never" {
                let _told = Told(gone);
                begun.notify_one();
                std::future::pending::<()>().await;
            }
            Response::new(whole("fine"))
        }
    })
    .await;
    let more = format!("{ALWAYS}timeouts = {{ first_byte = \"10m\" }}\n");
    let proxy = proxy(&upstream.url(), &more).await;
    let address = proxy.address();
    let two = Arc::new(Http2::open(address).await);
    let other = Arc::clone(&two);
    let over_two =
        tokio::spawn(async move { other.begin("GET", "/never", &[], whole("")).await.is_ok() });
    timeout(PATIENCE, begun.notified()).await.expect("it is in flight");
    over_two.abort();
    timeout(PATIENCE, gone.notified()).await.expect("it is given up");
    let over_one = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/never", &[], "").await.status
    });
    timeout(PATIENCE, begun.notified()).await.expect("it is in flight");
    over_one.abort();
    timeout(PATIENCE, gone.notified()).await.expect("it is given up");
    assert_eq!(two.get("/x").await.text(), "fine");
    assert_eq!(upstream.connections(), 1, "the connection is not concerned");
}

#[tokio::test]
async fn a_caller_who_leaves_when_all_its_content_has_come_frees_an_upstream_of_http_2() {
    let [arrived, complete, gone] = [(); 3].map(|()| Arc::new(Notify::new()));
    let tell = [&arrived, &complete, &gone].map(Arc::clone);
    let upstream = Upstream2::serving(10, move |request| {
        let [arrived, complete, gone] = tell.each_ref().map(Arc::clone);
        async move {
            if request.uri().path() == "/never" {
                let _told = Told(gone);
                let mut content = request.into_body();
                content.frame().await.unwrap().unwrap();
                arrived.notify_one();
                content.collect().await.unwrap();
                complete.notify_one();
                std::future::pending::<()>().await;
            }
            Response::new(whole("fine"))
        }
    })
    .await;
    let more = format!("{ALWAYS}timeouts = {{ first_byte = \"10m\" }}\n");
    let proxy = proxy(&upstream.url(), &more).await;
    for (first, last) in [
        ("Content-Length: 5\r\n\r\nhello", ""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "0\r\n\r\n"),
    ] {
        let what = format!("{first} {last}");
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let post = format!("POST /never HTTP/1.1\r\nHost: localhost\r\n{first}");
        stream.write_all(post.as_bytes()).await.unwrap();
        timeout(PATIENCE, arrived.notified())
            .await
            .unwrap_or_else(|_| panic!("{what}: no content"));
        stream.write_all(last.as_bytes()).await.unwrap();
        timeout(PATIENCE, complete.notified()).await.unwrap_or_else(|_| panic!("{what}: no end"));
        drop(stream);
        timeout(PATIENCE, gone.notified()).await.unwrap_or_else(|_| panic!("{what}: still held"));
        assert_eq!(proxy.get("/x").await.text(), "fine", "{what}");
    }
    assert_eq!(upstream.connections(), 1, "the connection is not concerned");
}

#[tokio::test]
async fn content_that_a_caller_resets_does_not_end_as_if_it_were_whole() {
    let ended = Arc::new(Mutex::new(None));
    let record = Arc::clone(&ended);
    let upstream = Upstream::raw(move |mut stream| {
        let record = Arc::clone(&record);
        async move {
            read_head(&mut stream).await;
            let mut content = Vec::new();
            let _ = stream.read_to_end(&mut content).await;
            *record.lock().unwrap() = Some(content);
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    let caller = Arc::new(Http2::open(proxy.address()).await);
    let (pieces, receiver) = mpsc::channel(1);
    let sending = Arc::clone(&caller);
    let post = tokio::spawn(async move {
        sending.begin("POST", "/x", &[], from_channel(receiver)).await.is_ok()
    });
    pieces.send(Bytes::from("the beginning")).await.unwrap();
    until("it is in flight", || upstream.connections() == 1).await;
    post.abort();
    until("the upstream is let go", || ended.lock().unwrap().is_some()).await;
    let content = ended.lock().unwrap().take().unwrap();
    assert!(!content.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&content));
}

/// Content that has no end.
fn endless() -> Content {
    let piece = Bytes::from(vec![b'x'; 1 << 14]);
    let pieces =
        futures_util::stream::repeat_with(move || Ok::<_, Infallible>(Frame::data(piece.clone())));
    StreamBody::new(pieces).boxed()
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_hold_up_the_others() {
    let one = Upstream::raw(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            let Some(target) = head.split(' ').nth(1) else { return };
            let endless = target == "/endless";
            let length: u64 = if endless { 1 << 40 } else { 4 };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nfine");
            let mut written = stream.write_all(head.as_bytes()).await;
            while endless && written.is_ok() {
                written = stream.write_all(&[b'x'; 1 << 13]).await;
            }
        }
    })
    .await;
    let two = Upstream2::serving(10, |request| async move {
        let endless_wanted = request.uri().path() == "/endless";
        Response::new(if endless_wanted { endless() } else { whole("fine") })
    })
    .await;
    for (url, more) in [(one.url(), ""), (two.url(), ALWAYS)] {
        let proxy = proxy(&url, more).await;
        let caller = Http2::open(proxy.address()).await;
        let unread = caller.begin("GET", "/endless", &[], whole("")).await.unwrap();
        for _ in 0..20 {
            assert_eq!(caller.get("/x").await.text(), "fine", "{more}");
        }
        drop(unread);
        assert_eq!(caller.get("/x").await.text(), "fine", "{more}");
    }
}

#[tokio::test]
async fn an_answer_that_is_reset_is_seen_to_break_off() {
    let upstream = Upstream::raw(|stream| async move {
        let Some(mut frames) = Frames::accept(stream).await else { return };
        while let Some(stream) = frames.request().await {
            frames.begin(stream, b"only this").await;
            frames.reset(stream, INTERNAL_ERROR).await;
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let two = Http2::open(proxy.address()).await;
    for _ in 0..3 {
        let mut one = Connection::open(proxy.address()).await;
        // The reset may overtake the head, which is then a plain failure.
        if let Ok(reply) = one.try_send(request("POST", "/x", &[], whole(""))).await {
            assert_eq!(reply.status, 502, "{reply:?}");
        }
        if let Ok(response) = two.begin("POST", "/x", &[], whole("")).await
            && let Ok((reply, _)) = complete(response).await
        {
            assert_eq!(reply.status, 502, "{reply:?}");
        }
    }
}

/// An upstream whose first connection takes one request and then goes away with `end`; all later
/// ones answer everything. Returns the number of requests that were begun, as well.
async fn going_away<F, A>(end: F) -> (Upstream, Arc<AtomicUsize>)
where
    F: Fn(Frames, u32, u32) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let (begun, connections) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let (count, end) = (Arc::clone(&begun), Arc::new(end));
    let upstream = Upstream::raw(move |stream| {
        let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        let (count, end) = (Arc::clone(&count), Arc::clone(&end));
        async move {
            let Some(mut frames) = Frames::accept(stream).await else { return };
            let mut last = 0;
            while let Some(stream) = frames.request().await {
                count.fetch_add(1, Ordering::SeqCst);
                if first && last > 0 {
                    end(frames, last, stream).await;
                    return;
                }
                frames.answer(stream).await;
                last = stream;
            }
        }
    })
    .await;
    (upstream, begun)
}

#[tokio::test]
async fn a_request_that_a_goaway_says_was_never_looked_at_is_sent_again() {
    for method in ["GET", "POST"] {
        for version in [1, 2] {
            let (upstream, begun) = going_away(|mut frames, last, _| async move {
                frames.go_away(last).await;
                while frames.request().await.is_some() {}
            })
            .await;
            let proxy = proxy(&upstream.url(), ALWAYS).await;
            let two = Http2::open(proxy.address()).await;
            for number in 1..=3 {
                let what = format!("{method} {version} {number}");
                let status = if version == 1 {
                    proxy.send(method, "/x", &[], "").await.status
                } else {
                    two.send(method, "/x", &[], whole("")).await.0.status
                };
                assert_eq!(status, 200, "{what}");
            }
            assert_eq!(begun.load(Ordering::SeqCst), 4, "{method} {version}");
            assert_eq!(upstream.connections(), 2, "{method} {version}");
        }
    }
}

#[tokio::test]
async fn a_get_that_an_upstream_refuses_to_look_at_is_sent_again() {
    let (upstream, begun) = going_away(|mut frames, _, stream| async move {
        frames.reset(stream, REFUSED_STREAM).await;
        while let Some(stream) = frames.request().await {
            frames.answer(stream).await;
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/x").await.status, 200);
    }
    assert_eq!(upstream.connections(), 1, "it is the stream that was refused");
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_post_that_may_have_been_looked_at_is_not_sent_again() {
    for broken in [true, false] {
        let (upstream, begun) = going_away(move |mut frames, _, stream| async move {
            if broken {
                // The connection is gone without a word.
                drop(frames);
            } else {
                frames.reset(stream, INTERNAL_ERROR).await;
                while let Some(stream) = frames.request().await {
                    frames.answer(stream).await;
                }
            }
        })
        .await;
        let proxy = proxy(&upstream.url(), ALWAYS).await;
        assert_eq!(proxy.send("POST", "/x", &[], "").await.status, 200);
        let reply = proxy.send("POST", "/x", &[], "").await;
        assert_eq!(reply.status, 502, "{reply:?}");
        assert!(reply.field("proxy-status").starts_with("countersign; error="), "{reply:?}");
        assert_eq!(begun.load(Ordering::SeqCst), 2, "{broken}");
        assert_eq!(proxy.send("POST", "/x", &[], "").await.status, 200, "{broken}");
    }
}

#[tokio::test]
async fn an_upstream_that_says_goaway_again_and_again_fails_nobody() {
    let upstream = Arc::new(Upstream2::echo().await);
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let two = Arc::new(Http2::open(proxy.address()).await);
    let mut callers = JoinSet::new();
    for caller in 0..20 {
        let (address, two, upstream) = (proxy.address(), Arc::clone(&two), Arc::clone(&upstream));
        callers.spawn(async move {
            let mut one = Connection::open(address).await;
            for number in 0..50 {
                let method = if number % 2 == 0 { "POST" } else { "GET" };
                let content = format!("{caller} {number}");
                let reply = if caller % 2 == 0 {
                    one.send(method, "/x", &[], content.clone()).await
                } else {
                    two.send(method, "/x", &[], whole(content.clone())).await.0
                };
                assert_eq!((reply.status, reply.text()), (200, content.as_str()), "{method}");
                if number % 10 == 9 {
                    upstream.go_away();
                }
            }
        });
    }
    callers.join_all().await;
    assert_eq!(upstream.arrived().len(), 1_000, "each came once");
    assert!(upstream.connections() > 1, "it did go away");
}

#[tokio::test]
async fn an_upstream_without_http_2_is_a_clear_error_where_it_has_to_have_it() {
    let upstream = Upstream::answering(|_| answer(200, "one")).await;
    let proxy = proxy(&upstream.url(), ALWAYS).await;
    let reply = proxy.get("/x").await;
    assert_eq!(reply.status, 502, "{reply:?}");
    assert!(reply.field("proxy-status").starts_with("countersign; error="), "{reply:?}");
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn over_tls_the_version_is_what_both_sides_can_speak() {
    let authority = Authority::new();
    let cases: [(&[&str], &str, &str); 7] = [
        (&["h2", "http/1.1"], "", "2"),
        (&["h2", "http/1.1"], "auto", "2"),
        (&["h2", "http/1.1"], "always", "2"),
        (&["h2", "http/1.1"], "never", "1.1"),
        (&["http/1.1"], "auto", "1.1"),
        (&[], "auto", "1.1"),
        (&["h2"], "auto", "2"),
    ];
    for (offered, wanted, spoken) in cases {
        let acceptor = authority.server_speaking("localhost", None, offered);
        let upstream = Upstream::raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]) {
                    let two = Arc::new(|_| async { Response::new(whole("2")) });
                    serve(stream, 10, two, Arc::default()).await;
                } else {
                    let one = Arc::new(|_| std::future::ready(answer(200, "1.1")));
                    upstream::serve(stream, one, Arc::default()).await;
                }
            }
        })
        .await;
        let line =
            if wanted.is_empty() { String::new() } else { format!("http2 = \"{wanted}\"\n") };
        let more = format!("tls = {{ {} }}\n{line}", authority.trusted());
        let proxy = proxy(&format!("https://localhost:{}", upstream.address().port()), &more).await;
        let two = Http2::open(proxy.address()).await;
        for _ in 0..2 {
            let reply = proxy.send("POST", "/x", &[], "content").await;
            assert_eq!((reply.status, reply.text()), (200, spoken), "{offered:?} {wanted}");
            assert_eq!(two.get("/x").await.text(), spoken, "{offered:?} {wanted}");
        }
    }
}
