//! Tokens in Redis: what a restart and another process find, and what happens while it is away.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use countersign::mock::{Failure, StandIn};

use crate::harness::authority::Authority;
use crate::harness::program::{BINARY, Program};
use crate::harness::redis::{RedisServer, Watched, cluster, free_port, under_tls};
use crate::harness::{Connection, Place, Reply, twinzo, until};

/// A directory with a key for the store and passwords.
fn place() -> Place {
    Place::with(&[
        ("key", "canary-key-0123456789abcdef"),
        ("password", "demo-password"),
        ("redis", "canary-redis-password"),
    ])
}

/// `[token_store]`, where `more` says where it is.
fn store_in(place: &Place, more: &str) -> String {
    format!("[token_store]\nkind = \"redis\"\nkey = {}\n{more}\n", place.file("key"))
}

/// The store at this port, and one twinzo device.
fn config_in(place: &Place, port: u16, url: &str) -> String {
    store_in(place, &at(port)) + &device_in(place, "plant", url)
}

/// A twinzo device and the route `/NAME` to it.
fn device_in(place: &Place, name: &str, url: &str) -> String {
    let password = place.file("password");
    format!(
        "[credential.{name}]\nkind = \"twinzo-device\"\nbase_url = \"{url}\"\n\
         client = \"acme\"\nlogin = \"gateway-01\"\npassword = {password}\n\
         [[route]]\npath = \"/{name}\"\nupstream = \"{url}\"\ncredential = \"{name}\"\n"
    )
}

/// What the program prints for `words` and this configuration, and whether it is content.
async fn run_in(place: &Place, words: &[&str], config: &str) -> (bool, String) {
    place.write("run.toml", &format!("{config}[[listen]]\naddress = \"127.0.0.1:0\"\n"));
    let mut command = tokio::process::Command::new(BINARY);
    command.args(words).arg("--config").arg(place.path("run.toml"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// With all the time that there may be: only what does not answer at all takes it.
fn at(port: u16) -> String {
    format!("url = \"redis://127.0.0.1:{port}\"\ntimeout = \"4s\"")
}

async fn get(program: &Program, target: &str) -> Reply {
    Connection::open(program.address()).await.send("GET", target, &[], "").await
}

const DEVICES: &str = "/plant/v3/devices";
const RESTORED: &str = "credential restored from the token store";
const AWAY: &str = "the token store is away; tokens are kept in memory, and it is tried again";
const BACK: &str = "the token store is there again";

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

/// Waits until another process would find a token that was fetched by the last login.
async fn until_shared(stand_in: &StandIn, config: &str) {
    let calls = stand_in.recorder().token_calls();
    let program = Program::start(config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    until("it says so", || said(&program, RESTORED) == 1).await;
    assert_eq!(stand_in.recorder().token_calls(), calls);
    assert_eq!(stand_in.recorder().logins(), stand_in.recorder().token_calls());
    terminate(program).await;
}

/// The records in a server.
fn records(server: &RedisServer, options: &[&str]) -> Vec<String> {
    let keys = server.command(&[options, &["KEYS", "countersign:*"]].concat());
    let places = keys.lines().filter(|key| !key.is_empty() && !key.ends_with(":meta"));
    let record =
        places.map(|key| server.command(&[options, &["--no-raw", "HGET", key, "r"]].concat()));
    record.collect()
}

#[tokio::test]
async fn a_restart_logs_in_nobody_and_another_process_uses_the_same_token() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, server.port(), &stand_in.url());
    for round in 0..4 {
        let program = Program::start(&config).await;
        if round > 0 {
            // Nothing could be fetched now.
            stand_in.switches().fail_token_calls(Failure::CloseConnection, None);
        }
        assert_eq!(get(&program, DEVICES).await.status, 200);
        until("it says so", || said(&program, RESTORED) == usize::from(round > 0)).await;
        let replica = Program::start(&config).await;
        assert_eq!(get(&replica, DEVICES).await.status, 200);
        until("it says so", || said(&replica, RESTORED) == 1).await;
        if round % 2 == 0 { terminate(program).await } else { kill(program).await }
    }
    assert_eq!(stand_in.recorder().token_calls(), 1);
    assert_eq!(stand_in.recorder().refused(), 0);
}

#[tokio::test]
async fn a_changed_password_or_definition_logs_in_anew() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, server.port(), &stand_in.url());
    let recorder = stand_in.recorder();
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    terminate(program).await;

    place.write("password", "another");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 502, "the former token is not used");
    assert_eq!((recorder.token_calls(), recorder.logins()), (2, 1));
    terminate(program).await;

    place.write("password", "demo-password");
    let renamed = config
        .replace("login = ", "client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\nlogin = ");
    let program = Program::start(&renamed).await;
    until("a login", || recorder.token_calls() == 3).await;
    assert_eq!(said(&program, RESTORED), 0);
}

