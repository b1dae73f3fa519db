//! Upstreams that are there and say nothing any more: given up in time, and not asked again over
//! the same connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::program::Program;
use crate::harness::upstream::read_head;
use crate::harness::{Connection, Upstream, route};

/// How long it is waited for.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Answers what it is asked on a connection until that is `/last`; then it keeps the connection,
/// and neither reads nor writes.
async fn freezing() -> Upstream {
    Upstream::raw(|mut stream: TcpStream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
            stream.write_all(answer.as_bytes()).await.unwrap();
            if head.starts_with("GET /last ") {
                std::future::pending::<()>().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_freezes_is_504_in_time_and_the_next_request_gets_another_connection() {
    let large = vec![b'x'; 16 << 20];
    for (method, content) in [("GET", &b""[..]), ("POST", b"small"), ("POST", &large)] {
        let upstream = freezing().await;
        let more = "timeouts = { first_byte = \"500ms\", idle = \"500ms\" }\n";
        let config = format!("workers = 1\n{}", route(&upstream.url(), "", more));
        let program = Program::start(&config).await;
        let mut caller = Connection::open(program.address()).await;
        assert_eq!(caller.send("GET", "/first", &[], "").await.status, 200);
        assert_eq!(caller.send("GET", "/last", &[], "").await.status, 200);
        assert_eq!(upstream.connections(), 1);
        let begun = Instant::now();
        let mut other = Connection::open(program.address()).await;
        let reply = other.send(method, "/frozen", &[], content.to_vec()).await;
        let took = begun.elapsed();
        assert_eq!(reply.problem(504, "http_response_timeout"), "upstream-timeout", "{method}");
        assert!(took >= TIMEOUT, "{took:?}");
        eprintln!("{method} {}: {took:?}", content.len());
        assert_eq!(upstream.connections(), 1, "it went over the connection that was kept");
        assert_eq!(caller.send("GET", "/after", &[], "").await.status, 200);
        assert_eq!(upstream.connections(), 2, "over another");
    }
}

#[tokio::test]
async fn an_upstream_that_freezes_in_the_middle_of_its_answer_cuts_the_answer_off_in_time() {
    let upstream = Upstream::raw(|mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let config = route(&upstream.url(), "", "timeouts = { idle = \"500ms\" }\n");
    let program = Program::start(&config).await;
    for connections in 1..=2 {
        let begun = Instant::now();
        let mut caller = TcpStream::connect(program.address()).await.unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = caller.read_to_end(&mut answer).await;
        assert!(answer.ends_with(b"\r\n\r\nhalf"), "{answer:?}");
        assert!(begun.elapsed() >= TIMEOUT);
        assert_eq!(upstream.connections(), connections);
    }
}
