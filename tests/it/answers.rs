//! The answers countersign itself gives, one by one, and those of the upstream, which it does not
//! touch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign::mock::Failure;
use http::Response;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use crate::harness::client::{parse, raw, raw_head, request, whole};
use crate::harness::upstream::{answer, read_head};
use crate::harness::{
    Act, Connection, Faulty, PATIENCE, Proxy, Reply, Upstream, plant, plant_with_password, quoted,
    route, secret, twinzo, until,
};

/// Checks an answer and returns the last word of its `type`.
fn check(reply: &Reply, status: u16, error: &str) -> String {
    let word = reply.problem(status, error);
    let retries = status == 503;
    assert_eq!(!reply.field("retry-after").is_empty(), retries, "{word}");
    word
}

#[tokio::test]
async fn requests_that_are_not_accepted_are_told_why() {
    let upstream = Upstream::fine().await;
    let url = quoted(&upstream.url());
    let config = format!(
        "[limits]\ntarget_bytes = \"1KiB\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\norigins = [\"http://good.example\"]\n\
         hosts = [\"proxy.example\"]\n\
         [[route]]\npath = \"/get\"\nmethods = [\"GET\", \"HEAD\"]\nupstream = {url}\n\
         deny = [\"/get/secret\"]\n\
         [[route]]\npath = \"/small\"\nmax_body = 10\nupstream = {url}\n\
         [[route]]\npath = \"/app\"\nhost = \"app.example\"\nupstream = {url}\n\
         [[route]]\npath = \"/other\"\nupstream = {url}\n"
    );
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let ask = async |lines: &[&str]| raw_head(address, lines).await;
    let denied = "http_request_denied";
    let invalid = "http_request_error";
    let long = format!("GET /get/{} HTTP/1.1", "x".repeat(2000));
    let mut words = BTreeMap::new();
    let cases: [(&str, &[&str], u16, &str); 14] = [
        ("no route", &["GET /nowhere HTTP/1.1"], 404, "destination_not_found"),
        ("only a prefix", &["GET /getter HTTP/1.1"], 404, "destination_not_found"),
        ("method", &["POST /get HTTP/1.1", "Content-Length: 0"], 405, denied),
        ("never forwarded", &["TRACE /get HTTP/1.1"], 405, denied),
        ("origin", &["GET /get HTTP/1.1", "Origin: http://evil.example"], 403, denied),
        ("null origin", &["GET /get HTTP/1.1", "Origin: null"], 403, denied),
        ("page", &["GET /get HTTP/1.1", "Sec-Fetch-Site: cross-site"], 403, denied),
        ("closed path", &["GET /get/secret/x HTTP/1.1"], 403, denied),
        ("second Host", &["GET /get HTTP/1.1", "Host: 127.0.0.1"], 400, invalid),
        ("path", &["GET /get/%00 HTTP/1.1"], 400, invalid),
        ("above the root", &["GET /get/../../x HTTP/1.1"], 400, invalid),
        ("two routes", &["GET /get/../small HTTP/1.1"], 400, invalid),
        ("expectation", &["GET /get HTTP/1.1", "Expect: 102-processing"], 417, invalid),
        ("target", &[&long], 414, invalid),
    ];
    for (what, lines, status, error) in cases {
        let reply = ask(lines).await;
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        words.insert(what, check(&reply, status, error));
    }
    let allow = ask(&["DELETE /get HTTP/1.1"]).await;
    assert_eq!(allow.field("allow"), "GET, HEAD");

    for (what, host) in [
        ("host", "evil.example"),
        ("host", "rebound.example:80"),
        ("host", "app.example.evil.example"),
    ] {
        let reply = parse(&raw(address, with_host(host)).await);
        words.insert(what, check(&reply, 421, denied));
    }
    let reply = parse(&raw(address, "GET /get HTTP/1.1\r\nConnection: close\r\n\r\n").await);
    check(&reply, 400, invalid);
    for host in ["proxy.example", "app.example", "localhost", "127.0.0.1", "[::1]"] {
        let reply = parse(&raw(address, with_host(host)).await);
        assert_eq!(reply.status, 200, "{host}");
    }
    let reply = proxy.send("POST", "/small", &[], "eleven bytes").await;
    words.insert("content", check(&reply, 413, invalid));
    let reply = proxy.send_chunked("POST", "/small", &[], "eleven bytes").await;
    assert_eq!(check(&reply, 413, invalid), words["content"]);
    let fields = [("origin", "http://good.example")];
    assert_eq!(proxy.send("GET", "/get", &fields, "").await.status, 200);

    // Every reason has a `type` of its own.
    let same = [
        ("only a prefix", "no route"),
        ("null origin", "origin"),
        ("page", "origin"),
        ("above the root", "path"),
        ("two routes", "path"),
    ];
    for (one, other) in same {
        let word = words.remove(one).unwrap();
        assert_eq!(word, words[other], "{one}");
    }
    let mut distinct: Vec<&String> = words.values().collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), words.len(), "{words:?}");
}

