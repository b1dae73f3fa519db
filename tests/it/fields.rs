//! What callers cannot send: fields that belong to a credential, and the token endpoints.

use countersign::mock::devo::Options;
use http::Response;
use http_body_util::Full;

use crate::harness::client::raw_head;
use crate::harness::{Proxy, Upstream, devo, is_data, plant, quoted, route, secret, twinzo, until};

/// Every field that belongs to some credential, in every disguise a caller may think of.
const DISGUISES: [&str; 34] = [
    "Token: callers",
    "token: callers-too",
    "TOKEN:",
    "Client: callers",
    "Client:",
    "Branch: callers",
    "Branch: callers-too",
    "Api-Key: callers",
    "Api_Key: callers",
    "API-KEY:",
    "mApi-Key: callers",
    "Authorization: Bearer callers",
    "authorization: Basic Y2FsbGVycw==",
    "Cookie: session=callers",
    "cookie:",
    "x-logtrust-apikey: callers",
    "X-Logtrust-Domain-Apikey: callers",
    "x-logtrust-reseller-apikey: callers",
    "x-logtrust-timestamp: 1700000000000",
    "x-logtrust-timestamp:",
    "x-logtrust-sign: callers",
    "X_Logtrust_Sign: callers",
    "x_logtrust-apikey: callers",
    "x-logtrust-whatever: callers",
    "standAloneToken: callers",
    "standalonetoken:",
    "STANDALONETOKEN: callers-too",
    "X-Named: callers",
    "Connection: Token, client, BRANCH, Api-Key, X-Named",
    "Connection: x-logtrust-sign, standAloneToken, authorization",
    "Connection: x-logtrust-apikey, x-logtrust-timestamp, x-logtrust-domain-apikey",
    "Proxy-Authorization: Basic Y2FsbGVycw==",
    "X-Forwarded-For: 203.0.113.1",
    "Keep-Alive: timeout=5",
];

const GUIDS: &str = "client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\n\
                     branch_guid = \"7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830\"\n";

/// Sends all disguises with `credential`; nothing of them arrives, and of `ours` exactly one each.
async fn check(credential: &str, owned: &[&str], ours: &[&str]) {
    let upstream = Upstream::fine().await;
    let config = credential.to_owned() + &route(&upstream.url(), "it", "");
    let proxy = Proxy::start(&config).await;
    let mut lines = vec!["POST /x HTTP/1.1", "Content-Length: 0"];
    lines.extend(DISGUISES);
    let reply = raw_head(proxy.address(), &lines).await;
    assert_eq!(reply.status, 200, "{credential}");
    let seen = upstream.last();
    let is_owned = |name: &str| {
        let name = name.replace('_', "-");
        owned.iter().any(|owned| match owned.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *owned,
        })
    };
    for (name, value) in &seen.headers {
        let (name, value) = (name.as_str(), value.to_str().unwrap());
        if is_owned(name) {
            assert!(ours.contains(&name), "{credential}\n{name}: {value}");
            assert!(!value.contains("callers"), "{credential}\n{name}: {value}");
            assert!(!value.is_empty(), "{credential}\n{name}");
        }
    }
    for name in ours {
        assert_eq!(seen.values(name).len(), 1, "{credential}\n{name}");
    }
    for gone in ["x-named", "connection", "keep-alive", "proxy-authorization", "x-forwarded-for"] {
        assert_eq!(seen.values(gone), [""; 0], "{gone}");
    }
    assert_eq!(seen.values("host"), [upstream.address().to_string()]);
    assert_eq!(seen.values("via").len(), 1);
}

const TWINZO: [&str; 7] =
    ["token", "client", "branch", "api-key", "mapi-key", "authorization", "cookie"];
const DEVO: [&str; 3] = ["authorization", "standalonetoken", "x-logtrust-*"];

