//! Old devices and odd servers: spelling of field names, short answers, syntax that is off.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::harness::client::{parse, raw, raw_head, send_http2};
use crate::harness::{Act, Faulty, PATIENCE, Proxy, quoted, route, secret, until};

/// A listener with these lines, and a route for everything.
fn config(listen: &str, upstream: &str, more: &str) -> String {
    format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{listen}{}", route(upstream, "", more))
}

/// The names of the fields of a head, as they are written.
fn names(head: &str) -> Vec<&str> {
    let lines = head.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    lines.map(|line| line.split(':').next().unwrap()).collect()
}

/// The line that asks for a spelling; none for the default.
fn spelling(case: &str) -> String {
    if case.is_empty() { String::new() } else { format!("header_case = \"{case}\"\n") }
}

fn is_title(name: &str) -> bool {
    name.split('-').all(|word| {
        let mut letters = word.chars();
        let first = letters.next().is_none_or(|letter| !letter.is_ascii_lowercase());
        first && letters.all(|letter| !letter.is_ascii_uppercase())
    })
}

#[test]
fn title_case_is_what_we_take_it_for() {
    for name in ["Content-Length", "X-A", "Via", "Etag", "X-9-B"] {
        assert!(is_title(name), "{name}");
    }
    for name in ["content-length", "Content-length", "ETag", "X-KEY"] {
        assert!(!is_title(name), "{name}");
    }
}

#[tokio::test]
async fn names_of_a_requests_fields_are_spelled_as_the_upstream_needs_them() {
    for case in ["", "lower", "title", "preserve"] {
        let upstream = Faulty::always(Act::Fine).await;
        let key = secret("ours");
        let config = format!(
            "[credential.key]\nkind = \"fields\"\nset = {{ x-KEY = {key} }}\n{}",
            route(&upstream.url(), "key", &spelling(case)),
        );
        let proxy = Proxy::start(&config).await;
        let lines =
            ["POST /x HTTP/1.1", "x-DeVice-ID: 7", "SOAPAction: \"x\"", "content-LENGTH: 0"];
        assert_eq!(raw_head(proxy.address(), &lines).await.status, 200, "{case}");
        let last = upstream.last();
        let names = names(&last.head);
        for name in ["x-device-id", "soapaction", "content-length", "x-key", "host", "via"] {
            let there = names.iter().filter(|written| written.eq_ignore_ascii_case(name)).count();
            assert_eq!(there, 1, "{case} {name}: {names:?}");
        }
        match case {
            "title" => assert!(names.iter().all(|name| is_title(name)), "{names:?}"),
            "preserve" => {
                for name in ["x-DeVice-ID", "SOAPAction"] {
                    assert!(names.contains(&name), "{names:?}");
                }
            }
            _ => {
                let lower = names.iter().all(|name| *name == name.to_ascii_lowercase());
                assert!(lower, "{names:?}");
            }
        }
    }
}

#[tokio::test]
async fn names_of_an_answers_fields_are_spelled_as_the_callers_need_them() {
    let answer = "HTTP/1.1 200 OK\r\nx-SERVER-id: 7\r\nETag: \"x\"\r\ncontent-LENGTH: 0\r\n\r\n";
    for case in ["", "lower", "title", "preserve"] {
        let upstream = Faulty::always(Act::Say(answer.to_owned())).await;
        let proxy =
            Proxy::start(&config(&spelling(case), &upstream.url(), "path = \"/x\"\n")).await;
        let ask = async |target: &str| {
            let get = format!(
                "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                proxy.address()
            );
            String::from_utf8(raw(proxy.address(), get).await).unwrap()
        };
        let (theirs, ours) = (ask("/x").await, ask("/nowhere").await);
        assert!(theirs.starts_with("HTTP/1.1 200 ") && ours.starts_with("HTTP/1.1 404 "));
        for (answer, expected) in [
            (&theirs, &["x-server-id", "etag", "content-length"][..]),
            (&ours, &["content-type", "proxy-status", "content-length"][..]),
        ] {
            let names = names(answer);
            for name in expected {
                let count = names.iter().filter(|n| n.eq_ignore_ascii_case(name)).count();
                assert_eq!(count, 1, "{case} {name}: {names:?}");
            }
            match case {
                "title" => assert!(names.iter().all(|name| is_title(name)), "{names:?}"),
                "preserve" => {}
                _ => {
                    let lower = names.iter().all(|name| *name == name.to_ascii_lowercase());
                    assert!(lower, "{names:?}");
                }
            }
        }
        if case == "preserve" {
            let names = names(&theirs);
            for name in ["x-SERVER-id", "ETag"] {
                assert!(names.contains(&name), "{names:?}");
            }
        }
        // In HTTP/2 there is one spelling.
        let two = send_http2(proxy.address(), "GET", "/x", "").await.unwrap();
        assert_eq!(two.field("x-server-id"), "7", "{case}");
    }
}

