//! Refresh tokens: each is used once, the newest one counts, and what they cannot do the grant does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use countersign::credential::{CredentialSource as _, FetchError};
use countersign::proxy::identity::Cache;
use serde_json::json;

use crate::harness::authority::path;
use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::{Proxy, Upstream, private_directory, route, secret, until};
use crate::oauth::{api, client, fetch, source, token};

/// A user and a password.
fn password() -> String {
    client()
        + "grant = \"password\"\nusername = \"robot\"\nscope = \"read\"\n"
        + &format!("password = {}\n", secret("canary-password"))
}

/// Replaces the refresh token at each use, and takes everything back when one is used twice
/// (RFC 9700 §4.14.2).
async fn rotating(first: &'static str) -> AuthorizationServer {
    let state: Mutex<(u64, BTreeSet<String>)> = Mutex::new((0, BTreeSet::from([first.to_owned()])));
    AuthorizationServer::answering(move |asked| {
        let mut state = state.lock().unwrap();
        let (count, good) = &mut *state;
        if let Some(token) = asked.get("refresh_token")
            && !good.remove(token)
        {
            good.clear();
            return Scripted::error("invalid_grant");
        }
        *count += 1;
        let next = format!("refresh-{count}");
        good.insert(next.clone());
        Scripted::tokens(&format!("token-{count}"), &next)
    })
    .await
}

/// The refresh tokens that were sent, in order.
fn sent(server: &AuthorizationServer) -> Vec<String> {
    let asked = server.asked();
    asked.iter().filter_map(|asked| asked.get("refresh_token").map(str::to_owned)).collect()
}

fn grants(server: &AuthorizationServer) -> Vec<String> {
    server.asked().iter().map(|asked| asked.grant().to_owned()).collect()
}

#[tokio::test]
async fn each_refresh_token_is_used_once_and_the_grant_only_at_first() {
    let server = rotating("").await;
    let source = source(&api(&server, &password())).await;
    for number in 1..=20 {
        assert_eq!(token(&fetch(&source).await.unwrap()), format!("token-{number}"));
    }
    let expected: Vec<String> = (1..20).map(|number| format!("refresh-{number}")).collect();
    assert_eq!(sent(&server), expected);
    assert_eq!(grants(&server)[..2], ["password", "refresh_token"]);
    let first = &server.asked()[0];
    assert_eq!((first.get("username"), first.get("scope")), (Some("robot"), Some("read")));
    for asked in &server.asked()[1..] {
        assert_eq!(asked.get("password"), None);
        assert_eq!(asked.get("scope"), None, "what was granted, which may be less");
        assert_eq!(asked.basic().0, "gateway");
    }
}

#[tokio::test]
async fn renewals_of_a_running_proxy_rotate_as_well() {
    let server = AuthorizationServer::answering(|asked| {
        let number: u64 = match asked.get("refresh_token") {
            None => 1,
            Some(token) => token.strip_prefix('r').unwrap().parse().unwrap(),
        };
        Scripted::json(
            200,
            &json!({
                "access_token": format!("token-{number}"),
                "expires_in": "1",
                "refresh_token": format!("r{}", number + 1),
            }),
        )
    })
    .await;
    let upstream = Upstream::fine().await;
    let proxy =
        Proxy::start(&(api(&server, &password()) + &route(&upstream.url(), "api", ""))).await;
    until("it is renewed three times", || server.count() >= 4).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let sent = sent(&server);
    assert_eq!(sent[..3], ["r2", "r3", "r4"]);
    assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), sent.len(), "each once");
}

#[tokio::test]
async fn an_answer_without_a_refresh_token_keeps_the_old_one() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &password())).await;
    server.say([Scripted::tokens("a1", "r1"), Scripted::token("a2"), Scripted::token("a3")]);
    for expected in ["a1", "a2", "a3"] {
        assert_eq!(token(&fetch(&source).await.unwrap()), expected);
    }
    assert_eq!(sent(&server), ["r1", "r1"]);
}

