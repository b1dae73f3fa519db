//! A real browser with a hostile page: nothing that a page can send gets to an upstream, whatever
//! name it uses for us, and nothing of an upstream's gets to the page.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::program::Program;
use crate::harness::upstream::{Seen, answer, read_head};
use crate::harness::{Upstream, plant, quoted, secret, skip, twinzo, until};

const SCRIPT: &str = include_str!("browser/page.js");

/// In how many ways the page tries.
const WAYS: usize = 25;

/// What only who may read an answer of the upstream knows.
const CANARY: &str = "canary of the upstream";

/// Chromium with some pages. It and what it has started are killed when it is dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens `url`. Names that end in `.test` lead to this machine, all others nowhere.
    fn open(program: &str, url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-popup-blocking",
                "--disable-background-timer-throttling",
                "--disable-renderer-backgrounding",
                "--no-first-run",
                "--no-proxy-server",
                // The browser is to help as little as it can: all is to arrive and to be refused.
                "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,\
                 BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights,\
                 PrivateNetworkAccessForNavigations,PrivateNetworkAccessForWorkers,HttpsUpgrades,\
                 HttpsFirstBalancedModeAutoEnable",
                "--host-resolver-rules=MAP flip.test 127.0.0.2, MAP *.test 127.0.0.1, \
                 MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1, \
                 EXCLUDE 0.0.0.0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// The hostile pages' own server.
struct Hostile {
    server: Upstream,
    /// Where a page that has reported is sent.
    next: watch::Sender<BTreeMap<String, String>>,
    plans: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Hostile {
    async fn start() -> Self {
        let (next, goal) = watch::channel(BTreeMap::<String, String>::new());
        let plans: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let known = Arc::clone(&plans);
        let server = Upstream::serving(move |seen| {
            let mut goal = goal.clone();
            let plans = Arc::clone(&known);
            async move {
                let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
                let mut response = answer(200, "");
                match path {
                    "/page" => response = page(&plans.lock().unwrap()[query], query),
                    "/redirect" => {
                        response = answer(302, "");
                        let to = HeaderValue::from_str(query).unwrap();
                        response.headers_mut().insert("location", to);
                    }
                    "/report" => {
                        let next = goal.wait_for(|goal| goal.contains_key(query)).await;
                        *response.body_mut() = Full::from(next.unwrap()[query].clone());
                    }
                    _ => {}
                }
                let any = HeaderValue::from_static("*");
                response.headers_mut().insert("access-control-allow-origin", any);
                response
            }
        })
        .await;
        Self { server, next, plans }
    }

    /// The address of its pages under another name.
    fn named(&self, name: &str) -> String {
        format!("http://{name}:{}", self.server.address().port())
    }

    /// What the page `name` is to try.
    fn plan(&self, name: &str, targets: &BTreeMap<&str, String>) -> Value {
        let plan = json!({
            "as": name, "targets": targets, "home": self.named("home.test"), "patience": 10_000
        });
        self.plans.lock().unwrap().insert(name.to_owned(), plan.clone());
        plan
    }

    async fn has_begun(&self, name: &str) {
        let begun = format!("/begun?{name}");
        until("the page runs", || self.server.seen().iter().any(|seen| seen.target == begun)).await;
    }

    /// What a page has tried, and what it could read.
    async fn report(&self, name: &str) -> BTreeMap<String, Value> {
        let target = format!("/report?{name}");
        let found = |seen: &Seen| (seen.target == target).then(|| seen.body.clone());
        let mut report = None;
        until(&format!("the page '{name}' has tried everything"), || {
            report = self.server.seen().iter().find_map(found);
            report.is_some()
        })
        .await;
        let attempts: Vec<Value> = serde_json::from_slice(&report.unwrap()).unwrap();
        let attempt = |attempt: Value| {
            let path = format!("/{name}/{}", attempt["name"].as_str().unwrap());
            (path, attempt["read"].clone())
        };
        attempts.into_iter().map(attempt).collect()
    }

    /// Sends the page `from` on, once it has reported.
    fn go_on(&self, from: &str, url: &str) {
        self.next.send_modify(|next| drop(next.insert(from.to_owned(), url.to_owned())));
    }
}

/// A page that follows `plan`.
fn page(plan: &Value, name: &str) -> Response<Full<Bytes>> {
    let html = format!("<!doctype html><body><script>const plan = {plan};\n{SCRIPT}</script>");
    let mut response = Response::new(Full::from(html));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    if name == "opaque" {
        let sandbox = "sandbox allow-scripts allow-forms allow-popups";
        headers.insert("content-security-policy", HeaderValue::from_static(sandbox));
    }
    response
}

/// DNS rebinding, as a browser sees it: a name and port that first lead to a server with a page,
/// and then to the proxy.
struct Rebinding {
    turned: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Rebinding {
    /// Shows a page that follows `plan` on the port of `proxy` of another address.
    async fn start(proxy: SocketAddr, plan: &Value) -> Self {
        let listener = TcpListener::bind(("127.0.0.2", proxy.port())).await.unwrap();
        let html = format!("<!doctype html><body><script>const plan = {plan};\n{SCRIPT}</script>");
        let page = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{html}",
            html.len()
        );
        let turned = Arc::new(AtomicBool::new(false));
        let turn = Arc::clone(&turned);
        let task = tokio::spawn(async move {
            loop {
                let (mut caller, _) = listener.accept().await.unwrap();
                let (turn, page) = (Arc::clone(&turn), page.clone());
                tokio::spawn(async move {
                    // Browsers connect before they know what for.
                    if caller.peek(&mut [0]).await.is_err() {
                        return;
                    }
                    if turn.load(Ordering::SeqCst) {
                        let mut proxy = TcpStream::connect(proxy).await.unwrap();
                        let _ = copy_bidirectional(&mut caller, &mut proxy).await;
                    } else {
                        read_head(&mut caller).await;
                        let _ = caller.write_all(page.as_bytes()).await;
                        let _ = caller.shutdown().await;
                    }
                });
            }
        });
        Self { turned, task }
    }

    /// From now on the name leads to the proxy.
    fn turn(&self) {
        self.turned.store(true, Ordering::SeqCst);
    }
}

impl Drop for Rebinding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An upstream that lets every page read what it says, so that nothing but the proxy is in the way.
async fn careless() -> Upstream {
    Upstream::answering(|seen| {
        let mut response = answer(200, CANARY);
        let headers = response.headers_mut();
        for (name, value) in [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, POST, PUT"),
            ("access-control-allow-headers", "x-forwarded-host"),
            ("access-control-allow-private-network", "true"),
            ("content-type", "text/event-stream"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let origin = seen.headers.get("origin").cloned();
        let any = HeaderValue::from_static("*");
        headers.insert("access-control-allow-origin", origin.unwrap_or(any));
        response
    })
    .await
}

/// The lines per request by path.
fn arrived(program: &Program) -> BTreeMap<String, Vec<Value>> {
    let mut arrived: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in program.requests() {
        arrived.entry(line["path"].as_str().unwrap().to_owned()).or_default().push(line);
    }
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_page_in_a_browser_reaches_no_upstream_and_reads_nothing() {
    let test = "a_hostile_page_in_a_browser_reaches_no_upstream_and_reads_nothing";
    let candidates = ["chromium", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|at| at.join(name).is_file());
    let Some(browser) = candidates.into_iter().find(there) else {
        skip(test, "there is no chromium (.ci/run installs it)");
        return;
    };
    let (upstream, stand_in, hostile) = (careless().await, twinzo().await, Hostile::start().await);
    let six = match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => "[[listen]]\naddress = \"[::1]:0\"\n",
        // A machine without IPv6.
        Err(_) => "",
    };
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\norigins = [{origin}]\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\nhosts = [\"gateway.test\"]\ncaller_token = {token}\n\
         {six}{}[[route]]\nupstream = {}\ncredential = \"plant\"\nwebsocket = true\n",
        plant(&stand_in.url(), "refresh = { eager = false }"),
        quoted(&upstream.url()),
        origin = quoted(&hostile.named("listed.test")),
        token = secret("caller-token"),
    );
    let program = Program::start(&config).await;
    let [one, guarded] = [program.addresses()[0], program.addresses()[1]];
    let port = one.port();
    let at = |host: &str, address: SocketAddr| format!("http://{host}:{}", address.port());
    let mut targets = BTreeMap::from([
        ("address", format!("http://{one}")),
        ("localhost", at("localhost", one)),
        ("rebound", at("rebind.test", one)),
        ("guarded", at("gateway.test", guarded)),
        ("zero", format!("http://0.0.0.0:{port}")),
    ]);
    if let Some(six) = program.addresses().get(2) {
        targets.insert("six", format!("http://{six}"));
    }
    // A page of another site, one of another server on this machine, one that is nobody's.
    let pages = [("evil", "evil.test"), ("same-site", "localhost"), ("opaque", "evil.test")];
    for (name, _) in pages {
        hostile.plan(name, &targets);
    }
    let itself = BTreeMap::from([("itself", format!("http://flip.test:{port}"))]);
    let rebinding = Rebinding::start(one, &hostile.plan("flip", &itself)).await;
    let only = BTreeMap::from([("address", format!("http://{one}"))]);
    hostile.plan("listed", &only);

    let page = |name: &str, host: &str| format!("{}/page?{name}", hostile.named(host));
    let _browser = Browser::open(browser, &page("evil", "evil.test"));
    let mut read = hostile.report("evil").await;
    hostile.go_on("evil", &page("same-site", "localhost"));
    read.append(&mut hostile.report("same-site").await);
    hostile.go_on("same-site", &page("opaque", "evil.test"));
    read.append(&mut hostile.report("opaque").await);
    // The name leads to the page's server first, and to the proxy when the page runs.
    hostile.go_on("opaque", &format!("http://flip.test:{port}/"));
    hostile.has_begun("flip").await;
    rebinding.turn();
    let rebound = hostile.report("flip").await;
    assert_eq!(read.len(), 3 * targets.len() * WAYS, "{read:#?}");
    assert_eq!(rebound.len(), WAYS, "{rebound:#?}");

    // All of it has come, and all has been refused.
    let mut paths: BTreeSet<&String> = read.keys().chain(rebound.keys()).collect();
    // Browsers are free not to go there at all.
    paths.retain(|path| !path.contains("/zero/"));
    until("every attempt has arrived", || {
        let arrived = arrived(&program);
        paths.iter().all(|path| arrived.contains_key(*path))
    })
    .await;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for line in program.requests() {
        let reason = line["reason"].as_str().unwrap();
        let status = line["status"].as_u64().unwrap();
        let expected = [("host", 421), ("origin", 403), ("caller-token-missing", 401)];
        assert!(expected.contains(&(reason, status)), "{line}");
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    eprintln!("refused: {reasons:?}");
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(upstream.seen().is_empty(), "{:#?}", upstream.seen());
    assert!(stand_in.recorder().all().is_empty(), "nobody logs in");
    for (path, read) in &read {
        assert!(read.is_null(), "{path}: {read}");
    }
    // Under the page's own name the browser shows it what we say, which is no more than this.
    for (path, read) in &rebound {
        if let Some(read) = read.as_str() {
            let refusal = "this Host is not accepted here";
            assert!(read.contains(refusal) && !read.contains(CANARY), "{path}: {read}");
        }
    }
    assert!(rebound["/flip/itself/fetch"].is_string(), "the name has led here");

    // A page that is listed gets there by the same ways, so none of this fails for another reason.
    hostile.go_on("flip", &page("listed", "listed.test"));
    let listed = hostile.report("listed").await;
    for way in ["fetch", "fetch-post-cors", "fetch-put", "xhr", "xhr-post"] {
        assert_eq!(listed[&format!("/listed/address/{way}")], CANARY, "{way}");
    }
    let seen = upstream.seen();
    for (method, way) in [("GET", "fetch"), ("POST", "form-post"), ("OPTIONS", "fetch-put")] {
        let target = format!("/listed/address/{way}");
        let found = seen.iter().find(|seen| seen.method == method && seen.target == target);
        let found = found.unwrap_or_else(|| panic!("{method} {way} does not arrive: {seen:#?}"));
        assert_eq!(found.values("token").len(), 1, "with the credential");
    }
}
