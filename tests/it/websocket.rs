//! WebSocket: a handshake with the credential's fields, then a tunnel, and its end.

use std::sync::{Arc, Mutex};

use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use crate::harness::authority::Authority;
use crate::harness::client::{parse, read_answer, whole};
use crate::harness::http2::serve;
use crate::harness::python::{self, Server};
use crate::harness::upstream::read_head;
use crate::harness::{
    Act, Faulty, PATIENCE, Proxy, Upstream, private_directory, quoted, route, secret,
};

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn switch() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

/// A handshake with these lines in addition.
fn handshake(proxy: &Proxy, target: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n{lines}\r\n",
        proxy.address()
    )
}

/// Takes any handshake and sends back what comes after it. Records the heads.
async fn echo() -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = Arc::clone(&heads);
    let upstream = Upstream::raw(move |stream| serve_echo(stream, Arc::clone(&record))).await;
    (upstream, heads)
}

async fn serve_echo(mut stream: TcpStream, record: Arc<Mutex<Vec<String>>>) {
    let head = read_head(&mut stream).await;
    record.lock().unwrap().push(head);
    let (mut reader, mut writer) = stream.split();
    let _ = writer.write_all(switch().as_bytes()).await;
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

/// A proxy that lets handshakes pass and sets a field.
async fn proxy(upstream: &str, more: &str) -> Proxy {
    let config = format!(
        "workers = 1\n[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n{}",
        secret("ours"),
        route(upstream, "key", &format!("websocket = true\n{more}")),
    );
    Proxy::start(&config).await
}

/// Sends a handshake and returns the connection and the head of the answer.
async fn begin(proxy: &Proxy, lines: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(handshake(proxy, "/chat?x=%2F", lines).as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut stream)).await.expect("no answer");
    (stream, head)
}

async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A connection that is cut off may be reset.
    let _ = read.expect("the tunnel stays open");
    rest
}

#[tokio::test]
async fn a_handshake_reaches_the_upstream_with_the_fields_of_the_credential() {
    let (upstream, heads) = echo().await;
    let proxy = proxy(&upstream.url(), "").await;
    let lines = "X-Key: callers\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n";
    let (mut stream, head) = begin(&proxy, lines).await;
    let reply = parse(head.as_bytes());
    assert_eq!(reply.status, 101, "{head}");
    assert_eq!(reply.field("upgrade").to_ascii_lowercase(), "websocket");
    assert_eq!(reply.field("connection").to_ascii_lowercase(), "upgrade");
    assert_eq!(reply.field("sec-websocket-accept"), ACCEPT);
    assert_eq!(reply.field("sec-websocket-protocol"), "mqtt");

    let sent = heads.lock().unwrap()[0].clone();
    assert!(sent.starts_with("GET /chat?x=%2F HTTP/1.1\r\n"), "{sent}");
    let (_, fields) = sent.split_once("\r\n").unwrap();
    // They can be read like those of an answer.
    let fields = parse(format!("HTTP/1.1 200 OK\r\n{fields}").as_bytes());
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "mqtt"),
        ("x-key", "ours"),
        ("x-mine", "1"),
        ("keep-alive", ""),
    ] {
        assert_eq!(fields.field(name).to_ascii_lowercase(), value, "{sent}");
    }
    assert!(sent.contains(KEY), "{sent}");

    let message: Vec<u8> = (0_u32..100_000).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut back = vec![0; message.len()];
    for _ in 0..3 {
        let (mut reader, mut writer) = stream.split();
        let both = async { tokio::join!(writer.write_all(&message), reader.read_exact(&mut back)) };
        let (written, read) = timeout(PATIENCE, both).await.expect("no echo");
        written.unwrap();
        read.unwrap();
        assert_eq!(back, message);
    }
    stream.shutdown().await.unwrap();
    assert_eq!(ended(&mut stream).await, b"", "an end of one side reaches the other");
}

#[tokio::test]
async fn what_comes_with_the_handshakes_answer_is_part_of_the_tunnel() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(format!("{}first", switch()).as_bytes()).await.unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let early = handshake(&proxy, "/", "") + "hasty";
    stream.write_all(early.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut stream)).await.expect("no answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(ended(&mut stream).await, b"firsthasty", "to the end that the upstream makes");
}