#[tokio::test]
async fn a_refused_refresh_token_leads_to_the_grant_once() {
    for code in ["invalid_grant", "unauthorized_client", "unsupported_grant_type"] {
        let server = AuthorizationServer::start().await;
        let source = source(&api(&server, &password())).await;
        server.say([
            Scripted::tokens("a1", "r1"),
            Scripted::error(code),
            Scripted::tokens("a2", "r2"),
        ]);
        assert_eq!(token(&fetch(&source).await.unwrap()), "a1");
        assert_eq!(token(&fetch(&source).await.unwrap()), "a2", "within one attempt");
        assert_eq!(grants(&server), ["password", "refresh_token", "password"]);

        server.say([Scripted::error("invalid_grant"), Scripted::error("invalid_grant")]);
        let error = fetch(&source).await.unwrap_err();
        assert!(error.is_refusal());
        assert_eq!(grants(&server)[3..], ["refresh_token", "password"], "once, then it waits");
        fetch(&source).await.unwrap();
        assert_eq!(sent(&server), ["r1", "r2"], "no refused one again");
    }
}

#[tokio::test]
async fn a_refused_client_is_not_tried_with_a_password_as_well() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &password())).await;
    server.say([Scripted::tokens("a1", "r1"), Scripted::error("invalid_client")]);
    fetch(&source).await.unwrap();
    assert!(fetch(&source).await.unwrap_err().is_refusal());
    assert_eq!(grants(&server), ["password", "refresh_token"]);
    fetch(&source).await.unwrap();
    assert_eq!(sent(&server), ["r1", "r1"], "it was not used");
}

#[tokio::test]
async fn a_server_that_is_busy_gets_the_refresh_token_again_later() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &password())).await;
    let busy = Scripted::new(429, "").with("retry-after", "5");
    server.say([Scripted::tokens("a1", "r1"), busy, Scripted::new(503, "")]);
    fetch(&source).await.unwrap();
    for _ in 0..2 {
        let error = fetch(&source).await.unwrap_err();
        assert!(matches!(error, FetchError::Unavailable { .. }), "{error:?}");
    }
    fetch(&source).await.unwrap();
    assert_eq!(grants(&server)[1..], ["refresh_token"; 3], "no password meanwhile");
}

#[tokio::test]
async fn a_refresh_token_of_which_nobody_knows_whether_it_is_used_up_is_not_sent_again() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &password())).await;
    server.say([Scripted::tokens("a1", "r1"), Scripted::new(200, "<html>")]);
    fetch(&source).await.unwrap();
    fetch(&source).await.unwrap_err();
    server.say([Scripted::tokens("a2", "r2"), Scripted::hang()]);
    fetch(&source).await.unwrap();
    let before = server.count();
    tokio::select! {
        fetched = source.fetch(None) => panic!("it hangs: {fetched:?}"),
        // Here the attempt is cut off, as the time limit does.
        () = until("it is asked", || server.count() > before) => {}
    }
    fetch(&source).await.unwrap();
    assert_eq!(sent(&server), ["r1", "r2"]);
    let all = ["password", "refresh_token", "password", "refresh_token", "password"];
    assert_eq!(grants(&server), all);
}

#[tokio::test]
async fn a_client_that_asks_for_itself_needs_no_refresh_token() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &client())).await;
    server.say([Scripted::tokens("a1", "r1")]);
    fetch(&source).await.unwrap();
    fetch(&source).await.unwrap();
    assert_eq!(grants(&server), ["client_credentials"; 2]);
}

fn from_file(file: &Path) -> String {
    format!("grant = \"refresh_token\"\nrefresh_token = {{ file = {} }}\n", path(file))
}

