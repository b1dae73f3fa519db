//! What the process can still do once it serves: what its configuration needs, and nothing else.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;

use countersign::sandbox::{self, SandboxError, Signals};
use serde_json::Value;

use crate::harness::client::Connection;
use crate::harness::program::Program;
use crate::harness::{PATIENCE, Upstream, load, private_directory, quoted, skip, until};

/// A confined thread tries what it may and what it may not: confinement is a thread's, and those
/// that it starts.
#[test]
fn a_confined_thread_can_do_what_its_configuration_names_and_nothing_else() {
    let (own, other) = (private_directory(), private_directory());
    let secret = own.path().join("secret");
    fs::write(&secret, "token").unwrap();
    fs::write(other.path().join("secret"), "not ours").unwrap();
    let spool = private_directory();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = load(&format!(
        "sandbox = \"require\"\nlimits = {{ spool_directory = {} }}\n\
         [credential.c]\nkind = \"bearer\"\ntoken = {{ file = {} }}\n\
         [[route]]\nupstream = \"http://{}\"\ncredential = \"c\"\n",
        quoted(spool.path().to_str().unwrap()),
        quoted(secret.to_str().unwrap()),
        upstream.local_addr().unwrap(),
    ));
    let denied = |result: std::io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
    };
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            match sandbox::confine(&config, &[], Signals::Within) {
                Err(SandboxError::Insufficient(_)) => return false,
                other => drop(other.unwrap()),
            }
            // What a program that it started would be, a thread that it starts is: confined.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    assert_eq!(fs::read_to_string(&secret).unwrap(), "token");
                    fs::write(own.path().join("next"), "").expect_err("only to be read");
                    denied(fs::read(other.path().join("secret")).map(drop), "another file");
                    denied(fs::read("/proc/self/maps").map(drop), "another file of the system");
                    fs::read("/etc/hosts").unwrap();
                    tempfile::tempfile_in(spool.path()).unwrap();
                    denied(tempfile::tempfile_in(own.path()).map(drop), "another directory");
                    TcpStream::connect(upstream.local_addr().unwrap()).unwrap();
                    let port = stranger.local_addr().unwrap();
                    denied(TcpStream::connect(port).map(drop), "another port");
                    denied(TcpListener::bind("127.0.0.1:0").map(drop), "another listener");
                    let program = std::process::Command::new("/bin/true").status();
                    denied(program.map(drop), "another program");
                    let status = fs::read_to_string("/proc/thread-self/status");
                    denied(status.map(drop), "its own status");
                });
            });
            true
        });
        if !confined.join().unwrap() {
            let name = "a_confined_thread_can_do_what_its_configuration_names_and_nothing_else";
            skip(name, "this kernel cannot confine a process");
        }
    });
    assert!(TcpStream::connect(stranger.local_addr().unwrap()).is_ok(), "this thread is free");
}

async fn sent(program: &Program, upstream: &Upstream) -> String {
    let reply = Connection::open(program.address()).await.send("GET", "/", &[], "").await;
    assert_eq!(reply.status, 200);
    upstream.last().values("authorization")[0].to_owned()
}

/// Asks until this is sent: a changed secret is used a moment after the log says so.
async fn until_sent(program: &Program, upstream: &Upstream, value: &str) {
    let asked = async {
        while sent(program, upstream).await != value {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, asked).await;
    waited.unwrap_or_else(|_| panic!("'{value}' is not sent"));
}

/// The next line of the log that says this, `after` so many lines.
async fn said(program: &Program, after: usize, message: &str) -> Value {
    let lines = || program.log().into_iter().skip(after);
    let says = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(message));
    until(message, || lines().any(|line| says(&line))).await;
    lines().find(says).unwrap()
}

