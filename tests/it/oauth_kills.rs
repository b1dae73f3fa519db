//! Processes that are killed while refresh tokens rotate: whatever the moment, the next one works,
//! and no refresh token is sent twice.

use std::collections::BTreeSet;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::authorization::AuthorizationServer;
use crate::harness::program::Program;
use crate::harness::redis::RedisServer;
use crate::harness::{Connection, Upstream, private_directory, quoted, route, secret};
use crate::oauth::{api, client};

/// How often: `COUNTERSIGN_TEST_ROUNDS`, for a long night.
fn rounds(usual: usize) -> usize {
    std::env::var("COUNTERSIGN_TEST_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// Many are killed while they wait for the answer.
fn thinking() -> Duration {
    Duration::from_millis(fastrand::u64(0..60))
}

fn config(server: &AuthorizationServer, upstream: &Upstream, store: &str) -> String {
    let more = client()
        + "grant = \"password\"\nusername = \"robot\"\n"
        + &format!("password = {}\n", secret("canary-password"))
        // About twice a second.
        + "[credential.api.refresh]\nmargin = \"75%\"\ntimeout = \"1s\"\n";
    format!("[token_store]\n{store}{}{}", api(server, &more), route(&upstream.url(), "api", ""))
}

fn file(directory: &TempDir) -> String {
    let path = directory.path().join("tokens").display().to_string();
    format!("kind = \"file\"\npath = {}\nkey = {}\n", quoted(&path), secret("0123456789abcdef"))
}

async fn ask(program: &Program) {
    let mut caller = Connection::open(program.address()).await;
    let reply = caller.send("GET", "/", &[], "").await;
    assert_eq!(reply.status, 200, "{:#?}", program.log());
}

/// The moment is what is drawn here.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..600))).await;
}

/// The refresh tokens that were sent, each once.
fn each_once(server: &AuthorizationServer) -> usize {
    let asked = server.asked();
    let sent: Vec<&str> = asked.iter().filter_map(|asked| asked.get("refresh_token")).collect();
    let different: BTreeSet<&str> = sent.iter().copied().collect();
    assert_eq!(different.len(), sent.len(), "{sent:#?}");
    sent.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_file_no_refresh_token_is_sent_twice() {
    let (server, upstream) =
        (AuthorizationServer::rotating(2, thinking).await, Upstream::fine().await);
    let directory = private_directory();
    let config = config(&server, &upstream, &file(&directory));
    for _ in 0..rounds(20) {
        let mut program = Program::start(&config).await;
        ask(&program).await;
        a_while().await;
        assert_eq!(program.panics(), [""; 0]);
        program.signal("-KILL");
        program.ended().await;
    }
    assert!(each_once(&server) > 0, "nothing was renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_redis_no_refresh_token_is_sent_twice_by_whichever_process() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (server, upstream) =
        (AuthorizationServer::rotating(2, thinking).await, Upstream::fine().await);
    let store = format!(
        "kind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\nkey = {}\n",
        redis.port(),
        secret("0123456789abcdef")
    );
    let config = config(&server, &upstream, &store);
    let stays = Program::start(&config).await;
    for _ in 0..rounds(10) {
        let mut dies = Program::start(&config).await;
        ask(&dies).await;
        ask(&stays).await;
        a_while().await;
        dies.signal("-KILL");
        dies.ended().await;
        ask(&stays).await;
    }
    assert_eq!(stays.panics(), [""; 0]);
    assert!(each_once(&server) > 0, "nothing was renewed");
}
