//! OAuth 2.0: what an authorization server is asked, and what becomes of what it answers.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign::app;
use countersign::clock::Clock;
use countersign::credential::secrets::Secrets;
use countersign::credential::source::Source;
use countersign::credential::{Credential, CredentialSource as _, FetchError};
use countersign::permissions::Check;
use countersign::proxy::identity::Cache;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::authority::{Authority, path};
use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::upstream::{answer, read_head};
use crate::harness::{
    PATIENCE, Proxy, Upstream, load, private_directory, quoted, route, secret, until,
};

/// `[credential.api]` that asks `server`; `more` goes below it.
pub(crate) fn api(server: &AuthorizationServer, more: &str) -> String {
    at(&format!("token_url = {}", quoted(&server.token_url())), more)
}

/// The same, which finds the server as `place` says.
pub(crate) fn at(place: &str, more: &str) -> String {
    format!("[credential.api]\nkind = \"oauth2\"\nclient_id = \"gateway\"\n{place}\n{more}\n")
}

/// A client with a secret.
pub(crate) fn client() -> String {
    format!("client_secret = {}\n", secret("canary-client-secret"))
}

/// The source of the credential in `text`, as `fetch` makes it.
pub(crate) async fn source(text: &str) -> Source {
    let config = load(&(text.to_owned() + &route("http://127.0.0.1:1", "api", "")));
    let credential = &config.credentials[0];
    let secrets = Secrets::resolve(credential.secrets(), Check::Strict).await.unwrap();
    app::source(credential, &Arc::new(secrets), &Clock::system()).unwrap()
}

pub(crate) async fn fetch(source: &Source) -> Result<Credential, FetchError> {
    timeout(PATIENCE, source.fetch(None)).await.expect("it does not end")
}

pub(crate) fn token(credential: &Credential) -> &str {
    credential.values.text("access_token").unwrap()
}

