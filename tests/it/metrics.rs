//! What is counted and shown of requests: metrics, the status, the line of the log and the feed.

use std::sync::Arc;
use std::time::Duration;

use countersign::observe::recent::{News, Seen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::harness::client::raw;
use crate::harness::scrape::Scrape;
use crate::harness::upstream::read_head;
use crate::harness::{
    Act, Connection, Faulty, PATIENCE, Proxy, Upstream, plant, private_directory, quoted, route,
    secret, twinzo, until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A proxy with an admin listener and these routes.
async fn proxy(routes: &str) -> Proxy {
    Proxy::start(&format!("{ADMIN}{routes}")).await
}

fn named(name: &str, upstream: &str, more: &str) -> String {
    let path = format!("path = \"/{name}\"\n{more}");
    route(upstream, "", &path).replace("name = \"all\"", &format!("name = \"{name}\""))
}

/// Scrapes once so many requests have been counted.
async fn scrape(proxy: &Proxy, requests: u64) -> Scrape {
    let scrape = Scrape::until(proxy.admin(), |scrape| scrape.all_requests() >= requests).await;
    assert_eq!(scrape.all_requests(), requests, "{}", scrape.text);
    scrape
}

async fn status_of(proxy: &Proxy, route: &str) -> serde_json::Value {
    let mut connection = Connection::open(proxy.admin()).await;
    let status = connection.send("GET", "/api/status", &[], "").await.json();
    let mut routes = status["routes"].as_array().unwrap().iter();
    routes.find(|one| one["name"] == route).unwrap().clone()
}

#[tokio::test]
async fn requests_count_by_route_and_status_whoever_answers() {
    let upstream = Faulty::start(|request| match request.target() {
        "/teapot" => Act::Say("HTTP/1.1 418 x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        "/odd" => Act::Say("HTTP/1.1 799 x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        "/broken" => Act::Say("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        _ => Act::Fine,
    })
    .await;
    let url = upstream.url();
    let proxy =
        proxy(&[named("a", &url, ""), named("b", &url, "deny = [\"/b/x\"]\n")].concat()).await;
    for (method, target, status) in [
        ("GET", "/a/1", 200),
        ("POST", "/a/2?token=canary", 200),
        ("HEAD", "/a/3", 200),
        ("GET", "/a/teapot", 418),
        ("GET", "/a/odd", 799),
        ("GET", "/a/broken", 500),
        ("BREW", "/b/1", 200),
        ("GET", "/b/x", 403),
        ("GET", "/nothing/canary", 404),
    ] {
        assert_eq!(proxy.send(method, target, &[], "").await.status, status, "{method} {target}");
    }
    let answer =
        raw(proxy.address(), "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n")
            .await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    let rebound = [("host", "canary.example")];
    assert_eq!(proxy.send("GET", "/a", &rebound, "").await.status, 421);
    let scrape = scrape(&proxy, 11).await;
    for (route, status, count) in [
        ("a", "200", 3),
        ("a", "418", 1),
        ("a", "500", 1),
        ("a", "other", 1),
        ("b", "200", 1),
        // It is closed before it is known to be a request of this route.
        ("-", "403", 1),
        ("-", "404", 1),
        ("-", "400", 1),
        ("-", "421", 1),
    ] {
        assert_eq!(scrape.requests(route, status), count, "{route} {status}\n{}", scrape.text);
    }
    for (route, count) in [("a", 6.0), ("b", 1.0), ("-", 4.0)] {
        let labels = [("route", route)];
        let counted = scrape.value("countersign_request_duration_seconds_count", &labels);
        assert_eq!(counted, Some(count), "{route}");
        let all = [("route", route), ("le", "+Inf")];
        assert_eq!(scrape.value("countersign_request_duration_seconds_bucket", &all), Some(count));
        let sum = scrape.value("countersign_request_duration_seconds_sum", &labels).unwrap();
        assert!(sum > 0.0 && sum < 60.0, "{sum}");
    }
    assert_eq!(scrape.value("countersign_in_flight_requests", &[]), Some(0.0));
    assert_eq!(scrape.of_name("countersign_upstream_errors_total").count(), 0, "it was there");
}

#[tokio::test]
async fn what_an_api_refuses_counts_by_itself_where_a_credential_was_sent() {
    let upstream = Faulty::start(|request| match request.target() {
        "/401" => Act::Say("HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        "/403" => Act::Say("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        _ => Act::Fine,
    })
    .await;
    let url = upstream.url();
    let key = format!("[credential.key]\nkind = \"bearer\"\ntoken = {}\n", secret("canary"));
    let with = named("with", &url, "credential = \"key\"\ndeny = [\"/with/closed\"]\n");
    let proxy = proxy(&[key, with, named("without", &url, "")].concat()).await;
    for (target, status) in [
        ("/with/401", 401),
        ("/with/403", 403),
        ("/with/fine", 200),
        ("/with/fine", 200),
        ("/with/closed", 403),
        ("/without/401", 401),
        ("/nothing", 404),
    ] {
        assert_eq!(proxy.get(target).await.status, status, "{target}");
    }
    let scrape = scrape(&proxy, 7).await;
    let refused = |route| scrape.value("countersign_refused_requests_total", &[("route", route)]);
    let counted = [refused("with"), refused("without"), refused("-")];
    assert_eq!(counted, [Some(2.0), Some(0.0), Some(0.0)], "{}", scrape.text);
    let (with, without) = (status_of(&proxy, "with").await, status_of(&proxy, "without").await);
    assert_eq!((&with["refused"], &with["refused_share"]), (&2.into(), &0.5.into()), "{with}");
    assert_eq!((&with["errors"], &with["error_share"]), (&0.into(), &0.0.into()));
    assert_eq!((&without["refused"], &without["refused_share"]), (&0.into(), &0.0.into()));
    let mut connection = Connection::open(proxy.admin()).await;
    let status = connection.send("GET", "/api/status", &[], "").await.json();
    assert_eq!((&status["unrouted"]["requests"], &status["ready"]), (&2.into(), &true.into()));
    assert_eq!(status["not_ready_because"], serde_json::Value::Null);
}

#[tokio::test]
async fn no_label_takes_a_value_from_a_request() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    std::fs::write(&file, "device,token\ncanary-7,canary-token\n").unwrap();
    let identity = "credential = \"key\"\nidentity = { header = \"X-Device\" }\n";
    let proxy = proxy(&format!(
        "[credential.key]\nkind = \"bearer\"\ndevices = {}\n{}",
        quoted(&file.to_string_lossy()),
        named("api", &upstream.url(), identity),
    ))
    .await;
    for n in 0..20 {
        let fields = [("X-Device", &*format!("canary-{n}")), ("X-Request-Id", "canary-id")];
        let method = format!("CANARY{n}");
        proxy.send(&method, &format!("/api/canary-{n}?canary"), &fields, "").await;
        proxy.send("GET", &format!("/canary-{n}"), &[("host", "canary.test")], "").await;
        raw(proxy.address(), format!("CANARY{n} /%zz HTTP/1.1\r\nCanary\r\n\r\n")).await;
    }
    let scrape = scrape(&proxy, 60).await;
    assert!(!scrape.text.to_ascii_lowercase().contains("canary"), "{}", scrape.text);
    assert_eq!((scrape.requests("api", "200"), scrape.requests("api", "403")), (1, 19));
    let labels = scrape.labels("countersign_requests_total");
    assert_eq!(labels["route"].iter().copied().collect::<Vec<_>>(), ["-", "api"]);
    assert!(labels["status"].len() <= 4, "{labels:?}");
}

#[tokio::test]
async fn an_upstream_that_makes_up_statuses_gets_few_series() {
    let upstream = Faulty::start(|request| {
        let status = request.target().trim_start_matches('/').to_owned();
        Act::Say(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"))
    })
    .await;
    let proxy = proxy(&route(&upstream.url(), "", "")).await;
    let mut connection = Connection::open(proxy.address()).await;
    let mut sent = 0;
    for status in (200..600).chain([600, 700, 800, 999]).filter(|status| status % 3 == 0) {
        // Those have no content, which this upstream does not know.
        if matches!(status, 204 | 205 | 304) {
            continue;
        }
        let reply = connection.send("POST", &format!("/{status}"), &[], "").await;
        assert_eq!(reply.status, status);
        sent += 1;
    }
    let scrape = scrape(&proxy, sent).await;
    let series = scrape.of_name("countersign_requests_total").count();
    assert!(series <= 16, "{series}\n{}", scrape.text);
    assert!(scrape.requests("all", "other") >= 100, "{}", scrape.text);
}

#[tokio::test]
async fn what_the_upstream_does_wrong_counts_by_its_word() {
    let upstream = Faulty::start(|request| match request.target() {
        "/closes" => Act::Close,
        "/breaks" => Act::ResetInContent,
        "/speaks" => Act::SayThenClose("SSH-2.0-x\r\n\r\n".to_owned()),
        _ => Act::Silent,
    })
    .await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let slow = "timeouts = { first_byte = \"50ms\" }\n";
    let routes = [
        named("faulty", &upstream.url(), slow),
        named("gone", &format!("http://{free}"), ""),
        named("unknown", "https://no-such-host.invalid", ""),
    ];
    let proxy = proxy(&routes.concat()).await;
    for (target, status) in [
        ("/faulty/closes", 502),
        ("/faulty/speaks", 502),
        ("/faulty/silent", 504),
        ("/gone", 502),
        ("/unknown", 502),
    ] {
        assert_eq!(proxy.send("POST", target, &[], "x").await.status, status, "{target}");
    }
    let mut connection = Connection::open(proxy.address()).await;
    let broken = crate::harness::client::request("POST", "/faulty/breaks", &[], {
        crate::harness::client::whole("x")
    });
    assert!(connection.try_send(broken).await.is_err(), "it breaks off");
    let scrape = scrape(&proxy, 6).await;
    for (route, error) in [
        ("faulty", "connection_terminated"),
        ("faulty", "http_protocol_error"),
        ("faulty", "http_response_timeout"),
        ("faulty", "http_response_incomplete"),
        ("gone", "connection_refused"),
        ("unknown", "dns_error"),
    ] {
        let labels = [("route", route), ("error", error)];
        let count = scrape.value("countersign_upstream_errors_total", &labels);
        assert_eq!(count, Some(1.0), "{route} {error}\n{}", scrape.text);
    }
    assert_eq!(scrape.of_name("countersign_upstream_errors_total").count(), 6);
    assert_eq!(scrape.requests("faulty", "200"), 1, "the one that broke off");
    let seen = status_of(&proxy, "faulty").await;
    assert_eq!((&seen["requests"], &seen["errors"]), (&4.into(), &4.into()));
    assert_eq!(seen["error_share"], 1.0);
}

#[tokio::test]
async fn a_websocket_is_in_flight_until_it_ends_and_counts_then() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let switch = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let _ = stream.write_all(switch.as_bytes()).await;
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await;
    let proxy = proxy(&route(&upstream.url(), "", "websocket = true\n")).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let handshake = format!(
        "GET /x HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        proxy.address()
    );
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let during = Scrape::of(proxy.admin()).await;
    assert_eq!(during.value("countersign_in_flight_requests", &[]), Some(1.0));
    assert_eq!(during.all_requests(), 0);
    assert_eq!(status_of(&proxy, "all").await["in_flight"], 1);
    stream.shutdown().await.unwrap();
    let after = scrape(&proxy, 1).await;
    assert_eq!(after.requests("all", "101"), 1);
    assert_eq!(after.value("countersign_in_flight_requests", &[]), Some(0.0));
}

#[tokio::test]
async fn a_caller_who_goes_away_before_the_answer_counts_without_a_status() {
    let upstream = Faulty::start(|_| Act::Silent).await;
    let proxy = proxy(&route(&upstream.url(), "", "timeouts = { first_byte = \"10m\" }\n")).await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        Connection::open(address).await.send("GET", "/x", &[], "").await;
    });
    until("it is in flight", || upstream.count("GET", "/x") == 1).await;
    caller.abort();
    let scrape = scrape(&proxy, 1).await;
    assert_eq!(scrape.requests("all", "none"), 1, "{}", scrape.text);
    assert_eq!(status_of(&proxy, "all").await["errors"], 0, "it is nobody's but the caller's");
}

#[tokio::test]
async fn counts_of_a_route_outlive_its_settings_but_not_its_name() {
    let upstream = Upstream::fine().await;
    let url = upstream.url();
    let before = [named("stays", &url, ""), named("goes", &url, "")].concat();
    let proxy = Proxy::start_with_file(&format!("{ADMIN}{before}")).await;
    for target in ["/stays", "/stays", "/goes"] {
        assert_eq!(proxy.get(target).await.status, 200);
    }
    scrape(&proxy, 3).await;
    let after = named("stays", &url, "max_body = \"1KiB\"\n");
    proxy.go_over(&format!("{ADMIN}{after}")).await;
    assert_eq!(proxy.get("/stays").await.status, 200);
    assert_eq!(proxy.get("/goes").await.status, 404);
    let scrape = scrape(&proxy, 4).await;
    assert_eq!((scrape.requests("stays", "200"), scrape.requests("-", "404")), (3, 1));
    let routes = scrape.labels("countersign_request_duration_seconds_count");
    assert_eq!(routes["route"].iter().copied().collect::<Vec<_>>(), ["-", "stays"]);
    assert_eq!(status_of(&proxy, "stays").await["requests"], 3);
}

#[tokio::test]
async fn a_route_that_is_gone_shows_until_its_last_request_has_ended() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Faulty::start(move |_| Act::FineAfter(Arc::clone(&waiting))).await;
    let before = named("goes", &upstream.url(), "");
    let proxy = Proxy::start_with_file(&format!("{ADMIN}{before}")).await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        Connection::open(address).await.send("GET", "/goes", &[], "").await.status
    });
    until("it is in flight", || upstream.count("GET", "/").max(upstream.received().len()) == 1)
        .await;
    let after = named("comes", &upstream.url(), "");
    proxy.go_over(&format!("{ADMIN}{after}")).await;
    let during = Scrape::of(proxy.admin()).await;
    assert_eq!(during.value("countersign_in_flight_requests", &[]), Some(1.0));
    go.add_permits(1);
    assert_eq!(caller.await.unwrap(), 200);
    let nobody = |scrape: &Scrape| {
        scrape.value("countersign_in_flight_requests", &[]) == Some(0.0)
            && scrape.all_requests() == 0
    };
    Scrape::until(proxy.admin(), nobody).await;
}

