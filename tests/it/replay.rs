//! What a 401 does: another token and the same request once more, or the 401 as it came.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use countersign::mock::StandIn;
use http::Response;
use http_body_util::Full;

use crate::harness::upstream::answer;
use crate::harness::{Proxy, Reply, Upstream, is_data, plant, route, secret, sha256, twinzo};

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
