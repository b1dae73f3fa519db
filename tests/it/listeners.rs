//! Where callers connect: HTTP versions, Unix sockets, keep-alive, and the end.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::harness::client::{parse, raw, read_answer, request, send_http2, whole};
use crate::harness::upstream::{answer, read_head};
use crate::harness::{
    Act, Connection, Faulty, Http2, PATIENCE, Proxy, Upstream, plant, route, sha256, twinzo, until,
};

async fn ok() -> Upstream {
    Upstream::answering(|_| answer(200, "fine")).await
}

#[tokio::test]
async fn http_1_0_is_served_with_and_without_host() {
    let upstream = ok().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for head in ["GET /a HTTP/1.0\r\n\r\n", "GET /a HTTP/1.0\r\nHost: localhost\r\n\r\n"] {
        let reply = parse(&raw(proxy.address(), head).await);
        assert_eq!((reply.status, reply.text()), (200, "fine"), "{head}");
        let seen = upstream.last();
        assert_eq!(seen.values("host"), [upstream.address().to_string()]);
    }
    let post = "POST /a HTTP/1.0\r\nContent-Length: 7\r\n\r\ncontent";
    assert_eq!(parse(&raw(proxy.address(), post).await).status, 200);
    assert_eq!(&upstream.last().body[..], b"content");
}

#[tokio::test]
async fn an_http_1_0_caller_gets_no_chunks() {
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let reply = parse(&raw(proxy.address(), "GET / HTTP/1.0\r\n\r\n").await);
    assert_eq!((reply.status, reply.text()), (200, "onetwo"));
    assert_eq!(reply.field("transfer-encoding"), "");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_served() {
    let stand_in = twinzo().await;
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let get = send_http2(proxy.address(), "GET", "/v3/devices?a=%2F", "");
    assert_eq!(get.await.unwrap().status, 200);
    let last = stand_in.recorder().last().unwrap();
    assert_eq!(last.target, "/v3/devices?a=%2F");
    assert_eq!(last.headers["host"], stand_in.address().to_string());
    let content = vec![7_u8; 300_000];
    let post = send_http2(proxy.address(), "POST", "/v3/echo", content.clone());
    assert_eq!(post.await.unwrap().json()["body_sha256"], sha256(&content));
    let reply = send_http2(proxy.address(), "GET", "/v3/authorization/token", "");
    let reply = reply.await.unwrap();
    assert_eq!(reply.problem(403, "http_request_denied"), "denied");
}

#[tokio::test]
async fn one_http_2_connection_carries_many_requests_at_once() {
    let stand_in = twinzo().await;
    stand_in.switches().set_data_latency(Duration::from_millis(100));
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    let driver = tokio::spawn(connection);
    let mut requests = JoinSet::new();
    for number in 0..50 {
        let mut sender = sender.clone();
        let url = format!("http://{}/v3/echo?{number}", proxy.address());
        requests.spawn(async move {
            let request = http::Request::get(url).body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            (status, response.collect().await.unwrap().to_bytes(), number)
        });
    }
    for (status, body, number) in requests.join_all().await {
        assert_eq!(status, 200);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["target"], format!("/v3/echo?{number}"));
    }
    driver.abort();
}

#[tokio::test]
async fn a_listener_may_speak_one_version_only() {
    let upstream = ok().await;
    for (protocol, http1, http2) in
        [("auto", true, true), ("http1", true, false), ("http2", false, true)]
    {
        let listen = format!("[[listen]]\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n");
        let proxy = Proxy::start(&(listen + &route(&upstream.url(), "", ""))).await;
        let get =
            format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.address());
        let answer = raw(proxy.address(), get).await;
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), http1, "{protocol}");
        let two = send_http2(proxy.address(), "GET", "/", "").await;
        assert_eq!(two.is_ok_and(|reply| reply.status == 200), http2, "{protocol}");
    }
}

