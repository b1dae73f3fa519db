//! Edges of HTTP at which proxies lose content, versions or their way.

use std::time::Duration;

use countersign::mock::Failure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::client::{raw, raw_head, send_http2};
use crate::harness::upstream::read_head;
use crate::harness::{PATIENCE, Proxy, Upstream, plant, route, twinzo, until};

#[tokio::test]
async fn content_of_unknown_length_arrives_whatever_the_method() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "PUT", "PATCH"] {
        let request = format!(
            "{method} /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            proxy.address()
        );
        assert!(raw(proxy.address(), request).await.starts_with(b"HTTP/1.1 200"), "{method}");
        let seen = upstream.seen().pop().unwrap();
        assert_eq!((seen.method.as_str(), &seen.body[..]), (method, &b"hello"[..]));
    }
}

#[tokio::test]
async fn a_path_cannot_climb_out_of_the_upstreams_path_and_back() {
    let upstream = Upstream::fine().await;
    let more = "path = \"/alerts\"\n";
    let url = format!("{}/v1/public", upstream.url());
    let proxy = Proxy::start(&route(&url, "", more)).await;
    for target in [
        "/alerts/../alerts/secret",
        "/alerts/%2e%2e/alerts/x",
        "/alerts/..;/alerts/x",
        "/alerts/a/../../alerts/b",
    ] {
        let reply = raw_head(proxy.address(), &[&format!("GET {target} HTTP/1.1")]).await;
        assert_eq!(reply.status, 400, "{target}");
    }
    assert_eq!(upstream.seen().len(), 0);
    let reply = raw_head(proxy.address(), &["GET /alerts/a/../b HTTP/1.1"]).await;
    assert_eq!(reply.status, 200, "what stays inside is forwarded as it is");
    assert_eq!(upstream.seen()[0].target, "/v1/public/a/../b");
}

#[tokio::test]
async fn answers_of_ours_to_head_have_no_content_in_any_version() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "path = \"/only\"\n")).await;
    let reply = send_http2(proxy.address(), "HEAD", "/other", "").await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (404, 0));
    assert_ne!(reply.field("content-length"), "0");
    let answer = raw_head(proxy.address(), &["HEAD /other HTTP/1.1"]).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
}

#[tokio::test]
async fn an_answer_has_our_version_and_not_the_upstreams() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.address());
    let answer = String::from_utf8(raw(proxy.address(), get).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("transfer-encoding: chunked") && answer.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_refused() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let switch =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        stream.write_all(switch).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let reply = raw_head(proxy.address(), &["GET / HTTP/1.1", "Upgrade: x"]).await;
    reply.problem(502, "http_protocol_error");
}

#[tokio::test]
async fn a_slow_caller_is_not_taken_for_a_slow_upstream() {
    let upstream = Upstream::fine().await;
    let more = "timeouts = { first_byte = \"200ms\" }\n";
    let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 6\r\n\r\n",
        proxy.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut pace = tokio::time::interval(Duration::from_millis(300));
    for piece in ["a", "b", "c", "d", "e", "f"] {
        pace.tick().await;
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(&upstream.seen()[0].body[..], b"abcdef");
}

#[tokio::test]
async fn a_caller_who_does_not_read_is_given_up_and_the_upstream_freed() {
    let (upstream, gone) = Upstream::endless().await;
    let config =
        format!("limits = {{ write_timeout = \"300ms\" }}\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address());
    stream.write_all(get.as_bytes()).await.unwrap();
    timeout(PATIENCE, gone.notified()).await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_renewal_that_fails_is_followed_by_a_login() {
    // The renewal call answers 500 for ever; the login does not.
    let stand_in = twinzo().await;
    stand_in.switches().set_token_lifetime(Duration::from_secs(2));
    let url = stand_in.url();
    let front = Upstream::raw(move |mut stream| {
        let target = url.trim_start_matches("http://").to_owned();
        async move {
            let head = read_head(&mut stream).await;
            if head.starts_with("GET /v3/authorization/token") {
                let answer = "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                return;
            }
            let mut onward = TcpStream::connect(target).await.unwrap();
            onward.write_all(head.as_bytes()).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        }
    })
    .await;
    let config = plant(&front.url(), "") + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    until("logged in again and again", || stand_in.recorder().logins() >= 3).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    assert_eq!(stand_in.recorder().refreshes(), 0);
}

#[tokio::test]
async fn one_refused_path_does_not_take_the_token_from_all_others() {
    let stand_in = twinzo().await;
    stand_in.switches().set_token_lifetime(Duration::from_secs(8));
    let upstream = Upstream::answering(|seen| {
        let status = if seen.target == "/closed" { 401 } else { 200 };
        http::Response::builder().status(status).body(http_body_util::Full::default()).unwrap()
    })
    .await;
    let refresh = "[credential.plant.refresh]\nmin_interval = \"1ms\"\n";
    let config = plant(&stand_in.url(), refresh) + &route(&upstream.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/").await.status, 200);
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    until("the renewal has failed", || proxy.identity("plant").cache.state().failure.is_some())
        .await;
    // The renewal is drawn from 5.2 to 6 seconds; the token is good for more than a second yet.
    assert_eq!(proxy.get("/closed").await.status, 401, "the refusal passes");
    assert_eq!(proxy.get("/").await.status, 200, "the token goes on being used");
}
