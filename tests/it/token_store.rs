//! Tokens in a file: what a restart finds again, and what it must not.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign::clock::Clock;
use countersign::credential::Credential;
use countersign::credential::secrets::Secrets;
use countersign::credential::store::{Definition, Slot, Store};
use countersign::mock::Failure;
use countersign::sandbox::{self, SandboxError, Signals};
use countersign::secret::Secret;
use countersign::values::Values;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::program::{BINARY, Program};
use crate::harness::upstream::Seen;
use crate::harness::{
    Connection, Place, Proxy, Reply, Upstream, load, private_directory, quoted, secret, skip,
    twinzo, until,
};

/// A directory with a key for the store and a password.
fn place() -> Place {
    Place::with(&[("key", "canary-key-0123456789abcdef"), ("password", "demo-password")])
}

/// The store in `place`, and one twinzo device with its password in a file.
fn config_in(place: &Place, url: &str, more: &str) -> String {
    place.store(&place.file("key")) + &device("plant", url, &place.file("password"), more)
}

/// A twinzo device and the route `/NAME` to it.
fn device(name: &str, url: &str, password: &str, more: &str) -> String {
    format!(
        "[credential.{name}]\nkind = \"twinzo-device\"\nbase_url = \"{url}\"\nclient = \"acme\"\n\
         login = \"gateway-01\"\npassword = {password}\n{more}\n\
         [[route]]\npath = \"/{name}\"\nupstream = \"{url}\"\ncredential = \"{name}\"\n"
    )
}

async fn get(program: &Program, target: &str) -> Reply {
    Connection::open(program.address()).await.send("GET", target, &[], "").await
}

const DEVICES: &str = "/plant/v3/devices";
const RESTORED: &str = "credential restored from the token store";

fn said(program: &Program, message: &str) -> usize {
    program.log().iter().filter(|line| line["message"] == message).count()
}

async fn terminate(mut program: Program) {
    program.signal("-TERM");
    assert!(program.ended().await.success(), "{:#?}", program.log());
}

async fn kill(mut program: Program) {
    program.signal("-KILL");
    assert!(!program.ended().await.success());
}

/// The end of a program that does not start: what it says.
fn refused(place: &Place, config: &str) -> String {
    let path = place.path("refused.toml");
    fs::write(&path, format!("{config}[[listen]]\naddress = \"127.0.0.1:0\"\n")).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["run", "--config"]).arg(&path).env("NO_COLOR", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_restart_logs_in_nobody_and_serves_at_once() {
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, &stand_in.url(), "");
    for round in 0..4 {
        let program = Program::start(&config).await;
        if round > 0 {
            // Nothing could be fetched now.
            stand_in.switches().fail_token_calls(Failure::CloseConnection, None);
        }
        assert_eq!(get(&program, DEVICES).await.status, 200);
        until("it says so", || said(&program, RESTORED) == usize::from(round > 0)).await;
        if round % 2 == 0 { terminate(program).await } else { kill(program).await }
    }
    assert_eq!(stand_in.recorder().token_calls(), 1);
    assert_eq!(stand_in.recorder().refused(), 0);
    let mode = place.path("tokens").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test]
async fn a_changed_password_or_definition_logs_in_anew() {
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, &stand_in.url(), "");
    let recorder = stand_in.recorder();
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    terminate(program).await;

    place.write("password", "another");
    let program = Program::start(&config).await;
    let reply = get(&program, DEVICES).await;
    assert_eq!(reply.status, 502, "the token of the former password is not used");
    assert_eq!((recorder.token_calls(), recorder.logins()), (2, 1));
    terminate(program).await;

    place.write("password", "demo-password");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    assert_eq!(recorder.token_calls(), 2, "the refused login has cost nothing");
    terminate(program).await;

    let renamed = config
        .replace("login = ", "client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\nlogin = ");
    let program = Program::start(&renamed).await;
    until("a login", || recorder.token_calls() == 3).await;
    assert_eq!(said(&program, RESTORED), 0);
    terminate(program).await;

    let program =
        Program::start(&config_in(&place, &stand_in.url(), "refresh = { margin = \"5%\" }")).await;
    until("it is ready", || said(&program, "credential fetched") == 1).await;
    assert_eq!(recorder.token_calls(), 4, "of two definitions the last is kept");
    terminate(program).await;
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    assert_eq!(recorder.token_calls(), 4, "when to renew is no part of the definition");
}