fn with_host(host: &str) -> String {
    format!("GET /get HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn a_route_for_another_host_is_no_route_for_this_one() {
    let upstream = Upstream::fine().await;
    let config =
        format!("[[route]]\nhost = \"app.example\"\nupstream = {}\n", quoted(&upstream.url()));
    let proxy = Proxy::start(&config).await;
    let ask = async |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        parse(&raw(proxy.address(), request).await)
    };
    assert_eq!(ask("app.example").await.status, 200);
    check(&ask("localhost").await, 404, "destination_not_found");
    check(&ask("other.example").await, 421, "http_request_denied");
}

#[tokio::test]
async fn callers_are_known_by_address_and_token() {
    let upstream = Upstream::fine().await;
    let listen = |more: &str| {
        format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{more}{}", route(&upstream.url(), "", ""))
    };
    let denied = "http_request_denied";
    let proxy = Proxy::start(&listen("allow = [\"203.0.113.0/24\"]\n")).await;
    let peer = check(&proxy.get("/").await, 403, denied);

    let token = format!("caller_token = {}\n", secret("the-callers"));
    let proxy = Proxy::start(&listen(&token)).await;
    let ask = async |value: &str| proxy.send("GET", "/", &[("authorization", value)], "").await;
    let missing = proxy.get("/").await;
    assert!(missing.field("www-authenticate").starts_with("Bearer"));
    let missing = check(&missing, 401, denied);
    let wrong = check(&ask("Bearer another").await, 403, denied);
    assert_eq!(ask("Bearer the-callers").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), [""; 0]);
    assert!(peer != missing && missing != wrong && wrong != peer);

    let header = format!("{token}caller_token_header = \"X-Caller\"\n");
    let proxy = Proxy::start(&listen(&header)).await;
    let ask = async |value: &str| proxy.send("GET", "/", &[("x-caller", value)], "").await;
    check(&proxy.get("/").await, 401, denied);
    check(&ask("another").await, 403, denied);
    assert_eq!(ask("the-callers").await.status, 200);
    assert_eq!(upstream.last().values("x-caller"), [""; 0]);
}

