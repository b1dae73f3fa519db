//! A new process takes over from the one that runs: no call is lost, whatever becomes of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign::mock::Failure;
use http::Response;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::harness::authorization::AuthorizationServer;
use crate::harness::client::{chunked, request, whole};
use crate::harness::program::{BINARY, Program};
use crate::harness::{
    Connection, Upstream, plant, private_directory, quoted, route, secret, twinzo, until,
};
use crate::oauth::{api, client};

/// `upgrade_socket` in `directory`, which goes before all tables.
fn upgrade_socket(directory: &TempDir) -> String {
    let path = directory.path().join("upgrade.sock");
    format!("upgrade_socket = {}\nworkers = 2\n", quoted(path.to_str().unwrap()))
}

/// A token store in a file of `directory`.
fn store(directory: &TempDir) -> String {
    let key = directory.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = quoted(directory.path().join("tokens").to_str().unwrap());
    let key = quoted(key.to_str().unwrap());
    format!("[token_store]\nkind = \"file\"\npath = {path}\nkey = {{ file = {key} }}\n")
}

/// Callers who never pause: some keep their connection as long as they may, some open another each
/// time.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let callers = (0..6).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move { call(address, number % 2 == 0, &stop, &answered).await })
        });
        let callers = callers.collect();
        Self { stop, answered, callers }
    }

    /// Waits for so many more answers.
    async fn go_on(&self, more: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        until("the load goes on", || {
            self.answered.load(Ordering::Relaxed) >= enough
                || self.callers.iter().any(JoinHandle::is_finished)
        })
        .await;
    }

    /// How many were answered, and what went wrong.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for caller in self.callers {
            failures.extend(caller.await.unwrap());
        }
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

async fn call(
    address: SocketAddr,
    keeps: bool,
    stop: &AtomicBool,
    answered: &AtomicUsize,
) -> Vec<String> {
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(address).await,
        };
        match connection.try_send(request("GET", "/v3/devices", &[], whole(""))).await {
            Ok(reply) if reply.status == 200 => {
                answered.fetch_add(1, Ordering::Relaxed);
                kept = Some(connection).filter(|_| keeps && reply.field("connection") != "close");
            }
            Ok(reply) => return vec![format!("{}: {}", reply.status, reply.text())],
            Err(error) => return vec![format!("keeps {keeps}: {error:?}")],
        }
    }
    Vec::new()
}

async fn start(config: &str) -> Program {
    Program::start_by(Command::new(BINARY), config, private_directory()).await
}

/// Runs the program with `config` until it ends by itself.
async fn run(config: &str) -> Output {
    let directory = private_directory();
    let file = directory.path().join("countersign.toml");
    let text = format!("{config}\n[[listen]]\naddress = \"127.0.0.1:0\"\n");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["run", "--config"]).arg(&file).env("NO_COLOR", "1").stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A process that begins to take over and cannot yet. Killed when dropped.
