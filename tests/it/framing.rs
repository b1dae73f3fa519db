//! Where requests and answers begin and end: HTTP/1.0, interim answers, `Expect`, absolute targets.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::client::{parse, parse_all, raw, raw_head, read_answer, send_http2};
use crate::harness::upstream::read_head;
use crate::harness::{
    Act, Connection, Faulty, PATIENCE, Proxy, Upstream, quoted, route, secret, skip,
};

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

#[tokio::test]
async fn an_http_1_0_caller_may_keep_its_connection() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut stream = connect(&proxy).await;
    for (target, host) in [("/one", ""), ("/two", "Host: localhost\r\n"), ("/three", "")] {
        let get = format!("GET {target} HTTP/1.0\r\n{host}Connection: keep-alive\r\n\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        let reply = read_answer(&mut stream).await;
        assert_eq!((reply.status, reply.text()), (200, target));
        assert_eq!(reply.field("connection").to_ascii_lowercase(), "keep-alive", "{target}");
        // The upstream is spoken to in our version, about our connection.
        assert!(upstream.last().head.starts_with(&format!("GET {target} HTTP/1.1\r\n")));
        assert_eq!(upstream.last().field("connection"), None);
    }
    stream.write_all(b"GET /last HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    assert_eq!(parse(&answer).text(), "/last");
}

#[tokio::test]
async fn content_without_a_length_ends_an_http_1_0_connection() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n";
    let upstream = Faulty::always(Act::Say(chunked.to_owned())).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let get = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let reply = parse(&raw(proxy.address(), get).await);
    assert_eq!((reply.status, reply.text()), (200, "one"));
    assert_eq!(reply.field("transfer-encoding"), "");
    assert_ne!(reply.field("connection").to_ascii_lowercase(), "keep-alive");
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_turn() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let host = format!("Host: {}\r\n", proxy.address());
    let requests = format!(
        "GET /one HTTP/1.1\r\n{host}\r\n\
         POST /two HTTP/1.1\r\n{host}Content-Length: 7\r\n\r\ncontent\
         POST /three HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         GET /four HTTP/1.1\r\n{host}\r\n"
    );
    let mut stream = connect(&proxy).await;
    stream.write_all(requests.as_bytes()).await.unwrap();
    for target in ["/one", "/two", "/three", "/four"] {
        assert_eq!(read_answer(&mut stream).await.text(), target);
    }
    let contents: Vec<_> = upstream.received().into_iter().map(|one| one.content).collect();
    let expected = ["", "content", "abc", ""].map(|content| Some(content.as_bytes().to_vec()));
    assert_eq!(contents, expected);
}

#[tokio::test]
async fn content_with_a_length_arrives_whatever_the_method() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "PROPFIND"] {
        let reply = proxy.send(method, "/x", &[("content-length", "7")], "content").await;
        assert_eq!(reply.status, 200, "{method}");
        let last = upstream.last();
        assert_eq!(last.method(), method);
        assert_eq!(last.field("content-length"), Some("7"), "{method}");
        assert_eq!(last.field("transfer-encoding"), None, "{method}");
        assert_eq!(last.content.as_deref(), Some(&b"content"[..]), "{method}");
    }
    // Over HTTP/2 the length is known only from the field, or not at all.
    let reply = send_http2(proxy.address(), "DELETE", "/x", "content").await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.last().content.as_deref(), Some(&b"content"[..]));
}

#[tokio::test]
async fn a_request_without_content_says_nothing_about_content() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let reply = raw_head(proxy.address(), &[&format!("{method} /x HTTP/1.1")]).await;
        assert_eq!(reply.status, 200, "{method}");
        let last = upstream.last();
        assert_eq!(last.field("content-length"), None, "{method}");
        assert_eq!(last.field("transfer-encoding"), None, "{method}");
        assert_eq!(last.field("content-type"), None, "{method}");
    }
    for method in ["POST", "PUT"] {
        let first = format!("{method} /x HTTP/1.1");
        let reply = raw_head(proxy.address(), &[&first, "Content-Length: 0"]).await;
        assert_eq!(reply.status, 200, "{method}");
        assert_eq!(upstream.last().field("content-length"), Some("0"), "{method}");
    }
}

