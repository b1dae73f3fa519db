//! Going over to another configuration while requests are served.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use countersign::control::{Cause, Outcome};
use countersign::mock::Failure;
use countersign::mock::twinzo::{Account, Options};

use crate::harness::client::{from_channel, request};
use crate::harness::{
    ANY_PORT, ConfigFile, Connection, Proxy, Reply, Upstream, is_data, plant, plant_with_password,
    private_directory, quoted, route, secret, twinzo, until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A route of that name for what is below it; `more` goes below it.
fn at(name: &str, upstream: &str, more: &str) -> String {
    let upstream = quoted(upstream);
    format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = {upstream}\n{more}\n")
}

/// An API key as a credential.
fn key(name: &str, value: &str) -> String {
    format!("[credential.{name}]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n", secret(value))
}

async fn post(proxy: &Proxy, target: &str, fields: &[(&str, &str)]) -> Reply {
    let mut connection = Connection::open(proxy.admin()).await;
    connection.send("POST", target, fields, "").await
}

async fn status(proxy: &Proxy) -> serde_json::Value {
    let mut connection = Connection::open(proxy.admin()).await;
    connection.send("GET", "/api/status", &[], "").await.json()
}

#[tokio::test]
async fn what_did_not_change_keeps_its_token_and_its_connections() {
    let stand_in = twinzo().await;
    let upstream = Upstream::fine().await;
    let one = plant(&stand_in.url(), "") + &at("a", &upstream.url(), "credential = \"plant\"");
    let proxy = Proxy::start_with_file(&format!("workers = 1\n{one}")).await;
    let mut caller = Connection::open(proxy.address()).await;
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 200);
    let token = upstream.last().values("token")[0].to_owned();
    let before = proxy.identity_now("plant").unwrap();

    // The credential is another one by number, and the route the same.
    let two = key("first", "k") + &one + &at("b", &upstream.url(), "credential = \"first\"");
    let changes = proxy.go_over(&format!("workers = 1\n{two}")).await;
    assert_eq!(changes, ["the credential 'first' is new", "the route 'b' is new"]);
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 200);
    assert_eq!(upstream.last().values("token"), [&*token]);
    assert_eq!(caller.send("GET", "/b", &[], "").await.status, 200);
    assert_eq!(upstream.last().values("x-key"), ["k"]);
    assert!(std::sync::Arc::ptr_eq(&before, &proxy.identity_now("plant").unwrap()));
    assert_eq!(stand_in.recorder().token_calls(), 1, "it is not fetched again");
    assert_eq!(upstream.connections(), 1, "and no connection was made anew");

    let changes = proxy.go_over(&format!("workers = 1\n{one}")).await;
    assert_eq!(changes, ["the credential 'first' is gone", "the route 'b' is gone"]);
    assert_eq!(caller.send("GET", "/b", &[], "").await.status, 404);
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_file_that_says_the_same_changes_nothing() {
    let upstream = Upstream::fine().await;
    let text = at("a", &upstream.url(), "");
    let proxy = Proxy::start_with_file(&text).await;
    proxy.rewrite(&format!("# written by somebody else\n{text}"));
    let reload = proxy.control().reload(Cause::Signal).await;
    assert_eq!(reload.outcome, Outcome::Unchanged);
    assert_eq!(proxy.control().counts(), [("unchanged", 1), ("taken", 0), ("refused", 0)]);
    assert_eq!(proxy.control().last_reload(), Some(reload));
}

