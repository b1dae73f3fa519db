//! TLS on listeners: certificates, those of callers, and their renewal.

use std::net::SocketAddr;
use std::path::Path;

use rcgen::SanType;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::authority::{Authority, for_clients, path};
use crate::harness::client::{parse, raw, request, whole};
use crate::harness::{Connection, Http2, PATIENCE, Proxy, Reply, Upstream, route, skip, until};

/// Where the proxy's certificate and key are.
fn files(authority: &Authority) -> String {
    let at = |name: &str| path(&authority.directory().join(name));
    format!("certificate = {}, key = {}", at("server.pem"), at("server.key"))
}

/// A listener with a certificate for localhost; `more` goes into its `tls`.
fn listener(authority: &Authority, more: &str) -> String {
    authority.write_server("localhost");
    format!("[[listen]]\naddress = \"127.0.0.1:0\"\ntls = {{ {}{more} }}\n", files(authority))
}

fn asking(clients: &Authority) -> String {
    format!(", client_ca = {}", path(&clients.ca()))
}

async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    timeout(PATIENCE, connector.connect(name, tcp)).await.expect("no end of the handshake")
}

/// One request over a connection of its own; `None` if it is refused before there is an answer.
async fn get(connector: &TlsConnector, address: SocketAddr, target: &str) -> Option<Reply> {
    let stream = connect(connector, address).await.ok()?;
    let host = format!("localhost:{}", address.port());
    let mut connection = Connection::over(stream, &host).await;
    connection.try_send(request("GET", target, &[], whole(""))).await.ok()
}

#[tokio::test]
async fn callers_speak_http_1_and_2_over_tls() {
    let authority = Authority::new();
    let upstream = Upstream::fine().await;
    let config = listener(&authority, "") + &route(&upstream.url(), "", "");
    let proxy = Proxy::start(&config).await;
    let reply = get(&authority.connector(None, &[]), proxy.address(), "/one").await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.last().target, "/one");

    let connector = authority.connector(None, &["h2", "http/1.1"]);
    let stream = connect(&connector, proxy.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let http2 = Http2::over(stream, proxy.address()).await;
    assert_eq!(http2.get("/two").await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.target.as_str(), seen.values("host")), ("/two", vec![&*upstream.authority()]));
    assert!(seen.values("via")[0].starts_with("2 countersign"), "{:?}", seen.values("via"));
}

