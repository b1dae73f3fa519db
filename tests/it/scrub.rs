//! What an upstream sends back of the credential in the fields of its answer.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;

use crate::harness::client::{raw, unchunked};
use crate::harness::upstream::{Seen, read_head};
use crate::harness::{Proxy, Upstream, route, secret};

/// A credential of every form that is added to requests.
fn credentials() -> String {
    format!(
        "[credential.token]\nkind = \"bearer\"\ntoken = {}\n\
         [credential.parameter]\nkind = \"query\"\nset = {{ key = {} }}\n\
         [credential.fields]\nkind = \"fields\"\nset = {{ X-Api-Key = {} }}\n",
        secret("token-abcd"),
        secret("a key/1"),
        secret("field-efgh"),
    )
}

fn echoing(seen: &Seen) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(seen.target.clone()));
    let fields = response.headers_mut();
    for name in ["authorization", "x-api-key"] {
        for value in seen.headers.get_all(name) {
            fields.append("x-echo", value.clone());
        }
    }
    fields.append("x-echo", "nothing of it".parse().unwrap());
    fields.insert("location", seen.target.parse().unwrap());
    response
}

#[tokio::test]
async fn what_was_added_does_not_come_back_in_fields_where_the_route_says_so() {
    let upstream = Upstream::answering(echoing).await;
    for scrub in [true, false] {
        let more = format!("path = \"/p\"\nscrub = {scrub}\n");
        let route = route(&upstream.url(), "", &more);
        let route =
            route.replace("path", "credential = [\"token\", \"parameter\", \"fields\"]\npath");
        let proxy = Proxy::start(&(credentials() + &route)).await;
        let reply = proxy.get("/p/x?own=1").await;
        assert_eq!(upstream.last().target, "/x?own=1&key=a%20key%2F1");
        let echoed: Vec<_> = reply.headers.get_all("x-echo").iter().collect();
        if scrub {
            assert_eq!(echoed, ["***", "***", "nothing of it"]);
            assert_eq!(reply.field("location"), "/p/x?own=1&key=***");
        } else {
            assert_eq!(echoed, ["Bearer token-abcd", "field-efgh", "nothing of it"]);
            assert_eq!(reply.field("location"), "/p/x?own=1&key=a%20key%2F1");
        }
        // Content passes as it comes.
        assert_eq!(reply.text(), "/x?own=1&key=a%20key%2F1");
    }
}

#[tokio::test]
async fn nor_does_it_come_back_in_trailers_or_interim_answers() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let sent = head.lines().find_map(|line| line.strip_prefix("x-api-key: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 103 Early Hints\r\nX-Echo: {sent}\r\n\r\n\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n\
             3\r\none\r\n0\r\nX-Echo: <{sent}>\r\n\r\n"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let config = credentials() + &route(&upstream.url(), "fields", "scrub = true\n");
    let proxy = Proxy::start(&config).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: close\r\n\r\n";
    let answer = raw(proxy.address(), request).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(!text.contains("field-efgh"), "{text}");
    let (_, content) = text.split_once("\r\n\r\n").unwrap();
    let (content, trailers) = unchunked(content.as_bytes()).unwrap();
    assert_eq!((&content[..], trailers.trim_end()), (&b"one"[..], "x-echo: <***>"));
}
