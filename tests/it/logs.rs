//! The log: where its lines go and when files are opened anew, what happens when they cannot be
//! written, and changing what is written.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::client::raw;
use crate::harness::program::Program;
use crate::harness::{
    Connection, Reply, Upstream, private_directory, quoted, route, secret, until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

fn config(log: &str, upstream: &Upstream) -> String {
    format!("[log]\nformat = \"json\"\n{log}\n{ADMIN}{}", route(&upstream.url(), "", ""))
}

fn access_file(path: &Path) -> String {
    format!("access_file = {}\n", quoted(path.to_str().unwrap()))
}

async fn get(program: &Program, target: &str) {
    let reply = Connection::open(program.address()).await.send("GET", target, &[], "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// The type of what says what is to change.
const JSON: (&str, &str) = ("content-type", "application/json");

async fn ask(program: &Program, method: &str, content: &str, fields: &[(&str, &str)]) -> Reply {
    let mut connection = Connection::open(program.admin()).await;
    let fields = [JSON].iter().chain(fields).copied().collect::<Vec<_>>();
    connection.send(method, "/api/log", &fields, content.to_owned()).await
}

async fn change(program: &Program, content: &Value) -> Value {
    let reply = ask(program, "POST", &content.to_string(), &[]).await;
    assert_eq!(reply.status, 200, "{content}: {}", reply.text());
    reply.json()
}

async fn dropped(program: &Program) -> u64 {
    let mut connection = Connection::open(program.admin()).await;
    let status = connection.send("GET", "/api/status", &[], "").await.json();
    status["log"]["dropped"].as_u64().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits for a line that holds `part`.
async fn until_in(path: &Path, part: &str) {
    until(part, || read(path).lines().any(|line| line.contains(part))).await;
}

#[tokio::test]
async fn lines_per_request_have_a_place_of_their_own() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let (file, stdout) = (directory.path().join("access"), directory.path().join("stdout"));
    let log = format!("access = \"json\"\n{}", access_file(&file));
    let program = Program::start(&config(&log, &upstream)).await;
    get(&program, "/orders?token=hidden").await;
    until_in(&file, "/orders").await;
    let line: Value = serde_json::from_str(read(&file).trim()).unwrap();
    assert_eq!((&line["path"], &line["status"]), (&json!("/orders"), &json!(200)), "{line}");
    assert_eq!(line["route"], "all", "{line}");
    assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 32), "{line}");
    assert!(!line.to_string().contains("hidden"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(program.requests().is_empty(), "they are not among the others");
    drop(program);

    let log = "access = \"text\"\naccess_file = \"-\"\n";
    let script = format!("exec \"$0\" \"$@\" > {}", stdout.display());
    let mut program = Program::start_under(&["sh", "-c", &script], &config(log, &upstream)).await;
    get(&program, "/orders").await;
    program.signal("-TERM");
    assert!(program.ended().await.success());
    let text = read(&stdout);
    assert_eq!(text.lines().count(), 1, "nothing but the line, which was not forgotten: {text}");
    assert!(text.contains(" 200 GET /orders route=all "), "{text}");
}

#[tokio::test]
async fn a_path_cannot_forge_a_line_or_speak_to_a_terminal() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    for form in ["text", "json"] {
        let file = directory.path().join(form);
        let log = format!("access = \"{form}\"\n{}", access_file(&file));
        let program = Program::start(&config(&log, &upstream)).await;
        for path in ["/a%0a2026-01-01%20200", "/b\u{9b}2J\u{202e}", "/c\u{7f}", "/d\"%20x=1"] {
            raw(
                program.address(),
                &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            )
            .await;
        }
        get(&program, "/last").await;
        until_in(&file, "/last").await;
        let text = read(&file);
        assert_eq!(text.lines().count(), 5, "{text}");
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(odd), "{text:?}");
        for line in text.lines().filter(|_| form == "json") {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["status"].is_u64(), "{line}");
        }
    }
}