#[tokio::test]
async fn of_a_broken_file_every_problem_is_told_and_what_there_was_serves_on() {
    let upstream = Upstream::fine().await;
    let text = at("a", &upstream.url(), "") + ADMIN;
    let proxy = Proxy::start_with_file(&text).await;
    assert_eq!(status(&proxy).await["reload"], serde_json::Value::Null);
    let broken = text.replace("path = \"/a\"", "path = \"a\"\nmax_body = \"much\"")
        + "[credential.x]\nkind = \"bearer\"\ntoken = { env = \"COUNTERSIGN_TEST_NOT_SET\" }\n";
    proxy.rewrite(&broken);
    let reply = post(&proxy, "/api/reload", &[]).await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    let told = reply.json();
    assert_eq!((&told["outcome"], &told["cause"]), (&"refused".into(), &"admin".into()));
    let problems = told["problems"].as_array().unwrap();
    let of = |key: &str| {
        let mut all = problems.iter();
        let begins = |p: &&serde_json::Value| p["message"].as_str().unwrap().starts_with(key);
        all.find(begins).unwrap_or_else(|| panic!("{key}: {told:#}"))
    };
    for key in ["route[0].path", "route[0].max_body"] {
        let problem = of(key);
        let line = problem["line"].as_u64().unwrap();
        let report = problem["report"].as_str().unwrap();
        assert!(report.starts_with("error: "), "{report}");
        assert!(report.contains(&format!("countersign.toml:{line}:")), "{report}");
    }
    assert_eq!(proxy.get("/a").await.status, 200);
    let shown = status(&proxy).await;
    assert_eq!(shown["reload"]["problems"], told["problems"]);

    // What `check` cannot see is told in the same way.
    let missing = text.clone()
        + "[credential.x]\nkind = \"bearer\"\ntoken = { env = \"COUNTERSIGN_TEST_NOT_SET\" }\n\
           [credential.y]\nkind = \"bearer\"\ntoken = { file = \"/nonexistent/y\" }\n"
        + &at("x", &upstream.url(), "credential = \"x\"")
        + &at("y", &upstream.url(), "credential = \"y\"");
    let problems = proxy.refuses(&missing).await;
    assert_eq!(
        problems,
        [
            "the secret in the environment variable COUNTERSIGN_TEST_NOT_SET cannot be read: the \
             variable is not set",
            "the secret in the file /nonexistent/y cannot be read: there is no such file",
        ]
    );
    fs::remove_file(proxy.config_file().path()).unwrap();
    let reload = proxy.control().reload(Cause::Signal).await;
    let Outcome::Refused { problems } = &reload.outcome else { panic!("{reload:?}") };
    assert!(problems[0].message.contains("cannot be read"), "{problems:?}");
    assert_eq!(proxy.get("/a").await.status, 200);
    assert_eq!(proxy.control().counts(), [("unchanged", 0), ("taken", 0), ("refused", 3)]);
    proxy.rewrite(&text);
    let reply = post(&proxy, "/api/reload", &[]).await;
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"unchanged".into()));
}

#[tokio::test]
async fn only_whoever_may_ask_can_have_it_read() {
    let upstream = Upstream::fine().await;
    let token = format!("{ADMIN}token = {}\n", secret("admins"));
    let proxy = Proxy::start_with_file(&(at("a", &upstream.url(), "") + &token)).await;
    assert_eq!(post(&proxy, "/api/reload", &[]).await.status, 401);
    let authorization = ("authorization", "Bearer admins");
    let elsewhere = [authorization, ("origin", "https://evil.example")];
    assert_eq!(post(&proxy, "/api/reload", &elsewhere).await.status, 403);
    let elsewhere = [authorization, ("sec-fetch-site", "cross-site")];
    assert_eq!(post(&proxy, "/api/reload", &elsewhere).await.status, 403);
    let own = format!("http://{}", proxy.admin());
    let own = [authorization, ("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(post(&proxy, "/api/reload", &own).await.status, 200);
    let mut connection = Connection::open(proxy.admin()).await;
    let read = connection.send("GET", "/api/reload", &[authorization], "").await;
    assert_eq!((read.status, read.field("allow")), (405, "POST"));
    // The token is another one from then on, also for a connection that is there.
    let other = at("a", &upstream.url(), "") + &format!("{ADMIN}token = {}\n", secret("others"));
    assert_eq!(proxy.go_over(&other).await, ["the admin listener changed"]);
    let target = "/api/status";
    assert_eq!(connection.send("GET", target, &[authorization], "").await.status, 401);
    let others = [("authorization", "Bearer others")];
    assert_eq!(connection.send("GET", target, &others, "").await.status, 200);
}

#[tokio::test]
async fn a_watched_file_is_taken_over_also_by_way_of_links() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let version = |name: &str, route: &str| {
        fs::create_dir(directory.path().join(name)).unwrap();
        let text = format!(
            "watch = true\n[[listen]]\naddress = \"127.0.0.1:0\"\n{}",
            at(route, &upstream.url(), "")
        );
        fs::write(directory.path().join(name).join("countersign.toml"), text).unwrap();
    };
    // As Kubernetes does it.
    version("v1", "a");
    version("v2", "b");
    lead(directory.path(), "v1");
    let path = directory.path().join("countersign.toml");
    std::os::unix::fs::symlink("data/countersign.toml", &path).unwrap();
    let proxy = Proxy::start_from(ConfigFile::there(directory, path)).await;
    assert_eq!(proxy.get("/a").await.status, 200);
    lead(proxy.config_file().path().parent().unwrap(), "v2");
    until("it is taken over", || proxy.control().counts()[1].1 == 1).await;
    assert_eq!(proxy.control().last_reload().unwrap().cause, Cause::File);
    assert_eq!((proxy.get("/a").await.status, proxy.get("/b").await.status), (404, 200));
    // What is broken is refused once, not again and again.
    let there = proxy.config_file().path().to_owned();
    fs::write(there, "watch = true\nnonsense").unwrap();
    until("it is refused", || proxy.control().counts()[2].1 == 1).await;
    assert_eq!(proxy.get("/b").await.status, 200);
}

/// Has `data` in `directory` lead there.
fn lead(directory: &Path, to: &str) {
    std::os::unix::fs::symlink(to, directory.join("next")).unwrap();
    fs::rename(directory.join("next"), directory.join("data")).unwrap();
}

#[tokio::test]
async fn an_upload_on_a_removed_route_comes_to_its_end() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start_with_file(&at("a", &upstream.url(), "")).await;
    let (pieces, content) = tokio::sync::mpsc::channel(1);
    let mut caller = Connection::open(proxy.address()).await;
    let sent = tokio::spawn(async move {
        let sent = caller.try_send(request("POST", "/a", &[], from_channel(content))).await;
        (sent.unwrap().status, caller)
    });
    pieces.send(Bytes::from_static(b"one, ")).await.unwrap();
    until("it is under way", || upstream.connections() == 1).await;
    let changes = proxy.go_over(&at("b", &upstream.url(), "")).await;
    assert_eq!(changes, ["the route 'b' is new", "the route 'a' is gone"]);
    pieces.send(Bytes::from_static(b"two")).await.unwrap();
    drop(pieces);
    let (status, mut caller) = sent.await.unwrap();
    assert_eq!((status, &upstream.last().body[..]), (200, &b"one, two"[..]));
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 404);
}