#[tokio::test]
async fn a_second_process_and_a_wrong_key_are_told_so() {
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, &stand_in.url(), "");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    let text = refused(&place, &config);
    assert!(text.contains("is in use by another process; each needs a file of its own"), "{text}");
    assert_eq!(get(&program, DEVICES).await.status, 200, "the first is not disturbed");
    terminate(program).await;

    let before = fs::read(place.path("tokens")).unwrap();
    place.write("other", "canary-another-key-0123456789");
    let text = refused(&place, &config.replace(&place.file("key"), &place.file("other")));
    assert!(text.contains("the key does not fit the token store"), "{text}");
    assert!(text.contains("put the former key back, or remove the file"), "{text}");
    place.write("other", "canary-short");
    let text = text + &refused(&place, &config.replace(&place.file("key"), &place.file("other")));
    assert!(text.contains("openssl rand -base64 32"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(fs::read(place.path("tokens")).unwrap().len(), before.len());
    place.write("tokens", "something else");
    let text = refused(&place, &config);
    assert!(text.contains("is not a token store; it was left as it is"), "{text}");
    assert_eq!(fs::read(place.path("tokens")).unwrap(), b"something else");
    assert_eq!(stand_in.recorder().token_calls(), 1);
}

#[tokio::test]
async fn a_refused_token_is_not_found_again() {
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, &stand_in.url(), "");
    let recorder = stand_in.recorder();
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    stand_in.switches().revoke_all();
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let reply = get(&program, DEVICES).await;
    assert_ne!(reply.status, 200);
    until("it tried again", || recorder.token_calls() >= 2).await;
    kill(program).await;

    let refused = recorder.refused();
    stand_in.switches().fail_token_calls(Failure::None, None);
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    assert_eq!(said(&program, RESTORED), 0);
    assert_eq!((recorder.logins(), recorder.refused()), (2, refused));
}

/// An API whose refresh values are good once: what it answers, and what it was asked.
#[derive(Default)]
struct Rotating {
    issued: usize,
    used: HashSet<String>,
    used_twice: usize,
    log: Vec<String>,
    lifetime: u64,
}

impl Rotating {
    fn answer(&mut self, seen: &Seen) -> Response<Full<Bytes>> {
        let content: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let answer = |status: u16, content: String| {
            Response::builder().status(status).body(Full::from(content)).unwrap()
        };
        match seen.target.as_str() {
            "/login" => self.log.push("login".to_owned()),
            "/renew" => {
                let value = content["refresh"].as_str().unwrap_or_default().to_owned();
                self.log.push(format!("renew {value}"));
                if !self.used.insert(value) {
                    self.used_twice += 1;
                    return answer(401, String::new());
                }
            }
            "/logout" => {
                self.log.push("logout".to_owned());
                return answer(200, String::new());
            }
            _ => return answer(200, String::new()),
        }
        self.issued += 1;
        let reply = json!({
            "token": format!("canary-token-{}", self.issued),
            "refresh": format!("canary-refresh-{}", self.issued),
            "lives": self.lifetime,
        });
        answer(200, reply.to_string())
    }
}

async fn rotating(lifetime: u64) -> (Arc<Mutex<Rotating>>, Upstream) {
    let state = Arc::new(Mutex::new(Rotating { lifetime, ..Rotating::default() }));
    let answering = Arc::clone(&state);
    let upstream = Upstream::answering(move |seen| answering.lock().unwrap().answer(seen)).await;
    (state, upstream)
}