struct Beginner(Child, #[expect(dead_code, reason = "removed with it")] TempDir);

impl Beginner {
    fn start(config: &str) -> Self {
        let place = private_directory();
        let file = place.path().join("countersign.toml");
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        std::fs::write(&file, format!("{config}\n{listen}")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap(), place)
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    async fn ended(&mut self) {
        until("it ends", || self.0.try_wait().unwrap().is_some()).await;
    }
}

impl Drop for Beginner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A twinzo device, `more` below it, the route to it, and where the next process asks.
fn plant_with(directory: &TempDir, url: &str, more: &str) -> String {
    [upgrade_socket(directory), plant(url, more), route(url, "plant", "")].concat()
}

fn says(program: &Program, text: &str) -> bool {
    program.log().iter().any(|line| line.to_string().contains(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_one_process_takes_over_from_another_again_and_again() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let config = plant_with(&directory, &url, "") + ADMIN + &store(&directory);
    let mut old = start(&config).await;
    let load = Load::start(old.address());
    load.go_on(200).await;
    for round in 1..=3 {
        let new = start(&config).await;
        assert_eq!(new.address(), old.address(), "it is the same socket");
        assert!(old.ended().await.success());
        assert!(says(&old, "a new process serves; this one ends"), "{:#?}", old.log());
        assert!(says(&new, "took over"), "{:#?}", new.log());
        load.go_on(200).await;
        assert!(new.requests().len() >= 100, "round {round}");
        old = new;
    }
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered}: {failures:#?}");
    assert!(answered >= 800, "{answered}");
    assert_eq!(stand_in.recorder().logins(), 1, "the token went from process to process");
    old.signal("-TERM");
    assert!(old.ended().await.success());
    assert!(!directory.path().join("upgrade.sock").exists(), "the last one clears up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_process_goes_on_if_the_new_one_cannot_start() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let refresh = "[credential.plant.refresh]\nmin_interval = \"1us\"\n";
    let config = plant_with(&directory, &url, refresh) + &store(&directory);
    let mut old = start(&config).await;
    let load = Load::start(old.address());
    load.go_on(50).await;

    let broken = run(&format!("{config}\nnonsense = 1\n")).await;
    assert_eq!(broken.status.code(), Some(2), "it never asked");
    assert!(!says(&old, "asks for the listening sockets"));

    // It fails after it has the sockets and the store: a file of another credential is not there.
    let missing = directory.path().join("missing");
    let missing = quoted(missing.to_str().unwrap());
    let more = format!("[credential.key]\nkind = \"bearer\"\ntoken = {{ file = {missing} }}\n");
    let broken = run(&format!("{config}{more}")).await;
    assert!(!broken.status.success());
    until("the old one says so", || says(&old, "no upgrade; this process goes on")).await;
    load.go_on(50).await;

    // Nobody else's: the socket of a process that says something else.
    let path = directory.path().join("upgrade.sock");
    let mut stranger = UnixStream::connect(&path).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    load.go_on(50).await;

    // The store is its own again: what it fetches now is there for the next one.
    stand_in.switches().revoke_all();
    load.go_on(50).await;
    let logins = stand_in.recorder().logins();
    assert_eq!(logins, 2, "the token that was revoked was replaced");
    let new = start(&config).await;
    assert!(old.ended().await.success());
    load.go_on(50).await;
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered}: {failures:#?}");
    assert_eq!(stand_in.recorder().logins(), logins, "{:#?}", new.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_process_serves_until_the_new_one_has_its_credentials() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let config = plant_with(&directory, &url, "");
    let mut old = start(&config).await;
    let load = Load::start(old.address());
    load.go_on(50).await;
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let calls = stand_in.recorder().token_calls();
    let mut new = Beginner::start(&config);
    let recorder = stand_in.recorder();
    until("the new one tries to log in", || recorder.token_calls() > calls).await;
    load.go_on(50).await;
    assert!(old.runs());
    new.signal("-KILL");
    new.ended().await;
    until("the old one sees it", || says(&old, "the new process has ended")).await;
    stand_in.switches().fail_token_calls(Failure::None, None);
    let _new = start(&config).await;
    assert!(old.ended().await.success());
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered}: {failures:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_told_to_end_while_it_waits_accepts_nobody() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let config = plant_with(&directory, &url, "") + ADMIN;
    let mut old = start(&config).await;
    let load = Load::start(old.address());
    load.go_on(50).await;
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let recorder = stand_in.recorder();
    for round in 1..=6 {
        let calls = recorder.token_calls();
        let mut new = Beginner::start(&config);
        until("the new one tries to log in", || recorder.token_calls() > calls).await;
        load.go_on(20).await;
        new.signal("-TERM");
        new.ended().await;
        let gone = || {
            let lines = old.log();
            let ends = lines.iter().filter(|it| it.to_string().contains("no upgrade; this"));
            ends.count() == round
        };
        until("the old one sees it", gone).await;
        load.go_on(20).await;
    }
    assert!(old.runs());
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered}: {failures:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_while_a_new_process_begins_the_old_one_serves_until_that_is_ready() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let config = plant_with(&directory, &url, "");
    let mut old = start(&config).await;
    let load = Load::start(old.address());
    load.go_on(50).await;
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let recorder = stand_in.recorder();
    let calls = recorder.token_calls();
    let _new = Beginner::start(&config);
    until("the new one tries to log in", || recorder.token_calls() > calls).await;
    old.signal("-TERM");
    until("it is told", || says(&old, "told to stop while a new process")).await;
    // Nobody but the old one accepts.
    load.go_on(200).await;
    assert!(old.runs());
    stand_in.switches().fail_token_calls(Failure::None, None);
    assert!(old.ended().await.success());
    load.go_on(50).await;
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered}: {failures:#?}");
    assert!(directory.path().join("upgrade.sock").exists(), "it is the new one's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_while_a_new_process_begins_the_old_one_ends_if_that_is_gone() {
    let stand_in = twinzo().await;
    let directory = private_directory();
    let url = stand_in.url();
    let config = plant_with(&directory, &url, "");
    let mut old = start(&config).await;
    until("the old one has logged in", || stand_in.recorder().logins() == 1).await;
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let recorder = stand_in.recorder();
    let calls = recorder.token_calls();
    let mut new = Beginner::start(&config);
    until("the new one tries to log in", || recorder.token_calls() > calls).await;
    old.signal("-TERM");
    until("it is told", || says(&old, "told to stop while a new process")).await;
    new.signal("-KILL");
    new.ended().await;
    assert!(old.ended().await.success());
    assert!(!directory.path().join("upgrade.sock").exists(), "the last one clears up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_new_process_renewed_before_it_failed_is_what_the_old_one_goes_on_with() {
    let (server, upstream, failing) = (
        AuthorizationServer::rotating(4, || Duration::ZERO).await,
        Upstream::fine().await,
        twinzo().await,
    );
    let directory = private_directory();
    let more = client()
        + "grant = \"password\"\nusername = \"robot\"\n"
        + &format!("password = {}\n", secret("canary-password"))
        // About once a second.
        + "[credential.api.refresh]\nmargin = \"75%\"\n";
    let config = [
        upgrade_socket(&directory),
        api(&server, &more),
        route(&upstream.url(), "api", ""),
        store(&directory),
    ]
    .concat();
    let old = start(&config).await;
    until("the old one renews", || server.count() >= 2).await;
    failing.switches().fail_token_calls(Failure::ServerError, None);
    for round in 1..=2 {
        let calls = failing.recorder().token_calls();
        let mut new = Beginner::start(&(config.clone() + &plant(&failing.url(), "")));
        let waits = || failing.recorder().token_calls() > calls;
        until("the new one has the store, and waits for what it never gets", waits).await;
        let count = server.count();
        until("the new one renews", || server.count() >= count + 2).await;
        new.signal("-TERM");
        new.ended().await;
        let gone = || {
            let lines = old.log();
            let ends = lines.iter().filter(|it| it.to_string().contains("no upgrade; this"));
            ends.count() == round
        };
        until("the old one sees it", gone).await;
        let count = server.count();
        until("the old one renews", || server.count() >= count + 2).await;
        let mut caller = Connection::open(old.address()).await;
        assert_eq!(caller.send("GET", "/", &[], "").await.status, 200);
    }
    let asked = server.asked();
    let sent: Vec<&str> = asked.iter().filter_map(|asked| asked.get("refresh_token")).collect();
    let different: BTreeSet<&str> = sent.iter().copied().collect();
    assert_eq!(different.len(), sent.len(), "each once: {sent:#?}");
    assert_eq!(asked.len(), sent.len() + 1, "one login");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_are_taken_over_and_stay_where_they_are() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let callers = directory.path().join("callers.sock");
    let listen = format!("[[listen]]\naddress = \"unix:{}\"\nmode = \"600\"\n", callers.display());
    let config = [upgrade_socket(&directory), route(&upstream.url(), "", ""), listen].concat();
    let mut old = start(&config).await;
    assert_eq!(ask(&callers).await, 200);
    let mut new = start(&config).await;
    assert!(old.ended().await.success());
    assert_eq!(ask(&callers).await, 200);
    until("the new one has answered", || new.requests().len() == 1).await;
    new.signal("-TERM");
    assert!(new.ended().await.success());
    assert!(!callers.exists(), "the last one clears up");
}

async fn ask(path: &Path) -> u16 {
    let stream = UnixStream::connect(path).await.unwrap();
    Connection::over(stream, "localhost").await.send("GET", "/x", &[], "").await.status
}

/// An upstream that answers only once it is let, with a megabyte.
async fn slow() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let passing = Arc::clone(&gate);
    let upstream = Upstream::serving(move |seen| {
        let passing = Arc::clone(&passing);
        async move {
            passing.acquire().await.unwrap().forget();
            let text = format!("{}{}", seen.body.len(), " ".repeat(1 << 20));
            Response::new(Full::new(Bytes::from(text)))
        }
    })
    .await;
    (upstream, gate)
}

/// Four uploads and four downloads are in flight when `end` happens, given the configuration, which
/// returns the process that follows if one does; all are to finish.
async fn in_flight(first: &str, end: impl AsyncFnOnce(&Program, &str) -> Option<Program>) {
    let (upstream, gate) = slow().await;
    let config = first.to_owned() + &route(&upstream.url(), "", "");
    let mut program = start(&config).await;
    let address = program.address();
    let calls: Vec<_> = (0..8)
        .map(|number| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let content = Bytes::from(vec![b'x'; 1 << 20]);
                let request = match number % 2 {
                    0 => request("POST", "/upload", &[], chunked(content)),
                    _ => request("GET", "/download", &[], whole("")),
                };
                connection.try_send(request).await
            })
        })
        .collect();
    until("all are there", || upstream.seen().len() == 8).await;
    let _next = end(&program, &config).await;
    gate.add_permits(8);
    let mut lengths = Vec::new();
    for call in calls {
        let reply = call.await.unwrap().expect("it was cut off");
        assert_eq!(reply.status, 200);
        assert!(reply.body.len() > 1 << 20);
        lengths.push(reply.text().trim_end().parse::<usize>().unwrap());
    }
    assert_eq!(lengths, [1 << 20, 0].repeat(4));
    assert!(program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_and_downloads_in_flight_finish_when_told_to_end() {
    in_flight("", async |program, _| {
        let address = program.address();
        program.signal("-TERM");
        until("it listens no more", || std::net::TcpStream::connect(address).is_err()).await;
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_and_downloads_in_flight_finish_when_another_process_takes_over() {
    let directory = private_directory();
    in_flight(&upgrade_socket(&directory), async |program, config| {
        let next = start(config).await;
        until("it ends", || says(program, "this one ends")).await;
        Some(next)
    })
    .await;
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused() {
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = upgrade_socket(&directory) + &route(&upstream.url(), "", "");
    let output = run(&config).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("other users can write to the directory"), "{text}");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let program = start(&config).await;
    let socket = directory.path().join("upgrade.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    drop(program);
    // Left by a process that was killed: nobody answers there, and the next one takes its place.
    tokio::time::timeout(Duration::from_secs(60), start(&config)).await.unwrap();
}