#[tokio::test]
async fn nothing_is_lost_of_what_comes_right_behind_a_handshake_however_much_it_is() {
    for size in [1, 900, 1024, 20_000, 300_000] {
        let message: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let hasty = [switch().into_bytes(), message.clone()].concat();
        let upstream = Upstream::raw(move |mut stream| {
            let hasty = hasty.clone();
            async move {
                read_head(&mut stream).await;
                let (mut reader, mut writer) = stream.split();
                let _ = writer.write_all(&hasty).await;
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            }
        })
        .await;
        let proxy = proxy(&upstream.url(), "").await;
        let hasty = [handshake(&proxy, "/", "").into_bytes(), message.clone()].concat();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut both = vec![0; 2 * size];
        let read = async {
            let head = read_head(&mut reader).await;
            reader.read_exact(&mut both).await.map(|_| head)
        };
        let exchange = async { tokio::join!(writer.write_all(&hasty), read) };
        let (written, read) = timeout(PATIENCE, exchange).await.expect("something is lost");
        assert!(written.is_ok(), "{size}: {written:?}");
        let head = read.unwrap_or_else(|error| panic!("{size}: {error}"));
        assert!(head.starts_with("HTTP/1.1 101 "), "{size}: {head}");
        let (theirs, echo) = both.split_at(size);
        assert!(theirs == message, "{size}: what the upstream said");
        assert!(echo == message, "{size}: what the caller said");
        stream.shutdown().await.unwrap();
        assert_eq!(ended(&mut stream).await, b"", "{size}");
    }
}

#[tokio::test]
async fn there_is_no_tunnel_unless_the_upstream_agrees() {
    for status in ["200 OK", "401 Unauthorized", "403 Forbidden", "426 Upgrade Required"] {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
        let upstream = Faulty::always(Act::Say(text)).await;
        let proxy = proxy(&upstream.url(), "deny = [\"/closed\"]\n").await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        // What follows is a request like any other, and is looked at like any other.
        let closed = format!("GET /closed HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address());
        let both = handshake(&proxy, "/chat", "") + &closed;
        stream.write_all(both.as_bytes()).await.unwrap();
        let reply = read_answer(&mut stream).await;
        assert_eq!((reply.status.to_string().as_str(), reply.text()), (&status[..3], "no"));
        assert_eq!(reply.field("upgrade"), "", "{status}");
        let rest = if reply.field("connection") == "close" {
            String::new()
        } else {
            read_answer(&mut stream).await.problem(403, "http_request_denied")
        };
        assert!(rest.is_empty() || rest == "denied", "{status}");
        assert_eq!(upstream.received().len(), 1, "{status}");
        assert_eq!(proxy.get("/x").await.text(), "no", "{status}");
    }
}

#[tokio::test]
async fn a_route_without_websocket_makes_no_tunnel() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for lines in ["", "X-Mine: 1\r\n"] {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(handshake(&proxy, "/chat", lines).as_bytes()).await.unwrap();
        let reply = read_answer(&mut stream).await;
        assert_eq!((reply.status, reply.text()), (200, "/chat"), "an ordinary request");
        let last = upstream.last();
        assert_eq!((last.field("upgrade"), last.field("connection")), (None, None));
    }
    let (upstream, heads) = echo().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "websocket = false\n")).await;
    let (_, head) = begin(&proxy, "").await;
    assert!(head.starts_with("HTTP/1.1 502 "), "nobody asked for it: {head}");
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn only_websocket_is_tunnelled() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = proxy(&upstream.url(), "").await;
    for (protocol, method) in [("h2c", "GET"), ("TLS/1.0", "GET"), ("other", "POST")] {
        let request = format!(
            "{method} /x HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
             Content-Length: 0\r\n\r\n",
            proxy.address()
        );
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.status, 200, "{protocol}");
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(upstream.last().field(gone), None, "{protocol} {gone}");
        }
    }
}

#[tokio::test]
async fn a_page_of_another_origin_gets_no_tunnel() {
    let (upstream, heads) = echo().await;
    let proxy = proxy(&upstream.url(), "").await;
    for lines in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let (_, head) = begin(&proxy, lines).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    }
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_end_of_the_upstream_is_the_end_of_the_tunnel() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(format!("{}goodbye", switch()).as_bytes()).await;
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    let (mut stream, head) = begin(&proxy, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(ended(&mut stream).await, b"goodbye");
}