#[tokio::test]
async fn fields_that_come_twice_keep_their_order_in_any_spelling() {
    let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-COOKIE: b=2\r\nX-A: 1\r\n\
                  SET-cookie: c=3\r\nContent-Length: 0\r\n\r\n";
    for case in ["lower", "title", "preserve"] {
        let upstream = Faulty::always(Act::Say(answer.to_owned())).await;
        let line = spelling(case);
        let proxy = Proxy::start(&config(&line, &upstream.url(), &line)).await;
        let lines = ["GET /x HTTP/1.1", "X-a: 1", "x-A: 2", "X-A: 3"];
        let reply = raw_head(proxy.address(), &lines).await;
        let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2", "c=3"], "{case}");
        let head = upstream.last().head.to_ascii_lowercase();
        let values: Vec<_> = head.lines().filter(|line| line.starts_with("x-a:")).collect();
        assert_eq!(values, ["x-a: 1", "x-a: 2", "x-a: 3"], "{case}");
    }
}

#[tokio::test]
async fn answers_of_ours_may_be_a_line_of_text() {
    let upstream = Faulty::always(Act::Fine).await;
    let text = config("answers = \"text\"\n", &upstream.url(), "path = \"/x\"\n");
    let text = Proxy::start(&text).await;
    let problem = config("answers = \"problem\"\n", &upstream.url(), "path = \"/x\"\n");
    let problem = Proxy::start(&problem).await;
    let reply = problem.get("/nowhere").await;
    assert_eq!(reply.problem(404, "destination_not_found"), "no-route");

    let short = text.get("/nowhere").await;
    assert_eq!(short.status, 404);
    assert!(short.field("content-type").starts_with("text/plain"), "{short:?}");
    assert_eq!(short.field("proxy-status"), reply.field("proxy-status"));
    let (line, problem) = (short.text().trim_end(), reply.text());
    assert!(!line.is_empty() && line.lines().count() == 1, "{line}");
    assert!(line.len() < 200 && line.len() < problem.len(), "{line}");
    assert!(!line.contains(['{', '<']), "{line}");
    assert_eq!(short.field("content-length"), short.body.len().to_string());

    let head = raw_head(text.address(), &["HEAD /nowhere HTTP/1.1"]).await;
    assert_eq!((head.status, head.body.len()), (404, 0));
    let refused = raw_head(text.address(), &["GET /x HTTP/1.1", "Origin: http://x.example"]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.field("content-type").starts_with("text/plain"), "{refused:?}");
    assert_eq!(text.get("/x/y").await.text(), "/y", "theirs pass as they are");
}

/// What is off in a head.
const ODD: [(&str, &str); 5] = [
    ("a space after a name", "Content-Type : text/odd\r\n"),
    ("a folded line", "X-Folded: one\r\n  two\r\nContent-Type: text/odd\r\n"),
    ("a name with a space", "X Y: 1\r\nContent-Type: text/odd\r\n"),
    ("a line without a colon", "nonsense\r\nContent-Type: text/odd\r\n"),
    ("a control character", "X-Z: a\u{1}b\r\nContent-Type: text/odd\r\n"),
];

#[tokio::test]
async fn odd_syntax_of_an_upstream_is_an_error_unless_it_is_told_to_be_lenient() {
    for (what, lines) in ODD {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 4\r\n\r\nfine");
        let upstream = Faulty::always(Act::Say(answer)).await;
        let strict = Proxy::start(&route(&upstream.url(), "", "")).await;
        let reply = strict.get("/x").await;
        assert_eq!(reply.problem(502, "http_protocol_error"), "upstream-protocol", "{what}");

        let lenient = Proxy::start(&route(&upstream.url(), "", "lenient = true\n")).await;
        let reply = lenient.get("/x").await;
        assert_eq!((reply.status, reply.text()), (200, "fine"), "{what}");
        assert_eq!(reply.field("content-type"), "text/odd", "{what}");
    }
}