#[tokio::test]
async fn another_password_is_used_once_it_has_brought_a_token_and_never_if_it_is_refused() {
    let stand_in = twinzo().await;
    let text = |password: &str| {
        plant_with_password(&stand_in.url(), password, "") + &route(&stand_in.url(), "plant", "")
    };
    let proxy = Proxy::start_with_file(&text("demo-password")).await;
    let mut caller = Connection::open(proxy.address()).await;
    assert_eq!(caller.send("GET", "/v3/devices", &[], "").await.status, 200);
    let before = proxy.identity_now("plant").unwrap();

    let problems = proxy.refuses(&text("another")).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    let begin = "the credential 'plant' cannot be fetched: ";
    assert!(problems[0].starts_with(begin), "{problems:?}");
    assert!(!problems[0].contains("another"), "{problems:?}");
    assert_eq!(caller.send("GET", "/v3/devices", &[], "").await.status, 200);
    assert!(std::sync::Arc::ptr_eq(&before, &proxy.identity_now("plant").unwrap()));

    // Where the endpoint cannot be asked, nothing is lost either.
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let lazy = "[credential.plant.refresh]\nmin_interval = \"1s\"\n";
    let changed = plant(&stand_in.url(), lazy) + &route(&stand_in.url(), "plant", "");
    assert!(proxy.refuses(&changed).await[0].starts_with(begin));
    assert_eq!(caller.send("GET", "/v3/devices", &[], "").await.status, 200);
    stand_in.switches().fail_token_calls(Failure::None, None);

    let logins = stand_in.recorder().logins();
    let told = proxy.go_over(&changed).await;
    assert_eq!(told, ["the credential 'plant' changed", "the route 'all' changed"]);
    assert_eq!(stand_in.recorder().logins(), logins + 1, "it was there before it was used");
    assert_eq!(caller.send("GET", "/v3/devices", &[], "").await.status, 200);
    assert_eq!(stand_in.recorder().logins(), logins + 1);
    let refused = stand_in.recorder().count_where(|r| is_data(r) && r.status >= 400);
    assert_eq!(refused, 0);
}

/// A login whose end is told to its endpoint.
fn login(upstream: &Upstream, password: &str) -> String {
    let url = upstream.url();
    format!(
        "[credential.c]\nkind = \"login\"\n\
         request = {{ url = \"{url}/login\", json = {{ p = \"{{password}}\" }} }}\n\
         logout = {{ url = \"{url}/logout\", headers = {{ Token = \"{{token}}\" }} }}\n\
         secrets = {{ password = {} }}\nvalues = {{ token = \"/token\" }}\n\
         set = {{ Authorization = \"Bearer {{token}}\" }}\n",
        secret(password),
    )
}