#[tokio::test]
async fn answers_that_cannot_have_content_end_with_their_head() {
    let upstream = Faulty::start(|request| {
        let head = match request.target() {
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"x\"\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\nETag: \"x\"\r\n\r\n",
            _ => return Act::Fine,
        };
        Act::Say(head.to_owned())
    })
    .await;
    let config = format!("workers = 1\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    let mut connection = Connection::open(proxy.address()).await;
    for (method, target, status) in [
        ("HEAD", "/chunked", 200),
        ("GET", "/304", 304),
        ("HEAD", "/304", 304),
        ("POST", "/204", 204),
    ] {
        let reply = connection.send(method, target, &[], "").await;
        assert_eq!((reply.status, reply.body.len()), (status, 0), "{method} {target}");
        assert_eq!(reply.field("etag"), "\"x\"", "{method} {target}");
        let after = connection.send("GET", "/after", &[], "").await;
        assert_eq!(after.text(), "/after", "{method} {target}");
        let two = send_http2(proxy.address(), method, target, "").await.unwrap();
        assert_eq!((two.status, two.body.len()), (status, 0), "{method} {target}");
    }
    assert_eq!(upstream.connections(), 1, "none of them spoils the connection");
}

#[tokio::test]
async fn interim_answers_reach_callers_that_know_them() {
    let upstream = Faulty::always(Act::Interim).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for version in ["1.0", "1.1"] {
        let get = format!(
            "GET /x HTTP/{version}\r\nHost: {}\r\nConnection: close\r\n\r\n",
            proxy.address()
        );
        let answer = String::from_utf8(raw(proxy.address(), get).await).unwrap();
        let heads: Vec<&str> = answer.split("\r\n\r\n").collect();
        let interims = [
            "HTTP/1.1 102 Processing",
            "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload",
        ];
        match (version, &heads[..]) {
            ("1.0", [last, "/x"]) => assert!(last.starts_with("HTTP/1.1 200 "), "{answer}"),
            ("1.1", [first, second, last, "/x"]) => {
                assert_eq!([*first, *second], interims);
                assert!(last.starts_with("HTTP/1.1 200 "), "{answer}");
            }
            _ => panic!("{version}: {answer}"),
        }
    }
    let mut connection = Connection::open(proxy.address()).await;
    for target in ["/one", "/two"] {
        let reply = connection.send("POST", target, &[], "content").await;
        assert_eq!((reply.status, reply.text()), (200, target));
    }
    assert_eq!(send_http2(proxy.address(), "GET", "/x", "").await.unwrap().text(), "/x");
}

#[tokio::test]
async fn an_upstream_that_sends_interim_answers_without_end_is_given_up() {
    for (count, status) in [(32, 200), (33, 502), (40, 502)] {
        let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count);
        let fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        let upstream = Faulty::always(Act::Say(format!("{hints}{fine}"))).await;
        let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
        let get = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let (interims, reply) = parse_all(&raw(proxy.address(), get).await);
        assert!(interims.iter().all(|interim| interim.status == 103), "{count}: {interims:?}");
        if status == 200 {
            assert_eq!((reply.status, reply.text()), (200, "fine"), "{count}");
            assert_eq!(interims.len(), count);
        } else {
            let word = reply.problem(status, "http_protocol_error");
            assert_eq!(word, "upstream-protocol", "{count}");
            assert!(interims.len() <= 32, "{count}: {}", interims.len());
        }
        assert_eq!(upstream.received().len(), 1, "{count}: it is not asked again");
    }
}

