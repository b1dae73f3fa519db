//! No secret shows up anywhere, in whatever form: not in the log at its finest, not in an answer, not
//! in the output of a command, not in what `Debug` shows, not among the arguments, not in a file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::app::App;
use countersign::clock::Clock;
use countersign::config;
use countersign::mock::twinzo::{Account, Options};
use countersign::mock::{StandIn, twinzo};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::client::{parse, raw, raw_head, request, whole};
use crate::harness::upstream::answer;
use crate::harness::{
    ANY_PORT, Connection, PATIENCE, Proxy, Reply, Upstream, devo, private_directory, quoted, secret,
};

/// Part of every secret here.
const CANARY: &str = "canary";
/// But for this one.
const KEY: &str = include_str!("../vectors/rsa-key.pem");

/// `text` in the forms that encodings give it, wherever it stands in what is encoded. In lower case,
/// except for Base64.
fn encoded(text: &str) -> Vec<String> {
    let hex = hex::encode(text);
    let pairs = |before: &str| -> String {
        hex.as_bytes()
            .chunks(2)
            .flat_map(|pair| [before, std::str::from_utf8(pair).unwrap()])
            .collect()
    };
    let mut forms =
        vec![text.to_ascii_lowercase(), pairs("%"), pairs("\\x"), pairs("\\u00"), hex.clone()];
    let usual = percent_encoding::NON_ALPHANUMERIC;
    let usual = percent_encoding::utf8_percent_encode(text, usual).to_string();
    forms.push(usual.to_ascii_lowercase());
    for skipped in 0..3 {
        let shifted = [&vec![0; skipped][..], text.as_bytes()].concat();
        let whole = STANDARD.encode(&shifted);
        // Without the characters that depend on what is before and behind it.
        let certain = &whole[(skipped * 8).div_ceil(6)..shifted.len() * 8 / 6];
        forms.push(certain.to_owned());
        forms.push(certain.replace('+', "-").replace('/', "_"));
    }
    forms
}

#[test]
fn encoded_secrets_would_be_found() {
    for secret in ["canary", "canary-password", "x?>x?>canary", "==~~??"] {
        let forms = encoded(secret);
        let found = |text: &str| {
            let lower = text.to_ascii_lowercase();
            forms.iter().any(|form| text.contains(form) || lower.contains(form))
        };
        for before in ["", "x", "xy", "xyz:"] {
            let whole = format!("{before}{secret}@behind");
            assert!(found(&whole));
            assert!(found(&STANDARD.encode(&whole)), "{before}{secret}");
            let safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&whole);
            assert!(found(&safe), "{before}{secret}");
            assert!(found(&hex::encode_upper(&whole)), "{before}{secret}");
        }
        let all = secret.bytes().fold(String::new(), |all, byte| format!("{all}%{byte:02X}"));
        assert!(found(&all), "{all}");
        assert!(!found("nothing of the kind"));
    }
}

struct Setting {
    directory: TempDir,
    twinzo: StandIn,
    devo: StandIn,
    echo: Upstream,
    /// Says what it was told, as an error.
    mirror: Upstream,
    /// Takes traces.
    collector: Upstream,
    authorization: [AuthorizationServer; 2],
    text: String,
}