#[tokio::test]
async fn a_twinzo_device_owns_its_fields() {
    let stand_in = twinzo().await;
    let device = plant(&stand_in.url(), "").replace("credential.plant", "credential.it");
    check(&device, &TWINZO, &["token", "client", "branch"]).await;
    let with_key = format!("{device}api_key = {}\n", secret("ours"));
    let ours = ["token", "client", "branch", "api-key"];
    check(&with_key, &TWINZO, &ours).await;
}

#[tokio::test]
async fn a_twinzo_api_key_owns_its_fields() {
    let key = format!(
        "[credential.it]\nkind = \"twinzo-api-key\"\napi_key = {}\n{GUIDS}",
        secret("ours")
    );
    check(&key, &TWINZO, &["api-key", "client", "branch"]).await;
}

#[tokio::test]
async fn a_devo_token_owns_its_field() {
    let token = format!("[credential.it]\nkind = \"devo-token\"\ntoken = {}\n", secret("ours"));
    check(&token, &DEVO, &["standalonetoken"]).await;
}

#[tokio::test]
async fn a_devo_signature_owns_its_fields() {
    let kind = "[credential.it]\nkind = \"devo-signature\"\n";
    let (key, api_secret) = (secret("ours"), secret("our-secret"));
    let timestamp = "x-logtrust-timestamp";
    let sign = "x-logtrust-sign";
    let query = format!("{kind}api = \"query\"\napi_key = {key}\napi_secret = {api_secret}\n");
    check(&query, &DEVO, &[timestamp, sign, "x-logtrust-apikey"]).await;
    let both = format!(
        "{kind}domain_api_key = {key}\nreseller_api_key = {key}\napi_secret = {api_secret}\n"
    );
    let ours = [timestamp, sign, "x-logtrust-domain-apikey", "x-logtrust-reseller-apikey"];
    check(&both, &DEVO, &ours).await;
}

#[tokio::test]
async fn what_the_caller_sends_cannot_make_the_stand_ins_refuse() {
    let twinzo = twinzo().await;
    let devo = devo(Options::default()).await;
    let config = format!(
        "{}[credential.tenants]\nkind = \"devo-signature\"\nreseller_api_key = {}\n\
         api_secret = {}\n\
         [[route]]\npath = \"/twinzo\"\nupstream = {}\ncredential = \"plant\"\n\
         [[route]]\npath = \"/probio\"\nupstream = {}\ncredential = \"tenants\"\n",
        plant(&twinzo.url(), ""),
        secret("standin-reseller-key"),
        secret("standin-reseller-secret"),
        quoted(&twinzo.url()),
        quoted(&format!("{}/probio", devo.url())),
    );
    let proxy = Proxy::start(&config).await;
    for first in ["GET /twinzo/v3/devices HTTP/1.1", "GET /probio/domain HTTP/1.1"] {
        let lines: Vec<&str> = std::iter::once(first).chain(DISGUISES).collect();
        let reply = raw_head(proxy.address(), &lines).await;
        assert_eq!(reply.status, 200, "{first}: {reply:?}");
    }
    assert_eq!((twinzo.recorder().refused(), devo.recorder().refused()), (0, 0));
}