#[tokio::test]
async fn a_login_that_is_gone_logs_out_once_its_last_request_is_over() {
    let logins = std::sync::atomic::AtomicUsize::new(0);
    let endpoint = Upstream::answering(move |seen| {
        let number = match &*seen.target {
            "/login" => logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
            _ => 0,
        };
        http::Response::new(format!("{{\"token\":\"token-{number}\"}}").into())
    })
    .await;
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serving(move |seen| {
        let mut wait = wait.clone();
        async move {
            if seen.target.ends_with("slow") {
                wait.wait_for(|go_on| *go_on).await.unwrap();
            }
            http::Response::default()
        }
    })
    .await;
    let routes = at("a", &upstream.url(), "credential = \"c\"");
    let proxy = Proxy::start_with_file(&(login(&endpoint, "one") + &routes)).await;
    let address = proxy.address();
    let slow = tokio::spawn(async move {
        Connection::open(address).await.send("GET", "/a/slow", &[], "").await.status
    });
    until("it is under way", || !upstream.seen().is_empty()).await;
    let changes = proxy.go_over(&(login(&endpoint, "two") + &routes)).await;
    assert_eq!(changes, ["the credential 'c' changed", "the route 'a' changed"]);
    assert_eq!(proxy.get("/a").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer token-2"]);
    let calls = |target: &str| endpoint.seen().iter().filter(|seen| seen.target == target).count();
    assert_eq!((calls("/login"), calls("/logout")), (2, 0));
    go_on.send(true).unwrap();
    assert_eq!(slow.await.unwrap(), 200);
    until("it logs out", || calls("/logout") == 1).await;
    assert_eq!(endpoint.last().values("token"), ["token-1"]);
    assert_eq!(proxy.get("/a").await.status, 200);
    assert_eq!((calls("/login"), calls("/logout")), (2, 1));
}

#[tokio::test]
async fn a_login_that_is_gone_stays_for_requests_of_any_configuration_before() {
    let logins = std::sync::atomic::AtomicUsize::new(0);
    let endpoint = Upstream::answering(move |seen| {
        let number = match &*seen.target {
            "/login" => logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
            _ => 0,
        };
        http::Response::new(format!("{{\"token\":\"token-{number}\"}}").into())
    })
    .await;
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serving(move |seen| {
        let mut wait = wait.clone();
        async move {
            if seen.target.ends_with("slow") {
                wait.wait_for(|go_on| *go_on).await.unwrap();
            }
            http::Response::default()
        }
    })
    .await;
    let route = |more: &str| at("a", &upstream.url(), &format!("credential = \"c\"\n{more}"));
    let other = login(&endpoint, "d").replace("credential.c", "credential.d")
        + &at("d", &upstream.url(), "credential = \"d\"");
    let c = login(&endpoint, "one");
    let proxy = Proxy::start_with_file(&(c.clone() + &other + &route(""))).await;
    let address = proxy.address();
    let slow = tokio::spawn(async move {
        Connection::open(address).await.send("GET", "/a/slow", &[], "").await.status
    });
    until("it is under way", || !upstream.seen().is_empty()).await;
    let token = upstream.last().values("authorization")[0].trim_start_matches("Bearer ").to_owned();
    let logged_out = || -> Vec<String> {
        let seen = endpoint.seen();
        let logouts = seen.iter().filter(|seen| seen.target == "/logout");
        logouts.map(|seen| seen.values("token")[0].to_owned()).collect()
    };
    // The route is another one, the credential is not; then the credential is, and then a third is
    // gone that no request uses.
    proxy.go_over(&(c + &other + &route("max_body = \"1MB\""))).await;
    let two = login(&endpoint, "two") + &route("max_body = \"1MB\"");
    proxy.go_over(&(two.clone() + &other)).await;
    proxy.go_over(&two).await;
    until("the one that nobody uses logs out", || logged_out().iter().any(|other| *other != token))
        .await;
    assert_eq!(logged_out().len(), 1, "a request still uses {token}");
    go_on.send(true).unwrap();
    assert_eq!(slow.await.unwrap(), 200);
    until("it logs out", || logged_out().contains(&token)).await;
}

#[tokio::test]
async fn a_request_in_flight_is_given_another_token_where_tokens_are_stored() {
    let logins = std::sync::atomic::AtomicUsize::new(0);
    let endpoint = Upstream::answering(move |_| {
        let number = logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        http::Response::new(format!("{{\"token\":\"token-{number}\"}}").into())
    })
    .await;
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serving(move |seen| {
        let mut wait = wait.clone();
        async move {
            let mut response = http::Response::default();
            if seen.values("authorization") == ["Bearer token-1"] {
                wait.wait_for(|go_on| *go_on).await.unwrap();
                *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            }
            response
        }
    })
    .await;
    let directory = private_directory();
    let text = |refresh: &str| {
        format!(
            "[token_store]\nkind = \"file\"\npath = {}\nkey = {}\n{}\
             [credential.c.refresh]\n{refresh}\n{}",
            quoted(directory.path().join("tokens").to_str().unwrap()),
            secret("0123456789abcdef0123456789abcdef"),
            login(&endpoint, "one"),
            at("a", &upstream.url(), "credential = \"c\""),
        )
    };
    let proxy = Proxy::start_with_file(&text("")).await;
    let address = proxy.address();
    let asked = tokio::spawn(async move {
        Connection::open(address).await.send("GET", "/a", &[], "").await.status
    });
    until("it is under way", || !upstream.seen().is_empty()).await;
    let changes = proxy.go_over(&text("min_interval = \"1s\"")).await;
    assert_eq!(changes, ["the credential 'c' changed", "the route 'a' changed"]);
    assert_eq!(endpoint.seen().len(), 1, "the token is taken from the store");
    go_on.send(true).unwrap();
    assert_eq!(asked.await.unwrap(), 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer token-2"]);
}

#[tokio::test]
async fn a_watched_file_is_tried_again_when_what_it_names_was_not_there() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let key = directory.path().join("key");
    let text = format!("watch = true\n{}", at("a", &upstream.url(), ""));
    let proxy = Proxy::start_with_file(&text).await;
    let file = quoted(key.to_str().unwrap());
    let with_key = text.replace("[[route]]", "[[route]]\ncredential = \"k\"")
        + &format!("[credential.k]\nkind = \"fields\"\nset = {{ X-Key = {{ file = {file} }} }}\n");
    proxy.rewrite(&with_key);
    until("it is refused", || proxy.control().counts()[2].1 > 0).await;
    fs::write(&key, "k").unwrap();
    until("it is taken over", || proxy.control().counts()[1].1 == 1).await;
    assert_eq!(proxy.control().last_reload().unwrap().cause, Cause::File);
    assert_eq!(proxy.get("/a").await.status, 200);
    assert_eq!(upstream.last().values("x-key"), ["k"]);
}

#[tokio::test]
async fn a_refresh_token_for_one_use_is_not_given_to_a_second_task() {
    let upstream = Upstream::fine().await;
    let text = |margin: &str| {
        format!(
            "[credential.o]\nkind = \"oauth2\"\ntoken_url = \"{}/token\"\n\
             grant = \"refresh_token\"\nclient_id = \"c\"\nrefresh_token = {}\n\
             [credential.o.refresh]\neager = false\nmargin = \"{margin}\"\n{}",
            upstream.url(),
            secret("for one use"),
            at("a", &upstream.url(), "credential = \"o\""),
        )
    };
    let proxy = Proxy::start_with_file(&text("10s")).await;
    let problems = proxy.refuses(&text("20s")).await;
    assert_eq!(
        problems,
        ["credential.o: a change of a credential whose refresh token is good for one use needs a \
          restart"]
    );
    // Whatever it is called.
    let renamed = text("10s").replace("credential.o", "credential.p");
    let problems = proxy.refuses(&renamed.replace("\"o\"", "\"p\"")).await;
    assert!(problems[0].starts_with("credential.p: a change"), "{problems:?}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_by_key_and_line() {
    let upstream = Upstream::fine().await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let text = format!("workers = 1\n{listen}{}", at("a", &upstream.url(), ""));
    let proxy = Proxy::start_with_file(&text).await;
    let changed = format!(
        "workers = 2\ncheck_permissions = false\nsandbox = \"off\"\n\
         [limits]\nrequests = 5\n[log]\nformat = \"text\"\n\
         [[listen]]\naddress = \"127.0.0.2:0\"\n{ADMIN}\
         [token_store]\nkind = \"file\"\npath = \"tokens\"\nkey = {}\n{}",
        secret("0123456789abcdef0123456789abcdef"),
        at("b", &upstream.url(), "")
    );
    let problems = proxy.refuses(&changed).await;
    let keys: Vec<&str> = problems.iter().map(|p| p.split(": ").next().unwrap()).collect();
    let expected = [
        "workers",
        "check_permissions",
        "sandbox",
        "limits.requests",
        "log.format",
        "listen[0].address",
        "admin",
        "token_store",
    ];
    assert_eq!(keys, expected, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.contains("needs a restart")), "{problems:?}");
    let last = proxy.control().last_reload().unwrap();
    let Outcome::Refused { problems } = &last.outcome else { panic!("{last:?}") };
    assert_eq!(problems[0].place, Some((1, 11)));
    assert!(problems[0].report.contains("1 | workers = 2"), "{}", problems[0].report);
    assert_eq!(proxy.get("/a").await.status, 200);

    let two = format!("workers = 1\n{listen}{listen}{}", at("a", &upstream.url(), ""));
    let problems = proxy.refuses(&two).await;
    assert_eq!(problems, ["listen[1].address: listening at another address needs a restart"]);
    // What it is told at last is what counts.
    assert_eq!(proxy.go_over(&format!("drain = \"1s\"\n{text}")).await, ["drain changed"]);
}

#[tokio::test]
async fn who_may_call_changes_for_connections_that_are_there() {
    let upstream = Upstream::fine().await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let routes = at("a", &upstream.url(), "");
    let proxy = Proxy::start_with_file(&format!("{listen}{routes}")).await;
    let mut caller = Connection::open(proxy.address()).await;
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 200);
    let token = format!("{listen}caller_token = {}\n{routes}", secret("callers"));
    let changes = proxy.go_over(&token).await;
    assert_eq!(changes, ["the listener at http://127.0.0.1:0 changed"]);
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 401);
    let fields = [("authorization", "Bearer callers")];
    assert_eq!(caller.send("GET", "/a", &fields, "").await.status, 200);
    let nobody = format!("{listen}allow = [\"192.0.2.0/24\"]\n{routes}");
    proxy.go_over(&nobody).await;
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 403);
    proxy.go_over(&format!("{listen}{routes}")).await;
    assert_eq!(caller.send("GET", "/a", &[], "").await.status, 200);
    assert_eq!(upstream.connections(), 1, "the route stayed");
}

