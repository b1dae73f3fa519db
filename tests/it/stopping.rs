//! The end of the process: told by a signal or over the admin listener, at once or after a while.

use std::net::SocketAddr;

use crate::harness::client::{Connection, Reply};
use crate::harness::program::Program;
use crate::harness::{Upstream, route, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// Where the admin listener is.
fn admin(program: &Program) -> SocketAddr {
    let log = program.log();
    let line = log.iter().find(|line| line["message"] == "admin listening").unwrap();
    line["address"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

async fn ask(address: SocketAddr, method: &str, target: &str) -> Reply {
    Connection::open(address).await.send(method, target, &[], "").await
}

async fn start(config: &str) -> Program {
    let program = Program::start(config).await;
    until("the admin listener is there", || {
        program.log().iter().any(|line| line["message"] == "admin listening")
    })
    .await;
    program
}

fn is_stopping(program: &Program) -> bool {
    let said = |line: &serde_json::Value| line["message"].to_string().contains("stopping;");
    program.log().iter().any(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_calls_are_served_after_the_signal_for_as_long_as_it_lingers() {
    let upstream = Upstream::fine().await;
    let config = format!("linger = \"10m\"\n{}{ADMIN}", route(&upstream.url(), "", ""));
    let mut program = start(&config).await;
    let admin = admin(&program);
    assert_eq!(ask(admin, "GET", "/readyz").await.status, 200);
    let mut kept = Connection::open(program.address()).await;
    assert_eq!(kept.send("GET", "/x", &[], "").await.field("connection"), "");
    program.signal("-TERM");
    until("it knows", || is_stopping(&program)).await;
    let ready = ask(admin, "GET", "/readyz").await;
    assert_eq!((ready.status, ready.text()), (503, "stopping\n"));
    assert_eq!(ask(admin, "GET", "/livez").await.status, 200);
    assert_eq!(ask(program.address(), "GET", "/x").await.status, 200, "a new connection");
    let last = kept.send("GET", "/x", &[], "").await;
    assert_eq!((last.status, last.field("connection")), (200, "close"), "one from before");
    assert!(program.runs());
    program.signal("-TERM");
    assert!(!program.ended().await.success(), "a second one ends it at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_by_itself_after_it_has_lingered() {
    let upstream = Upstream::fine().await;
    let config = format!("linger = \"50ms\"\n{}", route(&upstream.url(), "", ""));
    let mut program = Program::start(&config).await;
    program.signal("-INT");
    assert!(program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_ask_can_end_it_where_that_is_configured() {
    let upstream = Upstream::fine().await;
    let config = format!("{}{ADMIN}quit = true\n", route(&upstream.url(), "", ""));
    let mut program = start(&config).await;
    let admin = admin(&program);
    let get = ask(admin, "GET", "/quit").await;
    assert_eq!((get.status, get.field("allow")), (405, "POST"));
    let mut connection = Connection::open(admin).await;
    let hostile = [("origin", "http://evil.example")];
    assert_eq!(connection.send("POST", "/quit", &hostile, "").await.status, 403);
    assert!(program.runs());
    let told = ask(admin, "POST", "/quit").await;
    assert_eq!((told.status, told.text()), (202, "stopping\n"));
    assert!(program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_end_it_where_that_is_not_configured() {
    let upstream = Upstream::fine().await;
    let mut program = start(&format!("{}{ADMIN}", route(&upstream.url(), "", ""))).await;
    let admin = admin(&program);
    for method in ["GET", "POST"] {
        assert_eq!(ask(admin, method, "/quit").await.status, 404);
    }
    assert!(program.runs());
}