/// Sends a head that asks to be told to continue, and returns the connection and the first head of
/// the answer.
async fn expect(proxy: &Proxy, length: usize) -> (TcpStream, String) {
    let mut stream = connect(proxy).await;
    let head = format!(
        "PUT /x HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n",
        proxy.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let first = timeout(PATIENCE, read_head(&mut stream)).await.expect("nothing comes");
    (stream, first)
}

/// Content waits until the upstream asks for it, however long that takes.
const PATIENT: &str = "timeouts = { go_ahead = \"1h\" }\n";

#[tokio::test]
async fn the_upstream_asks_for_content_and_the_caller_is_asked() {
    let upstream = Faulty::always(Act::Continue).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", PATIENT)).await;
    let (mut stream, first) = expect(&proxy, 7).await;
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    assert_eq!(upstream.received().len(), 1, "the upstream knew before");
    let expected = upstream.last().field("expect").map(str::to_ascii_lowercase);
    assert_eq!(expected.as_deref(), Some("100-continue"));
    stream.write_all(b"content").await.unwrap();
    let reply = read_answer(&mut stream).await;
    assert_eq!((reply.status, reply.text()), (200, "/x"));
    assert_eq!(upstream.last().content.as_deref(), Some(&b"content"[..]));
}

#[tokio::test]
async fn an_early_final_answer_passes_without_asking_for_content() {
    for status in ["413 Too Much", "401 Unauthorized", "417 Expectation Failed", "200 OK"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nearly");
        let upstream = Upstream::raw(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let proxy = Proxy::start(&route(&upstream.url(), "", PATIENT)).await;
        let (mut stream, first) = expect(&proxy, 1 << 20).await;
        assert!(first.starts_with(&format!("HTTP/1.1 {}", &status[..4])), "{first}");
        assert!(!first.contains("proxy-status"), "theirs: {first}");
        let mut content = [0; 5];
        timeout(PATIENCE, stream.read_exact(&mut content)).await.unwrap().unwrap();
        assert_eq!(&content, b"early");
    }
}

#[tokio::test]
async fn a_caller_is_asked_for_content_if_the_upstream_says_nothing() {
    // It reads on, as servers do that know nothing of `Expect`.
    let upstream = Faulty::always(Act::Fine).await;
    let proxy =
        Proxy::start(&route(&upstream.url(), "", "timeouts = { go_ahead = \"10ms\" }\n")).await;
    let (mut stream, first) = expect(&proxy, 7).await;
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    stream.write_all(b"content").await.unwrap();
    let reply = read_answer(&mut stream).await;
    assert_eq!((reply.status, reply.text()), (200, "/x"));
    assert_eq!(upstream.last().content.as_deref(), Some(&b"content"[..]));
}

#[tokio::test]
async fn content_that_does_not_wait_to_be_asked_for_arrives() {
    for act in [Act::Fine, Act::Continue] {
        let upstream = Faulty::always(act).await;
        let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
        let put = format!(
            "PUT /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: 7\r\n\r\ncontent",
            proxy.address()
        );
        let answer = String::from_utf8(raw(proxy.address(), put).await).unwrap();
        // Whether it was still asked for or not, the final answer is the last.
        let (_, last) = answer.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(last.starts_with("200 ") && last.ends_with("\r\n\r\n/x"), "{answer}");
        assert_eq!(upstream.received().len(), 1);
        assert_eq!(upstream.last().content.as_deref(), Some(&b"content"[..]));
    }
}

#[tokio::test]
async fn content_that_has_to_be_signed_is_asked_for_before_anything_is_sent() {
    let upstream = Faulty::always(Act::Fine).await;
    let config = format!(
        "[credential.it]\nkind = \"devo-signature\"\ndomain_api_key = {}\napi_secret = {}\n{}",
        secret("key"),
        secret("secret"),
        route(&upstream.url(), "it", ""),
    );
    let proxy = Proxy::start(&config).await;
    let (mut stream, first) = expect(&proxy, 7).await;
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    assert_eq!(upstream.received().len(), 0, "there is nothing to sign yet");
    stream.write_all(b"content").await.unwrap();
    assert_eq!(read_answer(&mut stream).await.text(), "/x");
}

#[tokio::test]
async fn an_early_answer_to_content_on_its_way_ends_with_the_answer() {
    let over = Arc::new(Notify::new());
    let tell = Arc::clone(&over);
    let upstream = Upstream::raw(move |mut stream| {
        let tell = Arc::clone(&tell);
        async move {
            read_head(&mut stream).await;
            let answer = "HTTP/1.1 507 Full\r\nContent-Length: 4\r\n\r\nfull";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            tell.notify_one();
        }
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut stream = connect(&proxy).await;
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000000\r\n\r\nthe beginning",
        proxy.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = read_answer(&mut stream).await;
    assert_eq!((reply.status, reply.text()), (507, "full"));
    drop(stream);
    timeout(PATIENCE, over.notified()).await.expect("the upstream is let go");
}

#[tokio::test]
async fn absolute_targets_lead_to_the_hosts_that_routes_name_and_nowhere_else() {
    let upstream = Faulty::always(Act::Fine).await;
    let url = quoted(&upstream.url());
    let config = format!(
        "[[route]]\nname = \"api\"\nhost = \"api.devo.test\"\nupstream = {url}\n\
         [[route]]\nname = \"own\"\npath = \"/own\"\nupstream = {url}\n"
    );
    let proxy = Proxy::start(&config).await;
    let ask = async |authority: &str, target: &str| {
        let get = format!(
            "GET http://{authority}{target} HTTP/1.1\r\nHost: {authority}\r\n\
             Proxy-Connection: Keep-Alive\r\nConnection: close\r\n\r\n"
        );
        parse(&raw(proxy.address(), get).await)
    };
    for authority in ["api.devo.test", "API.Devo.test", "api.devo.test:80"] {
        assert_eq!(ask(authority, "/a%2Fb?c=%20").await.status, 200, "{authority}");
        let last = upstream.last();
        assert_eq!(last.target(), "/a%2Fb?c=%20", "in origin form");
        let host = upstream.url().replace("http://", "");
        assert_eq!(last.field("host"), Some(host.as_str()), "{authority}");
        assert_eq!(last.field("proxy-connection"), None);
    }
    assert_eq!(ask("api.devo.test", "").await.status, 200, "no path is '/'");
    assert_eq!(upstream.last().target(), "/");
    let before = upstream.received().len();
    for authority in ["other.devo.test", "api.devo.test.example", "192.0.2.1", "devo.test"] {
        let reply = ask(authority, "/own").await;
        assert_eq!(reply.problem(421, "http_request_denied"), "host", "{authority}");
    }
    let reply = ask("user@api.devo.test", "/").await;
    assert_eq!(reply.status, 400, "{reply:?}");
    let connect = "CONNECT api.devo.test:443 HTTP/1.1\r\nHost: api.devo.test:443\r\n\
                   Connection: close\r\n\r\n";
    let answer = raw(proxy.address(), connect).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(upstream.received().len(), before);
}

#[tokio::test]
async fn curl_may_use_it_as_its_proxy_for_configured_hosts() {
    if Command::new("curl").arg("--version").output().await.is_err() {
        skip("curl as a client of an HTTP proxy", "there is no curl");
        return;
    }
    let upstream = Faulty::always(Act::Fine).await;
    let config =
        format!("[[route]]\nhost = \"api.devo.test\"\nupstream = {}\n", quoted(&upstream.url()));
    let proxy = Proxy::start(&config).await;
    let curl = async |url: &str| {
        let run = Command::new("curl")
            .args(["--silent", "--show-error", "--write-out", "\n%{http_code}", url])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/nonexistent")
            .env("http_proxy", format!("http://{}", proxy.address()))
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, run).await.expect("it does not end").unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl("http://api.devo.test/search/query?x=%2F").await, "/search/query?x=%2F\n200");
    assert!(curl("http://elsewhere.test/").await.ends_with("\n421"));
    assert_eq!(upstream.received().len(), 1);
}