fn config(sandbox: &str, secrets: [&Path; 2], spool: &Path, upstream: &Upstream) -> String {
    format!(
        "sandbox = \"{sandbox}\"\nlimits = {{ spool_directory = {} }}\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [credential.c]\nkind = \"bearer\"\ntoken = {{ file = {} }}\n\
         [credential.k]\nkind = \"fields\"\nset = {{ X-Key = {{ file = {} }} }}\n\
         [[route]]\nupstream = \"http://localhost:{}\"\ncredential = [\"c\", \"k\"]\n",
        quoted(spool.to_str().unwrap()),
        quoted(secrets[0].to_str().unwrap()),
        quoted(secrets[1].to_str().unwrap()),
        upstream.address().port(),
    )
}

#[tokio::test]
async fn the_program_serves_and_rotates_but_cannot_be_led_elsewhere() {
    let upstream = Upstream::fine().await;
    for sandbox in ["auto", "off"] {
        let (directory, elsewhere) = (private_directory(), private_directory());
        let spool = private_directory();
        let secret = directory.path().join("token");
        fs::write(directory.path().join("v1"), "first").unwrap();
        fs::write(directory.path().join("v2"), "second").unwrap();
        fs::write(elsewhere.path().join("v3"), "third").unwrap();
        let lead = |to: &Path| {
            symlink(to, directory.path().join("next")).unwrap();
            fs::rename(directory.path().join("next"), &secret).unwrap();
        };
        lead(&directory.path().join("v1"));
        fs::create_dir(directory.path().join("data-1")).unwrap();
        fs::write(directory.path().join("data-1").join("key"), "from the first").unwrap();
        symlink("data-1", directory.path().join("data")).unwrap();
        let key = directory.path().join("data").join("key");
        let text = config(sandbox, [&secret, &key], spool.path(), &upstream);
        let program = Program::start(&text).await;
        if sandbox == "auto" && !full(&text) {
            let name = "the_program_serves_and_rotates_but_cannot_be_led_elsewhere";
            return skip(name, "this kernel cannot confine a process");
        }
        assert_eq!(sent(&program, &upstream).await, "Bearer first", "{sandbox}");
        lead(&directory.path().join("v2"));
        said(&program, 0, "a secret has changed").await;
        until_sent(&program, &upstream, "Bearer second").await;
        // As Kubernetes does it.
        let before = program.log().len();
        fs::create_dir(directory.path().join("data-2")).unwrap();
        fs::write(directory.path().join("data-2").join("key"), "from the next").unwrap();
        symlink("data-2", directory.path().join("next")).unwrap();
        fs::rename(directory.path().join("next"), directory.path().join("data")).unwrap();
        said(&program, before, "a secret has changed").await;

        let before = program.log().len();
        lead(&elsewhere.path().join("v3"));
        if sandbox == "off" {
            said(&program, before, "a secret has changed").await;
            until_sent(&program, &upstream, "Bearer third").await;
        } else {
            let line = said(&program, before, "cannot be read again").await;
            assert_eq!(line["reason"], "permission denied", "{line}");
            assert_eq!(sent(&program, &upstream).await, "Bearer second");
        }
        let tasks = format!("/proc/{}/task", program.id());
        for task in fs::read_dir(tasks).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let value = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:\t"));
            assert_eq!(value, Some(if sandbox == "auto" { "1" } else { "0" }), "{status}");
        }
    }
}

/// True if this kernel can do all of it.
fn full(text: &str) -> bool {
    let config = load(&text.replace("\"auto\"", "\"require\""));
    std::thread::scope(|scope| {
        scope.spawn(|| sandbox::confine(&config, &[], Signals::Within)).join().unwrap().is_ok()
    })
}

#[tokio::test]
async fn large_signed_content_waits_in_a_file_also_when_confined() {
    let upstream = Upstream::fine().await;
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [limits]\nmemory_per_request = \"64KiB\"\nmemory = \"64KiB\"\n\
         [credential.s]\nkind = \"devo-signature\"\nreseller_api_key = {{ value = \"key\" }}\n\
         api_secret = {{ value = \"secret\" }}\n\
         [[route]]\nupstream = \"{}\"\ncredential = \"s\"\n",
        upstream.url()
    );
    let program = Program::start(&text).await;
    let content = vec![b'x'; 1 << 20];
    let reply = Connection::open(program.address()).await.send("POST", "/", &[], content).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().body.len(), 1 << 20);
}