#[tokio::test]
async fn the_callers_authorization_passes_only_where_the_route_says_so() {
    let upstream = Upstream::fine().await;
    let key =
        format!("[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n", secret("ours"));
    for (more, expected) in
        [("keep_caller_authorization = true\n", vec!["Bearer callers"]), ("", vec![])]
    {
        let config = key.clone() + &route(&upstream.url(), "key", more);
        let proxy = Proxy::start(&config).await;
        let fields = [("authorization", "Bearer callers")];
        assert_eq!(proxy.send("GET", "/", &fields, "").await.status, 200);
        assert_eq!(upstream.last().values("authorization"), expected, "{more}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_the_answer_stay_behind() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .header("connection", "x-named")
            .header("x-named", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("x-end-to-end", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let reply = proxy.get("/").await;
    for gone in ["connection", "x-named", "keep-alive", "proxy-authenticate"] {
        assert_eq!(reply.field(gone), "", "{gone}");
    }
    assert_eq!(reply.field("x-end-to-end"), "1");
    assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn the_token_endpoints_are_closed_in_every_disguise() {
    let stand_in = twinzo().await;
    let url = stand_in.url();
    let config = format!(
        "{}[[route]]\nname = \"root\"\nupstream = {}\ncredential = \"plant\"\n\
         [[route]]\npath = \"/twinzo\"\nupstream = {}\ncredential = \"plant\"\n",
        plant(&url, ""),
        quoted(&url),
        quoted(&url),
    );
    let proxy = Proxy::start(&config).await;
    let recorder = stand_in.recorder();
    until("it is logged in", || recorder.logins() == 1).await;
    let paths = [
        "/v3/authorization/token",
        "/v2/authorization/token",
        "/v3.0/authorization/token",
        "/v3/authorization/authenticate",
        "/v3/authorization",
        "/v3/authorization/",
        "/v3/authorization/token/",
        "/v3/authorization/token?x=1",
        "/v3/%61uthorization/token",
        "/v3/%61%75thorization/t%6Fken",
        "/v3/%2561uthorization/token",
        "/v3//authorization/token",
        "//v3/authorization/token",
        "/V3/Authorization/token",
        "/V3/AUTHORIZATION/TOKEN",
        "/x/../v3/authorization/token",
        "/x/%2e%2e/v3/authorization/token",
        "/x/..%2fv3/authorization/token",
        "/v3/./authorization/token",
        "/v3/x/../authorization/token",
        "/v3/authorization;x=1/token",
        "/v3%2fauthorization%2ftoken",
        "/v3%5cauthorization%5ctoken",
        "/v3\\authorization\\token",
    ];
    for prefix in ["", "/twinzo"] {
        for path in paths {
            for method in ["GET", "DELETE", "POST"] {
                let first = format!("{method} {prefix}{path} HTTP/1.1");
                let reply = raw_head(proxy.address(), &[&first, "Content-Length: 0"]).await;
                // Where even the parser gives up the answer is 400, and nothing is forwarded.
                if reply.status != 400 {
                    assert_eq!(reply.problem(403, "http_request_denied"), "denied", "{first}");
                }
            }
        }
    }
    assert_eq!(recorder.token_calls(), 1);
    assert_eq!(recorder.count_where(is_data), 0);
    for fine in ["/v3/devices", "/twinzo/v3/devices", "/v3/echo/../devices"] {
        let first = format!("GET {fine} HTTP/1.1");
        let reply = raw_head(proxy.address(), &[&first]).await;
        assert_ne!(reply.status, 403, "{fine}");
    }
}

#[tokio::test]
async fn the_token_endpoints_are_closed_wherever_the_api_is_mounted() {
    let stand_in = twinzo().await;
    let api = format!("{}/api", stand_in.url());
    let version = format!("{api}/v3");
    let config = format!(
        "{}[[route]]\nname = \"root\"\nupstream = {}\ncredential = \"plant\"\n\
         [[route]]\npath = \"/mounted\"\nupstream = {}\ncredential = \"plant\"\n\
         [[route]]\npath = \"/version\"\nupstream = {}\ncredential = \"plant\"\n",
        plant(&api, ""),
        quoted(&stand_in.url()),
        quoted(&api),
        quoted(&version),
    );
    let proxy = Proxy::start(&config).await;
    let recorder = stand_in.recorder();
    until("it is logged in", || recorder.logins() == 1).await;
    for path in [
        "/api/v3/authorization/token",
        "/API/V3/Authorization/Token",
        "/mounted/v3/authorization/token",
        "/version/authorization/token",
    ] {
        let reply = proxy.get(path).await;
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
    }
    assert_eq!(recorder.token_calls(), 1);
    for path in ["/api/v3/devices", "/mounted/v3/devices", "/version/devices"] {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
}