#[tokio::test]
async fn devices_keep_their_tokens_when_something_else_changes() {
    let accounts = (1..=3).map(Account::of_device).collect();
    let options = Options { accounts, ..Options::default() };
    let stand_in = countersign::mock::twinzo::start(ANY_PORT, options).await.unwrap();
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    let mut lines = "device,login,password\n".to_owned();
    for number in 1..=3 {
        let Account { login, password, .. } = Account::of_device(number);
        lines += &format!("device-{number},{login},{password}\n");
    }
    fs::write(&file, lines).unwrap();
    let text = format!(
        "[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
         devices = {}\n{}",
        quoted(&stand_in.url()),
        quoted(file.to_str().unwrap()),
        route(&stand_in.url(), "plant", "identity = { header = \"X-Device\" }"),
    );
    let proxy = Proxy::start_with_file(&text).await;
    let ask = async || {
        for number in 1..=3 {
            let device = format!("device-{number}");
            let reply = proxy.send("GET", "/v3/devices", &[("x-device", &device)], "").await;
            assert_eq!(reply.status, 200, "{device}");
        }
    };
    ask().await;
    assert_eq!(stand_in.recorder().logins(), 3);
    let changes = proxy.go_over(&(text.clone() + &at("b", &stand_in.url(), ""))).await;
    assert_eq!(changes, ["the route 'b' is new"]);
    ask().await;
    assert_eq!(stand_in.recorder().logins(), 3);

    // All that is wrong with the file of another credential is told.
    let other = directory.path().join("others.csv");
    fs::write(&other, "device,login\none,\n").unwrap();
    let wrong = text.replace("devices.csv", "others.csv");
    let problems = proxy.refuses(&wrong).await;
    assert!(problems.iter().all(|p| p.contains("others.csv")), "{problems:?}");
    ask().await;
    assert_eq!(stand_in.recorder().logins(), 3);
}