fn rotating_config(upstream: &Upstream, more: &str) -> String {
    let url = upstream.url();
    format!(
        "[credential.secret-name]\nkind = \"login\"\n\
         request = {{ url = \"{url}/login\", json = {{ p = \"{{password}}\" }} }}\n\
         renew = {{ url = \"{url}/renew\", json = {{ refresh = \"{{refresh}}\" }} }}\n\
         logout = {{ url = \"{url}/logout\" }}\n\
         secrets = {{ password = {} }}\n\
         values = {{ token = \"/token\", refresh = \"/refresh\" }}\n\
         expires = {{ in_s = \"/lives\" }}\n\
         set = {{ Authorization = \"Bearer {{token}}\" }}\n{more}\n\
         [[route]]\nupstream = \"{url}\"\ncredential = \"secret-name\"\n",
        secret("canary-password"),
    )
}

fn find(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn nothing_that_is_secret_stands_in_the_file_and_nobody_is_logged_out() {
    let (state, upstream) = rotating(3_600).await;
    let place = place();
    let config = place.store(&place.file("key")) + &rotating_config(&upstream, "");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    let log = format!("{:?}", program.log());
    terminate(program).await;
    assert_eq!(state.lock().unwrap().log, ["login"], "the token is kept, so it is not given up");
    let bytes = fs::read(place.path("tokens")).unwrap();
    for text in ["canary", "secret-name", "Bearer", "password", "refresh", "127.0.0.1"] {
        assert!(!find(&bytes, text), "{text} stands in the file");
    }
    assert!(find(&bytes, "countersign"), "what stands in it is found");
    assert!(!log.contains("canary"), "{log}");

    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer canary-token-1"]);
    drop(program);
    // Without a store the token ends with the process.
    let proxy = Proxy::start(&rotating_config(&upstream, "")).await;
    assert_eq!(proxy.get("/x").await.status, 200);
    assert!(!proxy.debug().contains("canary"));
    proxy.stop().await;
    assert_eq!(state.lock().unwrap().log, ["login", "login", "logout"]);
}

#[tokio::test]
async fn a_value_for_renewals_outlives_its_token() {
    let (state, upstream) = rotating(3).await;
    let place = place();
    let config = place.store(&place.file("key"))
        + &rotating_config(&upstream, "refresh = { margin = \"1%\", jitter = \"0%\" }");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    kill(program).await;
    let ends = tokio::time::Instant::now() + Duration::from_secs(3);
    until("the token has ended", || tokio::time::Instant::now() > ends).await;
    let before = state.lock().unwrap().log.len();
    let last = format!("renew canary-refresh-{}", state.lock().unwrap().issued);

    let program = Program::start(&config).await;
    assert_eq!(get(&program, "/x").await.status, 200);
    let state = state.lock().unwrap();
    assert_eq!(state.log[before], last, "{:?}", state.log);
    assert!(!state.log[1..].contains(&"login".to_owned()), "{:?}", state.log);
    assert_eq!(state.used_twice, 0);
    drop(program);
}

/// With `COUNTERSIGN_TEST_ROUNDS=300` for as many kills.
#[tokio::test]
async fn a_process_that_is_killed_at_any_moment_leaves_a_store_that_serves() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let rounds = std::env::var("COUNTERSIGN_TEST_ROUNDS").map_or(50, |text| text.parse().unwrap());
    let stand_in = twinzo().await;
    // Each is renewed about twice a second.
    stand_in.switches().set_token_lifetime(Duration::from_secs(2));
    let place = place();
    let refresh = "refresh = { margin = \"75%\" }";
    let mut config = place.store(&place.file("key"));
    for name in NAMES {
        config += &device(name, &stand_in.url(), &place.file("password"), refresh);
    }
    let recorder = stand_in.recorder();
    let mut restored = 0;
    for round in 0..rounds {
        let program = Program::start(&config).await;
        for name in NAMES {
            let reply = get(&program, &format!("/{name}/v3/devices")).await;
            assert_eq!(reply.status, 200, "round {round}, {name}: {:#?}", program.log());
        }
        // The moment is what is drawn here.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..250))).await;
        restored += said(&program, RESTORED);
        assert_eq!(program.panics(), [""; 0]);
        kill(program).await;
    }
    assert!(restored > 0, "every token was fetched again");
    assert!(recorder.refreshes() > 0, "nothing was written meanwhile");
    eprintln!(
        "{rounds} rounds: {restored} restored, {} renewed, {} logins",
        recorder.refreshes(),
        recorder.logins()
    );
}

