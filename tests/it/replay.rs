//! What a 401 does: another token and the same request once more, or the 401 as it came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign::mock::StandIn;
use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::client::{from_channel, parse_all, raw, request};
use crate::harness::upstream::{answer, read_head};
use crate::harness::{
    Act, Connection, Faulty, Proxy, Reply, Upstream, is_data, plant, route, secret, sha256, twinzo,
};

async fn start(replay: &str) -> (StandIn, Proxy) {
    let stand_in = twinzo().await;
    let replay = format!("replay = {{ {replay} }}\n");
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", &replay);
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    stand_in.recorder().clear();
    stand_in.switches().revoke_all();
    (stand_in, proxy)
}

/// The data calls after the revocation: their statuses; all with the same content.
fn tries(stand_in: &StandIn, content: &[u8]) -> Vec<u16> {
    let all = stand_in.recorder().all().into_iter();
    all.filter(is_data)
        .map(|recorded| {
            assert_eq!(recorded.body_sha256, sha256(content));
            recorded.status
        })
        .collect()
}

async fn post(proxy: &Proxy, chunked: bool, content: &Bytes) -> Reply {
    let fields = [("content-type", "application/json")];
    if chunked {
        let sent = proxy.send_chunked("POST", "/v3/echo", &fields, content.clone());
        sent.await
    } else {
        let sent = proxy.send("POST", "/v3/echo", &fields, content.clone());
        sent.await
    }
}

#[tokio::test]
async fn content_within_the_limit_is_sent_once_more_as_it_was() {
    for (chunked, size) in [(false, 10), (true, 10), (false, 60_000), (true, 60_000)] {
        let (stand_in, proxy) = start("").await;
        let content: Bytes = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let reply = post(&proxy, chunked, &content).await;
        assert_eq!(reply.status, 200, "{chunked} {size}");
        assert_eq!(reply.json()["body_sha256"], sha256(&content));
        assert_eq!(tries(&stand_in, &content), [401, 200], "{chunked} {size}");
        assert_eq!(stand_in.recorder().logins(), 1);
    }
}

#[tokio::test]
async fn requests_without_content_are_sent_once_more() {
    let (stand_in, proxy) = start("").await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    assert_eq!(tries(&stand_in, b""), [401, 200]);
}

#[tokio::test]
async fn content_beyond_the_limit_is_not_and_the_401_passes_through() {
    for chunked in [false, true] {
        let (stand_in, proxy) = start("max_body = 1000").await;
        let content = Bytes::from(vec![b'x'; 1001]);
        let reply = post(&proxy, chunked, &content).await;
        assert_eq!(reply.status, 401, "{chunked}");
        assert_eq!(reply.field("proxy-status"), "");
        assert_eq!(tries(&stand_in, &content), [401], "{chunked}");

        // The token is replaced nevertheless, so the next request is fine.
        let reply = post(&proxy, chunked, &content).await;
        assert_eq!(reply.status, 200, "{chunked}");
        assert_eq!(stand_in.recorder().logins(), 1);
    }
}

#[tokio::test]
async fn the_limit_itself_is_still_within_it() {
    for chunked in [false, true] {
        let (stand_in, proxy) = start("max_body = 1000").await;
        let content = Bytes::from(vec![b'x'; 1000]);
        assert_eq!(post(&proxy, chunked, &content).await.status, 200, "{chunked}");
        assert_eq!(tries(&stand_in, &content), [401, 200], "{chunked}");
    }
}

#[tokio::test]
async fn a_burst_of_refusals_replaces_one_token() {
    let (stand_in, proxy) = start("").await;
    stand_in.switches().set_token_latency(Duration::from_millis(200));
    let mut requests = JoinSet::new();
    for _ in 0..100 {
        let address = proxy.address();
        requests.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("POST", "/v3/echo", &[], "content").await.status
        });
    }
    assert_eq!(requests.join_all().await, [200; 100]);
    assert_eq!(stand_in.recorder().token_calls(), 1);
}

