//! Connections to upstreams: kept, given up in time, and what happens to a request that meets one
//! that is just going away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Barrier, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::harness::client::{from_channel, parse_all, raw, request, send_http2, whole};
use crate::harness::upstream::read_head;
use crate::harness::{Act, Connection, Faulty, PATIENCE, Proxy, Reply, Upstream, route, until};

/// A proxy with one worker, and so with one pool for every request.
async fn proxy(upstream: &Faulty, more: &str) -> Proxy {
    Proxy::start(&format!("workers = 1\n{}", route(&upstream.url(), "", more))).await
}

/// The ways in which a kept connection may turn out to be gone only when it is used: what is done
/// with its first request, what with the second, and whether that one is read at all.
fn deaths() -> [(Act, Act, bool); 3] {
    [
        (Act::Fine, Act::Close, true),
        (Act::Fine, Act::Reset, true),
        (Act::FineThenCloseUnread, Act::Fine, false),
    ]
}

/// An upstream whose first connection dies with its second request. All others are fine.
async fn dying(first: Act, second: Act) -> Faulty {
    Faulty::start(move |request| match (request.connection, request.number) {
        (1, 1) => first.clone(),
        (1, _) => second.clone(),
        _ => Act::Fine,
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_that_meets_a_dying_connection_is_sent_once_more() {
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        for (first, second, read) in deaths() {
            let what = format!("{method} {second:?}");
            let upstream = dying(first, second).await;
            let proxy = proxy(&upstream, "").await;
            assert_eq!(proxy.get("/first").await.status, 200, "{what}");
            let reply = proxy.send(method, "/second", &[], "").await;
            assert_eq!(reply.status, 200, "{what}: {reply:?}");
            assert_eq!(reply.field("content-length"), "7", "{what}");
            assert_eq!(upstream.connections(), 2, "{what}");
            assert_eq!(upstream.count(method, "/second"), 1 + usize::from(read), "{what}");
        }
    }
}

#[tokio::test]
async fn a_post_reaches_the_upstream_at_most_once() {
    for method in ["POST", "PATCH"] {
        for (first, second, read) in deaths() {
            let what = format!("{method} {second:?}");
            let upstream = dying(first, second).await;
            let proxy = proxy(&upstream, "").await;
            assert_eq!(proxy.get("/first").await.status, 200, "{what}");
            for content in ["content", ""] {
                let reply = proxy.send(method, "/second", &[], content).await;
                if upstream.connections() == 1 {
                    let word = reply.problem(502, "connection_terminated");
                    assert_eq!(word, "upstream-closed", "{what}");
                    assert_eq!(upstream.count(method, "/second"), usize::from(read), "{what}");
                } else {
                    assert_eq!(reply.status, 200, "{what}: there is another connection by now");
                }
            }
            assert_eq!(upstream.count(method, "/second"), 1 + usize::from(read), "{what}");
        }
    }
}

#[tokio::test]
async fn content_that_is_sent_again_is_sent_whole() {
    for (first, second, _) in deaths() {
        let what = format!("{second:?}");
        let upstream = dying(first, second).await;
        let proxy = proxy(&upstream, "").await;
        assert_eq!(proxy.get("/first").await.status, 200, "{what}");
        let content = vec![b'x'; 10_000];
        let reply = proxy.send("PUT", "/second", &[], content.clone()).await;
        if reply.status != 200 {
            assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed", "{what}");
        }
        for request in upstream.received().iter().skip(1) {
            assert_eq!(request.content.as_ref(), Some(&content), "{what}");
        }
        assert!(upstream.count("PUT", "/second") <= 2, "{what}");
    }
}

#[tokio::test]
async fn content_that_is_gone_is_not_sent_again() {
    // The upstream takes everything, and goes away without an answer.
    let upstream = dying(Act::Fine, Act::SayThenClose(String::new())).await;
    let proxy = proxy(&upstream, "").await;
    assert_eq!(proxy.get("/first").await.status, 200);
    let (pieces, receiver) = mpsc::channel(1);
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        let put = request("PUT", "/second", &[], from_channel(receiver));
        connection.try_send(put).await
    });
    pieces.send(Bytes::from(vec![b'x'; 1 << 20])).await.unwrap();
    until("its head is there", || upstream.count("PUT", "/second") == 1).await;
    drop(pieces);
    let reply = caller.await.unwrap().unwrap();
    assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    assert_eq!(upstream.count("PUT", "/second"), 1);
}