#[tokio::test]
async fn a_configured_refresh_token_gives_way_to_the_next_and_a_new_file_to_neither() {
    let directory = private_directory();
    let file = directory.path().join("refresh_token");
    fs::write(&file, "first\n").unwrap();
    let server = rotating("first").await;
    let upstream = Upstream::answering(|seen| match seen.values("authorization")[..] {
        ["Bearer token-1"] => crate::harness::upstream::answer(401, "revoked"),
        _ => crate::harness::upstream::answer(200, "fine"),
    })
    .await;
    let config = api(&server, &from_file(&file)) + &route(&upstream.url(), "api", "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/").await.status, 200, "renewed with the next");
    assert_eq!(sent(&server), ["first", "refresh-1"]);

    // Somebody has signed in anew and put the token into the file.
    server.say([Scripted::tokens("of-the-new-one", "next")]);
    fs::write(&file, "second-login\n").unwrap();
    until("the new one is used", || server.count() == 3).await;
    assert_eq!(sent(&server)[2], "second-login");
    let cache = &proxy.identity("api").cache;
    until("it is there", || !cache.state().renewing && cache.is_ready()).await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer of-the-new-one"]);
}

#[tokio::test]
async fn a_refused_refresh_token_waits_for_a_new_one_in_the_file() {
    let directory = private_directory();
    let file = directory.path().join("refresh_token");
    fs::write(&file, "dead\n").unwrap();
    let server = rotating("alive").await;
    let upstream = Upstream::fine().await;
    let config = api(&server, &from_file(&file)) + &route(&upstream.url(), "api", "");
    let proxy = Proxy::start(&config).await;
    for _ in 0..3 {
        proxy.get("/").await.problem(502, "proxy_configuration_error");
    }
    assert_eq!(server.count(), 1);
    server.say([Scripted::tokens("good", "next")]);
    fs::write(&file, "alive, and longer\n").unwrap();
    let cache = &proxy.identity("api").cache;
    until("the new one is used", || cache.is_ready()).await;
    assert_eq!(sent(&server), ["dead", "alive, and longer"]);
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer good"]);
}

#[tokio::test]
async fn a_new_password_owes_nothing_to_what_the_old_one_returned() {
    let directory = private_directory();
    let file = directory.path().join("password");
    fs::write(&file, "old\n").unwrap();
    let server = rotating("").await;
    let upstream = Upstream::fine().await;
    let more = format!(
        "grant = \"password\"\nusername = \"robot\"\npassword = {{ file = {} }}\n",
        path(&file)
    );
    let _proxy = Proxy::start(&(api(&server, &more) + &route(&upstream.url(), "api", ""))).await;
    until("the first", || server.count() == 1).await;
    fs::write(&file, "the new one\n").unwrap();
    until("the second", || server.count() == 2).await;
    assert_eq!(grants(&server), ["password", "password"]);
    assert_eq!(server.last().get("password"), Some("the new one"));
}

/// What the configuration refers to is used up by then.
#[tokio::test]
async fn a_restart_goes_on_with_the_refresh_token_that_the_store_has_kept() {
    let server = rotating("configured").await;
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let store = format!(
        "[token_store]\nkind = \"file\"\npath = {}\nkey = {}\n",
        path(&directory.path().join("tokens")),
        secret("0123456789abcdef"),
    );
    let grant = client()
        + "grant = \"refresh_token\"\n"
        + &format!("refresh_token = {}\n", secret("configured"))
        + "[credential.api.refresh]\nmin_interval = \"1ms\"\n";
    let config = store + &api(&server, &grant) + &route(&upstream.url(), "api", "");
    for start in 1..=3_usize {
        let proxy = Proxy::start(&config).await;
        let reply = proxy.get("/").await;
        assert_eq!(reply.status, 200, "start {start}: {} {:?}", reply.text(), sent(&server));
        // The token lives on; a refusal makes for a renewal in this run.
        let issued = match &proxy.identity("api").cache {
            Cache::One(cache) => cache.get().await.unwrap(),
            Cache::Devices(_) => panic!("of devices"),
        };
        proxy.identity("api").cache.reject(None, &issued);
        until("it is renewed", || server.count() == start + 1).await;
        assert_eq!(proxy.get("/").await.status, 200, "start {start}");
        proxy.stop().await;
    }
    assert_eq!(sent(&server), ["configured", "refresh-1", "refresh-2", "refresh-3"]);
}