#[tokio::test]
async fn the_secrets_of_commands_and_files_are_read_again() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let at_path = |name: &str| directory.path().join(name);
    fs::write(at_path("printed"), "one").unwrap();
    fs::write(at_path("file"), "file-1").unwrap();
    let command = format!("cat {}", at_path("printed").display());
    let text = format!(
        "[credential.k]\nkind = \"fields\"\nset = {{ X-Key = {{ exec = [\"sh\", \"-c\", {}] }}, \
         X-File = {{ file = {} }} }}\n{}",
        quoted(&command),
        quoted(at_path("file").to_str().unwrap()),
        route(&upstream.url(), "k", ""),
    );
    let proxy = Proxy::start_with_file(&text).await;
    let before = proxy.identity_now("k").unwrap();
    let sent = async || {
        assert_eq!(proxy.get("/").await.status, 200);
        let last = upstream.last();
        (last.values("x-key")[0].to_owned(), last.values("x-file")[0].to_owned())
    };
    assert_eq!(sent().await, ("one".to_owned(), "file-1".to_owned()));
    fs::write(at_path("printed"), "two").unwrap();
    let changes = proxy.go_over(&text).await;
    assert_eq!(changes, ["the secret in the command sh changed"]);
    until_sent(&sent, "two").await;
    assert!(std::sync::Arc::ptr_eq(&before, &proxy.identity_now("k").unwrap()));
    // It is still followed by the credential after another reload.
    proxy.go_over(&(text.clone() + &at("b", &upstream.url(), ""))).await;
    fs::write(at_path("printed"), "three").unwrap();
    let changes = proxy.go_over(&text).await;
    assert_eq!(changes, ["the secret in the command sh changed", "the route 'b' is gone"]);
    until_sent(&sent, "three").await;
    // And so is a file, which is watched.
    fs::write(at_path("next"), "file-22").unwrap();
    fs::rename(at_path("next"), at_path("file")).unwrap();
    let mut value = String::new();
    while value != "file-22" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        value = sent().await.1;
    }
    // What is refused changes nothing: also no secret.
    fs::write(at_path("printed"), "four").unwrap();
    let more = at("b", "https://u.test", "tls = { ca = \"/nonexistent/ca.pem\" }");
    let problems = proxy.refuses(&(text.clone() + &more)).await;
    assert!(problems[0].starts_with("TLS for the route 'b'"), "{problems:?}");
    assert_eq!(sent().await.0, "three");
    assert_eq!(proxy.go_over(&text).await, ["the secret in the command sh changed"]);
    until_sent(&sent, "four").await;
    fs::remove_file(at_path("printed")).unwrap();
    let problems = proxy.refuses(&text).await;
    assert_eq!(
        problems,
        ["the secret in the command sh cannot be read: the command failed: exit status: 1"]
    );
    assert_eq!(sent().await.0, "four");
}