#[tokio::test]
async fn while_redis_is_gone_it_serves_from_memory_and_then_writes_what_it_has() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, port, &stand_in.url());
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    drop(server);
    assert_eq!(get(&program, DEVICES).await.status, 200);
    stand_in.switches().revoke_all();
    assert_eq!(get(&program, DEVICES).await.status, 200, "another token, which nobody keeps");
    assert_eq!(stand_in.recorder().token_calls(), 2);
    until("it says so", || said(&program, AWAY) == 1).await;

    let server = RedisServer::start_at(port, &[]).unwrap();
    until("it is written", || records(&server, &[]).len() == 1).await;
    until_shared(&stand_in, &config).await;
    until("it says so", || said(&program, BACK) == 1).await;
    assert_eq!(said(&program, AWAY), 1);
    assert_eq!(program.panics(), [""; 0]);
}

#[tokio::test]
async fn while_redis_does_not_answer_requests_go_on_and_nobody_logs_in_more_than_once() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, server.port(), &stand_in.url());
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    let before = records(&server, &[]);
    server.signal("-STOP");
    stand_in.switches().revoke_all();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let address = program.address();
        requests.spawn(async move {
            Connection::open(address).await.send("GET", DEVICES, &[], "").await.status
        });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(stand_in.recorder().token_calls(), 2);
    until("it says so", || said(&program, AWAY) == 1).await;
    server.signal("-CONT");
    until("it says so", || said(&program, BACK) == 1).await;
    until("it is written", || records(&server, &[]) != before).await;
    until_shared(&stand_in, &config).await;
}

