//! The first login: one for everybody, tried with care, and never a request without a token.

use std::time::Duration;

use countersign::mock::Failure;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::client::{request, whole};
use crate::harness::{
    Connection, Proxy, Upstream, is_data, plant, plant_with_password, route, twinzo, until,
};

const LAZY: &str = "[credential.plant.refresh]\neager = false\n";

#[tokio::test]
async fn two_hundred_first_requests_share_one_login() {
    let stand_in = twinzo().await;
    stand_in.switches().set_token_latency(Duration::from_millis(300));
    let config = plant(&stand_in.url(), LAZY) + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(stand_in.recorder().token_calls(), 0, "nobody asked yet");
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let address = proxy.address();
        requests.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("GET", "/v3/devices", &[], "").await.status
        });
    }
    let statuses = requests.join_all().await;
    assert_eq!(statuses, [200; 200]);
    assert_eq!(stand_in.recorder().token_calls(), 1);
    assert_eq!(stand_in.recorder().logins(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_cancel_the_login() {
    let stand_in = twinzo().await;
    stand_in.switches().set_token_latency(Duration::from_millis(500));
    let config = plant(&stand_in.url(), LAZY) + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/v3/devices", &[], "").await
    });
    let recorder = stand_in.recorder();
    until("the login begins", || recorder.token_calls() == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    until("the login ends", || recorder.logins() == 1).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    assert_eq!(recorder.token_calls(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_however_many_ask() {
    let stand_in = twinzo().await;
    let config = plant_with_password(&stand_in.url(), "wrong-password", "")
        + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    for _ in 0..3 {
        let mut requests = JoinSet::new();
        for _ in 0..20 {
            let address = proxy.address();
            requests.spawn(async move {
                let mut connection = Connection::open(address).await;
                connection.send("GET", "/v3/devices", &[], "").await
            });
        }
        for reply in requests.join_all().await {
            let word = reply.problem(502, "proxy_configuration_error");
            assert_eq!(word, "credential-refused");
            assert_eq!(reply.field("retry-after"), "", "nobody should try again soon");
            assert!(!reply.text().contains("wrong-password"));
        }
    }
    assert_eq!(stand_in.recorder().token_calls(), 1);
    assert_eq!(stand_in.recorder().count_where(is_data), 0);
}

#[tokio::test]
async fn too_many_logins_are_repeated_when_the_token_endpoint_says() {
    let stand_in = twinzo().await;
    let failure = Failure::TooManyRequests { retry_after: Some(3) };
    stand_in.switches().fail_token_calls(failure, Some(1));
    let config = plant(&stand_in.url(), LAZY) + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let begun = Instant::now();
    let reply = proxy.get("/v3/devices").await;
    reply.problem(503, "destination_unavailable");
    assert!((1..=3).contains(&reply.retry_after()), "{reply:?}");
    let recorder = stand_in.recorder();
    until("it tries again by itself", || recorder.token_calls() == 2).await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    until("it has a token", || proxy.identity("plant").cache.is_ready()).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    assert_eq!(recorder.token_calls(), 2);
}

#[tokio::test]
async fn every_failure_of_the_token_endpoint_is_told_and_nothing_is_sent_without_a_token() {
    let expected = [
        (Failure::Garbage, 503),
        (Failure::EmptyOk, 503),
        (Failure::SuccessFalse, 502),
        (Failure::Hang, 503),
        (Failure::CloseConnection, 503),
        (Failure::ServerError, 503),
        (Failure::TooManyRequests { retry_after: None }, 503),
    ];
    for (failure, status) in expected {
        let stand_in = twinzo().await;
        stand_in.switches().fail_token_calls(failure, None);
        let refresh = "[credential.plant.refresh]\ntimeout = \"500ms\"\n";
        let config = plant(&stand_in.url(), refresh) + &route(&stand_in.url(), "plant", "");
        let proxy = Proxy::start(&config).await;
        for (method, content) in [("GET", ""), ("POST", "{}")] {
            let reply = proxy.send(method, "/v3/localization", &[], content).await;
            if status == 502 {
                reply.problem(502, "proxy_configuration_error");
            } else {
                reply.problem(503, "destination_unavailable");
                assert!(reply.retry_after() >= 1, "{failure}");
            }
        }
        assert!(stand_in.recorder().token_calls() >= 1, "{failure}");
        assert_eq!(stand_in.recorder().count_where(is_data), 0, "{failure}");
    }
}

#[tokio::test]
async fn a_token_endpoint_that_nobody_answers_at_is_503() {
    let closed = Upstream::fine().await.address();
    let data = Upstream::fine().await;
    let config = plant(&format!("http://{closed}"), "") + &route(&data.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let reply = proxy.get("/v3/devices").await;
    reply.problem(503, "destination_unavailable");
    assert!(reply.retry_after() >= 1);
    assert!(data.seen().is_empty());
}

#[tokio::test]
async fn a_request_waits_no_longer_for_a_token_than_configured() {
    let stand_in = twinzo().await;
    stand_in.switches().fail_token_calls(Failure::Hang, None);
    let refresh = "[credential.plant.refresh]\nwait = \"200ms\"\n";
    let config = plant(&stand_in.url(), refresh) + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let mut connection = Connection::open(proxy.address()).await;
    let get = request("GET", "/v3/devices", &[], whole(""));
    let reply = connection.try_send(get).await.unwrap();
    reply.problem(503, "destination_unavailable");
    assert_eq!(reply.retry_after(), 1);
    assert_eq!(stand_in.recorder().count_where(is_data), 0);
}