#[tokio::test]
async fn the_store_needs_a_directory_of_its_own() {
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, &stand_in.url(), "");
    let open = place.path("open");
    fs::create_dir(&open).unwrap();
    let inside = |path: &Path| {
        config.replace(place.path("tokens").to_str().unwrap(), path.to_str().unwrap())
    };
    let text = refused(&place, &inside(&place.path("missing").join("tokens")));
    assert!(text.contains("mkdir -m 700"), "{text}");
    // Whoever may write there could put another file in its place.
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["key", "password"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = refused(&place, &inside(&open.join("tokens")));
    assert!(text.contains("others can write to it"), "{text}");
    let checked = |text: &str, path: &Path| {
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        fs::write(place.path("live.toml"), text.to_owned() + listen).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["check", "--live", "--config"]).arg(place.path("live.toml"));
        let output = command.env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let store = format!("token store {}: ", path.display());
        let line = text.lines().find(|line| line.contains(&store)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{text}"))
    };
    let bearer = "[credential.b]\nkind = \"bearer\"\ntoken = { value = \"t\" }\n\
                  [[route]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"b\"\n";
    let text = place.store(&place.file("key")) + bearer;
    let path = place.path("tokens");
    assert!(checked(&text, &path).ends_with("the key is there; the file will be made"));
    place.write("key", "canary-short");
    let line = checked(&text, &path);
    assert!(line.starts_with("failed: ") && line.contains("openssl rand"), "{line}");
    assert!(!open.join("tokens").exists());
}

/// The file was opened before, so nothing has to be permitted for it.
#[test]
fn a_confined_process_can_let_the_file_grow_and_make_no_other() {
    let place = place();
    let bearer = "[credential.b]\nkind = \"bearer\"\ntoken = { value = \"t\" }\n\
                  [[route]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"b\"\n";
    let spool = private_directory();
    let require = format!(
        "sandbox = \"require\"\nlimits = {{ spool_directory = {} }}\n",
        quoted(spool.path().to_str().unwrap()),
    );
    let config = load(&(require + &place.store(&place.file("key")) + bearer));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::system();
    let (store, writer) = runtime().block_on(async {
        let secrets = Secrets::resolve(config.secrets(), config.check_permissions).await.unwrap();
        Store::open(&config.token_store, &secrets.into(), &clock).await.unwrap()
    });
    let size = || place.path("tokens").metadata().unwrap().len();
    let before = size();
    let slot = |n: &str| Slot::new(&store, "plant", Some(n), Definition::default(), Vec::new);
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            match sandbox::confine(&config, &[], Signals::Within) {
                Err(SandboxError::Insufficient(_)) => return false,
                other => drop(other.unwrap()),
            }
            fs::write(place.path("other"), "").expect_err("another file");
            runtime().block_on(async {
                let running = writer.unwrap().start();
                for n in 0..16 {
                    let value = Secret::new("x".repeat(1 << 20));
                    let values = Values::from_iter([("token", value)]);
                    let credential = Credential { values, ..Credential::default() };
                    let slot = slot(&n.to_string());
                    let fingerprint = slot.fingerprint();
                    slot.save(fingerprint, None, &credential, clock.now(), false).await;
                    assert!(slot.load().await.is_some());
                }
                running.close().await;
            });
            true
        });
        if !confined.join().unwrap() {
            let name = "a_confined_process_can_let_the_file_grow_and_make_no_other";
            return skip(name, "this kernel cannot confine a process");
        }
        assert!(size() > before + (16 << 20), "it grew from {before} to {}", size());
    });
}
