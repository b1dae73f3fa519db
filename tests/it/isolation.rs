//! One caller never gets what was meant for another, whatever the upstream does.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::client::{request, send_http2, whole};
use crate::harness::{Act, Connection, Faulty, Proxy, route, until};

/// What only the caller A may see.
const SECRET: &str = "only for A";

/// An answer to A with something after it.
fn answer(head: &str, after: &str) -> String {
    format!("HTTP/1.1 {head}\r\n\r\n{after}")
}

/// A whole answer with A's secret.
fn second() -> String {
    let length = SECRET.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-For: A\r\n\r\n{SECRET}")
}

/// Answers `/a` with `act`, and all else as it should.
async fn upstream(act: Act) -> Faulty {
    Faulty::start(move |request| match request.target() {
        "/a" => act.clone(),
        _ => Act::Fine,
    })
    .await
}

/// One worker: both callers use one pool.
async fn proxy(upstream: &Faulty) -> Proxy {
    Proxy::start(&format!("workers = 1\n{}", route(&upstream.url(), "", ""))).await
}

async fn check_b(proxy: &Proxy, upstream: &Faulty, what: &str) {
    b_gets_its_own(proxy, what).await;
    let on_the_first = upstream.received().into_iter().filter(|one| one.connection == 1);
    assert_eq!(on_the_first.count(), 1, "{what}: the connection is spoilt");
}

async fn b_gets_its_own(proxy: &Proxy, what: &str) {
    for target in ["/b", "/bb", "/bbb"] {
        let reply = proxy.get(target).await;
        assert_eq!((reply.status, reply.text()), (200, target), "{what}");
        assert_eq!(reply.field("x-for"), "", "{what}");
        let reply = send_http2(proxy.address(), "POST", target, "content").await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, target), "{what}");
    }
}

#[tokio::test]
async fn what_comes_after_an_answer_reaches_nobody() {
    let second = second();
    for (method, head, after) in [
        ("GET", "200 OK\r\nContent-Length: 2", format!("ok{SECRET}")),
        ("GET", "200 OK\r\nContent-Length: 2", format!("ok\r\n\r\n{SECRET}")),
        ("GET", "200 OK\r\nContent-Length: 2", format!("ok{second}")),
        ("GET", "200 OK\r\nContent-Length: 0", second.clone()),
        ("GET", "200 OK\r\nTransfer-Encoding: chunked", format!("2\r\nok\r\n0\r\n\r\n{second}")),
        ("GET", "204 No Content", second.clone()),
        ("GET", "204 No Content\r\nContent-Length: 10", SECRET.to_owned()),
        ("GET", "304 Not Modified\r\nContent-Length: 10", SECRET.to_owned()),
        ("HEAD", "200 OK\r\nContent-Length: 10", SECRET.to_owned()),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", format!("a\r\n{SECRET}\r\n0\r\n\r\n")),
        ("POST", "200 OK\r\nContent-Length: 2", format!("ok{second}{second}")),
    ] {
        let what = format!("{method} {head} {after}");
        let upstream = upstream(Act::Say(answer(head, &after))).await;
        let proxy = proxy(&upstream).await;
        let mut connection = Connection::open(proxy.address()).await;
        let request = request(method, "/a", &[], whole(""));
        // What A gets is its own; a second answer is not part of it.
        if let Ok(reply) = connection.try_send(request).await {
            assert!(!reply.text().contains(SECRET), "{what}: {reply:?}");
        }
        check_b(&proxy, &upstream, &what).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_to_nobody_is_not_kept_for_the_next() {
    let go = Arc::new(Semaphore::new(0));
    let upstream = upstream(Act::AgainAfter(Arc::clone(&go))).await;
    let proxy = proxy(&upstream).await;
    assert_eq!(proxy.get("/a").await.text(), "/a");
    go.add_permits(1);
    until("the connection is closed", || upstream.closed() == 1).await;
    check_b(&proxy, &upstream, "a second answer while nothing is asked").await;
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_given_to_the_next() {
    let go = Arc::new(Semaphore::new(0));
    let upstream = upstream(Act::FineAfter(Arc::clone(&go))).await;
    let config = route(&upstream.url(), "", "timeouts = { first_byte = \"1s\" }\n");
    let proxy = Proxy::start(&format!("workers = 1\n{config}")).await;
    let reply = proxy.get("/a").await;
    assert_eq!(reply.problem(504, "http_response_timeout"), "upstream-timeout");
    go.add_permits(1);
    check_b(&proxy, &upstream, "the answer comes after all").await;
}

#[tokio::test]
async fn an_answer_that_a_caller_left_is_not_given_to_the_next() {
    let go = Arc::new(Semaphore::new(0));
    let upstream = upstream(Act::FineAfter(Arc::clone(&go))).await;
    let proxy = proxy(&upstream).await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/a", &[], "").await
    });
    until("it is in flight", || upstream.count("GET", "/a") == 1).await;
    caller.abort();
    go.add_permits(1);
    // The answer may have come before it was noticed that nobody waits for it.
    b_gets_its_own(&proxy, "the caller left").await;
}

#[tokio::test]
async fn content_that_is_too_short_is_not_filled_up_with_the_next_answer() {
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly for A";
    let upstream = upstream(Act::SayThenClose(short.to_owned())).await;
    let proxy = proxy(&upstream).await;
    let mut connection = Connection::open(proxy.address()).await;
    let get = request("GET", "/a", &[], whole(""));
    assert!(connection.try_send(get).await.is_err(), "it breaks off");
    check_b(&proxy, &upstream, "too short").await;
}

#[tokio::test]
async fn many_callers_at_once_get_each_their_own() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&format!("workers = 2\n{}", route(&upstream.url(), "", ""))).await;
    let mut callers = JoinSet::new();
    for caller in 0..50 {
        let address = proxy.address();
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            for number in 0..40 {
                let target = format!("/{caller}/{number}");
                let method = ["GET", "POST", "PUT", "DELETE"][number % 4];
                let reply = connection.send(method, &target, &[], "").await;
                assert_eq!((reply.status, reply.text()), (200, target.as_str()));
            }
        });
    }
    callers.join_all().await;
    assert_eq!(upstream.received().len(), 2_000);
}