#[tokio::test]
async fn a_refusal_before_the_content_was_read_reaches_the_caller() {
    let stand_in = twinzo().await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nearly";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let config = plant(&stand_in.url(), "") + &route(&upstream.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let (pieces, receiver) = mpsc::channel(1);
    let mut connection = Connection::open(proxy.address()).await;
    pieces.send(Bytes::from("the beginning")).await.unwrap();
    let post = request("POST", "/", &[], from_channel(receiver));
    let response = connection.begin(post).await.unwrap();
    assert_eq!(response.status(), 401, "what has not come cannot be sent again");
    assert_eq!(upstream.connections(), 1);
    drop(pieces);
}

#[tokio::test]
async fn interim_answers_come_before_the_one_answer_that_a_second_try_leads_to() {
    let stand_in = twinzo().await;
    let count = AtomicUsize::new(1);
    let upstream = Faulty::start(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let status = if number == 1 { "401 Unauthorized" } else { "200 OK" };
        Act::Say(format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n\
             HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{number}"
        ))
    })
    .await;
    let config = plant(&stand_in.url(), "") + &route(&upstream.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let get = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = raw(proxy.address(), get).await;
    let (interims, reply) = parse_all(&answer);
    assert_eq!((reply.status, reply.text()), (200, "2"));
    let interims: Vec<_> =
        interims.iter().map(|interim| (interim.status, interim.field("link"))).collect();
    assert_eq!(interims, [(103, "</1>"), (103, "</2>")]);
    assert_eq!(upstream.count("GET", "/x"), 2);
    assert_eq!(stand_in.recorder().logins(), 2, "the first and one forced");
}

#[tokio::test]
async fn an_empty_list_of_statuses_means_never() {
    let (stand_in, proxy) = start("statuses = []").await;
    assert_eq!(proxy.get("/v3/devices").await.status, 401);
    assert_eq!(tries(&stand_in, b""), [401]);
    assert_eq!(stand_in.recorder().token_calls(), 0);
}

#[tokio::test]
async fn an_upstream_that_refuses_every_token_is_asked_twice_and_no_login_storm_follows() {
    let stand_in = twinzo().await;
    let count = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        answer(401, "not you")
    })
    .await;
    let config = plant(&stand_in.url(), "") + &route(&upstream.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    for _ in 0..20 {
        let reply = proxy.get("/x").await;
        assert_eq!((reply.status, reply.text()), (401, "not you"));
    }
    assert_eq!(stand_in.recorder().logins(), 2, "the first and one forced");
    assert_eq!(upstream.seen().len(), 21, "only the first is repeated");
}

#[tokio::test]
async fn the_refusal_of_a_fixed_credential_passes_through_unchanged() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .status(401)
            .header("content-type", "application/problem+json; charset=utf-8")
            .header("www-authenticate", "Key realm=\"x\"")
            .header("x-own", "theirs")
            .body(Full::from("{\"type\":\"theirs\", \"odd\" :  1}"))
            .unwrap()
    })
    .await;
    let guid = "\"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"";
    let config = format!(
        "[credential.key]\nkind = \"twinzo-api-key\"\napi_key = {}\nclient_guid = {guid}\n\
         branch_guid = {guid}\n{}",
        secret("an-invented-key"),
        route(&upstream.url(), "key", ""),
    );
    let proxy = Proxy::start(&config).await;
    let reply = proxy.send("POST", "/x", &[], "content").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.text(), "{\"type\":\"theirs\", \"odd\" :  1}");
    assert_eq!(reply.field("content-type"), "application/problem+json; charset=utf-8");
    assert_eq!(reply.field("www-authenticate"), "Key realm=\"x\"");
    assert_eq!(reply.field("x-own"), "theirs");
    assert_eq!(reply.field("proxy-status"), "");
    assert_eq!(upstream.seen().len(), 1);
}