#[tokio::test]
async fn upstream_connections_are_reused() {
    let upstream = ok().await;
    let config = format!("workers = 1\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    for _ in 0..5 {
        let mut connection = Connection::open(proxy.address()).await;
        for _ in 0..10 {
            assert_eq!(connection.send("POST", "/", &[], "x").await.status, 200);
        }
    }
    assert_eq!(upstream.seen().len(), 50);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn who_expects_to_be_told_to_continue_is_told_only_if_the_request_may_pass() {
    let upstream = ok().await;
    let config = route(&upstream.url(), "", "max_body = 10\ndeny = [\"/closed\"]\n");
    let proxy = Proxy::start(&config).await;
    let ask = async |target: &str, length: usize| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n",
            proxy.address()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let first = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
        (stream, first)
    };
    let (_, first) = ask("/closed", 5).await;
    assert!(first.starts_with("HTTP/1.1 403"), "{first}");
    let (_, first) = ask("/", 11).await;
    assert!(first.starts_with("HTTP/1.1 413"), "{first}");
    let (mut stream, first) = ask("/", 5).await;
    assert!(first.starts_with("HTTP/1.1 100"), "{first}");
    stream.write_all(b"12345").await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.last().values("expect"), ["100-continue"], "the upstream decides");
}

#[tokio::test]
async fn framing_that_servers_disagree_about_is_not_passed_on() {
    let upstream = ok().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length : 5",
        " Content-Length: 5",
        "X: a\r\n folded",
    ] {
        let before = upstream.seen().len();
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let request = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n\r\n{smuggled}"
        );
        let answer = raw(proxy.address(), request).await;
        let refused = answer.starts_with(b"HTTP/1.1 400");
        for seen in &upstream.seen()[before..] {
            let (lengths, codings) =
                (seen.values("content-length").len(), seen.values("transfer-encoding").len());
            assert!(lengths + codings <= 1, "{fields}: {seen:?}");
            assert_ne!(seen.target, "/smuggled", "{fields}");
        }
        let passed = upstream.seen().len() - before;
        assert!(refused == (passed == 0) && passed <= 1, "{fields}");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_finish_and_refuses_new_connections() {
    let go = Arc::new(Notify::new());
    let waiting = Arc::clone(&go);
    let upstream = Upstream::serving(move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            answer(200, "finished")
        }
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let address = proxy.address();
    let mut idle = Connection::open(address).await;
    let in_flight = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/", &[], "").await
    });
    until("it is in flight", || upstream.seen().len() == 1).await;
    let stopping = tokio::spawn(proxy.stop());
    let mut refused = false;
    for _ in 0..2_000 {
        refused = TcpStream::connect(address).await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused, "new connections are refused");
    assert!(!stopping.is_finished(), "it waits for the request");
    go.notify_one();
    let reply = in_flight.await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "finished"));
    let cut_off = timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(cut_off, 0);
    let late = request("GET", "/", &[], whole(""));
    assert!(idle.try_send(late).await.is_err(), "idle ones are closed");
}

/// A connection that has served one request and waits for the next.
async fn idle(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let get = "GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    stream
}

/// All that still comes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // What was asked and is not answered may make a reset of the end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("there is no end");
    rest
}

const TWO: &str = "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n\
                   GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn an_answer_that_begins_after_a_stop_is_the_last_whatever_was_asked_behind_it() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Faulty::start(move |request| match request.target() {
        "/slow" => Act::FineAfter(Arc::clone(&waiting)),
        _ => Act::Fine,
    })
    .await;
    let proxy = Proxy::start(&format!("workers = 1\n{}", route(&upstream.url(), "", ""))).await;
    let mut idle = idle(&proxy).await;
    let mut caller = TcpStream::connect(proxy.address()).await.unwrap();
    caller.write_all(TWO.as_bytes()).await.unwrap();
    until("it is in flight", || upstream.count("GET", "/slow") == 1).await;
    let stopping = tokio::spawn(proxy.stop());
    assert_eq!(rest(&mut idle).await, b"", "the worker has been told");
    go.add_permits(1);
    let reply = parse(&rest(&mut caller).await);
    assert_eq!((reply.status, reply.text()), (200, "/slow"), "the one and no other");
    assert_eq!(reply.field("connection"), "close");
    assert_eq!(timeout(PATIENCE, stopping).await.unwrap().unwrap(), 0);
    assert_eq!(upstream.count("GET", "/second"), 0);
}

