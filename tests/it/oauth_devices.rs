//! OAuth 2.0 for many devices: each is a client or a user of its own, and none touches another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use http::Response;
use http_body_util::Full;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::authority::path;
use crate::harness::authorization::{Asked, AuthorizationServer, Scripted};
use crate::harness::upstream::answer;
use crate::harness::{
    Act, Connection, Faulty, Proxy, Reply, Upstream, private_directory, quoted, route, secret,
    until,
};

const BY_HEADER: &str = "identity = { header = \"X-Device\" }\n";

/// A file of devices, where others cannot read it.
struct File(TempDir);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(private_directory());
        file.write("devices.csv", text);
        file
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The credential `api` with these devices, which find the server at `place`.
    fn config(&self, place: &str, more: &str, upstream: &Upstream) -> String {
        let devices = path(&self.0.path().join("devices.csv"));
        format!(
            "[credential.api]\nkind = \"oauth2\"\ndevices = {devices}\n{place}\n{more}\n\
             [credential.api.refresh]\nmin_interval = \"1ms\"\ntimeout = \"2s\"\n{}",
            route(&upstream.url(), "api", BY_HEADER)
        )
    }
}

fn at(server: &AuthorizationServer) -> String {
    format!("token_url = {}", quoted(&server.token_url()))
}

async fn of(proxy: &Proxy, device: &str, target: &str) -> Reply {
    proxy.send("GET", target, &[("X-Device", device)], "").await
}

/// Each path below `/refuse/` says 401 to the first token that it sees, and to no other; nobody
/// takes that one any more.
async fn refusing() -> Upstream {
    let refused: Mutex<BTreeMap<String, String>> = Mutex::default();
    Upstream::answering(move |seen| {
        let token = seen.values("authorization").concat();
        let mut refused = refused.lock().unwrap();
        if seen.target.starts_with("/refuse/") {
            refused.entry(seen.target.clone()).or_insert_with(|| token.clone());
        }
        if refused.values().any(|refused| *refused == token) {
            return answer(401, "revoked");
        }
        let response = Response::builder().header("x-token", &token["Bearer ".len()..]);
        response.body(Full::default()).unwrap()
    })
    .await
}

#[tokio::test]
async fn each_device_is_a_client_of_its_own_and_the_metadata_are_asked_for_once() {
    let known = BTreeMap::from([("client-1", "s:1"), ("client-2", "s 2"), ("client-4", "s4")]);
    let server = AuthorizationServer::answering(move |asked| {
        let (id, secret) = asked.basic();
        if known.get(id.as_str()).is_some_and(|known| *known == secret) {
            Scripted::token(&format!("token-of-{id}"))
        } else {
            Scripted::error("invalid_client")
        }
    })
    .await;
    let metadata = json!({ "issuer": server.url(), "token_endpoint": server.token_url() });
    let place = "/.well-known/oauth-authorization-server";
    server.publish(place, Scripted::json(200, &metadata));
    let file = File::new(
        "device,client_id,client_secret,scope,audience\nline-1,client-1,s:1,read,\n\
         line-2,client-2,s 2,read write,x\nline-3,client-3,canary-wrong,,\n\
         line-4,client-4,s4,,\n",
    );
    let upstream = Upstream::fine().await;
    let issuer = format!("issuer = {}", quoted(&server.url()));
    let proxy = Proxy::start(&file.config(&issuer, "extra = { tenant = \"7\" }", &upstream)).await;
    assert_eq!(server.metadata_asked(), [""; 0], "nobody asked yet");
    for round in 0..3 {
        let mut requests = JoinSet::new();
        for device in ["line-1", "line-2", "line-3", "line-4"] {
            let address = proxy.address();
            requests.spawn(async move {
                let mut connection = Connection::open(address).await;
                (device, connection.send("GET", "/x", &[("X-Device", device)], "").await)
            });
        }
        for (device, reply) in requests.join_all().await {
            if device == "line-3" {
                let word = reply.problem(502, "proxy_configuration_error");
                assert_eq!(word, "credential-refused", "round {round}");
            } else {
                assert_eq!(reply.status, 200, "round {round}, {device}");
            }
        }
    }
    assert_eq!(server.count(), 4, "once each");
    assert_eq!(server.metadata_asked(), [place], "once for all, also after a refusal");
    let sent: BTreeSet<String> =
        upstream.seen().iter().map(|seen| seen.values("authorization").concat()).collect();
    let tokens = [1, 2, 4].map(|n| format!("Bearer token-of-client-{n}"));
    assert_eq!(sent, BTreeSet::from(tokens));
    for asked in server.asked() {
        let expected = match asked.basic().0.as_str() {
            "client-1" => (Some("read"), None),
            "client-2" => (Some("read write"), Some("x")),
            _ => (None, None),
        };
        assert_eq!((asked.get("scope"), asked.get("audience")), expected);
        assert_eq!(asked.get("tenant"), Some("7"), "what all share");
    }
    assert!(!proxy.debug().contains("canary"));
}