#[tokio::test]
async fn a_request_is_not_sent_again_over_and_over() {
    let upstream =
        Faulty::start(|request| if request.target() == "/first" { Act::Fine } else { Act::Close })
            .await;
    let proxy = proxy(&upstream, "").await;
    assert_eq!(proxy.get("/first").await.status, 200);
    let reply = proxy.get("/second").await;
    assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    assert_eq!(upstream.count("GET", "/second"), 2, "over the kept one and over a fresh one");
    let reply = proxy.get("/third").await;
    assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    assert_eq!(upstream.count("GET", "/third"), 2, "and over two fresh ones");
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_an_answer_has_begun() {
    for begun in [
        Act::PartialHead,
        Act::SayThenClose("H".to_owned()),
        Act::SayThenClose("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_owned()),
        Act::SayThenClose("no HTTP at all\r\n\r\n".to_owned()),
    ] {
        let what = format!("{begun:?}");
        let upstream = dying(Act::Fine, begun).await;
        let proxy = proxy(&upstream, "").await;
        assert_eq!(proxy.get("/first").await.status, 200, "{what}");
        let reply = proxy.get("/second").await;
        assert_eq!(reply.status, 502, "{what}: {reply:?}");
        assert!(reply.field("proxy-status").starts_with("countersign; error="), "{what}");
        assert_eq!(upstream.count("GET", "/second"), 1, "{what}");
    }
}

#[tokio::test]
async fn interim_answers_come_before_the_one_answer_also_when_a_connection_breaks() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
    // With them an answer has begun, so it is not sent again; without them it is.
    for (breaks, count) in [(hints, 1), ("", 2)] {
        let upstream = Faulty::start(move |request| match (request.connection, request.number) {
            (1, 1) => Act::Fine,
            (1, _) => Act::SayThenClose(breaks.to_owned()),
            _ => Act::Say(format!("{hints}{fine}")),
        })
        .await;
        let proxy = proxy(&upstream, "").await;
        assert_eq!(proxy.get("/first").await.status, 200, "{breaks}");
        let get = "GET /second HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = raw(proxy.address(), get).await;
        let (interims, reply) = parse_all(&answer);
        let interims: Vec<_> =
            interims.iter().map(|interim| (interim.status, interim.field("link"))).collect();
        assert_eq!(interims, [(103, "</x>")], "{breaks}");
        assert_eq!(upstream.count("GET", "/second"), count, "{breaks}");
        if count == 1 {
            let word = reply.problem(502, "connection_terminated");
            assert_eq!(word, "upstream-closed", "{breaks}");
        } else {
            assert_eq!((reply.status, reply.text()), (200, "fine"), "{breaks}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_fails_nothing() {
    let upstream = Faulty::always(Act::FineThenClose).await;
    let proxy = proxy(&upstream, "").await;
    for number in 1..=5 {
        let reply = proxy.send("POST", "/x", &[], "content").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(upstream.connections(), number);
        until("it is noticed", || upstream.closed() == number).await;
    }
    assert_eq!(upstream.count("POST", "/x"), 5);
}

#[tokio::test]
async fn no_more_connections_wait_than_the_pool_may_hold() {
    let together = Arc::new(Barrier::new(3));
    let upstream = Faulty::start(move |request| match request.target() {
        "/together" => Act::FineTogether(Arc::clone(&together)),
        _ => Act::Fine,
    })
    .await;
    let proxy = proxy(&upstream, "pool = { size = 1 }\n").await;
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let address = proxy.address();
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("GET", "/together", &[], "").await.status
        });
    }
    assert_eq!(callers.join_all().await, [200; 3]);
    assert_eq!(upstream.connections(), 3);
    until("all but one are closed", || upstream.closed() == 2).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/x").await.status, 200);
    }
    assert_eq!((upstream.connections(), upstream.closed()), (3, 2), "one is used on and on");
}