#[tokio::test]
async fn a_renamed_file_is_followed_also_when_confined() {
    let upstream = Upstream::fine().await;
    for sandbox in ["auto", "off"] {
        let directory = private_directory();
        let [log, access] = ["log", "access"].map(|name| directory.path().join(name));
        let text = format!("access = \"json\"\n{}", access_file(&access));
        // Not the directory for temporary files, where the logs are here.
        let spool = directory.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let text = format!(
            "sandbox = \"{sandbox}\"\nlimits = {{ spool_directory = {} }}\n{}",
            quoted(spool.to_str().unwrap()),
            config(&text, &upstream),
        );
        let text =
            text.replace("[log]", &format!("[log]\nfile = {}", quoted(log.to_str().unwrap())));
        // Its log is a file, so that nobody sees there that it listens.
        let port = free_port();
        let text = format!("{text}\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n");
        let path = directory.path().join("countersign.toml");
        fs::write(&path, &text).unwrap();
        let running = Running::start(&path);
        until_in(&log, "admin listening").await;
        let get = async |target: &str| {
            let address = ([127, 0, 0, 1], port).into();
            let reply = Connection::open(address).await.send("GET", target, &[], "").await;
            assert_eq!(reply.status, 200);
        };
        get("/before").await;
        until_in(&access, "/before").await;

        // As logrotate does it, without a word.
        let moved = directory.path().join("access.1");
        fs::rename(&access, &moved).unwrap();
        until_new_line(&access, &get).await;
        assert!(read(&moved).contains("/before"));
        let new = fs::metadata(&access).unwrap();
        assert_ne!(new.ino(), fs::metadata(&moved).unwrap().ino());
        assert_eq!(new.permissions().mode() & 0o777, 0o640);

        // Said, so that it happens with no line to write.
        let admin = address_of(&log, "admin listening");
        for path in [&log, &access] {
            fs::rename(path, path.with_extension("2")).unwrap();
        }
        let mut connection = Connection::open(admin).await;
        let reply = connection.send("POST", "/api/log", &[JSON], "{\"reopen\": true}").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        until("both are there again", || log.exists() && access.exists()).await;
        get("/after").await;
        until_in(&access, "/after").await;
        drop(running);
    }
}

/// Asks until a line is in a new file: the name is looked up once in a second.
async fn until_new_line(path: &Path, get: &impl AsyncFn(&str)) {
    let give_up_at = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while !read(path).contains("/meanwhile") {
        assert!(tokio::time::Instant::now() < give_up_at, "it was never opened anew");
        get("/meanwhile").await;
    }
}

/// The program, killed when dropped, with its errors where those of the test are.
struct Running(std::process::Child);

impl Running {
    fn start(config: &Path) -> Self {
        Self::start_with(config, std::process::Stdio::inherit())
    }

