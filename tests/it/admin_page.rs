//! What the admin listener serves to its page: files without data, events as they happen, and
//! explanations.

use std::net::SocketAddr;
use std::time::Duration;

use countersign::control::Cause;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::client::{request, whole};
use crate::harness::{
    Connection, PATIENCE, Proxy, Reply, Upstream, plant, private_directory, quoted, route, secret,
    twinzo, until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

async fn ask(address: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Reply {
    Connection::open(address).await.send("GET", target, fields, "").await
}

/// A program that knows nothing but a route.
async fn start() -> Proxy {
    let upstream = Upstream::fine().await;
    Proxy::start(&(route(&upstream.url(), "", "") + ADMIN)).await
}

/// A stream of events, and the connection it needs.
struct Events {
    _connection: Connection,
    content: Incoming,
    text: String,
}

impl Events {
    /// A stream, or the status of the refusal.
    async fn open(address: SocketAddr) -> Result<Self, u16> {
        Self::open_with(address, &[]).await
    }

    async fn open_with(address: SocketAddr, fields: Fields<'_>) -> Result<Self, u16> {
        let mut connection = Connection::open(address).await;
        let response = connection.begin(request("GET", "/api/events", fields, whole(""))).await;
        let response = response.unwrap();
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let content = response.into_body();
        Ok(Self { _connection: connection, content, text: String::new() })
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let lines: Vec<&str> = block.lines().collect();
                let event = match lines[..] {
                    [kind, data] => Some((
                        kind.strip_prefix("event: ").unwrap().to_owned(),
                        serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
                    )),
                    // The sign of life.
                    [line] if line.starts_with(':') => None,
                    _ => panic!("{block}"),
                };
                let rest = rest.to_owned();
                self.text = rest;
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.content.frame()).await.expect("nothing comes")?;
            // A connection that ends in the middle is the end as well.
            let data = frame.ok()?.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

#[tokio::test]
async fn the_page_is_served_without_the_token_and_with_a_policy_that_lets_nothing_else_in() {
    let upstream = Upstream::fine().await;
    let config = route(&upstream.url(), "", "") + &format!("{ADMIN}token = {}\n", secret("admins"));
    let proxy = Proxy::start(&config).await;
    let page = ask(proxy.admin(), "/", &[]).await;
    assert_eq!((page.status, page.field("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.field("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
    for part in ["frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"]
    {
        assert!(policy.contains(part), "{part}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let mut files = 0;
    for (_, from) in page.text().match_indices("=\"page/").map(|(at, _)| page.text().split_at(at)) {
        let name = from.trim_start_matches("=\"").split('"').next().unwrap();
        let file = ask(proxy.admin(), &format!("/{name}"), &[]).await;
        assert_eq!(file.status, 200, "{name}");
        for (field, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("content-security-policy", policy),
        ] {
            assert_eq!(file.field(field), value, "{name}: {field}");
        }
        files += 1;
    }
    assert!(files >= 3, "{files}");
    let told = ask(proxy.admin(), "/page/dom.js", &[]).await;
    assert_eq!(told.field("content-type"), "text/javascript; charset=utf-8");
    for (target, status) in
        [("/api/events", 401), ("/api/status", 401), ("/page/nothing.js", 401), ("/page/", 401)]
    {
        assert_eq!(ask(proxy.admin(), target, &[]).await.status, status, "{target}");
    }
    let elsewhere = ask(proxy.admin(), "/", &[("host", "evil.example")]).await;
    assert_eq!(elsewhere.status, 421);
    let mut connection = Connection::open(proxy.admin()).await;
    let refused = connection.send("POST", "/", &[("authorization", "Bearer admins")], "").await;
    assert_eq!((refused.status, refused.field("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn the_status_comes_at_once_and_again_and_ends_with_the_program() {
    let stand_in = twinzo().await;
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", "") + ADMIN;
    let proxy = Proxy::start(&config).await;
    until("it is fetched", || proxy.identity("plant").cache.is_ready()).await;
    let mut events = Events::open(proxy.admin()).await.ok().unwrap();
    let (kind, first) = events.next().await.unwrap();
    assert_eq!(kind, "status");
    let plant = &first["credentials"][0];
    assert_eq!((&plant["name"], &plant["state"]), (&json!("plant"), &json!("fresh")));
    assert_eq!(plant["usable"], true);
    let number = |key: &str| plant[key].as_f64().unwrap_or_else(|| panic!("{key}: {plant}"));
    assert!(number("issued_lifetime_s") > 86_000.0);
    assert!((0.9..=1.0).contains(&number("lifetime_left_share")));
    assert!(number("renew_in_s") < number("expires_in_s"));
    let (_, second) = events.next().await.unwrap();
    assert!(second["uptime_s"].as_f64() > first["uptime_s"].as_f64(), "it is a newer one");
    let stopping = tokio::spawn(proxy.stop());
    while events.next().await.is_some() {}
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_stream_has_the_past_at_first_and_then_only_what_is_new_of_it() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&(route(&upstream.url(), "", "") + ADMIN)).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let mut events = Events::open(proxy.admin()).await.ok().unwrap();
    let mut statuses = Vec::new();
    // As an interval may end between two of them, more than one may have it.
    while statuses.len() < 20 {
        let (kind, status) = events.next().await.unwrap();
        if kind == "status" {
            let has_it = status["routes"][0].get("history").is_some();
            statuses.push(has_it);
            if !has_it {
                assert_eq!(status["routes"][0]["requests"], 1, "the rest is there");
                break;
            }
        }
    }
    assert_eq!((statuses[0], statuses.last()), (true, Some(&false)), "{statuses:?}");
    let asked = ask(proxy.admin(), "/api/status", &[]).await.json();
    assert!(asked["routes"][0]["history"].is_array(), "{asked}");
}

#[tokio::test]
async fn who_comes_later_is_told_the_last_requests_with_their_numbers_and_misses_none() {
    const REQUESTS: u64 = 150;
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&(route(&upstream.url(), "", "") + ADMIN)).await;
    let mut first = Events::open(proxy.admin()).await.ok().unwrap();
    for number in 0..REQUESTS {
        assert_eq!(proxy.get(&format!("/{number}")).await.status, 200);
    }
    let mut told = 0;
    while told < REQUESTS {
        let (kind, event) = first.next().await.unwrap();
        match kind.as_str() {
            "request" => told += 1,
            "missed" => told += event["requests"].as_u64().unwrap(),
            _ => {}
        }
    }
    let mut second = Events::open(proxy.admin()).await.ok().unwrap();
    let (mut number, mut seq) = (0, 0);
    while number < REQUESTS {
        let (kind, event) = second.next().await.unwrap();
        assert_ne!(kind, "missed", "{event}");
        if kind == "request" {
            assert_eq!(event["path"], format!("/{number}"));
            assert!(event["seq"].as_u64().unwrap() > seq, "{event}");
            (number, seq) = (number + 1, event["seq"].as_u64().unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_token_is_another_one() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let file = directory.path().join("token");
    std::fs::write(&file, "first").unwrap();
    let token = format!("token = {{ file = {} }}\n", quoted(file.to_str().unwrap()));
    let config = route(&upstream.url(), "", "") + ADMIN + &token;
    let proxy = Proxy::start_with_file(&config).await;
    let (first, second) =
        ([("authorization", "Bearer first")], [("authorization", "Bearer second")]);
    let mut events = Events::open_with(proxy.admin(), &first).await.ok().unwrap();
    assert_eq!(events.next().await.unwrap().0, "status");
    std::fs::write(&file, "second").unwrap();
    proxy.control().reload(Cause::Signal).await;
    while events.next().await.is_some() {}
    assert_eq!(Events::open_with(proxy.admin(), &first).await.err(), Some(401));
    let mut events = Events::open_with(proxy.admin(), &second).await.ok().unwrap();
    assert_eq!(events.next().await.unwrap().0, "status");
    proxy.control().reload(Cause::Signal).await;
    assert_eq!(events.next().await.unwrap().0, "status", "nothing has changed");
    proxy.rewrite(&(config + "hosts = [\"admin.example.com\"]\n"));
    proxy.control().reload(Cause::Signal).await;
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn pages_of_other_sites_may_not_look_but_lead_to_the_page() {
    let proxy = start().await;
    let admin = proxy.admin();
    let own = format!("http://{admin}");
    let looks =
        ["/api/events", "/api/status", "/metrics", "/api/log", "/api/credentials/x/devices"];
    let foreign: [Fields<'_>; 5] = [
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
    ];
    for fields in foreign {
        for target in looks {
            let refused = ask(admin, target, fields).await;
            assert_eq!(refused.status, 403, "{target} {fields:?}");
            assert!(refused.text().contains("may see nothing here"), "{}", refused.text());
        }
        for target in ["/", "/page/main.js", "/livez", "/readyz"] {
            assert_eq!(ask(admin, target, fields).await.status, 200, "{target} {fields:?}");
        }
    }
    let own: [Fields<'_>; 4] = [
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")],
        &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
        &[("origin", &own)],
        &[],
    ];
    for fields in own {
        assert_eq!(ask(admin, "/api/status", fields).await.status, 200, "{fields:?}");
        assert!(Events::open_with(admin, fields).await.is_ok(), "{fields:?}");
    }
}

/// A connection on which much is asked for and nothing read.
async fn unread(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let one = format!("GET /page/style.css HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(one.repeat(300).as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn whoever_asks_and_does_not_read_keeps_no_probe_out_and_not_for_long_anything_else() {
    let proxy = start().await;
    let admin = proxy.admin();
    let mut unread_ones = Vec::new();
    for _ in 0..58 {
        unread_ones.push(unread(admin).await);
    }
    for target in ["/livez", "/readyz", "/livez"] {
        assert_eq!(ask(admin, target, &[]).await.status, 200, "{target}");
    }
    let served = async {
        while ask(admin, "/api/status", &[]).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("they are cut off");
}

#[tokio::test]
async fn eight_may_look_on_and_probes_get_in_all_the_same() {
    let proxy = start().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut events = Events::open(proxy.admin()).await.ok().unwrap();
        assert_eq!(events.next().await.unwrap().0, "status");
        streams.push(events);
    }
    assert_eq!(Events::open(proxy.admin()).await.err(), Some(503));
    assert_eq!(ask(proxy.admin(), "/readyz", &[]).await.status, 200);
    streams.pop();
    let admin = proxy.admin();
    timeout(PATIENCE, async { while Events::open(admin).await.is_err() {} })
        .await
        .expect("the place of who has left is free again");
}

async fn explain(address: SocketAddr, fields: &[(&str, &str)], content: &str) -> Reply {
    let mut connection = Connection::open(address).await;
    connection.send("POST", "/api/explain", fields, content.to_owned()).await
}

#[tokio::test]
async fn a_request_is_explained_with_what_is_there_and_nothing_is_fetched_for_it() {
    let stand_in = twinzo().await;
    let lazy = "[credential.plant.refresh]\neager = false\n";
    let config = plant(&stand_in.url(), lazy) + &route(&stand_in.url(), "plant", "") + ADMIN;
    let proxy = Proxy::start(&config).await;
    let json_type = [("content-type", "application/json")];
    let question = json!({
        "method": "post", "url": "/v3/x?y=1", "body": "z",
        "headers": [["Token", "forged"], ["Accept", "text/plain"]],
    });
    let told = explain(proxy.admin(), &json_type, &question.to_string()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.json();
    assert_eq!(told["request"], "POST /v3/x?y=1");
    assert_eq!(told["route"]["name"], "all");
    assert!(told["removed"].as_array().unwrap().contains(&json!("token")), "{told}");
    assert!(told["credentials"][0]["missing"].as_str().unwrap().contains("nobody has needed it"));
    assert_eq!(told["sent_as"], Value::Null);
    assert_eq!(stand_in.recorder().token_calls(), 0);

    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    let told = explain(proxy.admin(), &json_type, &question.to_string()).await.json();
    let added = told["credentials"][0]["added"].as_array().unwrap();
    let token = added.iter().find(|field| field["name"] == "token").unwrap();
    assert_eq!(token["value"], Value::Null, "it is masked");
    assert!(token["length"].as_u64().unwrap() > 10);
    assert_eq!(told["sent_as"], format!("POST {}/v3/x?y=1", stand_in.url()));
    assert_eq!(stand_in.recorder().token_calls(), 1);
    let sent = stand_in.recorder().last().unwrap();
    let sent = sent.headers["token"].to_str().unwrap().to_owned();
    assert!(!told.to_string().contains(&sent), "no secret is told");
}

type Fields<'f> = &'f [(&'f str, &'f str)];

#[tokio::test]
async fn a_question_that_cannot_be_or_that_another_page_asks_is_refused() {
    let proxy = start().await;
    let admin = proxy.admin();
    let json_type = ("content-type", "application/json");
    let fine = "{\"method\":\"GET\",\"url\":\"/\"}";
    let large = format!("{{\"method\":\"GET\",\"url\":\"/\",\"body\":\"{}\"}}", "x".repeat(65_536));
    let own = format!("http://{admin}");
    let cases: [(Fields<'_>, &str, u16); 10] = [
        (&[json_type], fine, 200),
        (&[json_type, ("origin", &own), ("sec-fetch-site", "same-origin")], fine, 200),
        (&[json_type, ("origin", "http://evil.example")], fine, 403),
        (&[json_type, ("origin", "null")], fine, 403),
        (&[json_type, ("sec-fetch-site", "cross-site")], fine, 403),
        (&[json_type, ("sec-fetch-site", "same-site")], fine, 403),
        (&[json_type], &large, 413),
        (&[json_type], "{\"method\":\"GET\"}", 400),
        (&[json_type], "{\"method\":\"GET\",\"url\":\"x\"}", 400),
        (&[json_type], "{\"method\":\"GET\",\"url\":\"/\",\"at_ms\":18446744073709551615}", 400),
    ];
    for (fields, content, status) in cases {
        let reply = explain(admin, fields, content).await;
        assert_eq!(reply.status, status, "{fields:?} {}", reply.text());
    }
    let other_type = explain(admin, &[("content-type", "text/plain")], fine).await;
    assert!([403, 415].contains(&other_type.status), "{}", other_type.status);
    let got = ask(admin, "/api/explain", &[]).await;
    assert_eq!((got.status, got.field("allow")), (405, "POST"));
}
