//! Upstreams and token endpoints over TLS.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign::app::StartError;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::harness::authority::{Authority, path};
use crate::harness::upstream::{Seen, answer, read_head, serve};
use crate::harness::{PATIENCE, Proxy, Upstream, plant, route, sha256, twinzo};

async fn upstream(acceptor: TlsAcceptor) -> (Upstream, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let record = Arc::clone(&seen);
    let upstream = Upstream::raw(move |stream| {
        let (acceptor, record) = (acceptor.clone(), Arc::clone(&record));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let fine = Arc::new(|_| std::future::ready(answer(200, "over TLS")));
                serve(stream, fine, record).await;
            }
        }
    })
    .await;
    (upstream, seen)
}

fn https(upstream: &Upstream) -> String {
    format!("https://localhost:{}", upstream.address().port())
}

async fn proxy(upstream: &Upstream, tls: &str) -> Proxy {
    let tls = format!("tls = {{ {tls} }}\n");
    Proxy::start(&route(&https(upstream), "", &tls)).await
}

#[tokio::test]
async fn a_certificate_of_the_configured_authority_is_accepted() {
    let authority = Authority::new();
    let (upstream, seen) = upstream(authority.server("localhost", None)).await;
    let proxy = proxy(&upstream, &authority.trusted()).await;
    for _ in 0..3 {
        let reply = proxy.send("POST", "/x?y", &[], "content").await;
        assert_eq!((reply.status, reply.text()), (200, "over TLS"));
    }
    let seen = seen.lock().unwrap().pop().unwrap();
    assert_eq!((seen.target.as_str(), &seen.body[..]), ("/x?y", &b"content"[..]));
    let host = format!("localhost:{}", upstream.address().port());
    assert_eq!(seen.values("host"), [host]);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (upstream, seen) = upstream(authority.server("localhost", None)).await;
    for tls in [String::new(), other.trusted()] {
        let proxy = proxy(&upstream, &tls).await;
        let reply = proxy.get("/").await;
        assert_eq!(reply.problem(502, "tls_certificate_error"), "upstream-certificate");
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_accepted() {
    let authority = Authority::new();
    let (upstream, seen) = upstream(authority.server("elsewhere.example", None)).await;
    let proxy = proxy(&upstream, &authority.trusted()).await;
    proxy.get("/").await.problem(502, "tls_certificate_error");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_certificate_is_presented_where_it_is_demanded() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (upstream, seen) = upstream(authority.server("localhost", Some(&clients))).await;
    let with = format!("{}, {}", authority.trusted(), clients.client());
    assert_eq!(proxy(&upstream, &with).await.get("/").await.status, 200);

    let strangers = Authority::new();
    let wrong = format!("{}, {}", authority.trusted(), strangers.client());
    for tls in [authority.trusted(), wrong] {
        let reply = proxy(&upstream, &tls).await.get("/").await;
        // With TLS 1.3 the refusal comes after the client's side of the handshake has ended.
        assert_eq!(reply.status, 502, "{reply:?}");
        assert!(reply.field("proxy-status").starts_with("countersign; error="));
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn replaced_files_count_for_new_connections() {
    let (authority, next) = (Authority::new(), Authority::new());
    let (clients, next_clients) = (Authority::new(), Authority::new());
    let (upstream, seen) = upstream(authority.server("localhost", Some(&clients))).await;
    let (other, _) = self::upstream(next.server("localhost", Some(&next_clients))).await;
    let tls = format!("{}, {}", authority.trusted(), clients.client());
    let tls = format!("tls = {{ {tls} }}\npool = {{ size = 0 }}\n");
    let twice = route(&https(&upstream), "", &format!("path = \"/one\"\n{tls}"))
        + &route(&https(&other), "", &format!("path = \"/two\"\n{tls}")).replace("all", "other");
    let proxy = Proxy::start(&twice).await;
    assert_eq!(proxy.get("/one").await.status, 200);
    assert_eq!(proxy.get("/two").await.status, 502);
    // The key does not fit its certificate for a while: what there was stays.
    let certificate = std::fs::read(clients.directory().join("client.pem")).unwrap();
    next_clients.client();
    let from = |name: &str| std::fs::read(next_clients.directory().join(name)).unwrap();
    std::fs::write(clients.directory().join("client.pem"), from("client.pem")).unwrap();
    assert_ne!(certificate, from("client.pem"));
    assert_eq!(proxy.get("/one").await.status, 200);
    std::fs::write(clients.directory().join("client.key"), from("client.key")).unwrap();
    let ca = std::fs::read(next.ca()).unwrap();
    std::fs::write(authority.ca(), ca).unwrap();
    let give_up_at = tokio::time::Instant::now() + PATIENCE;
    while proxy.get("/two").await.status != 200 {
        assert!(tokio::time::Instant::now() < give_up_at, "the new files are never used");
    }
    assert_eq!(proxy.get("/one").await.status, 502);
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn files_that_cannot_be_used_keep_the_proxy_from_starting() {
    let authority = Authority::new();
    let empty = authority.write("empty.pem", "");
    let missing = authority.directory().join("missing.pem");
    for file in [empty, missing] {
        let tls = format!("tls = {{ ca = {} }}\n", path(&file));
        let config = route("https://localhost:1", "", &tls);
        match Proxy::try_start(&config).await {
            Err(error @ StartError::Tls { .. }) => {
                let text = error.to_string();
                assert!(text.contains(file.to_str().unwrap()), "{text}");
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it must not start"),
        }
    }
}

#[tokio::test]
async fn a_login_goes_over_tls_that_the_credential_trusts() {
    let stand_in = twinzo().await;
    let authority = Authority::new();
    let acceptor = authority.server("localhost", None);
    let behind = stand_in.address();
    let front = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut behind = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            }
        }
    })
    .await;
    let tls = format!("[credential.plant.tls]\n{}\n", authority.trusted());
    let config = plant(&https(&front), &tls) + &route(&stand_in.url(), "plant", "");
    let trusting = Proxy::start(&config).await;
    assert_eq!(trusting.get("/v3/devices").await.status, 200);

    let config = plant(&https(&front), "") + &route(&stand_in.url(), "plant", "");
    let doubting = Proxy::start(&config).await;
    let reply = doubting.get("/v3/devices").await;
    reply.problem(503, "destination_unavailable");
    assert_eq!(stand_in.recorder().logins(), 1);
}

/// Content that fits into no buffer of the system's.
const LARGE: usize = 8 << 20;

#[tokio::test]
async fn large_content_arrives_whole_at_an_upstream_that_reads_slowly() {
    let authority = Authority::new();
    let acceptor = authority.server("localhost", None);
    let upstream = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_head(&mut stream).await;
            let (mut content, mut piece) = (Vec::with_capacity(LARGE), vec![0; 4 << 10]);
            while content.len() < LARGE {
                let Ok(length @ 1..) = stream.read(&mut piece).await else { return };
                content.extend_from_slice(&piece[..length]);
                // Others first.
                tokio::task::yield_now().await;
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 64\r\n\r\n{}",
                sha256(&content)
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let proxy = proxy(&upstream, &authority.trusted()).await;
    let content: Bytes = (0..LARGE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    for method in ["PUT", "POST"] {
        let reply = proxy.send(method, "/x", &[], content.clone()).await;
        assert_eq!((reply.status, reply.text()), (200, sha256(&content).as_str()), "{method}");
    }
}