#[tokio::test]
async fn the_status_says_what_a_route_is_and_what_became_of_its_requests() {
    let stand_in = twinzo().await;
    let config = format!(
        "{}{}{}",
        plant(&stand_in.url(), ""),
        route(&stand_in.url(), "plant", "path = \"/plant\"\nmethods = [\"GET\"]\n"),
        named("other", "https://api.example.com/v1/", "host = \"api.test\"\nclients = []\n")
            .replace("clients = []\n", ""),
    );
    let proxy = proxy(&config).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/plant/v3/devices").await.status, 200);
    }
    scrape(&proxy, 3).await;
    let all = status_of(&proxy, "all").await;
    for (key, value) in [
        ("path", "/plant".into()),
        ("host", serde_json::Value::Null),
        ("upstream", stand_in.url().into()),
        ("methods", serde_json::json!(["GET"])),
        ("credentials", serde_json::json!(["plant"])),
        ("identity", serde_json::Value::Null),
        ("in_flight", 0.into()),
        ("requests", 3.into()),
        ("errors", 0.into()),
        ("error_share", 0.0.into()),
        ("history", serde_json::json!([])),
    ] {
        assert_eq!(all[key], value, "{key} in {all:#}");
    }
    assert!((all["rate_per_s"].as_f64().unwrap() - 0.3).abs() < 0.31, "{all:#}");
    let (p50, p99) = (all["p50_ms"].as_f64().unwrap(), all["p99_ms"].as_f64().unwrap());
    assert!(p50 > 0.0 && p50 <= p99, "{all:#}");
    let other = status_of(&proxy, "other").await;
    assert_eq!(other["host"], "api.test");
    assert_eq!(other["upstream"], "https://api.example.com/v1/");
    assert!(other["p50_ms"].is_null() && other["error_share"].is_null(), "{other:#}");
}