async fn until_sent(sent: &impl AsyncFn() -> (String, String), value: &str) {
    let looking = async {
        while sent().await.0 != value {
            tokio::task::yield_now().await;
        }
    };
    let looked = tokio::time::timeout(crate::harness::PATIENCE, looking).await;
    assert!(looked.is_ok(), "{value} is not sent");
}

#[tokio::test]
async fn who_has_no_file_says_so() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&at("a", &upstream.url(), "")).await;
    let reload = proxy.control().reload(Cause::Signal).await;
    let Outcome::Refused { problems } = &reload.outcome else { panic!("{reload:?}") };
    assert_eq!(problems[0].message, "this program has no configuration file to read again");
}

#[tokio::test]
async fn what_was_removed_serves_no_more_and_its_connections_end() {
    let (one, two) = (Upstream::fine().await, Upstream::fine().await);
    let proxy = Proxy::start_with_file(&at("a", &one.url(), "")).await;
    for round in 0..4 {
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        assert_eq!(proxy.get("/a").await.status, 200);
        let open = |upstream: &Upstream| upstream.open();
        assert_eq!(open(from), 1, "round {round}");
        proxy.go_over(&at("a", &to.url(), "")).await;
        until("its connections end", || open(from) == 0).await;
    }
}

#[cfg(target_os = "linux")]
mod program {
    use super::*;
    use crate::harness::program::Program;
    use crate::harness::skip;
    use serde_json::Value;

    async fn get(program: &Program, target: &str) -> u16 {
        Connection::open(program.address()).await.send("GET", target, &[], "").await.status
    }

