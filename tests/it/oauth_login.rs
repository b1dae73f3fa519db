//! The login of a person on another device: the command, what it keeps, and what becomes of that.

use std::fs;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign::proxy::identity::Cache;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::harness::authority::path;
use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::program::{BINARY, Program};
use crate::harness::python::{Server, has};
use crate::harness::upstream::answer;
use crate::harness::{
    Connection, PATIENCE, Proxy, Reply, Upstream, private_directory, quoted, route, secret, until,
};

/// A directory with the configuration, the secrets and the store.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(private_directory());
        place.write("key", "canary-key-0123456789abcdef");
        place.write("client", "canary-client-secret");
        place
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn file(&self, name: &str) -> String {
        path(&self.0.path().join(name))
    }

    fn store(&self) -> String {
        let (path, key) = (self.file("tokens"), self.file("key"));
        format!("[token_store]\nkind = \"file\"\npath = {path}\nkey = {{ file = {key} }}\n")
    }

    /// The store and `[credential.api]`, which finds the server as `at` says; `more` goes below it.
    fn config(&self, at: &str, more: &str) -> String {
        format!(
            "{}[credential.api]\nkind = \"oauth2\"\ngrant = \"device_code\"\n\
             client_id = \"gateway\"\n{at}\n{more}\n",
            self.store()
        )
    }

    /// The same for a scripted server, with a secret, and a route to `upstream`.
    fn scripted(&self, server: &AuthorizationServer, upstream: &Upstream) -> String {
        let client = format!("client_secret = {{ file = {} }}\n", self.file("client"));
        self.config(&places(server), &client) + &route(&upstream.url(), "api", "")
    }

    /// A command with a configuration that says `text`, begun.
    fn begin(&self, text: &str, arguments: &[&str]) -> Running {
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        self.write("countersign.toml", &format!("{text}\n{listen}"));
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.0.path().join("countersign.toml"));
        command.env("NO_COLOR", "1").env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Running { child: command.spawn().unwrap(), told: String::new() }
    }

    async fn run(&self, text: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        self.begin(text, arguments).end().await
    }
}

fn places(server: &AuthorizationServer) -> String {
    let (token, begin) = (server.token_url(), server.device_authorization_url());
    format!("token_url = {}\ndevice_authorization_url = {}", quoted(&token), quoted(&begin))
}

/// A command that runs.
struct Running {
    child: Child,
    /// What it has written to standard output so far.
    told: String,
}

impl Running {
    /// Waits until it has written `text` to standard output.
    async fn tells(&mut self, text: &str) {
        let mut stdout = BufReader::new(self.child.stdout.as_mut().unwrap());
        while !self.told.contains(text) {
            let mut byte = [0];
            let read = timeout(PATIENCE, stdout.read(&mut byte)).await.expect("it says nothing");
            assert_ne!(read.unwrap(), 0, "it says no '{text}': {}", self.told);
            self.told.push(char::from(byte[0]));
            if stdout.buffer().is_empty() && self.told.contains(text) {
                break;
            }
        }
        let rest = stdout.buffer().to_vec();
        self.told.push_str(&String::from_utf8(rest).unwrap());
    }