#[tokio::test]
async fn leniency_does_not_guess_where_an_answer_ends() {
    for lines in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: four\r\n",
        "Content-Length: -4\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\nfine!");
        let upstream = Faulty::always(Act::SayThenClose(answer)).await;
        let proxy = Proxy::start(&route(&upstream.url(), "", "lenient = true\n")).await;
        let reply = proxy.get("/x").await;
        assert_eq!(reply.problem(502, "http_protocol_error"), "upstream-protocol", "{lines}");
    }
}

#[tokio::test]
async fn a_caller_may_close_its_side_where_the_listener_is_lenient() {
    for lenient in [true, false] {
        let go = Arc::new(Semaphore::new(0));
        let upstream = Faulty::always(Act::FineAfter(Arc::clone(&go))).await;
        let proxy =
            Proxy::start(&config(&format!("lenient = {lenient}\n"), &upstream.url(), "")).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let post = format!(
            "POST /x HTTP/1.1\r\nHost: {}\r\nContent-Length: 7\r\n\r\ncontent",
            proxy.address()
        );
        stream.write_all(post.as_bytes()).await.unwrap();
        until("it is in flight", || upstream.received().len() == 1).await;
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        if lenient {
            go.add_permits(1);
            timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
            let reply = parse(&answer);
            assert_eq!((reply.status, reply.text()), (200, "/x"));
        } else {
            timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
            assert_eq!(answer, b"", "who closes is taken to be gone");
            go.add_permits(1);
        }
    }
}

#[tokio::test]
async fn field_lines_that_are_none_are_left_out_where_the_listener_is_lenient() {
    let upstream = Faulty::always(Act::Fine).await;
    for lenient in [true, false] {
        let proxy =
            Proxy::start(&config(&format!("lenient = {lenient}\n"), &upstream.url(), "")).await;
        for odd in ["X Y: 1", "nonsense", "(x): 1", "X-Z: a\u{1}b"] {
            let before = upstream.received().len();
            let lines = ["GET /x HTTP/1.1", "X-Before: 1", odd, "X-After: 2"];
            let reply = raw_head(proxy.address(), &lines).await;
            assert_eq!(reply.status, if lenient { 200 } else { 400 }, "{odd}");
            assert_eq!(upstream.received().len() - before, usize::from(lenient), "{odd}");
            if lenient {
                let last = upstream.last();
                assert_eq!((last.field("x-before"), last.field("x-after")), (Some("1"), Some("2")));
                assert!(!last.head.contains(odd), "{}", last.head);
            }
        }
    }
}

#[tokio::test]
async fn a_lenient_listener_is_as_strict_as_any_about_where_a_request_ends() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&config("lenient = true\n", &upstream.url(), "")).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let length = smuggled.len();
    for field in [
        format!("Content-Length: {length}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: +{length}"),
        format!("Content-Length: {length}, 0"),
        format!("Content-Length : {length}"),
        format!("Content-Length\t: {length}"),
        "Transfer-Encoding : chunked".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        format!("Transfer-Encoding: chunked\r\nContent-Length : {length}"),
    ] {
        for content in [smuggled.to_owned(), format!("0\r\n\r\n{smuggled}")] {
            let post = format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n{content}");
            raw(proxy.address(), post).await;
            assert_eq!(upstream.count("GET", "/smuggled"), 0, "{field}\n{content}");
        }
    }
}

#[tokio::test]
async fn a_missing_content_type_is_nobodys_problem() {
    let upstream = Faulty::always(Act::Fine).await;
    let proxy = Proxy::start(&format!(
        "[[route]]\nupstream = {}\nheader_case = \"title\"\nlenient = true\n",
        quoted(&upstream.url())
    ))
    .await;
    let reply = raw_head(proxy.address(), &["POST /x HTTP/1.1", "Content-Length: 0"]).await;
    assert_eq!((reply.status, reply.field("content-type")), (200, ""));
    assert_eq!(upstream.last().field("content-type"), None, "none is made up");
}