/// Users `user-N` with the password `canary-N`, whose refresh tokens are good once each; using one
/// twice takes everything of that user back. Their access tokens live so many seconds.
fn rotating(lives: u64) -> impl Fn(&Asked) -> Scripted + Send + Sync + 'static {
    let state: Mutex<BTreeMap<String, usize>> = Mutex::default();
    move |asked| {
        let mut state = state.lock().unwrap();
        let user = match (asked.get("username"), asked.get("refresh_token")) {
            (Some(user), None) => user.to_owned(),
            (None, Some(token)) => {
                let (user, number) = token.split_once('/').unwrap();
                if state.get(user) != Some(&number.parse().unwrap()) {
                    state.remove(user);
                    return Scripted::error("invalid_grant");
                }
                user.to_owned()
            }
            other => panic!("{other:?}"),
        };
        let number = state.entry(user.clone()).or_default();
        *number += 1;
        Scripted::json(
            200,
            &json!({
                "access_token": format!("{user}.{number}"),
                "expires_in": lives,
                "refresh_token": format!("{user}/{number}"),
            }),
        )
    }
}

const USERS: &str = "device,username,password\nline-1,user-1,canary-1\nline-2,user-2,canary-2\n";

fn password() -> String {
    format!("grant = \"password\"\nclient_id = \"fleet\"\nclient_secret = {}\n", secret("canary"))
}

/// What each request for a token was made with.
fn grounds(server: &AuthorizationServer) -> Vec<String> {
    let ground =
        |asked: &Asked| asked.get("refresh_token").or(asked.get("username")).map(str::to_owned);
    server.asked().iter().filter_map(ground).collect()
}

#[tokio::test]
async fn refresh_tokens_belong_to_one_device_each_and_are_used_once() {
    let server = AuthorizationServer::answering(rotating(1)).await;
    let (file, upstream) = (File::new(USERS), Upstream::fine().await);
    let proxy = Proxy::start(&file.config(&at(&server), &password(), &upstream)).await;
    for device in ["line-1", "line-2"] {
        assert_eq!(of(&proxy, device, "/x").await.status, 200);
    }
    until("each was renewed", || server.count() >= 10).await;
    assert_eq!(of(&proxy, "line-1", "/x").await.status, 200);
    let sent = grounds(&server);
    for user in ["user-1", "user-2"] {
        let own: Vec<&String> = sent.iter().filter(|ground| ground.starts_with(user)).collect();
        let expected = (1..own.len()).map(|number| format!("{user}/{number}"));
        let expected: Vec<String> = [user.to_owned()].into_iter().chain(expected).collect();
        assert!(own.len() >= 3 && own.into_iter().eq(&expected), "{sent:?}");
    }
    assert!(!proxy.debug().contains("canary") && !proxy.debug().contains("user-1/"));
}

#[tokio::test]
async fn devices_of_one_user_with_other_scopes_share_no_refresh_token() {
    // Each scope has a chain of its own, of which only the newest is good, and once. A renewal names
    // no scope: it is for what was granted.
    let chains: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let server = AuthorizationServer::answering(move |asked| {
        let token = asked.get("refresh_token").map(|token| token.split_once('/').unwrap());
        let scope = token.map_or_else(|| asked.get("scope").unwrap(), |(scope, _)| scope);
        let mut chains = chains.lock().unwrap();
        let number = chains.entry(scope.to_owned()).or_default();
        if token.is_some_and(|(_, token)| token != number.to_string()) {
            return Scripted::error("invalid_grant");
        }
        *number += 1;
        Scripted::tokens(&format!("{scope}.{number}"), &format!("{scope}/{number}"))
    })
    .await;
    let file = File::new(
        "device,username,password,scope\nline-1,user,canary-1,read\nline-2,user,canary-1,write\n",
    );
    let upstream = refusing().await;
    let proxy = Proxy::start(&file.config(&at(&server), &password(), &upstream)).await;
    for (device, token) in [("line-1", "read.1"), ("line-2", "write.1")] {
        assert_eq!(of(&proxy, device, "/x").await.field("x-token"), token);
    }
    for (device, target, token) in
        [("line-1", "/refuse/1", "read.2"), ("line-2", "/refuse/2", "write.2")]
    {
        assert_eq!(of(&proxy, device, target).await.field("x-token"), token);
    }
    let asked = server.asked();
    let asked: Vec<_> =
        asked.iter().map(|asked| asked.get("refresh_token").or(asked.get("scope"))).collect();
    assert_eq!(asked, ["read", "write", "read/1", "write/1"].map(Some));
}