    fn interrupt(&self) {
        let id = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Status, standard output and standard error.
    async fn end(self) -> (Option<i32>, String, String) {
        let output: Output =
            timeout(PATIENCE, self.child.wait_with_output()).await.expect("it hangs").unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let stdout = self.told + &text(&output.stdout);
        let stderr = text(&output.stderr);
        assert!(!stdout.contains("canary") && !stderr.contains("canary"), "{stdout}{stderr}");
        (output.status.code(), stdout, stderr)
    }
}

async fn get(program: &Program, target: &str) -> Reply {
    Connection::open(program.address()).await.send("GET", target, &[], "").await
}

async fn terminate(mut program: Program) {
    program.signal("-TERM");
    assert!(program.ended().await.success(), "{:#?}", program.log());
}

/// Waits until a token has ended that lives so many seconds.
async fn over(seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    until("the token has ended", || Instant::now() > end).await;
}

fn said(program: &Program, text: &str) -> bool {
    program.log().iter().any(|line| line.to_string().contains(text))
}

fn tokens(token: &str, refresh_token: &str, lives: u64) -> Scripted {
    Scripted::json(
        200,
        &json!({
            "access_token": token, "token_type": "Bearer", "expires_in": lives,
            "refresh_token": refresh_token,
        }),
    )
}

/// Replaces the refresh token at each use; the login is approved when it is told so. The first
/// access token is over at once, later ones live an hour.
async fn rotating(approved: &Arc<AtomicBool>) -> AuthorizationServer {
    let approved = Arc::clone(approved);
    let next = std::sync::Mutex::new(1);
    AuthorizationServer::answering(move |asked| {
        let mut next = next.lock().unwrap();
        let good = format!("canary-refresh-{next}");
        match asked.get("refresh_token") {
            None if !approved.load(Ordering::SeqCst) => Scripted::error("authorization_pending"),
            None => tokens("canary-token-1", &good, 1),
            Some(token) if token == good => {
                *next += 1;
                let token = format!("canary-token-{next}");
                tokens(&token, &format!("canary-refresh-{next}"), 3600)
            }
            Some(_) => Scripted::error("invalid_grant"),
        }
    })
    .await
}

#[tokio::test]
async fn a_person_logs_in_once_and_the_program_goes_on_from_there() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let approved = Arc::new(AtomicBool::new(false));
    let server = rotating(&approved).await;
    let more = format!(
        "client_secret = {{ file = {} }}\nscope = [\"read\", \"offline_access\"]\naudience = \"x\"\n",
        place.file("client")
    );
    let config = place.config(&places(&server), &more) + &route(&upstream.url(), "api", "");

    let mut login = place.begin(&config, &["login", "api"]);
    login.tells("https://id.example.com/device?user_code=WDJB-MJHT\n").await;
    assert!(login.told.contains("\n    https://id.example.com/device\n"), "{}", login.told);
    assert!(login.told.contains("\n    WDJB-MJHT\n"), "{}", login.told);
    until("it has asked twice", || server.count() >= 2).await;
    assert!(login.child.try_wait().unwrap().is_none());
    approved.store(true, Ordering::SeqCst);
    let (status, stdout, stderr) = login.end().await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("Logged in for the credential 'api'"), "{stdout}");
    assert!(stdout.contains("lives 1 s and is renewed by itself"), "{stdout}");
    assert!(stderr.contains("Waiting for up to 10 min"), "{stderr}");
    let begun = &server.begun()[0];
    assert_eq!(begun.get("scope"), Some("read offline_access"));
    assert_eq!(begun.get("audience"), Some("x"));
    assert_eq!(begun.basic().0, "gateway");
    assert_eq!(begun.get("grant_type"), None);
    for asked in server.asked() {
        assert_eq!(asked.grant(), "urn:ietf:params:oauth:grant-type:device_code");
        assert_eq!(asked.get("device_code"), Some("canary-device-code-1"));
        assert_eq!(asked.get("scope"), None);
        assert_eq!(asked.basic().0, "gateway");
    }

    // The refresh token is good when the other has ended.
    over(1).await;
    let before = server.count();
    for start in 0..3 {
        let program = Program::start(&config).await;
        assert_eq!(get(&program, "/x").await.status, 200, "{:#?}", program.log());
        assert_eq!(upstream.last().values("authorization"), ["Bearer canary-token-2"]);
        assert_eq!(server.count(), before + 1, "start {start}");
        assert!(!said(&program, "canary"), "{:#?}", program.log());
        terminate(program).await;
        // Another secret of the client makes no other login of it.
        place.write("client", &format!("canary-client-secret-{start}"));
    }
    assert_eq!(server.last().get("refresh_token"), Some("canary-refresh-1"));
    let stored = fs::read(place.0.path().join("tokens")).unwrap();
    assert!(!stored.windows(6).any(|window| window == b"canary"));
}

