//! No file descriptor left: callers wait or are told so, nothing breaks, and it heals.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::client::read_answer;
use crate::harness::program::{Program, has, is_root};
use crate::harness::{PATIENCE, Reply, Upstream, at_most, private_directory, quoted, route, until};

const CALLERS: usize = 200;

/// How soon after it has descriptors again it has to serve.
const HEALED: Duration = Duration::from_secs(1);

/// The program with 64 descriptors, of which its listeners and threads need some.
async fn with_few(config: &str) -> Program {
    Program::start_under(&["prlimit", "--nofile=64:64"], config).await
}

/// Connections of callers who say nothing.
async fn held(program: &Program) -> Vec<TcpStream> {
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(TcpStream::connect(program.address()).await.unwrap());
    }
    callers
}

fn complaints(program: &Program) -> Vec<Value> {
    let mut log = program.log();
    log.retain(|line| line["message"] == "connections cannot be accepted");
    log
}

/// Writes a request and reads the answer to it.
async fn ask(stream: &mut TcpStream, method: &str, target: &str, content: &[u8]) -> Reply {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    stream.write_all(&[head.as_bytes(), content].concat()).await.unwrap();
    read_answer(stream).await
}

/// One request over a connection of its own; an error if it is not answered.
async fn get(program: &Program) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(program.address()).await?;
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

/// How long it takes until a caller is served.
async fn healing(program: &Program) -> Duration {
    let begun = Instant::now();
    while get(program).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "it does not serve again");
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_for_sixty_four_descriptors_wait_and_are_served_when_some_are_free() {
    let test = "two_hundred_callers_for_sixty_four_descriptors_wait_and_are_served_when_some_are_\
                free";
    if !has(test, "prlimit") {
        return;
    }
    let upstream = Upstream::fine().await;
    let config = format!("workers = 2\n{}", route(&upstream.url(), "", ""));
    let mut program = with_few(&config).await;
    get(&program).await.unwrap();
    let before = program.descriptors().len();
    let callers = held(&program).await;
    until("it says so three times", || complaints(&program).len() >= 3).await;
    assert!(program.runs());
    let in_use = program.descriptors().len();
    assert!(in_use >= 64 || !is_root(), "all are in use: {in_use}");
    // Who has no place waits, and is not turned away.
    let mut late = TcpStream::connect(program.address()).await.unwrap();
    late.write_all(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let waits = timeout(Duration::from_millis(100), late.read_u8()).await;
    assert!(waits.is_err(), "{waits:?}");

    drop(callers);
    let took = healing(&program).await;
    assert_eq!(read_answer(&mut late).await.status, 200, "who has waited is served");
    drop(late);
    eprintln!("served {took:?} after descriptors were free again");
    assert!(took < at_most(HEALED), "{took:?}");
    let complaints = complaints(&program);
    let said: Vec<Timestamp> = complaints
        .iter()
        .map(|line| line["timestamp"].as_str().unwrap().parse().unwrap())
        .collect();
    for pair in said.windows(2) {
        let apart = pair[1].duration_since(pair[0]);
        // The time stands on the line a little after it was decided to write it.
        assert!(apart.as_millis() > 900, "{complaints:#?}");
    }
    until("it has given its descriptors back", || program.descriptors().len() <= before + 1).await;
    program.signal("-TERM");
    assert!(program.ended().await.success());
}

/// Whoever is connected already gets an answer, also where it takes a descriptor to give it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_upstreams_and_files_are_answers_and_not_a_wait() {
    let test = "without_descriptors_upstreams_and_files_are_answers_and_not_a_wait";
    if !has(test, "prlimit") {
        return;
    }
    let upstream = Upstream::fine().await;
    let url = quoted(&upstream.url());
    let named = upstream.url().replace("127.0.0.1", "localhost");
    let directory = private_directory();
    let token = directory.path().join("token");
    std::fs::write(&token, "from-a-file\n").unwrap();
    let config = format!(
        "workers = 1\nlimits = {{ memory_per_request = \"16KiB\" }}\n\
         [credential.signed]\nkind = \"hmac\"\nkey = {{ file = {} }}\nbase = [\"body\"]\n\
         set = {{ X-Signature = \"{{signature}}\" }}\n\
         [credential.file]\nkind = \"bearer\"\ntoken = {{ file = {0} }}\n\
         [[route]]\npath = \"/plain\"\nupstream = {url}\ncredential = \"file\"\n\
         [[route]]\npath = \"/named\"\nupstream = {}\n\
         [[route]]\npath = \"/signed\"\nupstream = {url}\ncredential = \"signed\"\n\
         [[route]]\nupstream = {url}\n",
        quoted(token.to_str().unwrap()),
        quoted(&named),
    );
    let program = with_few(&config).await;
    let mut first = TcpStream::connect(program.address()).await.unwrap();
    assert_eq!(ask(&mut first, "GET", "/%00", b"").await.status, 400);
    let callers = held(&program).await;
    until("all are in use", || !complaints(&program).is_empty()).await;
    let large = vec![b'x'; 64 << 10];
    let requests =
        [("GET", "/plain", &b""[..]), ("GET", "/named", b""), ("POST", "/signed", &large)];
    for (method, target, content) in requests {
        let reply = ask(&mut first, method, target, content).await;
        if target == "/named" && reply.status == 502 {
            // Some systems do not say why they cannot look a name up.
            assert_eq!(reply.problem(502, "dns_error"), "upstream-name");
        } else {
            let word = reply.problem(503, "connection_limit_reached");
            assert_eq!((word.as_str(), reply.retry_after()), ("descriptors", 1), "{target}");
        }
    }
    assert!(upstream.seen().is_empty());
    drop((callers, first));
    healing(&program).await;
    for (method, target, content) in requests {
        let mut again = TcpStream::connect(program.address()).await.unwrap();
        assert_eq!(ask(&mut again, method, target, content).await.status, 200, "{target}");
    }
    let last = upstream.seen();
    let last =
        last.iter().find(|seen| seen.target == "/" && seen.values("authorization").len() == 1);
    assert_eq!(last.unwrap().values("authorization"), ["Bearer from-a-file"], "still known");
}