#[tokio::test]
async fn content_beyond_what_can_be_signed_is_413() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "[credential.it]\nkind = \"devo-signature\"\ndomain_api_key = {}\napi_secret = {}\n{}",
        secret("key"),
        secret("secret"),
        route(&upstream.url(), "it", "max_body = \"1KiB\"\n"),
    );
    let proxy = Proxy::start(&config).await;
    let content = vec![b'x'; 1025];
    let reply = proxy.send("POST", "/", &[], content.clone()).await;
    check(&reply, 413, "http_request_error");
    let reply = proxy.send_chunked("POST", "/", &[], content).await;
    check(&reply, 413, "http_request_error");
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_missing_credential_is_502_or_503() {
    let stand_in = twinzo().await;
    let wrong = plant_with_password(&stand_in.url(), "wrong", "");
    let proxy = Proxy::start(&(wrong + &route(&stand_in.url(), "plant", ""))).await;
    let refused = check(&proxy.get("/").await, 502, "proxy_configuration_error");

    let failing = twinzo().await;
    let switches = failing.switches();
    switches.fail_token_calls(Failure::ServerError, None);
    let config = plant(&failing.url(), "") + &route(&failing.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    let failed = check(&proxy.get("/").await, 503, "destination_unavailable");
    assert_ne!(refused, failed);
}

#[tokio::test]
async fn an_upstream_that_fails_is_502_or_504() {
    let closed = Upstream::fine().await.url();
    let resets = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let garbage = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
    })
    .await;
    let silent = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mail = Upstream::raw(|mut stream| async move {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let not_tls = mail.url().replace("http:", "https:");
    let no_handshake = mute().await;
    let no_handshake_url = no_handshake.url().replace("http:", "https:");
    let cases = [
        (closed.as_str(), "", 502, "connection_refused"),
        (&resets.url(), "", 502, "connection_terminated"),
        (&garbage.url(), "", 502, "http_protocol_error"),
        ("http://name.invalid", "", 502, "dns_error"),
        (&not_tls, "", 502, "tls_protocol_error"),
        (&silent.url(), "timeouts = { first_byte = \"200ms\" }\n", 504, "http_response_timeout"),
        (&no_handshake_url, "timeouts = { connect = \"200ms\" }\n", 504, "connection_timeout"),
        (&silent.url(), "timeouts = { total = \"200ms\" }\n", 504, "http_response_timeout"),
    ];
    let mut words = Vec::new();
    for (url, more, status, error) in cases {
        let proxy = Proxy::start(&route(url, "", more)).await;
        let reply = proxy.get("/").await;
        words.push(check(&reply, status, error));
    }
    words.sort();
    let all = words.len();
    words.dedup();
    assert_eq!(words.len(), all, "{words:?}");
}

/// Accepts connections and says nothing.
async fn mute() -> Upstream {
    Upstream::raw(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn too_many_requests_in_flight_are_503() {
    let go = Arc::new(Notify::new());
    let waiting = Arc::clone(&go);
    let upstream = Upstream::serving(move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            answer(200, "done")
        }
    })
    .await;
    let config = format!("[limits]\nrequests = 1\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let first = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/", &[], "").await
    });
    until("the first is there", || upstream.seen().len() == 1).await;
    let reply = proxy.get("/").await;
    assert_eq!(check(&reply, 503, "connection_limit_reached"), "busy");
    assert_eq!(upstream.seen().len(), 1);
    go.notify_one();
    assert_eq!(first.await.unwrap().text(), "done");
    go.notify_one();
    assert_eq!(proxy.get("/").await.status, 200, "there is room again");
}

#[tokio::test]
async fn memory_for_held_content_is_bounded() {
    let upstream = Upstream::fine().await;
    let config = |memory: &str| {
        format!(
            "[limits]\nmemory = \"{memory}\"\nmemory_per_request = \"1MiB\"\n\
         [credential.it]\nkind = \"devo-signature\"\ndomain_api_key = {}\napi_secret = {}\n{}",
            secret("key"),
            secret("secret"),
            route(&upstream.url(), "it", ""),
        )
    };
    // Not enough for all of it, but for a piece at a time.
    let proxy = Proxy::start(&config("128KiB")).await;
    let content = vec![b'x'; 700 << 10];
    for _ in 0..3 {
        assert_eq!(proxy.send("POST", "/", &[], content.clone()).await.status, 200);
        assert!(upstream.last().body == content, "it went through a file");
    }
    // Not even for that.
    let proxy = Proxy::start(&config("1KiB")).await;
    let reply = proxy.send("POST", "/", &[], vec![b'x'; 10 << 10]).await;
    assert_eq!(check(&reply, 503, "connection_limit_reached"), "memory");
    let reply = proxy.send("POST", "/", &[], vec![b'x'; 1 << 10]).await;
    assert_eq!(reply.status, 200, "memory is given back");
}