#[tokio::test]
async fn without_a_login_requests_are_refused_and_whoever_runs_it_is_told_what_to_do() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::start().await;
    let config = place.scripted(&server, &upstream);
    let program = Program::start(&config).await;
    for _ in 0..3 {
        let reply = get(&program, "/x").await;
        assert_eq!(reply.problem(502, "proxy_configuration_error"), "credential-refused");
    }
    until("it is told", || said(&program, "run: countersign login api")).await;
    assert_eq!(server.count(), 0, "there is nothing to ask with");

    // The store is the program's.
    let (status, stdout, stderr) = place.run(&config, &["login", "api"]).await;
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    let holder = format!("is in use by process {} (countersign)", program.id());
    assert!(stderr.contains(&holder), "{stderr}");
    assert!(
        stderr.contains("stop that one, run `countersign login api`, and start it"),
        "{stderr}"
    );
    assert!(server.begun().is_empty(), "nobody is asked for anything in vain");
    assert!(upstream.seen().is_empty());
    terminate(program).await;

    server.say([Scripted::error("authorization_pending"), tokens("t1", "canary-r1", 3600)]);
    let (status, stdout, stderr) = place.run(&config, &["login", "api"]).await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer t1"]);
    terminate(program).await;
}

#[tokio::test]
async fn a_login_that_the_server_has_ended_is_told_and_a_new_one_mends_it() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::answering(|_| Scripted::error("invalid_grant")).await;
    let config = place.scripted(&server, &upstream);
    server.say([tokens("t1", "canary-r1", 1)]);
    assert_eq!(place.run(&config, &["login", "api"]).await.0, Some(0));
    over(1).await;
    let program = Program::start(&config).await;
    let ended = "the login has ended (the token endpoint answered invalid_grant)";
    until("it is told", || said(&program, ended)).await;
    let reply = get(&program, "/x").await;
    assert_eq!(reply.problem(502, "proxy_configuration_error"), "credential-refused");
    until("it is told", || said(&program, "run: countersign login api")).await;
    assert_eq!(server.last().get("refresh_token"), Some("canary-r1"));
    assert_eq!(server.count(), 2, "once");
    terminate(program).await;
    server.say([Scripted::token("t2")]);
    let (status, stdout, _) = place.run(&config, &["login", "api"]).await;
    assert_eq!(status, Some(0));
    assert!(stdout.contains("lasts 60 min: the server gave no refresh token"), "{stdout}");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    terminate(program).await;
}

/// The store must not lose the refresh token with the access token.
#[tokio::test]
async fn a_program_that_is_killed_while_a_refused_token_is_replaced_is_still_logged_in() {
    let place = Place::new();
    let refused = "Bearer canary-token-1";
    let upstream = Upstream::answering(move |seen| {
        let status = if seen.values("authorization") == [refused] { 401 } else { 200 };
        answer(status, "")
    })
    .await;
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let server = AuthorizationServer::answering(move |asked| {
        if is_down.load(Ordering::SeqCst) {
            return Scripted::new(503, "");
        }
        match asked.get("refresh_token") {
            None => tokens("canary-token-1", "canary-refresh-1", 3600),
            Some("canary-refresh-1") => tokens("canary-token-2", "canary-refresh-2", 3600),
            Some(_) => Scripted::error("invalid_grant"),
        }
    })
    .await;
    let config = place.scripted(&server, &upstream);
    assert_eq!(place.run(&config, &["login", "api"]).await.0, Some(0));
    down.store(true, Ordering::SeqCst);
    let mut program = Program::start(&config).await;
    assert_ne!(get(&program, "/x").await.status, 200);
    until("it tries to renew", || server.count() >= 2).await;
    program.signal("-KILL");
    program.ended().await;
    down.store(false, Ordering::SeqCst);
    let before = upstream.seen().len();
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200, "{:#?}", program.log());
    let seen = upstream.seen();
    assert_eq!(seen[before].values("authorization"), ["Bearer canary-token-2"], "at once");
    terminate(program).await;
}