/// Waits until so much time has passed, so that there is something to measure.
async fn passed(time: Duration) {
    let began = Instant::now();
    until("time has passed", || began.elapsed() >= time).await;
}

/// The next request that ends.
async fn next(receiver: &mut countersign::observe::recent::Receiver) -> Arc<Seen> {
    match timeout(PATIENCE, receiver.next()).await.expect("nothing is seen").unwrap() {
        News::Seen(seen) => seen,
        News::Missed(missed) => panic!("missed {missed}"),
    }
}

#[tokio::test]
async fn whoever_looks_sees_requests_with_their_times_and_whose_error_they_are() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Faulty::start(move |request| match request.target() {
        "/slow?key=canary" => Act::FineAfter(Arc::clone(&waiting)),
        "/no" => Act::Say("HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\nno".to_owned()),
        "/breaks" => Act::ResetInContent,
        "/closes" => Act::Close,
        _ => Act::Fine,
    })
    .await;
    let config = format!(
        "{ADMIN}[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n{}",
        secret("canary"),
        route(&upstream.url(), "key", "path = \"/api\"\n"),
    );
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/api/unseen").await.status, 200);
    scrape(&proxy, 1).await;
    let mut seen = proxy.observe().recent.subscribe();

    let id = [("X-Request-Id", "abc")];
    let address = proxy.address();
    let slow = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/api/slow?key=canary", &[("X-Request-Id", "abc")], "").await.status
    });
    until("it is there", || upstream.count("GET", "/slow?key=canary") == 1).await;
    passed(Duration::from_millis(20)).await;
    go.add_permits(1);
    assert_eq!(slow.await.unwrap(), 200);
    let first = next(&mut seen).await;
    assert_eq!((first.method.as_str(), first.path.as_str()), ("GET", "/api/slow"));
    assert_eq!((first.route.as_str(), first.request_id.as_str()), ("all", "abc"));
    assert_eq!((first.status, first.whose, first.reason), (200, "", ""));
    assert!(first.bytes > 0 && first.at_ms > 1_700_000_000_000, "{first:?}");
    assert_eq!(first.wait_us, 0, "the credential is there");
    assert!(first.upstream_us >= 20_000, "{first:?}");
    let parts = u64::from(first.sign_us) + u64::from(first.upstream_us);
    assert!(parts <= first.total_us && first.total_us < 60_000_000, "{first:?}");

    for (method, target, status, whose, reason) in [
        ("HEAD", "/api/head", 200, "", ""),
        ("GET", "/api/no", 404, "upstream", ""),
        ("POST", "/api/closes", 502, "upstream", "upstream-closed"),
        ("GET", "/elsewhere", 404, "caller", "no-route"),
    ] {
        assert_eq!(proxy.send(method, target, &id, "x").await.status, status, "{target}");
        let entry = next(&mut seen).await;
        assert_eq!((entry.path.as_str(), entry.status), (target, status));
        assert_eq!((entry.whose, entry.reason), (whose, reason), "{target}");
    }
    let mut connection = Connection::open(proxy.address()).await;
    let breaks = crate::harness::client::request("GET", "/api/breaks", &[], {
        crate::harness::client::whole("")
    });
    assert!(connection.try_send(breaks).await.is_err());
    let entry = next(&mut seen).await;
    let broke = (entry.status, entry.whose, entry.reason);
    assert_eq!(broke, (200, "upstream", "upstream broke off"));
    assert!(!format!("{entry:?}").contains("canary"));
}

