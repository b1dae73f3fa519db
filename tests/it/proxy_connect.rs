//! Upstreams that are reached through an HTTP proxy (CONNECT).

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::authority::Authority;
use crate::harness::upstream::{Seen, answer, read_head, serve};
use crate::harness::{Connection, PATIENCE, Proxy, Reply, Upstream, quoted, route, secret};

/// A name that only the HTTP proxy knows.
const NAME: &str = "upstream.invalid";

/// An upstream over TLS.
async fn upstream(authority: &Authority) -> (Upstream, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let record = Arc::clone(&seen);
    let acceptor = authority.server(NAME, None);
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

/// An HTTP proxy that knows one place only, whatever it is asked for. Records the heads.
struct Tunnels {
    server: Upstream,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    /// Leads to `to`; who does not send `authorization` is answered 407.
    async fn start(to: SocketAddr, authorization: &'static str) -> Self {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = Arc::clone(&heads);
        let server =
            Upstream::raw(move |stream| tunnel(stream, to, authorization, Arc::clone(&record)))
                .await;
        Self { server, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The line of a route; `user` comes before the address.
    fn line(&self) -> String {
        format!("proxy = \"http://{}\"\n", self.server.address())
    }
}

async fn tunnel(
    mut stream: TcpStream,
    to: SocketAddr,
    authorization: &'static str,
    record: Arc<Mutex<Vec<String>>>,
) {
    let head = read_head(&mut stream).await;
    let field = format!("proxy-authorization: {}\r\n", authorization.to_ascii_lowercase());
    let admitted = authorization.is_empty() || head.to_ascii_lowercase().contains(&field);
    record.lock().unwrap().push(head);
    if !admitted {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                       Proxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nno";
        let _ = stream.write_all(refusal.as_bytes()).await;
        return;
    }
    let mut onward = TcpStream::connect(to).await.unwrap();
    let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    let _ = copy_bidirectional(&mut stream, &mut onward).await;
}

/// A route to the upstream; `more` says how to get there.
fn config(authority: &Authority, more: &str) -> String {
    let tls = format!("tls = {{ {} }}\n", authority.trusted());
    format!(
        "workers = 1\n[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n{}",
        secret("ours"),
        route(&format!("https://{NAME}"), "key", &(tls + more)),
    )
}

#[tokio::test]
async fn an_upstream_over_tls_is_reached_through_the_proxy() {
    let authority = Authority::new();
    let (upstream, seen) = upstream(&authority).await;
    let tunnels = Tunnels::start(upstream.address(), "").await;
    let proxy = Proxy::start(&config(&authority, &tunnels.line())).await;
    let mut connection = Connection::open(proxy.address()).await;
    for target in ["/one", "/two?x=%2F"] {
        let reply = connection.send("POST", target, &[], "content").await;
        assert_eq!((reply.status, reply.text()), (200, "over TLS"), "{target}");
        let last = seen.lock().unwrap().last().unwrap().clone();
        assert_eq!((last.target.as_str(), &last.body[..]), (target, &b"content"[..]));
        assert_eq!(last.values("host"), [NAME]);
        assert_eq!(last.values("x-key"), ["ours"]);
    }
    let heads = tunnels.heads();
    assert_eq!(heads.len(), 1, "the tunnel is kept: {heads:?}");
    assert!(heads[0].starts_with(&format!("CONNECT {NAME}:443 HTTP/1.1\r\n")), "{}", heads[0]);
    let head = heads[0].to_ascii_lowercase();
    assert!(head.contains(&format!("\r\nhost: {NAME}:443\r\n")), "{head}");
    for ours in ["x-key", "ours", "proxy-authorization"] {
        assert!(!head.contains(ours), "it is for the upstream alone: {head}");
    }
}

#[tokio::test]
async fn the_proxy_gets_its_user_and_password_and_the_upstream_does_not() {
    let authority = Authority::new();
    let (upstream, seen) = upstream(&authority).await;
    // "user:pass word"
    let tunnels = Tunnels::start(upstream.address(), "Basic dXNlcjpwYXNzIHdvcmQ=").await;
    let text = format!("{}\n[[listen]]\naddress = \"127.0.0.1:0\"\n", config(&authority, ""));
    let file = authority.write("login.toml", &text);
    let ask = async |login: &str| {
        let url = format!("http://{login}@{}", tunnels.server.address());
        let run = Run::start(&file, &[("HTTPS_PROXY", &url)]).await;
        Connection::open(run.address).await.send("GET", "/x", &[], "").await
    };
    assert_eq!(ask("user:pass%20word").await.text(), "over TLS");
    let last = seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(last.values("proxy-authorization"), [""; 0]);

    let reply = ask("user:canary").await;
    check_refusal(&reply, "wrong password");
    assert!(!reply.text().contains("canary"), "{}", reply.text());
    assert_eq!(reply.field("proxy-authenticate"), "", "that is not for the caller");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

/// An answer of ours that blames the proxy.
fn check_refusal(reply: &Reply, what: &str) {
    assert_eq!(reply.status, 502, "{what}: {reply:?}");
    assert!(reply.field("proxy-status").starts_with("countersign; error="), "{what}: {reply:?}");
    let detail = reply.json()["detail"].as_str().unwrap().to_ascii_lowercase();
    assert!(detail.contains("proxy"), "{what}: {detail}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_apart_from_the_upstream() {
    let authority = Authority::new();
    for answer in [
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
        "220 mail.example ESMTP\r\n\r\n",
        "HTTP/1.1 200 Connec",
        "",
    ] {
        let server = Upstream::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let line = format!("proxy = \"{}\"\n", server.url());
        let proxy = Proxy::start(&config(&authority, &line)).await;
        check_refusal(&proxy.get("/x").await, answer);
        check_refusal(&proxy.send("POST", "/x", &[], "content").await, answer);
    }
    let nobody = Upstream::fine().await.url();
    let proxy = Proxy::start(&config(&authority, &format!("proxy = \"{nobody}\"\n"))).await;
    check_refusal(&proxy.get("/x").await, "nobody listens");
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_given_up_in_time() {
    let authority = Authority::new();
    let server = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let line = format!("proxy = \"{}\"\ntimeouts = {{ connect = \"300ms\" }}\n", server.url());
    let proxy = Proxy::start(&config(&authority, &line)).await;
    let reply = proxy.get("/x").await;
    assert_eq!(reply.problem(504, "connection_timeout"), "upstream-connect-timeout");
}

#[tokio::test]
async fn what_a_proxy_leads_to_has_to_show_the_right_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (upstream, seen) = upstream(&other).await;
    let tunnels = Tunnels::start(upstream.address(), "").await;
    let proxy = Proxy::start(&config(&authority, &tunnels.line())).await;
    let reply = proxy.get("/x").await;
    assert_eq!(reply.problem(502, "tls_certificate_error"), "upstream-certificate");
    assert!(seen.lock().unwrap().is_empty());
}

/// `countersign run`, killed when dropped.
struct Run {
    _child: Child,
    address: SocketAddr,
}

impl Run {
    async fn start(config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]
        {
            command.env_remove(name);
        }
        command
            .args(["run", "--config"])
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("it does not start");
            let line = line.unwrap().expect("it has ended");
            // A report on the configuration comes first.
            let Ok(json) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if json["message"].as_str().unwrap().ends_with("listening") {
                let address = json["address"].as_str().unwrap();
                break address.trim_start_matches("http://").parse().unwrap();
            }
        };
        // What it says later goes nowhere, but has to go somewhere.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _child: child, address }
    }
}

/// The environment, what the route says, and whether the proxy is used.
type Case<'c> = (&'c [(&'c str, &'c str)], &'c str, bool);

#[tokio::test]
async fn the_environment_may_name_the_proxy_and_its_exceptions() {
    let authority = Authority::new();
    let (upstream, _) = upstream(&authority).await;
    let tunnels = Tunnels::start(upstream.address(), "").await;
    let url = tunnels.server.url();
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let through = [("HTTPS_PROXY", url.as_str())];
    let lower = [("https_proxy", url.as_str())];
    let other = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "elsewhere.invalid,127.0.0.1")];
    let name = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "elsewhere.invalid, upstream.invalid")];
    let domain = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", ".invalid")];
    let all = [("HTTPS_PROXY", url.as_str()), ("no_proxy", "*")];
    let nobody = Upstream::fine().await.url();
    let wrong = [("HTTPS_PROXY", nobody.as_str())];
    let cases: [Case<'_>; 9] = [
        (&[], "", false),
        (&through, "", true),
        (&lower, "", true),
        (&other, "", true),
        (&name, "", false),
        (&domain, "", false),
        (&all, "", false),
        (&through, "proxy = \"none\"\n", false),
        (&wrong, &tunnels.line(), true),
    ];
    for (environment, line, tunnelled) in cases {
        let what = format!("{environment:?} {line}");
        let text = format!("{}{listen}", config(&authority, line));
        let file = authority.write("countersign.toml", &text);
        let run = Run::start(&file, environment).await;
        let before = tunnels.heads().len();
        let mut connection = Connection::open(run.address).await;
        let reply = connection.send("GET", "/x", &[], "").await;
        assert_eq!(tunnels.heads().len() - before, usize::from(tunnelled), "{what}: {reply:?}");
        if tunnelled {
            assert_eq!(reply.text(), "over TLS", "{what}");
        } else {
            reply.problem(502, "dns_error");
        }
    }
}

#[test]
fn a_proxy_that_is_none_keeps_us_from_starting() {
    for proxy in [
        "https://127.0.0.1:1",
        "socks5://127.0.0.1:1",
        "http://user:password@127.0.0.1:1",
        "127.0.0.1",
        "http://",
        "no",
    ] {
        let line = format!("proxy = {}\n", quoted(proxy));
        let text = route("https://upstream.invalid", "", &line);
        let listen = "\n[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let loaded = countersign::config::load(&format!("{text}{listen}"), &|_| None);
        assert!(loaded.config.is_none(), "{proxy}");
        assert!(!loaded.problems.is_empty(), "{proxy}");
    }
}