#[tokio::test]
async fn what_ends_a_login_is_told_and_nothing_is_kept() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::start().await;
    let config = place.scripted(&server, &upstream);
    let pending = || Scripted::error("authorization_pending");
    for (last, text) in [
        (Scripted::error("access_denied"), "nobody is logged in: the login was declined"),
        (Scripted::error("expired_token"), "For a new code, run: countersign login api"),
        (Scripted::error("invalid_grant"), "the code is not good any more"),
        (Scripted::error("invalid_client"), "it answered invalid_client; check 'client_id'"),
        (Scripted::new(200, "<html>canary"), "it is not JSON"),
    ] {
        server.say([pending(), last]);
        let (status, _, stderr) = place.run(&config, &["login", "api"]).await;
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
    let begin = |change: &dyn Fn(&mut Value)| {
        let mut reply = json!({
            "device_code": "canary", "user_code": "A-B", "expires_in": 600, "interval": 1,
            "verification_uri": "https://id.example.com/device",
        });
        change(&mut reply);
        Scripted::json(200, &reply)
    };
    let asked = server.count();
    for (beginning, text) in [
        (begin(&|reply| reply["expires_in"] = json!(1)), "has expired before anybody"),
        (begin(&|reply| reply["user_code"] = json!("A\u{1b}[31mB")), "'/user_code'"),
        (
            begin(&|reply| reply["verification_uri"] = json!("http://id.example.com")),
            "the page at '/verification_uri' is not https",
        ),
        (Scripted::error("unauthorized_client"), "the client may not use this grant"),
        (Scripted::new(404, "canary"), "the token endpoint answered 404"),
    ] {
        server.begin_with(beginning);
        let (status, stdout, stderr) = place.run(&config, &["login", "api"]).await;
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains(text), "{text}: {stderr}");
        assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'));
    }
    assert_eq!(server.count(), asked, "no token is asked for");
    let program = Program::start(&config).await;
    get(&program, "/x").await.problem(502, "proxy_configuration_error");
    terminate(program).await;
}

#[tokio::test]
async fn an_interrupt_ends_it_at_once_and_leaves_the_store_in_order() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::answering(|_| Scripted::error("authorization_pending")).await;
    let config = place.scripted(&server, &upstream);
    let mut login = place.begin(&config, &["login", "api"]);
    login.tells("WDJB-MJHT").await;
    login.interrupt();
    let (status, _, stderr) = login.end().await;
    assert_eq!(status, Some(1));
    assert!(stderr.contains("it was ended; nobody is logged in"), "{stderr}");
    server.say([tokens("t1", "r1", 3600)]);
    assert_eq!(place.run(&config, &["login", "api"]).await.0, Some(0));
}

#[tokio::test]
async fn the_other_commands_do_not_touch_the_login() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::start().await;
    let config = place.scripted(&server, &upstream);
    let (status, stdout, stderr) = place.run(&config, &["check", "--live"]).await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    let line = "credential api: the secrets are there; it needs the login of a person, which is \
                not tried here: countersign login api";
    assert!(stdout.contains(line), "{stdout}");
    let (status, stdout, stderr) = place.run(&config, &["fetch", "api"]).await;
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("a person logs in with: countersign login api"), "{stderr}");
    let (status, stdout, _) = place.run(&config, &["check", "--print"]).await;
    assert_eq!(status, Some(0));
    assert!(stdout.contains("grant = \"device_code\""), "{stdout}");
    assert!(stdout.contains("device_authorization_url = "), "{stdout}");
    let (status, stdout, _) = place.run(&config, &["explain", "GET", "/x"]).await;
    assert_eq!(status, Some(0));
    assert!(stdout.contains("<access token from the authorization server>"), "{stdout}");

    let other = format!(
        "[credential.api]\nkind = \"bearer\"\ntoken = {}\n{}",
        secret("t"),
        route(&upstream.url(), "api", "")
    );
    let (status, _, stderr) = place.run(&other, &["login", "api"]).await;
    assert_eq!(status, Some(2));
    assert!(stderr.contains("nobody logs in for the credential 'api'"), "{stderr}");
    let (status, _, stderr) = place.run(&config, &["login", "apo"]).await;
    assert_eq!(status, Some(2));
    assert!(stderr.contains("there is no credential 'apo'; did you mean 'api'?"), "{stderr}");
    place.write("client", "");
    let (status, stdout, _) = place.run(&config, &["check", "--live"]).await;
    assert_eq!(status, Some(1));
    assert!(stdout.contains("failed: credential api: the secret in the file"), "{stdout}");
    assert_eq!((server.count(), server.begun().len()), (0, 0));
}