#[tokio::test]
async fn devices_of_one_refresh_token_go_on_with_its_successor_also_where_their_scopes_differ() {
    let newest = Mutex::new("first".to_owned());
    let server = AuthorizationServer::answering(move |asked| {
        let mut newest = newest.lock().unwrap();
        if asked.get("refresh_token") != Some(&newest) {
            return Scripted::error("invalid_grant");
        }
        newest.push('+');
        Scripted::tokens(asked.get("scope").unwrap(), &newest)
    })
    .await;
    let file = File::new("device,refresh_token,scope\nline-1,first,read\nline-2,first,write\n");
    let upstream = refusing().await;
    let grant = "grant = \"refresh_token\"\nclient_id = \"fleet\"\n";
    let proxy = Proxy::start(&file.config(&at(&server), grant, &upstream)).await;
    for (device, token) in [("line-1", "read"), ("line-2", "write")] {
        assert_eq!(of(&proxy, device, "/x").await.field("x-token"), token);
    }
    assert_eq!(grounds(&server), ["first", "first+"]);
}

#[tokio::test]
async fn a_refresh_token_that_a_kept_connection_took_without_an_answer_is_not_sent_again() {
    let server = Faulty::start(|request| {
        let first = request.number == 1;
        if !first && request.connection == 1 {
            return Act::Close;
        }
        let number = request.connection;
        let content = format!(
            "{{\"access_token\":\"t{number}\",\"token_type\":\"Bearer\",\
             \"expires_in\":3600,\"refresh_token\":\"r{number}\"}}"
        );
        let length = content.len();
        Act::Say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{content}"
        ))
    })
    .await;
    let (file, upstream) = (File::new(USERS), refusing().await);
    let place = format!("token_url = {}", quoted(&format!("{}/token", server.url())));
    let proxy = Proxy::start(&file.config(&place, &password(), &upstream)).await;
    assert_eq!(of(&proxy, "line-1", "/x").await.field("x-token"), "t1");
    of(&proxy, "line-1", "/refuse/1").await;
    let sent = || {
        let received = server.received();
        let sent = received.iter().filter_map(|request| {
            let content = String::from_utf8(request.content.clone()?).unwrap();
            let renews = content.contains("refresh_token=r1");
            Some((request.connection, if renews { "renewal" } else { "login" }))
        });
        sent.collect::<Vec<_>>()
    };
    until("it is asked in another way", || sent().len() >= 3).await;
    assert_eq!(sent()[..3], [(1, "login"), (1, "renewal"), (2, "login")]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_way_of_the_refresh_token_of_that_device() {
    let server = AuthorizationServer::answering(rotating(3600)).await;
    let (file, upstream) = (File::new(USERS), refusing().await);
    let proxy = Proxy::start(&file.config(&at(&server), &password(), &upstream)).await;
    for device in ["line-1", "line-2"] {
        assert_eq!(of(&proxy, device, "/x").await.status, 200);
    }
    assert_eq!(of(&proxy, "line-1", "/refuse/1").await.field("x-token"), "user-1.2");
    assert_eq!(of(&proxy, "line-2", "/x").await.field("x-token"), "user-2.1");
    assert_eq!(grounds(&server), ["user-1", "user-2", "user-1/1"]);
}

#[tokio::test]
async fn an_idle_device_whose_token_has_ended_goes_on_with_its_refresh_token() {
    let server = AuthorizationServer::answering(rotating(3)).await;
    let (file, upstream) = (File::new(USERS), Upstream::fine().await);
    let config = file.config(&at(&server), &password(), &upstream);
    let config = config.replace("timeout = \"2s\"", "timeout = \"2s\"\nidle_after = \"1s\"");
    let proxy = Proxy::start(&config).await;
    assert_eq!(of(&proxy, "line-1", "/x").await.status, 200);
    let pool = proxy.identity("api").cache.devices().unwrap();
    until("its token has lapsed", || pool.census().fresh == 0).await;
    assert_eq!(grounds(&server), ["user-1"], "nobody asks for it");
    assert_eq!(of(&proxy, "line-1", "/x").await.status, 200);
    assert_eq!(grounds(&server), ["user-1", "user-1/1"]);
}

#[tokio::test]
async fn what_a_cut_off_renewal_has_sent_is_not_sent_again_and_other_devices_renew() {
    let server = AuthorizationServer::answering(rotating(3600)).await;
    let (file, upstream) = (File::new(USERS), refusing().await);
    let proxy = Proxy::start(&file.config(&at(&server), &password(), &upstream)).await;
    for device in ["line-1", "line-2"] {
        assert_eq!(of(&proxy, device, "/x").await.status, 200);
    }
    server.say([Scripted::hang()]);
    // It is asked, and nothing comes.
    of(&proxy, "line-1", "/refuse/1").await;
    until("it is asked in another way", || server.count() >= 4).await;
    until("it is served", || proxy.identity("api").cache.devices().unwrap().census().fresh == 2)
        .await;
    assert_eq!(of(&proxy, "line-2", "/refuse/2").await.field("x-token"), "user-2.2");
    until("the other renews", || server.count() >= 5).await;
    assert_eq!(grounds(&server)[..5], ["user-1", "user-2", "user-1/1", "user-1", "user-2/1"]);
}

#[tokio::test]
async fn a_devices_refresh_token_gives_way_to_the_next_and_to_a_new_one_in_its_file() {
    let server = AuthorizationServer::answering(|asked| {
        let next = format!("{}+", asked.get("refresh_token").unwrap());
        let token = json!({ "access_token": "t", "expires_in": 1, "refresh_token": next });
        Scripted::json(200, &token)
    })
    .await;
    let file = File::new("");
    file.write("refresh", "first\n");
    let line = format!("device,refresh_token\nline-1,file:{}\n", file.path("refresh"));
    file.write("devices.csv", &line);
    let upstream = Upstream::fine().await;
    let grant = "grant = \"refresh_token\"\nclient_id = \"fleet\"\n";
    let proxy = Proxy::start(&file.config(&at(&server), grant, &upstream)).await;
    assert_eq!(of(&proxy, "line-1", "/x").await.status, 200);
    until("it is renewed", || server.count() >= 3).await;
    // Somebody has put another one there.
    file.write("refresh", "second\n");
    until("the new one is used", || grounds(&server).contains(&"second+".to_owned())).await;
    let sent = grounds(&server);
    let renewed = sent.iter().position(|sent| sent == "second").unwrap();
    for (number, token) in sent[..renewed].iter().enumerate() {
        assert_eq!(*token, format!("first{}", "+".repeat(number)), "{sent:?}");
    }
    assert_eq!(sent[renewed + 1], "second+", "{sent:?}");
    assert_eq!(server.last().get("client_id"), Some("fleet"));
}

#[tokio::test]
async fn each_device_signs_with_a_key_of_its_own() {
    let server = AuthorizationServer::start().await;
    let file = File::new("");
    let mut lines = "device,client_id,client_assertion_key\n".to_owned();
    for number in 1..=2 {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        file.write(&format!("{number}.pem"), &key.serialize_pem());
        let key = file.path(&format!("{number}.pem"));
        writeln!(lines, "line-{number},client-{number},file:{key}").unwrap();
    }
    file.write("devices.csv", &lines);
    let upstream = Upstream::fine().await;
    let auth = "client_auth = \"private_key_jwt\"\nclient_assertion = { algorithm = \"ES256\" }\n";
    let proxy = Proxy::start(&file.config(&at(&server), auth, &upstream)).await;
    for device in ["line-1", "line-2"] {
        assert_eq!(of(&proxy, device, "/x").await.status, 200);
    }
    let mut assertions = BTreeSet::new();
    for (asked, id) in server.asked().iter().zip(["client-1", "client-2"]) {
        let claims = asked.claims("client_assertion");
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some(id), Some(id)));
        assert_eq!(asked.get("client_id"), Some(id));
        assertions.insert(asked.get("client_assertion").unwrap().to_owned());
    }
    assert_eq!(assertions.len(), 2);
}

#[tokio::test]
async fn fetch_asks_for_one_device() {
    let server = AuthorizationServer::answering(rotating(3600)).await;
    let (file, upstream) = (File::new(USERS), Upstream::fine().await);
    let config = file.config(&at(&server), &password(), &upstream);
    file.write("countersign.toml", &format!("{config}\n[[listen]]\naddress = \"127.0.0.1:0\"\n"));
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.args(arguments).args(["--config", &file.path("countersign.toml")]);
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("canary"), "{said}");
        (output.status.code(), said)
    };
    let (status, said) = run(&["fetch", "api", "--device", "line-2"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("access_token, refresh_token\nlifetime  60 min"), "{said}");
    assert_eq!(grounds(&server), ["user-2"]);
    assert_eq!(run(&["fetch", "api"]).await.0, Some(2));
    let (status, said) = run(&["check", "--live"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("the secrets of 2 device(s) are there; none was logged in"), "{said}");
    let (status, said) = run(&["explain", "GET", "/x", "-H", "X-Device: line-1"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("<access token from the authorization server>"), "{said}");
    assert_eq!(server.count(), 1);
}