#[tokio::test]
async fn whoever_waits_for_a_credential_is_told_how_long_and_whose_error_it_is() {
    let silent = Faulty::start(|_| Act::Silent).await;
    let refresh = "[credential.plant.refresh]\neager = false\nwait = \"50ms\"\n";
    let config =
        format!("{ADMIN}{}{}", plant(&silent.url(), refresh), route(&silent.url(), "plant", ""));
    let proxy = Proxy::start(&config).await;
    let mut seen = proxy.observe().recent.subscribe();
    assert_eq!(proxy.get("/x").await.status, 503);
    let entry = next(&mut seen).await;
    assert_eq!((entry.status, entry.whose, entry.reason), (503, "ours", "credential-unavailable"));
    assert!(entry.wait_us >= 50_000, "{entry:?}");
    assert_eq!((entry.sign_us, entry.upstream_us), (0, 0), "{entry:?}");
}

#[tokio::test]
async fn receiving_content_that_is_signed_is_not_signing() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "{ADMIN}[credential.devo]\nkind = \"devo-signature\"\nreseller_api_key = {}\n\
         api_secret = {}\n{}",
        secret("key"),
        secret("canary"),
        route(&upstream.url(), "devo", ""),
    );
    let proxy = Proxy::start(&config).await;
    let mut seen = proxy.observe().recent.subscribe();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 4\r\n\r\nha",
        proxy.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    until("it is in flight", || proxy.observe().route("all").in_flight() == 1).await;
    passed(Duration::from_millis(300)).await;
    stream.write_all(b"lf").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    let entry = next(&mut seen).await;
    assert!(entry.total_us >= 300_000, "{entry:?}");
    let busy = u64::from(entry.sign_us) + u64::from(entry.upstream_us) + u64::from(entry.wait_us);
    assert!(entry.sign_us > 0 && entry.total_us - busy >= 250_000, "{entry:?}");
}