#[tokio::test]
async fn a_thousand_callers_of_one_cold_credential_cost_one_request() {
    let server = AuthorizationServer::start().await;
    let lazy = client() + "[credential.api.refresh]\neager = false\n";
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&(api(&server, &lazy) + &route(&upstream.url(), "api", ""))).await;
    assert_eq!(server.count(), 0, "nobody asked yet");
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let Cache::One(cache) = proxy.identity("api").cache.clone() else { panic!("of devices") };
        callers.spawn(async move { cache.get().await.is_ok() });
    }
    assert!(callers.join_all().await.into_iter().all(|served| served));
    assert_eq!(proxy.get("/x").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer token-1"]);
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn whatever_is_in_id_and_secret_arrives() {
    for (id, password) in [
        ("gateway", "plain"),
        ("a:b", "c:d"),
        ("100%", "%41%zz+ +"),
        ("with space", "trailing "),
        ("žluťoučký", "kůň 🐎"),
        ("a&b=c", "\"quoted\" \\ ~!*'()"),
    ] {
        for way in ["basic", "post"] {
            let server = AuthorizationServer::start().await;
            let text = format!(
                "[credential.api]\nkind = \"oauth2\"\ntoken_url = {}\nclient_id = {}\n\
                 client_secret = {}\nclient_auth = \"{way}\"\n",
                quoted(&server.token_url()),
                quoted(id),
                secret(password),
            );
            fetch(&source(&text).await).await.unwrap();
            let asked = server.last();
            if way == "basic" {
                assert_eq!(asked.basic(), (id.to_owned(), password.to_owned()));
                assert_eq!(asked.get("client_id"), None);
            } else {
                assert_eq!(asked.get("client_id"), Some(id));
                assert_eq!(asked.get("client_secret"), Some(password));
                assert!(asked.seen.values("authorization").is_empty());
            }
        }
    }
}

#[tokio::test]
async fn everything_configured_is_in_the_request() {
    let server = AuthorizationServer::start().await;
    let more = client()
        + "scope = [\"read\", \"write\"]\naudience = \"https://api.example.com\"\n\
           resource = [\"https://a.example.com\", \"https://b.example.com\"]\n"
        + &format!("extra = {{ tenant = \"7 {{x}}\", key = {} }}\n", secret("k&1"))
        + &format!("headers = {{ X-Client = \"plant\", X-Key = {} }}\n", secret("h1"));
    fetch(&source(&api(&server, &more)).await).await.unwrap();
    let asked = server.last();
    assert_eq!((asked.seen.method.as_str(), asked.seen.target.as_str()), ("POST", "/token"));
    assert_eq!(asked.seen.values("content-type"), ["application/x-www-form-urlencoded"]);
    assert_eq!(asked.seen.values("accept"), ["application/json"]);
    assert_eq!(asked.grant(), "client_credentials");
    assert_eq!(asked.get("scope"), Some("read write"));
    assert_eq!(asked.get("audience"), Some("https://api.example.com"));
    assert_eq!(asked.all("resource"), ["https://a.example.com", "https://b.example.com"]);
    assert_eq!(asked.get("tenant"), Some("7 {x}"));
    assert_eq!(asked.get("key"), Some("k&1"));
    assert_eq!(asked.seen.values("x-client"), ["plant"]);
    assert_eq!(asked.seen.values("x-key"), ["h1"]);
}

#[tokio::test]
async fn the_token_goes_where_the_configuration_says_and_nothing_of_the_callers_with_it() {
    let server = AuthorizationServer::start().await;
    let upstream = Upstream::fine().await;
    let more = client() + "header = \"X-Access-Token\"\nprefix = \"T {x}:\"\n";
    let proxy = Proxy::start(&(api(&server, &more) + &route(&upstream.url(), "api", ""))).await;
    let own = [("x-access-token", "mine"), ("x_access_token", "mine"), ("authorization", "mine")];
    assert_eq!(proxy.send("GET", "/", &own, "").await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.values("x-access-token"), ["T {x}:token-1"]);
    assert!(seen.values("x_access_token").is_empty());
    assert!(seen.values("authorization").is_empty());
}

/// Every answer that is no token, and whether trying again soon can help.
fn odd_answers() -> Vec<(&'static str, Scripted, u16)> {
    let token = |change: &dyn Fn(&mut Value)| {
        let mut reply = json!({
            "access_token": "canary-token", "token_type": "Bearer", "expires_in": 3600,
        });
        change(&mut reply);
        Scripted::json(200, &reply)
    };
    let expires = |value: Value| token(&move |reply| reply["expires_in"] = value.clone());
    let with_token =
        |value: &'static str| token(&move |reply| reply["access_token"] = json!(value));
    vec![
        ("empty", Scripted::new(200, ""), 503),
        ("HTML", Scripted::new(200, "<html>canary</html>").with("content-type", "text/html"), 503),
        ("cut off", Scripted::new(200, "{\"access_token\":\"canary"), 503),
        ("a list", Scripted::new(200, "[]"), 503),
        ("no token", token(&|reply| reply["access_token"] = Value::Null), 503),
        ("empty token", with_token(""), 503),
        ("CR LF in the token", with_token("canary\r\nX-Injected: canary"), 503),
        ("a space in the token", with_token("canary token"), 503),
        ("not ASCII", with_token("canary-é"), 503),
        ("another type", token(&|reply| reply["token_type"] = json!("DPoP")), 503),
        ("lives 0 s", expires(json!(0)), 503),
        ("lives -1 s", expires(json!(-1)), 503),
        ("lives 1e12 s", expires(json!(1e12)), 503),
        ("lives soon", expires(json!("soon")), 503),
        ("201", Scripted::new(201, Scripted::token("canary").content()), 503),
        ("204", Scripted::new(204, ""), 503),
        ("larger than any token", Scripted::new(200, vec![b'x'; 10 << 20]), 503),
        ("a large error", Scripted::new(500, vec![b'x'; 10 << 20]), 503),
        ("compressed", Scripted::token("canary").with("content-encoding", "gzip"), 503),
        ("500", Scripted::new(500, "canary"), 503),
        ("502 HTML", Scripted::new(502, "<html>canary</html>"), 503),
        ("404", Scripted::new(404, "canary"), 503),
        ("a passing error", Scripted::error("temporarily_unavailable"), 503),
        ("invalid_client", Scripted::error("invalid_client"), 502),
        ("invalid_grant", Scripted::error("invalid_grant"), 502),
        ("unauthorized_client", Scripted::error("unauthorized_client"), 502),
        ("unsupported_grant_type", Scripted::error("unsupported_grant_type"), 502),
        ("invalid_scope", Scripted::error("invalid_scope"), 502),
        ("invalid_request", Scripted::error("invalid_request"), 502),
        ("an error of its own", Scripted::error("canary_error"), 502),
        ("400 without a reason", Scripted::new(400, "canary"), 502),
        ("a large refusal", Scripted::new(400, vec![b'x'; 10 << 20]), 502),
        ("an error with 200", Scripted::json(200, &json!({ "error": "invalid_grant" })), 502),
    ]
}

#[tokio::test]
async fn no_odd_answer_leads_to_a_request_without_a_token_or_tells_what_it_said() {
    for (what, scripted, status) in odd_answers() {
        let server = AuthorizationServer::answering(move |_| scripted.clone()).await;
        let upstream = Upstream::fine().await;
        let proxy =
            Proxy::start(&(api(&server, &client()) + &route(&upstream.url(), "api", ""))).await;
        let reply = proxy.get("/x").await;
        if status == 502 {
            reply.problem(502, "proxy_configuration_error");
            assert_eq!(server.count(), 1, "{what}: a refusal is not tried again soon");
        } else {
            reply.problem(503, "destination_unavailable");
            assert!(reply.retry_after() >= 1, "{what}");
        }
        assert!(!format!("{reply:?}").contains("canary"), "{what}: {reply:?}");
        let failure = proxy.identity("api").cache.state().failure.unwrap();
        assert!(!format!("{failure:?} {}", failure.error).contains("canary"), "{what}");
        assert!(upstream.seen().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_refusal_says_by_which_code() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &client())).await;
    for code in ["invalid_client", "invalid_scope", "unauthorized_client"] {
        server.say([Scripted::error(code)]);
        let error = fetch(&source).await.unwrap_err();
        assert!(error.is_refusal());
        let message = error.to_string();
        assert!(message.contains(code), "{message}");
    }
}

#[tokio::test]
async fn lifetimes_are_read_however_they_are_written() {
    let server = AuthorizationServer::start().await;
    let source = source(&api(&server, &(client() + "lifetime = \"7m\"\n"))).await;
    for (written, seconds) in [
        (json!(3600), 3600.0),
        (json!("3600"), 3600.0),
        (json!(3600.5), 3600.5),
        (Value::Null, 420.0),
    ] {
        let reply = json!({ "access_token": "t", "token_type": "bearer", "expires_in": written });
        server.say([Scripted::json(200, &reply)]);
        let lifetime = fetch(&source).await.unwrap().lifetime.unwrap();
        assert!((lifetime.as_secs_f64() - seconds).abs() < 1e-6, "{written}: {lifetime:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = AuthorizationServer::start().await;
    for status in [301, 302, 303, 307, 308] {
        let server = AuthorizationServer::start().await;
        server.say([Scripted::new(status, "").with("location", elsewhere.token_url())]);
        let error = fetch(&source(&api(&server, &client())).await).await.unwrap_err();
        assert!(!error.is_refusal() && error.to_string().contains("redirect"), "{error}");
        assert_eq!(server.count(), 1);
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_no_more_than_the_time_limit() {
    let server = AuthorizationServer::answering(|_| Scripted::hang()).await;
    let upstream = Upstream::fine().await;
    let more = client() + "[credential.api.refresh]\ntimeout = \"200ms\"\n";
    let proxy = Proxy::start(&(api(&server, &more) + &route(&upstream.url(), "api", ""))).await;
    proxy.get("/").await.problem(503, "destination_unavailable");
    let failure = proxy.identity("api").cache.state().failure.unwrap();
    // Connecting has the same limit, should the machine be that busy.
    let late = matches!(failure.error, FetchError::Timeout(_) | FetchError::Unreachable { .. });
    assert!(late, "{:?}", failure.error);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_does_not_end_costs_no_more_than_the_time_limit() {
    let server = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":\"canary";
        stream.write_all(begun.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let upstream = Upstream::fine().await;
    let more = client() + "[credential.api.refresh]\ntimeout = \"300ms\"\n";
    let place = format!("token_url = {}", quoted(&server.url()));
    let proxy = Proxy::start(&(at(&place, &more) + &route(&upstream.url(), "api", ""))).await;
    proxy.get("/").await.problem(503, "destination_unavailable");
    let failure = proxy.identity("api").cache.state().failure.unwrap();
    // Connecting has the same limit, should the machine be that busy.
    let late = matches!(failure.error, FetchError::Timeout(_) | FetchError::Unreachable { .. });
    assert!(late, "{:?}", failure.error);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_no_token() {
    let server = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":\"canary\"}";
        stream.write_all(begun.as_bytes()).await.unwrap();
    })
    .await;
    let place = format!("token_url = {}", quoted(&server.url()));
    let error = fetch(&source(&at(&place, &client())).await).await.unwrap_err();
    assert!(matches!(error, FetchError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn retry_after_is_honoured_in_both_forms_and_has_a_limit() {
    let in_two_minutes = || {
        let date = Clock::system().wall() + Duration::from_secs(122);
        httpdate::fmt_http_date(date)
    };
    for (field, least, most) in [
        ("120".to_owned(), 100, 121),
        (in_two_minutes(), 100, 123),
        ("86400".to_owned(), 590, 601),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 0, 2),
    ] {
        for status in [429, 503] {
            let server = AuthorizationServer::start().await;
            server.say([Scripted::new(status, "").with("retry-after", field.clone())]);
            let upstream = Upstream::fine().await;
            let config = api(&server, &client()) + &route(&upstream.url(), "api", "");
            let proxy = Proxy::start(&config).await;
            let cache = &proxy.identity("api").cache;
            until("it fails", || cache.state().failure.is_some() || cache.is_ready()).await;
            let Some(failure) = cache.state().failure else {
                assert_eq!(least, 0, "{field}: it has tried again already");
                continue;
            };
            let wait = failure.retry_at.saturating_duration_since(Instant::now()).as_secs();
            assert!(wait <= most && wait + 20 >= least, "{field}: {wait}");
            if least > 0 {
                assert!(wait >= least - 20, "{field}: {wait}");
                assert_eq!(server.count(), 1);
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_every_token_costs_two_of_them() {
    let server = AuthorizationServer::start().await;
    let upstream = Upstream::answering(|_| answer(401, "no")).await;
    let proxy = Proxy::start(&(api(&server, &client()) + &route(&upstream.url(), "api", ""))).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.status, 401);
    }
    assert_eq!(server.count(), 2);
}

/// What an upstream answers that wants more than the token is good for.
fn challenge(status: u16, error: &'static str) -> Response<Full<Bytes>> {
    let mut response = answer(status, "no");
    let field = format!("Bearer realm=\"x\", error=\"{error}\", scope=\"admin\"");
    response.headers_mut().insert("www-authenticate", field.parse().unwrap());
    response
}

#[tokio::test]
async fn a_token_that_is_not_good_enough_is_not_renewed() {
    for status in [401, 403] {
        let server = AuthorizationServer::start().await;
        let upstream = Upstream::answering(move |_| challenge(status, "insufficient_scope")).await;
        let replay = "replay = { statuses = [401, 403] }\n";
        let config = api(&server, &client()) + &route(&upstream.url(), "api", replay);
        let proxy = Proxy::start(&config).await;
        for _ in 0..3 {
            assert_eq!(proxy.get("/").await.status, status);
        }
        assert_eq!((server.count(), upstream.seen().len()), (1, 3));
    }
    let server = AuthorizationServer::start().await;
    let upstream = Upstream::answering(|seen| match seen.values("authorization")[..] {
        ["Bearer token-1"] => challenge(403, "invalid_token"),
        _ => answer(200, "fine"),
    })
    .await;
    let replay = "replay = { statuses = [401, 403] }\n";
    let config = api(&server, &client()) + &route(&upstream.url(), "api", replay);
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/").await.status, 200, "any other 403 renews where that is configured");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn an_assertion_is_made_anew_for_each_attempt() {
    let server = AuthorizationServer::start().await;
    let key = secret(include_str!("../vectors/rsa-key.pem"));
    let more = format!("client_assertion = {{ key = {key}, key_id = \"k\" }}\n");
    let client = source(&api(&server, &more)).await;
    let more = format!(
        "grant = \"jwt_bearer\"\nsigned_assertion = {{ key = {key}, issuer = \"plant\", \
         subject = \"robot\", audience = \"urn:as\", lifetime = \"5m\", \
         claims = {{ scope = \"a b\" }} }}\n"
    );
    let bearer = source(&api(&server, &more)).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..2 {
        fetch(&client).await.unwrap();
        let asked = server.last();
        assert_eq!(asked.grant(), "client_credentials");
        let claims = asked.claims("client_assertion");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("gateway"), &json!("gateway")));
        assert_eq!(claims["aud"], server.token_url());
        ids.insert(claims["jti"].to_string());

        fetch(&bearer).await.unwrap();
        let asked = server.last();
        assert_eq!(asked.grant(), "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let claims = asked.claims("assertion");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("plant"), &json!("robot")));
        assert_eq!((&claims["aud"], &claims["scope"]), (&json!("urn:as"), &json!("a b")));
        let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(life, 300);
        ids.insert(claims["jti"].to_string());
    }
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn a_token_is_exchanged_for_another_and_again_when_it_changes() {
    let directory = private_directory();
    let subject = directory.path().join("subject");
    fs::write(&subject, "platform-1\n").unwrap();
    let server = AuthorizationServer::answering(|asked| {
        let subject = asked.get("subject_token").unwrap();
        let issued = "urn:ietf:params:oauth:token-type:access_token";
        Scripted::json(
            200,
            &json!({
                "access_token": format!("for-{subject}"),
                "issued_token_type": issued,
                "token_type": "Bearer",
                "expires_in": 3600,
            }),
        )
    })
    .await;
    let upstream = Upstream::fine().await;
    let more = format!(
        "grant = \"token_exchange\"\nsubject_token = {{ file = {} }}\n\
         subject_token_type = \"urn:ietf:params:oauth:token-type:jwt\"\n",
        path(&subject)
    );
    let proxy = Proxy::start(&(api(&server, &more) + &route(&upstream.url(), "api", ""))).await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer for-platform-1"]);
    let asked = server.last();
    assert_eq!(asked.grant(), "urn:ietf:params:oauth:grant-type:token-exchange");
    let kind = asked.get("subject_token_type");
    assert_eq!(kind, Some("urn:ietf:params:oauth:token-type:jwt"));

    fs::write(&subject, "platform-02\n").unwrap();
    until("the new one is exchanged", || server.count() == 2).await;
    assert_eq!(server.last().get("subject_token"), Some("platform-02"));
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_that_is_how_it_is_known() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let acceptor = authority.server("localhost", Some(&clients));
    let server = AuthorizationServer::over_tls(acceptor).await;
    let place = format!("token_url = \"https://localhost:{}/token\"", server.port());
    let tls = format!("tls = {{ {}, {} }}\n", authority.trusted(), clients.client());
    let credential = at(&place, &format!("client_auth = \"tls\"\n{tls}"));
    fetch(&source(&credential).await).await.unwrap();
    let asked = server.last();
    assert_eq!(asked.get("client_id"), Some("gateway"));
    assert_eq!(asked.get("client_secret"), None);

    let stranger = format!("tls = {{ {}, {} }}\n", authority.trusted(), authority.client());
    let credential = at(&place, &format!("client_auth = \"tls\"\n{stranger}"));
    assert!(fetch(&source(&credential).await).await.is_err());
    assert_eq!(server.count(), 1);
}