#[tokio::test]
async fn a_caller_who_goes_away_takes_the_tunnel_along() {
    let gone = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&gone);
    let upstream = Upstream::raw(move |mut stream| {
        let tell = Arc::clone(&tell);
        async move {
            read_head(&mut stream).await;
            stream.write_all(switch().as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            tell.notify_one();
        }
    })
    .await;
    let proxy = proxy(&upstream.url(), "").await;
    let (stream, head) = begin(&proxy, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    drop(stream);
    timeout(PATIENCE, gone.notified()).await.expect("the upstream is let go");
}

#[tokio::test]
async fn a_tunnel_has_an_idle_time_of_its_own() {
    let (upstream, _) = echo().await;
    let short = proxy(&upstream.url(), "timeouts = { websocket = \"1s\" }\n").await;
    let (mut stream, head) = begin(&short, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(ended(&mut stream).await, b"hello", "what was sent before is not lost");

    // The limits of ordinary exchanges do not concern it.
    let long = "timeouts = { websocket = \"10m\", idle = \"100ms\", first_byte = \"10m\" }\n";
    let long = format!("[limits]\nidle_timeout = \"1s\"\n{}", config_of(&upstream, long));
    let long = Proxy::start(&long).await;
    let (mut stream, head) = begin(&long, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut pace = tokio::time::interval(Duration::from_millis(1_200));
    for word in ["one", "two", "six"] {
        pace.tick().await;
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("no echo").unwrap();
        assert_eq!(&back, word.as_bytes());
    }
}

fn config_of(upstream: &Upstream, more: &str) -> String {
    route(&upstream.url(), "", &format!("websocket = true\n{more}"))
}

#[tokio::test]
async fn a_tunnel_ends_with_its_route() {
    let (upstream, heads) = echo().await;
    let proxy = proxy(&upstream.url(), "").await;
    let (mut stream, head) = begin(&proxy, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"still there?").await.unwrap();
    let mut echoed = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut echoed)).await.expect("no echo").unwrap();

    let other = Upstream::fine().await;
    proxy.replace_routes(&route(&other.url(), "", ""));
    assert_eq!(ended(&mut stream).await, b"");
    // The new route is another one, although it has the same place.
    assert_eq!(proxy.get("/x").await.status, 200);
    assert_eq!(other.seen().len(), 1);
    assert_eq!(heads.lock().unwrap().len(), 1, "nothing more goes to the old upstream");
}

#[tokio::test]
async fn a_tunnel_ends_with_its_device_and_those_of_others_stay() {
    let (upstream, _) = echo().await;
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    std::fs::write(&file, "device,token\none,token-1\ntwo,token-2\n").unwrap();
    let config = format!(
        "[credential.each]\nkind = \"bearer\"\ndevices = {}\n{}",
        quoted(&file.to_string_lossy()),
        route(&upstream.url(), "each", "websocket = true\nidentity = { header = \"X-Device\" }\n"),
    );
    let proxy = Proxy::start(&config).await;
    let (mut one, head) = begin(&proxy, "X-Device: one\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (mut two, head) = begin(&proxy, "X-Device: two\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");

    // Replaced as a whole, as deployments do.
    let next = directory.path().join("next");
    std::fs::write(&next, "device,token\ntwo,token-2\nthree,token-3\n").unwrap();
    std::fs::rename(&next, &file).unwrap();
    assert_eq!(ended(&mut one).await, b"");
    two.write_all(b"still there?").await.unwrap();
    let mut echoed = [0; 12];
    timeout(PATIENCE, two.read_exact(&mut echoed)).await.expect("no echo").unwrap();
}

#[tokio::test]
async fn a_stop_ends_tunnels_after_the_drain() {
    let (upstream, _) = echo().await;
    let config = format!("drain = \"200ms\"\n{}", config_of(&upstream, ""));
    let proxy = Proxy::start(&config).await;
    let (mut stream, head) = begin(&proxy, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    timeout(PATIENCE, proxy.stop()).await.expect("it does not wait for ever");
    assert_eq!(ended(&mut stream).await, b"");
}

#[tokio::test]
async fn a_tunnel_is_made_over_http_1_even_where_the_upstream_prefers_http_2() {
    let authority = Authority::new();
    let acceptor = authority.server_speaking("localhost", None, &["h2", "http/1.1"]);
    let upstream = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]) {
                let two = Arc::new(|_| async { Response::new(whole("two")) });
                serve(stream, 10, two, Arc::default()).await;
            } else {
                read_head(&mut stream).await;
                stream.write_all(switch().as_bytes()).await.unwrap();
                stream.write_all(b"one").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    })
    .await;
    let url = format!("https://localhost:{}", upstream.address().port());
    let proxy = proxy(&url, &format!("tls = {{ {} }}\n", authority.trusted())).await;
    for _ in 0..2 {
        assert_eq!(proxy.get("/x").await.text(), "two");
        let (mut stream, head) = begin(&proxy, "").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(ended(&mut stream).await, b"one");
    }
}

/// The cases of the Autobahn test suite, some groups at a time, and how many there are.
const GROUPS: [(&[&str], u64); 5] = [
    (&["1", "2", "3", "4", "5"], 64),
    (&["6", "7", "10"], 182),
    (&["9"], 54),
    (&["12"], 15),
    (&["13"], 21),
];

#[tokio::test]
async fn the_cases_of_an_independent_client_pass() {
    if !python::has("websocket", "kosoku, websockets").await {
        return;
    }
    let server = Server::start("websocket_echo.py", &["ours"]).await;
    let proxy = proxy(&server.url(), "").await;
    let url = format!("ws://{}/echo", proxy.address());
    for (groups, count) in GROUPS {
        let mut arguments = vec![url.as_str()];
        arguments.extend(groups);
        let results = python::run("websocket_cases.py", &arguments).await;
        let [result] = &results[..] else { panic!("{results:?}") };
        assert_eq!(result["failed"], serde_json::json!([]), "{groups:?}");
        assert_eq!(result["cases"], count, "{groups:?}");
    }
    // It does admit only those who come with the field.
    let refused = format!("ws://{}", server.url().trim_start_matches("http://"));
    let results = python::run("websocket_cases.py", &[&refused, "10"]).await;
    assert_ne!(results[0]["failed"], serde_json::json!([]));
}