#[tokio::test]
async fn the_metadata_of_the_issuer_say_where_a_login_begins() {
    let (place, upstream) = (Place::new(), Upstream::fine().await);
    let server = AuthorizationServer::start().await;
    let at = format!("issuer = {}", quoted(&server.url()));
    let config = place.config(&at, "") + &route(&upstream.url(), "api", "");
    let metadata = |device_authorization_endpoint: Option<String>| {
        Scripted::json(
            200,
            &json!({
                "issuer": server.url(),
                "token_endpoint": server.token_url(),
                "device_authorization_endpoint": device_authorization_endpoint,
            }),
        )
    };
    let well_known = "/.well-known/oauth-authorization-server";
    server.publish(well_known, metadata(None));
    let (status, _, stderr) = place.run(&config, &["login", "api"]).await;
    assert_eq!(status, Some(1));
    assert!(stderr.contains("'device_authorization_endpoint' is missing or not https"), "{stderr}");
    server.publish(well_known, metadata(Some(server.device_authorization_url())));
    let (status, stdout, stderr) = place.run(&config, &["login", "api"]).await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    // A public client says who it is, and nothing more.
    let (begun, asked) = (server.begun().pop().unwrap(), server.last());
    for request in [begun, asked] {
        assert_eq!(request.get("client_id"), Some("gateway"));
        assert!(request.seen.values("authorization").is_empty());
    }
    assert_eq!(server.metadata_asked(), [well_known; 2], "once for each command");
}

/// Says yes at nanoidp's page, as a browser would.
async fn approve(server: &Server, code: &str) {
    let body =
        format!("user_code={code}&username=robot&password=p%26w%3D1+%2B%25&action=authorize");
    let address = server.url().strip_prefix("http://").unwrap().parse().unwrap();
    let mut connection = Connection::open(address).await;
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = connection.send("POST", "/device", &fields, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().to_lowercase().contains("authorized"), "{}", reply.text());
}

#[tokio::test]
async fn nanoidp_logs_a_person_in_and_replaces_the_refresh_token() {
    let name = "nanoidp_logs_a_person_in_and_replaces_the_refresh_token";
    if !has(name, "nanoidp").await {
        return;
    }
    let directory = private_directory();
    let server = Server::start("oauth_idp.py", &[directory.path().to_str().unwrap()]).await;
    let place = Place::new();
    let more = "scope = [\"openid\", \"offline_access\"]\n[credential.api.refresh]\n\
                min_interval = \"1ms\"\n";
    let config = place
        .config(&format!("issuer = {}", quoted(&server.url())), more)
        .replace("\"gateway\"", "\"public\"")
        + &route(&server.url(), "api", "");
    let mut login = place.begin(&config, &["login", "api"]);
    login.tells("?user_code=").await;
    let page = format!("\n    {}/device\n", server.url());
    assert!(login.told.contains(&page), "{}", login.told);
    let code = login.told.split("user_code=").nth(1).unwrap();
    let code = code.split_whitespace().next().unwrap().to_owned();
    approve(&server, &code).await;
    let (status, stdout, stderr) = login.end().await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("lives 60 min and is renewed by itself"), "{stdout}");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/userinfo").await.status, 200, "{:#?}", program.log());
    terminate(program).await;
    // Each start renews, with what the one before was given in its place.
    for start in 1..=3 {
        let proxy = Proxy::start(&config).await;
        let reply = proxy.get("/userinfo").await;
        assert_eq!(reply.status, 200, "start {start}");
        let claims: Value = serde_json::from_str(reply.text()).unwrap();
        assert_eq!(claims["sub"], "robot");
        let Cache::One(cache) = &proxy.identity("api").cache else { panic!("of devices") };
        let issued = cache.get().await.unwrap();
        proxy.identity("api").cache.reject(None, &issued);
        let renewed = cache.get().await.unwrap();
        assert!(!Arc::ptr_eq(&issued, &renewed), "start {start}");
        assert_eq!(proxy.get("/userinfo").await.status, 200, "start {start}");
        proxy.stop().await;
    }
}
