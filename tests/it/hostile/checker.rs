//! That the upstream which checks everything can find something.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{corpus, rules};
use crate::harness::PATIENCE;
use crate::harness::strict::{Strict, read};

const HOST: &str = "up.test";
const OURS: &str = "Authorization: Bearer ours-1f0c\r\nx-api-key: ours-77aa\r\n";

/// What the checker says to these bytes, which are one request and nothing else.
fn violations(bytes: &str) -> Vec<String> {
    let bytes = corpus::bytes(bytes, HOST);
    match read(&bytes) {
        Err(wrong) => vec![wrong],
        Ok(None) => panic!("it is not complete: {bytes:?}"),
        Ok(Some((request, rest))) => {
            assert_eq!(rest, b"", "{bytes:?}");
            request.violations(&rules(false), HOST)
        }
    }
}

fn with(target: &str, more: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: {{{{host}}}}\r\n{OURS}{more}")
}

#[test]
fn what_is_right_is_not_found_wrong() {
    for request in [
        with("/base/x?/../..", "\r\n"),
        with("/base", "Content-Length: 5\r\n\r\nhello"),
        with("/base/a%2fb/../c", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        with("/base/ws/x", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ] {
        assert_eq!(violations(&request), [""; 0], "{request}");
    }
}

#[test]
fn every_rule_is_broken_by_something() {
    let ok = |more: &str| with("/base/x", more);
    for (request, sentence) in [
        (ok("Authorization: Bearer theirs\r\n\r\n"), "authorization is not exactly ours"),
        (ok("X-API-KEY: ours-77aa\r\n\r\n"), "x-api-key is not exactly ours"),
        (ok("X_Api_Key: theirs\r\n\r\n"), "a twin of x-api-key"),
        (ok("\r\n").replace(OURS, ""), "authorization is not exactly ours: []"),
        (ok("Host: {{host}}\r\n\r\n"), "Host is "),
        (ok("\r\n").replace("{{host}}", "evil.test"), "Host is "),
        (ok("Connection: x\r\n\r\n"), "a hop-by-hop field: connection"),
        (ok("Connection: close\r\n\r\n"), "a hop-by-hop field: connection"),
        (ok("Keep-Alive: timeout=5\r\n\r\n"), "a hop-by-hop field: keep-alive"),
        (ok("Proxy-Authorization: x\r\n\r\n"), "a hop-by-hop field: proxy-authorization"),
        (ok("Proxy-Connection: x\r\n\r\n"), "a hop-by-hop field: proxy-connection"),
        (ok("TE: trailers\r\n\r\n"), "a hop-by-hop field: te"),
        (ok("Trailer: x\r\n\r\n"), "a hop-by-hop field: trailer"),
        (ok("Upgrade: websocket\r\n\r\n"), "a hop-by-hop field: upgrade"),
        (ok("HTTP2-Settings: AAA\r\n\r\n"), "a hop-by-hop field: http2-settings"),
        (with("/base/ws/x", "Upgrade: h2c\r\n\r\n"), "a hop-by-hop field: upgrade"),
        (ok("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "Transfer-Encoding is"),
        (ok("Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"), "Transfer-Encoding is"),
        (
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "Transfer-Encoding is",
        ),
        (
            ok("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
            "framed in two ways",
        ),
        (ok("Content-Length: 05\r\n\r\nhello"), "Content-Length is"),
        (ok("Content-Length: +5\r\n\r\nhello"), "Content-Length is"),
        (ok("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), "Content-Length is"),
        (ok("Transfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\n\r\n"), "a chunk of the size"),
        (ok("Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n"), "a chunk of the size"),
        (ok("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"), "longer than it says"),
        (ok("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"), "a line feed alone"),
        (
            ok("Transfer-Encoding: chunked\r\n\r\n0\r\nX_API_KEY: x\r\n\r\n"),
            "a trailer that must not be one",
        ),
        (
            ok("Transfer-Encoding: chunked\r\n\r\n0\r\ncontent-length: 5\r\n\r\n"),
            "a trailer that must not be one",
        ),
        (ok("X: y\n\r\n"), "a line feed alone"),
        (ok("X: y\rz\r\n\r\n"), "a carriage return alone"),
        (ok("X: y\0z\r\n\r\n"), "a NUL in"),
        (ok("X: y\u{1}\r\n\r\n"), "a control character"),
        (ok("X : y\r\n\r\n"), "a field's name is no token"),
        (ok("X: y\r\n z\r\n\r\n"), "a line without a colon"),
        (ok("X\r\n\r\n"), "a line without a colon"),
        (ok("\r\n").replace("HTTP/1.1", "HTTP/1.0"), "the version is"),
        (ok("\r\n").replace(" HTTP", "  HTTP"), "no request line"),
        (ok("\r\n").replace("/base/x", "http://up.test/base/x"), "is not below"),
        (ok("\r\n").replace("HTTP/1.1", "HTTP/2.0"), "the version is"),
        (with("/base/x#y", "\r\n"), "a fragment"),
        (with("/x", "\r\n"), "is not below"),
        (with("/based", "\r\n"), "is not below"),
        (with("/base/../x", "\r\n"), "can be read as"),
        (with("/base/%2e%2e/x", "\r\n"), "can be read as"),
        (with("/base/%252e%252e/x", "\r\n"), "can be read as"),
        (with("/base/..;a/x", "\r\n"), "can be read as"),
        (with("/base/..\\x", "\r\n"), "can be read as"),
        (with("/base/%5c..%5cx/../y", "\r\n"), "can be read as"),
        (with("/base//../../base/x", "\r\n"), "above the root"),
        (with("/base/closed/x", "\r\n"), "which is closed"),
        (with("/base/x/%2e%2e/Closed", "\r\n"), "which is closed"),
    ] {
        let found = violations(&request);
        assert!(
            found.iter().any(|found| found.contains(sentence)),
            "{sentence:?} is not among {found:?} for\n{request}"
        );
    }
}

/// Says `bytes` to the upstream itself and closes; returns what it recorded and what it found.
async fn said(bytes: &str) -> (Vec<(String, bool)>, Vec<String>) {
    let upstream = Strict::start(rules(false)).await;
    let host = upstream.host();
    let mut stream = TcpStream::connect(&host).await.unwrap();
    stream.write_all(&corpus::bytes(bytes, &host)).await.unwrap();
    stream.shutdown().await.unwrap();
    let read = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    let _ = read.expect("it ends");
    upstream.idle().await;
    let arrived = upstream.take().iter().map(|one| (one.line(), one.complete)).collect();
    (arrived, upstream.take_violations())
}

#[tokio::test]
async fn the_checking_upstream_sees_what_is_behind_a_request_and_what_breaks_off() {
    let request = with("/base/x", "\r\n");
    let whole = ("POST /base/x".to_owned(), true);
    let (arrived, violations) = said(&request).await;
    assert_eq!((arrived, violations), (vec![whole.clone()], vec![]));
    let (arrived, violations) = said(&format!("{request}{request}")).await;
    assert_eq!(arrived, [whole.clone(), whole.clone()]);
    assert!(violations[0].contains("behind it came"), "{violations:?}");
    let (arrived, violations) = said(&format!("{request}G")).await;
    assert_eq!(arrived, [whole]);
    assert!(violations[0].contains("behind it came \"G\""), "{violations:?}");
    assert!(violations[1].contains("a head breaks off"), "{violations:?}");
    let (arrived, violations) = said(&with("/base/x", "Content-Length: 5\r\n\r\nhell")).await;
    assert_eq!((arrived, violations), (vec![("POST /base/x".to_owned(), false)], vec![]));
    let (_, violations) = said(&with("/elsewhere", "Content-Length: 5\r\n\r\nhell")).await;
    assert!(violations[0].contains("is not below"), "{violations:?}");
}