impl Setting {
    /// A configuration with a secret in every place where one can stand, by every way in which one
    /// can be given.
    async fn new() -> Self {
        let directory = private_directory();
        let file = directory.path().join("password");
        fs::write(&file, "canary-password\n").unwrap();
        let signing = directory.path().join("signing");
        fs::write(&signing, "canary-reseller-secret\n").unwrap();
        let twinzo = twinzo::start(
            ANY_PORT,
            Options {
                password: "canary-password".to_owned(),
                api_key: "canary-twinzo-key".to_owned(),
                accounts: vec![Account {
                    login: "gateway-02".to_owned(),
                    password: "canary-other-password".to_owned(),
                    ..Account::default()
                }],
                ..Options::default()
            },
        )
        .await
        .unwrap();
        let devo = devo(countersign::mock::devo::Options {
            domain_api_key: "canary-domain-key".to_owned(),
            reseller_api_key: "canary-reseller-key".to_owned(),
            reseller_api_secret: "canary-reseller-secret".to_owned(),
            api_key: "canary-query-key".to_owned(),
            api_secret: "canary-query-secret".to_owned(),
            standalone_token: "canary-standalone".to_owned(),
            ..countersign::mock::devo::Options::default()
        })
        .await;
        let echo = Upstream::fine().await;
        let mirror = Upstream::answering(|seen| {
            let mut response = answer(200, "");
            *response.body_mut() = format!("{seen:?}").into();
            let named = seen.headers.get("x-mirrored").unwrap().clone();
            response.headers_mut().insert("x-mirrored", named.clone());
            response.headers_mut().insert("set-cookie", named.clone());
            response.headers_mut().insert("location", named);
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
        .await;
        let collector = Upstream::fine().await;
        let spool = directory.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let closed = Upstream::fine().await.url();
        let guids = "client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\n\
                     branch_guid = \"7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830\"";
        let device = format!(
            "kind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"",
            quoted(&twinzo.url())
        );
        let credentials = [
            (
                "plant",
                format!(
                    "{device}\nlogin = \"gateway-01\"\npassword = {{ file = {} }}\napi_key = {}",
                    quoted(file.to_str().unwrap()),
                    secret("canary-twinzo-key"),
                ),
                twinzo.url(),
            ),
            (
                "refused",
                format!(
                    "{device}\nlogin = \"gateway-01\"\npassword = {}",
                    secret("canary-wrong-password")
                ),
                twinzo.url(),
            ),
            (
                "unreachable",
                format!(
                    "kind = \"twinzo-device\"\nbase_url = {}\nlogin = \"x\"\npassword = {}",
                    quoted(&closed),
                    secret("canary-unsent-password"),
                ),
                twinzo.url(),
            ),
            (
                "key",
                format!(
                    "kind = \"twinzo-api-key\"\napi_key = {}\n{guids}",
                    secret("canary-twinzo-key")
                ),
                twinzo.url(),
            ),
            (
                "standalone",
                "kind = \"devo-token\"\ntoken = { env = \"IT_STANDALONE_TOKEN\" }".to_owned(),
                devo.url(),
            ),
            (
                "tenants",
                format!(
                    "kind = \"devo-signature\"\nreseller_api_key = {}\ndomain_api_key = {}\n\
                     api_secret = {{ exec = [\"cat\", {}] }}",
                    secret("canary-reseller-key"),
                    secret("canary-domain-key"),
                    quoted(signing.to_str().unwrap()),
                ),
                devo.url(),
            ),
            (
                "query",
                format!(
                    "kind = \"devo-signature\"\napi = \"query\"\napi_key = {}\napi_secret = {}",
                    secret("canary-query-key"),
                    secret("canary-query-secret"),
                ),
                devo.url(),
            ),
            (
                "any",
                format!(
                    "kind = \"fields\"\nset = {{ X-One = {}, X-Two = \"Two {{two}}\" }}\n\
                     values = {{ two = {} }}",
                    secret("canary-one"),
                    secret("canary-two"),
                ),
                echo.url(),
            ),
            (
                "parameter",
                format!("kind = \"query\"\nset = {{ key = {} }}", secret("canary-parameter")),
                echo.url(),
            ),
            (
                "bearer",
                format!("kind = \"bearer\"\ntoken = {}", secret("canary-bearer")),
                closed.clone(),
            ),
            (
                "basic",
                format!(
                    "kind = \"basic\"\nusername = \"x\"\npassword = {}",
                    secret("canary-basic")
                ),
                echo.url(),
            ),
            (
                "login",
                format!(
                    "kind = \"login\"\n\
                     secrets = {{ password = {} }}\n\
                     values = {{ token = \"/Token\" }}\nlifetime = \"1h\"\n\
                     set = {{ X-Token = \"{{token}}\" }}\n\
                     request = {{ url = {}, json = {{ Client = \"acme\", Login = \"gateway-02\", \
                     Password = \"{{password}}\" }} }}",
                    secret("canary-other-password"),
                    quoted(&format!("{}/v3/authorization/authenticate", twinzo.url())),
                ),
                echo.url(),
            ),
            (
                "mirror",
                format!(
                    "kind = \"fields\"\nset = {{ X-Mirrored = {} }}",
                    secret("canary-mirrored")
                ),
                mirror.url(),
            ),
            (
                "hash",
                format!(
                    "kind = \"hmac\"\nkey = {}\nvalues = {{ id = {} }}\n\
                     base = [\"method\", \"path\", {{ value = \"id\" }}, \"body\", \"timestamp\"]\n\
                     set = {{ X-Id = \"{{id}}\", X-Signature = \"{{signature}}\" }}",
                    secret("canary-hash-key"),
                    secret("canary-hash-id"),
                ),
                echo.url(),
            ),
        ];
        let granting = AuthorizationServer::answering(|_| {
            Scripted::tokens("canary-access-token", "canary-refresh-token")
        })
        .await;
        let refusing = AuthorizationServer::answering(|_| Scripted::error("invalid_grant")).await;
        let credentials = credentials.into_iter().chain([
            (
                "oauth",
                format!(
                    "kind = \"oauth2\"\ngrant = \"refresh_token\"\ntoken_url = {}\n\
                     client_id = \"x\"\nclient_secret = {}\nrefresh_token = {}\n\
                     extra = {{ key = {} }}\nheaders = {{ X-Key = {} }}",
                    quoted(&granting.token_url()),
                    secret("canary-client-secret"),
                    secret("canary-first-refresh-token"),
                    secret("canary-extra"),
                    secret("canary-field"),
                ),
                echo.url(),
            ),
            (
                "oauth-refused",
                format!(
                    "kind = \"oauth2\"\ngrant = \"password\"\ntoken_url = {}\n\
                     client_id = \"x\"\nusername = \"robot\"\npassword = {}\n\
                     client_assertion = {{ key = {} }}",
                    quoted(&refusing.token_url()),
                    secret("canary-oauth-password"),
                    secret(KEY),
                ),
                echo.url(),
            ),
        ]);
        let mut text = format!(
            "[limits]\nmemory_per_request = \"16KiB\"\nspool_directory = {}\n\
             [log]\nlevel = \"trace\"\nformat = \"json\"\naccess = \"json\"\nfile = {}\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\ncaller_token = {}\n\
             [admin]\naddress = \"127.0.0.1:0\"\ntoken = {}\n",
            quoted(spool.to_str().unwrap()),
            quoted(directory.path().join("log").to_str().unwrap()),
            secret("canary-caller"),
            secret("canary-admin"),
        );
        if cfg!(feature = "otlp") {
            write!(
                text,
                "[trace]\nendpoint = {}\ndelay = \"10ms\"\ndevices = true\n\
                 headers = {{ Authorization = {} }}\n",
                quoted(&collector.url()),
                secret("Bearer canary-collector"),
            )
            .unwrap();
        }
        for (name, lines, upstream) in credentials {
            write!(
                text,
                "[credential.{name}]\n{lines}\n\
                 [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = {}\n\
                 credential = \"{name}\"\n",
                quoted(&upstream)
            )
            .unwrap();
        }
        let authorization = [granting, refusing];
        Self { directory, twinzo, devo, echo, mirror, collector, authorization, text }
    }

    fn config(&self) -> PathBuf {
        let path = self.directory.path().join("countersign.toml");
        fs::write(&path, &self.text).unwrap();
        path
    }

    /// The names of all routes.
    fn routes(&self) -> Vec<String> {
        let config: toml::Table = self.text.parse().unwrap();
        let routes = config["route"].as_array().unwrap().iter();
        routes.map(|route| route["name"].as_str().unwrap().to_owned()).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Where the running program listens, from its log.
    fn address(&self, message: &str) -> Option<std::net::SocketAddr> {
        self.log().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = line["address"].as_str()?.strip_prefix("http://")?;
            (line["message"] == message).then(|| address.parse().ok())?
        })
    }

    /// Everything secret that only came to be on the way: tokens and signatures.
    fn derived(&self) -> Vec<String> {
        let mut derived = Vec::new();
        let recorded = [self.twinzo.recorder().all(), self.devo.recorder().all()].concat();
        for headers in recorded
            .iter()
            .map(|recorded| &recorded.headers)
            .chain(self.echo.seen().iter().map(|seen| &seen.headers))
        {
            for name in ["token", "x-token", "x-logtrust-sign", "x-signature"] {
                let values = headers.get_all(name).iter();
                derived.extend(values.map(|value| value.to_str().unwrap().to_owned()));
            }
        }
        assert!(derived.len() >= 6, "there was something to leak");
        derived.push("Y2FuYXJ5".to_owned());
        derived.push(KEY.lines().nth(1).unwrap().to_owned());
        derived.push("eDpjYW5hcnk".to_owned());
        derived
    }

    fn check(&self, what: &str, text: &str) {
        let lower = text.to_ascii_lowercase();
        for form in encoded(CANARY) {
            if let Some(at) = lower.find(&form).or_else(|| text.find(&form)) {
                let from = at.saturating_sub(200);
                let around: String = text.chars().skip(from).take(400).collect();
                panic!("a secret is in {what}, as {form}:\n{around}");
            }
        }
        for form in self.derived().iter().flat_map(|derived| encoded(derived)) {
            assert!(!text.contains(&form) && !lower.contains(&form), "{form} is in {what}");
        }
    }

    /// Checks what was exported, all of which the collector has when the program has ended.
    fn check_traces(&self) {
        let exports = self.collector.seen();
        let bytes: Vec<u8> = exports.iter().flat_map(|export| export.body.to_vec()).collect();
        let text = String::from_utf8_lossy(&bytes);
        self.check("the traces", &text);
        let traced = ["/any/x", "/mirror/x", "upstream-refused"];
        assert!(!cfg!(feature = "otlp") || traced.iter().all(|part| text.contains(part)));
        for export in exports {
            assert_eq!(export.values("authorization"), ["Bearer canary-collector"]);
        }
    }

    /// Checks every file that the program may have written, and that there are no others.
    fn check_files(&self) {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // What the test has written.
            if !["password", "signing", "countersign.toml"].contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.sort();
        assert_eq!(names, ["log", "spool"]);
        assert!(fs::read_dir(self.directory.path().join("spool")).unwrap().next().is_none());
    }
}

fn program(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env("IT_STANDALONE_TOKEN", "canary-standalone")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn finish(child: Child) -> Output {
    let output = child.wait_with_output();
    tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap()
}

fn outputs(output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    format!("{stdout}\n{stderr}")
}

async fn requests(address: std::net::SocketAddr) -> Vec<Reply> {
    let mut replies = Vec::new();
    let token = [("authorization", "Bearer canary-caller")];
    let large = "canary-content ".repeat(10_000);
    for (method, target, content, status) in [
        ("GET", "/plant/v3/devices", "", 200),
        ("POST", "/plant/v3/localization", "canary-content", 415),
        ("GET", "/plant/v3/authorization/token", "", 403),
        ("GET", "/refused/v3/devices", "", 502),
        ("GET", "/unreachable/v3/devices", "", 503),
        ("GET", "/key/v3/devices", "", 200),
        ("GET", "/standalone/probio/domain", "", 200),
        ("POST", "/tenants/probio/domain", "canary-content", 200),
        ("POST", "/query/search/query?a=b", "{}", 200),
        ("GET", "/any/x?token=canary-of-the-caller", "", 200),
        ("GET", "/parameter/x", "", 200),
        ("GET", "/bearer/x?token=canary-of-the-caller", "", 502),
        ("GET", "/basic/x", "", 200),
        ("GET", "/login/x", "", 200),
        ("POST", "/hash/x", "canary-content", 200),
        ("POST", "/hash/x", &large, 200),
        ("GET", "/oauth/x", "", 200),
        ("GET", "/oauth-refused/x", "", 502),
        ("GET", "/nowhere", "", 404),
        ("GET", "/any/%00?token=canary-of-the-caller", "", 400),
    ] {
        let mut connection = Connection::open(address).await;
        let reply = connection.send(method, target, &token, content.to_owned()).await;
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        replies.push(reply);
    }
    let mut connection = Connection::open(address).await;
    replies.push(connection.send("GET", "/any/x", &[], "").await);
    let wrong = [("authorization", "Bearer canary-wrong-caller-token")];
    replies.push(connection.send("GET", "/any/x", &wrong, "").await);
    let wrong = ["GET /any/x HTTP/1.1", "Authorization: Bearer canary-caller", "Host: canary.x"];
    replies.push(raw_head(address, &wrong).await);
    let garbage = raw(address, "canary canary canary\r\n\r\n").await;
    if !garbage.is_empty() {
        replies.push(parse(&garbage));
    }
    replies
}

/// What streams while `busy` is under way, and two statuses more.
async fn events<T, B: Future<Output = T>>(
    admin: std::net::SocketAddr,
    token: &[(&str, &str)],
    busy: impl FnOnce() -> B,
) -> String {
    let mut connection = Connection::open(admin).await;
    let response = connection.begin(request("GET", "/api/events", token, whole(""))).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut content = response.into_body();
    busy().await;
    let mut text = String::new();
    while text.matches("event: status").count() < 3 {
        let frame = tokio::time::timeout(PATIENCE, content.frame()).await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    text
}

#[tokio::test]
async fn nothing_that_the_program_writes_holds_a_secret() {
    let setting = Setting::new().await;
    let config = setting.config();
    let mut running = program(&config, &["run"]).spawn().unwrap();
    let mut found = None;
    for _ in 0..6_000 {
        found = setting.address("listening").zip(setting.address("admin listening"));
        if found.is_some() || running.try_wait().unwrap().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let Some((address, admin)) = found else {
        panic!("it does not start: {}", outputs(&finish(running).await));
    };
    for reply in requests(address).await {
        setting.check("an answer", &format!("{:?} {}", reply.headers, reply.text()));
    }
    // What an upstream says is the caller's business, our own credential included, and nobody
    // else's.
    let mut connection = Connection::open(address).await;
    let token = [("authorization", "Bearer canary-caller")];
    let reply = connection.send("GET", "/mirror/x", &token, "").await;
    assert!(reply.text().contains("canary-mirrored"), "{}", reply.text());
    assert_eq!(reply.field("x-mirrored"), "canary-mirrored");
    // What is not there yet is 404: whoever adds it sees that it is looked at here.
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/page")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: Vec<String> =
        files.filter(|name| name != "index.html").map(|name| format!("/page/{name}")).collect();
    assert!(files.len() > 10, "{files:?}");
    let statuses = [
        ("/livez", 200),
        ("/readyz", 503),
        ("/metrics", 200),
        ("/", 200),
        ("/api/status", 200),
        ("/api/credentials/plant/devices", 404),
    ];
    let files = files.iter().map(|target| (target.as_str(), 200));
    let token = [("authorization", "Bearer canary-admin")];
    for (target, status) in statuses.into_iter().chain(files) {
        let mut connection = Connection::open(admin).await;
        let reply = connection.send("GET", target, &token, "").await;
        assert_eq!(reply.status, status, "{target}");
        setting.check(target, &format!("{:?} {}", reply.headers, reply.text()));
    }
    for route in setting.routes() {
        let question = serde_json::json!({
            "method": "POST", "url": format!("/{route}/x?y=1"), "body": "{}",
            "headers": [["Authorization", "Bearer x"]],
        });
        let fields = [token[0], ("content-type", "application/json")];
        let mut connection = Connection::open(admin).await;
        let reply = connection.send("POST", "/api/explain", &fields, question.to_string()).await;
        assert_eq!(reply.status, 200, "{route}: {}", reply.text());
        assert_eq!(reply.json()["route"]["name"], route);
        setting.check("an explanation", &format!("{:?} {}", reply.headers, reply.text()));
    }
    let events = events(admin, &token, || requests(address)).await;
    assert!(events.contains("event: status\ndata: {"), "{events}");
    setting.check("the events", &events);
    let arguments = fs::read(format!("/proc/{}/cmdline", running.id().unwrap()));
    if cfg!(target_os = "linux") {
        setting.check("the arguments", &String::from_utf8(arguments.unwrap()).unwrap());
    }
    assert!(setting.authorization.iter().all(|server| server.count() == 1), "they were asked");
    // A new secret, and one that cannot be read.
    let password = setting.directory.path().join("password");
    fs::write(&password, "canary-new-password\n").unwrap();
    let fetches = |log: &str| log.matches("\"credential\":\"plant\"").count();
    let before = fetches(&setting.log());
    for _ in 0..6_000 {
        if fetches(&setting.log()) > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(fetches(&setting.log()) > before, "it tries the new password");

    let id = running.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(told.unwrap().success());
    let output = finish(running).await;
    assert!(output.status.success(), "{}", outputs(&output));
    let log = setting.log();
    assert!(log.lines().count() > 20, "there is a log: {log}");
    assert!(log.contains("\"/any/x\""), "with a line per request: {log}");
    assert!(log.contains("\"/mirror/x\""), "{log}");
    assert_eq!(setting.mirror.seen().len(), 1);
    setting.check("the log", &log);
    setting.check_traces();
    setting.check_files();
    setting.check("the output", &outputs(&output));
}

#[tokio::test]
async fn no_command_prints_a_secret() {
    let setting = Setting::new().await;
    let config = setting.config();
    // Something to derive from.
    let proxy = Proxy::start(&without_environment(&setting.text)).await;
    requests(proxy.address()).await;
    let data = ["-H", "Authorization: Bearer canary-caller", "--data", "{}"];
    let explain = |url: &'static str| [&["explain", "POST", url], &data[..]].concat();
    let commands = [
        (vec!["check"], Some(0)),
        (vec!["check", "--print"], Some(0)),
        (vec!["check", "--live"], None),
        (vec!["routes"], Some(0)),
        (explain("/plant/v3/localization"), None),
        (explain("/tenants/probio/domain"), Some(0)),
        (explain("/query/search/query"), Some(0)),
        (explain("/parameter/x"), Some(0)),
        (explain("/hash/x"), Some(0)),
        (explain("/basic/x"), Some(0)),
        (vec!["fetch", "plant"], Some(0)),
        (vec!["fetch", "refused"], Some(1)),
        (explain("/oauth/x"), Some(0)),
        (vec!["fetch", "oauth"], Some(0)),
        (vec!["fetch", "oauth-refused"], Some(1)),
    ];
    for (arguments, status) in commands {
        let output = finish(program(&config, &arguments).spawn().unwrap()).await;
        let text = outputs(&output);
        if status.is_some() {
            assert_eq!(output.status.code(), status, "{arguments:?}: {text}");
        }
        assert!(!text.trim().is_empty(), "{arguments:?}");
        // What the user wrote on the command line is no secret of the configuration.
        let text = text.replace("canary-caller", "");
        setting.check(&format!("{arguments:?}"), &text);
    }
}

/// The environment is not for tests to change.
fn without_environment(text: &str) -> String {
    let token = secret("canary-standalone");
    text.replace("{ env = \"IT_STANDALONE_TOKEN\" }", &token)
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let setting = Setting::new().await;
    let text = without_environment(&setting.text);
    let loaded = config::load(&text, &|_| None);
    let debug_of_loaded = format!("{loaded:?} {loaded:#?}");
    let config = loaded.config.unwrap();
    let debug_of_config = format!("{config:?} {config:#?}");
    let app = App::build(config, Clock::system()).await.unwrap();
    let debug_of_app = format!("{app:?} {app:#?}");
    drop(app);
    let proxy = Proxy::start(&text).await;
    requests(proxy.address()).await;
    let debug_of_running = proxy.debug();
    assert!(debug_of_running.contains("plant"));
    setting.check("Loaded", &debug_of_loaded);
    setting.check("Config", &debug_of_config);
    setting.check("App", &debug_of_app);
    setting.check("Running", &debug_of_running);
    setting.check("the stand-ins", &format!("{:?}", setting.twinzo));
    setting.check("the records", &format!("{:?}", setting.devo.recorder()));
}