    fn start_with(config: &Path, stdout: std::process::Stdio) -> Self {
        let mut command = Command::new(crate::harness::program::BINARY);
        command.args(["run", "--config"]).arg(config);
        command.stdin(std::process::Stdio::null()).stdout(stdout);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn address_of(log: &Path, message: &str) -> std::net::SocketAddr {
    let text = read(log);
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.find(|line| line["message"] == message).unwrap();
    line["address"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn requests_do_not_wait_for_a_pipe_that_nobody_empties() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut end = fs::OpenOptions::new();
    // O_NONBLOCK: what is read is what there is.
    let mut end = end.read(true).write(true).custom_flags(0o4000).open(&pipe).unwrap();
    let log = "access = \"json\"\naccess_file = \"-\"\nbuffer = \"64KiB\"\n";
    let script = format!("exec \"$0\" \"$@\" > {}", pipe.display());
    let program = Program::start_under(&["sh", "-c", &script], &config(log, &upstream)).await;
    let lengthy = format!("/{}", "x".repeat(4000));
    // The pipe, what is being written and what waits hold 64 KiB each.
    for _ in 0..100 {
        get(&program, &lengthy).await;
    }
    let lost = dropped(&program).await;
    assert!((40..=95).contains(&lost), "{lost}");
    // Somebody reads it again.
    let mut text = Vec::new();
    let mut seen = |part: &[u8]| {
        let _ = end.read_to_end(&mut text);
        text.windows(part.len()).any(|window| window == part)
    };
    until("it is said", || {
        seen(b"-");
        program.log().iter().any(|line| line["dropped"] == lost)
    })
    .await;
    get(&program, "/last").await;
    until("lines go on", || seen(b"\"/last\"")).await;
    let whole = String::from_utf8(text).unwrap();
    for line in whole.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("a torn line: {line}"));
    }
    assert_eq!(u64::try_from(whole.lines().count()).unwrap() + lost, 101);
    assert_eq!(dropped(&program).await, lost);
}

#[tokio::test]
async fn a_full_disk_is_said_once_and_requests_go_on() {
    let upstream = Upstream::fine().await;
    let log = format!("access = \"json\"\n{}", access_file(Path::new("/dev/full")));
    let program = Program::start(&config(&log, &upstream)).await;
    for _ in 0..5 {
        get(&program, "/x").await;
        let before = dropped(&program).await;
        get(&program, "/x").await;
        until_dropped(&program, before + 1).await;
    }
    let log = program.log();
    let said: Vec<_> = log
        .iter()
        .filter(|line| line["to"] == "/dev/full")
        .map(|line| (&line["level"], line["message"].as_str().unwrap()))
        .collect();
    let message = "the access log: it cannot be written; lines are dropped until it can";
    assert_eq!(said, [(&json!("ERROR"), message)]);
}

async fn until_dropped(program: &Program, least: u64) {
    let give_up_at = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while dropped(program).await < least {
        assert!(tokio::time::Instant::now() < give_up_at, "lines were not counted");
    }
}

#[tokio::test]
async fn what_is_logged_can_be_changed_for_a_while() {
    let upstream = Upstream::fine().await;
    let program = Program::start(&config("level = \"info\"", &upstream)).await;
    let as_configured =
        json!({ "level": "info", "access": "off", "back_in_s": null, "dropped": 0 });
    assert_eq!(ask(&program, "GET", "", &[]).await.json(), as_configured);
    get(&program, "/silent").await;
    let levels = |log: Vec<Value>| log.iter().filter(|line| line["level"] == "DEBUG").count();
    assert_eq!(levels(program.log()), 0);

    // At level debug there are lines per request, as if it were configured.
    let state = change(&program, &json!({ "level": "debug" })).await;
    assert_eq!((&state["level"], &state["access"]), (&json!("debug"), &json!("off")));
    let left = state["back_in_s"].as_u64().unwrap();
    assert!((800..=900).contains(&left), "a quarter of an hour: {state}");
    get(&program, "/debug").await;
    until("its line", || program.requests().iter().any(|line| line["path"] == "/debug")).await;
    assert!(program.requests().iter().all(|line| line["path"] != "/silent"));

    let state = change(&program, &json!({ "reset": true })).await;
    assert_eq!(state, as_configured);
    get(&program, "/silent").await;
    let state = change(&program, &json!({ "access": "json", "for": "always" })).await;
    assert_eq!((&state["access"], &state["back_in_s"]), (&json!("json"), &Value::Null));
    get(&program, "/access").await;
    until("its line", || program.requests().iter().any(|line| line["path"] == "/access")).await;
    assert!(program.requests().iter().all(|line| line["path"] != "/silent"));

    // A change ends by itself.
    change(&program, &json!({ "level": "warn", "access": "off", "for": "50ms" })).await;
    let message = "what is logged is as configured again";
    let ended = |log: &[Value]| log.iter().filter(|line| line["message"] == message).count();
    until("it ends", || ended(&program.log()) == 2).await;
    assert_eq!(ask(&program, "GET", "", &[]).await.json(), as_configured);
    let mut connection = Connection::open(program.admin()).await;
    let status = connection.send("GET", "/api/status", &[], "").await.json();
    assert_eq!(status["log"], as_configured);
}

#[tokio::test]
async fn not_everybody_may_change_what_is_logged() {
    let upstream = Upstream::fine().await;
    let admin = format!("{ADMIN}token = {}\n", secret("admins"));
    let text = config("level = \"info\"", &upstream).replace(ADMIN, &admin);
    let program = Program::start(&text).await;
    let debug = "{\"level\": \"debug\"}";
    let token = ("authorization", "Bearer admins");
    for (fields, expected) in [
        (&[][..], 401),
        (&[("authorization", "Bearer others")], 401),
        (&[token, ("host", "evil.example")], 421),
        (&[token, ("origin", "http://evil.example")], 403),
        (&[token, ("sec-fetch-site", "cross-site")], 403),
    ] {
        let reply = ask(&program, "POST", debug, fields).await;
        assert_eq!(reply.status, expected, "{fields:?}: {}", reply.text());
    }
    assert_eq!(ask(&program, "PUT", debug, &[token]).await.status, 405);
    assert_eq!(ask(&program, "POST", "debug", &[token]).await.status, 400);
    let long = " ".repeat(70_000);
    assert_eq!(ask(&program, "POST", &long, &[token]).await.status, 413);
    assert_eq!(ask(&program, "GET", "", &[token]).await.json()["level"], "info", "nothing changed");
    let same = [token, ("sec-fetch-site", "same-origin")];
    assert_eq!(ask(&program, "POST", debug, &same).await.json()["level"], "debug");
}

/// Whoever shares a pipe may have made it so that a write does not wait, as event loops do.
#[tokio::test]
async fn a_slow_reader_gets_every_line_once_also_by_a_pipe_that_does_not_wait() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let [pipe, general] = ["pipe", "log"].map(|name| directory.path().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let open = || {
        // O_NONBLOCK
        let mut end = fs::OpenOptions::new();
        end.read(true).write(true).custom_flags(0o4000).open(&pipe).unwrap()
    };
    let (mut end, theirs) = (open(), open());
    let port = free_port();
    let log = format!(
        "file = {}\naccess = \"json\"\naccess_file = \"-\"\nbuffer = \"1MiB\"",
        quoted(general.to_str().unwrap())
    );
    let text = format!(
        "sandbox = \"off\"\n{}\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n",
        config(&log, &upstream)
    );
    let path = directory.path().join("countersign.toml");
    fs::write(&path, text).unwrap();
    let running = Running::start_with(&path, theirs.into());
    until_in(&general, "admin listening").await;
    let mut connection = Connection::open(([127, 0, 0, 1], port).into()).await;
    let lengthy = "x".repeat(4000);
    for number in 0..100 {
        let target = format!("/{number}/{lengthy}");
        assert_eq!(connection.send("GET", &target, &[], "").await.status, 200);
    }
    // Less at a time than a line has.
    let (mut text, mut some) = (Vec::new(), [0; 1000]);
    until("the last line", || {
        for _ in 0..20 {
            let count = end.read(&mut some).unwrap_or(0);
            text.extend_from_slice(&some[..count]);
        }
        text.ends_with(b"\n") && text.windows(4).any(|window| window == b"\"/99")
    })
    .await;
    let lines = String::from_utf8(text).unwrap();
    let numbers: Vec<usize> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"));
            line["path"].as_str().unwrap().split('/').nth(1).unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    drop(running);
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_ends_the_start_with_a_word() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let [pipe, path] = ["pipe", "countersign.toml"].map(|name| directory.path().join(name));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = config(&access_file(&pipe), &upstream);
    fs::write(&path, text + "[[listen]]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let mut command = tokio::process::Command::new(crate::harness::program::BINARY);
    command.args(["run", "--config"]).arg(&path).kill_on_drop(true);
    let ended = tokio::time::timeout(crate::harness::PATIENCE, command.output());
    let ended = ended.await.expect("it waits for a reader").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success());
    assert!(said.contains("neither a file nor a character device"), "{said}");
}