#[tokio::test]
async fn a_listener_for_one_version_negotiates_no_other() {
    let authority = Authority::new();
    let upstream = Upstream::fine().await;
    for (protocol, negotiated) in [("http1", &b"http/1.1"[..]), ("http2", b"h2"), ("auto", b"h2")] {
        let listen = listener(&authority, "") + &format!("protocol = \"{protocol}\"\n");
        let proxy = Proxy::start(&(listen + &route(&upstream.url(), "", ""))).await;
        let connector = authority.connector(None, &["h2", "http/1.1"]);
        let stream = connect(&connector, proxy.address()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(negotiated), "{protocol}");
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let authority = Authority::new();
    let upstream = Upstream::fine().await;
    let config = listener(&authority, "") + &route(&upstream.url(), "", "");
    let proxy = Proxy::start(&config).await;
    let answer = raw(proxy.address(), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let reply = parse(&answer);
    assert_eq!(reply.problem(400, "http_request_error"), "malformed");
    assert!(reply.text().contains("speaks TLS"), "{}", reply.text());
    // Nothing at all, and no HTTP at all, are borne with as well.
    drop(TcpStream::connect(proxy.address()).await.unwrap());
    raw(proxy.address(), "\x16\x03\x01\x02garbage that is no handshake").await;
    assert!(upstream.seen().is_empty());
    assert!(get(&authority.connector(None, &[]), proxy.address(), "/").await.is_some());
}

#[tokio::test]
async fn without_a_certificate_of_the_right_authority_nobody_calls() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::fine().await;
    let config = listener(&authority, &asking(&clients)) + &route(&upstream.url(), "", "");
    let proxy = Proxy::start(&config).await;
    let name = "device-01.example";
    // The last one is of the right authority, but for servers.
    let wrong = [None, Some(strangers.issue(name, for_clients)), Some(clients.issue(name, |_| {}))];
    for (at, own) in wrong.iter().enumerate() {
        let connector = authority.connector(own.as_ref(), &[]);
        assert!(get(&connector, proxy.address(), "/").await.is_none(), "{at}");
    }
    assert!(upstream.seen().is_empty());
    let connector = authority.connector(Some(&clients.issue(name, for_clients)), &[]);
    assert_eq!(get(&connector, proxy.address(), "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_route_is_for_the_certificates_that_it_names() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::fine().await;
    let listen = listener(&authority, &asking(&clients));
    let named = "path = \"/one\"\nclients = [\"device-01.example\", \"Anna\"]\n";
    let own = route(&upstream.url(), "", named);
    let plain = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let open = own.replace("\"all\"", "\"open\"").replace(named, "");
    let proxy = Proxy::start(&(listen + plain + &own + &open)).await;
    for (name, status) in [
        ("device-01.example", 200),
        ("Device-01.EXAMPLE", 200),
        ("device-02.example", 403),
        ("device-01.example.evil.test", 403),
    ] {
        let connector = authority.connector(Some(&clients.issue(name, for_clients)), &[]);
        let reply = get(&connector, proxy.address(), "/one/x").await.unwrap();
        assert_eq!(reply.status, status, "{name}");
        if status == 403 {
            assert_eq!(reply.problem(403, "http_request_denied"), "client");
        }
        assert_eq!(get(&connector, proxy.address(), "/two").await.unwrap().status, 200, "{name}");
    }
    // Through a listener that asks nobody, nobody is anybody.
    let mut connection = Connection::open(proxy.addresses()[1]).await;
    let reply = connection.send("GET", "/one/x", &[("x-client", "device-01.example")], "").await;
    assert_eq!(reply.problem(403, "http_request_denied"), "client");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (authority, next) = (Authority::new(), Authority::new());
    let upstream = Upstream::fine().await;
    let config = listener(&authority, "") + &route(&upstream.url(), "", "");
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let (old, new) = (authority.connector(None, &[]), next.connector(None, &[]));
    let kept = connect(&old, address).await.unwrap();
    let mut kept = Connection::over(kept, "localhost").await;
    assert!(get(&new, address, "/").await.is_none(), "not yet");

    // The certificate first, which does not fit the key that is there.
    next.write_server("localhost");
    let replace = |name: &str| {
        let (from, to) = (next.directory().join(name), authority.directory().join(name));
        std::fs::rename(from, to).unwrap();
    };
    replace("server.pem");
    assert!(get(&old, address, "/").await.is_some(), "what there was stays in use");
    replace("server.key");
    let mut tries = 0;
    while get(&new, address, "/").await.is_none() {
        tries += 1;
        assert!(tries < 2000, "the new one is not shown");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(get(&old, address, "/").await.is_none(), "the old one is gone");
    assert_eq!(kept.send("GET", "/", &[], "").await.status, 200, "open connections stay");
}

#[tokio::test]
async fn a_key_that_others_can_read_and_files_that_do_not_fit_keep_it_from_starting() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = listener(&authority, "") + &route("http://127.0.0.1:9", "", "");
    other.write_server("localhost");
    std::fs::copy(other.directory().join("server.key"), authority.directory().join("server.key"))
        .unwrap();
    let Err(error) = Proxy::try_start(&config).await else { panic!("it starts") };
    let error = error.to_string();
    assert!(error.contains("the listener at") && error.contains("KeyMismatch"), "{error}");
    #[cfg(unix)]
    {
        authority.write_server("localhost");
        open_to_all(authority.directory(), 0o755);
        open_to_all(&authority.directory().join("server.key"), 0o644);
        let Err(error) = Proxy::try_start(&config).await else { panic!("it starts") };
        let error = error.to_string();
        assert!(error.contains("server.key") && error.contains("every user"), "{error}");
        let config = format!("check_permissions = false\n{config}");
        assert!(Proxy::try_start(&config).await.is_ok());
    }
}

#[cfg(unix)]
fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_given_up() {
    let authority = Authority::new();
    let limits = "[limits]\nheader_timeout = \"100ms\"\n";
    let config =
        limits.to_owned() + &listener(&authority, "") + &route("http://127.0.0.1:9", "", "");
    let proxy = Proxy::start(&config).await;
    // The beginning of a record, and nothing more.
    for begun in ["\x16", "\x16\x03\x01\x02", ""] {
        raw(proxy.address(), begun).await;
    }
}

#[tokio::test]
async fn curl_is_served_over_tls_with_its_certificate() {
    let Ok(version) = std::process::Command::new("curl").arg("--version").output() else {
        return skip("curl_is_served_over_tls_with_its_certificate", "there is no curl");
    };
    assert!(version.status.success());
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::answering(|_| crate::harness::upstream::answer(200, "fine")).await;
    let config = listener(&authority, &asking(&clients)) + &route(&upstream.url(), "", "");
    let proxy = Proxy::start(&config).await;
    clients.client();
    let url = format!("https://localhost:{}/x", proxy.address().port());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = tokio::process::Command::new("curl");
        curl.args([flag, "-sS", "--max-time", "30", "-w", " %{http_version}", "--noproxy", "*"]);
        curl.arg("--cacert").arg(authority.ca());
        curl.arg("--cert").arg(clients.directory().join("client.pem"));
        curl.arg("--key").arg(clients.directory().join("client.key"));
        let output = curl.arg(&url).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, format!("fine {version}"), "{}", String::from_utf8_lossy(&output.stderr));
    }
    until("both arrived", || upstream.seen().len() == 2).await;
}

/// What a session remembers of a certificate is not looked at again.
#[tokio::test]
async fn who_has_to_show_a_certificate_shows_it_on_every_connection() {
    use rustls::HandshakeKind::{Full, Resumed};
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::fine().await;
    let own = clients.issue("device-01.example", for_clients);
    for (more, own, second) in
        [(String::new(), None, Resumed), (asking(&clients), Some(&own), Full)]
    {
        let config = listener(&authority, &more) + &route(&upstream.url(), "", "");
        let proxy = Proxy::start(&config).await;
        let connector = authority.connector(own, &[]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&connector, proxy.address()).await.unwrap();
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            // Tickets come behind the handshake. It ends as TLS ends, or this is an error.
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(parse(&answer).status, 200);
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [Full, second]);
    }
}

#[tokio::test]
async fn a_common_name_counts_only_where_nobody_vouches_for_another_name() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::fine().await;
    let config = listener(&authority, &asking(&clients))
        + &route(&upstream.url(), "", "clients = [\"device-01.example\"]\n");
    let proxy = Proxy::start(&config).await;
    let named = |alternative: &[&str]| {
        let alternative =
            alternative.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        clients.issue("device-01.example", |params| {
            for_clients(params);
            params.subject_alt_names = alternative.collect();
        })
    };
    for (alternative, status) in
        [(&["other.example"][..], 403), (&[], 200), (&["other.example", "device-01.example"], 200)]
    {
        let connector = authority.connector(Some(&named(alternative)), &[]);
        let reply = get(&connector, proxy.address(), "/").await.unwrap();
        assert_eq!(reply.status, status, "{alternative:?}");
    }
}