#[tokio::test]
async fn an_answer_that_has_begun_before_a_stop_arrives_whole() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Upstream::raw(move |mut stream| {
        let waiting = Arc::clone(&waiting);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                let Some(target) = head.split(' ').nth(1) else { return };
                let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
                stream.write_all(begun).await.unwrap();
                if target == "/slow" {
                    waiting.acquire().await.unwrap().forget();
                }
                stream.write_all(b"full").await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::start(&format!("workers = 1\n{}", route(&upstream.url(), "", ""))).await;
    let mut idle = idle(&proxy).await;
    let mut caller = TcpStream::connect(proxy.address()).await.unwrap();
    caller.write_all(TWO.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, read_head(&mut caller)).await.expect("no answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut half = [0; 4];
    timeout(PATIENCE, caller.read_exact(&mut half)).await.expect("no content").unwrap();
    assert_eq!(&half, b"half");
    let stopping = tokio::spawn(proxy.stop());
    assert_eq!(rest(&mut idle).await, b"", "the worker has been told");
    go.add_permits(1);
    let rest = rest(&mut caller).await;
    let text = String::from_utf8_lossy(&rest);
    let behind = text.strip_prefix("full").unwrap_or_else(|| panic!("cut off: {text}"));
    // What was asked behind it had come before the stop: it may be answered, but as the last.
    if !behind.is_empty() {
        let reply = parse(behind.as_bytes());
        assert_eq!((reply.status, reply.text()), (200, "halffull"));
        assert_eq!(reply.field("connection"), "close");
    }
    assert_eq!(timeout(PATIENCE, stopping).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_stop_cuts_off_what_takes_longer_than_the_drain() {
    let upstream = Upstream::serving(|_| std::future::pending()).await;
    let config = format!("drain = \"200ms\"\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let in_flight = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        let get = request("GET", "/", &[], whole(""));
        connection.try_send(get).await.is_err()
    });
    until("it is in flight", || upstream.seen().len() == 1).await;
    assert_eq!(timeout(PATIENCE, proxy.stop()).await.unwrap(), 1);
    assert!(in_flight.await.unwrap());
}

#[tokio::test]
async fn several_listeners_lead_to_the_same_routes() {
    let upstream = ok().await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let second = if v6 { "[[listen]]\naddress = \"[::1]:0\"\n" } else { listen };
    let config = format!("{listen}{second}{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    let addresses: Vec<SocketAddr> = proxy.addresses().to_vec();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        let mut connection = Connection::open(address).await;
        assert_eq!(connection.send("GET", "/", &[], "").await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_between_two_requests_makes_room_for_another_caller() {
    let upstream = ok().await;
    for http2 in [false, true] {
        let limits = "workers = 2\nlimits = { connections = 3, idle_timeout = \"1h\" }\n";
        let proxy = Proxy::start(&(limits.to_owned() + &route(&upstream.url(), "", ""))).await;
        let (mut kept, mut kept2) = (Vec::new(), Vec::new());
        for count in 0..12 {
            if http2 {
                let caller = Http2::open(proxy.address()).await;
                assert_eq!(caller.get("/").await.status, 200, "{count}");
                kept2.push(caller);
            } else {
                let mut caller = Connection::open(proxy.address()).await;
                assert_eq!(caller.send("GET", "/", &[], "").await.status, 200, "{count}");
                kept.push(caller);
            }
        }
    }
}

#[tokio::test]
async fn who_may_not_call_takes_no_place_of_those_who_may() {
    let upstream = ok().await;
    let text = "limits = { connections = 20, idle_timeout = \"1h\" }\n\
                [[listen]]\naddress = \"127.0.0.1:0\"\n\
                [[listen]]\naddress = \"127.0.0.1:0\"\nallow = [\"192.0.2.0/24\"]\n";
    let proxy = Proxy::start(&(text.to_owned() + &route(&upstream.url(), "", ""))).await;
    let (open, closed) = (proxy.addresses()[0], proxy.addresses()[1]);
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(TcpStream::connect(closed).await.unwrap());
    }
    // Those beyond sixteen are closed at once.
    for stranger in &mut strangers[16..] {
        let read = timeout(PATIENCE, stranger.read_u8()).await.unwrap();
        assert!(read.is_err());
    }
    assert_eq!(Connection::open(open).await.send("GET", "/", &[], "").await.status, 200);
    let mut first = Connection::over(strangers.remove(0), "localhost").await;
    let reply = first.send("GET", "/", &[], "").await;
    assert_eq!(reply.problem(403, "http_request_denied"), "peer");
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::{Connection, Proxy, ok, route, timeout};
    use crate::harness::{PATIENCE, private_directory, quoted};

    fn config(socket: &Path, more: &str, upstream: &str) -> String {
        let address = quoted(&format!("unix:{}", socket.display()));
        format!("[[listen]]\naddress = {address}\n{more}{}", route(upstream, "", ""))
    }

    async fn get(socket: &Path) -> u16 {
        let stream = UnixStream::connect(socket).await.unwrap();
        let mut connection = Connection::over(stream, "localhost").await;
        connection.send("GET", "/", &[], "").await.status
    }

    fn mode(socket: &Path) -> u32 {
        let metadata = std::fs::metadata(socket).unwrap();
        assert!(metadata.file_type().is_socket());
        metadata.permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_unless_configured() {
        let upstream = ok().await;
        let directory = private_directory();
        let socket = directory.path().join("proxy.sock");
        let proxy = Proxy::start(&config(&socket, "", &upstream.url())).await;
        assert_eq!(get(&socket).await, 200);
        assert_eq!(mode(&socket), 0o600);
        timeout(PATIENCE, proxy.stop()).await.unwrap();
        assert!(!socket.exists(), "it is removed at the end");

        let shared = config(&socket, "mode = \"0660\"\n", &upstream.url());
        let _proxy = Proxy::start(&shared).await;
        assert_eq!(get(&socket).await, 200);
        assert_eq!(mode(&socket), 0o660);
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
    }

    #[tokio::test]
    async fn a_unix_socket_has_the_group_that_is_named_or_numbered() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = private_directory();
        let own = std::fs::metadata(directory.path()).unwrap().gid();
        let socket = directory.path().join("proxy.sock");
        let groups = std::fs::read_to_string("/etc/group").unwrap();
        let id = format!(":{own}:");
        let name = groups.lines().find(|line| line.contains(&id)).and_then(|l| l.split(':').next());
        for group in [Some(own.to_string().as_str()), name].into_iter().flatten() {
            let more = format!("mode = \"0660\"\ngroup = {group:?}\n");
            let proxy = Proxy::start(&config(&socket, &more, "http://127.0.0.1:9")).await;
            assert_eq!(std::fs::metadata(&socket).unwrap().gid(), own, "{group}");
            proxy.stop().await;
        }
        let more = "group = \"countersign-nobody\"\n";
        let Err(error) = Proxy::try_start(&config(&socket, more, "http://127.0.0.1:9")).await
        else {
            panic!("there is no such group");
        };
        let error = format!("{error}");
        assert!(error.contains("no group 'countersign-nobody'"), "{error}");
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn only_the_users_that_are_listed_may_call() {
        use std::os::unix::fs::MetadataExt as _;
        let upstream = ok().await;
        let directory = private_directory();
        let own = std::fs::metadata(directory.path()).unwrap().uid();
        let socket = directory.path().join("proxy.sock");
        let listed = format!("users = [4242, {own}]\n");
        let proxy = Proxy::start(&config(&socket, &listed, &upstream.url())).await;
        assert_eq!(get(&socket).await, 200);
        proxy.stop().await;
        let _proxy = Proxy::start(&config(&socket, "users = [4242]\n", &upstream.url())).await;
        let stream = UnixStream::connect(&socket).await.unwrap();
        let mut connection = Connection::over(stream, "localhost").await;
        let reply = connection.send("GET", "/", &[], "").await;
        assert_eq!(reply.problem(403, "http_request_denied"), "peer");
        assert_eq!(upstream.seen().len(), 1);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let upstream = ok().await;
        let directory = private_directory();
        let socket = directory.path().join("proxy.sock");
        let text = config(&socket, "", &upstream.url());
        // Whoever bound it is gone without cleaning up.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        let _first = Proxy::start(&text).await;
        assert_eq!(get(&socket).await, 200);

        let Err(error) = Proxy::try_start(&text).await else {
            panic!("a second one must not take it over");
        };
        let text = error.to_string();
        assert!(text.contains(socket.to_str().unwrap()), "{text}");
        assert_eq!(get(&socket).await, 200, "the first still answers");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_removed() {
        let upstream = ok().await;
        let directory = private_directory();
        let socket = directory.path().join("proxy.sock");
        std::fs::write(&socket, "precious").unwrap();
        let started = Proxy::try_start(&config(&socket, "", &upstream.url())).await;
        assert!(started.is_err());
        assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    }
}