    /// The next line of the log, `after` so many, that says this.
    async fn said(program: &Program, after: usize, message: &str) -> Value {
        let lines = || program.log().into_iter().skip(after);
        let says = |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(message));
        until(message, || lines().any(|line| says(&line))).await;
        lines().find(says).unwrap()
    }

    #[tokio::test]
    async fn at_sighup_the_file_is_read_again() {
        let upstream = Upstream::fine().await;
        let mut program = Program::start(&at("a", &upstream.url(), "")).await;
        assert_eq!(get(&program, "/b").await, 404);
        program.rewrite(&at("b", &upstream.url(), ""));
        program.signal("-HUP");
        let line = said(&program, 0, "was taken over").await;
        assert_eq!(line["cause"], "signal");
        assert_eq!(line["changes"], "the route 'b' is new; the route 'a' is gone");
        assert_eq!(get(&program, "/b").await, 200);
        program.rewrite("nonsense");
        program.signal("-HUP");
        let line = said(&program, 0, "is not taken over").await;
        assert_eq!((&line["level"], &line["line"]), (&"ERROR".into(), &1.into()), "{line}");
        assert_eq!(get(&program, "/b").await, 200);
        assert!(program.runs());
    }

    /// Waits until the log says this of a problem; which line it is in.
    async fn refused(program: &Program, problem: &str) -> Value {
        let says = |line: &Value| line["problem"].as_str().is_some_and(|p| p.contains(problem));
        until(problem, || program.log().iter().any(says)).await;
        program.log().into_iter().find(says).unwrap()
    }

    #[tokio::test]
    async fn once_it_ends_it_goes_over_to_nothing_else() {
        let upstream = Upstream::fine().await;
        let text = |linger: &str| {
            format!("linger = \"{linger}\"\n{ADMIN}{}", at("a", &upstream.url(), ""))
        };
        let mut program = Program::start(&text("1s")).await;
        until("the admin listener listens", || {
            program.log().iter().any(|line| line["message"] == "admin listening")
        })
        .await;
        let mut admin = Connection::open(program.admin()).await;
        program.rewrite(&text("60s"));
        let reply = admin.send("POST", "/api/reload", &[], "").await;
        assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"taken".into()));
        program.signal("-TERM");
        let line = said(&program, 0, "stopping").await;
        assert_eq!(line["linger_s"], 60.0, "as it is now: {line}");
        program.rewrite(&text("50s"));
        let reply = admin.send("POST", "/api/reload", &[], "").await;
        assert_eq!(reply.status, 422, "{}", reply.text());
        assert_eq!(reply.json()["problems"][0]["message"], "the program is ending");
        assert_eq!(get(&program, "/a").await, 200);
        program.signal("-TERM");
        program.ended().await;
    }

    /// What it has confined itself to at its start cannot be undone.
    #[tokio::test]
    async fn a_confined_program_goes_over_to_what_it_can_reach_and_refuses_the_rest() {
        let (one, two) = (Upstream::fine().await, Upstream::fine().await);
        let (own, elsewhere) = (private_directory(), private_directory());
        fs::write(own.path().join("first"), "first").unwrap();
        fs::write(own.path().join("second"), "second").unwrap();
        fs::write(elsewhere.path().join("third"), "third").unwrap();
        let credential = |path: &Path| {
            let path = quoted(path.to_str().unwrap());
            format!("[credential.c]\nkind = \"bearer\"\ntoken = {{ file = {path} }}\n")
        };
        let text = |secret: &Path, upstream: &Upstream| {
            credential(secret) + &at("a", &upstream.url(), "credential = \"c\"")
        };
        let first = text(&own.path().join("first"), &one);
        let program = Program::start(&first).await;
        let confined = program
            .log()
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|text| text.contains("not confined")));
        if confined || program.proc("status").contains("NoNewPrivs:\t0") {
            let name = "a_confined_program_goes_over_to_what_it_can_reach_and_refuses_the_rest";
            return skip(name, "this kernel cannot confine a process");
        }
        program.rewrite(&text(&own.path().join("second"), &one));
        program.signal("-HUP");
        said(&program, 0, "was taken over").await;
        assert_eq!(get(&program, "/a").await, 200);
        assert_eq!(one.last().values("authorization"), ["Bearer second"]);

        program.rewrite(&text(&elsewhere.path().join("third"), &two));
        program.signal("-HUP");
        let line = said(&program, 0, "is not taken over").await;
        assert!(line["hint"].as_str().unwrap().contains("restart"), "{line}");
        // One line each.
        refused(&program, "credential.c: needs a restart: files in").await;
        let port = two.address().port();
        refused(&program, &format!("route[0].upstream: needs a restart: port {port}")).await;
        assert_eq!(get(&program, "/a").await, 200);
        assert_eq!(one.last().values("authorization"), ["Bearer second"]);
        let printed =
            "[[listen]]\naddress = \"127.0.0.1:0\"\ncaller_token = { exec = [\"cat\"] }\n";
        program.rewrite(&(first.clone() + printed));
        program.signal("-HUP");
        let what = "listen[0].caller_token: needs a restart: the confined process cannot run";
        let line = refused(&program, what).await;
        assert!(line["line"].is_u64() && line["hint"].is_string(), "{line}");
    }
}