#[tokio::test]
async fn without_redis_it_starts_and_joins_later() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    drop(server);
    let stand_in = twinzo().await;
    let place = place();
    let config = config_in(&place, port, &stand_in.url());
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    until("it says so", || said(&program, AWAY) == 1).await;
    let (good, text) = run_in(&place, &["check", "--live"], &config).await;
    assert!(!good && text.contains("token store redis://127.0.0.1"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    let server = RedisServer::start_at(port, &[]).unwrap();
    until("it is written", || records(&server, &[]).len() == 1).await;
    until_shared(&stand_in, &config).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_at_the_start_and_by_a_check() {
    let Some(server) = RedisServer::start(&["--requirepass", "canary-redis-password"]) else {
        return;
    };
    let stand_in = twinzo().await;
    let place = place();
    let password = format!("{}\npassword = {}", at(server.port()), place.file("redis"));
    let config = store_in(&place, &password) + &device_in(&place, "plant", &stand_in.url());
    let (good, text) = run_in(&place, &["check", "--live"], &config).await;
    assert!(good && text.contains("connected, version "), "{text}");
    assert!(text.contains("nothing is there yet; an answer takes "), "{text}");
    let listed = server.command(&["-a", "canary-redis-password", "KEYS", "*"]);
    assert_eq!(listed, "", "a check leaves nothing behind");
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    let (good, text) = run_in(&place, &["check", "--live"], &config).await;
    assert!(good && text.contains("the key fits; an answer takes "), "{text}");
    for (name, wrong, expected) in [
        ("key", "canary-another-key-0123456789", "put the former key back, or set another prefix"),
        ("key", "canary-short", "openssl rand -base64 32"),
        ("redis", "canary-wrong", "it does not accept the user name and the password"),
    ] {
        let right = fs::read_to_string(place.path(name)).unwrap();
        place.write(name, wrong);
        for words in [&["run"][..], &["check", "--live"]] {
            let (good, text) = run_in(&place, words, &config).await;
            assert!(!good && text.contains(expected), "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
        place.write(name, &right);
    }
    assert_eq!(get(&program, DEVICES).await.status, 200, "the first is not disturbed");
    assert_eq!(records(&server, &["-a", "canary-redis-password"]).len(), 1);
}

/// Everything that a server is sent, but passwords, which it does not show.
struct Monitor {
    child: std::process::Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Monitor {
    async fn start(server: &RedisServer, password: &str) -> Self {
        use std::io::Read as _;
        let mut command = Command::new("redis-cli");
        command.args(["-p", &server.port().to_string(), "-a", password, "MONITOR"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                all.lock().unwrap().extend(&buffer[..count]);
            }
        });
        let monitor = Self { child, seen };
        until("it watches", || monitor.text().starts_with("OK")).await;
        monitor
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn neither_redis_nor_the_log_learns_a_secret_or_a_name() {
    let password = "canary-redis-password";
    let Some(server) = RedisServer::start(&["--requirepass", password]) else { return };
    let monitor = Monitor::start(&server, password).await;
    let stand_in = twinzo().await;
    let place = place();
    let secured = format!("{}\npassword = {}", at(server.port()), place.file("redis"));
    let config = store_in(&place, &secured) + &device_in(&place, "plant", &stand_in.url());
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    stand_in.switches().revoke_all();
    assert_eq!(get(&program, DEVICES).await.status, 200);
    assert_eq!(records(&server, &["-a", password]).len(), 1);
    let log = format!("{:?}", program.log());
    terminate(program).await;

    let sent = stand_in.recorder().all();
    let tokens: Vec<String> = sent
        .iter()
        .filter_map(|request| request.headers.get("Token"))
        .map(|value| value.to_str().unwrap().to_owned())
        .collect();
    assert!(tokens.len() >= 3, "{tokens:?}");
    let mut all = monitor.text();
    assert!(all.to_ascii_lowercase().contains("evalsha"), "{all}");
    for key in server.command(&["-a", password, "KEYS", "*"]).lines() {
        all += key;
        all += &server.command(&["-a", password, "--no-raw", "HGETALL", key]);
    }
    assert!(all.contains("countersign:meta"), "{all}");
    let secrets = ["demo-password", "canary", "gateway-01", "acme"].map(str::to_owned);
    for secret in tokens.iter().chain(&secrets) {
        assert!(!all.contains(secret), "{secret} is in Redis");
        assert!(*secret == "gateway-01" || !log.contains(secret), "{secret} is in {log}");
    }
    assert!(!all.contains("plant"), "the name of a credential is in Redis");
}

#[tokio::test]
async fn under_tls_both_sides_show_certificates() {
    let authority = Authority::new();
    let Some(server) = under_tls(&authority) else { return };
    let stand_in = twinzo().await;
    let place = place();
    let device = device_in(&place, "plant", &stand_in.url());
    let url = format!("url = \"rediss://localhost:{}/3\"\ntimeout = \"4s\"", server.port());
    let tls = |tls: &str| store_in(&place, &format!("{url}\ntls = {{ {tls} }}")) + &device;
    let client = authority.client();
    let config = tls(&format!("{}, {client}", authority.trusted()));
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    terminate(program).await;
    until_shared(&stand_in, &config).await;
    let (good, text) = run_in(&place, &["check", "--live"], &config).await;
    assert!(good && text.contains("the key fits"), "{text}");

    // Nobody that it trusts: as good as away.
    let other = Authority::new();
    let wrong = tls(&format!("{}, {client}", other.trusted()));
    let program = Program::start(&wrong).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    until("it says so", || said(&program, AWAY) == 1).await;
    let log = format!("{:?}", program.log());
    assert!(log.contains("invalid peer certificate"), "{log}");
    terminate(program).await;
    let (good, text) = run_in(&place, &["check", "--live"], &tls(&authority.trusted())).await;
    assert!(!good, "without a certificate of its own: {text}");
}

#[tokio::test]
async fn when_the_master_changes_sentinels_lead_to_the_new_one() {
    let password = "canary-redis-password";
    let Some(watched) = Watched::start(password).await else { return };
    let stand_in = twinzo().await;
    let place = place();
    let store = store_in(
        &place,
        &format!(
            "urls = [\"redis://127.0.0.1:{}\", \"redis://127.0.0.1:{}\"]\n\
         sentinel = {{ master = \"main\" }}\ntimeout = \"4s\"\nnode_ports = [{}, {}]\npassword = {}",
            free_port(),
            watched.sentinel.port(),
            watched.master.port(),
            watched.replica.port(),
            place.file("redis"),
        ),
    );
    let config = store + &device_in(&place, "plant", &stand_in.url());
    let program = Program::start(&config).await;
    assert_eq!(get(&program, DEVICES).await.status, 200);
    let options = ["-a", password];
    until("the replica has it", || records(&watched.replica, &options).len() == 1).await;
    let before = records(&watched.master, &options);
    watched.fail_over(password).await;
    stand_in.switches().revoke_all();
    assert_eq!(get(&program, DEVICES).await.status, 200);
    until("the new master has it", || {
        let now = records(&watched.replica, &options);
        now.len() == 1 && now != before
    })
    .await;
    until_shared(&stand_in, &config).await;
}

#[tokio::test]
async fn a_cluster_has_each_credential_where_it_wants() {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "plant"];
    let Some(nodes) = cluster().await else { return };
    let stand_in = twinzo().await;
    let place = place();
    // The others are found out.
    let store = store_in(
        &place,
        &format!(
            "url = \"redis://127.0.0.1:{}\"\ntimeout = \"4s\"\ncluster = true\nnode_ports = [{}, {}]",
            nodes[0].port(),
            nodes[1].port(),
            nodes[2].port(),
        ),
    );
    let devices = NAMES.map(|name| device_in(&place, name, &stand_in.url()));
    let config = store + &devices.concat();
    for round in 0..2 {
        let program = Program::start(&config).await;
        for name in NAMES {
            assert_eq!(get(&program, &format!("/{name}/v3/devices")).await.status, 200);
        }
        until("it says so", || said(&program, RESTORED) == round * NAMES.len()).await;
        terminate(program).await;
    }
    let counts: Vec<usize> = nodes.iter().map(|node| records(node, &[]).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), NAMES.len(), "{counts:?}");
    let used = counts.iter().filter(|count| **count > 0).count();
    assert!(used > 1, "all on one node: {counts:?}");
}
