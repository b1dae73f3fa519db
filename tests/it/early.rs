//! Answers that begin before the request has ended.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::harness::client::{parse, request, unchunked, whole};
use crate::harness::upstream::read_head;
use crate::harness::{
    Act, Connection, Faulty, PATIENCE, Proxy, Reply, Upstream, route, secret, sha256,
};

/// How long somebody does nothing, to see whether anybody else does. Nothing has to happen within.
const A_WHILE: Duration = Duration::from_millis(400);

/// Content that fits into no buffer of the system's.
const LARGE: usize = 8 << 20;

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// What still comes, up to the end.
async fn rest(stream: &mut TcpStream, what: &str) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // Whoever has not sent everything may find the connection reset.
    assert!(read.is_ok(), "{what}: there is no end");
    rest
}

#[tokio::test]
async fn a_caller_that_waits_to_be_asked_is_not_asked_in_the_middle_of_an_answer() {
    for (first, second) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf", "full"),
        ("HTTP/1.1 417 No\r\nContent-Length: 8\r\n\r\nhalf", "full"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "4\r\nfull\r\n0\r\n\r\n",
        ),
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(first.as_bytes()).await.unwrap();
            // Until long after the time at which the caller would be asked without the upstream.
            let heard = timeout(A_WHILE, stream.read_u8()).await;
            if heard.is_err() && stream.write_all(second.as_bytes()).await.is_ok() {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let more = "timeouts = { go_ahead = \"100ms\" }\n";
        let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
        for framing in ["Content-Length: 7", "Transfer-Encoding: chunked"] {
            let what = format!("{first} {framing}");
            let mut stream = connect(&proxy).await;
            let put = format!(
                "PUT /x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
            );
            stream.write_all(put.as_bytes()).await.unwrap();
            let head = timeout(PATIENCE, read_head(&mut stream)).await.expect("no answer");
            if head.starts_with("HTTP/1.1 100 ") {
                // The answer took so long to begin that the caller may be asked before it.
                continue;
            }
            assert!(head.starts_with(&first[..12]), "{what}: {head}");
            let reply = parse(head.as_bytes());
            assert_eq!(reply.field("connection"), "close", "{what}: {head}");
            let content = rest(&mut stream, &what).await;
            let content = if reply.field("transfer-encoding").is_empty() {
                content
            } else {
                unchunked(&content).unwrap_or_else(|| panic!("{what}: {content:?}")).0
            };
            assert_eq!(String::from_utf8_lossy(&content), "halffull", "{what}");
        }
    }
}

/// Begins its answer as soon as it has the head of a request, and takes its content, of so many
/// bytes, once there is a permit for it; the rest of the answer is the SHA-256 of that.
async fn hashing(size: usize, go: &Arc<Semaphore>) -> Upstream {
    let go = Arc::clone(go);
    Upstream::raw(move |mut stream| {
        let go = Arc::clone(&go);
        async move {
            read_head(&mut stream).await;
            let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n";
            if stream.write_all(begun).await.is_err() {
                return;
            }
            go.acquire().await.unwrap().forget();
            let mut content = vec![0; size];
            if stream.read_exact(&mut content).await.is_ok() {
                let _ = stream.write_all(sha256(&content).as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_reads_the_content_gets_all_of_it() {
    let content: Bytes = (0..LARGE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let signature = format!(
        "[credential.it]\nkind = \"devo-signature\"\ndomain_api_key = {}\napi_secret = {}\n",
        secret("key"),
        secret("secret"),
    );
    let in_memory = format!("[limits]\nmemory_per_request = \"16MiB\"\n{signature}");
    for (what, config, credential) in [
        ("streamed", "", ""),
        ("held in a file", signature.as_str(), "it"),
        ("held in memory", in_memory.as_str(), "it"),
    ] {
        let go = Arc::new(Semaphore::new(0));
        let upstream = hashing(LARGE, &go).await;
        let config = format!("{config}{}", route(&upstream.url(), credential, ""));
        let proxy = Proxy::start(&config).await;
        let mut connection = Connection::open(proxy.address()).await;
        let post = request("POST", "/x", &[], whole(content.clone()));
        let response = connection.begin(post).await.unwrap();
        assert_eq!(response.status(), 200, "{what}");
        go.add_permits(1);
        let reply = timeout(PATIENCE, Reply::read(response)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{what}: no end of the answer"));
        let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(reply.text(), sha256(&content), "{what}");
    }
}

#[tokio::test]
async fn an_early_answer_without_content_tells_a_caller_that_is_still_sending_to_stop() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n",
    ] {
        let upstream = Faulty::start(move |request| match request.method() {
            "POST" => Act::SayEarly(answer.to_owned()),
            _ => Act::Fine,
        })
        .await;
        let config = format!("workers = 1\n{}", route(&upstream.url(), "", ""));
        let proxy = Proxy::start(&config).await;
        for content in [
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "Content-Length: 1000000\r\n\r\nhello",
        ] {
            let what = format!("{answer} {content}");
            let mut stream = connect(&proxy).await;
            let post = format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{content}");
            stream.write_all(post.as_bytes()).await.unwrap();
            let head = timeout(PATIENCE, read_head(&mut stream)).await.expect("no answer");
            assert!(head.starts_with(&answer[..12]), "{what}: {head}");
            let reply = parse(head.as_bytes());
            assert_eq!(reply.field("connection"), "close", "{what}: {head}");
            assert_eq!(reply.field("transfer-encoding"), "", "{what}: {head}");
            assert_eq!(rest(&mut stream, &what).await, b"", "{what}");

            let reply = proxy.get("/after").await;
            assert_eq!((reply.status, reply.text()), (200, "/after"), "{what}");
            let received = upstream.received();
            let mut posts = received.iter().filter(|one| one.method() == "POST");
            assert!(posts.all(|one| one.content.is_none()), "{what}: it looks whole");
        }
    }
}

#[tokio::test]
async fn a_caller_that_sends_without_reading_to_an_upstream_that_does_neither_is_not_stuck() {
    for end in ["it stays", "it shuts its side for reading", "it goes away"] {
        let upstream = Upstream::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            if end == "it shuts its side for reading" {
                let _ = SockRef::from(&stream).shutdown(Shutdown::Read);
            }
            let head = format!("HTTP/1.1 413 Too Much\r\nContent-Length: {LARGE}\r\n\r\n");
            let answer = [head.into_bytes(), vec![b'x'; LARGE]].concat();
            let _ = stream.write_all(&answer).await;
            if end != "it goes away" {
                std::future::pending::<()>().await;
            }
        })
        .await;
        // Longer than the test has patience.
        let more = "timeouts = { first_byte = \"10m\", idle = \"10m\" }\n";
        let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
        let mut stream = connect(&proxy).await;
        let post =
            format!("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", LARGE * 8);
        stream.write_all(post.as_bytes()).await.unwrap();
        let piece = vec![b'y'; 1 << 16];
        for _ in 0..LARGE * 8 / piece.len() {
            // As much as anybody takes before the answer is read.
            if !matches!(timeout(A_WHILE, stream.write_all(&piece)).await, Ok(Ok(()))) {
                break;
            }
        }
        let answer = rest(&mut stream, end).await;
        if answer.is_empty() {
            continue;
        }
        let reply = parse(&answer);
        if reply.field("proxy-status").is_empty() {
            assert_eq!(reply.status, 413, "{end}");
            assert!(reply.body.len() <= LARGE, "{end}: more than there is");
            assert!(reply.body.iter().all(|byte| *byte == b'x'), "{end}: not the answer");
        } else {
            assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed", "{end}");
        }
    }
}