#[tokio::test]
async fn a_request_that_comes_back_is_508() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let fields = [("via", "1.1 another")];
    assert_eq!(proxy.send("GET", "/", &fields, "").await.status, 200);
    let seen = upstream.last();
    let via = seen.values("via");
    assert_eq!(via.len(), 2);
    let fields = [("via", via[0]), ("via", via[1])];
    let reply = proxy.send("GET", "/", &fields, "").await;
    check(&reply, 508, "proxy_loop_detected");
    let joined = via.join(", ");
    let reply = proxy.send("GET", "/", &[("via", &joined)], "").await;
    check(&reply, 508, "proxy_loop_detected");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn content_that_breaks_off_or_stalls_is_the_callers_fault() {
    let stand_in = twinzo().await;
    let more = "timeouts = { idle = \"300ms\" }\n";
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", more);
    let proxy = Proxy::start(&config).await;
    // Half of the announced content, then silence.
    let stalled = tokio::net::TcpStream::connect(proxy.address()).await;
    let mut stalled = stalled.unwrap();
    let head = format!(
        "POST /v3/echo HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhalf",
        proxy.address()
    );
    stalled.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stalled, &mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    check(&parse(&answer), 408, "http_request_error");
    let is_echo = |recorded: &countersign::mock::Recorded| recorded.target == "/v3/echo";
    assert_eq!(stand_in.recorder().count_where(is_echo), 0);
}