#[tokio::test]
async fn a_connection_does_not_wait_longer_than_the_pool_allows() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = proxy(&upstream, "pool = { idle_timeout = \"100ms\" }\n").await;
    assert_eq!(proxy.get("/x").await.status, 200);
    until("it is closed without being used", || upstream.closed() == 1).await;
    assert_eq!(proxy.get("/x").await.status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn the_upstreams_own_time_limit_is_believed() {
    let upstream = Faulty::always(Act::KeepAlive(1)).await;
    // Longer than the test has patience.
    let proxy = proxy(&upstream, "pool = { idle_timeout = \"10m\", max_age = \"1h\" }\n").await;
    assert_eq!(proxy.get("/x").await.status, 200);
    until("it is closed before the upstream would", || upstream.closed() == 1).await;
    assert_eq!(proxy.send("POST", "/x", &[], "content").await.status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn an_old_connection_is_replaced_but_not_cut_off() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Faulty::start(move |request| match request.target() {
        "/slow" => Act::FineAfter(Arc::clone(&waiting)),
        _ => Act::Fine,
    })
    .await;
    let proxy = proxy(&upstream, "pool = { max_age = \"100ms\" }\n").await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/slow", &[], "").await
    });
    until("it is in flight", || upstream.count("GET", "/slow") == 1).await;
    let mut pace = tokio::time::interval(Duration::from_millis(150));
    pace.tick().await;
    pace.tick().await;
    go.add_permits(1);
    assert_eq!(caller.await.unwrap().text(), "/slow");
    until("the old one is closed", || upstream.closed() == 1).await;
    let give_up_at = tokio::time::Instant::now() + PATIENCE;
    while upstream.connections() < 3 {
        assert!(tokio::time::Instant::now() < give_up_at, "one connection is used for ever");
        assert_eq!(proxy.get("/x").await.status, 200);
    }
}

#[tokio::test]
async fn a_caller_who_closes_does_not_close_the_upstream() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = proxy(&upstream, "").await;
    for _ in 0..3 {
        let fields = [("connection", "close")];
        assert_eq!(proxy.send("GET", "/x", &fields, "").await.status, 200);
        assert_eq!(upstream.last().field("connection"), None);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_upstream_will_close_is_not_used_again() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\n\
         Content-Length: 0\r\n\r\n",
    ] {
        // It does not close: it waits for us to, and would take another request.
        let upstream = Faulty::always(Act::Say(head.to_owned())).await;
        let proxy = proxy(&upstream, "").await;
        for number in 1..=3 {
            assert_eq!(proxy.send("POST", "/x", &[], "content").await.status, 200, "{head}");
            assert_eq!(upstream.connections(), number, "{head}");
        }
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_a_204_that_announces_content() {
    for (field, used_again) in [
        ("ETag: \"x\"", true),
        ("Content-Length: 0", true),
        ("Content-Length: 5", false),
        ("Transfer-Encoding: chunked", false),
    ] {
        // It does not come, but it might.
        let answer = format!("HTTP/1.1 204 No Content\r\n{field}\r\n\r\n");
        let upstream = Faulty::always(Act::Say(answer)).await;
        let proxy = proxy(&upstream, "").await;
        for number in 1..=3 {
            let reply = proxy.send("POST", "/x", &[], "content").await;
            assert_eq!((reply.status, reply.text()), (204, ""), "{field}");
            for framing in ["content-length", "transfer-encoding"] {
                assert_eq!(reply.field(framing), "", "{field}");
            }
            let connections = if used_again { 1 } else { number };
            assert_eq!(upstream.connections(), connections, "{field}");
        }
    }
}

#[tokio::test]
async fn an_upstream_of_http_1_0_may_keep_its_connection() {
    let answer = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
    let upstream = Faulty::always(Act::Say(answer.to_owned())).await;
    let proxy = proxy(&upstream, "").await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/x").await.status, 200);
    }
    assert_eq!((upstream.count("GET", "/x"), upstream.connections()), (3, 1));
}