#[test]
fn no_route_can_be_called_what_stands_for_none() {
    for name in ["-", ""] {
        let text = format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = {}\n\
             upstream = \"https://api.example.com\"\n",
            quoted(name)
        );
        let loaded = countersign::config::load(&text, &|_| None);
        let problems: Vec<&str> =
            loaded.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(problems, [format!("a route cannot be called '{name}'")]);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_line_of_the_log_says_where_the_time_went_and_whose_error_it_was() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n{}",
        secret("canary"),
        route(&upstream.url(), "key", "path = \"/api\"\n"),
    );
    let program = crate::harness::program::Program::start(&config).await;
    let mut connection = Connection::open(program.address()).await;
    assert_eq!(connection.send("GET", "/api/x?canary", &[], "").await.status, 200);
    assert_eq!(connection.send("GET", "/nowhere", &[], "").await.status, 404);
    until("both lines are there", || program.requests().len() == 2).await;
    let requests = program.requests();
    let number = |key: &str| requests[0][key].as_u64().unwrap_or_else(|| panic!("{requests:#?}"));
    assert_eq!((number("wait_us"), requests[0]["whose"].as_str()), (0, Some("")));
    assert!(number("upstream_us") > 0 && number("sign_us") < 60_000_000, "{requests:#?}");
    assert_eq!(requests[1]["whose"], "caller");
    assert_eq!(
        (&requests[1]["upstream_us"], &requests[1]["reason"]),
        (&0.into(), &"no-route".into())
    );
    assert!(!requests.iter().any(|line| line.to_string().contains("canary")));
}