#[tokio::test]
async fn answers_of_the_upstream_pass_through_unchanged() {
    let upstream = Upstream::answering(|seen| {
        let status: u16 = seen.target.trim_start_matches('/').parse().unwrap();
        let mut response = Response::new(Full::from(format!("<own status={status}>\r\n\u{fc}")));
        *response.status_mut() = status.try_into().unwrap();
        let headers = response.headers_mut();
        headers.insert("content-type", "text/odd; charset=utf-8".parse().unwrap());
        headers.insert("retry-after", "17".parse().unwrap());
        headers.insert("location", "http://elsewhere.example/%2F".parse().unwrap());
        headers.insert("www-authenticate", "Odd realm=x".parse().unwrap());
        headers.insert("server", "odd/1".parse().unwrap());
        response
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut connection = Connection::open(proxy.address()).await;
    for status in [
        200, 201, 299, 301, 302, 307, 400, 401, 403, 404, 407, 409, 413, 418, 422, 429, 451, 499,
        500, 501, 502, 503, 504, 508, 599,
    ] {
        let get = request("GET", &format!("/{status}"), &[], whole(""));
        let reply = connection.try_send(get).await.unwrap();
        assert_eq!(reply.status, status);
        assert_eq!(reply.text(), format!("<own status={status}>\r\n\u{fc}"));
        assert_eq!(reply.field("content-type"), "text/odd; charset=utf-8");
        assert_eq!(reply.field("retry-after"), "17");
        assert_eq!(reply.field("location"), "http://elsewhere.example/%2F");
        assert_eq!(reply.field("www-authenticate"), "Odd realm=x");
        assert_eq!(reply.field("server"), "odd/1");
        assert_eq!(reply.field("proxy-status"), "");
    }
}

#[tokio::test]
async fn a_problem_never_tells_the_query() {
    let proxy = Proxy::start(&route("http://name.invalid", "", "")).await;
    for target in ["/?key=canary-query", "/%00?key=canary-query"] {
        let reply = tokio::time::timeout(Duration::from_secs(30), proxy.get(target)).await;
        assert!(!reply.unwrap().text().contains("canary"), "{target}");
    }
}

#[tokio::test]
async fn heads_that_are_no_http_are_told_why_end_the_connection_and_go_no_further() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let get = |first: &str, fields: &str| format!("GET {first}\r\nHost: localhost\r\n{fields}\r\n");
    let with = |fields: &str| get("/x HTTP/1.1", fields);
    let post = |version: &str, fields: &str, content: &str| {
        format!("POST /x HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n{content}")
    };
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let length = "Content-Length: 5\r\n";
    let long = "x".repeat(64 << 10);
    let malformed = (400, "malformed");
    let cases = [
        ("no head at all", "nonsense\r\n\r\n".to_owned(), malformed),
        ("no version", "GET /x\r\n\r\n".to_owned(), malformed),
        ("HTTP/2.0", get("/x HTTP/2.0", ""), malformed),
        ("a fragment", get("/x#y HTTP/1.1", ""), malformed),
        ("no colon", with("nonsense\r\n"), malformed),
        ("a space in a name", with("X Y: 1\r\n"), malformed),
        ("a space behind a name", with("X : 1\r\n"), malformed),
        ("a folded line", with("X: a\r\n folded\r\n"), malformed),
        ("a NUL in a value", with("X: a\0b\r\n"), malformed),
        ("a line feed alone", with("X: 1\n"), malformed),
        ("a line feed alone in front", "GET /x HTTP/1.1\n\r\n\r\n".to_owned(), malformed),
        ("line feeds only", "GET /x HTTP/1.1\nHost: localhost\n\n".to_owned(), malformed),
        ("two framings", post("1.1", &format!("{chunked}{length}"), chunks), malformed),
        (
            "two framings the other way",
            post("1.1", &format!("{length}{chunked}"), chunks),
            malformed,
        ),
        ("two lengths", post("1.1", &format!("{length}Content-Length: 6\r\n"), "hello"), malformed),
        ("the same length twice", post("1.1", &length.repeat(2), "hello"), malformed),
        ("a list of lengths", post("1.1", "Content-Length: 5, 6\r\n", "hello"), malformed),
        ("a length with a sign", post("1.1", "Content-Length: +5\r\n", "hello"), malformed),
        ("another coding", post("1.1", "Transfer-Encoding: gzip, chunked\r\n", chunks), malformed),
        ("a coding in HTTP/1.0", post("1.0", chunked, chunks), malformed),
        ("many fields", with(&"X-Many: 1\r\n".repeat(100)), (431, "fields")),
        ("a long field", with(&format!("X-Long: {long}\r\n")), (431, "head")),
        ("a long target", get(&format!("/{long} HTTP/1.1"), ""), (414, "target")),
    ];
    for (what, head, (status, word)) in cases {
        for behind in ["", "GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
            let reply = parse(&raw(proxy.address(), format!("{head}{behind}")).await);
            assert_eq!(reply.status, status, "{what}: {reply:?}");
            assert_eq!(check(&reply, status, "http_request_error"), word, "{what}");
            assert_eq!(reply.field("connection"), "close", "{what}");
            // Nothing follows.
            assert_eq!(reply.field("content-length"), reply.body.len().to_string(), "{what}");
        }
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_upstreams_own_words_for_a_status_reach_the_caller() {
    for (said, told) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 Fine", "HTTP/1.1 200 Fine"),
        ("HTTP/1.0 200 Fine", "HTTP/1.1 200 Fine"),
        ("HTTP/1.1 299 Very Special", "HTTP/1.1 299 Very Special"),
        ("HTTP/1.1 404 it  is: (gone)!", "HTTP/1.1 404 it  is: (gone)!"),
        ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
        ("HTTP/1.1 299 ", "HTTP/1.1 299 "),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
    ] {
        let text = format!("{said}\r\nContent-Length: 4\r\n\r\nfine");
        let upstream = Faulty::always(Act::Say(text)).await;
        let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
        let get = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = raw(proxy.address(), get).await;
        assert_eq!(parse(&answer).text(), "fine", "{said}");
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.split("\r\n").next(), Some(told), "{said}");
    }
}