#[tokio::test]
async fn an_answer_that_is_reset_is_seen_to_break_off() {
    let upstream = Faulty::always(Act::ResetInContent).await;
    let proxy = proxy(&upstream, "").await;
    let mut connection = Connection::open(proxy.address()).await;
    let get = request("GET", "/x", &[], whole(""));
    // The reset may overtake the head, which is then a plain failure.
    if let Ok(reply) = connection.try_send(get).await {
        assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    }
    if let Ok(reply) = send_http2(proxy.address(), "GET", "/x", "").await {
        assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    }
    assert_eq!(upstream.count("GET", "/x"), 2);
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_arrives_whole() {
    let upstream = Faulty::always(Act::Dripping(Duration::from_millis(1))).await;
    let proxy = proxy(&upstream, "").await;
    for target in ["/slow", "/slowly"] {
        let reply = proxy.get(target).await;
        assert_eq!((reply.status, reply.text()), (200, target));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_with_content_still_owed_is_not_used_again() {
    let upstream = Faulty::start(|request| match request.method() {
        "POST" => Act::Early,
        _ => Act::Fine,
    })
    .await;
    let proxy = proxy(&upstream, "").await;
    let (pieces, receiver) = mpsc::channel(1);
    pieces.send(Bytes::from("the beginning")).await.unwrap();
    let mut connection = Connection::open(proxy.address()).await;
    let post = request("POST", "/large", &[], from_channel(receiver));
    let response = connection.begin(post).await.unwrap();
    assert_eq!(response.status(), 413);
    drop((response, connection, pieces));
    // On the old connection this would be taken for content.
    assert_eq!(proxy.get("/x").await.text(), "/x");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn an_upstream_that_never_answers_does_not_keep_others_waiting() {
    let upstream = Faulty::start(|request| match request.target() {
        "/never" => Act::Silent,
        _ => Act::Fine,
    })
    .await;
    let proxy = proxy(&upstream, "timeouts = { first_byte = \"10m\" }\n").await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/never", &[], "").await
    });
    until("it is in flight", || upstream.count("GET", "/never") == 1).await;
    for _ in 0..5 {
        assert_eq!(proxy.get("/x").await.status, 200);
    }
    assert_eq!(upstream.connections(), 2);
    caller.abort();
    until("its connection is given up", || upstream.closed() == 1).await;
}

#[tokio::test]
async fn an_upstream_that_is_silent_is_given_up_in_time_however_long_connections_are_kept() {
    let upstream = Faulty::start(|request| match request.target() {
        "/silent" | "/slow/silent" => Act::FineAfter(Arc::new(Semaphore::new(0))),
        _ => Act::Fine,
    })
    .await;
    let route = |path: &str, first_byte: &str| {
        format!(
            "[[route]]\npath = \"{path}\"\nupstream = \"{}\"\npool = {{ idle_timeout = \"1h\" }}\n\
             timeouts = {{ first_byte = \"{first_byte}\" }}\n",
            upstream.url()
        )
    };
    // One pool: what a connection waited for on one route says nothing about the other.
    let config = format!("workers = 1\n{}{}", route("/quick", "100ms"), route("/slow", "1h"));
    let proxy = Proxy::start(&config).await;
    for target in ["/quick/silent", "/quick/silent"] {
        let reply = proxy.get(target).await;
        assert_eq!(reply.problem(504, "http_response_timeout"), "upstream-timeout", "fresh");
        assert_eq!(proxy.get("/slow/fine").await.status, 200);
    }
    assert_eq!(upstream.count("GET", "/silent"), 2, "a timeout is no reason to send again");
}

#[tokio::test]
async fn another_configuration_uses_connections_of_its_own() {
    let (before, after) = (Faulty::always(Act::Fine).await, Faulty::always(Act::Fine).await);
    let proxy = proxy(&before, "").await;
    assert_eq!(proxy.get("/one").await.text(), "/one");
    proxy.replace_routes(&route(&after.url(), "", ""));
    assert_eq!(proxy.get("/two").await.text(), "/two");
    assert_eq!((before.count("GET", "/two"), after.count("GET", "/two")), (0, 1));
}

#[tokio::test]
async fn an_upstream_that_closes_whatever_comes_is_not_dialled_for_ever() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let upstream = Upstream::raw(move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { drop(stream) }
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for number in 1..=10 {
        let reply = proxy.send("POST", "/", &[], "content").await;
        assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
        let dialled = accepted.load(Ordering::SeqCst);
        assert!(dialled <= number * 4, "{dialled} connections for {number} requests");
    }
}

#[tokio::test]
async fn connections_are_not_kept_for_a_route_that_bears_with_odd_syntax() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = proxy(&upstream, "lenient = true\n").await;
    for target in ["/one", "/two"] {
        assert_eq!(proxy.get(target).await.text(), target);
    }
    assert_eq!(upstream.connections(), 2, "a dropped line may have said where the answer ends");
}

#[tokio::test]
async fn an_upstream_that_answers_while_content_comes_may_be_asked_again_over_its_connection() {
    let upstream = Upstream::raw(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let begin = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nec";
            if stream.write_all(begin).await.is_err() {
                return;
            }
            let mut content = Vec::new();
            while !content.ends_with(b"0\r\n\r\n") {
                let mut piece = [0; 1024];
                let length = stream.read(&mut piece).await.unwrap();
                assert!(length > 0, "the content broke off");
                content.extend_from_slice(&piece[..length]);
            }
            if stream.write_all(b"ho").await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&format!("workers = 1\n{}", route(&upstream.url(), "", ""))).await;
    let mut connection = Connection::open(proxy.address()).await;
    for number in 0..4 {
        let (pieces, receiver) = tokio::sync::mpsc::channel(1);
        pieces.send(Bytes::from_static(b"begun")).await.unwrap();
        let post = request("POST", "/", &[], from_channel(receiver));
        let answer = connection.begin(post).await.unwrap();
        pieces.send(Bytes::from_static(b"ended")).await.unwrap();
        drop(pieces);
        let reply = Reply::read(answer).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "echo"), "{number}");
    }
}
